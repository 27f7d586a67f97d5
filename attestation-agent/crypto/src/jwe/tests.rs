//! Vectors, mutations and round trips of the JWE.

use std::sync::LazyLock;

use aws_lc_rs::agreement::{ECDH_P256, ECDH_P521};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Jwe, Recipient, seal};
use crate::{Error, KeyAlgorithm, TeeKeyPair, base64url, ecdh};

fn vector(name: &str) -> Option<Value> {
    Some(serde_json::from_slice(&cc_vectors::read("jwe-generated", name)?).unwrap())
}

fn receiver(vector: &Value) -> TeeKeyPair {
    if let Some(pem) = vector["receiver_private_pem"].as_str() {
        return TeeKeyPair::from_private_pem(pem).unwrap();
    }
    let jwk = &vector["receiver_private_jwk"];
    let d = base64url::decode("d", jwk["d"].as_str().unwrap()).unwrap();
    let algorithm = if jwk["crv"] == "P-256" { &ECDH_P256 } else { &ECDH_P521 };
    // Through PKCS#8, as every other private key enters.
    let key = aws_lc_rs::agreement::PrivateKey::from_private_key(algorithm, &d).unwrap();
    let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = aws_lc_rs::encoding::AsDer::as_der(&key).unwrap();
    let pem = crate::pem::encode("PRIVATE KEY", pkcs8.as_ref()).unwrap();
    TeeKeyPair::from_private_pem(std::str::from_utf8(pem.expose()).unwrap()).unwrap()
}

const NAMES: [&str; 3] = ["ecdh-es-a256kw-p-256.json", "ecdh-es-a256kw-p-521.json", "rsa-oaep-256.json"];

#[test]
fn vectors_open() {
    for name in NAMES {
        let Some(vector) = vector(name) else { return };
        let key = receiver(&vector);
        assert_eq!(key.public_jwk(), vector["tee_pubkey"], "{name}");
        let jwe = Jwe::parse(vector["jwe"].to_string().as_bytes()).unwrap();
        assert_eq!(hex::encode(key.open(&jwe).unwrap().expose()), vector["plaintext_hex"], "{name}");
        if let Recipient::Ecdh { ephemeral, wrapped } = jwe.recipient() {
            let pem = key.private_pem().unwrap();
            let (_, der) = crate::pem::decode(std::str::from_utf8(pem.expose()).unwrap()).unwrap();
            let private = aws_lc_rs::agreement::PrivateKey::from_private_key_der(
                ephemeral.curve.agreement(),
                der.expose(),
            )
            .unwrap();
            let kek = ecdh::agree(&private, ephemeral).unwrap();
            assert_eq!(hex::encode(kek.as_slice()), vector["steps"]["kek_hex"]);
            assert_eq!(
                hex::encode(ecdh::unwrap(&kek, wrapped).unwrap().as_slice()),
                vector["steps"]["cek_hex"]
            );
        }
    }
}

/// Every bit of every part of every kind of JWE matters.
#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    for algorithm in KeyAlgorithm::ALL {
        let key = TeeKeyPair::generate(algorithm).unwrap();
        let good: Value = serde_json::from_slice(&seal(&key.public_jwk(), b"top secret").unwrap()).unwrap();
        for member in ["protected", "encrypted_key", "iv", "ciphertext", "tag"] {
            let bytes = base64url::decode("t", good[member].as_str().unwrap()).unwrap();
            for i in 0..bytes.len() {
                let mut bad = bytes.clone();
                bad[i] ^= 1 << (i % 8);
                let mut jwe = good.clone();
                jwe[member] = json!(base64url::encode(&bad));
                let opened = Jwe::parse(jwe.to_string().as_bytes()).and_then(|j| key.open(&j));
                assert!(opened.is_err(), "{algorithm} {member} byte {i}");
            }
        }
    }
}

/// `good` with its protected header replaced by `change` of it.
fn with_header(good: &Value, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let header = base64url::decode("t", good["protected"].as_str().unwrap()).unwrap();
    let mut header: Value = serde_json::from_slice(&header).unwrap();
    change(&mut header);
    let mut jwe = good.clone();
    jwe["protected"] = json!(base64url::encode(header.to_string().as_bytes()));
    jwe.to_string().into_bytes()
}

