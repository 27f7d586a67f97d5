//! Events on a TDX machine: measured by every door, told in the evidence, refused where they must not be.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cc_evidence::HashAlgorithm;
use cc_evidence::ccel::{assemble, replay};
use cc_protos::attestation_agent as aa;
use cc_protos::attestation_agent::attestation_agent_service_client::AttestationAgentServiceClient;
use cc_tests::curl::{self, Answer};
use cc_tests::eventlog::EventLog;
use cc_tests::machine::Machine;
use cc_tests::process::{binary_folder, command};
use cc_tests::stack::{Options, Part, Stack, address};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use crate::denial::ask_as;
use crate::local::disk::Small;
use crate::rpc::{channel, ttrpc, ttrpc_client};
use crate::strict::{NOBODY, open_to_all};
use crate::{REST_PATH, SECRET, code, stack};

mod kill;

pub(crate) const ENABLED: &str = "[eventlog_config]\nenable_eventlog = true\n";
const AA: &str = "attestation_agent.AttestationAgentService";

/// A TDX machine after a measured boot, whose agent measures events.
pub(crate) fn options() -> Options {
    let log = EventLog::of_a_boot();
    Options {
        machine: Machine::tdx_after(&log),
        firmware_log: Some(log.area()),
        agent_config: ENABLED.to_owned(),
        ..Options::default()
    }
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Without CAP_DAC_OVERRIDE a file mode refuses root too.
#[test]
fn a_log_that_is_refused_is_named_and_used_again() {
    if !cc_tests::stack::emulator_runs_here() {
        return;
    }
    let mut stack = Stack::prepare(options()).unwrap();
    stack.start_part(Part::Emulator).unwrap();
    stack.start_part(Part::Kbs).unwrap();
    let log = stack.agent_log();
    let folder = log.parent().unwrap();
    let mode = |mode| std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).unwrap();
    std::fs::create_dir_all(folder).unwrap();
    mode(0);
    let config = stack.folder().join("aa.toml");
    std::fs::write(&config, stack.agent_config()).unwrap();
    let manager = stack.folder().join("notify");
    let told = UnixDatagram::bind(&manager).unwrap();
    let mut start = command("setpriv");
    start.arg("--bounding-set=-dac_override,-dac_read_search");
    start.arg(binary_folder().unwrap().join("attestation-agent")).args([
        "--unmeasured-config",
        "allow",
        "-c",
    ]);
    start.arg(config).arg("-a").arg(address(&stack.agent_socket())).env("NOTIFY_SOCKET", manager);
    let out = start.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(69), "so that the service manager tries again: {said}");
    told.set_nonblocking(true).unwrap();
    let mut datagram = [0; 4096];
    let statuses = std::iter::from_fn(|| {
        let len = told.recv(&mut datagram).ok()?;
        Some(String::from_utf8_lossy(&datagram[..len]).into_owned())
    });
    let last = statuses.last().unwrap();
    for words in ["STATUS=not serving: ", folder.to_str().unwrap(), "Permission denied", "[EVENT_LOG_FILE]"] {
        assert!(last.contains(words), "{words} is missing in {last}\n{said}");
    }
    mode(0o700);
    stack.start_part(Part::Agent).unwrap();
    let measured = async { measure(&mut client(&stack).await, "x", None).await };
    assert_eq!(runtime().block_on(measured), Ok(0));
}

fn request(content: &str, register_index: Option<u64>) -> aa::ExtendRuntimeMeasurementRequest {
    aa::ExtendRuntimeMeasurementRequest {
        domain: "example.org".to_owned(),
        operation: "test".to_owned(),
        content: content.to_owned(),
        register_index,
    }
}

pub(crate) async fn client(stack: &Stack) -> AttestationAgentServiceClient<Channel> {
    AttestationAgentServiceClient::new(channel(&stack.agent_socket()).await)
}

/// An event over gRPC; the result, or the message.
pub(crate) async fn measure(
    client: &mut AttestationAgentServiceClient<Channel>,
    content: &str,
    register: Option<u64>,
) -> Result<i32, String> {
    match client.extend_runtime_measurement(request(content, register)).await {
        Ok(answer) => Ok(answer.into_inner().result),
        Err(status) => Err(format!("{}: {}", reason(&status), status.message())),
    }
}

