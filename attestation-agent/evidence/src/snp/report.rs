//! The attestation report, 1184 bytes, versions 2 to 5.
//!
//! AMD publication 56860, "ATTESTATION_REPORT". All integers are little-endian. Reserved bytes are
//! skipped but stay in the raw form, over which signatures are computed. A newer version is read like
//! version 5 and says so in [`Report::warnings`]; refusing it is a verifier's decision, NOT this parser's.

use std::fmt;
use std::ops::Deref;

use super::policy::{KeyInfo, PlatformInfo, Policy, SigningKey};
use super::tcb::{Product, Tcb, TcbLayout};
use super::{CPUID_SINCE, MITIGATION_SINCE, NEWEST_VERSION, REPORT_LEN, SIGNED_LEN};
use crate::Error;
use crate::read::Reader;

/// A report: its fields, and the bytes that they were read from.
///
/// Dereferences to [`Fields`], read-only, so that fields and signed bytes cannot drift apart.
#[derive(Clone, PartialEq, Eq)]
pub struct Report {
    fields: Fields,
    raw: Box<[u8; REPORT_LEN]>,
}

impl Report {
    /// Reads exactly [`REPORT_LEN`] bytes.
    ///
    /// # Errors
    /// [`Error::Truncated`] naming the field where the bytes end; [`Error::Trailing`] when there are
    /// more; [`Error::Invalid`] for a version below 2, which no released firmware wrote.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let fields = Fields::read(bytes)?;
        let raw = Box::new(*Reader::new(bytes).array("snp.report")?);
        Ok(Report { fields, raw })
    }

    /// The report as it was given.
    #[must_use]
    pub fn raw(&self) -> &[u8; REPORT_LEN] {
        &self.raw
    }

    /// The bytes that the signature covers, the first [`SIGNED_LEN`].
    #[must_use]
    pub fn signed(&self) -> &[u8] {
        self.raw.get(..SIGNED_LEN).unwrap_or_default()
    }

    /// The fields alone.
    #[must_use]
    pub const fn fields(&self) -> &Fields {
        &self.fields
    }

    /// What a careful operator should know before sending this report: an unknown version, debug
    /// access for the host, another privilege level than 0. Sentences for people; empty when fine.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.version > NEWEST_VERSION {
            warnings.push(format!(
                "report version {} is newer than {NEWEST_VERSION}, it was read like version {NEWEST_VERSION}",
                self.version
            ));
        }
        if self.policy.debug_allowed() {
            warnings
                .push("the guest policy allows debugging: the host can read the guest's memory".to_owned());
        }
        if self.vmpl != 0 {
            warnings.push(format!("the report was made at VMPL {}, verifiers usually demand 0", self.vmpl));
        }
        warnings
    }
}

impl Deref for Report {
    type Target = Fields;

    fn deref(&self) -> &Fields {
        &self.fields
    }
}

impl fmt::Debug for Report {
    /// The fields; the raw bytes would only repeat them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Report").field(&self.fields).finish()
    }
}

