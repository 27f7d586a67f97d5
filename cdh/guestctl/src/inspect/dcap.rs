//! Intel's quotes and reports: TDX quotes, evidence around them, TDREPORT, SGX quotes.
//!
//! The fields go into JSON and into the table. Verification is the library's; here each of its steps becomes a line,
//! made or not made.

mod checks;
mod collateral;
mod fields;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use cc_evidence::{
    sgx,
    tdx::{Quote, TdReport, TdxEvidence},
};
use cc_verify::tdx::{ChainReport, Numbering, event_claims, verify_quote, verify_signature};
use serde_json::{Map, Value, json};

pub(super) use self::{checks::event_log, collateral::load as load_collateral, fields::event_text};
use super::{Check, Inspection, Trust};
use crate::table::Table;

/// Explains a bare TDX quote.
pub(super) fn quote(bytes: &[u8], trust: &Trust) -> Result<Inspection, String> {
    explain("tdx-quote", bytes, trust)
}

/// Explains evidence JSON with a quote in it: of a trust domain, or of an enclave.
pub(super) fn evidence(text: &str, trust: &Trust) -> Result<Inspection, String> {
    let evidence = TdxEvidence::from_json(text).map_err(|error| error.to_string())?;
    if quote_kind(&evidence.quote) == Some(Kind::Sgx) {
        return enclave_quote(&evidence.quote, trust);
    }
    let mut inspection = explain("tdx-evidence", &evidence.quote, trust)?;
    let Some(log) = &evidence.cc_eventlog else {
        inspection.table.section("event log").row("none", "");
        inspection.facts.insert("events".into(), Value::Null);
        return Ok(inspection);
    };
    let quote = Quote::parse(&evidence.quote).map_err(|error| error.to_string())?;
    inspection.checks.push(event_log(log, &quote.body.rtmr));
    match event_claims(log, Numbering::RunTime) {
        Ok(events) => {
            inspection.table.section("event log");
            for event in &events {
                let label = format!("{} {}", event.index, event.type_name);
                inspection.table.row(&label, event_text(event));
            }
            inspection.facts.insert("events".into(), json!(events));
        }
        Err(error) => {
            inspection.facts.insert("events".into(), json!({ "unreadable": error.to_string() }));
        }
    }
    Ok(inspection)
}

/// Explains a TDREPORT.
pub(super) fn report(bytes: &[u8]) -> Result<Inspection, String> {
    let report = TdReport::parse(bytes).map_err(|error| error.to_string())?;
    let mut table = Table::new();
    fields::show_report(&report, &mut table);
    let facts = Map::from_iter([("report".to_owned(), fields::report_json(&report))]);
    Ok(Inspection { kind: "tdx-report", facts, table, checks: checks::report_checks(&report) })
}

/// Explains a quote of an SGX enclave.
pub(super) fn enclave_quote(bytes: &[u8], trust: &Trust) -> Result<Inspection, String> {
    let quote = sgx::Quote::parse(bytes).map_err(|error| error.to_string())?;
    let mut table = Table::new();
    fields::show_enclave("Intel SGX quote", &quote.body, &mut table);
    fields::show_enclave("quoting enclave", &quote.signature.qe_report, &mut table);
    let outcome = verify_signature(&quote.signature, quote.signed(), &trust.roots, trust.at.0);
    let mut facts = Map::from_iter([(
        "quote".to_owned(),
        fields::quote_json(
            &quote.header,
            fields::enclave_json(&quote.body),
            &quote.signature,
            quote.trailing,
        ),
    )]);
    add_platform(outcome.as_ref().ok(), &mut facts, &mut table);
    let mut checks = checks::quote_checks(&outcome, trust);
    checks.push(Check::not_verified("tcb level", "collateral for enclaves is not read here"));
    checks.push(checks::bindings("report data and CONFIGID"));
    Ok(Inspection { kind: "sgx-quote", facts, table, checks })
}

fn explain(kind: &'static str, bytes: &[u8], trust: &Trust) -> Result<Inspection, String> {
    let quote = Quote::parse(bytes).map_err(|error| error.to_string())?;
    let mut table = Table::new();
    fields::show_quote(&quote, &mut table);
    fields::show_enclave("quoting enclave", &quote.signature.qe_report, &mut table);
    let mut facts = Map::from_iter([(
        "quote".to_owned(),
        fields::quote_json(&quote.header, fields::body_json(&quote.body), &quote.signature, quote.trailing),
    )]);
    let outcome = verify_quote(&quote, &trust.roots, trust.at.0);
    add_platform(outcome.as_ref().ok(), &mut facts, &mut table);
    let mut checks = checks::quote_checks(&outcome, trust);
    let (level, tcb) = checks::level(&quote, outcome.as_ref().ok(), trust);
    facts.insert("tcb".into(), tcb);
    checks.extend(level);
    checks.push(checks::bindings("report data and MRCONFIGID"));
    Ok(Inspection { kind, facts, table, checks })
}

/// The platform is known as soon as its chain is trusted.
fn add_platform(chain: Option<&ChainReport>, facts: &mut Map<String, Value>, table: &mut Table) {
    let platform = chain.map_or(Value::Null, |chain| fields::platform_json(chain.pck()));
    facts.insert("platform".into(), platform);
    if let Some(chain) = chain {
        fields::show_platform(chain.pck(), table);
    }
}

/// Whether evidence JSON has a quote that this module explains.
pub(super) fn is_quote(base64: &str) -> bool {
    BASE64_STANDARD.decode(base64).is_ok_and(|bytes| quote_kind(&bytes).is_some())
}

/// The kind of quote that bytes begin like: version, type of key, type of TEE.
pub(super) fn quote_kind(bytes: &[u8]) -> Option<Kind> {
    match bytes.get(..8)? {
        [4 | 5, 0, 1..=3, 0, 0x81, 0, 0, 0] => Some(Kind::Tdx),
        [3, 0, 1..=3, 0, 0, 0, 0, 0] => Some(Kind::Sgx),
        _ => None,
    }
}

/// Kinds of quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Of a trust domain, version 4 or 5.
    Tdx,
    /// Of an enclave, version 3.
    Sgx,
}
