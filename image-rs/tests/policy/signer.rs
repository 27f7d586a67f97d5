//! Signers of every kind that a test can make: a key, and an authority with its transparency log.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use image_rs::Digest;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SigningKey,
};
use serde_json::{Value, json};

use crate::registry::sha256;

/// A moment in the type of `rcgen`, which it does not export by name.
macro_rules! moment {
    ($seconds:expr) => {
        rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(u64::try_from($seconds).unwrap())
    };
}

/// When everything is signed, in seconds since 1970: 2025-06-01.
pub(crate) const THEN: i64 = 1_748_736_000;
pub(crate) const OIDC_ISSUER: &str = "https://login.example.com";
pub(crate) const MAIL: &str = "release@example.com";
const ISSUER_V2: [u64; 9] = [1, 3, 6, 1, 4, 1, 57264, 1, 8];

pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// A new P-256 key.
pub(crate) fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

/// What cosign writes about `image` under the name `reference`.
pub(crate) fn payload(image: &Digest, reference: &str) -> Vec<u8> {
    let critical = json!({
        "type": "cosign container image signature",
        "image": {"docker-manifest-digest": image.to_string()},
        "identity": {"docker-reference": reference},
    });
    json!({"critical": critical, "optional": Value::Null}).to_string().into_bytes()
}

/// The annotations of a signature by a key alone.
pub(crate) fn signed(key: &KeyPair, payload: &[u8]) -> (Vec<u8>, Value) {
    (payload.to_vec(), json!({"dev.cosignproject.cosign/signature": base64(key.sign(payload).unwrap())}))
}

/// An attestation by a key alone, as a bundle without a log.
pub(crate) fn attestation(key: &KeyPair, statement: &Value) -> Vec<u8> {
    let kind = "application/vnd.in-toto+json";
    let payload = statement.to_string();
    let pae = format!("DSSEv1 {} {kind} {} {payload}", kind.len(), payload.len());
    json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": "k"}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64(&payload), "payloadType": kind,
            "signatures": [{"sig": base64(key.sign(pae.as_bytes()).unwrap()), "keyid": ""}],
        },
    })
    .to_string()
    .into_bytes()
}

/// A transparency log.
pub(crate) struct Log(pub(crate) KeyPair);

impl Log {
    /// The promise to include a signature made with the key or certificate in `verifier` (PEM).
    pub(crate) fn promise(&self, payload: &[u8], signature: &[u8], verifier: &str, at: i64) -> Value {
        let body = json!({
            "apiVersion": "0.0.1", "kind": "hashedrekord",
            "spec": {
                "data": {"hash": {"algorithm": "sha256", "value": sha256(payload).hex()}},
                "signature": {"content": base64(signature), "publicKey": {"content": base64(verifier)}},
            },
        });
        let id = sha256(&self.0.subject_public_key_info()).hex();
        // The members in the order of RFC 8785.
        let entry =
            json!({"body": base64(body.to_string()), "integratedTime": at, "logID": id, "logIndex": 7});
        let promise = base64(self.0.sign(entry.to_string().as_bytes()).unwrap());
        json!({"SignedEntryTimestamp": promise, "Payload": entry})
    }
}

/// A certificate authority that vouches for mail addresses, as Fulcio does.
pub(crate) struct Authority {
    pub(crate) pem: String,
    pub(crate) issuer: Issuer<'static, KeyPair>,
    pub(crate) log: Log,
}

/// Whom a certificate names, and until when.
pub(crate) struct Claims<'a> {
    pub(crate) subject: SanType,
    pub(crate) issuer: &'a str,
    /// Seconds since 1970.
    pub(crate) until: i64,
    pub(crate) usage: ExtendedKeyUsagePurpose,
}

impl Default for Claims<'_> {
    fn default() -> Self {
        Self {
            subject: SanType::Rfc822Name(MAIL.try_into().unwrap()),
            issuer: OIDC_ISSUER,
            until: THEN + 600,
            usage: ExtendedKeyUsagePurpose::CodeSigning,
        }
    }
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = key();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (params.not_before, params.not_after) = (moment!(THEN - 86_400), moment!(THEN + 86_400));
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key), log: Log(self::key()) }
    }

    /// A certificate with `claims` for `key`, PEM.
    pub(crate) fn certify(&self, key: &KeyPair, claims: &Claims<'_>) -> String {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![claims.subject.clone()];
        params.extended_key_usages = vec![claims.usage.clone()];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        (params.not_before, params.not_after) = (moment!(THEN - 60), moment!(claims.until));
        let issuer = [&[0x0c, u8::try_from(claims.issuer.len()).unwrap()], claims.issuer.as_bytes()].concat();
        params.custom_extensions = vec![CustomExtension::from_oid_content(&ISSUER_V2, issuer)];
        params.signed_by(key, &self.issuer).unwrap().pem()
    }

    /// A signature over `payload` with a certificate of `claims` and a promise of the log.
    pub(crate) fn sign(&self, payload: &[u8], claims: &Claims<'_>) -> (Vec<u8>, Value) {
        let key = key();
        let certificate = self.certify(&key, claims);
        let signature = key.sign(payload).unwrap();
        let promise = self.log.promise(payload, &signature, &certificate, THEN);
        let annotations = json!({
            "dev.cosignproject.cosign/signature": base64(&signature),
            "dev.sigstore.cosign/certificate": certificate,
            "dev.sigstore.cosign/chain": self.pem,
            "dev.sigstore.cosign/bundle": promise.to_string(),
        });
        (payload.to_vec(), annotations)
    }
}
