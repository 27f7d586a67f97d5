//! What sets one start of an emulated machine apart from every other: values that hardware draws by chance.

use aws_lc_rs::hmac;

use crate::Error;

/// One start of a machine.
#[derive(Debug)]
pub(crate) struct Instance {
    /// SEV-SNP: REPORT_ID of the reports.
    pub(crate) report_id: [u8; 32],
    /// TDX: the processor's key, which authenticates TDREPORTs on this machine.
    pub(crate) mac_key: hmac::Key,
}

impl Instance {
    /// A machine that starts.
    pub(crate) fn start() -> Result<Self, Error> {
        let (mut report_id, mut mac_key) = ([0; 32], [0; 32]);
        for bytes in [&mut report_id, &mut mac_key] {
            getrandom::fill(bytes).map_err(|_| Error::Crypto { step: "reading random bytes" })?;
        }
        Ok(Self { report_id, mac_key: hmac::Key::new(hmac::HMAC_SHA256, &mac_key) })
    }
}
