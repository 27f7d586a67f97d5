//! The attestation agent as the source of evidence, over its socket.
//!
//! The key that fetches secrets is made and kept in this process; the agent sees only the digest that binds it.
//! An agent of the existing stack will do as well: by ttrpc, without init-data, without device evidence if it
//! knows none, and if it gives no evidence at all, with the token and key that it made for itself.
//! Not here: what the evidence means; it is opaque text on its way to the key broker.

use std::time::Duration;

use cc_daemon::address::Address;
use cc_daemon::connect::{self, Channel};
use cc_daemon::fault::{self, Fault};
use cc_evidence::blame::Blame;
use cc_evidence::initdata::InitData;
use cc_kbs::{BorrowedToken, BoxFuture, EvidenceSource, Secret, SourceFault, TeeKeyPair};
use cc_protos::attestation_agent::attestation_agent_service_client::AttestationAgentServiceClient;
use cc_protos::attestation_agent::{
    ExtendRuntimeMeasurementRequest, GetAdditionalEvidenceRequest, GetEvidenceRequest, GetEvidenceResponse,
    GetTeeTypeRequest, GetTokenRequest, RuntimeMeasurementResult,
};
use cc_protos::guest_services::agent_info_service_client::AgentInfoServiceClient;
use cc_protos::guest_services::{DevicesAcceptedRequest, GetInitDataRequest, GetInitDataResponse};
use tokio::time::Instant;
use tonic::{Code, Status};

/// How long the agent may take for one piece of evidence.
const CALL_TIME_LIMIT: Duration = Duration::from_secs(50);

/// Between two looks for the agent's socket.
const GLANCE: Duration = Duration::from_millis(50);

/// A client of the agent; the connection is opened on first use and again when the agent was restarted.
#[derive(Debug)]
pub struct AgentEvidence {
    address: Address,
    channel: Channel,
}

impl AgentEvidence {
    /// A client of the agent that serves `address`. Nothing is contacted yet.
    pub fn new(address: Address) -> Self {
        let channel = connect::channel(&address, CALL_TIME_LIMIT);
        Self { address, channel }
    }

    /// Whether there is not even a socket where the agent should be.
    fn is_absent(&self) -> bool {
        matches!(&self.address, Address::Unix(path) if !path.exists())
    }

    /// Waits, at most for `moment`, until there is a socket where the agent should be; whether there is. One that is being started
    /// again has none for a while.
    pub async fn appears(&self, moment: Duration) -> bool {
        let deadline = Instant::now() + moment;
        while self.is_absent() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(GLANCE).await;
        }
        true
    }

    /// Has the agent measure an event.
    ///
    /// # Errors
    /// The agent does not answer, or says why not.
    pub async fn extend(
        &self,
        event: ExtendRuntimeMeasurementRequest,
    ) -> Result<RuntimeMeasurementResult, cc_kbs::Error> {
        let doing = "getting an event measured";
        let answer = self.agent().extend_runtime_measurement(event).await;
        Ok(answer.map_err(|s| self.explain(doing, &s))?.into_inner().result())
    }

    fn agent(&self) -> AttestationAgentServiceClient<Channel> {
        AttestationAgentServiceClient::new(self.channel.clone())
    }

    /// Names the peer in an error of a call, so that the reader knows where to look.
    fn explain(&self, doing: &str, status: &Status) -> cc_kbs::Error {
        let fault = Fault::from_status(status);
        cc_kbs::Error::from(SourceFault {
            blame: fault.blame,
            code: fault.code,
            message: format!("{doing} from the attestation agent at {}: {}", self.address, fault.message),
            hint: fault.hint,
        })
    }

    fn text(&self, doing: &str, response: GetEvidenceResponse) -> Result<String, cc_kbs::Error> {
        String::from_utf8(response.evidence)
            .map_err(|_| self.misbehaved(doing, "the answer is not UTF-8 text"))
    }

    fn misbehaved(&self, doing: &str, why: &str) -> cc_kbs::Error {
        cc_kbs::Error::from(SourceFault {
            blame: Blame::Misbehaved,
            code: "AA_BAD_RESPONSE".to_owned(),
            message: format!("{doing} from the attestation agent at {}: {why}", self.address),
            hint: "check which program serves that socket".to_owned(),
        })
    }

    /// The init-data document that the hardware vouches for, if the agent has one.
    ///
    /// # Errors
    /// The agent does not answer, or with a document that is none.
    pub async fn vouched_init_data(&self) -> Result<Option<InitData>, cc_kbs::Error> {
        let answer = self.init_data_answer().await?;
        let parse = |answer: GetInitDataResponse| {
            InitData::parse(&answer.toml)
                .map_err(|e| self.misbehaved("getting the init-data", &format!("it cannot be read: {e}")))
        };
        answer.filter(|answer| answer.hardware_checked).map(parse).transpose()
    }

    /// The document and what the agent knows of it. An agent of the existing stack does not know this method: then
    /// there is none.
    async fn init_data_answer(&self) -> Result<Option<GetInitDataResponse>, cc_kbs::Error> {
        let mut client = AgentInfoServiceClient::new(self.channel.clone());
        match client.get_init_data(GetInitDataRequest {}).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                Ok((answer.present && !answer.toml.is_empty()).then_some(answer))
            }
            Err(s) if s.code() == Code::Unimplemented => Ok(None),
            Err(s) => Err(self.explain("getting the init-data", &s)),
        }
    }

    /// The agent's own token and key pair, as the contract's `GetToken("kbs")` gives them.
    async fn own_token(&self) -> Result<BorrowedToken, cc_kbs::Error> {
        #[derive(serde::Deserialize)]
        struct OwnToken {
            token: String,
            tee_keypair: String,
        }
        let doing = "getting a token";
        let request = GetTokenRequest { token_type: "kbs".to_owned() };
        let answer = self.agent().get_token(request).await.map_err(|s| self.explain(doing, &s))?;
        // The parser's own message could quote the key.
        let token: OwnToken = serde_json::from_slice(&answer.into_inner().token)
            .map_err(|_| self.misbehaved(doing, "the answer is not a token with its key pair"))?;
        let key = TeeKeyPair::from_private_pem(&token.tee_keypair)
            .map_err(|e| self.misbehaved(doing, &format!("its key pair cannot be used: {e}")))?;
        Ok(BorrowedToken { text: Secret::new(token.token.into_bytes()), key })
    }
}

