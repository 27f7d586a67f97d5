//! What a simple signature says: the JSON of "atomic container signature" (containers-signature(5)) and of cosign's
//! signatures, which differ in `critical.type` alone.
//!
//! `critical` has exactly the three members that are known, because whatever else stood there would be something that
//! the signer held to be critical. `optional` is not used. The text is parsed only after its signature was verified.

use serde_json::{Map, Value};

use crate::Digest;

/// Longest payload read, in bytes; one takes 300.
pub const MAX_LEN: usize = 64 * 1024;

/// Which of the two formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// OpenPGP simple signing.
    Atomic,
    /// Signatures as `cosign` makes them.
    Cosign,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Atomic => "atomic container signature",
            Self::Cosign => "cosign container image signature",
        }
    }
}

/// A payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The manifest or index that was signed.
    pub digest: Digest,
    /// The name it was signed under, unparsed.
    pub reference: String,
}

impl Payload {
    /// Reads a payload of at most 64 KiB.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(kind: Kind, text: &[u8]) -> Result<Self, String> {
        if text.len() > MAX_LEN {
            return Err(format!("it has more than {MAX_LEN} bytes"));
        }
        let value = cc_crypto::unique_json::parse("payload", text).map_err(|error| error.to_string())?;
        let whole = exactly("the payload", Some(&value), &["critical"], &["optional"])?;
        if whole.get("optional").is_some_and(|optional| !optional.is_object() && !optional.is_null()) {
            return Err("optional is not an object".to_owned());
        }
        let critical = exactly("critical", whole.get("critical"), &["type", "image", "identity"], &[])?;
        let found = text_of(critical, "type")?;
        if found != kind.as_str() {
            let found: String = found.chars().take(80).collect();
            return Err(format!("its type is {found:?} instead of {:?}", kind.as_str()));
        }
        let image = exactly("critical.image", critical.get("image"), &["docker-manifest-digest"], &[])?;
        let identity = exactly("critical.identity", critical.get("identity"), &["docker-reference"], &[])?;
        let digest = text_of(image, "docker-manifest-digest")?;
        Ok(Self {
            digest: digest.parse().map_err(|_| "docker-manifest-digest is no digest".to_owned())?,
            reference: text_of(identity, "docker-reference")?.to_owned(),
        })
    }
}

fn exactly<'a>(
    place: &str,
    value: Option<&'a Value>,
    required: &[&str],
    optional: &[&str],
) -> Result<&'a Map<String, Value>, String> {
    let members = value.and_then(Value::as_object).ok_or_else(|| format!("{place} is not an object"))?;
    if let Some(missing) = required.iter().find(|name| !members.contains_key(**name)) {
        return Err(format!("{place} has no {missing}"));
    }
    let known = |name: &str| required.contains(&name) || optional.contains(&name);
    match members.keys().find(|name| !known(name)) {
        Some(name) => {
            let name: String = name.chars().take(80).collect();
            Err(format!("{place} has the unknown member {name:?}"))
        }
        None => Ok(members),
    }
}

fn text_of<'a>(members: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    members.get(name).and_then(Value::as_str).ok_or_else(|| format!("{name} is not a string"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn payload(kind: Kind) -> Value {
        json!({
            "critical": {
                "type": kind.as_str(),
                "image": {"docker-manifest-digest": DIGEST},
                "identity": {"docker-reference": "quay.io/ns/repo:tag"},
            },
            "optional": {"creator": "x", "timestamp": 1_634_533_638},
        })
    }

    #[test]
    fn both_kinds_are_read_and_not_mistaken() {
        for (kind, other) in [(Kind::Atomic, Kind::Cosign), (Kind::Cosign, Kind::Atomic)] {
            let mut text = payload(kind);
            let read = Payload::parse(kind, text.to_string().as_bytes()).unwrap();
            assert_eq!(
                (read.digest.to_string().as_str(), read.reference.as_str()),
                (DIGEST, "quay.io/ns/repo:tag")
            );
            assert!(Payload::parse(other, text.to_string().as_bytes()).unwrap_err().contains("its type is"));
            text["optional"] = Value::Null;
            assert!(Payload::parse(kind, text.to_string().as_bytes()).is_ok());
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for (expected, edit) in [
            ("has no critical", (|p| p["critical"].take()) as fn(&mut Value) -> Value),
            ("unknown member \"more\"", |p| {
                p["more"] = json!(1);
                Value::Null
            }),
            ("unknown member \"more\"", |p| {
                p["critical"]["more"] = json!(1);
                Value::Null
            }),
            ("unknown member \"sha\"", |p| {
                p["critical"]["image"]["sha"] = json!(1);
                Value::Null
            }),
            ("unknown member \"tag\"", |p| {
                p["critical"]["identity"]["tag"] = json!(1);
                Value::Null
            }),
            ("critical has no image", |p| p["critical"].as_object_mut().unwrap().remove("image").unwrap()),
            ("is no digest", |p| {
                p["critical"]["image"]["docker-manifest-digest"] = json!("sha256:00");
                Value::Null
            }),
            ("not a string", |p| {
                p["critical"]["identity"]["docker-reference"] = json!(1);
                Value::Null
            }),
            ("not a string", |p| {
                p["critical"]["type"] = json!(["atomic"]);
                Value::Null
            }),
            ("optional is not", |p| {
                p["optional"] = json!("x");
                Value::Null
            }),
        ] {
            let mut text = payload(Kind::Cosign);
            edit(&mut text);
            if text["critical"].is_null() {
                text.as_object_mut().unwrap().remove("critical");
            }
            let error = Payload::parse(Kind::Cosign, text.to_string().as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let other = DIGEST.replace('e', "a");
        let twice = payload(Kind::Cosign).to_string().replacen(
            "\"docker-manifest-digest\"",
            &format!("\"docker-manifest-digest\":{other:?},\"docker-manifest-digest\""),
            1,
        );
        assert!(Payload::parse(Kind::Cosign, twice.as_bytes()).unwrap_err().contains("appears twice"));
        assert!(Payload::parse(Kind::Cosign, &vec![b' '; MAX_LEN + 1]).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Payload::parse(Kind::Atomic, &bytes);
        }
    }
}
