//! What an attestation says: in-toto statements (<https://in-toto.io/Statement/v1>, `v0.1`) and the few members of SLSA
//! provenance that a policy can ask for.
//!
//! Read after the envelope was verified. An attestation is not a signature: a signed scan report about an image says
//! nothing about whether it may run, so every use names the predicate type it takes.

use serde_json::{Map, Value};

use super::requirement::{Provenance, SLSA_PROVENANCE};

/// Predicate type of the statement that `cosign sign` puts into a bundle.
pub(crate) const COSIGN_SIGN: &str = "https://sigstore.dev/cosign/sign/v1";
/// Predicate type of SLSA provenance before version 1.
const SLSA_PROVENANCE_V02: &str = "https://slsa.dev/provenance/v0.2";
const STATEMENTS: [&str; 2] = ["https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"];
/// Most subjects of a statement.
const MAX_SUBJECTS: usize = 10_000;

/// SHA-256 of every subject of `statement` that has one.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn subjects(statement: &[u8]) -> Result<Vec<[u8; 32]>, String> {
    let (_, statement) = parse(statement)?;
    let subjects = statement.get("subject").and_then(Value::as_array).ok_or("it has no list of subjects")?;
    if subjects.len() > MAX_SUBJECTS {
        return Err(format!("it has more than {MAX_SUBJECTS} subjects"));
    }
    let sha256 = |subject: &Value| -> Option<[u8; 32]> {
        let hex = subject.get("digest")?.get("sha256")?.as_str()?;
        let plain = hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        hex::decode(hex).ok().filter(|_| plain)?.try_into().ok()
    };
    Ok(subjects.iter().filter_map(sha256).collect())
}

/// Predicate type of `statement`.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn predicate_type(statement: &[u8]) -> Result<String, String> {
    parse(statement).map(|(kind, _)| kind)
}

fn parse(statement: &[u8]) -> Result<(String, Map<String, Value>), String> {
    let value = cc_crypto::unique_json::parse("statement", statement).map_err(|error| error.to_string())?;
    let Value::Object(statement) = value else { return Err("the statement is not an object".to_owned()) };
    let text = |name: &str| statement.get(name).and_then(Value::as_str);
    if !text("_type").is_some_and(|kind| STATEMENTS.contains(&kind)) {
        return Err("it is no in-toto statement of version 0.1 or 1".to_owned());
    }
    let kind = text("predicateType").ok_or("it has no predicateType")?.to_owned();
    Ok((kind, statement))
}

impl Provenance {
    /// Whether `statement` says what is asked for. The error names the first thing that differs, with both values.
    pub(crate) fn check(&self, statement: &[u8]) -> Result<(), String> {
        let (kind, statement) = parse(statement)?;
        if kind != self.predicate_type {
            return Err(format!("its predicate type is {:?}, not {:?}", cut(&kind), self.predicate_type));
        }
        let empty = Value::Null;
        let predicate = statement.get("predicate").unwrap_or(&empty);
        let built = match kind.as_str() {
            SLSA_PROVENANCE => Built::v1(predicate),
            SLSA_PROVENANCE_V02 => Built::v02(predicate),
            _ => Built::default(),
        };
        for (what, wanted, found) in [
            ("builder", &self.builder_id, built.builder),
            ("source", &self.source_uri, built.source),
            ("source ref", &self.source_ref, built.reference),
            ("workflow", &self.workflow, built.workflow),
        ] {
            match (wanted, found) {
                (None, _) => {}
                (Some(wanted), Some(found)) if found == *wanted => {}
                (Some(wanted), Some(found)) => {
                    return Err(format!("its {what} is {:?}, not {wanted:?}", cut(&found)));
                }
                (Some(wanted), None) => {
                    return Err(format!("it names no {what}, and {wanted:?} is asked for"));
                }
            }
        }
        Ok(())
    }
}

/// What provenance of any version says about a build.
#[derive(Debug, Default)]
struct Built {
    builder: Option<String>,
    /// URI of the repository, without `git+` and without the ref.
    source: Option<String>,
    /// Full name of branch or tag, such as `refs/tags/v1`.
    reference: Option<String>,
    /// Path of the build's definition in the repository.
    workflow: Option<String>,
}

impl Built {
    /// <https://slsa.dev/spec/v1.0/provenance>; `externalParameters` as the build types of GitHub Actions and of BuildKit have it.
    fn v1(predicate: &Value) -> Self {
        let at = |path: &str| predicate.pointer(path);
        let builder = text(at("/runDetails/builder/id"));
        if at("/buildDefinition/externalParameters/workflow").is_some_and(Value::is_object) {
            return Self {
                builder,
                source: text(at("/buildDefinition/externalParameters/workflow/repository")),
                reference: text(at("/buildDefinition/externalParameters/workflow/ref")),
                workflow: text(at("/buildDefinition/externalParameters/workflow/path")),
            };
        }
        let (source, reference) = split_uri(at("/buildDefinition/externalParameters/configSource/uri"));
        let workflow = text(at("/buildDefinition/externalParameters/configSource/path"));
        Self { builder, source, reference, workflow }
    }

