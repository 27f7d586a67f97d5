//! The data hub's process: parse, then the skeleton that all daemons share.

use std::process::ExitCode;

use cc_daemon::{health, start};
use cdh::config::{Cli, Config, Surroundings};
use cdh::server;
use clap::Parser;

/// Buffers of the RPC and TLS libraries hold secrets too: whatever is freed is wiped.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

const NAME: &str = "confidential-data-hub";

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            if error.use_stderr() {
                start::send_callers_away();
            }
            error.exit()
        }
    };
    let config = match Surroundings::of_process().and_then(|s| Config::build(cli, &s)) {
        Ok(config) => config,
        Err(fault) => return start::report(NAME, &fault),
    };
    if config.check_only {
        return match server::check(&config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(fault) => start::report(NAME, &fault),
        };
    }
    if config.health_only {
        return health::report(NAME, &config.address);
    }
    let settings = config.settings.clone();
    start::run(NAME, &settings, |inherited, shutdown| server::serve(config, inherited, shutdown))
}
