//! Listening sockets that appear only when they are served.
//!
//! Callers wait for the *path* of a Unix socket and connect the moment it exists. So a socket is bound aside
//! under a hidden name in the same folder, gets its owner and mode there, starts to listen, and is renamed into
//! place by [`Listener::publish`]. What lay at the path before is replaced if it is a socket that nobody
//! answers; a living daemon's socket and any other file stay and are an error.
//!
//! It is NOT an access rule beyond owner and mode; see [`crate::peer`].

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::address::{Address, AddressError, MAX_SOCKET_PATH};

/// Connections that the kernel holds for us until we accept them.
const BACKLOG: i32 = 1024;
/// Mode of folders that are created on the way to a socket.
const FOLDER_MODE: u32 = 0o755;

/// Owner and mode of a Unix socket's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Permission bits; who may write may connect.
    pub mode: u32,
    /// Owner; absent: the user that this process runs as.
    pub uid: Option<u32>,
    /// Group; absent: the group that this process runs as.
    pub gid: Option<u32>,
}

impl Default for SocketOptions {
    /// Mode 0600, own user and group.
    fn default() -> Self {
        Self { mode: 0o600, uid: None, gid: None }
    }
}

/// A socket cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address is not one to listen on.
    #[error("cannot listen on {address}")]
    Address {
        /// The address.
        address: Address,
        /// Which rule it breaks.
        #[source]
        source: AddressError,
    },
    /// Something that is not a socket lies at the path.
    #[error("cannot listen on {path:?}: the file there is no socket")]
    Occupied {
        /// The path.
        path: PathBuf,
    },
    /// Another process serves the path.
    #[error("cannot listen on {path:?}: another process answers there")]
    Alive {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refused a step.
    #[error("cannot listen on {place}: {step} failed")]
    Refused {
        /// Path or address.
        place: String,
        /// What was tried.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A socket passed by the service manager is neither a Unix nor a loopback TCP stream socket.
    #[error("the socket that the service manager passed as number {index} cannot be served")]
    Inherited {
        /// Its number, from 0.
        index: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ListenError {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Address { source, .. } => source.code(),
            Self::Occupied { .. } => "SOCKET_PATH_OCCUPIED",
            Self::Alive { .. } => "SOCKET_ALREADY_SERVED",
            Self::Refused { .. } => "SOCKET_REFUSED",
            Self::Inherited { .. } => "SOCKET_INHERITED_UNUSABLE",
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Address { source, .. } => source.hint(),
            Self::Occupied { .. } => "move the file away or configure another path".to_owned(),
            Self::Alive { .. } => "stop the other process or configure another path".to_owned(),
            Self::Refused { .. } => {
                "check the permissions of the folder and the limits of the unit".to_owned()
            }
            Self::Inherited { .. } => {
                "pass stream sockets on a path or on 127.0.0.1 (ListenStream=)".to_owned()
            }
        }
    }
}

/// A socket that is bound; from [`Listener::publish`] on, one that callers find.
///
/// Dropping it removes the path if the file there is still the one that was published.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    place: Place,
}

/// The socket itself, in the state that the kernel calls bound or listening.
#[derive(Debug)]
pub(crate) enum Socket {
    Unix(UnixListener),
    Tcp(std::net::TcpListener),
}

/// Where the socket is found, and what we have to tidy up.
#[derive(Debug)]
enum Place {
    /// A Unix socket under its hidden name.
    Aside { hidden: Owned, path: PathBuf },
    /// A Unix socket at its path.
    Published(Owned),
    /// A TCP port, or a socket that belongs to the service manager.
    Elsewhere(String),
}

/// A file of ours, known by device and inode, that is removed in the end.
#[derive(Debug)]
struct Owned {
    path: PathBuf,
    identity: (u64, u64),
}

