//! Bounds, order and round trips of the certificate table.

use proptest::prelude::*;

use super::*;

fn entry(kind: CertKind, data: &[u8]) -> CertEntry {
    CertEntry { kind, data: data.to_vec() }
}

/// One table entry as bytes.
fn raw_entry(kind: CertKind, offset: u32, length: u32) -> Vec<u8> {
    [kind.guid().as_slice(), &offset.to_le_bytes(), &length.to_le_bytes()].concat()
}

#[test]
fn guids_stand_in_text_order() {
    let table = [
        (CertKind::Ark, "c0b406a4-a803-4952-9743-3fb6014cd0ae"),
        (CertKind::Ask, "4ab7b379-bbac-4fe4-a02f-05aef327c782"),
        (CertKind::Vcek, "63da758d-e664-4564-adc5-f4b93be8accd"),
        (CertKind::Vlek, "a8074bc2-a25a-483e-aae6-39c045a0b8a1"),
        (CertKind::Crl, "92f81bc3-5811-4d3d-97ff-d19f88dc67ea"),
    ];
    for (kind, text) in table {
        assert_eq!(guid_text(kind.guid()), text);
        assert_eq!(guid_from_text(text).map(CertKind::from_guid), Some(kind));
        assert_eq!(CertKind::from_name(kind.name().unwrap()), Some(kind));
    }
    let other = guid_from_text("ecae0c0f-9502-43b1-afa2-0ae2e0d565b6").map(CertKind::from_guid).unwrap();
    assert_eq!(other.to_string(), "ecae0c0f-9502-43b1-afa2-0ae2e0d565b6");
    assert_eq!(guid_from_text("63da758d"), None);
}

#[test]
fn written_tables_have_the_documented_layout() {
    let bytes = encode(&[entry(CertKind::Vcek, b"leaf"), entry(CertKind::Ark, b"root!")]).unwrap();
    let expected = [
        raw_entry(CertKind::Vcek, 72, 4),
        raw_entry(CertKind::Ark, 76, 5),
        vec![0; 24],
        b"leafroot!".to_vec(),
    ]
    .concat();
    assert_eq!(bytes, expected);
}

#[test]
fn empty_and_padded_tables() {
    assert_eq!(parse(&[]), Ok(vec![]));
    assert_eq!(parse(&[0; 4096]), Ok(vec![]));
    let mut padded = encode(&[entry(CertKind::Vlek, b"x")]).unwrap();
    padded.resize(4096, 0);
    assert_eq!(parse(&padded), Ok(vec![entry(CertKind::Vlek, b"x")]));
}

#[test]
fn entries_outside_the_table_are_refused() {
    for (offset, length) in [(49, 1), (48, 2), (0, 50), (u32::MAX, 1), (1, u32::MAX), (u32::MAX, u32::MAX)] {
        let mut blob = [raw_entry(CertKind::Vcek, offset, length), vec![0; 24]].concat();
        blob.push(7);
        let error = parse(&blob).unwrap_err();
        assert_eq!(error.code(), "EVIDENCE_FIELD_INVALID", "{offset} + {length}");
        assert!(error.to_string().contains("VCEK"), "{error}");
    }
    let blob = [raw_entry(CertKind::Vcek, 48, 1), vec![0; 24], vec![7]].concat();
    assert_eq!(parse(&blob), Ok(vec![entry(CertKind::Vcek, &[7])]));
}

#[test]
fn a_table_without_end_mark_is_truncated() {
    let whole = [raw_entry(CertKind::Vcek, 0, 0), vec![0; 16]].concat();
    assert_eq!(parse(&whole), Ok(vec![entry(CertKind::Vcek, b"")]));
    for len in 1..whole.len() {
        assert_eq!(parse(&whole[..len]).unwrap_err().code(), "EVIDENCE_TRUNCATED", "{len} bytes");
    }
}

#[test]
fn counts_and_sizes_are_limited() {
    let many = vec![entry(CertKind::Crl, b""); MAX_ENTRIES];
    assert_eq!(parse(&encode(&many).unwrap()), Ok(many.clone()));
    let too_many = [many, vec![entry(CertKind::Crl, b"")]].concat();
    assert_eq!(encode(&too_many).unwrap_err().code(), "EVIDENCE_TOO_LARGE");
    let blob = [raw_entry(CertKind::Crl, 0, 0).repeat(MAX_ENTRIES + 1), vec![0; 24]].concat();
    assert_eq!(parse(&blob).unwrap_err().code(), "EVIDENCE_TOO_LARGE");
    assert_eq!(parse(&vec![0; MAX_TABLE_LEN + 1]).unwrap_err().code(), "EVIDENCE_TOO_LARGE");
    let large = [entry(CertKind::Ark, &vec![1; MAX_TABLE_LEN])];
    assert_eq!(encode(&large).unwrap_err().code(), "EVIDENCE_TOO_LARGE");
    assert_eq!(encode(&[entry(CertKind::Other([0; 16]), b"")]).unwrap_err().code(), "EVIDENCE_FIELD_INVALID");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn round_trip(parts in proptest::collection::vec(
        (any::<[u8; 16]>(), proptest::collection::vec(any::<u8>(), 0..200)), 0..=MAX_ENTRIES,
    )) {
        let entries: Vec<_> = parts
            .into_iter()
            .filter(|(guid, _)| *guid != END)
            .map(|(guid, data)| CertEntry { kind: CertKind::from_guid(guid), data })
            .collect();
        prop_assert_eq!(parse(&encode(&entries).unwrap()), Ok(entries));
    }
}
