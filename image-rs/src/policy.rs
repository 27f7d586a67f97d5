//! Which images may run: policies of containers-policy.json(5), judged over one manifest at a time.
//!
//! [`Policy::parse`] reads the text once and for all; [`Policy::decide`] takes a name and the digest of a manifest, fetches
//! signatures and keys through [`Signatures`], and gives a [`Verdict`] that names the rule which decided. Only a verdict
//! makes an [`Admitted`], and it is good for that manifest alone: one digest goes from here to the mount. There is no cache
//! of verdicts; every pull is judged.
//!
//! Pure but for the calls through the trait. It is NOT a fetcher of anything and knows no registry, no key broker and no
//! file. All images are judged under the transport `docker`, by the name they are pulled under after mirrors and rewriting.

mod beside;
mod bundle_signed;
mod document;
mod identity;
mod lookaside;
mod openpgp;
pub mod payload;
pub mod provenance;
mod requirement;
mod signatures;
mod signed_by;
pub mod sigstore;
mod sigstore_signed;
mod verdict;

use std::time::{SystemTime, UNIX_EPOCH};

use cc_crypto::verify::PublicKey;
use cc_evidence::blame::Blame;

pub use self::{
    beside::{Beside, Fetch},
    lookaside::Lookaside,
    signatures::Signatures,
    verdict::{Admitted, Cause, Proof, Refused, Rejection, Scope, Verdict},
};
use self::{
    document::Document,
    identity::Identity,
    payload::Payload,
    requirement::{Material, Requirement},
};
use crate::{Digest, Error, Reference};

/// The rules for images, with all that belongs to them.
#[derive(Debug, Clone)]
pub struct Policy {
    rules: Rules,
    lookaside: Lookaside,
    absent_identity: AbsentIdentity,
}

#[derive(Debug, Clone)]
enum Rules {
    AdmitAll,
    RefuseAll,
    Document(Document),
}

/// What `sigstoreSigned` without `signedIdentity` asks of the name in a signature.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AbsentIdentity {
    /// The repository is that of the image, and where the signature names a tag and the image is pulled by one, so is that.
    #[default]
    SameRepository,
    /// Nothing: a signature made for another repository counts. For images that were signed before they were copied, under
    /// policies written for readers that did not look.
    AnyName,
}

/// The image to be judged.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The name it is pulled under; `None` for an image that has none, such as one of an image layout. Then the scopes of
    /// registries do not apply, and no signature counts that has to be for the image's own name.
    pub reference: Option<&'a Reference>,
    /// Digest of its manifest, computed over the bytes of the manifest.
    pub manifest: Digest,
    /// Digest of the index that names this manifest by its digest, computed over the bytes of the index, if there is one.
    pub index: Option<Digest>,
}

impl Subject<'_> {
    fn digests(&self) -> Vec<Digest> {
        std::iter::once(self.manifest).chain(self.index).collect()
    }

    /// Whether a payload speaks of one of `digests` and was made for a name that `identity` admits.
    fn fits(
        &self,
        payload: &Payload,
        digests: &[Digest],
        identity: Option<&Identity>,
    ) -> Result<(), Rejection> {
        if !digests.contains(&payload.digest) {
            return Err(Rejection::new(Cause::Digest, format!("it is a signature of {}", payload.digest)));
        }
        match identity {
            Some(identity) if !identity.admits(self.reference, &payload.reference) => {
                let signed: String = payload.reference.chars().take(200).collect();
                let image = verdict::name(self.reference);
                let why = format!("it was made for {signed:?}, which {identity} does not admit for {image}");
                Err(Rejection::new(Cause::Name, why))
            }
            _ => Ok(()),
        }
    }
}

