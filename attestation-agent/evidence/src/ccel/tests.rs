use proptest::prelude::*;

use super::*;
use crate::HashAlgorithm;

/// A record with one SHA-384 digest.
fn record(register: u32, event_type: u32, digest: [u8; 48], data: &[u8]) -> Vec<u8> {
    [
        register.to_le_bytes().as_slice(),
        &event_type.to_le_bytes(),
        &1_u32.to_le_bytes(),
        &0x000C_u16.to_le_bytes(),
        &digest,
        &u32::try_from(data.len()).unwrap().to_le_bytes(),
        data,
    ]
    .concat()
}

/// The agent's log alone, without an end mark.
fn agent_log(records: &[Vec<u8>]) -> Vec<u8> {
    [HEADER_WITHOUT_CCEL.to_vec(), records.concat()].concat()
}

#[test]
fn the_header_without_firmware_log_is_fixed() {
    let log = assemble(None, Some(&[])).unwrap().unwrap();
    let expected = [
        "00000000030000000000000000000000000000000000000000000000",
        "25000000",
        "00000000000000000000000000000000",
        "0000000000000000",
        "020000000c0030001200200000",
        "ffffffffffffffff",
    ];
    assert_eq!(hex::encode(&log), expected.concat());
    assert_eq!(log.len(), 69 + 8);
    assert_eq!(Events::new(&log).unwrap().count(), 0);
}

#[test]
fn firmware_records_come_first_and_padding_is_cut() {
    let firmware = agent_log(&[record(1, 4, [1; 48], b"\0\0\0\0")]);
    let agent = record(4, EV_EVENT_TAG, [2; 48], b"LEAA");
    for padding in [vec![], vec![0; 8], vec![0xFF; 100]] {
        let ccel = [firmware.clone(), padding].concat();
        let log = assemble(Some(&ccel), Some(&agent)).unwrap().unwrap();
        assert_eq!(log, [firmware.as_slice(), &agent, &END_MARK].concat());
        assert_eq!(Events::new(&log).unwrap().count(), 2);
        let without_agent = assemble(Some(&ccel), None).unwrap().unwrap();
        assert_eq!(without_agent, [firmware.as_slice(), &END_MARK].concat());
    }
    assert_eq!(assemble(None, None), Ok(None));
}

#[test]
fn broken_parts_are_refused() {
    let agent = record(4, EV_EVENT_TAG, [2; 48], b"LEAA");
    for len in 1..agent.len() {
        assert!(assemble(None, Some(&agent[..len])).is_err(), "{len} bytes");
    }
    let ended = [agent.as_slice(), &END_MARK].concat();
    assert_eq!(assemble(None, Some(&ended)).unwrap_err().code(), "EVIDENCE_TRAILING_BYTES");
    let log = agent_log(&[agent]);
    for len in 0..log.len() {
        // A log may end after its first record, which is empty then.
        assert_eq!(assemble(Some(&log[..len]), None).is_err(), len != 69, "{len} bytes");
    }
    let long = vec![0; MAX_LOG_LEN + 1];
    assert_eq!(assemble(Some(&long), None).unwrap_err().code(), "EVIDENCE_TOO_LARGE");
    assert_eq!(assemble(None, Some(&long)).unwrap_err().code(), "EVIDENCE_TOO_LARGE");
}

#[test]
fn first_records_of_other_formats_are_refused() {
    let changes: [(usize, u8, &str); 5] = [
        (4, 4, "eventlog.first.type"),
        (32, b'S', "eventlog.first.signature"),
        (56, 17, "eventlog.algorithm_count"),
        (62, 0x20, "eventlog.first.digest_size"),
        (64, 0x55, ""),
    ];
    for (offset, value, expected) in changes {
        let mut log = agent_log(&[]);
        log[offset] = value;
        match Events::new(&log) {
            Err(Error::Invalid { field, .. }) => assert_eq!(field, expected, "{offset}"),
            // An unknown algorithm with a declared length is fine.
            other => {
                assert_eq!(other.map(|events| events.offset()).ok(), Some(69).filter(|_| expected.is_empty()))
            }
        }
    }
}

#[test]
fn unknown_algorithms_need_a_declaration() {
    let mut foreign = record(1, 4, [1; 48], b"");
    foreign[12] = 0x55;
    let first = |log: &[u8]| Events::new(log).unwrap().next().unwrap().map(|_| ()).map_err(|e| e.code());
    assert_eq!(first(&agent_log(&[foreign.clone()])), Err("EVIDENCE_FIELD_INVALID"));
    let mut declared = agent_log(&[foreign.clone()]);
    (declared[60], declared[62]) = (0x55, 48);
    assert_eq!(first(&declared), Ok(()));
    foreign[8] = 17;
    assert_eq!(first(&agent_log(&[foreign])), Err("EVIDENCE_FIELD_INVALID"));
}

#[test]
fn replay_extends_measured_records_in_order() {
    let log = agent_log(&[
        record(0, EV_NO_ACTION, [9; 48], b"not measured"),
        record(1, 4, [1; 48], b""),
        record(0, 4, [8; 48], b"register 0 is not extended"),
        record(1, 4, [2; 48], b""),
        record(4, EV_EVENT_TAG, [3; 48], b""),
    ]);
    let extend = |old: &[u8], digest| HashAlgorithm::Sha384.digest(&[old, &[digest; 48]].concat());
    let registers = replay(&log, HashAlgorithm::Sha384).unwrap();
    let zero = vec![0; 48];
    let expected = [extend(&extend(&zero, 1), 2), zero.clone(), zero.clone(), extend(&zero, 3)];
    assert!(registers.run_time().eq(expected.iter().map(Vec::as_slice)));
}

