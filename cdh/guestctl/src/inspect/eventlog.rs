//! Event logs: firmware's (CCEL, or that of a TPM) and the agent's own, alone or joined.
//!
//! The records go into JSON and into the table, and are replayed with every algorithm that is known here. What a replay
//! gives is what the log CLAIMS; it counts only where a quote has the same values, so it is compared with the
//! registers of a quote, evidence or TDREPORT when one is given.

use std::collections::BTreeMap;

use cc_evidence::{
    HashAlgorithm,
    aael::Fields,
    ccel::{self, Declaration, Event, Events, replay, replay_pcrs, startup_locality, type_name},
    tdx::{Quote, TdReport, TdxEvidence},
};
use cc_verify::tdx::{Numbering, event_claims};
use serde_json::{Map, Value, json};

use super::{Check, Inspection, dcap, recognise::Content};
use crate::table::Table;

/// Identifier of SHA-1 in logs, with which nothing is replayed.
const SHA1: u16 = 0x0004;

/// The run-time registers that a log is compared with.
pub(super) type Rtmr = [[u8; 48]; 4];

/// Explains a log that begins with the record that declares its algorithms.
pub(super) fn inspect(log: &[u8], registers: Option<&Rtmr>) -> Result<Inspection, String> {
    explain("event-log", log, registers)
}

/// Explains the agent's own log: records without any before them.
pub(super) fn agent(records: &[u8], registers: Option<&Rtmr>) -> Result<Inspection, String> {
    let log = ccel::assemble(None, Some(records)).map_err(|error| error.to_string())?;
    explain("agent-event-log", &log.unwrap_or_default(), registers)
}

/// The registers in a quote, evidence or TDREPORT.
pub(super) fn registers_of(content: Content<'_>) -> Result<Rtmr, String> {
    let of_quote = |bytes: &[u8]| Quote::parse(bytes).map(|quote| quote.body.rtmr);
    match content {
        Content::TdxQuote(bytes) => of_quote(bytes),
        Content::QuoteEvidence(text) => {
            TdxEvidence::from_json(text).and_then(|evidence| of_quote(&evidence.quote))
        }
        Content::TdReport(bytes) => TdReport::parse(bytes).map(|report| report.td_info.rtmr),
        _ => {
            return Err(
                "it has no run-time registers; give a TDX quote, TDX evidence or a TDREPORT".to_owned()
            );
        }
    }
    .map_err(|error| error.to_string())
}

/// Register values by their numbers in the log.
type Values = BTreeMap<u32, Vec<u8>>;

/// The replay with one algorithm, or why there is none.
struct Replay {
    hash: HashAlgorithm,
    outcome: Result<Values, String>,
}

/// A log that was walked over once.
struct Walk<'a> {
    declared: Declaration,
    events: Vec<Event<'a>>,
    /// Where the last record ends.
    end: usize,
}

impl<'a> Walk<'a> {
    fn of(log: &'a [u8]) -> Result<Self, String> {
        let mut walk = Events::new(log).map_err(|error| error.to_string())?;
        let declared = walk.declaration().clone();
        let mut events = Vec::new();
        while let Some(event) = walk.next() {
            let at = walk.offset();
            events.push(event.map_err(|error| format!("record {} at byte {at}: {error}", events.len() + 1))?);
        }
        Ok(Self { declared, events, end: walk.offset() })
    }

    /// Registers of a TPM have other numbers than those of confidential guests, and the log does not say which it is of.
    fn is_of_a_tpm(&self) -> bool {
        let beyond = |event: &&Event<'_>| {
            event.is_measured() && usize::try_from(event.register).is_ok_and(|n| n >= ccel::REGISTERS)
        };
        self.declared.algorithms.iter().any(|(id, _)| *id == SHA1)
            || self.events.iter().any(|event| beyond(&event))
    }

    /// The register values for every algorithm that is known, or why there are none.
    fn replays(&self, log: &[u8]) -> Vec<Replay> {
        let measured =
            |register: u32| self.events.iter().any(|event| event.is_measured() && event.register == register);
        // The agent's header declares two algorithms, one of which has no digests.
        let used = |hash: &HashAlgorithm| {
            let has = |event: &Event<'_>| event.digests.iter().any(|digest| digest.hash() == Some(*hash));
            self.events.iter().any(|event| event.is_measured() && has(event))
        };
        let replayed = |hash| -> Result<Values, cc_evidence::Error> {
            if self.is_of_a_tpm() {
                return replay_pcrs(log, hash);
            }
            let registers = replay(log, hash)?;
            Ok((1..)
                .zip(registers.run_time().map(<[u8]>::to_vec))
                .filter(|(index, _)| measured(*index))
                .collect())
        };
        let known = HashAlgorithm::ALL.into_iter().filter(used);
        known
            .map(|hash| Replay { hash, outcome: replayed(hash).map_err(|error| error.to_string()) })
            .collect()
    }
}

