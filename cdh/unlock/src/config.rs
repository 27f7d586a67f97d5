//! The configuration, one file of the initramfs: where the key broker is, and which volumes there are.
//!
//! It says where a key comes from and which disk it opens, so it counts as much as the program: both lie in the initramfs,
//! whose measurement the key broker's policy compares. A volume means the same as in `[[volumes]]` of the data hub, with keys and tags
//! out of the key broker alone; their names may have `%u` for the UUID of the product ([`cc_volume::client_id`]), which is all that differs
//! between machines with one initramfs. What is not known is an error.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use cc_kbs::{KbsConfig, Pace, ResourceUri};
use cc_platform::tpm::read_handle;
use cc_volume::{
    client_id::{ClientIds, PRODUCT_UUID},
    luks2::Policy,
};
use serde::{Deserialize, Deserializer, de::Error as _};
use trustee_attester::TpmOptions;

use crate::failure::Failure;

/// Longest configuration that is read, in bytes.
const MAX_LEN: usize = 1 << 20;
/// Longest name of a volume, as in the data hub.
const MAX_NAME_LEN: usize = 48;

/// All of it, checked.
#[derive(Debug)]
pub(crate) struct Config {
    /// What `root=` on the kernel's command line has to be, such as `/dev/mapper/root`.
    pub(crate) root: String,
    /// Seconds from the start to the last volume.
    timeout: u16,
    kbs: Kbs,
    tpm: Tpm,
    /// In the order in which they are opened.
    pub(crate) volumes: Vec<Volume>,
}

/// As it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileConfig {
    root: String,
    #[serde(default = "default_timeout")]
    timeout: u16,
    kbs: Kbs,
    #[serde(default)]
    tpm: Tpm,
    volumes: Vec<VolumeConfig>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kbs {
    url: String,
    /// PEM text.
    certificate: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tpm {
    device: Option<PathBuf>,
    #[serde(default, deserialize_with = "handle")]
    ak_handle: Option<u32>,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    /// Its name, and that of its mapping.
    pub(crate) name: String,
    /// The UUID of its header, in lower case.
    pub(crate) uuid: String,
    /// Its key.
    pub(crate) key: ResourceUri,
    /// Where the tag of its header is, if not in the header.
    pub(crate) tag: Option<ResourceUri>,
    /// What its header may say.
    pub(crate) policy: Policy,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VolumeConfig {
    name: String,
    uuid: String,
    key: String,
    tag: Option<String>,
    #[serde(default)]
    require_integrity: bool,
    #[serde(default)]
    allow_discards: bool,
    max_keyslots: Option<u8>,
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// [`Failure::Unreadable`] or [`Failure::Config`].
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let unreadable = |why: String| Failure::Unreadable { path: path.to_owned(), why };
        let file = File::open(path).map_err(|e| unreadable(e.to_string()))?;
        let mut text = String::new();
        file.take(MAX_LEN as u64 + 1).read_to_string(&mut text).map_err(|e| unreadable(e.to_string()))?;
        if text.len() > MAX_LEN {
            return Err(unreadable(format!("it is longer than {MAX_LEN} bytes")));
        }
        Self::parse(&text).map_err(|why| Failure::Config { path: path.to_owned(), why })
    }

    /// The configuration in `text`, on this machine; half a sentence that says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Self::parse_on(text, &client_ids())
    }

    /// The same on a machine with these ids.
    fn parse_on(text: &str, ids: &ClientIds) -> Result<Self, String> {
        let FileConfig { root, timeout, kbs, tpm, volumes } =
            toml::from_str(text).map_err(|e| e.to_string())?;
        let volumes = volumes.into_iter().map(|volume| volume.on(ids)).collect::<Result<_, _>>()?;
        let config = Self { root, timeout, kbs, tpm, volumes };
        if !config.root.starts_with("/dev/mapper/") {
            return Err(format!(
                "root is {:?}; only a mapping (/dev/mapper/NAME) is what was opened or verified",
                config.root
            ));
        }
        if !(5..=3600).contains(&config.timeout) {
            return Err(format!("timeout is {}; give 5 to 3600 seconds", config.timeout));
        }
        if config.tpm.device.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err("tpm.device is no absolute path".to_owned());
        }
        if config.volumes.is_empty() {
            return Err("it has no volume; add [[volumes]]".to_owned());
        }
        for (number, volume) in config.volumes.iter().enumerate() {
            let mut earlier = config.volumes.iter().take(number);
            if earlier.any(|other| other.name == volume.name || other.uuid == volume.uuid) {
                return Err(format!("another volume than {} has its name or UUID", volume.name));
            }
        }
        config.key_broker().check().map_err(|e| format!("[kbs]: {e}"))?;
        Ok(config)
    }

    /// How to reach the key broker: by its own certificate, or that of its authority, alone.
    pub(crate) fn key_broker(&self) -> KbsConfig {
        KbsConfig {
            root_certificate: Some(self.kbs.certificate.clone()),
            // The network is set up beside this.
            pace: Pace::of_start(),
            ..KbsConfig::new(self.kbs.url.as_str())
        }
    }

    /// Which TPM to use where no TEE is found.
    pub(crate) fn tpm(&self) -> TpmOptions {
        let default = TpmOptions::default();
        TpmOptions {
            device: self.tpm.device.clone(),
            ak_handle: self.tpm.ak_handle.unwrap_or(default.ak_handle),
        }
    }

    /// From the start to the last volume.
    pub(crate) fn time_limit(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }
}

