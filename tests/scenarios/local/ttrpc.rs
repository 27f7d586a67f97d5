//! Bytes that are not quite ttrpc, on the socket of a real agent.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use cc_protos::attestation_agent as aa;
use prost::Message;

use super::{Agent, descriptors, frame, request, response};

const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
/// Largest payload.
const LIMIT: u32 = 4 << 20;

#[test]
fn lengths_that_lie() {
    let agent = Agent::start();
    let good = request(1, "GetTeeType", Vec::new());
    // Shorter than the message: the rest is taken for a header, which it is not.
    let mut stream = agent.connect();
    let mut short = good.clone();
    short[3] -= 5;
    stream.write_all(&short).unwrap();
    let told = response(&mut stream);
    assert!(told.is_none_or(|(_, code, ..)| code == INVALID_ARGUMENT), "never an answer to half a message");
    // Longer than what comes: cut off in time.
    let begun = Instant::now();
    let mut stream = agent.connect();
    let mut long = good.clone();
    long[3] += 5;
    stream.write_all(&long).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert!(begun.elapsed() < Duration::from_secs(35));
    // Announced, not sent: nothing is set aside for it.
    for length in [u32::MAX, 1 << 31, 1 << 24] {
        let mut stream = agent.connect();
        stream.write_all(&frame(length, 1, 1, 1, b"x")).unwrap();
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "{length}");
    }
    // One byte too many is told, and the connection goes on.
    let mut stream = agent.connect();
    stream.write_all(&frame(LIMIT + 1, 1, 1, 1, &vec![0; LIMIT as usize + 1])).unwrap();
    let (number, code, message, _) = response(&mut stream).unwrap();
    assert_eq!((number, code), (1, INVALID_ARGUMENT));
    assert!(message.contains("4194305") && message.contains("4194304"), "{message}");
    stream.write_all(&request(3, "GetTeeType", Vec::new())).unwrap();
    assert_eq!(response(&mut stream).unwrap().0, 3);
    drop(stream);
    agent.assert_sound();
}

#[test]
fn types_and_streams_that_are_not_a_clients() {
    let agent = Agent::start();
    for kind in [0, 2, 4, 255] {
        let mut stream = agent.connect();
        stream.write_all(&frame(0, 1, kind, 0, b"")).unwrap();
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "type {kind} ends the connection");
    }
    let mut stream = agent.connect();
    stream.write_all(&request(2, "GetTeeType", Vec::new())).unwrap();
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "an even stream ends the connection");
    for words in ["unknown type 0", "type Response came from a client", "stream 2 is even"] {
        agent.process.wait_for_log(words).unwrap();
    }
    agent.assert_sound();
}

#[test]
fn requests_that_mean_nothing() {
    let agent = Agent::start();
    let mut stream = agent.connect();
    let garbage = [0xff; 40];
    stream.write_all(&frame(40, 1, 1, 1, &garbage)).unwrap();
    assert_eq!(response(&mut stream).unwrap().1, INVALID_ARGUMENT);
    stream.write_all(&request(3, "DoEverything", Vec::new())).unwrap();
    let (number, code, message, _) = response(&mut stream).unwrap();
    assert_eq!((number, code), (3, NOT_FOUND));
    assert!(message.ends_with("/DoEverything is not supported"), "{message}");
    stream.write_all(&request(5, "GetEvidence", vec![0xff; 9])).unwrap();
    let (number, code, ..) = response(&mut stream).unwrap();
    assert!(number == 5 && code != 0);
    let too_long = aa::GetEvidenceRequest { runtime_data: vec![0; 65] }.encode_to_vec();
    stream.write_all(&request(7, "GetEvidence", too_long)).unwrap();
    let (_, _, message, _) = response(&mut stream).unwrap();
    assert!(message.ends_with("[REPORT_DATA_TOO_LONG]"), "{message}");
    stream.write_all(&request(9, "GetTeeType", Vec::new())).unwrap();
    assert_eq!(response(&mut stream).unwrap().0, 9, "the connection survives them all");
    drop(stream);
    agent.assert_sound();
}

#[test]
fn interleaved_streams_are_told_apart() {
    let agent = Agent::start();
    let mut stream = agent.connect();
    let numbers: Vec<u32> = (0..200).map(|n| 2 * n + 1).rev().collect();
    let sent: Vec<u8> = numbers
        .iter()
        .flat_map(|n| {
            let data = aa::GetEvidenceRequest { runtime_data: n.to_be_bytes().to_vec() };
            request(*n, "GetEvidence", data.encode_to_vec())
        })
        .collect();
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut answered = Vec::new();
    for _ in &numbers {
        let (number, code, message, payload) = response(&mut stream).unwrap();
        assert_eq!(code, 0, "{message}");
        let evidence = aa::GetEvidenceResponse::decode(payload.as_slice()).unwrap().evidence;
        let evidence: serde_json::Value = serde_json::from_slice(&evidence).unwrap();
        use base64::Engine;
        let bound =
            base64::engine::general_purpose::STANDARD.decode(evidence["report_data"].as_str().unwrap());
        assert_eq!(bound.unwrap(), number.to_be_bytes(), "the answer of another stream");
        answered.push(number);
    }
    writing.join().unwrap();
    answered.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(answered, numbers);
    drop(stream);
    agent.assert_sound();
}

#[test]
fn a_client_that_never_reads() {
    let agent = Agent::start();
    let mut stream = agent.connect();
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let data = aa::GetEvidenceRequest { runtime_data: vec![7; 64] }.encode_to_vec();
    let begun = Instant::now();
    let mut written = 0_u64;
    // Until the agent takes no more of it, or ends the connection.
    for number in 0..200_000 {
        let bytes = request(2 * number + 1, "GetEvidence", data.clone());
        if stream.write_all(&bytes).is_err() {
            break;
        }
        written += bytes.len() as u64;
    }
    assert!(written < 16 << 20, "{written} bytes were taken without an answer being read");
    assert_eq!(super::tee_type(&agent.socket).as_deref(), Ok("sample"), "others are served meanwhile");
    agent.assert_sound();
    assert!(begun.elapsed() < Duration::from_secs(60));
    drop(stream);
}

#[test]
fn first_bytes_of_no_protocol() {
    let agent = Agent::start();
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".as_slice(),
        b"\x16\x03\x01\x02\0",
        b"\xff",
        b"SSH-2.0-x\r\n",
        b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = agent.connect();
        stream.write_all(bytes).unwrap();
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "{bytes:?}");
    }
    // One that stops within the first frame's header, and one within the HTTP/2 preface.
    let begun = Instant::now();
    let mut halves: Vec<_> = [b"\0\0\0".as_slice(), b"PRI *"]
        .map(|bytes| {
            let mut stream = agent.connect();
            stream.write_all(bytes).unwrap();
            stream
        })
        .into();
    for stream in &mut halves {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    assert!(begun.elapsed() < Duration::from_secs(30));
    agent.assert_sound();
}

#[test]
fn a_thousand_silent_connections_shut_nobody_out() {
    let agent = Agent::start();
    let silent: Vec<_> =
        (0..1500).map_while(|_| std::os::unix::net::UnixStream::connect(&agent.socket).ok()).collect();
    super::note(&format!("{} silent connections", silent.len()));
    assert!(silent.len() > 1024, "more than there are slots");
    let begun = Instant::now();
    assert_eq!(super::tee_type(&agent.socket).as_deref(), Ok("sample"));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(descriptors(&agent.process) < 1100);
    drop(silent);
    agent.assert_sound();
}
