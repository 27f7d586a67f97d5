//! Where a daemon's configuration came from, how far it can be trusted, and what is refused.
//!
//! A confidential machine's disk and kernel command line are the host's to write. A configuration counts as measured if
//! its bytes are those of the entry of its name in an init-data document whose digest the hardware vouches for, and as
//! part of the image if it lies on the root file system and that is an active dm-verity device. Everything else is
//! unmeasured. Not here: who asks the hardware (the agent), and the reading of the file ([`crate::config`]).

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;

use cc_evidence::HashAlgorithm;
use cc_evidence::initdata::InitData;

use crate::config::Loaded;
use crate::start::{EXIT_CONFIG, StartFault};
use crate::verity;

/// How far a configuration can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// Its bytes equal the entry in an init-data document that the hardware vouches for.
    Measured,
    /// It lies in a file system whose integrity is enforced by the kernel under a root hash.
    Image,
    /// Anybody who can write the disk may have written it.
    Unmeasured,
    /// There is no file: the built-in defaults.
    Default,
}

impl Provenance {
    /// The word for status messages: `measured`, `image`, `unmeasured`, `default`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Image => "image",
            Self::Unmeasured => "unmeasured",
            Self::Default => "default",
        }
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is done with a configuration that is unmeasured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnmeasuredConfig {
    /// It is used; the status says so.
    Allow,
    /// The daemon does not start.
    Refuse,
}

impl FromStr for UnmeasuredConfig {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "allow" => Ok(Self::Allow),
            "refuse" => Ok(Self::Refuse),
            _ => Err("give allow or refuse"),
        }
    }
}

/// Where a daemon's configuration came from, for its status and its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Path of the file, empty for the defaults.
    pub path: String,
    /// Keys in it that mean nothing.
    pub unknown_keys: Vec<String>,
    /// Settings in it that decide whom the machine trusts, by name.
    pub deciding: Vec<&'static str>,
    /// What is known without the init-data.
    known: Provenance,
    /// SHA-256 of the bytes that were parsed; none without a file.
    content: Option<Vec<u8>>,
}

impl Source {
    /// There is no file.
    #[must_use]
    pub fn defaults() -> Self {
        Self {
            path: String::new(),
            unknown_keys: Vec::new(),
            deciding: Vec::new(),
            known: Provenance::Default,
            content: None,
        }
    }

    /// There is no file, and the kernel command line, which the host writes, says what a file would.
    #[must_use]
    pub fn kernel_command_line() -> Self {
        Self { path: "/proc/cmdline".to_owned(), known: Provenance::Unmeasured, ..Self::defaults() }
    }

    /// A file. Whether it is part of the image is found out here.
    #[must_use]
    pub fn file<T>(loaded: &Loaded<T>) -> Self {
        let root = std::fs::metadata("/").is_ok_and(|root| root.dev() == loaded.device);
        let image = root && verity::protects(loaded.device, Path::new("/sys"));
        Self {
            path: loaded.path.display().to_string(),
            unknown_keys: loaded.unknown_keys.clone(),
            deciding: Vec::new(),
            known: if image { Provenance::Image } else { Provenance::Unmeasured },
            content: Some(loaded.sha256.clone()),
        }
    }

