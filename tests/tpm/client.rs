//! The client: PCRs, quotes, keys and NV indices, each compared with what tpm2-tools see.

use cc_evidence::HashAlgorithm::{Sha256, Sha384};
use cc_evidence::tpm::{Attest, Signature, digest_of_values};
use cc_platform::tpm::DEFAULT_AK_HANDLE;

use crate::Room;

#[test]
fn pcrs_agree_with_tpm2_pcrread() {
    let Some(tpm) = Room::without_key() else { return };
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
    let Some(tpm) = Room::with_key() else { return };
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

#[test]
fn a_thousand_quotes_leave_nothing_in_the_tpm() {
    let Some(tpm) = Room::with_key() else { return };
    let before = tpm.loaded();
    let device = tpm.device();
    for n in 0_u32..1000 {
        device.quote(DEFAULT_AK_HANDLE, &n.to_be_bytes(), Sha256, &[0, 8]).unwrap();
    }
    assert_eq!(tpm.loaded(), before);
}

#[test]
fn nv_indices_are_defined_once_and_written_whole() {
    let Some(tpm) = Room::without_key() else { return };
    let device = tpm.device();
    assert_eq!(device.nv_read(0x0140_0002, 64).unwrap_err().code(), "TPM_NV_ABSENT");
    for (index, len) in [(0x0140_0002, 64), (0x0140_0001, 1700)] {
        for byte in [1, 2] {
            let data: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap() ^ byte).collect();
            device.nv_define_write(index, &data).unwrap();
            assert_eq!(device.nv_read(index, len).unwrap(), data);
            tpm.tool(&format!("tpm2_nvread -C o {index:#x} -o nv"));
            assert_eq!(std::fs::read(tpm.folder().join("nv")).unwrap(), data);
        }
    }
    assert_eq!(device.nv_read(0x0140_0001, 1699).unwrap_err().code(), "TPM_NV_UNFIT");
    assert_eq!(device.nv_define_write(0x0140_0002, &[0; 65]).unwrap_err().code(), "TPM_NV_UNFIT");
    tpm.tool("tpm2_nvdefine -Q -C o -s 8 -a ownerwrite|authwrite|authread 0x1500000");
    assert_eq!(device.nv_read(0x0150_0000, 8).unwrap_err().code(), "TPM_REFUSED", "never written");
    tpm.tool("tpm2_nvdefine -Q -C o -s 8 -a policywrite|policyread 0x1500001");
    assert_eq!(device.nv_read(0x0150_0001, 8).unwrap_err().code(), "TPM_NV_UNFIT");
}

#[test]
fn keys_are_shown_as_tpm2_readpublic_shows_them() {
    let Some(tpm) = Room::with_key() else { return };
    let ours = tpm.device().public(DEFAULT_AK_HANDLE).unwrap();
    tpm.tool(&format!("tpm2_readpublic -Q -c {DEFAULT_AK_HANDLE:#x} -f der -o ak.der -n ak.name"));
    tpm.tool(&format!("tpm2_readpublic -Q -c {DEFAULT_AK_HANDLE:#x} -f tss -o ak.tss"));
    let file = |name: &str| std::fs::read(tpm.folder().join(name)).unwrap();
    assert_eq!(ours.rsa_spki_der().unwrap(), file("ak.der"));
    assert_eq!(ours.name().unwrap(), file("ak.name"));
    assert_eq!(ours.to_bytes().unwrap(), file("ak.tss")[2..]);
    assert!(ours.is_restricted_signer());
}
