//! AMD's form (publication 57230): RSA-PSS signatures and the extensions of a chip's certificate.
//!
//! RSASSA-PSS parameters are RFC 4055.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PSS_SHA384, RsaKeyPair};
use der::asn1::{Any, Ia5StringRef, Null, ObjectIdentifier};
use der::{Encode, Sequence};
use x509_cert::ext::{Extension, Extensions};
use x509_cert::spki::AlgorithmIdentifierOwned;

use super::{Signer, encoding, extension};
use crate::Error;

const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
/// The arc of AMD's extensions.
const ARC: &str = "1.3.6.1.4.1.3704.1";
/// Bytes of salt in signatures: the length of the hash.
const SALT_LEN: u8 = 48;

impl Signer for RsaKeyPair {
    fn algorithm(&self) -> der::Result<AlgorithmIdentifierOwned> {
        let hash = AlgorithmIdentifierOwned { oid: SHA384, parameters: Some(Any::encode_from(&Null)?) };
        let mask = AlgorithmIdentifierOwned { oid: MGF1, parameters: Some(Any::encode_from(&hash)?) };
        let parameters = PssParameters { hash, mask, salt_length: SALT_LEN };
        Ok(AlgorithmIdentifierOwned { oid: RSASSA_PSS, parameters: Some(Any::encode_from(&parameters)?) })
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let mut signature = vec![0; self.public_modulus_len()];
        self.sign(&RSA_PSS_SHA384, &SystemRandom::new(), message, &mut signature)
            .map_err(|_| Error::Crypto { step: "signing a certificate" })?;
        Ok(signature)
    }
}

/// What a chip's certificate says about the chip.
pub(crate) struct Leaf<'a> {
    /// AMD's product name.
    pub(crate) product: &'a str,
    /// Number under AMD's arc `.3` and value of each security version.
    pub(crate) versions: &'a [(u8, u8)],
    /// The chip.
    pub(crate) hardware_id: &'a [u8],
    /// Version of this set of extensions.
    pub(crate) structure: u8,
}

impl Leaf<'_> {
    /// AMD's extensions for this chip.
    pub(crate) fn extensions(&self) -> Result<Extensions, Error> {
        let build = || -> der::Result<Extensions> {
            let mut all = vec![
                own("1", self.structure.to_der()?)?,
                own("2", Ia5StringRef::new(self.product)?.to_der()?)?,
            ];
            for (number, value) in self.versions {
                all.push(own(&format!("3.{number}"), value.to_der()?)?);
            }
            // The chip's identity stands there as it is, without a DER type around it.
            all.push(own("4", self.hardware_id.to_vec())?);
            Ok(all)
        };
        build().map_err(encoding("the extensions of a VCEK"))
    }
}

/// RSASSA-PSS-params, RFC 4055 section 3.1; the trailer has its default value and is left out.
#[derive(Sequence)]
struct PssParameters {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    hash: AlgorithmIdentifierOwned,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT")]
    mask: AlgorithmIdentifierOwned,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT")]
    salt_length: u8,
}

fn own(suffix: &str, value: Vec<u8>) -> der::Result<Extension> {
    extension(ObjectIdentifier::new(&format!("{ARC}.{suffix}"))?, false, value)
}
