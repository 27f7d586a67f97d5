//! Certificates and lists come from the host: whatever they are, a verdict and never a panic.

use cc_evidence::snp::{CertEntry, CertKind, REPORT_LEN, Report};
use cc_verify::{TrustRoots, snp};
use proptest::prelude::*;

use crate::authority::{Authority, NOW};
use crate::machine::{Machine, roots};

fn blank_report() -> Report {
    let mut raw = [0; REPORT_LEN];
    (raw[0], raw[0x34]) = (3, 1);
    Report::parse(&raw).unwrap()
}

proptest! {
    #[test]
    fn random_certificates_are_refused(data in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(snp::verify_signature(&blank_report(), &data).is_err());
        let certs = [CertEntry { kind: CertKind::Vcek, data }];
        prop_assert!(snp::verify_chain(&certs, &TrustRoots::vendor(), NOW).is_err());
    }

    #[test]
    fn random_test_roots_are_refused(pem: String) {
        prop_assert!(TrustRoots::vendor().with_test_roots(&pem).is_err());
    }
}

#[test]
fn cut_certificates_and_lists_are_refused() {
    let authority = Authority::new("Milan");
    let trusted = roots(&authority);
    let leaf = Machine::new(&authority).leaf_certificate(&authority);
    for len in 0..leaf.data.len() {
        let cut = CertEntry { kind: leaf.kind, data: leaf.data[..len].to_vec() };
        let rejection = snp::verify_chain(&[cut], &trusted, NOW).unwrap_err();
        assert_eq!(rejection.check(), "snp.certificate", "{len} bytes");
    }
    let longer = CertEntry { kind: leaf.kind, data: [leaf.data.as_slice(), &[0]].concat() };
    assert_eq!(snp::verify_chain(&[longer], &trusted, NOW).unwrap_err().check(), "snp.certificate");
    let list = authority.ark.revocation_list(&authority.ark.name, NOW - 1, &[9]);
    for len in 0..list.len() {
        let cut = CertEntry { kind: CertKind::Crl, data: list[..len].to_vec() };
        let rejection = snp::verify_chain(&[leaf.clone(), cut], &trusted, NOW).unwrap_err();
        assert_eq!(rejection.check(), "snp.crl", "{len} bytes");
    }
}
