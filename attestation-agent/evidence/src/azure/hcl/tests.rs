//! Reports that this file makes, whole, changed and cut.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A report as the paravisor writes it, in an index of 2600 bytes.
fn report(report_type: u32, user_data: &[u8]) -> Vec<u8> {
    let json = json!({
        "keys": [{"kid": "HCLAkPub", "kty": "RSA", "e": "AQAB", "n": BASE64_URL_SAFE_NO_PAD.encode([0xC1; 256])}],
        "vm-configuration": {"secure-boot": true},
        "user-data": hex::encode_upper(user_data),
    })
    .to_string();
    let size = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
    let mut place = vec![0; snp::REPORT_LEN];
    let (version, at): (&[u8], usize) = if report_type == TYPE_SNP { (&[3], 0x50) } else { (&[0x81], 0x80) };
    place[..version.len()].copy_from_slice(version);
    place[at..at + 32].copy_from_slice(&HashAlgorithm::Sha256.digest(json.as_bytes()));
    let mut bytes = [&b"HCLA"[..], &size(2), &size(1216 + 20 + json.len()), &size(2), &[0; 16]].concat();
    bytes.extend(place);
    bytes.extend(
        [size(20 + json.len()), size(1), report_type.to_le_bytes(), size(1), size(json.len())].concat(),
    );
    bytes.extend(json.as_bytes());
    bytes.resize(2600, 0);
    bytes
}

#[test]
fn both_kinds_are_read() {
    for (kind, tee, length) in [(2, Tee::AzSnpVtpm, 1184), (4, Tee::AzTdxVtpm, 1024)] {
        let bytes = report(kind, &[7; 48]);
        let hcl = HclReport::parse(&bytes).unwrap();
        assert_eq!((hcl.tee(), hcl.hash, hcl.version), (tee, HashAlgorithm::Sha256, 2));
        assert_eq!(hcl.hardware_bytes(), &bytes[32..32 + length]);
        assert!(hcl.binds_runtime_data());
        assert!(hcl.runtime().has_user_data(&[7; 48]));
        assert!(hcl.runtime_json().ends_with('}'));
    }
}

#[test]
fn other_reports_are_refused_by_the_field() {
    let table: [(usize, u8, &str); 8] = [
        (0, b'h', "hcl.signature"),
        (8, 0xFF, "hcl.report_size"),
        (0x4C0, 0, "hcl.data_size"),
        (0x4C8, 3, "hcl.report_type"),
        (0x4CC, 0, "hcl.hash_type"),
        (0x4D1, 0xFF, "hcl.runtime_data"),
        (0x4D4, b'[', "runtime data"),
        (0x4D5, 0xFF, "UTF-8"),
    ];
    for (at, value, expected) in table {
        let mut bytes = report(2, &[7; 48]);
        bytes[at] = value;
        let error = HclReport::parse(&bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} lacks {expected:?}");
    }
    let mut bytes = report(4, &[7; 48]);
    bytes[32 + 1024] = 1;
    assert!(HclReport::parse(&bytes).unwrap_err().to_string().contains("follow the TDREPORT"));
    let long = [report(2, &[]), vec![0; MAX_HCL_LEN]].concat();
    assert_eq!(HclReport::parse(&long).unwrap_err().code(), "EVIDENCE_TOO_LARGE");
}

#[test]
fn altered_runtime_data_is_not_bound() {
    let mut bytes = report(2, &[7; 48]);
    let at = bytes.windows(4).position(|part| part == b"true").unwrap();
    bytes[at..at + 4].copy_from_slice(b"null");
    assert!(!HclReport::parse(&bytes).unwrap().binds_runtime_data());
    let mut bytes = report(2, &[7; 48]);
    bytes[32 + 0x50 + 40] = 1;
    assert!(!HclReport::parse(&bytes).unwrap().binds_runtime_data(), "behind the hash there are zeros");
}

#[test]
fn every_cut_is_an_error() {
    let bytes = report(2, &[7; 48]);
    let used = usize::try_from(u32::from_le_bytes(bytes[8..12].try_into().unwrap())).unwrap();
    for length in 0..used {
        assert!(HclReport::parse(&bytes[..length]).is_err(), "{length} of {used} bytes");
    }
    assert!(HclReport::parse(&bytes[..used]).is_ok());
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        prop_assert!(HclReport::parse(&bytes).is_err());
    }

    #[test]
    fn a_changed_report_never_panics(kind in prop::sample::select(vec![2u32, 4]), at in 0usize..2600, to: u8) {
        let mut bytes = report(kind, &[7; 48]);
        bytes[at] = to;
        let _ = HclReport::parse(&bytes);
    }
}