impl Policy {
    /// Reads `policy.json`.
    ///
    /// # Errors
    /// `IMAGE_POLICY_INVALID` with the place of the first mistake; the whole policy is then invalid.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        Document::parse(text).map(|document| Self::of(Rules::Document(document)))
    }

    /// Where no policy is configured: every image is admitted. Whoever uses it should say so in the log.
    #[must_use]
    pub fn admit_all() -> Self {
        Self::of(Rules::AdmitAll)
    }

    /// Where no policy is configured but one is required: every image is refused.
    #[must_use]
    pub fn refuse_all() -> Self {
        Self::of(Rules::RefuseAll)
    }

    fn of(rules: Rules) -> Self {
        Self { rules, lookaside: Lookaside::default(), absent_identity: AbsentIdentity::default() }
    }

    /// The same policy with places of OpenPGP signatures; without, `signedBy` finds none.
    #[must_use]
    pub fn with_lookaside(mut self, lookaside: Lookaside) -> Self {
        self.lookaside = lookaside;
        self
    }

    /// The same policy with another meaning of a missing `signedIdentity`.
    #[must_use]
    pub fn with_absent_identity(mut self, absent_identity: AbsentIdentity) -> Self {
        self.absent_identity = absent_identity;
        self
    }

    /// Judges `image` at the moment `at`. Calls of `signatures` block.
    pub fn decide(&self, image: &Subject<'_>, at: SystemTime, signatures: &mut dyn Signatures) -> Verdict {
        if let Some(named) =
            image.reference.and_then(Reference::digest).filter(|named| !image.digests().contains(named))
        {
            let because =
                Rejection::new(Cause::Digest, format!("it is pulled as {named}, which is another image"));
            return refuse(image, Scope::Name, None, vec![because]);
        }
        let (scope, requirements) = match &self.rules {
            Rules::AdmitAll => return admit(image, Scope::NoPolicy, Vec::new()),
            Rules::RefuseAll => {
                let because =
                    vec![Rejection::new(Cause::Rejected, "a policy is required and none is configured")];
                return refuse(image, Scope::NoPolicy, None, because);
            }
            Rules::Document(document) => document.requirements(image.reference),
        };
        let mut context = Context {
            image,
            // Before 1970 nothing was signed, so nothing is valid.
            at: at.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default(),
            lookaside: &self.lookaside,
            absent_identity: self.absent_identity,
            signatures,
        };
        let mut proofs = Vec::new();
        for (position, requirement) in requirements.iter().enumerate() {
            match requirement.check(&mut context) {
                Ok(by) => proofs.push(Proof { requirement: requirement.kind(), by }),
                Err(because) => return refuse(image, scope, Some((position, requirement.kind())), because),
            }
        }
        if proofs.is_empty() {
            // A list is never empty; if one were, nothing would have been proved.
            return refuse(
                image,
                scope,
                None,
                vec![Rejection::new(Cause::Rejected, "the list of requirements is empty")],
            );
        }
        admit(image, scope, proofs)
    }
}

fn admit(image: &Subject<'_>, scope: Scope, proofs: Vec<Proof>) -> Verdict {
    Verdict::Admitted(Box::new(Admitted::new(image.reference.cloned(), image.manifest, scope, proofs)))
}

fn refuse(
    image: &Subject<'_>,
    scope: Scope,
    requirement: Option<(usize, &'static str)>,
    because: Vec<Rejection>,
) -> Verdict {
    Verdict::Refused(Box::new(Refused::new(
        image.reference.cloned(),
        image.manifest,
        scope,
        requirement,
        because,
    )))
}

impl Document {
    /// The list that applies to `image`, and where it stands.
    fn requirements(&self, image: Option<&Reference>) -> (Scope, &[Requirement]) {
        let any_registry = std::iter::once(String::new());
        for scope in image
            .into_iter()
            .flat_map(|image| identity::scopes(image).into_iter().chain(any_registry.clone()))
        {
            if let Some(requirements) = self.docker.get(&scope) {
                return (Scope::Docker(scope), requirements);
            }
        }
        (Scope::Default, &self.default)
    }
}

impl Requirement {
    /// Who proved it, or what was missing.
    fn check(&self, context: &mut Context<'_>) -> Result<String, Vec<Rejection>> {
        match self {
            Self::InsecureAcceptAnything => Ok(String::new()),
            Self::Reject => Err(vec![Rejection::new(Cause::Rejected, "the policy rejects it")]),
            Self::SignedBy(requirement) => requirement.check(context),
            Self::SigstoreSigned(requirement) => requirement.check(context),
            Self::BundleSigned(requirement) => requirement.check(context),
        }
    }
}

/// All that a requirement is checked against.
struct Context<'a> {
    image: &'a Subject<'a>,
    /// Seconds since 1970.
    at: u64,
    lookaside: &'a Lookaside,
    absent_identity: AbsentIdentity,
    signatures: &'a mut dyn Signatures,
}

impl Context<'_> {
    /// Bytes of a key, a certificate or a trusted root, called `what`.
    fn material(&mut self, material: &Material, what: &str) -> Result<Vec<u8>, Rejection> {
        match material {
            Material::Here(bytes) => Ok(bytes.clone()),
            Material::At(location) => self.signatures.key(location).map_err(|error| {
                let cause = match (&error, error.blame()) {
                    (Error::NotFound { .. }, _) => Cause::Policy,
                    (_, Blame::Denied) => Cause::Withheld,
                    _ => Cause::Unavailable,
                };
                Rejection::new(cause, error.to_string()).about(format!("{what} {location:?}"))
            }),
        }
    }

    fn public_keys(&mut self, all: &[Material], what: &str) -> Result<Vec<PublicKey>, Rejection> {
        let mut keys = Vec::new();
        for material in all {
            let text = self.material(material, what)?;
            let key = PublicKey::from_pem(&text).map_err(|error| {
                Rejection::new(Cause::Policy, error.to_string()).about(format!("{what} {material:?}"))
            })?;
            keys.push(key);
        }
        Ok(keys)
    }
}
