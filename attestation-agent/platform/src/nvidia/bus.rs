//! The NVIDIA devices on the PCI bus, as the kernel shows them in sysfs.
//!
//! Implements the Linux ABI document `sysfs-bus-pci`: one directory per function, `vendor` and `class` as hexadecimal
//! text. It finds what is there, whether or not a driver serves it. The host decides which devices a guest has: a GPU
//! that it does not show is not there at all, and one that it disguises no NVIDIA driver takes.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use crate::{Error, SysRoot};

/// Where the functions are, below the root of the machine.
pub(super) const DEVICES: &str = "sys/bus/pci/devices";

const NVIDIA: u32 = 0x10DE;
/// Base class and sub-class: VGA controller, 3D controller.
const GPU_CLASSES: [u32; 2] = [0x0300, 0x0302];
/// Other bridge: what an NVSwitch is.
const SWITCH_CLASS: u32 = 0x0680;

/// Most functions that are looked at.
const MAX_FUNCTIONS: usize = 65_536;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Bus {
    /// Addresses of the GPUs, `0000:41:00.0`, in order.
    pub(super) gpus: Vec<String>,
    /// Addresses of the switches.
    pub(super) switches: Vec<String>,
}

impl Bus {
    /// Looks at every function. A machine without a PCI bus has no devices on it.
    pub(super) fn scan(root: &SysRoot) -> Result<Self, Error> {
        let directory = root.path(DEVICES);
        let failed = |path: &Path, source| Error::Device { path: path.to_owned(), source };
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(&directory, error)),
        };
        let mut bus = Self::default();
        for entry in entries.take(MAX_FUNCTIONS) {
            let path = entry.map_err(|error| failed(&directory, error))?.path();
            let number = |name: &str| match number(&path.join(name)) {
                // It was taken away meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                other => other.map(Some).map_err(|error| failed(&path.join(name), error)),
            };
            if number("vendor")? != Some(NVIDIA) {
                continue;
            }
            let Some(class) = number("class")? else { continue };
            let address = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match class >> 8 {
                class if GPU_CLASSES.contains(&class) => bus.gpus.push(address),
                SWITCH_CLASS => bus.switches.push(address),
                _ => {}
            }
        }
        bus.gpus.sort();
        bus.switches.sort();
        Ok(bus)
    }
}

/// The number in a file that holds one as hexadecimal text.
fn number(path: &Path) -> io::Result<u32> {
    let mut text = String::new();
    File::open(path)?.take(32).read_to_string(&mut text)?;
    let digits = text.trim().strip_prefix("0x").unwrap_or_default();
    u32::from_str_radix(digits, 16)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "no hexadecimal number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(root: &Path, address: &str, vendor: &str, class: &str) {
        let path = root.join(DEVICES).join(address);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("vendor"), vendor).unwrap();
        fs::write(path.join("class"), class).unwrap();
    }

    #[test]
    fn gpus_and_switches_are_told_from_everything_else() {
        let root = tempfile::tempdir().unwrap();
        for (address, vendor, class) in [
            ("0000:00:00.0", "0x8086\n", "0x060000\n"),
            ("0000:41:00.0", "0x10de\n", "0x030200\n"),
            ("0000:05:00.0", "0x10de\n", "0x030000\n"),
            ("0000:05:00.1", "0x10de\n", "0x040300\n"),
            ("0000:06:00.0", "0x1234\n", "0x030200\n"),
            ("0000:90:00.0", "0x10de\n", "0x068000\n"),
        ] {
            function(root.path(), address, vendor, class);
        }
        let bus = Bus::scan(&SysRoot::new(root.path().to_owned())).unwrap();
        assert_eq!(bus.gpus, ["0000:05:00.0", "0000:41:00.0"]);
        assert_eq!(bus.switches, ["0000:90:00.0"]);
    }

    #[test]
    fn no_bus_is_no_device_and_a_bus_that_cannot_be_read_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let scan = || Bus::scan(&SysRoot::new(root.path().to_owned()));
        assert_eq!(scan().unwrap(), Bus::default());
        // A function that has just gone leaves an entry without files.
        fs::create_dir_all(root.path().join(DEVICES).join("0000:01:00.0")).unwrap();
        assert_eq!(scan().unwrap(), Bus::default());
        for text in ["10de", "0x", "0x123456789", "\u{fffd}"] {
            function(root.path(), "0000:02:00.0", text, "0x030000");
            assert_eq!(scan().unwrap_err().code(), "TEE_DEVICE", "{text}");
        }
        fs::remove_dir_all(root.path().join(DEVICES)).unwrap();
        fs::write(root.path().join(DEVICES), "").unwrap();
        assert_eq!(scan().unwrap_err().code(), "TEE_DEVICE");
    }
}
