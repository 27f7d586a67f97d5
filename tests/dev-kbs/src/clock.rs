//! Wall-clock time in the unit that tokens use.
//!
//! Not a source of time for sessions: these live on the monotonic clock (`session`).

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since the Unix epoch now; 0 on a machine whose clock stands before it.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
