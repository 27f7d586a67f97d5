//! CBOR of a realm's token: what the strict reader takes can be written in one way only, the one that was read.
#![no_main]

use cc_evidence::cbor::{Value, bytes_head};
use cc_evidence::cca::{CcaEvidence, EcKey, Token};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(evidence) =
        std::str::from_utf8(bytes).map_err(drop).and_then(|t| CcaEvidence::from_json(t).map_err(drop))
    {
        let written = evidence.to_json().expect("what was read can be written");
        assert_eq!(CcaEvidence::from_json(&written), Ok(evidence));
    }
    let _ = EcKey::parse(bytes);
    let token = Token::parse(bytes);
    let Ok(value) = Value::parse(bytes) else {
        assert!(token.is_err());
        return;
    };
    let mut written = Vec::new();
    write(&value, &mut written);
    assert_eq!(written, bytes);
    // One item, the whole of it: neither less nor more is one.
    assert!(Value::parse(&bytes[..bytes.len() - 1]).is_err());
    assert!(Value::parse(&[bytes, &[0]].concat()).is_err());
    if let Ok(token) = token {
        for signed in [token.platform.envelope, token.realm.envelope] {
            assert!(signed.signed().ends_with(signed.payload()));
        }
    }
});

/// Writes an item in the shortest form.
fn write(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Integer(number) if *number >= 0 => {
            head(0, u64::try_from(*number).expect("at most 2^64 - 1"), out)
        }
        Value::Integer(number) => head(1, u64::try_from(-1 - number).expect("at least -2^64"), out),
        Value::Bytes(bytes) => {
            let start = out.len();
            head(2, bytes.len() as u64, out);
            assert_eq!(out[start..], bytes_head(bytes.len()));
            out.extend(*bytes);
        }
        Value::Text(text) => {
            head(3, text.len() as u64, out);
            out.extend(text.as_bytes());
        }
        Value::Array(items) => {
            head(4, items.len() as u64, out);
            items.iter().for_each(|item| write(item, out));
        }
        Value::Map(entries) => {
            head(5, entries.len() as u64, out);
            for (at, (key, value)) in entries.iter().enumerate() {
                assert!(!entries[..at].iter().any(|(other, _)| other == key), "a key is there twice");
                write(key, out);
                write(value, out);
            }
        }
        Value::Tag(tag, item) => {
            head(6, *tag, out);
            write(item, out);
        }
        Value::Bool(truth) => out.push(if *truth { 0xF5 } else { 0xF4 }),
        Value::Null => out.push(0xF6),
    }
}

fn head(kind: u8, number: u64, out: &mut Vec<u8>) {
    let kind = kind << 5;
    let bytes = number.to_be_bytes();
    match number {
        0..=23 => out.push(kind | bytes[7]),
        24..=0xFF => out.extend([kind | 24, bytes[7]]),
        0x100..=0xFFFF => out.extend([&[kind | 25], &bytes[6..]].concat()),
        0x1_0000..=0xFFFF_FFFF => out.extend([&[kind | 26], &bytes[4..]].concat()),
        _ => out.extend([&[kind | 27], &bytes[..]].concat()),
    }
}
