//! Command line of the emulated Azure machine: starts it, tells when it is ready, and takes it away on a signal.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tee_emulator::azure::{AzureMachine, AzureSetup};
use tee_emulator::program::{self, Ending, Handout};
use tee_emulator::{MachineSource, Manufacturer};

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
    #[command(flatten)]
    handout: Handout,
    /// Where to keep the counters, {"quotes": N, "entries_open": 0}.
    #[arg(long, value_name = "FILE.json")]
    stats: Option<PathBuf>,
}

fn main() -> ExitCode {
    program::main(|| run(Arguments::parse()))
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    // Signals are taken before anything is started, so that none of them leaves something behind.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _entered = runtime.enter();
    let ending = Ending::take()?;

    let source = MachineSource::File(arguments.machine);
    let described = source.load()?;
    arguments.handout.check(&described)?;
    let maker = Arc::new(Manufacturer::of(&described)?);
    arguments.handout.write(&maker, "")?;
    let setup =
        AzureSetup { tpm: arguments.tpm, state: arguments.state, machine: source, stats: arguments.stats };
    let machine = AzureMachine::start(setup, Arc::clone(&maker))?;
    let ready = serde_json::json!({
        "ready": true,
        "pid": std::process::id(),
        "tpm": machine.tpm_socket(),
        "metadata": machine.metadata_url(),
        "tee": maker.tee().name(),
        "roots": arguments.handout.roots_out,
        "collateral": arguments.handout.collateral_out,
    });
    program::print(&format!("{ready}\n"))?;
    let signalled = runtime.block_on(ending.wait(|| machine.is_finished()));
    drop(machine);
    anyhow::ensure!(signalled, "swtpm has ended");
    Ok(())
}
