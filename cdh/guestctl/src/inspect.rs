//! `guestctl inspect`: what a file holds, field by field, and what can be verified about it offline.
//!
//! It needs no daemon and no network. What it cannot verify it names together with the reason; it never calls a file
//! good as a whole, because whether the values are the expected ones is a matter of policy.

mod azure;
mod cca;
mod certificate;
mod csv;
mod dcap;
mod eventlog;
mod initdata;
mod nvidia;
mod recognise;
mod snp;
mod token;
mod tpm;

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cc_evidence::initdata::InitData;
use cc_verify::{TrustRoots, cca::PlatformKeys, tdx::Collateral, token_key::SignerRoots};
use der::DateTime;
use serde_json::{Map, Value, json};

use self::{
    certificate::Certificate,
    recognise::{Content, recognise},
};
use crate::{
    failure::Failure,
    initdata::Form,
    output::Console,
    table::{Mark, Table},
};

/// Longest input, in bytes: more than any evidence, init-data or token that the daemons accept.
const INPUT_MAX: u64 = 4 << 20;

/// What the operator gives.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Recognised by content: SNP report, SNP evidence JSON, SNP certificate table, TDX quote, TDX evidence JSON, TDREPORT,
SGX quote, TPM quote, TPM evidence JSON, evidence JSON and HCL reports of Azure machines, Arm CCA token and evidence JSON, CSV evidence JSON, NVIDIA GPU report and
evidence JSON (alone or among that of all further devices), event logs (CCEL, of a TPM, the agent's), certificates
(DER or PEM), attestation token, init-data (TOML, annotation, device image). Exits with 1 when a verification fails; what could not be verified is listed and is no failure.

Example:
  guestctl inspect evidence.json
  guestctl inspect quote.bin --collateral pcs-answers/
  guestctl inspect /sys/firmware/acpi/tables/data/CCEL --registers evidence.json
  guestctl inspect tpm.json --event-log /sys/kernel/security/tpm0/binary_bios_measurements
  guestctl inspect gpu-report.bin --chain gpu-chain.pem
  guestctl inspect token.jwt --roots attestation-service-ca.pem
  guestctl inspect report.bin --cert vcek.der --at 2025-06-01T00:00:00Z --json")]
pub(crate) struct Args {
    /// The file, or - for standard input
    file: PathBuf,
    /// Certificate (DER or PEM) of the key that signed the report
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Certificate chain (PEM, leaf first) of the key that signed a GPU report
    #[arg(long, value_name = "FILE.pem")]
    chain: Option<PathBuf>,
    /// Trust these authorities (PEM: ASK, ARK, ASVK, or a root for TDX or for GPUs), for instance an emulator's, besides the
    /// vendors'; for a token the roots of the attestation service
    #[arg(long, value_name = "FILE.pem")]
    roots: Option<PathBuf>,
    /// What Intel says about the platform of a TDX quote: tcbInfo.json, qeIdentity.json, tcb-signing-chain.pem and
    /// revocation lists (*.crl)
    #[arg(long, value_name = "DIR")]
    collateral: Option<PathBuf>,
    /// Compare an event log with the registers in this TDX quote, TDX evidence or TDREPORT, which is not verified here
    #[arg(long, value_name = "FILE")]
    registers: Option<PathBuf>,
    /// Public attestation keys of Arm CCA platforms (PEM, JWK, or a list of {pkey, implementation-id, instance-id})
    #[arg(long, value_name = "FILE")]
    cca_keys: Option<PathBuf>,
    /// What the firmware measured into the TPM of TPM evidence, to explain its PCRs
    #[arg(long, value_name = "FILE")]
    event_log: Option<PathBuf>,
    /// Judge validity dates at this moment instead of now: RFC 3339 in UTC (2025-06-01T00:00:00Z) or Unix seconds
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    at: Option<Moment>,
}

/// Seconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub(crate) u64);

impl Moment {
    /// The present, by this machine's clock.
    pub(crate) fn now() -> Self {
        Self(SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default())
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match DateTime::from_unix_duration(Duration::from_secs(self.0)) {
            Ok(date) => date.fmt(f),
            // Beyond the year 9999.
            Err(_) => write!(f, "{} s after 1970", self.0),
        }
    }
}

/// What is trusted, and when.
#[derive(Debug)]
pub(crate) struct Trust {
    pub(crate) roots: TrustRoots,
    /// SHA-256, in hexadecimal, of the certificates given with `--roots`.
    pub(crate) given: Vec<String>,
    pub(crate) at: Moment,
    /// Keys of Arm CCA platforms, when they were given.
    pub(crate) cca_keys: PlatformKeys,
    /// What Intel says about platforms, when it was given.
    pub(crate) collateral: Option<Collateral>,
    /// The roots of the attestation service, when a token is inspected and they were given.
    pub(crate) signers: Option<SignerRoots>,
}

/// One verification that was made, or could not be made.
#[derive(Debug)]
pub(crate) struct Check {
    name: &'static str,
    mark: Mark,
    detail: String,
}

impl Check {
    pub(crate) fn verified(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, mark: Mark::Ok, detail: detail.into() }
    }

    pub(crate) fn failed(name: &'static str, why: impl Into<String>) -> Self {
        Self { name, mark: Mark::Fail, detail: why.into() }
    }

    pub(crate) fn not_verified(name: &'static str, why: impl Into<String>) -> Self {
        Self { name, mark: Mark::Open, detail: why.into() }
    }

    /// The outcome of a verification that either passes or says why not.
    pub(crate) fn of<E: std::fmt::Display>(
        name: &'static str,
        passed: String,
        outcome: Result<(), E>,
    ) -> Self {
        match outcome {
            Ok(()) => Self::verified(name, passed),
            Err(why) => Self::failed(name, why.to_string()),
        }
    }

    pub(crate) fn is_verified(&self) -> bool {
        self.mark == Mark::Ok
    }

    fn outcome(&self) -> &'static str {
        match self.mark {
            Mark::Ok => "verified",
            Mark::Fail => "failed",
            Mark::Warn | Mark::Open => "not verified",
        }
    }
}

