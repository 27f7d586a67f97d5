//! TDREPORT: what the processor says about a trust domain to software on the same machine, 1024 bytes.
//!
//! Intel TDX module ABI specification, structure TDREPORT_STRUCT. Two digests inside tie its parts to the
//! part under the MAC and are checked here; the MAC itself can be checked on that machine alone, so a
//! report is NOT evidence for anybody else. Quotes are.

use super::TdAttributes;
use crate::Error;
use crate::hash::HashAlgorithm;
use crate::read::Reader;

/// Length of a report in bytes.
pub const REPORT_LEN: usize = 1024;

/// Type of a report made for a trust domain.
const TYPE_TDX: u8 = 0x81;

/// Length of TEE_TCB_INFO, at 0x100.
const TCB_INFO_LEN: usize = 239;

/// Length of TDINFO, at 0x200.
const TD_INFO_LEN: usize = 512;

/// A report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TdReport {
    /// Version of the report.
    pub version: u8,
    /// Variant of its type.
    pub subtype: u8,
    /// Security version of the processor.
    pub cpu_svn: [u8; 16],
    /// SHA-384 of TEE_TCB_INFO, as the report says.
    pub tee_tcb_info_hash: [u8; 48],
    /// SHA-384 of TDINFO, as the report says.
    pub tee_info_hash: [u8; 48],
    /// The caller's data.
    pub report_data: [u8; 64],
    /// Authentication code of the processor.
    pub mac: [u8; 32],
    /// The TDX module.
    pub tcb_info: TcbInfo,
    /// The domain.
    pub td_info: TdInfo,
    tcb_info_intact: bool,
    td_info_intact: bool,
}

/// TEE_TCB_INFO: what the report says about the TDX module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcbInfo {
    /// Which fields are valid, little endian.
    pub valid: u64,
    /// Security versions of the TDX module and its loader.
    pub tee_tcb_svn: [u8; 16],
    /// Digest of the TDX module.
    pub mr_seam: [u8; 48],
    /// Signer of the TDX module; zero for Intel.
    pub mrsigner_seam: [u8; 48],
    /// Attributes of the TDX module, little endian.
    pub attributes: u64,
    /// Security versions now, since TDX 1.5; zero before.
    pub tee_tcb_svn2: [u8; 16],
}

/// TDINFO: what the report says about the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TdInfo {
    /// Attributes of the domain.
    pub attributes: TdAttributes,
    /// Extended features that the domain may use, little endian.
    pub xfam: u64,
    /// Digest of the domain's initial content.
    pub mr_td: [u8; 48],
    /// Configuration of the domain: the init-data digest.
    pub mr_config_id: [u8; 48],
    /// Owner of the domain.
    pub mr_owner: [u8; 48],
    /// Configuration by the owner.
    pub mr_owner_config: [u8; 48],
    /// The run-time measurement registers 0 to 3.
    pub rtmr: [[u8; 48]; 4],
    /// Digest of the service domains bound to this one.
    pub servtd_hash: [u8; 48],
}

impl TdReport {
    /// Reads exactly [`REPORT_LEN`] bytes.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Trailing`], [`Error::Invalid`] for a report of another type.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let [kind, subtype, version, _] = *r.array::<4>("tdreport.type")?;
        if kind != TYPE_TDX {
            return Err(Error::Invalid {
                field: "tdreport.type",
                why: format!("{kind:#04x} was found, {TYPE_TDX:#04x} is expected"),
            });
        }
        r.take(12, "tdreport.reserved1")?;
        let cpu_svn = *r.array("tdreport.cpu_svn")?;
        let tee_tcb_info_hash = *r.array("tdreport.tee_tcb_info_hash")?;
        let tee_info_hash = *r.array("tdreport.tee_info_hash")?;
        let report_data = *r.array("tdreport.report_data")?;
        r.take(32, "tdreport.reserved2")?;
        let mac = *r.array("tdreport.mac")?;
        let tcb_info = r.take(TCB_INFO_LEN, "tdreport.tee_tcb_info")?;
        r.take(17, "tdreport.reserved3")?;
        let td_info = r.take(TD_INFO_LEN, "tdreport.td_info")?;
        r.finish("a TDREPORT")?;
        let intact = |part, hash: &[u8; 48]| HashAlgorithm::Sha384.digest(part) == hash;
        Ok(TdReport {
            version,
            subtype,
            cpu_svn,
            tee_tcb_info_hash,
            tee_info_hash,
            report_data,
            mac,
            tcb_info: TcbInfo::parse(tcb_info)?,
            td_info: TdInfo::parse(td_info)?,
            tcb_info_intact: intact(tcb_info, &tee_tcb_info_hash),
            td_info_intact: intact(td_info, &tee_info_hash),
        })
    }

    /// Whether the part about the TDX module has the digest that the MAC covers.
    #[must_use]
    pub const fn tcb_info_intact(&self) -> bool {
        self.tcb_info_intact
    }

    /// Whether the part about the domain has the digest that the MAC covers.
    #[must_use]
    pub const fn td_info_intact(&self) -> bool {
        self.td_info_intact
    }
}

