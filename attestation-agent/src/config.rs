//! Command line, configuration file, environment and kernel command line, parsed into one typed value.
//!
//! The only module of this crate that reads the environment. The file format is the one of the existing
//! stack's agent; keys of this project are optional and default to its behaviour. Not here: acting on any of it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use cc_crypto::KeyAlgorithm;
use cc_daemon::address::Address;
use cc_daemon::config::{LogSection, SocketSection, Source, UnmeasuredConfig};
use cc_daemon::listen::SocketOptions;
use cc_daemon::sandbox::{Needs, Seccomp};
use cc_daemon::start::{self, Settings, StartFault};
use cc_kbs::params::{CC_KBC, KbcParams};
use cc_kbs::{CertificateMode, KbsConfig};
use cc_platform::SysRoot;
use cc_platform::nvidia::{NvidiaOptions, Require};
use clap::Parser;
use rustix::net::AddressFamily;
use rustix::thread::CapabilitySet;
use serde::Deserialize;

use crate::access::Access;
use crate::measurement;

mod azure;
mod tpm;

pub use tpm::TpmEnvironment;

/// Where kata-agent and the data hub look for the agent.
pub const DEFAULT_SOCKET: &str =
    "unix:///run/confidential-containers/attestation-agent/attestation-agent.sock";

/// Collects evidence of this confidential VM and gets attestation tokens.
#[derive(Debug, Parser)]
#[command(
    name = "attestation-agent",
    version,
    long_version = cc_build::LONG_VERSION,
    after_help = "Example:\n  attestation-agent -c /etc/confidential-containers/attestation-agent.toml\n\n\
                  Exit codes: 0 stopped by a signal, 1 failed while serving, 64 bad or unmeasured configuration, \
                  69 no TEE found, init-data refused, configuration not readable for now, or with --health: \
                  no agent serves there"
)]
pub struct Cli {
    /// Address to serve: unix:///path (gRPC and ttrpc) or a loopback IP:port (gRPC only)
    #[arg(short = 'a', long = "attestation_sock", value_name = "ADDR", default_value = DEFAULT_SOCKET)]
    attestation_sock: Address,
    /// Configuration file (.toml, .json, .yaml)
    #[arg(short = 'c', long = "config-file", value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// Digest of the init-data, standard base64 of the raw bytes
    #[arg(short = 'i', long = "initdata-digest", value_name = "BASE64")]
    initdata_digest: Option<String>,
    /// Init-data document; wins over --initdata-digest
    #[arg(short = 't', long = "initdata-toml", value_name = "FILE")]
    initdata_toml: Option<PathBuf>,
    /// Whether to start with a configuration that neither init-data nor a dm-verity root vouches for: allow or
    /// refuse. Without this option: refuse if access.strict is set, else allow
    #[arg(long, value_name = "WHAT")]
    unmeasured_config: Option<UnmeasuredConfig>,
    /// Parse the configuration, report unknown keys as errors, and exit
    #[arg(long)]
    check_config: bool,
    /// Ask the agent that runs at this address whether it serves, and exit
    #[arg(long, conflicts_with = "check_config")]
    health: bool,
    /// Whether to refuse itself the system calls that it does not need: on or off. Off is for debugging
    #[arg(long, value_name = "WHAT", default_value = "on")]
    seccomp: Seccomp,
}

/// Key brokers, the metadata service of Azure, and over vsock the quoting service of TDX; a TPM that belongs to a user of its own, and a
/// socket that is given to another group.
const NEEDS: Needs = Needs {
    families: &[AddressFamily::UNIX, AddressFamily::INET, AddressFamily::INET6, AddressFamily::VSOCK],
    capabilities: Some(CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::CHOWN)),
    ..Needs::NETWORK
};

/// What the agent has a use for: NVIDIA's driver has an administrator alone set GPUs ready (`RS_PRIV_LEVEL_USER_ROOT` of its open
/// modules, which is `CAP_SYS_ADMIN`).
fn needs(sets_gpus_ready: bool) -> Needs {
    let admin = if sets_gpus_ready { CapabilitySet::SYS_ADMIN } else { CapabilitySet::empty() };
    Needs { capabilities: NEEDS.capabilities.map(|others| others.union(admin)), ..NEEDS }
}

