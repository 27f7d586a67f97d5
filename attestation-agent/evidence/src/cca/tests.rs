//! Tokens that a writer of the tests makes, in both forms, and what becomes of wrong ones.

use cc_vectors::cbor::{array, bytes, map, number, tagged, text};
use proptest::prelude::*;

use super::*;

fn sign1(payload: &[u8]) -> Vec<u8> {
    [vec![0xD2, 0x84, 0x44, 0xA1, 0x01, 0x38, 0x22, 0xA0], bytes(payload), bytes(&[9; 96])].concat()
}

fn platform() -> Vec<(u64, Vec<u8>)> {
    let component =
        map(&[(1, text("BL1")), (2, bytes(&[3; 32])), (5, bytes(&[4; 32])), (6, text("sha-256"))]);
    vec![
        (10, bytes(&[1; 32])),
        (265, text("tag:arm.com,2023:cca_platform#1.0.0")),
        (2396, bytes(&[2; 32])),
        (256, bytes(&[1; 33])),
        (2401, bytes(&[0xCF; 4])),
        (2395, number(0x3003)),
        (2399, array(&[component])),
        (2402, text("sha-256")),
    ]
}

fn realm() -> Vec<(u64, Vec<u8>)> {
    let registers = array(&vec![bytes(&[0; 64]); 4]);
    vec![
        (10, bytes(&[0xA5; 64])),
        (44235, bytes(&[0; 64])),
        (44236, text("sha-512")),
        (44237, bytes(&[vec![4], vec![7; 96]].concat())),
        (44238, bytes(&[8; 64])),
        (44239, registers),
        (44240, text("sha-256")),
    ]
}

fn first_form(platform: &[(u64, Vec<u8>)], realm: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let tokens = [(44234, bytes(&sign1(&map(platform)))), (44241, bytes(&sign1(&map(realm))))];
    tagged(399, &map(&tokens))
}

#[test]
fn both_forms_of_the_collection_say_the_same() {
    let token = Token::parse(&first_form(&platform(), &realm())).unwrap();
    assert_eq!(token.realm.claims.challenge, [0xA5; 64]);
    assert_eq!(token.platform.claims.lifecycle, 0x3003);
    assert!(token.platform.claims.is_secured());
    assert_eq!(token.realm.claims.public_key.point.len(), 97);
    assert_eq!(token.platform.envelope.algorithm, Algorithm::Es384);

    let wrapped = |payload: &[u8]| array(&[number(263), bytes(&sign1(payload))]);
    let tokens = [(44234, wrapped(&map(&platform()))), (44241, wrapped(&map(&realm())))];
    assert_eq!(Token::parse(&tagged(907, &map(&tokens))), Ok(token));
}

#[test]
fn the_realms_key_may_be_a_cose_key() {
    // {1: 2, -1: 2, -2: x, -3: y}
    let key = [vec![0xA4, 1, 2, 0x20, 2, 0x21], bytes(&[7; 48]), vec![0x22], bytes(&[7; 48])].concat();
    assert_eq!(EcKey::parse(&key), EcKey::new(Curve::P384, &[7; 48], &[7; 48]));
    let p256 = [vec![0xA4, 1, 2, 0x20, 1, 0x21], bytes(&[7; 32]), vec![0x22], bytes(&[7; 32])].concat();
    assert_eq!(EcKey::parse(&p256).unwrap().curve, Curve::P256);
    for (at, to) in [(2, 1), (4, 1), (4, 3), (4, 4)] {
        let mut bad = key.clone();
        bad[at] = to;
        assert!(EcKey::parse(&bad).is_err(), "byte {at}");
    }
}