#[test]
fn pcrs_are_replayed_from_the_locality_on() {
    let locality = [b"StartupLocality\0".as_slice(), &[3]].concat();
    let log = agent_log(&[
        record(0, EV_NO_ACTION, [0; 48], &locality),
        record(0, 8, [1; 48], b""),
        record(0, 4, [2; 48], b""),
        record(23, 4, [3; 48], b""),
    ]);
    let extend = |old: &[u8], digest| HashAlgorithm::Sha384.digest(&[old, &[digest; 48]].concat());
    let mut start = vec![0; 48];
    start[47] = 3;
    let pcrs = replay_pcrs(&log, HashAlgorithm::Sha384).unwrap();
    let expected = [(0, extend(&extend(&start, 1), 2)), (23, extend(&[0; 48], 3))];
    assert_eq!(pcrs, expected.into());
    assert_eq!(startup_locality(&Events::new(&log).unwrap().next().unwrap().unwrap()), Some(3));
    // Measured, or too long: no such record.
    for (kind, data) in [(4, locality.clone()), (EV_NO_ACTION, [locality.as_slice(), &[0]].concat())] {
        let log = agent_log(&[record(0, kind, [0; 48], &data)]);
        assert_eq!(startup_locality(&Events::new(&log).unwrap().next().unwrap().unwrap()), None);
    }
    let beyond = agent_log(&[record(24, 4, [1; 48], b"")]);
    assert_eq!(replay_pcrs(&beyond, HashAlgorithm::Sha384).unwrap_err().code(), "EVIDENCE_FIELD_INVALID");
    assert!(replay_pcrs(&log, HashAlgorithm::Sha256).is_err());
}

#[test]
fn the_first_record_is_told() {
    let log = agent_log(&[]);
    let declared = Declaration { register: 0, signed: false, algorithms: vec![(0x0C, 48), (0x12, 32)] };
    assert_eq!(Events::new(&log).unwrap().declaration(), &declared);
}

#[test]
fn records_that_leave_no_trace_are_refused() {
    let mut without = record(1, 4, [1; 48], b"");
    without.splice(8..62, [0; 4]);
    let mut twice = record(1, 4, [1; 48], b"");
    twice[8] = 2;
    let digest = twice[12..62].to_vec();
    twice.splice(12..12, digest);
    for broken in [without, twice, record(5, 4, [1; 48], b""), record(u32::MAX, 5, [1; 48], b"")] {
        let log = agent_log(&[broken]);
        assert!(Events::new(&log).unwrap().all(|event| event.is_ok()));
        assert_eq!(replay(&log, HashAlgorithm::Sha384).unwrap_err().code(), "EVIDENCE_FIELD_INVALID");
    }
    let sha384_only = agent_log(&[record(1, 4, [1; 48], b"")]);
    assert!(replay(&sha384_only, HashAlgorithm::Sm3).is_err());
}

#[test]
fn the_number_of_records_is_bounded() {
    // 24 bytes each: no digest, no data, a register that ends no log.
    let record = [1_u8, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let log = [HEADER_WITHOUT_CCEL.to_vec(), record.repeat(MAX_EVENTS + 1)].concat();
    let last = Events::new(&log).unwrap().last().unwrap();
    assert_eq!(last.unwrap_err().code(), "EVIDENCE_TOO_LARGE");
    let fewer = &log[..log.len() - record.len()];
    assert!(Events::new(fewer).unwrap().all(|event| event.is_ok()));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), with_header: bool) {
        let log = if with_header { [HEADER_WITHOUT_CCEL.as_slice(), &bytes].concat() } else { bytes };
        if let Ok(events) = Events::new(&log) {
            for event in events {
                let _ = event;
            }
        }
        let _ = replay(&log, HashAlgorithm::Sha384);
        let _ = replay_pcrs(&log, HashAlgorithm::Sha256);
        let _ = assemble(None, Some(&log));
        if let Ok(Some(assembled)) = assemble(Some(&log), None) {
            prop_assert_eq!(assemble(Some(&assembled), None), Ok(Some(assembled)));
        }
    }

    #[test]
    fn what_is_appended_is_found(
        records in proptest::collection::vec((1..5_u32, 4..9_u32, any::<[u8; 16]>(), any::<Vec<u8>>()), 0..8)
    ) {
        let encoded: Vec<_> = records
            .iter()
            .map(|(register, kind, part, data)| {
                let mut digest = [0; 48];
                digest[..16].copy_from_slice(part);
                record(*register, *kind, digest, data)
            })
            .collect();
        let log = assemble(None, Some(&encoded.concat())).unwrap().unwrap();
        let found: Vec<_> = Events::new(&log).unwrap().map(Result::unwrap).collect();
        prop_assert_eq!(found.len(), records.len());
        for (event, (register, kind, part, data)) in found.iter().zip(&records) {
            prop_assert_eq!((event.register, event.event_type, event.data), (*register, *kind, data.as_slice()));
            prop_assert_eq!(&event.digests[0].bytes[..16], part);
        }
    }
}