/// What the outside gives: the three sources besides the command line.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// `AA_KBC_PARAMS`.
    pub aa_kbc_params: Option<String>,
    /// `AAEL_PATH`: another place for the event log.
    pub aael_path: Option<String>,
    /// Text of `/proc/cmdline`.
    pub kernel_command_line: String,
    /// `AA_TPM_DEVICE` and `AA_TPM_AK_HANDLE`.
    pub tpm: TpmEnvironment,
}

impl Surroundings {
    /// Reads them from this process.
    ///
    /// # Errors
    /// A variable that is not UTF-8.
    pub fn of_process() -> Result<Self, StartFault> {
        Ok(Self {
            aa_kbc_params: start::environment("AA_KBC_PARAMS")?,
            aael_path: start::environment("AAEL_PATH")?,
            kernel_command_line: start::kernel_command_line(),
            tpm: TpmEnvironment::of_process()?,
        })
    }
}

/// Where init-data comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitDataSource {
    /// None was named: what the image of a peer pod left in its folder is taken if the hardware holds it.
    PeerPod,
    /// A document, by path.
    Document(PathBuf),
    /// Only a digest, standard base64.
    Digest(String),
}

/// The parsed configuration.
#[derive(Debug)]
pub struct Config {
    /// Where to serve.
    pub address: Address,
    /// Mode and owner of a Unix socket.
    pub socket: SocketOptions,
    /// Key broker for `GetToken("kbs")`.
    pub kbs: Option<KbsConfig>,
    /// Attestation service for `GetToken("coco_as")`.
    pub coco_as: Option<KbsConfig>,
    /// Runtime measurement.
    pub event_log: measurement::Settings,
    /// Init-data given at start.
    pub init_data: InitDataSource,
    /// What is done with a configuration that is unmeasured.
    pub unmeasured: UnmeasuredConfig,
    /// Who may have evidence and tokens.
    pub access: Access,
    /// Whether the sample platform was named.
    pub sample: bool,
    /// Root of the system tree that TEE interfaces are looked up in; `/` on a real machine.
    pub sys_root: PathBuf,
    /// How long one quote may take.
    pub quote_time_limit: Duration,
    /// How NVIDIA GPUs are treated.
    pub nvidia: NvidiaOptions,
    /// Which TPM to use where there is no TEE.
    pub tpm: cc_platform::tpm::TpmOptions,
    /// Surroundings of an Azure machine.
    pub azure: cc_platform::azure::AzureOptions,
    /// Log, threads, and where all this came from.
    pub settings: Settings,
    /// Only check the configuration.
    pub check_only: bool,
    /// Only ask the running agent whether it serves.
    pub health_only: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FileConfig {
    token_configs: TokenConfigs,
    eventlog_config: EventlogConfig,
    log: LogSection,
    access: AccessConfig,
    platform: PlatformConfig,
    tpm: tpm::TpmConfig,
    azure: azure::AzureConfig,
    nvidia: NvidiaConfig,
    socket: SocketSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TokenConfigs {
    kbs: Option<KbsTokenConfig>,
    coco_as: Option<CocoAsConfig>,
}

#[derive(Debug, Deserialize)]
struct KbsTokenConfig {
    url: String,
    cert: Option<String>,
    #[serde(default)]
    tee_key_algorithm: KeyAlgorithm,
    #[serde(default)]
    cert_mode: CertificateMode,
    #[serde(default)]
    allow_plain_http: bool,
}

#[derive(Debug, Deserialize)]
struct CocoAsConfig {
    url: Option<String>,
    cert: Option<String>,
    #[serde(default)]
    cert_mode: CertificateMode,
    /// On by default, as existing files expect: no secret is released for this kind of token.
    #[serde(default = "yes")]
    allow_plain_http: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EventlogConfig {
    init_pcr: Option<u32>,
    enable_eventlog: bool,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct AccessConfig {
    strict: bool,
    evidence_uids: BTreeSet<u32>,
    token_key_over_http: bool,
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self { strict: false, evidence_uids: BTreeSet::from([0]), token_key_over_http: false }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct PlatformConfig {
    sample: bool,
    sys_root: PathBuf,
    quote_time_limit_seconds: u64,
}

impl Default for PlatformConfig {
    fn default() -> Self {
        Self { sample: false, sys_root: PathBuf::from("/"), quote_time_limit_seconds: 30 }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NvidiaConfig {
    require: Option<RequireGpus>,
    set_ready: bool,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RequireGpus {
    All,
    Attestable,
    None,
}

impl NvidiaConfig {
    fn options(&self) -> Result<NvidiaOptions, StartFault> {
        let require = self.require.map(|require| match require {
            RequireGpus::All => Require::All,
            RequireGpus::Attestable => Require::Attestable,
            RequireGpus::None => Require::None,
        });
        if self.set_ready && matches!(require, Some(Require::Attestable | Require::None)) {
            let message = "nvidia.set_ready is on, and nvidia.require does not ask for all GPUs";
            let hint = "GPUs are set ready all together: set nvidia.require to \"all\", or nvidia.set_ready to false";
            return Err(StartFault::config(message, hint));
        }
        Ok(NvidiaOptions { require, set_ready: self.set_ready })
    }
}

impl Config {
    /// What looking for the platform needs to know.
    #[must_use]
    pub fn platform(&self) -> cc_platform::Options {
        cc_platform::Options {
            sys_root: SysRoot::new(self.sys_root.clone()),
            sample: self.sample,
            quote_time_limit: self.quote_time_limit,
            event_log: Some(self.event_log.log.clone()),
            tpm: self.tpm.clone(),
            azure: self.azure.clone(),
            nvidia: self.nvidia,
        }
    }

    /// Puts command line, file and surroundings together.
    ///
    /// # Errors
    /// A named file that is missing or malformed, a malformed value, and with `--check-config` unknown keys.
    pub fn build(cli: Cli, surroundings: &Surroundings) -> Result<Self, StartFault> {
        let (file, source) = match &cli.config_file {
            Some(path) => {
                let loaded = cc_daemon::config::load::<FileConfig>(path)?;
                let source = Source::file(&loaded);
                (loaded.value, source)
            }
            None => from_surroundings(surroundings)?,
        };
        let source = source.deciding(&file.deciding());
        if cli.check_config && !source.unknown_keys.is_empty() {
            let keys = source.unknown_keys.join(", ");
            return Err(StartFault::config(
                format!("{} has unknown keys: {keys}", source.path),
                "correct or remove them; without --check-config they are ignored",
            ));
        }
        let limit = file.platform.quote_time_limit_seconds;
        if !(1..=600).contains(&limit) {
            let message = format!("platform.quote_time_limit_seconds is {limit}");
            return Err(StartFault::config(message, "give 1 to 600 seconds"));
        }
        let socket = file.socket.options().map_err(|mode| {
            StartFault::config(format!("socket.mode is {mode:?}"), "give an octal text such as \"0600\"")
        })?;
        let init_data = match (cli.initdata_toml, cli.initdata_digest) {
            (Some(path), _) => InitDataSource::Document(path),
            (None, Some(digest)) => InitDataSource::Digest(digest),
            (None, None) => InitDataSource::PeerPod,
        };
        Ok(Self {
            address: cli.attestation_sock,
            socket,
            kbs: file.token_configs.kbs.map(kbs_config),
            coco_as: file.token_configs.coco_as.and_then(attestation_service),
            event_log: measurement::Settings {
                enabled: file.eventlog_config.enable_eventlog,
                pcr: file.eventlog_config.init_pcr,
                log: match &surroundings.aael_path {
                    Some(path) => path.into(),
                    None => SysRoot::new(file.platform.sys_root.clone()).path(cc_platform::AGENT_EVENT_LOG),
                },
            },
            init_data,
            unmeasured: cli.unmeasured_config.unwrap_or(match file.access.strict {
                true => UnmeasuredConfig::Refuse,
                false => UnmeasuredConfig::Allow,
            }),
            access: Access {
                strict: file.access.strict,
                evidence_uids: file.access.evidence_uids,
                token_key_over_http: file.access.token_key_over_http,
            },
            sample: file.platform.sample,
            sys_root: file.platform.sys_root,
            quote_time_limit: Duration::from_secs(limit),
            nvidia: file.nvidia.options()?,
            tpm: file.tpm.options(&surroundings.tpm)?,
            azure: file.azure.options()?,
            settings: Settings {
                log_level: file.log.level,
                source,
                unused: Vec::new(),
                threads: 1,
                seccomp: cli.seccomp,
                needs: needs(file.nvidia.set_ready),
            },
            check_only: cli.check_config,
            health_only: cli.health,
        })
    }
}

impl FileConfig {
    /// The settings that decide whom the machine trusts, and whether they are there.
    fn deciding(&self) -> [(&'static str, bool); 6] {
        let kbs = self.token_configs.kbs.as_ref();
        [
            ("token_configs.kbs.url", kbs.is_some()),
            ("token_configs.kbs.cert", kbs.is_some_and(|kbs| kbs.cert.is_some())),
            (
                "token_configs.coco_as.url",
                self.token_configs.coco_as.as_ref().is_some_and(|a| a.url.is_some()),
            ),
            ("access.token_key_over_http", self.access.token_key_over_http),
            ("platform.sample", self.platform.sample),
            ("platform.sys_root", self.platform.sys_root != *"/"),
        ]
    }
}

/// Without a file the key broker comes from `aa_kbc_params`, and everything else is a default.
fn from_surroundings(surroundings: &Surroundings) -> Result<(FileConfig, Source), StartFault> {
    let params = KbcParams::find(surroundings.aa_kbc_params.as_deref(), &surroundings.kernel_command_line)
        .map_err(|e| {
            StartFault::config(format!("reading aa_kbc_params: {e}"), "write cc_kbc::https://host:port")
        })?;
    let mut file = FileConfig::default();
    if params.name == CC_KBC {
        file.token_configs.kbs = Some(KbsTokenConfig {
            url: params.uri,
            cert: None,
            tee_key_algorithm: KeyAlgorithm::default(),
            cert_mode: CertificateMode::default(),
            allow_plain_http: false,
        });
    }
    let from_host = surroundings.aa_kbc_params.is_none() && file.token_configs.kbs.is_some();
    Ok((file, if from_host { Source::kernel_command_line() } else { Source::defaults() }))
}

fn kbs_config(c: KbsTokenConfig) -> KbsConfig {
    KbsConfig {
        root_certificate: c.cert,
        certificate_mode: c.cert_mode,
        allow_plain_http: c.allow_plain_http,
        key_algorithm: c.tee_key_algorithm,
        ..KbsConfig::new(c.url)
    }
}

fn attestation_service(c: CocoAsConfig) -> Option<KbsConfig> {
    Some(KbsConfig {
        root_certificate: c.cert,
        certificate_mode: c.cert_mode,
        allow_plain_http: c.allow_plain_http,
        ..KbsConfig::new(c.url?)
    })
}

#[cfg(test)]
mod tests {
    use cc_daemon::config::Provenance;

    use super::*;

    fn build(args: &[&str], surroundings: &Surroundings) -> Result<Config, StartFault> {
        let args = std::iter::once("attestation-agent").chain(args.iter().copied());
        Config::build(Cli::try_parse_from(args).unwrap(), surroundings)
    }

    fn with_file(name: &str, text: &str, more: &[&str]) -> Result<Config, StartFault> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let mut args = vec!["-c", path.to_str().unwrap()];
        args.extend(more);
        build(&args, &Surroundings::default())
    }

    #[test]
    fn defaults_name_no_key_broker_and_no_sample() {
        let c = build(&[], &Surroundings::default()).unwrap();
        assert!(c.kbs.is_none() && c.coco_as.is_none() && !c.sample && !c.access.strict);
        assert_eq!(c.address.to_string(), DEFAULT_SOCKET);
        assert_eq!(c.socket.mode, 0o600);
    }

    #[test]
    fn kernel_command_line_names_the_key_broker_only_without_a_file() {
        let surroundings = Surroundings {
            kernel_command_line: "quiet agent.aa_kbc_params=cc_kbc::https://kbs:8080".to_owned(),
            ..Surroundings::default()
        };
        assert_eq!(build(&[], &surroundings).unwrap().kbs.unwrap().url, "https://kbs:8080");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aa.toml");
        std::fs::write(&path, "").unwrap();
        let c = build(&["-c", path.to_str().unwrap()], &surroundings).unwrap();
        assert!(c.kbs.is_none(), "an empty file is valid and means no token configuration");
    }

    #[test]
    fn strict_mode_and_the_option_refuse_what_is_unmeasured() {
        let strict = "[access]\nstrict = true\n";
        for (text, more, expected) in [
            ("", &[][..], UnmeasuredConfig::Allow),
            ("", &["--unmeasured-config", "refuse"], UnmeasuredConfig::Refuse),
            (strict, &[], UnmeasuredConfig::Refuse),
            (strict, &["--unmeasured-config", "allow"], UnmeasuredConfig::Allow),
        ] {
            assert_eq!(with_file("a.toml", text, more).unwrap().unmeasured, expected, "{text} {more:?}");
        }
        let arguments = ["attestation-agent", "--unmeasured-config", "maybe"];
        assert!(Cli::try_parse_from(arguments).is_err());
    }

    #[test]
    fn a_key_broker_from_the_kernel_command_line_is_unmeasured() {
        let kernel_command_line = "agent.aa_kbc_params=cc_kbc::https://kbs:8080".to_owned();
        let mut surroundings = Surroundings { kernel_command_line, ..Surroundings::default() };
        let source = build(&[], &surroundings).unwrap().settings.source;
        assert_eq!(source.provenance(None), Provenance::Unmeasured);
        surroundings.aa_kbc_params = Some("cc_kbc::https://other:8080".to_owned());
        let source = build(&[], &surroundings).unwrap().settings.source;
        assert_eq!(source.provenance(None), Provenance::Default, "the environment is the unit's");
    }

    #[test]
    fn upstream_file_loads_unchanged_in_three_formats() {
        let toml = "[token_configs.kbs]\nurl = \"https://k\"\ntee_key_algorithm = \"RSA-OAEP-256\"\n\
                    [token_configs.coco_as]\nurl = \"http://as\"\n[eventlog_config]\ninit_pcr = 17\n\
                    enable_eventlog = true\n[log]\nlevel = \"debug\"\n";
        let json = r#"{"token_configs":{"kbs":{"url":"https://k","tee_key_algorithm":"RSA-OAEP-256"},
                    "coco_as":{"url":"http://as"}},"eventlog_config":{"enable_eventlog":true},"log":{"level":"debug"}}"#;
        let yaml = "token_configs:\n  kbs:\n    url: https://k\n    tee_key_algorithm: RSA-OAEP-256\n  \
                    coco_as:\n    url: http://as\neventlog_config:\n  enable_eventlog: true\nlog:\n  level: debug\n";
        for (name, text) in [("a.toml", toml), ("a.json", json), ("a.yaml", yaml)] {
            let c = with_file(name, text, &[]).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(c.kbs.as_ref().unwrap().url, "https://k", "{name}");
            assert_eq!(c.kbs.unwrap().key_algorithm, KeyAlgorithm::RsaOaep256);
            assert!(c.event_log.enabled && c.settings.log_level == "debug");
            assert!(c.settings.source.unknown_keys.is_empty(), "{:?}", c.settings.source.unknown_keys);
        }
    }

    #[test]
    fn unknown_keys_are_named_and_are_errors_when_checking() {
        let text = "[token_configs.kbs]\nurl = \"https://k\"\ncrt = \"x\"\n";
        assert_eq!(
            with_file("a.toml", text, &[]).unwrap().settings.source.unknown_keys,
            ["token_configs.kbs.crt"]
        );
        let e = with_file("a.toml", text, &["--check-config"]).unwrap_err();
        assert!(e.to_string().contains("token_configs.kbs.crt"), "{e}");
    }

    #[test]
    fn bad_values_are_refused() {
        for text in [
            "token_configs = 3",
            "[token_configs.kbs]\nurl = 3",
            "[token_configs.kbs]\nurl = \"x\"\ntee_key_algorithm = \"ROT13\"",
            "[socket]\nmode = \"rw\"",
            "[socket]\nmode = \"7777\"",
            "[platform]\nquote_time_limit_seconds = 0",
            "[nvidia]\nrequire = \"some\"",
            "[nvidia]\nrequire = \"attestable\"\nset_ready = true",
        ] {
            assert!(with_file("a.toml", text, &[]).is_err(), "{text}");
        }
        assert!(build(&["-c", "/nonexistent/aa.toml"], &Surroundings::default()).is_err());
    }

    #[test]
    fn gpus_are_required_as_the_file_says() {
        let nvidia = |text: &str| with_file("a.toml", text, &[]).unwrap().nvidia;
        assert_eq!(nvidia(""), NvidiaOptions { require: None, set_ready: false });
        for (name, require) in
            [("all", Require::All), ("attestable", Require::Attestable), ("none", Require::None)]
        {
            assert_eq!(nvidia(&format!("[nvidia]\nrequire = {name:?}")).require, Some(require));
        }
        assert!(nvidia("[nvidia]\nset_ready = true").set_ready);
        let is_admin = |ready| needs(ready).capabilities.unwrap().contains(CapabilitySet::SYS_ADMIN);
        assert!(is_admin(true) && !is_admin(false));
    }

    #[test]
    fn document_wins_over_digest() {
        let c = build(&["-i", "AAAA", "-t", "/x.toml"], &Surroundings::default()).unwrap();
        assert_eq!(c.init_data, InitDataSource::Document("/x.toml".into()));
    }
}
