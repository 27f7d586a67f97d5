//! What verified TDX evidence says, under the claim names that attestation policies use.
//!
//! Names are those of Trustee's TDX verifier; byte fields are hexadecimal texts of the bytes as they stand in the
//! quote. It says nothing about whether a claim is good: that is the appraisal's work.

use std::time::Duration;

use cc_evidence::dcap::Header;
use cc_evidence::tdx::{Quote, TdAttributes, TdBody};
use der::DateTime;
use serde::Serialize;

use super::chain::ChainReport;
use super::event_log::EventClaim;
use super::level::TcbReport;

/// Status of a platform that nothing was compared with.
const UNVERIFIED: &str = "Unverified";

/// The claims of verified evidence. Members that depend on collateral are left out without it, except that
/// `tcb_status` and `tcb_status_current` say `Unverified`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TdxClaims {
    /// The signed part of the quote.
    pub quote: QuoteClaims,
    /// Bits of the domain's attributes.
    pub td_attributes: TdAttributeClaims,
    /// The records of the event log, whose digests lead to the registers; left out without a log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uefi_event_logs: Option<Vec<EventClaim>>,
    /// The caller's data, 64 bytes.
    pub report_data: String,
    /// MRCONFIGID, 48 bytes: the init-data digest.
    pub init_data: String,
    /// Status of platform, TDX module and quoting enclave, or `Unverified`.
    pub tcb_status: &'static str,
    /// The same with the TDX module that runs now.
    pub tcb_status_current: &'static str,
    /// `"0"` when all collateral was valid at the time of verification, `"1"` when some had expired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collateral_expiration_status: Option<&'static str>,
    /// Intel's advisories for the machine's level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advisory_ids: Option<Vec<String>>,
    /// Date of the machine's level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcb_date: Option<String>,
    /// When the oldest part of the collateral was issued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earliest_issue_date: Option<String>,
    /// When the newest part was issued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest_issue_date: Option<String>,
    /// When the first part expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earliest_expiration_date: Option<String>,
    /// Number of the list that does not revoke the platform's certificate, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pck_crl_num: Option<String>,
    /// Number of the list that does not revoke its authority, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_ca_crl_num: Option<String>,
    /// Number of Intel's evaluation behind the TCB info.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcb_eval_num: Option<u32>,
    /// 0 standard, 1 scalable, 2 scalable with integrity.
    pub sgx_type: u8,
    /// The platform can be changed after registration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_dynamic_platform: Option<bool>,
    /// The platform's keys are kept at Intel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_cached_keys: Option<bool>,
    /// Simultaneous multithreading is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_smt_enabled: Option<bool>,
    /// Identifier of the platform, its bytes in reverse order as Trustee gives them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform_instance_id: Option<String>,
    /// The chain ends at a test root: an emulator made this evidence. Left out when false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub test_root: bool,
}

/// The signed part of a quote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QuoteClaims {
    /// The header.
    pub header: HeaderClaims,
    /// The body.
    pub body: BodyClaims,
}

/// The header of a quote, hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HeaderClaims {
    /// Version, 2 bytes.
    pub version: String,
    /// Type of the attestation key, 2 bytes.
    pub att_key_type: String,
    /// Type of the TEE, 4 bytes.
    pub tee_type: String,
    /// 4 bytes.
    pub reserved: String,
    /// Vendor of the quoting enclave, 16 bytes.
    pub vendor_id: String,
    /// Data of the quoting enclave, 20 bytes.
    pub user_data: String,
}

/// The body of a quote, hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BodyClaims {
    /// Security versions of the TDX module, 16 bytes.
    pub tcb_svn: String,
    /// Digest of the TDX module, 48 bytes.
    pub mr_seam: String,
    /// Its signer, 48 bytes.
    pub mrsigner_seam: String,
    /// Its attributes, 8 bytes.
    pub seam_attributes: String,
    /// Attributes of the domain, 8 bytes.
    pub td_attributes: String,
    /// Extended features of the domain, 8 bytes.
    pub xfam: String,
    /// Digest of the domain's initial content, 48 bytes.
    pub mr_td: String,
    /// Configuration, 48 bytes.
    pub mr_config_id: String,
    /// Owner, 48 bytes.
    pub mr_owner: String,
    /// Configuration by the owner, 48 bytes.
    pub mr_owner_config: String,
    /// Run-time register 0, 48 bytes.
    pub rtmr_0: String,
    /// Run-time register 1, 48 bytes.
    pub rtmr_1: String,
    /// Run-time register 2, 48 bytes.
    pub rtmr_2: String,
    /// Run-time register 3, 48 bytes.
    pub rtmr_3: String,
    /// The caller's data, 64 bytes.
    pub report_data: String,
    /// Security versions of the TDX module that runs now, 16 bytes; since TDX 1.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tee_tcb_svn2: Option<String>,
    /// Digest of the service domains, 48 bytes; since TDX 1.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mr_servicetd: Option<String>,
}

