//! The JSON text of a header: read once, strictly, into [`Metadata`].
//!
//! Member names are unique at every depth, numbers and bytes have one spelling, length and depth are bounded. What the
//! values mean, and whether members that are not known here matter, is for the policy to say.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Rule, Tag,
    format::{
        Af, Area, Config, CryptSegment, Digest, Integrity, Kdf, Keyslot, Luks2Slot, MAX_JSON_DEPTH,
        MAX_JSON_LEN, Metadata, Pbkdf2Digest, Segment, TAG_TOKEN, Token,
    },
    object::Object,
};
use crate::Error;

/// Reads the JSON text of a header: the values, and the text as it was understood.
pub(super) fn read(text: &[u8]) -> Result<(Metadata, Value), Error> {
    let malformed = |rule, why| Error::Malformed { rule, place: "metadata".to_owned(), why };
    if text.len() > MAX_JSON_LEN {
        let why = format!("{} bytes of JSON, at most {MAX_JSON_LEN} are read", text.len());
        return Err(malformed(Rule::JsonSize, why));
    }
    let value = cc_crypto::unique_json::parse("LUKS2 metadata", text)
        .map_err(|error| malformed(Rule::Json, error.to_string()))?;
    if depth(&value) > MAX_JSON_DEPTH {
        return Err(malformed(Rule::JsonDepth, format!("nested deeper than {MAX_JSON_DEPTH}")));
    }
    let mut root = Object::new("", &value)?;
    let mut unknown = Vec::new();
    let metadata = Metadata {
        keyslots: numbered(&mut root, "keyslots", |object| keyslot(object, &mut unknown))?,
        tokens: numbered(&mut root, "tokens", |object| token(object, &mut unknown))?,
        segments: numbered(&mut root, "segments", |object| segment(object, &mut unknown))?,
        digests: numbered(&mut root, "digests", |object| digest(object, &mut unknown))?,
        config: config(root.object("config")?, &mut unknown)?,
        unknown: Vec::new(),
    };
    root.finish(&mut unknown);
    Ok((Metadata { unknown, ..metadata }, value))
}

fn numbered<'a, T>(
    root: &mut Object<'a>,
    name: &'static str,
    mut read: impl FnMut(Object<'a>) -> Result<T, Error>,
) -> Result<BTreeMap<u32, T>, Error> {
    root.numbered(name)?.into_iter().map(|(number, object)| Ok((number, read(object)?))).collect()
}

fn keyslot(mut object: Object<'_>, unknown: &mut Vec<String>) -> Result<Keyslot, Error> {
    let kind = object.text("type")?;
    if kind != "luks2" {
        return Ok(Keyslot { kind, slot: None });
    }
    let slot = Luks2Slot {
        key_size: object.number("key_size")?,
        priority: object.optional_number("priority")?,
        area: area(object.object("area")?, unknown)?,
        af: af(object.object("af")?, unknown)?,
        kdf: kdf(object.object("kdf")?, unknown)?,
    };
    object.finish(unknown);
    Ok(Keyslot { kind, slot: Some(slot) })
}

fn area(mut object: Object<'_>, unknown: &mut Vec<String>) -> Result<Area, Error> {
    let area = Area {
        kind: object.text("type")?,
        offset: object.decimal("offset")?,
        size: object.decimal("size")?,
        encryption: object.text("encryption")?,
        key_size: object.number("key_size")?,
    };
    object.finish(unknown);
    Ok(area)
}

fn af(mut object: Object<'_>, unknown: &mut Vec<String>) -> Result<Af, Error> {
    let af =
        Af { kind: object.text("type")?, stripes: object.number("stripes")?, hash: object.text("hash")? };
    object.finish(unknown);
    Ok(af)
}

fn kdf(mut object: Object<'_>, unknown: &mut Vec<String>) -> Result<Kdf, Error> {
    let kind = object.text("type")?;
    let kdf = match kind.as_str() {
        "pbkdf2" => Kdf::Pbkdf2 {
            hash: object.text("hash")?,
            iterations: object.number("iterations")?,
            salt: object.bytes("salt")?,
        },
        "argon2i" | "argon2id" => Kdf::Argon2 {
            kind,
            time: object.number("time")?,
            memory: object.number("memory")?,
            cpus: object.number("cpus")?,
            salt: object.bytes("salt")?,
        },
        _ => return Ok(Kdf::Other { kind }),
    };
    object.finish(unknown);
    Ok(kdf)
}

fn segment(mut object: Object<'_>, unknown: &mut Vec<String>) -> Result<Segment, Error> {
    let kind = object.text("type")?;
    let flags = object.texts("flags")?;
    if kind != "crypt" {
        return Ok(Segment { kind, flags, crypt: None });
    }
    let crypt = CryptSegment {
        offset: object.decimal("offset")?,
        size: object.decimal_or_dynamic("size")?,
        iv_tweak: object.decimal("iv_tweak")?,
        encryption: object.text("encryption")?,
        sector_size: object.number("sector_size")?,
        integrity: match object.optional_object("integrity")? {
            Some(object) => Some(integrity(object, unknown)?),
            None => None,
        },
    };
    object.finish(unknown);
    Ok(Segment { kind, flags, crypt: Some(crypt) })
}

fn integrity(mut object: Object<'_>, unknown: &mut Vec<String>) -> Result<Integrity, Error> {
    let integrity = Integrity {
        kind: object.text("type")?,
        journal_encryption: object.text("journal_encryption")?,
        journal_integrity: object.text("journal_integrity")?,
        key_size: object.optional_number("key_size")?,
    };
    object.finish(unknown);
    Ok(integrity)
}

fn digest(mut object: Object<'_>, unknown: &mut Vec<String>) -> Result<Digest, Error> {
    let kind = object.text("type")?;
    let (keyslots, segments) = (object.numbers("keyslots")?, object.numbers("segments")?);
    if kind != "pbkdf2" {
        return Ok(Digest { kind, keyslots, segments, pbkdf2: None });
    }
    let pbkdf2 = Pbkdf2Digest {
        hash: object.text("hash")?,
        iterations: object.number("iterations")?,
        salt: object.bytes("salt")?,
        digest: object.bytes("digest")?,
    };
    object.finish(unknown);
    Ok(Digest { kind, keyslots, segments, pbkdf2: Some(pbkdf2) })
}

/// Tokens of other programs have members of their own; those of ours are read.
fn token(mut object: Object<'_>, unknown: &mut Vec<String>) -> Result<Token, Error> {
    let (kind, keyslots) = (object.text("type")?, object.numbers("keyslots")?);
    if kind != TAG_TOKEN {
        return Ok(Token { kind, keyslots, tag: None });
    }
    let tag: Tag = object.text("tag")?.parse().map_err(|_| object.wrong("tag", "is no tag"))?;
    object.finish(unknown);
    Ok(Token { kind, keyslots, tag: Some(tag) })
}

fn config(mut object: Object<'_>, unknown: &mut Vec<String>) -> Result<Config, Error> {
    let requirements = match object.optional_object("requirements")? {
        Some(mut requirements) => {
            let mandatory = requirements.texts("mandatory")?;
            requirements.finish(unknown);
            mandatory
        }
        None => Vec::new(),
    };
    let config = Config {
        json_size: object.decimal("json_size")?,
        keyslots_size: object.decimal("keyslots_size")?,
        flags: object.texts("flags")?,
        requirements,
    };
    object.finish(unknown);
    Ok(config)
}

/// Levels of objects and lists; the parser's own limit bounds the recursion.
fn depth(value: &Value) -> usize {
    match value {
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or_default(),
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}