impl Owned {
    fn claim(path: PathBuf) -> io::Result<Self> {
        let found = std::fs::symlink_metadata(&path)?;
        Ok(Self { path, identity: (found.dev(), found.ino()) })
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let found = std::fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.identity) {
            // Nothing to be done on failure: the next start replaces a socket that nobody answers.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    /// Binds a socket. A Unix socket is bound aside with its owner and mode, missing folders on its way are
    /// created with mode 0755; nobody can connect before [`Listener::publish`]. `options` do not matter for TCP.
    ///
    /// # Errors
    ///
    /// [`ListenError`]; nothing is left behind.
    pub fn bind(address: &Address, options: &SocketOptions) -> Result<Self, ListenError> {
        let refused = |source| ListenError::Address { address: address.clone(), source };
        address.check().map_err(refused)?;
        match address {
            Address::Unix(path) => Self::bind_unix(path, options),
            Address::Tcp(address) => Self::bind_tcp(*address),
        }
    }

    fn bind_tcp(address: SocketAddr) -> Result<Self, ListenError> {
        let bound = std::net::TcpListener::bind(address).and_then(|socket| {
            let place = socket.local_addr()?.to_string();
            Ok(Self { socket: Socket::Tcp(socket), place: Place::Elsewhere(place) })
        });
        bound.map_err(|source| ListenError::Refused { place: address.to_string(), step: "bind", source })
    }

    fn bind_unix(path: &Path, options: &SocketOptions) -> Result<Self, ListenError> {
        let step = |step: &'static str| {
            let place = path.display().to_string();
            move |source: io::Error| ListenError::Refused { place, step, source }
        };
        let folder = path.parent().unwrap_or_else(|| Path::new("/"));
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(folder)
            .map_err(step("creating its folder"))?;
        make_way(path)?;

        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|error| step("making a socket")(error.into()))?;
        // On Linux the file gets the mode of the unbound socket (less the umask): never wider than asked for.
        let mode = Mode::from_raw_mode(options.mode & 0o777);
        rustix::fs::fchmod(&socket, mode).map_err(|error| step("setting the mode")(error.into()))?;
        let hidden = bind_aside(&socket, folder, path)?;
        // Before it may be another user's: then only its owner, or who has CAP_FOWNER, could. Nobody knows its name yet.
        rustix::fs::chmod(&hidden.path, mode).map_err(|error| step("setting the mode")(error.into()))?;
        let (uid, gid) = (options.uid.map(Uid::from_raw), options.gid.map(Gid::from_raw));
        if uid.is_some() || gid.is_some() {
            // Units that never ask for it can forbid the call.
            rustix::fs::chownat(CWD, &hidden.path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| step("setting the owner")(error.into()))?;
        }
        Ok(Self {
            socket: Socket::Unix(UnixListener::from(socket)),
            place: Place::Aside { hidden, path: path.to_owned() },
        })
    }

    /// Starts to listen and makes the socket visible at its path. Does nothing for a socket that is visible
    /// already (published, TCP, inherited).
    ///
    /// # Errors
    ///
    /// [`ListenError::Alive`] or [`ListenError::Occupied`] if somebody took the path since
    /// [`Listener::bind`]; [`ListenError::Refused`] if the kernel refuses.
    pub fn publish(&mut self) -> Result<(), ListenError> {
        let (Place::Aside { hidden, path }, Socket::Unix(socket)) = (&self.place, &self.socket) else {
            return Ok(());
        };
        let path = path.clone();
        let refused = |step: &'static str, source: io::Error| ListenError::Refused {
            place: path.display().to_string(),
            step,
            source,
        };
        make_way(&path)?;
        rustix::net::listen(socket, BACKLOG).map_err(|error| refused("listening", error.into()))?;
        std::fs::rename(&hidden.path, &path)
            .map_err(|error| refused("moving the socket into place", error))?;
        let identity = hidden.identity;
        // The old value finds nothing under the hidden name when it is dropped.
        self.place = Place::Published(Owned { path, identity });
        Ok(())
    }

    /// The sockets that the service manager passed (`sd_listen_fds(3)`), in its order; none without
    /// `LISTEN_FDS`. Call it once, before the runtime starts its threads: it clears the variables.
    ///
    /// # Errors
    ///
    /// One of them is neither a Unix stream socket nor a TCP socket on the loopback interface.
    pub fn inherited() -> Result<Vec<Self>, ListenError> {
        let mut passed = listenfd::ListenFd::from_env();
        (0..passed.len())
            .map(|index| {
                let socket = take(&mut passed, index);
                let socket = socket.map_err(|source| ListenError::Inherited { index, source })?;
                Ok(Self { socket, place: Place::Elsewhere(format!("inherited socket {index}")) })
            })
            .collect()
    }

    /// Another handle on the same socket; it owns no path.
    pub(crate) fn another_handle(&self) -> io::Result<Self> {
        let socket = match &self.socket {
            Socket::Unix(socket) => Socket::Unix(socket.try_clone()?),
            Socket::Tcp(socket) => Socket::Tcp(socket.try_clone()?),
        };
        Ok(Self { socket, place: Place::Elsewhere(self.to_string()) })
    }

    /// Ends the connections that wait on the socket, [`BACKLOG`] at most. For a daemon that cannot use its configuration:
    /// a service manager that owns the socket would start it again for each of them, as long as they wait
    /// (`systemd.socket(5)`), and callers would wait for nothing.
    pub(crate) fn end_waiting(&self) {
        for _ in 0..BACKLOG {
            let ended = match &self.socket {
                Socket::Unix(socket) => socket.set_nonblocking(true).and_then(|()| socket.accept().map(drop)),
                Socket::Tcp(socket) => socket.set_nonblocking(true).and_then(|()| socket.accept().map(drop)),
            };
            if ended.is_err() {
                return;
            }
        }
    }

    /// The TCP address that was bound: of interest after port 0. `None` for a Unix socket.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Unix(_) => None,
            Socket::Tcp(socket) => socket.local_addr().ok(),
        }
    }

    /// The path of a Unix socket, also of one that the service manager passed. `None` for a TCP socket.
    #[must_use]
    pub fn unix_path(&self) -> Option<PathBuf> {
        match (&self.place, &self.socket) {
            (Place::Aside { path, .. } | Place::Published(Owned { path, .. }), _) => Some(path.clone()),
            (Place::Elsewhere(_), Socket::Unix(socket)) => {
                Some(socket.local_addr().ok()?.as_pathname()?.to_owned())
            }
            (Place::Elsewhere(_), Socket::Tcp(_)) => None,
        }
    }

    /// The socket for a server of a protocol of its own. The path is removed with this value, not with the socket.
    ///
    /// # Errors
    ///
    /// It is no Unix socket, or the runtime does not take it.
    pub fn unix_listener(&self) -> Result<tokio::net::UnixListener, ListenError> {
        let socket = match &self.socket {
            Socket::Unix(socket) => socket.try_clone().and_then(|socket| {
                socket.set_nonblocking(true)?;
                tokio::net::UnixListener::from_std(socket)
            }),
            Socket::Tcp(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no Unix socket")),
        };
        socket.map_err(|source| ListenError::Refused {
            place: self.to_string(),
            step: "handing the socket to the runtime",
            source,
        })
    }

    /// The socket, to accept from.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }
}

