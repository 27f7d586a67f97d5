//! The mapping of an opened volume as the kernel has it, compared with the header that it was opened with.
//!
//! A line of the mapping's table (dm-crypt, Linux `Documentation/admin-guide/device-mapper/dm-crypt.rst`) is
//! `START LENGTH crypt CIPHER KEY IV_OFFSET DEVICE OFFSET [NUMBER OPTION…]`, in sectors of 512 bytes. Pure: the text comes from the
//! kernel, by whoever asks it. It does NOT tell whether the key is the right one: that is what the data shows. What lies below a
//! volume with integrity is [`crate::dm_integrity`]'s.

use crate::{
    Error,
    luks2::{Header, format::CryptSegment},
};

/// Bytes of the sector that tables count in.
pub(crate) const SECTOR_LEN: u64 = 512;

/// Options that say how fast and in which order, and nothing else.
const HARMLESS: [&str; 5] =
    ["same_cpu_crypt", "submit_from_crypt_cpus", "no_read_workqueue", "no_write_workqueue", "high_priority"];

/// A cipher of a header, with the kind of integrity (empty for none), what the kernel calls it, and the bytes of a sector's tag.
struct Known(&'static str, &'static str, &'static str, u32);

const CIPHERS: [Known; 5] = [
    Known("aes-xts-plain64", "", "aes-xts-plain64", 0),
    Known("aes-xts-plain64", "hmac(sha256)", "capi:authenc(hmac(sha256),xts(aes))-plain64", 32),
    // Where the vector is random it is kept beside the code: 16 bytes, of AEGIS-256 32.
    Known("aes-xts-random", "hmac(sha256)", "capi:authenc(hmac(sha256),xts(aes))-random", 48),
    Known("aegis128-random", "aead", "capi:aegis128-random", 32),
    Known("aegis256-random", "aead", "capi:aegis256-random", 48),
];

/// A mapping of one target of type `crypt`, without its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CryptTarget {
    /// First sector of the mapping; 0 if the target is all of it.
    pub start: u64,
    /// Sectors of the mapping.
    pub length: u64,
    /// What encrypts it, as the kernel calls it.
    pub cipher: String,
    /// The key, if it lies in the kernel's keyring as one of type `logon`, which nobody can read back.
    pub key: Option<KernelKey>,
    /// Added to the sector's number.
    pub iv_offset: u64,
    /// The device below, `MAJOR:MINOR`.
    pub device: String,
    /// First sector on the device below.
    pub offset: u64,
    /// Options: `sector_size:4096`, `integrity:32:aead`, …
    pub options: Vec<String>,
}

/// A key in the kernel's keyring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelKey {
    /// Its bytes.
    pub length: u32,
    /// Its name there.
    pub description: String,
}

/// The identifier that the device mapper has for the mapping `name` of the volume `uuid` (libcryptsetup, `dm_prepare_uuid`):
/// whoever made the mapping has read that UUID in its header.
#[must_use]
pub fn mapping_uuid(uuid: &str, name: &str) -> String {
    format!("CRYPT-LUKS2-{}-{name}", uuid.replace('-', ""))
}

impl CryptTarget {
    /// Reads the parameters of a target that begins at sector `start` and has `length` of them. The caller wipes `text`: with a
    /// key that is not in the keyring it holds that.
    ///
    /// # Errors
    /// [`Error::Mapping`] if it is not the form of a target of type `crypt`.
    pub fn parse(start: u64, length: u64, text: &str) -> Result<Self, Error> {
        let mut words = text.split_ascii_whitespace();
        let mut word = |name| words.next().ok_or_else(|| mapping(format!("its table has no {name}")));
        let cipher = word("cipher")?.to_owned();
        let key = in_keyring(word("key")?);
        let iv_offset = number("IV offset", word("IV offset")?)?;
        let device = word("device")?.to_owned();
        let offset = number("offset", word("offset")?)?;
        let options = counted(words)?;
        Ok(Self { start, length, cipher, key, iv_offset, device, offset, options })
    }

