use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::HashAlgorithm;

fn attests() -> impl Strategy<Value = Attest> {
    let banks =
        (any::<u16>(), vec(any::<u8>(), 3..=4)).prop_map(|(hash, bitmap)| PcrSelection { hash, bitmap });
    let clock = (any::<u64>(), any::<u32>(), any::<u32>(), any::<bool>()).prop_map(
        |(clock, reset_count, restart_count, safe)| ClockInfo { clock, reset_count, restart_count, safe },
    );
    let bytes = |most| vec(any::<u8>(), 0..=most);
    (bytes(66), bytes(66), clock, any::<u64>(), vec(banks, 0..=16), bytes(64)).prop_map(
        |(qualified_signer, extra_data, clock, firmware_version, selection, pcr_digest)| Attest {
            qualified_signer,
            extra_data,
            clock,
            firmware_version,
            selection,
            pcr_digest,
        },
    )
}

fn signatures() -> impl Strategy<Value = Signature> {
    let bytes = |most| vec(any::<u8>(), 0..=most);
    prop_oneof![
        (any::<u16>(), bytes(512)).prop_map(|(hash, bytes)| Signature::RsaSsa { hash, bytes }),
        (any::<u16>(), bytes(512)).prop_map(|(hash, bytes)| Signature::RsaPss { hash, bytes }),
        (any::<u16>(), bytes(66), bytes(66)).prop_map(|(hash, r, s)| Signature::Ecdsa { hash, r, s }),
    ]
}

fn publics() -> impl Strategy<Value = Public> {
    let numbers = || any::<u16>().prop_filter("null has a meaning of its own", |n| *n != ALG_NULL);
    let symmetric = || proptest::option::of((numbers(), any::<u16>(), any::<u16>()));
    let bytes = |most| vec(any::<u8>(), 0..=most);
    let rsa_scheme = proptest::option::of(numbers().prop_flat_map(|scheme| {
        let hash = any::<u16>().prop_map(move |hash| (scheme != 0x0015).then_some(hash));
        (Just(scheme), hash)
    }));
    let rsa = (symmetric(), rsa_scheme, any::<u32>(), vec(any::<u8>(), 1..=512)).prop_map(
        |(symmetric, scheme, exponent, mut modulus)| {
            modulus[0] |= 0x80;
            let bits = u16::try_from(modulus.len() * 8).unwrap();
            KeyKind::Rsa(RsaKey { symmetric, scheme, bits, exponent, modulus })
        },
    );
    let ecc_scheme = proptest::option::of(
        (numbers(), any::<u16>(), any::<u16>())
            .prop_map(|(scheme, hash, count)| (scheme, hash, (scheme == 0x001A).then_some(count))),
    );
    let kdf = proptest::option::of((numbers(), any::<u16>()));
    let ecc = (symmetric(), ecc_scheme, any::<u16>(), kdf, bytes(66), bytes(66)).prop_map(
        |(symmetric, scheme, curve, kdf, x, y)| KeyKind::Ecc(EccKey { symmetric, scheme, curve, kdf, x, y }),
    );
    (any::<u16>(), any::<u32>(), bytes(64), prop_oneof![rsa, ecc])
        .prop_map(|(name_hash, attributes, policy, key)| Public { name_hash, attributes, policy, key })
}

fn attest() -> Attest {
    Attest {
        qualified_signer: vec![1; 34],
        extra_data: vec![2; 32],
        clock: ClockInfo { clock: 5, reset_count: 6, restart_count: 7, safe: true },
        firmware_version: 8,
        selection: vec![PcrSelection::new(HashAlgorithm::Sha256, &[0, 7, 8, 23]).unwrap()],
        pcr_digest: vec![9; 32],
    }
}

#[test]
fn a_quote_has_the_layout_of_the_library() {
    let expected = [
        "ff5443478018",
        "0022",
        &"01".repeat(34),
        "0020",
        &"02".repeat(32),
        "0000000000000005000000060000000701",
        "0000000000000008",
        "00000001000b03810180",
        "0020",
        &"09".repeat(32),
    ]
    .concat();
    assert_eq!(hex::encode(attest().to_bytes().unwrap()), expected);
    assert_eq!(attest().selection[0].pcrs(), [0, 7, 8, 23]);
}

#[test]
fn what_is_no_quote_is_refused_by_name() {
    let bytes = attest().to_bytes().unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        Attest::parse(&bytes).unwrap_err().to_string()
    };
    assert!(with(0, 0).contains("tpm.attest.magic"));
    assert!(with(5, 0x17).contains("tpm.attest.type"), "another kind of attestation");
    assert!(with(7, 0xFF).contains("tpm.attest.qualified_signer"));
    let safe = 6 + 36 + 34 + 16;
    assert!(with(safe, 2).contains("tpm.attest.safe"));
    let bitmap_len = safe + 1 + 8 + 4 + 2;
    assert!(with(bitmap_len, 5).contains("tpm.pcr_selection.size"));
    assert!(with(bitmap_len - 3, 17).contains("tpm.pcr_selection.count"));
    for len in 0..bytes.len() {
        assert!(Attest::parse(&bytes[..len]).is_err(), "{len} bytes");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert_eq!(Attest::parse(&longer).unwrap_err().code(), "EVIDENCE_TRAILING_BYTES");
}

#[test]
fn pcrs_above_23_cannot_be_selected() {
    assert!(PcrSelection::new(HashAlgorithm::Sha256, &[24]).is_err());
    assert!(PcrSelection::new(HashAlgorithm::Sha256, &[u32::MAX]).is_err());
}

