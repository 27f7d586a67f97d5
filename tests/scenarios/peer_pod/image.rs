//! A tree of an image, and a booted machine of it with the other units that cloud-api-adaptor's images have.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cc_evidence::HashAlgorithm;
use cc_evidence::initdata::{InitData, carrier};
use cc_tests::container::{Container, Setup, Tree};
use cc_tests::machine::Machine;
use cc_tests::process::{binary_folder, command};
use cc_tests::registry::Registry;
use cc_tests::stack::{Options, Part, Stack};
use tempfile::TempDir;

use crate::init_data::launched_with;
use crate::{RESOURCE, REST_PATH, SECRET};

const PROGRAMS: [&str; 5] =
    ["attestation-agent", "confidential-data-hub", "api-server-rest", "cdh-storage", "guestctl"];

/// The user of the registry, and the password `not-for-everybody`.
const USER: &str = "pod:$2b$05$abcdefghijklmnopqrstuuiESjhV0E91QjdBVZk.ipY7Jz7cKCK4G";
const AUTHORIZATION: &str = "cG9kOm5vdC1mb3ItZXZlcnlib2R5";

/// What is not ours of the image, in short: each file with its mode.
const OTHERS: [(&str, u32, &str); 9] = [
    (
        "etc/systemd/system/process-user-data.service",
        0o644,
        "[Unit]\nAfter=network.target\nDefaultDependencies=no\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
         ExecStart=/usr/local/bin/process-user-data provision-files\nExecStartPost=/bin/touch /run/peerpod/measured\n\
         [Install]\nWantedBy=multi-user.target\n",
    ),
    // What the host hands over comes first, and the file that starts the agent is in it; a moment later comes the init-data.
    (
        "usr/local/bin/process-user-data",
        0o755,
        "#!/bin/sh\nset -e\nmkdir -p /run/peerpod\necho 'no [ toml' >/run/peerpod/aa.toml\nsleep 1\n\
         cp /media/cidata/* /run/peerpod/\n",
    ),
    (
        "etc/systemd/system/netns@.service",
        0o644,
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStartPre=/bin/sh -c 'mkdir -p /run/netns; touch /run/netns/%I'\n\
         ExecStart=/usr/bin/unshare --net=/run/netns/%I /usr/local/bin/lo-up\n",
    ),
    // SIOCSIFFLAGS with IFF_UP: the smaller of the trees has no iproute2.
    (
        "usr/local/bin/lo-up",
        0o755,
        "#!/usr/bin/python3\nimport fcntl, socket, struct\n\
         fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sH14x', b'lo', 1))\n",
    ),
    (
        "etc/systemd/system/kata-agent.path",
        0o644,
        "[Path]\nPathExists=/run/confidential-containers/cdh.sock\n[Install]\nWantedBy=multi-user.target\n",
    ),
    // It starts whether there is a secret or not.
    (
        "etc/systemd/system/kata-agent.service",
        0o644,
        "[Unit]\nBindsTo=netns@podns.service\nAfter=netns@podns.service scratch-storage.service\nWants=scratch-storage.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
         ExecStart=/bin/sh -ec 'test -e /run/peerpod/measured; guestctl get kbs:///default/key/1 >/run/kata-agent.got 2>&1 || true'\n",
    ),
    // Where images go: it comes late.
    (
        "etc/systemd/system/scratch-storage.service",
        0o644,
        "[Unit]\nDefaultDependencies=no\nAfter=process-user-data.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
         ExecStart=/bin/sh -ec 'sleep 1; mkdir -p /run/kata-containers/image; mount -t tmpfs scratch /run/kata-containers/image'\n",
    ),
    // Of the present guest components, which make way.
    ("etc/systemd/system/attestation-agent.service", 0o644, "[Service]\nExecStart=/bin/false\n"),
    ("etc/systemd/system/api-server-rest.service", 0o644, "[Service]\nExecStart=/bin/false\n"),
];

/// A tree that is becoming an image.
pub(super) struct Image {
    folder: TempDir,
    root: PathBuf,
}

