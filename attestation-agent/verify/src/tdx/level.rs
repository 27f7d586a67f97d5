//! Which TCB level a machine is at, and what Intel says about that level.
//!
//! The matching of the PCS API version 4 reference: the first level, from the newest, whose every security
//! version the machine reaches. Platform, TDX module and quoting enclave (QE) are rated separately and joined:
//! an old part makes the whole old. What a status is worth is the appraisal's work, but a revoked level is
//! refused here.

use std::fmt;

use cc_evidence::dcap::EnclaveFields;
use cc_evidence::tdx::{Quote, TdBody};
use serde::{Deserialize, Serialize};

use super::collateral::{
    Collateral, EnclaveTcb, Level, ModuleIdentity, PlatformTcb, QeIdentity, TcbInfo, Terms, unusable,
};
use super::pck::PckInfo;
use crate::Rejection;

/// Intel's word on a TCB level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TcbStatus {
    /// Nothing is known to be missing.
    UpToDate,
    /// Software in the domain needs mitigations.
    SWHardeningNeeded,
    /// The platform may need another configuration.
    ConfigurationNeeded,
    /// Both of the above.
    ConfigurationAndSWHardeningNeeded,
    /// Updates are missing.
    OutOfDate,
    /// Updates are missing and the platform may need another configuration.
    OutOfDateConfigurationNeeded,
    /// Not to be trusted at all.
    Revoked,
}

impl TcbStatus {
    /// The name in collateral and claims.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            TcbStatus::UpToDate => "UpToDate",
            TcbStatus::SWHardeningNeeded => "SWHardeningNeeded",
            TcbStatus::ConfigurationNeeded => "ConfigurationNeeded",
            TcbStatus::ConfigurationAndSWHardeningNeeded => "ConfigurationAndSWHardeningNeeded",
            TcbStatus::OutOfDate => "OutOfDate",
            TcbStatus::OutOfDateConfigurationNeeded => "OutOfDateConfigurationNeeded",
            TcbStatus::Revoked => "Revoked",
        }
    }

    /// The status of two parts together: each shortfall of either stays.
    #[must_use]
    pub const fn join(self, other: Self) -> Self {
        use TcbStatus::{
            ConfigurationAndSWHardeningNeeded, ConfigurationNeeded, OutOfDate, OutOfDateConfigurationNeeded,
            Revoked, SWHardeningNeeded, UpToDate,
        };
        if matches!(self, Revoked) || matches!(other, Revoked) {
            return Revoked;
        }
        let old = self.is_old() || other.is_old();
        let configuration = self.needs_configuration() || other.needs_configuration();
        let hardening = self.needs_hardening() || other.needs_hardening();
        match (old, configuration, hardening) {
            (true, true, _) => OutOfDateConfigurationNeeded,
            (true, false, _) => OutOfDate,
            (false, true, true) => ConfigurationAndSWHardeningNeeded,
            (false, true, false) => ConfigurationNeeded,
            (false, false, true) => SWHardeningNeeded,
            (false, false, false) => UpToDate,
        }
    }

    const fn is_old(self) -> bool {
        matches!(self, TcbStatus::OutOfDate | TcbStatus::OutOfDateConfigurationNeeded)
    }

    const fn needs_configuration(self) -> bool {
        matches!(
            self,
            TcbStatus::ConfigurationNeeded
                | TcbStatus::ConfigurationAndSWHardeningNeeded
                | TcbStatus::OutOfDateConfigurationNeeded
        )
    }

    const fn needs_hardening(self) -> bool {
        matches!(self, TcbStatus::SWHardeningNeeded | TcbStatus::ConfigurationAndSWHardeningNeeded)
    }
}

impl fmt::Display for TcbStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How collateral rates a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcbReport {
    /// Platform, TDX module at the start of the domain and QE together.
    pub status: TcbStatus,
    /// The same with the TDX module that runs now; differs only after an update under a running domain.
    pub current_status: TcbStatus,
    /// Date of the platform's level, RFC 3339.
    pub tcb_date: String,
    /// Identifiers of Intel's advisories for the levels found.
    pub advisory_ids: Vec<String>,
    /// Some part of the collateral has expired.
    pub collateral_expired: bool,
    /// Number of Intel's evaluation that the TCB info came from.
    pub evaluation_number: u32,
    pub(super) terms: Terms,
}

