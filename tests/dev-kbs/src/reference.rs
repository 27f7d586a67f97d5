//! The message that sets reference values.
//!
//! Source: the reference value provider of Trustee, message version 0.1.0, extractor `sample`: a base64 payload that
//! holds a JSON object from name to value. The other extractors (`swid`, `corim`) are not here. What the names mean
//! is the appraisal's matter, not this file's, but for the keys of TPMs (`tpm_keys`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{Error, tpm_keys};

/// The one message version.
const VERSION: &str = "0.1.0";
/// Longest name of a reference value, in bytes.
const NAME_LIMIT: usize = 256;

#[derive(Deserialize)]
struct Message {
    version: String,
    #[serde(rename = "type")]
    kind: String,
    payload: String,
}

/// The reference values in the message `body`, by name.
///
/// # Errors
/// [`Error::Malformed`] when it is no such message, [`Error::ReferenceValue`] when a member has another value.
pub fn parse(body: &[u8]) -> Result<Map<String, Value>, Error> {
    let message: Message = serde_json::from_slice(body)
        .map_err(|source| Error::Malformed { what: "reference-value", source })?;
    if message.version != VERSION {
        return Err(refused("the message version must be 0.1.0"));
    }
    if message.kind != "sample" {
        return Err(refused("this server extracts messages of the type sample only"));
    }
    let payload =
        STANDARD.decode(message.payload).map_err(|_| refused("the payload is not standard base64"))?;
    let values: Map<String, Value> =
        serde_json::from_slice(&payload).map_err(|_| refused("the decoded payload is not a JSON object"))?;
    if values.keys().any(|name| name.is_empty() || name.len() > NAME_LIMIT) {
        return Err(refused("a name is empty or longer than 256 bytes"));
    }
    tpm_keys::check(&values)?;
    Ok(values)
}

fn refused(why: &str) -> Error {
    Error::ReferenceValue(why.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn message(version: &str, kind: &str, payload: &str) -> Vec<u8> {
        json!({ "version": version, "type": kind, "payload": payload }).to_string().into_bytes()
    }

    #[test]
    fn values_of_any_kind_come_out() {
        let values = json!({ "svn": ["1"], "major_version": 1, "snp_smt_enabled": true });
        let parsed = parse(&message("0.1.0", "sample", &STANDARD.encode(values.to_string()))).unwrap();
        assert_eq!(Value::Object(parsed), values);
    }

    #[test]
    fn each_wrong_member_is_named() {
        let object = STANDARD.encode("{}");
        for (body, why) in [
            (message("0.2.0", "sample", &object), "version"),
            (message("0.1.0", "corim", &object), "type"),
            (message("0.1.0", "sample", "*"), "base64"),
            (message("0.1.0", "sample", &STANDARD.encode("[]")), "object"),
            (message("0.1.0", "sample", &STANDARD.encode("{\"\":1}")), "name"),
            (b"{}".to_vec(), "reference-value"),
        ] {
            let refused = parse(&body).unwrap_err();
            assert!(refused.to_string().contains(why), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn any_body_is_taken_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&body);
        }
    }

    /// The two other kinds of payload that Trustee's provider extracts, as recorded.
    #[test]
    fn recorded_manifests_of_other_kinds_are_refused_by_name() {
        let Some(folder) = cc_vectors::folder("rvps-provenance") else { return };
        let swid = std::fs::read_to_string(folder.join("swid-rim.b64")).unwrap();
        let corim = STANDARD.encode(std::fs::read(folder.join("unsigned-example-corim.cbor")).unwrap());
        for (kind, payload) in [("swid", swid.trim()), ("corim", &corim)] {
            let message = json!({ "version": "0.1.0", "type": kind, "payload": payload });
            let refused = parse(message.to_string().as_bytes()).unwrap_err().to_string();
            assert!(refused.contains("of the type sample only"), "{kind}: {refused}");
            let disguised = json!({ "version": "0.1.0", "type": "sample", "payload": payload });
            assert!(parse(disguised.to_string().as_bytes()).is_err(), "{kind}");
        }
    }
}