impl Image {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        fs::create_dir(folder.path().join("dist")).unwrap();
        // In the place of the programs, which are large.
        for program in PROGRAMS {
            fs::write(folder.path().join("dist").join(program), "").unwrap();
        }
        let root = folder.path().join("root");
        Self { folder, root }
    }

    /// With the other units of an image, all that docs/deploy-peer-pod.md says done to it.
    pub(super) fn among_others(tree: Tree) -> Self {
        let image = Self::new();
        let root = image.root();
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
        for accounts in ["etc/group", "etc/passwd"] {
            put(root, accounts, 0o644, &fs::read_to_string(tree.folder().join(accounts)).unwrap());
        }
        for (path, mode, content) in OTHERS {
            put(root, path, mode, content);
        }
        for line in documented().lines() {
            image.shell(line);
        }
        image
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Runs the commands of docs/deploy-peer-pod.md, but for the one that makes a group where there is no file of them.
    pub(super) fn install(&self) {
        let commands = documented();
        assert!(commands.starts_with("make install-image"), "{commands}");
        self.shell(commands.lines().next().unwrap());
    }

    fn shell(&self, line: &str) {
        let line = line.replace("$PWD/dist", "$DIST");
        let mut shell = command("bash");
        shell.args(["-ec", &line]).current_dir(super::SOURCES);
        let out =
            shell.env("IMAGE", self.root()).env("DIST", self.folder.path().join("dist")).output().unwrap();
        assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// A folder with these sources in it as mkosi shows them to scripts, and the programs in their `dist`.
    pub(super) fn sources_with_dist(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let sources = folder.path().join("guest-services");
        fs::create_dir(&sources).unwrap();
        for (name, target) in [("Makefile", "Makefile"), ("systemd", "systemd")] {
            let target = Path::new(super::SOURCES).canonicalize().unwrap().join(target);
            std::os::unix::fs::symlink(target, sources.join(name)).unwrap();
        }
        std::os::unix::fs::symlink(self.folder.path().join("dist"), sources.join("dist")).unwrap();
        folder
    }
}

/// The commands that docs/deploy-peer-pod.md gives for any tree.
fn documented() -> String {
    let document = include_str!("../../../docs/deploy-peer-pod.md");
    let (_, below) = document.split_once("\n# make install-image").unwrap();
    let (block, _) = below.split_once("```").unwrap();
    format!("# make install-image{block}")
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("# ").unwrap()))
        .collect()
}

/// What a machine is given by those who start it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    /// Init-data that the hardware holds, with the configuration of both daemons.
    InitData,
    /// The same configuration as user data alone, which is the host's word.
    UserData,
    /// A configuration of the agent that says where the emulated hardware is and no more, and none of the hub.
    Nothing,
}

/// A booted machine of the image.
pub(super) struct Pod {
    // Dropped first: the machine uses what the others show it.
    pub(super) machine: Container,
    _stack: Stack,
    pub(super) registry: Registry,
}

impl Pod {
    /// Boots one with init-data; none where that cannot run.
    pub(super) fn boot(tree: Tree) -> Option<Self> {
        Self::boot_with(tree, Given::InitData)
    }

