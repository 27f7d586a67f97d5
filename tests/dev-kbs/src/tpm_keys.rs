//! The attestation keys of TPMs that this server trusts: the reference value `trusted_aks`.
//!
//! A list of texts, each a public key as PEM or as base64 of its DER, or the SHA-256 of that DER in hex. Anyone can make
//! a key and sign with it what looks like a quote, so the administrator registers a key only after making sure that it
//! is a restricted key of the TPM that is meant. Trustee has the reference value under the same name.

use cc_verify::appraisal::ReferenceValues;
use cc_verify::tpm::registered_key;
use serde_json::{Map, Value};

use crate::Error;

/// Name of the reference value.
const NAME: &str = "trusted_aks";

/// Refuses reference values in which `trusted_aks` is there and cannot be read: a key with a typing error would never
/// be trusted, and nobody would know why.
///
/// # Errors
/// [`Error::ReferenceValue`], which names the entry.
pub fn check(values: &Map<String, Value>) -> Result<(), Error> {
    let Some(value) = values.get(NAME) else { return Ok(()) };
    let refused = |why: String| Err(Error::ReferenceValue(format!("{NAME}: {why}")));
    let Some(list) = value.as_array() else {
        return refused("a list of attestation keys is expected".to_owned());
    };
    for (at, entry) in list.iter().enumerate() {
        let read = entry.as_str().map(registered_key);
        match read {
            Some(Ok(_)) => {}
            Some(Err(error)) => return refused(format!("entry {at}: {error}")),
            None => return refused(format!("entry {at} is not a text")),
        }
    }
    Ok(())
}

/// The keys, by the SHA-256 of their SubjectPublicKeyInfo. What cannot be read is trusted by nobody.
#[must_use]
pub fn registered(references: &ReferenceValues) -> Vec<[u8; 32]> {
    let list = references.0.get(NAME).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|entry| registered_key(entry.as_str()?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values(list: Value) -> Map<String, Value> {
        Map::from_iter([(NAME.to_owned(), list)])
    }

    #[test]
    fn keys_that_cannot_be_read_are_refused_when_they_are_set() {
        let good = "ab".repeat(32);
        assert!(check(&Map::new()).is_ok() && check(&values(json!([]))).is_ok());
        assert!(check(&values(json!([good]))).is_ok());
        for (list, why) in [
            (json!(good), "a list"),
            (json!([good, "abc"]), "entry 1: it is neither"),
            (json!([1]), "entry 0 is not a text"),
        ] {
            let refused = check(&values(list)).unwrap_err().to_string();
            assert!(refused.contains("trusted_aks") && refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn only_readable_keys_count() {
        let mut references = ReferenceValues::default();
        assert!(registered(&references).is_empty());
        references.extend(&json!({ NAME: ["ab".repeat(32), "x", 7] }));
        assert_eq!(registered(&references), [[0xAB; 32]]);
    }
}
