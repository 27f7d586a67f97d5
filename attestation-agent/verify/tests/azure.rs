//! Recorded evidence of Azure machines under the vendors' roots. Skipped without the vectors, which live outside the
//! repository.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests fail loudly"
)]

use cc_evidence::Tee;
use cc_evidence::azure::{AzureEvidence, EvidenceVersion, Hardware, HclReport};
use cc_evidence::tdx::Quote;
use cc_evidence::tpm::{Attest, Signature};
use cc_vectors::read;
use cc_verify::appraisal::{ReferenceValues, Status, appraise};
use cc_verify::azure::{AzureClaims, Expectation, verify};
use cc_verify::tpm::{AttestationKey, verify_quote};
use cc_verify::{Rejection, TrustRoots};
use serde_json::{Value, json};

/// 2025-07-01: all recorded certificates of SEV-SNP are valid.
const SUMMER_2025: u64 = 1_751_328_000;
/// TPM_ALG_SHA256.
const SHA256: u16 = 0x000B;

/// Folder, TEE and name of every recorded evidence.
const RECORDED: [(&str, Tee, &str); 6] = [
    ("az-snp-vtpm", Tee::AzSnpVtpm, "evidence-v0"),
    ("az-snp-vtpm", Tee::AzSnpVtpm, "evidence-v1"),
    ("az-snp-vtpm", Tee::AzSnpVtpm, "evidence-v2"),
    ("az-snp-vtpm", Tee::AzSnpVtpm, "evidence-genoa"),
    ("az-tdx-vtpm", Tee::AzTdxVtpm, "evidence-v0"),
    ("az-tdx-vtpm", Tee::AzTdxVtpm, "evidence-v1"),
];

fn facts(folder: &str, name: &str) -> Option<Value> {
    let all: Value = serde_json::from_slice(&read(folder, "facts.json")?).unwrap();
    Some(all[name].clone())
}

fn recorded(folder: &str, tee: Tee, name: &str) -> Option<AzureEvidence> {
    let text = String::from_utf8(read(folder, &format!("{name}.json"))?).unwrap();
    Some(AzureEvidence::from_json(tee, &text).unwrap())
}

/// The time at which the certificates of a recording are valid.
fn time_of(tee: Tee) -> u64 {
    // The platform's certificate of the TDX recording ends in 2031 and begins before 2025.
    if tee == Tee::AzTdxVtpm { 1_735_689_600 } else { SUMMER_2025 }
}

/// The verdict over the nonce that was recorded.
fn judge(evidence: &AzureEvidence) -> Result<AzureClaims, Rejection> {
    judge_over(evidence, &nonce_of(evidence), None)
}

fn nonce_of(evidence: &AzureEvidence) -> Vec<u8> {
    Attest::parse(&evidence.quote.message).map_or_else(|_| b"challenge".to_vec(), |said| said.extra_data)
}

fn judge_over(
    evidence: &AzureEvidence,
    report_data: &[u8],
    init_data_digest: Option<&[u8]>,
) -> Result<AzureClaims, Rejection> {
    let (now, oldest) = (time_of(evidence.tee), EvidenceVersion::V0);
    let x = Expectation { report_data, init_data_digest, now, oldest };
    verify(evidence, &TrustRoots::vendor(), None, &x)
}

