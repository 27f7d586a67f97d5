//! `guestctl initdata build`: files in, a document out.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use cc_evidence::{
    HashAlgorithm,
    initdata::{InitData, MAX_LEN, carrier, is_file_name},
};
use serde_json::json;

use super::BuildArgs;
use crate::{
    failure::Failure,
    output::{Console, write_private_file},
};

/// What all annotations of a Kubernetes object may have together, in bytes.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// Entries that some consumer reads: the daemons, kata-agent, the image puller, the forwarder of peer pods.
const KNOWN: [&str; 5] = ["aa.toml", "cdh.toml", "policy.rego", "auth.json", "daemon.json"];

/// An entry of the document and the file with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    name: String,
    path: PathBuf,
}

/// Form of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Output {
    /// The document itself
    Toml,
    /// base64 of gzip, for the annotation of a pod
    Annotation,
    /// A disk with the document, for the guest
    DeviceImage,
}

pub(super) fn parse_entry(text: &str) -> Result<Entry, String> {
    let (name, path) = text.split_once('=').ok_or("write NAME=PATH, for instance aa.toml=/etc/aa.toml")?;
    match (is_file_name(name), path.is_empty()) {
        (false, _) => Err("NAME must be a plain file name, such as aa.toml".to_owned()),
        (_, true) => Err("PATH is empty".to_owned()),
        (true, false) => Ok(Entry { name: name.to_owned(), path: path.into() }),
    }
}

/// sm3, which documents may name too, is left out: no launcher of today takes it.
pub(super) fn parse_algorithm(text: &str) -> Result<HashAlgorithm, String> {
    [HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512]
        .into_iter()
        .find(|hash| hash.as_str() == text)
        .ok_or_else(|| "give sha256, sha384 or sha512".to_owned())
}

/// Makes the document and writes it.
pub(super) fn run(args: &BuildArgs, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let document = compose(args)?;
    let bytes = match args.output {
        Output::Toml => Ok(document.body().as_bytes().to_vec()),
        Output::Annotation => carrier::to_annotation(document.body()).map(String::into_bytes),
        Output::DeviceImage => carrier::to_device(document.body()),
    };
    let bytes = bytes.map_err(|error| unfit(&error))?;
    for note in notes(&document, args.output, bytes.len()) {
        console.complain(&format!("note: {note}\n"));
    }
    if let Some(path) = &args.to {
        write_private_file(path, &bytes)?;
    }
    let digest = hex::encode(document.digest());
    match (&args.to, json) {
        (Some(path), true) => console.json(&json!({
            "output": path.display().to_string(), "bytes": bytes.len(), "digest": digest,
            "algorithm": document.algorithm().as_str(),
        })),
        (Some(path), false) => {
            let algorithm = document.algorithm();
            console.text(&format!("{}: {} bytes, {algorithm} {digest}\n", path.display(), bytes.len()))
        }
        (None, true) => Err(Failure::Argument {
            argument: "--json".into(),
            why: "the document itself goes to standard output".into(),
            hint: "name a file with --to".into(),
        }),
        (None, false) => console.raw("the device image", &bytes, false),
    }
}

fn compose(args: &BuildArgs) -> Result<InitData, Failure> {
    let mut entries = BTreeMap::new();
    for Entry { name, path } in &args.files {
        let text = read(path)?;
        if name.ends_with(".toml") {
            check_toml(path, &text)?;
        }
        if entries.insert(name.clone(), text).is_some() {
            return Err(Failure::Argument {
                argument: "--file".into(),
                why: format!("{name} is given twice"),
                hint: "give every entry once".into(),
            });
        }
    }
    InitData::compose(args.algorithm, entries).map_err(|error| unfit(&error))
}

fn read(path: &Path) -> Result<String, Failure> {
    let unreadable = |source| Failure::Unreadable { path: path.to_owned(), source };
    let malformed = |why: String| Failure::Malformed { path: path.to_owned(), kind: "text file", why };
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(unreadable)?
        .take(MAX_LEN as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() > MAX_LEN {
        return Err(malformed(format!("longer than {MAX_LEN} bytes, the limit of a whole document")));
    }
    String::from_utf8(bytes).map_err(|_| malformed("not UTF-8, and init-data holds text alone".to_owned()))
}

/// A configuration that no daemon can read would be found out only after the launch.
fn check_toml(path: &Path, text: &str) -> Result<(), Failure> {
    cc_daemon::config::parse::<serde_json::Map<String, serde_json::Value>>(
        text,
        cc_daemon::config::Format::Toml,
    )
    .map(drop)
    .map_err(|error| Failure::Malformed {
        path: path.to_owned(),
        kind: "TOML file",
        why: error.to_string(),
    })
}

fn notes(document: &InitData, output: Output, size: usize) -> Vec<String> {
    let unknown = document.data().keys().filter(|name| !KNOWN.contains(&name.as_str()));
    let mut notes: Vec<String> = unknown
        .map(|name| format!("no daemon reads the entry {name}; it is measured and passed on"))
        .collect();
    if output == Output::Annotation && size > ANNOTATIONS_MAX {
        notes.push(format!(
            "{size} bytes are more than the {ANNOTATIONS_MAX} that all annotations of a Kubernetes object may have"
        ));
    }
    notes
}

fn unfit(error: &cc_evidence::Error) -> Failure {
    Failure::Argument {
        argument: "--file".into(),
        why: error.to_string(),
        hint: match error {
            cc_evidence::Error::TooLarge { .. } => "give fewer or smaller files".into(),
            other => other.hint(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_names_and_paths() {
        let entry = parse_entry("aa.toml=/etc/a=b.toml").unwrap();
        assert_eq!((entry.name.as_str(), entry.path.as_path()), ("aa.toml", Path::new("/etc/a=b.toml")));
        for bad in ["aa.toml", "=x", "aa.toml=", "../aa.toml=x", "a/b=x"] {
            assert!(parse_entry(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_is_too_large_is_to_be_made_smaller() {
        let hint = |error: &cc_evidence::Error| match unfit(error) {
            Failure::Argument { hint, .. } => hint,
            other => panic!("{other}"),
        };
        let large = cc_evidence::Error::TooLarge { what: "the document", size: 2, limit: 1 };
        assert_eq!(hint(&large), "give fewer or smaller files");
        let broken = cc_evidence::Error::InitData { why: "x".into() };
        assert_eq!(hint(&broken), broken.hint());
    }

    #[test]
    fn algorithms_are_those_of_launchers() {
        assert_eq!(parse_algorithm("sha384"), Ok(HashAlgorithm::Sha384));
        for bad in ["SHA256", "sha-256", "sm3", "md5"] {
            assert!(parse_algorithm(bad).is_err(), "{bad}");
        }
    }
}
