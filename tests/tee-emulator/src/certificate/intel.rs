//! Intel's form (SGX PCK certificate and CRL profile): ECDSA P-256 signatures and the extension of a PCK certificate.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::EcdsaKeyPair;
use der::asn1::{Any, ObjectIdentifier, OctetString};
use der::{Encode, EncodeValue, Sequence, Tagged};
use x509_cert::ext::Extensions;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};
use x509_cert::spki::AlgorithmIdentifierOwned;

use super::{BASIC_CONSTRAINTS, KEY_USAGE, Signer, encoding, extension};
use crate::Error;

const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
/// The extension of PCK certificates, and the arc of its members.
const SGX: &str = "1.2.840.113741.1.13.1";

/// A P-256 key whose signatures are DER (`ECDSA_P256_SHA256_ASN1_SIGNING`).
impl Signer for EcdsaKeyPair {
    fn algorithm(&self) -> der::Result<AlgorithmIdentifierOwned> {
        Ok(AlgorithmIdentifierOwned { oid: ECDSA_WITH_SHA256, parameters: None })
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self
            .sign(&SystemRandom::new(), message)
            .map_err(|_| Error::Crypto { step: "signing a certificate" })?;
        Ok(signature.as_ref().to_vec())
    }
}

/// The extensions of a certificate that signs no others.
pub(crate) fn signer_extensions() -> Result<Extensions, Error> {
    let build = || -> der::Result<Extensions> {
        let constraints = BasicConstraints { ca: false, path_len_constraint: None };
        let usage = KeyUsage(KeyUsages::DigitalSignature | KeyUsages::NonRepudiation);
        Ok(vec![
            extension(KEY_USAGE, true, usage.to_der()?)?,
            extension(BASIC_CONSTRAINTS, true, constraints.to_der()?)?,
        ])
    };
    build().map_err(encoding("the extensions of a signer"))
}

/// What a PCK certificate says about its platform.
pub(crate) struct Pck<'a> {
    /// Identity of the processor package for provisioning.
    pub(crate) ppid: &'a [u8; 16],
    /// Security versions of the sixteen components.
    pub(crate) components: &'a [u8; 16],
    /// Security version of the provisioning certification enclave.
    pub(crate) pce_svn: u8,
    /// Identity of that enclave.
    pub(crate) pce_id: &'a [u8; 2],
    /// Family, model, stepping, platform type, custom SKU.
    pub(crate) fmspc: &'a [u8; 6],
    /// Identity of this instance of the platform.
    pub(crate) instance: &'a [u8; 16],
}

impl Pck<'_> {
    /// The extensions of the PCK certificate of this platform.
    pub(crate) fn extensions(&self) -> Result<Extensions, Error> {
        let build = || -> der::Result<Extensions> {
            let mut tcb = Vec::new();
            for (number, svn) in (1..).zip(self.components) {
                tcb.push(member(&format!("2.{number}"), svn)?);
            }
            tcb.push(member("2.17", &self.pce_svn)?);
            // The raw form of the components as the processor names them.
            tcb.push(octets("2.18", self.components)?);
            let configuration = vec![member("7.1", &true)?, member("7.2", &false)?, member("7.3", &true)?];
            let all = vec![
                octets("1", self.ppid)?,
                member("2", &tcb)?,
                octets("3", self.pce_id)?,
                octets("4", self.fmspc)?,
                // SGX type 1, scalable: a platform of several packages.
                Member { id: id("5")?, value: Any::new(der::Tag::Enumerated, vec![1])? },
                octets("6", self.instance)?,
                member("7", &configuration)?,
            ];
            Ok(vec![extension(ObjectIdentifier::new(SGX)?, false, all.to_der()?)?])
        };
        let mut extensions = signer_extensions()?;
        extensions.extend(build().map_err(encoding("the extension of a PCK certificate"))?);
        Ok(extensions)
    }
}

/// One member of the extension.
#[derive(Sequence)]
struct Member {
    id: ObjectIdentifier,
    value: Any,
}

fn id(suffix: &str) -> der::Result<ObjectIdentifier> {
    Ok(ObjectIdentifier::new(&format!("{SGX}.{suffix}"))?)
}

fn member<T: Tagged + EncodeValue>(suffix: &str, value: &T) -> der::Result<Member> {
    Ok(Member { id: id(suffix)?, value: Any::encode_from(value)? })
}

fn octets(suffix: &str, value: &[u8]) -> der::Result<Member> {
    member(suffix, &OctetString::new(value)?)
}