#[test]
fn every_recorded_evidence_verifies_and_claims_what_the_facts_say() {
    for (folder, tee, name) in RECORDED {
        let (Some(evidence), Some(facts)) = (recorded(folder, tee, name), facts(folder, name)) else {
            return;
        };
        let said = Attest::parse(&evidence.quote.message).unwrap();
        let tpm = &facts["tpm"];
        assert_eq!(json!(hex::encode(&said.extra_data)), tpm["extra_data"], "{folder}/{name}");
        assert_eq!(json!(hex::encode(&said.qualified_signer)), tpm["qualified_signer"]);
        assert_eq!(json!(said.clock.clock), tpm["clock"]);
        assert_eq!(json!(said.clock.reset_count), tpm["reset_count"]);
        assert_eq!(json!(format!("{:016x}", said.firmware_version)), tpm["firmware_version"]);
        assert_eq!(json!(said.selection[0].pcrs()), tpm["pcr_select"][0]["pcrs"]);
        assert_eq!(json!(hex::encode(&said.pcr_digest)), tpm["pcr_digest"]);

        let claims = judge(&evidence).unwrap_or_else(|why| panic!("{folder}/{name}: {why}"));
        let claim = |path: &str| claims.get(path).cloned().unwrap_or_else(|| panic!("no claim {path}"));
        assert_eq!(claim("tpm.pcr00"), facts["pcr00"], "{folder}/{name}");
        assert_eq!(claim("tpm.pcr11"), facts["pcr11"]);
        assert_eq!(claim("init_data"), facts["pcr08"]);
        assert_eq!(claim("report_data"), tpm["extra_data"]);
        if tee == Tee::AzSnpVtpm {
            let tcb = &facts["snp"]["reported_tcb"];
            assert_eq!(claim("reported_tcb_snp"), json!(tcb["snp"].to_string()));
            assert_eq!(claim("reported_tcb_microcode"), json!(tcb["microcode"].to_string()));
            assert_eq!(claim("policy_smt_allowed"), "true");
            assert_eq!(claim("policy_abi_minor"), "31");
        } else {
            assert_eq!(claim("quote.body.mr_td"), facts["td_quote"]["body"]["mr_td"]);
            assert_eq!(claim("quote.body.report_data"), facts["td_quote"]["body"]["report_data"]);
            assert_eq!(claim("tcb_status"), "Unverified");
        }
    }
}

/// A change to evidence, and the check that has to find it.
type Mutation<'a> = (&'a str, &'a dyn Fn(&mut AzureEvidence));

#[test]
fn every_mutation_is_found_by_its_check() {
    let hardware = |evidence: &mut AzureEvidence, offset: usize| evidence.hcl_report[0x20 + offset] ^= 1;
    let mutations: [Mutation<'_>; 10] = [
        ("tpm.signature", &|e| e.quote.signature[9] ^= 1),
        ("tpm.signature", &|e| e.quote.message[60] ^= 1),
        ("tpm.pcr_digest", &|e| e.quote.pcrs[23][31] ^= 1),
        ("tpm.pcr_digest", &|e| e.quote.pcrs.swap(0, 1)),
        ("azure.hcl_report", &|e| e.hcl_report[0] ^= 1),
        ("azure.hcl_report", &|e| e.hcl_report.truncate(0x4D4)),
        // A space more in the configuration is another document.
        ("azure.runtime_data", &|e| {
            let at = e.hcl_report.windows(4).position(|part| part == b"true").unwrap();
            e.hcl_report[at..at + 4].copy_from_slice(b"null");
        }),
        // The last bytes of the hardware's report data are zeros.
        ("azure.runtime_data", &|e| {
            let offset = if e.tee == Tee::AzSnpVtpm { 0x50 } else { 0x80 };
            hardware(e, offset + 63);
        }),
        // Another key: the modulus begins right behind its name.
        ("tpm.signature", &|e| {
            let at = e.hcl_report.windows(5).position(|part| part == b"\"n\":\"").unwrap() + 30;
            e.hcl_report[at] = if e.hcl_report[at] == b'A' { b'B' } else { b'A' };
        }),
        ("tpm.signature", &|e| {
            // A quote by its own key over the right nonce, of another machine.
            e.quote.signature.reverse();
        }),
    ];
    for (folder, tee, name) in RECORDED {
        let Some(evidence) = recorded(folder, tee, name) else { return };
        for (expected, mutate) in mutations {
            let mut changed = evidence.clone();
            mutate(&mut changed);
            let found = judge_over(&changed, &nonce_of(&evidence), None).unwrap_err().check();
            assert_eq!(found, expected, "{folder}/{name}");
        }
        let mut changed = evidence.clone();
        if tee == Tee::AzSnpVtpm {
            hardware(&mut changed, 0x90);
            assert_eq!(judge(&changed).unwrap_err().check(), "snp.signature", "measurement of {name}");
        } else {
            let quoted = Quote::parse(&evidence.endorsement).unwrap();
            assert_eq!(
                quoted.body.report_data,
                HclReport::parse(&evidence.hcl_report).unwrap().bound_report_data()
            );
            changed.endorsement[48 + 136] ^= 1;
            assert_eq!(judge(&changed).unwrap_err().check(), "tdx.signature", "MRTD of {name}");
        }
    }
}

