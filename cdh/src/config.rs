//! Command line, configuration file, environment and kernel command line, parsed into one typed value.
//!
//! The only module of this crate that reads the environment. The file format is the one of the existing
//! stack's data hub; keys of this project are optional and default to its behaviour, but for the trust in TLS
//! roots: a configured certificate is the only root unless `kbs_cert_mode = "add"`. Not here: acting on any of it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use cc_crypto::KeyAlgorithm;
use cc_daemon::address::Address;
use cc_daemon::config::Provenance;
use cc_daemon::listen::SocketOptions;
use cc_kbs::params::{KbcParams, kernel_parameter};
use cc_kbs::{CertificateMode, KbsConfig};
use clap::Parser;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::credential::Entry;

/// Where kata-agent and the REST server look for the hub.
pub const DEFAULT_SOCKET: &str = "unix:///run/confidential-containers/cdh.sock";
/// Where the hub looks for the agent.
pub const DEFAULT_AA_SOCKET: &str =
    "unix:///run/confidential-containers/attestation-agent/attestation-agent.sock";

/// Fetches secrets for this confidential VM from a key broker.
#[derive(Debug, Parser)]
#[command(
    name = "confidential-data-hub",
    version,
    after_help = "Example:\n  confidential-data-hub -c /etc/confidential-data-hub.toml\n\n\
                  Exit codes: 0 stopped by a signal, 1 failed while serving, 64 bad configuration"
)]
pub struct Cli {
    /// Configuration file (.toml, .json, .yaml)
    #[arg(short = 'c', value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// Parse the configuration, report unknown keys as errors, and exit
    #[arg(long)]
    check_config: bool,
}

/// What the outside gives besides the command line.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// `AA_KBC_PARAMS`: beats `kbc.name` and `kbc.url`.
    pub aa_kbc_params: Option<String>,
    /// `AA_SOCKET`: beats `aa.aa_socket`.
    pub aa_socket: Option<String>,
    /// `KBS_CERT`: PEM root for the key broker where the file names none.
    pub kbs_cert: Option<String>,
    /// `OFFLINE_FS_KBC_EXTRA_FILE_PATH`: comma-separated.
    pub offline_files: Option<String>,
    /// Text of `/proc/cmdline`.
    pub kernel_command_line: String,
}

impl Surroundings {
    /// Reads them from this process.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn of_process() -> Self {
        Self {
            aa_kbc_params: std::env::var("AA_KBC_PARAMS").ok(),
            aa_socket: std::env::var("AA_SOCKET").ok(),
            kbs_cert: std::env::var("KBS_CERT").ok(),
            offline_files: std::env::var("OFFLINE_FS_KBC_EXTRA_FILE_PATH").ok(),
            kernel_command_line: std::fs::read_to_string("/proc/cmdline").unwrap_or_default(),
        }
    }
}

/// The parsed configuration.
#[derive(Debug)]
pub struct Config {
    /// Where to serve.
    pub address: Address,
    /// Mode and owner of a Unix socket.
    pub socket: SocketOptions,
    /// Which client: a key broker or the offline store.
    pub kbc_name: String,
    /// The key broker, if that is the client.
    pub kbs: KbsConfig,
    /// The attestation agent.
    pub aa_address: Address,
    /// Files to fill from the key broker.
    pub credentials: Vec<Entry>,
    /// Files of the offline store, in the order in which a later one wins.
    pub offline_files: Vec<PathBuf>,
    /// Log filter.
    pub log_level: String,
    /// Settings that were given and that this version does not act on.
    pub unused: Vec<&'static str>,
    /// The file this came from, with keys that are not known.
    pub source: Source,
    /// Only check the configuration.
    pub check_only: bool,
}

