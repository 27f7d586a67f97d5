//! Mounting the emulator and taking it away again, whatever its clients do.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, Filesystem, MountOption, SessionACL};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::device::Device;
use crate::door;
use crate::filesystem::Report;
use crate::machine::MachineSource;
use crate::measurements::Measurements;
use crate::stats::Stats;
use crate::{Error, Manufacturer};

/// How long clients get to close their files before the mount is taken from them.
const PATIENCE: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(10);

/// What [`Emulator::mount`] needs to know.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where to mount; made if it does not exist. None for a kernel before 6.7, which has no such interface.
    pub mount_point: Option<PathBuf>,
    /// A root below which to make the driver's device, and what belongs to it; see [`crate::door`].
    pub devices: Option<PathBuf>,
    /// Where to mount the registers of a TDX machine; made if it does not exist. None for a kernel before 6.16.
    pub measurements: Option<PathBuf>,
    /// The emulated machine.
    pub machine: MachineSource,
    /// A file for the counters, JSON.
    pub stats: Option<PathBuf>,
    /// Time that every report takes, as firmware does.
    pub generation_time: Duration,
}

/// A mounted emulator. Dropping it unmounts.
#[derive(Debug)]
pub struct Emulator {
    mounts: Vec<Mount>,
    device: Arc<Device>,
}

/// One mounted file system with the thread that serves it. Dropping it unmounts.
#[derive(Debug)]
struct Mount {
    session: BackgroundSession,
    path: PathBuf,
}

impl Emulator {
    /// Mounts the emulator and serves it on threads of its own.
    ///
    /// # Errors
    /// [`Error::Mount`] without root or `/dev/fuse`; [`Error::File`] and [`Error::Machine`] for the machine file;
    /// [`Error::TeeChanged`] and [`Error::ProductChanged`] if `maker` made another kind of machine.
    pub fn mount(setup: Setup, maker: Arc<Manufacturer>) -> Result<Self, Error> {
        maker.check(&setup.machine.load()?)?;
        let device = Device::new(
            maker,
            setup.machine.clone(),
            setup.generation_time,
            Stats::new(setup.stats.clone()),
        )?;
        let device = Arc::new(device);
        let mut mounts = Vec::new();
        if let Some(path) = &setup.mount_point {
            mounts.push(Mount::make(path, Report::new(Arc::clone(&device)))?);
        }
        if let Some(path) = &setup.measurements {
            mounts.push(Mount::make(path, Measurements::new(Arc::clone(&device)))?);
        }
        if let Some(root) = &setup.devices {
            let failed = |source| Error::Devices { root: root.clone(), source };
            door::open(root, &device).map_err(failed)?;
        }
        Ok(Self { mounts, device })
    }

    /// Reports made so far, cached ones not counted.
    pub fn quotes(&self) -> u64 {
        self.device.stats.counts().quotes
    }

    /// Request directories that exist now.
    pub fn entries_open(&self) -> u64 {
        self.device.stats.counts().entries_open
    }

    /// True if somebody else has unmounted it.
    pub fn is_finished(&self) -> bool {
        self.mounts.iter().any(|mount| mount.session.guard.is_finished())
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Hanging requests end now, so that their clients can close.
        self.device.stop();
    }
}

impl Mount {
    fn make(path: &Path, filesystem: impl Filesystem + 'static) -> Result<Self, Error> {
        let failed = |source| Error::Mount { path: path.to_owned(), source };
        remove_dead_mount(path).map_err(failed)?;
        fs::create_dir_all(path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        let mut config = Config::default();
        // By the system call: AutoUnmount would need the fusermount program.
        config.mount_options = vec![
            MountOption::FSName("tee-emulator".to_owned()),
            MountOption::DefaultPermissions,
            MountOption::NoExec,
        ];
        config.acl = SessionACL::All;
        let session = fuser::spawn_mount(filesystem, &path, &config).map_err(failed)?;
        Ok(Self { session, path })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let give_up = Instant::now() + PATIENCE;
        loop {
            match unmount(&self.path, UnmountFlags::empty()) {
                Err(Errno::BUSY) if Instant::now() < give_up => pause(),
                Err(Errno::BUSY) => {
                    tracing::warn!(path = %self.path.display(), "still in use, unmounting lazily");
                    if let Err(error) = unmount(&self.path, UnmountFlags::DETACH) {
                        tracing::error!(path = %self.path.display(), %error, "cannot unmount");
                    }
                    break;
                }
                Err(error) if !self.session.guard.is_finished() => {
                    tracing::error!(path = %self.path.display(), %error, "cannot unmount");
                    break;
                }
                // Unmounted, or somebody else has done it.
                Ok(()) | Err(_) => break,
            }
        }
        while !self.session.guard.is_finished() && Instant::now() < give_up {
            pause();
        }
    }
}

/// Takes away what a killed emulator left: a mount that answers "not connected".
fn remove_dead_mount(path: &Path) -> std::io::Result<()> {
    match fs::metadata(path) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOTCONN) => {
            tracing::warn!(path = %path.display(), "removing the mount of a dead emulator");
            Ok(unmount(path, UnmountFlags::DETACH)?)
        }
        _ => Ok(()),
    }
}

#[allow(clippy::disallowed_methods)] // at the end of the program or of a test, outside of any runtime
fn pause() {
    thread::sleep(STEP);
}
