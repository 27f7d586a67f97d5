//! The requirement `sigstoreSigned`: signatures attached under the tag `sha256-<digest>.sig`, made with a key or with a
//! certificate of a Fulcio authority (containers-policy.json(5); cosign's SIGNATURE_SPEC).
//!
//! Signature and proofs stand in annotations of the payload: `dev.cosignproject.cosign/signature`, and under
//! `dev.sigstore.cosign/` the `certificate`, its `chain` and `bundle`, the promise of the transparency log. With a log
//! asked for, they are put together as a Sigstore bundle of version 0.1, which is the same in one document, and judged as
//! such; there is no second reading of certificates and promises here.
//!
//! The payload may speak of the manifest or of the index that the manifest was chosen from: the choice is ours, and the
//! index names every manifest by digest.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use cc_crypto::verify::PublicKey;
use serde_json::{Value, json};

use super::{
    AbsentIdentity, Cause, Context, Rejection,
    identity::Identity,
    payload::{Kind, Payload},
    requirement::{Fulcio, SigstoreSigned, SigstoreSigner},
    signatures::{self, Attached},
    sigstore::{self, Artifact, Names, Signer, TrustRoot},
};
use crate::Algorithm;

const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
const CHAIN: &str = "dev.sigstore.cosign/chain";
const PROMISE: &str = "dev.sigstore.cosign/bundle";
/// Longest annotation read, in bytes.
const MAX_ANNOTATION: usize = 256 * 1024;

impl SigstoreSigned {
    pub(super) fn check(&self, context: &mut Context<'_>) -> Result<String, Vec<Rejection>> {
        let judge = Judge::new(self, context).map_err(|rejection| vec![rejection])?;
        let mut rejections = Vec::new();
        let (image, identity) = (context.image, self.identity(context.absent_identity));
        let accept = |attached: &Attached| {
            let by = judge.accept(attached)?;
            let payload = Payload::parse(Kind::Cosign, &attached.payload)
                .map_err(|why| Rejection::new(Cause::Malformed, format!("its payload: {why}")))?;
            image.fits(&payload, &image.digests(), identity).map(|()| by)
        };
        for digest in image.digests() {
            if let Some(by) = signatures::attached(context.signatures, &digest, &mut rejections, accept) {
                return Ok(by);
            }
        }
        if rejections.is_empty() {
            let names: Vec<String> = context
                .image
                .digests()
                .iter()
                .map(|d| format!("{}-{}.sig", d.algorithm().as_str(), d.hex()))
                .collect();
            let why = format!("there is no signature under {}", names.join(" or "));
            rejections.push(Rejection::new(Cause::NoSignature, why));
        }
        Err(rejections)
    }

    /// The rule for the name; `None`: every name passes.
    fn identity(&self, absent: AbsentIdentity) -> Option<&Identity> {
        match (&self.identity, absent) {
            (Some(identity), _) => Some(identity),
            (None, AbsentIdentity::SameRepository) => Some(&Identity::AsSigned),
            (None, AbsentIdentity::AnyName) => None,
        }
    }
}

/// Keys and authorities of one requirement, read.
#[derive(Debug)]
enum Judge<'a> {
    /// Any of the keys, without a log.
    Keys(Vec<PublicKey>),
    /// Any of the keys, with a promise of the log.
    LoggedKeys(Vec<PublicKey>, TrustRoot),
    /// A certificate, with a promise of the log.
    Certificate(&'a Fulcio, TrustRoot),
}

impl<'a> Judge<'a> {
    fn new(requirement: &'a SigstoreSigned, context: &mut Context<'_>) -> Result<Self, Rejection> {
        let logs = context.public_keys(&requirement.rekor, "key of the log")?;
        match &requirement.signer {
            SigstoreSigner::Keys(keys) => {
                let keys = context.public_keys(keys, "key")?;
                if logs.is_empty() {
                    Ok(Self::Keys(keys))
                } else {
                    TrustRoot::from_parts(None, &logs).map(|root| Self::LoggedKeys(keys, root))
                }
            }
            SigstoreSigner::Fulcio(fulcio) => {
                let authorities = context.material(&fulcio.ca, "certificate authority")?;
                TrustRoot::from_parts(Some(&authorities), &logs).map(|root| Self::Certificate(fulcio, root))
            }
        }
    }

