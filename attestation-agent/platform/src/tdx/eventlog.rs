//! The logs that say what the run-time registers measured: the firmware's (CCEL) and the agent's own (AAEL).
//!
//! Read as bytes and joined by [`cc_evidence::ccel`]; what is in them proves nothing until a verifier has replayed
//! them against a quote.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use cc_evidence::ccel;

use crate::{Error, HashAlgorithm, SysRoot};

/// The log area of the ACPI table CCEL, as Linux shows it.
const FIRMWARE_LOG: &str = "sys/firmware/acpi/tables/data/CCEL";

/// The firmware's log below `root` joined with the `agent`'s; none if this machine has neither.
pub(super) fn collect(root: &SysRoot, agent: &Path) -> Result<Option<Vec<u8>>, Error> {
    let (firmware, agent) = (read(&root.path(FIRMWARE_LOG))?, read(agent)?);
    ccel::assemble(firmware.as_deref(), agent.as_deref())
        .map_err(|source| Error::BadEvidence { what: "event log", source })
}

/// Warns if the records of `log` lead to other values than the registers `rtmr` of the quote that it goes with. The
/// verdict is the relying party's, but here is where the reason can be found.
pub(super) fn warn_unless_explained(log: &[u8], rtmr: &[[u8; 48]; 4]) {
    let hint = "a relying party will refuse it: something extends the registers without a record in the logs, or the agent's \
                log was lost while the machine went on";
    match ccel::replay(log, HashAlgorithm::Sha384) {
        Ok(replayed) => {
            for (number, (replayed, quoted)) in replayed.run_time().zip(rtmr).enumerate() {
                if replayed != quoted {
                    let (replayed, quoted) = (hex::encode(replayed), hex::encode(quoted));
                    tracing::warn!(
                        number,
                        replayed,
                        quoted,
                        hint,
                        "the event log does not explain an RTMR of the quote"
                    );
                }
            }
        }
        Err(error) => tracing::warn!(%error, hint, "the event log cannot be replayed"),
    }
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
    use crate::AGENT_EVENT_LOG;

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
        assert_eq!(collect(&root, &root.path(AGENT_EVENT_LOG)).unwrap(), None, "no log is no error");
        let firmware = [first(), record(1)].concat();
        put(&root, FIRMWARE_LOG, &[firmware.clone(), vec![0xFF; 4096]].concat());
        assert_eq!(
            collect(&root, &root.path(AGENT_EVENT_LOG)).unwrap(),
            Some([firmware.clone(), vec![0xFF; 8]].concat())
        );
        put(&root, AGENT_EVENT_LOG, &record(2));
        assert_eq!(
            collect(&root, &root.path(AGENT_EVENT_LOG)).unwrap(),
            Some([firmware, record(2), vec![0xFF; 8]].concat())
        );
        fs::remove_file(root.path(FIRMWARE_LOG)).unwrap();
        let alone = collect(&root, &root.path(AGENT_EVENT_LOG)).unwrap().unwrap();
        assert_eq!(&alone[69..], [record(2), vec![0xFF; 8]].concat(), "after the 69 bytes that announce it");
    }

    #[test]
    fn a_log_that_cannot_be_used_is_an_error_and_no_absence() {
        let directory = tempfile::tempdir().unwrap();
        let root = SysRoot::new(directory.path().to_owned());
        put(&root, FIRMWARE_LOG, &[first(), record(1)[..20].to_vec()].concat());
        assert_eq!(collect(&root, &root.path(AGENT_EVENT_LOG)).unwrap_err().code(), "EVIDENCE_MALFORMED");
        put(&root, FIRMWARE_LOG, &vec![0; ccel::MAX_LOG_LEN + 1]);
        assert_eq!(collect(&root, &root.path(AGENT_EVENT_LOG)).unwrap_err().code(), "EVENT_LOG_UNREADABLE");
        fs::remove_file(root.path(FIRMWARE_LOG)).unwrap();
        fs::create_dir(root.path(FIRMWARE_LOG)).unwrap();
        assert_eq!(collect(&root, &root.path(AGENT_EVENT_LOG)).unwrap_err().code(), "EVENT_LOG_UNREADABLE");
    }
}