impl TcbInfo {
    fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        Ok(TcbInfo {
            valid: r.u64_le("tdreport.valid")?,
            tee_tcb_svn: *r.array("tdreport.tee_tcb_svn")?,
            mr_seam: *r.array("tdreport.mr_seam")?,
            mrsigner_seam: *r.array("tdreport.mrsigner_seam")?,
            attributes: r.u64_le("tdreport.seam_attributes")?,
            tee_tcb_svn2: *r.array("tdreport.tee_tcb_svn2")?,
        })
    }
}

impl TdInfo {
    fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        Ok(TdInfo {
            attributes: TdAttributes(r.u64_le("tdreport.td_attributes")?),
            xfam: r.u64_le("tdreport.xfam")?,
            mr_td: *r.array("tdreport.mr_td")?,
            mr_config_id: *r.array("tdreport.mr_config_id")?,
            mr_owner: *r.array("tdreport.mr_owner")?,
            mr_owner_config: *r.array("tdreport.mr_owner_config")?,
            rtmr: [
                *r.array("tdreport.rtmr_0")?,
                *r.array("tdreport.rtmr_1")?,
                *r.array("tdreport.rtmr_2")?,
                *r.array("tdreport.rtmr_3")?,
            ],
            servtd_hash: *r.array("tdreport.servtd_hash")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn report(fill: u8) -> Vec<u8> {
        let mut bytes = vec![fill; REPORT_LEN];
        bytes[..4].copy_from_slice(&[TYPE_TDX, 0, 1, 0]);
        let tcb_info_hash = HashAlgorithm::Sha384.digest(&bytes[0x100..0x1EF]);
        bytes[0x20..0x50].copy_from_slice(&tcb_info_hash);
        let info_hash = HashAlgorithm::Sha384.digest(&bytes[0x200..]);
        bytes[0x50..0x80].copy_from_slice(&info_hash);
        bytes
    }

    #[test]
    fn digests_cover_their_parts_and_nothing_else() {
        let good = report(7);
        for offset in 0x80..REPORT_LEN {
            let mut changed = good.clone();
            changed[offset] ^= 1;
            let report = TdReport::parse(&changed).unwrap();
            assert_eq!(report.tcb_info_intact(), !(0x100..0x1EF).contains(&offset), "{offset:#x}");
            assert_eq!(report.td_info_intact(), offset < 0x200, "{offset:#x}");
        }
    }

    #[test]
    fn only_whole_reports_of_domains_are_read() {
        let good = report(7);
        for len in 0..REPORT_LEN {
            assert_eq!(TdReport::parse(&good[..len]).unwrap_err().code(), "EVIDENCE_TRUNCATED");
        }
        let longer = [good.as_slice(), &[0]].concat();
        assert_eq!(TdReport::parse(&longer).unwrap_err().code(), "EVIDENCE_TRAILING_BYTES");
        let mut sgx = good;
        sgx[0] = 0;
        assert_eq!(TdReport::parse(&sgx).unwrap_err().code(), "EVIDENCE_FIELD_INVALID");
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1100)) {
            let _ = TdReport::parse(&bytes);
        }
    }
}