impl fmt::Display for Listener {
    /// The path or address, for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Aside { path, .. } | Place::Published(Owned { path, .. }) => {
                write!(f, "{}", path.display())
            }
            Place::Elsewhere(place) => f.write_str(place),
        }
    }
}

/// Finds out whether `path` can be taken: it is free, or a socket that nobody answers.
fn make_way(path: &Path) -> Result<(), ListenError> {
    let failed = |source| ListenError::Refused {
        place: path.display().to_string(),
        step: "looking at what lies there",
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => Err(ListenError::Occupied { path: path.to_owned() }),
        Ok(_) if answers(path).map_err(failed)? => Err(ListenError::Alive { path: path.to_owned() }),
        Ok(_) => Ok(()),
    }
}

/// Whether a process listens on the socket at `path`. Never waits.
fn answers(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        // Its queue is full: it is alive and busy.
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Binds under a short hidden name beside `path`.
fn bind_aside(socket: &OwnedFd, folder: &Path, path: &Path) -> Result<Owned, ListenError> {
    let refused = |source: io::Error| ListenError::Refused {
        place: path.display().to_string(),
        step: "binding beside the path",
        source,
    };
    let process = std::process::id();
    // A process of the same number may have died between binding and publishing: its name is passed over.
    for attempt in 0..=u8::MAX {
        let hidden = folder.join(format!(".{process:x}.{attempt:x}"));
        if hidden.as_os_str().len() > MAX_SOCKET_PATH {
            let source = AddressError::PathTooLong { path: hidden };
            return Err(ListenError::Address { address: Address::Unix(path.to_owned()), source });
        }
        let address = SocketAddrUnix::new(&hidden).map_err(|error| refused(error.into()))?;
        match rustix::net::bind(socket, &address) {
            Ok(()) => return Owned::claim(hidden).map_err(refused),
            Err(Errno::ADDRINUSE) => {}
            Err(error) => return Err(refused(error.into())),
        }
    }
    Err(refused(Errno::ADDRINUSE.into()))
}

/// One passed socket, checked.
fn take(passed: &mut listenfd::ListenFd, index: usize) -> io::Result<Socket> {
    let unusable = |reason: &'static str| io::Error::new(io::ErrorKind::InvalidInput, reason);
    if let Ok(Some(socket)) = passed.take_unix_listener(index) {
        return Ok(Socket::Unix(socket));
    }
    match passed.take_tcp_listener(index)? {
        Some(socket) if socket.local_addr()?.ip().is_loopback() => Ok(Socket::Tcp(socket)),
        Some(_) => Err(unusable("it is not on the loopback interface")),
        None => Err(unusable("it was taken already")),
    }
}
