//! `ansible-playbook` against a booted machine, with the playbook and the role as they are shipped.
//!
//! Ansible's own connection "ssh" is used, with `tests/ansible/ssh` in the place of ssh(1). `.ci/setup` installs Ansible into
//! `target/ansible`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::container::Container;
use crate::process::{binary_folder, command};
use crate::stack::skip;

/// Where playbook and roles are shipped.
const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../quadlet/ansible");
/// Stands for ssh(1).
const SSH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ansible/ssh");

/// A program of the Python packages.
fn program(name: &str) -> anyhow::Result<PathBuf> {
    let target = binary_folder()?;
    Ok(target.parent().context("the build folder has no parent")?.join("ansible/bin").join(name))
}

/// Whether Ansible is installed; tells if not.
#[must_use]
pub fn runs_here() -> bool {
    let there = program("ansible-playbook").is_ok_and(|path| path.exists());
    if !there {
        skip("target/ansible is not there: .ci/setup test makes it");
    }
    there
}

/// What `ansible-playbook` did.
#[derive(Debug)]
pub struct Played {
    /// Whether no host failed.
    pub succeeded: bool,
    /// All that it said.
    pub text: String,
}

impl Played {
    /// The number that the recap gives for `host` and one of `ok`, `changed`, `failed`, `skipped`.
    #[must_use]
    pub fn count(&self, host: &str, what: &str) -> Option<u32> {
        let (_, recap) = self.text.split_once("PLAY RECAP")?;
        let line = recap.lines().find(|line| line.split_whitespace().next() == Some(host))?;
        line.split_whitespace().find_map(|word| word.strip_prefix(what)?.strip_prefix('=')?.parse().ok())
    }

    /// What was said about the failure of `host`.
    #[must_use]
    pub fn failure(&self, host: &str) -> Option<&str> {
        let begin = [format!("fatal: [{host}]"), format!("failed: [{host}]")];
        self.text.lines().find(|line| begin.iter().any(|begin| line.starts_with(begin)))
    }
}

/// A control node.
#[derive(Debug)]
pub struct Controller {
    folder: TempDir,
}

impl Controller {
    /// One that knows no machine yet.
    ///
    /// # Errors
    /// No temporary folder can be made.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self { folder: tempfile::Builder::new().prefix("ansible-").tempdir()? })
    }

    /// Where the files lie that variables name.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Plays the shipped playbook on `machine`, once for each of `hosts`: a name and variables.
    ///
    /// # Errors
    /// Variables are no object, or `ansible-playbook` cannot be started.
    pub fn play(
        &self,
        machine: &Container,
        hosts: &[(&str, Value)],
        arguments: &[&str],
    ) -> anyhow::Result<Played> {
        let mut group = serde_json::Map::new();
        for (name, variables) in hosts {
            let mut variables = variables.as_object().context("variables have names")?.clone();
            for (name, value) in [
                ("ansible_host", json!(machine.leader().to_string())),
                ("ansible_ssh_executable", json!(SSH)),
                ("ansible_ssh_transfer_method", json!("piped")),
                ("ansible_pipelining", json!(true)),
                ("ansible_python_interpreter", json!("/usr/bin/python3")),
                // Everybody is root already, and there is no sudo.
                ("ansible_become", json!(false)),
            ] {
                variables.insert(name.to_owned(), value);
            }
            group.insert((*name).to_owned(), Value::Object(variables));
        }
        let inventory = self.folder.path().join("inventory.json");
        std::fs::write(&inventory, json!({"confidential": {"hosts": group}}).to_string())?;
        let mut play = self.command("ansible-playbook")?;
        play.arg("--inventory").arg(&inventory).args(arguments).arg("playbook.yml");
        played(play)
    }

    /// Has ansible-lint look at everything that is shipped.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn lint(&self) -> anyhow::Result<Played> {
        let mut lint = self.command("ansible-lint")?;
        lint.args(["--offline", "--strict", "--profile=production", "--nocolor", "-q"]);
        played(lint)
    }

    fn command(&self, name: &str) -> anyhow::Result<Command> {
        let program = program(name)?;
        let mut command = command(&program);
        // ansible-lint calls other programs of the same environment.
        let path = program.parent().context("a program has a folder")?.display().to_string();
        command.current_dir(SHIPPED).env_clear();
        command.env("PATH", format!("{path}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
        command.env("HOME", self.folder.path()).env("LC_ALL", "C.UTF-8");
        command.env("ANSIBLE_NOCOLOR", "1").env("ANSIBLE_HOME", self.folder.path().join("ansible"));
        Ok(command)
    }
}

fn played(mut command: Command) -> anyhow::Result<Played> {
    let out = command.output().with_context(|| format!("starting {command:?}"))?;
    let text = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Ok(Played { succeeded: out.status.success(), text })
}
