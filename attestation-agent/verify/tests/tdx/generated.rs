//! Evidence of a test platform: good as it is, refused for each single defect by the check that is there for it.

use cc_evidence::tdx::{TdAttributes, TdxEvidence};
use cc_verify::TrustRoots;
use cc_verify::tdx::{Expectation, verify};
use serde_json::json;

use crate::authority::{CertSpec, Key, NOW, YEAR, member, pem};
use crate::der_writer::{extension, integer};
use crate::platform::{LEAF, PLATFORM_CA, Platform, ROOT, SIGNER, expectation};

fn spoiled(spoil: impl FnOnce(&mut Platform)) -> Platform {
    let mut platform = Platform::new();
    spoil(&mut platform);
    platform
}

#[test]
fn a_good_platform_is_verified_and_up_to_date() {
    let claims = Platform::new().verdict().unwrap();
    assert_eq!((claims.tcb_status, claims.tcb_status_current), ("UpToDate", "UpToDate"));
    let claims = serde_json::to_value(claims).unwrap();
    let expected = [
        ("/quote/header/version", json!("0400")),
        ("/quote/header/tee_type", json!("81000000")),
        ("/quote/body/tcb_svn", json!("05030200000000000000000000000000")),
        ("/quote/body/xfam", json!("e702060000000000")),
        ("/quote/body/mr_td", json!("7d".repeat(48))),
        ("/td_attributes/debug", json!(false)),
        ("/td_attributes/septve_disable", json!(true)),
        ("/report_data", json!(format!("{}{}", "da".repeat(48), "00".repeat(16)))),
        ("/init_data", json!(format!("{}{}", "1d".repeat(32), "00".repeat(16)))),
        ("/collateral_expiration_status", json!("0")),
        ("/advisory_ids", json!(["INTEL-SA-00013"])),
        ("/tcb_date", json!("2024-03-13T00:00:00Z")),
        ("/latest_issue_date", json!("2025-12-21T00:00:00Z")),
        ("/earliest_expiration_date", json!("2026-01-19T00:00:00Z")),
        ("/tcb_eval_num", json!(17)),
        ("/sgx_type", json!(1)),
        ("/is_dynamic_platform", json!(true)),
        ("/is_cached_keys", json!(false)),
        ("/is_smt_enabled", json!(true)),
        ("/platform_instance_id", json!("0f0e0d0c0b0a09080706050403020100")),
        ("/test_root", json!(true)),
    ];
    for (path, value) in expected {
        assert_eq!(claims.pointer(path), Some(&value), "{path}");
    }
    for absent in ["uefi_event_logs", "pck_crl_num", "root_ca_crl_num"] {
        assert_eq!(claims.get(absent), None, "{absent}");
    }
}

#[test]
fn without_collateral_nothing_is_said_about_the_platform() {
    let platform = Platform::new();
    let claims = verify(&platform.evidence(), &platform.roots(), None, &expectation()).unwrap();
    let claims = serde_json::to_value(claims).unwrap();
    assert_eq!(
        (&claims["tcb_status"], &claims["tcb_status_current"]),
        (&json!("Unverified"), &json!("Unverified"))
    );
    for absent in ["collateral_expiration_status", "advisory_ids", "tcb_date", "tcb_eval_num"] {
        assert_eq!(claims.get(absent), None, "{absent}");
    }
}

type Spoil = fn(&mut Platform);

