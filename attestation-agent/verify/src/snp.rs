//! Verification of AMD SEV-SNP evidence.
//!
//! AMD publications 56860 (report) and 57230 (certificates); the order of checks and the claim names
//! are those of Trustee's SNP verifier, with the checks that it lacks: validity dates, revocation, the
//! chip identifier, the signature algorithm. Whether a guest may be debugged is a claim for the
//! appraisal and NOT a reason to refuse. Certificates are never fetched.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use cc_evidence::Tee;
use cc_evidence::initdata::fit;
use cc_evidence::snp::{CertEntry, CertKind, Product, Report, SigningKey, SnpEvidence, Tcb};

use crate::{Rejection, TrustRoots};

mod chain;
mod claims;
mod leaf;

pub use chain::{ChainReport, LinkReport, verify_chain};
pub use claims::SnpClaims;
pub use leaf::LeafKind;

use leaf::Leaf;

/// What the evidence has to match.
#[derive(Clone, Copy, Debug)]
pub struct Expectation<'a> {
    /// Digest that the session binds, 1 to 64 bytes; shorter than the field means padded with zeros.
    pub report_data: &'a [u8],
    /// Digest of the init-data document, cut or padded to the 32 bytes of host data; `None` when the
    /// guest sent none.
    pub init_data_digest: Option<&'a [u8]>,
    /// Time of verification, seconds since 1970.
    pub now: u64,
    /// Certificates from an offline store, looked at when the evidence has no suitable one.
    pub extra_certs: &'a [CertEntry],
}

/// Runs all checks and gives the claims, or the first check that fails.
///
/// # Errors
/// A [`Rejection`] that names the check.
pub fn verify(
    evidence: &SnpEvidence,
    roots: &TrustRoots,
    x: &Expectation<'_>,
) -> Result<SnpClaims, Rejection> {
    if x.report_data.is_empty() {
        return Err(Rejection::NothingExpected { tee: Tee::Snp, what: "report data" });
    }
    if x.init_data_digest.is_some_and(<[u8]>::is_empty) {
        return Err(Rejection::NothingExpected { tee: Tee::Snp, what: "init-data digest" });
    }
    let report = &evidence.report;
    let product = check_product(report)?;
    let certs = [evidence.certs.as_slice(), x.extra_certs].concat();
    let leaf = find_leaf(report, &certs)?;
    let chain = chain::check(&leaf, &certs, roots, x.now)?;
    check_signature(report, &leaf)?;
    check_leaf(report, product, &leaf, &chain)?;
    if report.vmpl != 0 {
        return Err(Rejection::Vmpl { found: report.vmpl });
    }
    check_bindings(report, x)?;
    Ok(SnpClaims::new(report, chain.test_root))
}

/// Checks only that `leaf` (DER or PEM) signed the report: whose key it is stays open.
///
/// # Errors
/// [`Rejection::SignatureAlgorithm`], [`Rejection::Certificate`], [`Rejection::Signature`].
pub fn verify_signature(report: &Report, leaf: &[u8]) -> Result<(), Rejection> {
    check_signature(report, &Leaf::read(leaf)?)
}

/// Checks only that `leaf` (DER or PEM) is for the machine of the report: same product, as far as the report
/// tells one (version 2 does not), same firmware level, same chip. Who issued it stays open.
///
/// # Errors
/// [`Rejection::Certificate`], [`Rejection::ProductName`], [`Rejection::Tcb`], [`Rejection::ChipId`].
pub fn verify_identity(report: &Report, leaf: &[u8]) -> Result<(), Rejection> {
    check_identity(report, &Leaf::read(leaf)?)
}

fn check_product(report: &Report) -> Result<Product, Rejection> {
    match report.version {
        3..=5 => report.product().ok_or(Rejection::Product { cpuid: report.cpuid }),
        found => Err(Rejection::Version { found }),
    }
}

/// The certificate of the key that the report names. When several are there, the one whose key made
/// the signature: hosts keep stale ones after a firmware update.
fn find_leaf(report: &Report, certs: &[CertEntry]) -> Result<Leaf, Rejection> {
    let (kind, wanted) = match report.signing_key() {
        SigningKey::Vcek => (LeafKind::Vcek, CertKind::Vcek),
        SigningKey::Vlek => (LeafKind::Vlek, CertKind::Vlek),
        found => return Err(Rejection::SigningKey { found }),
    };
    let mut first = None;
    for entry in certs.iter().filter(|entry| entry.kind == wanted) {
        let leaf = Leaf::read(&entry.data).and_then(|leaf| leaf.expect_kind(kind));
        if leaf.as_ref().is_ok_and(|leaf| check_signature(report, leaf).is_ok()) {
            return leaf;
        }
        first.get_or_insert(leaf);
    }
    first.unwrap_or(Err(Rejection::NoLeafCertificate { kind: kind.as_str() }))
}

