//! Every field, bit and length of the report.

use proptest::prelude::*;

use super::super::{REPORT_LEN, SIGNED_LEN};
use super::*;

/// A report in which every byte differs from its neighbours, so that a shifted field shows.
fn patterned(version: u32, family: u8) -> [u8; REPORT_LEN] {
    let mut raw = [0; REPORT_LEN];
    for (byte, value) in raw.iter_mut().zip((1u8..=251).cycle()) {
        *byte = value;
    }
    raw[..4].copy_from_slice(&version.to_le_bytes());
    raw[0x188] = family;
    raw
}

fn at<const N: usize>(raw: &[u8], offset: usize) -> [u8; N] {
    raw[offset..offset + N].try_into().unwrap()
}

#[test]
fn fields_are_read_from_their_offsets() {
    let raw = patterned(5, 0x19);
    let report = Report::parse(&raw).unwrap();
    assert_eq!(report.version, 5);
    assert_eq!(report.guest_svn.to_le_bytes(), at(&raw, 0x004));
    assert_eq!(report.policy.0.to_le_bytes(), at(&raw, 0x008));
    assert_eq!(report.family_id, at(&raw, 0x010));
    assert_eq!(report.image_id, at(&raw, 0x020));
    assert_eq!(report.vmpl.to_le_bytes(), at(&raw, 0x030));
    assert_eq!(report.sig_algo.to_le_bytes(), at(&raw, 0x034));
    assert_eq!(report.current_tcb.raw, at(&raw, 0x038));
    assert_eq!(report.platform_info.0.to_le_bytes(), at(&raw, 0x040));
    assert_eq!(report.key_info.0.to_le_bytes(), at(&raw, 0x048));
    assert_eq!(report.report_data, at(&raw, 0x050));
    assert_eq!(report.measurement, at(&raw, 0x090));
    assert_eq!(report.host_data, at(&raw, 0x0C0));
    assert_eq!(report.id_key_digest, at(&raw, 0x0E0));
    assert_eq!(report.author_key_digest, at(&raw, 0x110));
    assert_eq!(report.report_id, at(&raw, 0x140));
    assert_eq!(report.report_id_ma, at(&raw, 0x160));
    assert_eq!(report.reported_tcb.raw, at(&raw, 0x180));
    let cpu = report.cpuid.unwrap();
    assert_eq!([cpu.family, cpu.model, cpu.stepping], at(&raw, 0x188));
    assert_eq!(report.chip_id, at(&raw, 0x1A0));
    assert_eq!(report.committed_tcb.raw, at(&raw, 0x1E0));
    let firmware = |v: FirmwareVersion| [v.build, v.minor, v.major];
    assert_eq!(firmware(report.current_firmware), at(&raw, 0x1E8));
    assert_eq!(firmware(report.committed_firmware), at(&raw, 0x1EC));
    assert_eq!(report.launch_tcb.raw, at(&raw, 0x1F0));
    assert_eq!(report.launch_mit_vector.unwrap().to_le_bytes(), at(&raw, 0x1F8));
    assert_eq!(report.current_mit_vector.unwrap().to_le_bytes(), at(&raw, 0x200));
    assert_eq!(report.signature.r, at(&raw, 0x2A0));
    assert_eq!(report.signature.s, at(&raw, 0x2E8));
    assert_eq!(report.signed(), &raw[..SIGNED_LEN]);
    assert_eq!(report.raw(), &raw);
}

#[test]
fn versions_decide_which_fields_exist() {
    for (version, cpuid, mitigation) in
        [(2, false, false), (3, true, false), (4, true, false), (5, true, true), (6, true, true)]
    {
        let report = Report::parse(&patterned(version, 0x19)).unwrap();
        assert_eq!(report.cpuid.is_some(), cpuid, "version {version}");
        assert_eq!(report.launch_mit_vector.is_some(), mitigation, "version {version}");
        assert_eq!(report.current_mit_vector.is_some(), mitigation, "version {version}");
    }
    for version in [0, 1] {
        let error = Report::parse(&patterned(version, 0x19)).unwrap_err();
        assert_eq!(error.code(), "EVIDENCE_FIELD_INVALID");
    }
}

