//! What a policy decided, and which rule of it did.
//!
//! [`Admitted`] is the key to everything that follows a decision: only [`super::Policy::decide`] makes one, and it names
//! the one manifest that it is good for. [`Refused`] names scope, requirement and, for every signature that was looked
//! at, what was missing.

use std::fmt;

use cc_evidence::blame::Blame;
use serde_json::{Value, json};

use crate::{Digest, Error, Image, Mismatch, Reference};

/// Which list of requirements applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// There is no policy.
    NoPolicy,
    /// None: the image is not the one that its own name says.
    Name,
    /// A scope of the transport `docker`; empty for the scope that fits every registry.
    Docker(String),
    /// The default of the policy.
    Default,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPolicy => f.write_str("no policy"),
            Self::Name => f.write_str("its own name"),
            Self::Docker(scope) => write!(f, "docker {scope:?}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Why a signature, or the lack of one, does not satisfy a requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The policy says `reject`, or there is none and one is needed.
    Rejected,
    /// There is no signature of the kind asked for.
    NoSignature,
    /// A signature or its wrapping breaks its format.
    Malformed,
    /// No trusted key made it, or it was altered.
    Signature,
    /// A certificate is not of the trusted authority or was not valid when the signature was made.
    Certificate,
    /// A trusted authority vouches for somebody else than the policy names.
    Signer,
    /// The transparency log or the time of the signature is not proved.
    Log,
    /// It is a signature of another image.
    Digest,
    /// It was made for another name than the policy admits.
    Name,
    /// The attested build is not the one that the policy asks for.
    Provenance,
    /// The policy's own key, certificate or trusted root cannot be used.
    Policy,
    /// Whoever has a key, certificate or trusted root of the policy does not give it to this machine.
    Withheld,
    /// A signature or key could not be fetched; it may exist.
    Unavailable,
}

impl Cause {
    /// Its name for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::NoSignature => "no-signature",
            Self::Malformed => "malformed",
            Self::Signature => "signature",
            Self::Certificate => "certificate",
            Self::Signer => "signer",
            Self::Log => "log",
            Self::Digest => "digest",
            Self::Name => "name",
            Self::Provenance => "provenance",
            Self::Policy => "policy",
            Self::Withheld => "withheld",
            Self::Unavailable => "unavailable",
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Rejected => "add a scope for the image to the policy if it is meant to run",
            Self::NoSignature => "sign the image, and push the signature to where the image is",
            Self::Malformed => "sign the image anew with a current tool",
            Self::Signature => "compare the key in the policy with the one that signs",
            Self::Certificate => {
                "compare the authority in the policy with the one that issued the certificate"
            }
            Self::Signer => "compare issuer and subject in the policy with those of the signer",
            Self::Log => "sign again with the transparency log in use, and check this machine's clock",
            Self::Digest => "sign the very manifest or index that is pulled",
            Self::Name => "sign the image under its final name, or set signedIdentity",
            Self::Provenance => "compare the policy's provenance with what the builder attests",
            Self::Policy => "correct the key or certificate that the policy names",
            Self::Withheld => {
                "let the key broker's policy give this machine the key that the policy for images names"
            }
            Self::Unavailable => "check that registry and key source can be reached, and try again",
        }
    }
}

/// One signature that was looked at, or sought, and why it does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Which one, for people: "signature 2 of sha256-….sig". Empty where there is only one.
    pub what: String,
    /// The kind of reason.
    pub cause: Cause,
    /// The reason as a sentence.
    pub why: String,
}

impl Rejection {
    pub(crate) fn new(cause: Cause, why: impl Into<String>) -> Self {
        Self { what: String::new(), cause, why: why.into() }
    }

    pub(crate) fn about(mut self, what: impl Into<String>) -> Self {
        self.what = what.into();
        self
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.what.is_empty() {
            write!(f, "{}: ", self.what)?;
        }
        f.write_str(&self.why)
    }
}

/// What satisfied one requirement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Type of the requirement.
    pub requirement: &'static str,
    /// Who signed what, for people; empty for `insecureAcceptAnything`.
    pub by: String,
}

/// An image that may run. Nothing but a policy makes this value, and it is good for one manifest only.
#[derive(Debug, Clone)]
#[must_use]
pub struct Admitted {
    reference: Option<Reference>,
    manifest: Digest,
    scope: Scope,
    proofs: Vec<Proof>,
}

impl Admitted {
    pub(super) fn new(
        reference: Option<Reference>,
        manifest: Digest,
        scope: Scope,
        proofs: Vec<Proof>,
    ) -> Self {
        Self { reference, manifest, scope, proofs }
    }

    /// The name that was judged, if there was one.
    #[must_use]
    pub const fn reference(&self) -> Option<&Reference> {
        self.reference.as_ref()
    }

    /// Digest of the manifest that may run: the one to compare with what is unpacked and mounted.
    #[must_use]
    pub const fn manifest(&self) -> Digest {
        self.manifest
    }

    /// Refuses any other image than the one that was judged.
    ///
    /// # Errors
    /// `IMAGE_DIGEST_MISMATCH`.
    pub fn covers(&self, image: &Image) -> Result<(), Error> {
        self.covers_manifest(image.manifest_digest())
    }

    /// The same for whatever has the manifest `actual`.
    pub(crate) fn covers_manifest(&self, actual: Digest) -> Result<(), Error> {
        let expected = self.manifest;
        if expected == actual {
            Ok(())
        } else {
            let what = "manifest that the policy admitted".to_owned();
            Err(Error::DigestMismatch { what, digests: Box::new(Mismatch { expected, actual }) })
        }
    }