#[test]
fn headers_outside_the_allow_list_are_refused_while_parsing() {
    let key = TeeKeyPair::generate(KeyAlgorithm::EcdhP256).unwrap();
    let good: Value = serde_json::from_slice(&seal(&key.public_jwk(), b"x").unwrap()).unwrap();
    assert!(Jwe::parse(&with_header(&good, |_| ())).is_ok());
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 16] = [
        ("enc A128GCM", |h| h["enc"] = json!("A128GCM")),
        ("enc A256CBC-HS512", |h| h["enc"] = json!("A256CBC-HS512")),
        ("enc missing", |h| drop(h.as_object_mut().unwrap().remove("enc"))),
        ("enc not a string", |h| h["enc"] = json!(["A256GCM"])),
        ("alg missing", |h| drop(h.as_object_mut().unwrap().remove("alg"))),
        ("alg dir", |h| h["alg"] = json!("dir")),
        ("alg ECDH-ES", |h| h["alg"] = json!("ECDH-ES")),
        ("alg RSA1_5", |h| h["alg"] = json!("RSA1_5")),
        ("alg RSA-OAEP-256 with a short key", |h| h["alg"] = json!("RSA-OAEP-256")),
        ("epk missing", |h| drop(h.as_object_mut().unwrap().remove("epk"))),
        ("epk kty", |h| h["epk"]["kty"] = json!("OKP")),
        ("epk crv", |h| h["epk"]["crv"] = json!("P-521")),
        ("epk off the curve", |h| h["epk"]["x"] = h["epk"]["y"].clone()),
        ("crit", |h| h["crit"] = json!(["exp"])),
        ("zip", |h| h["zip"] = json!("DEF")),
        ("apu", |h| h["apu"] = json!("QQ")),
    ];
    for (what, change) in cases {
        assert!(Jwe::parse(&with_header(&good, change)).is_err(), "{what}");
    }
}

