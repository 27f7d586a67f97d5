//! Quotes of a TPM 2.0: bare, and in evidence with key and PCR values; with the firmware's log, down to the event.
//!
//! What a TPM's evidence can prove ends at its key: nothing in it says whose TPM that is. The table says so first.

use cc_evidence::ccel::{Event, Events, replay_pcrs, type_name};
use cc_evidence::tpm::{Attest, Signature, TpmEvidence, algorithm_name};
use cc_evidence::{Error, HashAlgorithm};
use cc_verify::tpm::{AttestationKey, verify_pcrs, verify_signature};
use serde_json::{Map, Value, json};

use super::{Check, Inspection};
use crate::table::Table;

const BANK: HashAlgorithm = HashAlgorithm::Sha256;

const SIGNATURE: &str = "quote signature";
const PCRS: &str = "PCR digest";
const KEY: &str = "attestation key";
const LOG: &str = "event log";
const BINDINGS: &str = "bindings";

/// Explains a bare TPMS_ATTEST.
pub(super) fn quote(bytes: &[u8]) -> Result<Inspection, String> {
    let attest = Attest::parse(bytes).map_err(|error| error.to_string())?;
    let mut table = Table::new();
    show_quote(&attest, &mut table);
    let facts = Map::from_iter([("quote".to_owned(), quote_json(&attest))]);
    let alone = "a quote alone has no signature, key or PCR values beside it: give the evidence JSON";
    let checks =
        [SIGNATURE, PCRS, KEY].into_iter().map(|name| Check::not_verified(name, alone)).chain([bindings()]);
    Ok(Inspection { kind: "tpm-quote", facts, table, checks: checks.collect() })
}

/// Explains evidence JSON; with the firmware's event log, what was measured.
pub(super) fn evidence(text: &str, log: Option<&[u8]>) -> Result<Inspection, String> {
    let evidence = TpmEvidence::from_json(text).map_err(|error| error.to_string())?;
    let attest = Attest::parse(&evidence.message).map_err(|error| error.to_string())?;
    let signature = Signature::parse(&evidence.signature).map_err(|error| error.to_string())?;
    let fingerprint = hex::encode(BANK.digest(&evidence.ak_public));
    let key = AttestationKey::from_spki(&evidence.ak_public);
    let (key_text, signed) = match &key {
        Ok(key) => (
            format!("RSA, {} bits", key.bits()),
            Check::of(
                SIGNATURE,
                "made by the key in the evidence over these bytes".to_owned(),
                verify_signature(&evidence.message, &signature, key),
            ),
        ),
        Err(why) => {
            (format!("unusable: {why}"), Check::failed(SIGNATURE, format!("the key is unusable: {why}")))
        }
    };
    let quoted = Check::of(
        PCRS,
        "the PCR values in the evidence are the quoted ones".to_owned(),
        verify_pcrs(&attest, &evidence.pcrs),
    );

    let mut table = Table::new();
    table
        .section("chain of trust")
        .row(
            KEY,
            format!(
                "sha256 {fingerprint}\n{key_text}\nendorsed by nothing here: it counts if you registered it"
            ),
        )
        .row("quote", if signed.is_verified() { "signed by this key" } else { "NOT signed by this key" })
        .row("PCRs", if quoted.is_verified() { "those of the quote" } else { "NOT those of the quote" });
    let mut checks = vec![
        Check::not_verified(
            KEY,
            format!("whose key it is, only a list of registered keys tells: sha256 {fingerprint}"),
        ),
        signed,
        quoted,
    ];
    let mut facts = Map::from_iter([
        ("quote".to_owned(), quote_json(&attest)),
        ("ak_sha256".to_owned(), fingerprint.into()),
        ("pcrs".to_owned(), evidence.pcrs.iter().map(hex::encode).collect()),
    ]);
    match log {
        Some(log) => {
            let outcome = explain_log(log, &evidence.pcrs);
            table.row(
                "events",
                if outcome.is_ok() { "explain the PCRs below" } else { "do NOT explain the PCRs" },
            );
            show_quote(&attest, &mut table);
            show_pcrs(&evidence.pcrs, &mut table);
            facts.insert("events".into(), show_events(log, &mut table));
            checks.push(match outcome {
                Ok(explained) => Check::verified(LOG, format!("its records lead to PCR {explained}")),
                Err(why) => Check::failed(LOG, why),
            });
        }
        None => {
            table.row("events", "not given (--event-log)");
            show_quote(&attest, &mut table);
            show_pcrs(&evidence.pcrs, &mut table);
        }
    }
    checks.push(bindings());
    Ok(Inspection { kind: "tpm-evidence", facts, table, checks })
}

