//! A strict reader for CBOR (RFC 8949): one item, definite lengths, shortest numbers, no key twice.
//!
//! What two readers could read differently is refused, so that a signature over the bytes is a signature over one
//! meaning. Only what attestation tokens consist of is known: no floating point numbers, no unassigned simple values. It
//! is NOT a validator of any schema; the order of keys in a map is free, as in the tokens of real platforms.

use crate::Error;
use crate::read::Reader;

/// Deepest nesting of arrays, maps and tags.
pub const MAX_DEPTH: usize = 16;

/// Most items in one document, those inside of arrays, maps and tags included.
pub const MAX_ITEMS: usize = 4096;

/// Most entries of one map: its keys are compared with each other.
pub const MAX_MAP_LEN: usize = 128;

/// One item; texts and byte strings are borrowed from the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// An integer of either sign, from -2^64 to 2^64 - 1.
    Integer(i128),
    /// A byte string.
    Bytes(&'a [u8]),
    /// A text.
    Text(&'a str),
    /// An array.
    Array(Vec<Value<'a>>),
    /// A map in the order of the document; every key is there once.
    Map(Vec<(Value<'a>, Value<'a>)>),
    /// A tag and what it tags.
    Tag(u64, Box<Value<'a>>),
    /// A truth value.
    Bool(bool),
    /// Null.
    Null,
}

impl<'a> Value<'a> {
    /// Reads a document of exactly one item.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Trailing`]; [`Error::Invalid`] for what this reader refuses (see the module);
    /// [`Error::TooLarge`] beyond [`MAX_DEPTH`], [`MAX_ITEMS`] or [`MAX_MAP_LEN`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut document = Document { reader: Reader::new(bytes), items: 0 };
        let value = document.item(0)?;
        document.reader.finish("a CBOR item")?;
        Ok(value)
    }

    /// The value that a map has for an integer `key`; none if this is no map or has no such key.
    #[must_use]
    pub fn get(&self, key: i128) -> Option<&Self> {
        let Self::Map(entries) = self else { return None };
        entries.iter().find(|(name, _)| *name == Self::Integer(key)).map(|(_, value)| value)
    }

    /// The integer, none if this is something else.
    #[must_use]
    pub const fn integer(&self) -> Option<i128> {
        if let Self::Integer(number) = self { Some(*number) } else { None }
    }

    /// The byte string, none if this is something else.
    #[must_use]
    pub const fn bytes(&self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(*bytes) } else { None }
    }

    /// The text, none if this is something else.
    #[must_use]
    pub const fn text(&self) -> Option<&'a str> {
        if let Self::Text(text) = self { Some(*text) } else { None }
    }

    /// The elements of an array, none if this is something else.
    #[must_use]
    pub fn array(&self) -> Option<&[Self]> {
        if let Self::Array(values) = self { Some(values) } else { None }
    }
}

/// The head of a byte string of `len` bytes, for bytes that are signed in a form of their own.
#[must_use]
pub fn bytes_head(len: usize) -> Vec<u8> {
    let long = u64::try_from(len).unwrap_or(u64::MAX).to_be_bytes();
    let [.., c, d, e, f] = long;
    match len {
        0..=23 => vec![0x40 | f],
        24..=0xFF => vec![0x58, f],
        0x100..=0xFFFF => vec![0x59, e, f],
        0x1_0000..=0xFFFF_FFFF => vec![0x5A, c, d, e, f],
        _ => [&[0x5B], long.as_slice()].concat(),
    }
}

struct Document<'a> {
    reader: Reader<'a>,
    items: usize,
}

