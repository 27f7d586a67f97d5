//! What the emulator's programs have in common: the log, the files for the relying party, the wait for a signal.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::machine::Tee;
use crate::{Collateral, Machine, Manufacturer};

/// How often is checked whether the machine has ended by itself.
const CHECK: Duration = Duration::from_millis(200);

/// Runs a program with a log on standard error, where its error goes too.
pub fn main(run: impl FnOnce() -> anyhow::Result<()>) -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::builder()
                .with_default_directive(tracing::Level::INFO.into())
                .from_env_lossy(),
        )
        .init();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the relying party of a test needs to believe the machine.
#[derive(Debug, clap::Args)]
pub struct Handout {
    /// Where to write the roots (SNP: intermediate, then root; TDX: root; CCA: the platform's public key) as PEM, for the relying party of the test.
    #[arg(long, value_name = "FILE.pem")]
    pub roots_out: Option<PathBuf>,
    /// TDX: where to write the collateral (tcbInfo.json, qeIdentity.json, tcb-signing-chain.pem, revocation lists);
    /// made if it does not exist.
    #[arg(long, value_name = "DIR")]
    pub collateral_out: Option<PathBuf>,
}

impl Handout {
    /// Finds out whether it can be made for a machine.
    ///
    /// # Errors
    /// Collateral is wanted, and the machine is not one of TDX.
    pub fn check(&self, machine: &Machine) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.collateral_out.is_none() || machine.tee == Tee::Tdx,
            "--collateral-out: collateral is about TDX, the machine has {}",
            machine.tee.name()
        );
        Ok(())
    }

    /// Writes what was asked for; `further_roots` (PEM) come after the machine's own.
    ///
    /// # Errors
    /// A file cannot be written, or a certificate not be made.
    pub fn write(&self, maker: &Manufacturer, further_roots: &str) -> anyhow::Result<()> {
        if let Some(path) = &self.roots_out {
            fs::write(path, maker.roots_pem()? + further_roots)
                .with_context(|| format!("writing the roots to {}", path.display()))?;
        }
        if let (Some(directory), Manufacturer::Intel(chain)) = (&self.collateral_out, maker) {
            Collateral::issue(chain)?.write(directory)?;
        }
        Ok(())
    }
}

/// The signals that end a program. They are taken before anything is started, so that none of them leaves a mount, a
/// process or a file behind.
#[derive(Debug)]
pub struct Ending {
    terminate: Signal,
    interrupt: Signal,
}

impl Ending {
    /// Takes SIGTERM and SIGINT; inside a runtime.
    ///
    /// # Errors
    /// The signals cannot be taken.
    pub fn take() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for a signal (true), or until `finished` says that the machine has ended by itself (false).
    pub async fn wait(mut self, finished: impl Fn() -> bool) -> bool {
        let mut check = tokio::time::interval(CHECK);
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return true,
                _ = self.interrupt.recv() => return true,
                _ = check.tick() => if finished() { return false },
            }
        }
    }
}

/// Prints `text` at once.
///
/// # Errors
/// Nobody reads it.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