#[test]
fn other_signatures_and_objects_are_refused() {
    let hmac = [0x00, 0x05, 0x00, 0x0B, 0x00, 0x00];
    assert!(Signature::parse(&hmac).unwrap_err().to_string().contains("rsassa"));
    let long = Signature::RsaSsa { hash: 0x0B, bytes: vec![0; 513] }.to_bytes().unwrap();
    assert_eq!(Signature::parse(&long).unwrap_err().code(), "EVIDENCE_FIELD_INVALID");
    let keyed_hash = [0x00, 0x08, 0x00, 0x0B, 0, 0, 0, 0, 0, 0];
    assert!(Public::parse(&keyed_hash).unwrap_err().to_string().contains("tpm.public.type"));
    let key = RsaKey { symmetric: None, scheme: None, bits: 16, exponent: 0, modulus: vec![0x7F, 1] };
    let short = Public { name_hash: 0x0B, attributes: 0, policy: vec![], key: KeyKind::Rsa(key) };
    assert!(Public::parse(&short.to_bytes().unwrap()).unwrap_err().to_string().contains("16 bits"));
}

#[test]
fn der_has_one_form() {
    let spki = |modulus: Vec<u8>, exponent: u32| {
        let bits = u16::try_from(modulus.len() * 8).unwrap();
        let key = RsaKey { symmetric: None, scheme: None, bits, exponent, modulus };
        let public = Public { name_hash: 0x0B, attributes: 0, policy: vec![], key: KeyKind::Rsa(key) };
        hex::encode(public.rsa_spki_der().unwrap())
    };
    // The default exponent, and a modulus whose first bit needs a zero before it.
    assert_eq!(
        spki(vec![0x80, 1], 0),
        concat!("301d", "300d06092a864886f70d0101010500", "030c00", "3009", "0203008001", "0203010001")
            .replace("301d", "301e")
            .replace("030c00", "030d00")
            .replace("3009", "300a")
    );
    assert!(spki(vec![0xFF; 256], 3).starts_with("30820120"));
}

fn evidence() -> TpmEvidence {
    let mut pcrs = [[0; 32]; PCR_COUNT];
    pcrs[8] = [0xA5; 32];
    TpmEvidence { signature: vec![1, 2], message: attest().to_bytes().unwrap(), pcrs, ak_public: vec![4] }
}

#[test]
fn the_json_form_is_fixed() {
    let text = evidence().to_json().unwrap();
    assert!(text.starts_with(r#"{"tpm_quote":{"signature":"AQI=","message":"/1RDR4AY"#), "{text}");
    assert!(text.ends_with(r#""]},"ak_public":"BA=="}"#), "{text}");
    assert_eq!(TpmEvidence::from_json(&text), Ok(evidence()));
}

#[test]
fn other_shapes_of_json_are_refused() {
    let text = evidence().to_json().unwrap();
    let zero = format!("\"{}\"", "0".repeat(64));
    for (from, to) in [
        ("AQI=", "AQI"),
        ("AQI=", "AQJ="),
        ("\"ak_public\"", "\"ek_public\""),
        ("\"ak_public\":\"BA==\"", "\"ak_public\":4"),
        ("\"ak_public\"", "\"more\":1,\"ak_public\""),
        (zero.as_str(), "\"00\""),
        (zero.as_str(), "\"zz\""),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_eq!(TpmEvidence::from_json(&changed).unwrap_err().code(), "EVIDENCE_JSON_INVALID", "{to}");
    }
    let fewer = text.replacen(&format!("{zero},"), "", 1);
    assert_eq!(TpmEvidence::from_json(&fewer).unwrap_err().code(), "EVIDENCE_FIELD_INVALID");
    let long = " ".repeat(MAX_JSON_LEN + 1);
    assert_eq!(TpmEvidence::from_json(&long).unwrap_err().code(), "EVIDENCE_TOO_LARGE");
}

#[test]
fn the_summary_shows_key_nonce_and_the_pcrs_that_say_something() {
    let lines = crate::summary::summarize("tpm", &evidence().to_json().unwrap());
    let value = |name: &str| lines.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    assert_eq!(value("report data"), Some("02".repeat(32).as_str()));
    assert_eq!(value("pcr08"), Some("a5".repeat(32).as_str()));
    assert_eq!(value("pcr07"), None);
    assert!(value("ak sha256").is_some());
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..400), text: String) {
        let _ = (Attest::parse(&bytes), Signature::parse(&bytes), Public::parse(&bytes), TpmEvidence::from_json(&text));
    }

    #[test]
    fn quotes_round_trip(attest in attests()) {
        prop_assert_eq!(Attest::parse(&attest.to_bytes().unwrap()), Ok(attest));
    }

    #[test]
    fn signatures_round_trip(signature in signatures()) {
        prop_assert_eq!(Signature::parse(&signature.to_bytes().unwrap()), Ok(signature));
    }

    #[test]
    fn public_areas_round_trip(public in publics()) {
        prop_assert_eq!(Public::parse(&public.to_bytes().unwrap()), Ok(public));
    }

    #[test]
    fn evidence_round_trips(signature in vec(any::<u8>(), 0..600), message in vec(any::<u8>(), 0..300),
                            ak_public in vec(any::<u8>(), 0..600), pcr: [u8; 32], at in 0..PCR_COUNT) {
        let mut pcrs = [[0; 32]; PCR_COUNT];
        pcrs[at] = pcr;
        let evidence = TpmEvidence { signature, message, pcrs, ak_public };
        prop_assert_eq!(TpmEvidence::from_json(&evidence.to_json().unwrap()), Ok(evidence));
    }

    #[test]
    fn selections_name_what_was_selected(mut pcrs in vec(0_u32..24, 0..24)) {
        let selection = PcrSelection::new(HashAlgorithm::Sha256, &pcrs).unwrap();
        pcrs.sort_unstable();
        pcrs.dedup();
        prop_assert_eq!(selection.pcrs(), pcrs);
    }
}
