//! The platform `tpm`: detection, evidence, init-data, registers.

use cc_evidence::HashAlgorithm::Sha256;
use cc_evidence::tpm::TpmEvidence;
use cc_evidence::{ReportData, Tee};
use cc_platform::{InitDataBinding, detect};
use cc_verify::tpm::{Expectation, verify};

use crate::liar::{Liar, Reply, between, code_of, response};
use crate::{GOOD_KEY, LIMIT, Room, options};

#[test]
fn evidence_verifies_and_answers_the_request() {
    let Some(room) = Room::with_key() else { return };
    let primary = room.detect().unwrap().primary;
    assert_eq!(primary.tee(), Tee::Tpm);
    for report_data in [vec![9; 48], vec![7; 64], vec![5; 20]] {
        let text = primary.evidence(&ReportData::new(&report_data).unwrap()).unwrap();
        let evidence = TpmEvidence::from_json(&text).unwrap();
        let key = Sha256.digest(&evidence.ak_public).try_into().unwrap();
        let x = Expectation { report_data: &report_data, init_data_digest: None, registered_keys: &[key] };
        verify(&evidence, &x).unwrap();
    }
}

#[test]
fn keys_that_cannot_attest_are_named() {
    let restricted = "it is not a restricted signing key";
    for (kind, why) in [("-G ecc -s ecdsa", "elliptic curve"), ("-G rsa -s rsapss", "RSASSA")] {
        let Some(room) = Room::without_key() else { return };
        room.tpm.make_key(kind).unwrap();
        let text = room.detect().unwrap_err().to_string();
        assert!(text.contains(why) && text.contains("[TPM_KEY_UNFIT]"), "{text}");
    }
    // An ordinary signing key would sign anything that looks like a quote.
    let Some(room) = Room::without_key() else { return };
    room.tool(
        "tpm2_createprimary -Q -C o -G rsa2048:rsassa-sha256:null -a \
               fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign -c key.ctx",
    );
    room.tool("tpm2_evictcontrol -Q -C o -c key.ctx 0x81010002");
    let text = room.detect().unwrap_err().to_string();
    assert!(text.contains(restricted), "{text}");
}

#[test]
fn a_missing_or_transient_key_is_told_with_the_way_to_make_one() {
    let Some(room) = Room::without_key() else { return };
    let text = room.detect().unwrap_err().to_string();
    for words in ["no key at the TPM's handle 0x81010002", "TPM_KEY_ABSENT", "tpm2_createak", "docs/tpm.md"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    room.tpm.make_key(GOOD_KEY).unwrap();
    let mut options = options(room.tpm.socket(), room.folder());
    options.tpm.ak_handle = 0x8000_0000;
    let text = detect(&options).unwrap_err().to_string();
    assert!(text.contains("not a persistent handle"), "{text}");
}

#[test]
fn a_key_with_a_password_is_tried_once() {
    let Some(room) = Room::without_key() else { return };
    room.tool("tpm2_createek -Q -G rsa -c ek.ctx");
    room.tool("tpm2_createak -Q -C ek.ctx -G rsa -g sha256 -s rsassa -p secret -c ak.ctx");
    room.tool("tpm2_flushcontext -t");
    room.tool("tpm2_evictcontrol -Q -C o -c ak.ctx 0x81010002");
    let primary = room.detect().unwrap().primary;
    let data = ReportData::new(&[1; 48]).unwrap();
    let failures = || {
        let text = room.tool("tpm2_getcap properties-variable");
        text.lines().find(|line| line.contains("LOCKOUT_COUNTER")).unwrap().to_owned()
    };
    for _ in 0..5 {
        let error = primary.evidence(&data).unwrap_err();
        assert_eq!(error.code(), "TPM_AUTHORIZATION", "{error}");
    }
    assert!(failures().ends_with("0x1"), "a TPM locks itself after some: {}", failures());
}

#[test]
fn a_configured_tpm_that_fails_never_turns_into_sample_evidence() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path().join("none"), folder.path());
    options.sample = true;
    assert_eq!(detect(&options).unwrap_err().code(), "TEE_NOT_FOUND");
    options.tpm.device = None;
    assert_eq!(detect(&options).unwrap().primary.tee(), Tee::Sample, "no TPM at all is another matter");
    // Behind a socket is a program: it is used only where it is named.
    std::fs::create_dir_all(folder.path().join("root/dev")).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(folder.path().join("root/dev/tpmrm0")).unwrap();
    let found = detect(&options).unwrap();
    assert_eq!(found.primary.tee(), Tee::Sample);
    assert!(found.tried.iter().any(|p| p.tee == Some(Tee::Tpm) && p.outcome.starts_with("absent")));
}

