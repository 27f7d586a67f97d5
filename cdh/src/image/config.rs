//! The table `[image]`. The keys of the existing stack's data hub are all read; those of this project are optional.
//!
//! ```toml
//! [image]
//! work_dir = "/run/kata-containers/image/"
//! max_concurrent_layer_downloads_per_image = 3
//! image_security_policy_uri = "kbs:///default/security-policy/main"
//! max_store_bytes = 8000000000           # of this project: refuse layers that would make the store larger
//! layouts = ["/srv/images"]              # of this project: `oci:/srv/images/app:1.0` names an image layout there
//! ```
//!
//! Without the table it comes from the kernel command line, which the host writes; where unmeasured configuration is refused,
//! so is that.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use cc_daemon::address::Address;
use serde::Deserialize;

/// Where the existing stack keeps its layers.
const DEFAULT_WORK_DIR: &str = "/run/kata-containers/image/";
const DEFAULT_DOWNLOADS: usize = 3;

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
    /// The most bytes that the archives of all layers in the store may have.
    pub max_store_bytes: Option<u64>,
    /// Folders below which `oci:FOLDER[:NAME]` may name an image layout. None by default.
    pub layouts: Vec<PathBuf>,
    /// How `cdh-storage` is reached.
    pub storage: StorageConfig,
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
        for (name, socket) in
            [("mount_socket", &self.storage.mount_socket), ("unpack_socket", &self.storage.unpack_socket)]
        {
            if let Some(text) = socket
                && !matches!(text.parse(), Ok(Address::Unix(_)))
            {
                return Err((format!("image.storage.{name} is {text:?}"), "write unix:///PATH"));
            }
        }
        super::storage::check_limit(self, Path::new(super::storage::UNIT_SOCKETS))
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
        assert!(check(|c| c.storage.mount_socket = Some("127.0.0.1:1".to_owned())).is_err());
    }
}
