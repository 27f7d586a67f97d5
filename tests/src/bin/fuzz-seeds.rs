//! Writes the seeds that no text editor can: evidence of emulated machines, sealed secrets, frames.
//!
//! `cargo run -p cc-tests --bin fuzz-seeds TARGET...` puts one file a case into `tests/fuzz/seeds/TARGET/`, without
//! names for all targets; all files begin with `made-`. The keys behind the signatures are made for the run and are gone
//! afterwards. Texts are written by hand and stand beside them.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use cc_crypto::{KeyAlgorithm, TeeKeyPair, jwe};
use cc_evidence::HashAlgorithm;
use cc_evidence::Tee::AzSnpVtpm;
use cc_evidence::azure::{AzureEvidence, EvidenceVersion, TpmQuote};
use cc_evidence::initdata::carrier;
use cc_evidence::snp::{CertEntry, CertKind, Report, SnpEvidence, cert_table};
use cc_evidence::tdx::{Quote, TdxEvidence};
use cc_evidence::tpm::PCR_COUNT;
use cc_tests::eventlog::EventLog;
use serde_json::json;
use tee_emulator::machine::{Hex, Product, Td, Tee};
use tee_emulator::{Collateral, IntelChain, Machine, TestChain};

const REPORT_DATA: [u8; 64] = [0xDA; 64];

