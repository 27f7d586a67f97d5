//! Token signers: the recorded keys with certificate chains, and chains made here that fail in one point only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RsaKeyPair,
};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use cc_verify::Rejection;
use cc_verify::token_key::{Algorithm, SignedToken, SignerRoots, TokenKey};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, SignatureAlgorithm, date_time_ymd,
};
use serde_json::{Value, json};

/// First and last second of the recorded scenarios' certificates: 2026-04-15 01:08:05 to 2036-04-12 01:08:05.
const FIRST: u64 = 1_776_215_285;
const LAST: u64 = 2_091_575_285;

/// 2026-06-01, when the other recorded certificate and those made here are valid too.
const NOW: u64 = 1_780_272_000;

fn read(file: &str) -> Option<String> {
    Some(String::from_utf8(cc_vectors::read("jwk-x5c-scenarios", file)?).unwrap())
}

/// Key and roots of one recorded scenario.
fn scenario(number: u8) -> Option<(Value, SignerRoots)> {
    let jwk = read(&format!("scenario{number:02}-jwk.json"))?;
    let roots = SignerRoots::from_pem(&read(&format!("scenario{number:02}-trust.pem"))?).unwrap();
    Some((serde_json::from_str(&jwk).unwrap(), roots))
}

fn chain(jwk: &Value, roots: &SignerRoots, now: u64) -> Result<Vec<String>, Rejection> {
    TokenKey::from_json(jwk.to_string().as_bytes())?.verify_chain(roots, now)
}

/// The name of the check that refuses the chain.
fn refused(jwk: &Value, roots: &SignerRoots, now: u64) -> &'static str {
    chain(jwk, roots, now).unwrap_err().check()
}

#[test]
fn recorded_scenarios() {
    let table: [(u8, Result<&[&str], &str>); 7] = [
        (1, Ok(&["scenario01-leaf", "scenario01-root"])),
        (2, Err("token.leaf_key")),
        (3, Err("token.x5c")),
        (4, Err("token.chain")),
        (5, Ok(&["scenario05-leaf", "scenario05-intermediate", "scenario05-root"])),
        (6, Ok(&["scenario06-leaf", "scenario06-int-b", "scenario06-int-a", "scenario06-root"])),
        (7, Ok(&["scenario06-leaf", "scenario06-int-b", "scenario06-int-a", "scenario06-root"])),
    ];
    for (number, expected) in table {
        let Some((jwk, roots)) = scenario(number) else { return };
        match (chain(&jwk, &roots, NOW), expected) {
            (Ok(names), Ok(expected)) => assert_eq!(names, expected, "scenario {number}"),
            (Err(rejection), Err(expected)) => assert_eq!(rejection.check(), expected, "scenario {number}"),
            (found, _) => panic!("scenario {number}: {found:?}"),
        }
        if expected.is_ok() {
            assert!(chain(&jwk, &roots, FIRST).is_ok() && chain(&jwk, &roots, LAST).is_ok());
            for now in [0, FIRST - 1, LAST + 1, u64::MAX] {
                assert_eq!(refused(&jwk, &roots, now), "token.validity", "scenario {number} at {now}");
            }
        }
    }
    let (jwk, roots) = scenario(4).unwrap();
    let why = chain(&jwk, &roots, NOW).unwrap_err().to_string();
    assert!(why.contains("scenario04-root-signer") && why.contains("neither"), "{why}");
}

#[test]
fn the_key_set_of_the_attestation_service_is_that_of_its_certificate() {
    let Some(keys) = read("as-expected-jwks.json") else { return };
    let keys: Value = serde_json::from_str(&keys).unwrap();
    let jwk = &keys["keys"][0];
    let pem = read("as-cert-chain.pem").unwrap();
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    assert_eq!(jwk["x5c"], json!([body]));
    // The certificate is no authority, but it may be trusted as it is.
    let roots = SignerRoots::from_pem(&pem).unwrap();
    assert_eq!(chain(jwk, &roots, NOW).unwrap(), ["as-jwks-fixture"]);
    assert_eq!(refused(jwk, &roots, 2_100_000_000), "token.validity");
    let mut other = jwk.clone();
    other["x"] = other["y"].clone();
    assert_eq!(refused(&other, &roots, NOW), "token.leaf_key");
}

