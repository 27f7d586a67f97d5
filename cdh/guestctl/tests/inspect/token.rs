//! Attestation tokens under the roots of an attestation service: which line fails for which forgery.

use std::io::Write as _;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, PublicKeyData as _, SigningKey as _,
};
use serde_json::{Value, json};

use super::{Exit, Outcome, inspect, vector};

/// A moment inside the lives of token and certificates.
const AT: &str = "2026-06-01T00:00:00Z";

/// An attestation service: a root, and a token key that it certified.
struct Service {
    root_pem: String,
    key: KeyPair,
    certificate: Vec<u8>,
}

impl Service {
    fn new() -> Self {
        let mut root = params("service root");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let root_pem = root.self_signed(&root_key).unwrap().pem();
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let issuer = Issuer::from_params(&root, &root_key);
        let certificate = params("token signer").signed_by(&key, &issuer).unwrap().der().to_vec();
        Self { root_pem, key, certificate }
    }

    /// The key as JWK. In its PKCS#1 form the modulus begins after nine bytes, and the exponent is the end.
    fn jwk(&self) -> Value {
        let key = self.key.der_bytes();
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "RSA", "alg": "RS256", "n": encode(&key[9..265]), "e": encode(&key[key.len() - 3..]),
            "x5c": [BASE64_STANDARD.encode(&self.certificate)]})
    }

    fn token(&self, jwk: &Value) -> String {
        let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = json!({"iss": "CoCo-Attestation-Service", "exp": 1_790_000_000, "submods": {}});
        let signed = format!("{}.{}", part(json!({"typ": "JWT", "alg": "RS256", "jwk": jwk})), part(claims));
        let signature = self.key.sign(signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn judged(token: &str, roots: &str, options: &[&str]) -> Outcome {
    let (token, roots) = (file(token), file(roots));
    let options = [&["--at", AT, "--roots", roots.path().to_str().unwrap()], options].concat();
    inspect(token.path(), &options)
}

#[test]
fn a_token_of_the_service_is_verified_under_its_root() {
    let service = Service::new();
    let token = service.token(&service.jwk());
    let seen = judged(&token, &service.root_pem, &["--json"]);
    assert_eq!(seen.exit, Exit::Success, "{}{}", seen.out, seen.err);
    assert_eq!((seen.check("signature"), seen.check("signer chain")), ("verified".into(), "verified".into()));
    let shown = judged(&token, &service.root_pem, &[]).out;
    for text in
        ["RS256 by the key in the token's header", "token signer, issued by service root, a given root"]
    {
        assert!(shown.contains(text), "{text} in\n{shown}");
    }
    assert!(!shown.contains(&token), "the token is a secret");

    // Without roots nothing is said of the signer, and nothing has failed.
    let seen = inspect(file(&token).path(), &["--at", AT, "--json"]);
    assert_eq!((seen.exit, seen.check("signature")), (Exit::Success, "not verified".into()));
}

#[test]
fn forged_tokens_fail_in_the_line_that_is_wrong() {
    let (service, other) = (Service::new(), Service::new());
    let mut bare = service.jwk();
    bare.as_object_mut().unwrap().remove("x5c");
    let mut borrowed = other.jwk();
    borrowed["x5c"] = service.jwk()["x5c"].clone();
    let good = service.token(&service.jwk());
    let (signed, _) = good.rsplit_once('.').unwrap();
    let cut = format!("{signed}.c2ln");
    for (what, token, signature, chain, why) in [
        ("another's token", other.token(&other.jwk()), "verified", "failed", "is not signed by"),
        ("no certificates", service.token(&bare), "verified", "failed", "without certificates"),
        ("another's chain", other.token(&borrowed), "verified", "failed", "is for another key"),
        ("another's key", other.token(&service.jwk()), "failed", "verified", "is not one by the key"),
        ("a cut signature", cut, "failed", "verified", "is not one by the key"),
    ] {
        let seen = judged(&token, &service.root_pem, &["--json"]);
        assert_eq!(seen.exit, Exit::Failed, "{what}");
        assert_eq!(
            (seen.check("signature").as_str(), seen.check("signer chain").as_str()),
            (signature, chain),
            "{what}"
        );
        assert!(seen.out.contains(why), "{what}: {}", seen.out);
    }
    let late = inspect(
        file(&good).path(),
        &["--roots", file(&service.root_pem).path().to_str().unwrap(), "--at", "999999999999", "--json"],
    );
    assert_eq!((late.check("signature"), late.check("signer chain")), ("verified".into(), "failed".into()));
}

#[test]
fn a_header_without_a_usable_key_fails() {
    let service = Service::new();
    for jwk in [Value::Null, json!({"kty": "oct", "k": "AA"})] {
        let seen = judged(&service.token(&jwk), &service.root_pem, &["--json"]);
        assert_eq!((seen.exit, seen.check("signature")), (Exit::Failed, "failed".into()));
    }
    let seen = judged(&service.token(&service.jwk()), "nonsense", &[]);
    assert!(seen.err.contains("[INPUT_MALFORMED]") && seen.err.contains("root"), "{}", seen.err);
}

/// The recorded keys, each in the header of a token that somebody else signed.
#[test]
fn recorded_keys_in_the_header() {
    let Some(folder) = vector("jwk-x5c-scenarios") else { return };
    let service = Service::new();
    for (number, chain) in
        (1..).zip(["verified", "failed", "failed", "failed", "verified", "verified", "verified"])
    {
        let read =
            |name: &str| std::fs::read_to_string(folder.join(format!("scenario{number:02}-{name}"))).unwrap();
        let jwk: Value = serde_json::from_str(&read("jwk.json")).unwrap();
        let seen = judged(&service.token(&jwk), &read("trust.pem"), &["--json"]);
        assert_eq!(
            (seen.check("signature").as_str(), seen.check("signer chain").as_str()),
            ("failed", chain),
            "scenario {number}"
        );
    }
}