/// What this machine is called in names of keys. That it cannot be read matters where it is named.
fn client_ids() -> ClientIds {
    let none = "it is on the volume that is to be opened; %u stands for the product's UUID".to_owned();
    ClientIds::new(Err(none), fs::read_to_string(PRODUCT_UUID).map_err(|e| e.to_string()))
}

impl VolumeConfig {
    fn on(self, ids: &ClientIds) -> Result<Volume, String> {
        let Self { name, uuid, key, tag, require_integrity, allow_discards, max_keyslots } = self;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if !starts || name.len() > MAX_NAME_LEN || !name.bytes().all(plain) {
            return Err(format!(
                "a volume is called {name:?}; a name has at most {MAX_NAME_LEN} letters, digits, '.', '_' and '-'"
            ));
        }
        let digits = |byte: u8| matches!(byte, b'-' | b'0'..=b'9' | b'a'..=b'f');
        if !uuid.split('-').map(str::len).eq([8, 4, 4, 4, 12]) || !uuid.bytes().all(digits) {
            return Err(format!(
                "the uuid of the volume {name} is {uuid:?}, not five groups of lower-case hex digits"
            ));
        }
        let resource = |what: &str, text: &str| {
            let named = ids.expand(text).map_err(|why| format!("the {what} of the volume {name} {why}"))?;
            named.parse().map_err(|why| format!("the {what} of the volume {name}: {why}"))
        };
        let key: ResourceUri = resource("key", &key)?;
        let tag = tag.map(|tag| resource("tag", &tag)).transpose()?;
        let max_keyslots = match max_keyslots.unwrap_or(1) {
            number @ 1..=32 => usize::from(number),
            number => return Err(format!("max_keyslots of the volume {name} is {number}; give 1 to 32")),
        };
        let policy = Policy { max_keyslots, require_integrity, allow_discards, ..Policy::default() };
        Ok(Volume { name, uuid, key, tag, policy })
    }
}

fn default_timeout() -> u16 {
    120
}

