//! The HCL report: a report of the hardware with the runtime data that its report data stands for.
//!
//! A header of 32 bytes, 1184 bytes for the hardware's report (SEV-SNP, or a TDREPORT with zeros behind it), a
//! header of 20 bytes, the runtime data as JSON; all integers little-endian. TPMs keep it in an index of fixed size,
//! so bytes may follow. Only the hardware's report and, by its hash, the JSON are under a signature: what the
//! headers say proves NOTHING, and the bytes that follow are not looked at.

use std::fmt;

use super::RuntimeData;
use crate::read::Reader;
use crate::snp::{self, Report};
use crate::tdx::{self, TdReport};
use crate::{Error, HashAlgorithm, Tee};

/// Longest report that is read, in bytes. Those seen have 2048 and 2600.
pub const MAX_HCL_LEN: usize = 16 * 1024;

const MAGIC: &[u8; 4] = b"HCLA";

/// Where the second header is: behind the first one and the place of the hardware's report.
const BLOCK_OFFSET: usize = 32 + snp::REPORT_LEN;

/// Length of the second header in bytes.
const BLOCK_HEADER_LEN: usize = 20;

const TYPE_SNP: u32 = 2;
const TYPE_TDX: u32 = 4;

/// What the hardware says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hardware {
    /// AMD SEV-SNP: an attestation report.
    Snp(Box<Report>),
    /// Intel TDX: a report for software on the same machine, from which a quote is made.
    Tdx(Box<TdReport>),
}

/// An HCL report.
#[derive(Clone, PartialEq, Eq)]
pub struct HclReport {
    /// Version of the outer header.
    pub version: u32,
    /// Kind of request that made it; 2 in all that were seen.
    pub request_type: u32,
    /// Status of that request; 0 is success.
    pub status: u32,
    /// Version of the inner header.
    pub block_version: u32,
    /// Hash over the runtime data in the hardware's report data.
    pub hash: HashAlgorithm,
    hardware: Hardware,
    hardware_bytes: Vec<u8>,
    json: String,
    runtime: RuntimeData,
}

impl HclReport {
    /// Reads at most [`MAX_HCL_LEN`] bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Truncated`] naming the field where the bytes end; [`Error::Invalid`] for another
    /// format, an unknown kind of hardware, lengths that contradict each other; and what is wrong with the
    /// hardware's report ([`Report::parse`], [`TdReport::parse`]) or the runtime data ([`RuntimeData::parse`]).
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_HCL_LEN {
            return Err(Error::TooLarge { what: "an HCL report", size: bytes.len(), limit: MAX_HCL_LEN });
        }
        let mut r = Reader::new(bytes);
        if r.array("hcl.signature")? != MAGIC {
            return Err(invalid("hcl.signature", "it is not HCLA".to_owned()));
        }
        let version = r.u32_le("hcl.version")?;
        let report_size = r.u32_le("hcl.report_size")?;
        let request_type = r.u32_le("hcl.request_type")?;
        let status = r.u32_le("hcl.status")?;
        r.take(12, "hcl.reserved at 0x14")?;
        let place = r.take(snp::REPORT_LEN, "hcl.hardware_report")?;
        let block_size = r.u32_le("hcl.data_size")?;
        let block_version = r.u32_le("hcl.data_version")?;
        let report_type = r.u32_le("hcl.report_type")?;
        let hash = hash(r.u32_le("hcl.hash_type")?)?;
        let json_len = length(r.u32_le("hcl.runtime_data_size")?);
        let json = r.take(json_len, "hcl.runtime_data")?;
        check_size("hcl.data_size", block_size, BLOCK_HEADER_LEN + json_len)?;
        check_size("hcl.report_size", report_size, BLOCK_OFFSET + BLOCK_HEADER_LEN + json_len)?;