#[test]
fn shapes_that_are_refused() {
    let key = TeeKeyPair::generate(KeyAlgorithm::EcdhP256).unwrap();
    let text = String::from_utf8(seal(&key.public_jwk(), b"x").unwrap()).unwrap();
    let good: Value = serde_json::from_str(&text).unwrap();
    for member in ["protected", "encrypted_key", "iv", "ciphertext", "tag"] {
        let mut jwe = good.clone();
        jwe.as_object_mut().unwrap().remove(member);
        assert!(Jwe::parse(jwe.to_string().as_bytes()).is_err(), "without {member}");
        for bad in [json!(null), json!(1), json!("*"), json!("QQ==")] {
            jwe[member] = bad.clone();
            assert!(Jwe::parse(jwe.to_string().as_bytes()).is_err(), "{member} {bad}");
        }
        let twice = text.replacen('{', &format!("{{\"{member}\":{},", good[member]), 1);
        assert!(Jwe::parse(twice.as_bytes()).is_err(), "{member} twice");
    }
    for (member, len) in
        [("iv", 11), ("iv", 16), ("tag", 12), ("tag", 17), ("encrypted_key", 39), ("encrypted_key", 7)]
    {
        let mut jwe = good.clone();
        jwe[member] = json!(base64url::encode(&vec![0; len]));
        assert!(Jwe::parse(jwe.to_string().as_bytes()).is_err(), "{member} of {len} bytes");
    }
    let header = base64url::decode("t", good["protected"].as_str().unwrap()).unwrap();
    let twice = String::from_utf8(header).unwrap().replacen('{', r#"{"enc":"A256GCM","#, 1);
    let mut jwe = good.clone();
    jwe["protected"] = json!(base64url::encode(twice.as_bytes()));
    assert!(Jwe::parse(jwe.to_string().as_bytes()).is_err(), "repeated header member");
    for cut in 0..text.len() {
        assert!(Jwe::parse(&text.as_bytes()[..cut]).is_err());
    }
    assert!(matches!(Jwe::parse(&vec![b' '; super::MAX_JWE_LEN + 1]), Err(Error::TooLarge { .. })));
}

#[test]
fn null_or_unknown_members_do_not_matter() {
    let key = TeeKeyPair::generate(KeyAlgorithm::EcdhP256).unwrap();
    let mut jwe: Value = serde_json::from_slice(&seal(&key.public_jwk(), b"x").unwrap()).unwrap();
    jwe["aad"] = Value::Null;
    jwe["extra"] = json!({"a": 1});
    let jwe = Jwe::parse(jwe.to_string().as_bytes()).unwrap();
    assert_eq!(key.open(&jwe).unwrap().expose(), b"x");
    assert_eq!(format!("{jwe:?}"), "Jwe(ECDH-ES+A256KW-P256, 1 bytes)");
}

/// A server that answers with a bare secret must not find it in our error text.
#[test]
fn errors_do_not_quote_the_document() {
    for text in [
        r#""hunter2""#,
        r#"{"protected":"hunter2"}"#,
        r#"{"protected":"QQ","encrypted_key":{"hunter2":1}}"#,
        "hunter2",
    ] {
        let e = Jwe::parse(text.as_bytes()).unwrap_err();
        assert!(!format!("{e} {e:?} {}", e.hint()).contains("hunter2"), "{e:?}");
        assert!(e.code().starts_with("CRYPTO_"));
    }
}

#[test]
fn the_wire_order_is_the_one_existing_clients_need() {
    for (algorithm, header) in [
        (
            KeyAlgorithm::EcdhP256,
            r#"{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"crv":"P-256","kty":"EC","x":""#,
        ),
        (
            KeyAlgorithm::EcdhP521,
            r#"{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"crv":"P-521","kty":"EC","x":""#,
        ),
        (KeyAlgorithm::RsaOaep256, r#"{"alg":"RSA-OAEP-256","enc":"A256GCM"}"#),
    ] {
        let key = TeeKeyPair::generate(algorithm).unwrap();
        let text = String::from_utf8(seal(&key.public_jwk(), b"x").unwrap()).unwrap();
        let protected = text.strip_prefix(r#"{"protected":""#).unwrap().split('"').next().unwrap();
        let found = String::from_utf8(base64url::decode("t", protected).unwrap()).unwrap();
        assert!(found.starts_with(header), "{found}");
        let at = |name: &str| text.find(&format!("\"{name}\":")).unwrap();
        assert!(
            at("encrypted_key") < at("iv") && at("iv") < at("ciphertext") && at("ciphertext") < at("tag")
        );
        assert!(!text.contains(' ') && !text.contains("aad"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_is_sealed_opens(plain in proptest::collection::vec(any::<u8>(), 0..3000), kind in 0..3usize) {
        // One key of each kind for all cases: RSA keys take long to make.
        static KEYS: LazyLock<[TeeKeyPair; 3]> =
            LazyLock::new(|| KeyAlgorithm::ALL.map(|a| TeeKeyPair::generate(a).unwrap()));
        let sealed = seal(&KEYS[kind].public_jwk(), &plain).unwrap();
        let opened = KEYS[kind].open(&Jwe::parse(&sealed).unwrap()).unwrap();
        prop_assert_eq!(opened.expose(), &plain[..]);
    }

    #[test]
    fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Jwe::parse(&bytes);
    }

    #[test]
    fn parsing_json_of_the_right_shape_never_panics(
        header in "\\PC{0,80}", key in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let jwe = json!({
            "protected": base64url::encode(header.as_bytes()), "encrypted_key": base64url::encode(&key),
            "iv": "AAAAAAAAAAAAAAAA", "ciphertext": "", "tag": "AAAAAAAAAAAAAAAAAAAAAA",
        });
        prop_assert!(Jwe::parse(jwe.to_string().as_bytes()).is_err());
    }
}

#[test]
fn a_list_of_the_members_values_is_no_jwe() {
    let key = TeeKeyPair::generate(KeyAlgorithm::EcdhP256).unwrap();
    let sealed: Value = serde_json::from_slice(&seal(&key.public_jwk(), b"x").unwrap()).unwrap();
    let members = ["protected", "encrypted_key", "iv", "ciphertext", "tag"];
    let list = Value::from(members.map(|name| sealed[name].clone()).to_vec()).to_string();
    assert_eq!(Jwe::parse(list.as_bytes()).unwrap_err().code(), "CRYPTO_MALFORMED");
    assert_eq!(Jwe::parse(format!("  {list}").as_bytes()).unwrap_err().code(), "CRYPTO_MALFORMED");
}
