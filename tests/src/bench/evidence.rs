//! How long a piece of evidence takes on each platform, and what of it the agent adds.
//!
//! The platform code runs once in this process, straight on the emulated device, and once in the agent behind its socket, in
//! turns. The difference is what the agent adds: the call, the access rule, the queue.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use attestation_agent::config::{Cli, Config, Surroundings};
use cc_platform::ReportData;
use cc_protos::attestation_agent::attestation_agent_service_client::AttestationAgentServiceClient;
use cc_protos::attestation_agent::{GetAdditionalEvidenceRequest, GetEvidenceRequest};
use clap::Parser;

use crate::stack::Stack;

/// Pieces of evidence by each way.
const TURNS: usize = 15;

/// Medians of one platform.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// The device with the platform code around it.
    pub device: Duration,
    /// The same through the agent.
    pub agent: Duration,
}

impl Figures {
    /// What the agent adds; nothing where the clock says that it was faster.
    #[must_use]
    pub fn added(&self) -> Duration {
        self.agent.saturating_sub(self.device)
    }
}

/// Measures the platform of a running `stack`.
///
/// # Errors
/// The platform is not found in this process, or evidence is refused.
pub fn measure(stack: &Stack) -> anyhow::Result<Figures> {
    let options = configuration(&stack.folder().join("aa.toml"))?.platform();
    let platform = cc_platform::detect(&options)?.primary;
    let runtime = runtime()?;
    let mut agent = runtime.block_on(connect(stack.agent_socket()))?;
    let mut figures = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        let data = [u8::try_from(turn)?; 32];
        let start = Instant::now();
        platform.evidence(&ReportData::new(&data)?)?;
        figures.0.push(start.elapsed());
        let start = Instant::now();
        runtime.block_on(agent.get_evidence(GetEvidenceRequest { runtime_data: data.to_vec() }))?;
        figures.1.push(start.elapsed());
    }
    Ok(Figures { device: median(figures.0)?, agent: median(figures.1)? })
}

/// Measures evidence of the devices beside the processor through the agent alone: the library of a GPU is found by the
/// environment of the agent's process.
///
/// # Errors
/// Evidence is refused.
pub fn measure_devices(stack: &Stack) -> anyhow::Result<Duration> {
    let runtime = runtime()?;
    let mut agent = runtime.block_on(connect(stack.agent_socket()))?;
    let mut times = Vec::new();
    for turn in 0..TURNS {
        let request = GetAdditionalEvidenceRequest { runtime_data: vec![u8::try_from(turn)?; 32] };
        let start = Instant::now();
        runtime.block_on(agent.get_additional_evidence(request))?;
        times.push(start.elapsed());
    }
    median(times)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()
}

/// The agent's own configuration file, as the agent reads it.
fn configuration(path: &Path) -> anyhow::Result<Config> {
    let cli =
        Cli::try_parse_from(["attestation-agent", "-c", path.to_str().context("a path that is no text")?])?;
    Config::build(cli, &Surroundings::default()).map_err(|fault| anyhow::anyhow!("{fault:?}"))
}

async fn connect(
    socket: std::path::PathBuf,
) -> anyhow::Result<AttestationAgentServiceClient<tonic::transport::Channel>> {
    let connector = tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
    Ok(AttestationAgentServiceClient::new(endpoint.connect_with_connector(connector).await?))
}

fn median(mut times: Vec<Duration>) -> anyhow::Result<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied().context("nothing was measured")
}
