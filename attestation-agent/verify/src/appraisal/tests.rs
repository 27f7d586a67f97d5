//! The rules of the built-in policy, value by value.

use serde_json::json;

use super::*;

fn references(payload: &Value) -> ReferenceValues {
    let mut references = ReferenceValues::default();
    assert!(references.extend(payload));
    references
}

fn snp_claims() -> Value {
    json!({
        "measurement": "6a65", "policy_abi_major": 0, "policy_abi_minor": 31, "policy_smt_allowed": true,
        "policy_migrate_ma": false, "policy_debug_allowed": false, "policy_single_socket": false,
        "reported_tcb_bootloader": 10, "reported_tcb_tee": 0, "reported_tcb_snp": 23,
        "reported_tcb_microcode": 25, "platform_tsme_enabled": false, "platform_smt_enabled": true,
    })
}

fn snp_references() -> Value {
    json!({
        "snp_launch_measurement": ["0000", "6a65"], "snp_bootloader": [10], "snp_microcode": [25],
        "snp_snp_svn": [23], "snp_tee_svn": [0], "snp_smt_enabled": true, "snp_tsme_enabled": false,
        "snp_guest_abi_major": 0, "snp_guest_abi_minor": 31, "snp_single_socket": false,
        "snp_smt_allowed": true,
    })
}

fn numbers(appraisal: &Appraisal) -> (i8, i8, i8) {
    (appraisal.vector.executables, appraisal.vector.hardware, appraisal.vector.configuration)
}

#[test]
fn snp_with_matching_references_is_affirming() {
    let appraisal = appraise(Tee::Snp, &snp_claims(), &references(&snp_references()));
    assert_eq!(numbers(&appraisal), (3, 2, 2));
    assert_eq!((appraisal.status(), appraisal.reasons), (Status::Affirming, vec![]));
}

#[test]
fn snp_without_references_is_contraindicated() {
    let appraisal = appraise(Tee::Snp, &snp_claims(), &ReferenceValues::default());
    assert_eq!(numbers(&appraisal), (33, 97, 3));
    assert_eq!(appraisal.status(), Status::Contraindicated);
    assert_eq!(appraisal.reasons.len(), 1 + 4 + 6, "{:?}", appraisal.reasons);
    assert_eq!(
        appraisal.reasons[0],
        "executables: measurement is 6a65, there is no reference value snp_launch_measurement"
    );
}

#[test]
fn each_reference_value_matters_and_is_named() {
    let table = [
        ("snp_launch_measurement", json!(["6a66"]), (33, 2, 2), "measurement 6a65 is not in reference value"),
        ("snp_launch_measurement", json!("6a65"), (33, 2, 2), "is not in reference value"),
        ("snp_bootloader", json!([9, 11]), (3, 97, 2), "reported_tcb_bootloader 10 is not in"),
        ("snp_microcode", json!([]), (3, 97, 2), "reported_tcb_microcode 25 is not in"),
        ("snp_snp_svn", json!(["23"]), (3, 97, 2), "reported_tcb_snp 23 is not in"),
        ("snp_tee_svn", json!(0), (3, 97, 2), "reported_tcb_tee 0 is not in"),
        (
            "snp_smt_enabled",
            json!(false),
            (3, 2, 3),
            "platform_smt_enabled is true, reference value snp_smt_enabled is false",
        ),
        ("snp_tsme_enabled", json!("false"), (3, 2, 3), "platform_tsme_enabled is false"),
        ("snp_guest_abi_major", json!(1), (3, 2, 3), "policy_abi_major is 0"),
        ("snp_guest_abi_minor", json!("31"), (3, 2, 3), "policy_abi_minor is 31"),
        ("snp_single_socket", json!(true), (3, 2, 3), "policy_single_socket is false"),
        ("snp_smt_allowed", Value::Null, (3, 2, 3), "policy_smt_allowed is true"),
    ];
    for (name, value, expected, reason) in table {
        let mut payload = snp_references();
        payload[name] = value;
        let appraisal = appraise(Tee::Snp, &snp_claims(), &references(&payload));
        assert_eq!(numbers(&appraisal), expected, "{name}");
        assert_eq!(appraisal.reasons.len(), 1, "{:?}", appraisal.reasons);
        assert!(appraisal.reasons[0].contains(reason), "{:?} lacks {reason:?}", appraisal.reasons);
        assert!(appraisal.reasons[0].contains(name), "{:?} lacks {name}", appraisal.reasons);
    }
}

