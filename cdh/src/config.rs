//! Command line, configuration file, environment and kernel command line, parsed into one typed value.
//!
//! The only module of this crate that reads the environment. The file format is the one of the existing
//! stack's data hub; keys of this project are optional and default to its behaviour, but for the trust in TLS
//! roots: a configured certificate is the only root unless `kbs_cert_mode = "add"`. Not here: acting on any of it.

use std::path::PathBuf;
use std::time::Duration;

use cc_crypto::KeyAlgorithm;
use cc_daemon::address::{Address, AddressError};
use cc_daemon::config::{LogSection, SocketSection, Source, UnmeasuredConfig};
use cc_daemon::listen::SocketOptions;
use cc_daemon::sandbox::Seccomp;
use cc_daemon::start::{self, Settings, StartFault};
use cc_kbs::params::{KbcParams, kernel_parameter};
use cc_kbs::{CertificateMode, KbsConfig};
use cc_kms::{Directories, KmsConfig};
use cc_volume::client_id::{ClientIds, MACHINE_ID, PRODUCT_UUID};
use clap::Parser;
use serde::Deserialize;

use crate::access::AccessTable;
use crate::credential::Entry;
use crate::file;
use crate::image::config::ImageConfig;
use crate::pattern::Pattern;
use crate::secure_mount;
use crate::signing_key::SigningKeys;
use crate::unit_credential;
use crate::volume;

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
    long_version = cc_build::LONG_VERSION,
    after_help = "Example:\n  confidential-data-hub -c /etc/confidential-containers/confidential-data-hub.toml\n\n\
                  Exit codes: 0 stopped by a signal, 1 failed while serving, 64 bad or unmeasured configuration, \
                  69 the attestation agent does not tell whether it is measured, configuration not readable for now, or with --health: no hub serves there"
)]
pub struct Cli {
    /// Configuration file (.toml, .json, .yaml)
    #[arg(short = 'c', value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// Whether to start with a configuration that neither init-data nor a dm-verity root vouches for: allow or refuse
    /// [default: refuse if access.strict, else allow]
    #[arg(long, value_name = "WHAT")]
    unmeasured_config: Option<UnmeasuredConfig>,
    /// Parse the configuration, report unknown keys as errors, and exit
    #[arg(long)]
    check_config: bool,
    /// Ask the hub that runs with this configuration whether it serves, and exit
    #[arg(long, conflicts_with = "check_config")]
    health: bool,
    /// Whether to refuse itself the system calls that it does not need: on or off. Off is for debugging
    #[arg(long, value_name = "WHAT", default_value = "on")]
    seccomp: Seccomp,
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
    /// `SKIP_SEALED_SECRET_VERIFICATION`: `true` switches signatures off.
    pub skip_sealed_secret_verification: Option<String>,
    /// `ALIYUN_IN_GUEST_KEY_PATH`, `AWS_IN_GUEST_KEY_PATH`, `VAULT_IN_GUEST_KEY_PATH`, `PKCS11_IN_GUEST_KEY_PATH`: folders of credential files.
    pub kms_directories: Directories,
    /// `OCICRYPT_KEYPROVIDER_CONFIG`: image tools have a configuration of their own.
    pub ocicrypt_config: Option<String>,
    /// `CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS`: beats `image.authenticated_registry_credentials_uri`.
    pub registry_credentials: Option<String>,
    /// Text of `/proc/cmdline`.
    pub kernel_command_line: String,
    /// What the machine is called in names of keys.
    pub client_ids: ClientIds,
}

impl Surroundings {
    /// Reads them from this process.
    ///
    /// # Errors
    /// A variable that is not UTF-8.
    pub fn of_process() -> Result<Self, StartFault> {
        Ok(Self {
            aa_kbc_params: start::environment("AA_KBC_PARAMS")?,
            aa_socket: start::environment("AA_SOCKET")?,
            kbs_cert: start::environment("KBS_CERT")?,
            offline_files: start::environment("OFFLINE_FS_KBC_EXTRA_FILE_PATH")?,
            skip_sealed_secret_verification: start::environment("SKIP_SEALED_SECRET_VERIFICATION")?,
            kms_directories: kms_directories()?,
            ocicrypt_config: start::environment("OCICRYPT_KEYPROVIDER_CONFIG")?,
            registry_credentials: start::environment("CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS")?,
            kernel_command_line: start::kernel_command_line(),
            client_ids: client_ids(),
        })
    }
}

