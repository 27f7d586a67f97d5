//! A bundle: `rootfs`, which is an overlay of layers of the store, and `config.json` beside it.
//!
//! It is made in two steps: first it stands and belongs to whoever had it made ([`Pending`]), and goes when he goes; then it is
//! committed. Whatever fails, and wherever a process is killed, nothing stays that nobody was told of: what the overlay's
//! directory in the store does not call complete is undone when its channel is closed, or when the program is started again.
//! What is complete and not mounted any more belongs to a container that is gone.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use cc_storage::{Bundle, MAX_LAYERS, Name};
use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, RenameFlags, StatVfsMountFlags},
    io::Errno,
};

use super::{
    folder::Folder,
    mounted,
    overlay::{self, Mounted},
    stack::{Stack, open_directory},
    state::State,
    user,
};
use crate::Failure;

/// Longest `config.json`, in bytes.
const MAX_CONFIG: u64 = 8 << 20;
const CONFIG: &str = "config.json";
const PARTIAL: &str = ".config.json.partial";
const ROOTFS: &str = "rootfs";

/// A bundle that stands and is not committed. It goes with this value.
#[derive(Debug)]
pub(super) struct Pending {
    // Undone in this order.
    config: Config,
    mounted: Mounted,
    state: State,
    rootfs: Rootfs,
    folder: Folder,
    path: String,
}

impl Pending {
    /// Its folder.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Calls it complete.
    pub(super) fn complete(&self) -> Result<(), Failure> {
        self.state.write("complete", b"")
    }

    /// Lets it stay, which is to be called complete before.
    pub(super) fn keep(self) {
        self.config.keep();
        self.mounted.keep();
        self.state.keep();
        self.rootfs.keep();
        self.folder.keep();
    }

    /// Takes it away.
    pub(super) fn undo(self) -> Result<(), Failure> {
        overlay::unmount(&overlay::upper(self.state.name()))
    }
}

/// Makes `bundle` from layers of `store`, with the text of `config` as its `config.json`, as long as `goes_on` says so.
pub(super) fn make(
    store: BorrowedFd<'_>,
    boot: &str,
    bundle: &Bundle,
    config: File,
    goes_on: &dyn Fn() -> bool,
) -> Result<Pending, Failure> {
    check(store, &bundle.layers)?;
    let text = read(config)?;
    // What containers wrote that are gone takes memory, where the store is in memory.
    sweep(store, boot)?;
    let at = |name: &str| Path::new(&bundle.path).join(name).display().to_string();
    let folder = Folder::begin(&bundle.path)?;
    // Held until the bundle is committed or gone: two at one path would be mounted upon one another.
    let folder = folder.lock().ok_or_else(|| Failure::BundleExists {
        path: format!("another bundle at {}, half made,", bundle.path),
    })?;
    if rustix::fs::statat(&folder, CONFIG, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Err(Failure::BundleExists { path: at(CONFIG) });
    }
    let rootfs = Rootfs::begin(folder.as_fd(), &at(ROOTFS))?;
    let state = State::begin(store, boot)?;
    let layers: String = bundle.layers.iter().map(|name| format!("{name}\n")).collect();
    state.write("layers", layers.as_bytes())?;
    state.write("made", folder.made().as_bytes())?;
    state.write("bundle", bundle.path.as_bytes())?;
    let stack = Stack::open(store, &bundle.layers, &state, goes_on)?;
    let mounted = overlay::mount(stack.shown(), state.name(), rootfs.fd.as_fd());
    let failed =
        |error: Errno| Failure::Mount { layers: stack.shown().len(), path: at(ROOTFS), source: error.into() };
    let mounted = mounted.map_err(failed)?;
    // Opened anew: what is mounted on it is seen from now on.
    let merged = open_directory(folder.as_fd(), ROOTFS).map_err(failed)?;
    // Where there is no room for its work directory, the kernel mounts an overlay that cannot be written to, and says nothing.
    if rustix::fs::fstatvfs(&merged).map_err(failed)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(failed(Errno::NOSPC));
    }
    stack.complete(merged.as_fd(), &at(ROOTFS), goes_on)?;
    let text = user::set(text, &bundle.user, merged.as_fd(), &at(CONFIG))?;
    let config = Config::write(folder.as_fd(), &text, &at(CONFIG))?;
    Ok(Pending { config, mounted, state, rootfs, folder, path: bundle.path.clone() })
}

/// Whether a bundle can be made at `path`, before anything is fetched for it. It is looked at again when it is made.
pub(super) fn check_place(path: &str) -> Result<(), Failure> {
    let Some(folder) = Folder::existing(path)? else { return Ok(()) };
    let at = |name: &str| Path::new(path).join(name).display().to_string();
    if rustix::fs::statat(&folder, CONFIG, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Err(Failure::BundleExists { path: at(CONFIG) });
    }
    match open_directory(folder.as_fd(), ROOTFS) {
        Ok(rootfs) => check_empty(&rootfs, &at(ROOTFS)),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(Failure::storage(format!("make {}", at(ROOTFS)))(error)),
    }
}

/// Unmounts and removes the bundle at `path`, with all that is said of it: a container that is gone may have had that path too.
pub(super) fn remove(store: BorrowedFd<'_>, boot: &str, path: &str) -> Result<(), Failure> {
    let mut found = false;
    for state in State::idle(store)? {
        if state.is_of(boot) && state.read("bundle")?.is_some_and(|place| place == path.as_bytes()) {
            undo(&state, path)?;
            found = true;
        }
    }
    match found {
        true => Ok(()),
        false => Err(Failure::BundleUnknown { path: path.chars().take(200).collect() }),
    }
}

