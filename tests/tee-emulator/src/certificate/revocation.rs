//! Revocation lists, RFC 5280 section 5.

use der::Encode;
use der::asn1::{BitString, ObjectIdentifier};
use x509_cert::Version;
use x509_cert::crl::{CertificateList, RevokedCert, TbsCertList};
use x509_cert::serial_number::SerialNumber;

use super::{Signer, encoding, extension, name, time};
use crate::Error;

const CRL_NUMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.20");

/// A list before it is signed.
pub(crate) struct ListDraft<'a> {
    /// See [`super::Draft::not`].
    pub(crate) not: &'a str,
    /// Common name of the authority that signs.
    pub(crate) issuer: &'a str,
    /// When the list is issued and when the next one is due, seconds since 1970.
    pub(crate) dates: (u64, u64),
    /// Serial numbers of revoked certificates.
    pub(crate) revoked: &'a [[u8; 16]],
}

impl ListDraft<'_> {
    /// The list, DER, signed by `key`.
    pub(crate) fn sign(self, key: &impl Signer) -> Result<Vec<u8>, Error> {
        let content = self.content(key).map_err(encoding("a revocation list"))?;
        let message = content.to_der().map_err(encoding("a revocation list"))?;
        let signature = key.sign(&message)?;
        let signature_algorithm = content.signature.clone();
        BitString::from_bytes(&signature)
            .and_then(|signature| {
                CertificateList { tbs_cert_list: content, signature_algorithm, signature }.to_der()
            })
            .map_err(encoding("a revocation list"))
    }

    fn content(&self, key: &impl Signer) -> der::Result<TbsCertList> {
        let issued = time(self.dates.0)?;
        let entry = |serial: &[u8; 16]| {
            Ok(RevokedCert {
                serial_number: SerialNumber::new(serial)?,
                revocation_date: issued,
                crl_entry_extensions: None,
            })
        };
        let revoked = self.revoked.iter().map(entry).collect::<der::Result<Vec<_>>>()?;
        Ok(TbsCertList {
            version: Version::V2,
            signature: key.algorithm()?,
            issuer: name(self.issuer, self.not)?,
            this_update: issued,
            next_update: Some(time(self.dates.1)?),
            // An empty list of entries is left out.
            revoked_certificates: (!revoked.is_empty()).then_some(revoked),
            crl_extensions: Some(vec![extension(CRL_NUMBER, false, 1u8.to_der()?)?]),
        })
    }
}