/// The code in a status.
fn reason(status: &tonic::Status) -> String {
    let known = [
        "REGISTER_REFUSED",
        "EVENT_INVALID",
        "EVENT_LOG_FILE",
        "EVENT_LOG_FULL",
        "AA_CALLER_REFUSED",
        "TPM_PCR_RESERVED",
    ];
    let details = String::from_utf8_lossy(status.details()).into_owned();
    known.into_iter().find(|code| details.contains(code)).unwrap_or("no code").to_owned()
}

fn post(stack: &Stack, content: &str) -> Answer {
    let body = json!({"domain": "example.org", "operation": "test", "content": content}).to_string();
    let arguments = ["-H", "Accept: application/json", "--data", &body];
    curl::curl(&arguments, &format!("{}/aa/aael", stack.rest_url())).unwrap()
}

/// RTMR `number` as the machine's kernel shows it.
pub(crate) fn register(stack: &Stack, number: usize) -> Vec<u8> {
    std::fs::read(stack.measurements().join(format!("rtmr{number}:sha384"))).unwrap()
}

/// The event records in a token for the key broker, after the evidence was accepted.
fn attested_events(stack: &Stack) -> Vec<Value> {
    let answer = stack.rest_get("/aa/token?token_type=kbs").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let token: Value = serde_json::from_slice(&answer.body).unwrap();
    let payload = token["token"].as_str().unwrap().split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    let tdx = &claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["tdx"];
    let rtmr3 = hex::encode(register(stack, 3));
    assert_eq!(tdx["quote"]["body"]["rtmr_3"], json!(rtmr3), "the quote has the register as it is");
    let events = tdx["uefi_event_logs"].as_array().unwrap();
    events.iter().filter(|event| event["details"]["unicode_name"] == "AAEL").cloned().collect()
}

fn contents(events: &[Value]) -> Vec<&Value> {
    events.iter().map(|event| &event["details"]["data"]["content"]).collect()
}

/// The secret, asked for by a data hub without a session.
fn ask_anew(stack: &mut Stack) -> Answer {
    let machine = options().machine;
    ask_as(stack, &machine)
}

#[test]
fn an_event_by_each_door_is_in_the_attested_log() {
    let Some(mut stack) = stack(options()) else { return };
    assert_eq!(register(&stack, 3), vec![0; 48]);
    assert!(attested_events(&stack).is_empty());
    runtime().block_on(async {
        assert_eq!(measure(&mut client(&stack).await, "by gRPC", None).await, Ok(0));
        let agent = ttrpc_client(&stack.agent_socket()).await;
        let answer: aa::ExtendRuntimeMeasurementResponse =
            ttrpc(&agent, AA, "ExtendRuntimeMeasurement", request("by ttrpc", None)).await.unwrap();
        assert_eq!(answer.result, 0);
    });
    let answer = post(&stack, r#"{"by":"REST, with spaces"}"#);
    assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"success":"true"}"#));

    // A token that the agent has already is for the time before: it is for whoever asks anew.
    stack.stop_part(Part::Agent).unwrap();
    stack.start_part(Part::Agent).unwrap();
    let events = attested_events(&stack);
    let by_rest = json!({"by": "REST, with spaces"});
    assert_eq!(contents(&events), [&json!("by gRPC"), &json!("by ttrpc"), &by_rest]);
    for event in &events {
        assert_eq!((&event["index"], &event["digest_matches_event"]), (&json!(4), &json!(true)), "{event}");
        assert_eq!(event["details"]["data"]["domain"], "example.org");
    }
    // The agent was restarted, and goes on where it stopped.
    assert_eq!(post(&stack, "after a restart").status, 200);
    let answer = ask_anew(&mut stack);
    assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{}", answer.text());
    let log = assemble(None, Some(&std::fs::read(stack.agent_log()).unwrap())).unwrap().unwrap();
    let replayed = replay(&log, HashAlgorithm::Sha384).unwrap();
    assert_eq!(replayed.run_time().nth(3), Some(register(&stack, 3).as_slice()));
}