impl EvidenceSource for AgentEvidence {
    fn tee(&self) -> BoxFuture<'_, Result<String, cc_kbs::Error>> {
        Box::pin(async {
            let answer = self.agent().get_tee_type(GetTeeTypeRequest {}).await;
            Ok(answer.map_err(|s| self.explain("getting the TEE type", &s))?.into_inner().tee)
        })
    }

    fn additional(&self, report_data: Vec<u8>) -> BoxFuture<'_, Result<String, cc_kbs::Error>> {
        Box::pin(async move {
            let doing = "getting device evidence";
            let request = GetAdditionalEvidenceRequest { runtime_data: report_data };
            match self.agent().get_additional_evidence(request).await {
                Ok(answer) => self.text(doing, answer.into_inner()),
                // An agent from before device evidence; whether the machine may do without is for the key
                // broker to say.
                Err(s) if s.code() == Code::Unimplemented => Ok(String::new()),
                Err(s) => Err(self.explain(doing, &s)),
            }
        })
    }

    fn primary(&self, report_data: Vec<u8>) -> BoxFuture<'_, Result<String, cc_kbs::Error>> {
        Box::pin(async move {
            let doing = "getting evidence";
            let answer = self.agent().get_evidence(GetEvidenceRequest { runtime_data: report_data }).await;
            self.text(doing, answer.map_err(|s| self.explain(doing, &s))?.into_inner())
        })
    }

    /// GPUs that wait for it start to work; the agent knows whether there are any.
    fn devices_accepted(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let mut client = AgentInfoServiceClient::new(self.channel.clone());
            match client.devices_accepted(DevicesAcceptedRequest {}).await {
                Ok(_) => {}
                // An agent of the existing stack leaves its GPUs as they are.
                Err(s) if s.code() == Code::Unimplemented => {}
                Err(s) => {
                    let e = self.explain("telling that the GPUs were accepted", &s);
                    tracing::error!(code = e.code(), error = %e, "the GPUs are not set ready");
                }
            }
        })
    }

    fn init_data(&self) -> BoxFuture<'_, Result<Option<String>, cc_kbs::Error>> {
        Box::pin(async { Ok(self.init_data_answer().await?.map(|answer| answer.toml)) })
    }

    fn token<'a>(
        &'a self,
        why: &'a SourceFault,
    ) -> BoxFuture<'a, Result<Option<BorrowedToken>, cc_kbs::Error>> {
        Box::pin(async {
            match why.code == fault::PEER_LACKS_METHOD {
                true => self.own_token().await.map(Some),
                false => Ok(None),
            }
        })
    }
}
