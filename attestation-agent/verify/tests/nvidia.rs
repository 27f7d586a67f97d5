//! NVIDIA verification of recorded H100 reports under NVIDIA's root, and of what can be made of them by a forger.
//!
//! Chains and reports that are made under test roots, and fail in one point only, are the matter of the emulator's tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use cc_evidence::nvidia::{Architecture, Device, Measurement, NvidiaEvidence, Opaque, Report, Unsigned};
use cc_verify::nvidia::{Expectation, verify, verify_device};
use cc_verify::{Rejection, TrustRoots};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, SignatureAlgorithm, date_time_ymd,
};
use serde_json::{Value, json};

/// 2026-01-01; the certificates end in the year 9999.
const NOW: u64 = 1_767_225_600;

fn read(file: &str) -> Option<Vec<u8>> {
    cc_vectors::read("nvidia-hopper", file)
}

fn device(name: &str) -> Option<Device> {
    let report = String::from_utf8(read(&format!("{name}.hex"))?).unwrap();
    Some(Device {
        architecture: Architecture::Hopper,
        uuid: "1111-2222-33333-444444-555555".to_owned(),
        report: hex::decode(report.trim()).unwrap(),
        certificate_chain: read(&format!("{name}-chain.pem"))?,
    })
}

fn nonce(device: &Device) -> Vec<u8> {
    Report::parse(&device.report).unwrap().nonce.to_vec()
}

fn verdict(devices: &[Device], report_data: &[u8]) -> Result<Value, Rejection> {
    let evidence = NvidiaEvidence { devices: devices.to_vec() };
    verify(&evidence, &TrustRoots::vendor(), &Expectation { report_data, now: NOW })
        .map(|claims| json!(claims))
}

/// The name of the check that refuses one device.
fn refused(device: &Device, report_data: &[u8]) -> &'static str {
    verdict(std::slice::from_ref(device), report_data).unwrap_err().check()
}

#[test]
fn recorded_reports_are_signed_under_nvidias_root() {
    let facts: Value = match read("facts.json") {
        Some(text) => serde_json::from_slice(&text).unwrap(),
        None => return,
    };
    for name in ["report1", "report2"] {
        let device = device(name).unwrap();
        let report = Report::parse(&device.report).unwrap();
        let chain = verify_device(&device, &report, &TrustRoots::vendor(), NOW).unwrap();
        assert!(!chain.test_root());
        assert_eq!(facts[name]["leaf_fwid"], hex::encode(chain.fwid()));
        assert_eq!(facts[name]["chain"][0]["sha256"], hex::encode(chain.leaf_sha256()));
        for (fact, found) in facts[name]["chain"].as_array().unwrap().iter().zip(chain.names()) {
            assert!(fact["subject"].as_str().unwrap().contains(&format!("CN={found}")), "{found}");
        }
        assert!(verdict(std::slice::from_ref(&device), &nonce(&device)).is_ok());
        // One second before the oldest certificate begins.
        let early = verify_device(&device, &report, &TrustRoots::vendor(), 1_600_000_000).unwrap_err();
        assert_eq!(early.check(), "nvidia.validity");
    }
}

#[test]
fn the_nonce_is_the_beginning_of_the_digest() {
    let Some(device) = device("report2") else { return };
    // The digest that the recorded session bound, 48 bytes.
    let digest =
        "87d8e24ab336adafe228d49e83d745f6dba4ae505372b6a5704820856b343fece279b616efefc2aae21da80cf5581250";
    let digest = hex::decode(digest).unwrap();
    assert!(verdict(std::slice::from_ref(&device), &digest).is_ok());
    assert_eq!(refused(&device, &digest[..31]), "nvidia.report_data");
    assert_eq!(refused(&device, &[0; 48]), "nvidia.report_data");
    assert_eq!(refused(&device, &[]), "expectation.missing");
}

