//! `guestctl inspect` against recorded evidence: every fact that an independent program found is found, the
//! signatures verify, and a single changed bit is noticed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use cc_vectors::folder as vector;
use guestctl::{Console, Exit};
use serde_json::Value;

#[path = "inspect/eventlog.rs"]
mod eventlog;
#[path = "inspect/token.rs"]
mod token;

struct Outcome {
    exit: Exit,
    out: String,
    err: String,
}

impl Outcome {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }

    fn check(&self, name: &str) -> String {
        let json = self.json();
        let mut checks = json["checks"].as_array().unwrap().iter();
        let check =
            checks.find(|check| check["check"] == name).unwrap_or_else(|| panic!("{name} in {json:#}"));
        check["outcome"].as_str().unwrap().to_owned()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn inspect(file: &Path, options: &[&str]) -> Outcome {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut arguments = vec!["guestctl", "inspect", file.to_str().unwrap()];
    arguments.extend(options);
    let exit = guestctl::run(arguments, &mut Console::new(&mut out, &mut err)).await;
    Outcome { exit, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

fn facts(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("facts.json")).unwrap()).unwrap()
}

/// Every member of `facts` stands in `ours` with the same value. The recording program wrote dates in another style.
fn assert_covers(facts: &Value, ours: &Value, path: &str) {
    match facts {
        Value::Object(members) => {
            for (name, value) in members {
                assert_covers(value, &ours[name], &format!("{path}.{name}"));
            }
        }
        Value::String(text) if path.ends_with(".not_before") || path.ends_with(".not_after") => {
            let date = text.replace(' ', "T").replace("+00:00", "Z");
            assert_eq!(ours.as_str(), Some(date.as_str()), "{path}");
        }
        other => assert_eq!(other, ours, "{path}"),
    }
}

#[test]
fn milan_report_with_vcek() {
    let Some(folder) = vector("snp-milan-v2-vcek") else { return };
    let facts = facts(&folder);
    let cert = folder.join("vcek.der");
    let options = ["--json", "--cert", cert.to_str().unwrap(), "--at", "2024-01-01T00:00:00Z"];
    let seen = inspect(&folder.join("report.bin"), &options);
    let json = seen.json();
    assert_eq!(json["kind"], "snp-report");
    assert_covers(&facts["report"], &json["report"], "report");
    assert_covers(&facts["cert"], &json["cert"], "cert");
    assert_eq!(seen.check("report signature"), "verified");
    assert_eq!(seen.check("certificate chain"), "verified");
    assert_eq!(seen.check("dates"), "verified");
    assert_eq!(seen.check("tcb and chip"), "verified");
    // Genuine, but this version does not tell the processor, so no verifier takes it.
    assert_eq!(seen.check("verifier rules"), "failed");
    assert!(seen.out.contains("report version 2 is refused"), "{}", seen.out);
    assert_eq!(seen.exit, Exit::Failed);
}

#[test]
fn a_report_alone_says_what_is_missing() {
    let Some(folder) = vector("snp-milan-v3-vlek") else { return };
    let seen = inspect(&folder.join("report.bin"), &["--json"]);
    assert_covers(&facts(&folder)["report"], &seen.json()["report"], "report");
    assert_eq!(seen.json()["cert"], Value::Null);
    assert_eq!(seen.check("report signature"), "not verified");
    assert_eq!(seen.exit, Exit::Success, "{}", seen.err);
}

#[test]
fn milan_report_with_expired_vlek() {
    let Some(folder) = vector("snp-milan-v3-vlek") else { return };
    let cert = folder.join("vlek.der");
    let cert = cert.to_str().unwrap();
    let in_time =
        inspect(&folder.join("report.bin"), &["--json", "--cert", cert, "--at", "2025-06-01T00:00:00Z"]);
    assert_covers(&facts(&folder)["cert"], &in_time.json()["cert"], "cert");
    for check in ["report signature", "certificate chain", "dates", "tcb and chip"] {
        assert_eq!(in_time.check(check), "verified", "{check}");
    }
    assert_eq!(in_time.check("verifier rules"), "failed", "it was made at VMPL 1");
    let late =
        inspect(&folder.join("report.bin"), &["--json", "--cert", cert, "--at", "2026-01-01T00:00:00Z"]);
    assert_eq!((late.exit, late.check("dates")), (Exit::Failed, "failed".to_owned()));
    assert_eq!(late.check("report signature"), "verified");
}

#[test]
fn genoa_evidence_and_its_rebuilt_report() {
    let Some(folder) = vector("snp-genoa-v3-json") else { return };
    let facts = facts(&folder);
    let seen = inspect(&folder.join("evidence.json"), &["--json", "--at", "2026-01-01T00:00:00Z"]);
    let json = seen.json();
    assert_eq!(json["kind"], "snp-evidence");
    assert_covers(&facts["report"], &json["report"], "report");
    assert_covers(&facts["cert"], &json["cert"], "cert");
    assert_eq!(json["certs"][0]["kind"], "VCEK");
    for check in ["report signature", "certificate chain", "dates", "tcb and chip", "verifier rules"] {
        assert_eq!(seen.check(check), "verified", "{check}");
    }
    assert_eq!(seen.exit, Exit::Success, "{}", seen.err);
    let chip = facts["report"]["chip_id"].as_str().unwrap();
    let url =
        format!("https://kdsintf.amd.com/vcek/v1/Genoa/{chip}?blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=25");
    assert_eq!(json["kds_url"], url);

    let cert = folder.join("vcek.der");
    let rebuilt = inspect(
        &folder.join("report-reconstructed.bin"),
        &["--json", "--at", "1767225600", "--cert", cert.to_str().unwrap()],
    );
    assert_eq!(rebuilt.json()["report"], json["report"]);
    assert_eq!(rebuilt.check("report signature"), "verified");
}

#[test]
fn both_encodings_of_the_hardware_identifier() {
    let Some(folder) = vector("snp-milan-v2-vcek") else { return };
    let facts = facts(&folder);
    for name in ["vcek-hwid-raw-encoding.der", "vcek-hwid-octet-string-encoding.der"] {
        let seen = inspect(&folder.join(name), &["--json", "--at", "2024-01-01T00:00:00Z"]);
        let mut expected = facts[name].clone();
        expected.as_object_mut().unwrap().remove("signed_by_milan_ask");
        assert_covers(&expected, &seen.json()["certificates"][0], name);
        // Made for the parser: the real intermediate key never signed them.
        assert_eq!((seen.exit, seen.check("certificate chain")), (Exit::Failed, "failed".to_owned()));
    }
}

#[test]
fn vendor_roots_in_pem() {
    let Some(folder) = vector("amd-roots") else { return };
    let facts = facts(&folder);
    for product in ["milan", "genoa", "turin"] {
        let seen = inspect(&folder.join(format!("{product}_ask_ark_asvk.pem")), &["--json"]);
        for (index, expected) in facts[product]["certs"].as_array().unwrap().iter().enumerate() {
            assert_covers(expected, &seen.json()["certificates"][index], &format!("{product}[{index}]"));
        }
        assert_eq!(seen.check("certificate chain"), "verified", "{product}");
        assert_eq!(seen.exit, Exit::Success, "{}", seen.err);
    }
}

#[test]
fn init_data_documents() {
    let Some(folder) = vector("initdata-generated") else { return };
    let facts = facts(&folder);
    for (name, expected) in facts.as_object().unwrap() {
        let seen = inspect(&folder.join(name), &["--json"]);
        let json = seen.json();
        assert_eq!((seen.exit, &json["kind"]), (Exit::Success, &"init-data".into()));
        assert_covers(expected, &json, name);
        assert_eq!(
            json.get("cca_realm_personalization_value"),
            expected.get("cca_realm_personalization_value")
        );
        assert_eq!(json.get("pcr8_after_extend_from_zero"), expected.get("pcr8_after_extend_from_zero"));
        assert!(json["data"]["aa.toml"]["bytes"].as_u64().unwrap() > 0);
    }
}

#[test]
fn the_table_for_people() {
    let Some(folder) = vector("snp-milan-v2-vcek") else { return };
    let cert = folder.join("vcek.der");
    let options = ["--cert", cert.to_str().unwrap(), "--at", "2024-01-01T00:00:00Z"];
    let seen = inspect(&folder.join("report.bin"), &options);
    let lines: Vec<&str> = seen.out.lines().collect();
    for line in [
        "AMD SEV-SNP attestation report",
        "  version            2",
        "  host data          all zero (32 bytes)",
        "  policy             0x3001f (ABI 0.31, SMT allowed)",
        "  reported tcb       bootloader 3, tee 0, snp 8, microcode 115",
        "  current version    1.52.4",
        "certificate of the signing key",
        "  productName        Milan-B0",
        "verification",
    ] {
        assert!(lines.contains(&line), "{line:?} in\n{}", seen.out);
    }
    let measurement = lines.iter().position(|line| line.starts_with("  measurement ")).unwrap();
    assert!(lines[measurement].ends_with("a1f3930413247bb38cfc171579ea3c12d5fe4901f0c792f63fd75d98f1ef827c"));
    assert_eq!(lines[measurement + 1].trim_start(), "23500644e0e692e6be917f9050d3d38c");
    assert!(
        lines.iter().any(|line| line.starts_with("  ok    report signature   verified: ")),
        "{}",
        seen.out
    );
    assert!(
        lines.iter().any(|line| line.starts_with("  open  ") && line.contains("not verified: ")),
        "{}",
        seen.out
    );
    assert!(!seen.out.contains('\x1b'));
}

#[test]
fn a_changed_bit_is_noticed() {
    let Some(folder) = vector("snp-milan-v2-vcek") else { return };
    let copy = tempfile::tempdir().unwrap();
    let file = copy.path().join("report.bin");
    let report = fs::read(folder.join("report.bin")).unwrap();
    let cert = folder.join("vcek.der");
    // Guest policy, report data, measurement, chip id, R and S of the signature.
    for offset in [0x08, 0x50, 0x90, 0x1a0, 0x2a0, 0x2e8] {
        let mut changed = report.clone();
        changed[offset] ^= 1;
        fs::write(&file, &changed).unwrap();
        let seen =
            inspect(&file, &["--json", "--cert", cert.to_str().unwrap(), "--at", "2024-01-01T00:00:00Z"]);
        assert_eq!(
            (seen.exit, seen.check("report signature")),
            (Exit::Failed, "failed".to_owned()),
            "{offset:#x}"
        );
    }
}

#[test]
fn a_cut_or_foreign_file_is_refused_with_a_hint() {
    let Some(folder) = vector("snp-genoa-v3-json") else { return };
    let copy = tempfile::tempdir().unwrap();
    let file = copy.path().join("x");
    for (name, length, code) in [
        ("report-reconstructed.bin", 1183, "INPUT_UNRECOGNISED"),
        ("vcek.der", 700, "INPUT_MALFORMED"),
        ("evidence.json", 3000, "INPUT_UNRECOGNISED"),
    ] {
        fs::write(&file, &fs::read(folder.join(name)).unwrap()[..length]).unwrap();
        let seen = inspect(&file, &[]);
        assert_eq!((seen.exit, seen.out.as_str()), (Exit::Failed, ""), "{name}");
        assert!(seen.err.contains(&format!("[{code}]\nhint: ")), "{}", seen.err);
    }
}

#[test]
fn a_damaged_certificate_never_passes() {
    let Some(folder) = vector("snp-genoa-v3-json") else { return };
    let copy = tempfile::tempdir().unwrap();
    let file = copy.path().join("vcek.der");
    let der = fs::read(folder.join("vcek.der")).unwrap();
    for offset in (0..der.len()).step_by(37) {
        let mut changed = der.clone();
        changed[offset] ^= 0x11;
        fs::write(&file, &changed).unwrap();
        let seen = inspect(&file, &["--json", "--at", "2026-01-01T00:00:00Z"]);
        assert_eq!(seen.exit, Exit::Failed, "{offset}: {}", seen.out);
    }
}

#[test]
fn given_roots_are_named_and_only_given_or_vendor_roots_are_good() {
    let Some(folder) = vector("amd-roots") else { return };
    let genoa = folder.join("genoa_ask_ark_asvk.pem");
    let seen =
        inspect(&folder.join("milan_ask_ark_asvk.pem"), &["--json", "--roots", genoa.to_str().unwrap()]);
    assert_eq!((seen.exit, seen.check("root")), (Exit::Success, "verified".to_owned()));
    let copy = tempfile::tempdir().unwrap();
    let file = copy.path().join("root.pem");
    // One product's intermediate behind another's root.
    let text = |path: &Path| fs::read_to_string(path).unwrap();
    let milan = text(&folder.join("milan_ask_ark_asvk.pem"));
    let blocks: Vec<&str> = milan.split_inclusive("-----END CERTIFICATE-----").collect();
    fs::write(&file, blocks[0]).unwrap();
    let seen = inspect(&file, &["--json"]);
    assert_eq!((seen.exit, seen.check("certificate chain")), (Exit::Success, "not verified".to_owned()));
    let seen = inspect(&genoa, &["--roots", file.to_str().unwrap()]);
    assert_eq!(seen.exit, Exit::Failed);
    assert!(seen.err.contains("[INPUT_MALFORMED]") && seen.err.contains("ARK-Milan"), "{}", seen.err);
}

/// The facts about a quote that are fields of it.
fn assert_quote(facts: &Value, json: &Value, name: &str) {
    let mut facts = facts.as_object().unwrap().clone();
    let own = [
        "version",
        "att_key_type",
        "tee_type",
        "qe_vendor_id",
        "user_data",
        "body",
        "qe_report",
        "qe_auth_len",
        "trailing_bytes",
    ];
    for member in own {
        assert_covers(&facts.remove(member).unwrap(), &json["quote"][member], &format!("{name}.{member}"));
    }
    for member in ["fmspc", "pceid", "ppid", "pcesvn", "sgx_tcb_comp_svns", "platform_instance_id"] {
        assert_covers(&facts[member], &json["platform"][member], &format!("{name}.{member}"));
    }
}

const AT: [&str; 3] = ["--json", "--at", "2025-11-10T00:00:00Z"];

#[test]
fn quotes_of_domains_and_enclaves() {
    for name in ["tdx-quote-v4", "tdx-quote-v4-padded", "tdx-quote-v5-tdx15", "sgx-quote-v3"] {
        let Some(folder) = vector(name) else { return };
        let seen = inspect(&folder.join("quote.bin"), &AT);
        assert_eq!(seen.exit, Exit::Success, "{}", seen.err);
        assert_quote(&facts(&folder), &seen.json(), name);
        for check in ["certificate chain", "dates", "quoting enclave", "quote signature"] {
            assert_eq!(seen.check(check), "verified", "{name}: {check}");
        }
        assert_eq!(seen.check("tcb level"), "not verified");
        let late = inspect(&folder.join("quote.bin"), &["--json", "--at", "2049-01-01T00:00:00Z"]);
        assert_eq!((late.exit, late.check("dates")), (Exit::Failed, "failed".to_owned()));
        assert_eq!(
            (late.check("certificate chain"), late.check("quote signature")),
            ("verified".to_owned(), "not verified".to_owned())
        );
    }
}

#[test]
fn a_quote_rated_by_collateral() {
    let Some(folder) = vector("tdx-quote-v4-padded") else { return };
    let with =
        |file: &Path, at| inspect(file, &["--json", "--collateral", folder.to_str().unwrap(), "--at", at]);
    let seen = with(&folder.join("quote.bin"), "2025-11-10T00:00:00Z");
    assert_eq!((seen.exit, seen.check("tcb level")), (Exit::Failed, "failed".to_owned()));
    assert_eq!(seen.check("collateral dates"), "verified");
    assert_eq!(seen.json()["tcb"]["status"], "OutOfDate");
    assert_eq!(seen.json()["tcb"]["date"], "2018-01-04T00:00:00Z");
    let late = with(&folder.join("quote.bin"), "2025-12-10T00:00:00Z");
    assert_eq!(late.check("collateral dates"), "failed");
    // Another platform's quote.
    let other = with(&vector("tdx-quote-v4").unwrap().join("quote.bin"), "2025-11-10T00:00:00Z");
    assert_eq!((other.check("tcb level"), &other.json()["tcb"]), ("failed".to_owned(), &Value::Null));
    let misused = with(&vector("tdx-tdreport").unwrap().join("tdreport.bin"), "2025-11-10T00:00:00Z");
    assert!(misused.err.contains("--collateral"), "{}", misused.err);
    let copy = tempfile::tempdir().unwrap();
    let missing = inspect(&folder.join("quote.bin"), &["--collateral", copy.path().to_str().unwrap()]);
    assert!(missing.err.contains("tcbInfo.json"), "{}", missing.err);
    for name in ["tcbInfo.json", "qeIdentity.json", "tcb-signing-chain.pem"] {
        fs::copy(folder.join(name), copy.path().join(name)).unwrap();
    }
    fs::write(copy.path().join("pck.crl"), b"no list").unwrap();
    let path = copy.path().to_str().unwrap();
    let broken = inspect(&folder.join("quote.bin"), &[&AT[..], &["--collateral", path]].concat());
    assert_eq!(broken.check("tcb level"), "failed");
    fs::write(copy.path().join("qeIdentity.json"), b"{}").unwrap();
    let broken = inspect(&folder.join("quote.bin"), &[&AT[..], &["--collateral", path]].concat());
    assert!(broken.err.contains("[INPUT_MALFORMED]"), "{}", broken.err);
}

#[test]
fn a_report_of_a_domain() {
    let Some(folder) = vector("tdx-tdreport") else { return };
    let file = folder.join("tdreport.bin");
    let seen = inspect(&file, &["--json"]);
    assert_eq!((seen.exit, &seen.json()["kind"]), (Exit::Success, &"tdx-report".into()));
    let mut facts = facts(&folder);
    for member in ["tdinfo_hash_ok", "tcbinfo_hash_ok"] {
        assert_eq!(facts.as_object_mut().unwrap().remove(member), Some(true.into()));
    }
    assert_covers(&facts, &seen.json()["report"], "report");
    assert_eq!(
        (seen.check("module digest"), seen.check("domain digest")),
        ("verified".into(), "verified".into())
    );
    assert_eq!(seen.check("mac"), "not verified");
    let copy = tempfile::tempdir().unwrap();
    let changed_file = copy.path().join("x");
    let mut changed = fs::read(&file).unwrap();
    changed[0x210] ^= 1;
    fs::write(&changed_file, changed).unwrap();
    let seen = inspect(&changed_file, &["--json"]);
    assert_eq!((seen.exit, seen.check("domain digest")), (Exit::Failed, "failed".into()));
}

#[test]
fn evidence_with_an_event_log() {
    let Some(folder) = vector("tdx-quote-v4") else { return };
    let copy = tempfile::tempdir().unwrap();
    let file = copy.path().join("evidence.json");
    let quote = fs::read(folder.join("quote.bin")).unwrap();
    let log = fs::read(vector("ccel-ovmf").unwrap().join("ccel.bin")).unwrap();
    let write = |cc_eventlog: Option<Vec<u8>>| {
        let evidence = cc_evidence::tdx::TdxEvidence { quote: quote.clone(), cc_eventlog };
        fs::write(&file, evidence.to_json().unwrap()).unwrap();
    };
    write(None);
    let seen = inspect(&file, &AT);
    assert_eq!((seen.exit, &seen.json()["kind"]), (Exit::Success, &"tdx-evidence".into()));
    assert_eq!(seen.json()["events"], Value::Null);
    // A log of another machine.
    write(Some(log));
    let seen = inspect(&file, &AT);
    assert_eq!((seen.exit, seen.check("event log")), (Exit::Failed, "failed".into()));
    assert_eq!(seen.json()["events"].as_array().unwrap().len(), 20);
    let table = inspect(&file, &["--at", "2025-11-10T00:00:00Z"]).out;
    for part in
        ["Intel TDX quote", "attention", "LOADED_IMAGE::LoadOptions (text not measured)", "File(kernel)"]
    {
        assert!(table.contains(part), "{part} in {table}");
    }
    write(Some(b"no log".to_vec()));
    assert_eq!(inspect(&file, &AT).check("event log"), "failed");
}

#[test]
fn a_changed_bit_of_a_quote_is_noticed() {
    let Some(folder) = vector("tdx-quote-v5-tdx15") else { return };
    let copy = tempfile::tempdir().unwrap();
    let file = copy.path().join("quote.bin");
    let quote = fs::read(folder.join("quote.bin")).unwrap();
    for (offset, check) in [
        (0x36 + 0x88, "quote signature"),
        (0x36 + 648 + 4, "quote signature"),
        (0x36 + 648 + 4 + 64, "quoting enclave"),
        (0x36 + 648 + 4 + 134, "quoting enclave"),
        (0x36 + 648 + 4 + 134 + 384, "quoting enclave"),
        (0x36 + 648 + 4 + 134 + 450 + 32 + 6 + 200, "certificate chain"),
    ] {
        let mut changed = quote.clone();
        changed[offset] ^= 1;
        fs::write(&file, &changed).unwrap();
        let seen = inspect(&file, &AT);
        assert_eq!((seen.exit, seen.check(check)), (Exit::Failed, "failed".to_owned()), "{offset:#x}");
    }
    fs::write(&file, &quote[..1000]).unwrap();
    let seen = inspect(&file, &[]);
    assert!(seen.err.contains("[INPUT_MALFORMED]") && seen.err.contains("TDX quote"), "{}", seen.err);
}

#[test]
fn recorded_cca_token() {
    let Some(folder) = vector("cca-token") else { return };
    let (token, keys) = (folder.join("token.cbor"), folder.join("cpak-pub.json"));
    let plain = inspect(&token, &[]);
    assert_eq!(plain.exit, Exit::Success, "{}", plain.err);
    assert!(plain.out.contains("Arm has no common root"), "{}", plain.out);
    let known = inspect(&token, &["--cca-keys", keys.to_str().unwrap(), "--json"]);
    assert_eq!(known.exit, Exit::Success, "{}", known.err);
    assert_eq!(known.check("platform signature"), "verified");
    assert_eq!(known.check("realm signature"), "verified");
    assert_eq!(known.json()["claims"]["platform"]["cca-platform-lifecycle"], 12291);
    assert_eq!(known.json()["claims"]["platform"]["cca-platform-profile"], "http://arm.com/CCA-SSD/1.0.0");

    // A bit of the realm's initial measurement, and one of a component of the platform.
    let bytes = fs::read(&token).unwrap();
    for (marker, check) in
        [("ae87fbf7f105e71a", "realm signature"), ("9a271f2a916b0b6e", "platform signature")]
    {
        let marker = hex::decode(marker).unwrap();
        let at = bytes.windows(8).position(|part| part == marker).unwrap();
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("token");
        fs::write(&file, changed).unwrap();
        let outcome = inspect(&file, &["--cca-keys", keys.to_str().unwrap(), "--json"]);
        assert_eq!(outcome.exit, Exit::Failed, "{check}");
        assert_eq!(outcome.check(check), "failed");
    }
}

#[test]
fn recorded_csv_evidence() {
    let Some(folder) = vector("csv-report") else { return };
    let outcome = inspect(&folder.join("evidence.json"), &["--json"]);
    assert_eq!(outcome.exit, Exit::Success, "{}", outcome.err);
    assert_eq!(outcome.json()["report"]["serial_number"], "KPA64911240507");
    assert_eq!(outcome.check("signature"), "not verified", "there is no SM2 here");
}

/// What the facts call the parts of an HCL report, and what we do.
fn assert_hcl(facts: &Value, ours: &Value) {
    assert_eq!(facts["header_version"], ours["version"]);
    assert_eq!(facts["runtime_keys"], ours["keys"]);
    assert_eq!(facts["vm_configuration"], ours["vm_configuration"]);
    assert_eq!(facts["user_data"].as_str().unwrap().to_lowercase(), ours["user_data"]);
}

#[test]
fn evidence_of_azure_machines() {
    for (folder, names) in [
        ("az-snp-vtpm", vec!["evidence-v0", "evidence-v1", "evidence-v2", "evidence-genoa"]),
        ("az-tdx-vtpm", vec!["evidence-v0", "evidence-v1"]),
    ] {
        let Some(folder) = vector(folder) else { return };
        for name in names {
            let facts = &facts(&folder)[name];
            let file = folder.join(format!("{name}.json"));
            let outcome = inspect(&file, &["--json", "--at", "2025-07-01T00:00:00Z"]);
            let ours = outcome.json();
            assert_eq!(outcome.exit, Exit::Success, "{ours:#}");
            assert_eq!(ours["version"], facts["json_version"]);
            assert_hcl(&facts["hcl"], &ours["hcl"]);
            assert_eq!(ours["pcrs"]["pcr00"], facts["pcr00"]);
            assert_eq!(ours["nonce"], facts["tpm"]["extra_data"]);
            for check in ["certificate chain", "dates", "runtime data", "TPM quote"] {
                assert_eq!(outcome.check(check), "verified", "{name}: {check}");
            }
            assert_eq!(outcome.check("bindings"), "not verified");
            let fresh = if name == "evidence-v2" { "verified" } else { "not verified" };
            assert_eq!(outcome.check("hardware freshness"), fresh, "{name}");
            let shown = inspect(&file, &["--at", "2025-07-01T00:00:00Z"]).out;
            assert!(shown.contains("TPM quote") && shown.contains("attestation key"), "{shown}");
        }
    }
}

#[test]
fn hcl_reports_and_their_mutations() {
    let temporary = tempfile::tempdir().unwrap();
    for folder in ["az-snp-vtpm", "az-tdx-vtpm"] {
        let Some(folder) = vector(folder) else { return };
        let file = folder.join("hcl-report.bin");
        let outcome = inspect(&file, &["--json"]);
        assert_hcl(&facts(&folder)["hcl-report.bin"], &outcome.json()["hcl"]);
        assert_eq!(outcome.check("runtime data"), "verified");
        let mut bytes = fs::read(&file).unwrap();
        let at = bytes.windows(4).position(|part| part == b"true").unwrap();
        bytes[at..at + 4].copy_from_slice(b"null");
        let changed = temporary.path().join("changed");
        fs::write(&changed, &bytes).unwrap();
        let outcome = inspect(&changed, &["--json"]);
        assert_eq!((outcome.check("runtime data").as_str(), outcome.exit), ("failed", Exit::Failed));
    }
    // A part of evidence that is changed is told by its line.
    let Some(folder) = vector("az-snp-vtpm") else { return };
    let text = fs::read_to_string(folder.join("evidence-v2.json")).unwrap();
    let mut evidence: Value = serde_json::from_str(&text).unwrap();
    evidence["tpm_quote"]["pcrs"][3] = "00".repeat(32).into();
    let changed = temporary.path().join("evidence");
    fs::write(&changed, evidence.to_string()).unwrap();
    let outcome = inspect(&changed, &["--json", "--at", "2025-07-01T00:00:00Z"]);
    assert_eq!(outcome.check("TPM quote"), "failed");
    assert_eq!(outcome.check("runtime data"), "verified");
}

#[test]
fn nvidia_reports_show_every_recorded_fact_and_verify() {
    let Some(folder) = vector("nvidia-hopper") else { return };
    let facts = facts(&folder);
    let scratch = tempfile::tempdir().unwrap();
    for name in ["report1", "report2"] {
        let report =
            hex::decode(fs::read_to_string(folder.join(format!("{name}.hex"))).unwrap().trim()).unwrap();
        let chain = folder.join(format!("{name}-chain.pem"));
        let bare = scratch.path().join("report.bin");
        fs::write(&bare, &report).unwrap();
        let outcome = inspect(&bare, &["--json", "--chain", chain.to_str().unwrap()]);
        assert_eq!(outcome.exit, Exit::Success, "{}{}", outcome.out, outcome.err);
        let (facts, shown) = (&facts[name], &outcome.json()["report"]);
        for member in ["nonce", "slot", "responder_nonce", "signature"] {
            assert_eq!(shown[member], facts[member], "{member}");
        }
        for measurement in facts["measurements"].as_array().unwrap() {
            assert_eq!(shown["measurements"][measurement["index"].to_string()], measurement["value"]);
        }
        for member in ["driver_version", "vbios_version", "fwid"] {
            assert_eq!(shown["opaque"][member], facts["opaque"][member], "{member}");
        }
        assert_eq!(shown["chain"]["leaf_sha256"], facts["chain"][0]["sha256"]);
        for check in ["certificate chain", "dates", "report signature", "firmware identity"] {
            assert_eq!(outcome.check(check), "verified", "{check}");
        }
        for check in ["nonce", "measurements", "revocation"] {
            assert_eq!(outcome.check(check), "not verified", "{check}");
        }
        // Without its chain nothing is verified, and nothing is wrong.
        let outcome = inspect(&bare, &["--json"]);
        assert_eq!(
            (outcome.exit, outcome.check("report signature").as_str()),
            (Exit::Success, "not verified")
        );

        let evidence_of = |arch: &str, report: &[u8]| {
            let device = serde_json::json!({
                "arch": arch, "uuid": "GPU-1", "evidence": hex::encode(report),
                "certificate": base64::Engine::encode(
                    &base64::engine::general_purpose::STANDARD, fs::read(&chain).unwrap()),
            });
            serde_json::json!({"device_evidence_list": [device]})
        };
        let evidence = |report: &[u8]| evidence_of("HOPPER", report);
        let file = scratch.path().join("evidence.json");
        for whole in [evidence(&report), serde_json::json!({"nvidia": evidence(&report), "sampledevice": {}})]
        {
            fs::write(&file, whole.to_string()).unwrap();
            let outcome = inspect(&file, &["--json"]);
            assert_eq!(outcome.check("report signature"), "verified", "{}{}", outcome.out, outcome.err);
            assert_eq!(outcome.json()["devices"][0]["opaque"]["fwid"], facts["opaque"]["fwid"]);
            assert!(inspect(&file, &[]).out.contains("NVIDIA Device Identity CA"));
        }
        let mut forged = report.clone();
        forged[60] ^= 1;
        fs::write(&file, evidence(&forged).to_string()).unwrap();
        let outcome = inspect(&file, &["--json"]);
        assert_eq!((outcome.exit, outcome.check("report signature").as_str()), (Exit::Failed, "failed"));
        assert_eq!(outcome.check("certificate chain"), "verified");

        // Nothing is known of other generations, so nothing is held against them.
        for arch in ["BLACKWELL", "LS10"] {
            fs::write(&file, evidence_of(arch, &report).to_string()).unwrap();
            let outcome = inspect(&file, &["--json"]);
            assert_eq!(outcome.exit, Exit::Success, "{}{}", outcome.out, outcome.err);
            for check in ["certificate chain", "dates", "report signature", "firmware identity"] {
                assert_eq!(outcome.check(check), "not verified", "{arch}: {check}");
            }
            assert!(outcome.out.contains("only HOPPER"), "{}", outcome.out);
        }
        for (arch, exit, mark) in
            [("HOPPER", Exit::Failed, "failed"), ("BLACKWELL", Exit::Success, "not verified")]
        {
            fs::write(&file, evidence_of(arch, &report[..100]).to_string()).unwrap();
            let outcome = inspect(&file, &["--json"]);
            assert_eq!((outcome.exit, outcome.check("report").as_str()), (exit, mark), "{arch}");
            assert!(outcome.out.contains("unreadable"), "{}", outcome.out);
        }
    }
}
