//! NVIDIA GPU reports and the evidence around them.
//!
//! The fields go into JSON and into the table, a section per GPU. Verification is the library's; here each of its steps
//! becomes a line, made or not made.

use cc_evidence::additional::AdditionalEvidence;
use cc_evidence::nvidia::{Architecture, Device, NvidiaEvidence, Report, UNKNOWN_UUID};
use cc_verify::Rejection;
use cc_verify::nvidia::{GpuChain, is_served, verify_device};
use serde_json::{Map, Value, json};

use super::{Check, Inspection, Trust};
use crate::table::Table;

const REPORT: &str = "report";
const CHAIN: &str = "certificate chain";
const DATES: &str = "dates";
const SIGNATURE: &str = "report signature";
const FIRMWARE: &str = "firmware identity";

/// What a report begins with: the request for all measurements with a signature, SPDM 1.1.
const BEGIN: [u8; 4] = [0x11, 0xE0, 0x01, 0xFF];

/// Whether bytes begin like a report.
pub(super) fn is_report(bytes: &[u8]) -> bool {
    bytes.starts_with(&BEGIN)
}

/// Explains a bare report; `chain` is the certificate chain that belongs to it, PEM.
pub(super) fn report(bytes: &[u8], chain: Option<&[u8]>, trust: &Trust) -> Result<Inspection, String> {
    let mut inspection =
        Inspection { kind: "nvidia-report", facts: Map::new(), table: Table::new(), checks: Vec::new() };
    let device = Device {
        architecture: Architecture::Hopper,
        uuid: UNKNOWN_UUID.to_owned(),
        report: bytes.to_vec(),
        certificate_chain: chain.unwrap_or_default().to_vec(),
    };
    let parsed = Report::parse(bytes).map_err(|error| error.to_string())?;
    inspection.table.section("NVIDIA GPU report");
    show_report(&parsed, &mut inspection.table);
    let mut facts = report_json(&parsed);
    if chain.is_some() {
        let outcome = verify_device(&device, &parsed, &trust.roots, trust.at.0);
        add_chain(outcome.as_ref().ok(), &mut facts, &mut inspection.table);
        // Which generation it is of, a bare report does not say; its certificate does.
        let served = !outcome.as_ref().is_err_and(|why| why.check() == "nvidia.arch");
        inspection.checks.extend(checks("", &outcome, trust, served));
    } else {
        let why = "give --chain with the certificate chain that the driver has for this GPU";
        inspection.checks.extend([CHAIN, SIGNATURE].map(|name| Check::not_verified(name, why)));
    }
    inspection.facts.insert("report".into(), facts);
    inspection.checks.extend(open());
    Ok(inspection)
}

/// Explains evidence JSON: that of the GPUs, or the object of all further devices with that member in it.
pub(super) fn evidence(text: &str, trust: &Trust) -> Result<Inspection, String> {
    let (own, others) = take_member(text)?;
    let evidence = NvidiaEvidence::from_json(&own).map_err(|error| error.to_string())?;
    let mut table = Table::new();
    let (mut devices, mut all) = (Vec::new(), Vec::new());
    for device in &evidence.devices {
        let served = is_served(device.architecture);
        let name = device.uuid.as_str();
        table.section(&format!("{} {name}", device.architecture.as_str()));
        let mut facts = json!({ "arch": device.architecture.as_str(), "uuid": name });
        match Report::parse(&device.report) {
            Ok(report) => {
                show_report(&report, &mut table);
                let outcome = verify_device(device, &report, &trust.roots, trust.at.0);
                let mut fields = report_json(&report);
                add_chain(outcome.as_ref().ok(), &mut fields, &mut table);
                merge(&mut facts, fields);
                all.extend(checks(name, &outcome, trust, served));
            }
            Err(error) => {
                table.row("unreadable", error.to_string());
                let why = format!("{name}: unreadable: {error}");
                // What reports of other generations look like is not known here.
                all.push(if served { Check::failed(REPORT, why) } else { Check::not_verified(REPORT, why) });
            }
        }
        devices.push(facts);
    }
    all.extend(open());
    if !others.is_empty() {
        let why = format!("evidence of {} is in the file too; look at it by itself", others.join(", "));
        all.push(Check::not_verified("other devices", why));
    }
    let facts = Map::from_iter([("devices".to_owned(), Value::from(devices))]);
    Ok(Inspection { kind: "nvidia-evidence", facts, table, checks: all })
}

/// The text of the GPUs' member, and the names of the others; the text itself where it has no such member.
fn take_member(text: &str) -> Result<(String, Vec<String>), String> {
    let members = AdditionalEvidence::parse(text).map_err(|error| error.to_string())?;
    let Some(own) = members.member("nvidia") else { return Ok((text.to_owned(), Vec::new())) };
    let others = members.iter().map(|(name, _)| name).filter(|name| *name != "nvidia");
    Ok((own.to_owned(), others.map(str::to_owned).collect()))
}

