//! Seeds of what a realm says: its token in both forms of the collection, and its JSON.
//!
//! The signatures are no signatures: nothing that reads the token looks at them.

use anyhow::Result;
use cc_evidence::cca::{CcaEvidence, Token};
use cc_vectors::cbor::{array, bytes, map, number, tagged, text};

use super::Seed;

/// Labels of the two tokens in the collection.
const PLATFORM: u64 = 44234;
const REALM: u64 = 44241;

pub(super) fn seeds() -> Result<Vec<Seed>> {
    let tokens = [(PLATFORM, sign1(&platform())), (REALM, sign1(&realm()))];
    let first = tagged(399, &map(&tokens.clone().map(|(label, token)| (label, bytes(&token)))));
    let wrapped = |token: &[u8]| array(&[number(263), bytes(token)]);
    let second = tagged(907, &map(&tokens.map(|(label, token)| (label, wrapped(&token)))));
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
        (2395, number(0x3003)),
        (2399, array(&[component])),
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
        (44239, array(&vec![bytes(&[0; 64]); 4])),
        (44240, text("sha-256")),
    ])
}

/// COSE_Sign1 with ES384 in its protected header.
fn sign1(payload: &[u8]) -> Vec<u8> {
    [&[0xD2, 0x84, 0x44, 0xA1, 0x01, 0x38, 0x22, 0xA0][..], &bytes(payload), &bytes(&[9; 96])].concat()
}
