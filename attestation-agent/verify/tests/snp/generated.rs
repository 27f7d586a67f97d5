//! Every check of the verifier, passed and failed, on evidence made under test roots.

use aws_lc_rs::signature::KeyPair as _;
use cc_evidence::snp::{CertEntry, CertKind, CpuId, KeyInfo, Policy, Report, SnpEvidence, Tcb};
use cc_verify::TrustRoots;
use cc_verify::snp::{self, Expectation, LeafKind};

use crate::authority::{Authority, NOW, pem};
use crate::der_writer::{extension, integer, sequence, tlv};
use crate::machine::{CHIP_ID, Machine, expectation, roots};

#[test]
fn good_evidence_verifies_and_is_flagged_as_test() {
    let authority = Authority::new("Milan");
    let claims = serde_json::to_value(Machine::new(&authority).judge(&authority).unwrap()).unwrap();
    assert_eq!(claims["test_root"], true);
    assert_eq!(claims["measurement"], "3e".repeat(48));
    assert_eq!(claims["init_data"], "1d".repeat(32));
    assert_eq!(claims["reported_tcb_microcode"], 206);
    assert!(Machine::with_vlek(&authority).judge(&authority).is_ok());
}

#[test]
fn each_spoiled_leaf_fails_its_own_check() {
    let authority = Authority::new("Milan");
    type Spoil = fn(&mut Machine);
    let table: [(&str, Spoil); 24] = [
        ("snp.vcek_validity", |m| m.leaf.not_after = NOW - 1),
        ("snp.vcek_validity", |m| m.leaf.not_before = NOW + 1),
        ("snp.chain", |m| "SEV-Genoa".clone_into(&mut m.leaf.issuer)),
        ("snp.chain", |m| "SEV-VLEK-Milan".clone_into(&mut m.leaf.issuer)),
        ("snp.chain", |m| "Mallory".clone_into(&mut m.leaf.issuer)),
        ("snp.certificate", |m| m.leaf.subject = "SEV-VCEK2"),
        ("snp.certificate", |m| m.leaf.product_name = "Gen\u{f6}a"),
        ("snp.product_name", |m| m.leaf.product_name = "Genoa"),
        ("snp.product_name", |m| m.leaf.product_name = "MilanX"),
        ("snp.product_name", |m| m.leaf.product_name = ""),
        ("snp.tcb", |m| m.leaf.levels[0] = Some(11)),
        ("snp.tcb", |m| m.leaf.levels[1] = Some(1)),
        ("snp.tcb", |m| m.leaf.levels[2] = Some(22)),
        ("snp.tcb", |m| m.leaf.levels[3] = Some(205)),
        ("snp.tcb", |m| m.leaf.fmc = Some(0)),
        ("snp.certificate", |m| m.leaf.levels[0] = None),
        ("snp.certificate", |m| m.leaf.curve = "1.2.840.10045.3.1.7"),
        ("snp.certificate", |m| m.leaf.more.push(extension("1.2.3.4", true, &integer(1)))),
        ("snp.certificate", |m| {
            m.leaf.more.push(extension("2.5.29.19", true, &sequence(&[tlv(0x01, &[0xFF])])));
        }),
        ("snp.certificate", |m| {
            m.leaf.more.push(extension("1.3.6.1.4.1.3704.1.3.1", false, &integer(10)));
        }),
        ("snp.chip_id", |m| m.leaf.hw_id = None),
        ("snp.chip_id", |m| m.leaf.hw_id = Some(vec![0xC1; 63])),
        ("snp.chip_id", |m| m.leaf.hw_id = Some(vec![0xC1; 8])),
        ("snp.chip_id", |m| {
            m.leaf.hw_id = Some([&CHIP_ID[..63], &[0xC0]].concat());
        }),
    ];
    for (index, (check, spoil)) in table.into_iter().enumerate() {
        let mut machine = Machine::new(&authority);
        spoil(&mut machine);
        let rejection = machine.judge(&authority).unwrap_err();
        assert_eq!(rejection.check(), check, "row {index}: {rejection}");
    }
}