#[test]
fn every_changed_byte_of_a_recorded_chain_is_noticed() {
    let Some((jwk, roots)) = scenario(6) else { return };
    for number in 0..3 {
        let der = BASE64_STANDARD.decode(jwk["x5c"][number].as_str().unwrap()).unwrap();
        for at in (0..der.len()).step_by(3) {
            let mut changed = der.clone();
            changed[at] ^= 1 << (at % 8);
            let mut jwk = jwk.clone();
            jwk["x5c"][number] = BASE64_STANDARD.encode(&changed).into();
            assert!(chain(&jwk, &roots, NOW).is_err(), "certificate {number}, byte {at}");
        }
        for len in (0..der.len()).step_by(50) {
            let mut jwk = jwk.clone();
            jwk["x5c"][number] = BASE64_STANDARD.encode(&der[..len]).into();
            assert_eq!(refused(&jwk, &roots, NOW), "token.x5c", "certificate {number}, {len} bytes");
        }
        let mut missing = jwk.clone();
        missing["x5c"].as_array_mut().unwrap().remove(number);
        assert!(chain(&missing, &roots, NOW).is_err(), "without certificate {number}");
    }
}

#[test]
fn malformed_lists_of_certificates_are_refused() {
    let Some((jwk, roots)) = scenario(1) else { return };
    let leaf = jwk["x5c"][0].as_str().unwrap();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{leaf}\n-----END CERTIFICATE-----");
    let url = leaf.replace('+', "-").replace('/', "_");
    assert_ne!(url, leaf);
    for x5c in [
        json!([]),
        json!([""]),
        json!([url]),
        json!([format!("{leaf}\n")]),
        json!([BASE64_STANDARD.encode(&pem)]),
        json!([leaf, "AAAA"]),
        json!(vec![leaf; 9]),
    ] {
        let mut jwk = jwk.clone();
        jwk["x5c"] = x5c;
        assert_eq!(refused(&jwk, &roots, NOW), "token.x5c", "{}", jwk["x5c"]);
    }
    let mut repeated = jwk.clone();
    repeated["x5c"] = json!(vec![leaf; 8]);
    assert!(chain(&repeated, &roots, NOW).is_ok());
}

#[test]
fn keys_of_other_kinds_are_refused() {
    let number = |len: usize| BASE64_URL_SAFE_NO_PAD.encode(vec![0xFF; len]);
    let rsa = |n: &str| json!({"kty": "RSA", "n": n, "e": "AQAB"});
    for jwk in [
        json!(null),
        json!([]),
        json!({}),
        json!({"kty": "oct", "k": "AA"}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": number(32)}),
        json!({"kty": "EC", "crv": "P-521", "x": number(66), "y": number(66)}),
        json!({"kty": "EC", "crv": "P-256", "x": number(31), "y": number(32)}),
        json!({"kty": "EC", "crv": "P-256", "x": number(32)}),
        json!({"kty": "EC", "crv": "P-384", "x": number(32), "y": number(32)}),
        json!({"kty": "RSA", "n": number(256)}),
        json!({"kty": "RSA", "alg": "none", "n": number(256), "e": "AQAB"}),
        json!({"kty": "RSA", "alg": "HS256", "n": number(256), "e": "AQAB"}),
        json!({"kty": "RSA", "n": number(256), "e": "AQAB", "x5c": "text"}),
        rsa(""),
        rsa("AA"),
        rsa("+/"),
        rsa(&number(128)),
        rsa(&number(1025)),
        rsa(&"A".repeat(200_000)),
    ] {
        let rejection = TokenKey::from_json(jwk.to_string().as_bytes()).unwrap_err();
        assert_eq!((rejection.check(), rejection.code()), ("token.key", "EVIDENCE_REJECTED"), "{rejection}");
    }
    assert!(TokenKey::from_json(rsa(&number(256)).to_string().as_bytes()).is_ok());
    let twice = format!(r#"{{"kty":"RSA","n":"{0}","n":"{0}","e":"AQAB"}}"#, number(256));
    assert!(TokenKey::from_json(twice.as_bytes()).is_err(), "which of the two counts?");
}

#[test]
fn roots_are_certificates_and_not_too_many() {
    for pem in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let error = SignerRoots::from_pem(pem).unwrap_err();
        assert_eq!(error.code(), "SIGNER_ROOTS_INVALID", "{pem:?}");
        assert!(error.hint().contains("PEM"));
    }
    let Some(pem) = read("as-cert-chain.pem") else { return };
    assert!(SignerRoots::from_pem(&pem.repeat(64)).is_ok());
    assert!(SignerRoots::from_pem(&pem.repeat(65)).unwrap_err().to_string().contains("65 certificates"));
}

/// Somebody with a key and a certificate.
struct Party {
    key: KeyPair,
    params: CertificateParams,
    der: Vec<u8>,
}

impl Party {
    fn pem(&self) -> String {
        let body = BASE64_STANDARD.encode(&self.der);
        let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    }

    fn roots(&self) -> SignerRoots {
        SignerRoots::from_pem(&self.pem()).unwrap()
    }
}

fn params(name: &str, ca: IsCa) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = ca;
    (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2027, 1, 1));
    params
}

