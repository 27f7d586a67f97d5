//! The table `[image]`. The keys of the existing stack's data hub are all read; those of this project are optional.
//!
//! ```toml
//! [image]
//! work_dir = "/run/kata-containers/image/"
//! max_concurrent_layer_downloads_per_image = 3
//! image_security_policy_uri = "kbs:///default/security-policy/main"
//! max_store_bytes = 8000000000           # of this project: refuse layers that would make the store larger
//! max_window_bytes = 8388608             # of this project: refuse layers of Zstandard that need more memory than that
//! max_image_bytes = 20000000000          # of this project: what one image may ask for, see the fields
//! devices = "refuse"                     # of this project: no layers with device nodes
//! layouts = ["/srv/images"]              # of this project: `oci:/srv/images/app:1.0` names an image layout there
//! ```
//!
//! Without the table it comes from the kernel command line, which the host writes; where unmeasured configuration is refused,
//! so is that.

use std::{
    fmt,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use cc_daemon::address::Address;
use cc_daemon::sandbox::{KERNEL_CRYPTO, Needs};
use rustix::net::AddressFamily;
use serde::Deserialize;

/// Where the existing stack keeps its layers.
const DEFAULT_WORK_DIR: &str = "/run/kata-containers/image/";
const DEFAULT_DOWNLOADS: usize = 3;
/// The hub speaks to key brokers; libcryptsetup, in its other half, decrypts keyslots by the kernel.
const FAMILIES_OF_BOTH: &[AddressFamily] =
    &[AddressFamily::UNIX, AddressFamily::INET, AddressFamily::INET6, KERNEL_CRYPTO];
/// What windows of Zstandard may be bounded to.
const WINDOWS: RangeInclusive<u64> = 1024..=image_rs::layer::Options::LARGEST_WINDOW;
/// What an entry's name and the directories around it may be bounded to.
const NAMES: RangeInclusive<u64> = 1..=image_rs::Limits::MOST_NAME as u64;
const DEPTHS: RangeInclusive<u64> = 1..=image_rs::Limits::MOST_DEPTH as u64;
/// What other bounds may be.
const COUNTS: RangeInclusive<u64> = 1..=u64::MAX;

/// The table.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// Folder of the store.
    pub work_dir: PathBuf,
    /// Layers of one image at a time.
    pub max_concurrent_layer_downloads_per_image: usize,
    /// Where the policy is; beats the text.
    pub image_security_policy_uri: Option<String>,
    /// The policy itself.
    pub image_security_policy: Option<String>,
    /// Where the places of OpenPGP signatures are told; beats the text.
    pub sigstore_config_uri: Option<String>,
    /// The places of OpenPGP signatures.
    pub sigstore_config: Option<String>,
    /// Where the credentials for registries are.
    pub authenticated_registry_credentials_uri: Option<String>,
    /// Where the rules for registries are.
    pub registry_configuration_uri: Option<String>,
    /// The rules for registries; they beat the URI.
    pub registry_config: Option<serde_json::Value>,
    /// Proxies.
    pub image_pull_proxy: Option<ProxyConfig>,
    /// PEM texts of further roots for registries.
    pub extra_root_certificates: Vec<String>,
    /// The most bytes that all layers in the store may have.
    pub max_store_bytes: Option<u64>,
    /// The largest window of a layer of Zstandard; 128 MiB by default.
    pub max_window_bytes: Option<u64>,
    /// The most bytes that the archives of one image may have when uncompressed, and its files with their holes.
    pub max_image_bytes: Option<u64>,
    /// The most entries of the archives of one image.
    pub max_image_entries: Option<u64>,
    /// The most uncompressed bytes for each compressed one, from 256 MiB on.
    pub max_ratio: Option<u64>,
    /// The most bytes of an entry's name and of a link's target.
    pub max_name_bytes: Option<u64>,
    /// The most directories around an entry.
    pub max_depth: Option<u64>,
    /// What becomes of device nodes in layers.
    pub devices: Devices,
    /// Folders below which `oci:FOLDER[:NAME]` may name an image layout. None by default.
    pub layouts: Vec<PathBuf>,
    /// How `cdh-storage` is reached.
    pub storage: StorageConfig,
}

/// What becomes of device nodes in layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Devices {
    /// They are made as the layer has them.
    #[default]
    Allow,
    /// The layer is refused.
    Refuse,
}

/// Proxies for all requests to registries.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct ProxyConfig {
    /// URL of the proxy for `https`.
    pub https_proxy: Option<String>,
    /// URL of the proxy for `http`.
    pub http_proxy: Option<String>,
    /// Hosts and addresses that are asked without a proxy, separated by commas.
    pub no_proxy: Option<String>,
}

