//! Command line of the emulated Azure machine: starts it, tells when it is ready, and takes it away on a signal.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use tee_emulator::azure::{AzureMachine, AzureSetup};
use tee_emulator::machine::Tee;
use tee_emulator::{Collateral, MachineSource, Manufacturer};
use tokio::signal::unix::{SignalKind, signal};

/// How often is checked whether the TPM has ended.
const CHECK: Duration = Duration::from_millis(200);

/// An emulated confidential machine of Azure: a TPM (swtpm, which must be installed) with HCL report and attestation
/// key, and a metadata service, over hardware whose reports are signed under roots made at start. For tests and demos.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:
  tee-emulator --print-machine > machine.toml
  azure-emulator --tpm tpm.sock --state swtpm --machine machine.toml --roots-out roots.pem
It prints one line of JSON when it is ready, with the URL of the metadata service. Change machine.toml (rename another
file over it) to change the machine while it runs. SIGTERM or SIGINT ends it."
)]
struct Arguments {
    /// Unix socket that the guest uses as its TPM.
    #[arg(long, value_name = "SOCKET")]
    tpm: PathBuf,
    /// Folder for the TPM's state; made if it does not exist.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Machine file, read anew for every report; its `tee` says which hardware is below the paravisor.
    #[arg(long, value_name = "FILE.toml")]
    machine: PathBuf,
    /// Where to write the roots (SNP: intermediate, then root; TDX: root) as PEM, for the relying party of the test.
    #[arg(long, value_name = "FILE.pem")]
    roots_out: Option<PathBuf>,
    /// TDX: where to write the collateral; made if it does not exist.
    #[arg(long, value_name = "DIR")]
    collateral_out: Option<PathBuf>,
    /// Where to keep the counters, {"quotes": N, "entries_open": 0}.
    #[arg(long, value_name = "FILE.json")]
    stats: Option<PathBuf>,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::builder()
                .with_default_directive(tracing::Level::INFO.into())
                .from_env_lossy(),
        )
        .init();
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    // Signals are taken before anything is started, so that none of them leaves something behind.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _entered = runtime.enter();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);

    let source = MachineSource::File(arguments.machine);
    let described = source.load()?;
    anyhow::ensure!(
        arguments.collateral_out.is_none() || described.tee == Tee::Tdx,
        "--collateral-out: collateral is about TDX, the machine has {}",
        described.tee.name()
    );
    let maker = Arc::new(Manufacturer::of(&described)?);
    if let Some(path) = &arguments.roots_out {
        std::fs::write(path, maker.roots_pem()?)
            .with_context(|| format!("writing the roots to {}", path.display()))?;
    }
    if let (Some(directory), Manufacturer::Intel(chain)) = (&arguments.collateral_out, &*maker) {
        Collateral::issue(chain)?.write(directory)?;
    }
    let setup =
        AzureSetup { tpm: arguments.tpm, state: arguments.state, machine: source, stats: arguments.stats };
    let machine = AzureMachine::start(setup, Arc::clone(&maker))?;
    let ready = serde_json::json!({
        "ready": true,
        "pid": std::process::id(),
        "tpm": machine.tpm_socket(),
        "metadata": machine.metadata_url(),
        "tee": maker.tee().name(),
        "roots": arguments.roots_out,
        "collateral": arguments.collateral_out,
    });
    let mut out = std::io::stdout().lock();
    writeln!(out, "{ready}").and_then(|()| out.flush())?;
    drop(out);
    let ended = runtime.block_on(async {
        let mut check = tokio::time::interval(CHECK);
        loop {
            tokio::select! {
                _ = terminate.recv() => return false,
                _ = interrupt.recv() => return false,
                _ = check.tick() => if machine.is_finished() { return true },
            }
        }
    });
    drop(machine);
    anyhow::ensure!(!ended, "swtpm has ended");
    Ok(())
}
