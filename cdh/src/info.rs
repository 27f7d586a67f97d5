//! `guest_services.v1.HubInfoService`: the state of the hub, for the operator. It says nothing secret.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use cc_kbs::SessionStatus;
use cc_protos::guest_services::hub_info_service_server::HubInfoService;
use cc_protos::guest_services::{
    BrokerProbe, BrokerState, ConfigSource, Denial, HubStatus, HubStatusRequest, ProbeKbsRequest,
    ProbeKbsResponse,
};
use tonic::{Request, Response, Status};

use crate::credential::Credentials;
use crate::file::Files;
use crate::hub::Hub;
use crate::provenance::Checker;
use cc_daemon::peer::Place;

/// How long the key broker may take to answer a probe.
const PROBE_TIME_LIMIT: Duration = Duration::from_secs(5);

/// The service over one hub.
#[derive(Debug)]
pub struct HubInfo {
    /// The hub asked about.
    pub hub: Arc<Hub>,
    /// The files it keeps filled.
    pub credentials: Arc<Credentials>,
    /// The files of `[[files]]`.
    pub files: Arc<Files>,
    /// Which client is configured.
    pub kbc: String,
    /// Where its configuration came from, and who vouches for it.
    pub checker: Checker,
}

#[tonic::async_trait]
impl HubInfoService for HubInfo {
    async fn get_status(&self, _request: Request<HubStatusRequest>) -> Result<Response<HubStatus>, Status> {
        let sessions = self.hub.sessions();
        let last_denial =
            sessions.iter().filter_map(|s| s.last_denial.clone()).max_by_key(|d| d.at).map(|d| Denial {
                code: d.code.to_string(),
                message: d.message,
                unix_seconds: d.at.duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()),
            });
        let source = &self.checker.source;
        Ok(Response::new(HubStatus {
            version: crate::VERSION.to_owned(),
            kbc: self.kbc.clone(),
            kbs_url: sessions.first().map(|s| s.url.clone()).unwrap_or_default(),
            attested: sessions.iter().any(|s| s.attested),
            token_seconds_left: sessions.iter().map(|s| s.seconds_left).max().unwrap_or(0),
            handshakes: sessions.iter().map(|s| s.handshakes).sum(),
            last_denial,
            config: Some(ConfigSource {
                path: source.path.clone(),
                provenance: self.checker.provenance().await.as_str().to_owned(),
                unknown_keys: source.unknown_keys.clone(),
            }),
            credentials: [self.credentials.states(), self.files.states()].concat(),
            strict: self.hub.is_strict(),
            callers_by_unit: sees_units(),
            confinement: cc_daemon::sandbox::confinement(),
            brokers: sessions.into_iter().map(broker_state).collect(),
        }))
    }

    async fn probe_kbs(
        &self,
        _request: Request<ProbeKbsRequest>,
    ) -> Result<Response<ProbeKbsResponse>, Status> {
        let brokers: Vec<_> = self.hub.probe(PROBE_TIME_LIMIT).await.into_iter().map(broker_probe).collect();
        let reachable = brokers.iter().any(|broker| broker.reachable);
        let answer = match brokers.first().cloned() {
            None => ProbeKbsResponse {
                message: "no key broker is configured: resources come from files of the image".to_owned(),
                code: "KBS_NOT_CONFIGURED".to_owned(),
                hint: "set kbc.name = \"cc_kbc\" and kbc.url to use one".to_owned(),
                ..ProbeKbsResponse::default()
            },
            Some(_) if reachable => ProbeKbsResponse {
                reachable,
                protocol_version: cc_kbs::PROTOCOL_VERSION.to_owned(),
                brokers,
                ..ProbeKbsResponse::default()
            },
            Some(BrokerProbe { code, message, hint, .. }) => {
                ProbeKbsResponse { code, message, hint, brokers, ..ProbeKbsResponse::default() }
            }
        };
        Ok(Response::new(answer))
    }
}

fn broker_state(session: SessionStatus) -> BrokerState {
    BrokerState {
        url: session.url,
        attested: session.attested,
        token_seconds_left: session.seconds_left,
        handshakes: session.handshakes,
    }
}

fn broker_probe((url, answer): (String, Result<(), cc_kbs::Error>)) -> BrokerProbe {
    match answer {
        Ok(()) => BrokerProbe { url, reachable: true, ..BrokerProbe::default() },
        Err(e) => BrokerProbe {
            url,
            reachable: false,
            code: e.code().to_owned(),
            message: e.to_string(),
            hint: e.hint(),
        },
    }
}

/// Inode of the first PID namespace (`PROC_PID_INIT_INO` in the kernel's `include/linux/proc_ns.h`).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Whether other processes' numbers and control groups can be read here: in a PID namespace of its own the hub sees no
/// numbers of others, and in a control-group namespace of its own it seems to run in the root group.
fn sees_units() -> bool {
    let namespace = std::fs::read_link("/proc/self/ns/pid");
    let first = namespace.is_ok_and(|name| name.as_os_str() == FIRST_PID_NAMESPACE);
    first && Place::of_this_process().is_ok_and(|place| place.unit.is_some())
}
