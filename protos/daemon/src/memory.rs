//! Memory that was freed goes back to the system.
//!
//! glibc keeps what a burst of requests has freed for the next burst, without end: only the top of a heap shrinks by
//! itself. In a confidential machine memory is what the whole machine has, so a task looks now and then whether the
//! process has worked and has the allocator give its free pages back (malloc_trim(3)). It is NOT a limit on memory:
//! limits are where the bytes come in.

use std::time::Duration;

pub use cc_confinement::memory::map_large_blocks;
use cc_confinement::memory::release;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::{MissedTickBehavior, interval};

/// Between two looks.
const GLANCE: Duration = Duration::from_secs(5);
/// Processor time since the last release that makes another one worthwhile: some twenty requests. It is small because
/// what a burst leaves after the last release stays until more work comes, and well above what the looking itself costs.
const WORK: Duration = Duration::from_millis(5);

/// Starts the task in the runtime that this is called in; it ends with the runtime.
pub fn spawn_release() {
    tokio::spawn(async {
        let mut glances = interval(GLANCE);
        glances.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut released = Duration::ZERO;
        loop {
            glances.tick().await;
            if processor_time().saturating_sub(released) >= WORK {
                release();
                released = processor_time();
            }
        }
    });
}

/// Processor time of the process so far, all threads.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_grows_with_work() {
        let before = processor_time();
        let mut x = 1_u64;
        while processor_time() == before {
            x = std::hint::black_box(x.wrapping_mul(31));
        }
        assert!(processor_time() > before);
    }
}
