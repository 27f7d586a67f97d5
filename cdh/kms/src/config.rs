//! The operator's decisions: which services may be asked, and where their credentials lie.
//!
//! Values only; the table `[kms]` of the data hub's configuration is read into them. Nothing of this can come from a
//! document: see the crate's own text.

use std::path::PathBuf;

use cc_kbs::{CertificateMode, ResourceUri};
use serde::Deserialize;

/// The table `[kms]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct KmsConfig {
    /// `[kms.aliyun]`; the provider works without it.
    pub aliyun: AliyunConfig,
    /// `[kms.aws]`; the provider works without it.
    pub aws: AwsConfig,
    /// `[kms.vault]`; without it there is no Vault.
    pub vault: Option<VaultConfig>,
    /// `[kms.pkcs11]`; without it there is no token.
    pub pkcs11: Option<Pkcs11Config>,
}

/// `[kms.aliyun]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AliyunConfig {
    /// Where the access key of clients of type `access_key` lies; the file `credential.json` of the credential directory if
    /// absent.
    pub credential: Option<CredentialPlace>,
    /// Where the client key of clients of type `client_key` lies; the file `clientKey_<id>.json` if absent.
    pub client_key: Option<CredentialPlace>,
    /// Where its password lies; the file `password_<id>.json` if absent.
    pub client_key_password: Option<CredentialPlace>,
    /// Where the certificate of the instance's authority lies, PEM; the file `PrivateKmsCA_<instance>.pem` if absent.
    pub instance_certificate: Option<CredentialPlace>,
    /// The regions that may be asked; every region if absent.
    pub regions: Option<Vec<String>>,
    /// URL that stands in for `https://kms.<region>.aliyuncs.com` in every region, such as that of a VPC.
    pub endpoint: Option<String>,
    /// PEM certificates to trust there; the public authorities of the web if absent.
    pub certificate: Option<String>,
    /// URL that stands in for `https://<instance>.cryptoservice.kms.aliyuncs.com`.
    pub instance_endpoint: Option<String>,
    /// Whether `certificate`, and that of an instance, replace the public authorities or join them.
    pub certificate_mode: CertificateMode,
    /// URL of the metadata service of the virtual machine, `http://100.100.100.200`. Clients of type `ecs_ram_role` are refused
    /// without it, because the host answers there.
    pub metadata_endpoint: Option<String>,
}

/// `[kms.aws]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AwsConfig {
    /// Where the access key lies; the file `credential.json` of the credential directory if absent.
    pub credential: Option<CredentialPlace>,
    /// The regions that a document may name; every region if absent.
    pub regions: Option<Vec<String>>,
    /// URL that stands in for AWS KMS in every region, such as that of a VPC endpoint.
    pub kms_endpoint: Option<String>,
    /// The same for AWS Secrets Manager.
    pub secrets_manager_endpoint: Option<String>,
    /// PEM certificates to trust at these two; the public authorities of the web if absent.
    pub certificate: Option<String>,
    /// Whether `certificate` replaces the public authorities or joins them.
    pub certificate_mode: CertificateMode,
}

/// `[kms.vault]`.
#[derive(Clone, Debug, Deserialize)]
pub struct VaultConfig {
    /// `https://host[:port]` of HashiCorp Vault or OpenBao.
    pub address: String,
    /// PEM certificates to trust; the public authorities of the web if absent.
    pub certificate: Option<String>,
    /// Whether `certificate` replaces the public authorities or joins them.
    #[serde(default)]
    pub certificate_mode: CertificateMode,
    /// The namespace of all requests.
    pub namespace: Option<String>,
    /// Where the token lies; the file `token` of the credential directory if absent.
    pub token: Option<CredentialPlace>,
    /// Where the transit engine is mounted.
    #[serde(default = "transit")]
    pub transit_mount: String,
    /// Where the key-value engine is mounted.
    #[serde(default = "secret")]
    pub kv_mount: String,
    /// The version of that engine, 1 or 2.
    #[serde(default = "two")]
    pub kv_version: u8,
}

/// `[kms.pkcs11]`.
#[derive(Clone, Debug, Deserialize)]
pub struct Pkcs11Config {
    /// Absolute path of the module, a shared library.
    pub module: PathBuf,
    /// Label of the token.
    pub token_label: String,
    /// Where the user's PIN lies; the file `pin` of the credential directory if absent.
    pub pin: Option<CredentialPlace>,
}

/// Where a credential lies.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum CredentialPlace {
    /// A resource of the key broker, fetched at each use.
    Resource(ResourceUri),
    /// A file, by its absolute path, read at each use.
    File(PathBuf),
}

impl TryFrom<String> for CredentialPlace {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.parse() {
            Ok(uri) => Ok(Self::Resource(uri)),
            Err(_) if text.starts_with('/') => Ok(Self::File(text.into())),
            Err(_) => Err("a credential lies at a kbs:// URI or in a file with an absolute path".to_owned()),
        }
    }
}

/// The directories of credential files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    /// Of `aliyun`.
    pub aliyun: PathBuf,
    /// Of `aws`.
    pub aws: PathBuf,
    /// Of `vault`.
    pub vault: PathBuf,
    /// Of `pkcs11`.
    pub pkcs11: PathBuf,
}

/// The folder of all of them, which the data hub's `[[credentials]]` may fill.
const CREDENTIALS: &str = "/run/confidential-containers/cdh/kbs/kms-credential";

impl Default for Directories {
    fn default() -> Self {
        let below = |provider| PathBuf::from(CREDENTIALS).join(provider);
        let (aliyun, aws) = (below("aliyun"), below("aws"));
        Self { aliyun, aws, vault: below("vault"), pkcs11: below("pkcs11") }
    }
}

fn transit() -> String {
    "transit".to_owned()
}

fn secret() -> String {
    "secret".to_owned()
}

fn two() -> u8 {
    2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_and_defaults_filled_in() {
        let config: KmsConfig = toml::from_str(
            "[aws]\nregions = [\"eu-central-1\"]\ncredential = \"kbs:///default/kms/aws\"\n\
             [vault]\naddress = \"https://vault\"\ntoken = \"/run/token\"\n\
             [pkcs11]\nmodule = \"/usr/lib/p11.so\"\ntoken_label = \"guest\"\n",
        )
        .unwrap();
        assert!(matches!(config.aws.credential, Some(CredentialPlace::Resource(_))));
        let vault = config.vault.unwrap();
        assert_eq!(vault.token, Some(CredentialPlace::File("/run/token".into())));
        assert_eq!(
            (vault.transit_mount.as_str(), vault.kv_mount.as_str(), vault.kv_version),
            ("transit", "secret", 2)
        );
        assert_eq!(config.pkcs11.unwrap().pin, None);
        assert!(toml::from_str::<KmsConfig>("").unwrap().vault.is_none());
        for bad in ["[vault]\n", "[pkcs11]\nmodule = \"/x\"\n", "[aws]\ncredential = \"AKIA\"\n"] {
            assert!(toml::from_str::<KmsConfig>(bad).is_err(), "{bad}");
        }
    }
}
