//! A JSON object that is read member by member and remembers what nobody asked for.
//!
//! The format writes 64-bit numbers as decimal texts, bytes in base64 and numbers of objects as member names; each has
//! one spelling here. Not a general deserializer: errors say which member of which object, and unknown members are kept
//! for the policy instead of being dropped.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use super::{Rule, format::MAX_OBJECTS};
use crate::{Error, error::quoted};

/// An object at a place in the document.
pub(super) struct Object<'a> {
    place: String,
    members: &'a Map<String, Value>,
    asked: Vec<&'static str>,
}

impl<'a> Object<'a> {
    /// `value`, found at `place`, as an object.
    pub(super) fn new(place: impl Into<String>, value: &'a Value) -> Result<Self, Error> {
        let place = place.into();
        match value.as_object() {
            Some(members) => Ok(Self { place, members, asked: Vec::new() }),
            None => Err(malformed(place, "is no object")),
        }
    }

    /// The object called `name`.
    pub(super) fn object(&mut self, name: &'static str) -> Result<Self, Error> {
        let value = self.required(name)?;
        Self::new(self.at(name), value)
    }

    /// The object called `name`, if there is one.
    pub(super) fn optional_object(&mut self, name: &'static str) -> Result<Option<Self>, Error> {
        let place = self.at(name);
        self.optional(name).map(|value| Self::new(place, value)).transpose()
    }

    /// The numbered objects in the object called `name`.
    pub(super) fn numbered(&mut self, name: &'static str) -> Result<Vec<(u32, Self)>, Error> {
        let all = self.object(name)?;
        all.members
            .iter()
            .map(|(key, value)| {
                let place = all.at(key);
                let number = object_number(key).ok_or_else(|| malformed(place.clone(), NO_NUMBER))?;
                Ok((number, Self::new(place, value)?))
            })
            .collect()
    }

    /// A text.
    pub(super) fn text(&mut self, name: &'static str) -> Result<String, Error> {
        let value = self.required(name)?;
        value.as_str().map(str::to_owned).ok_or_else(|| self.wrong(name, "is no text"))
    }

    /// A number below 2^32.
    pub(super) fn number(&mut self, name: &'static str) -> Result<u32, Error> {
        let value = self.required(name)?;
        self.as_number(name, value)
    }

    /// A number below 2^32, if there is one.
    pub(super) fn optional_number(&mut self, name: &'static str) -> Result<Option<u32>, Error> {
        self.optional(name).map(|value| self.as_number(name, value)).transpose()
    }

    /// A number below 2^64, written as a decimal text.
    pub(super) fn decimal(&mut self, name: &'static str) -> Result<u64, Error> {
        let text = self.text(name)?;
        decimal(&text).ok_or_else(|| self.wrong(name, "is no decimal number"))
    }

    /// A number below 2^64 as a decimal text, or the word `dynamic`.
    pub(super) fn decimal_or_dynamic(&mut self, name: &'static str) -> Result<Option<u64>, Error> {
        if self.text(name)? == "dynamic" { Ok(None) } else { self.decimal(name).map(Some) }
    }

    /// Bytes in base64, with padding.
    pub(super) fn bytes(&mut self, name: &'static str) -> Result<Vec<u8>, Error> {
        let text = self.text(name)?;
        STANDARD.decode(text).map_err(|_| self.wrong(name, "is no base64"))
    }