/// The PCRs that the log leads to, as a list; or the first that it does not.
fn explain_log(log: &[u8], pcrs: &[[u8; 32]]) -> Result<String, String> {
    let replayed = replay_pcrs(log, BANK).map_err(|error| error.to_string())?;
    let mut explained = Vec::new();
    for (pcr, replayed) in replayed {
        let quoted = usize::try_from(pcr).ok().and_then(|pcr| pcrs.get(pcr)).map(<[u8; 32]>::as_slice);
        if quoted != Some(replayed.as_slice()) {
            return Err(format!(
                "its records lead to {} in PCR {pcr}, the quote has {}",
                hex::encode(replayed),
                hex::encode(quoted.unwrap_or_default())
            ));
        }
        explained.push(pcr.to_string());
    }
    if explained.is_empty() { Err("it has no measured record".to_owned()) } else { Ok(explained.join(", ")) }
}

fn show_quote(attest: &Attest, table: &mut Table) {
    let clock = attest.clock;
    table
        .section("TPM 2.0 quote")
        .bytes("signer's name", &attest.qualified_signer)
        .bytes("report data", &attest.extra_data)
        .row("clock", format!("{} ms{}", clock.clock, if clock.safe { "" } else { ", not safe" }))
        .row("resets", clock.reset_count.to_string())
        .row("restarts", clock.restart_count.to_string())
        .row("firmware", format!("{:016x}", attest.firmware_version));
    for bank in &attest.selection {
        let list: Vec<String> = bank.pcrs().iter().map(u32::to_string).collect();
        table.row("PCRs quoted", format!("{}: {}", algorithm_name(bank.hash), list.join(" ")));
    }
    table.bytes("PCR digest", &attest.pcr_digest);
}

fn show_pcrs(pcrs: &[[u8; 32]], table: &mut Table) {
    table.section("PCR values (sha256)");
    for (pcr, value) in pcrs.iter().enumerate() {
        table.bytes(&format!("PCR {pcr}"), value);
    }
}

/// The records of a log, into the table and as JSON.
fn show_events(log: &[u8], table: &mut Table) -> Value {
    table.section("event log");
    let events: Result<Vec<Value>, Error> = Events::new(log).and_then(|events| {
        events
            .map(|event| {
                let event = event?;
                let kind = type_name(event.event_type)
                    .map_or_else(|| format!("{:#x}", event.event_type), str::to_owned);
                let digest = digest_of(&event);
                table.row(
                    &format!("PCR {} {kind}", event.register),
                    digest.as_deref().unwrap_or("not measured"),
                );
                Ok(json!({ "pcr": event.register, "type": kind, "sha256": digest }))
            })
            .collect()
    });
    events.map_or_else(
        |error| {
            table.row("unreadable", error.to_string());
            json!({ "unreadable": error.to_string() })
        },
        Value::from,
    )
}

fn digest_of(event: &Event<'_>) -> Option<String> {
    let digest = event.digests.iter().find(|digest| digest.hash() == Some(BANK))?;
    event.is_measured().then(|| hex::encode(digest.bytes))
}

fn quote_json(attest: &Attest) -> Value {
    let banks: Vec<Value> = attest
        .selection
        .iter()
        .map(|bank| json!({ "hash": algorithm_name(bank.hash), "pcrs": bank.pcrs() }))
        .collect();
    json!({
        "qualified_signer": hex::encode(&attest.qualified_signer), "report_data": hex::encode(&attest.extra_data),
        "clock": attest.clock.clock, "clock_safe": attest.clock.safe,
        "reset_count": attest.clock.reset_count, "restart_count": attest.clock.restart_count,
        "firmware_version": format!("{:016x}", attest.firmware_version),
        "pcr_selection": banks, "pcr_digest": hex::encode(&attest.pcr_digest),
    })
}

fn bindings() -> Check {
    Check::not_verified(
        BINDINGS,
        "which report data and PCR 8 are expected, only the session that asked knows",
    )
}