#[test]
fn every_defect_of_the_evidence_fails_its_own_check() {
    let rows: [(&str, &str, Spoil); 33] = [
        ("leaf of another authority", "tdx.pck_chain", |p| p.leaf.issuer = "Intel SGX PCK Processor CA"),
        ("leaf with another name", "tdx.pck_chain", |p| p.leaf.subject = SIGNER),
        ("leaf that is an authority", "tdx.pck_chain", |p| p.leaf.ca = true),
        ("leaf expired", "tdx.pck_validity", |p| p.leaf.not_after = NOW - 1),
        ("leaf not yet valid", "tdx.pck_validity", |p| p.leaf.not_before = NOW + 1),
        ("authority expired", "tdx.pck_validity", |p| p.authority.not_after = NOW - 1),
        ("root expired", "tdx.pck_validity", |p| p.root.not_after = NOW - 1),
        ("authority with another name", "tdx.pck_chain", |p| {
            (p.authority.subject, p.leaf.issuer) = ("Intel SGX Spare CA", "Intel SGX Spare CA");
        }),
        ("authority that may not sign", "tdx.pck_chain", |p| p.authority.ca = false),
        ("authority of another issuer", "tdx.pck_chain", |p| p.authority.issuer = PLATFORM_CA),
        ("two PCK extensions", "tdx.pck_chain", |p| p.leaf.more.push(p.pck.extension())),
        ("FMSPC of 7 bytes", "tdx.pck_chain", |p| p.pck.fmspc.push(0)),
        ("repeated member of the PCK extension", "tdx.pck_chain", |p| {
            p.pck.more.push(member("4", integer(1)))
        }),
        ("member of the TCB outside it", "tdx.pck_chain", |p| p.pck.more.push(member("2.4", integer(1)))),
        ("unknown critical extension", "tdx.pck_chain", |p| {
            p.leaf.more.push(extension("1.2.3.4", true, &integer(1)));
        }),
        ("QE binds another key", "tdx.qe_binding", |p| p.qe.report_data = [1; 64]),
        ("QE report data has a tail", "tdx.qe_binding", |p| {
            let bound = cc_evidence::dcap::qe_report_data(&p.attestation_key.coordinates(), &p.auth_data);
            p.qe.report_data = bound;
            p.qe.report_data[63] = 1;
        }),
        ("QE of another signer", "tdx.qe_identity", |p| p.qe.mr_signer[0] ^= 1),
        ("another product of the signer", "tdx.qe_identity", |p| p.qe.isv_prod_id = 1),
        ("QE in debug mode", "tdx.qe_identity", |p| p.qe.attributes[0] |= 2),
        ("QE with other extended features", "tdx.qe_identity", |p| p.qe.misc_select[0] = 1),
        ("QE below every level", "tdx.tcb_unsupported", |p| p.qe.isv_svn = 3),
        ("TDX module of another signer", "tdx.module", |p| p.body.mrsigner_seam[47] = 1),
        ("TDX module in debug mode", "tdx.module", |p| p.body.seam_attributes = 1),
        ("unknown version of the TDX module", "tdx.module", |p| p.body.tee_tcb_svn[1] = 4),
        ("TDX module below every level", "tdx.tcb_unsupported", |p| p.body.tee_tcb_svn[0] = 2),
        ("TDX loader below every level", "tdx.tcb_unsupported", |p| p.body.tee_tcb_svn[2] = 1),
        ("component below every level", "tdx.tcb_unsupported", |p| p.pck.components[4] = 3),
        ("PCE below every level", "tdx.tcb_unsupported", |p| p.pck.pce_svn = 4),
        ("revoked level", "tdx.tcb_revoked", |p| p.pck.pce_svn = 5),
        ("other report data", "tdx.report_data", |p| p.body.report_data[63] = 1),
        ("other init-data", "tdx.init_data", |p| p.body.mr_config_id[47] = 1),
        ("platform of another family", "tdx.collateral", |p| p.pck.fmspc[0] = 1),
    ];
    for (defect, check, spoil) in rows {
        assert_eq!(spoiled(spoil).verdict().unwrap_err(), check, "{defect}");
    }
}

