//! AMD SEV-SNP reports, evidence and certificate tables (AMD publications 56860, 56421, 57230).
//!
//! The fields go into JSON and into the table. Verification is the library's; here each of its steps becomes a line,
//! made or not made. What the host added to a report may be garbage: it is named, and the report is explained anyway.

mod checks;
mod report;

use cc_evidence::snp::{CertEntry, CertKind, Report, SigningKey, SnpEvidence, cert_table as table_format};
use cc_verify::snp::verify_signature;
use serde_json::{Map, Value, json};

pub(super) use self::checks::chain_checks;
use self::report::{kds_url, report_json, show_report};
use super::{
    Check, Inspection, Trust,
    certificate::{Certificate, split_pem},
};
use crate::table::Table;

/// One entry of a certificate table or of evidence.
#[derive(Debug)]
struct Entry {
    kind: CertKind,
    content: Content,
}

/// An entry's bytes as far as they could be read.
#[derive(Debug)]
enum Content {
    Certificate(Box<Certificate>),
    /// Bytes of another kind, for instance a revocation list.
    Other(Vec<u8>),
    /// Should be a certificate and is none; the length in bytes and the reason.
    Broken(usize, String),
}

impl Entry {
    fn certificate(&self) -> Option<&Certificate> {
        match &self.content {
            Content::Certificate(certificate) => Some(certificate),
            Content::Other(_) | Content::Broken(..) => None,
        }
    }
}

/// Explains a bare report; `leaf` is the certificate of the key that signed it.
pub(super) fn report(bytes: &[u8], leaf: Option<&Certificate>, trust: &Trust) -> Result<Inspection, String> {
    let report = Report::parse(bytes).map_err(|error| error.to_string())?;
    Ok(explain("snp-report", &report, &[], leaf, trust))
}

/// Explains evidence JSON; `leaf` replaces the certificate in it.
pub(super) fn evidence(text: &str, leaf: Option<&Certificate>, trust: &Trust) -> Result<Inspection, String> {
    let evidence = SnpEvidence::from_json(text).map_err(|error| error.to_string())?;
    let entries = read_entries(evidence.certs);
    let leaf = leaf.or_else(|| own_leaf(&evidence.report, &entries));
    let mut inspection = explain("snp-evidence", &evidence.report, &entries, leaf, trust);
    inspection.table.section("certificates in the evidence");
    let json = show_entries(&entries, &mut inspection.table);
    inspection.facts.insert("certs".into(), json);
    Ok(inspection)
}

/// Explains a certificate table and verifies the chains in it.
pub(super) fn cert_table(bytes: &[u8], trust: &Trust) -> Result<Inspection, String> {
    let entries = read_entries(table_format::parse(bytes).map_err(|error| error.to_string())?);
    let mut table = Table::new();
    table.section("certificate table");
    let facts = Map::from_iter([("certs".to_owned(), show_entries(&entries, &mut table))]);
    let certificates: Vec<&Certificate> = entries.iter().filter_map(Entry::certificate).collect();
    let mut checks = chain_checks(&certificates, trust);
    checks.extend(broken_entries(&entries));
    Ok(Inspection { kind: "snp-cert-table", facts, table, checks })
}

fn explain(
    kind: &'static str,
    report: &Report,
    entries: &[Entry],
    leaf: Option<&Certificate>,
    trust: &Trust,
) -> Inspection {
    let mut table = Table::new();
    show_report(report, &mut table);
    if let Some(leaf) = leaf {
        leaf.show("certificate of the signing key", &mut table);
    }
    let facts = Map::from_iter([
        ("report".to_owned(), Value::Object(report_json(report))),
        ("cert".to_owned(), leaf.map_or(Value::Null, Certificate::json)),
        ("kds_url".to_owned(), kds_url(report).map_or(Value::Null, Value::from)),
    ]);
    let revocations: Vec<CertEntry> = entries
        .iter()
        .filter_map(|entry| match (&entry.kind, &entry.content) {
            (CertKind::Crl, Content::Other(data)) => {
                Some(CertEntry { kind: CertKind::Crl, data: data.clone() })
            }
            _ => None,
        })
        .collect();
    let mut checks = checks::report_checks(report, leaf, &revocations, trust);
    checks.extend(broken_entries(entries));
    Inspection { kind, facts, table, checks }
}

/// The kind of certificate that belongs to the key which signed `report`.
fn leaf_kind(report: &Report) -> Option<CertKind> {
    match report.signing_key() {
        SigningKey::Vcek => Some(CertKind::Vcek),
        SigningKey::Vlek => Some(CertKind::Vlek),
        SigningKey::None | SigningKey::Other(_) => None,
    }
}

/// The certificate among `entries` whose key signed `report`; hosts keep stale ones, which come second.
fn own_leaf<'a>(report: &Report, entries: &'a [Entry]) -> Option<&'a Certificate> {
    let kind = leaf_kind(report)?;
    let candidates = || entries.iter().filter(|entry| entry.kind == kind).filter_map(Entry::certificate);
    candidates().find(|leaf| verify_signature(report, &leaf.der).is_ok()).or_else(|| candidates().next())
}

fn read_entries(certs: Vec<CertEntry>) -> Vec<Entry> {
    certs
        .into_iter()
        .map(|CertEntry { kind, data }| Entry { kind, content: read_entry(kind, data) })
        .collect()
}

fn read_entry(kind: CertKind, data: Vec<u8>) -> Content {
    if matches!(kind, CertKind::Crl | CertKind::Other(_)) {
        return Content::Other(data);
    }
    let length = data.len();
    match read_certificate(data) {
        Ok(certificate) => Content::Certificate(Box::new(certificate)),
        Err(why) => Content::Broken(length, why),
    }
}

/// Entries are DER; some hosts write PEM.
fn read_certificate(data: Vec<u8>) -> Result<Certificate, String> {
    if !data.starts_with(b"-----") {
        return Certificate::read(data);
    }
    let text = std::str::from_utf8(&data).map_err(|_| "broken PEM".to_owned())?;
    let mut all = split_pem(text)?;
    match (all.pop(), all.is_empty()) {
        (Some(only), true) => Certificate::read(only),
        _ => Err("more than one certificate in one entry".to_owned()),
    }
}

fn broken_entries(entries: &[Entry]) -> impl Iterator<Item = Check> {
    entries.iter().filter_map(|entry| match &entry.content {
        Content::Broken(_, why) => {
            Some(Check::failed("certificate table", format!("{} cannot be read: {why}", entry.kind)))
        }
        Content::Certificate(_) | Content::Other(_) => None,
    })
}

/// Lists the entries: certificates by what they say, others by their length.
fn show_entries(entries: &[Entry], table: &mut Table) -> Value {
    if entries.is_empty() {
        table.row("none", "");
    }
    let show = |entry: &Entry| {
        let kind = entry.kind.to_string();
        match &entry.content {
            Content::Certificate(certificate) => {
                table.row(&kind, certificate.short_description());
                json!({"kind": kind, "bytes": certificate.der.len(), "certificate": certificate.json()})
            }
            Content::Other(data) => {
                table.row(&kind, format!("{} bytes", data.len()));
                json!({"kind": kind, "bytes": data.len()})
            }
            Content::Broken(length, why) => {
                table.row(&kind, format!("{length} bytes that cannot be read: {why}"));
                json!({"kind": kind, "bytes": length, "unreadable": why})
            }
        }
    };
    entries.iter().map(show).collect()
}
