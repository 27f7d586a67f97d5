//! Forged SNP evidence: time, test roots, report, chip certificate, revocation list, all of them the attacker's.
//! Nobody has the keys behind the seed any more, so that whatever is accepted must be the seed's report.
#![no_main]

use cc_evidence::snp::{CertEntry, CertKind, Report, SnpEvidence};
use cc_fuzz::{parts, time};
use cc_verify::TrustRoots;
use cc_verify::snp::{Expectation, verify, verify_identity, verify_signature};
use libfuzzer_sys::fuzz_target;

const GENUINE: &[u8] = include_bytes!("../seeds/snp_verify/made-genoa");
/// The signature begins here.
const SIGNED: usize = 0x2A0;

fuzz_target!(|input: &[u8]| {
    let [now, roots, report, chip, list] = parts(input);
    let roots =
        std::str::from_utf8(roots).ok().and_then(|pem| TrustRoots::vendor().with_test_roots(pem).ok());
    let Ok(report) = Report::parse(report) else { return };
    let _ = verify_identity(&report, chip);
    let signed = verify_signature(&report, chip).is_ok();
    let mut certs = vec![CertEntry { kind: CertKind::Vcek, data: chip.to_vec() }];
    if !list.is_empty() {
        certs.push(CertEntry { kind: CertKind::Crl, data: list.to_vec() });
    }
    let evidence = SnpEvidence { report: report.clone(), certs };
    let expectation = Expectation {
        report_data: &report.report_data,
        init_data_digest: None,
        now: time(now),
        extra_certs: &[],
    };
    let accepted = verify(&evidence, &roots.unwrap_or_else(TrustRoots::vendor), &expectation).is_ok();
    assert!(accepted || input != GENUINE);
    if accepted {
        let [_, _, genuine, _, _] = parts(GENUINE);
        assert_eq!(report.raw()[..SIGNED], genuine[..SIGNED]);
        assert!(signed);
    }
});
