//! Answers of a driver, good and bad, and the device.

use proptest::prelude::*;

use super::*;

const ASKED: [u8; 64] = [0xA5; 64];
/// Where the report data is: after the header, at the end of the body.
const REPORT_DATA: usize = 48 + 520;

/// A quote of version 4 that parses, with nothing in it but report data; its signatures sign nothing.
fn blobs() -> tsm::Blobs {
    let mut quote = vec![0u8; 48 + 584];
    quote[..8].copy_from_slice(&[4, 0, 2, 0, 0x81, 0, 0, 0]);
    quote[12..28].copy_from_slice(&cc_evidence::dcap::INTEL_VENDOR_ID);
    quote[REPORT_DATA..].copy_from_slice(&ASKED);
    let sized = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_le_bytes(), bytes].concat();
    let chain = [&[5, 0][..], &sized(b"no certificates")].concat();
    let certification = [&[0; 384 + 64][..], &[0, 0], &chain].concat();
    let signature = [&[0; 128][..], &[6, 0], &sized(&certification)].concat();
    quote.extend(sized(&signature));
    tsm::Blobs { outblob: quote, auxblob: Vec::new(), provider: PROVIDER.to_owned() }
}

#[test]
fn the_answer_to_the_question_is_accepted_with_and_without_padding() {
    let mut answer = blobs();
    assert_eq!(read(&answer, &ASKED).unwrap().body.report_data, ASKED);
    answer.outblob.resize(8192, 0);
    assert_eq!(read(&answer, &ASKED).unwrap().body.report_data, ASKED);
}

#[test]
fn other_answers_are_refused() {
    let code = |change: &dyn Fn(&mut tsm::Blobs)| {
        let mut blobs = blobs();
        change(&mut blobs);
        read(&blobs, &ASKED).unwrap_err().code()
    };
    assert_eq!(code(&|b| b.outblob[REPORT_DATA] ^= 1), "EVIDENCE_MISMATCH");
    assert_eq!(code(&|b| b.outblob[REPORT_DATA + 63] ^= 0x80), "EVIDENCE_MISMATCH");
    assert_eq!(code(&|b| b.outblob[0] = 3), "EVIDENCE_MALFORMED", "an SGX quote");
    assert_eq!(code(&|b| b.outblob[4] = 0), "EVIDENCE_MALFORMED", "another TEE");
    assert_eq!(code(&|b| b.provider = "sev_guest".to_owned()), "TSM_PROVIDER_CHANGED");
    let whole = blobs().outblob.len();
    for length in 0..whole {
        assert_eq!(code(&|b| b.outblob.truncate(length)), "EVIDENCE_MALFORMED", "{length} of {whole} bytes");
    }
}

proptest! {
    #[test]
    fn whatever_the_hardware_says_is_refused_without_panic(
        outblob in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        let answer = tsm::Blobs { outblob, ..blobs() };
        prop_assert!(read(&answer, &ASKED).is_err());
    }

    #[test]
    fn a_changed_quote_is_read_without_panic(at in 0usize..1300, to: u8) {
        let mut answer = blobs();
        if let Some(byte) = answer.outblob.get_mut(at) {
            *byte = to;
        }
        let _ = read(&answer, &ASKED);
    }
}
