//! One X.509 certificate of a manufacturer's hierarchy, or of a token signer's: RFC 5280 structure; RSA-PSS SHA-384
//! signatures as AMD has them, ECDSA P-256 SHA-256 as Intel has them, ECDSA P-384 SHA-384 as NVIDIA has them, RSA PKCS#1
//! v1.5 as authorities of every other kind have them.
//!
//! Signatures are computed over the original bytes, never over a re-encoding. It is NOT a path
//! builder: who has to sign whom is decided by the chain check.

use std::ops::Range;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use der::asn1::{BitString, ObjectIdentifier, UintRef};
use der::{Decode, Document, Reader as _, SliceReader};
use x509_cert::Certificate;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};
use x509_cert::name::Name;

/// Longest certificate that is read, in bytes.
const MAX_LEN: usize = 16 * 1024;

const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const SHA256_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const SHA384_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const SHA512_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_WITH_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const SECP256R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");

/// A certificate together with the bytes it was read from.
#[derive(Clone, Debug)]
pub(crate) struct Cert {
    der: Vec<u8>,
    signed: Range<usize>,
    parsed: Certificate,
    common_name: String,
}

impl Cert {
    /// Reads DER, or PEM when the first byte is a hyphen. The error is a sentence for people.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MAX_LEN {
            return Err(format!("{} bytes are more than the limit of {MAX_LEN}", bytes.len()));
        }
        if bytes.first() == Some(&b'-') {
            let text = std::str::from_utf8(bytes).map_err(|_| "its PEM form is not text".to_owned())?;
            let (_, document) =
                Document::from_pem(text.trim_end()).map_err(|e| format!("its PEM form is invalid: {e}"))?;
            return Self::from_der(document.as_bytes());
        }
        Self::from_der(bytes)
    }

    fn from_der(der: &[u8]) -> Result<Self, String> {
        let parsed =
            Certificate::from_der(der).map_err(|e| format!("it is not an X.509 certificate: {e}"))?;
        let tbs = parsed.tbs_certificate();
        if parsed.signature_algorithm() != tbs.signature() {
            return Err("its two signature algorithms differ".to_owned());
        }
        let unknown = tbs.extensions().into_iter().flatten().find(|extension| {
            extension.critical && extension.extn_id != BASIC_CONSTRAINTS && extension.extn_id != KEY_USAGE
        });
        if let Some(extension) = unknown {
            return Err(format!("it has the unknown critical extension {}", extension.extn_id));
        }
        let common_name =
            common_name(tbs.subject()).ok_or_else(|| "it has no single common name".to_owned())?;
        let signed = signed_range(der).map_err(|e| format!("it is not an X.509 certificate: {e}"))?;
        Ok(Cert { der: der.to_vec(), signed, parsed, common_name })
    }

    pub(crate) fn der(&self) -> &[u8] {
        &self.der
    }

    pub(crate) fn common_name(&self) -> &str {
        &self.common_name
    }

    pub(crate) fn subject(&self) -> &Name {
        self.parsed.tbs_certificate().subject()
    }

    pub(crate) fn issuer(&self) -> &Name {
        self.parsed.tbs_certificate().issuer()
    }

    /// Common name of the issuer, empty when it has none.
    pub(crate) fn issuer_common_name(&self) -> String {
        common_name(self.parsed.tbs_certificate().issuer()).unwrap_or_default()
    }

    pub(crate) fn serial(&self) -> &[u8] {
        self.parsed.tbs_certificate().serial_number().as_bytes()
    }

    /// First and last second of validity, since 1970.
    pub(crate) fn validity(&self) -> (u64, u64) {
        let validity = self.parsed.tbs_certificate().validity();
        (validity.not_before.to_unix_duration().as_secs(), validity.not_after.to_unix_duration().as_secs())
    }

    pub(crate) fn sha256(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, &self.der).as_ref());
        hash
    }

    /// Content of the extension with this identifier, once; a repeated extension counts as none.
    pub(crate) fn extension(&self, id: ObjectIdentifier) -> Option<&[u8]> {
        let mut found = self.parsed.tbs_certificate().extensions()?.iter().filter(|e| e.extn_id == id);
        match (found.next(), found.next()) {
            (Some(only), None) => Some(only.extn_value.as_bytes()),
            _ => None,
        }
    }

    /// Checks that `issuer` signed this certificate and that the names meet. The error is a sentence.
    pub(crate) fn check_issued_by(&self, issuer: &Cert) -> Result<(), String> {
        let tbs = self.parsed.tbs_certificate();
        if tbs.issuer() != issuer.subject() {
            return Err(format!(
                "{} names {:?} as its issuer, not {:?}",
                self.common_name,
                self.issuer_common_name(),
                issuer.common_name
            ));
        }
        let signed = self.der.get(self.signed.clone()).unwrap_or_default();
        issuer
            .verify(self.parsed.signature_algorithm().oid, signed, self.parsed.signature())
            .map_err(|why| format!("{} is not signed by {}: {why}", self.common_name, issuer.common_name))
    }

    /// Checks a signature under this certificate's key: RSA-PSS with SHA-384, RSA PKCS#1 v1.5 with SHA-256, SHA-384 or
    /// SHA-512, or ECDSA in DER form: P-256 with SHA-256, P-384 with SHA-384. The error is half a sentence.
    pub(crate) fn verify(
        &self,
        algorithm: ObjectIdentifier,
        message: &[u8],
        sig: &BitString,
    ) -> Result<(), String> {
        let rsa_key = || self.rsa_key().ok_or_else(|| "the issuer's key is not RSA".to_owned());
        let (key, how): (_, &dyn VerificationAlgorithm) = match algorithm {
            RSASSA_PSS => (rsa_key()?, &signature::RSA_PSS_2048_8192_SHA384),
            SHA256_WITH_RSA => (rsa_key()?, &signature::RSA_PKCS1_2048_8192_SHA256),
            SHA384_WITH_RSA => (rsa_key()?, &signature::RSA_PKCS1_2048_8192_SHA384),
            SHA512_WITH_RSA => (rsa_key()?, &signature::RSA_PKCS1_2048_8192_SHA512),
            ECDSA_WITH_SHA256 => (
                self.p256_point().ok_or_else(|| "the issuer's key is not on the curve P-256".to_owned())?,
                &signature::ECDSA_P256_SHA256_ASN1,
            ),
            ECDSA_WITH_SHA384 => (
                self.p384_point().ok_or_else(|| "the issuer's key is not on the curve P-384".to_owned())?,
                &signature::ECDSA_P384_SHA384_ASN1,
            ),
            other => {
                return Err(format!("the algorithm is {other}, not RSA with SHA-2 or ECDSA"));
            }
        };
        let sig = sig.as_bytes().ok_or_else(|| "the signature is not whole bytes".to_owned())?;
        UnparsedPublicKey::new(how, key)
            .verify(message, sig)
            .map_err(|_| "the signature does not verify".to_owned())
    }

    /// Checks that this certificate may sign others, with a large enough RSA key.
    pub(crate) fn check_rsa_authority(&self, min_bits: usize) -> Result<(), String> {
        self.check_authority()?;
        let name = &self.common_name;
        match self.rsa_bits() {
            Some(bits) if bits >= min_bits => Ok(()),
            Some(bits) => {
                Err(format!("{name} has an RSA key of {bits} bits, at least {min_bits} are needed"))
            }
            None => Err(format!("{name} has no RSA key")),
        }
    }

    /// Checks that this certificate is marked as one that may sign others.
    pub(crate) fn check_authority(&self) -> Result<(), String> {
        let tbs = self.parsed.tbs_certificate();
        let name = &self.common_name;
        match tbs.get_extension::<BasicConstraints>() {
            Ok(Some((_, constraints))) if constraints.ca => {}
            _ => return Err(format!("{name} is not marked as a certificate authority")),
        }
        match tbs.get_extension::<KeyUsage>() {
            Ok(None) => Ok(()),
            Ok(Some((_, usage))) if usage.key_cert_sign() => Ok(()),
            _ => Err(format!("{name} may not sign certificates")),
        }
    }

    /// Most authorities that may stand between this one and a leaf; `None` for any number. The error is a sentence.
    pub(crate) fn path_length(&self) -> Result<Option<u8>, String> {
        match self.parsed.tbs_certificate().get_extension::<BasicConstraints>() {
            Ok(found) => Ok(found.and_then(|(_, constraints)| constraints.path_len_constraint)),
            Err(_) => Err(format!("the basic constraints of {} cannot be read", self.common_name)),
        }
    }

    /// Whether the key may sign other things than certificates: a key usage that is there must say so.
    pub(crate) fn may_sign_data(&self) -> bool {
        match self.parsed.tbs_certificate().get_extension::<KeyUsage>() {
            Ok(None) => true,
            Ok(Some((_, usage))) => usage.digital_signature(),
            Err(_) => false,
        }
    }

    /// Whether the certificate claims to be an authority.
    pub(crate) fn is_authority(&self) -> bool {
        !matches!(
            self.parsed.tbs_certificate().get_extension::<BasicConstraints>(),
            Ok(None | Some((_, BasicConstraints { ca: false, .. })))
        )
    }

    /// The uncompressed point of a P-384 key, 97 bytes.
    pub(crate) fn p384_point(&self) -> Option<&[u8]> {
        self.point(SECP384R1).filter(|point| point.len() == 97)
    }

    /// The uncompressed point of a P-256 key, 65 bytes.
    pub(crate) fn p256_point(&self) -> Option<&[u8]> {
        self.point(SECP256R1).filter(|point| point.len() == 65)
    }

    fn point(&self, curve: ObjectIdentifier) -> Option<&[u8]> {
        let spki = self.parsed.tbs_certificate().subject_public_key_info();
        let found = spki.algorithm.parameters.as_ref()?.decode_as::<ObjectIdentifier>().ok()?;
        let point = spki.subject_public_key.as_bytes()?;
        (spki.algorithm.oid == EC_PUBLIC_KEY && found == curve).then_some(point)
    }

    /// The RSA key in PKCS#1 form.
    fn rsa_key(&self) -> Option<&[u8]> {
        let spki = self.parsed.tbs_certificate().subject_public_key_info();
        (spki.algorithm.oid == RSA_ENCRYPTION).then(|| spki.subject_public_key.as_bytes()).flatten()
    }

    /// Modulus and exponent of an RSA key, big-endian without leading zeros.
    pub(crate) fn rsa_numbers(&self) -> Option<(&[u8], &[u8])> {
        // PKCS#1 `RSAPublicKey` (RFC 8017, appendix A.1.1).
        let mut key = SliceReader::new(self.rsa_key()?).ok()?;
        let (modulus, exponent) =
            key.sequence(|key| Ok::<_, der::Error>((UintRef::decode(key)?, UintRef::decode(key)?))).ok()?;
        Some((modulus.as_bytes(), exponent.as_bytes()))
    }

    fn rsa_bits(&self) -> Option<usize> {
        self.rsa_numbers().and_then(|(modulus, _)| bits(modulus))
    }
}