impl<'a> Document<'a> {
    fn item(&mut self, depth: usize) -> Result<Value<'a>, Error> {
        self.items += 1;
        if self.items > MAX_ITEMS {
            return Err(Error::TooLarge {
                what: "the number of CBOR items",
                size: self.items,
                limit: MAX_ITEMS,
            });
        }
        if depth > MAX_DEPTH {
            return Err(Error::TooLarge { what: "the nesting of CBOR items", size: depth, limit: MAX_DEPTH });
        }
        let [first] = *self.reader.array("cbor.head")?;
        let (kind, info) = (first >> 5, first & 0x1F);
        if kind == 7 {
            return match info {
                20 => Ok(Value::Bool(false)),
                21 => Ok(Value::Bool(true)),
                22 => Ok(Value::Null),
                _ => Err(refused(format!(
                    "{first:#04x} is no integer, string, array, map, tag or truth value"
                ))),
            };
        }
        let number = self.number(info)?;
        match kind {
            0 => Ok(Value::Integer(number.into())),
            1 => Ok(Value::Integer(-1 - i128::from(number))),
            2 => self.string(number).map(Value::Bytes),
            3 => std::str::from_utf8(self.string(number)?)
                .map(Value::Text)
                .map_err(|_| refused("a text is not UTF-8".to_owned())),
            4 => {
                let length = self.count(number, 1)?;
                (0..length).map(|_| self.item(depth + 1)).collect::<Result<_, _>>().map(Value::Array)
            }
            5 => self.map(number, depth + 1),
            _ => Ok(Value::Tag(number, Box::new(self.item(depth + 1)?))),
        }
    }

    fn map(&mut self, number: u64, depth: usize) -> Result<Value<'a>, Error> {
        let length = self.count(number, 2)?;
        if length > MAX_MAP_LEN {
            return Err(Error::TooLarge {
                what: "the number of CBOR map entries",
                size: length,
                limit: MAX_MAP_LEN,
            });
        }
        let mut entries: Vec<(Value<'a>, Value<'a>)> = Vec::new();
        for _ in 0..length {
            let (key, value) = (self.item(depth)?, self.item(depth)?);
            if entries.iter().any(|(other, _)| *other == key) {
                return Err(refused("a map has a key twice".to_owned()));
            }
            entries.push((key, value));
        }
        Ok(Value::Map(entries))
    }

    /// The number that belongs to a head.
    fn number(&mut self, info: u8) -> Result<u64, Error> {
        let (number, least) = match info {
            0..=23 => (u64::from(info), 0),
            24 => (u64::from(self.reader.u8("cbor.number")?), 24),
            25 => (u64::from(u16::from_be_bytes(*self.reader.array("cbor.number")?)), 0x100),
            26 => (u64::from(u32::from_be_bytes(*self.reader.array("cbor.number")?)), 0x1_0000),
            27 => (u64::from_be_bytes(*self.reader.array("cbor.number")?), 0x1_0000_0000),
            31 => return Err(refused("a length is not told in advance".to_owned())),
            _ => return Err(refused(format!("a number has the reserved length {info}"))),
        };
        if number < least {
            return Err(refused(format!("the number {number} is not written in its shortest form")));
        }
        Ok(number)
    }

    fn string(&mut self, length: u64) -> Result<&'a [u8], Error> {
        self.reader.take(usize::try_from(length).unwrap_or(usize::MAX), "cbor.string")
    }

    /// A number of elements, of which each has `least` items of one byte or more: more cannot follow.
    fn count(&self, number: u64, least: usize) -> Result<usize, Error> {
        let (left, count) = (self.reader.left(), usize::try_from(number).unwrap_or(usize::MAX));
        match count.checked_mul(least) {
            Some(need) if need <= left => Ok(count),
            need => {
                let need = need.unwrap_or(usize::MAX);
                Err(Error::Truncated { field: "cbor.elements", need, left })
            }
        }
    }
}

