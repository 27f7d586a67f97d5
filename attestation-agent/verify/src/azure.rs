//! Verification of evidence from Azure confidential machines.
//!
//! The hardware's signature vouches for a hash, the hash for the runtime data, the runtime data for the TPM's attestation
//! key, the key for a quote, the quote for the nonce and the registers (Microsoft, "Guest attestation for Confidential
//! VMs"). The order of checks and the claim names are those of Trustee's Azure verifiers. From version 2 of the evidence on
//! the nonce is also in the runtime data, so that the hardware's report is of this session; older versions let a report
//! be used again, and whoever takes them has to say so.

use cc_evidence::HashAlgorithm;
use cc_evidence::azure::{AzureEvidence, EvidenceVersion, Hardware, HclReport};
use cc_evidence::snp::{CertEntry, CertKind, Report, SnpEvidence};
use cc_evidence::tdx::TdxEvidence;
use cc_evidence::tpm::Signature;
use serde_json::{Map, Value};

use crate::tdx::Collateral;
use crate::tpm::{AttestationKey, UnreadableKey, check_init_data, verify_quote};
use crate::{Rejection, TrustRoots, snp, tdx};

mod claims;

pub use claims::AzureClaims;

/// What the evidence has to match.
#[derive(Clone, Copy, Debug)]
pub struct Expectation<'a> {
    /// Digest that the session binds, 1 to 64 bytes; the TPM's nonce has exactly these bytes.
    pub report_data: &'a [u8],
    /// Digest of the init-data document, 32 bytes, which PCR 8 was extended with; `None` when the guest sent none.
    pub init_data_digest: Option<&'a [u8]>,
    /// Time of verification, seconds since 1970.
    pub now: u64,
    /// The oldest version of evidence that is good enough.
    pub oldest: EvidenceVersion,
}

/// Runs all checks and gives the claims, or the first check that fails. `collateral` rates TDX; without it the claim
/// `tcb_status` is `Unverified`.
///
/// # Errors
/// A [`Rejection`] that names the check.
pub fn verify(
    evidence: &AzureEvidence,
    roots: &TrustRoots,
    collateral: Option<&Collateral>,
    x: &Expectation<'_>,
) -> Result<AzureClaims, Rejection> {
    let missing = |what| Err(Rejection::NothingExpected { tee: evidence.tee, what });
    if x.report_data.is_empty() {
        return missing("report data");
    }
    if x.init_data_digest.is_some_and(<[u8]>::is_empty) {
        return missing("init-data digest");
    }
    if evidence.version < x.oldest {
        return Err(Rejection::EvidenceVersion {
            found: evidence.version.number(),
            oldest: x.oldest.number(),
        });
    }
    let hcl = read_hcl(evidence)?;
    verify_tpm(evidence, &hcl, x.report_data)?;
    verify_binding(&hcl)?;
    if evidence.version >= EvidenceVersion::V2 {
        verify_user_data(&hcl, x.report_data)?;
    }
    let hardware = verify_hardware(evidence, &hcl, roots, collateral, x.now)?;
    if let Some(digest) = x.init_data_digest {
        check_init_data(&evidence.quote.pcrs, digest)?;
    }
    Ok(AzureClaims::new(hardware, &evidence.quote.pcrs, x.report_data))
}

/// The HCL report of `evidence`, which must be of the hardware that the evidence names.
///
/// # Errors
/// [`Rejection::HclReport`].
pub fn read_hcl(evidence: &AzureEvidence) -> Result<HclReport, Rejection> {
    let unreadable = |why: String| Rejection::HclReport { why };
    let hcl = HclReport::parse(&evidence.hcl_report).map_err(|e| unreadable(e.to_string()))?;
    if hcl.tee() != evidence.tee {
        return Err(unreadable(format!("it is of {}, the evidence of {}", hcl.tee(), evidence.tee)));
    }
    Ok(hcl)
}

/// Verifies the TPM's quote by the key that `hcl` names, over the nonce `report_data`.
///
/// # Errors
/// As [`verify_quote`].
pub fn verify_tpm(evidence: &AzureEvidence, hcl: &HclReport, report_data: &[u8]) -> Result<(), Rejection> {
    let ak = &hcl.runtime().ak;
    let key = AttestationKey::from_parts(&ak.modulus, &ak.exponent)
        .map_err(|UnreadableKey(why)| Rejection::HclReport { why: format!("its attestation key: {why}") })?;
    let signature =
        Signature::RsaSsa { hash: HashAlgorithm::Sha256.tcg_id(), bytes: evidence.quote.signature.clone() };
    verify_quote(&evidence.quote.message, &signature, &key, report_data, &evidence.quote.pcrs).map(drop)
}

/// Verifies that the hardware's report stands for the runtime data beside it.
///
/// # Errors
/// [`Rejection::RuntimeData`].
pub fn verify_binding(hcl: &HclReport) -> Result<(), Rejection> {
    if hcl.binds_runtime_data() {
        return Ok(());
    }
    Err(Rejection::RuntimeData {
        expected: hex::encode(hcl.bound_report_data()),
        found: hex::encode(hcl.report_data()),
    })
}

/// Verifies what makes the hardware's report genuine, whatever it was asked over: on SEV-SNP the report's own signature
/// and the certificate's chain, on TDX the quote. Gives the claims of the hardware.
///
/// # Errors
/// As [`snp::verify`] and [`tdx::verify`].
pub fn verify_hardware(
    evidence: &AzureEvidence,
    hcl: &HclReport,
    roots: &TrustRoots,
    collateral: Option<&Collateral>,
    now: u64,
) -> Result<Map<String, Value>, Rejection> {
    let report_data = hcl.bound_report_data();
    match hcl.hardware() {
        Hardware::Snp(report) => {
            let vcek = CertEntry { kind: CertKind::Vcek, data: evidence.endorsement.clone() };
            let whole = SnpEvidence { report: Report::clone(report), certs: vec![vcek] };
            let x =
                snp::Expectation { report_data: &report_data, init_data_digest: None, now, extra_certs: &[] };
            snp::verify(&whole, roots, &x).map(|verified| claims::of_snp(report, &verified))
        }
        Hardware::Tdx(_) => {
            let quote = TdxEvidence { quote: evidence.endorsement.clone(), cc_eventlog: None };
            let x = tdx::Expectation { report_data: &report_data, init_data_digest: None, now };
            tdx::verify(&quote, roots, collateral, &x).map(|verified| claims::of_tdx(&verified))
        }
    }
}

fn verify_user_data(hcl: &HclReport, report_data: &[u8]) -> Result<(), Rejection> {
    if hcl.runtime().has_user_data(report_data) {
        return Ok(());
    }
    let found = hcl.runtime().user_data.as_deref().unwrap_or_default();
    Err(Rejection::UserData { expected: hex::encode(report_data), found: hex::encode(found) })
}
