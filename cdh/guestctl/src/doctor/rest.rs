//! The REST server: does the workload's door answer?
//!
//! One request of `GET /info` over plain HTTP/1.1 on loopback, as a workload would send it. Nothing secret passes.

use std::{net::SocketAddr, time::Duration};

use cc_protos::guest_services::Confinement;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::TcpStream, time::timeout};

use super::{Finding, confinement};

const PATIENCE: Duration = Duration::from_secs(5);

/// The answer is a few short strings.
const BODY_MAX: usize = 64 << 10;

/// The members of `/info` that are shown.
#[derive(Debug, Deserialize)]
struct Info {
    version: String,
    feature: Option<String>,
    confinement: Option<Confined>,
}

/// The member `confinement`.
#[derive(Debug, Deserialize)]
struct Confined {
    system_call_filters: u32,
    no_new_privileges: bool,
    capabilities: u64,
    landlock: String,
    label: String,
    #[serde(default)]
    own_filter: String,
}

impl From<Confined> for Confinement {
    fn from(told: Confined) -> Self {
        let Confined { system_call_filters, no_new_privileges, capabilities, landlock, label, own_filter } =
            told;
        Self { system_call_filters, no_new_privileges, capabilities, landlock, label, own_filter }
    }
}

/// Checks the REST server at `address`.
pub(super) async fn check(address: SocketAddr) -> Vec<Finding> {
    let what = "rest server";
    let failed = match timeout(PATIENCE, info(address)).await {
        Ok(Ok(info)) => {
            let feature = info.feature.map(|feature| format!(", serves {feature}")).unwrap_or_default();
            let answers = Finding::ok(what, format!("{address} answers, {}{feature}", info.version));
            let told = info.confinement.map(Confinement::from);
            return [Some(answers), confinement("rest confinement", told.as_ref())]
                .into_iter()
                .flatten()
                .collect();
        }
        Ok(Err(why)) => Finding::fail(
            what,
            format!("{address}: {why}"),
            "see systemctl status api-server-rest; where no REST server is wanted: guestctl doctor --rest off",
        ),
        Err(_) => Finding::fail(
            what,
            format!("{address}: no answer within {} s", PATIENCE.as_secs()),
            "see journalctl -u api-server-rest; it waits for the attestation agent",
        ),
    };
    vec![failed]
}

async fn info(address: SocketAddr) -> Result<Info, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| format!("cannot connect: {error}"))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| format!("no HTTP: {error}"))?;
    // Ends by itself as soon as `sender` is gone.
    tokio::spawn(connection);
    let request = Request::get("/info")
        .header(HOST, address.to_string())
        .body(Empty::<&[u8]>::new())
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| format!("no HTTP: {error}"))?;
    let status = response.status();
    if status != StatusCode::OK {
        return Err(format!("answered {status} to GET /info"));
    }
    let body = Limited::new(response.into_body(), BODY_MAX)
        .collect()
        .await
        .map_err(|error| format!("broken answer: {error}"))?
        .to_bytes();
    serde_json::from_slice(&body)
        .map_err(|_| "the answer to GET /info is not that of this REST server".to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::table::Mark;

    async fn check_against(answer: &'static str) -> Finding {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let finding = check(address).await.remove(0);
        let request = server.await.unwrap();
        assert!(request.starts_with("GET /info HTTP/1.1\r\n"), "{request}");
        assert!(request.contains(&format!("host: {address}")), "{request}");
        finding
    }

    #[tokio::test]
    async fn a_good_answer_passes() {
        let body = r#"{"version":"Guest Components Version: 1","tee":"snp","feature":"resource"}"#;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let finding = check_against(answer.leak()).await;
        assert_eq!(finding.mark, Mark::Ok, "{finding:?}");
        assert!(finding.detail.contains("Version: 1, serves resource"), "{finding:?}");
    }

    #[tokio::test]
    async fn anything_else_fails_with_its_reason() {
        for (answer, part) in [
            ("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", "403"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "not that of this REST server"),
            ("SSH-2.0-x\r\n", "no HTTP"),
        ] {
            let finding = check_against(answer).await;
            assert_eq!(finding.mark, Mark::Fail);
            assert!(finding.detail.contains(part), "{finding:?}");
        }
        let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let finding = check(unused).await.remove(0);
        assert!(
            finding.detail.contains("cannot connect") && finding.next.contains("--rest off"),
            "{finding:?}"
        );
    }
}