type Seed = (&'static str, String, Vec<u8>);

fn main() -> Result<()> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds"));
    let seeds = [snp()?, tdx()?, azure()?, init_data()?, event_logs(), keys()?, frames()?].concat();
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    for (target, name, bytes) in seeds {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == target) {
            continue;
        }
        let folder = folder.join(target);
        let path = folder.join(format!("made-{name}"));
        std::fs::create_dir_all(folder)?;
        std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Reports, tables and evidence of three generations of processors.
fn snp() -> Result<Vec<Seed>> {
    let mut seeds = Vec::new();
    for (product, version) in [(Product::Milan, 2), (Product::Genoa, 3), (Product::Turin, 5)] {
        let machine = Machine { product, report_version: version, ..Machine::default() };
        let chain = TestChain::generate(product)?;
        let bytes = tee_emulator::report::build(&chain, &machine, &REPORT_DATA, 1, &[7; 32])?;
        let report = Report::parse(&bytes)?;
        let vcek = CertEntry { kind: CertKind::Vcek, data: chain.vcek_der(&machine)? };
        let name = product.name().to_lowercase();
        seeds.push(("snp_report", name.clone(), bytes.to_vec()));
        if product == Product::Genoa {
            let bytes = tee_emulator::report::build(&chain, &machine, &REPORT_DATA, 0, &[7; 32])?;
            let roots = chain.roots_pem()?;
            let all = parts(&[&now()?, roots.as_bytes(), &bytes, &vcek.data]);
            seeds.push(("snp_verify", name.clone(), all));
        }
        if product == Product::Genoa {
            let raw = json!({ "report": BASE64_URL_SAFE_NO_PAD.encode(bytes), "cert_chain": null });
            seeds.push(("snp_json", "bytes".into(), raw.to_string().into_bytes()));
        }
        if product == Product::Milan {
            let all = [
                vcek.clone(),
                CertEntry { kind: CertKind::Crl, data: vec![0x30, 0] },
                CertEntry { kind: CertKind::Other([9; 16]), data: b"-----BEGIN".to_vec() },
            ];
            seeds.push(("cert_table", "three".into(), cert_table::encode(&all)?));
            seeds.push(("cert_table", "none".into(), cert_table::encode(&[])?));
        }
        let certs = if product == Product::Turin { vec![vcek] } else { Vec::new() };
        seeds.push(("snp_json", name, SnpEvidence { report, certs }.to_json()?.into_bytes()));
    }
    Ok(seeds)
}

/// Quotes of all versions that are read, reports of the module, evidence and collateral.
fn tdx() -> Result<Vec<Seed>> {
    let chain = IntelChain::generate()?;
    let machine = Machine { tee: Tee::Tdx, ..Machine::default() };
    let quote_4 = tee_emulator::tdx::quote::build(&chain, &machine, &REPORT_DATA)?;
    let quote = Quote::parse(&quote_4)?;
    let mut signature = quote.signature.clone();
    // The parser of quotes does not look into the certificates.
    signature.pck_chain.truncate(40);
    let short = cc_evidence::tdx::assemble(quote.signed(), &signature)?;
    let mut body = quote.body;
    body.tdx15 = Some(cc_evidence::tdx::Tdx15 { tee_tcb_svn2: [3; 16], mr_servicetd: [4; 48] });
    let signed = cc_evidence::tdx::to_be_signed([1; 20], &body);
    let quote_5 = cc_evidence::tdx::assemble(&signed, &signature)?;
    let evidence = TdxEvidence { quote: short.clone(), cc_eventlog: Some(EventLog::of_a_boot().records()) };
    let roots = chain.roots_pem()?;
    let Collateral { tcb_info, qe_identity, signing_chain, revocation_lists: [root_list, platform_list] } =
        Collateral::issue(&chain)?;
    let documents = [&tcb_info, &qe_identity, &signing_chain].map(String::as_bytes);
    let [info, identity, signers] = documents;
    let log = EventLog::of_a_boot();
    let measured = Machine { td: log_registers(&log, machine.td)?, ..machine };
    let quote = tee_emulator::tdx::quote::build(&chain, &measured, &REPORT_DATA)?;
    let log = log.records();
    let all = [&now()?, roots.as_bytes(), &quote, info, identity, signers, &root_list, &platform_list, &log];
    Ok(vec![
        ("tdx_quote", "4".into(), short.clone()),
        ("tdx_quote", "4-padded".into(), [short.as_slice(), &[0; 100]].concat()),
        ("tdx_quote", "5".into(), quote_5),
        ("tdx_quote", "sgx-3".into(), sgx_quote(&short)),
        ("tdx_quote", "json".into(), evidence.to_json()?.into_bytes()),
        ("tdreport", "1.5".into(), td_report(&body.encode(), &REPORT_DATA)),
        ("tdx_verify", "all".into(), parts(&all)),
        ("collateral", "all".into(), documents.join(&0)),
        ("collateral", "roots".into(), ["", "", &roots].join("\0").into_bytes()),
    ])
}

/// HCL reports around a report of each kind, and evidence with the first in the three versions of its JSON.
fn azure() -> Result<Vec<Seed>> {
    let key = |kid: &str| json!({ "kid": kid, "kty": "RSA", "e": "AQAB", "n": BASE64_URL_SAFE_NO_PAD.encode([0xC1; 256]) });
    let runtime = json!({
        "keys": [key("HCLAkPub"), key("HCLEkPub")],
        "vm-configuration": { "secure-boot": true },
        "user-data": "AB".repeat(64),
    });
    let runtime = runtime.to_string();
    let mut bound = HashAlgorithm::Sha256.digest(runtime.as_bytes());
    bound.resize(64, 0);
    let bound: [u8; 64] = bound.as_slice().try_into()?;
    let machine = Machine::default();
    let chain = TestChain::generate(machine.product)?;
    let snp = tee_emulator::report::build(&chain, &machine, &bound, 0, &[7; 32])?;
    let mut tdx = td_report(&[2; 584], &bound);
    tdx.resize(snp.len(), 0);
    let (snp, tdx) = (hcl_report(2, &snp, &runtime), hcl_report(4, &tdx, &runtime));

    let quote = TpmQuote { signature: vec![1; 256], message: vec![2; 145], pcrs: [[3; 32]; PCR_COUNT] };
    let evidence = AzureEvidence {
        version: EvidenceVersion::V2,
        tee: AzSnpVtpm,
        quote,
        hcl_report: snp.clone(),
        endorsement: b"a certificate".to_vec(),
    };
    let newest = evidence.to_json()?;
    let oldest = json!({
        "quote": { "signature": [1, 2], "message": [3], "pcrs": vec![[4; 32]; PCR_COUNT] },
        "report": [5, 6],
        "vcek": "-----BEGIN CERTIFICATE-----",
    });
    Ok(vec![
        ("azure", "hcl-snp".into(), [snp.as_slice(), &[0; 20]].concat()),
        ("azure", "hcl-tdx".into(), tdx),
        ("azure", "version-2".into(), newest.into_bytes()),
        ("azure", "version-0".into(), oldest.to_string().into_bytes()),
    ])
}

/// An HCL report of a kind: 2 SEV-SNP, 4 TDX.
fn hcl_report(kind: u32, hardware: &[u8], runtime: &str) -> Vec<u8> {
    let length = u32::try_from(runtime.len()).unwrap_or_default();
    let head = [&b"HCLA"[..], &numbers(&[2, 32 + 1184 + 20 + length, 2, 0, 0, 0, 0])].concat();
    [&head, hardware, &numbers(&[20 + length, 1, kind, 1, length]), runtime.as_bytes()].concat()
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Init-data as hosts deliver it.
fn init_data() -> Result<Vec<Seed>> {
    let text = "version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n\"a\" = \"b\"\n";
    Ok(vec![
        ("init_data_carrier", "device".into(), carrier::to_device(text)?),
        ("init_data_carrier", "gzip".into(), carrier::compress(text)?),
        ("init_data_carrier", "annotation".into(), carrier::to_annotation(text)?.into_bytes()),
    ])
}

/// A trust domain whose registers are those of `log`.
fn log_registers(log: &EventLog, td: Td) -> Result<Td> {
    let register = |number| -> Result<_> {
        let mut bytes = [0; 48];
        hex::decode_to_slice(log.register(number), &mut bytes)?;
        Ok(Hex(bytes))
    };
    Ok(Td { rtmr0: register(0)?, rtmr1: register(1)?, rtmr2: register(2)?, rtmr3: register(3)?, ..td })
}

/// An SGX quote of version 3 with the signatures of a TDX quote: there they stand in a wrapping of six bytes.
fn sgx_quote(tdx: &[u8]) -> Vec<u8> {
    let signature = tdx.get(48 + 584 + 4..).unwrap_or_default();
    let (keys, rest) = signature.split_at(128);
    let bare = [keys, rest.get(6..).unwrap_or_default()].concat();
    let header = [&[3, 0, 2, 0, 0, 0, 0, 0][..], &[0; 40]].concat();
    let length = u32::try_from(bare.len()).unwrap_or_default().to_le_bytes();
    [&header[..], &[0x5C; 384], &length, &bare].concat()
}

/// A TDREPORT whose digests fit, around the body of a quote.
fn td_report(body: &[u8], report_data: &[u8; 64]) -> Vec<u8> {
    let (seam, domain) = body.split_at(120);
    // Valid fields, the module's part of the body, then zeros; the domain's part without the report data.
    let tcb_info = [&[0xFF, 1, 0, 0, 0, 0, 0, 0][..], seam, &[0; 111]].concat();
    let td_info = [domain.get(..400).unwrap_or_default(), &[0; 112]].concat();
    let hash = |part: &[u8]| HashAlgorithm::Sha384.digest(part);
    let mac_part = [
        &[0x81, 0, 1, 0][..],
        &[0; 12],
        &[6; 16],
        &hash(&tcb_info),
        &hash(&td_info),
        report_data,
        &[0; 32],
        &[8; 32],
    ];
    [&mac_part.concat()[..], &tcb_info, &[0; 17], &td_info].concat()
}

/// Seconds since 1970, as targets that verify read them.
fn now() -> Result<[u8; 8]> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs().to_le_bytes())
}

