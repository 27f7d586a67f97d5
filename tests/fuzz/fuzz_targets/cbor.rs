//! CBOR of strangers: what is read is one item, within the limits.
#![no_main]

use cc_evidence::cbor::Value;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(_) = Value::parse(bytes) else { return };
    // One item, the whole of it: neither less nor more is one.
    assert!(Value::parse(&bytes[..bytes.len() - 1]).is_err());
    assert!(Value::parse(&[bytes, &[0]].concat()).is_err());
});
