//! Reading members of JSON documents that come from a registry.
//!
//! Member names are unique at every depth (`cc_crypto::unique_json`). Readers in Go take a member whose name differs in
//! case only for the member itself; this one does not, so such a name is refused where it could be mistaken. Unknown
//! members are left alone, as the OCI image specification asks (considerations.md, "Extensibility"); `null` is absent.

use serde_json::{Map, Value};

use crate::Error;

/// An object and where it is in its document, for messages.
#[derive(Clone, Debug)]
pub(crate) struct Object<'a> {
    place: String,
    members: &'a Map<String, Value>,
}

/// Parses `bytes`, the document called `what`.
pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Value, Error> {
    cc_crypto::unique_json::parse("document", bytes).map_err(|error| malformed(what, error.to_string()))
}

/// Longest reason that an error repeats, in characters: texts of the document are in some.
const MAX_WHY: usize = 300;

/// An [`Error::Document`].
pub(crate) fn malformed(what: &str, why: impl Into<String>) -> Error {
    let why = why.into();
    let why = match why.char_indices().nth(MAX_WHY) {
        Some((end, _)) => format!("{}…", why.get(..end).unwrap_or_default()),
        None => why,
    };
    Error::Document { what: what.to_owned(), why }
}

impl<'a> Object<'a> {
    /// Takes `value`, found at `place`, as an object of which the members `known` will be read.
    pub(crate) fn new(place: impl Into<String>, value: &'a Value, known: &[&str]) -> Result<Self, Error> {
        let place = place.into();
        let Value::Object(members) = value else {
            return Err(malformed(&place, "not an object"));
        };
        let object = Self { place, members };
        let alike = |name: &String| known.iter().any(|k| name.eq_ignore_ascii_case(k) && name != k);
        match members.keys().find(|name| alike(name)) {
            Some(name) => Err(object.malformed(format!("{name:?} differs in case from the member meant"))),
            None => Ok(object),
        }
    }

    pub(crate) fn malformed(&self, why: impl Into<String>) -> Error {
        malformed(&self.place, why)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    fn value(&self, name: &str) -> Option<&'a Value> {
        self.members.get(name).filter(|value| !value.is_null())
    }

    /// A text, if there.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>, Error> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.malformed(format!("{name} is not a string"))),
        }
    }

    /// A text that must be there.
    pub(crate) fn required_text(&self, name: &str) -> Result<&'a str, Error> {
        self.text(name)?.ok_or_else(|| self.malformed(format!("{name} is missing")))
    }

    /// A whole number from 0 to 2^63-1 that must be there.
    pub(crate) fn required_number(&self, name: &str) -> Result<u64, Error> {
        match self.value(name) {
            None => Err(self.malformed(format!("{name} is missing"))),
            Some(value) => value
                .as_u64()
                .filter(|n| i64::try_from(*n).is_ok())
                .ok_or_else(|| self.malformed(format!("{name} is not a whole number in range"))),
        }
    }

    /// The object under `name`, if there.
    pub(crate) fn object(&self, name: &str, known: &[&str]) -> Result<Option<Object<'a>>, Error> {
        self.value(name).map(|value| Object::new(format!("{}, {name}", self.place), value, known)).transpose()
    }

    /// The objects of the array under `name`, at most `most`; `None` if it is not there.
    pub(crate) fn objects(
        &self,
        name: &str,
        known: &[&str],
        most: usize,
    ) -> Result<Option<Vec<Object<'a>>>, Error> {
        let Some(values) = self.array(name, most)? else { return Ok(None) };
        let numbered = values.iter().enumerate();
        numbered
            .map(|(i, value)| Object::new(format!("{}, {name}[{i}]", self.place), value, known))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// The texts of the array under `name`, at most `most`; empty if it is not there.
    pub(crate) fn texts(&self, name: &str, most: usize) -> Result<Vec<String>, Error> {
        let values = self.array(name, most)?.map_or(&[][..], Vec::as_slice);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        values
            .iter()
            .map(|value| {
                text(value).ok_or_else(|| self.malformed(format!("{name} holds something else than strings")))
            })
            .collect()
    }

    /// The pairs of the object under `name`, whose values must be texts; empty if it is not there.
    pub(crate) fn pairs(&self, name: &str) -> Result<Vec<(String, String)>, Error> {
        let Some(object) = self.object(name, &[])? else { return Ok(Vec::new()) };
        let pair = |(key, value): (&String, &Value)| match value {
            Value::String(text) => Ok((key.clone(), text.clone())),
            _ => Err(object.malformed(format!("the value of {key:?} is not a string"))),
        };
        object.members.iter().map(pair).collect()
    }

    /// The member names of the object under `name`; empty if it is not there.
    pub(crate) fn keys(&self, name: &str) -> Result<Vec<String>, Error> {
        let object = self.object(name, &[])?;
        Ok(object.map(|o| o.members.keys().cloned().collect()).unwrap_or_default())
    }

    fn array(&self, name: &str, most: usize) -> Result<Option<&'a Vec<Value>>, Error> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Array(values)) if values.len() <= most => Ok(Some(values)),
            Some(Value::Array(_)) => Err(self.malformed(format!("{name} has more than {most} elements"))),
            Some(_) => Err(self.malformed(format!("{name} is not an array"))),
        }
    }
}
