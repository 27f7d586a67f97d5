//! Seeds of what a realm says: its token in both forms of the collection, and its JSON.
//!
//! The signatures are no signatures: nothing that reads the token looks at them.

use anyhow::Result;
use cc_evidence::cca::{CcaEvidence, Token};

use super::Seed;

/// Labels of the two tokens in the collection.
const PLATFORM: usize = 44234;
const REALM: usize = 44241;

pub(super) fn seeds() -> Result<Vec<Seed>> {
    let tokens = [(PLATFORM, sign1(&platform())), (REALM, sign1(&realm()))];
    let first = [head(6, 399), map(&tokens.clone().map(|(label, token)| (label, bytes(&token))))].concat();
    let wrapped = |token: &[u8]| [head(4, 2), head(0, 263), bytes(token)].concat();
    let second = [head(6, 907), map(&tokens.map(|(label, token)| (label, wrapped(&token))))].concat();
    Token::parse(&first)?;
    Token::parse(&second)?;
    let json = CcaEvidence { token: vec![0xD9, 1, 0x8F] }.to_json()?;
    Ok(vec![
        ("cca", "first".into(), first),
        ("cca", "wrapper".into(), second),
        ("cca", "json".into(), json.into_bytes()),
        // Every kind of item that the reader knows.
        (
            "cca",
            "items".into(),
            b"\x89\x00\x38\x63\x19\x01\x00\x41a\x61b\xa1\x61k\xf4\xf5\xf6\xc1\x80".to_vec(),
        ),
        (
            "cca",
            "key".into(),
            [&[0xA4, 1, 2, 0x20, 1, 0x21][..], &bytes(&[7; 32]), &[0x22], &bytes(&[7; 32])].concat(),
        ),
    ])
}

fn platform() -> Vec<u8> {
    let component =
        map(&[(1, text("BL1")), (2, bytes(&[3; 32])), (5, bytes(&[4; 32])), (6, text("sha-256"))]);
    map(&[
        (10, bytes(&[1; 32])),
        (265, text("tag:arm.com,2023:cca_platform#1.0.0")),
        (2396, bytes(&[2; 32])),
        (256, bytes(&[1; 33])),
        (2401, bytes(&[0xCF; 4])),
        (2395, head(0, 0x3003)),
        (2399, [head(4, 1), component].concat()),
        (2402, text("sha-256")),
    ])
}

fn realm() -> Vec<u8> {
    map(&[
        (10, bytes(&[0xA5; 64])),
        (44235, bytes(&[0; 64])),
        (44236, text("sha-512")),
        (44237, bytes(&[&[4][..], &[7; 96]].concat())),
        (44238, bytes(&[8; 64])),
        (44239, [head(4, 4), bytes(&[0; 64]).repeat(4)].concat()),
        (44240, text("sha-256")),
    ])
}

/// COSE_Sign1 with ES384 in its protected header.
fn sign1(payload: &[u8]) -> Vec<u8> {
    [&[0xD2, 0x84, 0x44, 0xA1, 0x01, 0x38, 0x22, 0xA0][..], &bytes(payload), &bytes(&[9; 96])].concat()
}

fn bytes(bytes: &[u8]) -> Vec<u8> {
    [&head(2, bytes.len())[..], bytes].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&head(3, text.len())[..], text.as_bytes()].concat()
}

fn map(entries: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let entry = |(key, value): &(usize, Vec<u8>)| [head(0, *key), value.clone()].concat();
    [head(5, entries.len()), entries.iter().flat_map(entry).collect()].concat()
}

/// The head of an item of major type `kind`, for numbers up to two bytes.
fn head(kind: u8, number: usize) -> Vec<u8> {
    let number = u16::try_from(number).unwrap_or(u16::MAX);
    match u8::try_from(number) {
        Ok(short @ 0..=23) => vec![kind << 5 | short],
        Ok(short) => vec![kind << 5 | 24, short],
        Err(_) => [&[kind << 5 | 25][..], &number.to_be_bytes()].concat(),
    }
}
