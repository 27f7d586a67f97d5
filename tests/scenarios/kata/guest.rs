//! A guest of kata-containers in short: a mount namespace with the extension image, a `/run` of its own and the emulated
//! hardware where a real one has it, and what kata-agent does to start the components of its manifest.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cc_protos::api;
use cc_tests::process::{Process, binary_folder, command};
use cc_tests::stack::Stack;
use prost::Message;
use rustix::process::Signal;

use crate::measurement::runtime;
use crate::rpc::{ttrpc, ttrpc_client};

pub(super) const AGENT: &str = "/run/confidential-containers/attestation-agent/attestation-agent.sock";
pub(super) const HUB: &str = "/run/confidential-containers/cdh.sock";
const INIT_DATA: &str = "/run/confidential-containers/initdata";
/// What kata-agent's children have as their `PATH`.
const PATH: &str = "/bin:/sbin:/usr/bin:/usr/sbin";

/// The namespaces of a guest, until it is killed; `$1` is the folder of the hardware.
const HOLD: &str = "mount -t tmpfs -o mode=755 none /run\n\
    mount -t tmpfs none /sys/kernel\n\
    mkdir -p /sys/kernel/config/tsm/report\n\
    mount --bind \"$1\" /sys/kernel/config/tsm/report\n\
    /usr/bin/python3 -c 'import fcntl, socket, struct\n\
fcntl.ioctl(socket.socket(), 0x8914, struct.pack(\"16sH14x\", b\"lo\", 1))'\n\
    echo holding\n\
    exec sleep 600\n";

/// What a guest reaches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    /// Nothing but itself.
    Loopback,
    /// What the test reaches.
    Shared,
}

pub(super) struct Guest {
    // Dropped in this order.
    started: Vec<(String, Process)>,
    holder: Process,
    manifest: toml::Table,
    context: BTreeMap<&'static str, String>,
    folder: tempfile::TempDir,
}

