//! The report of an SGX enclave, 384 bytes: body of an SGX quote, and what a quoting enclave says of itself.
//!
//! Intel SDM volume 3D, structure REPORT without its MAC part. Reserved bytes are kept, because signatures
//! cover them; they are NOT interpreted.

use std::ops::Deref;

use crate::Error;
use crate::read::Reader;

/// Length of an enclave report in bytes.
pub const ENCLAVE_REPORT_LEN: usize = 384;

/// The fields of an enclave report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnclaveFields {
    /// Security version of the processor.
    pub cpu_svn: [u8; 16],
    /// Selection of extended state saved on an exit, little endian.
    pub misc_select: [u8; 4],
    /// Attribute flags (8 bytes) and extended feature mask (8 bytes), little endian.
    pub attributes: [u8; 16],
    /// Digest of the enclave's content.
    pub mr_enclave: [u8; 32],
    /// Digest of its signer's key.
    pub mr_signer: [u8; 32],
    /// Configuration identifier, set by whoever started it.
    pub config_id: [u8; 64],
    /// Product number, given by the signer.
    pub isv_prod_id: u16,
    /// Security version, given by the signer.
    pub isv_svn: u16,
    /// The enclave's own data.
    pub report_data: [u8; 64],
}

impl EnclaveFields {
    /// The report bytes, with zeros in reserved places.
    #[must_use]
    pub fn encode(&self) -> [u8; ENCLAVE_REPORT_LEN] {
        let parts: [&[u8]; 14] = [
            &self.cpu_svn,
            &self.misc_select,
            &[0; 28],
            &self.attributes,
            &self.mr_enclave,
            &[0; 32],
            &self.mr_signer,
            &[0; 32],
            &self.config_id,
            &self.isv_prod_id.to_le_bytes(),
            &self.isv_svn.to_le_bytes(),
            &[0; 44],
            &[0; 16],
            &self.report_data,
        ];
        let mut report = [0; ENCLAVE_REPORT_LEN];
        for (target, byte) in report.iter_mut().zip(parts.into_iter().flatten()) {
            *target = *byte;
        }
        report
    }
}

/// An enclave report: its fields and the bytes they were read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnclaveReport {
    fields: EnclaveFields,
    raw: [u8; ENCLAVE_REPORT_LEN],
}

impl EnclaveReport {
    /// A report with these fields.
    #[must_use]
    pub fn new(fields: EnclaveFields) -> Self {
        EnclaveReport { fields, raw: fields.encode() }
    }

    /// The bytes that signatures cover.
    #[must_use]
    pub const fn raw(&self) -> &[u8; ENCLAVE_REPORT_LEN] {
        &self.raw
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        let raw: &[u8; ENCLAVE_REPORT_LEN] = r.array("enclave_report")?;
        let mut r = Reader::new(raw);
        let cpu_svn = *r.array("enclave_report.cpu_svn")?;
        let misc_select = *r.array("enclave_report.misc_select")?;
        r.take(28, "enclave_report.reserved1")?;
        let attributes = *r.array("enclave_report.attributes")?;
        let mr_enclave = *r.array("enclave_report.mr_enclave")?;
        r.take(32, "enclave_report.reserved2")?;
        let mr_signer = *r.array("enclave_report.mr_signer")?;
        r.take(32, "enclave_report.reserved3")?;
        let fields = EnclaveFields {
            cpu_svn,
            misc_select,
            attributes,
            mr_enclave,
            mr_signer,
            config_id: *r.array("enclave_report.config_id")?,
            isv_prod_id: r.u16_le("enclave_report.isv_prod_id")?,
            isv_svn: r.u16_le("enclave_report.isv_svn")?,
            report_data: {
                r.take(60, "enclave_report.reserved4")?;
                *r.array("enclave_report.report_data")?
            },
        };
        r.finish("an enclave report")?;
        Ok(EnclaveReport { fields, raw: *raw })
    }
}

impl Deref for EnclaveReport {
    type Target = EnclaveFields;

    fn deref(&self) -> &EnclaveFields {
        &self.fields
    }
}
