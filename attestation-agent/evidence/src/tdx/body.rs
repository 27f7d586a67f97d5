//! What a quote says about a trust domain: 584 bytes for TDX 1.0, 648 bytes for TDX 1.5.
//!
//! Intel TDX DCAP quoting library reference, "TD Quote Body". The layout has no reserved bytes, so that
//! writing what was read gives the same bytes. Nothing is judged here.

use super::TdAttributes;
use crate::Error;
use crate::read::Reader;

/// The measured state of a trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TdBody {
    /// Security versions of the TDX module and its loader; byte 0 is the module's, byte 1 its major version.
    pub tee_tcb_svn: [u8; 16],
    /// Digest of the TDX module.
    pub mr_seam: [u8; 48],
    /// Signer of the TDX module; zero for Intel.
    pub mrsigner_seam: [u8; 48],
    /// Attributes of the TDX module, little endian.
    pub seam_attributes: u64,
    /// Attributes of the domain.
    pub td_attributes: TdAttributes,
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
    /// The caller's data.
    pub report_data: [u8; 64],
    /// What TDX 1.5 added.
    pub tdx15: Option<Tdx15>,
}

/// The fields that the body has since TDX 1.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tdx15 {
    /// Security versions of the TDX module now; `tee_tcb_svn` are those of the domain's start.
    pub tee_tcb_svn2: [u8; 16],
    /// Digest of the service domains bound to this one.
    pub mr_servicetd: [u8; 48],
}

impl TdBody {
    /// Length of a body of TDX 1.0 in bytes.
    pub const LEN_1_0: usize = 584;

    /// Length of a body of TDX 1.5 in bytes.
    pub const LEN_1_5: usize = 648;

    /// The bytes of the body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = [
            self.tee_tcb_svn.as_slice(),
            &self.mr_seam,
            &self.mrsigner_seam,
            &self.seam_attributes.to_le_bytes(),
            &self.td_attributes.0.to_le_bytes(),
            &self.xfam.to_le_bytes(),
            &self.mr_td,
            &self.mr_config_id,
            &self.mr_owner,
            &self.mr_owner_config,
            self.rtmr.as_flattened(),
            &self.report_data,
        ]
        .concat();
        if let Some(added) = &self.tdx15 {
            bytes.extend_from_slice(&added.tee_tcb_svn2);
            bytes.extend_from_slice(&added.mr_servicetd);
        }
        bytes
    }

    /// Reads the 584 bytes of TDX 1.0 and, when asked, the 64 bytes of TDX 1.5 after them.
    pub(super) fn read(r: &mut Reader<'_>, with_tdx15: bool) -> Result<Self, Error> {
        Ok(TdBody {
            tee_tcb_svn: *r.array("quote.tee_tcb_svn")?,
            mr_seam: *r.array("quote.mr_seam")?,
            mrsigner_seam: *r.array("quote.mrsigner_seam")?,
            seam_attributes: r.u64_le("quote.seam_attributes")?,
            td_attributes: TdAttributes(r.u64_le("quote.td_attributes")?),
            xfam: r.u64_le("quote.xfam")?,
            mr_td: *r.array("quote.mr_td")?,
            mr_config_id: *r.array("quote.mr_config_id")?,
            mr_owner: *r.array("quote.mr_owner")?,
            mr_owner_config: *r.array("quote.mr_owner_config")?,
            rtmr: [
                *r.array("quote.rtmr_0")?,
                *r.array("quote.rtmr_1")?,
                *r.array("quote.rtmr_2")?,
                *r.array("quote.rtmr_3")?,
            ],
            report_data: *r.array("quote.report_data")?,
            tdx15: if with_tdx15 {
                Some(Tdx15 {
                    tee_tcb_svn2: *r.array("quote.tee_tcb_svn2")?,
                    mr_servicetd: *r.array("quote.mr_servicetd")?,
                })
            } else {
                None
            },
        })
    }
}
