//! Fields back to report bytes: the exact inverse of the parser, with zeros in reserved places.
//!
//! Needed because the JSON form of a report carries fields only and the signature covers bytes. It is
//! NOT a way to make a valid report: whoever calls it needs a key that a verifier trusts.

use super::report::{Fields, FirmwareVersion};
use super::{REPORT_LEN, SIGNED_LEN};

/// Length of the reserved end of a report in bytes.
const TAIL_LEN: usize = REPORT_LEN - SIGNED_LEN - 144;

impl Fields {
    /// The report bytes. Absent optional fields and reserved bytes are zero; TCB versions are
    /// written from their components.
    #[must_use]
    pub fn encode(&self) -> [u8; REPORT_LEN] {
        let tcb = |t: &super::Tcb| super::Tcb::from_parts(t.fmc, t.bootloader, t.tee, t.snp, t.microcode).raw;
        let cpuid = self.cpuid.map_or([0; 3], |cpu| [cpu.family, cpu.model, cpu.stepping]);
        let parts: [&[u8]; 32] = [
            &self.version.to_le_bytes(),
            &self.guest_svn.to_le_bytes(),
            &self.policy.0.to_le_bytes(),
            &self.family_id,
            &self.image_id,
            &self.vmpl.to_le_bytes(),
            &self.sig_algo.to_le_bytes(),
            &tcb(&self.current_tcb),
            &self.platform_info.0.to_le_bytes(),
            &self.key_info.0.to_le_bytes(),
            &[0; 4],
            &self.report_data,
            &self.measurement,
            &self.host_data,
            &self.id_key_digest,
            &self.author_key_digest,
            &self.report_id,
            &self.report_id_ma,
            &tcb(&self.reported_tcb),
            &cpuid,
            &[0; 21],
            &self.chip_id,
            &tcb(&self.committed_tcb),
            &firmware(self.current_firmware),
            &firmware(self.committed_firmware),
            &tcb(&self.launch_tcb),
            &self.launch_mit_vector.unwrap_or(0).to_le_bytes(),
            &self.current_mit_vector.unwrap_or(0).to_le_bytes(),
            &[0; 152],
            &self.signature.r,
            &self.signature.s,
            &[0; TAIL_LEN],
        ];
        let mut report = [0; REPORT_LEN];
        for (target, byte) in report.iter_mut().zip(parts.into_iter().flatten()) {
            *target = *byte;
        }
        report
    }
}

const fn firmware(version: FirmwareVersion) -> [u8; 4] {
    [version.build, version.minor, version.major, 0]
}
