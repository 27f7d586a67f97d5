//! X.509 certificates of the emulated manufacturers: RFC 5280 structures from the types of `x509-cert` and `der`.
//!
//! What is the same for all of them is here; each manufacturer's signatures and extensions have a file of their own.

use std::str::FromStr;
use std::time::Duration;

use der::asn1::{BitString, GeneralizedTime, ObjectIdentifier, OctetString, UtcTime};
use der::{Decode, Encode, Sequence};
use x509_cert::certificate::Version;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};
use x509_cert::ext::{Extension, Extensions};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};

use crate::Error;

pub(crate) mod amd;
pub(crate) mod intel;
pub(crate) mod revocation;

const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
pub(crate) const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
/// 2050-01-01, from which RFC 5280 wants the longer form of time; seconds since 1970.
const YEAR_2050: u64 = 2_524_608_000;

/// A key that signs certificates, with the algorithm that its manufacturer uses.
pub(crate) trait Signer {
    /// Identifier and parameters of the signature algorithm.
    fn algorithm(&self) -> der::Result<AlgorithmIdentifierOwned>;
    /// The signature over `message`, in the form that certificates have.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error>;
}

/// A certificate before it is signed.
pub(crate) struct Draft<'a> {
    /// Whom the roots are not of: the organisation in both names says so to people.
    pub(crate) not: &'a str,
    /// Common name of the authority that signs.
    pub(crate) issuer: &'a str,
    /// Common name of the holder.
    pub(crate) subject: &'a str,
    /// The holder's SubjectPublicKeyInfo, DER.
    pub(crate) public_key: &'a [u8],
    /// Serial number; a random one if absent.
    pub(crate) serial: Option<[u8; 16]>,
    /// First and last second of validity, since 1970.
    pub(crate) validity: (u64, u64),
    /// Extensions, see [`authority_extensions`] and the manufacturers' own.
    pub(crate) extensions: Extensions,
}

impl Draft<'_> {
    /// The certificate, DER, signed by `key`.
    pub(crate) fn sign(self, key: &impl Signer) -> Result<Vec<u8>, Error> {
        let algorithm = key.algorithm().map_err(encoding("a signature algorithm"))?;
        let body = self.body(algorithm.clone()).map_err(encoding("a certificate"))?;
        let message = body.to_der().map_err(encoding("a certificate"))?;
        let signature = key.sign(&message)?;
        BitString::from_bytes(&signature)
            .and_then(|signature| Signed { body, algorithm, signature }.to_der())
            .map_err(encoding("a certificate"))
    }

    fn body(self, signature: AlgorithmIdentifierOwned) -> der::Result<Body> {
        let serial = match self.serial {
            Some(serial) => serial,
            None => random_serial()?,
        };
        Ok(Body {
            version: Version::V3,
            serial_number: SerialNumber::new(&serial)?,
            signature,
            issuer: name(self.issuer, self.not)?,
            validity: Validity::new(time(self.validity.0)?, time(self.validity.1)?),
            subject: name(self.subject, self.not)?,
            subject_public_key_info: SubjectPublicKeyInfoOwned::from_der(self.public_key)?,
            extensions: self.extensions,
        })
    }
}

fn random_serial() -> der::Result<[u8; 16]> {
    let mut serial = [0u8; 16];
    getrandom::fill(&mut serial).map_err(|_| der::ErrorKind::Failed)?;
    // Positive, and of full length.
    serial.iter_mut().take(1).for_each(|first| *first = (*first & 0x7F) | 0x40);
    Ok(serial)
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

/// A name whose organisation tells people that the certificate is not the real manufacturer's.
fn name(common: &str, not: &str) -> der::Result<Name> {
    Name::from_str(&format!("CN={common},O=Test roots of tee-emulator\\, not {not},OU=Engineering"))
}

fn time(seconds: u64) -> der::Result<Time> {
    let since_1970 = Duration::from_secs(seconds);
    Ok(if seconds < YEAR_2050 {
        Time::UtcTime(UtcTime::from_unix_duration(since_1970)?)
    } else {
        Time::GeneralTime(GeneralizedTime::from_unix_duration(since_1970)?)
    })
}

pub(crate) fn extension(extn_id: ObjectIdentifier, critical: bool, value: Vec<u8>) -> der::Result<Extension> {
    Ok(Extension { extn_id, critical, extn_value: OctetString::new(value)? })
}

pub(crate) fn encoding(what: &'static str) -> impl Fn(der::Error) -> Error {
    move |source| Error::Encoding { what, source }
}
