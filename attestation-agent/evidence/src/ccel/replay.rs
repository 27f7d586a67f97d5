//! What the registers hold after the events of a log.
//!
//! Every measured record extends its register: new value = hash of old value and digest (Intel TDX module
//! ABI, TDG.MR.RTMR.EXTEND; TPM 2.0 `TPM2_PCR_Extend` in the same way). Registers begin with zeros. A replay
//! tells what a log CLAIMS: it proves something only when a quote holds the same values.

use std::collections::BTreeMap;

use super::{Event, Events};
use crate::{Error, HashAlgorithm};

/// Number of registers of a TPM on a PC (TCG PC Client Platform TPM Profile, section 4.6).
pub const PCRS: u32 = 24;

/// What begins the data of the record that tells from which locality the TPM was started.
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

/// Number of registers in logs of confidential guests: index 0 stands for the initial content, which
/// nothing extends, 1 to 4 for the run-time registers.
pub const REGISTERS: usize = 5;

/// Register values by index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers {
    values: [Vec<u8>; REGISTERS],
}

impl Registers {
    /// The run-time registers 0 to 3, which logs number 1 to 4.
    pub fn run_time(&self) -> impl Iterator<Item = &[u8]> {
        self.values.iter().skip(1).map(Vec::as_slice)
    }
}

/// Replays the measured records of `log` with one algorithm.
///
/// # Errors
/// Those of [`Events`]; [`Error::Invalid`] when a record names another register than 0 to 4, or a record
/// that is extended has not exactly one digest of the algorithm: it would stand in the log without having
/// left a trace in the register.
pub fn replay(log: &[u8], algorithm: HashAlgorithm) -> Result<Registers, Error> {
    let zero = vec![0; algorithm.digest_len()];
    let mut values: [Vec<u8>; REGISTERS] = std::array::from_fn(|_| zero.clone());
    for event in Events::new(log)? {
        let event = event?;
        if !event.is_measured() {
            continue;
        }
        let index = usize::try_from(event.register).unwrap_or(usize::MAX);
        let register = values.get_mut(index).ok_or_else(|| no_register(event.register))?;
        if index == 0 {
            continue;
        }
        *register = extended(register, &event, algorithm)?;
    }
    Ok(Registers { values })
}

/// Replays the measured records of the log of a TPM with one algorithm: the values of the PCRs that records name. PCRs
/// begin with zeros, but for PCR 0, which begins with the locality when the log tells one.
///
/// # Errors
/// Those of [`Events`]; [`Error::Invalid`] when a record names another register than 0 to 23, or has not exactly one
/// digest of the algorithm.
pub fn replay_pcrs(log: &[u8], algorithm: HashAlgorithm) -> Result<BTreeMap<u32, Vec<u8>>, Error> {
    let mut values: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut locality = 0;
    for event in Events::new(log)? {
        let event = event?;
        if let Some(told) = startup_locality(&event) {
            locality = told;
        }
        if !event.is_measured() {
            continue;
        }
        if event.register >= PCRS {
            return Err(no_register(event.register));
        }
        let value = values.entry(event.register).or_insert_with(|| {
            let mut start = vec![0; algorithm.digest_len()];
            if let (0, Some(last)) = (event.register, start.last_mut()) {
                *last = locality;
            }
            start
        });
        *value = extended(value, &event, algorithm)?;
    }
    Ok(values)
}

/// The locality from which the TPM was started, when this record tells it (TCG PC Client Platform Firmware Profile,
/// section 10.4.5.3).
#[must_use]
pub fn startup_locality(event: &Event<'_>) -> Option<u8> {
    match event.data.strip_prefix(STARTUP_LOCALITY) {
        Some([locality]) if !event.is_measured() => Some(*locality),
        _ => None,
    }
}

/// The value of a register after a record.
fn extended(value: &[u8], event: &Event<'_>, algorithm: HashAlgorithm) -> Result<Vec<u8>, Error> {
    let mut digests = event.digests.iter().filter(|digest| digest.hash() == Some(algorithm));
    let (Some(digest), None) = (digests.next(), digests.next()) else {
        return Err(Error::Invalid {
            field: "eventlog.digest",
            why: format!("a record of register {} has not exactly one {algorithm} digest", event.register),
        });
    };
    Ok(algorithm.digest(&[value, digest.bytes].concat()))
}

fn no_register(number: u32) -> Error {
    Error::Invalid { field: "eventlog.register", why: format!("there is no register {number}") }
}
