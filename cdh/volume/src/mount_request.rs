//! What a host asks for by `SecureMount` (Confidential Containers, `SecureMountRequest`): options read strictly into a [`Plan`].
//!
//! All values are texts that the host chose, and some of them become arguments of programs and paths: each has to be of a form that
//! means one thing. Options that are not known are named and have no effect, as in the existing stack. Pure: whether the device or the
//! folder exists, and whose key it is, is for others to find out.

use std::collections::BTreeMap;

use cc_evidence::blame::Blame;

/// Longest value of an option, in bytes; a sealed secret may be longer.
const MAX_LEN: usize = 4095;
/// Longest name of a mapping, in bytes: with what libcryptsetup puts around it, the device mapper takes 128.
const MAX_NAME_LEN: usize = 64;
/// Most words of `mkfsOpts`.
const MAX_WORDS: usize = 32;

/// Options of mkfs.ext4(8) without a value.
const MKFS_FLAGS: [&str; 4] = ["-F", "-j", "-q", "-K"];
/// Options with a number.
const MKFS_NUMBERS: [&str; 8] = ["-b", "-C", "-g", "-G", "-i", "-I", "-m", "-N"];
/// What `-E` may say; none of it names a file, a device or a place.
const MKFS_EXTENDED: [&str; 11] = [
    "assume_storage_prezeroed",
    "discard",
    "hash_seed",
    "lazy_itable_init",
    "lazy_journal_init",
    "nodiscard",
    "num_backup_sb",
    "packed_meta_blocks",
    "resize",
    "stride",
    "stripe_width",
];

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MountRequestError {
    /// A kind of volume that is not there.
    #[error("{what} is not supported: {why}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// What there is instead.
        why: &'static str,
    },
    /// A value that means nothing, or may mean two things.
    #[error("the option {option} is refused: {why}")]
    Option {
        /// Its name.
        option: &'static str,
        /// The rule that its value breaks.
        why: String,
    },
}

impl MountRequestError {
    /// Who is to blame.
    #[must_use]
    pub fn blame(&self) -> Blame {
        Blame::Misused
    }

    /// The stable code, for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unsupported { .. } => "SECURE_MOUNT_UNSUPPORTED",
            Self::Option { .. } => "SECURE_MOUNT_OPTION_REFUSED",
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unsupported { .. } => "use a block device with LUKS2; docs/disks.md has the options",
            Self::Option { .. } => "correct the option; docs/disks.md has the list",
        }
    }
}

/// Which device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// By its number.
    Number {
        /// Its driver.
        major: u32,
        /// Which of the driver's.
        minor: u32,
    },
    /// By an absolute path.
    Path(String),
}

/// What is on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nothing that counts: it is formatted, and lost when it is closed.
    Empty {
        /// Whether each sector is authenticated.
        integrity: bool,
    },
    /// A volume.
    Encrypted,
}

/// How the volume appears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A symbolic link to the mapping.
    Device,
    /// A file system, mounted.
    FileSystem {
        /// Further arguments for mkfs.ext4.
        mkfs: Vec<String>,
    },
}

/// Where the key is.
#[derive(Clone, PartialEq, Eq)]
pub enum Key {
    /// Nowhere: it is made, and forgotten.
    Random,
    /// A `kbs://` URI or the text of a sealed secret.
    Reference(String),
    /// A file of this machine, by its absolute path.
    File(String),
}

impl std::fmt::Debug for Key {
    /// The text of a sealed secret is not shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Random => f.write_str("Random"),
            Self::Reference(text) if text.starts_with("sealed.") => f.write_str("Reference(sealed secret)"),
            Self::Reference(uri) => write!(f, "Reference({uri:?})"),
            Self::File(path) => write!(f, "File({path:?})"),
        }
    }
}

/// A request in which every value means one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The device.
    pub device: Device,
    /// What is on it.
    pub source: Source,
    /// How it appears.
    pub target: Target,
    /// Its key.
    pub key: Key,
    /// The name of its mapping; none for one that is made up.
    pub name: Option<String>,
    /// Where it appears: an absolute path without `.` and `..`.
    pub mount_point: String,
    /// Options that are not known, which have no effect.
    pub unknown: Vec<String>,
}