fn certified(
    params: CertificateParams,
    algorithm: &'static SignatureAlgorithm,
    issuer: Option<&Party>,
) -> Party {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let cert = match issuer {
        Some(issuer) => params.signed_by(&key, &Issuer::from_params(&issuer.params, &issuer.key)),
        None => params.self_signed(&key),
    };
    let der = cert.unwrap().der().to_vec();
    Party { key, params, der }
}

/// A party with a P-256 key.
fn party(name: &str, ca: IsCa, issuer: Option<&Party>) -> Party {
    certified(params(name, ca), &PKCS_ECDSA_P256_SHA256, issuer)
}

const ANY: IsCa = IsCa::Ca(BasicConstraints::Unconstrained);

/// The key of a party as JWK, with the certificates of `others` behind its own.
fn jwk(party: &Party, others: &[&Party]) -> Value {
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let der = party.key.serialize_der();
    let mut jwk = match party.key.algorithm() {
        algorithm if algorithm == &PKCS_RSA_SHA256 => {
            let key = RsaKeyPair::from_pkcs8(&der).unwrap();
            // PKCS#1: the modulus after a head of nine bytes, the exponent at the end.
            let public = key.public_key().as_ref();
            let n = &public[9..9 + key.public_modulus_len()];
            json!({"kty": "RSA", "n": encode(n), "e": encode(&public[public.len() - 3..])})
        }
        algorithm => {
            let crv = if algorithm == &PKCS_ECDSA_P256_SHA256 { "P-256" } else { "P-384" };
            let (x, y) = party.key.public_key_raw()[1..].split_at((party.key.public_key_raw().len() - 1) / 2);
            json!({"kty": "EC", "crv": crv, "x": encode(x), "y": encode(y)})
        }
    };
    let certs = [party].into_iter().chain(others.iter().copied());
    jwk["x5c"] = certs.map(|party| BASE64_STANDARD.encode(&party.der)).collect();
    jwk
}

fn sign(party: &Party, algorithm: &str, message: &[u8]) -> Vec<u8> {
    let der = party.key.serialize_der();
    let random = SystemRandom::new();
    let (padding, curve) = match algorithm {
        "ES256" => (None, Some(&ECDSA_P256_SHA256_FIXED_SIGNING)),
        "ES384" => (None, Some(&ECDSA_P384_SHA384_FIXED_SIGNING)),
        "RS256" => (Some(&RSA_PKCS1_SHA256), None),
        _ => (Some(&RSA_PKCS1_SHA384), None),
    };
    if let Some(curve) = curve {
        let key = EcdsaKeyPair::from_pkcs8(curve, &der).unwrap();
        return key.sign(&random, message).unwrap().as_ref().to_vec();
    }
    let key = RsaKeyPair::from_pkcs8(&der).unwrap();
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(padding.unwrap(), &random, message, &mut signature).unwrap();
    signature
}

fn token(header: &Value, party: &Party, algorithm: &str) -> String {
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(br#"{"exp":1}"#));
    let signature = sign(party, algorithm, signed.as_bytes());
    format!("{signed}.{}", encode(&signature))
}

fn verified(token: &str) -> Result<Algorithm, &'static str> {
    let token = SignedToken::parse(token).map_err(|rejection| rejection.check())?;
    token.verify().map_err(|rejection| rejection.check())?;
    Ok(token.algorithm())
}