#[test]
fn debug_or_migration_makes_the_configuration_unknown() {
    for claim in ["policy_debug_allowed", "policy_migrate_ma"] {
        let mut claims = snp_claims();
        claims[claim] = json!(true);
        let appraisal = appraise(Tee::Snp, &claims, &references(&snp_references()));
        assert_eq!(numbers(&appraisal), (3, 2, 36));
        assert_eq!(appraisal.status(), Status::Warning);
        assert_eq!(appraisal.reasons, [format!("configuration: {claim} is true, it must be false")]);
    }
    let appraisal = appraise(Tee::Snp, &json!({}), &references(&snp_references()));
    assert_eq!(numbers(&appraisal), (33, 97, 36));
    assert!(appraisal.reasons[0].contains("no claim measurement"));
}

#[test]
fn sample_rules() {
    let claims = json!({
        "svn": "1", "launch_digest": "abcde", "debug": false, "platform_version": { "major": 1, "minor": 4 },
    });
    let good = json!({
        "launch_digest": ["abcde"], "svn": ["1"], "major_version": 1, "minimum_minor_version": 3,
    });
    assert_eq!(numbers(&appraise(Tee::Sample, &claims, &references(&good))), (3, 2, 2));
    for (name, value) in
        [("svn", json!([1])), ("major_version", json!(2)), ("minimum_minor_version", json!(5))]
    {
        let mut payload = good.clone();
        payload[name] = value;
        let appraisal = appraise(Tee::Sample, &claims, &references(&payload));
        assert_eq!(numbers(&appraisal), (3, 97, 2), "{name}");
        assert!(appraisal.reasons[0].contains(name), "{:?}", appraisal.reasons);
    }
    assert_eq!(numbers(&appraise(Tee::Sample, &claims, &ReferenceValues::default())), (33, 97, 2));
}

fn tdx_claims() -> Value {
    let event = |index, type_name, details, alg, digest| {
        json!({ "index": index, "type_name": type_name, "details": details,
                "digests": [{ "alg": alg, "digest": digest }], "digest_matches_event": false })
    };
    json!({
        "quote": {
            "header": { "tee_type": "81000000", "vendor_id": "939a7233f79c4ca9940a0db3957f0607" },
            "body": { "mr_td": "7d", "rtmr_1": "01", "rtmr_2": "02", "xfam": "e702060000000000" },
        },
        "td_attributes": { "debug": false },
        "tcb_status": "UpToDate",
        "collateral_expiration_status": "0",
        "uefi_event_logs": [
            event(2, "EV_EFI_BOOT_SERVICES_APPLICATION", json!({ "device_paths": ["X", "File(kernel)"] }),
                  "SHA-384", "aa"),
            event(3, "EV_EVENT_TAG", json!({ "string": "LOADED_IMAGE::LoadOptions" }), "SHA-384", "bb"),
            // Neither was measured into a register: index 0, and another algorithm.
            event(0, "EV_EVENT_TAG", json!({ "string": "LOADED_IMAGE::LoadOptions" }), "SHA-384", "cc"),
            event(3, "EV_EVENT_TAG", json!({ "string": "LOADED_IMAGE::LoadOptions" }), "SM3", "dd"),
        ],
    })
}