fn explain(kind: &'static str, log: &[u8], registers: Option<&Rtmr>) -> Result<Inspection, String> {
    let walk = Walk::of(log)?;
    let of_a_tpm = walk.is_of_a_tpm();
    let numbering = if of_a_tpm { Numbering::Pcr } else { Numbering::RunTime };
    let claims = event_claims(log, numbering).map_err(|error| error.to_string())?;
    let replays = walk.replays(log);

    let mut table = Table::new();
    let algorithms = walk.declared.algorithms.iter().map(|(id, _)| algorithm_name(*id)).collect::<Vec<_>>();
    table
        .section(if of_a_tpm { "event log of a TPM" } else { "event log of a confidential guest" })
        .row("records", walk.events.len().to_string())
        .row("length", format!("{} of {} bytes", walk.end, log.len()))
        .row("algorithms", algorithms.join(", "));
    for Replay { hash, outcome } in &replays {
        for (register, value) in outcome.iter().flatten() {
            table.bytes(&register_name(*hash, *register, of_a_tpm), value);
        }
    }
    table.section("records");
    for claim in &claims {
        table.row(&format!("{} {}", claim.index, claim.type_name), dcap::event_text(claim));
    }

    let facts = Map::from_iter([
        ("log".to_owned(), log_json(&walk, &algorithms, &replays, log.len())),
        ("events".to_owned(), json!(claims)),
    ]);
    let checks = checks(&replays, log, registers, of_a_tpm);
    Ok(Inspection { kind, facts, table, checks })
}

fn checks(replays: &[Replay], log: &[u8], registers: Option<&Rtmr>, of_a_tpm: bool) -> Vec<Check> {
    let failed = |replay: &Replay| {
        let why = replay.outcome.as_ref().err()?;
        Some(Check::failed("replay", format!("{}: {why}", replay.hash)))
    };
    let mut checks: Vec<Check> = replays.iter().filter_map(failed).collect();
    checks.push(match registers {
        Some(_) if of_a_tpm => Check::not_verified("event log", "the registers given are not those of a TPM"),
        Some(rtmr) => dcap::event_log(log, rtmr),
        None => Check::not_verified(
            "event log",
            "its digests count only where a quote has the registers that they lead to; give --registers",
        ),
    });
    checks
}

fn log_json(walk: &Walk<'_>, algorithms: &[String], replays: &[Replay], len: usize) -> Value {
    let mut types: BTreeMap<String, u32> = BTreeMap::new();
    for event in &walk.events {
        let name =
            type_name(event.event_type).map_or_else(|| format!("{:#x}", event.event_type), str::to_owned);
        *types.entry(name).or_default() += 1;
    }
    let mut values = Map::new();
    for Replay { hash, outcome } in replays {
        for (register, value) in outcome.iter().flatten() {
            values.insert(format!("{hash}:{register}"), hex::encode(value).into());
        }
    }
    let agents: Vec<Value> = walk
        .events
        .iter()
        .filter(|event| event.event_type == ccel::EV_EVENT_TAG)
        .filter_map(|event| Some((event.register, Fields::of_data(event.data)?)))
        .map(|(register, f)| json!([register, format!("{} {} {}", f.domain, f.operation, f.content)]))
        .collect();
    json!({
        "first_pcr": walk.declared.register,
        "first_type": "EV_NO_ACTION",
        "spec_sig": if walk.declared.signed { "Spec ID Event03" } else { "" },
        "algs": algorithms,
        "events": walk.events.len(),
        "end_offset": walk.end,
        "file_len": len,
        "startup_locality": walk.events.iter().find_map(startup_locality),
        "types": types,
        "replay": values,
        "no_action_in_log": walk.events.iter().filter(|event| !event.is_measured()).count(),
        "aael": agents,
    })
}

fn algorithm_name(id: u16) -> String {
    match HashAlgorithm::from_tcg_id(id) {
        Some(hash) => hash.as_str().to_owned(),
        None if id == SHA1 => "sha1".to_owned(),
        None => format!("{id:#06x}"),
    }
}

fn register_name(hash: HashAlgorithm, register: u32, of_a_tpm: bool) -> String {
    if of_a_tpm {
        return format!("{hash} PCR {register}");
    }
    // Index 0 stands for the initial content, which nothing extends.
    format!("{hash} {register} (RTMR{})", register.saturating_sub(1))
}
