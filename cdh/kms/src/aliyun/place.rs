//! Names out of documents that become part of a host or file name: regions, instances, client keys, files of tokens.

use std::path::{Component, Path, PathBuf};

/// Longest label of a host name, in bytes (RFC 1035 section 2.3.4).
const MAX_LABEL_LEN: usize = 63;

/// The name of a region, such as `cn-hangzhou` or `cn-shanghai-finance-1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Region(String);

impl Region {
    /// Checks `name`: two to five parts of lower-case letters and digits between dashes, the first of two letters.
    pub(super) fn parse(name: &str) -> Result<Self, &'static str> {
        let parts: Vec<&str> = name.split('-').collect();
        let plain = |part: &&str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        let place = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_lowercase());
        let good = name.len() <= 32
            && (2..=5).contains(&parts.len())
            && parts.first().is_some_and(place)
            && parts.iter().all(plain);
        if good { Ok(Self(name.to_owned())) } else { Err("is not a region's name, such as cn-hangzhou") }
    }

    /// The name.
    pub(super) fn name(&self) -> &str {
        &self.0
    }

    /// URL of the service there.
    pub(super) fn url(&self) -> String {
        format!("https://kms.{}.aliyuncs.com", self.0)
    }
}

/// The name of an instance, such as `kst-hzz62ee817bvyyr5x`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InstanceId(String);

impl InstanceId {
    /// Checks `name`: one label of a host name.
    pub(super) fn parse(name: &str) -> Result<Self, &'static str> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let good = (1..=MAX_LABEL_LEN).contains(&name.len())
            && name.bytes().all(plain)
            && !name.starts_with('-')
            && !name.ends_with('-');
        if good { Ok(Self(name.to_owned())) } else { Err("not 1 to 63 letters, digits and dashes") }
    }

    /// URL of the instance.
    pub(super) fn url(&self) -> String {
        format!("https://{}.cryptoservice.kms.aliyuncs.com", self.0)
    }

    /// Name of the file with its authority's certificate.
    pub(super) fn certificate_file(&self) -> String {
        format!("PrivateKmsCA_{}.pem", self.0)
    }
}

/// The name of a client key, such as `KAAP.1d3a0b6c-…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientKeyId(String);

impl ClientKeyId {
    /// Checks `name`: letters, digits, dots, dashes and underscores, at most 128 of them.
    pub(super) fn parse(name: &str) -> Result<Self, &'static str> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let good = (1..=128).contains(&name.len()) && name.bytes().all(plain);
        if good {
            Ok(Self(name.to_owned()))
        } else {
            Err("not 1 to 128 letters, digits, dots, dashes and underscores")
        }
    }

    /// The name.
    pub(super) fn name(&self) -> &str {
        &self.0
    }

    /// Name of the file with the key.
    pub(super) fn key_file(&self) -> String {
        format!("clientKey_{}.json", self.0)
    }

    /// Name of the file with the password of the key; plain text, whatever its name says.
    pub(super) fn password_file(&self) -> String {
        format!("password_{}.json", self.0)
    }
}

/// The file `path`, absolute or a name, if it lies in `directory` or below; else what is wrong.
pub(super) fn token_path(directory: &Path, path: &str) -> Result<PathBuf, &'static str> {
    const BAD: &str = "not a file in the credential folder of aliyun";
    let given = Path::new(path);
    let below = if given.is_absolute() { given.strip_prefix(directory).map_err(|_| BAD)? } else { given };
    // A path of one spelling: `components` drops doubled slashes and dots silently.
    let plain = below.components().all(|part| matches!(part, Component::Normal(_)))
        && !below.as_os_str().is_empty()
        && !path.split('/').skip(1).any(|part| matches!(part, "" | "." | ".."))
        && !path.starts_with("./")
        && !path.contains('\0');
    if plain { Ok(directory.join(below)) } else { Err(BAD) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn regions_and_instances_become_hosts_of_the_provider() {
        for name in ["cn-hangzhou", "eu-central-1", "cn-shanghai-finance-1", "us-east-1", "cn-north-2-gov-1"]
        {
            assert_eq!(Region::parse(name).unwrap().url(), format!("https://kms.{name}.aliyuncs.com"));
        }
        for name in [
            "",
            "cn",
            "cn-",
            "-cn",
            "cn--x",
            "CN-hangzhou",
            "cnx-hangzhou",
            "c1-hangzhou",
            "cn-hangzhou.evil",
            "cn-hangzhou/",
            "cn-hangzhou#",
            "cn-hangzhou:1",
            "cn-hangzhou@x",
            "cn-a-b-c-d-e",
            "cn-hang zhou",
            "cn-abcdefghijklmnopqrstuvwxyzabcdef",
        ] {
            assert!(Region::parse(name).is_err(), "{name}");
        }
        let instance = InstanceId::parse("kst-hzz62").unwrap();
        assert_eq!(instance.url(), "https://kst-hzz62.cryptoservice.kms.aliyuncs.com");
        assert_eq!(instance.certificate_file(), "PrivateKmsCA_kst-hzz62.pem");
        for name in ["", "a.evil", "a/b", "-a", "a-", "a#", "a:1", "a@b", "a b", &"a".repeat(64)] {
            assert!(InstanceId::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn files_lie_in_the_folder() {
        let key = ClientKeyId::parse("KAAP.f4c8-1_x").unwrap();
        assert_eq!(key.key_file(), "clientKey_KAAP.f4c8-1_x.json");
        assert_eq!(key.password_file(), "password_KAAP.f4c8-1_x.json");
        for name in ["", "a/b", "../a", "a\0", "a b", &"a".repeat(129)] {
            assert!(ClientKeyId::parse(name).is_err(), "{name}");
        }
        let folder = Path::new("/run/kms/aliyun");
        for (path, expected) in [
            ("token", "/run/kms/aliyun/token"),
            ("a/token", "/run/kms/aliyun/a/token"),
            ("/run/kms/aliyun/token", "/run/kms/aliyun/token"),
        ] {
            assert_eq!(token_path(folder, path), Ok(PathBuf::from(expected)), "{path}");
        }
        for path in [
            "",
            "/",
            "..",
            ".",
            "./token",
            "../token",
            "a/../token",
            "a//token",
            "/etc/shadow",
            "/run/kms/aliyun",
            "/run/kms/aliyun/",
            "/run/kms/aliyun/../x",
            "/run/kms/aliyunx/token",
            "token\0",
        ] {
            assert!(token_path(folder, path).is_err(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn every_accepted_name_stays_where_it_belongs(name in "[a-z@:/.#-]{0,12}-?[a-z0-9./]{0,12}") {
            if let Ok(region) = Region::parse(&name) {
                prop_assert!(url::Url::parse(&region.url()).unwrap().host_str().unwrap().ends_with(".aliyuncs.com"));
            }
            if let Ok(instance) = InstanceId::parse(&name) {
                let host = url::Url::parse(&instance.url()).unwrap();
                prop_assert!(host.host_str().unwrap().ends_with(".cryptoservice.kms.aliyuncs.com"));
            }
            if let Ok(path) = token_path(Path::new("/a"), &name) {
                prop_assert!(path.starts_with("/a") && !path.components().any(|part| part == Component::ParentDir));
            }
        }
    }
}
