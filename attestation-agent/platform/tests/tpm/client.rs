//! The client: PCRs, quotes, keys and NV indices, each compared with what tpm2-tools see.

use cc_evidence::HashAlgorithm::{Sha256, Sha384};
use cc_evidence::tpm::{Attest, Signature, digest_of_values};
use cc_platform::tpm::DEFAULT_AK_HANDLE;

use crate::swtpm::Swtpm;

#[test]
fn pcrs_agree_with_tpm2_pcrread() {
    let Some(tpm) = Swtpm::start() else { return };
    let device = tpm.device();
    device.pcr_extend(8, Sha256, &[0xA5; 32]).unwrap();
    device.pcr_extend(23, Sha384, &[0x5A; 48]).unwrap();
    let extended = Sha256.digest(&[[0; 32], [0xA5; 32]].concat());
    for (hash, len) in [(Sha256, 32), (Sha384, 48)] {
        let all: Vec<u32> = (0..24).collect();
        let ours = device.pcr_values(hash, &all).unwrap();
        let theirs = tpm.tool(&format!("tpm2_pcrread {hash}"));
        let theirs: Vec<String> = theirs
            .lines()
            .filter_map(|line| line.split_once(": 0x"))
            .map(|(_, value)| value.to_lowercase())
            .collect();
        assert_eq!(ours.iter().map(hex::encode).collect::<Vec<_>>(), theirs);
        assert!(ours.iter().all(|value| value.len() == len));
    }
    assert_eq!(device.pcr_values(Sha256, &[9, 8, 9]).unwrap(), [vec![0; 32], extended, vec![0; 32]]);
}

#[test]
fn a_quote_says_what_was_asked() {
    let Some(tpm) = Swtpm::with_key() else { return };
    let quote = tpm.device().quote(DEFAULT_AK_HANDLE, b"nonce", Sha256, &[7, 0]).unwrap();
    let attest = Attest::parse(&quote.attest).unwrap();
    assert_eq!(attest.extra_data, b"nonce");
    assert_eq!(attest.selection[0].pcrs(), [0, 7]);
    assert_eq!(attest.pcr_digest, digest_of_values(Sha256, &quote.pcrs));
    assert_eq!(attest.to_bytes().unwrap(), quote.attest);
    let signature = Signature::parse(&quote.signature).unwrap();
    assert!(matches!(&signature, Signature::RsaSsa { hash: 0x0B, bytes } if bytes.len() == 256));
    assert_eq!(signature.to_bytes().unwrap(), quote.signature);
}