/// Rates a quote by collateral whose signatures and dates were checked.
pub(super) fn rate(
    quote: &Quote,
    pck: &PckInfo,
    collateral: &Collateral,
    terms: Terms,
) -> Result<TcbReport, Rejection> {
    let (info, identity) = (&collateral.tcb_info.content, &collateral.qe_identity.content);
    if info.fmspc.0 != pck.fmspc || info.pce_id.0 != pck.pce_id {
        let why = format!(
            "it is for FMSPC {} and PCEID {}, the platform has {} and {}",
            hex::encode(info.fmspc.0),
            hex::encode(info.pce_id.0),
            hex::encode(pck.fmspc),
            hex::encode(pck.pce_id)
        );
        return Err(unusable("TCB info", why));
    }
    let qe = rate_qe(&quote.signature.qe_report, identity)?;
    let (platform, mut parts) = rate_svn(&quote.body, &quote.body.tee_tcb_svn, pck, info)?;
    parts.push(Rated::of(qe));
    let status = joined(&parts);
    let current_status = match quote.body.tdx15 {
        Some(now) if now.tee_tcb_svn2 != quote.body.tee_tcb_svn => {
            let (_, current) = rate_svn(&quote.body, &now.tee_tcb_svn2, pck, info)?;
            let current_status = joined(&current).join(qe.tcb_status);
            parts.extend(current);
            current_status
        }
        _ => status,
    };
    let mut advisory_ids: Vec<String> = parts.iter().flat_map(|part| part.advisories).cloned().collect();
    advisory_ids.sort();
    advisory_ids.dedup();
    if [status, current_status].contains(&TcbStatus::Revoked) {
        let advisories =
            if advisory_ids.is_empty() { "no advisory".to_owned() } else { advisory_ids.join(", ") };
        return Err(Rejection::TcbRevoked { advisories });
    }
    Ok(TcbReport {
        status,
        current_status,
        tcb_date: platform.tcb_date.clone(),
        advisory_ids,
        collateral_expired: terms.expired,
        evaluation_number: info.tcb_evaluation_data_number,
        terms,
    })
}

/// The status and advisories of one part.
#[derive(Clone, Copy, Debug)]
struct Rated<'a> {
    status: TcbStatus,
    advisories: &'a [String],
}

impl<'a> Rated<'a> {
    fn of<T>(level: &'a Level<T>) -> Self {
        Rated { status: level.tcb_status, advisories: &level.advisory_ids }
    }
}

fn joined(parts: &[Rated<'_>]) -> TcbStatus {
    parts.iter().fold(TcbStatus::UpToDate, |status, part| status.join(part.status))
}

/// Rates platform and TDX module with one set of TDX security versions.
fn rate_svn<'a>(
    body: &TdBody,
    svn: &[u8; 16],
    pck: &PckInfo,
    info: &'a TcbInfo,
) -> Result<(&'a Level<PlatformTcb>, Vec<Rated<'a>>), Rejection> {
    let [module_svn, module_version, ..] = *svn;
    let mut parts = Vec::new();
    if module_version == 0 {
        check_module(body, &info.tdx_module)?;
    } else {
        let id = format!("TDX_{module_version:02x}");
        let module = info
            .tdx_module_identities
            .iter()
            .find(|module| module.id.eq_ignore_ascii_case(&id))
            .ok_or_else(|| Rejection::TdxModule { why: format!("there is no {id}") })?;
        check_module(body, &module.identity)?;
        let level = first_level(&module.tcb_levels, u16::from(module_svn), "TDX module")?;
        parts.push(Rated::of(level));
    }
    // Versions of modules with an identity of their own have just been rated.
    let skipped = if module_version == 0 { 0 } else { 2 };
    let platform = info
        .tcb_levels
        .iter()
        .find(|level| {
            let sgx = pck.components.iter().zip(&level.tcb.sgxtcbcomponents);
            let tdx = svn.iter().zip(&level.tcb.tdxtcbcomponents).skip(skipped);
            pck.pce_svn >= level.tcb.pcesvn && sgx.chain(tdx).all(|(found, least)| *found >= least.svn)
        })
        .ok_or(Rejection::TcbUnsupported { what: "platform" })?;
    parts.push(Rated::of(platform));
    Ok((platform, parts))
}

