//! The rules for keyslots: how many, where they lie, what protects the volume key in them.

use super::{Findings, KdfLimits, Policy, header_end};
use crate::{
    error::quoted,
    luks2::{
        Header, Rule,
        format::{AF_STRIPES, Area, BINARY_LEN, Kdf, Luks2Slot},
    },
};

const CIPHER: &str = "aes-xts-plain64";
/// Two AES-256 keys.
const CIPHER_KEY_LEN: u32 = 64;
const SALT_LEN: usize = 32;

pub(super) fn check(policy: &Policy, header: &Header, findings: &mut Findings) {
    let keyslots = &header.metadata().keyslots;
    if !(1..=policy.max_keyslots).contains(&keyslots.len()) {
        let found = format!("{} of them, expected are 1 to {}", keyslots.len(), policy.max_keyslots);
        findings.add(Rule::KeyslotCount, "keyslots", found);
    }
    let mut areas = Vec::new();
    for (number, keyslot) in keyslots {
        let place = format!("keyslots.{number}");
        match &keyslot.slot {
            Some(slot) => {
                check_slot(policy, &place, slot, findings);
                check_area(header, &format!("{place}.area"), slot, findings);
                areas.push((&slot.area, place));
            }
            None => {
                let rule = if keyslot.kind == "reencrypt" { Rule::Reencryption } else { Rule::KeyslotType };
                findings.add(rule, &format!("{place}.type"), quoted(&keyslot.kind));
            }
        }
    }
    areas.sort_by_key(|(area, _)| area.offset);
    for pair in areas.windows(2) {
        if let [(before, place), (after, other)] = pair
            && end(before).is_none_or(|end| end > after.offset)
        {
            findings.add(Rule::KeyslotArea, &format!("{other}.area"), format!("overlaps that of {place}"));
        }
    }
}

fn check_slot(policy: &Policy, place: &str, slot: &Luks2Slot, findings: &mut Findings) {
    let area = &slot.area;
    if area.kind != "raw" {
        findings.add(Rule::KeyslotType, &format!("{place}.area.type"), quoted(&area.kind));
    }
    if area.encryption != CIPHER {
        findings.add(Rule::KeyslotCipher, &format!("{place}.area.encryption"), quoted(&area.encryption));
    }
    if area.key_size != CIPHER_KEY_LEN {
        let found = format!("{} bytes, expected are {CIPHER_KEY_LEN}", area.key_size);
        findings.add(Rule::KeyslotCipher, &format!("{place}.area.key_size"), found);
    }
    let af = &slot.af;
    if (af.kind.as_str(), af.stripes, af.hash.as_str()) != ("luks1", AF_STRIPES, "sha256") {
        let found = format!("{} with {} stripes and {}", quoted(&af.kind), af.stripes, quoted(&af.hash));
        findings.add(Rule::AntiForensic, &format!("{place}.af"), found);
    }
    if let Some(priority) = slot.priority {
        findings.add(Rule::KeyslotPriority, &format!("{place}.priority"), priority.to_string());
    }
    check_kdf(&policy.kdf, &format!("{place}.kdf"), &slot.kdf, findings);
}

fn check_area(header: &Header, place: &str, slot: &Luks2Slot, findings: &mut Findings) {
    let area = &slot.area;
    let found = format!("{} bytes from byte {}", area.size, area.offset);
    let (least, most) = (2 * header.binary().size, header_end(header));
    let inside = area.offset >= least && end(area).zip(most).is_some_and(|(end, most)| end <= most);
    if !inside || !area.offset.is_multiple_of(BINARY_LEN as u64) {
        findings.add(Rule::KeyslotArea, place, format!("{found}, not in the keyslots area"));
    } else if end(area).is_none_or(|end| end > header.given() as u64) {
        findings.add(
            Rule::KeyslotArea,
            place,
            format!("{found}, the header ends at byte {}", header.given()),
        );
    }
    if area.size < u64::from(slot.key_size) * u64::from(AF_STRIPES) {
        findings.add(Rule::KeyslotArea, place, format!("{found}, too few for a key of {}", slot.key_size));
    }
}

fn end(area: &Area) -> Option<u64> {
    area.offset.checked_add(area.size)
}

fn check_kdf(limits: &KdfLimits, place: &str, kdf: &Kdf, findings: &mut Findings) {
    let mut costs = |name: &str, found: u32, most: u32| {
        if !(1..=most).contains(&found) {
            findings.add(Rule::KdfCost, &format!("{place}.{name}"), format!("{found}, the limit is {most}"));
        }
    };
    let salt = match kdf {
        Kdf::Pbkdf2 { hash, iterations, salt } => {
            costs("iterations", *iterations, limits.pbkdf2_iterations);
            if hash != "sha256" {
                findings.add(Rule::Kdf, &format!("{place}.hash"), quoted(hash));
            }
            salt
        }
        Kdf::Argon2 { kind, time, memory, cpus, salt } => {
            costs("memory", *memory, limits.argon2_memory_kib);
            costs("time", *time, limits.argon2_time);
            costs("cpus", *cpus, limits.argon2_cpus);
            if kind != "argon2id" {
                findings.add(Rule::Kdf, &format!("{place}.type"), quoted(kind));
            }
            salt
        }
        Kdf::Other { kind } => return findings.add(Rule::Kdf, &format!("{place}.type"), quoted(kind)),
    };
    if salt.len() != SALT_LEN {
        findings.add(Rule::Kdf, &format!("{place}.salt"), format!("{} bytes", salt.len()));
    }
}
