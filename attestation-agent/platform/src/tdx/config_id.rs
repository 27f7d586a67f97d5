//! MRCONFIGID from the TDX module itself: what this trust domain was launched with, without the host taking part.
//!
//! Sources, in this order: a TDREPORT (layout: Intel TDX module ABI specification) from the driver's device, and the
//! driver's sysfs attribute (Linux ABI document `sysfs-devices-virtual-misc-tdx_guest`, kernel 6.16 and later), which is
//! there in containers that have no devices.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use cc_evidence::tdx::TdReport;

use super::DEVICE;
use crate::{Error, SysRoot, sys};

/// Bytes of MRCONFIGID.
pub(super) const LEN: usize = 48;

/// The attribute, raw bytes.
const ATTRIBUTE: &str = "sys/devices/virtual/misc/tdx_guest/measurements/mrconfigid";

/// MRCONFIGID below `root`; none if neither device nor attribute is there. One that is there and fails is an error:
/// it must not turn into a weaker source.
pub(super) fn read(root: &SysRoot) -> Result<Option<[u8; LEN]>, Error> {
    let device = root.path(DEVICE);
    if let Some(file) = open(&device)? {
        return td_report(&device, &file).map(|report| Some(report.td_info.mr_config_id));
    }
    let attribute = root.path(ATTRIBUTE);
    open(&attribute)?.map(|file| read_attribute(&attribute, file)).transpose()
}

/// A report of the TDX module over zeros.
fn td_report(path: &Path, device: &File) -> Result<TdReport, Error> {
    let asked = [0; 64];
    let bytes = sys::td_report(device, &asked).map_err(|source| failed(path, source))?;
    let report = TdReport::parse(&bytes).map_err(|source| Error::BadEvidence { what: "TDREPORT", source })?;
    if report.report_data != asked || !report.td_info_intact() {
        return Err(Error::EvidenceMismatch { what: "TDREPORT" });
    }
    Ok(report)
}

fn read_attribute(path: &Path, mut file: File) -> Result<[u8; LEN], Error> {
    let mut value = [0; LEN];
    file.read_exact(&mut value).map_err(|source| failed(path, source))?;
    match file.read(&mut [0]) {
        Ok(0) => Ok(value),
        Ok(_) => Err(failed(path, io::Error::other(format!("longer than {LEN} bytes")))),
        Err(source) => Err(failed(path, source)),
    }
}

/// Opens what is at `path`, none if nothing is.
fn open(path: &Path) -> Result<Option<File>, Error> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(path, source)),
    }
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Device { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn put(root: &SysRoot, below: &str, content: &[u8]) {
        let path = root.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn the_attribute_is_read_to_the_byte() {
        let directory = tempfile::tempdir().unwrap();
        let root = SysRoot::new(directory.path().to_owned());
        assert_eq!(read(&root).unwrap(), None);
        put(&root, ATTRIBUTE, &[7; LEN]);
        assert_eq!(read(&root).unwrap(), Some([7; LEN]));
        for length in [0, LEN - 1, LEN + 1] {
            put(&root, ATTRIBUTE, &vec![7; length]);
            let error = read(&root).unwrap_err();
            assert_eq!(error.code(), "TEE_DEVICE");
            assert!(error.to_string().contains("mrconfigid"), "{error}");
        }
    }

    #[test]
    fn a_device_that_fails_does_not_turn_into_another_source() {
        let directory = tempfile::tempdir().unwrap();
        let root = SysRoot::new(directory.path().to_owned());
        put(&root, ATTRIBUTE, &[7; LEN]);
        put(&root, DEVICE, &[0; 1088]);
        let error = read(&root).unwrap_err();
        assert_eq!(error.code(), "TEE_DEVICE");
        assert!(error.to_string().contains("tdx_guest"), "{error}");
    }
}
