//! Verification of Intel TDX evidence.
//!
//! Intel's "TDX DCAP Quote Verification" in the order of the quoting library reference: certificate chain of the
//! platform's key (PCK), report of the quoting enclave (QE), binding of the attestation key, signature of
//! the quote, then QE identity, TDX module and TCB level when there is collateral, then the bindings to the
//! session and the event log. Claim names are those of Trustee's TDX verifier. Whether a domain may be debugged and
//! which TCB status suffices are claims for the appraisal and NOT reasons to refuse; only what is revoked or
//! unknown is refused. Collateral is never fetched.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use cc_evidence::Tee;
use cc_evidence::dcap::{SignatureData, qe_report_data};
use cc_evidence::initdata::fit;
use cc_evidence::tdx::{Quote, TdBody, TdxEvidence};

use crate::{Rejection, TrustRoots};

mod chain;
mod claims;
mod collateral;
mod event_log;
mod level;
mod pck;

pub use chain::ChainReport;
pub use claims::{BodyClaims, HeaderClaims, QuoteClaims, TdAttributeClaims, TdxClaims};
pub use collateral::Collateral;
pub use event_log::{DigestClaim, EventClaim, Numbering, event_claims};
pub use level::{TcbReport, TcbStatus};
pub use pck::PckInfo;

/// What the evidence has to match.
#[derive(Clone, Copy, Debug)]
pub struct Expectation<'a> {
    /// Digest that the session binds, 1 to 64 bytes; shorter than the field means padded with zeros.
    pub report_data: &'a [u8],
    /// Digest of the init-data document, cut or padded to the 48 bytes of MRCONFIGID; `None` when the guest
    /// sent none.
    pub init_data_digest: Option<&'a [u8]>,
    /// Time of verification, seconds since 1970.
    pub now: u64,
}

/// Runs all checks and gives the claims, or the first check that fails.
///
/// Without collateral nothing says whether the platform is up to date: the claim `tcb_status` is
/// `Unverified` then, and the quoting enclave may be anybody's.
///
/// # Errors
/// A [`Rejection`] that names the check.
pub fn verify(
    evidence: &TdxEvidence,
    roots: &TrustRoots,
    collateral: Option<&Collateral>,
    x: &Expectation<'_>,
) -> Result<TdxClaims, Rejection> {
    if x.report_data.is_empty() {
        return Err(Rejection::NothingExpected { tee: Tee::Tdx, what: "report data" });
    }
    if x.init_data_digest.is_some_and(<[u8]>::is_empty) {
        return Err(Rejection::NothingExpected { tee: Tee::Tdx, what: "init-data digest" });
    }
    let quote = Quote::parse(&evidence.quote).map_err(|e| Rejection::Quote { why: e.to_string() })?;
    let chain = verify_quote(&quote, roots, x.now)?;
    let tcb = collateral.map(|collateral| verify_tcb(&quote, &chain, collateral, x.now)).transpose()?;
    check_bindings(&quote.body, x)?;
    let events = match &evidence.cc_eventlog {
        Some(log) => Some(event_log::verify(log, &quote.body.rtmr)?),
        None => None,
    };
    Ok(TdxClaims::new(&quote, &chain, tcb.as_ref(), events))
}

/// Verifies that a platform with a trusted certificate signed this quote: chain, QE report, binding,
/// signature. `now` is in seconds since 1970. Whether that platform is up to date stays open.
///
/// # Errors
/// [`Rejection::PckChain`], [`Rejection::Validity`], [`Rejection::QeReport`], [`Rejection::QeBinding`],
/// [`Rejection::QuoteSignature`].
pub fn verify_quote(quote: &Quote, roots: &TrustRoots, now: u64) -> Result<ChainReport, Rejection> {
    verify_signature(&quote.signature, quote.signed(), roots, now)
}

/// The same for any quote of Intel's data center attestation, given its signature data and signed bytes:
/// SGX enclaves are quoted in the same way.
///
/// # Errors
/// As [`verify_quote`].
pub fn verify_signature(
    signature: &SignatureData,
    signed: &[u8],
    roots: &TrustRoots,
    now: u64,
) -> Result<ChainReport, Rejection> {
    let chain = chain::check(&signature.pck_chain, roots, now)?;
    check_p256(chain.public_key(), signature.qe_report.raw(), &signature.qe_report_signature)
        .map_err(|()| Rejection::QeReport)?;
    let bound = qe_report_data(&signature.attestation_key, &signature.qe_auth_data);
    if bound != signature.qe_report.report_data {
        return Err(Rejection::QeBinding);
    }
    let key = [&[4], signature.attestation_key.as_slice()].concat();
    check_p256(&key, signed, &signature.signature).map_err(|()| Rejection::QuoteSignature)?;
    Ok(chain)
}

/// Rates a verified quote by collateral: its own signatures under the same root, revocation lists, QE
/// identity, TDX module, TCB level. `chain` comes from [`verify_quote`].
///
/// # Errors
/// [`Rejection::Collateral`], [`Rejection::PckRevoked`], [`Rejection::QeIdentity`], [`Rejection::TdxModule`],
/// [`Rejection::TcbUnsupported`], [`Rejection::TcbRevoked`].
pub fn verify_tcb(
    quote: &Quote,
    chain: &ChainReport,
    collateral: &Collateral,
    now: u64,
) -> Result<TcbReport, Rejection> {
    let terms = collateral.check(chain, now)?;
    level::rate(quote, chain.pck(), collateral, terms)
}

/// Checks an ECDSA P-256 SHA-256 signature r‖s under an uncompressed point.
fn check_p256(point: &[u8], message: &[u8], signature: &[u8; 64]) -> Result<(), ()> {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).map_err(|_| ())
}

fn check_bindings(body: &TdBody, x: &Expectation<'_>) -> Result<(), Rejection> {
    let expected = fit(x.report_data, body.report_data.len());
    if verify_slices_are_equal(&expected, &body.report_data).is_err() {
        return Err(Rejection::ReportData {
            tee: Tee::Tdx,
            expected: hex::encode(expected),
            found: hex::encode(body.report_data),
        });
    }
    let Some(digest) = x.init_data_digest else { return Ok(()) };
    let expected = fit(digest, body.mr_config_id.len());
    if expected != body.mr_config_id {
        return Err(Rejection::MrConfigId {
            expected: hex::encode(expected),
            found: hex::encode(body.mr_config_id),
        });
    }
    Ok(())
}
