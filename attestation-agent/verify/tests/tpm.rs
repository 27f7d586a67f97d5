//! TPM verification: recorded evidence, and quotes made here that fail in one point only.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr
)]

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
};
use cc_evidence::tpm::{
    Attest, ClockInfo, PCR_COUNT, PcrSelection, Signature, TpmEvidence, digest_of_values,
};
use cc_evidence::{HashAlgorithm, Tee};
use cc_verify::appraisal::{ReferenceValues, Status, appraise};
use cc_verify::tpm::{AttestationKey, Expectation, registered_key, verify, verify_pcrs, verify_signature};
use serde_json::{Value, json};

const SHA256: HashAlgorithm = HashAlgorithm::Sha256;

/// What a session binds: longer than the nonce of a quote.
const REPORT_DATA: [u8; 48] = [7; 48];

/// A key, and what its TPM says.
struct Machine {
    key: RsaKeyPair,
    attest: Attest,
    pcrs: [[u8; 32]; PCR_COUNT],
}

impl Machine {
    fn new() -> Self {
        Self::with_key(KeySize::Rsa2048)
    }

    fn with_key(size: KeySize) -> Self {
        let mut pcrs = [[0; 32]; PCR_COUNT];
        pcrs[8] = SHA256.digest(&[[0; 32], [3; 32]].concat()).try_into().unwrap();
        let all: Vec<u32> = (0..24).collect();
        let attest = Attest {
            qualified_signer: vec![1; 34],
            extra_data: vec![7; 32],
            clock: ClockInfo { clock: 1, reset_count: 2, restart_count: 3, safe: true },
            firmware_version: 4,
            selection: vec![PcrSelection::new(SHA256, &all).unwrap()],
            pcr_digest: digest_of_values(SHA256, &pcrs.map(Vec::from)),
        };
        Self { key: RsaKeyPair::generate(size).unwrap(), attest, pcrs }
    }

    fn spki(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = self.key.public_key().as_der().unwrap();
        der.as_ref().to_vec()
    }

    fn fingerprint(&self) -> [u8; 32] {
        SHA256.digest(&self.spki()).try_into().unwrap()
    }

    fn sign(&self, how: &'static dyn RsaEncoding, message: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(how, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    }

    fn evidence(&self) -> TpmEvidence {
        self.evidence_over(self.attest.to_bytes().unwrap())
    }

    fn evidence_over(&self, message: Vec<u8>) -> TpmEvidence {
        let signature = Signature::RsaSsa { hash: 0x0B, bytes: self.sign(&RSA_PKCS1_SHA256, &message) };
        TpmEvidence {
            signature: signature.to_bytes().unwrap(),
            message,
            pcrs: self.pcrs,
            ak_public: self.spki(),
        }
    }

    /// The name of the failed check, or `ok`.
    fn check(&self, evidence: &TpmEvidence) -> &'static str {
        outcome(evidence, &REPORT_DATA, Some(&[3; 32]), &[self.fingerprint()])
    }
}

fn outcome(
    evidence: &TpmEvidence,
    report_data: &[u8],
    init_data: Option<&[u8]>,
    keys: &[[u8; 32]],
) -> &'static str {
    let x = Expectation { report_data, init_data_digest: init_data, registered_keys: keys };
    verify(evidence, &x).map_or_else(|rejection| rejection.check(), |_| "ok")
}

#[test]
fn a_good_quote_gives_claims_under_the_names_of_policies() {
    let machine = Machine::new();
    let keys = [machine.fingerprint()];
    let x =
        Expectation { report_data: &REPORT_DATA, init_data_digest: Some(&[3; 32]), registered_keys: &keys };
    let claims = serde_json::to_value(verify(&machine.evidence(), &x).unwrap()).unwrap();
    assert_eq!(claims["pcr00"], "0".repeat(64));
    assert_eq!(claims["pcr23"], "0".repeat(64));
    assert_eq!(claims["pcr08"], claims["init_data"]);
    assert_eq!(claims["report_data"], "07".repeat(32));
    assert_eq!(claims["ak_sha256"], hex::encode(machine.fingerprint()));
    assert_eq!(claims["clock_safe"], true);
    // Report data shorter than the nonce is padded.
    let mut short = Machine::new();
    short.attest.extra_data = [&[9; 20][..], &[0; 12]].concat();
    assert_eq!(outcome(&short.evidence(), &[9; 20], None, &[short.fingerprint()]), "ok");
}

