//! The digests that tie evidence to one handshake: nonce, TEE public key and device evidence.
//!
//! Input is canonical JSON (RFC 8785); the objects are those of the KBS attestation protocol of
//! Trustee (protocol 0.4.0, "runtime data"). It is NOT the place for padding: a platform pads or
//! cuts the digest by its own rule, and a verifier does the same before it compares.

use serde_json::{Value, json};

use crate::{Error, HashAlgorithm};

/// Report data for every additional device: H(JCS({nonce, tee-pubkey})).
///
/// `nonce` is the challenge text exactly as received, `tee_pubkey` the public JWK as it is sent in
/// the handshake. Gives the raw digest, [`HashAlgorithm::digest_len`] bytes.
///
/// # Errors
/// [`Error::Canonical`] when the key holds a number that has no canonical form.
pub fn device_report_data(nonce: &str, tee_pubkey: &Value, hash: HashAlgorithm) -> Result<Vec<u8>, Error> {
    canonical_digest(&json!({ "nonce": nonce, "tee-pubkey": tee_pubkey }), hash)
}

/// Report data for the primary TEE: H(JCS({additional-evidence, nonce, tee-pubkey})).
///
/// `additional_evidence` is the text that is sent, byte for byte, and empty when there are no
/// devices; the member is part of the digest even then. Gives the raw digest.
///
/// # Errors
/// [`Error::Canonical`] when the key holds a number that has no canonical form.
pub fn primary_report_data(
    nonce: &str,
    tee_pubkey: &Value,
    additional_evidence: &str,
    hash: HashAlgorithm,
) -> Result<Vec<u8>, Error> {
    let input = json!({
        "additional-evidence": additional_evidence,
        "nonce": nonce,
        "tee-pubkey": tee_pubkey,
    });
    canonical_digest(&input, hash)
}

fn canonical_digest(input: &Value, hash: HashAlgorithm) -> Result<Vec<u8>, Error> {
    serde_json_canonicalizer::to_vec(input)
        .map(|bytes| hash.digest(&bytes))
        .map_err(|e| Error::Canonical { why: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: &str = "bm9uY2U=";

    fn pubkey() -> Value {
        json!({
            "kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW",
            "x": "ba6dhVZMQpM00nfC05nss0_5OQofKMQ8QgiXx3qU_1U",
            "y": "4cLtTuwNiGopbVTbE1oaUyNXPWmRpweTs7DTUdxS6yE",
        })
    }

    #[test]
    fn canonical_form_sorts_members() {
        let value = json!({ "b": 1, "a": "test", "c": { "d": "e" } });
        assert_eq!(
            hex::encode(canonical_digest(&value, HashAlgorithm::Sha384).unwrap()),
            "e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c\
             4597480a186427c813ca941da78870c3"
        );
    }

    #[test]
    fn device_digest() {
        assert_eq!(
            hex::encode(device_report_data(NONCE, &pubkey(), HashAlgorithm::Sha384).unwrap()),
            "68ef206a37585620b030b486cddfacb686cfce982518a221014a61da88cd1c22\
             9414044463751bc2a0e95d42044a9773"
        );
    }

    #[test]
    fn primary_digests() {
        let devices = r#"{"sampledevice":{"report_data":"AA==","svn":"2"}}"#;
        let table = [
            (
                "",
                HashAlgorithm::Sha384,
                "e91cbd30655ccae73957607bb3c3f3e7c70897873a176c84c3b61588ee7d337a\
                 c33a16d4cdced5ba589bea50290609d6",
            ),
            ("", HashAlgorithm::Sha256, "f34712533876a2b69f7ec48242fd0a1b2d6d8b33b2a24154691e6d56d418a0b0"),
            (
                devices,
                HashAlgorithm::Sha384,
                "96a333a3d5ad3bf1494539e70f93fa128dfda9aded4abe39757833b6eef9c11f\
                 985901ba21f15c98998a81d54da3ef91",
            ),
        ];
        for (additional, hash, expected) in table {
            let digest = primary_report_data(NONCE, &pubkey(), additional, hash).unwrap();
            assert_eq!(hex::encode(digest), expected, "{hash} {additional:?}");
        }
    }

    #[test]
    fn every_input_changes_the_digest() {
        let hash = HashAlgorithm::Sha384;
        let base = primary_report_data(NONCE, &pubkey(), "", hash).unwrap();
        assert_ne!(base, primary_report_data("bm9uY2U", &pubkey(), "", hash).unwrap());
        assert_ne!(base, primary_report_data(NONCE, &json!({}), "", hash).unwrap());
        assert_ne!(base, primary_report_data(NONCE, &pubkey(), " ", hash).unwrap());
        assert_ne!(base, device_report_data(NONCE, &pubkey(), hash).unwrap());
    }
}
