//! The evidence of further devices, as a guest sends it beside that of its TEE: one JSON object from TEE name to evidence.
//!
//! This is the member `additional_evidence` of the `attest` request (key broker protocol of Trustee, version 0.4.0). It is
//! hashed as text, so that two readers have to find the same in it: a name that is there twice is refused, where a map
//! would keep one of the two. The evidence inside is NOT read here.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::Error;

const WHAT: &str = "the evidence of further devices";

/// Evidence of further devices by the wire name of its TEE, each as the text that was sent.
#[derive(Clone, Debug, Default)]
pub struct AdditionalEvidence {
    members: BTreeMap<String, Box<RawValue>>,
}

impl AdditionalEvidence {
    /// Reads the text of a request, whose length is the caller's to bound. An empty text is no evidence.
    ///
    /// # Errors
    /// [`Error::Json`] for anything but one JSON object, and for an object that names a member twice.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let Members(members) =
            serde_json::from_str(text).map_err(|e| Error::Json { what: WHAT, why: e.to_string() })?;
        Ok(Self { members })
    }

    /// Names and evidence, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.members.iter().map(|(name, evidence)| (name.as_str(), evidence.get()))
    }

    /// The evidence with this name.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&str> {
        self.members.get(name).map(|evidence| evidence.get())
    }
}

struct Members(BTreeMap<String, Box<RawValue>>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object of evidences")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = BTreeMap::new();
        while let Some((name, evidence)) = map.next_entry::<String, Box<RawValue>>()? {
            if members.insert(name, evidence).is_some() {
                return Err(de::Error::custom("a member is named twice"));
            }
        }
        Ok(Members(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn members_keep_their_text() {
        let text = r#"{"nvidia": {"b": 1,  "a":2}, "sampledevice":{}}"#;
        let evidence = AdditionalEvidence::parse(text).unwrap();
        let all: Vec<_> = evidence.iter().collect();
        assert_eq!(all, [("nvidia", r#"{"b": 1,  "a":2}"#), ("sampledevice", "{}")]);
        assert_eq!(evidence.member("sampledevice"), Some("{}"));
        assert_eq!(evidence.member("tpm"), None);
        assert_eq!(AdditionalEvidence::parse("").unwrap().iter().count(), 0);
    }

    #[test]
    fn a_name_twice_is_refused_however_it_is_written() {
        for text in [r#"{"nvidia":{},"nvidia":{}}"#, r#"{"nvidia":1,"tpm":2,"\u006evidia":1}"#] {
            let error = AdditionalEvidence::parse(text).unwrap_err();
            assert!(error.to_string().contains("twice"), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["[]", "null", "\"\"", " ", "{", "{}x", r#"{"a"}"#] {
            assert_eq!(
                AdditionalEvidence::parse(text).unwrap_err().code(),
                "EVIDENCE_JSON_INVALID",
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn random_text_never_panics(text in "[{}\\[\\]\",:a-c0-9\\\\ ]{0,80}") {
            let _ = AdditionalEvidence::parse(&text);
        }

        #[test]
        fn what_is_written_is_read_back(names in prop::collection::btree_set("[a-z-]{1,8}", 0..5)) {
            let members: Vec<_> = names.iter().map(|name| format!("{name:?}:{{\"of\": {name:?}}}")).collect();
            let evidence = AdditionalEvidence::parse(&format!("{{{}}}", members.join(","))).unwrap();
            prop_assert!(evidence.iter().map(|(name, _)| name).eq(&names));
        }
    }
}
