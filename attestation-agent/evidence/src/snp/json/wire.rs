//! The members of the JSON report, in wire order, and their way to and from report fields.
//!
//! Names are those of the crate `sev` 6.3 as Trustee uses it. `fmc` and the CPUID members are `null` where a
//! report has none; the mitigation vectors are left out below version 5, because older verifiers do not
//! know them. On reading, absent and `null` mean the same. It is NOT public: nobody else needs this shape.

use std::fmt;

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::ser::{SerializeTuple as _, Serializer};
use serde::{Deserialize, Serialize};

use super::super::report::{CpuId, Fields, FirmwareVersion, Signature};
use super::super::{KeyInfo, PlatformInfo, Policy, Report, Tcb};
use super::json_error;
use crate::Error;

#[derive(Serialize, Deserialize)]
pub(super) struct ReportJson {
    version: u32,
    guest_svn: u32,
    policy: u64,
    family_id: Bytes<16>,
    image_id: Bytes<16>,
    vmpl: u32,
    sig_algo: u32,
    current_tcb: TcbJson,
    plat_info: u64,
    key_info: u32,
    report_data: Bytes<64>,
    measurement: Bytes<48>,
    host_data: Bytes<32>,
    id_key_digest: Bytes<48>,
    author_key_digest: Bytes<48>,
    report_id: Bytes<32>,
    report_id_ma: Bytes<32>,
    reported_tcb: TcbJson,
    cpuid_fam_id: Option<u8>,
    cpuid_mod_id: Option<u8>,
    cpuid_step: Option<u8>,
    chip_id: Bytes<64>,
    committed_tcb: TcbJson,
    current: VersionJson,
    committed: VersionJson,
    launch_tcb: TcbJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    launch_mit_vector: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_mit_vector: Option<u64>,
    signature: SignatureJson,
}

#[derive(Serialize, Deserialize)]
struct TcbJson {
    fmc: Option<u8>,
    bootloader: u8,
    tee: u8,
    snp: u8,
    microcode: u8,
}

#[derive(Serialize, Deserialize)]
struct VersionJson {
    major: u8,
    minor: u8,
    build: u8,
}

#[derive(Serialize, Deserialize)]
struct SignatureJson {
    r: Bytes<72>,
    s: Bytes<72>,
}

impl ReportJson {
    pub(super) fn from_fields(f: &Fields) -> Self {
        ReportJson {
            version: f.version,
            guest_svn: f.guest_svn,
            policy: f.policy.0,
            family_id: Bytes(f.family_id),
            image_id: Bytes(f.image_id),
            vmpl: f.vmpl,
            sig_algo: f.sig_algo,
            current_tcb: f.current_tcb.into(),
            plat_info: f.platform_info.0,
            key_info: f.key_info.0,
            report_data: Bytes(f.report_data),
            measurement: Bytes(f.measurement),
            host_data: Bytes(f.host_data),
            id_key_digest: Bytes(f.id_key_digest),
            author_key_digest: Bytes(f.author_key_digest),
            report_id: Bytes(f.report_id),
            report_id_ma: Bytes(f.report_id_ma),
            reported_tcb: f.reported_tcb.into(),
            cpuid_fam_id: f.cpuid.map(|cpu| cpu.family),
            cpuid_mod_id: f.cpuid.map(|cpu| cpu.model),
            cpuid_step: f.cpuid.map(|cpu| cpu.stepping),
            chip_id: Bytes(f.chip_id),
            committed_tcb: f.committed_tcb.into(),
            current: f.current_firmware.into(),
            committed: f.committed_firmware.into(),
            launch_tcb: f.launch_tcb.into(),
            launch_mit_vector: f.launch_mit_vector,
            current_mit_vector: f.current_mit_vector,
            signature: SignatureJson { r: Bytes(f.signature.r), s: Bytes(f.signature.s) },
        }
    }

