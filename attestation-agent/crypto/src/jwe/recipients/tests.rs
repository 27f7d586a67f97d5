//! JWE made here for keys made here, in the form that skopeo 1.18 writes, and what must not open. That real ones open is
//! tested with skopeo itself.

use std::sync::LazyLock;

use aws_lc_rs::{
    aead::{Aad, Nonce},
    rsa::{KeySize, OaepPublicEncryptingKey},
};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::jwe::{address_ecdh, cipher};

static RSA: LazyLock<PrivateDecryptingKey> =
    LazyLock::new(|| PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap());
static P256: LazyLock<PrivateKey> = LazyLock::new(|| PrivateKey::generate(Curve::P256.agreement()).unwrap());
static P521: LazyLock<PrivateKey> = LazyLock::new(|| PrivateKey::generate(Curve::P521.agreement()).unwrap());

fn pem_of(key: &impl AsDer<Pkcs8V1Der<'static>>, label: &str) -> String {
    let pkcs8 = key.as_der().unwrap();
    let pem = pem::encode(label, pkcs8.as_ref()).unwrap();
    String::from_utf8(pem.expose().to_vec()).unwrap()
}

fn keys() -> [RecipientKey; 3] {
    let pems = [pem_of(&*RSA, "PRIVATE KEY"), pem_of(&*P256, "PRIVATE KEY"), pem_of(&*P521, "PRIVATE KEY")];
    pems.map(|pem| RecipientKey::from_pem(&pem).unwrap())
}

/// One recipient: header and wrapped key.
fn ec_recipient(curve: Curve, key: &PrivateKey, content_key: &ContentKey) -> Value {
    let (header, wrapped) = address_ecdh(&Point::of(curve, key).unwrap(), content_key).unwrap();
    let mut header: Value = serde_json::from_str(&header).unwrap();
    header.as_object_mut().unwrap().remove("enc");
    json!({"header": header, "encrypted_key": base64url::encode(&wrapped)})
}

fn rsa_recipient(content_key: &ContentKey) -> Value {
    let key = OaepPublicEncryptingKey::new(RSA.public_key()).unwrap();
    let mut wrapped = vec![0; key.ciphertext_size()];
    key.encrypt(&OAEP_SHA1_MGF1SHA1, content_key.as_slice(), &mut wrapped, None).unwrap();
    json!({"header": {"alg": RSA_ALG}, "encrypted_key": base64url::encode(&wrapped)})
}

fn encrypted(header: &Value, content_key: &ContentKey) -> Value {
    let protected = base64url::encode(header.to_string().as_bytes());
    let mut text = b"options".to_vec();
    let nonce = Nonce::assume_unique_for_key([1; IV_LEN]);
    let aad = Aad::from(protected.as_bytes());
    let tag = cipher(content_key).unwrap().seal_in_place_separate_tag(nonce, aad, &mut text).unwrap();
    json!({
        "protected": protected, "iv": base64url::encode(&[1; IV_LEN]), "ciphertext": base64url::encode(&text),
        "tag": base64url::encode(tag.as_ref()),
    })
}

/// For the RSA key, for somebody on a curve that is not known, and for both EC keys.
fn for_all() -> Value {
    let key = ContentKey::new([5; 32]);
    let mut document = encrypted(&json!({"enc": ENC}), &key);
    let (rsa, p256) = (rsa_recipient(&key), ec_recipient(Curve::P256, &P256, &key));
    let mut stranger = p256.clone();
    stranger["header"]["epk"]["crv"] = json!("P-384");
    let p521 = ec_recipient(Curve::P521, &P521, &key);
    document["encrypted_key"] = rsa["encrypted_key"].clone();
    document["recipients"] = json!([rsa, stranger, p256, p521]);
    document
}

/// The flattened form, whose one header is protected.
fn flattened(recipient: &Value, content_key: &ContentKey) -> Vec<u8> {
    let mut header = recipient["header"].clone();
    header["enc"] = json!(ENC);
    let mut document = encrypted(&header, content_key);
    document["encrypted_key"] = recipient["encrypted_key"].clone();
    document.to_string().into_bytes()
}

fn edited(edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut document = for_all();
    edit(&mut document);
    document.to_string().into_bytes()
}

