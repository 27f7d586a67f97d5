//! Seeds of what a TPM says: quotes, signatures, public areas, and the evidence around them.

use anyhow::{Context as _, Result};
use cc_evidence::HashAlgorithm;
use cc_evidence::tpm::{
    ALG_RSASSA, ATTRIBUTE_RESTRICTED, ATTRIBUTE_SIGN, Attest, ClockInfo, EccKey, KeyKind, PCR_COUNT,
    PcrSelection, Public, RsaKey, Signature, TpmEvidence, digest_of_values, write_selections,
};

use super::{Seed, parts};

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
        ("tpm_device", "quote".into(), [&[1][..], &dialogue(&quote_dialogue(attest)?)].concat()),
        ("tpm_device", "public".into(), [&[2][..], &dialogue(&[public_response(&rsa)?])].concat()),
        ("tpm_device", "nv-read".into(), [&[3][..], &dialogue(&nv_dialogue())].concat()),
        ("tpm_device", "refused".into(), [&[5][..], &parts(&[&REFUSED])].concat()),
    ])
}

/// A raw response (the first byte says so) of the code TPM_RC_HANDLE for the first handle.
const REFUSED: [u8; 11] = [1, 0x80, 0x01, 0, 0, 0, 10, 0, 0, 1, 0x8B];

/// Responses in order, all to be framed as the command wants it.
fn dialogue(responses: &[Vec<u8>]) -> Vec<u8> {
    let framed: Vec<Vec<u8>> =
        responses.iter().map(|response| [&[0], response.as_slice()].concat()).collect();
    parts(&framed.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// Values of PCR 0 and 8, then a quote over them.
fn quote_dialogue(mut attest: Attest) -> Result<Vec<Vec<u8>>> {
    let selection = vec![PcrSelection::new(HashAlgorithm::Sha256, &[0, 8])?];
    let values = [vec![0xA0; 32], vec![0xA8; 32]];
    let mut read = 9u32.to_be_bytes().to_vec();
    write_selections(&mut read, &selection)?;
    read.extend(2u32.to_be_bytes());
    read.extend(values.iter().flat_map(|value| sized(value)));
    attest.extra_data = vec![5; 32];
    attest.pcr_digest = digest_of_values(HashAlgorithm::Sha256, &values);
    attest.selection = selection;
    Ok(vec![read, [sized(&attest.to_bytes()?), vec![0, 0x14, 0, 0x0B, 0, 1, 7]].concat()])
}

/// Public area, name and qualified name.
fn public_response(key: &Public) -> Result<Vec<u8>> {
    let name = key.name().context("its hash is known")?;
    Ok([sized(&key.to_bytes()?), sized(&name), sized(&name)].concat())
}

/// The description of an index of 20 bytes that its owner reads, the TPM's limit of 16 bytes, and two pieces.
fn nv_dialogue() -> Vec<Vec<u8>> {
    let public = [&0x0140_0001u32.to_be_bytes()[..], &[0, 0x0B], &[0, 2, 0, 0], &[0, 0], &[0, 20]].concat();
    let limit =
        [&[0][..], &6u32.to_be_bytes(), &1u32.to_be_bytes(), &0x12Cu32.to_be_bytes(), &16u32.to_be_bytes()];
    vec![[sized(&public), sized(&[1; 34])].concat(), limit.concat(), sized(&[2; 16]), sized(&[3; 4])]
}

/// `bytes` behind their length, two big endian bytes.
fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes(), bytes].concat()
}