/// One line for each step. The library makes them in this order and stops at the first that fails, so that a failure is
/// good news about those before it. A device that is not `served` gets through none of them, which says nothing about it.
fn checks(gpu: &str, outcome: &Result<GpuChain, Rejection>, trust: &Trust, served: bool) -> Vec<Check> {
    let told = |detail: String| if gpu.is_empty() { detail } else { format!("{gpu}: {detail}") };
    let steps = [
        (CHAIN, "signed under a trusted root".to_owned()),
        (DATES, format!("every certificate is valid at {}", trust.at)),
        (SIGNATURE, "made by the GPU's key over these bytes".to_owned()),
        (FIRMWARE, "report and certificate name the same firmware (FWID)".to_owned()),
    ];
    let (failed, why) = match outcome {
        Ok(chain) => {
            let root = if chain.test_root() { "a root given with --roots" } else { "NVIDIA's root" };
            let names = format!("{} ({root})", chain.names().join(", signed by "));
            return steps
                .into_iter()
                .map(|(name, passed)| {
                    Check::verified(name, told(if name == CHAIN { names.clone() } else { passed }))
                })
                .collect();
        }
        Err(why) if !served => {
            return steps.map(|(name, _)| Check::not_verified(name, why.to_string())).into();
        }
        Err(why) => match why.check() {
            "nvidia.validity" => (DATES, why),
            "nvidia.signature" => (SIGNATURE, why),
            "nvidia.fwid" => (FIRMWARE, why),
            _ => (CHAIN, why),
        },
    };
    let mut reached = false;
    let step = |(name, passed): (&'static str, String)| {
        if reached {
            return Check::not_verified(name, told(format!("it counts only when this holds: {failed}")));
        }
        reached = name == failed;
        if reached { Check::failed(name, why.to_string()) } else { Check::verified(name, told(passed)) }
    };
    steps.into_iter().map(step).collect()
}

/// What nothing in the file can tell.
fn open() -> [Check; 3] {
    [
        Check::not_verified(
            "nonce",
            "which nonce is the right one is known only to whoever asked for the report",
        ),
        Check::not_verified(
            "measurements",
            "whether they are those of good firmware NVIDIA's reference manifests (RIM) tell, which are not read here",
        ),
        Check::not_verified("revocation", "NVIDIA's revocation lists are not read here"),
    ]
}

fn show_report(report: &Report, table: &mut Table) {
    table.bytes("nonce", &report.nonce);
    for record in report.opaque.records() {
        // Two hundred bytes of counts tell a person nothing.
        if let Some(name) = record.kind().name().filter(|name| *name != "measurement_count") {
            table.row(&name.replace('_', " "), record.display());
        }
    }
    let empty = |value: &[u8]| value.iter().all(|byte| *byte == 0);
    for measurement in report.measurements.iter().filter(|measurement| !empty(&measurement.value)) {
        table.bytes(&format!("measurement {}", measurement.index), &measurement.value);
    }
    let zero = report.measurements.iter().filter(|measurement| empty(&measurement.value)).count();
    table.row("empty measurements", zero.to_string());
    if report.trailing() > 0 {
        table.row("after the signature", format!("{} bytes that nothing covers", report.trailing()));
    }
}

fn report_json(report: &Report) -> Value {
    let measurements: Map<String, Value> =
        report.measurements.iter().map(|m| (m.index.to_string(), hex::encode(&m.value).into())).collect();
    let opaque: Map<String, Value> = report
        .opaque
        .records()
        .iter()
        .map(|record| {
            let name = record.kind().name().map_or_else(|| record.number.to_string(), str::to_owned);
            (name, record.display().into())
        })
        .collect();
    json!({
        "nonce": hex::encode(report.nonce),
        "slot": report.slot,
        "responder_nonce": hex::encode(report.responder_nonce),
        "measurements": measurements,
        "opaque": opaque,
        "signature": hex::encode(report.signature()),
        "trailing_bytes": report.trailing(),
    })
}

/// The chain is worth showing as soon as it is trusted.
fn add_chain(chain: Option<&GpuChain>, facts: &mut Value, table: &mut Table) {
    let shown = chain.map_or(Value::Null, |chain| {
        json!({
            "names": chain.names(),
            "leaf_sha256": hex::encode(chain.leaf_sha256()),
            "fwid": hex::encode(chain.fwid()),
            "test_root": chain.test_root(),
        })
    });
    merge(facts, json!({ "chain": shown }));
    if let Some(chain) = chain {
        table.row("certified by", chain.names().join("\n"));
    }
}

fn merge(into: &mut Value, from: Value) {
    if let (Some(into), Value::Object(mut from)) = (into.as_object_mut(), from) {
        into.append(&mut from);
    }
}