#[test]
fn the_nonce_the_version_and_the_init_data_count() {
    for (folder, tee, name) in RECORDED {
        let Some(evidence) = recorded(folder, tee, name) else { return };
        let nonce = nonce_of(&evidence);
        let check = |report_data: &[u8], digest| {
            judge_over(&evidence, report_data, digest).map_err(|why| why.check()).map(drop)
        };
        // Neither shorter nor padded.
        assert_eq!(check(&nonce[1..], None), Err("tpm.report_data"));
        assert_eq!(check(&[nonce.as_slice(), &[0]].concat(), None), Err("tpm.report_data"));
        assert_eq!(check(&[], None), Err("expectation.missing"));
        assert_eq!(check(&nonce, Some(&[])), Err("expectation.missing"));
        for digest in [&[7; 32][..], &[7; 48], &[7; 31]] {
            assert_eq!(check(&nonce, Some(digest)), Err("tpm.init_data"), "{name}");
        }
        let oldest = EvidenceVersion::V2;
        let x = Expectation { report_data: &nonce, init_data_digest: None, now: time_of(tee), oldest };
        let outcome = verify(&evidence, &TrustRoots::vendor(), None, &x).map_err(|why| why.check());
        if evidence.version == oldest {
            outcome.unwrap();
        } else {
            assert_eq!(outcome, Err("azure.evidence_version"), "{name}");
        }
    }
}

#[test]
fn version_2_needs_the_nonce_in_the_hardwares_report_too() {
    let Some(fresh) = recorded("az-snp-vtpm", Tee::AzSnpVtpm, "evidence-v2") else { return };
    let Some(old) = recorded("az-snp-vtpm", Tee::AzSnpVtpm, "evidence-v1") else { return };
    judge(&fresh).unwrap();
    // What an older machine says is no fresh evidence because somebody writes a 2 at it.
    let claimed = AzureEvidence { version: EvidenceVersion::V2, ..old };
    assert_eq!(judge(&claimed).unwrap_err().check(), "azure.user_data");
}

#[test]
fn parts_of_several_machines_make_no_evidence() {
    let Some(first) = recorded("az-snp-vtpm", Tee::AzSnpVtpm, "evidence-v1") else { return };
    let Some(other) = recorded("az-snp-vtpm", Tee::AzSnpVtpm, "evidence-genoa") else { return };
    let nonce = nonce_of(&first);
    let check =
        |evidence: AzureEvidence| judge_over(&evidence, &nonce, None).map_err(|why| why.check()).map(drop);
    assert_eq!(
        check(AzureEvidence { hcl_report: other.hcl_report.clone(), ..first.clone() }),
        Err("tpm.signature")
    );
    assert_eq!(
        check(AzureEvidence { endorsement: other.endorsement.clone(), ..first.clone() }),
        Err("snp.signature")
    );
    assert_eq!(check(AzureEvidence { endorsement: Vec::new(), ..first.clone() }), Err("snp.certificate"));
    assert_eq!(check(AzureEvidence { tee: Tee::AzTdxVtpm, ..first }), Err("azure.hcl_report"));
}