fn tdx_references() -> Value {
    json!({ "mr_td": ["7d"], "rtmr_1": ["01"], "rtmr_2": ["02"], "xfam": ["e702060000000000"],
            "tdvfkernel": "aa", "tdvfkernelparams": "bb" })
}

#[test]
fn tdx_with_matching_references_is_affirming() {
    let appraisal = appraise(Tee::Tdx, &tdx_claims(), &references(&tdx_references()));
    assert_eq!(numbers(&appraisal), (3, 2, 2));
    assert_eq!((appraisal.status(), appraisal.reasons), (Status::Affirming, vec![]));
}

#[test]
fn each_tdx_reference_value_matters_and_is_named() {
    let rows = [
        ("mr_td", json!(["7e"]), (3, 97, 2), "hardware: quote.body.mr_td 7d is not in"),
        ("rtmr_1", json!([]), (33, 2, 2), "executables: quote.body.rtmr_1 01 is not in"),
        ("rtmr_2", json!("02"), (33, 2, 2), "executables: quote.body.rtmr_2 02 is not in"),
        ("xfam", json!(["00"]), (3, 2, 36), "configuration: quote.body.xfam"),
        ("tdvfkernel", json!("bb"), (4, 2, 2), "executables: the event log has no record of File(kernel)"),
        ("tdvfkernel", json!(["aa"]), (4, 2, 2), "with reference value tdvfkernel"),
        ("tdvfkernelparams", json!("cc"), (4, 2, 2), "no record of LOADED_IMAGE::LoadOptions"),
        ("tdvfkernelparams", json!("dd"), (4, 2, 2), "no record of LOADED_IMAGE::LoadOptions"),
    ];
    for (name, value, expected, reason) in rows {
        let mut payload = tdx_references();
        payload[name] = value;
        let appraisal = appraise(Tee::Tdx, &tdx_claims(), &references(&payload));
        assert_eq!(numbers(&appraisal), expected, "{name}");
        assert!(appraisal.reasons[0].contains(reason), "{:?}", appraisal.reasons);
    }
    let nothing = appraise(Tee::Tdx, &tdx_claims(), &ReferenceValues::default());
    assert_eq!(numbers(&nothing), (33, 97, 36));
}

#[test]
fn each_tdx_claim_matters() {
    let rows = [
        ("/quote/header/tee_type", json!("00000000"), (3, 97, 2)),
        ("/quote/header/vendor_id", json!("00"), (3, 97, 2)),
        ("/tcb_status", json!("Unverified"), (3, 97, 2)),
        ("/tcb_status", json!("OutOfDate"), (3, 97, 2)),
        ("/collateral_expiration_status", json!("1"), (3, 97, 2)),
        ("/td_attributes/debug", json!(true), (3, 2, 36)),
        ("/uefi_event_logs", json!(null), (4, 2, 2)),
    ];
    for (path, value, expected) in rows {
        let mut claims = tdx_claims();
        *claims.pointer_mut(path).unwrap() = value;
        let appraisal = appraise(Tee::Tdx, &claims, &references(&tdx_references()));
        assert_eq!(numbers(&appraisal), expected, "{path}: {:?}", appraisal.reasons);
    }
    let mut claims = tdx_claims();
    claims.as_object_mut().unwrap().remove("collateral_expiration_status");
    assert_eq!(appraise(Tee::Tdx, &claims, &references(&tdx_references())).status(), Status::Contraindicated);
}

#[test]
fn other_tees_have_no_rules() {
    let with_rules =
        [Tee::Snp, Tee::Tdx, Tee::AzSnpVtpm, Tee::AzTdxVtpm, Tee::Cca, Tee::Tpm, Tee::Nvidia, Tee::Sample];
    for tee in Tee::ALL.into_iter().filter(|tee| !with_rules.contains(tee)) {
        let appraisal = appraise(tee, &json!({}), &ReferenceValues::default());
        assert_eq!((numbers(&appraisal), appraisal.status()), ((33, 97, 36), Status::Contraindicated));
        assert_eq!(appraisal.reasons.len(), 3);
    }
}