/// All that is known about one file.
#[derive(Debug)]
pub(crate) struct Inspection {
    /// Kind of content, for programs.
    pub(crate) kind: &'static str,
    /// The fields, for programs.
    pub(crate) facts: Map<String, Value>,
    /// The fields, for people.
    pub(crate) table: Table,
    /// What was verified.
    pub(crate) checks: Vec<Check>,
}

impl Inspection {
    /// Prints the fields and the verifications. A failed verification is an error, after all has been printed.
    pub(crate) fn show(mut self, as_json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
        if as_json {
            let checks: Vec<Value> = self
                .checks
                .iter()
                .map(|check| json!({"check": check.name, "outcome": check.outcome(), "detail": check.detail}))
                .collect();
            let mut document = Map::from_iter([("kind".to_owned(), self.kind.into())]);
            document.append(&mut self.facts);
            document.insert("checks".into(), checks.into());
            console.json(&document.into())?;
        } else {
            if !self.checks.is_empty() {
                self.table.section("verification");
            }
            for check in &self.checks {
                self.table.verdict(check.mark, check.name, format!("{}: {}", check.outcome(), check.detail));
            }
            console.table(&self.table)?;
        }
        let failed = self.checks.iter().filter(|check| check.mark == Mark::Fail).count();
        if failed > 0 { Err(Failure::Checks { failed, all: self.checks.len() }) } else { Ok(()) }
    }
}

