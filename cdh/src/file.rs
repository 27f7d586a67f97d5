//! `[[files]]`: secrets as files, kept up to date.
//!
//! ```toml
//! [[files]]
//! path = "/run/secrets/db/tls.key"          # in memory: a tmpfs or ramfs, unless allow_disk = true
//! secret = "kbs:///default/db/tls-key"      # or the text of a sealed secret
//! owner = "postgres"                        # name or number, of /etc/passwd; the hub's own user if absent
//! group = "postgres"
//! mode = "0400"
//! refresh_seconds = 300                     # 0: never again
//! on_change = { reload = "postgresql.service" }
//! ```
//!
//! Each file is fetched at start and again after each `refresh_seconds`, a tenth more or less, over the hub's one session. It is
//! written only if it differs from what lies there; then comes the hook, again and again until it succeeds. Whatever fails, the old
//! content stays. When the hub stops, the files go.
//!
//! A hub that is killed leaves its files, and beside a file whose hook did not succeed yet the empty mark `.<name>.hook-due`, which
//! is made before the file has its new content. The next hub runs that hook, and takes a file over, to remove it when it stops, if
//! it lies where it would write it with the owner and mode that it would give it. Not here: `[[credentials]]`, which is the existing stack's and stays as it is.

mod account;
mod folder;
mod hook;
mod memory;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cc_crypto::Secret;
use cc_daemon::notify::StatusLine;
use cc_daemon::shutdown::Shutdown;
use cc_evidence::blame::Blame;
use cc_protos::guest_services::CredentialState;
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::folder::{Folder, Identity, Target};
use self::hook::Hook;
use crate::audit::{Ask, Door};
use crate::error::HubError;
use crate::placement::Ownership;
use crate::reference::SecretRef;
use crate::unseal::Unsealer;

/// How long one try may wait for the key broker.
const TRY_TIME_LIMIT: Duration = Duration::from_secs(10);
/// First pause after an outage; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// State of a file that is up to date.
const WRITTEN: &str = "written";
/// State of one whose hook failed, and the code of that in the log.
const HOOK_FAILED: &str = "FILE_HOOK_FAILED";
/// What is missing for them, to the service manager.
const FILES: &str = "files";
/// Time between two looks unless configured otherwise.
const DEFAULT_REFRESH_SECONDS: u64 = 300;
/// Longest time between two looks: a day.
const MAX_REFRESH_SECONDS: u64 = 86_400;

/// One configured file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "EntryConfig")]
pub struct Entry {
    target: Target,
    secret: SecretRef,
    owner: Option<String>,
    group: Option<String>,
    mode: u32,
    /// Time between two looks; none: only one.
    refresh: Option<Duration>,
    on_change: Option<Hook>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryConfig {
    path: String,
    secret: SecretRef,
    owner: Option<String>,
    group: Option<String>,
    mode: Option<String>,
    refresh_seconds: Option<u64>,
    #[serde(default)]
    allow_disk: bool,
    on_change: Option<Hook>,
}

impl TryFrom<EntryConfig> for Entry {
    type Error = String;

    fn try_from(entry: EntryConfig) -> Result<Self, String> {
        let EntryConfig { path, secret, owner, group, mode, refresh_seconds, allow_disk, on_change } = entry;
        let target = Target::new(&path, allow_disk)?;
        let mode = match &mode {
            None => 0o400,
            Some(text) => {
                u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777).ok_or_else(|| {
                    format!("the mode of {path:?} is {text:?}, not an octal text such as \"0440\"")
                })?
            }
        };
        let refresh = match refresh_seconds.unwrap_or(DEFAULT_REFRESH_SECONDS) {
            0 => None,
            seconds @ 1..=MAX_REFRESH_SECONDS => Some(Duration::from_secs(seconds)),
            other => {
                return Err(format!(
                    "refresh_seconds of {path:?} is {other}; give 0 to {MAX_REFRESH_SECONDS}"
                ));
            }
        };
        Ok(Self { target, secret, owner, group, mode, refresh, on_change })
    }
}

