use proptest::prelude::*;

use super::*;
use crate::dcap::{EnclaveFields, EnclaveReport, qe_report_data};
use crate::tdx::{TdAttributes, Tdx15};

fn body(fill: u8, tdx15: bool) -> TdBody {
    TdBody {
        tee_tcb_svn: [fill; 16],
        mr_seam: [fill ^ 1; 48],
        mrsigner_seam: [0; 48],
        seam_attributes: 0,
        td_attributes: TdAttributes(1 << 28),
        xfam: u64::from_le_bytes([fill ^ 2; 8]),
        mr_td: [fill ^ 3; 48],
        mr_config_id: [fill ^ 4; 48],
        mr_owner: [fill ^ 5; 48],
        mr_owner_config: [fill ^ 6; 48],
        rtmr: [[fill ^ 7; 48], [fill ^ 8; 48], [fill ^ 9; 48], [fill ^ 10; 48]],
        report_data: [fill ^ 11; 64],
        tdx15: tdx15.then_some(Tdx15 { tee_tcb_svn2: [fill ^ 12; 16], mr_servicetd: [fill ^ 13; 48] }),
    }
}

fn signature(fill: u8, auth: &[u8], chain: &[u8]) -> SignatureData {
    let attestation_key = [fill; 64];
    SignatureData {
        signature: [fill ^ 1; 64],
        attestation_key,
        qe_report: EnclaveReport::new(EnclaveFields {
            cpu_svn: [fill ^ 2; 16],
            misc_select: [fill ^ 3; 4],
            attributes: [fill ^ 4; 16],
            mr_enclave: [fill ^ 5; 32],
            mr_signer: [fill ^ 6; 32],
            config_id: [fill ^ 7; 64],
            isv_prod_id: 2,
            isv_svn: 0x0102,
            report_data: qe_report_data(&attestation_key, auth),
        }),
        qe_report_signature: [fill ^ 8; 64],
        qe_auth_data: auth.to_vec(),
        pck_chain: chain.to_vec(),
    }
}

fn quote(tdx15: bool) -> Vec<u8> {
    assemble(&to_be_signed([9; 20], &body(1, tdx15)), &signature(2, &[3; 32], b"chain")).unwrap()
}

#[test]
fn offsets_are_those_of_the_specification() {
    let four = quote(false);
    assert_eq!(four[..8], [4, 0, 2, 0, 0x81, 0, 0, 0]);
    assert_eq!(four[0x30 + 0x88..][..48], body(1, false).mr_td);
    assert_eq!(four[0x30 + 0x208..][..64], body(1, false).report_data);
    assert_eq!(four[0x278..0x27C], u32::try_from(four.len() - 0x27C).unwrap().to_le_bytes());
    let five = quote(true);
    assert_eq!(five[0x30..0x36], [3, 0, 0x88, 2, 0, 0]);
    assert_eq!(five[0x36 + 0x258..][..48], body(1, true).tdx15.unwrap().mr_servicetd);
    assert_eq!(five[0x36 + 648..][..4], u32::try_from(five.len() - (0x36 + 652)).unwrap().to_le_bytes());
}

#[test]
fn every_cut_is_refused_and_every_appended_byte_is_counted() {
    for tdx15 in [false, true] {
        let whole = quote(tdx15);
        for len in 0..whole.len() {
            assert!(Quote::parse(&whole[..len]).is_err(), "{len} bytes");
        }
        let padded = [whole.as_slice(), &[0; 70]].concat();
        let parsed = Quote::parse(&padded).unwrap();
        assert_eq!(
            (parsed.trailing, parsed.signed()),
            (70, to_be_signed([9; 20], &body(1, tdx15)).as_slice())
        );
    }
}

#[test]
fn wrong_kinds_are_named() {
    let rows: [(usize, u8, &str); 9] = [
        (0, 3, "quote.version"),
        (2, 3, "quote.key_type"),
        (4, 0, "quote.tee_type"),
        (0x30, 1, "quote.body_type"),
        (0x32, 0x48, "quote.body_size"),
        // Outer certification type, inner length, inner certification type.
        (0x36 + 652 + 128, 5, "quote.certification_type"),
        (0x36 + 652 + 130, 0, "quote.inner_certification_type"),
        (0x36 + 652 + 134 + 448, 31, "quote.inner_certification_type"),
        (0x36 + 652 + 134 + 450 + 32, 4, "quote.inner_certification_type"),
    ];
    for (offset, value, expected) in rows {
        let mut changed = quote(true);
        assert_ne!(changed[offset], value, "{offset:#x}");
        changed[offset] = value;
        let error = Quote::parse(&changed).unwrap_err();
        match error {
            Error::Invalid { field, .. } if field == expected => {}
            Error::Truncated { .. } | Error::Trailing { .. } if offset == 0x36 + 652 + 130 => {}
            other => panic!("{offset:#x}: {other}"),
        }
    }
    let too_long = vec![0; crate::dcap::MAX_QUOTE_LEN + 1];
    assert_eq!(Quote::parse(&too_long).unwrap_err().code(), "EVIDENCE_TOO_LARGE");
    let signed = to_be_signed([0; 20], &body(1, false));
    let long_auth = signature(1, &[0; 0x1_0000], b"");
    assert_eq!(assemble(&signed, &long_auth).unwrap_err().code(), "EVIDENCE_TOO_LARGE");
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        fill: u8, tdx15: bool, user_data: [u8; 20],
        auth in proptest::collection::vec(any::<u8>(), 0..64),
        chain in proptest::collection::vec(any::<u8>(), 0..512),
        tail in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let (body, signature) = (body(fill, tdx15), signature(fill, &auth, &chain));
        let signed = to_be_signed(user_data, &body);
        let bytes = [assemble(&signed, &signature).unwrap(), tail.clone()].concat();
        let quote = Quote::parse(&bytes).unwrap();
        prop_assert_eq!(quote.header.user_data, user_data);
        prop_assert_eq!(quote.header.encode(), &signed[..48]);
        prop_assert_eq!(quote.body, body);
        prop_assert_eq!(&quote.signature, &signature);
        prop_assert_eq!((quote.signed(), quote.trailing), (signed.as_slice(), tail.len()));
    }

    #[test]
    fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..1400), five: bool) {
        let start = [4 + u8::from(five), 0, 2, 0, 0x81, 0, 0, 0];
        for (target, byte) in bytes.iter_mut().zip(start) {
            *target = byte;
        }
        let _ = Quote::parse(&bytes);
    }
}
