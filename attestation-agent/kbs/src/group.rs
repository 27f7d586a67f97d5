//! Several KBS that serve the same guest: the next one is asked when the first keeps silent.
//!
//! The members are one trust group: the operator lists them in order, each with its own certificate, and any of them may
//! release a secret. Each has a [`Session`] of its own, with its own key and token.
//!
//! * A member that owes an answer for longer than the head start is not waited for: the next is asked as well, and the first
//!   to answer serves.
//! * A member that failed is asked last, until a probe in the background finds it well again; no caller waits for that.
//! * A denial is final, and so is "no such resource": nobody else is asked then.
//!
//! Not here: retries and handshakes, which are each session's own.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cc_crypto::Secret;
use cc_evidence::blame::Blame;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::config::KbsConfig;
use crate::error::KbsError;
use crate::session::{Session, SessionStatus};
use crate::source::EvidenceSource;
use crate::uri::ResourceUri;

/// How long a member may owe an answer before the next is asked as well, unless the configuration says otherwise.
pub const DEFAULT_HEAD_START: Duration = Duration::from_millis(500);
/// Most members.
pub const MAX_MEMBERS: usize = 8;
/// How long a member that failed is left alone before it is probed.
const REST: Duration = Duration::from_secs(30);
/// How long a probe may take.
const PROBE_TIME_LIMIT: Duration = Duration::from_secs(10);
/// How often a silence is looked at.
const GLANCE: Duration = Duration::from_millis(20);

/// Sessions with one or more KBS.
pub struct Group {
    members: Vec<Arc<Member>>,
    head_start: Duration,
}

struct Member {
    session: Session,
    /// Set while the member counts as failed: when it is to be probed.
    probe_from: Mutex<Option<Instant>>,
}

/// What one member had to say.
struct Answer {
    member: Arc<Member>,
    /// How many were asked before it.
    place: usize,
    result: Result<Secret, KbsError>,
}

impl Group {
    /// Sessions with the KBS that `configs` name, in the order in which they are to be asked, with evidence from `source`.
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// [`KbsError::Config`] for none, for more than [`MAX_MEMBERS`], or for one that cannot be used.
    pub fn new(
        configs: Vec<KbsConfig>,
        head_start: Duration,
        source: &Arc<dyn EvidenceSource>,
    ) -> Result<Self, KbsError> {
        if configs.is_empty() || configs.len() > MAX_MEMBERS {
            let why = format!("{} are listed, 1 to {MAX_MEMBERS} can be", configs.len());
            return Err(KbsError::Config { what: "list of KBS", why });
        }
        let member = |config| {
            let session = Session::new(config, Arc::clone(source))?;
            Ok(Arc::new(Member { session, probe_from: Mutex::default() }))
        };
        let members = configs.into_iter().map(member).collect::<Result<_, KbsError>>()?;
        Ok(Self { members, head_start })
    }

