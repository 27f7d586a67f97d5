//! The long run, scaled down: 5,000 requests while broker, token and agent come and go.

use std::time::Duration;

use cc_tests::long_run::{Plan, run};

/// What a daemon may grow by from the warm-up on, in bytes: allocator arenas of 32 connections.
const MEMORY_SLACK: u64 = 16 << 20;
/// Descriptors that may be open at the end beyond those after the warm-up: connections of the last burst.
const FILE_SLACK: usize = 40;
/// Bytes by which memory may still grow at rest: pages of the program's own file that come in late.
const LATE_PAGES: u64 = 512 * 1024;

#[test]
fn five_thousand_requests_through_restarts_expiries_and_kills() {
    if !cc_tests::stack::emulator_runs_here() {
        return;
    }
    let at_least = Duration::from_secs(22);
    let rest = Duration::from_secs(12);
    let plan = Plan { requests: 5000, connections: 32, burst: 200, at_least, rest };
    let figures = run(&plan).unwrap_or_else(|e| panic!("{e:#}"));
    assert!(figures.is_clean(), "{figures:?}");
    assert!(figures.broker_restarts >= 2 && figures.agent_kills >= 2, "nothing happened: {figures:?}");
    let errors: u64 = figures.statuses.values().sum();
    assert_eq!(figures.good + errors, 5000, "{figures:?}");
    // Every outage is shorter than a request waits.
    assert_eq!(errors, 0, "{figures:?}");
    assert!(figures.quotes >= 3, "the token was renewed: {figures:?}");
    for daemon in &figures.daemons {
        assert!(daemon.resident_after <= daemon.resident_before + MEMORY_SLACK, "{daemon:?}");
        assert!(
            daemon.resident_at_rest <= daemon.resident_after + LATE_PAGES,
            "memory does not fall back: {daemon:?}"
        );
        assert!(daemon.descriptors_at_rest <= daemon.descriptors_before + FILE_SLACK, "{daemon:?}");
    }
}