#[test]
fn each_spoiled_report_fails_its_own_check() {
    let authority = Authority::new("Milan");
    type Spoil = fn(&mut Machine);
    let table: [(&str, Spoil); 13] = [
        ("snp.version", |m| {
            m.fields.version = 2;
            m.fields.cpuid = None;
        }),
        ("snp.version", |m| m.fields.version = 6),
        ("snp.product", |m| m.fields.cpuid = Some(CpuId { family: 0x17, model: 1, stepping: 0 })),
        ("snp.product_name", |m| m.fields.cpuid = Some(CpuId { family: 0x19, model: 0x11, stepping: 0 })),
        ("snp.signing_key", |m| m.fields.key_info = KeyInfo(7 << 2)),
        ("snp.signing_key", |m| m.fields.key_info = KeyInfo(2 << 2)),
        ("snp.no_leaf_certificate", |m| m.fields.key_info = KeyInfo(1 << 2)),
        ("snp.sig_algo", |m| m.fields.sig_algo = 2),
        ("snp.vmpl", |m| m.fields.vmpl = 1),
        ("snp.vmpl", |m| m.fields.vmpl = u32::MAX),
        ("snp.tcb", |m| m.fields.reported_tcb = Tcb::from_parts(None, 10, 0, 23, 207)),
        ("snp.report_data", |m| m.fields.report_data[63] = 1),
        ("snp.init_data", |m| m.fields.host_data[31] = 0),
    ];
    for (index, (check, spoil)) in table.into_iter().enumerate() {
        let mut machine = Machine::new(&authority);
        spoil(&mut machine);
        let rejection = machine.judge(&authority).unwrap_err();
        assert_eq!(rejection.check(), check, "row {index}: {rejection}");
    }
}

#[test]
fn debug_is_a_claim_and_no_rejection() {
    let authority = Authority::new("Milan");
    let mut machine = Machine::new(&authority);
    machine.fields.policy = Policy(0xB_0000);
    assert!(machine.judge(&authority).unwrap().policy_debug_allowed);
}

#[test]
fn chip_identifier_forms() {
    let authority = Authority::new("Milan");
    let mut machine = Machine::new(&authority);
    machine.leaf.hw_id = Some(tlv(0x04, &CHIP_ID));
    assert!(machine.judge(&authority).is_ok(), "wrapped in an OCTET STRING");

    // Masked: nothing to compare. Not masked, or masked with an identifier: it must match.
    machine.fields.chip_id = [0; 64];
    assert_eq!(machine.judge(&authority).unwrap_err().check(), "snp.chip_id");
    machine.fields.key_info = KeyInfo(2);
    assert!(machine.judge(&authority).is_ok(), "masked");
    machine.fields.chip_id = [0xC2; 64];
    assert_eq!(machine.judge(&authority).unwrap_err().check(), "snp.chip_id");
}

#[test]
fn turin_has_an_fmc_and_short_chip_identifiers() {
    let authority = Authority::new("Turin");
    let mut machine = Machine::new(&authority);
    machine.fields.cpuid = Some(CpuId { family: 0x1A, model: 0x02, stepping: 0 });
    machine.fields.reported_tcb = Tcb::from_parts(Some(1), 10, 0, 23, 206);
    for tcb in
        [&mut machine.fields.current_tcb, &mut machine.fields.committed_tcb, &mut machine.fields.launch_tcb]
    {
        *tcb = Tcb::from_parts(Some(0), 0, 0, 0, 0);
    }
    machine.fields.chip_id[8..].fill(0);
    machine.leaf.fmc = Some(1);
    machine.leaf.hw_id = Some(CHIP_ID[..8].to_vec());
    assert!(machine.judge(&authority).is_ok());
    machine.leaf.hw_id = Some(tlv(0x04, &CHIP_ID[..8]));
    assert!(machine.judge(&authority).is_ok());
    machine.leaf.fmc = Some(2);
    assert_eq!(machine.judge(&authority).unwrap_err().check(), "snp.tcb");
    machine.leaf.fmc = None;
    assert_eq!(machine.judge(&authority).unwrap_err().check(), "snp.tcb");
    machine.leaf.fmc = Some(1);
    machine.fields.chip_id[63] = 1;
    assert_eq!(machine.judge(&authority).unwrap_err().check(), "snp.chip_id");
}