impl Plan {
    /// Reads a request.
    ///
    /// # Errors
    /// [`MountRequestError`] with the first option that cannot be used.
    pub fn read<'a>(
        volume_type: &str,
        options: impl IntoIterator<Item = (&'a str, &'a str)>,
        mount_point: &str,
    ) -> Result<Self, MountRequestError> {
        let unsupported =
            |what: String, why| Err(MountRequestError::Unsupported { what: shortened(&what), why });
        match volume_type {
            "block-device" => {}
            "alibaba-cloud-oss" => {
                return unsupported(format!("the volume type {volume_type}"), "there is no ossfs here");
            }
            other => return unsupported(format!("the volume type {other:?}"), "there is block-device"),
        }
        let mut options: BTreeMap<&str, &str> = options.into_iter().collect();
        let mut take =
            |name: &'static str| options.remove(name).map(|value| bounded(name, value)).transpose();
        match take("encryptionType")?.ok_or_else(|| missing("encryptionType"))? {
            "luks2" => {}
            "zfs" => return unsupported("the encryption type zfs".to_owned(), "there is luks2"),
            other => return Err(unheard_of("encryptionType", other, "luks2")),
        }
        // A number beats a path, as in the existing stack.
        let (number, path) = (take("deviceId")?, take("devicePath")?);
        let device = match (number, path) {
            (Some(number), _) => device_number(number)?,
            (None, Some(text)) => Device::Path(path_of("devicePath", text)?),
            (None, None) => return Err(missing("deviceId or devicePath")),
        };
        let integrity = match take("dataIntegrity")? {
            Some("true") => true,
            None | Some("false" | "") => false,
            Some(other) => return Err(unheard_of("dataIntegrity", other, "true and false")),
        };
        let source = match take("sourceType")?.ok_or_else(|| missing("sourceType"))? {
            "empty" => Source::Empty { integrity },
            "encrypted" => Source::Encrypted,
            other => return Err(unheard_of("sourceType", other, "empty and encrypted")),
        };
        let file_system = take("filesystemType")?.unwrap_or("ext4");
        let mkfs = mkfs_options(take("mkfsOpts")?.unwrap_or_default(), integrity)?;
        let target = match take("targetType")?.ok_or_else(|| missing("targetType"))? {
            "device" => Target::Device,
            "fileSystem" if file_system == "ext4" => Target::FileSystem { mkfs },
            "fileSystem" => return Err(unheard_of("filesystemType", file_system, "ext4")),
            other => return Err(unheard_of("targetType", other, "device and fileSystem")),
        };
        let key = key(options.remove("key"))?;
        if key == Key::Random && source == Source::Encrypted {
            return Err(refused("key", "a device that is encrypted already needs one"));
        }
        let name = options.remove("mapperName").map(mapper_name).transpose()?;
        let unknown = options.keys().map(|name| shortened(name)).collect();
        let mount_point = path_of("mount_point", mount_point)?;
        Ok(Self { device, source, target, key, name, mount_point, unknown })
    }
}

/// `MAJ:MIN`, two decimal numbers without leading zeros.
fn device_number(text: &str) -> Result<Device, MountRequestError> {
    let number = |text: &str| {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        if plain { text.parse::<u32>().ok() } else { None }
    };
    let numbers = text.split_once(':').and_then(|(major, minor)| number(major).zip(number(minor)));
    let (major, minor) = numbers.ok_or_else(|| refused("deviceId", "it is not MAJOR:MINOR"))?;
    Ok(Device::Number { major, minor })
}

/// An absolute path that two readers read alike.
fn path_of(option: &'static str, text: &str) -> Result<String, MountRequestError> {
    let why = match text {
        _ if text.len() > MAX_LEN => "it is too long",
        _ if !text.starts_with('/') || text.bytes().all(|byte| byte == b'/') => {
            "it is not absolute, or only /"
        }
        _ if text.contains(char::is_control) => "it has control characters",
        _ if text.split('/').any(|part| part == "." || part == "..") => "it has . or .. in it",
        _ if text.contains("//") => "it has // in it",
        // What is opened with a slash at the end can be closed without.
        _ => return Ok(text.strip_suffix('/').unwrap_or(text).to_owned()),
    };
    Err(refused(option, why))
}

