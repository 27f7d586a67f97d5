//! pax extended headers: records of `length keyword=value` (POSIX.1-2017, pax, "pax Header Block").
//!
//! Keywords that say nothing about what is unpacked are passed over. Of the others each is there once.

use std::collections::BTreeSet;

use super::{Rule, Time, sparse::PaxSparse};

const XATTR: &[u8] = b"SCHILY.xattr.";
const SPARSE: &[u8] = b"GNU.sparse.";
/// Keywords that change what an entry is for readers that know them, and are ignored by others.
const UNSUPPORTED: [&[u8]; 4] = [b"SCHILY.realsize", b"SCHILY.filetype", b"GNU.dumpdir", b"GNU.volume."];
/// What `hdrcharset` may be: the names are taken as bytes either way.
const CHARSETS: [&[u8]; 2] = [b"BINARY", b"ISO-IR 10646 2000 UTF-8"];

/// What a pax header says about the entry that follows it.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) linkpath: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: PaxSparse,
}

impl Pax {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Rule> {
        let mut pax = Self::default();
        let mut seen = BTreeSet::new();
        for record in Records(bytes) {
            let (keyword, value) = record?;
            let repeats = matches!(keyword, b"GNU.sparse.offset" | b"GNU.sparse.numbytes");
            if !repeats && !seen.insert(keyword) {
                return Err(Rule::PaxDuplicate(shown(keyword)));
            }
            pax.take(keyword, value)?;
        }
        Ok(pax)
    }

    fn take(&mut self, keyword: &[u8], value: &[u8]) -> Result<(), Rule> {
        let malformed = || Rule::PaxValue(shown(keyword));
        match keyword {
            b"path" => self.path = Some(name(value).ok_or_else(|| name_rule(value))?),
            b"linkpath" => self.linkpath = Some(name(value).ok_or_else(|| name_rule(value))?),
            b"size" => self.size = Some(decimal(value).ok_or_else(malformed)?),
            b"uid" => self.uid = Some(decimal(value).ok_or_else(malformed)?),
            b"gid" => self.gid = Some(decimal(value).ok_or_else(malformed)?),
            b"mtime" => self.mtime = Some(time(value).ok_or_else(malformed)?),
            b"hdrcharset" if !CHARSETS.contains(&value) => return Err(malformed()),
            _ if UNSUPPORTED.iter().any(|k| keyword.starts_with(k)) => {
                return Err(Rule::PaxKeyword(shown(keyword)));
            }
            _ => match (keyword.strip_prefix(XATTR), keyword.strip_prefix(SPARSE)) {
                // To some readers an empty value takes the attribute away, to others it is one.
                (Some(_), _) if value.is_empty() => return Err(malformed()),
                (Some([]), _) => return Err(malformed()),
                (Some(attribute), _) => self.xattrs.push((attribute.to_vec(), value.to_vec())),
                (None, Some(b"name")) => {
                    self.sparse.name = Some(name(value).ok_or_else(|| name_rule(value))?)
                }
                (None, Some(rest)) => self.sparse.take(rest, value).ok_or_else(malformed)?,
                (None, None) => {}
            },
        }
        Ok(())
    }
}

/// A global header must not say anything about entries.
pub(super) fn check_global(bytes: &[u8]) -> Result<(), Rule> {
    for record in Records(bytes) {
        let (keyword, _) = record?;
        let plain =
            matches!(keyword, b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime" | b"hdrcharset");
        let families = [XATTR, SPARSE].iter().chain(&UNSUPPORTED).any(|prefix| keyword.starts_with(prefix));
        if plain || families {
            return Err(Rule::GlobalPax(shown(keyword)));
        }
    }
    Ok(())
}

/// The records of a header; ends after the first that is malformed.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), Rule>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = split_record(self.0);
        self.0 = record.map_or(&[], |(_, _, rest)| rest);
        Some(record.map(|(keyword, value, _)| (keyword, value)).ok_or(Rule::PaxRecord))
    }
}

/// Keyword, value, and what follows the first record.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(21).position(|b| *b == b' ')?;
    let (digits, _) = bytes.split_at(space);
    let length = usize::try_from(decimal(digits)?).ok()?;
    if digits.starts_with(b"0") || length <= space + 1 || length > bytes.len() {
        return None;
    }
    let (record, rest) = bytes.split_at(length);
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    let (keyword, value) = record.split_at(equals);
    if keyword.is_empty() || keyword.contains(&0) || keyword.contains(&b'\n') {
        return None;
    }
    Some((keyword, value.get(1..)?, rest))
}

/// Decimal digits alone, up to 2^63-1.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    let add = |sum: u64, b: &u8| b.is_ascii_digit().then(|| sum * 10 + u64::from(b - b'0'));
    text.iter().try_fold(0u64, add).filter(|n| i64::try_from(*n).is_ok())
}

/// Seconds with an optional sign and an optional fraction, of which nine digits count.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |b| *b == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0u32, |sum, b| sum * 10 + u32::from(b - b'0'));
    Some(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// A name: not empty, without NUL.
fn name(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty() && !value.contains(&0)).then(|| value.to_vec())
}

fn name_rule(value: &[u8]) -> Rule {
    if value.is_empty() { Rule::EmptyName } else { Rule::NulInName }
}

/// A keyword for messages.
fn shown(keyword: &[u8]) -> String {
    keyword.iter().take(64).copied().flat_map(std::ascii::escape_default).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_keep_their_order() {
        for (text, seconds, nanoseconds) in [
            (&b"0"[..], 0, 0),
            (b"1700000000.123456789", 1_700_000_000, 123_456_789),
            (b"1.5", 1, 500_000_000),
            (b"1.", 1, 0),
            (b"1.0000000019", 1, 1),
            (b"-1", -1, 0),
            (b"-1.25", -2, 750_000_000),
        ] {
            assert_eq!(time(text), Some(Time { seconds, nanoseconds }), "{text:?}");
        }
        for text in [&b""[..], b"-", b"+1", b"1.2.3", b"1e3", b".5", b" 1", b"99999999999999999999", b"--1"] {
            assert_eq!(time(text), None, "{text:?}");
        }
    }

    #[test]
    fn records_have_one_form() {
        assert_eq!(split_record(b"8 a=b c\nrest"), Some((&b"a"[..], &b"b c"[..], &b"rest"[..])));
        for bad in [
            &b"7 a=b c\n"[..],
            b"9 a=b c\n",
            b"08 a=b c\n",
            b"+8 a=b c\n",
            b" 8 a=b c\n",
            b"8\ta=b c\n",
            b"6 =bc\n",
            b"6 abc\n",
            b"0 a=b\n",
            b"2 a=b\n",
            b"8 a=b c ",
            b"99999999999999999999 a=b\n",
        ] {
            assert_eq!(split_record(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Pax::parse(&bytes);
            let _ = check_global(&bytes);
        }
    }
}