fn check_module(body: &TdBody, expected: &ModuleIdentity) -> Result<(), Rejection> {
    if body.mrsigner_seam != expected.mrsigner.0 {
        let why = format!("its signer is {}", hex::encode(body.mrsigner_seam));
        return Err(Rejection::TdxModule { why });
    }
    let attributes = body.seam_attributes.to_le_bytes();
    if !equal_under_mask(&attributes, &expected.attributes.0, &expected.attributes_mask.0) {
        return Err(Rejection::TdxModule { why: format!("its attributes are {}", hex::encode(attributes)) });
    }
    Ok(())
}

/// Checks that the enclave is Intel's quoting enclave, and finds its level.
fn rate_qe<'a>(qe: &EnclaveFields, expected: &'a QeIdentity) -> Result<&'a Level<EnclaveTcb>, Rejection> {
    let differs = |why: String| Err(Rejection::QeIdentity { why });
    if qe.mr_signer != expected.mrsigner.0 {
        return differs(format!("its signer is {}", hex::encode(qe.mr_signer)));
    }
    if qe.isv_prod_id != expected.isvprodid {
        return differs(format!("its product is {}, not {}", qe.isv_prod_id, expected.isvprodid));
    }
    if !equal_under_mask(&qe.misc_select, &expected.miscselect.0, &expected.miscselect_mask.0) {
        return differs(format!("its MISCSELECT is {}", hex::encode(qe.misc_select)));
    }
    if !equal_under_mask(&qe.attributes, &expected.attributes.0, &expected.attributes_mask.0) {
        return differs(format!("its attributes are {}", hex::encode(qe.attributes)));
    }
    first_level(&expected.tcb_levels, qe.isv_svn, "quoting enclave")
}

fn first_level<'a>(
    levels: &'a [Level<EnclaveTcb>],
    svn: u16,
    what: &'static str,
) -> Result<&'a Level<EnclaveTcb>, Rejection> {
    levels.iter().find(|level| level.tcb.isvsvn <= svn).ok_or(Rejection::TcbUnsupported { what })
}

fn equal_under_mask<const N: usize>(found: &[u8; N], expected: &[u8; N], mask: &[u8; N]) -> bool {
    found.iter().zip(expected).zip(mask).all(|((found, expected), mask)| found & mask == expected & mask)
}

#[cfg(test)]
mod tests {
    use super::TcbStatus::{
        ConfigurationAndSWHardeningNeeded, ConfigurationNeeded, OutOfDate, OutOfDateConfigurationNeeded,
        Revoked, SWHardeningNeeded, UpToDate,
    };
    #[test]
    fn an_old_part_makes_the_whole_old() {
        let rows = [
            (UpToDate, UpToDate, UpToDate),
            (UpToDate, OutOfDate, OutOfDate),
            (SWHardeningNeeded, OutOfDate, OutOfDate),
            (ConfigurationNeeded, OutOfDate, OutOfDateConfigurationNeeded),
            (ConfigurationAndSWHardeningNeeded, OutOfDate, OutOfDateConfigurationNeeded),
            (OutOfDateConfigurationNeeded, UpToDate, OutOfDateConfigurationNeeded),
            (SWHardeningNeeded, ConfigurationNeeded, ConfigurationAndSWHardeningNeeded),
            (SWHardeningNeeded, UpToDate, SWHardeningNeeded),
            (Revoked, UpToDate, Revoked),
        ];
        for (a, b, expected) in rows {
            assert_eq!((a.join(b), b.join(a)), (expected, expected), "{a} and {b}");
        }
    }

    #[test]
    fn names_are_those_of_the_collateral() {
        for status in [
            UpToDate,
            SWHardeningNeeded,
            ConfigurationNeeded,
            ConfigurationAndSWHardeningNeeded,
            OutOfDate,
            OutOfDateConfigurationNeeded,
            Revoked,
        ] {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
            assert_eq!(status.join(status), status);
        }
    }
}