    /// Compares the mapping with the header that the volume was opened with. `allow_discards` is the policy's.
    ///
    /// # Errors
    /// [`Error::Mapping`] with the first difference.
    pub fn check(&self, header: &Header, allow_discards: bool) -> Result<(), Error> {
        let segment = segment(header)?;
        let Known(_, integrity, cipher, tag_len) = known(segment)?;
        if self.cipher != *cipher {
            return differs("the cipher", &format!("{:?}", self.cipher), cipher);
        }
        self.check_key(header)?;
        if self.start != 0 || self.iv_offset != 0 {
            return differs(
                "the first sector",
                &format!("{} (IV {})", self.start, self.iv_offset),
                "0 (IV 0)",
            );
        }
        // With integrity the device below is the one of dm-integrity, which is mapped behind the header already.
        let offset = if integrity.is_empty() { segment.offset / SECTOR_LEN } else { 0 };
        if self.offset != offset {
            return differs("the offset on the device", &self.offset.to_string(), &offset.to_string());
        }
        if self.length == 0 || !self.length.is_multiple_of(u64::from(segment.sector_size) / SECTOR_LEN) {
            return differs("the length", &self.length.to_string(), "whole sectors");
        }
        self.check_options(segment, *tag_len, allow_discards)
    }

    /// The name that cryptsetup gives a key in the keyring: `cryptsetup:UUID-dDIGEST`.
    fn check_key(&self, header: &Header) -> Result<(), Error> {
        let key = self.key.as_ref();
        let key = key.ok_or_else(|| mapping("its key is not kept in the kernel's keyring".to_owned()))?;
        let uuid = &header.binary().uuid;
        let names: Vec<String> =
            header.metadata().digests.keys().map(|number| format!("cryptsetup:{uuid}-d{number}")).collect();
        if !names.contains(&key.description) {
            return differs("the key in the keyring", &format!("{:?}", key.description), &names.join(" or "));
        }
        let slots = header.metadata().keyslots.values().filter_map(|keyslot| keyslot.slot.as_ref());
        let lengths: Vec<u32> = slots.map(|slot| slot.key_size).collect();
        if lengths.is_empty() || lengths.iter().any(|length| *length != key.length) {
            return differs("the length of the key", &key.length.to_string(), &format!("{lengths:?}"));
        }
        Ok(())
    }

    /// Whatever is not known here may change what is read or who learns of it.
    fn check_options(&self, segment: &CryptSegment, tag_len: u32, discards: bool) -> Result<(), Error> {
        let mut sector_size = "512";
        let mut has_tags = false;
        for (place, option) in self.options.iter().enumerate() {
            if self.options.iter().skip(place + 1).any(|other| other == option) {
                return Err(mapping(format!("its table has the option {option:?} twice")));
            }
            let (name, value) = option.split_once(':').unwrap_or((option, ""));
            match name {
                "sector_size" => sector_size = value,
                "integrity" if value == format!("{tag_len}:aead") && tag_len > 0 => has_tags = true,
                // The key of HMAC-SHA-256 is the end of the volume key, as it is without this word.
                "integrity_key_size" if value == "32" && tag_len > 0 => {}
                "allow_discards" if discards => {}
                "allow_discards" => {
                    let why = "it passes discards to the host, which the policy forbids";
                    return Err(mapping(why.to_owned()));
                }
                _ if HARMLESS.contains(&option.as_str()) => {}
                _ => return Err(mapping(format!("its table has the option {option:?}"))),
            }
        }
        if sector_size != segment.sector_size.to_string() {
            return differs("the sector size", sector_size, &segment.sector_size.to_string());
        }
        if has_tags != (tag_len > 0) {
            return differs("integrity", if has_tags { "on" } else { "off" }, "the opposite");
        }
        Ok(())
    }