#[test]
fn tiers_have_the_documented_borders() {
    let table = [
        (Status::None, vec![-1, 0, 1]),
        (Status::Affirming, vec![2, 31, -2, -32]),
        (Status::Warning, vec![32, 95, -33, -96]),
        (Status::Contraindicated, vec![96, 127, -97, -128]),
    ];
    for (status, values) in table {
        for value in values {
            assert_eq!(Status::of_claim(value), status, "{value}");
        }
    }
    assert_eq!(TrustVector::default().status(), Status::None);
}

#[test]
fn vector_has_the_names_of_the_token() {
    let vector = TrustVector { executables: 3, hardware: 2, configuration: 2, ..TrustVector::default() };
    assert_eq!(
        serde_json::to_value(vector).unwrap(),
        json!({ "instance-identity": 0, "configuration": 2, "executables": 3, "file-system": 0, "hardware": 2,
                "runtime-opaque": 0, "storage-opaque": 0, "sourced-data": 0 })
    );
}

#[test]
fn only_objects_are_reference_values() {
    let mut references = references(&json!({ "a": 1, "b": 2 }));
    assert!(!references.extend(&json!([1])));
    assert!(references.extend(&json!({ "a": 3 })));
    assert_eq!(references.0, [("a".to_owned(), json!(3)), ("b".to_owned(), json!(2))].into());
}

#[test]
fn gpus_are_rated_by_their_versions_and_by_measurements_where_those_are_known() {
    let claims = json!({
        "arch": "Hopper", "uuid": "GPU-1", "measurements": { "1": "00", "2": "8048" },
        "config": { "driver_version": "550.90.07", "vbios_version": "96.00.9f.00.01" },
    });
    let versions = json!({
        "allowed_driver_versions": ["550.90.07"], "allowed_vbios_versions": ["96.00.9f.00.01"],
    });
    let with = |more: Value| {
        let mut references = references(&versions);
        references.extend(&more);
        appraise(Tee::Nvidia, &claims, &references)
    };
    let plain = with(json!({}));
    assert_eq!((numbers(&plain), plain.status()), ((4, 2, 0), Status::Affirming), "{:?}", plain.reasons);
    let measured = with(json!({ "nvidia_measurements": { "2": ["ffff", "8048"] } }));
    assert_eq!((numbers(&measured), measured.reasons), ((3, 2, 0), vec![]));
    for (more, expected, why) in [
        (
            json!({ "allowed_driver_versions": ["580"] }),
            (33, 2, 0),
            "config.driver_version 550.90.07 is not in",
        ),
        (
            json!({ "allowed_vbios_versions": [] }),
            (4, 97, 0),
            "config.vbios_version 96.00.9f.00.01 is not in",
        ),
        (json!({ "nvidia_measurements": { "2": ["ffff"] } }), (33, 2, 0), "measurement 2 8048 is not in"),
        (json!({ "nvidia_measurements": { "9": ["ffff"] } }), (33, 2, 0), "measurement 9 absent is not in"),
        (json!({ "nvidia_measurements": { "2": "8048" } }), (33, 2, 0), "measurement 2 8048 is not in"),
        (json!({ "nvidia_measurements": {} }), (33, 2, 0), "no object of lists"),
        (json!({ "nvidia_measurements": ["8048"] }), (33, 2, 0), "no object of lists"),
    ] {
        let appraisal = with(more.clone());
        assert_eq!(numbers(&appraisal), expected, "{more}");
        assert!(appraisal.reasons[0].contains(why), "{more}: {:?}", appraisal.reasons);
    }
    let unknown = appraise(Tee::Nvidia, &claims, &ReferenceValues::default());
    assert_eq!(numbers(&unknown), (33, 97, 0));
}
