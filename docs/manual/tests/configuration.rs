//! The pages of configuration files against the programs that read them: every key of the sources is explained, and the
//! examples are files that the programs take.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails loudly"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Parser as _;

/// A page, and the sources with the tables of its file.
const PAGES: [(&str, &[&str]); 3] = [
    (
        "attestation-agent.toml",
        &["attestation-agent/src/config.rs", "attestation-agent/src/config", "protos/daemon/src/config.rs"],
    ),
    (
        "confidential-data-hub.toml",
        &[
            "cdh/src/config.rs",
            "cdh/src/access.rs",
            "cdh/src/credential.rs",
            "cdh/src/file.rs",
            "cdh/src/file/hook.rs",
            "cdh/src/image/config.rs",
            "cdh/src/secure_mount.rs",
            "cdh/src/unit_credential.rs",
            "cdh/src/volume/entry.rs",
            "cdh/kms/src/config.rs",
            "protos/daemon/src/config.rs",
        ],
    ),
    ("unlock.toml", &["cdh/unlock/src/config.rs"]),
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page(name: &str) -> String {
    std::fs::read_to_string(workspace().join(format!("docs/configuration/{name}.md"))).unwrap()
}

/// The keys of a file's source, or of all in a folder.
fn keys_below(path: &Path) -> BTreeSet<String> {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).unwrap();
        return entries.flat_map(|entry| keys_below(&entry.unwrap().path())).collect();
    }
    keys(&std::fs::read_to_string(path).unwrap())
}

/// The keys that a source reads: fields of structs that are made of a file.
fn keys(source: &str) -> BTreeSet<String> {
    let source = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let mut keys = BTreeSet::new();
    for part in source.split("#[derive(").skip(1) {
        let Some((derived, rest)) = part.split_once(")]") else { continue };
        let Some((attributes, body)) = rest.split_once('{') else { continue };
        // What is converted from another struct has the keys of that.
        if !derived.contains("Deserialize")
            || !attributes.contains("struct ")
            || attributes.contains("from =")
        {
            continue;
        }
        let mut skip = false;
        for line in body.split("\n}").next().unwrap_or_default().lines().map(str::trim) {
            if line.starts_with("#[serde(skip)]") {
                skip = true;
            } else if let Some((name, _)) = line.split_once(": ").filter(|_| !line.starts_with("//")) {
                let name = name.trim_start_matches("pub ").trim_start_matches("pub(super) ");
                let name = name.trim_start_matches("pub(crate) ");
                if !std::mem::take(&mut skip)
                    && name.chars().all(|c| c.is_ascii_lowercase() || "_0123456789".contains(c))
                {
                    keys.insert(name.to_owned());
                }
            }
        }
    }
    keys
}

#[test]
fn every_key_is_explained() {
    for (name, sources) in PAGES {
        let page = page(name);
        let keys: BTreeSet<String> =
            sources.iter().flat_map(|source| keys_below(&workspace().join(source))).collect();
        assert!(keys.len() > 10, "{name}: only {keys:?} were found in the sources");
        let words: BTreeSet<&str> = page.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
        let missing: Vec<_> = keys.iter().filter(|key| !words.contains(key.as_str())).collect();
        assert!(missing.is_empty(), "docs/configuration/{name}.md does not explain {missing:?}");
    }
}

#[test]
fn every_key_that_is_explained_is_read() {
    for (name, sources) in PAGES {
        let keys: BTreeSet<String> =
            sources.iter().flat_map(|source| keys_below(&workspace().join(source))).collect();
        for line in page(name).lines().filter_map(|line| line.strip_prefix("- `")) {
            let (terms, _) = line.split_once(": ").unwrap();
            for key in terms
                .split('`')
                .step_by(2)
                .filter(|term| term.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
            {
                assert!(keys.contains(key), "{name}: nobody reads {key}");
            }
        }
    }
}

#[test]
fn examples_are_files_that_the_programs_take() {
    let folder = tempfile::tempdir().unwrap();
    let example = |name: &str| {
        let page = page(name);
        let (_, rest) = page.split_once("## Example\n\n```toml\n").unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, rest.split("```").next().unwrap()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let path = example("attestation-agent.toml");
    let cli = attestation_agent::config::Cli::parse_from(["a", "-c", &path, "--check-config"]);
    attestation_agent::config::Config::build(cli, &attestation_agent::config::Surroundings::default())
        .unwrap();
    let path = example("confidential-data-hub.toml");
    let cli = cdh::config::Cli::parse_from(["c", "-c", &path, "--check-config"]);
    let config = cdh::config::Config::build(cli, &cdh::config::Surroundings::default()).unwrap();
    assert!(config.access.strict && config.files.len() == 1);
}
