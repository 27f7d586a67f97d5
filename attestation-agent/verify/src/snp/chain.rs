//! From the leaf certificate to a trusted root.
//!
//! ARK signs itself and the intermediates, ASK signs VCEKs, ASVK signs VLEKs; all RSA-PSS with SHA-384
//! (AMD publication 57230). Intermediates and roots come from [`TrustRoots`] alone: those in the evidence are
//! the host's word and are NOT looked at.

use cc_evidence::snp::{CertEntry, CertKind, Product};

use super::leaf::{Leaf, LeafKind};
use crate::certificate::Cert;
use crate::{Rejection, TrustRoots, crl};

/// A chain that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChainReport {
    /// Product whose root signed the chain.
    pub product: Product,
    /// Kind of the leaf.
    pub kind: LeafKind,
    /// The root is a test root.
    pub test_root: bool,
    /// Leaf, intermediate, root.
    pub links: Vec<LinkReport>,
    /// Cloud provider named in a VLEK, for example `CN=cc-us-east-2.amazonaws.com`.
    pub csp_id: Option<String>,
}

/// One certificate of a verified chain.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkReport {
    /// Common name.
    pub name: String,
    /// SHA-256 of the DER form, hex.
    pub sha256: String,
    /// First second of validity, since 1970.
    pub not_before: u64,
    /// Last second of validity, since 1970.
    pub not_after: u64,
}

/// Verifies the chain of the first VCEK or VLEK in `certs` at `now` (seconds since 1970).
///
/// For inspection of evidence; [`super::verify`] does this and much more.
///
/// # Errors
/// The [`Rejection`] of the first check that fails.
pub fn verify_chain(certs: &[CertEntry], roots: &TrustRoots, now: u64) -> Result<ChainReport, Rejection> {
    let leaf = certs
        .iter()
        .find(|entry| matches!(entry.kind, CertKind::Vcek | CertKind::Vlek))
        .ok_or(Rejection::NoLeafCertificate { kind: "VCEK or VLEK" })?;
    check(&Leaf::read(&leaf.data)?, certs, roots, now)
}

/// Verifies the chain of `leaf`; `certs` may hold revocation lists.
pub(super) fn check(
    leaf: &Leaf,
    certs: &[CertEntry],
    roots: &TrustRoots,
    now: u64,
) -> Result<ChainReport, Rejection> {
    let trusted = find_issuer(leaf, roots)?;
    for (cert, check) in [
        (&trusted.root, "snp.ca_validity"),
        (&trusted.issuer, "snp.ca_validity"),
        (
            &leaf.cert,
            match leaf.kind {
                LeafKind::Vcek => "snp.vcek_validity",
                LeafKind::Vlek => "snp.vlek_validity",
            },
        ),
    ] {
        check_validity(cert, check, now)?;
    }
    for entry in certs.iter().filter(|entry| entry.kind == CertKind::Crl) {
        check_revocation(&entry.data, &trusted, now)?;
    }
    Ok(ChainReport {
        product: trusted.product,
        kind: leaf.kind,
        test_root: trusted.test,
        links: [&leaf.cert, &trusted.issuer, &trusted.root].map(link).into(),
        csp_id: leaf.csp_id.clone(),
    })
}

/// The authority that signed a leaf, with its root.
struct Trusted {
    product: Product,
    test: bool,
    root: Cert,
    issuer: Cert,
}

/// Finds the trusted authority whose key signed the leaf. Names alone do not decide: test roots carry
/// the same names as AMD's.
fn find_issuer(leaf: &Leaf, roots: &TrustRoots) -> Result<Trusted, Rejection> {
    let issuer_name = leaf.cert.issuer_common_name();
    let mut why = format!("no trusted authority is named {issuer_name:?}");
    for set in roots.sets() {
        let expected = match leaf.kind {
            LeafKind::Vcek => format!("SEV-{}", set.product),
            LeafKind::Vlek => format!("SEV-VLEK-{}", set.product),
        };
        if expected != issuer_name {
            continue;
        }
        let authorities = set.authorities().map_err(|why| Rejection::Chain { why })?;
        let issuer = match leaf.kind {
            LeafKind::Vcek => Some(authorities.ask),
            LeafKind::Vlek => authorities.asvk,
        };
        let Some(issuer) = issuer else { continue };
        match leaf.cert.check_issued_by(&issuer) {
            Ok(()) => {
                return Ok(Trusted { product: set.product, test: set.test, root: authorities.ark, issuer });
            }
            Err(reason) => why = reason,
        }
    }
    Err(Rejection::Chain { why })
}

/// An ARK signs the list of revoked intermediates; chip keys have no serial numbers of their own and are
/// never listed.
fn check_revocation(list: &[u8], trusted: &Trusted, now: u64) -> Result<(), Rejection> {
    let entry =
        crl::look_up(list, &trusted.root, &trusted.issuer, now).map_err(|why| Rejection::Crl { why })?;
    match entry {
        Some(entry) if entry.revoked => {
            Err(Rejection::Revoked { name: trusted.issuer.common_name().to_owned() })
        }
        _ => Ok(()),
    }
}

fn check_validity(cert: &Cert, check: &'static str, now: u64) -> Result<(), Rejection> {
    let (not_before, not_after) = cert.validity();
    if (not_before..=not_after).contains(&now) {
        return Ok(());
    }
    Err(Rejection::Validity { check, name: cert.common_name().to_owned(), not_before, not_after, now })
}

fn link(cert: &Cert) -> LinkReport {
    let (not_before, not_after) = cert.validity();
    LinkReport {
        name: cert.common_name().to_owned(),
        sha256: hex::encode(cert.sha256()),
        not_before,
        not_after,
    }
}