/// Every field of a report. Byte strings keep the order of the report.
///
/// [`Fields::encode`] writes them back with zeros in the reserved places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    /// Layout version, 2 or more.
    pub version: u32,
    /// Security version number of the guest, from the ID block.
    pub guest_svn: u32,
    /// What the launch allowed.
    pub policy: Policy,
    /// Family of the guest image, from the ID block.
    pub family_id: [u8; 16],
    /// Guest image, from the ID block.
    pub image_id: [u8; 16],
    /// Privilege level that asked for the report, 0 to 3; 0xFFFF_FFFF when the host asked.
    pub vmpl: u32,
    /// Signature algorithm; 1 is ECDSA P-384 with SHA-384.
    pub sig_algo: u32,
    /// TCB that runs now.
    pub current_tcb: Tcb,
    /// State of the host.
    pub platform_info: PlatformInfo,
    /// Keys that took part.
    pub key_info: KeyInfo,
    /// The caller's data.
    pub report_data: [u8; 64],
    /// Launch digest, SHA-384.
    pub measurement: [u8; 48],
    /// Host's data at launch; init-data in this ecosystem.
    pub host_data: [u8; 32],
    /// SHA-384 of the key that signed the ID block.
    pub id_key_digest: [u8; 48],
    /// SHA-384 of the key that certified the ID key.
    pub author_key_digest: [u8; 48],
    /// Identifier of this guest instance.
    pub report_id: [u8; 32],
    /// Identifier of the migration agent, all ones when there is none.
    pub report_id_ma: [u8; 32],
    /// TCB that the signing key was derived for.
    pub reported_tcb: Tcb,
    /// Processor; from version 3 on.
    pub cpuid: Option<CpuId>,
    /// Identifier of the chip; zero when masked or signed with a VLEK; Turin uses 8 bytes.
    pub chip_id: [u8; 64],
    /// Lowest TCB that the platform can go back to.
    pub committed_tcb: Tcb,
    /// Firmware that runs now.
    pub current_firmware: FirmwareVersion,
    /// Lowest firmware that the platform can go back to.
    pub committed_firmware: FirmwareVersion,
    /// TCB at launch or import of the guest.
    pub launch_tcb: Tcb,
    /// Mitigations at launch; from version 5 on.
    pub launch_mit_vector: Option<u64>,
    /// Mitigations now; from version 5 on.
    pub current_mit_vector: Option<u64>,
    /// Signature over the first [`SIGNED_LEN`] bytes.
    pub signature: Signature,
}

impl Fields {
    /// The product by CPUID; `None` for a version 2 report, which has none, and for unknown models.
    #[must_use]
    pub fn product(&self) -> Option<Product> {
        self.cpuid.and_then(Product::of_cpu)
    }

    /// The key that signed the report.
    #[must_use]
    pub const fn signing_key(&self) -> SigningKey {
        self.key_info.signing_key()
    }

    /// Whether the host hides the chip key.
    #[must_use]
    pub const fn mask_chip_key(&self) -> bool {
        self.key_info.mask_chip_key()
    }

    fn read(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let version = r.u32_le("snp.version")?;
        if version < 2 {
            return Err(Error::Invalid {
                field: "snp.version",
                why: format!("{version} is below 2, the oldest released layout"),
            });
        }
        let guest_svn = r.u32_le("snp.guest_svn")?;
        let policy = Policy(r.u64_le("snp.policy")?);
        let family_id = *r.array("snp.family_id")?;
        let image_id = *r.array("snp.image_id")?;
        let vmpl = r.u32_le("snp.vmpl")?;
        let sig_algo = r.u32_le("snp.sig_algo")?;
        let current_tcb = *r.array("snp.current_tcb")?;
        let platform_info = PlatformInfo(r.u64_le("snp.platform_info")?);
        let key_info = KeyInfo(r.u32_le("snp.key_info")?);
        r.take(4, "snp.reserved at 0x4c")?;
        let report_data = *r.array("snp.report_data")?;
        let measurement = *r.array("snp.measurement")?;
        let host_data = *r.array("snp.host_data")?;
        let id_key_digest = *r.array("snp.id_key_digest")?;
        let author_key_digest = *r.array("snp.author_key_digest")?;
        let report_id = *r.array("snp.report_id")?;
        let report_id_ma = *r.array("snp.report_id_ma")?;
        let reported_tcb = *r.array("snp.reported_tcb")?;
        let [family, model, stepping] = *r.array("snp.cpuid")?;
        r.take(21, "snp.reserved at 0x18b")?;
        let chip_id = *r.array("snp.chip_id")?;
        let committed_tcb = *r.array("snp.committed_tcb")?;
        let current_firmware = FirmwareVersion::read(&mut r, "snp.current_firmware")?;
        let committed_firmware = FirmwareVersion::read(&mut r, "snp.committed_firmware")?;
        let launch_tcb = *r.array("snp.launch_tcb")?;
        let launch_mit_vector = r.u64_le("snp.launch_mit_vector")?;
        let current_mit_vector = r.u64_le("snp.current_mit_vector")?;
        r.take(152, "snp.reserved at 0x208")?;
        let signature = Signature { r: *r.array("snp.signature.r")?, s: *r.array("snp.signature.s")? };
        r.take(368, "snp.reserved at 0x330")?;
        r.finish("the SNP report")?;

        let cpuid = (version >= CPUID_SINCE).then_some(CpuId { family, model, stepping });
        let layout = cpuid.map_or_else(|| layout_without_cpuid(&chip_id), TcbLayout::of_cpu);
        let has_mitigation = version >= MITIGATION_SINCE;
        Ok(Fields {
            version,
            guest_svn,
            policy,
            family_id,
            image_id,
            vmpl,
            sig_algo,
            current_tcb: Tcb::from_raw(current_tcb, layout),
            platform_info,
            key_info,
            report_data,
            measurement,
            host_data,
            id_key_digest,
            author_key_digest,
            report_id,
            report_id_ma,
            reported_tcb: Tcb::from_raw(reported_tcb, layout),
            cpuid,
            chip_id,
            committed_tcb: Tcb::from_raw(committed_tcb, layout),
            current_firmware,
            committed_firmware,
            launch_tcb: Tcb::from_raw(launch_tcb, layout),
            launch_mit_vector: has_mitigation.then_some(launch_mit_vector),
            current_mit_vector: has_mitigation.then_some(current_mit_vector),
            signature,
        })
    }
}

