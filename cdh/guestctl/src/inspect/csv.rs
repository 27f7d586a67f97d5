//! Hygon CSV evidence: its fields. Nothing about it can be verified here, because that takes SM2 signatures.

use cc_evidence::csv::CsvEvidence;
use serde_json::{Map, Value, json};

use super::{Check, Inspection};
use crate::table::Table;

/// Explains evidence JSON of CSV.
pub(super) fn evidence(text: &str) -> Result<Inspection, String> {
    let evidence = CsvEvidence::from_json(text).map_err(|error| error.to_string())?;
    let report = &evidence.report;
    let serial = report.serial().unwrap_or("no plain text");
    let log = evidence.cc_eventlog.as_ref().map(Vec::len);
    let mut table = Table::new();
    table
        .section("Hygon CSV report")
        .bytes("measurement", &report.measurement)
        .bytes("report data", &report.report_data)
        .bytes("nonce", &report.nonce)
        .row("policy", format!("{:#x}", report.policy))
        .bytes("vm id", &report.vm_id)
        .bytes("vm version", &report.vm_version)
        .bytes("owner's key digest", &report.user_pubkey_digest)
        .row("chip serial number", serial)
        .row("event log", log.map_or_else(|| "none".to_owned(), |length| format!("{length} bytes")));
    let facts = Map::from_iter([(
        "report".to_owned(),
        json!({
            "measurement": hex::encode(report.measurement),
            "report_data": hex::encode(report.report_data),
            "nonce": hex::encode(report.nonce),
            "policy": report.policy,
            "vm_id": hex::encode(report.vm_id),
            "vm_version": hex::encode(report.vm_version),
            "user_pubkey_digest": hex::encode(report.user_pubkey_digest),
            "serial_number": report.serial(),
            "event_log_bytes": log.map_or(Value::Null, Value::from),
        }),
    )]);
    let beside = evidence.serial_number.as_slice() == report.serial_number;
    let checks = vec![
        Check::not_verified("signature", "SM2 signatures and Hygon's certificates are not verified here"),
        if beside {
            Check::verified("serial number", "the same in the report and beside it")
        } else {
            Check::failed("serial number", "another one in the report than beside it")
        },
    ];
    Ok(Inspection { kind: "csv-evidence", facts, table, checks })
}
