//! Init-data: the configuration that the launcher of a confidential machine bound to its hardware.
//!
//! A TOML document with `version`, `algorithm` and a `[data]` table from file name to text, as in
//! the init-data specification of Trustee and Kata Containers. The digest covers the exact bytes of
//! the document, so the original text is kept. It is NOT known here whether the hardware carries
//! that digest: the platform compares it with host data, MRCONFIGID or a PCR ([`Field`] says what each must hold).
//! [`carrier`] has the forms in which the document travels.

use std::collections::BTreeMap;
use std::fmt;

use toml::{Table, Value};

use crate::{Error, HashAlgorithm};

pub mod carrier;
mod compose;
mod field;

pub use compose::is_file_name;
pub use field::{Field, INIT_DATA_PCR};

/// Longest document that is read, in bytes. The annotations of a Kubernetes object hold 256 KiB in all, in which about
/// 190 KiB of gzip fit; the agent's answer to the data hub may have 4 MiB, in which the text must fit as it is.
pub const MAX_LEN: usize = 1024 * 1024;

/// A document that was read, with the text it was read from.
///
/// Entries such as `auth.json` hold credentials, so `Debug` prints names and lengths only.
#[derive(Clone, PartialEq, Eq)]
pub struct InitData {
    version: String,
    algorithm: HashAlgorithm,
    data: BTreeMap<String, String>,
    body: String,
}

impl InitData {
    /// Reads a document of at most [`MAX_LEN`] bytes.
    ///
    /// All three members are required; algorithm names are in lower case. Other top-level members
    /// are covered by the digest and otherwise ignored, like everywhere in the ecosystem.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::InitData`] with the line or the member, never with a quotation.
    pub fn parse(body: &str) -> Result<Self, Error> {
        if body.len() > MAX_LEN {
            return Err(Error::TooLarge { what: "the init-data document", size: body.len(), limit: MAX_LEN });
        }
        let mut table: Table = toml::from_str(body).map_err(|e| syntax_error(body, &e))?;
        let version = text(table.remove("version"), "version")?;
        let algorithm = algorithm(&text(table.remove("algorithm"), "algorithm")?)?;
        let data = match table.remove("data") {
            Some(Value::Table(entries)) => entries
                .into_iter()
                .map(|(name, value)| match value {
                    Value::String(content) => Ok((name, content)),
                    other => Err(invalid(format!("data entry {name:?} is {}, not text", other.type_str()))),
                })
                .collect::<Result<_, _>>()?,
            Some(other) => return Err(invalid(format!("data is {}, not a table", other.type_str()))),
            None => return Err(invalid("the member data is missing".to_owned())),
        };
        Ok(InitData { version, algorithm, data, body: body.to_owned() })
    }

    /// The version text, `0.1.0` today. It is not judged here.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The algorithm of [`InitData::digest`].
    #[must_use]
    pub const fn algorithm(&self) -> HashAlgorithm {
        self.algorithm
    }

    /// The entries, from file name to content.
    #[must_use]
    pub const fn data(&self) -> &BTreeMap<String, String> {
        &self.data
    }

    /// The document exactly as it was given.
    #[must_use]
    pub fn body(&self) -> &str {
        &self.body
    }

    /// The digest over the exact bytes of the document, with its own algorithm.
    #[must_use]
    pub fn digest(&self) -> Vec<u8> {
        self.algorithm.digest(self.body.as_bytes())
    }
}

impl fmt::Debug for InitData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lengths: BTreeMap<_, _> = self.data.iter().map(|(name, text)| (name, text.len())).collect();
        f.debug_struct("InitData")
            .field("version", &self.version)
            .field("algorithm", &self.algorithm)
            .field("data_lengths", &lengths)
            .finish_non_exhaustive()
    }
}

/// A digest as a hardware field of `n` bytes holds it: cut when longer, padded with zeros at the end
/// when shorter.
#[must_use]
pub fn fit(digest: &[u8], n: usize) -> Vec<u8> {
    let mut field = digest.to_vec();
    field.resize(n, 0);
    field
}

fn invalid(why: String) -> Error {
    Error::InitData { why }
}

fn text(value: Option<Value>, member: &str) -> Result<String, Error> {
    match value {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(invalid(format!("{member} is {}, not text", other.type_str()))),
        None => Err(invalid(format!("the member {member} is missing"))),
    }
}

/// Lower case only, unlike [`HashAlgorithm`]'s `FromStr`: launchers and verifiers compare exactly, and
/// a document that one of them cannot read must not pass here.
fn algorithm(name: &str) -> Result<HashAlgorithm, Error> {
    HashAlgorithm::ALL
        .into_iter()
        .find(|hash| hash.as_str() == name)
        .ok_or_else(|| invalid("algorithm is none of sha256, sha384, sha512, sm3".to_owned()))
}

