//! LUKS2 headers: the bytes themselves, and the bytes as the JSON text of both copies under checksums that fit.
#![no_main]

use cc_crypto::Secret;
use cc_evidence::HashAlgorithm;
use cc_volume::luks2::{Copies, DetachedHeader, Header, HeaderKey, Policy, Secondary};
use libfuzzer_sys::fuzz_target;

const SIZE: usize = 0x8000;

fuzz_target!(|bytes: &[u8]| {
    judge(bytes);
    if bytes.len() >= SIZE - 4096 || bytes.contains(&0) {
        return;
    }
    // Keyslots that the text names lie in the zeros behind.
    let mut area = vec![0; 2 * SIZE + 0x8_0000];
    for (start, magic) in [(0, b"LUKS\xba\xbe\0\x02"), (SIZE, b"SKUL\xba\xbe\0\x02")] {
        let copy = &mut area[start..start + SIZE];
        copy[..8].copy_from_slice(magic);
        copy[8..16].copy_from_slice(&(SIZE as u64).to_be_bytes());
        copy[72..78].copy_from_slice(b"sha256");
        copy[256..264].copy_from_slice(&(start as u64).to_be_bytes());
        copy[4096..4096 + bytes.len()].copy_from_slice(bytes);
        let checksum = HashAlgorithm::Sha256.digest(copy);
        copy[448..480].copy_from_slice(&checksum);
    }
    if let Some(header) = judge(&area) {
        assert_eq!(header.secondary(), &Secondary::Same);
        // The second copy alone says the same.
        area[SIZE - 1] ^= 1;
        let second = Header::read_by(&area, area.len(), Copies::Either).expect("the second copy");
        assert!(second.damage().is_some());
        assert_eq!((second.binary(), second.metadata()), (header.binary(), header.metadata()));
    }
});

fn judge(bytes: &[u8]) -> Option<Header> {
    if let Ok(detached) = DetachedHeader::read(bytes) {
        let canonical = detached.canonical().to_bytes();
        let again = DetachedHeader::read(&canonical).expect("the canonical form is one");
        assert_eq!(again.canonical().to_bytes(), canonical);
    }
    let header = Header::read(bytes).ok()?;
    for detached in [false, true] {
        let policy = Policy { detached, max_keyslots: 2, ..Policy::default() };
        if policy.judge(&header).is_admitted() {
            let metadata = header.metadata();
            assert!(metadata.keyslots.len() <= 2 && metadata.segments.len() == 1);
            let crypt = metadata.segments[&0].crypt.as_ref().expect("an encrypted segment");
            assert!(crypt.encryption.starts_with("aes-xts-") || crypt.encryption.starts_with("aegis"));
        }
    }
    let [key, other] =
        [7, 8].map(|byte| HeaderKey::derive(&Secret::new(vec![byte; 32])).expect("long enough"));
    if let Ok(tag) = key.sign(&header) {
        assert_eq!(key.verify(&header, &tag), Ok(()));
        assert!(other.verify(&header, &tag).is_err());
    }
    Some(header)
}
