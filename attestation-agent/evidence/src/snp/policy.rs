//! The bit fields of a report: guest policy, platform information, key information.
//!
//! AMD publication 56860, tables "Guest Policy" and "ATTESTATION_REPORT". Unknown bits are kept:
//! each type is the number itself with names for its bits. What a bit means for trust is NOT
//! decided here.

use std::fmt;

/// The guest policy that the launch fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Policy(pub u64);

impl Policy {
    /// Lowest minor ABI version of the firmware that may run the guest.
    #[must_use]
    pub const fn abi_minor(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    /// Lowest major ABI version of the firmware that may run the guest.
    #[must_use]
    pub const fn abi_major(self) -> u8 {
        self.0.to_le_bytes()[1]
    }

    /// Simultaneous multithreading is allowed on the host.
    #[must_use]
    pub const fn smt_allowed(self) -> bool {
        bit(self.0, 16)
    }

    /// A migration agent may be associated with the guest.
    #[must_use]
    pub const fn migration_agent_allowed(self) -> bool {
        bit(self.0, 18)
    }

    /// The host may decrypt the guest's memory: such a guest keeps no secrets.
    #[must_use]
    pub const fn debug_allowed(self) -> bool {
        bit(self.0, 19)
    }

    /// The guest may run on one socket only.
    #[must_use]
    pub const fn single_socket(self) -> bool {
        bit(self.0, 20)
    }

    /// Memory behind CXL is allowed.
    #[must_use]
    pub const fn cxl_allowed(self) -> bool {
        bit(self.0, 21)
    }

    /// AES-256-XTS memory encryption is required.
    #[must_use]
    pub const fn aes_256_xts_required(self) -> bool {
        bit(self.0, 22)
    }

    /// Running average power limit must be off on the host.
    #[must_use]
    pub const fn rapl_must_be_off(self) -> bool {
        bit(self.0, 23)
    }

    /// Ciphertext hiding must be on.
    #[must_use]
    pub const fn ciphertext_hiding_required(self) -> bool {
        bit(self.0, 24)
    }

    /// The host may not swap pages of the guest.
    #[must_use]
    pub const fn page_swap_disabled(self) -> bool {
        bit(self.0, 25)
    }
}

impl fmt::Display for Policy {
    /// For people: the number, the ABI version and the names of the bits that are set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} (ABI {}.{}", self.0, self.abi_major(), self.abi_minor())?;
        let names = [
            (self.debug_allowed(), "DEBUG allowed"),
            (self.migration_agent_allowed(), "migration agent allowed"),
            (self.smt_allowed(), "SMT allowed"),
            (self.single_socket(), "single socket"),
            (self.cxl_allowed(), "CXL allowed"),
            (self.aes_256_xts_required(), "AES-256-XTS required"),
            (self.rapl_must_be_off(), "RAPL must be off"),
            (self.ciphertext_hiding_required(), "ciphertext hiding required"),
            (self.page_swap_disabled(), "page swap disabled"),
        ];
        for (_, name) in names.iter().filter(|(set, _)| *set) {
            write!(f, ", {name}")?;
        }
        f.write_str(")")
    }
}

/// What the host machine reports about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PlatformInfo(pub u64);

impl PlatformInfo {
    /// Simultaneous multithreading is on.
    #[must_use]
    pub const fn smt_enabled(self) -> bool {
        bit(self.0, 0)
    }

    /// Transparent memory encryption is on.
    #[must_use]
    pub const fn tsme_enabled(self) -> bool {
        bit(self.0, 1)
    }

    /// Memory has error correction.
    #[must_use]
    pub const fn ecc_enabled(self) -> bool {
        bit(self.0, 2)
    }

    /// Running average power limit is off.
    #[must_use]
    pub const fn rapl_disabled(self) -> bool {
        bit(self.0, 3)
    }

    /// Ciphertext hiding is on.
    #[must_use]
    pub const fn ciphertext_hiding_enabled(self) -> bool {
        bit(self.0, 4)
    }

    /// The firmware has checked memory for aliased addresses.
    #[must_use]
    pub const fn alias_check_complete(self) -> bool {
        bit(self.0, 5)
    }

    /// Trusted I/O is on.
    #[must_use]
    pub const fn tio_enabled(self) -> bool {
        bit(self.0, 7)
    }
}

/// Which keys took part in this report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct KeyInfo(pub u32);

impl KeyInfo {
    /// The digest of an author key is in the report.
    #[must_use]
    pub const fn author_key_enabled(self) -> bool {
        bit(self.0 as u64, 0)
    }

    /// The host hides the chip key.
    #[must_use]
    pub const fn mask_chip_key(self) -> bool {
        bit(self.0 as u64, 1)
    }

    /// The key that signed the report.
    #[must_use]
    pub const fn signing_key(self) -> SigningKey {
        match (self.0.to_le_bytes()[0] >> 2) & 7 {
            0 => SigningKey::Vcek,
            1 => SigningKey::Vlek,
            7 => SigningKey::None,
            other => SigningKey::Other(other),
        }
    }
}

/// The key that signed a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigningKey {
    /// Versioned chip endorsement key: one chip at one firmware level.
    Vcek,
    /// Versioned loaded endorsement key: one cloud provider at one firmware level.
    Vlek,
    /// The report is not signed.
    None,
    /// A reserved value, 2 to 6.
    Other(u8),
}

impl fmt::Display for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SigningKey::Vcek => f.write_str("VCEK"),
            SigningKey::Vlek => f.write_str("VLEK"),
            SigningKey::None => f.write_str("none"),
            SigningKey::Other(value) => write!(f, "reserved value {value}"),
        }
    }
}

const fn bit(bits: u64, index: u32) -> bool {
    (bits >> index) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_bits() {
        assert_eq!(Policy(0x30000).to_string(), "0x30000 (ABI 0.0, SMT allowed)");
        assert_eq!(Policy(0x3_011f).to_string(), "0x3011f (ABI 1.31, SMT allowed)");
        assert!(Policy(0xB_0000).debug_allowed());
        assert!(!Policy(!(1 << 19)).debug_allowed());
        assert_eq!(Policy(u64::MAX).to_string().matches(", ").count(), 9);
    }

    #[test]
    fn platform_bits() {
        let p = PlatformInfo(0x27);
        assert!(p.smt_enabled() && p.tsme_enabled() && p.ecc_enabled() && p.alias_check_complete());
        assert!(!p.rapl_disabled() && !p.ciphertext_hiding_enabled() && !p.tio_enabled());
    }

    #[test]
    fn signing_key_is_bits_2_to_4() {
        let table = [(0, "VCEK"), (0x4, "VLEK"), (0x1c, "none"), (0x8, "reserved value 2"), (0x23, "VCEK")];
        for (value, name) in table {
            assert_eq!(KeyInfo(value).signing_key().to_string(), name, "{value:#x}");
        }
        assert!(KeyInfo(2).mask_chip_key() && !KeyInfo(2).author_key_enabled());
    }
}
