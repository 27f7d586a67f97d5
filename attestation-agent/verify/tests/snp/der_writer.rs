//! Just enough DER to write certificates that are wrong in one chosen place.

use der::Encode as _;
use der::asn1::{ObjectIdentifier, UtcTime};

pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len()).unwrap();
    let [high, low] = len.to_be_bytes();
    // DER wants the shortest of the three forms.
    let header = match len {
        0..=0x7F => vec![tag, low],
        0x80..=0xFF => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [&header, content].concat()
}

pub(crate) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

pub(crate) fn integer(value: u8) -> Vec<u8> {
    if value < 0x80 { tlv(0x02, &[value]) } else { tlv(0x02, &[0, value]) }
}

pub(crate) fn oid(dotted: &str) -> Vec<u8> {
    ObjectIdentifier::new_unwrap(dotted).to_der().unwrap()
}

pub(crate) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    tlv(0x03, &[&[0], bytes].concat())
}

/// Seconds since 1970, before the year 2050.
pub(crate) fn utc_time(seconds: u64) -> Vec<u8> {
    UtcTime::from_unix_duration(std::time::Duration::from_secs(seconds)).unwrap().to_der().unwrap()
}

/// A name with a country and the given common name.
pub(crate) fn name(common_name: &str) -> Vec<u8> {
    let attribute = |id: &str, tag, text: &str| tlv(0x31, &sequence(&[oid(id), tlv(tag, text.as_bytes())]));
    sequence(&[attribute("2.5.4.6", 0x13, "US"), attribute("2.5.4.3", 0x0C, common_name)])
}

/// One extension; `content` is the DER inside the OCTET STRING.
pub(crate) fn extension(id: &str, critical: bool, content: &[u8]) -> Vec<u8> {
    let mut parts = vec![oid(id)];
    if critical {
        parts.push(tlv(0x01, &[0xFF]));
    }
    parts.push(tlv(0x04, content));
    sequence(&parts)
}
