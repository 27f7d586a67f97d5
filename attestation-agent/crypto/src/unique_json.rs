//! JSON whose objects name each member once, at every depth (RFC 7515 section 4 asks it of JOSE headers).
//!
//! `serde_json::Value` silently keeps the last of two equal names; another reader may keep the first, and
//! then two programs disagree about which algorithm or key a header names. Depth is bounded by serde_json's
//! own recursion limit, length by the caller. In memory a document takes a hundred times its length where it is nothing but small
//! objects: so values and containers are counted.

use std::{cell::Cell, fmt};

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::Error;

/// Most objects and arrays of a document: some 30 MB of memory.
const MAX_CONTAINERS: u32 = 50_000;
/// Most values of any kind, and names: some 30 MB.
const MAX_VALUES: u32 = 500_000;

/// Parses `text`, called `what` in errors, refusing a member name that appears twice in one object.
///
/// # Errors
/// [`Error::Malformed`] with the place, never with the text found there; also for more than 50,000 objects and arrays or 500,000 values
/// altogether.
pub fn parse(what: &'static str, text: &[u8]) -> Result<Value, Error> {
    let left = Left { containers: Cell::new(MAX_CONTAINERS), values: Cell::new(MAX_VALUES) };
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Unique(&left).deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    value.map_err(|e| Error::json(what, &e))
}

/// What a document may still hold.
struct Left {
    containers: Cell<u32>,
    values: Cell<u32>,
}

/// Takes one of what is left.
fn take<E: de::Error>(left: &Cell<u32>) -> Result<(), E> {
    let fewer =
        left.get().checked_sub(1).ok_or_else(|| E::custom("more objects, arrays or values than are read"))?;
    left.set(fewer);
    Ok(())
}

/// A value at any depth.
#[derive(Clone, Copy)]
struct Unique<'a>(&'a Left);

impl<'de> DeserializeSeed<'de> for Unique<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        take(&self.0.values)?;
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without repeated member names")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        take(&self.0.containers)?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        take(&self.0.containers)?;
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(self)?;
            if members.insert(name, value).is_some() {
                return Err(de::Error::custom("repeated member name"));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::parse;

    #[test]
    fn repeated_names_are_refused_at_every_depth() {
        for bad in [
            r#"{"a":1,"a":1}"#,
            r#"{"e":{"x":1,"x":2}}"#,
            r#"[{"x":1,"\u0078":2}]"#,
            r#"{"a":1} "#.repeat(2).as_str(),
        ] {
            assert!(parse("t", bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse("t", br#"{"a":{"b":1},"b":[1,2.5,-3,null,true,"x"]}"#).is_ok());
    }

    #[test]
    fn a_document_of_small_things_is_refused_before_it_fills_the_memory() {
        for (unit, most) in [("{\"\":0}", 49_999), ("[]", 49_999), ("0", 499_999)] {
            for (count, read) in [(most, true), (most + 1, false)] {
                let text = format!("[{}]", vec![unit; count].join(","));
                assert_eq!(parse("t", text.as_bytes()).is_ok(), read, "{count} of {unit}");
            }
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse("t", &bytes);
        }

        #[test]
        fn agrees_with_serde_json_on_unique_names(names in proptest::collection::btree_set("[a-e]{1,3}", 0..6)) {
            let text = serde_json::to_string(
                &names.iter().map(|n| (n.clone(), serde_json::json!({ "n": n }))).collect::<serde_json::Map<_, _>>(),
            ).unwrap();
            prop_assert_eq!(parse("t", text.as_bytes()).unwrap(), serde_json::from_str::<serde_json::Value>(&text).unwrap());
        }
    }
}
