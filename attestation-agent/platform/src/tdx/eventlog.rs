//! The logs that say what the run-time registers measured: the firmware's (CCEL) and the agent's own (AAEL).
//!
//! Read as bytes and joined by [`cc_evidence::ccel`]; what is in them proves nothing until a verifier has replayed
//! them against a quote.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use cc_evidence::ccel;

use crate::{Error, SysRoot};

/// The log area of the ACPI table CCEL, as Linux shows it.
const FIRMWARE_LOG: &str = "sys/firmware/acpi/tables/data/CCEL";

/// What the agent measured itself.
const AGENT_LOG: &str = "run/attestation-agent/eventlog";

/// The joined log below `root`; none if this machine has none.
pub(super) fn collect(root: &SysRoot) -> Result<Option<Vec<u8>>, Error> {
    let read = |below| read(&root.path(below));
    let (firmware, agent) = (read(FIRMWARE_LOG)?, read(AGENT_LOG)?);
    ccel::assemble(firmware.as_deref(), agent.as_deref())
        .map_err(|source| Error::BadEvidence { what: "event log", source })
}

/// A whole file, none if it does not exist.
fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let failed = |source| Error::EventLog { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let mut bytes = Vec::new();
    let limit = ccel::MAX_LOG_LEN;
    let limit_read = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit_read).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > limit {
        return Err(failed(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("longer than {limit} bytes"),
        )));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A record of register 1 with one SHA-384 digest and four bytes of data.
    fn record(tag: u8) -> Vec<u8> {
        let mut record = [1u32, 4, 1].map(u32::to_le_bytes).concat();
        record.extend([0x0C, 0]);
        record.extend([tag; 48]);
        record.extend([4, 0, 0, 0]);
        record.extend([tag; 4]);
        record
    }

    /// The first record of a log that declares SHA-384 alone.
    fn first() -> Vec<u8> {
        let mut record = [0u32, 3].map(u32::to_le_bytes).concat();
        record.extend([0; 20]);
        record.extend(33u32.to_le_bytes());
        record.extend(b"Spec ID Event03\0");
        record.extend([0, 0, 0, 0, 0, 2, 0, 2]);
        record.extend(1u32.to_le_bytes());
        record.extend([0x0C, 0, 48, 0, 0]);
        record
    }

    fn put(root: &SysRoot, below: &str, content: &[u8]) {
        let path = root.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn both_logs_are_joined_without_the_padding_and_ended() {
        let directory = tempfile::tempdir().unwrap();
        let root = SysRoot::new(directory.path().to_owned());
        assert_eq!(collect(&root).unwrap(), None, "no log is no error");
        let firmware = [first(), record(1)].concat();
        put(&root, FIRMWARE_LOG, &[firmware.clone(), vec![0xFF; 4096]].concat());
        assert_eq!(collect(&root).unwrap(), Some([firmware.clone(), vec![0xFF; 8]].concat()));
        put(&root, AGENT_LOG, &record(2));
        assert_eq!(collect(&root).unwrap(), Some([firmware, record(2), vec![0xFF; 8]].concat()));
        fs::remove_file(root.path(FIRMWARE_LOG)).unwrap();
        let alone = collect(&root).unwrap().unwrap();
        assert_eq!(&alone[69..], [record(2), vec![0xFF; 8]].concat(), "after the 69 bytes that announce it");
    }

    #[test]
    fn a_log_that_cannot_be_used_is_an_error_and_no_absence() {
        let directory = tempfile::tempdir().unwrap();
        let root = SysRoot::new(directory.path().to_owned());
        put(&root, FIRMWARE_LOG, &[first(), record(1)[..20].to_vec()].concat());
        assert_eq!(collect(&root).unwrap_err().code(), "EVIDENCE_MALFORMED");
        put(&root, FIRMWARE_LOG, &vec![0; ccel::MAX_LOG_LEN + 1]);
        assert_eq!(collect(&root).unwrap_err().code(), "EVENT_LOG_UNREADABLE");
        fs::remove_file(root.path(FIRMWARE_LOG)).unwrap();
        fs::create_dir(root.path(FIRMWARE_LOG)).unwrap();
        assert_eq!(collect(&root).unwrap_err().code(), "EVENT_LOG_UNREADABLE");
    }
}