/// Where the configuration came from.
#[derive(Debug, Clone)]
pub struct Source {
    /// Path of the file, empty for the defaults.
    pub path: String,
    /// How far its bytes can be trusted.
    pub provenance: Provenance,
    /// Keys in it that mean nothing.
    pub unknown_keys: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct FileConfig {
    socket: Option<String>,
    kbc: KbcConfig,
    #[serde(default)]
    aa: AaConfig,
    #[serde(default)]
    credentials: Vec<Entry>,
    /// Acted on by the image and sealed-secret functions; accepted so that an existing file loads unchanged.
    image: Option<IgnoredAny>,
    skip_sealed_secret_verification: Option<bool>,
    #[serde(default)]
    log: LogConfig,
    #[serde(default)]
    socket_options: SocketConfig,
}

#[derive(Debug, Deserialize)]
struct KbcConfig {
    name: String,
    #[serde(default)]
    url: String,
    kbs_cert: Option<String>,
    #[serde(default)]
    kbs_cert_mode: CertificateMode,
    #[serde(default)]
    allow_plain_http: bool,
    #[serde(default)]
    tee_key_algorithm: KeyAlgorithm,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AaConfig {
    aa_socket: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct LogConfig {
    level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned() }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SocketConfig {
    mode: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Config {
    /// Puts command line, file and surroundings together, each in its place of the order.
    ///
    /// # Errors
    /// A named file that is missing or malformed, a malformed value, and with `--check-config` unknown keys.
    pub fn build(cli: Cli, surroundings: &Surroundings) -> anyhow::Result<Self> {
        let (mut file, source) = match &cli.config_file {
            Some(path) => load(path)?,
            None => (defaults(&surroundings.kernel_command_line)?, default_source()),
        };
        if cli.check_config && !source.unknown_keys.is_empty() {
            anyhow::bail!("{} has unknown keys: {}", source.path, source.unknown_keys.join(", "));
        }
        if let Some(text) = &surroundings.aa_kbc_params {
            let params = KbcParams::parse(text).context("reading AA_KBC_PARAMS")?;
            file.kbc.name = params.name;
            file.kbc.url = params.uri;
        }
        if let Some(list) = kernel_parameter(&surroundings.kernel_command_line, "cdh.kbs_resources") {
            file.credentials.extend(kernel_credentials(list)?);
        }
        let aa_socket =
            surroundings.aa_socket.as_deref().or(file.aa.aa_socket.as_deref()).unwrap_or(DEFAULT_AA_SOCKET);
        let mut unused = Vec::new();
        if file.image.is_some() {
            unused.push("image");
        }
        if file.skip_sealed_secret_verification == Some(true) {
            unused.push("skip_sealed_secret_verification");
        }
        Ok(Self {
            address: address(file.socket.as_deref().unwrap_or(DEFAULT_SOCKET), "socket")?,
            socket: socket_options(&file.socket_options)?,
            aa_address: address(aa_socket, "aa.aa_socket")?,
            kbs: KbsConfig {
                url: file.kbc.url,
                root_certificate: file.kbc.kbs_cert.or_else(|| surroundings.kbs_cert.clone()),
                certificate_mode: file.kbc.kbs_cert_mode,
                allow_plain_http: file.kbc.allow_plain_http,
                key_algorithm: file.kbc.tee_key_algorithm,
            },
            kbc_name: file.kbc.name,
            credentials: file.credentials,
            offline_files: cc_kbs::offline::files(surroundings.offline_files.as_deref()),
            log_level: file.log.level,
            unused,
            source,
            check_only: cli.check_config,
        })
    }
}

fn load(path: &Path) -> anyhow::Result<(FileConfig, Source)> {
    let loaded = cc_daemon::config::load::<FileConfig>(path)?;
    let source = Source {
        path: path.display().to_string(),
        provenance: Provenance::Unmeasured,
        unknown_keys: loaded.unknown_keys,
    };
    Ok((loaded.value, source))
}

fn default_source() -> Source {
    Source { path: String::new(), provenance: Provenance::Default, unknown_keys: Vec::new() }
}

/// Without a file the client comes from the kernel command line, and everything else is a default.
fn defaults(kernel_command_line: &str) -> anyhow::Result<FileConfig> {
    let params = KbcParams::find(None, kernel_command_line).context("reading agent.aa_kbc_params")?;
    Ok(FileConfig {
        socket: None,
        kbc: KbcConfig {
            name: params.name,
            url: params.uri,
            kbs_cert: None,
            kbs_cert_mode: CertificateMode::default(),
            allow_plain_http: false,
            tee_key_algorithm: KeyAlgorithm::default(),
        },
        aa: AaConfig::default(),
        credentials: Vec::new(),
        image: None,
        skip_sealed_secret_verification: None,
        log: LogConfig::default(),
        socket_options: SocketConfig::default(),
    })
}

/// Parses `<uri>::<path>,<uri>::<path>…`.
fn kernel_credentials(list: &str) -> anyhow::Result<Vec<Entry>> {
    let entry = |item: &str| {
        let (uri, path) = item
            .split_once("::")
            .with_context(|| format!("cdh.kbs_resources on the kernel command line: {item:?} has no '::'"))?;
        Ok(Entry { path: path.to_owned(), resource_uri: uri.to_owned() })
    };
    list.split(',').filter(|item| !item.is_empty()).map(entry).collect()
}

fn address(text: &str, key: &str) -> anyhow::Result<Address> {
    text.parse().with_context(|| format!("{key} is {text:?}"))
}

fn socket_options(c: &SocketConfig) -> anyhow::Result<SocketOptions> {
    let mode = match &c.mode {
        Some(text) => u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777).with_context(|| {
            format!("socket_options.mode is {text:?}, an octal text such as \"0600\" is expected")
        })?,
        None => 0o600,
    };
    Ok(SocketOptions { mode, uid: c.uid, gid: c.gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(args: &[&str], surroundings: &Surroundings) -> anyhow::Result<Config> {
        let args = std::iter::once("confidential-data-hub").chain(args.iter().copied());
        Config::build(Cli::try_parse_from(args)?, surroundings)
    }

    fn with_file(text: &str, surroundings: &Surroundings, more: &[&str]) -> anyhow::Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cdh.toml");
        std::fs::write(&path, text).unwrap();
        let mut args = vec!["-c", path.to_str().unwrap()];
        args.extend(more);
        build(&args, surroundings)
    }

    const UPSTREAM: &str = r#"
        socket = "unix:///run/confidential-containers/cdh.sock"
        skip_sealed_secret_verification = false
        [kbc]
        name = "cc_kbc"
        url = "https://kbs.example:8080"
        kbs_cert = "PEM"
        [aa]
        aa_socket = "unix:///run/aa.sock"
        [[credentials]]
        path = "/run/confidential-containers/cdh/kbs/a.json"
        resource_uri = "kbs:///default/a/b"
        [image]
        max_concurrent_layer_downloads_per_image = 3
        [log]
        level = "warn"
    "#;

    #[test]
    fn upstream_file_loads_unchanged() {
        let c = with_file(UPSTREAM, &Surroundings::default(), &["--check-config"]).unwrap();
        assert_eq!((c.kbc_name.as_str(), c.kbs.url.as_str()), ("cc_kbc", "https://kbs.example:8080"));
        assert_eq!(c.kbs.root_certificate.as_deref(), Some("PEM"));
        assert_eq!(c.aa_address.to_string(), "unix:///run/aa.sock");
        assert_eq!(c.credentials.len(), 1);
        assert_eq!(c.log_level, "warn");
        assert_eq!(c.unused, ["image"]);
    }

    #[test]
    fn environment_beats_the_file_in_its_places() {
        let surroundings = Surroundings {
            aa_kbc_params: Some("offline_fs_kbc::null".to_owned()),
            aa_socket: Some("unix:///run/other.sock".to_owned()),
            kbs_cert: Some("OTHER".to_owned()),
            ..Surroundings::default()
        };
        let c = with_file(UPSTREAM, &surroundings, &[]).unwrap();
        assert_eq!((c.kbc_name.as_str(), c.kbs.url.as_str()), ("offline_fs_kbc", "null"));
        assert_eq!(c.aa_address.to_string(), "unix:///run/other.sock");
        assert_eq!(c.kbs.root_certificate.as_deref(), Some("PEM"), "the file's certificate stays");
    }

    #[test]
    fn kernel_command_line_is_read_in_its_places() {
        let surroundings = Surroundings {
            kernel_command_line: "agent.aa_kbc_params=cc_kbc::https://k \
                cdh.kbs_resources=kbs:///a/b/c::/run/confidential-containers/cdh/kbs/x,kbs:///d/e/f::/y"
                .to_owned(),
            ..Surroundings::default()
        };
        let c = build(&[], &surroundings).unwrap();
        assert_eq!(c.kbs.url, "https://k");
        assert_eq!(c.credentials.len(), 2);
        let c = with_file(UPSTREAM, &surroundings, &[]).unwrap();
        assert_eq!(c.kbs.url, "https://kbs.example:8080", "a file beats the kernel command line");
        assert_eq!(c.credentials.len(), 3, "resources of the kernel command line are appended always");
    }

    #[test]
    fn no_source_means_the_offline_store() {
        let c = build(&[], &Surroundings::default()).unwrap();
        assert_eq!(c.kbc_name, "offline_fs_kbc");
        assert_eq!(c.offline_files.len(), 2);
    }

    #[test]
    fn bad_files_are_refused_and_unknown_keys_named() {
        for text in ["", "[kbc]\nurl = \"x\"", "socket = 1\n[kbc]\nname = \"cc_kbc\"", "[kbc"] {
            assert!(with_file(text, &Surroundings::default(), &[]).is_err(), "{text}");
        }
        let text = "sokcet = \"x\"\n[kbc]\nname = \"cc_kbc\"\n";
        assert_eq!(with_file(text, &Surroundings::default(), &[]).unwrap().source.unknown_keys, ["sokcet"]);
        assert!(with_file(text, &Surroundings::default(), &["--check-config"]).is_err());
        assert!(build(&["-c", "/nonexistent/cdh.toml"], &Surroundings::default()).is_err());
    }
}