/// The ids of this machine. That one cannot be read matters where it is named.
fn client_ids() -> ClientIds {
    let [machine_id, product_uuid] =
        [MACHINE_ID, PRODUCT_UUID].map(|path| std::fs::read_to_string(path).map_err(|e| e.to_string()));
    ClientIds::new(machine_id, product_uuid)
}

fn kms_directories() -> Result<Directories, StartFault> {
    let mut directories = Directories::default();
    for (variable, directory) in [
        ("ALIYUN_IN_GUEST_KEY_PATH", &mut directories.aliyun),
        ("AWS_IN_GUEST_KEY_PATH", &mut directories.aws),
        ("VAULT_IN_GUEST_KEY_PATH", &mut directories.vault),
        ("PKCS11_IN_GUEST_KEY_PATH", &mut directories.pkcs11),
    ] {
        if let Some(path) = start::environment(variable)? {
            *directory = path.into();
        }
    }
    Ok(directories)
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
    /// The key brokers, if they are the client: the one to ask first, then those that stand in for it.
    pub kbs: Vec<KbsConfig>,
    /// How long a key broker may owe an answer before the next is asked as well.
    pub head_start: Duration,
    /// The attestation agent.
    pub aa_address: Address,
    /// Files to fill from the key broker.
    pub credentials: Vec<Entry>,
    /// Files to keep up to date.
    pub files: Vec<file::Entry>,
    /// Credentials of systemd units.
    pub unit_credentials: Vec<unit_credential::Entry>,
    /// Where units get them.
    pub credential_address: Address,
    /// Encrypted volumes.
    pub volumes: Vec<volume::Entry>,
    /// Where systemd-cryptsetup gets their keys.
    pub cryptsetup_address: Address,
    /// What the headers of block devices must be like that are to be mounted.
    pub secure_mount: secure_mount::MountConfig,
    /// Who may have which secret.
    pub access: AccessTable,
    /// Who may sign sealed secrets.
    pub signing_keys: SigningKeys,
    /// Key management services.
    pub kms: KmsConfig,
    /// Where their credential files lie.
    pub kms_directories: Directories,
    /// Files of the offline store, in the order in which a later one wins.
    pub offline_files: Vec<PathBuf>,
    /// How images are pulled.
    pub image: ImageConfig,
    /// Whether a configuration for image tools is written that leads to this hub.
    pub offers_ocicrypt_config: bool,
    /// What is done with a configuration that is unmeasured.
    pub unmeasured: UnmeasuredConfig,
    /// Log, threads, and where all this came from.
    pub settings: Settings,
    /// Only check the configuration.
    pub check_only: bool,
    /// Only ask the running hub whether it serves.
    pub health_only: bool,
}

#[derive(Debug, Deserialize)]
struct FileConfig {
    socket: Option<String>,
    kbc: KbcConfig,
    #[serde(default)]
    aa: AaConfig,
    #[serde(default)]
    credentials: Vec<Entry>,
    #[serde(default)]
    files: Vec<file::Entry>,
    #[serde(default)]
    unit_credentials: Vec<unit_credential::Entry>,
    credential_socket: Option<String>,
    #[serde(default)]
    volumes: Vec<volume::EntryConfig>,
    cryptsetup_socket: Option<String>,
    #[serde(default)]
    secure_mount: secure_mount::MountConfig,
    image: Option<ImageConfig>,
    #[serde(default)]
    skip_sealed_secret_verification: bool,
    #[serde(default)]
    access: AccessTable,
    #[serde(default)]
    sealed_secrets: SealedSecretsConfig,
    #[serde(default)]
    kms: KmsConfig,
    #[serde(default)]
    log: LogSection,
    #[serde(default)]
    socket_options: SocketSection,
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
    denial_pause_seconds: Option<u64>,
    #[serde(default)]
    alternates: Vec<BrokerConfig>,
    alternate_after_milliseconds: Option<u64>,
}

