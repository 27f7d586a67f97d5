//! Sigstore bundles: signature, certificate or key, and proof of the time, judged under a trusted root that is at hand.
//!
//! The verification itself is the `sigstore-verify` library, which never asks the network. What is ours: bounds, the
//! refusal of JSON that two readers could read differently, trusted roots made from the keys and certificates of a
//! policy, and attestations by a key alone, for which no log is asked (`key_alone`).
//!
//! Implements what a verifier of the Sigstore client specification has to do with bundles of versions 0.1 to 0.3
//! (<https://github.com/sigstore/protobuf-specs>, `sigstore_bundle.proto`, `sigstore_trustroot.proto`). Times are
//! compared with this machine's clock in one respect only: a signature must not be made in the future.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use cc_crypto::verify::PublicKey;
use serde_json::{Value, json};
use sigstore_verify::{
    CertificateError, Error as Library, PublicKeyVerificationPolicy, SubjectAltName, TimestampError,
    TransparencyLogError, VerificationPolicy, Verifier,
    trust_root::{SIGSTORE_PRODUCTION_TRUSTED_ROOT, SIGSTORE_STAGING_TRUSTED_ROOT, TrustedRoot},
    types::{
        Artifact as LibraryArtifact, ArtifactDigest, Bundle, DerPublicKey, HashAlgorithm, SignatureContent,
        bundle::VerificationMaterialContent,
    },
};

use super::{Cause, Rejection, requirement::Subject};

/// Longest bundle or trusted root read, in bytes. Attestations can list every file of a build.
pub const MAX_LEN: usize = 4 << 20;
/// Most certificates taken from one text.
const MAX_CERTIFICATES: usize = 64;
/// Media type of an in-toto statement in an envelope.
const IN_TOTO: &str = "application/vnd.in-toto+json";

/// Authorities and logs that are trusted.
pub struct TrustRoot {
    verifier: Verifier,
    /// Whether certificates must carry a proof that a certificate log has them.
    certificate_log: bool,
}

impl fmt::Debug for TrustRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustRoot").field("certificate_log", &self.certificate_log).finish_non_exhaustive()
    }
}

impl TrustRoot {
    /// The trust root of Sigstore's public good instance as of this version of the program.
    ///
    /// # Errors
    /// [`Cause::Policy`] if the built-in text cannot be read.
    pub fn public_good() -> Result<Self, Rejection> {
        Self::from_json(SIGSTORE_PRODUCTION_TRUSTED_ROOT.as_bytes())
    }

    /// The trust root of Sigstore's staging instance, which signs test data only.
    ///
    /// # Errors
    /// As [`TrustRoot::public_good`].
    pub fn staging() -> Result<Self, Rejection> {
        Self::from_json(SIGSTORE_STAGING_TRUSTED_ROOT.as_bytes())
    }

    /// Reads a trusted root (`application/vnd.dev.sigstore.trustedroot+json`) of at most 4 MiB.
    ///
    /// # Errors
    /// [`Cause::Policy`] with the reason.
    pub fn from_json(text: &[u8]) -> Result<Self, Rejection> {
        let text = unique("trusted root", text).map_err(|why| Rejection::new(Cause::Policy, why))?;
        Self::build(text, true)
    }