fn key(text: Option<&str>) -> Result<Key, MountRequestError> {
    let Some(text) = text else { return Ok(Key::Random) };
    match text.strip_prefix("file://") {
        Some(path) => Ok(Key::File(path_of("key", path)?)),
        None if ["sealed.", "kbs://", "kbs+"].iter().any(|start| text.starts_with(start)) => {
            Ok(Key::Reference(text.to_owned()))
        }
        None => Err(refused("key", "it is no sealed secret, no kbs:// URI and no file:// path")),
    }
}

fn mapper_name(text: &str) -> Result<String, MountRequestError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let starts = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts && text.len() <= MAX_NAME_LEN && text.bytes().all(plain) && text != "control" {
        return Ok(text.to_owned());
    }
    Err(refused("mapperName", "it has at most 64 letters, digits, '.', '_' and '-', and is not `control`"))
}

/// The words of `mkfsOpts`, if each is one that says how the file system is laid out and no more. With integrity the blocks have to
/// be whole sectors.
fn mkfs_options(text: &str, integrity: bool) -> Result<Vec<String>, MountRequestError> {
    let refuse = |word: &str, why: &str| Err(refused("mkfsOpts", &format!("{:?} {why}", shortened(word))));
    if text.bytes().any(|byte| byte != b' ' && !byte.is_ascii_graphic()) {
        return Err(refused("mkfsOpts", "it has other characters than printable ASCII"));
    }
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    let mut plain = Vec::new();
    while let Some(word) = words.next() {
        if plain.len() >= MAX_WORDS {
            return Err(refused("mkfsOpts", "it has too many words"));
        }
        if MKFS_FLAGS.contains(&word) {
            plain.push(word.to_owned());
            continue;
        }
        // `-b 4096` and `-b4096` are the same.
        let Some((option, joined)) = word.split_at_checked(2).filter(|(option, _)| option.starts_with('-'))
        else {
            return refuse(word, "is no option");
        };
        let value = if joined.is_empty() { words.next().unwrap_or_default() } else { joined };
        let lower = |extra: &str| {
            !value.is_empty()
                && value.bytes().all(|byte| {
                    byte.is_ascii_lowercase() || byte.is_ascii_digit() || extra.as_bytes().contains(&byte)
                })
        };
        let good = match option {
            "-b" if integrity => value == "4096",
            _ if MKFS_NUMBERS.contains(&option) => {
                lower("") && value.len() <= 20 && value.starts_with(|c: char| c.is_ascii_digit())
            }
            "-O" => lower("_^,-"),
            "-T" => lower("_,"),
            "-U" => lower("-"),
            "-J" => value.strip_prefix("size=").is_some_and(|size| size.parse::<u32>().is_ok()),
            "-L" => {
                value.len() <= 16
                    && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
                    && !value.starts_with('-')
                    && !value.is_empty()
            }
            "-E" => value.split(',').all(is_extended),
            _ => return refuse(word, "is not admitted"),
        };
        if !good {
            return refuse(word, "has a value that is not admitted");
        }
        plain.extend([option.to_owned(), value.to_owned()]);
    }
    Ok(plain)
}

fn is_extended(option: &str) -> bool {
    let (name, value) = option.split_once('=').unwrap_or((option, "0"));
    let plain = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f' | b'-');
    MKFS_EXTENDED.contains(&name) && !value.is_empty() && value.bytes().all(plain)
}

fn bounded<'a>(option: &'static str, value: &'a str) -> Result<&'a str, MountRequestError> {
    if value.len() <= MAX_LEN { Ok(value) } else { Err(refused(option, "it is too long")) }
}

fn missing(option: &'static str) -> MountRequestError {
    refused(option, "it is missing")
}

fn unheard_of(option: &'static str, found: &str, known: &str) -> MountRequestError {
    refused(option, &format!("it is {:?}, known is {known}", shortened(found)))
}

fn refused(option: &'static str, why: &str) -> MountRequestError {
    MountRequestError::Option { option, why: why.to_owned() }
}