fn refused(why: String) -> Error {
    Error::Invalid { field: "cbor", why }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(hex: &str) -> Result<String, &'static str> {
        let bytes = hex::decode(hex).unwrap();
        Value::parse(&bytes).map(|value| format!("{value:?}")).map_err(|error| error.code())
    }

    /// Examples of RFC 8949, appendix A, and what they become.
    #[test]
    fn items_of_the_standards_examples() {
        for (hex, expected) in [
            ("00", "Integer(0)"),
            ("17", "Integer(23)"),
            ("1818", "Integer(24)"),
            ("1903e8", "Integer(1000)"),
            ("1bffffffffffffffff", "Integer(18446744073709551615)"),
            ("20", "Integer(-1)"),
            ("3822", "Integer(-35)"),
            ("3bffffffffffffffff", "Integer(-18446744073709551616)"),
            ("4401020304", "Bytes([1, 2, 3, 4])"),
            ("62c3bc", "Text(\"ü\")"),
            ("f4", "Bool(false)"),
            ("f5", "Bool(true)"),
            ("f6", "Null"),
            ("820102", "Array([Integer(1), Integer(2)])"),
            ("a201020304", "Map([(Integer(1), Integer(2)), (Integer(3), Integer(4))])"),
            ("c101", "Tag(1, Integer(1))"),
        ] {
            assert_eq!(parse(hex).as_deref(), Ok(expected), "{hex}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let invalid = Err("EVIDENCE_FIELD_INVALID");
        for hex in [
            "1817",
            "1900ff",
            "1a0000ffff",
            "1b00000000ffffffff",
            "5800", // longer than needed
            "5fff",
            "7fff",
            "9fff",
            "bfff",
            "ff", // no length in advance
            "1c",
            "1f",
            "fb3ff0000000000000",
            "f97e00",
            "f7",
            "f0",
            "f820", // reserved, floating point, undefined
            "61ff", // not UTF-8
            "a201020103",
            "a2410102410103", // a key twice
        ] {
            assert_eq!(parse(hex).map(|_| ()), invalid, "{hex}");
        }
        for hex in [
            "",
            "18",
            "44010203",
            "81",
            "a101",
            "9bffffffffffffffff",
            "bbffffffffffffffff",
            "c1",
            "5bffffffffffffffff",
        ] {
            assert_eq!(parse(hex).map(|_| ()), Err("EVIDENCE_TRUNCATED"), "{hex}");
        }
        assert_eq!(parse("0000").map(|_| ()), Err("EVIDENCE_TRAILING_BYTES"));
    }

    #[test]
    fn depth_and_number_are_bounded() {
        assert!(parse(&("81".repeat(MAX_DEPTH) + "00")).is_ok());
        assert_eq!(parse(&("81".repeat(MAX_DEPTH + 1) + "00")).map(|_| ()), Err("EVIDENCE_TOO_LARGE"));
        assert_eq!(parse(&"c1".repeat(100_000)).map(|_| ()), Err("EVIDENCE_TOO_LARGE"));
        let array = |length: u16| [&[0x99], &length.to_be_bytes()[..], &vec![0; length.into()]].concat();
        assert!(Value::parse(&array(4095)).is_ok());
        assert!(Value::parse(&array(4096)).is_err());
        let map =
            |length: u8| (0..length).fold(vec![0xB8, length], |map, n| [map, vec![0x18, n + 24, 0]].concat());
        assert!(Value::parse(&map(128)).is_ok());
        assert!(Value::parse(&map(129)).is_err());
    }

    #[test]
    fn maps_are_asked_by_key() {
        let value = Value::parse(&[0xA2, 0x0A, 0x41, 7, 0x20, 0x61, b'x']).unwrap();
        assert_eq!(value.get(10).and_then(Value::bytes), Some(&[7][..]));
        assert_eq!(value.get(-1).and_then(Value::text), Some("x"));
        assert_eq!(value.get(0), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Value::parse(&bytes);
        }

        #[test]
        fn written_heads_read_back(len in prop_oneof![0usize..300, 65_500usize..65_600]) {
            let bytes = [bytes_head(len), vec![7; len]].concat();
            prop_assert_eq!(Value::parse(&bytes).unwrap().bytes().map(<[u8]>::len), Some(len));
        }
    }
}