    /// The same with the names of those settings of `all` that are there.
    #[must_use]
    pub fn deciding(mut self, all: &[(&'static str, bool)]) -> Self {
        self.deciding = all.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| *name).collect();
        self
    }

    /// Warns in the log if the configuration is unmeasured and decides whom the machine trusts; its words for the status.
    pub fn tell(&self, vouched: Option<&InitData>) -> String {
        let provenance = self.provenance(vouched);
        if provenance == Provenance::Unmeasured && !self.deciding.is_empty() {
            tracing::warn!(
                file = self.path,
                settings = self.deciding.join(", "),
                code = "CONFIG_UNMEASURED",
                "the configuration is unmeasured: whoever runs the host may have written these settings"
            );
        }
        format!("configuration {provenance}")
    }

    /// How far the configuration can be trusted, given the init-data document that the hardware `vouched` for, if any.
    #[must_use]
    pub fn provenance(&self, vouched: Option<&InitData>) -> Provenance {
        let name = Path::new(&self.path).file_name().and_then(|name| name.to_str());
        let entry = vouched.zip(name).and_then(|(document, name)| document.data().get(name));
        match (entry, &self.content) {
            (Some(entry), Some(content)) if HashAlgorithm::Sha256.digest(entry.as_bytes()) == *content => {
                Provenance::Measured
            }
            _ => self.known,
        }
    }

    /// Whether init-data could change the verdict; if not, there is no need to wait for it.
    #[must_use]
    pub fn depends_on_init_data(&self) -> bool {
        self.known == Provenance::Unmeasured && self.content.is_some()
    }

    /// Refuses a configuration that is unmeasured.
    ///
    /// # Errors
    /// `CONFIG_UNMEASURED`, with the path and the ways out.
    pub fn refuse_unmeasured(&self, vouched: Option<&InitData>) -> Result<(), StartFault> {
        if self.provenance(vouched) != Provenance::Unmeasured {
            return Ok(());
        }
        let name = Path::new(&self.path).file_name().unwrap_or_default().to_string_lossy();
        let (why, way_out) = match (&self.content, vouched) {
            (None, _) => (
                "the kernel command line is used, which is the host's to write".to_owned(),
                "give a configuration file that is measured, with a table [image] if it is the data hub's, instead of agent.aa_kbc_params, cdh.kbs_resources \
                 and parameters for images (agent.image_*, agent.*_proxy)"
                    .to_owned(),
            ),
            (Some(_), Some(document)) if document.data().contains_key(&*name) => (
                format!("{name} in the init-data that this machine was launched with has other bytes"),
                format!("use the file that was made from the init-data, or launch the machine with this {name} in it"),
            ),
            (Some(_), Some(_)) => (
                format!("the init-data that this machine was launched with has no entry {name}"),
                format!("put the file into the init-data document as {name} and launch the machine with its new digest"),
            ),
            (Some(_), None) => (
                "no init-data that the hardware vouches for was given to the attestation agent, and the root file system \
                 is no dm-verity device"
                    .to_owned(),
                format!(
                    "put the file into an init-data document as {name} and launch the machine with its digest, or into an \
                     image with a dm-verity root"
                ),
            ),
        };
        Err(StartFault::new(
            EXIT_CONFIG,
            "CONFIG_UNMEASURED",
            format!("the configuration {} is refused because it is unmeasured: {why}", self.path),
            format!(
                "{way_out}; --unmeasured-config allow uses it all the same, where whoever can write the disk is trusted"
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn document(name: &str, text: &str) -> InitData {
        let entries = BTreeMap::from([(name.to_owned(), text.to_owned())]);
        InitData::compose(HashAlgorithm::Sha256, entries).unwrap()
    }

    fn source(text: &str) -> Source {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("aa.toml");
        std::fs::write(&path, text).unwrap();
        Source::file(&crate::config::load::<serde_json::Value>(&path).unwrap())
    }

    #[test]
    fn measured_means_the_bytes_of_the_entry_of_that_name() {
        let file = source("[log]\n");
        assert!(file.depends_on_init_data());
        for (document, provenance) in [
            (Some(document("aa.toml", "[log]\n")), Provenance::Measured),
            (Some(document("aa.toml", "[log]")), Provenance::Unmeasured),
            (Some(document("aa.toml", "")), Provenance::Unmeasured),
            (Some(document("cdh.toml", "[log]\n")), Provenance::Unmeasured),
            (None, Provenance::Unmeasured),
        ] {
            assert_eq!(file.provenance(document.as_ref()), provenance, "{document:?}");
            let refused = file.refuse_unmeasured(document.as_ref());
            assert_eq!(refused.is_err(), provenance == Provenance::Unmeasured);
        }
        assert_eq!(source("").provenance(Some(&document("aa.toml", ""))), Provenance::Measured);
    }

    #[test]
    fn defaults_are_no_file_and_the_kernel_command_line_is_the_hosts() {
        let any = document("aa.toml", "");
        assert_eq!(Source::defaults().provenance(Some(&any)), Provenance::Default);
        assert!(Source::defaults().refuse_unmeasured(None).is_ok());
        let command_line = Source::kernel_command_line();
        assert_eq!(command_line.provenance(Some(&document("cmdline", ""))), Provenance::Unmeasured);
        assert!(!command_line.depends_on_init_data());
        let refused = command_line.refuse_unmeasured(None).unwrap_err();
        assert!(refused.message.contains("/proc/cmdline"), "{}", refused.message);
    }

    #[test]
    fn a_refusal_names_the_file_and_what_to_do() {
        let file = source("x = 1\n");
        for (vouched, why, next) in [
            (None, "no init-data", "put the file into an init-data document as aa.toml"),
            (Some(document("cdh.toml", "")), "has no entry aa.toml", "as aa.toml"),
            (Some(document("aa.toml", "")), "has other bytes", "made from the init-data"),
        ] {
            let refused = file.refuse_unmeasured(vouched.as_ref()).unwrap_err();
            assert_eq!((refused.code.as_str(), refused.exit), ("CONFIG_UNMEASURED", EXIT_CONFIG));
            assert!(refused.message.contains(&file.path) && refused.message.contains(why), "{refused}");
            assert!(
                refused.hint.contains(next) && refused.hint.contains("--unmeasured-config"),
                "{}",
                refused.hint
            );
        }
    }
}
