//! The mapping of an opened volume as the kernel has it, compared with the header that it was opened with.
//!
//! A line of the mapping's table (dm-crypt, Linux `Documentation/admin-guide/device-mapper/dm-crypt.rst`) is
//! `START LENGTH crypt CIPHER KEY IV_OFFSET DEVICE OFFSET [NUMBER OPTION…]`, in sectors of 512 bytes. Pure: the text comes from the
//! kernel, by whoever asks it. It does NOT tell whether the key is the right one: that is what the data shows.

use crate::{Error, luks2::Header};

/// Bytes of the sector that tables count in.
const SECTOR_LEN: u64 = 512;

/// Ciphers of a header, with the kind of integrity (empty for none), and what the kernel calls them.
const CIPHERS: [(&str, &str, &str); 5] = [
    ("aes-xts-plain64", "", "aes-xts-plain64"),
    ("aes-xts-plain64", "hmac(sha256)", "capi:authenc(hmac(sha256),xts(aes))-plain64"),
    ("aes-xts-random", "hmac(sha256)", "capi:authenc(hmac(sha256),xts(aes))-random"),
    ("aegis128-random", "aead", "capi:aegis128-random"),
    ("aegis256-random", "aead", "capi:aegis256-random"),
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
    /// Whether the key lies in the kernel's keyring as a key of type `logon`, which nobody can read back.
    pub key_in_keyring: bool,
    /// Added to the sector's number.
    pub iv_offset: u64,
    /// The device below, `MAJOR:MINOR`.
    pub device: String,
    /// First sector on the device below.
    pub offset: u64,
    /// Options: `sector_size:4096`, `integrity:32:aead`, …
    pub options: Vec<String>,
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
        let key_in_keyring = is_in_keyring(word("key")?);
        let number = |name, text: &str| {
            text.parse::<u64>().map_err(|_| mapping(format!("the {name} in its table is no number")))
        };
        let iv_offset = number("IV offset", word("IV offset")?)?;
        let device = word("device")?.to_owned();
        let offset = number("offset", word("offset")?)?;
        let mut options: Vec<String> = words.map(str::to_owned).collect();
        if !options.is_empty() {
            let counted = number("number of options", &options.remove(0))?;
            if counted != options.len() as u64 {
                return Err(mapping(format!("its table counts {counted} options and has {}", options.len())));
            }
        }
        Ok(Self { start, length, cipher, key_in_keyring, iv_offset, device, offset, options })
    }

    /// Compares the mapping with the header that the volume was opened with. `allow_discards` is the policy's.
    ///
    /// # Errors
    /// [`Error::Mapping`] with the first difference.
    pub fn check(&self, header: &Header, allow_discards: bool) -> Result<(), Error> {
        let segment = header.metadata().segments.get(&0).and_then(|segment| segment.crypt.as_ref());
        let segment = segment.ok_or_else(|| mapping("its header has no encrypted segment 0".to_owned()))?;
        let integrity = segment.integrity.as_ref().map_or("", |integrity| &integrity.kind);
        let known = CIPHERS
            .iter()
            .find(|(cipher, kind, _)| (*cipher, *kind) == (segment.encryption.as_str(), integrity));
        let (.., cipher) = known.ok_or_else(|| {
            mapping(format!("its header has a cipher that is not known here: {:?}", segment.encryption))
        })?;
        let differs = |what: &str, found: &str, expected: &str| {
            Err(mapping(format!("{what} is {found}, its header says {expected}")))
        };
        if self.cipher != *cipher {
            return differs("the cipher", &format!("{:?}", self.cipher), cipher);
        }
        if !self.key_in_keyring {
            return Err(mapping("its key is not kept in the kernel's keyring".to_owned()));
        }
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
        let sector =
            self.options.iter().find_map(|option| option.strip_prefix("sector_size:")).unwrap_or("512");
        if sector != segment.sector_size.to_string() {
            return differs("the sector size", sector, &segment.sector_size.to_string());
        }
        let has_tags = self.options.iter().any(|option| option.starts_with("integrity:"));
        if has_tags == integrity.is_empty() {
            return differs("integrity", if has_tags { "on" } else { "off" }, "the opposite");
        }
        if !allow_discards && self.options.iter().any(|option| option == "allow_discards") {
            return Err(mapping("it passes discards to the host, which the policy forbids".to_owned()));
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

/// `:64:logon:cryptsetup:…`; a key in place is hexadecimal digits.
fn is_in_keyring(key: &str) -> bool {
    let mut fields = key.splitn(4, ':');
    matches!(
        (fields.next(), fields.next(), fields.next(), fields.next()),
        (Some(""), Some(_), Some("logon"), Some(description)) if !description.is_empty()
    )
}

fn mapping(why: String) -> Error {
    Error::Mapping { why }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_kernel_tells_is_read() {
        let text = "aes-xts-plain64 :64:logon:cryptsetup:6a2d-d0 0 254:16 32768 1 sector_size:4096";
        let target = CryptTarget::parse(0, 98304, text).unwrap();
        assert_eq!((target.cipher.as_str(), target.offset, target.length), ("aes-xts-plain64", 32768, 98304));
        assert!(target.key_in_keyring);
        assert_eq!(
            (target.device.as_str(), target.options.as_slice()),
            ("254:16", &["sector_size:4096".to_owned()][..])
        );
        target.check_length((32768 + 98304) * 512).unwrap();
        target.check_length((32768 + 98304) * 512 + 1024).unwrap();
        assert!(target.check_length((32768 + 98304) * 512 + 4096).is_err());
        assert!(target.check_length(32768 * 512).is_err());
    }

    #[test]
    fn a_key_that_can_be_read_back_is_told_from_one_that_cannot() {
        for (key, kept) in [
            (":64:logon:cryptsetup:x", true),
            (":64:user:cryptsetup:x", false),
            (":64:logon:", false),
            ("00112233", false),
            ("-", false),
        ] {
            let target = CryptTarget::parse(0, 8, &format!("aes-xts-plain64 {key} 0 254:16 32768")).unwrap();
            assert_eq!(target.key_in_keyring, kept, "{key}");
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
            }
        }
    }
}
