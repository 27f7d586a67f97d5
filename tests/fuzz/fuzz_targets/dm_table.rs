//! Tables of mappings as the kernel writes them, compared with headers of a volume with integrity and of one without.
#![no_main]

use cc_evidence::HashAlgorithm;
use cc_volume::{dm_crypt::CryptTarget, dm_integrity::IntegrityTarget, luks2::Header};
use libfuzzer_sys::fuzz_target;

const SIZE: usize = 0x4000;

fuzz_target!(|text: &str| {
    let (plain, tagged) = (header(64, ""), header(96, INTEGRITY));
    if let Ok(target) = CryptTarget::parse(0, 98304, text) {
        let _ = target.check_length(1 << 30);
        for header in [&plain, &tagged] {
            if target.check(header, false).is_ok() {
                let key = target.key.as_ref().expect("a key in the keyring");
                assert!(key.description.starts_with("cryptsetup:6a2d7e1c-"));
                assert!(target.cipher.contains("xts") && target.iv_offset == 0);
                assert!(!text.contains("allow_discards") && !text.contains("null"));
            }
        }
    }
    if let Ok(target) = IntegrityTarget::parse(0, 98304, text) {
        assert!(target.check(&plain, 98304, true).is_err());
        if target.check(&tagged, 98304, false).is_ok() {
            assert!(target.tag_size == 32 && target.mode != "R");
            assert!(!text.contains("internal_hash") && !text.contains("recalculate"));
        }
    }
});

const INTEGRITY: &str =
    r#","integrity":{"type":"hmac(sha256)","journal_encryption":"none","journal_integrity":"none"}"#;

/// A header with a volume key of so many bytes, and more in its segment.
fn header(key_size: u32, more: &str) -> Header {
    let salt = "c2FsdHNhbHRzYWx0c2FsdHNhbHRzYWx0c2FsdHNhbHQ=";
    let text = format!(
        r#"{{"keyslots":{{"0":{{"type":"luks2","key_size":{key_size},"af":{{"type":"luks1","stripes":4000,"hash":"sha256"}},"area":{{"type":"raw","offset":"32768","size":"258048","encryption":"aes-xts-plain64","key_size":64}},"kdf":{{"type":"pbkdf2","hash":"sha256","iterations":1000,"salt":"{salt}"}}}}}},"tokens":{{}},"segments":{{"0":{{"type":"crypt","offset":"16777216","size":"dynamic","iv_tweak":"0","encryption":"aes-xts-plain64","sector_size":4096{more}}}}},"digests":{{"0":{{"type":"pbkdf2","keyslots":["0"],"segments":["0"],"hash":"sha256","iterations":1000,"salt":"{salt}","digest":"{salt}"}}}},"config":{{"json_size":"12288","keyslots_size":"262144"}}}}"#
    );
    let mut area = vec![0; 2 * SIZE];
    for (start, magic) in [(0, b"LUKS\xba\xbe\0\x02"), (SIZE, b"SKUL\xba\xbe\0\x02")] {
        let copy = &mut area[start..start + SIZE];
        copy[..8].copy_from_slice(magic);
        copy[8..16].copy_from_slice(&(SIZE as u64).to_be_bytes());
        copy[72..78].copy_from_slice(b"sha256");
        copy[168..204].copy_from_slice(b"6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10");
        copy[256..264].copy_from_slice(&(start as u64).to_be_bytes());
        copy[4096..4096 + text.len()].copy_from_slice(text.as_bytes());
        let checksum = HashAlgorithm::Sha256.digest(copy);
        copy[448..480].copy_from_slice(&checksum);
    }
    Header::read_copies(&area, 1 << 24).expect("a good header")
}
