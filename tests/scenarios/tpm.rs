//! The same stories on a machine with a TPM alone: release, denial by name of the PCR or check, init-data, measurement.

use cc_evidence::HashAlgorithm;
use cc_evidence::aael::Event;
use cc_evidence::initdata::InitData;
use cc_tests::soft_tpm::runs_here;
use cc_tests::stack::{Options, Part, Stack, Tee};

use crate::measurement::{ENABLED, client, measure, runtime};
use crate::operator::guestctl;
use crate::{RESOURCE, REST_PATH, SECRET};

fn options() -> Options {
    Options { tee: Tee::Tpm, ..Options::default() }
}

fn stack(options: Options) -> Option<Stack> {
    if !runs_here() {
        return None;
    }
    let stack = Stack::start(options).unwrap_or_else(|e| panic!("{e:#}"));
    stack.put_resource(RESOURCE, SECRET).unwrap();
    Some(stack)
}

/// Asks with a hub that has no session yet.
fn ask_anew(stack: &mut Stack) -> cc_tests::curl::Answer {
    stack.stop_part(Part::Hub).unwrap();
    stack.start_part(Part::Hub).unwrap();
    stack.rest_get(REST_PATH).unwrap()
}

#[test]
fn a_secret_is_released_until_a_pcr_changes() {
    let Some(mut stack) = stack(options()) else { return };
    let answer = stack.rest_get(REST_PATH).unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{}", answer.text());
    let log = stack.part(Part::Agent).unwrap().log();
    assert!(
        log.contains("the platform is a TPM alone") && log.contains("TPM commands go to a socket"),
        "{log}"
    );
    let loaded = stack.soft_tpm().unwrap().loaded().unwrap();

    stack.soft_tpm().unwrap().tool(&format!("tpm2_pcrextend 7:sha256={}", "66".repeat(32))).unwrap();
    let answer = ask_anew(&mut stack);
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.text().contains("[KBS_DENIED_POLICY]"), "{}", answer.text());
    assert!(answer.text().contains("PCR 7 "), "{}", answer.text());

    stack.soft_tpm().unwrap().reset().unwrap();
    assert_eq!(ask_anew(&mut stack).status, 200);
    assert_eq!(stack.soft_tpm().unwrap().loaded().unwrap(), loaded);
}

#[test]
fn a_key_that_nobody_registered_is_denied_with_the_way_to_register_it() {
    let Some(mut stack) = stack(options()) else { return };
    stack.set_reference_values(&serde_json::json!({ "trusted_aks": [] })).unwrap();
    let answer = ask_anew(&mut stack);
    assert_eq!(answer.status, 403, "{}", answer.text());
    for words in ["[KBS_DENIED_ATTESTATION]", "tpm.ak_unregistered", "trusted_aks", "SHA-256"] {
        assert!(answer.text().contains(words), "{words}: {}", answer.text());
    }
    // The fingerprint in the refusal is what the administrator registers after looking at the key.
    let text = answer.text();
    let fingerprint =
        text.split_whitespace().find(|word| word.len() == 64).expect("a fingerprint").to_owned();
    stack.set_reference_values(&serde_json::json!({ "trusted_aks": [fingerprint] })).unwrap();
    assert_eq!(ask_anew(&mut stack).status, 200);
}

#[test]
fn init_data_is_what_pcr_8_says() {
    if !runs_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("initdata.toml");
    let document = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"a.toml\" = \"x = 1\"\n";
    std::fs::write(&path, document).unwrap();
    let agent_arguments = vec!["-t".to_owned(), path.display().to_string()];
    let mut stack = stack(Options { agent_arguments, ..options() }).unwrap();
    let answer = stack.rest_get(REST_PATH).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let digest = InitData::parse(document).unwrap().digest();
    let expected = HashAlgorithm::Sha256.digest(&[[0; 32].as_slice(), &digest].concat());
    assert_eq!(stack.soft_tpm().unwrap().pcr(8).unwrap(), hex::encode(expected));
    // Another document in the same boot: the agent does not start.
    stack.stop_part(Part::Agent).unwrap();
    std::fs::write(&path, document.replace("x = 1", "x = 2")).unwrap();
    let mut agent = stack.spawn_agent().unwrap();
    assert_eq!(agent.wait().unwrap(), Some(69));
    assert!(agent.log().contains("INIT_DATA_MISMATCH") && agent.log().contains("PCR 8"), "{}", agent.log());
}

/// The value of a PCR into which one event was measured.
fn after(content: &str) -> String {
    let event = Event::new("example.org", "test", content).unwrap();
    let digest = event.digest(HashAlgorithm::Sha256);
    hex::encode(HashAlgorithm::Sha256.digest(&[[0; 32].as_slice(), &digest].concat()))
}

