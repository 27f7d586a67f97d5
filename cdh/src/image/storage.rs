//! The way to `cdh-storage`: started when it is first needed, and again when it has ended, or found at the sockets of its
//! units.
//!
//! Calls block.

use std::{
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use cc_daemon::address::Address;
use cc_evidence::blame::Blame;
use cc_storage::{Channel, Client, Fault, StorageError};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::config::ImageConfig;
use crate::error::HubError;

const PROGRAM: &str = "cdh-storage";
/// Where the sockets of its units are. They serve the usual store, without a limit of the hub's.
pub(super) const UNIT_SOCKETS: &str = "/run/confidential-containers/cdh-storage";

/// What the program is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Mounts and bundles.
    Mount,
    /// Layers.
    Unpack,
    /// Block devices.
    Disk,
}

/// The modes of the program.
#[derive(Debug)]
pub(crate) struct Storage {
    mount: Half,
    unpack: Half,
    disk: Half,
}

#[derive(Debug)]
struct Half {
    way: Way,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
enum Way {
    /// `unit` is connected to in its place where that socket exists.
    Start {
        program: PathBuf,
        arguments: Vec<String>,
        unit: Option<PathBuf>,
    },
    Socket(PathBuf),
}

/// A program at work. It ends when the client is dropped.
#[derive(Debug)]
struct Running {
    client: Option<Client>,
    child: Child,
}

impl Storage {
    pub(crate) fn new(config: &ImageConfig) -> Self {
        let program = config.storage.program.clone().unwrap_or_else(beside_this_program);
        let store = config.work_dir.display().to_string();
        let half = |mode: &str, socket: &Option<String>, more: Vec<String>| {
            let address = socket.as_ref().and_then(|socket| socket.parse().ok());
            let way = match address {
                Some(Address::Unix(path)) => Way::Socket(path),
                _ => Way::Start {
                    program: program.clone(),
                    // The units know nothing of bounds.
                    unit: (config.storage.program.is_none() && more.is_empty())
                        .then(|| Path::new(UNIT_SOCKETS).join(format!("{mode}.sock"))),
                    arguments: [vec![mode.to_owned(), "--store".to_owned(), store.clone()], more].concat(),
                },
            };
            Half { way, running: Mutex::default() }
        };
        let disk = Way::Start {
            program: program.clone(),
            arguments: vec!["disk".to_owned()],
            unit: config.storage.program.is_none().then(|| Path::new(UNIT_SOCKETS).join("disk.sock")),
        };
        let bounds = config.bound_arguments().into_iter().map(|(_, argument)| argument).collect();
        Self {
            mount: half("mount", &config.storage.mount_socket, Vec::new()),
            unpack: half("unpack", &config.storage.unpack_socket, bounds),
            disk: Half { way: disk, running: Mutex::default() },
        }
    }

    /// One whose disks are served at the socket `path`.
    #[cfg(test)]
    pub(crate) fn with_disks_at(path: &Path) -> Self {
        let mut storage = Self::new(&ImageConfig::default());
        storage.disk.way = Way::Socket(path.to_owned());
        storage
    }

    /// Whether a unit unpacks, which has bounds of its own.
    pub(crate) fn has_unit_that_unpacks(&self) -> bool {
        match &self.unpack.way {
            Way::Socket(_) => true,
            Way::Start { unit, .. } => unit.as_ref().is_some_and(|socket| socket.exists()),
        }
    }

