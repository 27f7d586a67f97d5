//! What lies below a volume with integrity: the mapping of type `integrity` that keeps a tag for each sector.
//!
//! A line of its table (dm-integrity, Linux `Documentation/admin-guide/device-mapper/dm-integrity.rst`) is
//! `START LENGTH integrity DEVICE RESERVED TAG_SIZE MODE [NUMBER OPTION…]`, in sectors of 512 bytes. The tags are dm-crypt's, which lies
//! above: this mapping computes none. Pure, as [`crate::dm_crypt`].

use crate::{
    Error,
    dm_crypt::{SECTOR_LEN, counted, differs, mapping, number, segment, tag_len},
    luks2::Header,
};

/// Options that say where tags lie between the data, and how the journal is kept.
const HARMLESS: [&str; 7] = [
    "journal_sectors",
    "interleave_sectors",
    "buffer_sectors",
    "journal_watermark",
    "commit_time",
    "sectors_per_bit",
    "bitmap_flush_interval",
];

/// What libcryptsetup calls the mapping that keeps the tags of the mapping `name`.
#[must_use]
pub fn tags_name(name: &str) -> String {
    format!("{name}_dif")
}

/// Whether `found` is the identifier that the device mapper has for the mapping with the tags of `name`, which is a mapping of the volume
/// `uuid`: `CRYPT-SUBDEV-…`, of libcryptsetup before 2.7 `CRYPT-INTEGRITY-…`.
#[must_use]
pub fn is_tags_uuid(found: &str, uuid: &str, name: &str) -> bool {
    let rest = ["CRYPT-SUBDEV-", "CRYPT-INTEGRITY-"].iter().find_map(|start| found.strip_prefix(start));
    rest == Some(&format!("{}-{}", uuid.replace('-', ""), tags_name(name)))
}

/// Whether a mapping is one that libcryptsetup has made for the moment in which it lays down tags on a device.
#[must_use]
pub fn is_temporary(name: &str, found: &str) -> bool {
    name.starts_with("temporary-cryptsetup-") && found.strip_prefix("CRYPT-INTEGRITY-") == Some(name)
}

/// A mapping of one target of type `integrity`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntegrityTarget {
    /// First sector of the mapping; 0 if the target is all of it.
    pub start: u64,
    /// Sectors of the mapping.
    pub length: u64,
    /// The device below, `MAJOR:MINOR`.
    pub device: String,
    /// First sector on the device below.
    pub reserved: u64,
    /// Bytes of a tag.
    pub tag_size: u64,
    /// `J` with a journal, `B` with a bitmap, `D` without either, `R` in recovery.
    pub mode: String,
    /// Options: `block_size:4096`, …
    pub options: Vec<String>,
}

impl IntegrityTarget {
    /// Reads the parameters of a target that begins at sector `start` and has `length` of them.
    ///
    /// # Errors
    /// [`Error::Mapping`] if it is not the form of a target of type `integrity`.
    pub fn parse(start: u64, length: u64, text: &str) -> Result<Self, Error> {
        let mut words = text.split_ascii_whitespace();
        let mut word =
            |name| words.next().ok_or_else(|| mapping(format!("the table below it has no {name}")));
        let device = word("device")?.to_owned();
        let reserved = number("first sector", word("first sector")?)?;
        let tag_size = number("tag size", word("tag size")?)?;
        let mode = word("mode")?.to_owned();
        let options = counted(words)?;
        Ok(Self { start, length, device, reserved, tag_size, mode, options })
    }