    /// A list of texts; an absent one is empty.
    pub(super) fn texts(&mut self, name: &'static str) -> Result<Vec<String>, Error> {
        let Some(value) = self.optional(name) else { return Ok(Vec::new()) };
        let list = value.as_array().ok_or_else(|| self.wrong(name, "is no list"))?;
        list.iter()
            .map(|item| {
                item.as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| self.wrong(name, "has an item that is no text"))
            })
            .collect()
    }

    /// A list of numbers of objects, each once.
    pub(super) fn numbers(&mut self, name: &'static str) -> Result<Vec<u32>, Error> {
        self.required(name)?;
        let texts = self.texts(name)?;
        let mut numbers: Vec<u32> = texts
            .iter()
            .map(|text| object_number(text).ok_or_else(|| self.wrong(name, NO_NUMBER)))
            .collect::<Result<_, _>>()?;
        numbers.sort_unstable();
        if numbers.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
            return Err(self.wrong(name, "names an object twice"));
        }
        Ok(numbers)
    }

    /// An error about the member `name`.
    pub(super) fn wrong(&self, name: &str, why: &str) -> Error {
        malformed(self.at(name), why)
    }

    /// Leaves the object; members that nobody asked for are added to `unknown`.
    pub(super) fn finish(self, unknown: &mut Vec<String>) {
        let strange = self.members.keys().filter(|name| !self.asked.contains(&name.as_str()));
        unknown.extend(strange.map(|name| self.at(name)));
    }

    fn as_number(&self, name: &str, value: &Value) -> Result<u32, Error> {
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        number.ok_or_else(|| self.wrong(name, "is no number from 0 to 4294967295"))
    }

    fn required(&mut self, name: &'static str) -> Result<&'a Value, Error> {
        self.optional(name).ok_or_else(|| self.wrong(name, "is missing"))
    }

    fn optional(&mut self, name: &'static str) -> Option<&'a Value> {
        self.asked.push(name);
        self.members.get(name)
    }

    fn at(&self, name: &str) -> String {
        below(&self.place, name)
    }
}

/// The place of the member `name` of the object at `place`. A name that is long or strange is cut and escaped.
pub(super) fn below(place: &str, name: &str) -> String {
    let shown = if name.bytes().all(|byte| byte.is_ascii_graphic()) && name.len() <= 60 {
        name.to_owned()
    } else {
        quoted(name)
    };
    if place.is_empty() { shown } else { format!("{place}.{shown}") }
}

const NO_NUMBER: &str = "is no number of an object (0 to 31)";

fn malformed(place: String, why: &str) -> Error {
    let place = if place.is_empty() { "metadata".to_owned() } else { place };
    Error::Malformed { rule: Rule::Metadata, place, why: why.to_owned() }
}

fn object_number(text: &str) -> Option<u32> {
    decimal(text).and_then(|number| u32::try_from(number).ok()).filter(|number| *number < MAX_OBJECTS)
}

/// Digits alone, without leading zeros.
fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_have_one_spelling() {
        for (text, number) in [("0", 0), ("7", 7), ("18446744073709551615", u64::MAX)] {
            assert_eq!(decimal(text), Some(number));
        }
        for text in ["", "00", "07", "+7", "-7", " 7", "7 ", "0x7", "18446744073709551616", "7e1", "٧"] {
            assert_eq!(decimal(text), None, "{text}");
        }
        assert_eq!((object_number("31"), object_number("32")), (Some(31), None));
    }

    #[test]
    fn what_nobody_asked_for_is_remembered_by_place() {
        let value = json!({"a": {"b": 1, "c\n": 2, "d": 3}});
        let mut unknown = Vec::new();
        let mut outer = Object::new("", &value).unwrap();
        let mut inner = outer.object("a").unwrap();
        assert_eq!(inner.number("b"), Ok(1));
        inner.finish(&mut unknown);
        outer.finish(&mut unknown);
        assert_eq!(unknown, ["a.\"c\\n\"", "a.d"]);
    }

    #[test]
    fn errors_name_the_member() {
        let value = json!({"t": 1, "n": "1", "big": 4_294_967_296_u64, "neg": -1, "f": 1.5, "b": "AA=", "twice": ["1", "1"], "o": []});
        let mut object = Object::new("x", &value).unwrap();
        let told = [
            object.text("t").unwrap_err(),
            object.number("n").unwrap_err(),
            object.number("big").unwrap_err(),
            object.number("neg").unwrap_err(),
            object.number("f").unwrap_err(),
            object.bytes("b").unwrap_err(),
            object.numbers("twice").unwrap_err(),
            object.numbers("absent").unwrap_err(),
            object.object("o").err().unwrap(),
        ];
        let told: Vec<String> = told.iter().map(ToString::to_string).collect();
        assert!(told[0].starts_with("x.t: is no text"), "{told:?}");
        assert!(
            told[6].contains("twice") && told[7].contains("missing") && told[8].contains("no object"),
            "{told:?}"
        );
    }
}
