//! What the TDX module itself says about this trust domain, without the host taking part.
//!
//! Two sources: a TDREPORT (layout: Intel TDX module ABI specification) from the driver's device, and the driver's sysfs
//! attributes (Linux ABI document `sysfs-devices-virtual-misc-tdx_guest`, kernel 6.16 and later), which are there in
//! containers that have no devices. One that is there and fails is an error: it must not turn into a weaker source.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cc_evidence::tdx::{REPORT_LEN, TdReport};

use super::DEVICE;
use crate::{Error, SysRoot, sys};

/// Bytes of every measurement.
pub(super) const LEN: usize = 48;

/// Where the driver shows the measurements as raw bytes.
pub(super) const ATTRIBUTES: &str = "sys/devices/virtual/misc/tdx_guest/measurements";

/// MRCONFIGID below `root`, what this trust domain was launched with; none if neither device nor attribute is there.
pub(super) fn config_id(root: &SysRoot) -> Result<Option<[u8; LEN]>, Error> {
    match report(root)? {
        Some(report) => Ok(Some(report.td_info.mr_config_id)),
        None => attribute(root, "mrconfigid"),
    }
}

/// A report over zeros; none if the device is not there.
pub(super) fn report(root: &SysRoot) -> Result<Option<TdReport>, Error> {
    Ok(report_over(root, &[0; 64])?.map(|(_, report)| report))
}

/// A report over `asked`, its bytes and what they say; none if the device is not there.
pub(super) fn report_over(
    root: &SysRoot,
    asked: &[u8; 64],
) -> Result<Option<([u8; REPORT_LEN], TdReport)>, Error> {
    let path = root.path(DEVICE);
    let Some(device) = open(&path)? else { return Ok(None) };
    let bytes = sys::td_report(&device, asked).map_err(|source| failed(&path, source))?;
    let report = TdReport::parse(&bytes).map_err(|source| Error::BadEvidence { what: "TDREPORT", source })?;
    if report.report_data != *asked || !report.td_info_intact() {
        return Err(Error::EvidenceMismatch { what: "TDREPORT" });
    }
    Ok(Some((bytes, report)))
}

/// The attribute `name`; none if it is not there.
pub(super) fn attribute(root: &SysRoot, name: &str) -> Result<Option<[u8; LEN]>, Error> {
    let path = attribute_path(root, name);
    let Some(mut file) = open(&path)? else { return Ok(None) };
    let mut value = [0; LEN];
    file.read_exact(&mut value).map_err(|source| failed(&path, source))?;
    match file.read(&mut [0]) {
        Ok(0) => Ok(Some(value)),
        Ok(_) => Err(failed(&path, io::Error::other(format!("longer than {LEN} bytes")))),
        Err(source) => Err(failed(&path, source)),
    }
}

/// Where the attribute `name` is.
pub(super) fn attribute_path(root: &SysRoot, name: &str) -> PathBuf {
    root.path(ATTRIBUTES).join(name)
}

/// Opens what is at `path`, none if nothing is.
fn open(path: &Path) -> Result<Option<File>, Error> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(path, source)),
    }
}

pub(super) fn failed(path: &Path, source: io::Error) -> Error {
    Error::Device { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MRCONFIGID: &str = "sys/devices/virtual/misc/tdx_guest/measurements/mrconfigid";

    fn put(root: &SysRoot, below: &str, content: &[u8]) {
        let path = root.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn the_attribute_is_read_to_the_byte() {
        let directory = tempfile::tempdir().unwrap();
        let root = SysRoot::new(directory.path().to_owned());
        assert_eq!(config_id(&root).unwrap(), None);
        put(&root, MRCONFIGID, &[7; LEN]);
        assert_eq!(config_id(&root).unwrap(), Some([7; LEN]));
        for length in [0, LEN - 1, LEN + 1] {
            put(&root, MRCONFIGID, &vec![7; length]);
            let error = config_id(&root).unwrap_err();
            assert_eq!(error.code(), "TEE_DEVICE");
            assert!(error.to_string().contains("mrconfigid"), "{error}");
        }
    }

    #[test]
    fn a_device_that_fails_does_not_turn_into_another_source() {
        let directory = tempfile::tempdir().unwrap();
        let root = SysRoot::new(directory.path().to_owned());
        put(&root, MRCONFIGID, &[7; LEN]);
        put(&root, DEVICE, &[0; 1088]);
        let error = config_id(&root).unwrap_err();
        assert_eq!(error.code(), "TEE_DEVICE");
        assert!(error.to_string().contains("tdx_guest"), "{error}");
    }
}