#[test]
fn quotes_in_the_midst_of_events_are_accepted() {
    let options = options();
    let machine = Machine { delay_ms: 150, ..options.machine.clone() };
    let Some(mut stack) = stack(options) else { return };
    for _ in 0..3 {
        stack.stop_part(Part::Hub).unwrap();
        stack.set_machine(&machine).unwrap();
        stack.start_part(Part::Hub).unwrap();
        let stack = &stack;
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| stack.rest_get(REST_PATH).unwrap());
            runtime().block_on(async {
                let mut client = client(stack).await;
                while !asked.is_finished() {
                    assert_eq!(measure(&mut client, "meanwhile", None).await, Ok(0));
                }
            });
            let answer = asked.join().unwrap();
            assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{}", answer.text());
        });
    }
}

#[test]
fn a_log_that_does_not_explain_the_registers_is_denied_and_the_denial_says_so() {
    let Some(mut stack) = stack(options()) else { return };
    for content in ["one", "two"] {
        assert_eq!(post(&stack, content).status, 200);
    }
    let log = std::fs::read(stack.agent_log()).unwrap();
    let record = log.len() / 2;
    let flipped = |at: usize| {
        let mut log = log.clone();
        log[at] ^= 1;
        log
    };
    // The second event in RTMR2 instead of RTMR3.
    let mut moved = log.clone();
    moved[record] = 3;
    let swapped = [&log[record..], &log[..record]].concat();
    for (title, tampered) in [
        ("digest", flipped(20)),
        ("register", moved),
        ("shortened", log[..record].to_vec()),
        ("emptied", Vec::new()),
        ("doubled", [log.as_slice(), &log[record..]].concat()),
        ("in another order", swapped),
    ] {
        std::fs::write(stack.agent_log(), tampered).unwrap();
        let answer = ask_anew(&mut stack);
        assert_eq!((answer.status, code(&answer.body).as_str()), (403, "KBS_DENIED_ATTESTATION"), "{title}");
        assert!(
            answer.text().contains("tdx.eventlog") && answer.text().contains("RTMR"),
            "{title}: {}",
            answer.text()
        );
        let told = stack.part(Part::Agent).unwrap().log();
        assert!(
            told.contains("does not explain an RTMR"),
            "{title}: the agent's log has the reason:\n{told}"
        );
    }
    // One that cannot be read is not sent.
    std::fs::write(stack.agent_log(), &log[..log.len() - 1]).unwrap();
    let answer = ask_anew(&mut stack);
    assert_eq!(
        (answer.status, code(&answer.body).as_str()),
        (500, "EVIDENCE_MALFORMED"),
        "{}",
        answer.text()
    );
    // The text alone: no digest covers it, and the claims say so.
    std::fs::write(stack.agent_log(), flipped(record - 1)).unwrap();
    assert_eq!(ask_anew(&mut stack).status, 200);
    let events = attested_events(&stack);
    assert_eq!(events[0]["digest_matches_event"], json!(false));
    assert_eq!(events[1]["digest_matches_event"], json!(true));

    std::fs::write(stack.agent_log(), &log).unwrap();
    assert_eq!(ask_anew(&mut stack).status, 200);
    // Somebody else extends the register.
    std::fs::write(stack.measurements().join("rtmr3:sha384"), [7; 48]).unwrap();
    let answer = ask_anew(&mut stack);
    assert_eq!((answer.status, code(&answer.body).as_str()), (403, "KBS_DENIED_ATTESTATION"));
    assert!(answer.text().contains("RTMR3"), "{}", answer.text());
}

