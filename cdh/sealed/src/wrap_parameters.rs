//! The parameters of `--encryption-key provider:attestation-agent:<parameters>`: `name=value`, parted by `::`.
//!
//! Known are `keyid`, `keypath`, `algorithm` and `sample`, as in the image-encrypting key provider of the Confidential
//! Containers guest components, and `overwrite`. There, what is misspelt or not understood is passed over, and an image is encrypted in
//! another way than was asked for; here it is refused. What a key id names and where a key path leads to is not looked at.

use cc_crypto::cipher::ContentCipher;

use crate::SealedError;
use crate::error::quoted;

/// What image tools send for a provider that was given no parameters.
const NO_PARAMETERS: &str = "Enabled";
/// Longest text read, in bytes: two names and two long paths.
const MAX_LEN: usize = 16 * 1024;
const WHAT: &str = "encryption parameters";

/// How one image is to be encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrapParameters {
    /// Name of the key-encryption key, as given; none for a random one.
    pub key_id: Option<String>,
    /// File of the key-encryption key, as given; none for a random key.
    pub key_path: Option<String>,
    /// Cipher that wraps the layer keys.
    pub algorithm: ContentCipher,
    /// The key that is the same everywhere, for development.
    pub sample: bool,
    /// Whether a new key may take the place of what the key broker has under `key_id`.
    pub overwrite: bool,
}

impl Default for WrapParameters {
    /// A random key under a random name, `A256GCM`.
    fn default() -> Self {
        Self {
            key_id: None,
            key_path: None,
            algorithm: ContentCipher::A256Gcm,
            sample: false,
            overwrite: false,
        }
    }
}

impl WrapParameters {
    /// Reads the text that image tools pass on; none means defaults.
    ///
    /// # Errors
    /// [`SealedError::TooLarge`]; [`SealedError::Malformed`] for a part that is no `name=value`, a name that comes twice, an
    /// empty value, control characters, or `sample` beside a key, `overwrite` without a `keyid` or beside a `keypath`; [`SealedError::Unsupported`] for an unknown name, algorithm
    /// or answer to `sample` or `overwrite`.
    pub fn parse(text: Option<&str>) -> Result<Self, SealedError> {
        let mut parameters = Self::default();
        let Some(text) = text.filter(|text| !matches!(*text, "" | NO_PARAMETERS)) else {
            return Ok(parameters);
        };
        if text.len() > MAX_LEN {
            return Err(SealedError::TooLarge { what: WHAT, found: text.len(), limit: MAX_LEN });
        }
        let mut seen = Vec::new();
        for part in text.split("::") {
            let (name, value) = part.split_once('=').ok_or_else(|| {
                SealedError::malformed(WHAT, format!("{} is not of the form name=value", quoted(part)))
            })?;
            if seen.contains(&name) {
                return Err(SealedError::malformed(WHAT, format!("{} comes twice", quoted(name))));
            }
            seen.push(name);
            if value.is_empty() || value.chars().any(char::is_control) {
                let why = format!("the value of {} is empty or has control characters", quoted(name));
                return Err(SealedError::malformed(WHAT, why));
            }
            parameters.set(name, value)?;
        }
        if parameters.sample && (parameters.key_id.is_some() || parameters.key_path.is_some()) {
            let why = "sample=true has a key of its own: leave keyid and keypath away";
            return Err(SealedError::malformed(WHAT, why));
        }
        if parameters.overwrite && (parameters.key_id.is_none() || parameters.key_path.is_some()) {
            let why = "overwrite=true is for a new key under a given keyid, without a keypath";
            return Err(SealedError::malformed(WHAT, why));
        }
        Ok(parameters)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), SealedError> {
        let unsupported = |what, expected| SealedError::Unsupported { what, found: quoted(value), expected };
        match name {
            "keyid" => self.key_id = Some(value.to_owned()),
            "keypath" => self.key_path = Some(value.to_owned()),
            "algorithm" => {
                self.algorithm = value.parse().map_err(|_| unsupported("algorithm", "A256GCM or A256CTR"))?;
            }
            "sample" => {
                self.sample = value.parse().map_err(|_| unsupported("sample", "true or false"))?;
            }
            "overwrite" => {
                self.overwrite = value.parse().map_err(|_| unsupported("overwrite", "true or false"))?;
            }
            other => {
                return Err(SealedError::Unsupported {
                    what: "encryption parameter",
                    found: quoted(other),
                    expected: "keyid, keypath, algorithm, sample or overwrite",
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_parameter_has_its_effect() {
        for text in [None, Some(""), Some("Enabled")] {
            assert_eq!(WrapParameters::parse(text).unwrap(), WrapParameters::default(), "{text:?}");
        }
        let text = "keypath=/tmp/a=b/key::keyid=kbs:///default/key/1::algorithm=A256CTR::sample=false";
        let all = WrapParameters::parse(Some(text)).unwrap();
        assert_eq!(all.key_path.as_deref(), Some("/tmp/a=b/key"));
        assert_eq!(all.key_id.as_deref(), Some("kbs:///default/key/1"));
        assert_eq!((all.algorithm, all.sample), (ContentCipher::A256Ctr, false));
        assert!(WrapParameters::parse(Some("sample=true")).unwrap().sample);
        assert!(!all.overwrite && WrapParameters::parse(Some("overwrite=true::keyid=a")).unwrap().overwrite);
    }

    #[test]
    fn what_would_have_no_effect_is_refused() {
        for (text, code) in [
            ("keyid", "SEALED_MALFORMED"),
            ("keyid=", "SEALED_MALFORMED"),
            ("keyid=a::keyid=b", "SEALED_MALFORMED"),
            ("keyid=a::", "SEALED_MALFORMED"),
            ("keyid=a\n", "SEALED_MALFORMED"),
            ("sample=true::keyid=a", "SEALED_MALFORMED"),
            ("sample=true::keypath=a", "SEALED_MALFORMED"),
            ("overwrite=true", "SEALED_MALFORMED"),
            ("overwrite=true::keypath=a::keyid=a", "SEALED_MALFORMED"),
            ("overwrite=yes::keyid=a", "SEALED_UNSUPPORTED"),
            ("key_id=a", "SEALED_UNSUPPORTED"),
            ("algorithm=A128GCM", "SEALED_UNSUPPORTED"),
            ("algorithm=a256ctr", "SEALED_UNSUPPORTED"),
            ("sample=1", "SEALED_UNSUPPORTED"),
        ] {
            assert_eq!(WrapParameters::parse(Some(text)).unwrap_err().code(), code, "{text:?}");
        }
        let long = format!("keyid={}", "a".repeat(MAX_LEN));
        assert_eq!(WrapParameters::parse(Some(&long)).unwrap_err().code(), "SEALED_TOO_LARGE");
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,80}", parts in proptest::collection::vec("(keyid|keypath|algorithm|sample|overwrite|x)=?[a-z:=/]{0,6}", 0..5)) {
            let _ = WrapParameters::parse(Some(&text));
            let _ = WrapParameters::parse(Some(&parts.join("::")));
        }

        #[test]
        fn what_is_written_is_read(id in "[a-z/.+-]{1,30}", path in "/[a-z/.= -]{0,30}", ctr in any::<bool>()) {
            let name = if ctr { "A256CTR" } else { "A256GCM" };
            let read = WrapParameters::parse(Some(&format!("algorithm={name}::keypath={path}::keyid={id}"))).unwrap();
            prop_assert_eq!(read.algorithm.as_str(), name);
            prop_assert_eq!((read.key_id, read.key_path), (Some(id), Some(path)));
        }
    }
}