/// Undoes what killed processes left, and forgets what is not mounted any more. What is said to have been left in another boot is
/// forgotten as well, and nothing is done at the paths that it names: the host may have written them.
pub(super) fn sweep(store: BorrowedFd<'_>, boot: &str) -> Result<(), Failure> {
    let states = State::idle(store)?;
    // Looked at when they are locked: none of them can be mounted from now on.
    let mounted = mounted::names()?;
    for state in states {
        if let Err(failure) = tidy(&state, boot, mounted.contains(state.name())) {
            // It is no reason to make no other bundle. It stays, and is tried again.
            let overlay = state.name();
            tracing::error!(code = failure.code(), error = %failure, %overlay, "what is left of a bundle stays");
        }
    }
    Ok(())
}

fn tidy(state: &State, boot: &str, is_mounted: bool) -> Result<(), Failure> {
    if !state.is_of(boot) {
        return if is_mounted { Ok(()) } else { state.clear() };
    }
    if state.read("complete")?.is_none() {
        let path = state.read("bundle")?.and_then(|path| String::from_utf8(path).ok());
        return undo(state, path.as_deref().unwrap_or_default());
    }
    if is_mounted { Ok(()) } else { state.clear() }
}

/// Takes away the bundle of `state` at `path`, and the state.
fn undo(state: &State, path: &str) -> Result<(), Failure> {
    overlay::unmount(&overlay::upper(state.name()))?;
    if !path.is_empty() {
        let folder = Path::new(path);
        for name in [CONFIG, PARTIAL] {
            match rustix::fs::unlink(folder.join(name)) {
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(Failure::storage(format!("remove {name} in {path}"))(error)),
            }
        }
        // Folders that were there before stay, and those that have something else in them.
        let _ = rustix::fs::rmdir(folder.join(ROOTFS));
        let made = state.read("made")?.and_then(|made| String::from_utf8(made).ok()).unwrap_or_default();
        for path in made.lines().rev() {
            let _ = rustix::fs::rmdir(path);
        }
    }
    state.clear()
}

/// Whether there are as many layers as there can be, each once and all in the store.
fn check(store: BorrowedFd<'_>, layers: &[Name]) -> Result<(), Failure> {
    if layers.is_empty() || layers.len() > MAX_LAYERS {
        let why = format!("a file system has 1 to {MAX_LAYERS} layers, not {}", layers.len());
        return Err(Failure::Request { why });
    }
    if layers.iter().collect::<BTreeSet<_>>().len() != layers.len() {
        return Err(Failure::Request { why: "a layer is named twice".to_owned() });
    }
    layers.iter().try_for_each(|layer| {
        let found = rustix::fs::statat(store, format!("layers/{layer}/tree"), AtFlags::SYMLINK_NOFOLLOW);
        found.map(drop).map_err(|_| Failure::LayerAbsent { name: layer.to_string() })
    })
}

fn read(config: File) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    config.take(MAX_CONFIG + 1).read_to_end(&mut text).map_err(Failure::storage("read the config.json"))?;
    if text.len() as u64 > MAX_CONFIG {
        return Err(Failure::Request { why: format!("config.json has more than {MAX_CONFIG} bytes") });
    }
    Ok(text)
}

fn check_empty(rootfs: &OwnedFd, path: &str) -> Result<(), Failure> {
    let failed = |error: Errno| Failure::storage(format!("read {path}"))(error);
    for entry in Dir::read_from(rootfs).map_err(failed)? {
        if !matches!(entry.map_err(failed)?.file_name().to_bytes(), b"." | b"..") {
            return Err(Failure::BundleExists { path: format!("{path} with something in it") });
        }
    }
    Ok(())
}

/// The directory that is mounted on.
#[derive(Debug)]
struct Rootfs {
    folder: OwnedFd,
    fd: OwnedFd,
    /// Whether it goes with this value.
    passing: bool,
}

impl Rootfs {
    fn begin(folder: BorrowedFd<'_>, path: &str) -> Result<Self, Failure> {
        let failed = |error: Errno| Failure::storage(format!("make {path}"))(error);
        let folder = folder.try_clone_to_owned().map_err(Failure::storage(format!("make {path}")))?;
        let made = match rustix::fs::mkdirat(&folder, ROOTFS, Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(failed(error)),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&folder, ROOTFS, flags, Mode::empty()).map_err(failed)?;
        let rootfs = Self { folder, fd, passing: made };
        check_empty(&rootfs.fd, path)?;
        Ok(rootfs)
    }

    fn keep(mut self) {
        self.passing = false;
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        if self.passing {
            let _ = rustix::fs::unlinkat(&self.folder, ROOTFS, AtFlags::REMOVEDIR);
        }
    }
}

/// `config.json`, which appears complete.
#[derive(Debug)]
struct Config {
    folder: OwnedFd,
    name: &'static str,
    kept: bool,
}

impl Config {
    fn write(folder: BorrowedFd<'_>, text: &[u8], path: &str) -> Result<Self, Failure> {
        let doing = || format!("write {path}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, PARTIAL, flags, Mode::from_raw_mode(0o600))
            .map_err(Failure::storage(doing()))?;
        let own = folder.try_clone_to_owned().map_err(Failure::storage(doing()))?;
        let mut config = Self { folder: own, name: PARTIAL, kept: false };
        File::from(file).write_all(text).map_err(Failure::storage(doing()))?;
        match rustix::fs::renameat_with(folder, PARTIAL, folder, CONFIG, RenameFlags::NOREPLACE) {
            Ok(()) => config.name = CONFIG,
            Err(Errno::EXIST) => return Err(Failure::BundleExists { path: path.to_owned() }),
            Err(error) => return Err(Failure::storage(doing())(error)),
        }
        Ok(config)
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        if !self.kept {
            let _ = rustix::fs::unlinkat(&self.folder, self.name, AtFlags::empty());
        }
    }
}
