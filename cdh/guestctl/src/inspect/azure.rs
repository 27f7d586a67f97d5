//! Azure machines: HCL reports, and evidence in which a TPM quotes.
//!
//! The hardware's part is explained like the hardware's own evidence. What follows from it is the chain that the lines
//! of the verification show in this order: the maker's root, the hardware's report, the runtime data, the attestation
//! key in them, the quote, the PCRs.

use cc_evidence::{
    Tee,
    azure::{AzureEvidence, EvidenceVersion, Hardware, HclReport},
    tpm::Attest,
};
use cc_verify::azure::{read_hcl, verify_binding, verify_tpm};
use serde_json::{Map, Value, json};

use super::{
    Check, Inspection, Trust,
    certificate::{self, Certificate},
    dcap, snp,
};
use crate::table::Table;

/// Name of the lines about what only the asker knows.
const BINDINGS: &str = "bindings";

/// Explains a bare HCL report; `leaf` is the certificate of the key that signed the report of an AMD processor.
pub(super) fn hcl_report(
    bytes: &[u8],
    leaf: Option<&Certificate>,
    trust: &Trust,
) -> Result<Inspection, String> {
    let hcl = HclReport::parse(bytes).map_err(|error| error.to_string())?;
    let hardware = match hcl.hardware() {
        Hardware::Snp(_) => snp::report(hcl.hardware_bytes(), leaf, trust)?,
        Hardware::Tdx(_) => dcap::report(hcl.hardware_bytes())?,
    };
    Ok(around("hcl-report", &hcl, hardware))
}

/// Explains evidence JSON of any version; `leaf` replaces the certificate in it.
pub(super) fn evidence(text: &str, leaf: Option<&Certificate>, trust: &Trust) -> Result<Inspection, String> {
    let tee = if names_td_quote(text) { Tee::AzTdxVtpm } else { Tee::AzSnpVtpm };
    let evidence = AzureEvidence::from_json(tee, text).map_err(|error| error.to_string())?;
    let hcl = read_hcl(&evidence).map_err(|why| why.to_string())?;
    let hardware = match tee {
        Tee::AzTdxVtpm => dcap::quote(&evidence.endorsement, trust)?,
        _ => {
            let own = read_vcek(&evidence.endorsement);
            let mut hardware = snp::report(hcl.hardware_bytes(), leaf.or_else(|| own.as_ref().ok()), trust)?;
            if let Err(why) = own {
                hardware.checks.push(Check::failed("certificate", format!("vcek is unreadable: {why}")));
            }
            hardware
        }
    };
    let mut inspection = around("azure-evidence", &hcl, hardware);
    inspection.facts.insert("version".into(), evidence.version.number().into());
    if tee == Tee::AzTdxVtpm {
        inspection.checks.push(same_domain(&evidence, &hcl));
    }
    let nonce = Attest::parse(&evidence.quote.message).map(|said| said.extra_data);
    show_quote(&evidence, nonce.as_deref().unwrap_or_default(), &mut inspection);
    let nonce = nonce.map_err(|error| error.to_string());
    inspection.checks.push(quote(&evidence, &hcl, nonce.as_deref()));
    inspection.checks.push(freshness(&evidence, &hcl, nonce.as_deref()));
    inspection.checks.push(Check::not_verified(
        BINDINGS,
        "which nonce and which PCR values are the right ones is known only to whoever asked for the quote",
    ));
    Ok(inspection)
}

