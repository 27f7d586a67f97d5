//! `guestctl disk inspect`: a header field by field, for people and for programs.

use cc_volume::luks2::{
    Copies, Header, Secondary, Verdict,
    format::{Binary, Kdf, Luks2Slot, Metadata, Segment},
};
use serde_json::{Map, Value, json};

use super::{InspectArgs, add_verdict, check, header_area, violations, volume};
use crate::{
    failure::Failure,
    output::Console,
    table::{Mark, Table},
};

pub(super) fn run(args: &InspectArgs, as_json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let area = header_area(&args.file)?;
    let header = match Header::read_by(&area, area.len(), Copies::Either) {
        Ok(header) => header,
        Err(error) => {
            check::show_malformed(&error, None, as_json, console)?;
            return Err(volume(&args.file, error));
        }
    };
    let verdict = args.policy.policy().judge(&header);
    if as_json { console.json(&facts(&header, &verdict)) } else { console.table(&explain(&header, &verdict)) }
}

fn explain(header: &Header, verdict: &Verdict) -> Table {
    let (binary, metadata) = (header.binary(), header.metadata());
    let mut table = Table::new();
    if let Some(damage) = header.damage() {
        table.section("first copy").verdict(
            Mark::Fail,
            damage.rule.name(),
            format!(
                "{}; what follows is from the second copy.\nOf a volume with a signed header that one is used if its tag fits, and \
                 `guestctl disk repair NAME` writes the damaged one anew",
                damage.why
            ),
        );
    }
    table.section("LUKS2 header").row("uuid", &binary.uuid);
    for (name, text) in [("label", &binary.label), ("subsystem", &binary.subsystem)] {
        if !text.is_empty() {
            table.row(name, text);
        }
    }
    table
        .row("size", format!("2 × {} bytes, keyslots {} bytes", binary.size, metadata.config.keyslots_size))
        .row("writes", binary.seqid.to_string())
        .row(
            "second copy",
            header.damage().map_or_else(|| secondary(header.secondary()), |_| "is shown".to_owned()),
        );
    add_list(&mut table, "flags", &metadata.config.flags);
    add_list(&mut table, "requirements", &metadata.config.requirements);
    for (number, segment) in &metadata.segments {
        table.section(&format!("segment {number}: {}", segment.kind));
        add_segment(&mut table, segment);
    }
    for (number, keyslot) in &metadata.keyslots {
        table.section(&format!("keyslot {number}: {}", keyslot.kind));
        if let Some(slot) = &keyslot.slot {
            add_slot(&mut table, slot);
        }
    }
    add_rest(&mut table, metadata);
    table.section("policy");
    if verdict.is_admitted() {
        table.verdict(Mark::Ok, "rules", "all are kept");
    }
    add_verdict(verdict, &mut table);
    table
}

fn add_segment(table: &mut Table, segment: &Segment) {
    add_list(table, "flags", &segment.flags);
    let Some(crypt) = &segment.crypt else { return };
    let integrity = crypt.integrity.as_ref().map_or("none", |integrity| &integrity.kind);
    table
        .row("cipher", &crypt.encryption)
        .row("integrity", integrity)
        .row("sector", format!("{} bytes", crypt.sector_size))
        .row(
            "data",
            match crypt.size {
                Some(size) => format!("{size} bytes from byte {}", crypt.offset),
                None => format!("from byte {} to the end of the device", crypt.offset),
            },
        );
}

fn add_slot(table: &mut Table, slot: &Luks2Slot) {
    let area = &slot.area;
    table
        .row("volume key", format!("{} bytes", slot.key_size))
        .row("encrypted by", format!("{} with a key of {} bytes", area.encryption, area.key_size))
        .row("area", format!("{} bytes from byte {}", area.size, area.offset))
        .row("derivation", kdf(&slot.kdf));
}

fn add_rest(table: &mut Table, metadata: &Metadata) {
    table.section("digests and tokens");
    for (number, digest) in &metadata.digests {
        let cost = digest.pbkdf2.as_ref().map_or_else(String::new, |pbkdf2| {
            format!(" with {}, {} rounds", pbkdf2.hash, pbkdf2.iterations)
        });
        let bound = format!("keyslots {:?}, segments {:?}", digest.keyslots, digest.segments);
        table.row(&format!("digest {number}"), format!("{}{cost}; {bound}", digest.kind));
    }
    for (number, token) in &metadata.tokens {
        let tag = token.tag.map_or_else(String::new, |tag| format!(", tag {tag}"));
        table.row(&format!("token {number}"), format!("{}; keyslots {:?}{tag}", token.kind, token.keyslots));
    }
}

fn add_list(table: &mut Table, label: &str, words: &[String]) {
    if !words.is_empty() {
        table.row(label, words.join(", "));
    }
}