    /// <https://slsa.dev/spec/v0.2/provenance>.
    fn v02(predicate: &Value) -> Self {
        let at = |path: &str| predicate.pointer(path);
        let (source, reference) = split_uri(at("/invocation/configSource/uri"));
        let workflow = text(at("/invocation/configSource/entryPoint"));
        Self { builder: text(at("/builder/id")), source, reference, workflow }
    }
}

/// `git+https://host/repository@ref` (SPDX download location) as repository and ref.
fn split_uri(uri: Option<&Value>) -> (Option<String>, Option<String>) {
    let Some(uri) = uri.and_then(Value::as_str) else { return (None, None) };
    let uri = uri.strip_prefix("git+").unwrap_or(uri);
    // An '@' before the path belongs to the authority.
    match uri.rsplit_once(['@', '#']) {
        Some((repository, reference)) if repository.matches('/').count() > 2 => {
            (Some(repository.to_owned()), Some(reference.to_owned()))
        }
        _ => (Some(uri.to_owned()), None),
    }
}

fn text(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_str).map(str::to_owned)
}

fn cut(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const WANTED: &str = "https://example.com/team/app";

    fn v1() -> Value {
        json!({
            "_type": STATEMENTS[0],
            "subject": [{"name": "x", "digest": {"sha256": "11".repeat(32)}}, {"digest": {"sha512": "22"}}],
            "predicateType": SLSA_PROVENANCE,
            "predicate": {
                "buildDefinition": {"externalParameters": {"workflow": {
                    "repository": WANTED, "ref": "refs/tags/v1", "path": ".github/workflows/release.yml",
                }}},
                "runDetails": {"builder": {"id": "https://example.com/builder"}},
            },
        })
    }

    fn v02() -> Value {
        json!({
            "_type": STATEMENTS[1],
            "subject": [{"name": "x", "digest": {"sha256": "11".repeat(32)}}],
            "predicateType": SLSA_PROVENANCE_V02,
            "predicate": {
                "builder": {"id": "https://example.com/builder"},
                "invocation": {"configSource": {
                    "uri": format!("git+{WANTED}@refs/tags/v1"), "entryPoint": ".github/workflows/release.yml",
                }},
            },
        })
    }

    fn wanted(predicate_type: &str) -> Provenance {
        Provenance {
            predicate_type: predicate_type.to_owned(),
            builder_id: Some("https://example.com/builder".to_owned()),
            source_uri: Some(WANTED.to_owned()),
            source_ref: Some("refs/tags/v1".to_owned()),
            workflow: Some(".github/workflows/release.yml".to_owned()),
        }
    }

    #[test]
    fn both_versions_say_the_same() {
        wanted(SLSA_PROVENANCE).check(v1().to_string().as_bytes()).unwrap();
        wanted(SLSA_PROVENANCE_V02).check(v02().to_string().as_bytes()).unwrap();
        assert!(
            wanted(SLSA_PROVENANCE)
                .check(v02().to_string().as_bytes())
                .unwrap_err()
                .contains("predicate type")
        );
        assert_eq!(subjects(v1().to_string().as_bytes()).unwrap(), [[0x11; 32]]);
    }

    #[test]
    fn what_differs_is_named_with_both_values() {
        for (expected, edit) in [
            (
                "its builder is \"evil\"",
                (|s| s["predicate"]["runDetails"]["builder"]["id"] = json!("evil")) as fn(&mut Value),
            ),
            ("its source is", |s| {
                s["predicate"]["buildDefinition"]["externalParameters"]["workflow"]["repository"] =
                    json!("https://example.com/team/app2");
            }),
            ("its source ref is", |s| {
                s["predicate"]["buildDefinition"]["externalParameters"]["workflow"]["ref"] =
                    json!("refs/heads/main");
            }),
            ("it names no workflow", |s| {
                s["predicate"]["buildDefinition"]["externalParameters"]["workflow"]["path"] = json!(["x"]);
            }),
            ("it names no builder", |s| s["predicate"] = Value::Null),
            ("predicate type", |s| s["predicateType"] = json!(COSIGN_SIGN)),
            ("no in-toto statement", |s| s["_type"] = json!("https://in-toto.io/Statement/v2")),
        ] {
            let mut statement = v1();
            edit(&mut statement);
            let error = wanted(SLSA_PROVENANCE).check(statement.to_string().as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let twice =
            v1().to_string().replacen("\"predicateType\"", "\"predicateType\":\"x\",\"predicateType\"", 1);
        assert!(wanted(SLSA_PROVENANCE).check(twice.as_bytes()).is_err());
    }

    #[test]
    fn source_uris_are_split_at_the_ref() {
        for (uri, repository, reference) in [
            (
                "git+https://example.com/a/b@refs/heads/main",
                "https://example.com/a/b",
                Some("refs/heads/main"),
            ),
            ("https://example.com/a/b#refs/heads/main", "https://example.com/a/b", Some("refs/heads/main")),
            ("https://example.com/a/b", "https://example.com/a/b", None),
            ("ssh://git@example.com/a/b", "ssh://git@example.com/a/b", None),
        ] {
            assert_eq!(
                split_uri(Some(&json!(uri))),
                (Some(repository.to_owned()), reference.map(str::to_owned)),
                "{uri}"
            );
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = subjects(&bytes);
            let _ = wanted(SLSA_PROVENANCE).check(&bytes);
        }
    }
}
