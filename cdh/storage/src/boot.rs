//! Which boot of the machine this is (Linux, Documentation/admin-guide/sysctl/kernel.rst, `random/boot_id`).
//!
//! The number is random and made in the guest: what names it was written since this machine started.

use crate::Failure;

/// The number of this boot, as text.
pub(crate) fn id() -> Result<String, Failure> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    Ok(text.map_err(Failure::storage("read the number of this boot"))?.trim().to_owned())
}