    /// Fetches and opens the resource called `uri` from the first member that answers.
    ///
    /// # Errors
    /// As [`Session::fetch`]; if no member can be used, the error of the one that was asked first.
    pub async fn fetch(&self, uri: &ResourceUri, deadline: Instant) -> Result<Secret, KbsError> {
        if let [only] = self.members.as_slice() {
            return only.session.fetch(uri, deadline).await;
        }
        let mut others = self.order().into_iter();
        let mut asked: Vec<Arc<Member>> = Vec::new();
        let mut running = JoinSet::new();
        let mut failures = Vec::new();
        // Those that are still running when this ends are given up.
        loop {
            if let Some(member) = others.next() {
                if !asked.is_empty() {
                    tracing::warn!(url = member.url(), %uri, "the KBS asked first does not answer, asking the next");
                }
                let place = asked.len();
                asked.push(Arc::clone(&member));
                let uri = uri.clone();
                running.spawn(async move {
                    let result = member.session.fetch(&uri, deadline).await;
                    Answer { member, place, result }
                });
            }
            let Some(Answer { member, place, result }) =
                self.answer(&mut running, &asked, others.len() > 0).await
            else {
                if others.len() > 0 {
                    continue;
                }
                failures.sort_by_key(|(place, _)| *place);
                return Err(failures.into_iter().next().map_or(KbsError::Interrupted, |(_, e)| e));
            };
            match result {
                Ok(secret) => {
                    member.serves(uri, &asked);
                    return Ok(secret);
                }
                Err(e) if matches!(e.blame(), Blame::Unavailable | Blame::Misbehaved) => {
                    tracing::warn!(url = member.url(), code = e.code(), error = %e, %uri, "a KBS cannot be used");
                    member.rest();
                    failures.push((place, e));
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// The state of each member, in the order of the configuration.
    #[must_use]
    pub fn status(&self) -> Vec<SessionStatus> {
        self.members.iter().map(|member| member.session.status()).collect()
    }

    /// Asks every member whether it is there and speaks our protocol version: its URL and the answer.
    pub async fn probe(&self, deadline: Instant) -> Vec<(String, Result<(), KbsError>)> {
        let ask = |member: &Arc<Member>| {
            let member = Arc::clone(member);
            tokio::spawn(async move { member.session.probe(deadline).await })
        };
        let asked: Vec<_> =
            self.members.iter().map(|member| (member.url().to_owned(), ask(member))).collect();
        let mut answers = Vec::with_capacity(asked.len());
        for (url, answer) in asked {
            answers.push((url, answer.await.unwrap_or(Err(KbsError::Interrupted))));
        }
        answers
    }

    /// As [`Session::forget`], for every member.
    pub fn forget(&self) {
        for member in &self.members {
            member.session.forget();
        }
    }

    /// Those that are well in the order of the configuration, then those that failed.
    fn order(&self) -> Vec<Arc<Member>> {
        let (failed, well): (Vec<_>, Vec<_>) =
            self.members.iter().cloned().partition(|member| member.has_failed());
        failed.iter().for_each(Member::probe_when_due);
        well.into_iter().chain(failed).collect()
    }

    /// The next answer of those that are `running`. None if there is nobody to wait for, or if there are others to ask and
    /// the one asked last keeps silent.
    async fn answer(
        &self,
        running: &mut JoinSet<Answer>,
        asked: &[Arc<Member>],
        others: bool,
    ) -> Option<Answer> {
        loop {
            tokio::select! {
                biased;
                done = running.join_next() => return done.and_then(Result::ok),
                () = sleep(GLANCE), if others => {
                    if asked.last().is_none_or(|last| last.session.silence() >= self.head_start) {
                        return None;
                    }
                }
            }
        }
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.members.iter().map(|member| &member.session)).finish()
    }
}

impl Member {
    fn url(&self) -> &str {
        self.session.url()
    }

    fn rest(&self) {
        *self.lock() = Some(Instant::now() + REST);
    }

    fn has_failed(&self) -> bool {
        self.lock().is_some()
    }

    /// Finds out in the background whether a member that failed is well again: no evidence, no token.
    fn probe_when_due(member: &Arc<Self>) {
        let now = Instant::now();
        {
            let mut probe_from = member.lock();
            if probe_from.is_none_or(|from| now < from) {
                return;
            }
            *probe_from = Some(now + REST);
        }
        let member = Arc::clone(member);
        tokio::spawn(async move {
            match member.session.probe(now + PROBE_TIME_LIMIT).await {
                Ok(()) => {
                    *member.lock() = None;
                    tracing::info!(url = member.url(), "the KBS is well again");
                }
                Err(e) => {
                    tracing::debug!(url = member.url(), code = e.code(), error = %e, "the KBS is still not well");
                }
            }
        });
    }

    /// This member gave what was asked; those asked before it did not.
    fn serves(&self, uri: &ResourceUri, asked: &[Arc<Self>]) {
        *self.lock() = None;
        let silent =
            |other: &&Arc<Self>| !std::ptr::eq(other.as_ref(), self) && !other.session.silence().is_zero();
        asked.iter().filter(silent).for_each(|other| other.rest());
        tracing::debug!(url = self.url(), %uri, "this KBS answered");
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.probe_from.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