/// Version 2 has no CPUID bytes. Only Turin fills just eight bytes of the chip id; an all-zero id
/// (masked) tells nothing and counts as the older family.
fn layout_without_cpuid(chip_id: &[u8; 64]) -> TcbLayout {
    match chip_id.split_at(8) {
        (head, tail) if head != [0; 8] && tail == [0; 56] => TcbLayout::Turin,
        _ => TcbLayout::Milan,
    }
}

/// Processor identification: the combined (base plus extended) family and model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuId {
    /// 0x19 Milan and Genoa, 0x1A Turin.
    pub family: u8,
    /// Model within the family.
    pub model: u8,
    /// Stepping within the model.
    pub stepping: u8,
}

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "family {:#04x} model {:#04x} stepping {}", self.family, self.model, self.stepping)
    }
}

/// Version of the SNP firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FirmwareVersion {
    /// Major ABI version.
    pub major: u8,
    /// Minor ABI version.
    pub minor: u8,
    /// Build number.
    pub build: u8,
}

impl FirmwareVersion {
    fn read(r: &mut Reader<'_>, field: &'static str) -> Result<Self, Error> {
        let [build, minor, major, _reserved] = *r.array(field)?;
        Ok(FirmwareVersion { major, minor, build })
    }
}

impl fmt::Display for FirmwareVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.build)
    }
}

/// An ECDSA signature as the report carries it: little-endian, extended with zeros to 72 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The number r.
    pub r: [u8; 72],
    /// The number s.
    pub s: [u8; 72],
}

impl Signature {
    /// r and s as 48 bytes each, big-endian, one after the other: the fixed form of P-384.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the extension is not zero, because then the number is no P-384 value.
    pub fn to_fixed(&self) -> Result<[u8; 96], Error> {
        let mut fixed = [0; 96];
        let (r, s) = fixed.split_at_mut(48);
        for (number, target, field) in [(&self.r, r, "snp.signature.r"), (&self.s, s, "snp.signature.s")] {
            let (value, extension) = number.split_at(48);
            if extension.iter().any(|byte| *byte != 0) {
                return Err(Error::Invalid { field, why: "it is longer than 48 bytes".to_owned() });
            }
            target.copy_from_slice(value);
            target.reverse();
        }
        Ok(fixed)
    }
}

#[cfg(test)]
mod tests;
