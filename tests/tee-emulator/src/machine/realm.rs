//! The realm and the platform of a machine with Arm CCA: what its tokens say.

use serde::Deserialize;

use super::Hex;

/// The realm and its platform. All fields stand in tokens byte by byte as they are here.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Realm {
    /// Measurement of the initial content.
    pub initial_measurement: Hex<64>,
    /// The register 0 of the four that a realm extends; the others are zero.
    pub rem0: Hex<64>,
    /// What the host launched the realm with: the SHA-512 digest of the init-data.
    pub personalization: Hex<64>,
    /// Implementation of the platform.
    pub implementation_id: Hex<32>,
    /// State of the platform: 0x3000 to 0x30FF is secured.
    pub lifecycle: u16,
    /// Measurement of the realm management monitor.
    pub rmm: Hex<32>,
}

impl Default for Realm {
    fn default() -> Self {
        Self {
            initial_measurement: Hex([0xa1; 64]),
            rem0: Hex([0; 64]),
            personalization: Hex([0; 64]),
            implementation_id: Hex([0xcc; 32]),
            lifecycle: 0x3003,
            rmm: Hex([0xb3; 32]),
        }
    }
}