fn shortened(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: [(&str, &str); 5] = [
        ("devicePath", "/dev/vdb"),
        ("sourceType", "empty"),
        ("targetType", "fileSystem"),
        ("encryptionType", "luks2"),
        ("mapperName", "scratch"),
    ];

    /// The good request with one option changed, or removed.
    fn with(name: &str, value: Option<&str>) -> Result<Plan, MountRequestError> {
        let mut options: BTreeMap<&str, &str> = GOOD.into();
        options.remove(name);
        options.extend(value.map(|value| (name, value)));
        Plan::read("block-device", options, "/srv/scratch")
    }

    #[test]
    fn a_request_of_the_existing_stack_is_read() {
        let plan = with("key", None).unwrap();
        assert_eq!(
            plan,
            Plan {
                device: Device::Path("/dev/vdb".to_owned()),
                source: Source::Empty { integrity: false },
                target: Target::FileSystem { mkfs: Vec::new() },
                key: Key::Random,
                name: Some("scratch".to_owned()),
                mount_point: "/srv/scratch".to_owned(),
                unknown: Vec::new(),
            }
        );
        assert_eq!(with("mapperName", None).unwrap().name, None);
        let slash = Plan::read("block-device", GOOD, "/srv/scratch/").unwrap();
        assert_eq!(
            slash.mount_point, "/srv/scratch",
            "what is opened by one spelling is closed by the other"
        );
        assert_eq!(
            with("deviceId", Some("253:16")).unwrap().device,
            Device::Number { major: 253, minor: 16 }
        );
        assert_eq!(with("dataIntegrity", Some("true")).unwrap().source, Source::Empty { integrity: true });
        assert_eq!(with("targetType", Some("device")).unwrap().target, Target::Device);
        assert_eq!(with("key", Some("file:///run/key")).unwrap().key, Key::File("/run/key".to_owned()));
        for key in ["kbs:///a/b/c", "kbs+x:///a/b/c", "sealed.a.b.c"] {
            assert_eq!(with("key", Some(key)).unwrap().key, Key::Reference(key.to_owned()));
        }
        assert_eq!(with("sharedMemory", Some("x")).unwrap().unknown, ["sharedMemory"]);
        let shown = format!("{:?}", with("key", Some("sealed.canary.b.c")).unwrap());
        assert!(!shown.contains("canary"), "{shown}");
    }

    #[test]
    fn each_value_that_could_mean_something_else_is_refused_by_its_name() {
        let long = "x".repeat(5000);
        for (name, value) in [
            ("devicePath", None),
            ("devicePath", Some("dev/vdb")),
            ("devicePath", Some("-F")),
            ("devicePath", Some("/dev/../etc/passwd")),
            ("devicePath", Some("/dev/./vdb")),
            ("devicePath", Some("/dev/v\ndb")),
            ("devicePath", Some("/dev//vdb")),
            ("devicePath", Some("/")),
            ("devicePath", Some("")),
            ("devicePath", Some(&long)),
            ("deviceId", Some("")),
            ("deviceId", Some("253")),
            ("deviceId", Some("253:16:1")),
            ("deviceId", Some("253:0x10")),
            ("deviceId", Some("253:+1")),
            ("deviceId", Some("0253:1")),
            ("deviceId", Some("../loop0:1")),
            ("deviceId", Some("4294967296:0")),
            ("sourceType", None),
            ("sourceType", Some("Empty")),
            ("targetType", None),
            ("targetType", Some("filesystem")),
            ("encryptionType", None),
            ("encryptionType", Some("luks1")),
            ("dataIntegrity", Some("yes")),
            ("filesystemType", Some("xfs")),
            ("key", Some("secret")),
            ("key", Some("file://key")),
            ("key", Some("file:///run/../etc/shadow")),
            ("key", Some("")),
            ("mapperName", Some("")),
            ("mapperName", Some("-x")),
            ("mapperName", Some("../x")),
            ("mapperName", Some("a/b")),
            ("mapperName", Some("a b")),
            ("mapperName", Some("control")),
            ("mapperName", Some(&long)),
        ] {
            let error = with(name, value).unwrap_err();
            assert_eq!(error.code(), "SECURE_MOUNT_OPTION_REFUSED", "{name} {value:?}");
            assert!(error.to_string().contains(name), "{name}: {error}");
        }
        let options: BTreeMap<&str, &str> = GOOD.into();
        for mount_point in ["", "srv", "/srv/..", "/./srv", "/", "//", "/a\0b"] {
            let error = Plan::read("block-device", options.clone(), mount_point).unwrap_err();
            assert!(error.to_string().contains("mount_point"), "{mount_point:?}: {error}");
        }
        let mut encrypted = options.clone();
        encrypted.insert("sourceType", "encrypted");
        assert!(Plan::read("block-device", encrypted, "/srv").unwrap_err().to_string().contains("key"));
    }

    #[test]
    fn what_is_not_there_is_said_to_be_not_there() {
        assert_eq!(with("encryptionType", Some("zfs")).unwrap_err().code(), "SECURE_MOUNT_UNSUPPORTED");
        for kind in ["alibaba-cloud-oss", "", "nfs"] {
            let error = Plan::read(kind, GOOD, "/srv").unwrap_err();
            assert_eq!(error.code(), "SECURE_MOUNT_UNSUPPORTED", "{kind}");
        }
    }

    #[test]
    fn words_for_mkfs_lay_out_the_file_system_and_do_nothing_else() {
        let read = |text: &str| with("mkfsOpts", Some(text)).map(|plan| plan.target);
        let words =
            |words: &[&str]| Target::FileSystem { mkfs: words.iter().map(|&w| w.to_owned()).collect() };
        assert_eq!(read("").unwrap(), words(&[]));
        assert_eq!(
            read("-O ^has_journal  -m0 -i 163840 -I 128").unwrap(),
            words(&["-O", "^has_journal", "-m", "0", "-i", "163840", "-I", "128"])
        );
        assert_eq!(
            read("-Elazy_itable_init=1,nodiscard -L data").unwrap(),
            words(&["-E", "lazy_itable_init=1,nodiscard", "-L", "data"])
        );
        for bad in [
            "/dev/sda",
            "-d /etc",
            "-d/etc",
            "-l /etc/passwd",
            "-z /x",
            "-n",
            "-S",
            "-c",
            "-J device=/dev/sda",
            "-J",
            "-E",
            "-E offset=1",
            "-E root_owner",
            "-E test_fs,x",
            "-O a/b",
            "-L -x",
            "-L a/b",
            "-b",
            "-b x",
            "--",
            "-",
            "-M /x",
            "-o Linux",
            "-U /x",
            "-m -1",
            "a\tb",
            "-Enodiscard=/x",
            "-T /x",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read(&"-q ".repeat(40)).is_err());
        let integrity = |text| {
            let mut options: BTreeMap<&str, &str> = GOOD.into();
            options.extend([("dataIntegrity", "true"), ("mkfsOpts", text)]);
            Plan::read("block-device", options, "/srv").is_ok()
        };
        assert!(integrity("-b 4096") && !integrity("-b 1024") && !integrity("-b1024"));
    }

    proptest! {
        /// Whatever is asked for, what comes out leads nowhere and is no option of a program.
        #[test]
        fn what_passes_is_plain(
            name in "[ -~]{0,20}", path in "[/.a-z\\-\n]{0,20}", words in "[-a-zA-Z0-9=,/^ _.]{0,40}", id in "[0-9:.x]{0,12}",
        ) {
            for (option, value) in [("mapperName", &name), ("devicePath", &path), ("mkfsOpts", &words), ("deviceId", &id)] {
                let Ok(plan) = with(option, Some(value)) else { continue };
                let name = plan.name.unwrap();
                prop_assert!(!name.starts_with(['-', '.']) && !name.contains(['/', ' ']));
                if let Device::Path(path) = plan.device {
                    prop_assert!(path.starts_with('/') && !path.split('/').any(|part| part == ".."));
                }
                if let Target::FileSystem { mkfs } = plan.target {
                    prop_assert!(mkfs.iter().all(|word| !word.contains('/') && !word.is_empty()));
                }
            }
        }

        #[test]
        fn never_panics(kind in ".{0,20}", options in prop::collection::btree_map(".{0,20}", ".{0,40}", 0..8), at in ".{0,20}") {
            let pairs = options.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let _ = Plan::read(&kind, pairs.clone(), &at);
            let _ = Plan::read("block-device", pairs, &at);
        }
    }
}
