//! Event logs: replayed against the registers of a quote, and told as claims.

use cc_evidence::HashAlgorithm;
use cc_evidence::ccel::{EV_EVENT_TAG, assemble, replay};
use cc_verify::tdx::{Numbering, event_claims};
use serde_json::json;

use crate::platform::Platform;

/// A record with one SHA-384 digest: that of its data.
fn record(register: u32, event_type: u32, data: &[u8]) -> Vec<u8> {
    [
        register.to_le_bytes().as_slice(),
        &event_type.to_le_bytes(),
        &1_u32.to_le_bytes(),
        &0x000C_u16.to_le_bytes(),
        &HashAlgorithm::Sha384.digest(data),
        &u32::try_from(data.len()).unwrap().to_le_bytes(),
        data,
    ]
    .concat()
}

/// The data of a record of the agent.
fn tagged(text: &str) -> Vec<u8> {
    [b"LEAA".as_slice(), &u32::try_from(text.len()).unwrap().to_le_bytes(), text.as_bytes()].concat()
}

fn platform_with(records: &[Vec<u8>]) -> Platform {
    let log = assemble(None, Some(&records.concat())).unwrap().unwrap();
    let mut platform = Platform::new();
    let registers = replay(&log, HashAlgorithm::Sha384).unwrap();
    for (register, value) in platform.body.rtmr.iter_mut().zip(registers.run_time()) {
        register.copy_from_slice(value);
    }
    platform.log = Some(log);
    platform
}

#[test]
fn a_log_that_leads_to_the_registers_is_told() {
    let text = r#"example.org PullImage {"image":"a b","digest":"sha256:00"}"#;
    let platform = platform_with(&[
        record(1, 4, &[0; 4]),
        record(4, EV_EVENT_TAG, &tagged(text)),
        record(3, 0x7777, b"x"),
    ]);
    let events = serde_json::to_value(platform.verdict().unwrap().uefi_event_logs).unwrap();
    assert_eq!(events[0]["type_name"], "EV_SEPARATOR");
    assert_eq!((&events[1]["index"], &events[1]["digest_matches_event"]), (&json!(4), &json!(true)));
    assert_eq!(
        events[1]["details"],
        json!({ "unicode_name": "AAEL", "string": text, "data": {
            "domain": "example.org", "operation": "PullImage",
            "content": { "image": "a b", "digest": "sha256:00" } } })
    );
    assert_eq!((&events[2]["type_name"], &events[2]["details"]), (&json!("UNKNOWN"), &json!({})));
}

#[test]
fn a_log_that_does_not_explain_the_registers_is_refused() {
    let mut platform = platform_with(&[record(1, 4, &[0; 4]), record(4, EV_EVENT_TAG, &tagged("a b c"))]);
    assert!(platform.verdict().is_ok());
    let log = platform.log.clone().unwrap();
    // The digest of the first record stands behind the header and 14 bytes.
    for bit in 0..48 * 8 {
        let mut changed = log.clone();
        changed[69 + 14 + bit / 8] ^= 1 << (bit % 8);
        platform.log = Some(changed);
        assert_eq!(platform.verdict().unwrap_err(), "tdx.eventlog", "bit {bit}");
    }
    for register in 0..4 {
        let mut platform = platform_with(&[record(1, 4, &[0; 4])]);
        platform.body.rtmr[register][0] ^= 1;
        assert_eq!(platform.verdict().unwrap_err(), "tdx.eventlog", "RTMR{register}");
    }
    let mut cut = platform_with(&[record(1, 4, &[0; 4]), record(1, 4, &[1; 4])]);
    cut.log = Some(log[..log.len() - 20].to_vec());
    assert_eq!(cut.verdict().unwrap_err(), "tdx.eventlog");
    cut.log = Some(Vec::new());
    assert_eq!(cut.verdict().unwrap_err(), "tdx.eventlog");
}

#[test]
fn text_that_was_not_measured_is_marked() {
    let mut record = record(4, EV_EVENT_TAG, &tagged("example.org PullImage {}"));
    let last = record.len() - 1;
    record[last] = b'!';
    let log = assemble(None, Some(&record)).unwrap().unwrap();
    let events = event_claims(&log, Numbering::RunTime).unwrap();
    assert!(!events[0].digest_matches_event);
    assert_eq!(events[0].details["data"]["content"], "{!");
}

#[test]
fn a_record_of_the_agent_is_read_as_everywhere_else_or_not_at_all() {
    let whole = tagged("a b c");
    for data in [[whole.as_slice(), b"d"].concat(), tagged("a b"), tagged("a b \u{0}c")] {
        let log = assemble(None, Some(&record(4, EV_EVENT_TAG, &data))).unwrap().unwrap();
        let told = &event_claims(&log, Numbering::RunTime).unwrap()[0].details["data"];
        let fields = cc_evidence::aael::Fields::of_data(&data);
        assert_eq!(told.get("content").and_then(|found| found.as_str()), fields.map(|f| f.content));
    }
}

#[test]
fn a_record_that_no_register_holds_is_not_measured_whatever_its_digest() {
    let data = tagged("example.org PullImage {}");
    let platform = platform_with(&[record(0, EV_EVENT_TAG, &data), record(4, EV_EVENT_TAG, &data)]);
    let claims = platform.verdict().unwrap().uefi_event_logs.unwrap();
    let told = |numbering| event_claims(platform.log.as_ref().unwrap(), numbering).unwrap();
    let flags = |events: &[cc_verify::tdx::EventClaim]| -> Vec<_> {
        events.iter().map(|event| event.digest_matches_event).collect()
    };
    assert_eq!(flags(&claims), [false, true], "the replay passes over register 0");
    assert_eq!(told(Numbering::RunTime), claims);
    assert_eq!(flags(&told(Numbering::Pcr)), [true, true], "a TPM has a PCR 0");
}