impl Entry {
    /// Owner and mode, as the accounts of the machine are now.
    fn ownership(&self) -> Result<Ownership, HubError> {
        let unknown = |name: String| HubError::FileOwner { path: self.target.to_string(), name };
        let uid = self.owner.as_deref().map(account::user).transpose().map_err(unknown)?;
        let gid = self.group.as_deref().map(account::group).transpose().map_err(unknown)?;
        Ok(Ownership { mode: self.mode, uid, gid })
    }

    /// Writes `content` unless it lies there already; which file it is now, and whether it was written.
    fn place(&self, content: &Secret) -> Result<(Identity, bool), HubError> {
        let ownership = self.ownership()?;
        let folder = Folder::make(&self.target)?;
        match folder.holds(content, ownership)? {
            Some(identity) => Ok((identity, false)),
            None => self.write(&folder, content, ownership).map(|identity| (identity, true)),
        }
    }
}

impl Entry {
    /// Writes `content`, with the mark that the hook is due before it.
    fn write(
        &self,
        folder: &Folder<'_>,
        content: &Secret,
        ownership: Ownership,
    ) -> Result<Identity, HubError> {
        if self.on_change.is_none() {
            return folder.write(content, ownership);
        }
        let was_due = Folder::is_hook_due(&self.target);
        folder.hook_due()?;
        let written = folder.write(content, ownership);
        if written.is_err() && !was_due {
            // The first error is the one to report; a mark too many runs the hook once more.
            let _ = Folder::hook_done(&self.target);
        }
        written
    }
}

/// All configured files with their state.
#[derive(Debug)]
pub struct Files {
    entries: Vec<Entry>,
    states: Mutex<Vec<String>>,
    /// What this machine lacks for a file, by its number.
    lacking: Mutex<BTreeMap<usize, String>>,
}

impl Files {
    /// Nothing is fetched yet.
    #[must_use]
    pub fn new(entries: Vec<Entry>) -> Self {
        let states = Mutex::new(vec!["pending".to_owned(); entries.len()]);
        Self { entries, states, lacking: Mutex::default() }
    }

    /// The state of each file: `pending`, `written`, `waiting: CODE` during an outage, `FILE_HOOK_FAILED` if it is up to
    /// date but its hook failed, or the code of the error that keeps it from being written or from being brought up to date.
    pub fn states(&self) -> Vec<CredentialState> {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let state = |(entry, state): (&Entry, &String)| CredentialState {
            path: entry.target.to_string(),
            resource_uri: entry.secret.to_string(),
            state: state.clone(),
        };
        self.entries.iter().zip(states.iter()).map(state).collect()
    }

