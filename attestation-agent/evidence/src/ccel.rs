//! Event logs of confidential guests and of TPMs: what was measured into the registers, in which order.
//!
//! The format is the crypto-agile log of the TCG PC Client Platform Firmware Profile (section 10), kept by
//! firmware in the memory that the ACPI table CCEL names (ACPI 6.5, UEFI 2.10 section 38), followed by the
//! records of the agent. A log is NOT trusted by itself: only its digests count, and only after a replay
//! gave the values of the registers.

mod event;
mod replay;

pub use event::{Declaration, Digest, Event, Events, type_name};
pub use replay::{PCRS, REGISTERS, Registers, replay, replay_pcrs, startup_locality};

use crate::Error;

/// Longest log that is read or written, in bytes.
pub const MAX_LOG_LEN: usize = 2 * 1024 * 1024;

/// Most records in one log.
pub const MAX_EVENTS: usize = 65_536;

/// What ends a log; firmware fills the rest of its memory with either byte.
pub const END_MARK: [u8; 8] = [0xFF; 8];

/// Type of records that inform and are never measured (`EV_NO_ACTION`).
pub const EV_NO_ACTION: u32 = 3;

/// Type of tagged records (`EV_EVENT_TAG`): those of the Linux EFI stub and of the agent.
pub const EV_EVENT_TAG: u32 = 6;

/// First record of a log when there is none from firmware: declares SHA-384 and SM3, without a signature.
///
/// Trustee's verifiers know these exact bytes.
const HEADER_WITHOUT_CCEL: [u8; 69] = {
    let mut header = [0; 69];
    header[4] = 3; // EV_NO_ACTION
    header[28] = 0x25; // length of what follows
    header[56] = 2; // number of algorithms
    header[60] = 0x0C; // SHA-384
    header[62] = 0x30;
    header[64] = 0x12; // SM3
    header[66] = 0x20;
    header
};

/// The log that evidence carries: firmware's records without the padding, then the agent's, then the end mark.
///
/// `ccel` is the content of the CCEL memory, `aael` that of the agent's own log (bare records). Without
/// either there is no log.
///
/// # Errors
/// [`Error::TooLarge`]; [`Error::Truncated`] and [`Error::Invalid`] when records in either part are broken.
pub fn assemble(ccel: Option<&[u8]>, aael: Option<&[u8]>) -> Result<Option<Vec<u8>>, Error> {
    if ccel.is_none() && aael.is_none() {
        return Ok(None);
    }
    let mut log = match ccel {
        Some(bytes) => {
            let mut events = Events::new(bytes)?;
            for event in events.by_ref() {
                event?;
            }
            bytes.get(..events.offset()).unwrap_or_default().to_vec()
        }
        None => HEADER_WITHOUT_CCEL.to_vec(),
    };
    if let Some(records) = aael {
        let mut events = Events::bare(records)?;
        for event in events.by_ref() {
            event?;
        }
        if events.offset() != records.len() {
            return Err(Error::Trailing {
                what: "the agent's event log",
                extra: records.len() - events.offset(),
            });
        }
        log.extend_from_slice(records);
    }
    log.extend_from_slice(&END_MARK);
    check_len(&log)?;
    Ok(Some(log))
}

const fn check_len(log: &[u8]) -> Result<(), Error> {
    if log.len() > MAX_LOG_LEN {
        return Err(Error::TooLarge { what: "an event log", size: log.len(), limit: MAX_LOG_LEN });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
