//! The same quote seen by tpm2-tools and by us.

use cc_evidence::HashAlgorithm::Sha256;
use cc_evidence::tpm::{Attest, Signature};
use cc_platform::tpm::DEFAULT_AK_HANDLE;
use cc_verify::tpm::{AttestationKey, verify_pcrs, verify_quote};

use crate::Room;

fn all() -> Vec<u32> {
    (0..24).collect()
}

#[test]
fn tpm2_checkquote_accepts_our_quote() {
    let Some(room) = Room::with_key() else { return };
    let nonce = [0xA5; 32];
    room.device().pcr_extend(8, Sha256, &[7; 32]).unwrap();
    let quote = room.device().quote(DEFAULT_AK_HANDLE, &nonce, Sha256, &all()).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(room.folder().join(name), bytes).unwrap();
    write("quote", &quote.attest);
    write("signature", &quote.signature);
    let check = |nonce: &str| {
        room.tpm
            .try_tool(&format!("tpm2_checkquote -Q -u ak.pem -m quote -s signature -g sha256 -q {nonce}"))
            .unwrap()
    };
    let (ok, text) = check(&hex::encode(nonce));
    assert!(ok, "{text}");
    assert!(!check(&"00".repeat(32)).0, "another nonce");
}

#[test]
fn a_quote_by_tpm2_quote_verifies_here() {
    let Some(room) = Room::with_key() else { return };
    room.tool(&format!("tpm2_pcrextend 3:sha256={}", "01".repeat(32)));
    let list = all().iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let nonce = "0123456789abcdef";
    room.tool(&format!(
        "tpm2_quote -Q -c 0x81010002 -l sha256:{list} -q {nonce} -m quote -s signature -g sha256"
    ));
    let read = |name: &str| std::fs::read(room.folder().join(name)).unwrap();
    let (message, signature) = (read("quote"), Signature::parse(&read("signature")).unwrap());
    room.tool("tpm2_readpublic -Q -c 0x81010002 -f der -o ak.der");
    let key = AttestationKey::from_spki(&read("ak.der")).unwrap();
    let values = room.device().pcr_values(Sha256, &all()).unwrap();
    let pcrs: Vec<[u8; 32]> = values.into_iter().map(|value| value.try_into().unwrap()).collect();
    let mut pcrs: [[u8; 32]; 24] = pcrs.try_into().unwrap();
    let nonce = hex::decode(nonce).unwrap();
    let attest = verify_quote(&message, &signature, &key, &nonce, &pcrs).unwrap();
    assert_eq!(attest, Attest::parse(&message).unwrap());
    assert_eq!(attest.to_bytes().unwrap(), message);
    pcrs[3][0] ^= 1;
    assert_eq!(verify_pcrs(&attest, &pcrs).unwrap_err().check(), "tpm.pcr_digest");
}

#[test]
fn ecdsa_signatures_and_keys_of_a_tpm_are_read() {
    let Some(room) = Room::without_key() else { return };
    room.tpm.make_key("-G ecc -s ecdsa").unwrap();
    room.tool("tpm2_quote -Q -c 0x81010002 -l sha256:0 -q 00 -m quote -s signature -g sha256");
    let bytes = std::fs::read(room.folder().join("signature")).unwrap();
    let signature = Signature::parse(&bytes).unwrap();
    assert!(matches!(signature, Signature::Ecdsa { hash: 0x0B, .. }));
    assert_eq!(signature.to_bytes().unwrap(), bytes);
    let public = room.device().public(DEFAULT_AK_HANDLE).unwrap();
    room.tool("tpm2_readpublic -Q -c 0x81010002 -f tss -o ak.tss");
    let theirs = std::fs::read(room.folder().join("ak.tss")).unwrap();
    assert_eq!(public.to_bytes().unwrap(), theirs[2..]);
    assert!(public.is_restricted_signer() && public.rsa_spki_der().is_none());
}
