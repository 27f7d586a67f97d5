//! Answers of the host's quote generation service: the prefix of the stream, then the message.
#![no_main]

use cc_evidence::tdx::qgs::{MAX_RESPONSE_LEN, PREFIX_LEN, Response, parse_response, response_len};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((prefix, message)) = bytes.split_first_chunk::<PREFIX_LEN>() else { return };
    if let Ok(length) = response_len(*prefix) {
        assert!(length <= MAX_RESPONSE_LEN);
    }
    match parse_response(message) {
        Ok(Response::Quote(quote)) => assert!(!quote.is_empty() && message.ends_with(quote)),
        Ok(Response::Refused(code)) => assert_ne!(code, 0),
        Err(_) => {}
    }
});