    /// Which list of requirements was satisfied.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// What satisfied each requirement, in their order; empty without a policy.
    #[must_use]
    pub fn proofs(&self) -> &[Proof] {
        &self.proofs
    }
}

/// An image that must not run, and why.
#[derive(Debug, Clone)]
pub struct Refused {
    reference: Option<Reference>,
    manifest: Digest,
    scope: Scope,
    /// Position in the list, and type.
    requirement: Option<(usize, &'static str)>,
    because: Vec<Rejection>,
}

impl Refused {
    pub(super) fn new(
        reference: Option<Reference>,
        manifest: Digest,
        scope: Scope,
        requirement: Option<(usize, &'static str)>,
        because: Vec<Rejection>,
    ) -> Self {
        Self { reference, manifest, scope, requirement, because }
    }

    /// The name that was judged, if there was one.
    #[must_use]
    pub const fn reference(&self) -> Option<&Reference> {
        self.reference.as_ref()
    }

    /// Digest of the manifest that was judged.
    #[must_use]
    pub const fn manifest(&self) -> Digest {
        self.manifest
    }

    /// Which list of requirements was not satisfied.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Position, from 0, and type of the requirement that was not satisfied; `None` without a policy.
    #[must_use]
    pub const fn requirement(&self) -> Option<(usize, &'static str)> {
        self.requirement
    }

    /// What was missing, for each signature that was looked at; at least one.
    #[must_use]
    pub fn because(&self) -> &[Rejection] {
        &self.because
    }

    /// The reason to act on first: one that trying again may remove, else the one that came closest to passing.
    fn leading(&self) -> Cause {
        let rank = |cause: Cause| match cause {
            Cause::Unavailable => 0,
            Cause::Withheld => 1,
            Cause::Policy => 2,
            Cause::Provenance => 3,
            Cause::Name => 4,
            Cause::Digest => 5,
            Cause::Signer => 6,
            Cause::Log => 7,
            Cause::Certificate => 8,
            Cause::Signature => 9,
            Cause::Malformed => 10,
            Cause::NoSignature => 11,
            Cause::Rejected => 12,
        };
        self.because
            .iter()
            .map(|rejection| rejection.cause)
            .min_by_key(|cause| rank(*cause))
            .unwrap_or(Cause::Rejected)
    }

    /// Stable code, in capitals.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self.leading() {
            Cause::Unavailable => "IMAGE_SIGNATURE_UNAVAILABLE",
            Cause::Withheld => "IMAGE_POLICY_KEY_WITHHELD",
            Cause::Policy => "IMAGE_POLICY_KEY_UNUSABLE",
            Cause::NoSignature => "IMAGE_UNSIGNED",
            Cause::Rejected => "IMAGE_REJECTED",
            _ => "IMAGE_SIGNATURE_REFUSED",
        }
    }

    /// Who has to act.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self.leading() {
            Cause::Unavailable => Blame::Unavailable,
            Cause::Policy => Blame::Misused,
            _ => Blame::Denied,
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        self.leading().hint()
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let image = name(self.reference.as_ref());
        write!(f, "{image} with manifest {} is refused by ", self.manifest)?;
        match self.requirement {
            Some((position, kind)) => write!(f, "{}, requirement {position} ({kind})", self.scope)?,
            None => self.scope.fmt(f)?,
        }
        for (i, rejection) in self.because.iter().enumerate() {
            write!(f, "{} {rejection}", if i == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

/// The image in a sentence.
pub(super) fn name(reference: Option<&Reference>) -> String {
    reference.map_or_else(|| "the image without a name".to_owned(), |reference| format!("image {reference}"))
}

/// Whether an image may run.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It may.
    Admitted(Box<Admitted>),
    /// It must not.
    Refused(Box<Refused>),
}

impl Verdict {
    /// The admitted image, or an error that says why it is none.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn admitted(self) -> Result<Admitted, Error> {
        match self {
            Self::Admitted(admitted) => Ok(*admitted),
            Self::Refused(refused) => Err(Error::Refused(refused)),
        }
    }

    /// The verdict as JSON: `admitted`, `image`, `manifest`, `scope`, then `proofs`, or `requirement` and `because`.
    #[must_use]
    pub fn explain(&self) -> Value {
        match self {
            Self::Admitted(admitted) => {
                let proof = |proof: &Proof| json!({"requirement": proof.requirement, "by": proof.by});
                json!({
                    "admitted": true,
                    "image": admitted.reference.as_ref().map(Reference::to_string),
                    "manifest": admitted.manifest.to_string(),
                    "scope": admitted.scope.to_string(),
                    "proofs": admitted.proofs.iter().map(proof).collect::<Vec<_>>(),
                })
            }
            Self::Refused(refused) => {
                let because =
                    |r: &Rejection| json!({"what": r.what, "cause": r.cause.as_str(), "why": r.why});
                let requirement =
                    refused.requirement.map(|(position, kind)| json!({"position": position, "type": kind}));
                json!({
                    "admitted": false,
                    "image": refused.reference.as_ref().map(Reference::to_string),
                    "manifest": refused.manifest.to_string(),
                    "scope": refused.scope.to_string(),
                    "requirement": requirement,
                    "because": refused.because.iter().map(because).collect::<Vec<_>>(),
                    "code": refused.code(),
                    "hint": refused.hint(),
                })
            }
        }
    }
}
