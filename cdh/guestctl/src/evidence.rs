//! `guestctl evidence`: what this machine's hardware says, as the agent collects it.
//!
//! Shows, and verifies nothing: `guestctl inspect` judges what `--raw` gives.

use base64::{Engine, engine::general_purpose::STANDARD};
use cc_daemon::address::Address;
use cc_evidence::{additional::AdditionalEvidence, summary};
use cc_protos::attestation_agent::{GetAdditionalEvidenceRequest, GetEvidenceRequest, GetTeeTypeRequest};
use serde_json::{Map, Value, json};

use crate::{
    connect::{AGENT, Agent},
    failure::Failure,
    output::Console,
    table::Table,
};

/// Report data is at most this long, in bytes, on every platform.
const REPORT_DATA_MAX: usize = 64;

/// What the operator gives.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  guestctl evidence --report-data \"$(openssl rand -hex 64)\"
  guestctl evidence --raw > evidence.json && guestctl inspect evidence.json")]
pub(crate) struct Args {
    /// Report data in hexadecimal, at most 64 bytes; empty unless given
    #[arg(long, value_name = "HEX", conflicts_with = "base64")]
    report_data: Option<String>,
    /// Report data in standard base64, at most 64 bytes
    #[arg(long, value_name = "TEXT")]
    base64: Option<String>,
    /// Evidence of the further devices (GPUs) instead of the primary TEE
    #[arg(long)]
    additional: bool,
    /// Only the evidence JSON, byte for byte
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// Address of the attestation agent
    #[arg(long, value_name = "ADDR", default_value = AGENT)]
    aa: Address,
}

/// Evidence of one TEE.
#[derive(Debug)]
struct Piece {
    tee: String,
    json: String,
}

/// Asks for evidence and shows it.
pub(crate) async fn run(args: &Args, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let report_data = report_data(args)?;
    let agent = Agent::at(&args.aa);
    let answer = if args.additional {
        additional_evidence(&agent, report_data).await?
    } else {
        primary_evidence(&agent, report_data).await?
    };
    if args.raw {
        return console.raw("the evidence", answer.as_bytes(), false);
    }
    let pieces = if args.additional {
        split_additional(&answer)?
    } else {
        vec![Piece { tee: tee(&agent).await?, json: answer }]
    };
    if json { show_json(&pieces, console) } else { show_table(&pieces, console) }
}

async fn primary_evidence(agent: &Agent<'_>, runtime_data: Vec<u8>) -> Result<String, Failure> {
    let doing = "collecting evidence";
    let answer = agent.service().get_evidence(GetEvidenceRequest { runtime_data }).await;
    text_of(doing, answer.map_err(|status| agent.failed(doing, &status))?.into_inner().evidence)
}

async fn additional_evidence(agent: &Agent<'_>, runtime_data: Vec<u8>) -> Result<String, Failure> {
    let doing = "collecting evidence of further devices";
    let answer = agent.service().get_additional_evidence(GetAdditionalEvidenceRequest { runtime_data }).await;
    text_of(doing, answer.map_err(|status| agent.failed(doing, &status))?.into_inner().evidence)
}

async fn tee(agent: &Agent<'_>) -> Result<String, Failure> {
    let answer = agent.service().get_tee_type(GetTeeTypeRequest {}).await;
    Ok(answer.map_err(|status| agent.failed("asking for the TEE", &status))?.into_inner().tee)
}

fn text_of(doing: &str, bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|_| Failure::Garbled { doing: doing.into(), why: "is not UTF-8".into() })
}

/// One object with a member per device, or nothing at all where there is no device.
fn split_additional(answer: &str) -> Result<Vec<Piece>, Failure> {
    let devices = AdditionalEvidence::parse(answer).map_err(|_| Failure::Garbled {
        doing: "collecting evidence of further devices".into(),
        why: "is not an object with one member per device".into(),
    })?;
    Ok(devices.iter().map(|(tee, json)| Piece { tee: tee.to_owned(), json: json.to_owned() }).collect())
}

fn show_json(pieces: &[Piece], console: &mut Console<'_>) -> Result<(), Failure> {
    let piece = |piece: &Piece| {
        let mut summary: Map<String, Value> = Map::new();
        for (name, value) in summary::summarize(&piece.tee, &piece.json) {
            // Several GPUs have the same lines each: their values stand in a list, in the order of the GPUs.
            match summary.get_mut(&name) {
                None => drop(summary.insert(name, value.into())),
                Some(Value::Array(values)) => values.push(value.into()),
                Some(first) => *first = json!([first.take(), value]),
            }
        }
        let evidence: Value = serde_json::from_str(&piece.json).unwrap_or_else(|_| piece.json.clone().into());
        json!({"tee": piece.tee, "summary": summary, "evidence": evidence})
    };
    console.json(&json!({"pieces": pieces.iter().map(piece).collect::<Vec<_>>()}))
}

fn show_table(pieces: &[Piece], console: &mut Console<'_>) -> Result<(), Failure> {
    if pieces.is_empty() {
        return console.text("no further attesting devices\n");
    }
    let mut table = Table::new();
    for piece in pieces {
        table.section(&format!("{} evidence", piece.tee));
        for (name, value) in summary::summarize(&piece.tee, &piece.json) {
            table.row(&name, value);
        }
        if matches!(piece.tee.as_str(), "sample" | "sampledevice") {
            table.row("attention", "anyone can write this evidence; it proves nothing");
        }
        table.row("length", format!("{} bytes of JSON", piece.json.len()));
    }
    console.table(&table)
}

fn report_data(args: &Args) -> Result<Vec<u8>, Failure> {
    let refused = |argument: &str, why: String| Failure::Argument {
        argument: argument.into(),
        why,
        hint: format!("report data is 0 to {REPORT_DATA_MAX} bytes"),
    };
    let (argument, bytes) = match (&args.report_data, &args.base64) {
        (Some(text), _) => ("--report-data", hex::decode(text).map_err(|error| error.to_string())),
        (None, Some(text)) => ("--base64", STANDARD.decode(text).map_err(|error| error.to_string())),
        (None, None) => return Ok(Vec::new()),
    };
    let bytes = bytes.map_err(|why| refused(argument, why))?;
    if bytes.len() > REPORT_DATA_MAX {
        return Err(refused(argument, format!("{} bytes are too many", bytes.len())));
    }
    Ok(bytes)
}
