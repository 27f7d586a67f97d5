//! What the registers hold after the events of a log.
//!
//! Every measured record extends its register: new value = hash of old value and digest (Intel TDX module
//! ABI, TDG.MR.RTMR.EXTEND; TPM 2.0 `TPM2_PCR_Extend` in the same way). Registers begin with zeros. A replay
//! tells what a log CLAIMS: it proves something only when a quote holds the same values.

use super::Events;
use crate::{Error, HashAlgorithm};

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
        let register = values.get_mut(index).ok_or_else(|| Error::Invalid {
            field: "eventlog.register",
            why: format!("there is no register {}", event.register),
        })?;
        if index == 0 {
            continue;
        }
        let mut digests = event.digests.iter().filter(|digest| digest.hash() == Some(algorithm));
        let (Some(digest), None) = (digests.next(), digests.next()) else {
            return Err(Error::Invalid {
                field: "eventlog.digest",
                why: format!(
                    "a record of register {} has not exactly one {algorithm} digest",
                    event.register
                ),
            });
        };
        *register = algorithm.digest(&[register.as_slice(), digest.bytes].concat());
    }
    Ok(Registers { values })
}