impl fmt::Debug for ProxyConfig {
    /// Without the URLs, which can have passwords in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyConfig")
            .field("https_proxy", &self.https_proxy.is_some())
            .field("http_proxy", &self.http_proxy.is_some())
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

/// How `cdh-storage` is reached. Without a word it is the units whose sockets lie below
/// `/run/confidential-containers/cdh-storage`, for the usual store without a limit, else a program that the hub starts when it is
/// first needed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct StorageConfig {
    /// The program; by default `cdh-storage` beside the data hub.
    pub program: Option<PathBuf>,
    /// Address of the one that mounts, if it is a unit.
    pub mount_socket: Option<String>,
    /// Address of the one that unpacks, if it is a unit.
    pub unpack_socket: Option<String>,
}

impl Default for ImageConfig {
    fn default() -> Self {
        Self {
            work_dir: DEFAULT_WORK_DIR.into(),
            max_concurrent_layer_downloads_per_image: DEFAULT_DOWNLOADS,
            image_security_policy_uri: None,
            image_security_policy: None,
            sigstore_config_uri: None,
            sigstore_config: None,
            authenticated_registry_credentials_uri: None,
            registry_configuration_uri: None,
            registry_config: None,
            image_pull_proxy: None,
            extra_root_certificates: Vec::new(),
            max_store_bytes: None,
            max_window_bytes: None,
            max_image_bytes: None,
            max_image_entries: None,
            max_ratio: None,
            max_name_bytes: None,
            max_depth: None,
            devices: Devices::Allow,
            layouts: Vec::new(),
            storage: StorageConfig::default(),
        }
    }
}