impl Guest {
    /// A guest on the emulated machine of `stack`, in which nothing runs yet.
    pub(super) fn boot(stack: &Stack, network: Network) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let extension = folder.path().join("coco");
        install(folder.path(), &extension);
        let mut hold = command("unshare");
        hold.args(["--mount", "--propagation", "private"]);
        if network == Network::Loopback {
            hold.arg("--net");
        }
        hold.args(["sh", "-ec", HOLD, "sh"]).arg(stack.tsm_report());
        let holder = Process::start("guest", hold, folder.path()).unwrap();
        holder.wait_for_log("holding").unwrap();
        let text = fs::read_to_string(extension.join("etc/kata-extensions/components.toml")).unwrap();
        let context = BTreeMap::from([
            ("aa_attestation_uri", format!("unix://{AGENT}")),
            ("aa_attestation_socket", AGENT.to_owned()),
            ("aa_config_path", format!("{INIT_DATA}/aa.toml")),
            ("cdh_config_path", format!("{INIT_DATA}/cdh.toml")),
            ("cdh_socket", HUB.to_owned()),
            ("ocicrypt_config_path", extension.join("etc/ocicrypt_config.json").display().to_string()),
            ("rest_api_features", "all".to_owned()),
            ("launch_process_timeout", "6".to_owned()),
            ("extension_root", extension.display().to_string()),
            ("attester_variant", "default".to_owned()),
        ]);
        Self { started: Vec::new(), holder, manifest: text.parse().unwrap(), context, folder }
    }

    /// A path of the guest, as this machine sees it.
    pub(super) fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.holder.pid()))
    }

    pub(super) fn read(&self, path: &str) -> String {
        // The half of the hub that mounts is in the guest's namespace, as kata-agent is.
        fs::read_to_string(self.inside(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// Writes what kata-agent takes out of the init-data device.
    pub(super) fn unpack_init_data(&mut self, document: &str, entries: &BTreeMap<String, String>) {
        let folder = self.inside(INIT_DATA);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("initdata.toml"), document).unwrap();
        for (name, text) in entries {
            fs::write(folder.join(name), text).unwrap();
        }
        self.context.insert("initdata_toml_path", format!("{INIT_DATA}/initdata.toml"));
    }

    pub(super) fn leave_stale_sockets(&self) {
        for path in [AGENT, HUB] {
            let path = self.inside(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            assert!(path.exists());
        }
    }

    /// Has kata-agent take another variant of the agent than on most machines.
    pub(super) fn choose_variant(&mut self, variant: &str) {
        self.context.insert("attester_variant", variant.to_owned());
    }

    /// Starts what the manifest has up to this level, in its order; how long each socket took.
    pub(super) fn launch(&mut self, level: usize) -> Vec<Duration> {
        let processes = self.manifest["process"].as_array().unwrap().clone();
        let wanted =
            processes.iter().filter(|p| p["level"].as_integer().unwrap() <= i64::try_from(level).unwrap());
        wanted.filter_map(|process| self.start(process["id"].as_str().unwrap())).collect()
    }

    /// Starts one component as kata-agent does; how long its socket took, if it has one.
    pub(super) fn start(&mut self, id: &str) -> Option<Duration> {
        let processes = self.manifest["process"].as_array().unwrap();
        let process = processes.iter().find(|p| p["id"].as_str() == Some(id)).unwrap().as_table().unwrap();
        // What a variant says is said for the process.
        let variant = process.get("select").map(|select| &process["variants"][&self.value(select)]);
        let said = |key: &str| variant.and_then(|v| v.get(key)).or_else(|| process.get(key));
        let root = &self.context["extension_root"];
        let mut environment = BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]);
        for (name, value) in said("env").and_then(toml::Value::as_table).into_iter().flatten() {
            environment.insert(name.clone(), self.value(value));
        }
        let mut start = command("nsenter");
        start.arg(format!("--target={}", self.holder.pid())).args(["--mount", "--net", "--wd=/", "--"]);
        start.env_clear().envs(environment).env("RUST_LOG", "info");
        start.arg(Path::new(root).join(said("path").unwrap().as_str().unwrap()));
        start.args(self.values(process.get("args")));
        for group in process.get("optional_args").and_then(toml::Value::as_array).into_iter().flatten() {
            if self.context.contains_key(group["when"].as_str().unwrap()) {
                start.args(self.values(group.get("args")));
            }
        }
        if let Some(config) = process.get("config").map(|config| self.value(config))
            && self.inside(&config).exists()
        {
            start.arg("-c").arg(config);
        }
        let socket = process.get("wait_socket").map(|socket| self.inside(&self.value(socket)));
        if let Some(socket) = &socket {
            let _ = fs::remove_file(socket);
        }
        let begin = Instant::now();
        let mut started = Process::start(id, start, self.folder.path()).unwrap();
        if let Some(socket) = &socket {
            started.wait_for_path(socket).unwrap();
            // Whoever sees the path may connect.
            UnixStream::connect(socket).unwrap_or_else(|e| panic!("{id}: {e}"));
        } else {
            started.wait_for_log("listening").unwrap();
        }
        self.started.push((id.to_owned(), started));
        socket.map(|_| begin.elapsed())
    }

    /// Ends a component as the kernel would.
    pub(super) fn kill(&mut self, id: &str) {
        let at = self.started.iter().rposition(|(name, _)| name == id).unwrap();
        let (_, mut process) = self.started.remove(at);
        process.signal(Signal::KILL).unwrap();
        process.wait().unwrap();
    }

    pub(super) fn running(&mut self) -> Vec<String> {
        let is_running = |process: &mut Process| process.is_running().unwrap();
        self.started.iter_mut().filter_map(|(id, p)| is_running(p).then(|| id.clone())).collect()
    }

    pub(super) fn log(&self, id: &str) -> String {
        self.started.iter().find(|(name, _)| name == id).map(|(_, process)| process.log()).unwrap()
    }

    /// What the kernel says of a component (proc_pid_status(5)).
    pub(super) fn status(&self, id: &str) -> String {
        let process = self.started.iter().find(|(name, _)| name == id).map(|(_, process)| process).unwrap();
        fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap()
    }

    /// The same of the processes that a component has started.
    pub(super) fn started_by(&self, id: &str) -> Vec<String> {
        let process = self.started.iter().find(|(name, _)| name == id).map(|(_, process)| process).unwrap();
        let parent = format!("PPid:\t{}", process.pid());
        let statuses = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("status")).ok());
        statuses.filter(|status| status.lines().any(|line| line == parent)).collect()
    }

    /// Calls the hub as kata-agent does.
    pub(super) fn call<Q: Message, A: Message + Default>(
        &self,
        service: &str,
        method: &str,
        request: Q,
    ) -> Result<A, (i32, String)> {
        call(&self.inside(HUB), service, method, request)
    }

    pub(super) fn resource(&self, uri: &str) -> Result<Vec<u8>, (i32, String)> {
        resource(&self.inside(HUB), uri)
    }

    pub(super) fn block_on(&self, story: impl AsyncFnOnce(&Self)) {
        runtime().block_on(story(self));
    }

    /// Asks the REST server of the guest.
    pub(super) fn ask_rest(&self, path: &str) -> String {
        let request = format!(
            "exec 3<>/dev/tcp/127.0.0.1/8006; printf 'GET {path} HTTP/1.1\\r\\nHost: 127.0.0.1:8006\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3"
        );
        let mut ask = command("nsenter");
        ask.arg(format!("--target={}", self.holder.pid())).args(["--net", "--", "bash", "-c", &request]);
        String::from_utf8_lossy(&ask.output().unwrap().stdout).into_owned()
    }

    fn values(&self, list: Option<&toml::Value>) -> Vec<String> {
        list.and_then(toml::Value::as_array).into_iter().flatten().map(|value| self.value(value)).collect()
    }

    /// A text of the manifest with the values of its variables; one that kata-agent does not know is an error.
    fn value(&self, text: &toml::Value) -> String {
        let mut parts = text.as_str().unwrap().split("${");
        let mut value = parts.next().unwrap().to_owned();
        for part in parts {
            let (name, rest) = part.split_once('}').unwrap();
            value += self.context.get(name).unwrap_or_else(|| panic!("kata-agent knows no {name}"));
            value += rest;
        }
        value
    }
}