/// Reads, recognises, explains and verifies the file.
pub(crate) fn run(args: &Args, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let bytes = read_bounded(&args.file)?;
    let path = || args.file.clone();
    let content = recognise(&bytes).map_err(|why| Failure::Unrecognised { path: path(), why })?;
    let trust = trust(args, content)?;
    let leaf = match &args.cert {
        Some(path) => Some(certificate::single(path, read_bounded(path)?)?),
        None => None,
    };
    let has_report = matches!(
        content,
        Content::SnpReport(_) | Content::SnpEvidence(_) | Content::HclReport(_) | Content::AzureEvidence(_)
    );
    if leaf.is_some() && !has_report {
        return Err(Failure::Argument {
            argument: "--cert".into(),
            why: "only a report or evidence is signed by the key of such a certificate".into(),
            hint: "leave --cert away".into(),
        });
    }
    let chain = args.chain.as_deref().map(read_bounded).transpose()?;
    if chain.is_some() && !matches!(content, Content::NvidiaReport(_)) {
        return Err(Failure::Argument {
            argument: "--chain".into(),
            why: "only a bare GPU report needs it; evidence has its chain inside".into(),
            hint: "leave --chain away".into(),
        });
    }
    let has_quote =
        matches!(content, Content::TdxQuote(_) | Content::QuoteEvidence(_) | Content::AzureEvidence(_));
    if trust.collateral.is_some() && !has_quote {
        return Err(Failure::Argument {
            argument: "--collateral".into(),
            why: "only a TDX quote or evidence is rated by it".into(),
            hint: "leave --collateral away".into(),
        });
    }
    let is_log = matches!(content, Content::EventLog(_) | Content::AgentLog(_));
    let registers = match &args.registers {
        Some(path) if is_log => Some(registers(path)?),
        Some(_) => {
            return Err(Failure::Argument {
                argument: "--registers".into(),
                why: "only an event log is compared with them".into(),
                hint: "leave --registers away".into(),
            });
        }
        None => None,
    };
    if args.cca_keys.is_some() && !matches!(content, Content::CcaToken(_) | Content::CcaEvidence(_)) {
        return Err(Failure::Argument {
            argument: "--cca-keys".into(),
            why: "only an Arm CCA token or evidence is signed by such a key".into(),
            hint: "leave --cca-keys away".into(),
        });
    }
    let event_log = args.event_log.as_deref().map(read_bounded).transpose()?;
    if event_log.is_some() && !matches!(content, Content::TpmEvidence(_)) {
        return Err(Failure::Argument {
            argument: "--event-log".into(),
            why: "only TPM evidence is explained by it; other evidence carries its log".into(),
            hint: "leave --event-log away".into(),
        });
    }
    let beside = Beside {
        leaf: leaf.as_ref(),
        registers: registers.as_ref(),
        event_log: event_log.as_deref(),
        chain: chain.as_deref(),
    };
    explain(content, &beside, &trust)
        .map_err(|why| Failure::Malformed { path: path(), kind: content.name(), why })?
        .show(json, console)
}

/// What was given beside the file.
#[derive(Clone, Copy, Debug, Default)]
struct Beside<'a> {
    leaf: Option<&'a Certificate>,
    registers: Option<&'a eventlog::Rtmr>,
    event_log: Option<&'a [u8]>,
    chain: Option<&'a [u8]>,
}

/// The run-time registers in the file at `path`.
fn registers(path: &Path) -> Result<eventlog::Rtmr, Failure> {
    let bytes = read_bounded(path)?;
    let unrecognised = |why| Failure::Unrecognised { path: path.to_owned(), why };
    let content = recognise(&bytes).map_err(unrecognised)?;
    eventlog::registers_of(content).map_err(|why| Failure::Malformed {
        path: path.to_owned(),
        kind: content.name(),
        why,
    })
}

