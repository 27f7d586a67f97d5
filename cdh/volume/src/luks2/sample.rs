//! Headers for tests within this crate, with values as cryptsetup 2.6 writes them.

use serde_json::{Value, json};

use super::{Header, read::checksum_of};

/// Bytes of one copy.
pub(crate) const SIZE: usize = 0x4000;

/// The JSON text of a volume without integrity.
pub(crate) fn plain() -> Value {
    let salt = "c2FsdHNhbHRzYWx0c2FsdHNhbHRzYWx0c2FsdHNhbHQ=";
    json!({
        "keyslots": {"0": {
            "type": "luks2", "key_size": 64,
            "af": {"type": "luks1", "stripes": 4000, "hash": "sha256"},
            "area": {"type": "raw", "offset": "32768", "size": "258048", "encryption": "aes-xts-plain64", "key_size": 64},
            "kdf": {"type": "pbkdf2", "hash": "sha256", "iterations": 1000, "salt": salt},
        }},
        "tokens": {},
        "segments": {"0": {
            "type": "crypt", "offset": "1048576", "size": "dynamic", "iv_tweak": "0", "encryption": "aes-xts-plain64", "sector_size": 4096,
        }},
        "digests": {"0": {
            "type": "pbkdf2", "keyslots": ["0"], "segments": ["0"], "hash": "sha256", "iterations": 1000, "salt": salt, "digest": salt,
        }},
        "config": {"json_size": "12288", "keyslots_size": "262144"},
    })
}

/// The JSON text of a volume with integrity.
pub(crate) fn with_integrity() -> Value {
    let mut text = plain();
    text["keyslots"]["0"]["key_size"] = 96.into();
    text["segments"]["0"]["integrity"] =
        json!({"type": "hmac(sha256)", "journal_encryption": "none", "journal_integrity": "none"});
    text
}

/// Both copies of a header with this JSON text.
pub(crate) fn copies(text: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (magic, at) in [(b"LUKS\xba\xbe", 0), (b"SKUL\xba\xbe", SIZE as u64)] {
        let mut copy = vec![0; SIZE];
        copy[..6].copy_from_slice(magic);
        copy[6..8].copy_from_slice(&2_u16.to_be_bytes());
        copy[8..16].copy_from_slice(&(SIZE as u64).to_be_bytes());
        copy[72..78].copy_from_slice(b"sha256");
        copy[168..204].copy_from_slice(b"6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10");
        copy[256..264].copy_from_slice(&at.to_be_bytes());
        let text = text.to_string();
        copy[4096..4096 + text.len()].copy_from_slice(text.as_bytes());
        let checksum = checksum_of(&copy);
        copy[448..480].copy_from_slice(&checksum);
        bytes.extend(copy);
    }
    bytes
}

/// The header with this JSON text.
pub(crate) fn header(text: &Value) -> Header {
    Header::read_copies(&copies(text), 1 << 20).unwrap()
}