/// One input of several parts: each with its length before it, two little endian bytes.
fn parts(parts: &[&[u8]]) -> Vec<u8> {
    let sized = |part: &&[u8]| [&u16::try_from(part.len()).unwrap_or(u16::MAX).to_le_bytes(), *part].concat();
    parts.iter().flat_map(sized).collect()
}

fn event_logs() -> Vec<Seed> {
    let log = EventLog::of_a_boot().records();
    let padded = [log.as_slice(), &[0xFF; 40]].concat();
    vec![("eventlog", "boot".into(), log), ("eventlog", "boot-padded".into(), padded)]
}

/// Public keys of every kind, and a secret sealed to each.
fn keys() -> Result<Vec<Seed>> {
    let mut seeds = Vec::new();
    for algorithm in KeyAlgorithm::ALL {
        let jwk = TeeKeyPair::generate(algorithm)?.public_jwk();
        let name = algorithm.as_str().to_lowercase();
        let sealed = jwe::seal(&jwk, b"a secret")?;
        // What the fuzz target reads first: which step, and the status as a number from 200.
        seeds.push(("kbs_json", format!("resource-{name}"), [&[2, 0, 0], sealed.as_slice()].concat()));
        seeds.push(("jwe", name.clone(), sealed));
        seeds.push(("jwk", name, jwk.to_string().into_bytes()));
    }
    Ok(seeds)
}

/// Requests of a ttrpc client. The first byte is the target's: the size of the pieces it cuts the rest into.
fn frames() -> Result<Vec<Seed>> {
    let mut request = ttrpc::Request::new();
    request.service = "attestation_agent.AttestationAgentService".into();
    request.method = "GetEvidence".into();
    request.payload = vec![0x0A, 2, 1, 2];
    request.timeout_nano = 5_000_000_000;
    request.metadata.push(ttrpc::proto::KeyValue {
        key: "k".into(),
        value: "v".into(),
        ..Default::default()
    });
    let request = protobuf::Message::write_to_bytes(&request)?;
    let frame = |stream: u32, kind: u8, flags: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap_or_default();
        [&length.to_be_bytes()[..], &stream.to_be_bytes(), &[kind, flags], payload].concat()
    };
    let too_large = [&(5u32 << 20).to_be_bytes()[..], &3u32.to_be_bytes(), &[1, 0], &[0; 20]].concat();
    Ok(vec![
        ("ttrpc_frame", "request".into(), [&[7][..], &frame(1, 1, 0, &request)].concat()),
        ("ttrpc_frame", "two".into(), [&[200][..], &frame(1, 1, 0, &[]), &frame(3, 3, 1, &request)].concat()),
        ("ttrpc_frame", "too-large".into(), [&[3][..], &too_large].concat()),
    ])
}
