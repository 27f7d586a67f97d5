//! `trustee-attester`: attests this machine to a key broker and prints one resource.
//!
//! One process without a daemon: it collects the evidence itself and holds the session key for as long as it runs.
//! It is for first-boot scripts, initramfs hooks and the clevis pin of Trustee, which all call it by this name with
//! these flags. It is NOT for workloads: those ask the REST server, where one attestation serves many secrets.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cc_crypto::Secret;
use cc_daemon::{sandbox, telemetry};
use cc_kbs::Session;
use clap::Parser;
use tokio::runtime;
use tokio::time::Instant;
use trustee_attester::cli::Cli;
use trustee_attester::failure::Failure;
use trustee_attester::{DnsFiles, Machine};

/// Buffers of the TLS and HTTP libraries hold secrets too: whatever is freed is wiped.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    sandbox::forbid_core_dumps()
        .map_err(|source| Failure::Start { step: "forbidding core dumps", source })?;
    telemetry::init_without_environment(cli.log_level())?;
    // What the caller got wrong is told before the hardware is asked for anything.
    let uri = cli.resource()?;
    let config = cli.key_broker()?;
    config.check()?;
    let deadline = Instant::now() + cli.time_limit();
    let machine = Machine::find(cli.machine()?)?;
    let session = Session::with_names(config, Arc::new(machine), Arc::new(DnsFiles::of_system()))?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::Start { step: "starting the runtime", source })?;
    let fetched = runtime.block_on(session.fetch(&uri, deadline));
    // A device that hangs must not keep the process.
    runtime.shutdown_background();
    print(&fetched?)
}

/// The resource as one line of standard base64: what callers of this command read.
fn print(resource: &Secret) -> Result<(), Failure> {
    let mut line = STANDARD.encode(resource.expose()).into_bytes();
    line.push(b'\n');
    let line = Secret::new(line);
    let mut out = std::io::stdout().lock();
    out.write_all(line.expose()).and_then(|()| out.flush()).map_err(Failure::Output)
}
