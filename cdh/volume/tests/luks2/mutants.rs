//! Bad headers with good checksums, one for each thing that a host may try. Each is refused by the rule that is meant for it.
//!
//! What `cryptsetup luksDump` says stands beside it. Where cryptsetup takes the header, the rule is what stops it.

use std::{collections::BTreeSet, fs, process::Command};

use cc_volume::{
    Error,
    luks2::{Header, Policy, Rule},
};
use serde_json::{Value, json};

use crate::{
    CRYPTSETUP,
    craft::{Craft, First, SIZE, Second, sample, sized},
    cryptsetup, format, has_cryptsetup,
};

/// What cryptsetup 2.6.1 does with a header.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Peer {
    Takes,
    Refuses,
}
use Peer::{Refuses, Takes};

type Mutant = (&'static str, Rule, Peer, fn(&mut Craft));

const SEGMENT: &str = "/segments/0";
const SLOT: &str = "/keyslots/0";

fn set(craft: &mut Craft, path: &str, value: impl Into<Value>) {
    let value = value.into();
    let (parent, name) = path.rsplit_once('/').unwrap();
    craft.edit(|json| json.pointer_mut(parent).unwrap()[name] = value.clone());
}

fn set_in(craft: &mut Craft, object: &str, member: &str, value: impl Into<Value>) {
    set(craft, &format!("{object}/{member}"), value);
}

fn argon2(craft: &mut Craft, kind: &str, time: u32, memory: u32, cpus: u32) {
    let salt = "c2FsdHNhbHRzYWx0c2FsdHNhbHRzYWx0c2FsdHNhbHQ=";
    set_in(
        craft,
        SLOT,
        "kdf",
        json!({"type": kind, "time": time, "memory": memory, "cpus": cpus, "salt": salt}),
    );
}

fn integrity(craft: &mut Craft, kind: &str, journal: &str) {
    let value = json!({"type": kind, "journal_encryption": journal, "journal_integrity": "none"});
    set_in(craft, SEGMENT, "integrity", value);
}

fn second_slot(craft: &mut Craft, offset: &str) {
    let mut slot = craft.json()["keyslots"]["0"].clone();
    slot["area"]["offset"] = offset.into();
    set(craft, "/keyslots/1", slot);
    set(craft, "/digests/0/keyslots", json!(["0", "1"]));
}

#[rustfmt::skip]
const MUTANTS: &[Mutant] = &[
    ("any secret opens: no cipher for the keyslot", Rule::NullCipher, Takes, |c| set_in(c, SLOT, "area/encryption", "cipher_null-ecb")),
    ("data in clear: no cipher for the segment", Rule::NullCipher, Takes, |c| set_in(c, SEGMENT, "encryption", "cipher_null-ecb")),
    ("no cipher, in the kernel's own notation", Rule::NullCipher, Takes, |c| set_in(c, SEGMENT, "encryption", "capi:ecb(cipher_null)-null")),
    ("blocks encrypted by themselves", Rule::NullCipher, Takes, |c| set_in(c, SEGMENT, "encryption", "aes-ecb")),
    ("a cipher without a name", Rule::NullCipher, Refuses, |c| set_in(c, SEGMENT, "encryption", "")),
    ("sectors with the same vector", Rule::NullCipher, Takes, |c| set_in(c, SEGMENT, "encryption", "aes-xts-null")),
    ("another cipher for the data", Rule::SegmentCipher, Takes, |c| set_in(c, SEGMENT, "encryption", "aes-cbc-essiv:sha256")),
    ("random vectors and nowhere to keep them", Rule::SegmentCipher, Takes, |c| set_in(c, SEGMENT, "encryption", "aes-xts-random")),
    ("another cipher for the keyslot", Rule::KeyslotCipher, Takes, |c| set_in(c, SLOT, "area/encryption", "serpent-xts-plain64")),
    ("a shorter key for the keyslot's cipher", Rule::KeyslotCipher, Takes, |c| set_in(c, SLOT, "area/key_size", 32)),
    ("a shorter volume key", Rule::KeySize, Takes, |c| set_in(c, SLOT, "key_size", 32)),

    ("a clear part before the encrypted one", Rule::SegmentCount, Takes, |c| {
        set_in(c, SEGMENT, "size", "1048576");
        set(c, "/segments/1", json!({"type": "linear", "offset": "2097152", "size": "dynamic"}));
    }),
    ("a clear volume", Rule::SegmentType, Takes, |c| set(c, SEGMENT, json!({"type": "linear", "offset": "1048576", "size": "dynamic"}))),
    ("a volume that the disk encrypts", Rule::SegmentType, Takes, |c| set_in(c, SEGMENT, "type", "hw-opal")),
    ("no segment", Rule::SegmentCount, Refuses, |c| set(c, "/segments", json!({}))),
    ("a segment with another number", Rule::SegmentCount, Refuses, |c| c.edit(|json| {
        let segment = json["segments"].as_object_mut().unwrap().remove("0").unwrap();
        json["segments"]["1"] = segment;
    })),
    ("data elsewhere", Rule::SegmentOffset, Takes, |c| set_in(c, SEGMENT, "offset", "20971520")),
    ("data where the header is", Rule::SegmentOffset, Refuses, |c| set_in(c, SEGMENT, "offset", "16384")),
    ("data at the start of the device, as if the header were elsewhere", Rule::SegmentOffset, Takes, |c| set_in(c, SEGMENT, "offset", "0")),
    ("a shorter volume", Rule::SegmentSize, Takes, |c| set_in(c, SEGMENT, "size", "1048576")),
    ("sectors numbered from elsewhere", Rule::SegmentIv, Takes, |c| set_in(c, SEGMENT, "iv_tweak", "8")),
    ("sectors of another size", Rule::SectorSize, Takes, |c| set_in(c, SEGMENT, "sector_size", 2048)),
    ("integrity without a key", Rule::Integrity, Takes, |c| integrity(c, "none", "none")),
    ("integrity by a plain hash", Rule::Integrity, Takes, |c| integrity(c, "sha256", "none")),
    ("a journal with a key of its own", Rule::Integrity, Takes, |c| integrity(c, "hmac(sha256)", "cbc(aes)")),
    ("an integrity key of another length", Rule::Integrity, Takes, |c| {
        integrity(c, "hmac(sha256)", "none");
        set_in(c, SEGMENT, "integrity/key_size", 1);
    }),
    ("integrity without the key's part for it", Rule::KeySize, Takes, |c| integrity(c, "hmac(sha256)", "none")),

    ("a mark of encryption anew, from before", Rule::Reencryption, Refuses, |c| set_in(c, SEGMENT, "flags", json!(["backup-previous"]))),
    ("a mark of encryption anew, at work", Rule::Reencryption, Takes, |c| set_in(c, SEGMENT, "flags", json!(["in-reencryption"]))),
    ("encryption anew is demanded", Rule::Reencryption, Refuses, |c| set(c, "/config/requirements", json!({"mandatory": ["online-reencrypt-v2"]}))),
    ("a keyslot that keeps the state of encryption anew", Rule::Reencryption, Refuses, |c| set(c, SLOT, json!({
        "type": "reencrypt", "mode": "reencrypt", "direction": "forward", "key_size": 1,
        "area": {"type": "none", "offset": "32768", "size": "4096"},
    }))),
    ("a flag of tomorrow", Rule::SegmentFlags, Takes, |c| set_in(c, SEGMENT, "flags", json!(["tomorrow"]))),
    ("a demand of tomorrow", Rule::Requirements, Takes, |c| set(c, "/config/requirements", json!({"mandatory": ["tomorrow"]}))),
    ("discards", Rule::ConfigFlags, Takes, |c| set(c, "/config/flags", json!(["allow-discards"]))),

    ("a second keyslot", Rule::KeyslotCount, Takes, |c| {
        set(c, "/config/keyslots_size", "520192");
        second_slot(c, "290816");
    }),
    ("no keyslot", Rule::KeyslotCount, Takes, |c| {
        set(c, "/keyslots", json!({}));
        set(c, "/digests/0/keyslots", json!([]));
    }),
    ("a keyslot of another kind", Rule::KeyslotType, Takes, |c| set_in(c, SLOT, "type", "tomorrow")),
    ("a keyslot's area of another kind", Rule::KeyslotType, Refuses, |c| set_in(c, SLOT, "area/type", "journal")),
    ("a keyslot in the data", Rule::KeyslotArea, Refuses, |c| set_in(c, SLOT, "area/offset", "1048576")),
    ("a keyslot in the metadata", Rule::KeyslotArea, Refuses, |c| set_in(c, SLOT, "area/offset", "4096")),
    ("a keyslot beyond all numbers", Rule::KeyslotArea, Refuses, |c| set_in(c, SLOT, "area/offset", "18446744073709547520")),
    ("a keyslot between blocks", Rule::KeyslotArea, Takes, |c| set_in(c, SLOT, "area/offset", "33000")),
    ("keyslots over each other", Rule::KeyslotArea, Refuses, |c| second_slot(c, "36864")),
    ("a keyslot too small for its key", Rule::KeyslotArea, Takes, |c| set_in(c, SLOT, "area/size", "4096")),
    ("a keyslot behind what was read", Rule::KeyslotArea, Refuses, |c| {
        set(c, "/config/keyslots_size", "16744448");
        set_in(c, SEGMENT, "offset", "16777216");
        set_in(c, SLOT, "area/offset", "1048576");
        c.bytes.truncate(1 << 20);
    }),
    ("a splitter that does not split", Rule::AntiForensic, Takes, |c| set_in(c, SLOT, "af/stripes", 1)),
    ("a splitter with another hash", Rule::AntiForensic, Takes, |c| set_in(c, SLOT, "af/hash", "sha1")),
    ("a keyslot that goes first", Rule::KeyslotPriority, Takes, |c| set_in(c, SLOT, "priority", 2)),
    ("another derivation", Rule::Kdf, Takes, |c| set_in(c, SLOT, "kdf/hash", "sha1")),
    ("Argon2i", Rule::Kdf, Takes, |c| argon2(c, "argon2i", 4, 65536, 1)),
    ("a derivation of tomorrow", Rule::Kdf, Takes, |c| set_in(c, SLOT, "kdf/type", "tomorrow")),
    ("a short salt", Rule::Kdf, Takes, |c| set_in(c, SLOT, "kdf/salt", "AAAA")),
    ("four TiB of memory", Rule::KdfCost, Takes, |c| argon2(c, "argon2id", 4, u32::MAX, 1)),
    ("a billion passes", Rule::KdfCost, Takes, |c| argon2(c, "argon2id", 1_000_000_000, 65536, 1)),
    ("a thousand threads", Rule::KdfCost, Takes, |c| argon2(c, "argon2id", 4, 65536, 1000)),
    ("two billion rounds", Rule::KdfCost, Takes, |c| set_in(c, SLOT, "kdf/iterations", i32::MAX)),
    ("no round", Rule::KdfCost, Takes, |c| set_in(c, SLOT, "kdf/iterations", 0)),
    ("two billion rounds for the digest", Rule::KdfCost, Takes, |c| set(c, "/digests/0/iterations", i32::MAX)),

    ("no digest", Rule::Digest, Refuses, |c| set(c, "/digests", json!({}))),
    ("a second digest", Rule::Digest, Takes, |c| {
        let mut digest = c.json()["digests"]["0"].clone();
        (digest["keyslots"], digest["segments"]) = (json!([]), json!([]));
        set(c, "/digests/1", digest);
    }),
    ("a digest with another hash", Rule::Digest, Takes, |c| set(c, "/digests/0/hash", "sha1")),
    ("a short digest", Rule::Digest, Takes, |c| set(c, "/digests/0/digest", "AAAA")),
    ("a digest of tomorrow", Rule::Digest, Takes, |c| set(c, "/digests/0/type", "tomorrow")),
    ("a digest that is not for the keyslot", Rule::DigestBinding, Refuses, |c| set(c, "/digests/0/keyslots", json!([]))),
    ("a digest that is not for the segment", Rule::DigestBinding, Refuses, |c| set(c, "/digests/0/segments", json!([]))),

    ("a token that names a server", Rule::Tokens, Takes, |c| set(c, "/tokens/0", json!({"type": "clevis", "keyslots": ["0"], "jwe": {"protected": "e30"}}))),
    ("a token for the machine's TPM", Rule::Tokens, Takes, |c| set(c, "/tokens/0", json!({"type": "systemd-tpm2", "keyslots": ["0"], "tpm2-pcrs": [7]}))),
    ("a tag that opens a keyslot", Rule::Tokens, Takes, |c| set(c, "/tokens/0", tag_token(json!(["0"])))),
    ("two tags", Rule::Tokens, Takes, |c| {
        set(c, "/tokens/0", tag_token(json!([])));
        set(c, "/tokens/1", tag_token(json!([])));
    }),
    ("a tag that is none", Rule::Metadata, Takes, |c| set(c, "/tokens/0", json!({"type": "cc-header-hmac-sha256", "keyslots": [], "tag": "AAAA"}))),

    ("a top-level object of tomorrow", Rule::UnknownMember, Takes, |c| set(c, "/tomorrow", json!({}))),
    ("a member of tomorrow", Rule::UnknownMember, Takes, |c| set_in(c, SLOT, "area/tomorrow", 1)),
    ("a lie about the metadata's size", Rule::HeaderArea, Refuses, |c| set(c, "/config/json_size", "4096")),
    ("a keyslots area of 100 MiB", Rule::HeaderArea, Refuses, |c| {
        set(c, "/config/keyslots_size", "104857600");
        set_in(c, SEGMENT, "offset", "134217728");
    }),
    ("a keyslots area beyond all numbers", Rule::HeaderArea, Refuses, |c| set(c, "/config/keyslots_size", "18446744073709547520")),

    ("one member twice", Rule::Json, Takes, |c| for which in [First, Second] {
        c.rewrite(which, |text| text.replace("\"sector_size\"", "\"encryption\":\"cipher_null-ecb\",\"sector_size\""));
    }),
    ("a text with a comment", Rule::Json, Takes, |c| for which in [First, Second] {
        c.rewrite(which, |text| text.replacen('{', "{/* */", 1));
    }),
    ("no JSON, under a good checksum", Rule::Json, Refuses, |c| for which in [First, Second] {
        c.put(which, "{\"keyslots\":");
    }),
    ("a number with a leading zero", Rule::Metadata, Takes, |c| set_in(c, SLOT, "area/offset", "032768")),
    ("a number that is no text", Rule::Metadata, Refuses, |c| set_in(c, SLOT, "area/offset", 32768)),
    ("a negative number", Rule::Metadata, Takes, |c| set_in(c, SLOT, "kdf/iterations", -1)),
    ("a keyslot numbered 32", Rule::Metadata, Refuses, |c| set(c, "/keyslots/32", c.clone().json()["keyslots"]["0"].clone())),
    ("nesting", Rule::JsonDepth, Takes, |c| {
        let deep = (0..14).fold(json!(1), |inner, _| json!([inner]));
        set(c, "/tokens/0", json!({"type": "x", "keyslots": [], "deep": deep}));
    }),
    ("a text behind the text", Rule::JsonPadding, Refuses, |c| for which in [First, Second] {
        c.poke(which, SIZE - 2, b"{");
    }),

    ("a good header with a bad checksum", Rule::Checksum, Takes, |c| c.bytes[450] ^= 1),
    ("both checksums bad", Rule::Checksum, Refuses, |c| {
        c.bytes[450] ^= 1;
        c.bytes[SIZE + 450] ^= 1;
    }),
    ("copies that differ at the same count", Rule::Copies, Takes, |c| {
        c.edit_one(Second, |json| json["segments"]["0"]["encryption"] = "cipher_null-ecb".into());
    }),
    ("copies that differ in the label", Rule::Copies, Takes, |c| c.poke(Second, 24, b"other")),
    ("a second copy that cryptsetup prefers", Rule::Copies, Takes, |c| {
        c.edit_one(Second, |json| json["segments"]["0"]["encryption"] = "cipher_null-ecb".into());
        c.set_seqid(Second, 1 << 40);
    }),
    ("no second copy in the file", Rule::Length, Refuses, |c| c.bytes.truncate(SIZE + 4096)),

    ("LUKS1", Rule::Magic, Refuses, |c| c.poke(First, 6, &1_u16.to_be_bytes())),
    ("version 3", Rule::Magic, Refuses, |c| c.poke(First, 6, &3_u16.to_be_bytes())),
    ("no magic in front", Rule::Magic, Takes, |c| c.poke(First, 0, b"XXXX")),
    ("a size that is none of the format's", Rule::HeaderSize, Takes, |c| c.poke(First, 8, &20480_u64.to_be_bytes())),
    ("a copy that says it is elsewhere", Rule::HeaderOffset, Takes, |c| c.poke(First, 256, &16384_u64.to_be_bytes())),
    ("another checksum", Rule::ChecksumAlgorithm, Takes, |c| c.poke(First, 72, b"sha512")),
    ("something in the reserved bytes", Rule::Padding, Takes, |c| for which in [First, Second] {
        c.poke(which, 1000, b"!");
    }),
    ("something behind the label's end", Rule::Padding, Takes, |c| for which in [First, Second] {
        c.poke(which, 24, b"label\0hidden");
    }),
];

fn tag_token(keyslots: Value) -> Value {
    let tag = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    json!({"type": "cc-header-hmac-sha256", "keyslots": keyslots, "tag": tag})
}

/// The rules that `bytes` break.
fn broken(bytes: &[u8]) -> Vec<Rule> {
    match Header::read(bytes) {
        Ok(header) => {
            let verdict = Policy::default().judge(&header);
            assert_eq!(verdict.is_admitted(), verdict.violations.is_empty());
            verdict.violations.iter().map(|violation| violation.rule).collect()
        }
        Err(Error::Malformed { rule, .. }) => vec![rule],
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn each_is_refused_by_the_rule_that_is_meant_for_it() {
    assert_eq!(broken(&sample().bytes), [], "the header that all begin with");
    for (name, rule, _, change) in MUTANTS {
        let mut craft = sample();
        change(&mut craft);
        let broken = broken(&craft.bytes);
        assert!(broken.contains(rule), "{name}: {broken:?}");
    }
    let tried: BTreeSet<Rule> = MUTANTS.iter().map(|(_, rule, _, _)| *rule).collect();
    let untried: Vec<&Rule> = Rule::POLICY.iter().filter(|rule| !tried.contains(rule)).collect();
    assert!(untried.is_empty(), "rules without a header that breaks them: {untried:?}");
}

#[test]
fn what_cryptsetup_says_to_them() {
    if !has_cryptsetup("what_cryptsetup_says_to_them") {
        return;
    }
    let version = Command::new(CRYPTSETUP).arg("--version").output().unwrap();
    let is_known = version.stdout.starts_with(b"cryptsetup 2.6.1");
    let folder = tempfile::tempdir().unwrap();
    let small = ["--luks2-metadata-size", "16k", "--luks2-keyslots-size", "512k"];
    let good = format(folder.path(), "good", &small);
    assert_eq!(broken(&good), []);
    let path = folder.path().join("bad");
    let (mut taken, mut wrong) = (0, Vec::new());
    for (name, rule, peer, change) in MUTANTS {
        let mut craft = Craft::new(good.clone());
        change(&mut craft);
        assert!(broken(&craft.bytes).contains(rule), "{name}");
        fs::write(&path, &craft.bytes).unwrap();
        let out = cryptsetup(&["luksDump", path.to_str().unwrap()], b"");
        let said = if out.status.success() { Takes } else { Refuses };
        taken += usize::from(said == Takes);
        println!("{rule:20} {said:?}: {name}");
        if said != *peer {
            wrong.push((*name, said));
        }
    }
    println!("of {} headers cryptsetup takes {taken}", MUTANTS.len());
    assert!(!is_known || wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_text_that_is_too_long_is_not_parsed() {
    let mut craft = sized(0x4_0000, 0x8_0000 + 0x40000);
    assert_eq!(broken(&craft.bytes), []);
    let long = format!("{{\"tokens\":\"{}\"", "x".repeat(128 << 10));
    craft.put(First, &long);
    assert_eq!(broken(&craft.bytes), [Rule::JsonSize]);
}

#[test]
fn what_is_left_behind_by_an_interrupted_write_is_told_and_admitted() {
    let notes = |craft: &Craft| {
        let verdict = Policy::default().judge(&Header::read(&craft.bytes).unwrap());
        assert!(verdict.is_admitted(), "{verdict:?}");
        verdict.notes
    };
    assert!(notes(&sample()).is_empty());
    let mut behind = sample();
    behind.set_seqid(Second, 2);
    behind.edit_one(Second, |json| json["keyslots"]["0"]["kdf"]["iterations"] = 999.into());
    assert!(notes(&behind)[0].contains("of write 2, not 3"), "{:?}", notes(&behind));
    // A change of keys counts several writes.
    behind.set_seqid(First, 9);
    assert!(notes(&behind)[0].contains("of write 2, not 9"), "{:?}", notes(&behind));
    let mut damaged = sample();
    damaged.bytes[SIZE + 5000] ^= 1;
    assert!(notes(&damaged)[0].contains("rule checksum"), "{:?}", notes(&damaged));
}

#[test]
fn the_operator_says_where_volumes_may_differ() {
    let judge = |policy: &Policy, change: fn(&mut Craft)| {
        let mut craft = sample();
        change(&mut craft);
        policy
            .judge(&Header::read(&craft.bytes).unwrap())
            .violations
            .into_iter()
            .map(|v| v.rule)
            .collect::<Vec<_>>()
    };
    let default = Policy::default;
    let good: fn(&mut Craft) = |_| {};
    let with_integrity: fn(&mut Craft) = |c| {
        integrity(c, "hmac(sha256)", "none");
        set_in(c, SLOT, "key_size", 96);
        set_in(c, SLOT, "area/size", "385024");
        set(c, "/config/keyslots_size", "520192");
        c.bytes.resize(1 << 20, 0);
    };
    let discards: fn(&mut Craft) =
        |c| set(c, "/config/flags", json!(["allow-discards", "no-read-workqueue"]));
    let detached: fn(&mut Craft) = |c| set_in(c, SEGMENT, "offset", "0");
    let two: fn(&mut Craft) = |c| {
        set(c, "/config/keyslots_size", "520192");
        second_slot(c, "290816");
        c.bytes.resize(1 << 20, 0);
    };
    let aegis: fn(&mut Craft) = |c| {
        integrity(c, "aead", "none");
        set_in(c, SEGMENT, "encryption", "aegis128-random");
        set_in(c, SLOT, "key_size", 16);
    };
    let integrity = Policy { require_integrity: true, ..default() };
    assert_eq!(judge(&integrity, good), [Rule::Integrity]);
    assert_eq!(judge(&integrity, with_integrity), []);
    assert_eq!(judge(&integrity, aegis), []);
    assert_eq!(judge(&Policy { allow_discards: true, ..default() }, discards), []);
    let apart = Policy { detached: true, ..default() };
    assert_eq!((judge(&apart, detached), judge(&apart, good)), (vec![], vec![Rule::SegmentOffset]));
    let offset = Policy { data_offset: Some(1 << 20), ..default() };
    assert_eq!((judge(&offset, good), judge(&offset, detached)), (vec![], vec![Rule::SegmentOffset]));
    let inside: fn(&mut Craft) = |c| set_in(c, SEGMENT, "offset", "65536");
    assert_eq!(judge(&Policy { data_offset: Some(65536), ..default() }, inside), [Rule::SegmentOffset]);
    assert_eq!(judge(&Policy { max_keyslots: 2, ..default() }, two), []);
}
