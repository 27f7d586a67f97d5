//! What a policy can require of an image, as values. What they mean is in `signed_by.rs`, `sigstore_signed.rs` and
//! `bundle_signed.rs`; how they are written is in `document.rs`.

use std::fmt;

use super::{document::BUNDLE_SIGNED, identity::Identity};

/// Predicate type of SLSA provenance, version 1 (<https://slsa.dev/spec/v1.0/provenance>).
pub(crate) const SLSA_PROVENANCE: &str = "https://slsa.dev/provenance/v1";

/// One entry of a list of requirements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Requirement {
    InsecureAcceptAnything,
    Reject,
    SignedBy(SignedBy),
    SigstoreSigned(SigstoreSigned),
    BundleSigned(BundleSigned),
}

impl Requirement {
    /// Its `type` in the policy.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::InsecureAcceptAnything => "insecureAcceptAnything",
            Self::Reject => "reject",
            Self::SignedBy(_) => "signedBy",
            Self::SigstoreSigned(_) => "sigstoreSigned",
            Self::BundleSigned(_) => BUNDLE_SIGNED,
        }
    }
}

/// A key, a certificate or a trusted root: in the policy, or somewhere else.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Material {
    /// Its bytes.
    Here(Vec<u8>),
    /// A path or a resource URI.
    At(String),
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::At(location) => write!(f, "{location:?}"),
        }
    }
}

/// OpenPGP simple signing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SignedBy {
    pub(crate) keys: Vec<Material>,
    pub(crate) identity: Identity,
}

/// Sigstore signatures of the kind that `cosign` attached to a tag, and that `skopeo` and `podman` write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SigstoreSigned {
    pub(crate) signer: SigstoreSigner,
    /// Public keys of the transparency log; empty: it is not asked for.
    pub(crate) rekor: Vec<Material>,
    /// `None` where the policy does not say.
    pub(crate) identity: Option<Identity>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SigstoreSigner {
    /// Any of these public keys.
    Keys(Vec<Material>),
    Fulcio(Fulcio),
}

/// Whoever a certificate authority gave a short-lived certificate to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fulcio {
    pub(crate) ca: Material,
    pub(crate) issuer: String,
    pub(crate) email: String,
}

/// A Sigstore bundle that refers to the image; our own type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BundleSigned {
    pub(crate) signer: BundleSigner,
    /// `None`: the trust root of the public good instance.
    pub(crate) root: Option<Material>,
    pub(crate) log_required: bool,
    pub(crate) provenance: Option<Provenance>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BundleSigner {
    Keys(Vec<Material>),
    Identity { issuer: String, subject: Subject },
}

/// Which subject alternative names are admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    Exact(String),
    /// Ends with `/` or `@`.
    Prefix(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}…"),
        }
    }
}

/// What an attestation must say about the build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Provenance {
    pub(crate) predicate_type: String,
    pub(crate) builder_id: Option<String>,
    pub(crate) source_uri: Option<String>,
    pub(crate) source_ref: Option<String>,
    pub(crate) workflow: Option<String>,
}