#[test]
fn every_defect_of_the_collateral_fails_its_own_check() {
    let rows: [(&str, &str, Spoil); 19] = [
        ("TCB info for SGX", "tdx.collateral", |p| p.tcb_info["id"] = json!("SGX")),
        ("TCB info of another version", "tdx.collateral", |p| p.tcb_info["version"] = json!(2)),
        ("TCB info of another type", "tdx.collateral", |p| p.tcb_info["tcbType"] = json!(1)),
        ("TCB info for another PCE", "tdx.collateral", |p| p.tcb_info["pceId"] = json!("0001")),
        ("TCB info from the future", "tdx.collateral", |p| {
            p.tcb_info["issueDate"] = json!("2026-01-01T00:00:01Z")
        }),
        ("unknown status", "tdx.collateral", |p| p.tcb_info["tcbLevels"][0]["tcbStatus"] = json!("Fine")),
        ("fifteen components", "tdx.collateral", |p| {
            let components = &mut p.tcb_info["tcbLevels"][0]["tcb"]["sgxtcbcomponents"];
            components.as_array_mut().unwrap().pop();
        }),
        ("a date without zone", "tdx.collateral", |p| {
            p.tcb_info["nextUpdate"] = json!("2026-01-19T00:00:00")
        }),
        ("QE identity for SGX", "tdx.collateral", |p| p.qe_identity["id"] = json!("QE")),
        ("QE identity of another version", "tdx.collateral", |p| p.qe_identity["version"] = json!(1)),
        ("QE identity from the future", "tdx.collateral", |p| {
            p.qe_identity["issueDate"] = json!("2026-02-01T00:00:00Z");
        }),
        ("signer with another name", "tdx.collateral", |p| p.signer.subject = LEAF),
        ("signer that is an authority", "tdx.collateral", |p| p.signer.ca = true),
        ("signer of another issuer", "tdx.collateral", |p| p.signer.issuer = PLATFORM_CA),
        ("signer not yet valid", "tdx.collateral", |p| p.signer.not_before = NOW + 1),
        ("PCK revoked", "tdx.pck_revoked", |p| {
            p.lists.push(p.authority_key.revocation_list(PLATFORM_CA, NOW - 1, &[9, 3]));
        }),
        ("authority revoked", "tdx.pck_revoked", |p| {
            p.lists.push(p.root_key.revocation_list(ROOT, NOW - 1, &[2]));
        }),
        ("signer revoked", "tdx.pck_revoked", |p| {
            p.lists.push(p.root_key.revocation_list(ROOT, NOW - 1, &[4]))
        }),
        ("list from the future", "tdx.collateral", |p| {
            p.lists.push(p.root_key.revocation_list(ROOT, NOW + 1, &[]));
        }),
    ];
    for (defect, check, spoil) in rows {
        assert_eq!(spoiled(spoil).verdict().unwrap_err(), check, "{defect}");
    }
}

#[test]
fn foreign_signatures_are_refused() {
    let (good, other) = (Platform::new(), Platform::new());
    let signed = cc_evidence::tdx::to_be_signed([0; 20], &good.body);
    let quote = |change: &dyn Fn(&mut cc_evidence::dcap::SignatureData)| {
        let mut signature = good.signature_data(&signed);
        change(&mut signature);
        let quote = cc_evidence::tdx::assemble(&signed, &signature).unwrap();
        TdxEvidence { quote, cc_eventlog: None }
    };
    let check = |evidence: TdxEvidence| good.verdict_of(&evidence, &good.roots()).unwrap_err();
    assert_eq!(check(quote(&|s| s.signature = other.attestation_key.sign(&signed))), "tdx.signature");
    assert_eq!(
        check(quote(&|s| s.qe_report_signature = other.pck_key.sign(s.qe_report.raw()))),
        "tdx.qe_report"
    );
    assert_eq!(check(quote(&|s| s.attestation_key = other.attestation_key.coordinates())), "tdx.qe_binding");
    assert_eq!(check(quote(&|s| s.qe_auth_data = vec![1; 32])), "tdx.qe_binding");
    assert_eq!(check(quote(&|s| s.pck_chain = other.pck_chain().into_bytes())), "tdx.pck_chain");
    assert_eq!(check(quote(&|s| s.pck_chain = Vec::new())), "tdx.pck_chain");
    assert_eq!(check(quote(&|s| s.pck_chain = vec![0xFF])), "tdx.pck_chain");
    assert_eq!(check(other.evidence()), "tdx.pck_chain");
    let nothing = TdxEvidence { quote: Vec::new(), cc_eventlog: None };
    assert_eq!(check(nothing), "tdx.quote");
    // Our names and Intel's are the same, but our root is not Intel's.
    assert_eq!(good.verdict_of(&good.evidence(), &TrustRoots::vendor()).unwrap_err(), "tdx.pck_chain");
}

#[test]
fn a_chain_of_another_order_or_length_is_refused() {
    let platform = Platform::new();
    let chain = platform.pck_chain();
    let end = "-----END CERTIFICATE-----\n";
    let certs: Vec<_> = chain.split_inclusive(end).take(3).collect();
    let signed = cc_evidence::tdx::to_be_signed([0; 20], &platform.body);
    for order in [&[0, 1][..], &[0, 2, 1], &[1, 0, 2], &[0, 0, 2], &[0, 1, 1], &[0, 1, 2, 2], &[2]] {
        let mut signature = platform.signature_data(&signed);
        signature.pck_chain = order.iter().map(|index| certs[*index]).collect::<String>().into_bytes();
        let quote = cc_evidence::tdx::assemble(&signed, &signature).unwrap();
        let evidence = TdxEvidence { quote, cc_eventlog: None };
        assert_eq!(
            platform.verdict_of(&evidence, &platform.roots()).unwrap_err(),
            "tdx.pck_chain",
            "{order:?}"
        );
    }
}

