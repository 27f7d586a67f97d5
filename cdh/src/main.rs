//! The data hub's process: parse, build, serve, drain.

use std::process::ExitCode;

use cc_daemon::shutdown::Shutdown;
use cc_daemon::{sandbox, telemetry};
use cdh::config::{Cli, Config, Surroundings};
use cdh::server;
use clap::Parser;

#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

/// Bad configuration (`EX_USAGE` of sysexits.h).
const EXIT_CONFIG: u8 = 64;

fn main() -> ExitCode {
    let config = match Config::build(Cli::parse(), &Surroundings::of_process()) {
        Ok(config) => config,
        Err(e) => return fail("configuration", &e, EXIT_CONFIG),
    };
    if config.check_only {
        return ExitCode::SUCCESS;
    }
    if let Err(e) = telemetry::init(&config.log_level) {
        return fail("log filter", &e.into(), EXIT_CONFIG);
    }
    if let Err(e) = sandbox::forbid_core_dumps() {
        return fail("forbidding core dumps", &e.into(), 1);
    }
    for key in &config.source.unknown_keys {
        tracing::warn!(file = %config.source.path, key, "unknown configuration key is ignored");
    }
    for key in &config.unused {
        tracing::warn!(key, "this version does not act on this setting");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(config)),
        Err(e) => fail("starting the runtime", &e.into(), 1),
    }
}

async fn run(config: Config) -> ExitCode {
    // Signals first: one that comes while the TEE is looked for must not be lost.
    let shutdown = match Shutdown::on_signals() {
        Ok(shutdown) => shutdown,
        Err(e) => return fail("listening for signals", &e.into(), 1),
    };
    let built = match server::build(config) {
        Ok(built) => built,
        Err(e) => return fail("start", &e.into(), EXIT_CONFIG),
    };
    match built.serve(shutdown).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail("serving", &e, 1),
    }
}

#[allow(clippy::print_stderr, reason = "the cause of a failed start goes to stderr, log or no log")]
fn fail(what: &str, e: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("confidential-data-hub: {what}: {e:#}");
    ExitCode::from(code)
}