#[test]
fn each_check_is_seen_to_fail() {
    let machine = Machine::new();
    assert_eq!(machine.check(&machine.evidence()), "ok");
    let quote = |change: &dyn Fn(&mut Attest)| {
        let mut attest = machine.attest.clone();
        change(&mut attest);
        machine.check(&machine.evidence_over(attest.to_bytes().unwrap()))
    };
    assert_eq!(quote(&|q| q.extra_data = vec![8; 32]), "tpm.report_data");
    assert_eq!(quote(&|q| q.extra_data = vec![7; 48]), "tpm.report_data", "not cut");
    assert_eq!(quote(&|q| q.extra_data = vec![]), "tpm.report_data");
    assert_eq!(quote(&|q| q.selection[0].hash = 0x0C), "tpm.pcr_selection");
    assert_eq!(quote(&|q| q.selection[0].bitmap[1] = 0xFE), "tpm.pcr_selection");
    assert_eq!(quote(&|q| q.selection[0].bitmap.push(1)), "tpm.pcr_selection");
    assert_eq!(quote(&|q| q.selection.push(q.selection[0].clone())), "tpm.pcr_selection");
    assert_eq!(quote(&|q| q.selection.clear()), "tpm.pcr_selection");
    assert_eq!(quote(&|q| q.pcr_digest[0] ^= 1), "tpm.pcr_digest");
    // Signed by the key, but not made by a TPM: another magic, another type, a byte more.
    for (at, byte) in [(0, 0), (5, 0x17)] {
        let mut message = machine.attest.to_bytes().unwrap();
        message[at] = byte;
        assert_eq!(machine.check(&machine.evidence_over(message)), "tpm.quote");
    }
    let longer = [machine.attest.to_bytes().unwrap(), vec![0]].concat();
    assert_eq!(machine.check(&machine.evidence_over(longer)), "tpm.quote");
    let mut other_value = machine.evidence();
    other_value.pcrs[23][31] ^= 1;
    assert_eq!(machine.check(&other_value), "tpm.pcr_digest");
}

#[test]
fn keys_count_only_when_registered_and_strong() {
    let machine = Machine::new();
    let evidence = machine.evidence();
    assert_eq!(outcome(&evidence, &REPORT_DATA, None, &[]), "tpm.ak_unregistered");
    assert_eq!(
        outcome(&evidence, &REPORT_DATA, None, &[Machine::new().fingerprint()]),
        "tpm.ak_unregistered"
    );
    let forged = TpmEvidence { ak_public: Machine::new().spki(), ..evidence.clone() };
    let registered = SHA256.digest(&forged.ak_public).try_into().unwrap();
    assert_eq!(outcome(&forged, &REPORT_DATA, None, &[registered]), "tpm.signature");
    for broken in [vec![], vec![0x30], [machine.spki(), vec![0]].concat()] {
        let evidence = TpmEvidence { ak_public: broken, ..evidence.clone() };
        assert_eq!(outcome(&evidence, &REPORT_DATA, None, &[]), "tpm.ak");
    }
    let weak = AttestationKey::from_parts(&[0xFF; 128], &[1, 0, 1]).unwrap_err();
    assert!(weak.to_string().contains("1024 bits"), "{weak}");
    assert!(AttestationKey::from_parts(&[0xFF; 256], &[0]).is_err());
    let strong = Machine::with_key(KeySize::Rsa3072);
    assert_eq!(strong.check(&strong.evidence()), "ok");
}

#[test]
fn other_signature_schemes_are_refused() {
    let machine = Machine::new();
    let message = machine.attest.to_bytes().unwrap();
    let with = |signature: Signature| {
        let signature = signature.to_bytes().unwrap();
        machine.check(&TpmEvidence { signature, ..machine.evidence() })
    };
    let pss = Signature::RsaPss { hash: 0x0B, bytes: machine.sign(&RSA_PSS_SHA256, &message) };
    assert_eq!(with(pss), "tpm.sig_algo");
    let sha384 = Signature::RsaSsa { hash: 0x0C, bytes: machine.sign(&RSA_PKCS1_SHA384, &message) };
    assert_eq!(with(sha384), "tpm.sig_algo");
    let mislabelled = Signature::RsaSsa { hash: 0x0B, bytes: machine.sign(&RSA_PSS_SHA256, &message) };
    assert_eq!(with(mislabelled), "tpm.signature");
    assert_eq!(with(Signature::RsaSsa { hash: 0x0B, bytes: vec![] }), "tpm.signature");
    let unreadable = TpmEvidence { signature: vec![0, 5], ..machine.evidence() };
    assert_eq!(machine.check(&unreadable), "evidence.format");
}

#[test]
fn init_data_has_to_be_in_pcr_8_alone() {
    let machine = Machine::new();
    let keys = [machine.fingerprint()];
    let with = |digest| outcome(&machine.evidence(), &REPORT_DATA, digest, &keys);
    assert_eq!(with(None), "ok");
    assert_eq!(with(Some(&[4; 32])), "tpm.init_data");
    assert_eq!(with(Some(&[3; 48])), "tpm.init_data", "a digest of another algorithm");
    assert_eq!(with(Some(&[])), "expectation.missing");
    assert_eq!(outcome(&machine.evidence(), &[], None, &keys), "expectation.missing");
}

