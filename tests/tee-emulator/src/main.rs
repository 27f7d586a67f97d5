//! Command line of the emulator: mounts it, tells when it is ready, and takes it away on a signal.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tee_emulator::machine::Tee;
use tee_emulator::nvidia::Driver;
use tee_emulator::program::{self, Ending, Handout};
use tee_emulator::{Emulator, Machine, MachineSource, Manufacturer, Setup, machine};

/// An emulated AMD SEV-SNP, Intel TDX or Arm CCA machine: the kernel's configfs interface for TSM reports as a file system that
/// answers with reports signed under roots made at start. For tests and demos. Needs root and /dev/fuse.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:
  tee-emulator --print-machine > machine.toml
  mkdir -p root/sys/kernel/config/tsm/report
  tee-emulator --mount root/sys/kernel/config/tsm/report --machine machine.toml --roots-out roots.pem
It prints one line of JSON when it is ready. Change machine.toml (rename another file over it) to change the
machine while it runs. SIGTERM or SIGINT ends it and unmounts."
)]
struct Arguments {
    /// Directory to mount on; made if it does not exist.
    #[arg(long, value_name = "DIR", required_unless_present_any = ["print_machine", "devices"])]
    mount: Option<PathBuf>,
    /// A root below which to make the driver's device (dev/sev-guest, or dev/tdx_guest and the quote service's socket), as
    /// kernels before 6.7 have it. Programs reach it when they are started by emulated-guest.
    #[arg(long, value_name = "ROOT")]
    devices: Option<PathBuf>,
    /// TDX: directory to mount the registers on, as a kernel from 6.16 shows them; made if it does not exist.
    #[arg(long, value_name = "DIR")]
    measurements: Option<PathBuf>,
    /// Machine file, read anew for every report. Without it: the default machine.
    #[arg(long, value_name = "FILE.toml")]
    machine: Option<PathBuf>,
    #[command(flatten)]
    handout: Handout,
    /// Where to put a stand-in for NVIDIA's management library (libnvidia-ml.so.1) that shows the machine's GPUs; made if it
    /// does not exist. Programs find it when LD_LIBRARY_PATH names this folder. The root of the GPUs is added to --roots-out.
    #[arg(long, value_name = "DIR")]
    nvidia: Option<PathBuf>,
    /// Where to keep the counters, {"quotes": N, "entries_open": N}.
    #[arg(long, value_name = "FILE.json")]
    stats: Option<PathBuf>,
    /// Milliseconds that every report takes, as firmware does.
    #[arg(long, value_name = "N", default_value_t = 0)]
    generation_time_ms: u64,
    /// Print a machine file with every field and its default, and end.
    #[arg(long)]
    print_machine: bool,
}

fn main() -> ExitCode {
    program::main(|| run(Arguments::parse()))
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    if arguments.print_machine {
        return Ok(program::print(machine::EXAMPLE)?);
    }
    // Signals are taken before anything is mounted, so that none of them leaves a mount behind.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _entered = runtime.enter();
    let ending = Ending::take()?;

    let source = match arguments.machine {
        Some(path) => MachineSource::File(path),
        None => MachineSource::Shared(Arc::new(std::sync::Mutex::new(Machine::default()))),
    };
    let described = source.load()?;
    arguments.handout.check(&described)?;
    anyhow::ensure!(
        arguments.measurements.is_none() || described.tee == Tee::Tdx,
        "--measurements: registers are TDX's, the machine has {}",
        described.tee.name()
    );
    let maker = Arc::new(Manufacturer::of(&described)?);
    let driver =
        arguments.nvidia.as_deref().map(|folder| Driver::start(folder, source.clone())).transpose()?;
    let gpu_roots = driver.as_ref().map(Driver::roots_pem).transpose()?;
    arguments.handout.write(&maker, gpu_roots.as_deref().unwrap_or_default())?;
    let setup = Setup {
        mount_point: arguments.mount.clone(),
        devices: arguments.devices.clone(),
        measurements: arguments.measurements,
        machine: source,
        stats: arguments.stats,
        generation_time: Duration::from_millis(arguments.generation_time_ms),
    };
    let emulator = Emulator::mount(setup, Arc::clone(&maker))?;
    let ready = serde_json::json!({
        "ready": true,
        "pid": std::process::id(),
        "mount": arguments.mount,
        "devices": arguments.devices,
        "tee": maker.tee().name(),
        "roots": arguments.handout.roots_out,
        "collateral": arguments.handout.collateral_out,
    });
    program::print(&format!("{ready}\n"))?;
    let signalled = runtime.block_on(ending.wait(|| emulator.is_finished()));
    drop(emulator);
    drop(driver);
    anyhow::ensure!(signalled, "unmounted by somebody else");
    Ok(())
}