    /// A root of the certificate authorities in the PEM text `authorities` and of the logs with the keys `logs`. Proofs of
    /// a certificate log are not asked for, since nothing says which one.
    pub(crate) fn from_parts(authorities: Option<&[u8]>, logs: &[PublicKey]) -> Result<Self, Rejection> {
        let mut ids: Vec<&PublicKey> = Vec::new();
        for log in logs {
            if !ids.contains(&log) {
                ids.push(log);
            }
        }
        let logs: Vec<Value> = ids
            .into_iter()
            .map(|key| {
                let id = crate::Digest::of(crate::Algorithm::Sha256, key.spki());
                let id = hex::decode(id.hex()).unwrap_or_default();
                json!({
                    "baseUrl": "",
                    "hashAlgorithm": "SHA2_256",
                    "publicKey": {"rawBytes": BASE64_STANDARD.encode(key.spki()), "keyDetails": "PUBLIC_KEY_DETAILS_UNSPECIFIED"},
                    "logId": {"keyId": BASE64_STANDARD.encode(id)},
                })
            })
            .collect();
        let authorities: Vec<Value> = match authorities {
            None => Vec::new(),
            Some(text) => certificates(text)
                .map_err(|why| Rejection::new(Cause::Policy, why))?
                .into_iter()
                .map(|der| json!({"uri": "", "certChain": {"certificates": [{"rawBytes": BASE64_STANDARD.encode(der)}]}}))
                .collect(),
        };
        let root = json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": logs,
            "certificateAuthorities": authorities,
        });
        Self::build(&root.to_string(), false)
    }

    fn build(text: &str, certificate_log: bool) -> Result<Self, Rejection> {
        let unusable = |error: &dyn fmt::Display| {
            Rejection::new(Cause::Policy, format!("the trusted root cannot be used: {}", printable(error)))
        };
        let root = TrustedRoot::from_json(text).map_err(|error| unusable(&error))?;
        let verifier = Verifier::new(&root).map_err(|error| unusable(&error))?;
        Ok(Self { verifier, certificate_log })
    }

    /// Verifies that `signer` signed `artifact` in `bundle`, JSON of at most 4 MiB.
    ///
    /// # Errors
    /// What is missing.
    pub fn verify(
        &self,
        bundle: &[u8],
        artifact: Artifact<'_>,
        signer: Signer<'_>,
    ) -> Result<Signed, Rejection> {
        let bundle = read(bundle)?;
        let material = &bundle.verification_material.content;
        let has_key = matches!(material, VerificationMaterialContent::PublicKey(_));
        let by = match signer {
            Signer::Key(_) if !has_key => {
                return Err(Rejection::new(
                    Cause::Signature,
                    "it was made with a certificate, not with a key",
                ));
            }
            Signer::Identity { .. } if has_key => {
                return Err(Rejection::new(Cause::Signer, "it was made with a key, not with a certificate"));
            }
            Signer::Key(key) => {
                let policy = PublicKeyVerificationPolicy::new(DerPublicKey::new(key.spki().to_vec()));
                self.verifier
                    .verify(artifact.into_library()?, &bundle, &policy)
                    .map_err(|error| refusal(&error))?;
                format!("{} key {}", key.kind().as_str(), fingerprint(key))
            }
            Signer::Identity { subject, issuer } => {
                let policy = VerificationPolicy::any_identity().require_issuer(issuer);
                // Without the logs of certificates there is nothing to compare a proof with.
                #[allow(clippy::disallowed_methods)]
                let policy = if self.certificate_log { policy } else { policy.skip_sct() };
                let result = self.verifier.verify(artifact.into_library()?, &bundle, &policy);
                let result = result.map_err(|error| refusal(&error))?;
                match result.identity() {
                    Some(found) if subject.admit(found) => format!("{found} ({issuer})"),
                    Some(found) => {
                        let why = format!("it was made by {:?}, not by {subject}", found.as_str());
                        return Err(Rejection::new(Cause::Signer, why));
                    }
                    None => return Err(Rejection::new(Cause::Signer, "its certificate names nobody")),
                }
            }
        };
        Ok(Signed { by, statement: statement(&bundle) })
    }
}

/// Verifies an attestation that `key` alone made over `artifact`; transparency log and time are not looked at.
///
/// # Errors
/// What is missing.
pub(crate) fn key_alone(bundle: &[u8], artifact: [u8; 32], key: &PublicKey) -> Result<Signed, Rejection> {
    let bundle = read(bundle)?;
    let SignatureContent::DsseEnvelope(envelope) = &bundle.content else {
        return Err(Rejection::new(
            Cause::Malformed,
            "it holds no attestation; without the log only those can be used",
        ));
    };
    if !matches!(bundle.verification_material.content, VerificationMaterialContent::PublicKey(_)) {
        return Err(Rejection::new(Cause::Signature, "it was made with a certificate, not with a key"));
    }
    key.verify(&envelope.pae(), envelope.signature.sig.as_bytes())
        .map_err(|error| Rejection::new(Cause::Signature, error.to_string()))?;
    let Some(statement) = statement(&bundle) else {
        return Err(Rejection::new(Cause::Malformed, format!("it holds something else than {IN_TOTO}")));
    };
    let names =
        super::provenance::subjects(&statement).map_err(|why| Rejection::new(Cause::Malformed, why))?;
    if !names.contains(&artifact) {
        return Err(Rejection::new(Cause::Digest, "the image is not among its subjects"));
    }
    Ok(Signed { by: format!("{} key {}", key.kind().as_str(), fingerprint(key)), statement: Some(statement) })
}

/// What was signed.
#[derive(Debug, Clone, Copy)]
pub enum Artifact<'a> {
    /// Its bytes.
    Bytes(&'a [u8]),
    /// Its SHA-256.
    Sha256([u8; 32]),
    /// Its SHA-512.
    Sha512([u8; 64]),
}

impl<'a> Artifact<'a> {
    fn into_library(self) -> Result<LibraryArtifact<'a>, Rejection> {
        let digest = |algorithm, value: &[u8]| {
            ArtifactDigest::new(algorithm, value.to_vec())
                .map(LibraryArtifact::Digest)
                .map_err(|error| Rejection::new(Cause::Malformed, printable(&error)))
        };
        match self {
            Self::Bytes(bytes) => Ok(LibraryArtifact::Blob(bytes)),
            Self::Sha256(value) => digest(HashAlgorithm::Sha2256, &value),
            Self::Sha512(value) => digest(HashAlgorithm::Sha2512, &value),
        }
    }
}

/// Who must have signed.
#[derive(Debug, Clone, Copy)]
pub enum Signer<'a> {
    /// Whoever holds the private half.
    Key(&'a PublicKey),
    /// Whoever `issuer` (an OpenID Connect issuer) knew under a name.
    Identity {
        /// Which names, as in the certificate's subject alternative name.
        subject: Names<'a>,
        /// URL of the issuer.
        issuer: &'a str,
    },
}

