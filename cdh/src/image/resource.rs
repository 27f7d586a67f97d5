//! What the configuration and policies name by URI: `kbs://…` from the key broker, `file://…` and absolute paths from this
//! machine.
//!
//! It is fetched when it is first needed and kept in memory for some minutes, so that a restarted container does not need the key
//! broker each time. Those who need it at the same time share one attempt, and its error. Calls block.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use cc_crypto::Secret;
use cc_evidence::blame::Blame;
use cc_storage::Fault;
use tokio::{runtime::Handle, time::Instant};

use crate::error::HubError;
use crate::hub::{FETCH_TIME_LIMIT, Hub};

/// Longest resource, in bytes.
const MAX_LEN: u64 = 4 << 20;
/// How long one is kept.
const LIFE: Duration = Duration::from_secs(300);
/// Most that are kept; policies and their keys are few.
const MAX_KEPT: usize = 64;

/// Resources, by URI.
#[derive(Debug)]
pub(super) struct Resources {
    hub: Arc<Hub>,
    runtime: Handle,
    kept: Mutex<BTreeMap<String, (Instant, Arc<Secret>)>>,
    /// Attempts that are under way.
    attempts: Mutex<BTreeMap<String, Arc<Attempt>>>,
    time_limit: Duration,
}

/// What comes of an attempt, for all who wait for it.
type Attempt = OnceLock<Result<Arc<Secret>, Fault>>;

impl Resources {
    /// To be called in the runtime.
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self {
            hub,
            runtime: Handle::current(),
            kept: Mutex::default(),
            attempts: Mutex::default(),
            time_limit: FETCH_TIME_LIMIT,
        }
    }

    /// The same, where an attempt may take this long.
    #[cfg(test)]
    pub(super) fn with_time_limit(self, time_limit: Duration) -> Self {
        Self { time_limit, ..self }
    }

    /// The bytes of the resource called `uri`.
    pub(super) fn fetch(&self, uri: &str) -> Result<Arc<Secret>, HubError> {
        let path = uri.strip_prefix("file://").unwrap_or(uri);
        if path.starts_with('/') {
            return read(path).map(Arc::new);
        }
        if !(uri.starts_with("kbs://") || uri.starts_with("kbs+")) {
            let uri: String = uri.chars().take(200).collect();
            return Err(Fault::new(
                Blame::Misused,
                "RESOURCE_URI_INVALID",
                format!("{uri:?} is no place that resources of images come from"),
                "write kbs:///REPOSITORY/TYPE/TAG, file:///PATH or /PATH",
            )
            .into());
        }
        if let Some(kept) = self.kept(uri) {
            return Ok(kept);
        }
        let attempt = {
            let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(attempts.entry(uri.to_owned()).or_default())
        };
        // Whoever comes first makes it; the others wait here.
        let result = attempt.get_or_init(|| self.attempt(uri)).clone();
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        // The next one begins anew.
        if attempts.get(uri).is_some_and(|present| Arc::ptr_eq(present, &attempt)) {
            attempts.remove(uri);
        }
        Ok(result?)
    }

    fn attempt(&self, uri: &str) -> Result<Arc<Secret>, Fault> {
        // It may have come between the look at what is kept and this attempt.
        if let Some(kept) = self.kept(uri) {
            return Ok(kept);
        }
        let deadline = Instant::now() + self.time_limit;
        let fetched = self.runtime.block_on(self.hub.fetch(uri, deadline));
        let fetched = fetched
            .map(Arc::new)
            .map_err(|error| Fault::new(error.blame(), error.code().to_owned(), &error, error.hint()))?;
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < MAX_KEPT || all.contains_key(uri) {
            all.insert(uri.to_owned(), (Instant::now(), Arc::clone(&fetched)));
        }
        Ok(fetched)
    }

    fn kept(&self, uri: &str) -> Option<Arc<Secret>> {
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (since, _)| since.elapsed() < LIFE);
        all.get(uri).map(|(_, resource)| Arc::clone(resource))
    }
}

fn read(path: &str) -> Result<Secret, HubError> {
    let failed = |blame, why: &dyn std::fmt::Display| {
        Fault::new(
            blame,
            "IMAGE_READ",
            format!("cannot read {path}: {why}"),
            "check the path and the permissions",
        )
    };
    let file = File::open(Path::new(path)).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => failed(Blame::Absent, &error),
        _ => failed(Blame::Unavailable, &error),
    })?;
    let mut bytes = Vec::new();
    file.take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(|error| failed(Blame::Unavailable, &error))?;
    if bytes.len() as u64 > MAX_LEN {
        return Err(failed(Blame::Misused, &format!("it has more than {MAX_LEN} bytes")).into());
    }
    Ok(Secret::new(bytes))
}
