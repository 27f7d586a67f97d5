//! The doors by which a workload takes a secret, under the real service manager: agent and hub run in their units in a
//! booted machine, key broker and emulated TEE beside it.

use cc_tests::container::{Container, Setup, Tree};
use cc_tests::machine::Machine;
use cc_tests::process::binary_folder;
use cc_tests::stack::{Options, Part, Stack};

use crate::{RESOURCE, SECRET};

mod files;
mod pkcs11;
mod podman;
mod unit_credentials;

/// A booted machine and what it needs from outside.
struct Doors {
    // Dropped first: the machine uses what the stack shows it.
    machine: Container,
    stack: Stack,
}

impl Doors {
    /// Boots a machine whose hub has `tables` in its configuration and gives out [`SECRET`]; none where that cannot run.
    /// `more` adds to the machine.
    fn boot(tree: Tree, tables: &str, more: impl FnOnce(Setup) -> anyhow::Result<Setup>) -> Option<Self> {
        let (stack, mut setup) = prepared(tree, tables)?;
        let emulated = emulated_hardware(&stack);
        setup = setup
            .file("etc/systemd/system/attestation-agent.service.d/emulated.conf", emulated, 0o644)
            .unwrap();
        for binary in ["attestation-agent", "confidential-data-hub", "guestctl"] {
            let path = binary_folder().unwrap().join(binary);
            setup = setup.bind_read_only(&path, &format!("/usr/local/bin/{binary}"));
        }
        // The units as they are shipped, switched on as an administrator would.
        for (unit, target) in [
            ("attestation-agent.service", "multi-user.target"),
            ("confidential-data-hub.service", "multi-user.target"),
            ("confidential-data-hub-credentials.socket", "sockets.target"),
        ] {
            let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd");
            let text = std::fs::read_to_string(format!("{shipped}/{unit}")).unwrap();
            setup = setup.file(&format!("etc/systemd/system/{unit}"), &text, 0o644).unwrap();
            let link = format!("etc/systemd/system/{target}.wants/{unit}");
            setup = setup.link(&link, &format!("../{unit}")).unwrap();
        }
        let machine = more(setup).unwrap().boot().unwrap_or_else(|e| panic!("{e:#}"));
        Some(Self { machine, stack })
    }

    /// What the hub has logged in its unit.
    fn hub_log(&self) -> String {
        self.machine.journal("confidential-data-hub.service").unwrap()
    }

    /// How many resources it has asked its session for; told at the level `debug`.
    fn fetches(&self) -> usize {
        self.hub_log().matches("fetching a resource").count()
    }

    /// Its audit lines with all of these words.
    fn audit(&self, words: &[&str]) -> Vec<String> {
        let wanted = |line: &&str| line.contains("audit: ") && words.iter().all(|word| line.contains(word));
        self.hub_log().lines().filter(wanted).map(str::to_owned).collect()
    }

    /// Runs a command in a transient unit of this name, as `systemd-run` does; its exit code and standard output.
    fn in_unit(&self, unit: &str, options: &[&str], arguments: &[&str]) -> (Option<i32>, String) {
        let unit = format!("--unit={unit}");
        let run =
            [&["systemd-run", "--quiet", "--wait", "--pipe", unit.as_str()], options, arguments].concat();
        let out = self.machine.run(&run).unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
    }
}

/// Key broker and emulated TEE beside a machine with the daemons' configuration, that of the hub with these `tables`; the key broker
/// gives out [`SECRET`]. None where that cannot run.
pub(crate) fn prepared(tree: Tree, tables: &str) -> Option<(Stack, Setup)> {
    Some(configured(unconfigured(tree)?, "127.0.0.1", tables))
}

/// The same where the key broker is known by the name `broker`.
pub(crate) fn prepared_by_name(tree: Tree, broker: &str, tables: &str) -> Option<(Stack, Setup)> {
    let kbs_arguments = vec!["--tls-name".to_owned(), broker.to_owned()];
    let options = Options { kbs_arguments, ..Options::default() };
    Some(configured(unconfigured_with(tree, options)?, broker, tables))
}

fn configured((stack, setup): (Stack, Setup), broker: &str, tables: &str) -> (Stack, Setup) {
    let certificate = std::fs::read_to_string(stack.kbs_certificate()).unwrap();
    let hub = format!(
        "[kbc]\nname = \"cc_kbc\"\nurl = {:?}\nkbs_cert = '''{certificate}'''\n{tables}",
        stack.kbs_url().replace("127.0.0.1", broker)
    );
    let setup = setup
        .file("etc/confidential-containers/attestation-agent.toml", stack.agent_config(), 0o600)
        .unwrap()
        .file("etc/confidential-containers/confidential-data-hub.toml", hub, 0o600)
        .unwrap();
    (stack, setup)
}

/// The same without any configuration.
pub(crate) fn unconfigured(tree: Tree) -> Option<(Stack, Setup)> {
    unconfigured_with(tree, Options::default())
}

fn unconfigured_with(tree: Tree, options: Options) -> Option<(Stack, Setup)> {
    if !(tree.boots_here() && cc_tests::stack::emulator_runs_here()) {
        return None;
    }
    let mut stack = Stack::prepare(options).unwrap();
    stack.start_part(Part::Emulator).unwrap();
    stack.start_part(Part::Kbs).unwrap();
    stack.set_reference_values(&Machine::default().reference_values()).unwrap();
    stack.put_resource(RESOURCE, SECRET).unwrap();
    let root = stack.folder().join("root");
    let setup = Setup::new(tree).unwrap().bind(&root, root.to_str().unwrap());
    Some((stack, setup))
}

/// A drop-in for the agent's unit: the emulated hardware lies among this machine's temporary files.
pub(crate) fn emulated_hardware(stack: &Stack) -> String {
    format!("[Service]\nPrivateTmp=no\nReadWritePaths={}\n", stack.folder().join("root").display())
}

/// The first block of this language below this heading of docs/secrets.md: what a reader copies has to work.
fn example(heading: &str, language: &str) -> String {
    let document =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/secrets.md")).unwrap();
    let (_, below) = document.split_once(&format!("\n## {heading}\n")).unwrap();
    let (_, block) = below.split_once(&format!("\n```{language}\n")).unwrap();
    block.split_once("\n```").unwrap().0.to_owned() + "\n"
}
