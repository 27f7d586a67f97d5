//! X.509 certificates in the form AMD gives its own (publication 57230): RSA-PSS signatures, AMD's extensions.
//!
//! Encodes RFC 5280 structures from the types of `x509-cert` and `der`; RSASSA-PSS parameters are RFC 4055.

use std::str::FromStr;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PSS_SHA384, RsaKeyPair};
use der::asn1::{
    Any, BitString, GeneralizedTime, Ia5StringRef, Null, ObjectIdentifier, OctetString, UtcTime,
};
use der::{Decode, Encode, Sequence};
use x509_cert::certificate::Version;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};
use x509_cert::ext::{Extension, Extensions};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};

use crate::Error;

const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
/// The arc of AMD's extensions.
const AMD: &str = "1.3.6.1.4.1.3704.1";
/// Bytes of salt in signatures: the length of the hash.
const SALT_LEN: u8 = 48;
/// 2050-01-01, from which RFC 5280 wants the longer form of time; seconds since 1970.
const YEAR_2050: u64 = 2_524_608_000;

/// A certificate before it is signed.
pub(crate) struct Draft<'a> {
    /// Common name of the authority that signs.
    pub(crate) issuer: &'a str,
    /// Common name of the holder.
    pub(crate) subject: &'a str,
    /// The holder's SubjectPublicKeyInfo, DER.
    pub(crate) public_key: &'a [u8],
    /// First and last second of validity, since 1970.
    pub(crate) validity: (u64, u64),
    /// Extensions, see [`authority_extensions`] and [`Leaf::extensions`].
    pub(crate) extensions: Extensions,
}

impl Draft<'_> {
    /// The certificate, DER, signed with RSA-PSS and SHA-384.
    pub(crate) fn sign(self, key: &RsaKeyPair) -> Result<Vec<u8>, Error> {
        let algorithm = pss_algorithm().map_err(encoding("a signature algorithm"))?;
        let body = self.body(algorithm.clone()).map_err(encoding("a certificate"))?;
        let message = body.to_der().map_err(encoding("a certificate"))?;
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PSS_SHA384, &SystemRandom::new(), &message, &mut signature)
            .map_err(|_| Error::Crypto { step: "signing a certificate" })?;
        BitString::from_bytes(&signature)
            .and_then(|signature| Signed { body, algorithm, signature }.to_der())
            .map_err(encoding("a certificate"))
    }

    fn body(self, signature: AlgorithmIdentifierOwned) -> der::Result<Body> {
        let mut serial = [0u8; 16];
        getrandom::fill(&mut serial).map_err(|_| der::ErrorKind::Failed)?;
        // Positive, and of full length.
        serial.iter_mut().take(1).for_each(|first| *first = (*first & 0x7F) | 0x40);
        Ok(Body {
            version: Version::V3,
            serial_number: SerialNumber::new(&serial)?,
            signature,
            issuer: name(self.issuer)?,
            validity: Validity::new(time(self.validity.0)?, time(self.validity.1)?),
            subject: name(self.subject)?,
            subject_public_key_info: SubjectPublicKeyInfoOwned::from_der(self.public_key)?,
            extensions: self.extensions,
        })
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
                amd_extension("1", self.structure.to_der()?)?,
                amd_extension("2", Ia5StringRef::new(self.product)?.to_der()?)?,
            ];
            for (number, value) in self.versions {
                all.push(amd_extension(&format!("3.{number}"), value.to_der()?)?);
            }
            // The chip's identity stands there as it is, without a DER type around it.
            all.push(amd_extension("4", self.hardware_id.to_vec())?);
            Ok(all)
        };
        build().map_err(encoding("the extensions of a VCEK"))
    }
}

/// The extensions of an authority with at most `below` authorities under it.
pub(crate) fn authority_extensions(below: u8) -> Result<Extensions, Error> {
    let build = || -> der::Result<Extensions> {
        let constraints = BasicConstraints { ca: true, path_len_constraint: Some(below) };
        let usage = KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign);
        Ok(vec![
            extension(BASIC_CONSTRAINTS, true, constraints.to_der()?)?,
            extension(KEY_USAGE, true, usage.to_der()?)?,
        ])
    };
    build().map_err(encoding("the extensions of an authority"))
}

/// TBSCertificate, RFC 5280 section 4.1.
#[derive(Sequence)]
struct Body {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    version: Version,
    serial_number: SerialNumber,
    signature: AlgorithmIdentifierOwned,
    issuer: Name,
    validity: Validity,
    subject: Name,
    subject_public_key_info: SubjectPublicKeyInfoOwned,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT")]
    extensions: Extensions,
}

/// Certificate, RFC 5280 section 4.1.
#[derive(Sequence)]
struct Signed {
    body: Body,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitString,
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

fn pss_algorithm() -> der::Result<AlgorithmIdentifierOwned> {
    let hash = AlgorithmIdentifierOwned { oid: SHA384, parameters: Some(Any::encode_from(&Null)?) };
    let mask = AlgorithmIdentifierOwned { oid: MGF1, parameters: Some(Any::encode_from(&hash)?) };
    let parameters = PssParameters { hash, mask, salt_length: SALT_LEN };
    Ok(AlgorithmIdentifierOwned { oid: RSASSA_PSS, parameters: Some(Any::encode_from(&parameters)?) })
}

/// AMD's form of a name. The organisation tells people that the certificate is not AMD's.
fn name(common: &str) -> der::Result<Name> {
    Name::from_str(&format!("CN={common},O=Test roots of tee-emulator\\, not AMD,OU=Engineering"))
}

fn time(seconds: u64) -> der::Result<Time> {
    let since_1970 = Duration::from_secs(seconds);
    Ok(if seconds < YEAR_2050 {
        Time::UtcTime(UtcTime::from_unix_duration(since_1970)?)
    } else {
        Time::GeneralTime(GeneralizedTime::from_unix_duration(since_1970)?)
    })
}

fn amd_extension(suffix: &str, value: Vec<u8>) -> der::Result<Extension> {
    extension(ObjectIdentifier::new(&format!("{AMD}.{suffix}"))?, false, value)
}

fn extension(extn_id: ObjectIdentifier, critical: bool, value: Vec<u8>) -> der::Result<Extension> {
    Ok(Extension { extn_id, critical, extn_value: OctetString::new(value)? })
}

fn encoding(what: &'static str) -> impl Fn(der::Error) -> Error {
    move |source| Error::Encoding { what, source }
}