    /// Compares the mapping's end with that of a device below of `device_len` bytes: a `dynamic` segment ends there, but for less
    /// than one sector of 4096 bytes.
    ///
    /// # Errors
    /// [`Error::Mapping`] if it ends elsewhere.
    pub fn check_length(&self, device_len: u64) -> Result<(), Error> {
        let sectors = device_len / SECTOR_LEN;
        let left = self.offset.checked_add(self.length).and_then(|end| sectors.checked_sub(end));
        if left.is_none_or(|left| left >= 4096 / SECTOR_LEN) {
            let found = format!("{} sectors from sector {}", self.length, self.offset);
            return Err(mapping(format!("it has {found}, the device below has {sectors}")));
        }
        Ok(())
    }
}

/// The one segment of a header that the policy admits.
pub(crate) fn segment(header: &Header) -> Result<&CryptSegment, Error> {
    let segment = header.metadata().segments.get(&0).and_then(|segment| segment.crypt.as_ref());
    segment.ok_or_else(|| mapping("its header has no encrypted segment 0".to_owned()))
}

/// Bytes of the tag that a volume with this segment keeps of each sector; 0 without integrity.
pub(crate) fn tag_len(segment: &CryptSegment) -> Result<u32, Error> {
    known(segment).map(|known| known.3)
}

fn known(segment: &CryptSegment) -> Result<&'static Known, Error> {
    let integrity = segment.integrity.as_ref().map_or("", |integrity| &integrity.kind);
    let known = CIPHERS.iter().find(|known| (known.0, known.1) == (segment.encryption.as_str(), integrity));
    known.ok_or_else(|| {
        mapping(format!("its header has a cipher that is not known here: {:?}", segment.encryption))
    })
}

/// The number of options, and as many of them.
pub(crate) fn counted<'a>(mut words: impl Iterator<Item = &'a str>) -> Result<Vec<String>, Error> {
    let Some(count) = words.next() else { return Ok(Vec::new()) };
    let count = number("number of options", count)?;
    let options: Vec<String> = words.map(str::to_owned).collect();
    if count != options.len() as u64 {
        return Err(mapping(format!("its table counts {count} options and has {}", options.len())));
    }
    Ok(options)
}

pub(crate) fn number(name: &str, text: &str) -> Result<u64, Error> {
    text.parse().map_err(|_| mapping(format!("the {name} in its table is no number")))
}

pub(crate) fn differs<T>(what: &str, found: &str, expected: &str) -> Result<T, Error> {
    Err(mapping(format!("{what} is {found}, its header says {expected}")))
}

pub(crate) fn mapping(why: String) -> Error {
    Error::Mapping { why }
}