#[test]
fn only_the_given_roots_count() {
    let authority = Authority::new("Milan");
    let stranger = Authority::new("Milan");
    let evidence = Machine::new(&authority).evidence(&authority);
    let check = |roots: &TrustRoots| snp::verify(&evidence, roots, &expectation()).map_err(|r| r.check());
    assert_eq!(check(&TrustRoots::vendor()), Err("snp.chain"));
    assert_eq!(check(&roots(&stranger)), Err("snp.chain"));
    // Several sets of one product: the one that signed is found.
    let both = roots(&stranger).with_test_roots(&authority.pem()).unwrap();
    assert!(check(&both).is_ok());
    // A root in the evidence itself changes nothing.
    let mut evidence = evidence;
    for (kind, signer) in [(CertKind::Ark, &authority.ark), (CertKind::Ask, &authority.ask)] {
        evidence.certs.push(CertEntry { kind, data: signer.cert.clone() });
    }
    let verdict = snp::verify(&evidence, &TrustRoots::vendor(), &expectation());
    assert_eq!(verdict.unwrap_err().check(), "snp.chain");
}

#[test]
fn the_leaf_must_be_signed_by_the_right_authority() {
    let authority = Authority::new("Milan");
    let machine = Machine::new(&authority);
    for signer in [&authority.ark, &authority.asvk] {
        let data = machine.leaf.sign(signer, machine.key.public_key().as_ref());
        let certs = vec![CertEntry { kind: CertKind::Vcek, data }];
        let evidence = SnpEvidence { report: machine.report(), certs };
        let rejection = snp::verify(&evidence, &roots(&authority), &expectation()).unwrap_err();
        assert_eq!(rejection.check(), "snp.chain", "signed by {}", signer.name);
    }
    // A VLEK in the place of a VCEK.
    let mut evidence = Machine::with_vlek(&authority).evidence(&authority);
    evidence.certs[0].kind = CertKind::Vcek;
    evidence.report = machine.report();
    let rejection = snp::verify(&evidence, &roots(&authority), &expectation()).unwrap_err();
    assert_eq!(rejection.check(), "snp.leaf_name");
}

#[test]
fn leaf_certificates_from_elsewhere() {
    let authority = Authority::new("Milan");
    let machine = Machine::new(&authority);
    let good = machine.leaf_certificate(&authority);
    let stale = Machine::new(&authority).leaf_certificate(&authority);
    let armored = CertEntry { kind: CertKind::Vcek, data: pem(&good.data).into_bytes() };
    let report = machine.report();
    let check = |certs: &[&CertEntry], extra: &[&CertEntry]| {
        let owned = |list: &[&CertEntry]| list.iter().map(|entry| (*entry).clone()).collect::<Vec<_>>();
        let evidence = SnpEvidence { report: report.clone(), certs: owned(certs) };
        let extra_certs = owned(extra);
        let x = Expectation { extra_certs: &extra_certs, ..expectation() };
        snp::verify(&evidence, &roots(&authority), &x).map(|_| ()).map_err(|r| r.check())
    };
    assert_eq!(check(&[], &[]), Err("snp.no_leaf_certificate"));
    assert_eq!(check(&[], &[&good]), Ok(()));
    assert_eq!(check(&[&armored], &[]), Ok(()));
    assert_eq!(check(&[&stale], &[]), Err("snp.signature"));
    assert_eq!(check(&[&stale, &good], &[]), Ok(()));
    assert_eq!(check(&[&stale], &[&good]), Ok(()));
    let garbage = CertEntry { kind: CertKind::Vcek, data: vec![0x30, 0x03, 1, 2, 3] };
    assert_eq!(check(&[&garbage], &[]), Err("snp.certificate"));
    assert_eq!(check(&[&garbage], &[&good]), Ok(()));
}

#[test]
fn nothing_expected_means_nothing_accepted() {
    let authority = Authority::new("Milan");
    let mut machine = Machine::new(&authority);
    machine.fields.report_data = [0; 64];
    machine.fields.host_data = [0; 32];
    let evidence = machine.evidence(&authority);
    let check = |x: &Expectation<'_>| {
        snp::verify(&evidence, &roots(&authority), x).map(|_| ()).map_err(|r| r.check())
    };
    let x = Expectation { report_data: &[], init_data_digest: None, ..expectation() };
    assert_eq!(check(&x), Err("expectation.missing"));
    let x = Expectation { report_data: &[0; 64], init_data_digest: Some(&[]), ..expectation() };
    assert_eq!(check(&x), Err("expectation.missing"));
    let x = Expectation { report_data: &[0; 64], init_data_digest: None, ..expectation() };
    assert_eq!(check(&x), Ok(()));
}