    pub(super) fn boot_with(tree: Tree, given: Given) -> Option<Self> {
        if !(tree.boots_here() && cc_tests::stack::emulator_runs_here()) {
            return None;
        }
        let mut stack = Stack::prepare(Options::default()).unwrap();
        stack.start_part(Part::Emulator).unwrap();
        stack.start_part(Part::Kbs).unwrap();
        stack.set_reference_values(&Machine::default().reference_values()).unwrap();
        stack.put_resource(RESOURCE, SECRET).unwrap();
        let registry = Registry::start_for(stack.folder(), USER).unwrap();
        let certificate = fs::read_to_string(stack.kbs_certificate()).unwrap();
        let hub = format!(
            "[kbc]\nname = \"cc_kbc\"\nurl = {:?}\nkbs_cert = '''{certificate}'''\n[image]\n\
             registry_config = {{ registry = [{{ prefix = {:?}, insecure = true }}] }}\n",
            stack.kbs_url(),
            registry.address()
        );
        let entries =
            BTreeMap::from([("aa.toml".to_owned(), stack.agent_config()), ("cdh.toml".to_owned(), hub)]);
        let document = InitData::compose(HashAlgorithm::Sha256, entries.clone()).unwrap();
        if given == Given::InitData {
            stack.set_machine(&launched_with(Machine::default(), &document)).unwrap();
        }

        let image = Image::among_others(tree);
        let root = image.root();
        for unit in ["process-user-data.service", "kata-agent.path"] {
            let link = root.join("etc/systemd/system/multi-user.target.wants").join(unit);
            std::os::unix::fs::symlink(format!("../{unit}"), link).unwrap();
        }
        // What is peculiar to this machine: the emulated hardware, below which the agent looks for the init-data too.
        put(
            root,
            "etc/systemd/system/attestation-agent.service.d/emulated.conf",
            0o644,
            &crate::doors::emulated_hardware(&stack),
        );
        let hardware = stack.folder().join("root");
        fs::create_dir_all(hardware.join("run")).unwrap();
        std::os::unix::fs::symlink("/run/peerpod", hardware.join("run/peerpod")).unwrap();
        let auths = format!(r#"{{"auths":{{"{}":{{"auth":"{AUTHORIZATION}"}}}}}}"#, registry.address());
        let mut user_data = match given {
            Given::InitData | Given::UserData => entries,
            Given::Nothing => {
                let (_, platform) = entries["aa.toml"].split_once("[platform]").unwrap();
                BTreeMap::from([("aa.toml".to_owned(), format!("[platform]{platform}"))])
            }
        };
        user_data.insert("auth.json".to_owned(), auths);
        if given == Given::InitData {
            let annotation = carrier::to_annotation(document.body()).unwrap();
            user_data.insert("initdata".to_owned(), annotation);
            user_data.insert("initdata.digest".to_owned(), hex::encode(document.digest()));
        }
        for (name, content) in &user_data {
            put(root, &format!("media/cidata/{name}"), 0o644, content);
        }
        let mut setup =
            Setup::new(tree).unwrap().tree(root).unwrap().bind(&hardware, hardware.to_str().unwrap());
        for program in PROGRAMS {
            let path = binary_folder().unwrap().join(program);
            setup = setup.bind_read_only(&path, &format!("/usr/local/bin/{program}"));
        }
        let machine = setup.with_containers().boot().unwrap_or_else(|e| panic!("{tree:?}: {e:#}"));
        Some(Self { machine, _stack: stack, registry })
    }

    /// Asks the REST server as a container of the pod does.
    pub(super) fn ask(&self, path: &str) -> String {
        let request = format!(
            "exec 3<>/dev/tcp/127.0.0.1/8006; printf 'GET {path} HTTP/1.1\\r\\nHost: 127.0.0.1:8006\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3"
        );
        let container = [
            "nsenter",
            "--net=/run/netns/podns",
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ];
        let out = self.machine.run(&[&container[..], &["bash", "-c", &request]].concat()).unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// The REST server gives out the secret.
    pub(super) fn serves(&self, when: &str) {
        self.wait_active("api-server-rest.service");
        let answer = self.ask(REST_PATH);
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.as_bytes().ends_with(SECRET),
            "{when}: {answer}\n{}\n{}",
            self.journal("attestation-agent"),
            self.journal("confidential-data-hub"),
        );
    }

    /// Standard output and error of a command.
    pub(super) fn run(&self, arguments: &[&str]) -> (bool, String) {
        let out = self.machine.run(arguments).unwrap();
        (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    }

    pub(super) fn journal(&self, unit: &str) -> String {
        self.machine.journal(&format!("{unit}.service")).unwrap()
    }

    pub(super) fn wait_active(&self, unit: &str) {
        let active = || Ok(self.machine.run(&["systemctl", "is-active", "--quiet", unit])?.status.success());
        self.machine.wait_for(unit, active).unwrap();
    }

    /// Puts an image of one layer with this tag into the registry; its name.
    pub(super) fn push(&self, tag: &str) -> String {
        let image = format!("{}/team/app:{tag}", self.registry.address());
        let script = format!(
            "cd $(mktemp -d); umoci init --layout app; umoci new --image app:x; mkdir -p tree/etc; echo image {tag} >tree/etc/app\n\
             umoci insert --image app:x tree/etc /etc\n\
             skopeo --insecure-policy copy --quiet --dest-tls-verify=false --dest-creds pod:not-for-everybody oci:app:x docker://{image}"
        );
        self.machine.must(&["sh", "-ec", &script]).unwrap();
        image
    }

    /// Ends a daemon that runs, as a crash does.
    pub(super) fn kill(&self, daemon: &str) {
        let unit = format!("{daemon}.service");
        self.wait_active(&unit);
        self.machine.must(&["systemctl", "kill", "--signal=SIGKILL", &unit]).unwrap();
    }

    /// Waits until the service manager has started a daemon again this often since the boot, and not once more.
    pub(super) fn wait_restarted(&self, daemon: &str, times: u32) {
        self.machine
            .wait_for(&format!("{daemon} for the time {times}"), || Ok(self.restarts(daemon) >= times))
            .unwrap();
        self.wait_active(&format!("{daemon}.service"));
        assert_eq!(self.restarts(daemon), times, "{daemon}");
    }

    /// How often the service manager has started a daemon again.
    pub(super) fn restarts(&self, daemon: &str) -> u32 {
        let unit = format!("{daemon}.service");
        let count = self.machine.must(&["systemctl", "show", "--property=NRestarts", "--value", &unit]);
        count.unwrap().trim().parse().unwrap()
    }
}

fn put(root: &Path, path: &str, mode: u32, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}
