//! A root directory with the emulator mounted where the kernel's interface would be.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tee_emulator::{Emulator, Machine, MachineSource, Manufacturer, Setup};

/// Where the interface is below a root.
pub(crate) const REPORT: &str = "sys/kernel/config/tsm/report";

/// Where the registers of a TDX machine are below a root.
pub(crate) const MEASUREMENTS: &str = "sys/devices/virtual/misc/tdx_guest/measurements";

/// Stands for the drivers' devices below a root.
const DEVICES: &str = "dev";

/// An emulator in this process. The fields are dropped in order: the mount goes before its directory.
pub(crate) struct Room {
    pub(crate) emulator: Emulator,
    pub(crate) machine: Arc<Mutex<Machine>>,
    pub(crate) maker: Arc<Manufacturer>,
    root: tempfile::TempDir,
}

impl Room {
    /// A machine, or none if this process cannot mount.
    pub(crate) fn new(machine: Machine) -> Option<Self> {
        Self::make(machine, &[REPORT])
    }

    /// A TDX machine whose kernel shows its registers.
    pub(crate) fn with_registers(machine: Machine) -> Option<Self> {
        Self::make(machine, &[REPORT, MEASUREMENTS])
    }

    /// A machine whose kernel has a driver with a device and no TSM interface. The calling thread has entered it.
    pub(crate) fn with_devices(machine: Machine) -> Option<Self> {
        Self::make(machine, &[DEVICES])
    }

    /// A machine whose kernel has both.
    pub(crate) fn with_both(machine: Machine) -> Option<Self> {
        Self::make(machine, &[REPORT, DEVICES])
    }

    fn make(machine: Machine, interfaces: &[&str]) -> Option<Self> {
        let devices = interfaces.contains(&DEVICES);
        if !can_mount() || (devices && !can_enter()) {
            return None;
        }
        let root = tempfile::tempdir().unwrap();
        let maker = Arc::new(Manufacturer::of(&machine).unwrap());
        let machine = Arc::new(Mutex::new(machine));
        let setup = Setup {
            mount_point: interfaces.contains(&REPORT).then(|| root.path().join(REPORT)),
            devices: devices.then(|| root.path().to_owned()),
            measurements: interfaces.contains(&MEASUREMENTS).then(|| root.path().join(MEASUREMENTS)),
            machine: MachineSource::Shared(Arc::clone(&machine)),
            stats: None,
            generation_time: Duration::ZERO,
        };
        let emulator = Emulator::mount(setup, Arc::clone(&maker)).unwrap();
        if devices {
            tee_emulator::door::enter(root.path()).unwrap();
        }
        Some(Self { emulator, machine, maker, root })
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn report(&self) -> PathBuf {
        self.root.path().join(REPORT)
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Machine)) {
        change(&mut self.machine.lock().unwrap());
    }

    /// Request directories as a program sees them.
    pub(crate) fn directories(&self) -> Vec<String> {
        list(&self.report())
    }
}

pub(crate) fn list(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// False, with the reason on standard error, where FUSE cannot be mounted.
pub(crate) fn can_mount() -> bool {
    let root = rustix::process::geteuid().is_root();
    let device = Path::new("/dev/fuse").exists();
    if !root || !device {
        eprintln!("skipped: mounting FUSE needs root ({root}) and /dev/fuse ({device})");
    }
    root && device
}

/// False, with the reason on standard error, where system calls cannot be handed to another program.
fn can_enter() -> bool {
    let possible = tee_emulator::door::is_possible();
    if !possible {
        eprintln!("skipped: this kernel has no SECCOMP_RET_USER_NOTIF");
    }
    possible
}
