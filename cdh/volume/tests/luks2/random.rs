//! Any bytes: read or refused, judged without a panic.

use cc_crypto::Secret;
use cc_volume::luks2::{Copies, DetachedHeader, Header, HeaderKey, Policy};
use proptest::prelude::*;

use crate::{
    SECRET,
    craft::{First, SIZE, Second, sample},
};

fn run(bytes: &[u8]) {
    if let Ok(header) = Header::read(bytes) {
        for detached in [false, true] {
            let verdict = Policy { detached, ..Policy::default() }.judge(&header);
            assert!(verdict.violations.is_sorted_by_key(|violation| violation.rule));
        }
        let key = HeaderKey::derive(&Secret::new(SECRET.to_vec())).unwrap();
        if let Ok(tag) = key.sign(&header) {
            assert_eq!(key.verify(&header, &tag), Ok(()));
        }
    }
    let either = Header::read_by(bytes, bytes.len(), Copies::Either);
    assert!(either.is_ok() >= Header::read(bytes).is_ok());
    if let Ok(detached) = DetachedHeader::read(bytes) {
        let canonical = detached.canonical().to_bytes();
        let again = DetachedHeader::read(&canonical).unwrap();
        assert_eq!(again.canonical().to_bytes(), canonical, "the canonical form of the canonical form");
    }
}

proptest! {
    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600), magic: bool) {
        let start: &[u8] = if magic { b"LUKS\xba\xbe\0\x02" } else { b"" };
        run(&[start, &bytes].concat());
    }

    #[test]
    fn random_text_under_a_good_checksum_does_no_harm(text in "[ -~]{0,300}") {
        let mut craft = sample();
        craft.put(First, &text);
        craft.put(Second, &text);
        run(&craft.bytes);
    }

    #[test]
    fn random_changes_of_a_good_text_do_no_harm(
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4),
    ) {
        let mut craft = sample();
        let mut text = craft.text(First).into_bytes();
        let letters = b"{}[]\",:0123456789-.eE\\ truefalsn";
        for (place, letter) in places {
            let at = place.index(text.len());
            text[at] = letters[letter.index(letters.len())];
        }
        let text = String::from_utf8(text).unwrap();
        craft.put(First, &text);
        craft.put(Second, &text);
        run(&craft.bytes);
    }

    /// One bit anywhere in the copies is seen by a checksum.
    #[test]
    fn no_bit_of_the_first_copy_can_be_changed_unnoticed(bit in 0..SIZE * 8) {
        let mut craft = sample();
        craft.bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Header::read(&craft.bytes).is_err());
    }

    #[test]
    fn a_header_is_not_read_from_less_than_both_copies(length in 0..2 * SIZE) {
        prop_assert!(Header::read(&sample().bytes[..length]).is_err());
    }
}