#[test]
fn claims_are_those_of_the_recorded_verifier() {
    let Some(device) = device("report1") else { return };
    let mut expected: Value =
        serde_json::from_slice(&read("report1-upstream-expected-claims.json").unwrap()).unwrap();
    let claims = verdict(std::slice::from_ref(&device), &nonce(&device)).unwrap();
    // The recorded claims have the byte 0x55 as a letter here; later versions of that verifier have a word and hex.
    for (name, value) in [("nvdec0_status", "disabled"), ("protected_pcie_status", "55")] {
        assert_eq!(expected["config"][name], "U");
        expected["config"][name] = value.into();
    }
    assert_eq!(claims, json!([expected]));
}

#[test]
fn every_flipped_bit_of_a_report_is_noticed() {
    let Some(device) = device("report1") else { return };
    let nonce = nonce(&device);
    for bit in (0..device.report.len() * 8).step_by(13) {
        let mut forged = device.clone();
        forged.report[bit / 8] ^= 1 << (bit % 8);
        assert!(verdict(&[forged], &nonce).is_err(), "bit {bit}");
    }
}

#[test]
fn chains_with_a_gap_are_refused() {
    let Some(device) = device("report1") else { return };
    let nonce = nonce(&device);
    let with = |certificate_chain: Vec<u8>| Device { certificate_chain, ..device.clone() };
    for file in
        ["bad-chain-missing-intermediate.pem", "bad-chain-missing-leaf.pem", "bad-chain-root-only.pem"]
    {
        assert_eq!(refused(&with(read(file).unwrap()), &nonce), "nvidia.chain", "{file}");
    }
    // The leaf alone, nothing, no text; and the chain without its root.
    for pem in [read("report1-leaf.pem").unwrap(), Vec::new(), vec![0xFF]] {
        assert_eq!(refused(&with(pem), &nonce), "nvidia.chain");
    }
    let chain = String::from_utf8(device.certificate_chain.clone()).unwrap();
    let without_root = chain.rfind("-----BEGIN").unwrap();
    assert_eq!(refused(&with(chain.as_bytes()[..without_root].to_vec()), &nonce), "nvidia.chain");
    for index in (30..device.certificate_chain.len()).step_by(17) {
        let mut changed = device.certificate_chain.clone();
        changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
        assert!(verdict(&[with(changed)], &nonce).is_err(), "byte {index}");
    }
}

#[test]
fn another_devices_chain_and_a_device_shown_twice_are_refused() {
    let (Some(one), Some(two)) = (device("report1"), device("report2")) else { return };
    let mixed = Device { certificate_chain: two.certificate_chain.clone(), ..one.clone() };
    assert_eq!(refused(&mixed, &nonce(&one)), "nvidia.signature");
    let twice = verdict(&[one.clone(), one.clone()], &nonce(&one)).unwrap_err();
    assert_eq!(twice.check(), "nvidia.duplicate");
    // One bad device spoils the whole.
    let both = verdict(&[one.clone(), two], &nonce(&one)).unwrap_err();
    assert_eq!(both.check(), "nvidia.report_data");
    assert!(both.to_string().contains("1111-2222-33333-444444-555555"), "{both}");
    assert_eq!(verdict(&[], &nonce(&one)).unwrap_err().check(), "evidence.format");
}

#[test]
fn only_the_generation_that_was_checked_is_verified() {
    let Some(device) = device("report1") else { return };
    for architecture in [Architecture::Blackwell, Architecture::Ls10] {
        let other = Device { architecture, ..device.clone() };
        assert_eq!(refused(&other, &nonce(&device)), "nvidia.arch");
    }
}

/// How a chain of root, authority and device is made.
struct Made {
    /// Of the authority's key.
    key: &'static SignatureAlgorithm,
    /// What the root allows below it.
    below_root: BasicConstraints,
    /// Of the device's key.
    usage: KeyUsagePurpose,
}

