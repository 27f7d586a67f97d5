//! The verifier of relying parties over emulated evidence: accepted under the test roots, and each fault refused by
//! the check that is there for it. Needs no file system.

use std::time::{SystemTime, UNIX_EPOCH};

use cc_evidence::snp::{CertEntry, CertKind, Product as Read, Report, SigningKey, SnpEvidence};
use cc_verify::TrustRoots;
use cc_verify::snp::{Expectation, verify};
use tee_emulator::machine::{Fault, Hex, Product};
use tee_emulator::{Machine, TestChain, report};

const DATA: [u8; 64] = [0x42; 64];
const HOST_DATA: [u8; 32] = [0x17; 32];

fn machine(product: Product) -> Machine {
    Machine { product, host_data: Hex(HOST_DATA), ..Machine::default() }
}

fn evidence(chain: &TestChain, machine: &Machine) -> SnpEvidence {
    let bytes = report::build(chain, machine, &DATA, machine.vmpl, &[3; 32]).unwrap();
    let certs = vec![CertEntry { kind: CertKind::Vcek, data: chain.vcek_der(machine).unwrap() }];
    SnpEvidence { report: Report::parse(&bytes).unwrap(), certs }
}

/// The check that refuses, none if the evidence is accepted.
fn refused_by(evidence: &SnpEvidence, roots: &TrustRoots) -> Option<&'static str> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let expected =
        Expectation { report_data: &DATA, init_data_digest: Some(&HOST_DATA), now, extra_certs: &[] };
    verify(evidence, roots, &expected).err().map(|rejection| rejection.check())
}

fn roots(chain: &TestChain) -> TrustRoots {
    TrustRoots::vendor().with_test_roots(&chain.roots_pem().unwrap()).unwrap()
}

#[test]
fn every_fault_is_refused_by_its_check() {
    let chain = TestChain::generate(Product::Milan).unwrap();
    let trusted = roots(&chain);
    let good = machine(Product::Milan);
    let cases: [(&str, Machine, Option<&str>); 12] = [
        ("as it should be", good.clone(), None),
        ("version 5", Machine { report_version: 5, ..good.clone() }, None),
        ("debug is for the appraisal", Machine { policy: 0xB0000, ..good.clone() }, None),
        ("flip-bit", Machine { fault: Fault::FlipBit, ..good.clone() }, Some("snp.signature")),
        ("report data", Machine { fault: Fault::WrongReportData, ..good.clone() }, Some("snp.report_data")),
        ("expired", Machine { fault: Fault::ExpiredVcek, ..good.clone() }, Some("snp.vcek_validity")),
        ("tcb", Machine { fault: Fault::WrongTcbExtension, ..good.clone() }, Some("snp.tcb")),
        ("chip", Machine { fault: Fault::WrongChipId, ..good.clone() }, Some("snp.chip_id")),
        ("vmpl", Machine { vmpl: 1, ..good.clone() }, Some("snp.vmpl")),
        ("host data", Machine { host_data: Hex([1; 32]), ..good.clone() }, Some("snp.init_data")),
        ("version 2", Machine { report_version: 2, ..good.clone() }, Some("snp.version")),
        ("version 6", Machine { report_version: 6, ..good.clone() }, Some("snp.version")),
    ];
    for (name, machine, expected) in cases {
        assert_eq!(refused_by(&evidence(&chain, &machine), &trusted), expected, "{name}");
    }

    let evidence = evidence(&chain, &good);
    let rebuilt = SnpEvidence::from_json(&evidence.to_json().unwrap()).unwrap();
    assert_eq!(refused_by(&rebuilt, &trusted), None, "the JSON form keeps every signed byte");
    assert_eq!(refused_by(&evidence, &TrustRoots::vendor()), Some("snp.chain"), "AMD did not sign this");
    let other = TestChain::generate(Product::Milan).unwrap();
    assert_eq!(refused_by(&evidence, &roots(&other)), Some("snp.chain"), "nor did another emulator");
    let bare = SnpEvidence { certs: Vec::new(), ..evidence };
    assert_eq!(refused_by(&bare, &trusted), Some("snp.no_leaf_certificate"));
}

#[test]
fn all_products_are_written_as_they_are_read() {
    for (product, name) in
        [(Product::Milan, Read::Milan), (Product::Genoa, Read::Genoa), (Product::Turin, Read::Turin)]
    {
        let chain = TestChain::generate(product).unwrap();
        let machine = Machine { guest_svn: 11, report_version: 5, ..machine(product) };
        let evidence = evidence(&chain, &machine);
        assert_eq!(refused_by(&evidence, &roots(&chain)), None, "{product:?}");
        let report = &evidence.report;
        assert_eq!((report.product(), report.signing_key()), (Some(name), SigningKey::Vcek));
        assert_eq!((report.version, report.guest_svn, report.vmpl, report.policy.0), (5, 11, 0, 0x30000));
        assert_eq!((report.measurement, report.host_data), (machine.measurement.0, HOST_DATA));
        for tcb in [&report.current_tcb, &report.reported_tcb, &report.committed_tcb, &report.launch_tcb] {
            let set = machine.tcb;
            assert_eq!(
                (tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode),
                (set.bootloader, set.tee, set.snp, set.microcode)
            );
            assert_eq!(tcb.fmc, (product == Product::Turin).then_some(set.fmc));
        }
        assert_eq!(report.chip_id[..2], [0xC4, 0x1D]);
        assert_eq!(report.chip_id[63], if product == Product::Turin { 0 } else { 1 });
    }
}