    /// Compares the mapping with the header of the volume above it, which has `above` sectors.
    ///
    /// # Errors
    /// [`Error::Mapping`] with the first difference.
    pub fn check(&self, header: &Header, above: u64, allow_discards: bool) -> Result<(), Error> {
        let segment = segment(header)?;
        let tag_len = tag_len(segment)?;
        if tag_len == 0 {
            return Err(mapping("its header knows of no integrity".to_owned()));
        }
        if self.tag_size != u64::from(tag_len) {
            return differs("the length of a tag", &self.tag_size.to_string(), &tag_len.to_string());
        }
        if self.start != 0 || self.reserved != segment.offset / SECTOR_LEN {
            let expected = segment.offset / SECTOR_LEN;
            return differs("the first sector below", &self.reserved.to_string(), &expected.to_string());
        }
        if self.length != above {
            return differs("the length below", &self.length.to_string(), &above.to_string());
        }
        if !["J", "B", "D"].contains(&self.mode.as_str()) {
            return Err(mapping(format!(
                "integrity is in the mode {:?}, in which tags may be wrong",
                self.mode
            )));
        }
        let mut block_size = "512";
        for option in &self.options {
            let (name, value) = option.split_once(':').unwrap_or((option, ""));
            match name {
                "block_size" => block_size = value,
                "allow_discards" if allow_discards => {}
                "fix_padding" | "fix_hmac" if value.is_empty() => {}
                _ if HARMLESS.contains(&name) => {}
                _ => return Err(mapping(format!("the table below it has the option {option:?}"))),
            }
        }
        if block_size != segment.sector_size.to_string() {
            return differs("the block size below", block_size, &segment.sector_size.to_string());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::luks2::sample;

    const GOOD: &str = "254:16 2048 32 J 6 block_size:4096 journal_sectors:960 interleave_sectors:32768 buffer_sectors:128 \
                        journal_watermark:50 commit_time:10000";

    #[test]
    fn a_mapping_of_tags_is_told_from_those_of_others() {
        let uuid = "6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10";
        let good = "CRYPT-SUBDEV-6a2d7e1c93f44a558f701d3b2c5e9a10-data_dif";
        assert!(is_tags_uuid(good, uuid, "data"));
        assert!(is_tags_uuid(&good.replace("SUBDEV", "INTEGRITY"), uuid, "data"));
        for (from, to) in [
            ("6a2d", "6a2e"),
            ("data", "date"),
            ("_dif", ""),
            ("SUBDEV", "LUKS2"),
            ("CRYPT-", ""),
            (good, ""),
        ] {
            assert!(!is_tags_uuid(&good.replace(from, to), uuid, "data"), "{from} {to}");
        }
        let name = "temporary-cryptsetup-7";
        assert!(is_temporary(name, "CRYPT-INTEGRITY-temporary-cryptsetup-7"));
        for (name, found) in [
            (name, ""),
            (name, "CRYPT-INTEGRITY-temporary-cryptsetup-8"),
            (name, "CRYPT-TEMP-temporary-cryptsetup-7"),
            ("data", "CRYPT-INTEGRITY-data"),
        ] {
            assert!(!is_temporary(name, found), "{name} {found}");
        }
    }

    #[test]
    fn the_mapping_below_keeps_the_tags_that_the_header_tells_of() {
        let header = sample::header(&sample::with_integrity());
        let check = |text: &str| IntegrityTarget::parse(0, 80, text).unwrap().check(&header, 80, false);
        check(GOOD).unwrap();
        check(&GOOD.replace(" J 6 ", " D 6 ")).unwrap();
        check(&GOOD.replace(" J 6 ", " J 7 fix_padding ")).unwrap();
        for (from, to) in [
            (" 2048 ", " 0 "),
            (" 32 ", " 0 "),
            (" J ", " R "),
            (" J ", " X "),
            ("block_size:4096", "block_size:512"),
            (" 6 ", " 7 internal_hash:crc32c "),
            (" 6 ", " 7 recalculate "),
            (" 6 ", " 7 allow_discards "),
            (" 6 ", " 7 meta_device:254:32 "),
            (" 6 ", " 7 journal_crypt:cbc(aes) "),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD);
            assert!(check(&text).is_err(), "{text}");
        }
        let target = IntegrityTarget::parse(0, 80, GOOD).unwrap();
        assert!(target.check(&header, 88, false).is_err(), "another length");
        assert!(target.check(&sample::header(&sample::plain()), 80, false).is_err(), "no integrity");
        for text in ["", "254:16", "254:16 0 32", "254:16 x 32 J", "254:16 0 32 J 2 a"] {
            assert!(IntegrityTarget::parse(0, 80, text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,200}", start in any::<u64>(), length in any::<u64>()) {
            if let Ok(target) = IntegrityTarget::parse(start, length, &text) {
                let _ = target.check(&sample::header(&sample::with_integrity()), length, true);
            }
        }
    }
}