/// Adds to what the hardware says what the paravisor makes of it.
fn around(kind: &'static str, hcl: &HclReport, hardware: Inspection) -> Inspection {
    let Inspection { mut facts, mut table, mut checks, .. } = hardware;
    let runtime = hcl.runtime();
    let configuration = Value::Object(runtime.vm_configuration.clone());
    table
        .section("HCL report (paravisor)")
        .row("version", hcl.version.to_string())
        .row("platform", hcl.tee().as_str())
        .row("keys", runtime.key_names.join(", "))
        .row("attestation key", format!("RSA, {} bits", runtime.ak.modulus.len() * 8))
        .row("configuration", configuration.to_string());
    match &runtime.user_data {
        Some(user_data) => table.bytes("user data", user_data),
        None => table.row("user data", "none"),
    };
    facts.insert(
        "hcl".into(),
        json!({
            "version": hcl.version,
            "tee": hcl.tee().as_str(),
            "hash": hcl.hash.as_str(),
            "keys": runtime.key_names,
            "ak_modulus": hex::encode(&runtime.ak.modulus),
            "ak_exponent": hex::encode(&runtime.ak.exponent),
            "vm_configuration": configuration,
            "user_data": runtime.user_data.as_ref().map(hex::encode),
        }),
    );
    // The hardware's report data are the runtime data's hash, no question of anybody.
    checks.retain(|check| check.name != BINDINGS);
    let bound = "the hardware's report data are their hash: whatever vouches for the report vouches for them";
    checks.push(Check::of("runtime data", bound.to_owned(), verify_binding(hcl)));
    Inspection { kind, facts, table, checks }
}

/// On TDX two reports of the domain are in evidence; the quote counts.
fn same_domain(evidence: &AzureEvidence, hcl: &HclReport) -> Check {
    const NAME: &str = "quoted report";
    let quoted = cc_evidence::tdx::Quote::parse(&evidence.endorsement).map(|quote| quote.body.report_data);
    if quoted.is_ok_and(|data| data == *hcl.report_data()) {
        Check::verified(NAME, "the TDX quote is over the TDREPORT in the HCL report")
    } else {
        Check::failed(NAME, "the TDX quote is over another TDREPORT than the one in the HCL report")
    }
}

fn show_quote(evidence: &AzureEvidence, nonce: &[u8], inspection: &mut Inspection) {
    let table: &mut Table = &mut inspection.table;
    table.section("TPM quote").bytes("nonce", nonce);
    let mut pcrs = Map::new();
    for (number, value) in evidence.quote.pcrs.iter().enumerate() {
        // Registers of zeros say nothing to people.
        if *value != [0; 32] {
            table.bytes(&format!("pcr {number}"), value);
        }
        pcrs.insert(format!("pcr{number:02}"), hex::encode(value).into());
    }
    inspection.facts.insert("nonce".into(), hex::encode(nonce).into());
    inspection.facts.insert("pcrs".into(), pcrs.into());
}

/// Signature, selection and PCR values; the nonce stands in for itself.
fn quote(evidence: &AzureEvidence, hcl: &HclReport, nonce: Result<&[u8], &String>) -> Check {
    const NAME: &str = "TPM quote";
    match nonce {
        Err(why) => Check::failed(NAME, why.as_str()),
        Ok([]) => Check::not_verified(NAME, "it has no nonce: it answers no question"),
        Ok(nonce) => Check::of(
            NAME,
            "signed by the attestation key of the runtime data, over exactly these 24 PCR values".to_owned(),
            verify_tpm(evidence, hcl, nonce),
        ),
    }
}

/// Whether the hardware's report is of the same request as the quote.
fn freshness(evidence: &AzureEvidence, hcl: &HclReport, nonce: Result<&[u8], &String>) -> Check {
    const NAME: &str = "hardware freshness";
    let same = nonce.is_ok_and(|nonce| hcl.runtime().has_user_data(nonce));
    match (evidence.version >= EvidenceVersion::V2, same) {
        (_, true) => Check::verified(NAME, "the quote's nonce is in the runtime data too"),
        (true, false) => Check::failed(NAME, "the quote's nonce is not in the runtime data: an older report"),
        (false, false) => Check::not_verified(
            NAME,
            format!(
                "version {} leaves it open: the report may be of any time since the machine started",
                evidence.version.number()
            ),
        ),
    }
}

/// The certificate in evidence: DER, in version 0 PEM.
fn read_vcek(bytes: &[u8]) -> Result<Certificate, String> {
    let der = match std::str::from_utf8(bytes) {
        Ok(pem) => certificate::split_pem(pem)?.into_iter().next().unwrap_or_default(),
        Err(_) => bytes.to_vec(),
    };
    Certificate::read(der)
}

/// The hardware below, told by the member that only one kind has.
fn names_td_quote(text: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Members {
        td_quote: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_str::<Members>(text).is_ok_and(|members| members.td_quote.is_some())
}