#[test]
fn each_recipient_opens_both_forms() {
    let all = for_all().to_string();
    let key = ContentKey::new([6; 32]);
    let forms = [
        flattened(&rsa_recipient(&key), &key),
        flattened(&ec_recipient(Curve::P256, &P256, &key), &key),
        flattened(&ec_recipient(Curve::P521, &P521, &key), &key),
    ];
    for (at, recipient) in keys().iter().enumerate() {
        assert_eq!(recipient.open(all.as_bytes()).unwrap().expose(), b"options", "{at}");
        for (other, form) in forms.iter().enumerate() {
            match recipient.open(form) {
                Ok(options) => assert!(at == other && options.expose() == b"options"),
                Err(error) => {
                    assert!(at != other && error.code() == "CRYPTO_OTHER_KEY", "{at} {other}: {error}")
                }
            }
        }
        assert_eq!(format!("{recipient:?}"), "RecipientKey");
    }
}

#[test]
fn a_stranger_does_not_open_it() {
    let stranger = PrivateKey::generate(Curve::P256.agreement()).unwrap();
    let stranger = RecipientKey::from_pem(&pem_of(&stranger, "PRIVATE KEY")).unwrap();
    assert_eq!(stranger.open(for_all().to_string().as_bytes()).unwrap_err(), Error::CannotOpen);
}

#[test]
fn altered_and_ambiguous_documents_are_refused() {
    let [rsa, ..] = keys();
    for edit in [
        (|d: &mut Value| d["tag"] = json!("AAAAAAAAAAAAAAAAAAAAAA")) as fn(&mut Value),
        |d| d["iv"] = json!("AAAAAAAAAAAAAAAA"),
        |d| d["iv"] = json!("AAAAAAAAAAAAAAA"),
        |d| d["ciphertext"] = json!(format!("AAAA{}", d["ciphertext"].as_str().unwrap())),
        |d| d["protected"] = json!(base64url::encode(br#"{"enc":"A256GCM" }"#)),
        |d| d["protected"] = json!(base64url::encode(br#"{"enc":"A128GCM"}"#)),
        |d| d["protected"] = json!(base64url::encode(br#"{"enc":"A256GCM","zip":"DEF"}"#)),
        |d| d["protected"] = json!(base64url::encode(br#"{"enc":"A256GCM","alg":"dir"}"#)),
        |d| d["aad"] = json!("AA"),
        |d| d["encrypted_key"] = d["recipients"][2]["encrypted_key"].clone(),
        |d| d["header"] = json!({"alg": "dir"}),
        |d| d["unprotected"] = json!({"enc": "A256GCM"}),
        |d| d["unprotected"] = json!({"crit": []}),
        |d| d["recipients"] = json!([]),
        |d| d["recipients"] = json!(vec![d["recipients"][0].clone(); MAX_RECIPIENTS + 1]),
        |d| d["recipients"] = json!([1]),
        |d| d["recipients"] = json!({}),
    ] {
        let document = edited(edit);
        assert!(rsa.open(&document).is_err(), "{}", String::from_utf8_lossy(&document));
    }
    assert_eq!(rsa.open(&vec![b' '; MAX_LEN + 1]).unwrap_err().code(), "CRYPTO_TOO_LARGE");
}

#[test]
fn private_keys_in_every_label_and_no_others() {
    let pkcs1: Pkcs8V1Der<'_> = RSA.as_der().unwrap();
    let pkcs1 = pem::encode("RSA PRIVATE KEY", der::pkcs1_of_pkcs8(pkcs1.as_ref()).unwrap()).unwrap();
    RecipientKey::from_pem(std::str::from_utf8(pkcs1.expose()).unwrap()).unwrap();
    for (pem, code) in [
        (pem_of(&*P256, "ENCRYPTED PRIVATE KEY"), "CRYPTO_INVALID_KEY"),
        (pem_of(&*P256, "PUBLIC KEY"), "CRYPTO_INVALID_KEY"),
        (pem_of(&*P256, "RSA PRIVATE KEY"), "CRYPTO_INVALID_KEY"),
        (pem_of(&*RSA, "EC PRIVATE KEY"), "CRYPTO_INVALID_KEY"),
        (String::new(), "CRYPTO_MALFORMED"),
    ] {
        assert_eq!(RecipientKey::from_pem(&pem).unwrap_err().code(), code, "{}", &pem[..20.min(pem.len())]);
    }
}

proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let [rsa, p256, _] = keys();
        prop_assert!(p256.open(&bytes).is_err());
        let mut altered = for_all().to_string().into_bytes();
        let at = at.index(altered.len());
        altered[at] ^= 1 << bit;
        // Parts that are another recipient's do not matter to one.
        let _ = (rsa.open(&altered), p256.open(&altered));
    }
}