    /// Rebuilds the report bytes and reads them again.
    ///
    /// The second reading must give the same fields; it does not when the JSON holds something that a
    /// report of that version or processor has no place for, and then two readers could disagree.
    pub(super) fn rebuild(self) -> Result<Report, Error> {
        let cpuid = match (self.cpuid_fam_id, self.cpuid_mod_id, self.cpuid_step) {
            (Some(family), Some(model), Some(stepping)) => Some(CpuId { family, model, stepping }),
            (None, None, None) => None,
            _ => return Err(json_error("the CPUID members are given only in part".to_owned())),
        };
        let fields = Fields {
            version: self.version,
            guest_svn: self.guest_svn,
            policy: Policy(self.policy),
            family_id: self.family_id.0,
            image_id: self.image_id.0,
            vmpl: self.vmpl,
            sig_algo: self.sig_algo,
            current_tcb: self.current_tcb.into(),
            platform_info: PlatformInfo(self.plat_info),
            key_info: KeyInfo(self.key_info),
            report_data: self.report_data.0,
            measurement: self.measurement.0,
            host_data: self.host_data.0,
            id_key_digest: self.id_key_digest.0,
            author_key_digest: self.author_key_digest.0,
            report_id: self.report_id.0,
            report_id_ma: self.report_id_ma.0,
            reported_tcb: self.reported_tcb.into(),
            cpuid,
            chip_id: self.chip_id.0,
            committed_tcb: self.committed_tcb.into(),
            current_firmware: self.current.into(),
            committed_firmware: self.committed.into(),
            launch_tcb: self.launch_tcb.into(),
            launch_mit_vector: self.launch_mit_vector,
            current_mit_vector: self.current_mit_vector,
            signature: Signature { r: self.signature.r.0, s: self.signature.s.0 },
        };
        let report = Report::parse(&fields.encode())?;
        if *report.fields() == fields {
            Ok(report)
        } else {
            Err(json_error(format!(
                "fmc, the CPUID members or the mitigation vectors do not fit report version {}{}",
                fields.version,
                fields.cpuid.map_or_else(String::new, |cpu| format!(" on {cpu}")),
            )))
        }
    }
}

impl From<Tcb> for TcbJson {
    fn from(t: Tcb) -> Self {
        TcbJson { fmc: t.fmc, bootloader: t.bootloader, tee: t.tee, snp: t.snp, microcode: t.microcode }
    }
}

impl From<TcbJson> for Tcb {
    fn from(t: TcbJson) -> Self {
        Tcb::from_parts(t.fmc, t.bootloader, t.tee, t.snp, t.microcode)
    }
}

impl From<FirmwareVersion> for VersionJson {
    fn from(v: FirmwareVersion) -> Self {
        VersionJson { major: v.major, minor: v.minor, build: v.build }
    }
}

impl From<VersionJson> for FirmwareVersion {
    fn from(v: VersionJson) -> Self {
        FirmwareVersion { major: v.major, minor: v.minor, build: v.build }
    }
}

/// Exactly `N` bytes as a JSON array of numbers; serde knows arrays up to 32 only.
struct Bytes<const N: usize>([u8; N]);

impl<const N: usize> Serialize for Bytes<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(N)?;
        for byte in &self.0 {
            tuple.serialize_element(byte)?;
        }
        tuple.end()
    }
}

impl<'de, const N: usize> Deserialize<'de> for Bytes<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Exact<const N: usize>;

        impl<'de, const N: usize> Visitor<'de> for Exact<N> {
            type Value = Bytes<N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an array of exactly {N} bytes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Bytes<N>, A::Error> {
                let mut bytes = [0; N];
                for (index, byte) in bytes.iter_mut().enumerate() {
                    *byte = seq.next_element()?.ok_or_else(|| A::Error::invalid_length(index, &self))?;
                }
                match seq.next_element::<serde::de::IgnoredAny>()? {
                    None => Ok(Bytes(bytes)),
                    Some(_) => Err(A::Error::invalid_length(N + 1, &self)),
                }
            }
        }

        // `deserialize_seq` and not `deserialize_tuple`: a surplus element must reach the visitor.
        deserializer.deserialize_seq(Exact)
    }
}
