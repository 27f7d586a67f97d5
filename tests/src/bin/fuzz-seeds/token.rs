//! A token as an attestation service signs it: the root, an intermediate and an RSA token key, all made for the run.

use anyhow::Result;
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, PublicKeyData as _, SigningKey as _,
};
use serde_json::{Value, json};

use super::{Seed, now, parts};

pub(super) fn seeds() -> Result<Vec<Seed>> {
    let authority = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let root = params("root", IsCa::Ca(BasicConstraints::Unconstrained));
    let pem = root.self_signed(&authority)?.pem();
    let root = Issuer::new(root, authority);

    let authority = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let middle = params("intermediate", IsCa::Ca(BasicConstraints::Constrained(0)));
    let middle_der = middle.signed_by(&authority, &root)?.der().to_vec();
    let middle = Issuer::new(middle, authority);

    let key = KeyPair::generate_for(&PKCS_RSA_SHA256)?;
    let leaf_der = params("signer", IsCa::NoCa).signed_by(&key, &middle)?.der().to_vec();

    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    // PKCS#1 of 2048 bits: the modulus after a head of nine bytes, the exponent at the end.
    let pkcs1 = key.der_bytes();
    let (modulus, exponent) = (pkcs1.get(9..265), pkcs1.last_chunk::<3>());
    let jwk = json!({
        "kty": "RSA", "alg": "RS256",
        "n": encode(modulus.unwrap_or_default()), "e": encode(exponent.map_or(&[], |bytes| bytes)),
        "x5c": [BASE64_STANDARD.encode(leaf_der), BASE64_STANDARD.encode(middle_der)],
    });
    let part = |value: Value| encode(value.to_string().as_bytes());
    let header = part(json!({"typ": "JWT", "alg": "RS256", "jwk": jwk}));
    let signed = format!("{header}.{}", part(json!({"exp": 1_790_000_000})));
    let token = format!("{signed}.{}", encode(&key.sign(signed.as_bytes())?));
    let all = parts(&[&now()?, pem.as_bytes(), token.as_bytes()]);
    Ok(vec![
        ("token_key", "token".into(), all),
        ("token_key", "jwk".into(), parts(&[&[], &[], jwk.to_string().as_bytes()])),
    ])
}

fn params(name: &str, ca: IsCa) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = ca;
    params
}