pub(super) fn resource(hub: &Path, uri: &str) -> Result<Vec<u8>, (i32, String)> {
    let request = api::GetResourceRequest { resource_path: uri.to_owned() };
    let answer: Result<api::GetResourceResponse, _> =
        call(hub, "api.GetResourceService", "GetResource", request);
    answer.map(|answer| answer.resource)
}

fn call<Q: Message, A: Message + Default>(
    hub: &Path,
    service: &str,
    method: &str,
    request: Q,
) -> Result<A, (i32, String)> {
    runtime().block_on(async {
        let client = ttrpc_client(hub).await;
        ttrpc(&client, service, method, request).await
    })
}

/// Installs the extension with links to the programs in place of copies, which are large.
fn install(folder: &Path, extension: &Path) {
    let dist = folder.join("dist");
    fs::create_dir(&dist).unwrap();
    let programs =
        ["attestation-agent", "confidential-data-hub", "api-server-rest", "cdh-storage", "guestctl"];
    for program in programs {
        fs::write(dist.join(program), "").unwrap();
    }
    let mut make = command("make");
    make.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).args(["--silent", "install-extension"]);
    make.arg(format!("ROOT={}", extension.display())).arg(format!("PREBUILT={}", dist.display()));
    let out = make.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for program in programs {
        let path = extension.join("usr/local/bin").join(program);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(binary_folder().unwrap().join(program), path).unwrap();
    }
}
