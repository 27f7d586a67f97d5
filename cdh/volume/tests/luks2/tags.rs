//! Tags: what changes them, what does not, and that they live in a header that cryptsetup writes.

use cc_crypto::Secret;
use cc_volume::{
    Error,
    luks2::{Header, HeaderKey, Policy, Tag},
};
use serde_json::{Value, json};

use crate::{
    SECRET, area,
    craft::{Craft, First, Second, sample},
    cryptsetup, format, has_cryptsetup,
};

fn key(secret: &[u8]) -> HeaderKey {
    HeaderKey::derive(&Secret::new(secret.to_vec())).unwrap()
}

fn tag(craft: &Craft) -> Tag {
    key(SECRET).sign(&Header::read(&craft.bytes).unwrap()).unwrap()
}

/// By Python's `json.dumps(…, sort_keys=True, separators=(',', ':'))`, `hmac` and `hashlib`, from the texts in `craft.rs`.
#[test]
fn it_agrees_with_python() {
    assert_eq!(tag(&sample()).to_string(), "x84ssmTo9OLHj9Kl3LhuUfWVGaqpwtZa0UwTX38H+1c=");
}

#[test]
fn what_every_write_changes_does_not_count() {
    let mut craft = sample();
    for which in [First, Second] {
        craft.set_seqid(which, 77);
        craft.poke(which, 104, &[9; 64]);
    }
    let token = tag(&craft).to_token();
    craft.edit(|json| json["tokens"]["5"] = token.clone());
    craft.rewrite(First, |text| text.replace(',', " ,\n"));
    let expected = tag(&sample());
    assert_eq!(tag(&craft), expected);
    assert_eq!(Header::read(&craft.bytes).unwrap().tag(), Some(&expected));
}

#[test]
fn everything_else_does() {
    let expected = tag(&sample());
    let changes: [fn(&mut Craft); 7] = [
        |c| c.poke(First, 24, b"label"),
        |c| c.poke(First, 168, b"7"),
        |c| c.poke(First, 208, b"subsystem"),
        |c| c.edit(|json| json["digests"]["0"]["iterations"] = 1001.into()),
        |c| c.edit(|json| json["segments"]["0"]["sector_size"] = 512.into()),
        |c| c.edit(|json| json["tokens"]["0"] = json!({"type": "clevis", "keyslots": ["0"]})),
        |c| c.edit(|json| json["keyslots"]["0"]["priority"] = 1.into()),
    ];
    for change in changes {
        let mut craft = sample();
        change(&mut craft);
        assert_ne!(tag(&craft), expected);
        let header = Header::read(&craft.bytes).unwrap();
        assert_eq!(key(SECRET).verify(&header, &expected), Err(Error::TagMismatch));
    }
    let header = Header::read(&sample().bytes).unwrap();
    assert_eq!(key(SECRET).verify(&header, &expected), Ok(()));
    assert_eq!(key(&[7; 32]).verify(&header, &expected), Err(Error::TagMismatch));
}

#[test]
fn weak_secrets_bad_tags_and_doubtful_numbers_are_refused() {
    let weak = HeaderKey::derive(&Secret::new(vec![1; 31])).unwrap_err();
    assert_eq!(weak, Error::WeakSecret { found: 31, least: 32 });
    for text in ["", "AAAA", "not base64", &"A".repeat(44)] {
        assert_eq!(text.parse::<Tag>().unwrap_err().code(), "LUKS_TAG_MALFORMED", "{text}");
    }
    for number in [json!(1.5), json!(-1), json!(1_u64 << 53)] {
        let mut craft = sample();
        craft
            .edit(|json: &mut Value| json["tokens"]["0"] = json!({"type": "x", "keyslots": [], "n": number}));
        let header = Header::read(&craft.bytes).unwrap();
        assert_eq!(key(SECRET).sign(&header).unwrap_err().code(), "LUKS_HEADER_NOT_CANONICAL");
    }
}

#[test]
fn a_tag_lives_in_a_header_of_cryptsetup() {
    if !has_cryptsetup("a_tag_lives_in_a_header_of_cryptsetup") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("volume");
    let path = file.to_str().unwrap();
    let before = Header::read(&format(folder.path(), "volume", &[])).unwrap();
    let tag = key(SECRET).sign(&before).unwrap();
    let token = tag.to_token().to_string();
    let out = cryptsetup(&["token", "import", "--json-file", "-", path], token.as_bytes());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));

    let after = Header::read(&area(&file)).unwrap();
    assert!(after.binary().seqid > before.binary().seqid);
    assert!(Policy::default().judge(&after).is_admitted());
    assert_eq!(after.tag(), Some(&tag));
    assert_eq!(key(SECRET).verify(&after, &tag), Ok(()));
    let out = cryptsetup(&["open", "--test-passphrase", "--key-file", "-", path], SECRET);
    assert!(out.status.success(), "the volume still opens: {}", String::from_utf8_lossy(&out.stderr));

    let out = cryptsetup(&["config", "--label", "other", path], b"");
    assert!(out.status.success());
    let changed = Header::read(&area(&file)).unwrap();
    assert_eq!(key(SECRET).verify(&changed, changed.tag().unwrap()), Err(Error::TagMismatch));
}
