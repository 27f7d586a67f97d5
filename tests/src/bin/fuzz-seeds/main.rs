//! Writes the seeds that no text editor can: evidence of emulated machines, sealed secrets, frames.
//!
//! `cargo run -p cc-tests --bin fuzz-seeds TARGET...` puts one file a case into `tests/fuzz/seeds/TARGET/`, without
//! names for all targets; all files begin with `made-`. The keys behind the signatures are made for the run and are gone
//! afterwards. Texts are written by hand and stand beside them.

mod azure;
mod cca;
mod tdx;
mod token;
mod tpm;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use cc_crypto::{KeyAlgorithm, TeeKeyPair, jwe};
use cc_evidence::initdata::carrier;
use cc_evidence::nvidia::{Architecture, Device, NvidiaEvidence};
use cc_evidence::nvidia::{Measurement, Opaque, OpaqueRecord, Unsigned};
use cc_evidence::snp::{CertEntry, CertKind, Report, SnpEvidence, cert_table};
use cc_tests::eventlog::EventLog;
use serde_json::json;
use tee_emulator::machine::Product;
use tee_emulator::{Machine, TestChain};

const REPORT_DATA: [u8; 64] = [0xDA; 64];

type Seed = (&'static str, String, Vec<u8>);

fn main() -> Result<()> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds"));
    let seeds = [
        snp()?,
        tdx::seeds()?,
        azure::seeds()?,
        cca::seeds()?,
        tpm::seeds()?,
        token::seeds()?,
        nvidia()?,
        init_data()?,
        event_logs(),
        keys()?,
        frames()?,
    ]
    .concat();
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

/// A device's report with records of every form, and the evidence of two devices.
fn nvidia() -> Result<Vec<Seed>> {
    let record = |number, value: &[u8]| OpaqueRecord { number, value: value.to_vec() };
    let unsigned = Unsigned {
        nonce: [1; 32],
        slot: 0,
        param1: 0,
        param2: 0,
        measurements: [1, 2, 64].map(|index| Measurement { index, kind: 1, value: vec![index; 48] }).to_vec(),
        responder_nonce: [2; 32],
        opaque: Opaque::new(vec![
            record(3, b"550.90.07\0"),
            record(6, &[0, 0x5E, 0, 0x96, 0x01, 0, 0, 0]),
            record(20, &[3; 48]),
            record(77, b""),
        ]),
    };
    let report = [unsigned.encode()?, vec![4; 96]].concat();
    let device = |architecture, report: &[u8]| Device {
        architecture,
        uuid: "GPU-1".to_owned(),
        report: report.to_vec(),
        certificate_chain: b"-----BEGIN CERTIFICATE-----".to_vec(),
    };
    let devices = vec![device(Architecture::Hopper, &report), device(Architecture::Ls10, &[1, 2])];
    let evidence = NvidiaEvidence { devices }.to_json()?;
    let additional = format!("{{\"nvidia\":{evidence}}}");
    Ok(vec![
        ("nvidia", "report".into(), report),
        ("nvidia", "evidence".into(), evidence.into_bytes()),
        ("nvidia", "additional".into(), additional.into_bytes()),
    ])
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
