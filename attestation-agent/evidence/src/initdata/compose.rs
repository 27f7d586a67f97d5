//! Writing an init-data document from files, so that reading it gives back the very bytes of each.
//!
//! Not here: which names mean something to whom.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::{InitData, invalid};
use crate::{Error, HashAlgorithm};

/// The only version that Kata Containers accepts.
const VERSION: &str = "0.1.0";

impl InitData {
    /// Writes a document with these entries, from file name to content, in the order of their names.
    ///
    /// # Errors
    /// [`Error::InitData`] for a name that is no plain file name, because whoever unpacks the document would write
    /// elsewhere; [`Error::TooLarge`] beyond [`super::MAX_LEN`].
    pub fn compose(algorithm: HashAlgorithm, entries: BTreeMap<String, String>) -> Result<Self, Error> {
        if let Some(name) = entries.keys().find(|name| !is_file_name(name)) {
            return Err(invalid(format!("{name:?} is no plain file name")));
        }
        let data: Table =
            entries.iter().map(|(name, text)| (name.clone(), Value::from(text.as_str()))).collect();
        let data = toml::to_string_pretty(&data).map_err(|error| invalid(error.to_string()))?;
        let body = format!("version = \"{VERSION}\"\nalgorithm = \"{algorithm}\"\n\n[data]\n{data}");
        let document = Self::parse(&body)?;
        if document.data != entries {
            return Err(invalid("an entry cannot be written as TOML text without a change".to_owned()));
        }
        Ok(document)
    }
}

/// Whether `name` can be a file in a folder: no separator, no step upwards, nothing that a terminal would act on.
#[must_use]
pub fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.len() <= 255
        && !name.contains('/')
        && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(name: &str, text: &str) -> Result<InitData, Error> {
        InitData::compose(HashAlgorithm::Sha256, BTreeMap::from([(name.to_owned(), text.to_owned())]))
    }

    #[test]
    fn files_stay_readable_and_equal() {
        let text = "[token_configs.kbs]\nurl = \"https://kbs\"\ncert = \"\"\"\n-----BEGIN\"\"\"\n";
        let document = one("aa.toml", text).unwrap();
        assert_eq!(document.data()["aa.toml"], text);
        assert!(document.body().contains("\n[token_configs.kbs]\n"), "{}", document.body());
        let names: Vec<_> = document.body().lines().take(2).collect();
        assert_eq!(names, ["version = \"0.1.0\"", "algorithm = \"sha256\""]);
    }

    #[test]
    fn awkward_texts_survive() {
        for text in
            ["", "\n", "\n\nx", "'''", "a'''b\"\"\"c", "\r\n", "\u{0}\u{7f}\u{202e}", "\\", " '", "'", "''"]
        {
            assert_eq!(one("x", text).unwrap().data()["x"], text, "{text:?}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["", ".", "..", "a/b", "/etc/passwd", "a\nb", "a\0", &"n".repeat(256)] {
            assert_eq!(one(name, "x").unwrap_err().code(), "INIT_DATA_INVALID", "{name:?}");
        }
        let big = "x".repeat(super::super::MAX_LEN);
        assert_eq!(one("x", &big).unwrap_err().code(), "EVIDENCE_TOO_LARGE");
    }

    proptest! {
        #[test]
        fn every_text_survives(entries in proptest::collection::btree_map("[a-zA-Z0-9._ äé\"'=-]{1,20}", any::<String>(), 0..5)) {
            prop_assume!(entries.keys().all(|name| is_file_name(name)));
            let document = InitData::compose(HashAlgorithm::Sha384, entries.clone()).unwrap();
            prop_assert_eq!(document.data(), &entries);
        }
    }
}
