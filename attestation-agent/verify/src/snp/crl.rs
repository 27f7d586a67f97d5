//! AMD's revocation lists (RFC 5280, section 5), when someone supplies one.
//!
//! An ARK signs the list of revoked intermediates; chip keys have no serial numbers of their own and
//! are never listed. A host can leave the list out, so its absence proves nothing and a list past its
//! `nextUpdate` still counts: what it revokes stays revoked. A service that needs fresh lists puts them
//! into its offline store; nothing is fetched here.

use der::Decode;
use x509_cert::crl::CertificateList;

use crate::Rejection;
use crate::certificate::{Cert, signed_range};

/// Longest list that is read, in bytes.
const MAX_LEN: usize = 64 * 1024;

/// Refuses `issuer` when the list in `bytes` (DER) is from `root` and names it. A list from another
/// root is none of this chain's business.
pub(super) fn check(bytes: &[u8], root: &Cert, issuer: &Cert, now: u64) -> Result<(), Rejection> {
    let unusable = |why: String| Rejection::Crl { why };
    if bytes.len() > MAX_LEN {
        return Err(unusable(format!("{} bytes are more than the limit of {MAX_LEN}", bytes.len())));
    }
    let list: CertificateList =
        CertificateList::from_der(bytes).map_err(|e| unusable(format!("it is not a list: {e}")))?;
    let content = &list.tbs_cert_list;
    if content.issuer != *root.subject() {
        return Ok(());
    }
    if content.signature != list.signature_algorithm {
        return Err(unusable("its two signature algorithms differ".to_owned()));
    }
    let signed = signed_range(bytes).map_err(|e| unusable(format!("it is not a list: {e}")))?;
    let signed = bytes.get(signed).unwrap_or_default();
    root.verify(list.signature_algorithm.oid, signed, &list.signature)
        .map_err(|why| unusable(format!("it is not signed by {}: {why}", root.common_name())))?;
    if content.this_update.to_unix_duration().as_secs() > now {
        return Err(unusable("it was issued after the time of verification".to_owned()));
    }
    let revoked = content.revoked_certificates.iter().flatten();
    if revoked.into_iter().any(|entry| entry.serial_number.as_bytes() == issuer.serial()) {
        return Err(Rejection::Revoked { name: issuer.common_name().to_owned() });
    }
    Ok(())
}