#[test]
fn each_algorithm_verifies_with_its_own_kind_of_key_only() {
    let root = party("root", ANY, None);
    let make = |algorithm| certified(params("signer", IsCa::NoCa), algorithm, Some(&root));
    let (rsa, p256, p384) =
        (make(&PKCS_RSA_SHA256), make(&PKCS_ECDSA_P256_SHA256), make(&PKCS_ECDSA_P384_SHA384));
    let own = [("RS256", &rsa), ("RS384", &rsa), ("ES256", &p256), ("ES384", &p384)];
    for (algorithm, signer) in own {
        let jwk = jwk(signer, &[]);
        let good = token(&json!({"alg": algorithm, "jwk": jwk}), signer, algorithm);
        assert_eq!(verified(&good).unwrap().to_string(), algorithm);
        let parsed = SignedToken::parse(&good).unwrap();
        assert_eq!(parsed.key().verify_chain(&root.roots(), NOW).unwrap(), ["signer", "root"]);
        assert!(!format!("{parsed:?}").contains(good.split('.').nth(1).unwrap()), "claims are a secret");

        // The name of another algorithm over the same signature.
        for other in ["RS256", "RS384", "ES256", "ES384", "RS512", "PS256", "HS256", "none", "es256"] {
            if other != algorithm {
                let named = token(&json!({"alg": other, "jwk": jwk}), signer, algorithm);
                let check = verified(&named).unwrap_err();
                assert!(
                    matches!(check, "token.algorithm" | "token.signature"),
                    "{algorithm} as {other}: {check}"
                );
            }
        }
        let mut bound = jwk.clone();
        bound["alg"] = if algorithm == "ES256" { "ES384" } else { "ES256" }.into();
        let bound = token(&json!({"alg": algorithm, "jwk": bound}), signer, algorithm);
        assert_eq!(verified(&bound), Err("token.algorithm"), "the key names another");
    }
}

#[test]
fn changed_tokens_are_refused() {
    let signer = party("signer", IsCa::NoCa, None);
    let header = json!({"alg": "ES256", "jwk": jwk(&signer, &[])});
    let good = token(&header, &signer, "ES256");
    assert!(verified(&good).is_ok());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let changed = format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(changed));
        assert_eq!(verified(&changed), Err("token.signature"), "bit {bit}");
    }
    for len in 0..good.len() {
        assert!(verified(&good[..len]).is_err(), "{len} bytes");
    }
    for at in (0..signed.len()).step_by(7) {
        let mut changed = good.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        assert!(verified(std::str::from_utf8(&changed).unwrap()).is_err(), "byte {at}");
    }
    let other = party("other", IsCa::NoCa, None);
    assert_eq!(verified(&token(&header, &other, "ES256")), Err("token.signature"));
    for (header, check) in [
        (json!({"alg": "ES256"}), "token.key"),
        (json!({"alg": "none", "jwk": header["jwk"]}), "token.algorithm"),
        (json!({"jwk": header["jwk"]}), "token.algorithm"),
        (json!({"alg": "ES256", "jwk": header["jwk"], "crit": ["b64"], "b64": false}), "token.format"),
        (json!([]), "token.format"),
    ] {
        assert_eq!(verified(&token(&header, &signer, "ES256")), Err(check), "{header}");
    }
    for text in ["", ".", "..", "a.b", "e30.e30.c2ln.x", "*.e30.c2ln", "e30.e30.*"] {
        assert_eq!(verified(text), Err("token.format"), "{text:?}");
    }
    assert_eq!(verified(&"a".repeat(256 * 1024 + 1)), Err("token.format"));
}