/// One key broker: as it stands in a table of those that stand in for the first, whose keys are in `[kbc]` itself.
#[derive(Debug, Deserialize)]
struct BrokerConfig {
    url: String,
    kbs_cert: Option<String>,
    #[serde(default)]
    kbs_cert_mode: CertificateMode,
    #[serde(default)]
    allow_plain_http: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SealedSecretsConfig {
    /// Names of keys that may sign; absent means every key that is found.
    signing_keys: Option<Vec<Pattern>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AaConfig {
    aa_socket: Option<String>,
}

impl Config {
    /// Puts command line, file and surroundings together, each in its place of the order.
    ///
    /// # Errors
    /// A named file that is missing or malformed, a malformed value, and with `--check-config` unknown keys.
    pub fn build(cli: Cli, surroundings: &Surroundings) -> Result<Self, StartFault> {
        let (mut file, source) = match &cli.config_file {
            Some(path) => {
                let loaded = cc_daemon::config::load::<FileConfig>(path)?;
                let source = Source::file(&loaded);
                (loaded.value, source)
            }
            None => {
                let file = defaults(&surroundings.kernel_command_line)?;
                let from_host = surroundings.aa_kbc_params.is_none() && !file.kbc.url.is_empty();
                (file, if from_host { Source::kernel_command_line() } else { Source::defaults() })
            }
        };
        let source = source.deciding(&file.deciding());
        if cli.check_config && !source.unknown_keys.is_empty() {
            let keys = source.unknown_keys.join(", ");
            return Err(StartFault::config(
                format!("{} has unknown keys: {keys}", source.path),
                "correct or remove them; without --check-config they are ignored",
            ));
        }
        let unmeasured = cli.unmeasured_config.unwrap_or(match file.access.strict {
            true => UnmeasuredConfig::Refuse,
            false => UnmeasuredConfig::Allow,
        });
        if let Some(text) = &surroundings.aa_kbc_params {
            let params = KbcParams::parse(text).map_err(|e| bad_params("AA_KBC_PARAMS", &e))?;
            file.kbc.name = params.name;
            file.kbc.url = params.uri;
        }
        if let Some(list) = kernel_parameter(&surroundings.kernel_command_line, "cdh.kbs_resources") {
            if unmeasured == UnmeasuredConfig::Refuse {
                Source::kernel_command_line().refuse_unmeasured(None)?;
            }
            file.credentials.extend(kernel_credentials(list)?);
        }
        let aa_socket =
            surroundings.aa_socket.as_deref().or(file.aa.aa_socket.as_deref()).unwrap_or(DEFAULT_AA_SOCKET);
        let image = image_config(file.image.take(), unmeasured, surroundings)?;
        let needs = image.needs();
        let signing_keys = file.signing_keys(surroundings);
        let denial_pause = match file.kbc.denial_pause_seconds {
            None => cc_kbs::DEFAULT_DENIAL_PAUSE,
            Some(seconds @ 0..=300) => Duration::from_secs(seconds),
            Some(seconds) => {
                let message = format!("kbc.denial_pause_seconds is {seconds}");
                return Err(StartFault::config(message, "give 0 to 300 seconds"));
            }
        };
        let head_start = match file.kbc.alternate_after_milliseconds {
            None => cc_kbs::DEFAULT_HEAD_START,
            Some(milliseconds @ 0..=10_000) => Duration::from_millis(milliseconds),
            Some(milliseconds) => {
                let message = format!("kbc.alternate_after_milliseconds is {milliseconds}");
                return Err(StartFault::config(message, "give 0 to 10000 milliseconds"));
            }
        };
        let key_algorithm = file.kbc.tee_key_algorithm;
        let first = BrokerConfig {
            url: file.kbc.url,
            kbs_cert: file.kbc.kbs_cert.or_else(|| surroundings.kbs_cert.clone()),
            kbs_cert_mode: file.kbc.kbs_cert_mode,
            allow_plain_http: file.kbc.allow_plain_http,
        };
        let brokers = std::iter::once(first).chain(file.kbc.alternates).map(|broker| KbsConfig {
            root_certificate: broker.kbs_cert,
            certificate_mode: broker.kbs_cert_mode,
            allow_plain_http: broker.allow_plain_http,
            key_algorithm,
            denial_pause,
            ..KbsConfig::new(broker.url)
        });
        let socket = file.socket_options.options().map_err(|mode| {
            StartFault::config(
                format!("socket_options.mode is {mode:?}"),
                "give an octal text such as \"0600\"",
            )
        })?;
        Ok(Self {
            address: address(file.socket.as_deref().unwrap_or(DEFAULT_SOCKET), "socket")?,
            socket,
            aa_address: address(aa_socket, "aa.aa_socket")?,
            kbs: brokers.collect(),
            head_start,
            kbc_name: file.kbc.name,
            unmeasured,
            credentials: file.credentials,
            files: file.files,
            unit_credentials: file.unit_credentials,
            credential_address: unix_address(
                file.credential_socket.as_deref().unwrap_or(unit_credential::DEFAULT_SOCKET),
                "credential_socket",
            )?,
            volumes: volumes(file.volumes, &surroundings.client_ids)?,
            cryptsetup_address: unix_address(
                file.cryptsetup_socket.as_deref().unwrap_or(volume::DEFAULT_SOCKET),
                "cryptsetup_socket",
            )?,
            secure_mount: file.secure_mount,
            access: file.access,
            signing_keys,
            kms: file.kms,
            kms_directories: surroundings.kms_directories.clone(),
            offline_files: cc_kbs::offline::files(surroundings.offline_files.as_deref()),
            image,
            offers_ocicrypt_config: surroundings.ocicrypt_config.is_none(),
            settings: Settings {
                log_level: file.log.level,
                source,
                unused: Vec::new(),
                threads: 1,
                seccomp: cli.seccomp,
                needs,
            },
            check_only: cli.check_config,
            health_only: cli.health,
        })
    }
}

fn volumes(written: Vec<volume::EntryConfig>, ids: &ClientIds) -> Result<Vec<volume::Entry>, StartFault> {
    let entries = written.into_iter().map(|entry| entry.on(ids)).collect::<Result<_, _>>();
    let entries = entries.map_err(|problem| {
        StartFault::config(
            problem,
            "correct the entry of [[volumes]]; docs/disks.md says what each key of it may be",
        )
    })?;
    volume::distinct(entries).map_err(|(problem, hint)| StartFault::config(problem, hint))
}

impl FileConfig {
    /// The settings that decide whom the machine trusts and who gets what, and whether they are there.
    fn deciding(&self) -> [(&'static str, bool); 16] {
        let image = |is_there: fn(&ImageConfig) -> bool| self.image.as_ref().is_some_and(is_there);
        [
            ("kbc.url", !self.kbc.url.is_empty()),
            ("kbc.kbs_cert", self.kbc.kbs_cert.is_some()),
            ("kbc.allow_plain_http", self.kbc.allow_plain_http),
            ("kbc.alternates", !self.kbc.alternates.is_empty()),
            ("skip_sealed_secret_verification", self.skip_sealed_secret_verification),
            ("sealed_secrets.signing_keys", self.sealed_secrets.signing_keys.is_some()),
            ("credentials", !self.credentials.is_empty()),
            ("files", !self.files.is_empty()),
            ("unit_credentials", !self.unit_credentials.is_empty()),
            ("volumes", !self.volumes.is_empty()),
            ("image.image_security_policy", image(|image| image.image_security_policy.is_some())),
            ("image.image_security_policy_uri", image(|image| image.image_security_policy_uri.is_some())),
            ("image.sigstore_config", image(|image| image.sigstore_config.is_some())),
            ("image.sigstore_config_uri", image(|image| image.sigstore_config_uri.is_some())),
            ("image.extra_root_certificates", image(|image| !image.extra_root_certificates.is_empty())),
            ("image.registry_config", image(|image| image.registry_config.is_some())),
        ]
    }

    fn signing_keys(&self, surroundings: &Surroundings) -> SigningKeys {
        let skip = surroundings.skip_sealed_secret_verification.as_deref() == Some("true");
        match &self.sealed_secrets.signing_keys {
            _ if self.skip_sealed_secret_verification || skip => SigningKeys::NotVerified,
            Some(patterns) => SigningKeys::Listed(patterns.clone()),
            None => SigningKeys::Any,
        }
    }
}

fn bad_params(place: &str, e: &dyn std::error::Error) -> StartFault {
    StartFault::config(format!("reading {place}: {e}"), "write cc_kbc::https://host:port")
}

/// Without a file the client comes from the kernel command line, and everything else is a default.
fn defaults(kernel_command_line: &str) -> Result<FileConfig, StartFault> {
    let params =
        KbcParams::find(None, kernel_command_line).map_err(|e| bad_params("agent.aa_kbc_params", &e))?;
    Ok(FileConfig {
        socket: None,
        kbc: KbcConfig {
            name: params.name,
            url: params.uri,
            kbs_cert: None,
            kbs_cert_mode: CertificateMode::default(),
            allow_plain_http: false,
            tee_key_algorithm: KeyAlgorithm::default(),
            denial_pause_seconds: None,
            alternates: Vec::new(),
            alternate_after_milliseconds: None,
        },
        aa: AaConfig::default(),
        credentials: Vec::new(),
        files: Vec::new(),
        unit_credentials: Vec::new(),
        credential_socket: None,
        volumes: Vec::new(),
        cryptsetup_socket: None,
        secure_mount: secure_mount::MountConfig::default(),
        image: None,
        skip_sealed_secret_verification: false,
        access: AccessTable::default(),
        sealed_secrets: SealedSecretsConfig::default(),
        kms: KmsConfig::default(),
        log: LogSection::default(),
        socket_options: SocketSection::default(),
    })
}

/// The table of the file, or else what the kernel command line says, as in the existing stack; then the environment. The kernel
/// command line is the host's to write, and a policy for images that it chooses would be none.
fn image_config(
    table: Option<ImageConfig>,
    unmeasured: UnmeasuredConfig,
    surroundings: &Surroundings,
) -> Result<ImageConfig, StartFault> {
    let from_host = || ImageConfig::of_kernel_command_line(&surroundings.kernel_command_line);
    let mut image = match table {
        Some(table) => table,
        None => {
            let from_host = from_host();
            if from_host.is_some() && unmeasured == UnmeasuredConfig::Refuse {
                Source::kernel_command_line().refuse_unmeasured(None)?;
            }
            from_host.unwrap_or_default()
        }
    };
    if let Some(uri) = &surroundings.registry_credentials {
        image.authenticated_registry_credentials_uri = Some(uri.clone());
    }
    image.check().map_err(|(wrong, hint)| StartFault::config(wrong, hint))?;
    Ok(image)
}

/// Parses `<uri>::<path>,<uri>::<path>…`.
fn kernel_credentials(list: &str) -> Result<Vec<Entry>, StartFault> {
    let entry = |item: &str| {
        let (uri, path) = item.split_once("::").ok_or_else(|| {
            let item: String = item.chars().take(200).collect();
            StartFault::config(
                format!("cdh.kbs_resources on the kernel command line: {item:?} has no '::'"),
                "write <uri>::<path>, separated by commas",
            )
        })?;
        Ok(Entry { path: path.to_owned(), resource_uri: uri.to_owned() })
    };
    list.split(',').filter(|item| !item.is_empty()).map(entry).collect()
}

/// The address of a Unix socket.
fn unix_address(text: &str, key: &str) -> Result<Address, StartFault> {
    match address(text, key)? {
        unix @ Address::Unix(_) => Ok(unix),
        Address::Tcp(_) => Err(StartFault::config(
            format!("{key} is {text:?}: whoever asks there is known by the address of a Unix socket"),
            format!("write {key} = \"unix:///PATH\""),
        )),
    }
}

fn address(text: &str, key: &str) -> Result<Address, StartFault> {
    text.parse().map_err(|e: AddressError| {
        StartFault::new(start::EXIT_CONFIG, e.code(), format!("{key} is {text:?}: {e}"), e.hint())
    })
}

#[cfg(test)]
mod tests {
    use cc_daemon::config::Provenance;

    use super::*;

    fn build(args: &[&str], surroundings: &Surroundings) -> Result<Config, StartFault> {
        let args = std::iter::once("confidential-data-hub").chain(args.iter().copied());
        Config::build(Cli::try_parse_from(args).unwrap(), surroundings)
    }

    #[test]
    fn the_socket_for_units_is_a_unix_socket() {
        assert!(unix_address("unix:///run/credentials.sock", "credential_socket").is_ok());
        let fault = unix_address("127.0.0.1:1", "credential_socket").unwrap_err();
        assert!(fault.to_string().contains("credential_socket"), "{fault}");
    }

    #[test]
    fn what_the_kernel_command_line_says_is_unmeasured_and_refused_when_told_so() {
        let host =
            |text: &str| Surroundings { kernel_command_line: text.to_owned(), ..Surroundings::default() };
        let with_broker = host("agent.aa_kbc_params=cc_kbc::https://kbs");
        let config = build(&[], &with_broker).unwrap();
        assert_eq!(config.unmeasured, UnmeasuredConfig::Allow);
        assert_eq!(config.settings.source.provenance(None), Provenance::Unmeasured);
        let from_unit = Surroundings { aa_kbc_params: Some("cc_kbc::https://kbs".to_owned()), ..with_broker };
        let config = build(&[], &from_unit).unwrap();
        assert_eq!(
            config.settings.source.provenance(None),
            Provenance::Default,
            "the environment is the unit's"
        );
        let resources = host("cdh.kbs_resources=kbs:///a/b/c::/run/confidential-containers/cdh/kbs/c");
        assert!(build(&[], &resources).is_ok());
        let e = build(&["--unmeasured-config", "refuse"], &resources).unwrap_err();
        assert_eq!(e.code, "CONFIG_UNMEASURED");
    }

    fn with_file(text: &str, surroundings: &Surroundings, more: &[&str]) -> Result<Config, StartFault> {
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
        max_concurrent_layer_downloads_per_image = 2
        [log]
        level = "warn"
    "#;

    #[test]
    fn upstream_file_loads_unchanged() {
        let c = with_file(UPSTREAM, &Surroundings::default(), &["--check-config"]).unwrap();
        assert_eq!((c.kbc_name.as_str(), c.kbs[0].url.as_str()), ("cc_kbc", "https://kbs.example:8080"));
        assert_eq!(c.kbs[0].root_certificate.as_deref(), Some("PEM"));
        assert_eq!(c.aa_address.to_string(), "unix:///run/aa.sock");
        assert_eq!(c.credentials.len(), 1);
        assert_eq!(c.settings.log_level, "warn");
        assert_eq!(c.image.max_concurrent_layer_downloads_per_image, 2);
    }

    #[test]
    fn alternates_come_after_the_first_with_a_pin_each() {
        let text = r#"
            [kbc]
            name = "cc_kbc"
            url = "https://a"
            kbs_cert = "A"
            alternate_after_milliseconds = 250
            [[kbc.alternates]]
            url = "https://b"
            kbs_cert = "B"
        "#;
        let c = with_file(text, &Surroundings::default(), &["--check-config"]).unwrap();
        let listed: Vec<_> = c.kbs.iter().map(|k| (k.url.as_str(), k.root_certificate.as_deref())).collect();
        assert_eq!(listed, [("https://a", Some("A")), ("https://b", Some("B"))]);
        assert_eq!(c.head_start, Duration::from_millis(250));
        assert!(with_file(&text.replace("250", "60000"), &Surroundings::default(), &[]).is_err());
    }

    #[test]
    fn strict_mode_and_the_option_refuse_what_is_unmeasured() {
        let strict = "[kbc]\nname = \"cc_kbc\"\n[access]\nstrict = true\n";
        for (text, more, expected) in [
            ("[kbc]\nname = \"cc_kbc\"\n", &[][..], UnmeasuredConfig::Allow),
            (strict, &[], UnmeasuredConfig::Refuse),
            (strict, &["--unmeasured-config", "allow"], UnmeasuredConfig::Allow),
        ] {
            let config = with_file(text, &Surroundings::default(), more).unwrap();
            assert_eq!(config.unmeasured, expected, "{text} {more:?}");
        }
    }

    #[test]
    fn the_host_chooses_no_policy_for_images_where_what_is_unmeasured_is_refused() {
        let host =
            |text: &str| Surroundings { kernel_command_line: text.to_owned(), ..Surroundings::default() };
        let policy = host("agent.image_policy_file=file:///p agent.enable_signature_verification=true");
        let file = "[kbc]\nname = \"cc_kbc\"\n";
        let strict = format!("{file}[access]\nstrict = true\n");
        for (text, more) in [(file, &["--unmeasured-config", "refuse"][..]), (&strict, &[])] {
            for said in
                [&policy, &host("agent.image_registry_auth=file:///a"), &host("agent.https_proxy=http://p")]
            {
                let fault = with_file(text, said, more).unwrap_err();
                assert_eq!(fault.code, "CONFIG_UNMEASURED", "{text} {}", said.kernel_command_line);
                assert!(fault.hint.contains("[image]"), "{}", fault.hint);
            }
            assert!(with_file(text, &host("agent.enable_signature_verification=false quiet"), more).is_ok());
            let own = with_file(&format!("{text}[image]\n"), &policy, more).unwrap();
            assert_eq!(own.image.image_security_policy_uri, None, "a table in the file is the whole table");
        }
        assert_eq!(build(&["--unmeasured-config", "refuse"], &policy).unwrap_err().code, "CONFIG_UNMEASURED");
        let taken = with_file(file, &policy, &[]).unwrap();
        assert_eq!(taken.image.image_security_policy_uri.as_deref(), Some("file:///p"));
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
        assert_eq!((c.kbc_name.as_str(), c.kbs[0].url.as_str()), ("offline_fs_kbc", "null"));
        assert_eq!(c.aa_address.to_string(), "unix:///run/other.sock");
        assert_eq!(c.kbs[0].root_certificate.as_deref(), Some("PEM"), "the file's certificate stays");
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
        assert_eq!(c.kbs[0].url, "https://k");
        assert_eq!(c.credentials.len(), 2);
        let c = with_file(UPSTREAM, &surroundings, &[]).unwrap();
        assert_eq!(c.kbs[0].url, "https://kbs.example:8080", "a file beats the kernel command line");
        assert_eq!(c.credentials.len(), 3, "resources of the kernel command line are appended always");
    }

    #[test]
    fn no_source_means_the_offline_store() {
        let c = build(&[], &Surroundings::default()).unwrap();
        assert_eq!(c.kbc_name, "offline_fs_kbc");
        assert_eq!(c.offline_files.len(), 2);
    }

    #[test]
    fn key_management_services_are_configured_by_tables() {
        let text = "[kbc]\nname = \"cc_kbc\"\n[kms.aws]\nregoins = []\nregions = [\"eu-central-1\"]\n\
                    [kms.vault]\naddress = \"https://vault\"\nmount = \"x\"\n";
        let config = with_file(text, &Surroundings::default(), &[]).unwrap();
        assert_eq!(config.settings.source.unknown_keys, ["kms.aws.regoins", "kms.vault.mount"]);
        assert_eq!(config.kms.vault.unwrap().kv_version, 2);
        assert_eq!(config.kms.aws.regions.unwrap(), ["eu-central-1"]);
        assert!(with_file(text, &Surroundings::default(), &["--check-config"]).is_err());
        let half = "[kbc]\nname = \"cc_kbc\"\n[kms.pkcs11]\nmodule = \"/x.so\"\n";
        assert!(with_file(half, &Surroundings::default(), &[]).is_err(), "which token?");
    }

    #[test]
    fn bad_files_are_refused_and_unknown_keys_named() {
        for text in ["", "[kbc]\nurl = \"x\"", "socket = 1\n[kbc]\nname = \"cc_kbc\"", "[kbc"] {
            assert!(with_file(text, &Surroundings::default(), &[]).is_err(), "{text}");
        }
        let text = "sokcet = \"x\"\n[kbc]\nname = \"cc_kbc\"\n";
        assert_eq!(
            with_file(text, &Surroundings::default(), &[]).unwrap().settings.source.unknown_keys,
            ["sokcet"]
        );
        assert!(with_file(text, &Surroundings::default(), &["--check-config"]).is_err());
        assert!(build(&["-c", "/nonexistent/cdh.toml"], &Surroundings::default()).is_err());
    }
}
