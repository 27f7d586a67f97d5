//! Revocation lists (RFC 5280, section 5), when someone supplies one.
//!
//! A list counts for one certificate only: one issued by the list's issuer. A host or an attacker can leave
//! the list out, so its absence proves nothing and a list past its `nextUpdate` still counts: what it revokes
//! stays revoked. A service that needs fresh lists puts them into its offline store; nothing is fetched here.

use der::Decode;
use der::asn1::{ObjectIdentifier, UintRef};
use x509_cert::crl::CertificateList;

use crate::certificate::{Cert, signed_range};

/// Longest list that is read, in bytes.
const MAX_LEN: usize = 256 * 1024;

/// The number of a list, RFC 5280 section 5.2.3.
const CRL_NUMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.20");

/// What a list says about a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The certificate is on the list.
    pub(crate) revoked: bool,
    /// Number of the list in hexadecimal, when it has one.
    pub(crate) number: Option<String>,
    /// When the list was issued, seconds since 1970.
    pub(crate) this_update: u64,
    /// When the next one is due.
    pub(crate) next_update: Option<u64>,
}

/// Looks `cert` up in the list in `bytes` (DER), which must be signed by `issuer`. `None` for a list of
/// another issuer: that is none of this chain's business. The error is a sentence.
pub(crate) fn look_up(bytes: &[u8], issuer: &Cert, cert: &Cert, now: u64) -> Result<Option<Entry>, String> {
    if bytes.len() > MAX_LEN {
        return Err(format!("{} bytes are more than the limit of {MAX_LEN}", bytes.len()));
    }
    let list: CertificateList =
        CertificateList::from_der(bytes).map_err(|e| format!("it is not a list: {e}"))?;
    let content = &list.tbs_cert_list;
    if content.issuer != *issuer.subject() {
        return Ok(None);
    }
    if content.signature != list.signature_algorithm {
        return Err("its two signature algorithms differ".to_owned());
    }
    let signed = signed_range(bytes).map_err(|e| format!("it is not a list: {e}"))?;
    let signed = bytes.get(signed).unwrap_or_default();
    issuer
        .verify(list.signature_algorithm.oid, signed, &list.signature)
        .map_err(|why| format!("it is not signed by {}: {why}", issuer.common_name()))?;
    let this_update = content.this_update.to_unix_duration().as_secs();
    if this_update > now {
        return Err("it was issued after the time of verification".to_owned());
    }
    let mut revoked = content.revoked_certificates.iter().flatten();
    let number = content.crl_extensions.iter().flatten().find(|extension| extension.extn_id == CRL_NUMBER);
    Ok(Some(Entry {
        revoked: revoked.any(|entry| entry.serial_number.as_bytes() == cert.serial()),
        number: number
            .and_then(|extension| UintRef::from_der(extension.extn_value.as_bytes()).ok())
            .map(|number| hex::encode(number.as_bytes())),
        this_update,
        next_update: content.next_update.map(|time| time.to_unix_duration().as_secs()),
    }))
}
