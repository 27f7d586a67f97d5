//! The policy of `guestctl pull`: read before anything is fetched, asked before anything is unpacked.
//!
//! Keys and signatures that the policy names by path or by `file://` are read from this machine, signatures of images in a
//! registry from there and from lookaside folders on the web. Resources of a key broker are not fetched here: that is
//! the data hub's.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::SystemTime,
};

use image_registry::Repository;
use image_rs::{
    Digest, Error, Reference,
    policy::{Beside, Lookaside, Policy, Subject, Verdict},
};

use super::place::Found;
use crate::{failure::Failure, output::Console, table::printable};

/// Longest file read, in bytes: the longest trusted root that the library takes.
const FILE_MAX: u64 = 4 << 20;

/// What the operator gives.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Pull only what this policy admits (containers-policy.json(5)); without it, every image
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Judge the image under this name, such as quay.io/team/app:1.0, instead of the one that it is read under
    #[arg(long, value_name = "REFERENCE", requires = "policy")]
    name: Option<Reference>,
    /// Where OpenPGP signatures are (containers-registries.d(5)); may be given several times
    #[arg(long, value_name = "FILE", requires = "policy")]
    lookaside: Vec<PathBuf>,
    /// Only say what the policy decides, and why; unpack nothing
    #[arg(long, requires = "policy")]
    pub(super) explain: bool,
}

/// A policy and the name to judge by.
#[derive(Debug)]
pub(super) struct Admission {
    policy: Policy,
    name: Option<Reference>,
}

impl Args {
    /// Reads the policy and what belongs to it.
    pub(super) fn read(&self) -> Result<Admission, Failure> {
        let Some(path) = &self.policy else {
            return Ok(Admission { policy: Policy::admit_all(), name: None });
        };
        let invalid = |path: &Path| {
            let image = path.display().to_string();
            move |error| Failure::Image { image, error: Box::new(error) }
        };
        let policy = Policy::parse(&read(path)?).map_err(invalid(path))?;
        let mut files = Vec::new();
        for path in &self.lookaside {
            let text = String::from_utf8(read(path)?).map_err(|_| Failure::Malformed {
                path: path.clone(),
                kind: "lookaside configuration",
                why: "not UTF-8".to_owned(),
            })?;
            files.push((path.display().to_string(), text));
        }
        let files = files.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let lookaside = Lookaside::parse(files).map_err(invalid(path))?;
        Ok(Admission { policy: policy.with_lookaside(lookaside), name: self.name.clone() })
    }
}

impl Args {
    /// The policy as the operator named it.
    pub(super) fn policy(&self) -> Option<String> {
        self.policy.as_ref().map(|path| path.display().to_string())
    }
}

impl Admission {
    /// Judges what has this manifest, chosen from this index; its signatures are beside it.
    pub(super) fn decide(&self, found: &Found<'_>, (manifest, index): (Digest, Option<Digest>)) -> Verdict {
        let subject = Subject {
            reference: self.name.as_ref().or_else(|| found.repository.map(Repository::reference)),
            manifest,
            index,
        };
        match found.repository {
            Some(repository) => {
                self.policy.decide(&subject, SystemTime::now(), &mut repository.signatures(fetch))
            }
            None => self.policy.decide(&subject, SystemTime::now(), &mut Beside::new(found.source, fetch)),
        }
    }
}

/// Shows a verdict: the rule that decided, and who signed or what was missing.
pub(super) fn show(verdict: &Verdict, console: &mut Console<'_>) -> Result<(), Failure> {
    // What is refused is told by the error that follows.
    let Verdict::Admitted(admitted) = verdict else { return Ok(()) };
    let mut text = format!(
        "admitted by {}: manifest {}\n",
        printable(&admitted.scope().to_string()),
        admitted.manifest()
    );
    for (position, proof) in admitted.proofs().iter().enumerate() {
        let by = if proof.by.is_empty() { String::new() } else { format!(": {}", printable(&proof.by)) };
        text.push_str(&format!("  requirement {position} ({}){by}\n", proof.requirement));
    }
    console.text(&text)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    bounded(path).map_err(|source| Failure::Unreadable { path: path.to_owned(), source })
}

/// A key of the policy, or a file of a lookaside folder.
fn fetch(location: &str) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { what: location.to_owned(), source };
    let path = location.strip_prefix("file://").unwrap_or(location);
    if !path.starts_with('/') {
        return Err(failed(io::Error::new(
            io::ErrorKind::Unsupported,
            "only files of this machine are read here",
        )));
    }
    bounded(Path::new(path)).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::NotFound { what: format!("file {path}") },
        _ => failed(source),
    })
}

fn bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {FILE_MAX} bytes")));
    }
    Ok(bytes)
}
