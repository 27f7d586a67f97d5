//! The command line, and the way from it to a mode at work.

use std::{io, os::fd::AsFd, path::PathBuf, process::ExitCode};

use cc_confinement::{
    Confinement, Landlock,
    filter::{Needs, OwnFilter, Seccomp, refuse_needless_calls},
    forbid_core_dumps, memory, raise_descriptor_limit,
};
use clap::{Parser, Subcommand, value_parser};
use image_rs::{
    Limits,
    layer::{Options, unpack::Policy},
};

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
    /// Whether to refuse itself the system calls that it does not need: on or off. Off is for debugging
    #[arg(long, global = true, value_name = "WHAT", default_value = "on", env = "CDH_STORAGE_SECCOMP")]
    seccomp: Seccomp,
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
        /// Refuse layers once all in the store would have more bytes than this
        #[arg(long, value_name = "BYTES")]
        max_bytes: Option<u64>,
        #[command(flatten)]
        bounds: Bounds,
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

impl Mode {
    fn needs(&self) -> Needs {
        match self {
            Self::Mount { .. } => Needs { mounts: true, ..Needs::LOCAL },
            Self::Unpack { .. } => Needs::LOCAL,
            #[cfg(feature = "luks")]
            Self::Volume => VOLUMES,
            #[cfg(feature = "luks")]
            Self::Disk { .. } => Needs { mounts: true, ..VOLUMES },
        }
    }
}

/// libcryptsetup gives the kernel keys, and has it decrypt keyslots.
#[cfg(feature = "luks")]
const VOLUMES: Needs = Needs {
    keyrings: true,
    families: &[rustix::net::AddressFamily::UNIX, cc_confinement::filter::KERNEL_CRYPTO],
    ..Needs::LOCAL
};

/// What one image may ask for.
#[derive(Debug, clap::Args)]
struct Bounds {
    /// Most bytes of all archives of an image when uncompressed, and of its files with their holes
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().bytes, value_parser = value_parser!(u64).range(1..))]
    max_image_bytes: u64,
    /// Most entries of all archives of an image
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().entries, value_parser = value_parser!(u64).range(1..))]
    max_image_entries: u64,
    /// Most uncompressed bytes for each compressed one, from 256 MiB on
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().ratio, value_parser = value_parser!(u64).range(1..))]
    max_ratio: u64,
    /// Most bytes of an entry's name and of a link's target, up to 4095
    #[arg(long, value_name = "BYTES", default_value_t = 4095, value_parser = value_parser!(u16).range(1..=4095))]
    max_name_bytes: u16,
    /// Most directories around an entry, up to 256
    #[arg(long, value_name = "COUNT", default_value_t = 256, value_parser = value_parser!(u16).range(1..=256))]
    max_depth: u16,
    /// Largest window of a layer of Zstandard, at most 134217728 (128 MiB). One above 8 MiB takes as much memory beside the 64
    /// megabytes that a pull takes
    #[arg(long, value_name = "BYTES", default_value_t = Options::LARGEST_WINDOW, value_parser = value_parser!(u64).range(1024..=Options::LARGEST_WINDOW))]
    max_window: u64,
    /// Refuse layers with device nodes
    #[arg(long)]
    refuse_devices: bool,
}

impl Bounds {
    fn options(&self) -> Options {
        let limits = Limits {
            bytes: self.max_image_bytes,
            entries: self.max_image_entries,
            ratio: self.max_ratio,
            name: self.max_name_bytes.into(),
            depth: self.max_depth.into(),
            ..Limits::default()
        };
        let policy = Policy { refuse_devices: self.refuse_devices, ..Policy::default() };
        Options { limits, policy, largest_window: self.max_window, ..Options::default() }
    }
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
    // Windows of decoders and buffers of layers go back as they are freed.
    memory::map_large_blocks();
    // Keys pass through this process.
    forbid_core_dumps().map_err(Failure::storage("forbid core dumps"))?;
    // Several layers at a time, each in a directory of its own depth.
    raise_descriptor_limit().map_err(Failure::storage("raise the limit of open files"))?;
    refuse_needless_calls(cli.seccomp, cli.mode.needs());
    // Before Landlock takes /proc away.
    let confinement =
        Confinement::of_this_process().map_err(Failure::storage("ask what confines this process"))?;
    if confinement.own_filter == OwnFilter::Off {
        tracing::warn!(
            "--seccomp off: this process refuses itself no system call; that is for debugging alone"
        );
    }
    let tell = |landlock| tracing::info!("confinement: {}", Confinement { landlock, ..confinement });
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(|_| Failure::StandardInput)?;
    match &cli.mode {
        Mode::Mount { store } => {
            tell(Landlock::None);
            serve::serve(socket, &Mounts::open(store)?)
        }
        Mode::Unpack { store, max_bytes, bounds } => {
            let layers = Layers::open(store, *max_bytes, bounds.options())?;
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
