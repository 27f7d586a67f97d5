//! Names of key-encryption keys, as people write them, in the one form that guests read.
//!
//! Accepted are `kbs:///r/t/g`, `kbs://address/r/t/g`, `kbs+plugin://…`, `address/r/t/g` and `/r/t/g`. The last two, which the
//! existing key provider copies into images as they are, are no URIs; here they become one.

use cc_kbs::ResourceUri;

use crate::error::KeyProviderError;

/// Where keys without a name go.
const DEFAULT_FOLDER: &str = "kbs:///default/image-kek";
/// Bytes of a UUID.
const UUID_LEN: usize = 16;

/// Reads the name of a key: a resource of exactly three parts.
///
/// # Errors
/// [`KeyProviderError::KeyId`].
pub fn parse(text: &str) -> Result<ResourceUri, KeyProviderError> {
    let refused = |why: String| KeyProviderError::KeyId { kid: text.chars().take(200).collect(), why };
    let full = if text.contains("://") { text.to_owned() } else { format!("kbs://{text}") };
    let uri: ResourceUri = full.parse().map_err(|e: cc_kbs::Error| refused(e.to_string()))?;
    if uri.segments().len() != 3 || uri.query().is_some() {
        return Err(refused("it names no repository/type/tag".to_owned()));
    }
    Ok(uri)
}

/// A new name that nobody has: a version 4 UUID (RFC 9562) in the folder of image keys.
///
/// # Errors
/// [`KeyProviderError::Random`] without random numbers.
pub fn random() -> Result<ResourceUri, KeyProviderError> {
    let mut bytes = [0; UUID_LEN];
    getrandom::fill(&mut bytes).map_err(|e| KeyProviderError::Random(e.to_string()))?;
    let number = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{number:032x}");
    let mut rest = hex.as_str();
    let parts: Vec<&str> = [8, 4, 4, 4, 12]
        .into_iter()
        .filter_map(|length| {
            let (part, more) = rest.split_at_checked(length)?;
            rest = more;
            Some(part)
        })
        .collect();
    parse(&format!("{DEFAULT_FOLDER}/{}", parts.join("-")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_becomes_a_uri() {
        for (text, uri) in [
            ("kbs:///r/t/g", "kbs:///r/t/g"),
            ("kbs://kbs:8080/r/t/g", "kbs://kbs:8080/r/t/g"),
            ("kbs+pkcs11:///r/t/g", "kbs+pkcs11:///r/t/g"),
            ("kbs:8080/r/t/g", "kbs://kbs:8080/r/t/g"),
            ("kbs.example/r/t/g", "kbs://kbs.example/r/t/g"),
            ("/r/t/g", "kbs:///r/t/g"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), uri, "{text}");
        }
    }

    #[test]
    fn what_names_no_resource_is_refused() {
        for text in [
            "",
            "/",
            "r/t/g",
            "/r/t",
            "/r/t/g/x",
            "kbs:///r/t/g?x=1",
            "http://h/r/t/g",
            "/r//g",
            "/r/../t/g",
            "/r/t/g\n",
        ] {
            assert_eq!(parse(text).unwrap_err().code(), "KEY_ID_INVALID", "{text:?}");
        }
    }

    #[test]
    fn random_names_are_uuids_and_differ() {
        let (one, two) = (random().unwrap(), random().unwrap());
        assert_ne!(one, two);
        let tag = one.segments()[2].clone();
        assert_eq!(tag.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert_eq!(tag.as_bytes()[14], b'4');
        assert!(matches!(tag.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{tag}");
    }

    proptest! {
        #[test]
        fn never_panics_and_the_result_is_read_again(text in "\\PC{0,60}") {
            if let Ok(uri) = parse(&text) {
                prop_assert_eq!(parse(&uri.to_string()).unwrap(), uri);
            }
        }
    }
}