#[test]
fn keys_are_registered_in_three_forms() {
    use base64::Engine as _;
    let machine = Machine::new();
    let base64 = base64::prelude::BASE64_STANDARD.encode(machine.spki());
    let lines: Vec<String> =
        base64.as_bytes().chunks(64).map(|line| String::from_utf8(line.to_vec()).unwrap()).collect();
    let pem = |label: &str| format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"));
    let hex = hex::encode(machine.fingerprint());
    for text in [pem("PUBLIC KEY"), base64.clone(), hex.clone(), format!("sha256:{hex}"), format!(" {hex}\n")]
    {
        assert_eq!(registered_key(&text), Ok(machine.fingerprint()), "{text}");
    }
    for text in ["", "x", &hex[1..], "AAAA", &pem("CERTIFICATE"), &"A".repeat(10_000)] {
        assert!(registered_key(text).is_err(), "{text}");
    }
}

#[test]
fn appraisal_names_the_pcr() {
    let machine = Machine::new();
    let keys = [machine.fingerprint()];
    let x = Expectation { report_data: &REPORT_DATA, init_data_digest: None, registered_keys: &keys };
    let claims = serde_json::to_value(verify(&machine.evidence(), &x).unwrap()).unwrap();
    let with = |values: Value| {
        let mut references = ReferenceValues::default();
        references.extend(&values);
        appraise(Tee::Tpm, &claims, &references)
    };
    let zero = "0".repeat(64);
    let good = with(json!({ "tpm_pcr11": [zero], "tpm_pcr08": ["ff", claims["pcr08"]] }));
    assert_eq!((good.status(), good.reasons.len()), (Status::Affirming, 0));
    assert_eq!((good.vector.executables, good.vector.hardware, good.vector.configuration), (3, 2, 0));
    for (values, why) in [
        (json!({ "tpm_pcr11": [zero], "tpm_pcr08": [zero] }), "PCR 8 "),
        (json!({ "tpm_pcr11": zero }), "PCR 11 "),
        (json!({ "tpm_pcr11": [] }), "PCR 11 "),
        (json!({}), "no reference value for a PCR"),
        (json!({ "tpm_pcr24": [zero] }), "no reference value for a PCR"),
        (json!({ "tpm_pcr16": [zero], "tpm_pcr23": [zero] }), "no reference value for a PCR that tells"),
        (json!({ "tpm_pcr11": [zero], "tpm_pcr16": ["ff"] }), "PCR 16 "),
    ] {
        let bad = with(values.clone());
        assert_eq!(bad.status(), Status::Warning, "{values}");
        assert!(bad.reasons[0].contains(why), "{values}: {:?}", bad.reasons);
    }
}

fn recorded() -> Option<TpmEvidence> {
    let text = String::from_utf8(cc_vectors::read("tpm-quote", "evidence.json")?).unwrap();
    Some(TpmEvidence::from_json(&text).unwrap())
}

#[test]
fn recorded_evidence_verifies_and_every_flipped_bit_shows() {
    let Some(evidence) = recorded() else { return };
    let key = AttestationKey::from_spki(&evidence.ak_public).unwrap();
    assert_eq!(key.bits(), 2048);
    let check = |message: &[u8], signature: &[u8]| {
        let signature = Signature::parse(signature).map_err(|_| "evidence.format")?;
        verify_signature(message, &signature, &key).map_err(|rejection| rejection.check())
    };
    check(&evidence.message, &evidence.signature).unwrap();
    verify_pcrs(&Attest::parse(&evidence.message).unwrap(), &evidence.pcrs).unwrap();
    for bit in 0..evidence.message.len() * 8 {
        let mut message = evidence.message.clone();
        message[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(check(&message, &evidence.signature), Err("tpm.signature"), "bit {bit}");
    }
    for bit in 0..evidence.signature.len() * 8 {
        let mut signature = evidence.signature.clone();
        signature[bit / 8] ^= 1 << (bit % 8);
        assert!(check(&evidence.message, &signature).is_err(), "bit {bit}");
    }
    for len in 0..evidence.message.len() {
        assert!(check(&evidence.message[..len], &evidence.signature).is_err(), "{len} bytes");
        assert!(Attest::parse(&evidence.message[..len]).is_err(), "{len} bytes");
    }
    for len in 0..evidence.signature.len() {
        assert!(check(&evidence.message, &evidence.signature[..len]).is_err(), "{len} bytes");
    }
    // Its nonce has the 64 bytes of an older protocol: today it is refused, whatever the session binds.
    let fingerprint = *key.fingerprint();
    let nonce = Attest::parse(&evidence.message).unwrap().extra_data;
    assert_eq!(outcome(&evidence, &nonce, None, &[fingerprint]), "tpm.report_data");
}