    /// A channel of its own to the program in this mode.
    pub(crate) fn channel(&self, mode: Mode) -> Result<Client, HubError> {
        let half = match mode {
            Mode::Mount => &self.mount,
            Mode::Unpack => &self.unpack,
            Mode::Disk => &self.disk,
        };
        match &half.way {
            Way::Socket(path) => connect(path),
            Way::Start { unit: Some(path), .. } if path.exists() => connect(path),
            Way::Start { program, arguments, .. } => half.channel(program, arguments),
        }
    }
}

/// Whether the bounds of `config` reach whoever unpacks, when the sockets of its units are below `sockets`. A program of its own
/// in the place of the unit would unpack with what the hub's unit may do, which is not enough.
///
/// # Errors
/// What is wrong, and what would do.
pub(super) fn check_bounds(config: &ImageConfig, sockets: &Path) -> Result<(), (String, &'static str)> {
    let bounds = config.bound_arguments();
    if bounds.is_empty() {
        return Ok(());
    }
    let socket = match &config.storage.unpack_socket {
        Some(socket) => socket.clone(),
        None => {
            let socket = sockets.join("unpack.sock");
            if config.storage.program.is_some() || !socket.exists() {
                return Ok(());
            }
            socket.display().to_string()
        }
    };
    let (keys, arguments): (Vec<_>, Vec<_>) =
        bounds.into_iter().map(|(key, argument)| (format!("image.{key}"), argument)).unzip();
    let (keys, arguments) = (keys.join(", "), arguments.join(" "));
    Err((
        format!(
            "there is {keys}, but the unit at {socket} unpacks, which does not know it: its option is {arguments}"
        ),
        "remove it, and write that into ExecStart= of cdh-storage-unpack.service (systemctl edit)",
    ))
}

/// Whether the store of `config` is not the one that the units serve, whose sockets are below `sockets`: they are asked all the same, as
/// a program of its own would unpack and mount with what the hub's unit may do, which is not enough.
pub(super) fn is_elsewhere(config: &ImageConfig, sockets: &Path) -> bool {
    let storage = &config.storage;
    let named =
        storage.program.is_some() || storage.mount_socket.is_some() || storage.unpack_socket.is_some();
    config.work_dir != ImageConfig::default().work_dir && !named && sockets.join("unpack.sock").exists()
}

/// Whether the hub has to start the program itself, in any of its modes, when the sockets of its units are below `sockets`.
pub(super) fn starts_programs(config: &ImageConfig, sockets: &Path) -> bool {
    let storage = &config.storage;
    let served =
        |named: bool, socket: &str| named || storage.program.is_none() && sockets.join(socket).exists();
    !(served(storage.mount_socket.is_some(), "mount.sock")
        && served(storage.unpack_socket.is_some(), "unpack.sock")
        && served(false, "disk.sock"))
}

impl Half {
    fn channel(&self, program: &Path, arguments: &[String]) -> Result<Client, HubError> {
        let mut slot = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = slot.as_mut().and_then(|running| running.client.as_mut()) {
            match client.connect() {
                Err(StorageError::Gone) => tracing::warn!("cdh-storage has ended and is started again"),
                other => return Ok(other?),
            }
        }
        let running = slot.insert(Running::start(program, arguments)?);
        match running.client.as_mut() {
            Some(client) => Ok(client.connect()?),
            None => Err(StorageError::Gone.into()),
        }
    }
}

impl Running {
    #[allow(
        clippy::disallowed_methods,
        reason = "the hub's privileged half is the one program that it starts"
    )]
    fn start(program: &Path, arguments: &[String]) -> Result<Self, HubError> {
        let (ours, theirs) = Channel::pair()?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // A signal from the terminal is the hub's to act on; the program ends when the hub is gone.
            .process_group(0)
            .spawn();
        let child = child.map_err(|error| {
            Fault::new(
                Blame::Platform,
                "STORAGE_START",
                format!("starting {}: {error}", program.display()),
                "install cdh-storage beside the data hub, or name it as image.storage.program",
            )
        })?;
        Ok(Self { client: Some(Client::new(ours)), child })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its end is the end of its socket; it undoes what is half done and goes.
        self.client = None;
        let _ = self.child.wait();
    }
}

fn beside_this_program() -> PathBuf {
    let own = std::env::current_exe().ok();
    let folder = own.as_deref().and_then(Path::parent).map(Path::to_owned);
    folder.unwrap_or_default().join(PROGRAM)
}

fn connect(path: &Path) -> Result<Client, HubError> {
    let failed = |error: rustix::io::Errno| {
        Fault::new(
            Blame::Unavailable,
            "STORAGE_CONNECT",
            format!("connecting to cdh-storage at {}: {}", path.display(), std::io::Error::from(error)),
            "start its socket unit",
        )
    };
    let kind = SocketType::SEQPACKET;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
    let socket = socket.map_err(failed)?;
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    rustix::net::connect(&socket, &address).map_err(failed)?;
    Ok(Client::new(Channel::new(socket)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::config::Devices;

    #[test]
    fn a_limit_that_the_unit_does_not_know_is_refused() {
        let sockets = tempfile::tempdir().unwrap();
        let mut config = ImageConfig { max_store_bytes: Some(1), ..ImageConfig::default() };
        assert!(
            check_bounds(&config, sockets.path()).is_ok(),
            "there is no unit: the hub starts the program"
        );
        assert!(starts_programs(&config, sockets.path()));
        std::fs::write(sockets.path().join("unpack.sock"), "").unwrap();
        let (wrong, hint) = check_bounds(&config, sockets.path()).unwrap_err();
        assert!(
            wrong.contains("image.max_store_bytes,") && wrong.contains("--max-bytes=1"),
            "{wrong}: {hint}"
        );
        assert!(hint.contains("ExecStart="), "{hint}");
        assert!(!is_elsewhere(&config, sockets.path()));
        config.work_dir = "/srv/images".into();
        assert!(is_elsewhere(&config, sockets.path()), "the units serve one store");
        assert!(check_bounds(&config, sockets.path()).is_err(), "whatever the store is called");
        config.storage.unpack_socket = Some("unix:///run/mine.sock".to_owned());
        assert!(check_bounds(&config, sockets.path()).unwrap_err().0.contains("/run/mine.sock"));
        assert!(!is_elsewhere(&config, sockets.path()), "who names a socket knows its store");
        (config.max_store_bytes, config.max_window_bytes) = (None, Some(1 << 20));
        assert!(check_bounds(&config, sockets.path()).unwrap_err().0.contains("--max-window=1048576"));
        config.max_window_bytes = None;
        config.devices = Devices::Refuse;
        assert!(check_bounds(&config, sockets.path()).unwrap_err().0.contains("--refuse-devices"));
        config.devices = Devices::Allow;
        assert!(check_bounds(&config, sockets.path()).is_ok());
    }
}