    /// Keeps the files up to date until `shutdown`, and then removes them.
    pub async fn keep(self: Arc<Self>, unsealer: Arc<Unsealer>, shutdown: Shutdown) {
        let mut keeping = JoinSet::new();
        for index in 0..self.entries.len() {
            let (files, unsealer, shutdown) = (Arc::clone(&self), Arc::clone(&unsealer), shutdown.clone());
            keeping.spawn(async move { files.keep_one(index, &unsealer, &shutdown).await });
        }
        while let Some(ended) = keeping.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a file is no longer kept by a defect of the program");
            }
        }
    }

    async fn keep_one(&self, index: usize, unsealer: &Unsealer, shutdown: &Shutdown) {
        let Some(entry) = self.entries.get(index) else { return };
        if let Err(e) = Folder::remove_leftover(&entry.target) {
            tracing::warn!(path = %entry.target, "what a killed data hub left cannot be removed: {e}");
        }
        let mut ours = entry.ownership().ok().and_then(|own| Folder::left_behind(&entry.target, own));
        let mut hook = DueHook::of(entry);
        let mut outage = FIRST_PAUSE;
        loop {
            let pause = tokio::select! {
                looked = self.look(index, entry, unsealer, &hook) => match looked {
                    Ok((identity, changed)) => {
                        ours = Some(identity);
                        outage = FIRST_PAUSE;
                        if changed {
                            hook.is_due_now();
                        }
                        entry.refresh.map(with_jitter)
                    }
                    Err(Blame::Unavailable) => {
                        let pause = entry.refresh.map_or(outage, |refresh| outage.min(refresh));
                        outage = (outage * 2).min(LONGEST_PAUSE);
                        Some(with_jitter(pause))
                    }
                    Err(_) => entry.refresh.map(with_jitter),
                },
                () = shutdown.requested() => break,
            };
            let next_look = pause.map(|pause| Instant::now() + pause);
            tokio::select! {
                () = self.run_hooks(index, entry, &mut hook, next_look) => {}
                () = shutdown.requested() => break,
            }
        }
        // The next hub writes the file anew, and runs its hook then.
        if let Some(identity) = ours
            && let Err(e) =
                Folder::remove(&entry.target, identity).and_then(|()| Folder::hook_done(&entry.target))
        {
            tracing::warn!(path = %entry.target, "the file cannot be removed: {e}");
        }
    }

    /// Runs the hook when it is due, and again after it failed, until `until` (for ever if there is none).
    async fn run_hooks(&self, index: usize, entry: &Entry, hook: &mut DueHook, until: Option<Instant>) {
        loop {
            let wake = [hook.due, until].into_iter().flatten().min();
            match wake {
                Some(wake) => tokio::time::sleep_until(wake).await,
                None => std::future::pending().await,
            }
            if hook.due.is_some_and(|due| due <= Instant::now()) {
                let failed = hook.run(entry).await;
                self.note_hook(index, failed);
            } else {
                return;
            }
        }
    }

    /// Brings one file up to date; which file it is now, and whether it changed.
    async fn look(
        &self,
        index: usize,
        entry: &Entry,
        unsealer: &Unsealer,
        hook: &DueHook,
    ) -> Result<(Identity, bool), Blame> {
        let ask = Ask::of_configuration(Door::File);
        let found = entry.secret.resolve(unsealer, &ask, Instant::now() + TRY_TIME_LIMIT).await;
        let placed = found.and_then(|secret| entry.place(&secret));
        self.tell(index, placed.as_ref().err(), unsealer.hub().line());
        match placed {
            Ok((identity, changed)) => {
                if changed {
                    ask.answer(&Ok(()));
                    tracing::info!(path = %entry.target, secret = %entry.secret, "wrote a file");
                } else {
                    ask.unchanged();
                }
                self.note(index, if hook.failed() { HOOK_FAILED } else { WRITTEN });
                Ok((identity, changed))
            }
            Err(e) => {
                ask.answer(&Err::<(), _>(e.clone()));
                let blame = e.blame();
                tracing::warn!(path = %entry.target, code = e.code(), hint = e.hint(), "the file stays as it is: {e}");
                let waiting = blame == Blame::Unavailable;
                self.note(
                    index,
                    &if waiting { format!("waiting: {}", e.code()) } else { e.code().to_owned() },
                );
                Err(blame)
            }
        }
    }

    /// Has the status say which file cannot be written here, and why. What the key broker says is told already.
    fn tell(&self, index: usize, error: Option<&HubError>, line: &StatusLine) {
        let mut lacking = self.lacking.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            Some(
                e @ (HubError::FileFolder { .. } | HubError::FileOwner { .. } | HubError::FileWrite { .. }),
            ) => lacking.insert(index, format!("{e} [{}]; {}", e.code(), e.hint())),
            _ => lacking.remove(&index),
        };
        match (lacking.values().next(), lacking.len()) {
            (None, _) => line.nothing_missing(FILES),
            (Some(first), 1) => line.missing(FILES, first),
            (Some(first), all) => line.missing(FILES, format_args!("{first} (and {} more)", all - 1)),
        }
    }

    /// The state after the hook ran: it changes nothing about a file that is not up to date.
    fn note_hook(&self, index: usize, failed: bool) {
        let (from, to) = if failed { (WRITTEN, HOOK_FAILED) } else { (HOOK_FAILED, WRITTEN) };
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = states.get_mut(index).filter(|slot| *slot == from) {
            to.clone_into(slot);
        }
    }

    fn note(&self, index: usize, state: &str) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = states.get_mut(index) {
            state.clone_into(slot);
        }
    }
}