/// The TOML reader's own message quotes the offending line; only its position is passed on.
fn syntax_error(body: &str, error: &toml::de::Error) -> Error {
    let line = error
        .span()
        .and_then(|span| body.get(..span.start))
        .map_or(1, |before| before.matches('\n').count() + 1);
    invalid(format!("not TOML at line {line}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DOCUMENT: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\n\
                            \"aa.toml\" = '''x = 1'''\n\"auth.json\" = \"hunter2\"\n";

    #[test]
    fn reads_members_and_keeps_the_text() {
        let doc = InitData::parse(DOCUMENT).unwrap();
        assert_eq!((doc.version(), doc.algorithm()), ("0.1.0", HashAlgorithm::Sha256));
        assert_eq!(doc.data()["aa.toml"], "x = 1");
        assert_eq!(doc.body(), DOCUMENT);
        assert_eq!(doc.digest(), HashAlgorithm::Sha256.digest(DOCUMENT.as_bytes()));
        assert_ne!(doc.digest(), InitData::parse(&format!("{DOCUMENT}\n")).unwrap().digest());
    }

    /// Besides Kata Containers nobody judges the version: it is covered by the digest and kept.
    #[test]
    fn other_versions_are_read() {
        assert_eq!(InitData::parse(&DOCUMENT.replace("0.1.0", "9.9")).unwrap().version(), "9.9");
    }

    #[test]
    fn every_algorithm_is_read() {
        for hash in HashAlgorithm::ALL {
            let doc = InitData::parse(&DOCUMENT.replace("sha256", hash.as_str())).unwrap();
            assert_eq!(doc.algorithm(), hash);
            assert_eq!(doc.digest().len(), hash.digest_len());
        }
    }

    #[test]
    fn malformed_documents_are_refused_without_quoting_them() {
        let table = [
            (DOCUMENT.replace("version = \"0.1.0\"", ""), "version is missing"),
            (DOCUMENT.replace("\"0.1.0\"", "1"), "version is integer"),
            (DOCUMENT.replace("algorithm = \"sha256\"", ""), "algorithm is missing"),
            (DOCUMENT.replace("'''x = 1'''", "['x']"), "\"aa.toml\" is array"),
            (DOCUMENT.replace("\"aa.toml\" =", "aa.toml ="), "\"aa\" is table"),
            (DOCUMENT.replace("algorithm", "version"), "not TOML at line 2"),
            (String::new(), "version is missing"),
            (DOCUMENT.replace("sha256", "SHA256"), "algorithm is none of"),
            (DOCUMENT.replace("sha256", "sha-256"), "algorithm is none of"),
            (DOCUMENT.replace("'''x = 1'''", "1"), "\"aa.toml\" is integer"),
            (DOCUMENT.replace("[data]", "[date]"), "data is missing"),
            ("version = \"1\"\nalgorithm = \"sm3\"\ndata = []".to_owned(), "data is array"),
            (DOCUMENT.replace("\"hunter2\"", "\"hunter2"), "not TOML at line 6"),
            (format!("{DOCUMENT}\"auth.json\" = \"hunter2\"\n"), "not TOML at line 7"),
        ];
        for (document, expected) in table {
            let error = InitData::parse(&document).unwrap_err();
            assert_eq!(error.code(), "INIT_DATA_INVALID");
            assert!(error.to_string().contains(expected), "{error} lacks {expected:?}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let long = format!("# {}", " ".repeat(MAX_LEN));
        assert_eq!(InitData::parse(&long).unwrap_err().code(), "EVIDENCE_TOO_LARGE");
    }

    #[test]
    fn debug_shows_no_content() {
        let text = format!("{:?}", InitData::parse(DOCUMENT).unwrap());
        assert!(text.contains("auth.json") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn deep_nesting_is_an_error_not_a_crash() {
        let deep = format!("x = {}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(InitData::parse(&deep).is_err());
        let dotted = format!("{} = 1", vec!["a"; 100_000].join("."));
        assert!(InitData::parse(&dotted).is_err());
    }

    #[test]
    fn fit_cuts_and_pads_at_the_end() {
        assert_eq!(fit(&[1, 2, 3], 2), [1, 2]);
        assert_eq!(fit(&[1, 2, 3], 5), [1, 2, 3, 0, 0]);
        assert_eq!(fit(&[], 2), [0, 0]);
    }

    proptest! {
        #[test]
        fn random_text_never_panics(text: String) {
            let _ = InitData::parse(&text);
        }

        #[test]
        fn fit_gives_the_asked_length(digest: Vec<u8>, n in 0usize..100) {
            let field = fit(&digest, n);
            prop_assert_eq!(field.len(), n);
            prop_assert!(field.iter().zip(&digest).all(|(a, b)| a == b));
        }
    }
}