/// Which names of signers are admitted.
#[derive(Debug, Clone, Copy)]
pub enum Names<'a> {
    /// This one, of whatever kind.
    Exactly(&'a str),
    /// This mail address.
    Mail(&'a str),
    /// URIs that begin so.
    Beginning(&'a str),
}

impl Names<'_> {
    fn admit(self, name: &SubjectAltName) -> bool {
        match self {
            Self::Exactly(wanted) => name.as_str() == wanted,
            Self::Mail(wanted) => matches!(name, SubjectAltName::Email(found) if found == wanted),
            Self::Beginning(prefix) => {
                matches!(name, SubjectAltName::Uri(found) if found.starts_with(prefix))
            }
        }
    }
}

impl<'a> From<&'a Subject> for Names<'a> {
    fn from(subject: &'a Subject) -> Self {
        match subject {
            Subject::Exact(name) => Self::Exactly(name),
            Subject::Prefix(prefix) => Self::Beginning(prefix),
        }
    }
}

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(name) | Self::Mail(name) => write!(f, "{name:?}"),
            Self::Beginning(prefix) => write!(f, "a name that begins with {prefix:?}"),
        }
    }
}

/// A verified bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Who signed, for people.
    pub by: String,
    /// The in-toto statement, if the bundle holds one and not a plain signature.
    pub statement: Option<Vec<u8>>,
}

fn read(bundle: &[u8]) -> Result<Bundle, Rejection> {
    let malformed = |why: String| Rejection::new(Cause::Malformed, why);
    let text = unique("bundle", bundle).map_err(malformed)?;
    let bundle =
        Bundle::from_json(text).map_err(|error| malformed(format!("not a bundle: {}", printable(&error))))?;
    if let SignatureContent::DsseEnvelope(envelope) = &bundle.content {
        unique("statement", envelope.payload.as_bytes()).map_err(malformed)?;
    }
    Ok(bundle)
}

fn statement(bundle: &Bundle) -> Option<Vec<u8>> {
    match &bundle.content {
        SignatureContent::DsseEnvelope(envelope) if envelope.payload_type == IN_TOTO => {
            Some(envelope.payload.as_bytes().to_vec())
        }
        _ => None,
    }
}

/// `text` as JSON in which no member name appears twice.
fn unique<'a>(what: &'static str, text: &'a [u8]) -> Result<&'a str, String> {
    if text.len() > MAX_LEN {
        return Err(format!("the {what} has more than {MAX_LEN} bytes"));
    }
    cc_crypto::unique_json::parse(what, text).map_err(|error| error.to_string())?;
    std::str::from_utf8(text).map_err(|_| format!("the {what} is not UTF-8"))
}

/// The certificates in a PEM text, in DER.
pub(crate) fn certificates(text: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let text = std::str::from_utf8(text).map_err(|_| "the certificates are no PEM text".to_owned())?;
    let mut rest = text.trim();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let block = rest.strip_prefix(BEGIN).and_then(|rest| rest.split_once(END));
        let (body, after) =
            block.ok_or_else(|| "the text is not one certificate (PEM) after the other".to_owned())?;
        let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let der = BASE64_STANDARD.decode(body).map_err(|_| "a certificate (PEM) is not base64".to_owned())?;
        found.push(der);
        if found.len() > MAX_CERTIFICATES {
            return Err(format!("there are more than {MAX_CERTIFICATES} certificates"));
        }
        rest = after.trim_start();
    }
    if found.is_empty() { Err("there is no certificate".to_owned()) } else { Ok(found) }
}

/// SHA-256 of the key's DER form, as tools around Sigstore show it.
pub(crate) fn fingerprint(key: &PublicKey) -> String {
    crate::Digest::of(crate::Algorithm::Sha256, key.spki()).to_string()
}

fn refusal(error: &Library) -> Rejection {
    let cause = match error {
        Library::IdentityMismatch { .. } | Library::IssuerMismatch { .. } => Cause::Signer,
        Library::SignatureInvalid(_) | Library::Crypto(_) => Cause::Signature,
        Library::ArtifactMismatch(_) | Library::UnsupportedArtifact(_) => Cause::Digest,
        Library::Certificate(CertificateError::Sct(_)) => Cause::Log,
        Library::Certificate(_) => Cause::Certificate,
        Library::TransparencyLog(TransparencyLogError::MalformedEntry(_)) => Cause::Malformed,
        Library::TransparencyLog(_) | Library::Timestamp(TimestampError::NoVerifiedTimestamp(_)) => {
            Cause::Log
        }
        Library::Timestamp(_) => Cause::Log,
        Library::InvalidTrustRoot(_) | Library::TrustRoot(_) | Library::TrustedCertificate(_) => {
            Cause::Policy
        }
        _ => Cause::Malformed,
    };
    Rejection::new(cause, printable(error))
}

/// The library's sentence without control characters, cut.
fn printable(error: &(impl fmt::Display + ?Sized)) -> String {
    error.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}