#[test]
fn init_data_is_extended_once_accepted_again_and_never_beside_others() {
    let Some(mut room) = Room::with_key() else { return };
    let digest = Sha256.digest(b"init-data");
    let expected = hex::encode(Sha256.digest(&[[0; 32].as_slice(), &digest].concat()));
    let bind = |room: &Room, digest: &[u8]| room.detect().unwrap().primary.bind_init_data(digest);
    for _ in 0..2 {
        assert_eq!(bind(&room, &digest).unwrap(), InitDataBinding::Claimed);
        assert_eq!(room.tpm.pcr(8).unwrap(), expected, "the second time nothing is extended");
    }
    let error = bind(&room, &[1; 32]).unwrap_err();
    assert_eq!(error.code(), "INIT_DATA_MISMATCH");
    assert!(error.to_string().contains(&expected) && error.hint().contains("GRUB"), "{error}");
    for len in [20, 31, 33, 48, 64] {
        assert_eq!(bind(&room, &vec![1; len]).unwrap_err().code(), "INIT_DATA_DIGEST_LENGTH", "{len}");
    }
    assert_eq!(bind(&room, &[]).unwrap_err().code(), "INIT_DATA_DIGEST_EMPTY");
    room.tpm.reset().unwrap();
    room.tool(&format!("tpm2_pcrextend 8:sha256={}", "ab".repeat(32)));
    assert_eq!(bind(&room, &digest).unwrap_err().code(), "INIT_DATA_MISMATCH", "somebody was there before");
    room.tpm.reset().unwrap();
    // What a drop-in of the existing stack does.
    room.tool(&format!("tpm2_pcrextend 8:sha256={}", hex::encode(&digest)));
    assert_eq!(bind(&room, &digest).unwrap(), InitDataBinding::Claimed);
}

#[test]
fn registers_are_the_pcrs() {
    let Some(room) = Room::with_key() else { return };
    let primary = room.detect().unwrap().primary;
    let registers = primary.registers().unwrap();
    registers.enabled().unwrap();
    assert_eq!(registers.hash(), Sha256);
    assert_eq!((registers.register_of(0).unwrap(), registers.register_of(23).unwrap()), (0, 23));
    registers.extend(12, &[3; 32]).unwrap();
    assert_eq!(hex::encode(registers.read(12).unwrap()), room.tpm.pcr(12).unwrap());
    for error in [
        registers.extend(17, &[3; 32]).unwrap_err(),
        room.device().pcr_extend(22, Sha256, &[3; 32]).unwrap_err(),
    ] {
        assert_eq!(error.code(), "TPM_PCR_RESERVED", "{error}");
        assert!(error.hint().contains("init_pcr"), "{}", error.hint());
    }
    assert_eq!(registers.read(17).unwrap(), [0xFF; 32]);
    registers.extend(registers.default_pcr(), &[3; 32]).unwrap();
    // What is said against a PCR is what this TPM does.
    for pcr in 0..24 {
        let refused = registers.extend(pcr, &[3; 32]).is_err_and(|error| error.code() == "TPM_PCR_RESERVED");
        let resets = !refused && room.tpm.try_tool(&format!("tpm2_pcrreset {pcr}")).unwrap().0;
        assert_eq!(registers.objection(pcr).is_some(), refused || resets, "PCR {pcr}");
    }
    assert_eq!(registers.read(24).unwrap_err().code(), "REGISTER_UNKNOWN");
    assert_eq!(registers.extend(24, &[3; 32]).unwrap_err().code(), "REGISTER_UNKNOWN");
    assert_eq!(registers.extend(12, &[3; 48]).unwrap_err().code(), "REGISTER_DIGEST_LENGTH");
}

#[test]
fn a_quote_that_names_another_key_is_not_given_out() {
    let Some(room) = Room::with_key() else { return };
    // The byte after magic, type and length of the name's algorithm belongs to the signer's name.
    let liar = between(room.tpm.socket(), |command, mut truth| {
        if code_of(command) == 0x158 {
            truth[10 + 4 + 2 + 6 + 2 + 2] ^= 1;
        }
        truth
    });
    let primary = detect(&options(liar.path(), room.folder())).unwrap().primary;
    let error = primary.evidence(&ReportData::new(&[1; 48]).unwrap()).unwrap_err();
    assert_eq!(error.code(), "EVIDENCE_MISMATCH", "{error}");
    assert!(error.to_string().contains("another key"), "{error}");
}

#[test]
fn a_hanging_tpm_does_not_hold_up_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let liar = Liar::new(|_, _| Reply::Silence);
    let mut options = options(liar.path(), folder.path());
    options.quote_time_limit = std::time::Duration::from_millis(300);
    let begun = std::time::Instant::now();
    let text = detect(&options).unwrap_err().to_string();
    assert!(text.contains("[TPM_TIMEOUT]"), "{text}");
    assert!(begun.elapsed() < LIMIT);
    let liar = Liar::new(|_, _| Reply::Bytes(response(0x8001, 0x921, &[])));
    options.tpm.device = Some(liar.path());
    let text = detect(&options).unwrap_err().to_string();
    assert!(text.contains("[TPM_LOCKED_OUT]"), "{text}");
}