impl Made {
    fn good() -> Self {
        Self {
            key: &PKCS_ECDSA_P384_SHA384,
            below_root: BasicConstraints::Constrained(1),
            usage: KeyUsagePurpose::DigitalSignature,
        }
    }

    /// The chain, leaf first, and its root.
    fn pem(&self) -> (String, String) {
        let authority = |limit| (IsCa::Ca(limit), KeyUsagePurpose::KeyCertSign);
        let key = |algorithm| KeyPair::generate_for(algorithm).unwrap();
        let (params_of_root, key_of_root) =
            (params("NVIDIA Device Identity CA", authority(self.below_root)), key(&PKCS_ECDSA_P384_SHA384));
        let root_pem = params_of_root.self_signed(&key_of_root).unwrap().pem();
        let root = Issuer::new(params_of_root, key_of_root);
        let params_of_next = params("NVIDIA Test", authority(BasicConstraints::Constrained(0)));
        let key_of_next = key(self.key);
        let next_pem = params_of_next.signed_by(&key_of_next, &root).unwrap().pem();
        let next = Issuer::new(params_of_next, key_of_next);
        let mut leaf = params("GH100 test", (IsCa::NoCa, self.usage));
        // Version 1, an empty key, SHA-384 and 48 bytes.
        let fwid = [
            &[0x30, 68, 2, 1, 1, 0x30, 0, 0x30, 61, 0x06, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2, 0x04, 48]
                [..],
            &[0xF5; 48],
        ];
        leaf.custom_extensions =
            vec![CustomExtension::from_oid_content(&[2, 23, 133, 5, 4, 1], fwid.concat())];
        let leaf_pem = leaf.signed_by(&key(&PKCS_ECDSA_P384_SHA384), &next).unwrap().pem();
        (format!("{leaf_pem}{next_pem}{root_pem}"), root_pem)
    }

    /// Why a report under this chain is refused.
    fn refusal(&self) -> String {
        let (chain, root) = self.pem();
        let roots = TrustRoots::vendor().with_test_roots(&root).unwrap();
        let device = Device {
            architecture: Architecture::Hopper,
            uuid: "GPU-1".to_owned(),
            report: unsigned_report(),
            certificate_chain: chain.into_bytes(),
        };
        let report = Report::parse(&device.report).unwrap();
        let rejection = verify_device(&device, &report, &roots, NOW).unwrap_err();
        format!("{}: {rejection}", rejection.check())
    }
}

fn params(name: &str, (is_ca, usage): (IsCa, KeyUsagePurpose)) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2035, 1, 1);
    params.is_ca = is_ca;
    params.key_usages = vec![usage];
    params
}

/// A report with a signature that is nobody's.
fn unsigned_report() -> Vec<u8> {
    let fields = Unsigned {
        nonce: [1; 32],
        slot: 0,
        param1: 0,
        param2: 0,
        measurements: vec![Measurement { index: 1, kind: 1, value: vec![2; 48] }],
        responder_nonce: [3; 32],
        opaque: Opaque::parse(&[]).unwrap(),
    };
    [fields.encode().unwrap(), vec![0; 96]].concat()
}

#[test]
fn every_key_limit_and_usage_of_a_chain_counts() {
    let good = Made::good().refusal();
    assert!(good.starts_with("nvidia.signature"), "the chain itself is good: {good}");
    for (made, why) in [
        (Made { key: &PKCS_ECDSA_P256_SHA256, ..Made::good() }, "NVIDIA Test is not on the curve P-384"),
        (
            Made { below_root: BasicConstraints::Constrained(0), ..Made::good() },
            "NVIDIA Device Identity CA allows fewer than 1 authorities below it",
        ),
        (Made { usage: KeyUsagePurpose::KeyAgreement, ..Made::good() }, "GH100 test is not for signatures"),
    ] {
        let refusal = made.refusal();
        assert!(refusal.starts_with("nvidia.chain") && refusal.contains(why), "{refusal}");
    }
}
