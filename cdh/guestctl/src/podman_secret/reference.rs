//! What Podman is given in place of a secret: the name of the secret, or the secret sealed for the hub.
//!
//! Pure. Whatever is neither is most likely a secret in plain text, given by mistake: no error repeats any of it.

use std::fmt;

use cc_kbs::ResourceUri;
use cc_sealed::MAX_SEALED_LEN;

/// Longest text read, in bytes: a sealed secret, and white space around it. Podman itself takes 512000 bytes.
pub(super) const MAX_LEN: usize = MAX_SEALED_LEN + 64;

/// A reference, checked in its form.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Reference {
    /// A `kbs://` URI.
    Resource(String),
    /// The text of a sealed secret.
    Sealed(String),
}

impl Reference {
    /// Reads `text`; white space at both ends is passed over, because `echo` and editors leave it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let neither = || "neither a kbs:// URI nor a sealed secret".to_owned();
        let text = std::str::from_utf8(text.trim_ascii()).map_err(|_| neither())?;
        if text.starts_with(cc_sealed::PREFIX) {
            // The signature is the hub's to check: it knows the keys.
            cc_sealed::unverified(text.as_bytes()).map_err(|error| error.to_string())?;
            return Ok(Self::Sealed(text.to_owned()));
        }
        // Only what says that it is a URI of this kind is repeated in the reason.
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        if !scheme.is_some_and(|scheme| scheme == "kbs" || scheme.starts_with("kbs+")) {
            return Err(neither());
        }
        text.parse::<ResourceUri>().map_err(|error| error.to_string())?;
        Ok(Self::Resource(text.to_owned()))
    }

    /// The text that [`Reference::parse`] reads.
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Resource(text) | Self::Sealed(text) => text,
        }
    }
}

impl fmt::Display for Reference {
    /// The URI, or `a sealed secret`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resource(uri) => uri,
            Self::Sealed(_) => "a sealed secret",
        })
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reference({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `{"version":"0.1.0","type":"vault","provider":"kbs","name":"kbs:///a/b/c"}`
    const SEALED: &str = "sealed.e30.eyJ2ZXJzaW9uIjoiMC4xLjAiLCJ0eXBlIjoidmF1bHQiLCJwcm92aWRlciI6ImticyIsIm5hbWUiOiJrYnM6Ly8vYS9iL2MifQ.c2ln";

    #[test]
    fn references_are_taken_without_the_white_space_around_them() {
        for text in
            ["kbs:///default/db/password", "kbs://kbs.example:8080/a/b/c", "kbs+pkcs11:///a/b/c", SEALED]
        {
            for given in [text.to_owned(), format!("{text}\n"), format!(" {text}\r\n")] {
                let reference = Reference::parse(given.as_bytes()).unwrap();
                assert_eq!(reference.as_str(), text);
            }
        }
        assert_eq!(
            format!("{:?}", Reference::parse(SEALED.as_bytes()).unwrap()),
            "Reference(a sealed secret)"
        );
    }

    #[test]
    fn a_secret_in_plain_text_is_refused_and_not_repeated() {
        for (text, told) in [
            ("c4n4ry battery staple", false),
            ("-----BEGIN PRIVATE KEY-----\nc4n4ry\n", false),
            ("postgres://user:c4n4ry@db/x", false),
            ("sealed.c4n4ry", false),
            ("sealed.c4n4ry.c4n4ry.c4n4ry", false),
            ("\"kbs:///a/b/c4n4ry\"", false),
            ("kbs:/c4n4ry", false),
            ("kbs:///a/../c4n4ry//", true),
            ("kbs:///a/b/c4n4ry\nkbs:///a/b/2", true),
        ] {
            let why = Reference::parse(text.as_bytes()).unwrap_err();
            assert_eq!(why.contains("c4n4ry"), told, "{text}: {why}");
        }
        assert!(Reference::parse(b"").is_err());
        assert!(Reference::parse(b"kbs:///a/b/\xff").is_err());
    }

    proptest! {
        #[test]
        fn never_panics_and_reads_what_it_took_again(bytes in any::<Vec<u8>>(), head in "(kbs:///|sealed\\.|kbs\\+x://)?") {
            let text = [head.as_bytes(), &bytes].concat();
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(reference.as_str().as_bytes()), &Ok(reference));
            }
        }
    }
}