/// When the hook of a file has to run.
#[derive(Debug)]
struct DueHook {
    /// None: it has not.
    due: Option<Instant>,
    /// Pause after the next failure; it doubles up to [`LONGEST_PAUSE`].
    pause: Duration,
}

impl DueHook {
    /// As an earlier hub left it.
    fn of(entry: &Entry) -> Self {
        let is_due = Folder::is_hook_due(&entry.target);
        Self { due: is_due.then(Instant::now), pause: FIRST_PAUSE }
    }

    fn is_due_now(&mut self) {
        *self = Self { due: Some(Instant::now()), pause: FIRST_PAUSE };
    }

    /// Whether it ran without success, and will again.
    fn failed(&self) -> bool {
        self.due.is_some() && self.pause > FIRST_PAUSE
    }

    /// Runs it; whether it failed.
    async fn run(&mut self, entry: &Entry) -> bool {
        let ran = match &entry.on_change {
            Some(hook) => hook.run().await.map_err(|why| format!("{hook} after a change of the file: {why}")),
            // The configuration had one when the mark was made.
            None => Ok(()),
        };
        if let Err(why) = &ran {
            let (path, again) = (&entry.target, self.pause.as_secs());
            tracing::warn!(%path, code = HOOK_FAILED, "{why}; trying again in {again} s");
            self.due = Some(Instant::now() + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            return true;
        }
        self.due = None;
        self.pause = FIRST_PAUSE;
        if let Err(e) = Folder::hook_done(&entry.target) {
            tracing::warn!(path = %entry.target, "the mark of a hook that ran cannot be removed: {e}");
        }
        false
    }
}

/// `pause`, a tenth more or less, so that the machines of a fleet do not come at once.
fn with_jitter(pause: Duration) -> Duration {
    // Without random bytes no jitter.
    let share = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
    pause.mul_f64(0.9 + 0.2 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> Result<Entry, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn entries_are_checked_when_they_are_read() {
        let short = entry("path = \"/run/a/b\"\nsecret = \"kbs:///a/b/c\"").unwrap();
        assert_eq!((short.mode, short.refresh), (0o400, Some(Duration::from_secs(300))));
        let once = "path = \"/run/a/b\"\nsecret = \"kbs:///a/b/c\"\nrefresh_seconds = 0\nmode = \"0640\"";
        let once = entry(once).unwrap();
        assert_eq!((once.mode, once.refresh), (0o640, None));
        for bad in [
            "path = \"a\"\nsecret = \"kbs:///a/b/c\"",
            "path = \"/run/../a\"\nsecret = \"kbs:///a/b/c\"",
            "path = \"/run/a/b\"\nsecret = \"a/b/c\"",
            "path = \"/run/a/b\"\nsecret = \"kbs:///a/b/c\"\nmode = \"0888\"",
            "path = \"/run/a/b\"\nsecret = \"kbs:///a/b/c\"\nmode = \"4755\"",
            "path = \"/run/a/b\"\nsecret = \"kbs:///a/b/c\"\nrefresh_seconds = 100000",
            "path = \"/run/a/b\"\nsecret = \"kbs:///a/b/c\"\nownr = \"root\"",
            "path = \"/run/a/b\"",
        ] {
            assert!(entry(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn jitter_is_a_tenth() {
        for _ in 0..100 {
            let pause = with_jitter(Duration::from_secs(100)).as_secs_f64();
            assert!((90.0..=110.0).contains(&pause), "{pause}");
        }
    }
}
