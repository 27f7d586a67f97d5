//! Seeds of what Azure's machines say: HCL reports and evidence.

use anyhow::Result;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use cc_evidence::HashAlgorithm;
use cc_evidence::Tee::AzSnpVtpm;
use cc_evidence::azure::{AzureEvidence, EvidenceVersion, TpmQuote};
use cc_evidence::tpm::PCR_COUNT;
use serde_json::json;
use tee_emulator::{Machine, TestChain};

use super::{Seed, tdx};

/// HCL reports around a report of each kind, and evidence with the first in the three versions of its JSON.
pub(super) fn seeds() -> Result<Vec<Seed>> {
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
    let mut tdx = tdx::td_report(&[2; 584], &bound);
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
