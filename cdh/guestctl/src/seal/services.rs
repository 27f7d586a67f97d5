//! The key management services that a tool may ask: which, and with what credentials.
//!
//! The operator says both; nothing comes from the environment or from a sealed secret.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use cc_kms::{Broker, Directories, KmsConfig, Providers, Surroundings};
use serde::Deserialize;
use trustee_attester::DnsFiles;

use super::read;
use crate::{failure, failure::Failure};

/// Longest configuration file read, in bytes: certificates are part of it.
const MAX_CONFIG_LEN: usize = 1024 * 1024;

/// Configuration and credentials of the services.
#[derive(Debug, clap::Args)]
pub(super) struct Config {
    /// TOML file with the table [kms], as in the confidential data hub's configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder with the service's credential files [default: the confidential data hub's]
    #[arg(long, value_name = "DIR")]
    credentials: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct File {
    #[serde(default)]
    kms: KmsConfig,
}

impl Config {
    /// The services, without a key broker.
    pub(super) fn providers(&self) -> Result<Providers, Failure> {
        let config = self.config.as_deref().map(parse).transpose()?.unwrap_or_default();
        providers(&config, self.credentials.as_deref(), None)
    }
}

/// The services of `config` with credential files in `credentials`, or where the data hub has them.
pub(crate) fn providers(
    config: &KmsConfig,
    credentials: Option<&Path>,
    broker: Option<Arc<dyn Broker>>,
) -> Result<Providers, Failure> {
    let directories = credentials.map_or_else(Directories::default, |folder| {
        let folder = || folder.to_owned();
        Directories { aliyun: folder(), aws: folder(), vault: folder(), pkcs11: folder() }
    });
    // A static program looks names up itself.
    let surroundings = Surroundings { broker, directories, names: Some(Arc::new(DnsFiles::of_system())) };
    Providers::new(config, surroundings).map_err(|e| failure::kms(&e))
}

/// Reads the table [kms] of the file `path`.
pub(crate) fn parse(path: &Path) -> Result<KmsConfig, Failure> {
    let malformed = |why: String| Failure::Malformed { path: path.to_owned(), kind: "configuration", why };
    let text =
        String::from_utf8(read(path, MAX_CONFIG_LEN)?).map_err(|_| malformed("it is no text".into()))?;
    let (file, unknown) = cc_daemon::config::parse::<File>(&text, cc_daemon::config::Format::Toml)
        .map_err(|e| malformed(e.to_string()))?;
    // The data hub's own file may be given: its other tables are none of this tool's business.
    if file.kms.pkcs11.is_some() {
        return Err(Failure::Argument {
            argument: "--config".into(),
            why: "kms.pkcs11 names a module, and this program is static and loads none".into(),
            hint: "leave kms.pkcs11 out; the confidential data hub opens what a token wrapped".into(),
        });
    }
    match unknown.into_iter().find(|key| key.starts_with("kms.")) {
        Some(key) => Err(malformed(format!("the key {key} is unknown"))),
        None => Ok(file.kms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_data_hub_is_read_and_misspelt_keys_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kms.toml");
        let parse_text = |text: &str| {
            std::fs::write(&path, text).unwrap();
            parse(&path)
        };
        let config = parse_text("socket = \"x\"\n[kms.vault]\naddress = \"https://vault:8200\"\n").unwrap();
        assert_eq!(config.vault.unwrap().address, "https://vault:8200");
        assert!(parse_text("").unwrap().vault.is_none());
        let token = "[kms.pkcs11]\nmodule = \"/m.so\"\ntoken_label = \"t\"\n";
        assert_eq!(parse_text(token).unwrap_err().code(), "ARGUMENT_REFUSED");
        for bad in ["[kms.vault]\nadress = \"x\"\n", "[kms.aws]\nregion = \"x\"\n", "[kms", "kms = 1"] {
            assert_eq!(parse_text(bad).unwrap_err().code(), "INPUT_MALFORMED", "{bad}");
        }
    }
}