#[test]
fn collateral_of_another_root_rates_nothing() {
    let (platform, other) = (Platform::new(), Platform::new());
    let both = platform.roots().with_test_roots(other.root_pem()).unwrap();
    let evidence = platform.evidence();
    let rejection = verify(&evidence, &both, Some(&other.collateral().unwrap()), &expectation()).unwrap_err();
    assert_eq!(rejection.check(), "tdx.collateral");
    assert!(rejection.to_string().contains("root"), "{rejection}");
    assert!(verify(&evidence, &both, Some(&platform.collateral().unwrap()), &expectation()).is_ok());
}

#[test]
fn collateral_signatures_cover_the_exact_bytes() {
    let platform = Platform::new();
    let [tcb_info, qe_identity] = platform.documents();
    let chain = platform.signing_chain();
    let verdict = |tcb_info: &str, qe_identity: &str| {
        let collateral = cc_verify::tdx::Collateral::parse(tcb_info, qe_identity, &chain)?;
        verify(&platform.evidence(), &platform.roots(), Some(&collateral), &expectation())
    };
    assert!(verdict(&tcb_info, &qe_identity).is_ok());
    // White space around the member is not signed, white space inside is.
    let outside = tcb_info.replacen("\"tcbInfo\":", " \"tcbInfo\" : ", 1);
    assert!(verdict(&outside, &qe_identity).is_ok());
    let inside = tcb_info.replacen("\"tcbType\":0", "\"tcbType\": 0", 1);
    assert_ne!(inside, tcb_info);
    assert_eq!(verdict(&inside, &qe_identity).unwrap_err().check(), "tdx.collateral");
    let raised = qe_identity.replacen("\"isvsvn\":7", "\"isvsvn\":6", 1);
    assert_ne!(raised, qe_identity);
    assert_eq!(verdict(&tcb_info, &raised).unwrap_err().check(), "tdx.collateral");
    let exchanged = verdict(&qe_identity, &tcb_info).unwrap_err();
    assert_eq!(exchanged.check(), "tdx.collateral");
}

#[test]
fn levels_are_found_and_joined() {
    let rows: [(&str, &str, Spoil); 8] = [
        ("higher versions than any level", "UpToDate", |p| {
            (p.pck.components, p.pck.pce_svn, p.qe.isv_svn) = ([255; 16], 255, u16::MAX);
        }),
        ("second level", "SWHardeningNeeded", |p| p.pck.pce_svn = 12),
        ("third level", "OutOfDateConfigurationNeeded", |p| p.pck.pce_svn = 9),
        ("old QE", "OutOfDate", |p| p.qe.isv_svn = 6),
        ("old TDX module", "OutOfDate", |p| p.body.tee_tcb_svn[0] = 4),
        ("old QE on the second level", "OutOfDate", |p| (p.qe.isv_svn, p.pck.pce_svn) = (4, 11)),
        ("TDX module without an identity of its own", "UpToDate", |p| {
            p.body.tee_tcb_svn[1] = 0;
            for level in p.tcb_info["tcbLevels"].as_array_mut().unwrap() {
                level["tcb"]["tdxtcbcomponents"][1]["svn"] = json!(0);
            }
        }),
        ("identity in another case", "UpToDate", |p| {
            p.tcb_info["tdxModuleIdentities"][0]["id"] = json!("tdx_03");
        }),
    ];
    for (what, expected, change) in rows {
        assert_eq!(spoiled(change).verdict().unwrap().tcb_status, expected, "{what}");
    }
    // Component 1 counts when the module has no identity of its own.
    let low = spoiled(|p| p.body.tee_tcb_svn[1] = 0);
    assert_eq!(low.verdict().unwrap_err(), "tdx.tcb_unsupported");
}

#[test]
fn an_updated_module_changes_the_current_status_only() {
    let mut svn = Platform::new().body.tee_tcb_svn;
    svn[0] = 6;
    let updated = spoiled(|p| p.body.tee_tcb_svn[0] = 4).with_tdx15(svn).verdict().unwrap();
    assert_eq!((updated.tcb_status, updated.tcb_status_current), ("OutOfDate", "UpToDate"));
    let claims = serde_json::to_value(updated).unwrap();
    assert_eq!(claims["quote"]["header"]["version"], "0500");
    assert_eq!(claims["quote"]["body"]["tee_tcb_svn2"], "06030200000000000000000000000000");
    assert_eq!(claims["quote"]["body"]["mr_servicetd"], "55".repeat(48));
    svn[0] = 2;
    let unknown = Platform::new().with_tdx15(svn);
    assert_eq!(unknown.verdict().unwrap_err(), "tdx.tcb_unsupported");
}