fn explain(content: Content<'_>, beside: &Beside<'_>, trust: &Trust) -> Result<Inspection, String> {
    let Beside { leaf, registers, event_log, chain } = *beside;
    match content {
        Content::EventLog(bytes) => eventlog::inspect(bytes, registers),
        Content::AgentLog(bytes) => eventlog::agent(bytes, registers),
        Content::SnpReport(bytes) => snp::report(bytes, leaf, trust),
        Content::SnpEvidence(text) => snp::evidence(text, leaf, trust),
        Content::TdxQuote(bytes) => dcap::quote(bytes, trust),
        Content::QuoteEvidence(text) => dcap::evidence(text, trust),
        Content::TdReport(bytes) => dcap::report(bytes),
        Content::HclReport(bytes) => azure::hcl_report(bytes, leaf, trust),
        Content::AzureEvidence(text) => azure::evidence(text, leaf, trust),
        Content::SgxQuote(bytes) => dcap::enclave_quote(bytes, trust),
        Content::CcaToken(bytes) => cca::token(bytes, trust),
        Content::CcaEvidence(text) => cca::evidence(text, trust),
        Content::CsvEvidence(text) => csv::evidence(text),
        Content::TpmQuote(bytes) => tpm::quote(bytes),
        Content::TpmEvidence(text) => tpm::evidence(text, event_log),
        Content::NvidiaReport(bytes) => nvidia::report(bytes, chain, trust),
        Content::NvidiaEvidence(text) => nvidia::evidence(text, trust),
        Content::CertTable(bytes) => snp::cert_table(bytes, trust),
        Content::CertificateDer(bytes) => certificate::inspect(vec![bytes.to_vec()], trust),
        Content::CertificatePem(text) => certificate::inspect(certificate::split_pem(text)?, trust),
        Content::Token(text) => token::inspect(text, trust.at, trust.signers.as_ref()),
        Content::InitData(bytes) => initdata::inspect(bytes),
    }
}

/// Explains an init-data document, for `guestctl initdata inspect`.
pub(crate) fn init_data(document: &InitData, form: Form) -> Inspection {
    initdata::explain(document, form)
}

/// Explains a token that was just fetched, for `guestctl token`.
pub(crate) fn fetched_token(text: &str) -> Result<Inspection, String> {
    token::inspect(text, Moment::now(), None)
}

fn trust(args: &Args, content: Content<'_>) -> Result<Trust, Failure> {
    let mut trust = Trust {
        roots: TrustRoots::vendor(),
        given: Vec::new(),
        at: args.at.unwrap_or_else(Moment::now),
        cca_keys: args.cca_keys.as_deref().map(cca_keys).transpose()?.unwrap_or_default(),
        collateral: args.collateral.as_deref().map(dcap::load_collateral).transpose()?,
        signers: None,
    };
    let Some(path) = &args.roots else { return Ok(trust) };
    let malformed = |why| Failure::Malformed { path: path.clone(), kind: "set of root certificates", why };
    let pem = String::from_utf8(read_bounded(path)?).map_err(|_| malformed("not PEM text".to_owned()))?;
    if matches!(content, Content::Token(_)) {
        trust.signers = Some(SignerRoots::from_pem(&pem).map_err(|error| malformed(error.to_string()))?);
        return Ok(trust);
    }
    trust.roots = trust.roots.with_test_roots(&pem).map_err(|error| malformed(error.to_string()))?;
    trust.given =
        certificate::split_pem(&pem).map_err(malformed)?.iter().map(|der| certificate::sha256(der)).collect();
    Ok(trust)
}

fn cca_keys(path: &Path) -> Result<PlatformKeys, Failure> {
    let malformed = |why| Failure::Malformed { path: path.to_owned(), kind: "set of CCA platform keys", why };
    let text = String::from_utf8(read_bounded(path)?).map_err(|_| malformed("not text".to_owned()))?;
    PlatformKeys::parse(&text).map_err(|error| malformed(error.to_string()))
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, Failure> {
    let unreadable = |source| Failure::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(unreadable)?)
    };
    input.take(INPUT_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > INPUT_MAX {
        let why = format!("longer than {} MiB, which nothing known here is", INPUT_MAX >> 20);
        return Err(Failure::Unrecognised { path: path.to_owned(), why });
    }
    Ok(bytes)
}

fn parse_moment(text: &str) -> Result<Moment, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Moment(seconds));
    }
    let date: DateTime =
        text.parse().map_err(|_| "neither Unix seconds nor a date like 2025-06-01T00:00:00Z".to_owned())?;
    Ok(Moment(date.unix_duration().as_secs()))
}

