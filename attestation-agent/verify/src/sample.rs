//! Evidence without hardware: only the report data is compared.
//!
//! It proves NOTHING about the machine; a service must accept it behind an explicit switch only. The
//! constant claims are those of Trustee's sample verifier, so that the same policies work.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cc_evidence::{Tee, sample};
use serde::Serialize;

use crate::Rejection;

/// What sample evidence says, under the claim names of Trustee's sample verifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SampleClaims {
    /// Version number from the evidence, a text.
    pub svn: String,
    /// Report data from the evidence, standard base64.
    pub report_data: String,
    /// Init-data digest that was given, standard base64; nothing checks it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_data: Option<String>,
    /// A constant.
    pub launch_digest: &'static str,
    /// A constant.
    pub platform_version: PlatformVersion,
    /// A constant.
    pub debug: bool,
}

/// The platform version of sample claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PlatformVersion {
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
}

/// Compares the report data (raw bytes, no padding) of sample evidence and gives its claims.
///
/// `tee` is [`Tee::Sample`] or [`Tee::SampleDevice`]; `init_data_digest` is passed through.
///
/// # Errors
/// [`Rejection::NothingExpected`] for an empty `report_data`, [`Rejection::Format`],
/// [`Rejection::ReportData`].
pub fn verify(
    tee: Tee,
    evidence_json: &str,
    report_data: &[u8],
    init_data_digest: Option<&[u8]>,
) -> Result<SampleClaims, Rejection> {
    if report_data.is_empty() {
        return Err(Rejection::NothingExpected { tee, what: "report data" });
    }
    let evidence = sample::parse(evidence_json).map_err(|e| Rejection::Format { tee, why: e.to_string() })?;
    if verify_slices_are_equal(&evidence.report_data, report_data).is_err() {
        return Err(Rejection::ReportData {
            tee,
            expected: hex::encode(report_data),
            found: hex::encode(&evidence.report_data),
        });
    }
    Ok(SampleClaims {
        svn: evidence.svn,
        report_data: BASE64_STANDARD.encode(evidence.report_data),
        init_data: init_data_digest.map(|digest| BASE64_STANDARD.encode(digest)),
        launch_digest: "abcde",
        platform_version: PlatformVersion { major: 1, minor: 4 },
        debug: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_have_the_names_that_policies_use() {
        let claims = verify(Tee::Sample, &sample::evidence_json(&[0]), &[0], Some(&[1])).unwrap();
        assert_eq!(
            serde_json::to_string(&claims).unwrap(),
            concat!(
                r#"{"svn":"1","report_data":"AA==","init_data":"AQ==","launch_digest":"abcde","#,
                r#""platform_version":{"major":1,"minor":4},"debug":false}"#
            )
        );
    }

    #[test]
    fn report_data_must_be_equal_and_expected() {
        let evidence = sample::device_evidence_json(&[1, 0]);
        let check = |expected: &[u8]| {
            verify(Tee::SampleDevice, &evidence, expected, None).map_err(|rejection| rejection.check())
        };
        assert!(check(&[1, 0]).is_ok());
        assert_eq!(check(&[1]), Err("sampledevice.report_data"));
        assert_eq!(check(&[1, 0, 0]), Err("sampledevice.report_data"));
        assert_eq!(check(&[]), Err("expectation.missing"));
        let malformed = verify(Tee::Sample, "{}", &[1], None).map_err(|rejection| rejection.check());
        assert_eq!(malformed, Err("evidence.format"));
    }
}
