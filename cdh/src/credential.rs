//! `[[credentials]]`: files that are filled from the key broker after start.
//!
//! The existing stack fetches them before it opens its socket, and so keeps everybody waiting for the key
//! broker. Here they are fetched in the background; an outage is retried for as long as the hub runs, a denial
//! is final. Not here: files that are refreshed.
//!
//! The paths may come from the host (kernel command line), so they stay below two directories, component by
//! component, and no link is followed on the way.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cc_crypto::Secret;
use cc_daemon::shutdown::Shutdown;
use cc_evidence::blame::Blame;
use cc_protos::guest_services::CredentialState;
use rustix::fs::{self, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::Deserialize;
use tokio::time::Instant;

use crate::audit::{Ask, Door};
use crate::error::HubError;
use crate::hub::Hub;
use crate::placement::{self, Ownership};

/// Directory below which credentials go.
pub const KBS_DIR: &str = "/run/confidential-containers/cdh/kbs";
/// Directory of sealed-secret verification keys, which may be filled the same way.
pub const SEALED_SECRET_DIR: &str = "/run/confidential-containers/cdh/sealed-secret";

/// How long one try may wait for the key broker.
const TRY_TIME_LIMIT: Duration = Duration::from_secs(10);
/// First pause after an outage; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// One configured file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Entry {
    /// Where it goes.
    pub path: String,
    /// What goes into it.
    pub resource_uri: String,
}

/// All configured files with their state.
#[derive(Debug)]
pub struct Credentials {
    entries: Vec<Entry>,
    states: Mutex<Vec<String>>,
}

impl Credentials {
    /// Checks where the files would go. Nothing is fetched yet.
    ///
    /// # Errors
    /// [`HubError::CredentialPath`] for a path outside the two directories or with a component that is not a plain name.
    pub fn new(entries: Vec<Entry>) -> Result<Self, HubError> {
        for entry in &entries {
            split(&entry.path)?;
        }
        let states = Mutex::new(vec!["pending".to_owned(); entries.len()]);
        Ok(Self { entries, states })
    }

    /// The state of each file: `pending`, `written`, `waiting: CODE` during an outage, or the code of the error that
    /// stopped it.
    pub fn states(&self) -> Vec<CredentialState> {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let state = |(entry, state): (&Entry, &String)| CredentialState {
            path: entry.path.clone(),
            resource_uri: entry.resource_uri.clone(),
            state: state.clone(),
        };
        self.entries.iter().zip(states.iter()).map(state).collect()
    }

    /// Fills the files until all are written or refused, or the hub stops. Those that wait for an outage to end
    /// keep no other from being filled.
    pub async fn fill(self: Arc<Self>, hub: Arc<Hub>, shutdown: Shutdown) {
        let mut open: Vec<usize> = (0..self.entries.len()).collect();
        let mut pause = FIRST_PAUSE;
        while !open.is_empty() {
            let mut waiting = Vec::new();
            for index in open {
                tokio::select! {
                    waits = self.fill_one(index, &hub) => if waits { waiting.push(index) },
                    () = shutdown.requested() => return,
                }
            }
            open = waiting;
            if !open.is_empty() {
                tracing::warn!(files = open.len(), "trying again in {} s", pause.as_secs());
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                    () = shutdown.requested() => return,
                }
            }
        }
    }

    /// Fills one file; whether it has to be tried again.
    async fn fill_one(&self, index: usize, hub: &Hub) -> bool {
        let Some(entry) = self.entries.get(index) else { return false };
        let ask = Ask::of_configuration(Door::Credentials);
        let result = match hub.fetch_for(&ask, &entry.resource_uri, Instant::now() + TRY_TIME_LIMIT).await {
            Ok(secret) => write(&entry.path, &secret),
            Err(e) => Err(e),
        };
        ask.answer(&result);
        match result {
            Ok(()) => {
                tracing::info!(path = ?entry.path, uri = ?entry.resource_uri, "wrote a credential");
                self.note(index, "written");
                false
            }
            Err(e) if e.blame() == Blame::Unavailable => {
                tracing::warn!(path = ?entry.path, code = e.code(), "a credential is not there yet: {e}");
                self.note(index, &format!("waiting: {}", e.code()));
                true
            }
            Err(e) => {
                tracing::error!(path = ?entry.path, code = e.code(), hint = e.hint(), "no credential: {e}");
                self.note(index, e.code());
                false
            }
        }
    }

    fn note(&self, index: usize, state: &str) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = states.get_mut(index) {
            state.clone_into(slot);
        }
    }
}

