//! `initrd-unlock`: opens encrypted volumes in the initramfs, the root file system among them, with keys that a key broker gives
//! after it has attested this machine.
//!
//! One process without a daemon, linked statically for an initramfs that has little else. Everything that decides lies in one file of
//! the initramfs (`config`), which the key broker sees measured; nothing comes from the environment, and from the kernel's command
//! line comes nothing but reasons to refuse (`command_line`). It is NOT for a system that is up: there systemd opens volumes by
//! `guestctl disk enable`. Making and signing volumes is work of `guestctl disk`, opening them cryptsetup's.
#![forbid(unsafe_code)]

mod choice;
pub mod cli;
mod command_line;
mod config;
mod cryptsetup;
mod disk;
mod failure;
mod firmware;
mod key;
mod report;
mod unlock;

use std::process::ExitCode;

use cc_daemon::{sandbox, telemetry};
use tokio::runtime;

use crate::cli::Cli;
use crate::config::Config;
use crate::failure::{Failure, Stopped};
use crate::report::Report;

/// Does what the command line says, and tells how it ended; the status to end with.
#[must_use]
pub fn run(cli: &Cli) -> ExitCode {
    match unlock(cli) {
        Ok(report) => report::success(cli, &report),
        Err(stopped) => report::failure(cli, &stopped),
    }
}

fn unlock(cli: &Cli) -> Result<Report, Stopped> {
    sandbox::forbid_core_dumps()
        .map_err(|source| Failure::Start { step: "forbidding core dumps", source })?;
    telemetry::init_without_environment(cli.log_level()).map_err(Failure::from)?;
    let config = Config::read(&cli.config)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::Start { step: "starting the runtime", source })?;
    let done = runtime.block_on(Box::pin(unlock::run(cli, config)));
    // A device that hangs must not keep the process.
    runtime.shutdown_background();
    done
}
