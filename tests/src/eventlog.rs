//! An event log as a TDX machine's firmware leaves it in the memory of the ACPI table CCEL.
//!
//! Written from the TCG PC client platform firmware profile (crypto-agile log), not with the parser of the services.

use cc_evidence::HashAlgorithm;

/// Size of the memory; the rest of it is filled with 0xFF.
const AREA: usize = 64 * 1024;
/// Identifier of SHA-384 in logs.
const SHA384: u16 = 0x0C;
/// Types of records.
const EV_NO_ACTION: u32 = 3;
const EV_SEPARATOR: u32 = 4;
const EV_EFI_ACTION: u32 = 0x8000_0007;

/// A log and the registers that it explains.
#[derive(Debug, Clone)]
pub struct EventLog {
    records: Vec<u8>,
    /// RTMR 0 to 3.
    registers: [Vec<u8>; 4],
}

impl EventLog {
    /// The log of a boot: two actions of the firmware, one of the boot loader, and separators.
    pub fn of_a_boot() -> Self {
        let mut log = Self { records: first_record(), registers: std::array::from_fn(|_| vec![0; 48]) };
        log.measure(0, EV_EFI_ACTION, b"Calling EFI Application from Boot Option");
        log.measure(0, EV_SEPARATOR, &[0; 4]);
        log.measure(1, EV_EFI_ACTION, b"Exit Boot Services Invocation");
        log.measure(1, EV_SEPARATOR, &[0; 4]);
        log.measure(2, EV_EFI_ACTION, b"console=hvc0 root=/dev/vda1");
        log
    }

    /// The records alone, without the unused rest of the memory.
    pub fn records(&self) -> Vec<u8> {
        self.records.clone()
    }

    /// The whole memory area.
    pub fn area(&self) -> Vec<u8> {
        let mut area = self.records.clone();
        area.resize(AREA.max(area.len()), 0xFF);
        area
    }

    /// RTMR `number` (0 to 3) after this log, hex.
    pub fn register(&self, number: usize) -> String {
        self.registers.get(number).map(hex::encode).unwrap_or_default()
    }

    fn measure(&mut self, rtmr: u8, kind: u32, data: &[u8]) {
        let digest = HashAlgorithm::Sha384.digest(data);
        // Index 0 of a log is MRTD.
        self.records.extend((u32::from(rtmr) + 1).to_le_bytes());
        self.records.extend(kind.to_le_bytes());
        self.records.extend(1u32.to_le_bytes());
        self.records.extend(SHA384.to_le_bytes());
        self.records.extend(&digest);
        push_sized(&mut self.records, data);
        if let Some(register) = self.registers.get_mut(usize::from(rtmr)) {
            *register = HashAlgorithm::Sha384.digest(&[register.as_slice(), &digest].concat());
        }
    }
}

/// The record that declares the algorithms, in the form that older readers understand.
fn first_record() -> Vec<u8> {
    let mut declared = b"Spec ID Event03\0".to_vec();
    declared.extend([0; 4]); // platform class
    declared.extend([0, 2, 0, 2]); // version 2.00, errata, 64 bit
    declared.extend(1u32.to_le_bytes());
    declared.extend(SHA384.to_le_bytes());
    declared.extend(48u16.to_le_bytes());
    declared.push(0); // no vendor data
    let mut record = [0, EV_NO_ACTION].map(u32::to_le_bytes).concat();
    record.extend([0; 20]);
    push_sized(&mut record, &declared);
    record
}

fn push_sized(to: &mut Vec<u8>, data: &[u8]) {
    to.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_le_bytes());
    to.extend(data);
}
