//! How far the hub's configuration can be trusted: asked of the attestation agent, which asked the hardware.
//!
//! The hub touches no hardware. Whether the bytes of its configuration file are an entry of the init-data that this
//! machine was launched with follows from the agent's `GetInitData`. An agent of the existing stack does not know that
//! method: then nothing vouches. Not here: the comparison itself ([`cc_daemon::provenance`]).

use std::time::Duration;

use cc_daemon::config::{Provenance, Source};
use cc_daemon::start::{EXIT_UNAVAILABLE, StartFault};
use cc_evidence::blame::Blame;
use cc_evidence::initdata::InitData;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::agent::AgentEvidence;

/// How long a status answer waits for the agent.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);

/// How long a start waits for the agent, which may start at the same time and has to ask the hardware.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Pause between two questions to an agent that does not serve yet.
const BETWEEN_QUESTIONS: Duration = Duration::from_millis(200);

/// The hub's configuration and whom to ask about it.
#[derive(Debug)]
pub struct Checker {
    /// Where the configuration came from.
    pub source: Source,
    /// The agent.
    pub agent: AgentEvidence,
}

impl Checker {
    /// How far the configuration can be trusted, as far as the agent tells within two seconds.
    pub async fn provenance(&self) -> Provenance {
        let vouched = match self.source.depends_on_init_data() {
            true => timeout(STATUS_PATIENCE, self.agent.vouched_init_data()).await,
            false => Ok(Ok(None)),
        };
        self.source.provenance(vouched.ok().and_then(Result::ok).flatten().as_ref())
    }

    /// Says in the log if the configuration is unmeasured and decides whom the machine trusts; its words for the status. Waits
    /// for the agent if need be.
    pub async fn tell(&self) -> String {
        let vouched = match self.source.depends_on_init_data() {
            true => self.ask_patiently().await.ok().flatten(),
            false => None,
        };
        self.source.tell(vouched.as_ref())
    }

    /// Refuses a configuration that nothing vouches for; waits for the agent if need be.
    ///
    /// # Errors
    /// `CONFIG_UNMEASURED`, or what kept the agent from telling.
    pub async fn require(&self) -> Result<(), StartFault> {
        let vouched = match self.source.depends_on_init_data() {
            true => self.ask_patiently().await?,
            false => None,
        };
        self.source.refuse_unmeasured(vouched.as_ref())
    }

    async fn ask_patiently(&self) -> Result<Option<InitData>, StartFault> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let last = match timeout_at(deadline, self.agent.vouched_init_data()).await {
                Ok(Ok(vouched)) => return Ok(vouched),
                Ok(Err(e)) if e.blame() == Blame::Unavailable && Instant::now() < deadline => e,
                Ok(Err(e)) => return Err(unanswered(e.code(), &e, e.hint())),
                Err(_) => {
                    let why = "the attestation agent did not tell in time which init-data this machine was launched with";
                    return Err(unanswered(
                        "INIT_DATA_TIMEOUT",
                        why,
                        "see the attestation agent's log".to_owned(),
                    ));
                }
            };
            tracing::debug!(why = %last, "asking the attestation agent about init-data again");
            sleep(BETWEEN_QUESTIONS).await;
        }
    }
}

fn unanswered(code: &str, why: impl std::fmt::Display, hint: String) -> StartFault {
    let message = format!("checking whether the configuration is measured: {why}");
    StartFault::new(EXIT_UNAVAILABLE, code, message, hint)
}