/// Size of a big-endian number without leading zeros, in bits; `None` for an empty one.
pub(crate) fn bits(number: &[u8]) -> Option<usize> {
    let unused = usize::try_from(number.first()?.leading_zeros()).ok()?;
    (number.len() * 8).checked_sub(unused)
}

/// Reads all certificates of a PEM text of at most `max` bytes, in their order. The error is a sentence.
pub(crate) fn read_pem(pem: &str, max: usize) -> Result<Vec<Cert>, String> {
    const END: &str = "-----END CERTIFICATE-----";
    if pem.len() > max {
        return Err(format!("{} bytes are more than {max}", pem.len()));
    }
    let blocks = pem.split_inclusive(END).map(str::trim).filter(|block| !block.is_empty());
    blocks.map(|block| Cert::read(block.as_bytes())).collect()
}

/// Where the signed part lies: the first element inside the outer sequence. Certificates and
/// revocation lists share this shape.
pub(crate) fn signed_range(der: &[u8]) -> Result<Range<usize>, der::Error> {
    let mut outer = SliceReader::new(der)?;
    outer.sequence(|inner| {
        let start = usize::try_from(inner.offset())?;
        let signed = inner.tlv_bytes()?;
        let end = start + signed.len();
        inner.tlv_bytes()?;
        inner.tlv_bytes()?;
        Ok(start..end)
    })
}

/// The one common name of `name`.
fn common_name(name: &Name) -> Option<String> {
    const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
    let mut names = name.iter().filter(|attribute| attribute.oid == COMMON_NAME);
    match (names.next(), names.next()) {
        (Some(only), None) => String::from_utf8(only.value.value().to_vec()).ok(),
        _ => None,
    }
}