#[cfg(test)]
mod tests {
    use cc_evidence::snp::{CertEntry, CertKind, REPORT_LEN, cert_table};
    use proptest::prelude::*;

    use super::*;

    fn vendor_trust() -> Trust {
        let cca_keys = PlatformKeys::default();
        let at = Moment(1_748_736_000);
        Trust {
            roots: TrustRoots::vendor(),
            given: Vec::new(),
            at,
            cca_keys,
            collateral: None,
            signers: None,
        }
    }

    #[test]
    fn garbage_in_a_certificate_table_is_named_and_hides_nothing() {
        let entries = [
            CertEntry { kind: CertKind::Vcek, data: b"\x30\x03abc".to_vec() },
            CertEntry { kind: CertKind::Other([7; 16]), data: b"extra".to_vec() },
        ];
        let table = cert_table::encode(&entries).unwrap();
        let inspection = explain(recognise(&table).unwrap(), &Beside::default(), &vendor_trust()).unwrap();
        assert_eq!(inspection.facts["certs"][1]["bytes"], 5);
        assert!(
            inspection.checks.iter().any(|check| check.mark == Mark::Fail && check.detail.contains("VCEK"))
        );
    }

    proptest! {
        #[test]
        fn whatever_is_recognised_is_explained_or_refused(
            start in prop::sample::select(vec![
                &b""[..], b"\x30\x82\x01\x00\x30", b"{\"attestation_report\":", b"{\"report\":\"", b"eyJhIjoxfQ.eyJ9.",
                b"\xffTCG\x80\x18", b"{\"ak_public\":\"",
                b"\x04\0\x02\0\x81\0\0\0", b"\x03\0\x02\0\0\0\0\0", b"{\"quote\":\"BAACAIEAAAA=\"",
                b"\xd9\x01\x8f\xa2\x19\xac\xca", b"{\"token\":[217,1,143",
                b"\x11\xe0\x01\xff", b"{\"device_evidence_list\":[{",
                b"version = \"1\"\nalgorithm = \"sha256\"\n[data]\n", b"-----BEGIN CERTIFICATE-----\n",
                b"\x04\0\0\0\x06\0\0\0\x01\0\0\0\x0c\0", b"\0\0\0\0\x03\0\0\0",
                b"\x63\xda\x75\x8d\xe6\x64\x45\x64\xad\xc5\xf4\xb9\x3b\xe8\xac\xcd\x30\0\0\0\x08\0\0\0",
            ]),
            rest in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = [start, &rest].concat();
            if let Ok(content) = recognise(&bytes) {
                let _ = explain(content, &Beside::default(), &vendor_trust());
            }
        }

        #[test]
        fn any_report_is_explained_without_being_believed(
            version in 2u8..=15, body in prop::collection::vec(any::<u8>(), REPORT_LEN - 4),
        ) {
            let bytes = [&[version, 0, 0, 0], body.as_slice()].concat();
            let inspection = explain(recognise(&bytes).unwrap(), &Beside::default(), &vendor_trust()).unwrap();
            prop_assert!(!inspection.checks.iter().any(Check::is_verified));
            prop_assert_eq!(&inspection.facts["report"]["version"], &Value::from(version));
        }
    }

    #[test]
    fn moments_are_seconds_or_dates() {
        assert_eq!(parse_moment("0"), Ok(Moment(0)));
        assert_eq!(parse_moment("2025-06-01T00:00:00Z"), Ok(Moment(1_748_736_000)));
        for text in ["", "now", "2025-06-01", "2025-13-01T00:00:00Z", "-1"] {
            assert!(parse_moment(text).is_err(), "{text}");
        }
        assert_eq!(Moment(1_748_736_000).to_string(), "2025-06-01T00:00:00Z");
        assert_eq!(Moment(u64::MAX).to_string(), format!("{} s after 1970", u64::MAX));
    }
}
