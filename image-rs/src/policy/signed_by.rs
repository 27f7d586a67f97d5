//! The requirement `signedBy`: OpenPGP simple signing (containers-policy.json(5), containers-signature(5)).
//!
//! One signature is enough that a key of the policy made, that is over the very manifest, and that was made for a name
//! that the policy admits. The manifest is meant, never the index that it was chosen from.

use super::{
    Cause, Context, Rejection, Subject,
    openpgp::{Fault, Ring},
    payload::{Kind, Payload},
    requirement::SignedBy,
    signatures,
};

impl SignedBy {
    pub(super) fn check(&self, context: &mut Context<'_>) -> Result<String, Vec<Rejection>> {
        let mut rings = Vec::new();
        for key in &self.keys {
            let bytes = context.material(key, "key").map_err(|rejection| vec![rejection])?;
            let ring = Ring::parse(&bytes)
                .map_err(|why| vec![Rejection::new(Cause::Policy, why).about(format!("key {key:?}"))])?;
            rings.push(ring);
        }
        let image = context.image;
        let folder =
            image.reference.and_then(|reference| context.lookaside.folder(reference, &image.manifest));
        let mut rejections = Vec::new();
        let at = context.at;
        let accept = |message: &[u8]| self.accept(image, at, &rings, message);
        let signer = folder
            .as_deref()
            .and_then(|folder| signatures::lookaside(context.signatures, folder, &mut rejections, accept));
        let signer = signer.or_else(|| {
            signatures::kept_by_registry(context.signatures, &image.manifest, &mut rejections, accept)
        });
        if let Some(signer) = signer {
            return Ok(format!("OpenPGP key {signer}"));
        }
        if rejections.is_empty() {
            let why = match folder {
                Some(folder) => format!("there is no signature in {folder}"),
                None => "no lookaside configuration says where signatures of this image are".to_owned(),
            };
            rejections.push(Rejection::new(Cause::NoSignature, why));
        }
        Err(rejections)
    }

    fn accept(
        &self,
        image: &Subject<'_>,
        at: u64,
        rings: &[Ring],
        message: &[u8],
    ) -> Result<String, Rejection> {
        let mut why = Rejection::new(Cause::Signature, "no key of the policy made it");
        for ring in rings {
            match ring.verify(message, at) {
                Ok(signed) => {
                    let payload = Payload::parse(Kind::Atomic, &signed.payload)
                        .map_err(|why| Rejection::new(Cause::Malformed, format!("its payload: {why}")))?;
                    image.fits(&payload, &[image.manifest], Some(&self.identity))?;
                    return Ok(signed.signer);
                }
                Err(Fault::Malformed(reason)) => return Err(Rejection::new(Cause::Malformed, reason)),
                Err(Fault::Untrusted(reason)) => why.why = reason,
            }
        }
        Err(why)
    }
}
