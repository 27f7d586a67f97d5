//! The trust domain of a machine with Intel TDX: what its quotes say.

use serde::Deserialize;

use super::Hex;

/// Security versions of the module and its parts, `tee_tcb_svn`, that the collateral calls up to date.
pub(crate) const UP_TO_DATE_SVN: [u8; 16] = [5, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The trust domain. All fields stand in quotes byte by byte as they are here.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Td {
    /// Measurement of the initial memory.
    pub mrtd: Hex<48>,
    /// Run-time register 0: the firmware's configuration.
    pub rtmr0: Hex<48>,
    /// Run-time register 1: boot loader and kernel.
    pub rtmr1: Hex<48>,
    /// Run-time register 2: kernel command line, initial RAM disk.
    pub rtmr2: Hex<48>,
    /// Run-time register 3: whatever the running system extends.
    pub rtmr3: Hex<48>,
    /// The fitted digest of the init-data.
    pub mrconfigid: Hex<48>,
    /// Attributes, little endian: bit 0 debug, bit 28 no #VE for pages that the host took away.
    pub attributes: Hex<8>,
    /// Extended processor features, little endian.
    pub xfam: Hex<8>,
    /// Security versions of the module: its own, its major version, the late microcode, and so on.
    pub tee_tcb_svn: Hex<16>,
    /// Zero bytes after the quote, as some hosts leave them.
    pub padding: u16,
}

impl Default for Td {
    fn default() -> Self {
        Self {
            mrtd: Hex([0x7d; 48]),
            rtmr0: Hex([0; 48]),
            rtmr1: Hex([0x81; 48]),
            rtmr2: Hex([0x82; 48]),
            rtmr3: Hex([0; 48]),
            mrconfigid: Hex([0; 48]),
            attributes: Hex([0, 0, 0, 0x10, 0, 0, 0, 0]),
            xfam: Hex([0xe7, 0x02, 0x06, 0, 0, 0, 0, 0]),
            tee_tcb_svn: Hex(UP_TO_DATE_SVN),
            padding: 0,
        }
    }
}
