//! The attributes of a trust domain, fixed at its start.
//!
//! Intel TDX module ABI specification, table "ATTRIBUTES". Unknown bits are kept: the type is the number
//! itself with names for its bits. What a bit means for trust is NOT decided here.

use std::fmt;

/// Attributes of a trust domain, a little-endian number in reports and quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TdAttributes(pub u64);

/// Bits with a name, in rising order.
const NAMES: [(u32, &str); 11] = [
    (0, "debug"),
    (4, "profiling-hgs-plus"),
    (5, "profiling-perf"),
    (6, "profiling-pmt"),
    (27, "lass"),
    (28, "sept-ve-disable"),
    (29, "migratable"),
    (30, "pks"),
    (31, "key-locker"),
    (62, "tpa"),
    (63, "perfmon"),
];

impl TdAttributes {
    /// The host may read and change the domain's memory: such a domain keeps no secrets.
    #[must_use]
    pub const fn debug(self) -> bool {
        self.bit(0)
    }

    /// Any of the bits 0 to 7, which no domain in production has: debugging and profiling.
    #[must_use]
    pub const fn under_observation(self) -> bool {
        self.0 & 0xFF != 0
    }

    /// Accesses to pages that the host took away stop the domain instead of raising an exception.
    #[must_use]
    pub const fn sept_ve_disable(self) -> bool {
        self.bit(28)
    }

    /// The domain may be migrated to another machine.
    #[must_use]
    pub const fn migratable(self) -> bool {
        self.bit(29)
    }

    /// Supervisor protection keys are available.
    #[must_use]
    pub const fn protection_keys(self) -> bool {
        self.bit(30)
    }

    /// Key Locker is available.
    #[must_use]
    pub const fn key_locker(self) -> bool {
        self.bit(31)
    }

    /// Performance monitoring is available.
    #[must_use]
    pub const fn perfmon(self) -> bool {
        self.bit(63)
    }

    const fn bit(self, number: u32) -> bool {
        self.0 & (1 << number) != 0
    }
}

impl fmt::Display for TdAttributes {
    /// The number in hexadecimal and the names of its bits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)?;
        let set = NAMES.iter().filter(|(number, _)| self.bit(*number)).map(|(_, name)| *name);
        let names: Vec<_> = set.collect();
        if names.is_empty() { Ok(()) } else { write!(f, " ({})", names.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_have_names() {
        let attributes = TdAttributes(0x1000_0001);
        assert_eq!(attributes.to_string(), "0x0000000010000001 (debug, sept-ve-disable)");
        assert!(attributes.debug() && attributes.under_observation() && attributes.sept_ve_disable());
        assert!(!attributes.migratable() && !attributes.protection_keys());
        assert!(!TdAttributes(0x1000_0000).under_observation());
        assert!(TdAttributes(0x80).under_observation());
        let last = TdAttributes((1 << 63) | (1 << 31) | (1 << 30) | (1 << 29));
        assert!(last.perfmon() && last.key_locker() && last.protection_keys() && last.migratable());
        assert_eq!(TdAttributes(2).to_string(), "0x0000000000000002");
    }
}
