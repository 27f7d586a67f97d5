//! Strict base64url without padding (RFC 4648 section 5 as RFC 7515 section 2 uses it).
//!
//! Padding, white space, the standard alphabet and non-zero trailing bits are refused, so one byte string
//! has exactly one text form.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::Error;

/// Text form of `bytes`.
pub(crate) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Bytes of `text`; `what` names the member in the error.
pub(crate) fn decode(what: &'static str, text: &str) -> Result<Vec<u8>, Error> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Error::malformed(what, "not base64url without padding"))
}

/// Exactly `N` bytes of `text`; `what` names the member in the error.
pub(crate) fn decode_array<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N], Error> {
    let bytes = decode(what, text)?;
    let found = bytes.len();
    bytes.try_into().map_err(|_| Error::malformed(what, format!("{found} bytes, expected {N}")))
}

#[cfg(test)]
mod tests {
    use super::{decode, decode_array};

    #[test]
    fn one_text_form_only() {
        assert_eq!(decode("t", "AQI").unwrap(), [1, 2]);
        assert!(decode("t", "").unwrap().is_empty());
        for bad in ["AQI=", "AQ I", "AQJ", "A", "+/+/", "AQI\n"] {
            assert!(decode("t", bad).is_err(), "{bad:?}");
        }
        assert_eq!(decode_array::<2>("t", "AQI").unwrap(), [1, 2]);
        assert!(decode_array::<3>("t", "AQI").is_err());
    }
}
