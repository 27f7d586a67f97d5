//! A real registry on loopback: Debian's `docker-registry`, over plain http.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::process::{Process, command};

/// How long it may take to listen.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// A running registry. Dropping it stops it.
#[derive(Debug)]
pub struct Registry {
    address: String,
    process: Process,
}

impl Registry {
    /// Starts one without users whose blobs and log lie in `folder`.
    ///
    /// # Errors
    /// It is not installed, or does not listen.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        Self::start_with(folder, "")
    }

    /// As [`Registry::start`], for one user: a line of htpasswd(5), with a password hashed by bcrypt.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub fn start_for(folder: &Path, user: &str) -> anyhow::Result<Self> {
        let users = folder.join("registry-users");
        std::fs::write(&users, format!("{user}\n"))?;
        Self::start_with(folder, &format!("auth: {{htpasswd: {{realm: test, path: {users:?}}}}}\n"))
    }

    #[allow(clippy::disallowed_methods, reason = "a test waits for another process")]
    fn start_with(folder: &Path, more: &str) -> anyhow::Result<Self> {
        let config = folder.join("registry.yml");
        let storage = folder.join("registry");
        let text = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {storage:?}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n{more}"
        );
        std::fs::write(&config, text)?;
        let mut registry = command("docker-registry");
        registry.arg("serve").arg(&config);
        let process = Process::start("docker-registry", registry, folder)?;
        let start = Instant::now();
        loop {
            // It tells in its log which port it got.
            let log = process.log();
            let told = log.split_once("listening on ").and_then(|(_, rest)| rest.split_once(['"', ',', ' ']));
            if let Some((address, _)) = told {
                return Ok(Self { address: address.to_owned(), process });
            }
            if start.elapsed() > TIME_LIMIT {
                bail!("the registry does not listen:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until it has logged `words`: each request that it has answered, among others.
    ///
    /// # Errors
    /// As [`Process::wait_for_log`].
    pub fn wait_for_log(&self, words: &str) -> anyhow::Result<()> {
        self.process.wait_for_log(words)
    }

    /// `IP:port`, the first part of its images' names.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}
