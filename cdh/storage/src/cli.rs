//! The command line, and the way from it to a mode at work.

use std::{io, os::fd::AsFd, path::PathBuf, process::ExitCode};

use cc_confinement::{Confinement, Landlock, forbid_core_dumps, raise_descriptor_limit};
use clap::{Parser, Subcommand};

use crate::{Failure, confine, mount::Mounts, serve, unpack::Layers};

/// Does for the confidential data hub what needs privileges.
///
/// The data hub starts it; by hand it is of no use. Requests come over the Unix socket of sequenced packets that is its
/// standard input: connected, or listening as the service manager makes it (StandardInput=socket).
#[derive(Debug, Parser)]
#[command(
    name = "cdh-storage",
    version,
    long_version = if cfg!(feature = "luks") { cc_build::LONG_VERSION_LUKS } else { cc_build::LONG_VERSION },
    after_help = "Example, in a unit:\n  ExecStart=/usr/local/bin/cdh-storage mount --store /run/kata-containers/image\n  StandardInput=socket\n\n\
                  Exit codes: 0 the data hub is gone, 1 failed, 2 bad command line, 64 no such socket on standard input"
)]
pub struct Cli {
    /// Log filter, such as info or cdh_storage=debug
    #[arg(long, global = true, default_value = "info", env = "RUST_LOG")]
    log: String,
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Mount overlays and make bundles of layers in the store
    Mount {
        /// Folder of the store
        #[arg(long, value_name = "FOLDER")]
        store: PathBuf,
    },
    /// Unpack layers into the store, confined to it by Landlock
    Unpack {
        /// Folder of the store
        #[arg(long, value_name = "FOLDER")]
        store: PathBuf,
        /// Refuse layers once all archives in the store would have more bytes than this
        #[arg(long, value_name = "BYTES")]
        max_bytes: Option<u64>,
    },
    /// Make and change headers of LUKS2 volumes in memory
    #[cfg(feature = "luks")]
    Volume,
    /// Open, format, mount and close block devices with LUKS2
    #[cfg(feature = "luks")]
    Disk {
        /// Folder, in memory, that tells what is open
        #[arg(long, value_name = "FOLDER", default_value = crate::disk::STATE)]
        state: PathBuf,
    },
}

/// Runs the mode until nobody has the other end of the socket.
#[allow(clippy::print_stderr, reason = "the cause of a failed start goes to stderr, log or no log")]
pub fn run(cli: &Cli) -> ExitCode {
    match try_run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let exit = if matches!(failure, Failure::StandardInput) { 64 } else { 1 };
            eprintln!("cdh-storage: {failure} [{}]\nhint: {}", failure.code(), failure.hint());
            ExitCode::from(exit)
        }
    }
}

fn try_run(cli: &Cli) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(&cli.log);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .without_time()
        .init();
    // Keys pass through this process.
    forbid_core_dumps().map_err(Failure::storage("forbid core dumps"))?;
    // Several layers at a time, each in a directory of its own depth.
    raise_descriptor_limit().map_err(Failure::storage("raise the limit of open files"))?;
    // Before Landlock takes /proc away.
    let confinement =
        Confinement::of_this_process().map_err(Failure::storage("ask what confines this process"))?;
    let tell = |landlock| tracing::info!("confinement: {}", Confinement { landlock, ..confinement });
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(|_| Failure::StandardInput)?;
    match &cli.mode {
        Mode::Mount { store } => {
            tell(Landlock::None);
            serve::serve(socket, &Mounts::open(store)?)
        }
        Mode::Unpack { store, max_bytes } => {
            let layers = Layers::open(store, *max_bytes)?;
            tell(confine::to_folder(store));
            serve::serve(socket, &layers)
        }
        #[cfg(feature = "luks")]
        Mode::Volume => {
            tell(Landlock::None);
            serve::serve(socket, &crate::volume::Headers)
        }
        #[cfg(feature = "luks")]
        Mode::Disk { state } => {
            tell(Landlock::None);
            serve::serve(socket, &crate::disk::Disks::open(state)?)
        }
    }
}