impl ImageConfig {
    /// What the kernel command line says; `None` if it says nothing that counts. A later parameter of one name beats an
    /// earlier one.
    #[must_use]
    pub fn of_kernel_command_line(text: &str) -> Option<Self> {
        let last = |name: &str| {
            let mut parameters = text.split_ascii_whitespace().filter_map(|word| word.split_once('='));
            parameters.rfind(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        let proxy = ProxyConfig {
            https_proxy: last("agent.https_proxy"),
            http_proxy: last("agent.http_proxy"),
            no_proxy: last("agent.no_proxy"),
        };
        let verifies = last("agent.enable_signature_verification").as_deref() == Some("true");
        let proxy = (proxy.https_proxy.is_some() || proxy.http_proxy.is_some()).then_some(proxy);
        let credentials = last("agent.image_registry_auth");
        let policy = last("agent.image_policy_file").filter(|_| verifies);
        (proxy.is_some() || credentials.is_some() || policy.is_some()).then(|| Self {
            image_pull_proxy: proxy,
            authenticated_registry_credentials_uri: credentials,
            image_security_policy_uri: policy,
            ..Self::default()
        })
    }

    /// What images are bounded by: each key with its value and what it may be.
    fn bounds(&self) -> [(&'static str, Option<u64>, RangeInclusive<u64>); 7] {
        [
            ("max_store_bytes", self.max_store_bytes, COUNTS),
            ("max_window_bytes", self.max_window_bytes, WINDOWS),
            ("max_image_bytes", self.max_image_bytes, COUNTS),
            ("max_image_entries", self.max_image_entries, COUNTS),
            ("max_ratio", self.max_ratio, COUNTS),
            ("max_name_bytes", self.max_name_bytes, NAMES),
            ("max_depth", self.max_depth, DEPTHS),
        ]
    }

    /// The arguments of `cdh-storage unpack` that say all that images are bounded by, and for each its key here.
    pub(super) fn bound_arguments(&self) -> Vec<(&'static str, String)> {
        let numbers = self.bounds().into_iter().filter_map(|(key, value, _)| {
            let option = match key {
                "max_store_bytes" => "--max-bytes".to_owned(),
                "max_window_bytes" => "--max-window".to_owned(),
                key => format!("--{}", key.replace('_', "-")),
            };
            value.map(|value| (key, format!("{option}={value}")))
        });
        let devices = (self.devices == Devices::Refuse).then(|| ("devices", "--refuse-devices".to_owned()));
        numbers.chain(devices).collect()
    }

    /// What is wrong with it, if anything.
    ///
    /// # Errors
    /// The first value that cannot be used, and what would do.
    pub fn check(&self) -> Result<(), (String, &'static str)> {
        if !self.work_dir.is_absolute() {
            let wrong = format!("image.work_dir is {:?}", self.work_dir.display().to_string());
            return Err((wrong, "give an absolute path"));
        }
        let downloads = self.max_concurrent_layer_downloads_per_image;
        if !(1..=64).contains(&downloads) {
            let wrong = format!("image.max_concurrent_layer_downloads_per_image is {downloads}");
            return Err((wrong, "give 1 to 64"));
        }
        for (name, value, range) in self.bounds() {
            if let Some(value) = value.filter(|value| !range.contains(value)) {
                let hint = match name {
                    "max_window_bytes" => "give 1024 to 134217728 (128 MiB)",
                    "max_name_bytes" => "give 1 to 4095",
                    "max_depth" => "give 1 to 256",
                    _ => "give 1 or more",
                };
                return Err((format!("image.{name} is {value}"), hint));
            }
        }
        for (name, socket) in
            [("mount_socket", &self.storage.mount_socket), ("unpack_socket", &self.storage.unpack_socket)]
        {
            if let Some(text) = socket
                && !matches!(text.parse(), Ok(Address::Unix(_)))
            {
                return Err((format!("image.storage.{name} is {text:?}"), "write unix:///PATH"));
            }
        }
        super::storage::check_bounds(self, Path::new(super::storage::UNIT_SOCKETS))
    }

    /// Which system calls the hub needs that others do without: what its privileged half needs, if it has to start that itself.
    pub(crate) fn needs(&self) -> Needs {
        match super::storage::starts_programs(self, Path::new(super::storage::UNIT_SOCKETS)) {
            true => Needs { mounts: true, keyrings: true, families: FAMILIES_OF_BOTH, ..Needs::NETWORK },
            false => Needs::NETWORK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_command_line_is_read_as_in_the_existing_stack() {
        let config = ImageConfig::of_kernel_command_line(
            "agent.https_proxy=http://a agent.https_proxy=http://b agent.no_proxy=c \
             agent.image_registry_auth=kbs:///default/credential/test agent.image_policy_file=kbs:///default/policy/test",
        )
        .unwrap();
        let proxy = config.image_pull_proxy.unwrap();
        assert_eq!((proxy.https_proxy.as_deref(), proxy.no_proxy.as_deref()), (Some("http://b"), Some("c")));
        assert_eq!(
            config.authenticated_registry_credentials_uri.as_deref(),
            Some("kbs:///default/credential/test")
        );
        assert_eq!(config.image_security_policy_uri, None, "signatures are not to be verified");
        let config = ImageConfig::of_kernel_command_line(
            "agent.image_policy_file=file:///p agent.enable_signature_verification=true",
        )
        .unwrap();
        assert_eq!(config.image_security_policy_uri.as_deref(), Some("file:///p"));
        assert!(config.image_pull_proxy.is_none());
        let nothing =
            "agent.no_proxy=a agent.image_policy_file=file:///p agent.enable_signature_verification=false";
        assert!(ImageConfig::of_kernel_command_line(nothing).is_none());
    }

    #[test]
    fn passwords_of_proxies_have_no_text_form() {
        let proxy =
            "https_proxy = \"http://u:secret@p\"\nhttp_proxy = \"http://u:secret@p\"\nno_proxy = \"quay.io\"";
        let config: ImageConfig = toml::from_str(&format!("[image_pull_proxy]\n{proxy}")).unwrap();
        let text = format!("{config:?}");
        assert!(text.contains("quay.io") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn values_that_cannot_be_are_named() {
        let check = |edit: fn(&mut ImageConfig)| {
            let mut config = ImageConfig::default();
            edit(&mut config);
            config.check().map_err(|(wrong, _)| wrong)
        };
        assert_eq!(check(|_| {}), Ok(()));
        assert!(check(|c| c.work_dir = "x".into()).unwrap_err().contains("work_dir"));
        assert!(check(|c| c.max_concurrent_layer_downloads_per_image = 0).unwrap_err().contains("is 0"));
        assert!(check(|c| c.max_window_bytes = Some(1 << 28)).unwrap_err().contains("max_window_bytes"));
        assert_eq!(check(|c| c.max_window_bytes = Some(8 << 20)), Ok(()));
        assert!(
            check(|c| c.max_image_entries = Some(0)).unwrap_err().contains("image.max_image_entries is 0")
        );
        assert!(check(|c| c.max_depth = Some(257)).unwrap_err().contains("image.max_depth is 257"));
        assert_eq!(check(|c| (c.max_depth, c.max_name_bytes) = (Some(256), Some(4095))), Ok(()));
        assert!(check(|c| c.storage.mount_socket = Some("127.0.0.1:1".to_owned())).is_err());
    }
}
