//! The key provider's process: parse, then the skeleton that all daemons share.

use std::process::ExitCode;

use cc_daemon::config::Source;
use cc_daemon::sandbox::{Needs, Seccomp};
use cc_daemon::start::{self, Settings};
use clap::Parser;
use coco_keyprovider::config::Cli;
use coco_keyprovider::server;

/// Buffers of the RPC and TLS libraries hold keys too: whatever is freed is wiped.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

const NAME: &str = "coco_keyprovider";

fn main() -> ExitCode {
    let config = match Cli::parse().into_config() {
        Ok(config) => config,
        Err(fault) => return start::report(NAME, &fault),
    };
    let settings = Settings {
        log_level: "info".to_owned(),
        source: Source::defaults(),
        unused: Vec::new(),
        threads: 1,
        seccomp: Seccomp::On,
        needs: Needs::NETWORK,
    };
    start::run(NAME, &settings, |inherited, shutdown| server::serve(config, inherited, shutdown))
}
