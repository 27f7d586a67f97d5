//! A data hub alone, which pulls into a store of its own.
//!
//! It and the halves of `cdh-storage` work in a mount namespace of their own, so that no mount outlives its test.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output},
    time::{Duration, Instant},
};

use cc_tests::{
    process::{Process, own_binary, with_own_mounts},
    stack::address,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Workshop, left_in};

/// A hub and its folder.
pub(crate) struct Hub {
    folder: PathBuf,
    config: String,
    process: Option<Process>,
}

/// How long the halves may take to end, on a loaded machine.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// The halves of `cdh-storage`.
pub(crate) const HALVES: [&str; 2] = ["unpack", "mount"];

impl Hub {
    /// A hub that pulls from the registry of `shop`, with this in its table `[image]`. It is not started yet.
    pub(crate) fn prepare(shop: &Workshop, more: &str) -> Self {
        let folder = shop.path("hub");
        fs::create_dir_all(&folder).unwrap();
        let script = format!(
            "#!/bin/sh\necho $$ >{folder}/$1.pid\nexec {program} \"$@\"\n",
            folder = folder.display(),
            program = own_binary("cdh-storage").unwrap().get_program().to_str().unwrap(),
        );
        let program = folder.join("cdh-storage");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        // Neither key broker nor agent is there: these images need none.
        let config = format!(
            "socket = {socket:?}\n[kbc]\nname = \"cc_kbc\"\nurl = \"https://127.0.0.1:9\"\n\
             [aa]\naa_socket = {aa:?}\n[image]\nwork_dir = {store:?}\n\
             registry_config = {{ registry = [{{ prefix = {registry:?}, insecure = true }}] }}\n{more}\n\
             [image.storage]\nprogram = {program:?}\n",
            socket = address(&folder.join("cdh.sock")),
            aa = address(&folder.join("aa.sock")),
            store = folder.join("store"),
            registry = shop.registry.address(),
        );
        Self { folder, config, process: None }
    }

    pub(crate) fn start(shop: &Workshop, more: &str) -> Self {
        let mut hub = Self::prepare(shop, more);
        hub.run();
        hub
    }

    /// Starts it, also where a killed one has left its socket.
    pub(crate) fn run(&mut self) {
        let config = self.folder.join("cdh.toml");
        fs::write(&config, &self.config).unwrap();
        let socket = self.folder.join("cdh.sock");
        let _ = fs::remove_file(&socket);
        let mut command = own_binary("confidential-data-hub").unwrap();
        command.arg("-c").arg(config).args(["--unmeasured-config", "allow"]);
        let command = with_own_mounts(&command);
        let mut process = Process::start("confidential-data-hub", command, &self.folder).unwrap();
        process.wait_for_path(&socket).unwrap();
        self.process = Some(process);
    }

    /// Stops it, and waits for both halves to end.
    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.stop();
        }
        self.wait_for_halves();
    }

    /// Kills it with all that it started.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::KILL).unwrap();
            process.wait().unwrap();
        }
        self.wait_for_halves();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.is_running().unwrap())
    }

    fn wait_for_halves(&self) {
        let begun = Instant::now();
        while HALVES.iter().any(|half| self.pid(half).is_some()) {
            assert!(begun.elapsed() < TIME_LIMIT, "cdh-storage does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The process of that half, if it runs.
    pub(crate) fn pid(&self, half: &str) -> Option<Pid> {
        let text = fs::read_to_string(self.folder.join(format!("{half}.pid"))).ok()?;
        let pid = text.trim();
        // The file outlives its process, whose number may be somebody else's by now.
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        if name.trim_end() != "cdh-storage" {
            return None;
        }
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let is_zombie = state.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
        let pid = if is_zombie { None } else { pid.parse().ok() };
        pid.and_then(Pid::from_raw)
    }

    /// Kills that half, if it runs.
    pub(crate) fn kill_half(&self, half: &str) {
        if let Some(pid) = self.pid(half) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// `guestctl pull --bundle`, which asks the hub as kata-agent does.
    pub(crate) fn pull_command(&self, shop: &Workshop, tag: &str, bundle: &str) -> Command {
        let mut guestctl = own_binary("guestctl").unwrap();
        guestctl.args([
            "pull",
            &shop.name(tag),
            "--cdh",
            &address(&self.folder.join("cdh.sock")),
            "--bundle",
        ]);
        guestctl.arg(self.bundle(bundle));
        guestctl
    }

    /// Pulls the image of this name, wherever it is.
    pub(crate) fn pull_from(&self, image: &str, bundle: &str) -> Output {
        let mut guestctl = own_binary("guestctl").unwrap();
        guestctl.args(["pull", image, "--cdh", &address(&self.folder.join("cdh.sock")), "--bundle"]);
        guestctl.arg(self.bundle(bundle)).output().unwrap()
    }

    pub(crate) fn pull(&self, shop: &Workshop, tag: &str, bundle: &str) -> Output {
        self.pull_command(shop, tag, bundle).output().unwrap()
    }

    pub(crate) fn bundle(&self, name: &str) -> PathBuf {
        self.folder.join("bundles").join(name)
    }

    /// A path of a bundle as the half that mounts sees it.
    pub(crate) fn seen(&self, bundle: &str, path: &str) -> PathBuf {
        let pid = self.pid("mount").expect("the half that mounts is not there");
        let inside = self.bundle(bundle).join("rootfs").join(path);
        PathBuf::from(format!("/proc/{}/root", pid.as_raw_nonzero())).join(inside.strip_prefix("/").unwrap())
    }

    /// Pulls, which has to be refused with this code and leave nothing; what was said.
    #[track_caller]
    pub(crate) fn refused(&self, shop: &Workshop, tag: &str, code: &str) -> String {
        let out = self.pull(shop, tag, "refused");
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && error.contains(&format!("[{code}]")), "{tag}: {error}");
        self.assert_nothing_left(tag);
        error
    }

    /// No bundle, nothing in the store, and nothing mounted.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self, what: &str) {
        for folder in ["bundles", "store/layers", "store/images", "store/overlay"] {
            let folder = self.folder.join(folder);
            if folder.exists() {
                assert_eq!(left_in(&folder), [""; 0], "{what}: {}", folder.display());
            }
        }
        assert_eq!(self.mounts(), 0, "{what}");
    }

    /// Overlays of this store that are mounted.
    pub(crate) fn mounts(&self) -> usize {
        let Some(pid) = self.pid("mount") else { return 0 };
        let mounts = fs::read_to_string(format!("/proc/{}/mounts", pid.as_raw_nonzero())).unwrap_or_default();
        let folder = self.folder.display().to_string();
        mounts.lines().filter(|line| line.starts_with("overlay ") && line.contains(&folder)).count()
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    /// `guestctl images` on the store, while no hub runs.
    #[track_caller]
    pub(crate) fn images(&self, arguments: &[&str]) -> serde_json::Value {
        let mut guestctl = own_binary("guestctl").unwrap();
        guestctl.arg("images").args(arguments).arg("--json").arg("--store").arg(self.store());
        serde_json::from_slice(&crate::run(&mut guestctl)).unwrap()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stop();
    }
}