#[test]
fn events_go_to_a_pcr_that_software_may_extend() {
    let measured = |agent_config: &str, asked: Option<u64>| {
        let stack = stack(Options { agent_config: format!("{ENABLED}{agent_config}"), ..options() })?;
        let answer = runtime().block_on(async { measure(&mut client(&stack).await, "up", asked).await });
        Some((answer, stack))
    };
    let Some((answer, mut stack)) = measured("", None) else { return };
    assert_eq!(answer, Ok(0));
    assert_eq!(stack.soft_tpm().unwrap().pcr(13).unwrap(), after("up"));
    let log = stack.part(Part::Agent).unwrap().log();
    assert!(log.contains("events are measured pcr=13 configured=false"), "{log}");
    assert!(!log.contains("init_pcr is a bad choice"), "{log}");
    let (_, out, error) = guestctl(&stack, &["doctor"]);
    assert!(out.contains("on: events go to PCR 13 (sha256, register 13 of the log)"), "{out}{error}");

    let (answer, mut stack) = measured("init_pcr = 12\n", None).unwrap();
    assert_eq!(answer, Ok(0));
    assert_eq!(stack.soft_tpm().unwrap().pcr(12).unwrap(), after("up"), "the configuration is obeyed");
    assert_eq!(stack.soft_tpm().unwrap().pcr(13).unwrap(), "0".repeat(64));
    assert!(!stack.part(Part::Agent).unwrap().log().contains("init_pcr is a bad choice"));

    let (answer, mut stack) = measured("init_pcr = 17\n", None).unwrap();
    let error = answer.unwrap_err();
    assert!(error.starts_with("TPM_PCR_RESERVED"), "{error}");
    let log = stack.part(Part::Agent).unwrap().log();
    assert!(log.contains("init_pcr is a bad choice on this machine") && log.contains("better=13"), "{log}");
    let again = runtime().block_on(async { measure(&mut client(&stack).await, "up", Some(13)).await });
    assert_eq!(again, Ok(0), "what was refused is not in the way of the next event");
    assert_eq!(stack.soft_tpm().unwrap().pcr(13).unwrap(), after("up"));
}

#[test]
fn evidence_is_shown_and_explained_by_guestctl() {
    let Some(mut stack) = stack(options()) else { return };
    let (status, out, error) = guestctl(&stack, &["evidence", "--report-data", &"ab".repeat(48)]);
    assert_eq!(status, Some(0), "{error}");
    assert!(out.contains("ak sha256"), "{out}");
    let (_, raw, error) = guestctl(&stack, &["evidence", "--raw", "--report-data", &"ab".repeat(48)]);
    let file = stack.folder().join("evidence.json");
    std::fs::write(&file, &raw).unwrap();
    let path = file.display().to_string();
    let (status, out, error2) = guestctl(&stack, &["inspect", &path]);
    assert_eq!(status, Some(0), "{error}{error2}");
    for words in ["endorsed by nothing here", "signed by this key", "not given (--event-log)"] {
        assert!(out.contains(words), "{words}: {out}");
    }
    let (status, out, _) = guestctl(&stack, &["inspect", &path, "--json"]);
    assert_eq!(status, Some(0), "{out}");
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["quote"]["report_data"], "ab".repeat(32));

    // A firmware's log that explains PCR 7, and one that does not.
    let digest = "5a".repeat(32);
    let log = stack.folder().join("log");
    std::fs::write(&log, firmware_log(7, &hex::decode(&digest).unwrap())).unwrap();
    let with_log = ["inspect", path.as_str(), "--event-log", &log.display().to_string()].map(str::to_owned);
    let with_log: Vec<&str> = with_log.iter().map(String::as_str).collect();
    let (status, out, _) = guestctl(&stack, &with_log);
    assert_eq!(status, Some(1), "{out}");
    assert!(out.contains("do NOT explain the PCRs") && out.contains("in PCR 7, the quote has"), "{out}");
    let theirs = stack.soft_tpm().unwrap().tool(&format!("tpm2_eventlog {}", log.display())).unwrap();
    stack.soft_tpm().unwrap().tool(&format!("tpm2_pcrextend 7:sha256={digest}")).unwrap();
    let value = stack.soft_tpm().unwrap().pcr(7).unwrap();
    assert!(theirs.contains(&value), "tpm2_eventlog replays to the same value: {theirs}");
    let (_, raw, _) = guestctl(&stack, &["evidence", "--raw", "--report-data", &"ab".repeat(48)]);
    std::fs::write(&file, &raw).unwrap();
    let (status, out, _) = guestctl(&stack, &with_log);
    assert_eq!(status, Some(0), "{out}");
    assert!(out.contains("PCR 7 EV_SEPARATOR") && out.contains("its records lead to PCR 7"), "{out}");
    // A flipped bit in the values.
    std::fs::write(&file, raw.replacen(&value, &digest, 1)).unwrap();
    let (status, out, _) = guestctl(&stack, &["inspect", &path]);
    assert_eq!(status, Some(1), "{out}");
    assert!(out.contains("NOT those of the quote"), "{out}");
}

/// A log of one separator in `pcr`, with digests of SHA-1 and SHA-256 as firmware writes them.
fn firmware_log(pcr: u32, digest: &[u8]) -> Vec<u8> {
    let declaration = [
        b"Spec ID Event03\0".as_slice(),
        &[0, 0, 0, 0, 0, 2, 0, 2],
        &[2, 0, 0, 0, 4, 0, 20, 0, 0x0B, 0, 32, 0, 0],
    ]
    .concat();
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
    [
        &[0, 0, 0, 0, 3, 0, 0, 0],
        [0; 20].as_slice(),
        &len(&declaration),
        &declaration,
        &pcr.to_le_bytes(),
        &[4, 0, 0, 0, 2, 0, 0, 0],
        &[4, 0],
        &[0xAA; 20],
        &[0x0B, 0],
        digest,
        &len(&[0; 4]),
        &[0; 4],
    ]
    .concat()
}