#[test]
fn warnings_name_what_verifiers_may_refuse() {
    let mut raw = patterned(6, 0x19);
    raw[0x0A] |= 0x08;
    let warnings = Report::parse(&raw).unwrap().warnings();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[0].contains("version 6 is newer"));
    raw[..4].copy_from_slice(&5u32.to_le_bytes());
    raw[0x0A] &= !0x08;
    raw[0x30..0x34].fill(0);
    assert_eq!(Report::parse(&raw).unwrap().warnings(), Vec::<String>::new());
}

#[test]
fn tcb_layout_follows_the_processor() {
    assert_eq!(Report::parse(&patterned(3, 0x19)).unwrap().reported_tcb.fmc, None);
    assert!(Report::parse(&patterned(3, 0x1A)).unwrap().reported_tcb.fmc.is_some());
    // Version 2 has no CPUID: a chip id of eight bytes can only be Turin's.
    let mut raw = patterned(2, 0);
    assert_eq!(Report::parse(&raw).unwrap().reported_tcb.fmc, None);
    raw[0x1A8..0x1E0].fill(0);
    assert!(Report::parse(&raw).unwrap().reported_tcb.fmc.is_some());
    raw[0x1A0..0x1E0].fill(0);
    assert_eq!(Report::parse(&raw).unwrap().reported_tcb.fmc, None);
}

#[test]
fn every_other_length_is_an_error() {
    let mut raw = patterned(5, 0x19).to_vec();
    for len in 0..REPORT_LEN {
        let error = Report::parse(&raw[..len]).unwrap_err();
        assert_eq!(error.code(), "EVIDENCE_TRUNCATED", "{len} bytes");
    }
    raw.push(0);
    assert_eq!(Report::parse(&raw).unwrap_err().code(), "EVIDENCE_TRAILING_BYTES");
}

#[test]
fn every_flipped_bit_shows() {
    let raw = patterned(5, 0x19);
    let original = Report::parse(&raw).unwrap();
    for bit in 0..REPORT_LEN * 8 {
        let mut changed = raw;
        changed[bit / 8] ^= 1 << (bit % 8);
        if let Ok(report) = Report::parse(&changed) {
            assert_ne!(report, original, "bit {bit}");
            assert_eq!(report.raw(), &changed);
        }
    }
}

#[test]
fn signature_becomes_big_endian_and_must_fit() {
    let mut signature = Signature { r: [0; 72], s: [0; 72] };
    (signature.r[0], signature.r[47], signature.s[1]) = (1, 2, 3);
    let fixed = signature.to_fixed().unwrap();
    assert_eq!((fixed[0], fixed[47], fixed[94], fixed[95]), (2, 1, 3, 0));
    for index in 48..72 {
        let mut long = signature;
        long.s[index] = 1;
        assert!(long.to_fixed().unwrap_err().to_string().contains("snp.signature.s"), "byte {index}");
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1300)) {
        let _ = Report::parse(&bytes);
    }

    #[test]
    fn encode_is_the_inverse_of_parse(
        bytes in proptest::collection::vec(any::<u8>(), REPORT_LEN),
        version in 2u32..=6,
        family in 0x17u8..=0x1B,
    ) {
        let mut raw = bytes;
        raw[..4].copy_from_slice(&version.to_le_bytes());
        raw[0x188] = family;
        let encoded = Report::parse(&raw).unwrap().fields().encode();
        let again = Report::parse(&encoded).unwrap();
        // What the first pass dropped were reserved bytes; from then on nothing changes.
        prop_assert_eq!(&again.fields().encode(), &encoded);
        prop_assert_eq!(again.measurement.as_slice(), &raw[0x90..0xC0]);
        prop_assert_eq!(again.signature.s.as_slice(), &raw[0x2E8..0x330]);
    }
}
