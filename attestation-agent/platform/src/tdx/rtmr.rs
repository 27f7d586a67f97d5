//! The runtime measurement registers of a trust domain, through the driver's sysfs attributes.
//!
//! Linux ABI document `sysfs-devices-virtual-misc-tdx_guest` (kernel 6.16 and later): reading `rtmr<N>:sha384` gives the 48
//! bytes of the register, writing exactly 48 bytes in one call extends it (TDG.MR.RTMR.EXTEND of the Intel TDX module
//! ABI). An older kernel has no way to extend; there the registers can still be read, from a TDREPORT.

use std::fs::OpenOptions;
use std::io::{self, Write};

use super::module;
use crate::{Error, HashAlgorithm, Registers, SysRoot};

/// The number of RTMR 3 in event logs.
const EVENTS: u32 = 4;

/// RTMR 0 to 3, which event logs number 1 to 4.
#[derive(Debug)]
pub(super) struct Rtmr {
    root: SysRoot,
}

impl Rtmr {
    /// The registers behind the kernel interfaces below `root`.
    pub(super) fn new(root: SysRoot) -> Self {
        Self { root }
    }

    fn unsupported(&self) -> Error {
        let path = self.root.path(module::ATTRIBUTES);
        Error::RegistersUnsupported {
            why: format!("{} does not exist (Linux 6.16 and later have it)", path.display()),
        }
    }
}

impl Registers for Rtmr {
    fn hash(&self) -> HashAlgorithm {
        HashAlgorithm::Sha384
    }

    fn enabled(&self) -> Result<(), Error> {
        if self.root.path(module::ATTRIBUTES).is_dir() { Ok(()) } else { Err(self.unsupported()) }
    }

    /// The mapping of UEFI 2.10, section 38.4.1, for the PCRs that firmware and boot loaders use; everything else is
    /// the register that is left to applications.
    fn register_of(&self, pcr: u32) -> Result<u32, Error> {
        Ok(match pcr {
            1 | 7 => 1,
            2..=6 => 2,
            8..=15 => 3,
            _ => EVENTS,
        })
    }

    /// RTMR 0 to 2 tell what was booted: firmware, loader, kernel. RTMR 3 is there for events.
    fn tells_identity(&self, pcr: u32) -> bool {
        !matches!(self.register_of(pcr), Ok(EVENTS))
    }

    fn read(&self, pcr: u32) -> Result<Vec<u8>, Error> {
        let number = self.register_of(pcr)? - 1;
        if let Some(value) = module::attribute(&self.root, &attribute(number))? {
            return Ok(value.to_vec());
        }
        let report = module::report(&self.root)?.ok_or_else(|| self.unsupported())?;
        let value = usize::try_from(number).ok().and_then(|number| report.td_info.rtmr.get(number));
        value.map(|value| value.to_vec()).ok_or(Error::NoSuchRegister { pcr })
    }

    fn extend(&self, pcr: u32, digest: &[u8]) -> Result<(), Error> {
        if digest.len() != module::LEN {
            return Err(Error::DigestLength { expected: module::LEN, found: digest.len() });
        }
        let path = module::attribute_path(&self.root, &attribute(self.register_of(pcr)? - 1));
        // Never create or truncate: there is nothing to create below /sys, elsewhere it would hide the error.
        let written = OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write(digest));
        match written {
            Ok(length) if length == digest.len() => Ok(()),
            Ok(length) => {
                let short = format!("took {length} of {} bytes", digest.len());
                Err(module::failed(&path, io::Error::other(short)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.unsupported()),
            Err(source) => Err(module::failed(&path, source)),
        }
    }
}

/// The name of the attribute of RTMR `number`.
fn attribute(number: u32) -> String {
    format!("rtmr{number}:sha384")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn registers(directory: &tempfile::TempDir) -> Rtmr {
        Rtmr::new(SysRoot::new(directory.path().to_owned()))
    }

    #[test]
    fn an_older_kernel_is_named_as_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let registers = registers(&directory);
        for error in [
            registers.enabled().unwrap_err(),
            registers.read(17).unwrap_err(),
            registers.extend(17, &[7; 48]).unwrap_err(),
        ] {
            assert_eq!(error.code(), "REGISTERS_UNSUPPORTED");
            assert!(error.to_string().contains("6.16") && error.hint().contains("CONFIG_TSM_MEASUREMENTS"));
        }
        // A device that is there and fails is no older kernel.
        fs::create_dir_all(directory.path().join("dev")).unwrap();
        fs::write(directory.path().join(super::super::DEVICE), "").unwrap();
        assert_eq!(registers.read(17).unwrap_err().code(), "TEE_DEVICE");
    }

    #[test]
    fn pcr_numbers_lead_to_the_attributes() {
        let directory = tempfile::tempdir().unwrap();
        let measurements = directory.path().join(module::ATTRIBUTES);
        fs::create_dir_all(&measurements).unwrap();
        for number in 0..4u8 {
            fs::write(measurements.join(attribute(number.into())), [number; 48]).unwrap();
        }
        let registers = registers(&directory);
        registers.enabled().unwrap();
        let expected = [
            (0, 3),
            (1, 0),
            (2, 1),
            (6, 1),
            (7, 0),
            (8, 2),
            (11, 2),
            (15, 2),
            (16, 3),
            (17, 3),
            (23, 3),
            (99, 3),
        ];
        for (pcr, number) in expected {
            assert_eq!(registers.read(pcr).unwrap(), [number; 48], "{pcr}");
            assert_eq!(registers.register_of(pcr).unwrap(), u32::from(number) + 1, "{pcr}");
            assert_eq!(registers.tells_identity(pcr), number != 3, "{pcr}");
        }
        assert!(!registers.tells_identity(registers.default_pcr()));
        registers.extend(17, &[9; 48]).unwrap();
        assert_eq!(fs::read(measurements.join("rtmr3:sha384")).unwrap(), [9; 48], "all in one write");
        for length in [0, 32, 47, 49, 64] {
            let error = registers.extend(17, &vec![9; length]).unwrap_err();
            assert_eq!(error.code(), "REGISTER_DIGEST_LENGTH", "{length}");
        }
        fs::write(measurements.join("rtmr3:sha384"), [9; 32]).unwrap();
        assert_eq!(registers.read(17).unwrap_err().code(), "TEE_DEVICE", "a short register");
    }
}
