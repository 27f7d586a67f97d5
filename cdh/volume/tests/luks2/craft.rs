//! Writes headers, good and bad: changes what is in the copies of one and makes the checksums fit again.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const BINARY_LEN: usize = 4096;
const CHECKSUM: std::ops::Range<usize> = 448..480;

/// Bytes of one copy of [`sample`], and of its whole header area.
pub(crate) const SIZE: usize = 0x4000;
const AREA_LEN: usize = 2 * SIZE + 0x40000;

/// A header area that is being changed.
#[derive(Clone)]
pub(crate) struct Craft {
    pub(crate) bytes: Vec<u8>,
    size: usize,
}

/// The copies.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Which {
    First,
    Second,
}
pub(crate) use Which::{First, Second};

impl Craft {
    /// A header area whose copies take the usual 16 KiB.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, size: SIZE }
    }

    fn start(&self, which: Which) -> usize {
        if which == First { 0 } else { self.size }
    }

    fn copy(&mut self, which: Which) -> &mut [u8] {
        let start = self.start(which);
        &mut self.bytes[start..start + self.size]
    }

    /// The JSON text of a copy.
    pub(crate) fn text(&mut self, which: Which) -> String {
        let area = &self.copy(which)[BINARY_LEN..];
        let end = area.iter().position(|byte| *byte == 0).unwrap();
        String::from_utf8(area[..end].to_vec()).unwrap()
    }

    /// The first copy's JSON text.
    pub(crate) fn json(&mut self) -> Value {
        serde_json::from_str(&self.text(First)).unwrap()
    }

    /// Puts `text` into the JSON area of a copy.
    pub(crate) fn put(&mut self, which: Which, text: &str) {
        let area = &mut self.copy(which)[BINARY_LEN..];
        area.fill(0);
        area[..text.len()].copy_from_slice(text.as_bytes());
        self.seal(which);
    }

    /// Changes the JSON text of a copy, as text.
    pub(crate) fn rewrite(&mut self, which: Which, change: impl Fn(&str) -> String) {
        let text = change(&self.text(which));
        self.put(which, &text);
    }

    /// Changes the JSON text of a copy.
    pub(crate) fn edit_one(&mut self, which: Which, change: impl Fn(&mut Value)) {
        let mut value: Value = serde_json::from_str(&self.text(which)).unwrap();
        change(&mut value);
        self.put(which, &value.to_string());
    }

    /// Changes the JSON text of both copies.
    pub(crate) fn edit(&mut self, change: impl Fn(&mut Value)) {
        self.edit_one(First, &change);
        self.edit_one(Second, &change);
    }

    /// Replaces bytes of a copy and makes its checksum fit.
    pub(crate) fn poke(&mut self, which: Which, at: usize, bytes: &[u8]) {
        self.copy(which)[at..at + bytes.len()].copy_from_slice(bytes);
        self.seal(which);
    }

    /// Sets a copy's count of writes.
    pub(crate) fn set_seqid(&mut self, which: Which, seqid: u64) {
        self.poke(which, 16, &seqid.to_be_bytes());
    }

    /// Makes the checksum of a copy fit.
    pub(crate) fn seal(&mut self, which: Which) {
        let copy = self.copy(which);
        copy[448..512].fill(0);
        let checksum = Sha256::digest(&copy);
        copy[CHECKSUM].copy_from_slice(&checksum);
    }
}

/// A header with values as cryptsetup 2.6 writes them, its keyslot without content.
pub(crate) fn sample() -> Craft {
    sized(SIZE, AREA_LEN)
}

/// The same with copies of `size` bytes.
pub(crate) fn sized(size: usize, area_len: usize) -> Craft {
    let mut craft = Craft { bytes: vec![0; area_len], size };
    for (which, magic) in [(First, b"LUKS\xba\xbe"), (Second, b"SKUL\xba\xbe")] {
        let start = craft.start(which) as u64;
        let copy = craft.copy(which);
        copy[..6].copy_from_slice(magic);
        copy[6..8].copy_from_slice(&2_u16.to_be_bytes());
        copy[8..16].copy_from_slice(&(size as u64).to_be_bytes());
        copy[16..24].copy_from_slice(&3_u64.to_be_bytes());
        copy[72..78].copy_from_slice(b"sha256");
        copy[104..168].fill(if which == First { 1 } else { 2 });
        copy[168..204].copy_from_slice(b"6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10");
        copy[256..264].copy_from_slice(&start.to_be_bytes());
        craft.put(which, &metadata(size).to_string());
    }
    craft
}

fn metadata(size: usize) -> Value {
    let salt = "c2FsdHNhbHRzYWx0c2FsdHNhbHRzYWx0c2FsdHNhbHQ=";
    json!({
        "keyslots": {"0": {
            "type": "luks2", "key_size": 64,
            "af": {"type": "luks1", "stripes": 4000, "hash": "sha256"},
            "area": {"type": "raw", "offset": (2 * size).to_string(), "size": "258048", "encryption": "aes-xts-plain64", "key_size": 64},
            "kdf": {"type": "pbkdf2", "hash": "sha256", "iterations": 1000, "salt": salt},
        }},
        "tokens": {},
        "segments": {"0": {
            "type": "crypt", "offset": "1048576", "size": "dynamic", "iv_tweak": "0", "encryption": "aes-xts-plain64", "sector_size": 4096,
        }},
        "digests": {"0": {
            "type": "pbkdf2", "keyslots": ["0"], "segments": ["0"], "hash": "sha256", "iterations": 1000, "salt": salt, "digest": salt,
        }},
        "config": {"json_size": (size - BINARY_LEN).to_string(), "keyslots_size": "262144"},
    })
}