        let (hardware, hardware_bytes) = hardware(report_type, place)?;
        let json = str::from_utf8(json)
            .map_err(|e| invalid("hcl.runtime_data", format!("it is no UTF-8 text: {e}")))?
            .to_owned();
        let runtime = RuntimeData::parse(&json)?;
        Ok(HclReport {
            version,
            request_type,
            status,
            block_version,
            hash,
            hardware,
            hardware_bytes,
            json,
            runtime,
        })
    }

    /// What the hardware says.
    #[must_use]
    pub const fn hardware(&self) -> &Hardware {
        &self.hardware
    }

    /// The hardware's report as it was given: 1184 bytes of SEV-SNP, 1024 bytes of TDX.
    #[must_use]
    pub fn hardware_bytes(&self) -> &[u8] {
        &self.hardware_bytes
    }

    /// The name on the wire of evidence with this report.
    #[must_use]
    pub const fn tee(&self) -> Tee {
        match self.hardware {
            Hardware::Snp(_) => Tee::AzSnpVtpm,
            Hardware::Tdx(_) => Tee::AzTdxVtpm,
        }
    }

    /// The runtime data.
    #[must_use]
    pub const fn runtime(&self) -> &RuntimeData {
        &self.runtime
    }

    /// The runtime data as it was given; its hash is over exactly these bytes.
    #[must_use]
    pub fn runtime_json(&self) -> &str {
        &self.json
    }

    /// The 64 bytes that stand in the hardware's report data if it vouches for the runtime data: the hash, followed
    /// by zeros.
    #[must_use]
    pub fn bound_report_data(&self) -> [u8; 64] {
        let mut data = [0; 64];
        data.iter_mut().zip(self.hash.digest(self.json.as_bytes())).for_each(|(to, from)| *to = from);
        data
    }

    /// The 64 bytes that do stand there.
    #[must_use]
    pub fn report_data(&self) -> &[u8; 64] {
        match &self.hardware {
            Hardware::Snp(report) => &report.fields().report_data,
            Hardware::Tdx(report) => &report.report_data,
        }
    }

    /// Whether the hardware's report vouches for the runtime data. Whether the hardware made that report stays open.
    #[must_use]
    pub fn binds_runtime_data(&self) -> bool {
        *self.report_data() == self.bound_report_data()
    }
}

impl fmt::Debug for HclReport {
    /// The parsed parts; the bytes would only repeat them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HclReport")
            .field("version", &self.version)
            .field("hash", &self.hash)
            .field("hardware", &self.hardware)
            .field("runtime", &self.runtime)
            .finish_non_exhaustive()
    }
}

fn hardware(report_type: u32, place: &[u8]) -> Result<(Hardware, Vec<u8>), Error> {
    match report_type {
        TYPE_SNP => Ok((Hardware::Snp(Box::new(Report::parse(place)?)), place.to_vec())),
        TYPE_TDX => {
            let (report, padding) = place.split_at_checked(tdx::REPORT_LEN).unwrap_or((place, &[]));
            if padding.iter().any(|byte| *byte != 0) {
                return Err(invalid("hcl.hardware_report", "bytes follow the TDREPORT".to_owned()));
            }
            Ok((Hardware::Tdx(Box::new(TdReport::parse(report)?)), report.to_vec()))
        }
        other => Err(invalid("hcl.report_type", format!("{other} is neither 2 (SEV-SNP) nor 4 (TDX)"))),
    }
}

fn hash(kind: u32) -> Result<HashAlgorithm, Error> {
    match kind {
        1 => Ok(HashAlgorithm::Sha256),
        2 => Ok(HashAlgorithm::Sha384),
        3 => Ok(HashAlgorithm::Sha512),
        other => Err(invalid("hcl.hash_type", format!("{other} is none of 1 to 3 (SHA-2)"))),
    }
}

/// A size that a header names and that another one gives, too.
fn check_size(field: &'static str, found: u32, expected: usize) -> Result<(), Error> {
    if length(found) == expected {
        return Ok(());
    }
    Err(invalid(field, format!("it is {found}, the parts have {expected} bytes")))
}

/// A length as the machine counts; one that does not fit is longer than anything there is.
fn length(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn invalid(field: &'static str, why: String) -> Error {
    Error::Invalid { field, why }
}

#[cfg(test)]
mod tests;
