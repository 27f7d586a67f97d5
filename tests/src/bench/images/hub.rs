//! The way of a pod VM: the data hub pulls (`PullImage`), `cdh-storage` unpacks into its store and mounts an overlay for the
//! bundle.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use super::watched::{Pull, forget_peak, memory, watched};
use crate::process::{Process, own_binary, with_own_mounts};
use crate::stack::address;

/// The halves of `cdh-storage`.
const HALVES: [&str; 2] = ["unpack", "mount"];
/// How long the halves may take to end.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// A hub with an empty store, and both halves of `cdh-storage`.
pub(super) struct Hub {
    hub: Process,
    // The hub tells it of every image, and waits three seconds for one that is not there.
    _agent: Process,
    folder: TempDir,
}

impl Hub {
    /// Starts one with its store below `memory`, which pulls from the registry at `registry`. To have both halves start, `first` is pulled.
    pub(super) fn start(memory: &Path, registry: &str, first: &str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("hub-").tempdir_in(memory)?;
        let path = folder.path();
        // Mounts are those of a namespace of their own, and gone with it.
        let program = path.join("cdh-storage");
        let storage = own_binary("cdh-storage")?;
        let script = format!(
            "#!/bin/sh\necho $$ >{path}/$1.pid\nexec {storage} \"$@\"\n",
            path = path.display(),
            storage = Path::new(storage.get_program()).display(),
        );
        fs::write(&program, script)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        let config = path.join("cdh.toml");
        let socket = path.join("cdh.sock");
        let agent_socket = path.join("aa.sock");
        let agent_config = path.join("aa.toml");
        fs::write(&agent_config, "[platform]\nsample = true\n")?;
        let mut agent = own_binary("attestation-agent")?;
        agent.args(["--attestation_sock", &address(&agent_socket), "-c"]).arg(&agent_config);
        agent.args(["--unmeasured-config", "allow"]);
        let mut agent = Process::start("attestation-agent", agent, path)?;
        agent.wait_for_path(&agent_socket)?;
        // No key broker is there: these images need none.
        let text = format!(
            "socket = {socket:?}\n[kbc]\nname = \"cc_kbc\"\nurl = \"https://127.0.0.1:9\"\n[aa]\naa_socket = {agent:?}\n[image]\nwork_dir = {store:?}\n\
             registry_config = {{ registry = [{{ prefix = {registry:?}, insecure = true }}] }}\n[image.storage]\nprogram = {program:?}\n",
            socket = address(&socket),
            agent = address(&agent_socket),
            store = path.join("store"),
        );
        fs::write(&config, text)?;
        let mut hub = own_binary("confidential-data-hub")?;
        hub.arg("-c").arg(&config).args(["--unmeasured-config", "allow"]);
        let mut hub = Process::start("confidential-data-hub", with_own_mounts(&hub), path)?;
        hub.wait_for_path(&socket)?;
        let hub = Self { hub, _agent: agent, folder };
        watched(&mut hub.pull_command(first, "first")?)?;
        Ok(hub)
    }

    fn pull_command(&self, image: &str, bundle: &str) -> anyhow::Result<Command> {
        let path = self.folder.path();
        let mut pull = own_binary("guestctl")?;
        pull.args(["pull", "--json", image, "--cdh", &address(&path.join("cdh.sock")), "--bundle"]);
        pull.arg(path.join("bundles").join(bundle));
        Ok(pull)
    }

    fn pid(&self, half: &str) -> anyhow::Result<u32> {
        let text = fs::read_to_string(self.folder.path().join(format!("{half}.pid")))?;
        text.trim().parse().with_context(|| format!("the half {half} has no process"))
    }

    /// Pulls `image`. The memory is that of the hub and of the half that unpacks, each at its most, above what they had before.
    pub(super) fn pull(&self, image: &str) -> anyhow::Result<Pull> {
        let pids = [self.hub.pid(), self.pid("unpack")?];
        let sum = |name: &str| pids.iter().map(|pid| memory(*pid, name)).sum::<anyhow::Result<u64>>();
        pids.iter().try_for_each(|pid| forget_peak(*pid))?;
        let idle = sum("VmRSS")?;
        let pull = watched(&mut self.pull_command(image, "bundle")?)?;
        let config = self.folder.path().join("bundles/bundle/config.json");
        ensure!(config.exists(), "there is no bundle of {image}");
        Ok(Pull { peak: Some(sum("VmHWM")?.saturating_sub(idle)), ..pull })
    }

    /// Ends all three, and waits until they have let go of the store.
    #[allow(clippy::disallowed_methods, reason = "a measurement waits for other processes")]
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        let pids: Vec<u32> = HALVES.iter().filter_map(|half| self.pid(half).ok()).collect();
        self.hub.stop()?;
        let begun = Instant::now();
        while pids.iter().any(|pid| memory(*pid, "VmRSS").is_ok()) {
            ensure!(begun.elapsed() < TIME_LIMIT, "cdh-storage does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}
