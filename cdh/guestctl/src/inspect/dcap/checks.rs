//! Which verifications are made of a quote, and what is said of those that cannot be made.

use cc_evidence::{
    HashAlgorithm, ccel,
    tdx::{Quote, TdReport},
};
use cc_verify::{
    Rejection,
    tdx::{ChainReport, TcbReport, TcbStatus, verify_tcb},
};
use serde_json::{Value, json};

use crate::inspect::{Check, Trust};

const SIGNATURE: &str = "quote signature";
const ENCLAVE: &str = "quoting enclave";
const CHAIN: &str = "certificate chain";
const DATES: &str = "dates";
const LEVEL: &str = "tcb level";
const COLLATERAL: &str = "collateral dates";

/// Chain, dates, quoting enclave and signature. The library checks them in this order and stops at the first that
/// fails, so that a failure is good news about those before it.
pub(super) fn quote_checks(outcome: &Result<ChainReport, Rejection>, trust: &Trust) -> Vec<Check> {
    let steps = [
        (CHAIN, "signed under a trusted root".to_owned()),
        (DATES, format!("every certificate is valid at {}", trust.at)),
        (ENCLAVE, "its report is signed by the platform's key and binds the attestation key".to_owned()),
        (SIGNATURE, "made by the attestation key over these bytes".to_owned()),
    ];
    let (failed, why) = match outcome {
        Ok(chain) => {
            let root = if chain.test_root() { "a root given with --roots" } else { "Intel's root" };
            let mut checks: Vec<Check> =
                steps.into_iter().map(|(name, passed)| Check::verified(name, passed)).collect();
            if let Some(first) = checks.first_mut() {
                *first = Check::verified(CHAIN, format!("{} ({root})", chain.names().join(", signed by ")));
            }
            return checks;
        }
        Err(why @ Rejection::Validity { .. }) => (DATES, why),
        Err(why @ (Rejection::QeReport | Rejection::QeBinding)) => (ENCLAVE, why),
        Err(why @ Rejection::QuoteSignature) => (SIGNATURE, why),
        Err(why) => (CHAIN, why),
    };
    let mut reached = false;
    steps
        .into_iter()
        .map(|(name, passed)| {
            if reached {
                return Check::not_verified(name, format!("it counts only when this holds: {failed}"));
            }
            reached = name == failed;
            if reached { Check::failed(name, why.to_string()) } else { Check::verified(name, passed) }
        })
        .collect()
}

/// Rates the machine by the collateral given; the rating as JSON as well.
pub(super) fn level(quote: &Quote, chain: Option<&ChainReport>, trust: &Trust) -> (Vec<Check>, Value) {
    let open = |why| (vec![Check::not_verified(LEVEL, why)], Value::Null);
    let Some(chain) = chain else { return open("it counts only for a quote that is verified".to_owned()) };
    let Some(collateral) = &trust.collateral else {
        return open(format!(
            "give --collateral with what Intel says about FMSPC {}",
            hex::encode(chain.pck().fmspc)
        ));
    };
    match verify_tcb(quote, chain, collateral, trust.at.0) {
        Ok(report) => (rated(&report, trust), tcb_json(&report)),
        Err(why) => (vec![Check::failed(LEVEL, why.to_string())], Value::Null),
    }
}

fn rated(report: &TcbReport, trust: &Trust) -> Vec<Check> {
    let advisories = if report.advisory_ids.is_empty() {
        String::new()
    } else {
        format!(", {}", report.advisory_ids.join(", "))
    };
    let rating = format!("{}, level of {}{advisories}", report.status, report.tcb_date);
    let up_to_date = [report.status, report.current_status] == [TcbStatus::UpToDate; 2];
    let level = if up_to_date {
        Check::verified(LEVEL, rating)
    } else {
        Check::failed(LEVEL, format!("{rating}; BIOS, microcode or TDX module of the host need an update"))
    };
    let dates = if report.collateral_expired {
        Check::failed(COLLATERAL, format!("some of it has expired at {}; fetch it again", trust.at))
    } else {
        Check::verified(COLLATERAL, format!("all of it is valid at {}", trust.at))
    };
    vec![level, dates]
}

fn tcb_json(report: &TcbReport) -> Value {
    json!({
        "status": report.status,
        "status_current": report.current_status,
        "date": report.tcb_date,
        "advisory_ids": report.advisory_ids,
        "evaluation": report.evaluation_number,
        "collateral_expired": report.collateral_expired,
    })
}

/// Whether the log leads to the registers of the quote.
pub(in crate::inspect) fn event_log(log: &[u8], rtmr: &[[u8; 48]; 4]) -> Check {
    const NAME: &str = "event log";
    let registers = match ccel::replay(log, HashAlgorithm::Sha384) {
        Ok(registers) => registers,
        Err(error) => return Check::failed(NAME, error.to_string()),
    };
    let different: Vec<String> = registers
        .run_time()
        .zip(rtmr)
        .enumerate()
        .filter(|(_, (replayed, quoted))| replayed != quoted)
        .map(|(number, _)| format!("RTMR{number}"))
        .collect();
    if different.is_empty() {
        Check::verified(NAME, "its digests lead to the registers of the quote; its texts are not covered")
    } else {
        Check::failed(NAME, format!("its digests lead to other values in {}", different.join(", ")))
    }
}

/// What nobody but the asker can check.
pub(super) fn bindings(what: &str) -> Check {
    let why = format!("which {what} are the right ones is known only to whoever asked for the quote");
    Check::not_verified("bindings", why)
}

/// The digests inside a TDREPORT, and its authentication code.
pub(super) fn report_checks(report: &TdReport) -> Vec<Check> {
    let digest = |name, part: &str, intact| {
        if intact {
            Check::verified(name, format!("{part} has the digest that the code covers"))
        } else {
            Check::failed(name, format!("{part} does not have the digest that the code covers"))
        }
    };
    vec![
        digest("module digest", "the part about the TDX module", report.tcb_info_intact()),
        digest("domain digest", "the part about the domain", report.td_info_intact()),
        Check::not_verified("mac", "only the processor that made it can; ask for a quote instead"),
    ]
}
