//! A real registry on loopback: Debian's `docker-registry`, over plain http, without users.

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
    _process: Process,
}

impl Registry {
    /// Starts one whose blobs and log lie in `folder`.
    ///
    /// # Errors
    /// It is not installed, or does not listen.
    #[allow(clippy::disallowed_methods, reason = "a test waits for another process")]
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let config = folder.join("registry.yml");
        let storage = folder.join("registry");
        let text = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {storage:?}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n"
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
                return Ok(Self { address: address.to_owned(), _process: process });
            }
            if start.elapsed() > TIME_LIMIT {
                bail!("the registry does not listen:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `IP:port`, the first part of its images' names.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}