#[test]
fn only_authorities_of_the_fitting_length_and_time_issue() {
    let root = party("root", IsCa::Ca(BasicConstraints::Constrained(1)), None);
    let [upper, middle] =
        [("upper", &root), ("middle", &root)].map(|(name, issuer)| party(name, ANY, Some(issuer)));
    let below = party("below", ANY, Some(&upper));
    let leaf = |issuer| party("leaf", IsCa::NoCa, Some(issuer));
    let good = leaf(&middle);
    assert_eq!(
        chain(&jwk(&good, &[&upper, &middle]), &root.roots(), NOW).unwrap(),
        ["leaf", "middle", "root"]
    );

    let long = leaf(&below);
    let why = chain(&jwk(&long, &[&below, &upper]), &root.roots(), NOW).unwrap_err();
    assert!(why.check() == "token.chain" && why.to_string().contains("allows fewer than 2"), "{why}");
    // The same chain is short enough for the operator who trusts the authority in its middle.
    assert!(chain(&jwk(&long, &[&below, &upper]), &upper.roots(), NOW).is_ok());

    let merely = party("merely a signer", IsCa::ExplicitNoCa, Some(&root));
    assert_eq!(refused(&jwk(&leaf(&merely), &[&merely]), &root.roots(), NOW), "token.chain");
    let self_signed = party("alone", ANY, None);
    assert_eq!(refused(&jwk(&self_signed, &[&root]), &root.roots(), NOW), "token.chain");
    assert_eq!(chain(&jwk(&self_signed, &[]), &self_signed.roots(), NOW).unwrap(), ["alone"]);
    // An authority with the root's name and another key.
    let impostor = party("root", ANY, None);
    assert_eq!(refused(&jwk(&leaf(&impostor), &[&impostor]), &root.roots(), NOW), "token.chain");

    let mut old = params("old", ANY);
    old.not_after = date_time_ymd(2026, 2, 1);
    let old = certified(old, &PKCS_ECDSA_P256_SHA256, Some(&root));
    assert_eq!(refused(&jwk(&leaf(&old), &[&old]), &root.roots(), NOW), "token.validity");
    let mut lister = params("lister", ANY);
    lister.key_usages = vec![KeyUsagePurpose::CrlSign];
    let lister = certified(lister, &PKCS_ECDSA_P256_SHA256, Some(&root));
    assert_eq!(refused(&jwk(&leaf(&lister), &[&lister]), &root.roots(), NOW), "token.chain");
    let mut encrypts = params("encrypts", IsCa::NoCa);
    encrypts.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    let encrypts = certified(encrypts, &PKCS_ECDSA_P256_SHA256, Some(&root));
    assert_eq!(refused(&jwk(&encrypts, &[]), &root.roots(), NOW), "token.leaf_key");
}

#[test]
fn authorities_that_certify_each_other_end_the_search() {
    let root = party("root", ANY, None);
    let first = party("first", ANY, None);
    let second = party("second", ANY, Some(&first));
    let mut back = certified(params("first", ANY), &PKCS_ECDSA_P256_SHA256, None);
    let issuer = Issuer::from_params(&second.params, &second.key);
    back.der = back.params.signed_by(&first.key, &issuer).unwrap().der().to_vec();
    let leaf = party("leaf", IsCa::NoCa, Some(&second));
    let circle = jwk(&leaf, &[&back, &second, &first, &second, &back]);
    assert_eq!(refused(&circle, &root.roots(), NOW), "token.chain");
    assert_eq!(chain(&circle, &first.roots(), NOW).unwrap(), ["leaf", "second", "first"]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>, text: String) {
        let _ = TokenKey::from_json(&bytes);
        let _ = TokenKey::from_json(text.as_bytes());
        let _ = SignerRoots::from_pem(&text);
        let _ = SignedToken::parse(&text);
    }

    #[test]
    fn any_jwk_is_verified_or_refused(
        kty in "RSA|EC|.{0,4}", crv in "P-256|P-384|.{0,6}", alg in prop::option::of("RS256|ES384|.{0,5}"),
        number in prop::collection::vec(any::<u8>(), 0..300), e: Vec<u8>,
        x in prop::collection::vec(any::<u8>(), 32), certs in prop::collection::vec(any::<Vec<u8>>(), 0..4),
        at: u64, signature: Vec<u8>,
    ) {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let certs: Vec<String> = certs.iter().map(|der| BASE64_STANDARD.encode(der)).collect();
        let jwk = json!({"kty": kty, "crv": crv, "alg": alg, "n": encode(&number), "e": encode(&e),
            "x": encode(&x), "y": encode(&x), "x5c": certs});
        if let Ok(key) = TokenKey::from_json(jwk.to_string().as_bytes()) {
            let roots = party("root", ANY, None).roots();
            prop_assert!(key.verify_chain(&roots, at).is_err());
            for algorithm in [Algorithm::Rs256, Algorithm::Rs384, Algorithm::Es256, Algorithm::Es384] {
                prop_assert!(key.verify(algorithm, b"message", &signature).is_err());
            }
        }
    }
}
