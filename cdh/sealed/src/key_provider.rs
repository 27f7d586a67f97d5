//! The key-provider protocol of ocicrypt: JSON in, JSON out, carried by `keyprovider.KeyProviderService`.
//!
//! Defined by the key-provider document of the ocicrypt project. An image tool that pulls sends `keyunwrap` with a layer's
//! annotation and gets the private options; one that encrypts sends `keywrap` with the private options and gets the
//! annotation. Bytes are base64 texts where Go wrote them and arrays of numbers where Rust did: both are read. Arrays are
//! written, which both sides read.

use cc_crypto::Secret;
use serde_json::{Map, Value, json};

use crate::SealedError;
use crate::json::{self, wipe};

/// Longest request read, in bytes.
pub const MAX_REQUEST_LEN: usize = 256 * 1024;
const WHAT: &str = "key-provider request";

/// A request to wrap a layer's private options.
#[derive(Debug)]
pub struct WrapRequest {
    /// What `--encryption-key provider:<name>:<value>` gave for our name, decoded; none if it was absent.
    pub parameter: Option<String>,
    /// The private options.
    pub options: Secret,
}

/// Reads a `keyunwrap` request: the bytes of the annotation packet.
///
/// # Errors
/// [`SealedError::TooLarge`], [`SealedError::Malformed`].
pub fn parse_unwrap(request: &[u8]) -> Result<Vec<u8>, SealedError> {
    let members = json::object(WHAT, request, MAX_REQUEST_LEN)?;
    let annotation = at(&members, &["keyunwrapparams", "annotation"])
        .ok_or_else(|| SealedError::malformed(WHAT, "keyunwrapparams.annotation is missing"))?;
    bytes("keyunwrapparams.annotation", annotation)
}

/// Reads a `keywrap` request, with the parameter of the key provider called `name`.
///
/// # Errors
/// [`SealedError::TooLarge`], [`SealedError::Malformed`].
pub fn parse_wrap(request: &[u8], name: &str) -> Result<WrapRequest, SealedError> {
    let mut members = json::object(WHAT, request, MAX_REQUEST_LEN)?;
    let parameter = match at(&members, &["keywrapparams", "ec", "Parameters", name]) {
        None => None,
        Some(Value::Array(values)) => match values.as_slice() {
            [] => None,
            [value] => {
                let text = bytes("the provider's parameter", value)?;
                Some(
                    String::from_utf8(text)
                        .map_err(|_| SealedError::malformed(WHAT, "the provider's parameter is no text"))?,
                )
            }
            _ => return Err(SealedError::malformed(WHAT, "the provider has more than one parameter")),
        },
        Some(_) => return Err(SealedError::malformed(WHAT, "the provider's parameters are no list")),
    };
    let options = members
        .get_mut("keywrapparams")
        .and_then(|params| params.get_mut("optsdata"))
        .map(Value::take)
        .ok_or_else(|| SealedError::malformed(WHAT, "keywrapparams.optsdata is missing"))?;
    Ok(WrapRequest { parameter, options: private_options(options)? })
}

/// The answer to `keyunwrap`.
#[must_use]
pub fn unwrapped(options: &Secret) -> Vec<u8> {
    answer("keyunwrapresults", "optsdata", options.expose())
}

/// The answer to `keywrap`.
#[must_use]
pub fn wrapped(annotation: &[u8]) -> Vec<u8> {
    answer("keywrapresults", "annotation", annotation)
}

/// A `keyunwrap` request for the annotation packet `annotation`.
#[must_use]
pub fn unwrap_request(annotation: &[u8]) -> Vec<u8> {
    json!({
        "op": "keyunwrap",
        "keywrapparams": {"ec": null, "optsdata": null},
        "keyunwrapparams": {"dc": {"Parameters": {}}, "annotation": json::encode(annotation)},
    })
    .to_string()
    .into_bytes()
}

/// Reads the answer to `keyunwrap`.
///
/// # Errors
/// [`SealedError::TooLarge`], [`SealedError::Malformed`].
pub fn parse_unwrapped(answer: &[u8]) -> Result<Secret, SealedError> {
    let mut members = json::object("key-provider answer", answer, 4 * MAX_REQUEST_LEN)?;
    let options = members.get_mut("keyunwrapresults").and_then(|r| r.get_mut("optsdata")).map(Value::take);
    let mut options = options.unwrap_or_default();
    let result = bytes("keyunwrapresults.optsdata", &options).map(Secret::new);
    wipe(&mut options);
    result
}