fn handle<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let text = String::deserialize(deserializer)?;
    read_handle(&text).map(Some).map_err(D::Error::custom)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The certificate of a key broker, in PEM.
    pub(crate) fn certificate() -> String {
        rcgen::generate_simple_self_signed(vec!["kbs".to_owned()]).unwrap().cert.pem()
    }

    /// A configuration with the volume `root`.
    pub(crate) fn good() -> String {
        format!(
            "root = \"/dev/mapper/root\"\n\
             [kbs]\nurl = \"https://192.0.2.7:8080\"\ncertificate = \"\"\"{}\"\"\"\n[tpm]\nak_handle = \"0x81000003\"\n\
             [[volumes]]\nname = \"root\"\nuuid = \"6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10\"\n\
             key = \"kbs:///disk-encryption/vm/luks-key-0\"\n",
            certificate()
        )
    }

    #[test]
    fn a_volume_demands_a_signed_header_of_one_keyslot() {
        let good = good();
        let config = Config::parse(&good).unwrap();
        assert_eq!(config.volumes[0].policy, Policy::default());
        assert_eq!((config.tpm().ak_handle, config.time_limit().as_secs()), (0x8100_0003, 120));
        let more =
            "require_integrity = true\nallow_discards = true\nmax_keyslots = 2\ntag = \"kbs:///a/b/c\"\n";
        let volume = &Config::parse(&format!("{good}{more}")).unwrap().volumes[0];
        assert!(volume.policy.require_integrity && volume.policy.allow_discards && volume.tag.is_some());
        assert_eq!(volume.policy.max_keyslots, 2);
    }

    #[test]
    fn one_configuration_names_the_keys_of_many_machines() {
        let text = good().replace("disk-encryption/vm", "disk-encryption/%u") + "tag = \"kbs:///tag/%u/0\"\n";
        let product = "00112233-4455-6677-8899-AABBCCDDEEFF\n".to_owned();
        let ids = ClientIds::new(Err("there is none".to_owned()), Ok(product));
        let volume = &Config::parse_on(&text, &ids).unwrap().volumes[0];
        let id = "00112233-4455-6677-8899-aabbccddeeff";
        assert_eq!(volume.key.to_string(), format!("kbs:///disk-encryption/{id}/luks-key-0"));
        assert_eq!(volume.tag.as_ref().unwrap().to_string(), format!("kbs:///tag/{id}/0"));
        let why = Config::parse(&good().replace("disk-encryption/vm", "disk-encryption/%m")).unwrap_err();
        assert!(why.starts_with("the key of the volume root has %m, the machine ID"), "{why}");
    }

    #[test]
    fn the_example_of_the_manual_can_be_read() {
        let page = include_str!("../../../docs/configuration/unlock.toml.md");
        let (_, example) = page.split_once("## Example\n\n```toml\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let (head, rest) = example.split_once("-----BEGIN").unwrap();
        let (_, tail) = rest.split_once("-----END CERTIFICATE-----").unwrap();
        let config = Config::parse(&format!("{head}{}{tail}", certificate())).unwrap();
        assert_eq!((config.root.as_str(), config.volumes.len()), ("/dev/mapper/root", 1));
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        let good = good();
        for (from, to) in [
            ("root = \"/dev/mapper/root\"\n", ""),
            ("/dev/mapper/root", "/dev/vda"),
            ("url =", "timeout = 3\nurl ="),
            ("[kbs]", "timeout = 4\n[kbs]"),
            ("https://192.0.2.7:8080", "http://192.0.2.7:8080"),
            ("https://192.0.2.7:8080", "https://a:b@192.0.2.7"),
            ("certificate = \"", "certificate = \"x\"\n#"),
            ("certificate =", "cert ="),
            ("0x81000003", "3"),
            ("ak_handle = \"0x81000003\"", "device = \"tpmrm0\""),
            ("name = \"root\"", "name = \"a/b\""),
            ("6a2d7e1c", "6A2D7E1C"),
            ("kbs:///disk-encryption/vm/luks-key-0", "file:///key"),
            ("disk-encryption/vm", "disk-encryption/%m"),
            ("disk-encryption/vm", "disk-encryption/%i"),
            ("key =", "header = \"allow-list\"\nkey ="),
            ("key =", "max_keyslots = 0\nkey ="),
        ] {
            let text = good.replace(from, to);
            assert_ne!(text, good, "{from}");
            assert!(Config::parse(&text).is_err(), "{from} -> {to}");
        }
        let (head, volume) = good.split_once("[[volumes]]").unwrap();
        assert!(Config::parse(head).is_err());
        assert!(Config::parse(&format!("{good}[[volumes]]{volume}")).is_err());
    }

    #[test]
    fn files_are_bounded_and_named_in_errors() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().join("absent"), folder.path().to_owned(), "/dev/zero".into()] {
            let failure = Config::read(&path).unwrap_err();
            assert_eq!((failure.code(), failure.status()), ("INPUT_UNREADABLE", 1), "{failure}");
            assert!(failure.to_string().contains(path.to_str().unwrap()), "{failure}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,300}") {
            let _ = Config::parse(&text);
            let _ = Config::parse(&format!("root = \"/dev/mapper/root\"\n{text}"));
        }
    }
}