/// An event as an unprivileged process sends it: `curl` speaks enough HTTP/2 for one call. Gives the HTTP trailers.
fn as_nobody(stack: &Stack, content: &str, register: Option<u64>) -> String {
    use std::os::unix::process::CommandExt;
    let message = prost::Message::encode_to_vec(&request(content, register));
    let frame = [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat();
    let body = stack.folder().join("event");
    std::fs::write(&body, frame).unwrap();
    let out = command("curl")
        .args([
            "--silent",
            "--show-error",
            "--max-time",
            "20",
            "--http2-prior-knowledge",
            "--include",
            "--unix-socket",
        ])
        .arg(stack.agent_socket())
        .args(["-H", "content-type: application/grpc", "-H", "te: trailers", "--data-binary"])
        .arg(format!("@{}", body.display()))
        .arg(format!("http://localhost/{AA}/ExtendRuntimeMeasurement"))
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn registers_are_chosen_by_root_and_those_of_the_machines_identity_by_nobody() {
    let agent_config = format!("{ENABLED}[socket]\nmode = \"0666\"\n");
    let Some(stack) = stack(Options { agent_config, ..options() }) else { return };
    open_to_all(stack.folder());
    let before: Vec<_> = (0..4).map(|number| register(&stack, number)).collect();
    // On TDX PCR 9 is the register of 8 and 11, RTMR 2; 1 and 2 are RTMR 0 and 1.
    let identity = [8, 11, 9, 1, 2];
    let refused = identity.map(|pcr| (pcr, "identity of the machine"));
    for (pcr, why) in refused.into_iter().chain([(16, "only root")]) {
        let told = as_nobody(&stack, "mine", Some(pcr));
        assert!(told.contains("grpc-status: 13") && told.contains(&why.replace(' ', "%20")), "{pcr}: {told}");
        assert!(told.contains(&format!("uid%20{NOBODY}")), "{told}");
    }
    runtime().block_on(async {
        let mut root = client(&stack).await;
        for pcr in identity {
            let told = measure(&mut root, "mine", Some(pcr)).await.unwrap_err();
            assert!(told.starts_with("REGISTER_REFUSED: [ERROR:attestation-agent] "), "{told}");
        }
        assert_eq!((0..4).map(|number| register(&stack, number)).collect::<Vec<_>>(), before);
        // What it may do: the configured register, by default and by name.
        for register in [None, Some(17)] {
            let told = as_nobody(&stack, "mine", register);
            assert!(told.contains("grpc-status: 0"), "{told}");
        }
        assert_eq!(measure(&mut root, "roots", Some(16)).await, Ok(0));
    });
    assert_eq!((0..3).map(|number| register(&stack, number)).collect::<Vec<_>>(), before[..3]);
    assert_ne!(register(&stack, 3), before[3], "PCR 16 and 17 are RTMR 3");
    let events = attested_events(&stack);
    assert_eq!(contents(&events), [&json!("mine"), &json!("mine"), &json!("roots")]);
    assert_eq!(events[2]["index"], 4, "the record names the register that was extended");
}

#[test]
fn texts_that_would_be_read_as_something_else_are_refused() {
    let Some(stack) = stack(options()) else { return };
    runtime().block_on(async {
        let mut client = client(&stack).await;
        let too_long = "x".repeat(17 << 10);
        for (domain, operation, content, says) in [
            ("a b", "c", "d", "event.domain"),
            ("a", "c\u{a0}d", "e", "event.operation"),
            ("a", "c", "line\nline", "event.content"),
            ("a", "c", "bell\u{7}", "event.content"),
            ("a", "c", too_long.as_str(), "too large"),
        ] {
            let request = aa::ExtendRuntimeMeasurementRequest {
                domain: domain.to_owned(),
                operation: operation.to_owned(),
                content: content.to_owned(),
                register_index: None,
            };
            let status = client.extend_runtime_measurement(request).await.unwrap_err();
            assert_eq!((status.code(), reason(&status).as_str()), (tonic::Code::Internal, "EVENT_INVALID"));
            assert!(status.message().contains(says), "{}", status.message());
        }
    });
    let answer = post(&stack, "line\nline");
    assert_eq!((answer.status, code(&answer.body).as_str()), (400, "EVENT_INVALID"), "{}", answer.text());
    assert!(!stack.agent_log().exists());
    assert_eq!(register(&stack, 3), vec![0; 48]);
}

#[test]
fn machines_that_cannot_measure_say_so_and_serve() {
    let old = Options { old_kernel: true, ..options() };
    let snp = Options { agent_config: ENABLED.to_owned(), ..Options::default() };
    let off = Options { agent_config: String::new(), ..options() };
    let unsupported = r#"{"success":"false","message": "The platform does not support runtime measurement"}"#;
    let not_enabled =
        r#"{"success":"false","message": "Attestation Agent does not enable eventlog recording"}"#;
    for (options, answer, told) in [
        (old, unsupported, "Linux 6.16"),
        (snp, unsupported, "no registers for events"),
        (off, not_enabled, ""),
    ] {
        let Some(mut stack) = stack(options) else { return };
        // The ordinary answers come before a look at event and register.
        for (content, register) in [("fine", None), ("line\nline", Some(8))] {
            let expected = if answer == unsupported { 1 } else { 2 };
            let result =
                runtime().block_on(async { measure(&mut client(&stack).await, content, register).await });
            assert_eq!(result, Ok(expected));
        }
        let posted = post(&stack, "fine");
        assert_eq!((posted.status, posted.text().as_str()), (200, answer));
        assert_eq!(stack.rest_get(REST_PATH).unwrap().status, 200);
        assert!(stack.part(Part::Agent).unwrap().log().contains(told));
        assert!(!stack.agent_log().parent().unwrap().exists(), "nothing is made for it");
    }
}

#[test]
fn events_over_rest_have_a_pace() {
    let Some(stack) = stack(Options { agent_config: String::new(), ..options() }) else { return };
    use std::io::{Read, Write};
    let body = r#"{"domain":"d","operation":"o","content":"c"}"#;
    let request = format!(
        "POST /aa/aael HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let address = stack.rest_url().replace("http://", "");
    let answers = (0..2000).map(|_| {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let mut passed = 0;
    let refused =
        answers.inspect(|_| passed += 1).find(|answer| !answer.starts_with("HTTP/1.1 200")).unwrap();
    assert!(refused.starts_with("HTTP/1.1 429") && refused.contains("EVENT_RATE"), "{refused}");
    assert!(passed > 100, "a burst passes: {passed}");
}

#[test]
fn no_room_for_an_event() {
    let Some(mut stack) = stack(options()) else { return };
    stack.stop_part(Part::Agent).unwrap();
    let folder = stack.agent_log().parent().unwrap().to_owned();
    // Room for the log's first pages and no more.
    let Some(full) = Small::mount(&folder, "size=8k,mode=0700") else { return };
    stack.start_part(Part::Agent).unwrap();
    let content = "x".repeat(3000);
    let (measured, error) = runtime().block_on(async {
        let mut client = client(&stack).await;
        let mut measured = 0;
        loop {
            match measure(&mut client, &content, None).await {
                Ok(result) => assert_eq!(result, 0),
                Err(error) => break (measured, error),
            }
            measured += 1;
            assert!(measured < 10, "8 KiB hold fewer");
        }
    });
    assert!(error.starts_with("EVENT_LOG_FILE") && error.contains("No space left on device"), "{error}");
    let log = std::fs::read(stack.agent_log()).unwrap();
    let replayed = replay(&assemble(None, Some(&log)).unwrap().unwrap(), HashAlgorithm::Sha384).unwrap();
    assert_eq!(
        replayed.run_time().nth(3),
        Some(register(&stack, 3).as_slice()),
        "{measured} events, none half done"
    );
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), usize::from(measured > 0), "no note stays");
    let answer = ask_anew(&mut stack);
    assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{}", answer.text());
    stack.stop_part(Part::Agent).unwrap();
    drop(full);
}

#[test]
fn an_interrupted_event_that_cannot_be_finished_keeps_the_agent_from_starting() {
    let Some(mut stack) = stack(options()) else { return };
    assert_eq!(post(&stack, "one").status, 200);
    stack.stop_part(Part::Agent).unwrap();
    let note = stack.agent_log().with_file_name(".wal_event_entry");
    for (bytes, says) in
        [(vec![0; 40], "bytes"), ([&[0; 56], &b"a b c"[..]].concat(), "somebody else extended it")]
    {
        std::fs::write(&note, bytes).unwrap();
        let mut agent = stack.spawn_agent().unwrap();
        assert_eq!(agent.wait().unwrap(), Some(69), "{}", agent.log());
        assert!(agent.log().contains("EVENT_INTERRUPTED") && agent.log().contains(says), "{}", agent.log());
        assert!(!stack.agent_socket().exists());
    }
    std::fs::remove_file(&note).unwrap();
    stack.start_part(Part::Agent).unwrap();
    // Two agents at one log would tear it.
    let mut second = stack.spawn_agent().unwrap();
    assert_eq!(second.wait().unwrap(), Some(69), "{}", second.log());
    assert!(second.log().contains("another agent"), "{}", second.log());
    assert_eq!(post(&stack, "two").status, 200);
    assert_eq!(ask_anew(&mut stack).status, 200);
}
