//! JSON whose objects name each member once, at every depth (RFC 7515 section 4 asks it of JOSE headers).
//!
//! `serde_json::Value` silently keeps the last of two equal names; another reader may keep the first, and
//! then two programs disagree about which algorithm or key a header names. Depth is bounded by serde_json's
//! own recursion limit, length by the caller.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::Error;

/// Parses `text`, called `what` in errors, refusing a member name that appears twice in one object.
///
/// # Errors
/// [`Error::Malformed`] with the place, never with the text found there.
pub fn parse(what: &'static str, text: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice::<Unique>(text).map(|u| u.0).map_err(|e| Error::json(what, &e))
}

struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(UniqueVisitor)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Unique;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without repeated member names")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Unique, E> {
        Ok(Unique(Value::Null))
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Unique, E> {
        Ok(Unique(Value::Bool(v)))
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Unique, E> {
        Ok(Unique(Value::Number(v.into())))
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Unique, E> {
        Ok(Unique(Value::Number(v.into())))
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Unique, E> {
        Number::from_f64(v).map(|n| Unique(Value::Number(n))).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Unique, E> {
        Ok(Unique(Value::String(v.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Unique, A::Error> {
        let mut items = Vec::new();
        while let Some(Unique(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Unique(Value::Array(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
        let mut members = Map::new();
        while let Some((name, Unique(value))) = map.next_entry::<String, Unique>()? {
            if members.insert(name, value).is_some() {
                return Err(de::Error::custom("repeated member name"));
            }
        }
        Ok(Unique(Value::Object(members)))
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
