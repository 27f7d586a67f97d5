//! Resources that are no JWE for our key: refused before or in the opening, never handed on, never quoted.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cc_crypto::{KeyAlgorithm, TeeKeyPair, jwe};
use cc_tests::hostile_kbs::{Exchange, Reply, Step};
use serde_json::{Value, json};

use super::{Ground, Row, always, row};
use crate::SECRET;

/// The honest JWE for the guest's key, to be damaged.
fn sealed(exchange: &Exchange) -> Value {
    serde_json::from_slice(&jwe::seal(&exchange.tee_pubkey, SECRET).unwrap()).unwrap()
}

fn b64(bytes: impl AsRef<[u8]>) -> Value {
    URL_SAFE_NO_PAD.encode(bytes).into()
}

/// A row whose JWE had `change` done to its members.
fn members(
    name: &'static str,
    says: &'static str,
    change: impl Fn(&mut Value) + Send + Sync + 'static,
) -> Row {
    let reply = move |e: &Exchange| {
        let mut document = sealed(e);
        change(&mut document);
        Reply::http(200, document.to_string())
    };
    row(name, Step::Resource, reply, (502, "KBS_JWE_INVALID", says))
}

/// A row whose protected header had `change` done to it.
fn header(
    name: &'static str,
    says: &'static str,
    change: impl Fn(&mut Value) + Send + Sync + 'static,
) -> Row {
    members(name, says, move |document| {
        let text = URL_SAFE_NO_PAD.decode(document["protected"].as_str().unwrap()).unwrap();
        let mut header: Value = serde_json::from_slice(&text).unwrap();
        change(&mut header);
        document["protected"] = b64(header.to_string());
    })
}

#[test]
fn what_is_not_sealed_to_our_key_is_not_opened() {
    let mut ground = Ground::new();
    let other = |algorithm| TeeKeyPair::generate(algorithm).unwrap().public_jwk();
    let sealed_to = |key: Value| always(Reply::http(200, jwe::seal(&key, SECRET).unwrap()));
    let invalid = |says| (502, "KBS_JWE_INVALID", says);
    let duplicate = |e: &Exchange| {
        let text = sealed(e).to_string();
        Reply::http(200, format!(r#"{{"tag":"AAAA",{}"#, &text[1..]))
    };
    ground.play(vec![
        row(
            "another P-256 key",
            Step::Resource,
            sealed_to(other(KeyAlgorithm::EcdhP256)),
            invalid("does not open with this key"),
        ),
        row("a P-521 key", Step::Resource, sealed_to(other(KeyAlgorithm::EcdhP521)), invalid("P521")),
        row(
            "an RSA key",
            Step::Resource,
            sealed_to(other(KeyAlgorithm::RsaOaep256)),
            invalid("RSA-OAEP-256 key"),
        ),
        row("the bare secret", Step::Resource, always(Reply::http(200, SECRET)), invalid("not JSON")),
        row(
            "the secret as JSON",
            Step::Resource,
            |_| Reply::http(200, json!(SECRET).to_string()),
            invalid("JWE"),
        ),
        row("no body", Step::Resource, always(Reply::http(200, "")), invalid("ends too early")),
        row("two tags", Step::Resource, duplicate, invalid("twice")),
        header("enc none", r#"unsupported enc \"none\""#, |h| h["enc"] = json!("none")),
        header("enc A128GCM", "unsupported enc", |h| h["enc"] = json!("A128GCM")),
        header("no enc", "enc", |h| drop(h.as_object_mut().unwrap().remove("enc"))),
        header("alg none", "unsupported alg", |h| h["alg"] = json!("none")),
        header("alg dir", "unsupported alg", |h| h["alg"] = json!("dir")),
        header("alg RSA1_5", "unsupported alg", |h| h["alg"] = json!("RSA1_5")),
        header("crit", "header extension", |h| h["crit"] = json!(["exp"])),
        header("zip", "header extension", |h| h["zip"] = json!("DEF")),
        header("an extra header member", "does not open", |h| h["kid"] = json!("1")),
        header("point off the curve", "no point on P-256", |h| h["epk"]["y"] = h["epk"]["x"].clone()),
        header("point zero", "no point on P-256", |h| {
            h["epk"]["x"] = b64([0; 32]);
            h["epk"]["y"] = b64([0; 32]);
        }),
        header("short coordinate", "x", |h| h["epk"]["x"] = b64([1; 31])),
        header("epk is no EC key", "kty of epk", |h| h["epk"]["kty"] = json!("OKP")),
        header("no epk", "epk", |h| drop(h.as_object_mut().unwrap().remove("epk"))),
        members("encrypted_key of 7 bytes", "encrypted_key", |d| d["encrypted_key"] = b64([1; 7])),
        members("encrypted_key of 0 bytes", "encrypted_key", |d| d["encrypted_key"] = json!("")),
        members("encrypted_key of 48 bytes", "encrypted_key", |d| d["encrypted_key"] = b64([1; 48])),
        members("another encrypted_key", "does not open", |d| d["encrypted_key"] = b64([1; 40])),
        members("iv of 16 bytes", "iv", |d| d["iv"] = b64([1; 16])),
        members("tag of 12 bytes", "tag", |d| d["tag"] = b64([1; 12])),
        members("another tag", "does not open", |d| d["tag"] = b64([1; 16])),
        members("another ciphertext", "does not open", |d| d["ciphertext"] = b64([1; 37])),
        members("no ciphertext", "ciphertext", |d| drop(d.as_object_mut().unwrap().remove("ciphertext"))),
        members("padded base64", "base64", |d| d["iv"] = json!("AQEBAQEBAQEBAQEBAQ==")),
        members("protected is a number", "wrong type", |d| d["protected"] = json!(1)),
    ]);
    ground.repeat("another key", Step::Resource, sealed_to(other(KeyAlgorithm::EcdhP256)));
    let log = std::fs::read_to_string(ground.stack.folder().join("confidential-data-hub.log")).unwrap();
    assert!(!log.contains(std::str::from_utf8(SECRET).unwrap()), "the bare secret is in the log");
}