#[test]
fn expired_collateral_is_a_claim() {
    let rows: [Spoil; 4] = [
        |p| p.tcb_info["nextUpdate"] = json!("2025-12-31T00:00:00Z"),
        |p| p.qe_identity["nextUpdate"] = json!("2025-12-31T23:59:59Z"),
        |p| p.signer.not_after = NOW - 1,
        |p| p.lists.push(p.root_key.revocation_list(ROOT, NOW - 2 * YEAR, &[])),
    ];
    for spoil in rows {
        let claims = spoiled(spoil).verdict().unwrap();
        assert_eq!(claims.collateral_expiration_status, Some("1"));
    }
    let on_the_second = spoiled(|p| p.tcb_info["nextUpdate"] = json!("2026-01-01T00:00:00Z"));
    assert_eq!(on_the_second.verdict().unwrap().collateral_expiration_status, Some("0"));
}

#[test]
fn revocation_lists_are_numbered_and_must_be_readable() {
    let listed = spoiled(|p| {
        p.lists.push(p.authority_key.revocation_list(PLATFORM_CA, NOW - 1, &[9]));
        p.lists.push(p.root_key.revocation_list(ROOT, NOW - 1, &[3]));
        // The other authority's list says nothing about this platform.
        p.lists.push(Key::new().revocation_list("Intel SGX PCK Processor CA", NOW - 1, &[3]));
    });
    let claims = listed.verdict().unwrap();
    assert_eq!((claims.pck_crl_num.as_deref(), claims.root_ca_crl_num.as_deref()), (Some("2a"), Some("2a")));
    let forged = spoiled(|p| p.lists.push(Key::new().revocation_list(PLATFORM_CA, NOW - 1, &[])));
    assert_eq!(forged.verdict().unwrap_err(), "tdx.collateral");
    let garbage = spoiled(|p| p.lists.push(b"garbage".to_vec()));
    assert_eq!(garbage.verdict().unwrap_err(), "tdx.collateral");
    let many = spoiled(|p| p.lists = vec![Vec::new(); 9]);
    assert_eq!(many.verdict().unwrap_err(), "tdx.collateral");
}

#[test]
fn debugging_is_a_claim_and_no_reason_to_refuse() {
    let claims = spoiled(|p| p.body.td_attributes = TdAttributes(1)).verdict().unwrap();
    assert!(claims.td_attributes.debug);
    assert!(!claims.td_attributes.septve_disable);
}

#[test]
fn nothing_expected_is_the_callers_fault() {
    let platform = Platform::new();
    let check = |report_data: &[u8], init_data_digest| {
        let x = Expectation { report_data, init_data_digest, now: NOW };
        verify(&platform.evidence(), &platform.roots(), None, &x).map_err(|rejection| rejection.check())
    };
    assert_eq!(check(&[], None), Err("expectation.missing"));
    assert_eq!(check(&[0xDA; 48], Some(&[])), Err("expectation.missing"));
    assert!(check(&[0xDA; 48], None).is_ok());
    // A shorter digest means zeros after it, and a prefix is not enough.
    assert_eq!(check(&[0xDA; 47], None), Err("tdx.report_data"));
    assert_eq!(check(&[0xDA; 64], None), Err("tdx.report_data"));
}

#[test]
fn only_a_signed_authority_is_a_test_root() {
    let key = Key::new();
    let good = CertSpec::new(1, ROOT, ROOT, true);
    let accepted =
        |pem: String| TrustRoots::vendor().with_test_roots(&pem).map(|roots| roots.has_test_roots());
    assert_eq!(accepted(pem(&good.sign(&key, key.point()))), Ok(true));
    assert!(accepted(pem(&good.sign(&Key::new(), key.point()))).is_err(), "signed by another key");
    let no_authority = CertSpec { ca: false, ..good.clone() };
    assert!(accepted(pem(&no_authority.sign(&key, key.point()))).is_err());
    let other_name = CertSpec { issuer: LEAF, subject: LEAF, ..good };
    assert!(accepted(pem(&other_name.sign(&key, key.point()))).is_err());
}