#[test]
fn loose_quotes() {
    let Some(message) = read("az-snp-vtpm", "tpm-quote.msg") else { return };
    // The loose HCL report is of the machine that made the loose quotes.
    for (folder, tee) in [("az-snp-vtpm", Tee::AzSnpVtpm), ("az-tdx-vtpm", Tee::AzTdxVtpm)] {
        let hcl = HclReport::parse(&read(folder, "hcl-report.bin").unwrap()).unwrap();
        let quote: Value = serde_json::from_slice(&read(folder, "tpm-quote-v1.json").unwrap()).unwrap();
        let member = if tee == Tee::AzSnpVtpm { "vcek" } else { "td_quote" };
        let whole = json!({"version": 1, "tpm_quote": quote, "hcl_report": "", member: ""}).to_string();
        let quote = AzureEvidence::from_json(tee, &whole).unwrap().quote;
        let ak = &hcl.runtime().ak;
        let key = AttestationKey::from_parts(&ak.modulus, &ak.exponent).unwrap();
        let nonce = Attest::parse(&quote.message).unwrap().extra_data;
        let check = |message: &[u8], bytes: &[u8]| {
            let signature = Signature::RsaSsa { hash: SHA256, bytes: bytes.to_vec() };
            verify_quote(message, &signature, &key, &nonce, &quote.pcrs).map_err(|why| why.check()).map(drop)
        };
        assert_eq!(check(&quote.message, &quote.signature), Ok(()), "{folder}");
        if tee == Tee::AzSnpVtpm {
            let signature = read(folder, "tpm-quote.sig").unwrap();
            assert_eq!(check(&message, &signature), Err("tpm.signature"), "another machine's");
        }
    }
}

#[test]
fn loose_certificates_sign_the_reports_they_lie_beside() {
    let Some(chain) = read("az-snp-vtpm", "vcek.pem") else { return };
    let chain = String::from_utf8(chain).unwrap();
    let end = "-----END CERTIFICATE-----";
    let vcek = chain[..chain.find(end).unwrap() + end.len()].to_owned();
    let hcl = HclReport::parse(&read("az-snp-vtpm", "hcl-report.bin").unwrap()).unwrap();
    let Hardware::Snp(report) = hcl.hardware() else { panic!("it is of SEV-SNP") };
    cc_verify::snp::verify_signature(report, vcek.as_bytes()).unwrap();
    cc_verify::snp::verify_identity(report, vcek.as_bytes()).unwrap();
    let genoa = recorded("az-snp-vtpm", Tee::AzSnpVtpm, "evidence-genoa").unwrap();
    assert_eq!(read("az-snp-vtpm", "vcek-genoa.pem").unwrap(), genoa.endorsement);
}

#[test]
fn appraisal_follows_the_names_of_the_existing_policy() {
    let Some(evidence) = recorded("az-snp-vtpm", Tee::AzSnpVtpm, "evidence-v2") else { return };
    let claims = serde_json::to_value(judge(&evidence).unwrap()).unwrap();
    let mut references = ReferenceValues::default();
    assert_eq!(appraise(Tee::AzSnpVtpm, &claims, &references).status(), Status::Contraindicated);
    references.extend(&json!({
        "measurement": [claims["measurement"]], "snp_pcr11": [claims["tpm"]["pcr11"]],
        "tcb_bootloader": ["4"], "tcb_microcode": ["219"], "tcb_snp": ["24"], "tcb_tee": ["0"],
        "smt_enabled": ["true"], "tsme_enabled": ["false"], "abi_major": ["0"], "abi_minor": ["31"],
        "single_socket": ["false"], "smt_allowed": ["true"],
    }));
    let appraisal = appraise(Tee::AzSnpVtpm, &claims, &references);
    assert_eq!((appraisal.status(), appraisal.reasons), (Status::Affirming, vec![]));
    for (reference, worse) in [
        ("measurement", Status::Warning),
        ("tcb_snp", Status::Contraindicated),
        ("abi_minor", Status::Warning),
    ] {
        let mut references = references.clone();
        references.extend(&json!({ reference: [24] }));
        let appraisal = appraise(Tee::AzSnpVtpm, &claims, &references);
        assert_eq!(appraisal.status(), worse, "{reference}");
        assert!(appraisal.reasons[0].contains(reference), "{:?}", appraisal.reasons);
    }
}