fn secondary(secondary: &Secondary) -> String {
    match secondary {
        Secondary::Same => "says the same".to_owned(),
        Secondary::Older { seqid } => format!("older, of write {seqid}"),
        Secondary::Newer { seqid } => format!("newer, of write {seqid}"),
        Secondary::Different => "says something else".to_owned(),
        Secondary::Damaged { rule, why } => format!("damaged: {why} (rule {rule})"),
    }
}

fn kdf(kdf: &Kdf) -> String {
    match kdf {
        Kdf::Pbkdf2 { hash, iterations, .. } => format!("pbkdf2 with {hash}, {iterations} rounds"),
        Kdf::Argon2 { kind, time, memory, cpus, .. } => {
            format!("{kind}, {memory} KiB, {time} passes, {cpus} threads")
        }
        Kdf::Other { kind } => kind.clone(),
    }
}

fn facts(header: &Header, verdict: &Verdict) -> Value {
    let (Binary { size, seqid, label, subsystem, uuid }, metadata) = (header.binary(), header.metadata());
    let segments =
        metadata.segments.iter().map(|(number, segment)| (number.to_string(), segment_facts(segment)));
    let keyslots = metadata.keyslots.iter().map(|(number, keyslot)| {
        let mut facts = json!({"type": keyslot.kind});
        if let (Some(slot), Some(members)) = (&keyslot.slot, facts.as_object_mut()) {
            members.extend(slot_facts(slot));
        }
        (number.to_string(), facts)
    });
    let digests = metadata.digests.iter().map(|(number, digest)| {
        let pbkdf2 = digest.pbkdf2.as_ref();
        (
            number.to_string(),
            json!({
                "type": digest.kind,
                "hash": pbkdf2.map(|pbkdf2| &pbkdf2.hash),
                "iterations": pbkdf2.map(|pbkdf2| pbkdf2.iterations),
                "keyslots": digest.keyslots,
                "segments": digest.segments,
            }),
        )
    });
    let tokens = metadata.tokens.iter().map(|(number, token)| {
        let tag = token.tag.map(|tag| tag.to_string());
        (number.to_string(), json!({"type": token.kind, "keyslots": token.keyslots, "tag": tag}))
    });
    json!({
        "kind": "luks2-header",
        "uuid": uuid, "label": label, "subsystem": subsystem, "header_size": size, "seqid": seqid,
        "keyslots_size": metadata.config.keyslots_size,
        "shown_copy": if header.damage().is_some() { "second" } else { "first" },
        "second_copy": match header.secondary() {
            Secondary::Same => "same",
            Secondary::Older { .. } => "older",
            Secondary::Newer { .. } => "newer",
            Secondary::Different => "different",
            Secondary::Damaged { .. } => "damaged",
        },
        "flags": metadata.config.flags,
        "requirements": metadata.config.requirements,
        "segments": segments.collect::<Map<_, _>>(),
        "keyslots": keyslots.collect::<Map<_, _>>(),
        "digests": digests.collect::<Map<_, _>>(),
        "tokens": tokens.collect::<Map<_, _>>(),
        "verdict": if verdict.is_admitted() && header.damage().is_none() { "admitted" } else { "refused" },
        "violations": all_violations(header, verdict),
        "notes": verdict.notes,
    })
}

/// With what is wrong with a first copy whose place the second one takes.
fn all_violations(header: &Header, verdict: &Verdict) -> Value {
    let first = header.damage().map(|damage| {
        let (rule, why) = (damage.rule.name(), damage.rule.why());
        json!({"rule": rule, "place": "first copy", "found": damage.why, "why": why})
    });
    let others = violations(verdict);
    first.into_iter().chain(others.as_array().into_iter().flatten().cloned()).collect()
}

fn segment_facts(segment: &Segment) -> Value {
    let crypt = segment.crypt.as_ref();
    json!({
        "type": segment.kind,
        "flags": segment.flags,
        "cipher": crypt.map(|crypt| &crypt.encryption),
        "integrity": crypt.and_then(|crypt| crypt.integrity.as_ref()).map(|integrity| &integrity.kind),
        "sector_size": crypt.map(|crypt| crypt.sector_size),
        "offset": crypt.map(|crypt| crypt.offset),
        "size": crypt.and_then(|crypt| crypt.size),
        "iv_tweak": crypt.map(|crypt| crypt.iv_tweak),
    })
}

fn slot_facts(slot: &Luks2Slot) -> Map<String, Value> {
    Map::from_iter([
        ("key_size".to_owned(), slot.key_size.into()),
        ("priority".to_owned(), slot.priority.into()),
        ("cipher".to_owned(), slot.area.encryption.as_str().into()),
        ("offset".to_owned(), slot.area.offset.into()),
        ("size".to_owned(), slot.area.size.into()),
        ("derivation".to_owned(), kdf(&slot.kdf).into()),
    ])
}
