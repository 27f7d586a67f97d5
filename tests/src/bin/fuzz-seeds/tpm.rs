//! Seeds of what a TPM says: quotes, signatures, public areas, and the evidence around them.

use anyhow::{Context as _, Result};
use cc_evidence::HashAlgorithm;
use cc_evidence::tpm::{
    ALG_RSASSA, ATTRIBUTE_RESTRICTED, ATTRIBUTE_SIGN, Attest, ClockInfo, EccKey, KeyKind, PCR_COUNT,
    PcrSelection, Public, RsaKey, Signature, TpmEvidence,
};

use super::Seed;

/// TPM_ECC_NIST_P256 and TPM_ALG_SHA256.
const P256: u16 = 3;
const SHA256: u16 = 0x0B;

pub(super) fn seeds() -> Result<Vec<Seed>> {
    let attest = Attest {
        qualified_signer: [&[0, 0x0B][..], &[1; 32]].concat(),
        extra_data: vec![2; 32],
        clock: ClockInfo { clock: 3, reset_count: 4, restart_count: 5, safe: true },
        firmware_version: 6,
        selection: vec![
            PcrSelection::new(HashAlgorithm::Sha256, &[0, 7, 8, 23])?,
            PcrSelection::new(HashAlgorithm::Sha384, &[])?,
        ],
        pcr_digest: vec![7; 32],
    };
    let rsa = RsaKey {
        symmetric: None,
        scheme: Some((ALG_RSASSA, Some(SHA256))),
        bits: 2048,
        exponent: 0,
        modulus: vec![0xC1; 256],
    };
    let ecc =
        EccKey { symmetric: None, scheme: None, curve: P256, kdf: None, x: vec![8; 32], y: vec![9; 32] };
    let public = |key| Public {
        name_hash: SHA256,
        attributes: ATTRIBUTE_RESTRICTED | ATTRIBUTE_SIGN,
        policy: Vec::new(),
        key,
    };
    let rsa = public(KeyKind::Rsa(rsa));
    let spki = rsa.rsa_spki_der().context("an RSA key has this form")?;
    let message = attest.to_bytes()?;
    let signature = Signature::RsaSsa { hash: SHA256, bytes: vec![1; 256] }.to_bytes()?;
    let evidence = TpmEvidence {
        signature: signature.clone(),
        message: message.clone(),
        pcrs: [[2; 32]; PCR_COUNT],
        ak_public: spki.clone(),
    };
    let ecdsa = Signature::Ecdsa { hash: SHA256, r: vec![3; 32], s: vec![4; 31] };
    Ok(vec![
        ("tpm", "quote".into(), message),
        ("tpm", "rsassa".into(), signature),
        ("tpm", "ecdsa".into(), ecdsa.to_bytes()?),
        ("tpm", "rsa".into(), rsa.to_bytes()?),
        ("tpm", "ecc".into(), public(KeyKind::Ecc(ecc)).to_bytes()?),
        ("tpm", "spki".into(), spki),
        ("tpm", "evidence".into(), evidence.to_json()?.into_bytes()),
    ])
}
