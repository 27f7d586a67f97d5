//! TCB versions: eight bytes whose meaning depends on the processor family.
//!
//! AMD publication 56860, "TCB_VERSION". Milan and Genoa (family 0x19) have four components, Turin
//! and later (family 0x1A) five. It is NOT decided here which level is new enough.

use std::fmt;

use super::report::CpuId;

/// Which bytes of a TCB version hold which component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcbLayout {
    /// Family 0x19: bootloader, TEE, 0, 0, 0, 0, SNP firmware, microcode.
    Milan,
    /// Family 0x1A and later: FMC, bootloader, TEE, SNP firmware, 0, 0, 0, microcode.
    Turin,
}

impl TcbLayout {
    /// The layout that belongs to a processor.
    #[must_use]
    pub const fn of_cpu(cpu: CpuId) -> Self {
        if cpu.family >= 0x1A { TcbLayout::Turin } else { TcbLayout::Milan }
    }
}

/// Security version numbers of the firmware components, each a count that only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tcb {
    /// First mutable code; exists from Turin on.
    pub fmc: Option<u8>,
    /// Bootloader of the security processor.
    pub bootloader: u8,
    /// Operating system of the security processor.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Lowest microcode patch level of all cores.
    pub microcode: u8,
    /// The eight bytes as they stand in the report.
    pub raw: [u8; 8],
}

impl Tcb {
    /// Reads eight report bytes.
    #[must_use]
    pub const fn from_raw(raw: [u8; 8], layout: TcbLayout) -> Self {
        let [b0, b1, b2, b3, _, _, b6, microcode] = raw;
        match layout {
            TcbLayout::Milan => Tcb { fmc: None, bootloader: b0, tee: b1, snp: b6, microcode, raw },
            TcbLayout::Turin => Tcb { fmc: Some(b0), bootloader: b1, tee: b2, snp: b3, microcode, raw },
        }
    }

    /// Builds a TCB version from its components; `fmc` decides the layout, unused bytes are zero.
    #[must_use]
    pub const fn from_parts(fmc: Option<u8>, bootloader: u8, tee: u8, snp: u8, microcode: u8) -> Self {
        let raw = match fmc {
            None => [bootloader, tee, 0, 0, 0, 0, snp, microcode],
            Some(fmc) => [fmc, bootloader, tee, snp, 0, 0, 0, microcode],
        };
        Tcb { fmc, bootloader, tee, snp, microcode, raw }
    }
}

impl fmt::Display for Tcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(fmc) = self.fmc {
            write!(f, "fmc {fmc}, ")?;
        }
        write!(
            f,
            "bootloader {}, tee {}, snp {}, microcode {}",
            self.bootloader, self.tee, self.snp, self.microcode
        )
    }
}

/// A processor generation as AMD's key service names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Product {
    /// Third generation EPYC.
    Milan,
    /// Fourth generation EPYC: Genoa, Bergamo, Siena.
    Genoa,
    /// Fifth generation EPYC.
    Turin,
}

impl Product {
    /// Every product, oldest first.
    pub const ALL: [Product; 3] = [Product::Milan, Product::Genoa, Product::Turin];

    /// The product of a processor; `None` when it is not known here.
    #[must_use]
    pub const fn of_cpu(cpu: CpuId) -> Option<Self> {
        match (cpu.family, cpu.model) {
            (0x19, 0x00..=0x0F) => Some(Product::Milan),
            (0x19, 0x10..=0x1F | 0xA0..=0xAF) => Some(Product::Genoa),
            (0x1A, 0x00..=0x11) => Some(Product::Turin),
            _ => None,
        }
    }

    /// The name in certificates and in addresses of the key service.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Product::Milan => "Milan",
            Product::Genoa => "Genoa",
            Product::Turin => "Turin",
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_by_family() {
        let raw = [1, 2, 3, 4, 5, 6, 7, 8];
        let milan = Tcb::from_raw(raw, TcbLayout::Milan);
        assert_eq!((milan.fmc, milan.bootloader, milan.tee, milan.snp, milan.microcode), (None, 1, 2, 7, 8));
        let turin = Tcb::from_raw(raw, TcbLayout::Turin);
        assert_eq!(
            (turin.fmc, turin.bootloader, turin.tee, turin.snp, turin.microcode),
            (Some(1), 2, 3, 4, 8)
        );
    }

    #[test]
    fn parts_give_the_raw_bytes() {
        for (tcb, layout) in [
            (Tcb::from_parts(None, 3, 0, 8, 115), TcbLayout::Milan),
            (Tcb::from_parts(Some(1), 2, 3, 4, 5), TcbLayout::Turin),
        ] {
            assert_eq!(Tcb::from_raw(tcb.raw, layout), tcb);
        }
    }

    #[test]
    fn products_by_cpuid() {
        let table = [
            (0x19, 0x01, Some(Product::Milan)),
            (0x19, 0x11, Some(Product::Genoa)),
            (0x19, 0xA0, Some(Product::Genoa)),
            (0x19, 0x20, None),
            (0x1A, 0x02, Some(Product::Turin)),
            (0x1A, 0x11, Some(Product::Turin)),
            (0x1A, 0x12, None),
            (0x17, 0x01, None),
        ];
        for (family, model, product) in table {
            assert_eq!(
                Product::of_cpu(CpuId { family, model, stepping: 0 }),
                product,
                "{family:#x}/{model:#x}"
            );
        }
        assert_eq!(TcbLayout::of_cpu(CpuId { family: 0x1A, model: 0x50, stepping: 0 }), TcbLayout::Turin);
    }
}