    fn accept(&self, attached: &Attached) -> Result<String, Rejection> {
        let signature = annotation(attached, SIGNATURE)?
            .ok_or_else(|| Rejection::new(Cause::Malformed, format!("it has no annotation {SIGNATURE}")))?;
        let signature: String = signature.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        let raw = BASE64_STANDARD
            .decode(&signature)
            .map_err(|_| Rejection::new(Cause::Malformed, "the signature is not base64"))?;
        match self {
            Self::Keys(keys) => {
                let key = keys.iter().find(|key| key.verify(&attached.payload, &raw).is_ok());
                key.map(by_key)
                    .ok_or_else(|| Rejection::new(Cause::Signature, "no key of the policy made it"))
            }
            Self::LoggedKeys(keys, root) => {
                let key = keys.iter().find(|key| key.verify(&attached.payload, &raw).is_ok());
                let key =
                    key.ok_or_else(|| Rejection::new(Cause::Signature, "no key of the policy made it"))?;
                let bundle = bundle(attached, &signature, json!({"publicKey": {"hint": ""}}))?;
                root.verify(&bundle, Artifact::Bytes(&attached.payload), Signer::Key(key))?;
                Ok(by_key(key))
            }
            Self::Certificate(fulcio, root) => {
                let bundle = bundle(attached, &signature, certificate_chain(attached)?)?;
                let subject = Names::Mail(&fulcio.email);
                let signer = Signer::Identity { subject, issuer: &fulcio.issuer };
                root.verify(&bundle, Artifact::Bytes(&attached.payload), signer).map(|signed| signed.by)
            }
        }
    }
}

fn by_key(key: &PublicKey) -> String {
    format!("{} key {}", key.kind().as_str(), sigstore::fingerprint(key))
}

fn annotation<'a>(attached: &'a Attached, name: &str) -> Result<Option<&'a str>, Rejection> {
    match attached.annotations.get(name) {
        Some(text) if text.len() > MAX_ANNOTATION => Err(Rejection::new(
            Cause::Malformed,
            format!("annotation {name} has more than {MAX_ANNOTATION} bytes"),
        )),
        other => Ok(other.map(String::as_str)),
    }
}

/// The certificate and those above it, as the verification material of a bundle.
fn certificate_chain(attached: &Attached) -> Result<Value, Rejection> {
    let malformed = |why: String| Rejection::new(Cause::Malformed, why);
    let Some(leaf) = annotation(attached, CERTIFICATE)? else {
        return Err(Rejection::new(Cause::Signer, "it was made with a key, not with a certificate"));
    };
    let mut chain = sigstore::certificates(leaf.as_bytes()).map_err(malformed)?;
    if chain.len() != 1 {
        return Err(malformed(format!("annotation {CERTIFICATE} is not one certificate")));
    }
    if let Some(above) = annotation(attached, CHAIN)?.filter(|text| !text.trim().is_empty()) {
        chain.append(&mut sigstore::certificates(above.as_bytes()).map_err(malformed)?);
    }
    let chain: Vec<Value> =
        chain.iter().map(|der| json!({"rawBytes": BASE64_STANDARD.encode(der)})).collect();
    Ok(json!({"x509CertificateChain": {"certificates": chain}}))
}

/// A bundle of version 0.1 from `material` and the promise in the annotations.
fn bundle(attached: &Attached, signature: &str, mut material: Value) -> Result<Vec<u8>, Rejection> {
    let malformed = |why: &str| Rejection::new(Cause::Malformed, format!("annotation {PROMISE}: {why}"));
    let Some(text) = annotation(attached, PROMISE)? else {
        let why = format!("it has no promise of the transparency log (annotation {PROMISE})");
        return Err(Rejection::new(Cause::Log, why));
    };
    let promise = cc_crypto::unique_json::parse("promise", text.as_bytes())
        .map_err(|error| malformed(&error.to_string()))?;
    let entry = promise.get("Payload").ok_or_else(|| malformed("it has no Payload"))?;
    let number = |name: &str| {
        entry
            .get(name)
            .and_then(Value::as_u64)
            .ok_or_else(|| malformed(&format!("{name} is no whole number")))
    };
    let text = |value: &Value, name: &str| {
        value
            .get(name)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or_else(|| malformed(&format!("{name} is no string")))
    };
    let log = hex::decode(text(entry, "logID")?).map_err(|_| malformed("logID is not hexadecimal"))?;
    let digest = crate::Digest::of(Algorithm::Sha256, &attached.payload).hex();
    let digest = hex::decode(digest).unwrap_or_default();
    let tlog = json!([{
        "logIndex": number("logIndex")?.to_string(),
        "logId": {"keyId": BASE64_STANDARD.encode(log)},
        "kindVersion": {"kind": "hashedrekord", "version": "0.0.1"},
        "integratedTime": number("integratedTime")?.to_string(),
        "inclusionPromise": {"signedEntryTimestamp": text(&promise, "SignedEntryTimestamp")?},
        "canonicalizedBody": text(entry, "body")?,
    }]);
    if let Some(members) = material.as_object_mut() {
        members.insert("tlogEntries".to_owned(), tlog);
    }
    let bundle = json!({
        "mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1",
        "verificationMaterial": material,
        "messageSignature": {
            "messageDigest": {"algorithm": "SHA2_256", "digest": BASE64_STANDARD.encode(digest)},
            "signature": signature,
        },
    });
    Ok(bundle.to_string().into_bytes())
}
