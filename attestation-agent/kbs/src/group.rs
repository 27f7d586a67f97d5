//! Several KBS that serve the same guest: the next one is asked when the first keeps silent.
//!
//! The members are one trust group: the operator lists them in order, each with its own certificate, and any of them may
//! release a secret. Each has a [`Session`] of its own, with its own key and token.
//!
//! * A member that owes an answer for longer than the head start is not waited for: the next is asked as well, and the first
//!   to answer serves.
//! * A member that failed is asked last, until a probe in the background finds it well again; no caller waits for that.
//! * A denial is final, and so is "no such resource": nobody else is asked then. Whoever was asked earlier and is at work
//!   still comes first: the group then waits for its answer.
//! * What the evidence source says of itself is no member's failure, and nobody else is asked either: the machine is the same.
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
/// How long a member may owe an answer and still count as being at work.
const AT_WORK: Duration = Duration::from_secs(5);
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
    /// How many were asked before it.
    place: usize,
    result: Result<Secret, KbsError>,
}

/// One request to the group.
struct Round {
    head_start: Duration,
    asked: Vec<Asked>,
    /// Given up when the round ends.
    running: JoinSet<Answer>,
    /// What ends the round unless somebody asked earlier does better, and the place of whoever said it.
    last_word: Option<(usize, KbsError)>,
}

struct Asked {
    member: Arc<Member>,
    is_running: bool,
    failure: Option<KbsError>,
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
        let mut round = Round::new(self.head_start);
        loop {
            if let Some(e) = round.end() {
                return Err(e);
            }
            if round.wants_another()
                && Instant::now() < deadline
                && let Some(member) = others.next()
            {
                round.ask(member, uri, deadline);
            }
            if round.running.is_empty() {
                return Err(round.failure());
            }
            let looks = others.len() > 0 || round.last_word.is_some();
            tokio::select! {
                biased;
                done = round.running.join_next() => {
                    if let Some(Ok(Answer { place, result })) = done
                        && let Some(secret) = round.note(place, result, uri)
                    {
                        return Ok(secret);
                    }
                }
                () = sleep(GLANCE), if looks => {}
            }
        }
    }

    /// The state of each member, in the order of the configuration.
    #[must_use]
    pub fn status(&self) -> Vec<SessionStatus> {
        self.members.iter().map(|member| member.session.status()).collect()
    }

    /// Drops the tokens of all members: see [`Session::forget`].
    pub fn forget(&self) {
        self.members.iter().for_each(|member| member.session.forget());
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

    /// Those that are well in the order of the configuration, then those that failed.
    fn order(&self) -> Vec<Arc<Member>> {
        let (failed, well): (Vec<_>, Vec<_>) =
            self.members.iter().cloned().partition(|member| member.has_failed());
        failed.iter().for_each(Member::probe_when_due);
        well.into_iter().chain(failed).collect()
    }
}

impl Round {
    fn new(head_start: Duration) -> Self {
        Self { head_start, asked: Vec::new(), running: JoinSet::new(), last_word: None }
    }

    /// Whether it is time to ask the next: nobody has ended the round, and whoever was asked last failed or keeps silent.
    fn wants_another(&self) -> bool {
        self.last_word.is_none()
            && self.asked.last().is_none_or(|last| !last.is_running || self.is_silent(&last.member))
    }

    fn is_silent(&self, member: &Member) -> bool {
        member.session.silence() >= self.head_start
    }

    fn ask(&mut self, member: Arc<Member>, uri: &ResourceUri, deadline: Instant) {
        if !self.asked.is_empty() {
            tracing::warn!(url = member.url(), %uri, "the KBS asked first does not answer, asking the next");
        }
        let place = self.asked.len();
        self.asked.push(Asked { member: Arc::clone(&member), is_running: true, failure: None });
        let uri = uri.clone();
        self.running
            .spawn(async move { Answer { place, result: member.session.fetch(&uri, deadline).await } });
    }

    /// Takes in what the member at `place` said; gives the secret if it was one.
    fn note(&mut self, place: usize, result: Result<Secret, KbsError>, uri: &ResourceUri) -> Option<Secret> {
        let asked = self.asked.get_mut(place)?;
        asked.is_running = false;
        let member = &asked.member;
        let e = match result {
            Ok(secret) => {
                member.serves(uri);
                self.leave_silent_ones_alone();
                return Some(secret);
            }
            Err(e) => e,
        };
        let is_members_own = !matches!(e, KbsError::Source(_));
        match e.blame() {
            blame @ (Blame::Unavailable | Blame::Misbehaved) if is_members_own => {
                tracing::warn!(url = member.url(), code = e.code(), error = %e, %uri, "a KBS cannot be used");
                // Otherwise it was the deadline, and what others ask of the KBS meanwhile is just open.
                if blame == Blame::Misbehaved || member.session.is_failing() {
                    member.rest();
                }
                asked.failure = Some(e);
            }
            _ if self.last_word.as_ref().is_none_or(|(other, _)| place < *other) => {
                self.last_word = Some((place, e));
            }
            _ => {}
        }
        None
    }

    /// The last word, once nobody who was asked before whoever said it is at work.
    fn end(&mut self) -> Option<KbsError> {
        let (place, _) = self.last_word.as_ref()?;
        if self.asked.iter().take(*place).any(|asked| asked.is_running && asked.member.is_at_work()) {
            return None;
        }
        self.leave_silent_ones_alone();
        self.last_word.take().map(|(_, e)| e)
    }

    /// The error of the one that was asked first.
    fn failure(&mut self) -> KbsError {
        self.asked.iter_mut().find_map(|asked| asked.failure.take()).unwrap_or(KbsError::Interrupted)
    }

    /// Others answered; those that keep silent count as failed.
    fn leave_silent_ones_alone(&self) {
        let silent = |asked: &&Asked| asked.is_running && self.is_silent(&asked.member);
        self.asked.iter().filter(silent).for_each(|asked| asked.member.rest());
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

    /// This member gave what was asked.
    fn serves(&self, uri: &ResourceUri) {
        *self.lock() = None;
        tracing::debug!(url = self.url(), %uri, "this KBS answered");
    }

    /// Whether an answer can still be expected of a member that was asked.
    fn is_at_work(&self) -> bool {
        !self.session.is_failing() && self.session.silence() < AT_WORK
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.probe_from.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