/// Splits a path into its allowed directory, the directories below it and the file name.
fn split(path: &str) -> Result<(&'static Path, Vec<&OsStr>, &OsStr), HubError> {
    let refuse = |why| HubError::CredentialPath { path: path.chars().take(256).collect(), why };
    // `Path::components` drops `.` and doubled slashes silently; a path that needs that is refused instead.
    if path.split('/').skip(1).any(|c| matches!(c, "" | "." | "..")) || path.contains('\0') {
        return Err(refuse("it has an empty, '.' or '..' component"));
    }
    let base = [KBS_DIR, SEALED_SECRET_DIR]
        .into_iter()
        .map(Path::new)
        .find(|base| Path::new(path).starts_with(base))
        .ok_or_else(|| refuse("it lies outside the directories for credentials"))?;
    let rest = Path::new(path).strip_prefix(base).map_err(|_| refuse("it lies outside"))?;
    let mut names: Vec<&OsStr> = rest
        .components()
        .filter_map(|c| if let Component::Normal(name) = c { Some(name) } else { None })
        .collect();
    let name = names.pop().ok_or_else(|| refuse("it names the directory itself"))?;
    Ok((base, names, name))
}

/// Writes `secret` to `path` with mode 0600: beside it first, renamed when it is whole.
fn write(path: &str, secret: &Secret) -> Result<(), HubError> {
    let failed =
        |e: std::io::Error| HubError::CredentialWrite { path: path.to_owned(), cause: e.to_string() };
    let (base, directories, name) = split(path)?;
    std::fs::create_dir_all(base).map_err(failed)?;
    write_below(base, &directories, name, secret).map_err(failed)
}

fn write_below(base: &Path, directories: &[&OsStr], name: &OsStr, secret: &Secret) -> std::io::Result<()> {
    let directory_flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    let mut directory =
        fs::openat2(fs::CWD, base, directory_flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    for component in directories {
        directory = enter(directory, component, directory_flags)?;
    }
    placement::replace(&directory, name, secret, Ownership::PRIVATE)
}

fn enter(parent: OwnedFd, name: &OsStr, flags: OFlags) -> std::io::Result<OwnedFd> {
    match fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    Ok(fs::openat2(parent.as_fd(), name, flags, Mode::empty(), resolve)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn paths_stay_below_the_two_directories() {
        for good in [
            "/run/confidential-containers/cdh/kbs/a",
            "/run/confidential-containers/cdh/kbs/kms-credential/aliyun/x.json",
            "/run/confidential-containers/cdh/sealed-secret/key-1",
        ] {
            assert!(split(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            "/etc/passwd",
            "/run/confidential-containers/cdh/kbs",
            "/run/confidential-containers/cdh/kbs/",
            "/run/confidential-containers/cdh/kbsX/f",
            "/run/confidential-containers/cdh/kbs/../f",
            "/run/confidential-containers/cdh/kbs/./f",
            "/run/confidential-containers/cdh/kbs//f",
            "/run/confidential-containers/cdh/kbs/a\0b",
        ] {
            assert_eq!(split(bad).unwrap_err().code(), "CREDENTIAL_PATH_REFUSED", "{bad}");
        }
    }

    #[test]
    fn files_are_private_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let names = [OsStr::new("a"), OsStr::new("b")];
        for content in ["first", "second, longer"] {
            let secret = Secret::new(content.as_bytes().to_vec());
            write_below(&base, &names, OsStr::new("f"), &secret).unwrap();
            let file = base.join("a/b/f");
            assert_eq!(std::fs::read(&file).unwrap(), content.as_bytes());
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(std::fs::read_dir(base.join("a/b")).unwrap().count(), 1, "nothing is left beside it");
        }
    }

    #[test]
    fn what_a_killed_hub_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        std::fs::write(base.join(".f.new"), b"half a sec").unwrap();
        write_below(&base, &[], OsStr::new("f"), &Secret::new(b"whole".to_vec())).unwrap();
        let names: Vec<_> = std::fs::read_dir(&base).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["f"]);
    }

    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), base.join("link")).unwrap();
        let secret = Secret::new(b"x".to_vec());
        assert!(write_below(&base, &[OsStr::new("link")], OsStr::new("f"), &secret).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        // A link in the place of the file itself is replaced, not written through.
        symlink(outside.path().join("target"), base.join("f")).unwrap();
        write_below(&base, &[], OsStr::new("f"), &secret).unwrap();
        assert!(!outside.path().join("target").exists());
        assert!(std::fs::symlink_metadata(base.join("f")).unwrap().is_file());
    }
}
