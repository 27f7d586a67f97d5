//! Private keys as PEM text (RFC 7468), strict and without leaving copies behind.
//!
//! One block, nothing but white space around it, no headers inside. Not for certificates.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::{Error, Secret};

/// Longest PEM text read, in bytes: an RSA key of 8192 bits takes 6.5 KiB.
const MAX_PEM_LEN: usize = 16 * 1024;
/// Bytes per line of 64 characters.
const LINE: usize = 48;

/// PEM text of `der` under `label`, lines of 64 characters.
pub(crate) fn encode(label: &str, der: &[u8]) -> Result<Secret, Error> {
    let lines = der.len().div_ceil(LINE);
    // Reserved at once: growing would free a buffer with key bytes in it.
    let mut text = Zeroizing::new(Vec::with_capacity(lines * 65 + 2 * (label.len() + 20)));
    text.extend_from_slice(format!("-----BEGIN {label}-----\n").as_bytes());
    let mut line = Zeroizing::new([0u8; 64]);
    for chunk in der.chunks(LINE) {
        let written = STANDARD
            .encode_slice(chunk, line.as_mut_slice())
            .map_err(|_| Error::Library { doing: "writing PEM" })?;
        text.extend(line.iter().take(written));
        text.push(b'\n');
    }
    text.extend_from_slice(format!("-----END {label}-----\n").as_bytes());
    Ok(Secret::from(text))
}

/// Label and DER content of the one block in `text`.
pub(crate) fn decode(text: &str) -> Result<(&str, Secret), Error> {
    let bad = |why: &'static str| Error::malformed("PEM private key", why);
    if text.len() > MAX_PEM_LEN {
        return Err(Error::TooLarge { what: "PEM private key", found: text.len(), limit: MAX_PEM_LEN });
    }
    let mut lines = text.trim().lines().map(str::trim_end);
    let label = lines
        .next()
        .and_then(|l| l.strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
        .ok_or_else(|| bad("no BEGIN line"))?;
    let mut body = Zeroizing::new(String::with_capacity(text.len()));
    loop {
        let line = lines.next().ok_or_else(|| bad("no END line"))?;
        if let Some(end) = line.strip_prefix("-----END ") {
            if end.strip_suffix("-----") != Some(label) {
                return Err(bad("the labels of BEGIN and END differ"));
            }
            break;
        }
        body.push_str(line);
    }
    if lines.next().is_some() {
        return Err(bad("more text after the END line"));
    }
    let der = STANDARD.decode(body.as_bytes()).map_err(|_| bad("not base64"))?;
    Ok((label, Secret::new(der)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{decode, encode};

    #[test]
    fn strict_reading() {
        let good = "-----BEGIN X-----\nAQID\n-----END X-----\n";
        assert_eq!(decode(good).unwrap().1.expose(), [1, 2, 3]);
        assert!(decode(&good.replace('\n', "\r\n")).is_ok());
        for bad in [
            "",
            "AQID",
            "-----BEGIN X-----\nAQID\n",
            "-----BEGIN X-----\nAQID\n-----END Y-----",
            "-----BEGIN X-----\nAQ!D\n-----END X-----",
            "-----BEGIN X-----\nAQID\n-----END X-----\n-----BEGIN X-----\nAQID\n-----END X-----",
            "-----BEGIN X-----\nProc-Type: 4,ENCRYPTED\n\nAQID\n-----END X-----",
        ] {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
        assert!(decode(&"x".repeat(1 << 20)).is_err());
    }

    proptest! {
        #[test]
        fn round_trip(der in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = encode("PRIVATE KEY", &der).unwrap();
            let text = std::str::from_utf8(text.expose()).unwrap();
            prop_assert!(text.lines().all(|l| l.len() <= 64));
            let (label, back) = decode(text).unwrap();
            prop_assert_eq!(label, "PRIVATE KEY");
            prop_assert_eq!(back.expose(), &der[..]);
        }

        #[test]
        fn never_panics(text in "\\PC{0,200}") {
            let _ = decode(&text);
        }
    }
}