#[test]
fn no_flipped_bit_of_signed_bytes_passes() {
    let authority = Authority::new("Milan");
    let trusted = roots(&authority);
    let evidence = Machine::new(&authority).evidence(&authority);
    // Signed part, then the used bytes of both numbers of the signature.
    let bytes = (0..0x2A0).chain(0x2A0..0x2E8).chain(0x2E8..0x330);
    for (index, byte) in bytes.enumerate() {
        let mut raw = *evidence.report.raw();
        raw[byte] ^= 1 << (index % 8);
        let Ok(report) = Report::parse(&raw) else { continue };
        let changed = SnpEvidence { report, certs: evidence.certs.clone() };
        assert!(snp::verify(&changed, &trusted, &expectation()).is_err(), "byte {byte:#x}");
    }
    for byte in 0..evidence.certs[0].data.len() {
        let mut changed = evidence.clone();
        changed.certs[0].data[byte] ^= 1 << (byte % 8);
        assert!(snp::verify(&changed, &trusted, &expectation()).is_err(), "certificate byte {byte}");
    }
}

#[test]
fn finer_steps() {
    let authority = Authority::new("Milan");
    let evidence = Machine::with_vlek(&authority).evidence(&authority);
    assert_eq!(snp::verify_signature(&evidence.report, &evidence.certs[0].data), Ok(()));
    let chain = snp::verify_chain(&evidence.certs, &roots(&authority), NOW).unwrap();
    assert_eq!((chain.kind, chain.test_root, chain.product.as_str()), (LeafKind::Vlek, true, "Milan"));
    let names: Vec<_> = chain.links.iter().map(|link| link.name.as_str()).collect();
    assert_eq!(names, ["SEV-VLEK", "SEV-VLEK-Milan", "ARK-Milan"]);
    let rejection = snp::verify_chain(&[], &roots(&authority), NOW).unwrap_err();
    assert_eq!(rejection.check(), "snp.no_leaf_certificate");
    let other = Machine::with_vlek(&authority).leaf_certificate(&authority);
    assert_eq!(snp::verify_signature(&evidence.report, &other.data).unwrap_err().check(), "snp.signature");
    // The authorities of these tests end five years after NOW.
    let late = snp::verify_chain(&evidence.certs, &roots(&authority), NOW + 6 * 365 * 86_400).unwrap_err();
    assert_eq!(late.check(), "snp.ca_validity");
}

#[test]
fn test_roots_must_be_a_hierarchy() {
    let authority = Authority::new("Milan");
    let stranger = Authority::new("Milan");
    let texts = [
        ("two ASKs", format!("{}{}", authority.pem(), pem(&stranger.ask.cert))),
        ("no ARK", pem(&authority.ask.cert)),
        ("ASK of another ARK", format!("{}{}", pem(&stranger.ask.cert), pem(&authority.ark.cert))),
        ("not a CA", format!("{}{}", pem(&authority.ask.cert), pem(&authority.ark_without_ca_mark()))),
        ("a leaf", {
            let leaf = Machine::new(&authority).leaf_certificate(&authority);
            format!("{}{}", authority.pem(), pem(&leaf.data))
        }),
    ];
    for (what, text) in texts {
        let error = TrustRoots::vendor().with_test_roots(&text).unwrap_err();
        assert_eq!(error.code(), "TEST_ROOTS_INVALID", "{what}");
    }
    let without_asvk = format!("{}{}", pem(&authority.ask.cert), pem(&authority.ark.cert));
    let roots = TrustRoots::vendor().with_test_roots(&without_asvk).unwrap();
    assert!(roots.has_test_roots());
    let verdict = |machine: &Machine| {
        snp::verify(&machine.evidence(&authority), &roots, &expectation()).map_err(|r| r.check())
    };
    assert!(verdict(&Machine::new(&authority)).is_ok());
    assert_eq!(verdict(&Machine::with_vlek(&authority)), Err("snp.chain"));
}
