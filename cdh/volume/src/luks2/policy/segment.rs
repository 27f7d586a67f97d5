//! The rules for the one segment: where the data is, and what encrypts and authenticates it.

use super::{Findings, Policy, header_end};
use crate::{
    error::quoted,
    luks2::{
        Header, Rule,
        format::{BINARY_LEN, CryptSegment, Integrity, MAX_AREA_LEN, Segment},
    },
};

/// Cipher of the data, type of integrity (empty for none), bytes of the volume key. The key of HMAC-SHA-256, 32 bytes, is the
/// end of the volume key.
const CIPHERS: [(&str, &str, u32); 5] = [
    ("aes-xts-plain64", "", 64),
    ("aes-xts-plain64", "hmac(sha256)", 96),
    ("aes-xts-random", "hmac(sha256)", 96),
    ("aegis128-random", "aead", 16),
    ("aegis256-random", "aead", 32),
];

const HMAC_KEY_LEN: u32 = 32;

pub(super) fn check(policy: &Policy, header: &Header, findings: &mut Findings) {
    let segments = &header.metadata().segments;
    if segments.len() != 1 || !segments.contains_key(&0) {
        let numbers: Vec<&u32> = segments.keys().collect();
        findings.add(Rule::SegmentCount, "segments", format!("{numbers:?}"));
    }
    for (number, segment) in segments {
        let place = format!("segments.{number}");
        check_flags(&place, segment, findings);
        match &segment.crypt {
            Some(crypt) => {
                check_place(policy, header, &place, crypt, findings);
                check_cipher(policy, header, &place, crypt, findings);
            }
            None => findings.add(Rule::SegmentType, &format!("{place}.type"), quoted(&segment.kind)),
        }
    }
}

fn check_flags(place: &str, segment: &Segment, findings: &mut Findings) {
    for flag in &segment.flags {
        let transition = flag.starts_with("backup-") || flag == "in-reencryption";
        let rule = if transition { Rule::Reencryption } else { Rule::SegmentFlags };
        findings.add(rule, &format!("{place}.flags"), quoted(flag));
    }
}

fn check_place(policy: &Policy, header: &Header, place: &str, crypt: &CryptSegment, findings: &mut Findings) {
    let expected = match (policy.data_offset, policy.detached) {
        (Some(offset), _) => offset..=offset,
        (None, true) => 0..=0,
        (None, false) => header_end(header).unwrap_or(u64::MAX)..=MAX_AREA_LEN as u64,
    };
    // Whatever is expected: data is behind the header, or on another device.
    let overlaps = crypt.offset != 0 && header_end(header).is_none_or(|end| end > crypt.offset);
    if !expected.contains(&crypt.offset) || overlaps || !crypt.offset.is_multiple_of(BINARY_LEN as u64) {
        let found = match (*expected.start(), *expected.end()) {
            _ if overlaps => format!("byte {}, inside of the header area", crypt.offset),
            (start, end) if start == end => format!("byte {}, expected is {start}", crypt.offset),
            (start, end) if start < end => {
                format!("byte {}, expected is one from {start} to {end}", crypt.offset)
            }
            (_, end) => format!("byte {}, expected is {end} at most", crypt.offset),
        };
        findings.add(Rule::SegmentOffset, &format!("{place}.offset"), found);
    }
    if let Some(size) = crypt.size {
        findings.add(
            Rule::SegmentSize,
            &format!("{place}.size"),
            format!("{size} bytes, expected is dynamic"),
        );
    }
    if crypt.iv_tweak != 0 {
        findings.add(Rule::SegmentIv, &format!("{place}.iv_tweak"), crypt.iv_tweak.to_string());
    }
}

fn check_cipher(
    policy: &Policy,
    header: &Header,
    place: &str,
    crypt: &CryptSegment,
    findings: &mut Findings,
) {
    if ![512, 4096].contains(&crypt.sector_size) {
        findings.add(Rule::SectorSize, &format!("{place}.sector_size"), crypt.sector_size.to_string());
    }
    let integrity = crypt.integrity.as_ref();
    if policy.require_integrity && integrity.is_none() {
        findings.add(Rule::Integrity, &format!("{place}.integrity"), "none, it is demanded".to_owned());
    }
    if let Some(integrity) = integrity {
        check_integrity(&format!("{place}.integrity"), integrity, findings);
    }
    let kind = integrity.map_or("", |integrity| &integrity.kind);
    let known =
        CIPHERS.iter().find(|(cipher, tags, _)| (*cipher, *tags) == (crypt.encryption.as_str(), kind));
    let Some((_, _, key_size)) = known else {
        let with = if kind.is_empty() { String::new() } else { format!(" with integrity {}", quoted(kind)) };
        let found = format!("{}{with}", quoted(&crypt.encryption));
        return findings.add(Rule::SegmentCipher, &format!("{place}.encryption"), found);
    };
    for (number, keyslot) in &header.metadata().keyslots {
        if let Some(slot) = &keyslot.slot
            && slot.key_size != *key_size
        {
            let found = format!("{} bytes, the data's cipher takes {key_size}", slot.key_size);
            findings.add(Rule::KeySize, &format!("keyslots.{number}.key_size"), found);
        }
    }
}

fn check_integrity(place: &str, integrity: &Integrity, findings: &mut Findings) {
    let kind = integrity.kind.as_str();
    if !CIPHERS.iter().any(|(_, tags, _)| !tags.is_empty() && *tags == kind) {
        findings.add(Rule::Integrity, &format!("{place}.type"), quoted(kind));
    }
    let journal = [
        ("journal_encryption", &integrity.journal_encryption),
        ("journal_integrity", &integrity.journal_integrity),
    ];
    for (name, value) in journal {
        if value != "none" {
            findings.add(Rule::Integrity, &format!("{place}.{name}"), quoted(value));
        }
    }
    if integrity.key_size.is_some_and(|size| size != HMAC_KEY_LEN) {
        let found = format!("{} bytes", integrity.key_size.unwrap_or_default());
        findings.add(Rule::Integrity, &format!("{place}.key_size"), found);
    }
}
