//! What verified evidence of an Azure machine says, under the claim names that attestation policies use.
//!
//! Names and types are those of Trustee's Azure verifiers: on SEV-SNP every value is a text, bytes of the hardware in
//! base64; on TDX the claims of a TDX quote; in both cases the TPM's registers as `tpm.pcr00` to `tpm.pcr23`, and
//! report data and init-data (PCR 8) in hexadecimal.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cc_evidence::snp::Report;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::snp::SnpClaims;
use crate::tdx::TdxClaims;
use crate::tpm::init_data_pcr;

/// The claims of verified evidence, a JSON object.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct AzureClaims(Map<String, Value>);

impl AzureClaims {
    /// Adds what the TPM says to the claims of the hardware.
    pub(super) fn new(mut hardware: Map<String, Value>, pcrs: &[[u8; 32]], report_data: &[u8]) -> Self {
        let registers: Map<String, Value> = pcrs
            .iter()
            .enumerate()
            .map(|(number, value)| (format!("pcr{number:02}"), hex::encode(value).into()))
            .collect();
        let init_data = hex::encode(init_data_pcr(pcrs));
        hardware.insert("tpm".to_owned(), registers.into());
        hardware.insert("report_data".to_owned(), hex::encode(report_data).into());
        hardware.insert("init_data".to_owned(), init_data.into());
        Self(hardware)
    }

    /// One claim; a path of member names with dots between them.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Value> {
        let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
        let value = self.0.get(first)?;
        rest.map_or(Some(value), |rest| rest.split('.').try_fold(value, |value, member| value.get(member)))
    }
}

/// The claims of a verified SNP report, as texts.
pub(super) fn of_snp(report: &Report, verified: &SnpClaims) -> Map<String, Value> {
    let numbers = [
        ("policy_abi_major", verified.policy_abi_major),
        ("policy_abi_minor", verified.policy_abi_minor),
        ("reported_tcb_bootloader", verified.reported_tcb_bootloader),
        ("reported_tcb_tee", verified.reported_tcb_tee),
        ("reported_tcb_snp", verified.reported_tcb_snp),
        ("reported_tcb_microcode", verified.reported_tcb_microcode),
    ];
    let flags = [
        ("policy_smt_allowed", verified.policy_smt_allowed),
        ("policy_migrate_ma", verified.policy_migrate_ma),
        ("policy_debug_allowed", verified.policy_debug_allowed),
        ("policy_single_socket", verified.policy_single_socket),
        ("platform_tsme_enabled", verified.platform_tsme_enabled),
        ("platform_smt_enabled", verified.platform_smt_enabled),
    ];
    let bytes = [("measurement", report.measurement.as_slice()), ("chip_id", report.chip_id.as_slice())];
    let mut claims = Map::new();
    claims.extend(numbers.map(|(name, value)| (name.to_owned(), value.to_string().into())));
    claims.extend(flags.map(|(name, value)| (name.to_owned(), value.to_string().into())));
    claims.extend(bytes.map(|(name, value)| (name.to_owned(), BASE64_STANDARD.encode(value).into())));
    if verified.test_root {
        claims.insert("test_root".to_owned(), true.into());
    }
    claims
}

/// The claims of a verified TDX quote.
pub(super) fn of_tdx(verified: &TdxClaims) -> Map<String, Value> {
    match serde_json::to_value(verified) {
        Ok(Value::Object(claims)) => claims,
        // A structure of texts, numbers and lists is an object; a policy refuses what has no claims.
        _ => Map::new(),
    }
}
