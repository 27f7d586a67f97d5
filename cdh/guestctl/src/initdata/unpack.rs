//! `guestctl initdata unpack`: a document and the files in it, in a new folder.
//!
//! What kata-agent does in its guests, for machines that have none. The folder appears at once and complete, or not at
//! all, so that a unit may wait for it. Entries are written by their plain file names only.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use cc_evidence::initdata::{InitData, is_file_name};
use serde_json::json;

use super::{UnpackArgs, disk};
use crate::{
    failure::Failure,
    output::{Console, write_private_file},
};

/// The file that gets the document itself, as kata-agent names it.
const DOCUMENT: &str = "initdata.toml";

/// Unpacks and tells what was written.
pub(super) fn run(args: &UnpackArgs, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let source = match args.source == Path::new("auto") {
        true => disk::find(Path::new("/dev"), disk::is_block_device)?,
        false => args.source.clone(),
    };
    let (_, document) = super::open(&source)?;
    check_names(&source, &document)?;
    write(&args.to, &document)?;
    let names: Vec<&str> = document.data().keys().map(String::as_str).collect();
    let (algorithm, digest) = (document.algorithm(), hex::encode(document.digest()));
    if json {
        console.json(&json!({
            "source": source.display().to_string(), "folder": args.to.display().to_string(),
            "algorithm": algorithm.as_str(), "digest": digest, "files": names,
        }))
    } else {
        let (source, folder) = (source.display(), args.to.display());
        console.text(&format!("{source}: {algorithm} {digest}\n{folder}: {DOCUMENT}, {}\n", names.join(", ")))
    }
}

/// A name that leads out of the folder, or that the document itself has, is no accident.
fn check_names(source: &Path, document: &InitData) -> Result<(), Failure> {
    match document.data().keys().find(|name| !is_file_name(name) || *name == DOCUMENT) {
        None => Ok(()),
        Some(name) => Err(Failure::Malformed {
            path: source.to_owned(),
            kind: "init-data document to unpack",
            why: format!("the entry {name:?} cannot be a file beside {DOCUMENT}"),
        }),
    }
}

/// Writes everything into a folder beside `target` and gives it its name when it is complete.
fn write(target: &Path, document: &InitData) -> Result<(), Failure> {
    let failed = |source| Failure::OutputFile { path: target.to_owned(), source };
    if target.symlink_metadata().is_ok() {
        return Err(failed(io::ErrorKind::AlreadyExists.into()));
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let partial = beside(target).map_err(failed)?;
    DirBuilder::new().mode(0o700).create(&partial).map_err(failed)?;
    let files = document.data().iter().map(|(name, text)| (name.as_str(), text.as_str()));
    let written = files
        .chain([(DOCUMENT, document.body())])
        .try_for_each(|(name, text)| write_private_file(&partial.join(name), text.as_bytes()))
        .and_then(|()| fs::rename(&partial, target).map_err(failed));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_dir_all(&partial);
    }
    written
}

fn beside(target: &Path) -> io::Result<PathBuf> {
    let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut partial = std::ffi::OsString::from(".");
    partial.push(name);
    partial.push(format!(".{}", std::process::id()));
    Ok(target.with_file_name(partial))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn document(entries: &str) -> InitData {
        let body = format!("version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n{entries}");
        InitData::parse(&body).unwrap()
    }

    #[test]
    fn the_folder_is_private_complete_and_new() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("a/initdata");
        let document = document("\"aa.toml\" = 'x'\n\"cdh.toml\" = 'y'\n");
        write(&target, &document).unwrap();
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o700);
        for (name, text) in [("aa.toml", "x"), ("cdh.toml", "y"), (DOCUMENT, document.body())] {
            assert_eq!(fs::read_to_string(target.join(name)).unwrap(), text);
            assert_eq!(fs::metadata(target.join(name)).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(write(&target, &document).unwrap_err().code(), "OUTPUT_FILE");
        assert_eq!(fs::read_dir(parent.path().join("a")).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["../x", "/etc/passwd", "..", "", DOCUMENT, "a/b"] {
            let document = document(&format!("\"{name}\" = 'x'\n"));
            let error = check_names(Path::new("it"), &document).unwrap_err();
            assert_eq!(error.code(), "INPUT_MALFORMED", "{name:?}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("file"), "").unwrap();
        assert!(write(&parent.path().join("file/x"), &document("\"a\" = ''\n")).is_err());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }
}
