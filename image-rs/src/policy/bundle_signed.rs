//! The requirement `guest-services/bundleSigned`, ours: a Sigstore bundle that refers to the image (what `cosign` 3 and the
//! attestations of build services write), made with a key or by somebody whom an authority of the trusted root vouches
//! for; with `provenance`, an attestation that says what the policy asks for.
//!
//! A bundle names images by digest alone, so there is no name to compare: whoever may sign for one repository may sign for
//! every one that has the same requirement.

use cc_crypto::verify::PublicKey;

use super::{
    Cause, Context, Rejection, provenance,
    requirement::{BundleSigned, BundleSigner},
    signatures,
    sigstore::{self, Artifact, Signed, Signer, TrustRoot},
};
use crate::{Algorithm, Digest};

impl BundleSigned {
    pub(super) fn check(&self, context: &mut Context<'_>) -> Result<String, Vec<Rejection>> {
        let keys = match &self.signer {
            BundleSigner::Keys(keys) => context.public_keys(keys, "key"),
            BundleSigner::Identity { .. } => Ok(Vec::new()),
        };
        let keys = keys.map_err(|rejection| vec![rejection])?;
        let root = self.root(context).map_err(|rejection| vec![rejection])?;
        let mut rejections = Vec::new();
        for digest in context.image.digests() {
            let accept = |bundle: &[u8]| self.accept(&keys, root.as_ref(), bundle, &digest);
            if let Some(by) = signatures::referring(context.signatures, &digest, &mut rejections, accept) {
                return Ok(by);
            }
        }
        if rejections.is_empty() {
            rejections.push(Rejection::new(Cause::NoSignature, "no Sigstore bundle refers to the image"));
        }
        Err(rejections)
    }

    /// The trusted root, where one is needed.
    fn root(&self, context: &mut Context<'_>) -> Result<Option<TrustRoot>, Rejection> {
        match &self.root {
            _ if !self.log_required => Ok(None),
            None => TrustRoot::public_good().map(Some),
            Some(root) => {
                let text = context.material(root, "trusted root")?;
                TrustRoot::from_json(&text).map(Some)
            }
        }
    }

    fn accept(
        &self,
        keys: &[PublicKey],
        root: Option<&TrustRoot>,
        bundle: &[u8],
        image: &Digest,
    ) -> Result<String, Rejection> {
        let signed = match &self.signer {
            BundleSigner::Keys(_) => by_any(keys, |key| verify(root, bundle, image, Signer::Key(key)))?,
            BundleSigner::Identity { issuer, subject } => {
                verify(root, bundle, image, Signer::Identity { subject: subject.into(), issuer })?
            }
        };
        self.check_statement(&signed)?;
        Ok(signed.by)
    }

    fn check_statement(&self, signed: &Signed) -> Result<(), Rejection> {
        let refused = |why: String| Rejection::new(Cause::Provenance, why);
        match (&self.provenance, &signed.statement) {
            (Some(wanted), Some(statement)) => wanted.check(statement).map_err(refused),
            (Some(_), None) => Err(refused("it is a signature and no attestation".to_owned())),
            (None, None) => Ok(()),
            // Any other attestation says something about the image, not that it may run.
            (None, Some(statement)) => match provenance::predicate_type(statement) {
                Ok(kind) if kind == provenance::COSIGN_SIGN => Ok(()),
                Ok(kind) => Err(refused(format!("it is an attestation of type {kind:?} and no signature"))),
                Err(why) => Err(refused(why)),
            },
        }
    }
}

fn by_any(
    keys: &[PublicKey],
    verify: impl Fn(&PublicKey) -> Result<Signed, Rejection>,
) -> Result<Signed, Rejection> {
    let mut why = Rejection::new(Cause::Signature, "no key of the policy made it");
    for key in keys {
        match verify(key) {
            Ok(signed) => return Ok(signed),
            // What another key than the first says about the log is more telling than that it is another key.
            Err(rejection) if why.cause == Cause::Signature => why = rejection,
            Err(_) => {}
        }
    }
    Err(why)
}

/// Verifies `bundle` over the manifest `image` under `root`; without a root by the key alone.
fn verify(
    root: Option<&TrustRoot>,
    bundle: &[u8],
    image: &Digest,
    signer: Signer<'_>,
) -> Result<Signed, Rejection> {
    let value = hex::decode(image.hex()).unwrap_or_default();
    let unusable = || Rejection::new(Cause::Digest, format!("bundles cannot speak of {image}"));
    match (root, signer) {
        (Some(root), signer) => {
            let artifact = match image.algorithm() {
                Algorithm::Sha256 => Artifact::Sha256(value.try_into().map_err(|_| unusable())?),
                Algorithm::Sha512 => Artifact::Sha512(value.try_into().map_err(|_| unusable())?),
                Algorithm::Sha384 => return Err(unusable()),
            };
            root.verify(bundle, artifact, signer)
        }
        (None, Signer::Key(key)) => {
            sigstore::key_alone(bundle, value.try_into().map_err(|_| unusable())?, key)
        }
        (None, Signer::Identity { .. }) => {
            Err(Rejection::new(Cause::Policy, "an identity needs a trusted root"))
        }
    }
}