fn at<'a>(members: &'a Map<String, Value>, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(members.get(*first)?, |value, name| value.get(name)).filter(|value| !value.is_null())
}

/// Bytes as base64 text or as an array of numbers.
fn bytes(name: &str, value: &Value) -> Result<Vec<u8>, SealedError> {
    match value {
        Value::String(text) => json::decode(WHAT, name, text),
        Value::Array(numbers) => numbers
            .iter()
            .map(|n| n.as_u64().and_then(|n| u8::try_from(n).ok()))
            .collect::<Option<Vec<u8>>>()
            .ok_or_else(|| SealedError::malformed(WHAT, format!("{name} is not a list of bytes"))),
        _ => Err(SealedError::malformed(WHAT, format!("{name} is neither base64 nor a list of bytes"))),
    }
}

/// The private options: base64 as Go sends them, or their JSON text as an old Rust library does.
fn private_options(mut value: Value) -> Result<Secret, SealedError> {
    let result = match &value {
        Value::String(text) if text.trim_start().starts_with('{') => Ok(text.as_bytes().to_vec()),
        other => bytes("keywrapparams.optsdata", other),
    };
    wipe(&mut value);
    result.map(Secret::new)
}

fn answer(result: &str, member: &str, bytes: &[u8]) -> Vec<u8> {
    // Written by hand: a JSON value of the secret bytes would stay behind in memory.
    let mut text = Vec::with_capacity(64 + bytes.len() * 4);
    text.extend_from_slice(format!("{{\"{result}\":{{\"{member}\":[").as_bytes());
    for (index, byte) in bytes.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        let digits = [b'0' + byte / 100, b'0' + byte / 10 % 10, b'0' + byte % 10];
        let skip = if *byte >= 100 {
            0
        } else if *byte >= 10 {
            1
        } else {
            2
        };
        text.extend(digits.iter().skip(skip));
    }
    text.extend_from_slice(b"]}}");
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unwrap_requests_are_read_as_go_and_rust_write_them() {
        assert_eq!(parse_unwrap(&unwrap_request(b"{}")).unwrap(), b"{}");
        for request in [
            json!({"keyunwrapparams": {"annotation": "e30="}}),
            json!({"op": "x", "keyunwrapparams": {"dc": null, "annotation": [123, 125]}, "more": 1}),
        ] {
            assert_eq!(parse_unwrap(request.to_string().as_bytes()).unwrap(), b"{}");
        }
        for request in [
            json!({"keyunwrapparams": {"annotation": null}}),
            json!({"keyunwrapparams": {}}),
            json!({"keyunwrapparams": {"annotation": [256]}}),
            json!({"keyunwrapparams": {"annotation": "?"}}),
            json!([]),
        ] {
            assert_eq!(parse_unwrap(request.to_string().as_bytes()).unwrap_err().code(), "SEALED_MALFORMED");
        }
    }

    #[test]
    fn wrap_requests_carry_one_parameter_and_the_options() {
        let request = |optsdata: Value| {
            json!({"op": "keywrap", "keyunwrapparams": {"dc": null, "annotation": null}, "keywrapparams": {
                "ec": {"Parameters": {"attestation-agent": ["a2V5aWQ9eA=="], "other": ["eA=="]}}, "optsdata": optsdata}})
            .to_string()
        };
        for options in [json!("e30="), json!("{}"), json!([123, 125])] {
            let wrap = parse_wrap(request(options).as_bytes(), "attestation-agent").unwrap();
            assert_eq!(wrap.parameter.as_deref(), Some("keyid=x"));
            assert_eq!(wrap.options.expose(), b"{}");
        }
        assert!(parse_wrap(request(Value::Null).as_bytes(), "attestation-agent").is_err());
        assert_eq!(parse_wrap(request(json!("e30=")).as_bytes(), "absent").unwrap().parameter, None);
    }

    proptest! {
        #[test]
        fn answers_are_json_that_is_read_back(options in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = unwrapped(&Secret::new(options.clone()));
            prop_assert_eq!(
                serde_json::from_slice::<Value>(&text).unwrap(),
                json!({"keyunwrapresults": {"optsdata": options}})
            );
            let read = parse_unwrapped(&text).unwrap();
            prop_assert_eq!(read.expose(), options.as_slice());
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_unwrap(&bytes);
            let _ = parse_wrap(&bytes, "x");
            let _ = parse_unwrapped(&bytes);
        }
    }
}
