//! gRPC and HTTP/2 beyond what an agent takes.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use cc_protos::attestation_agent as aa;
use cc_protos::attestation_agent::attestation_agent_service_client::AttestationAgentServiceClient;
use tonic::Code;

use super::Agent;

/// The preface and empty SETTINGS.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn client(agent: &Agent) -> AttestationAgentServiceClient<tonic::transport::Channel> {
    let path = agent.socket.clone();
    let channel = tonic::transport::Endpoint::from_static("http://localhost").connect_with_connector_lazy(
        tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(path).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        }),
    );
    AttestationAgentServiceClient::new(channel)
}

fn block_on<T>(story: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(story)
}

#[test]
fn a_message_of_100_megabytes() {
    let agent = Agent::start();
    block_on(async {
        let mut client = client(&agent).max_encoding_message_size(usize::MAX);
        for _ in 0..3 {
            let request = aa::GetEvidenceRequest { runtime_data: vec![1; 100 << 20] };
            let status = client.get_evidence(request).await.unwrap_err();
            assert_eq!(status.code(), Code::OutOfRange, "{status}");
            assert!(status.message().contains("4194304"), "{status}");
        }
        // The same connection goes on.
        assert_eq!(client.get_tee_type(aa::GetTeeTypeRequest {}).await.unwrap().into_inner().tee, "sample");
    });
    agent.assert_sound();
}

#[test]
fn garbage_after_the_preface() {
    let agent = Agent::start();
    // Frames: length 3, type 1, flags 1, stream 4 (RFC 9113, 4.1).
    for frames in [
        [b"\xff".repeat(64).as_slice()].concat(),
        // DATA for stream 0, HEADERS on an even stream, SETTINGS of 5 bytes, a window update of nothing.
        b"\0\0\x01\0\0\0\0\0\0x".to_vec(),
        b"\0\0\x01\x01\x05\0\0\0\x02\x82".to_vec(),
        b"\0\0\x05\x04\0\0\0\0\0xxxxx".to_vec(),
        b"\0\0\x04\x08\0\0\0\0\0\0\0\0\0".to_vec(),
        // A frame larger than SETTINGS_MAX_FRAME_SIZE.
        b"\xff\xff\xff\0\0\0\0\0\x01".to_vec(),
        // Headers that do not decompress.
        b"\0\0\x04\x01\x05\0\0\0\x01\xff\xff\xff\xff".to_vec(),
    ] {
        let mut stream = agent.connect();
        stream.write_all(HELLO).unwrap();
        let _ = stream.write_all(&frames);
        // Some words of farewell, then the end.
        let mut told = Vec::new();
        let ended = stream.read_to_end(&mut told);
        assert!(told.len() < 4096 && ended.is_ok_and(|_| true) || told.len() < 4096, "{} bytes", told.len());
        let still_open = stream.write_all(b"x").is_ok() && matches!(stream.read(&mut [0]), Ok(1..));
        assert!(!still_open, "{frames:?}");
    }
    agent.assert_sound();
}

#[test]
fn floods_that_cost_the_sender_little() {
    let agent = Agent::start();
    let ping = b"\0\0\x08\x06\0\0\0\0\0abcdefgh".repeat(1000);
    let settings = b"\0\0\0\x04\0\0\0\0\0".repeat(1000);
    // Streams opened and reset at once (CVE-2023-44487): HEADERS with a GET of `/`, RST_STREAM.
    let mut resets = Vec::new();
    for number in 0..5000_u32 {
        let stream = (2 * number + 1).to_be_bytes();
        resets.extend(b"\0\0\x03\x01\x05");
        resets.extend(stream);
        resets.extend(b"\x82\x84\x86\0\0\x04\x03\0");
        resets.extend(stream);
        resets.extend([0, 0, 0, 8]);
    }
    let begun = Instant::now();
    for flood in [ping.repeat(20), settings.repeat(20), resets] {
        let mut stream = agent.connect();
        stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        stream.write_all(HELLO).unwrap();
        // Refused at some point, or swallowed: both are fine as long as others are served.
        let _ = stream.write_all(&flood);
        assert_eq!(super::tee_type(&agent.socket).as_deref(), Ok("sample"));
    }
    assert!(begun.elapsed() < Duration::from_secs(30));
    agent.assert_sound();
}

#[test]
fn headers_without_end() {
    let agent = Agent::start();
    block_on(async {
        let mut client = client(&agent);
        let mut request = tonic::Request::new(aa::GetTeeTypeRequest {});
        request.metadata_mut().insert("x-long", "a".repeat(100_000).parse().unwrap());
        let status = client.get_tee_type(request).await.unwrap_err();
        assert_ne!(status.code(), Code::Ok, "{status}");
        assert_eq!(client.get_tee_type(aa::GetTeeTypeRequest {}).await.unwrap().into_inner().tee, "sample");
    });
    agent.assert_sound();
}