/// Bits of a domain's attributes that policies ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TdAttributeClaims {
    /// The host may debug the domain.
    pub debug: bool,
    /// Taken pages stop the domain.
    pub septve_disable: bool,
    /// Supervisor protection keys.
    pub protection_keys: bool,
    /// Key Locker.
    pub key_locker: bool,
    /// Performance monitoring.
    pub perfmon: bool,
}

impl TdxClaims {
    pub(super) fn new(
        quote: &Quote,
        chain: &ChainReport,
        tcb: Option<&TcbReport>,
        events: Option<Vec<EventClaim>>,
    ) -> Self {
        let pck = chain.pck();
        let issued = tcb.and_then(|tcb| tcb.terms.issued);
        TdxClaims {
            quote: QuoteClaims {
                header: HeaderClaims::new(&quote.header),
                body: BodyClaims::new(&quote.body),
            },
            td_attributes: TdAttributeClaims::new(quote.body.td_attributes),
            uefi_event_logs: events,
            report_data: hex::encode(quote.body.report_data),
            init_data: hex::encode(quote.body.mr_config_id),
            tcb_status: tcb.map_or(UNVERIFIED, |tcb| tcb.status.as_str()),
            tcb_status_current: tcb.map_or(UNVERIFIED, |tcb| tcb.current_status.as_str()),
            collateral_expiration_status: tcb.map(|tcb| if tcb.collateral_expired { "1" } else { "0" }),
            advisory_ids: tcb.map(|tcb| tcb.advisory_ids.clone()),
            tcb_date: tcb.map(|tcb| tcb.tcb_date.clone()),
            earliest_issue_date: issued.and_then(|(first, _)| date(first)),
            latest_issue_date: issued.and_then(|(_, last)| date(last)),
            earliest_expiration_date: tcb.and_then(|tcb| tcb.terms.expires).and_then(date),
            pck_crl_num: tcb.and_then(|tcb| tcb.terms.pck_crl_number.clone()),
            root_ca_crl_num: tcb.and_then(|tcb| tcb.terms.root_crl_number.clone()),
            tcb_eval_num: tcb.map(|tcb| tcb.evaluation_number),
            sgx_type: pck.sgx_type,
            is_dynamic_platform: pck.dynamic_platform,
            is_cached_keys: pck.cached_keys,
            is_smt_enabled: pck.smt_enabled,
            platform_instance_id: pck.platform_instance_id.map(|mut id| {
                id.reverse();
                hex::encode(id)
            }),
            test_root: chain.test_root(),
        }
    }
}

impl HeaderClaims {
    fn new(header: &Header) -> Self {
        HeaderClaims {
            version: hex::encode(header.version.to_le_bytes()),
            att_key_type: hex::encode(header.key_type.to_le_bytes()),
            tee_type: hex::encode(header.tee_type.to_le_bytes()),
            reserved: hex::encode(header.reserved),
            vendor_id: hex::encode(header.vendor_id),
            user_data: hex::encode(header.user_data),
        }
    }
}

impl BodyClaims {
    fn new(body: &TdBody) -> Self {
        let [rtmr_0, rtmr_1, rtmr_2, rtmr_3] = body.rtmr.map(hex::encode);
        BodyClaims {
            tcb_svn: hex::encode(body.tee_tcb_svn),
            mr_seam: hex::encode(body.mr_seam),
            mrsigner_seam: hex::encode(body.mrsigner_seam),
            seam_attributes: hex::encode(body.seam_attributes.to_le_bytes()),
            td_attributes: hex::encode(body.td_attributes.0.to_le_bytes()),
            xfam: hex::encode(body.xfam.to_le_bytes()),
            mr_td: hex::encode(body.mr_td),
            mr_config_id: hex::encode(body.mr_config_id),
            mr_owner: hex::encode(body.mr_owner),
            mr_owner_config: hex::encode(body.mr_owner_config),
            rtmr_0,
            rtmr_1,
            rtmr_2,
            rtmr_3,
            report_data: hex::encode(body.report_data),
            tee_tcb_svn2: body.tdx15.map(|added| hex::encode(added.tee_tcb_svn2)),
            mr_servicetd: body.tdx15.map(|added| hex::encode(added.mr_servicetd)),
        }
    }
}

impl TdAttributeClaims {
    const fn new(attributes: TdAttributes) -> Self {
        TdAttributeClaims {
            debug: attributes.debug(),
            septve_disable: attributes.sept_ve_disable(),
            protection_keys: attributes.protection_keys(),
            key_locker: attributes.key_locker(),
            perfmon: attributes.perfmon(),
        }
    }
}

/// Seconds since 1970 as RFC 3339; nothing beyond the year 9999.
fn date(seconds: u64) -> Option<String> {
    DateTime::from_unix_duration(Duration::from_secs(seconds)).ok().map(|date| date.to_string())
}