/// `:64:logon:cryptsetup:…`; a key in place is hexadecimal digits.
fn in_keyring(key: &str) -> Option<KernelKey> {
    let (length, rest) = key.strip_prefix(':')?.split_once(':')?;
    let description = rest.strip_prefix("logon:").filter(|description| !description.is_empty())?;
    Some(KernelKey { length: length.parse().ok()?, description: description.to_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::luks2::sample;

    const GOOD: &str = "aes-xts-plain64 :64:logon:cryptsetup:6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10-d0 0 254:16 2048 1 sector_size:4096";

    #[test]
    fn what_the_kernel_tells_is_read() {
        let target = CryptTarget::parse(0, 98304, GOOD).unwrap();
        assert_eq!((target.cipher.as_str(), target.offset, target.length), ("aes-xts-plain64", 2048, 98304));
        assert_eq!(
            (target.device.as_str(), target.options.as_slice()),
            ("254:16", &["sector_size:4096".to_owned()][..])
        );
        target.check_length((2048 + 98304) * 512).unwrap();
        target.check_length((2048 + 98304) * 512 + 1024).unwrap();
        assert!(target.check_length((2048 + 98304) * 512 + 4096).is_err());
        assert!(target.check_length(2048 * 512).is_err());
    }

    #[test]
    fn a_key_that_can_be_read_back_is_told_from_one_that_cannot() {
        for (key, kept) in [
            (":64:logon:cryptsetup:x", true),
            (":64:user:cryptsetup:x", false),
            (":64:logon:", false),
            (":x:logon:cryptsetup:x", false),
            ("00112233", false),
            ("-", false),
        ] {
            let target = CryptTarget::parse(0, 8, &format!("aes-xts-plain64 {key} 0 254:16 32768")).unwrap();
            assert_eq!(target.key.is_some(), kept, "{key}");
        }
    }

    /// Every difference from the header is found, and an option that is not known is one.
    #[test]
    fn a_mapping_is_as_its_header_says_or_it_is_refused() {
        let header = sample::header(&sample::plain());
        let check = |text: &str| CryptTarget::parse(0, 98304, text).unwrap().check(&header, false);
        check(GOOD).unwrap();
        check(&GOOD.replace("1 sector_size", "3 no_read_workqueue same_cpu_crypt sector_size")).unwrap();
        for (from, to) in [
            ("aes-xts-plain64", "aes-cbc-plain64"),
            ("aes-xts-plain64", "cipher_null-ecb"),
            (":64:", ":32:"),
            ("logon", "user"),
            ("-d0", "-d1"),
            ("6a2d", "6a2e"),
            ("cryptsetup:6a2d", "other:6a2d"),
            (" 0 254", " 8 254"),
            (" 2048 ", " 0 "),
            ("sector_size:4096", "sector_size:512"),
            ("1 sector_size:4096", "0"),
            ("1 sector_size:4096", "2 sector_size:4096 sector_size:4096"),
            ("1 sector_size:4096", "2 sector_size:4096 iv_large_sectors"),
            ("1 sector_size:4096", "2 sector_size:4096 allow_discards"),
            ("1 sector_size:4096", "2 sector_size:4096 integrity:32:aead"),
            ("1 sector_size:4096", "2 sector_size:4096 unheard_of"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD);
            let error = check(&text).unwrap_err();
            assert_eq!(error.code(), "LUKS_MAPPING_DIFFERS", "{text}");
        }
        for (start, length) in [(8, 98304), (0, 98305), (0, 0)] {
            assert!(CryptTarget::parse(start, length, GOOD).unwrap().check(&header, false).is_err());
        }
        let discards = GOOD.replace("1 sector", "2 allow_discards sector");
        CryptTarget::parse(0, 98304, &discards).unwrap().check(&header, true).unwrap();
        assert_eq!(
            mapping_uuid(&header.binary().uuid, "data"),
            "CRYPT-LUKS2-6a2d7e1c93f44a558f701d3b2c5e9a10-data"
        );
    }

    #[test]
    fn a_mapping_with_integrity_has_tags_of_the_right_length_and_begins_at_once() {
        let header = sample::header(&sample::with_integrity());
        let good = GOOD
            .replace("aes-xts-plain64 :64", "capi:authenc(hmac(sha256),xts(aes))-plain64 :96")
            .replace(" 2048 1 ", " 0 2 integrity:32:aead ");
        let check = |text: &str| CryptTarget::parse(0, 98304, text).unwrap().check(&header, false);
        check(&good).unwrap();
        check(&good.replace(" 2 int", " 3 integrity_key_size:32 int")).unwrap();
        for (from, to) in [
            ("integrity:32:aead", "integrity:0:none"),
            ("integrity:32:aead", "integrity:48:aead"),
            ("2 integrity:32:aead", "1"),
            (" 2 int", " 3 integrity_key_size:0 int"),
            (" 0 2 ", " 2048 2 "),
            (":96:", ":64:"),
        ] {
            assert!(check(&good.replace(from, to)).is_err(), "{from} {to}");
        }
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in ["", "aes-xts-plain64", "a - 0 1:1", "a - x 1:1 0", "a - 0 1:1 0 2 one", "a - 0 1:1 0 x"]
        {
            assert!(CryptTarget::parse(0, 8, text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,200}", start in any::<u64>(), length in any::<u64>(), device in any::<u64>()) {
            if let Ok(target) = CryptTarget::parse(start, length, &text) {
                let _ = target.check_length(device);
                let _ = target.check(&sample::header(&sample::plain()), false);
            }
        }
    }
}