fn check_signature(report: &Report, leaf: &Leaf) -> Result<(), Rejection> {
    if report.sig_algo != 1 {
        return Err(Rejection::SignatureAlgorithm { found: report.sig_algo });
    }
    let signature = report.signature.to_fixed().map_err(|e| Rejection::Signature { why: e.to_string() })?;
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, leaf.public_key())
        .verify(report.signed(), &signature)
        .map_err(|_| Rejection::Signature {
            why: format!(
                "it was not made by the key of the {} certificate over these bytes",
                leaf.kind.as_str()
            ),
        })
}

/// The leaf must be the one for this machine, issued under the authorities of its product.
fn check_leaf(report: &Report, product: Product, leaf: &Leaf, chain: &ChainReport) -> Result<(), Rejection> {
    if chain.product != product {
        return Err(Rejection::ProductName { certificate: chain.product.to_string(), report: product });
    }
    check_identity(report, leaf)
}

fn check_identity(report: &Report, leaf: &Leaf) -> Result<(), Rejection> {
    // Milan leaves carry a stepping, `Milan-B0`; it says nothing about trust.
    if let Some(product) = report.product()
        && leaf.product_name.split('-').next() != Some(product.as_str())
    {
        return Err(Rejection::ProductName { certificate: leaf.product_name.clone(), report: product });
    }
    check_tcb(&report.reported_tcb, leaf)?;
    check_chip(report, leaf)
}

fn check_tcb(tcb: &Tcb, leaf: &Leaf) -> Result<(), Rejection> {
    // The extension for the FMC exists from Turin on, like the component.
    let parts = [
        ("fmc", leaf.fmc, tcb.fmc),
        ("bootloader", Some(leaf.bootloader), Some(tcb.bootloader)),
        ("tee", Some(leaf.tee), Some(tcb.tee)),
        ("snp", Some(leaf.snp), Some(tcb.snp)),
        ("microcode", Some(leaf.microcode), Some(tcb.microcode)),
    ];
    let level = |value: Option<u8>| value.map_or_else(|| "none".to_owned(), |value| value.to_string());
    match parts.into_iter().find(|(_, certificate, report)| certificate != report) {
        None => Ok(()),
        Some((part, certificate, report)) => {
            Err(Rejection::Tcb { part, certificate: level(certificate), report: level(report) })
        }
    }
}

/// A VCEK belongs to one chip. A VLEK does not; and a host that masks the chip key leaves the
/// identifier out of the report, so there is nothing to compare.
fn check_chip(report: &Report, leaf: &Leaf) -> Result<(), Rejection> {
    let masked = report.mask_chip_key() && report.chip_id == [0; 64];
    if leaf.kind == LeafKind::Vlek || masked {
        return Ok(());
    }
    let hw_id = leaf.hw_id.as_deref().unwrap_or_default();
    let same = match hw_id.len() {
        64 => hw_id == report.chip_id,
        // Turin identifies a chip by eight bytes; the rest of the field is zero.
        8 if leaf.product_name == Product::Turin.as_str() => fit(hw_id, 64) == report.chip_id,
        _ => false,
    };
    if same {
        Ok(())
    } else {
        Err(Rejection::ChipId { certificate: hex::encode(hw_id), report: hex::encode(report.chip_id) })
    }
}

fn check_bindings(report: &Report, x: &Expectation<'_>) -> Result<(), Rejection> {
    let expected = fit(x.report_data, report.report_data.len());
    if verify_slices_are_equal(&expected, &report.report_data).is_err() {
        return Err(Rejection::ReportData {
            tee: Tee::Snp,
            expected: hex::encode(expected),
            found: hex::encode(report.report_data),
        });
    }
    let Some(digest) = x.init_data_digest else { return Ok(()) };
    let expected = fit(digest, report.host_data.len());
    if expected != report.host_data {
        return Err(Rejection::InitData {
            expected: hex::encode(expected),
            found: hex::encode(report.host_data),
        });
    }
    Ok(())
}