#[test]
fn claims_that_are_missing_or_of_another_form_are_refused() {
    let (good_platform, good_realm) = (platform(), realm());
    for index in 0..good_platform.len() {
        let mut claims = good_platform.clone();
        claims.remove(index);
        assert!(Token::parse(&first_form(&claims, &good_realm)).is_err(), "{}", good_platform[index].0);
        claims = good_platform.clone();
        claims[index].1 = vec![0xF5];
        assert!(Token::parse(&first_form(&claims, &good_realm)).is_err(), "{}", good_platform[index].0);
    }
    for index in 0..good_realm.len() {
        let mut claims = good_realm.clone();
        claims.remove(index);
        assert!(Token::parse(&first_form(&good_platform, &claims)).is_err(), "{}", good_realm[index].0);
        claims = good_realm.clone();
        claims[index].1 = bytes(&[1; 31]);
        assert!(Token::parse(&first_form(&good_platform, &claims)).is_err(), "{}", good_realm[index].0);
    }
    let mut three = good_realm.clone();
    three[5].1 = array(&vec![bytes(&[0; 64]); 3]);
    assert!(Token::parse(&first_form(&good_platform, &three)).is_err());
    let mut weak = good_platform;
    weak[7].1 = text("sha-1");
    assert!(Token::parse(&first_form(&weak, &good_realm)).is_err());
}

#[test]
fn envelopes_of_another_form_are_refused() {
    let good = sign1(b"x");
    assert!(Sign1::parse(&good).is_ok());
    let refused = |from: &[u8], to: &[u8]| {
        let at = good.windows(from.len()).position(|part| part == from).unwrap();
        let changed = [&good[..at], to, &good[at + from.len()..]].concat();
        Sign1::parse(&changed).unwrap_err()
    };
    refused(&[0xD2], &[0xD1]); // another tag
    refused(&[0xD2], &[]);
    refused(&[0x38, 0x22], &[0x38, 0x24]); // PS256
    refused(&[0x44, 0xA1, 0x01, 0x38, 0x22], &[0x41, 0xA0]); // no algorithm
    refused(&[0xA0], &[0xA1, 0x01, 0x26]); // an algorithm that nobody signed
    refused(&[0xA0], &[0xA1, 0x02, 0x81, 0x05]); // critical
    refused(&[0x41, b'x'], &[0xF6]); // the payload is elsewhere
}

#[test]
fn what_is_signed_is_the_structure_of_the_standard() {
    let envelope = Sign1::parse(&sign1(&[7; 300])).unwrap();
    let expected =
        [b"\x84\x6aSignature1\x44\xa1\x01\x38\x22\x40\x59\x01\x2c".to_vec(), vec![7; 300]].concat();
    assert_eq!(envelope.signed(), expected);
}

#[test]
fn the_lifecycle_says_whether_a_platform_is_secured() {
    for (lifecycle, secured) in [(0x2FFF, false), (0x3000, true), (0x30FF, true), (0x3100, false), (0, false)]
    {
        let mut claims = platform();
        claims[5].1 = number(lifecycle);
        let token = Token::parse(&first_form(&claims, &realm())).unwrap();
        assert_eq!(token.platform.claims.is_secured(), secured, "{lifecycle:#x}");
    }
}

#[test]
fn json_carries_the_bytes() {
    let evidence = CcaEvidence { token: vec![0xD9, 1, 0x8F] };
    assert_eq!(evidence.to_json().unwrap(), r#"{"token":[217,1,143]}"#);
    assert_eq!(CcaEvidence::from_json(r#"{"token":[217,1,143]}"#), Ok(evidence));
    for bad in ["{}", "[]", r#"{"token":"2Q=="}"#, r#"{"token":[256]}"#, r#"{"token":[-1]}"#] {
        assert!(CcaEvidence::from_json(bad).is_err(), "{bad}");
    }
    assert!(CcaEvidence { token: vec![0; MAX_TOKEN_LEN + 1] }.to_json().is_err());
}

#[test]
fn tokens_cut_or_continued_anywhere_are_refused() {
    let token = first_form(&platform(), &realm());
    for length in 0..token.len() {
        assert!(Token::parse(&token[..length]).is_err(), "{length}");
    }
    assert!(Token::parse(&[token.as_slice(), &[0]].concat()).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Token::parse(&noise);
        let _ = Token::parse(&tagged(399, &noise));
        let _ = EcKey::parse(&noise);
    }

    #[test]
    fn a_changed_token_is_read_without_panic(at in 0usize..1400, to: u8) {
        let mut token = first_form(&platform(), &realm());
        if let Some(byte) = token.get_mut(at) {
            *byte = to;
        }
        let _ = Token::parse(&token);
    }
}
