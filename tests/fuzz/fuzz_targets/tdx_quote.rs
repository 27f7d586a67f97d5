//! Bytes from a TSM provider as a TDX or SGX quote: parsed, written, parsed again; and the evidence around one.
#![no_main]

use cc_evidence::sgx;
use cc_evidence::tdx::{Quote, TdxEvidence, assemble};
use cc_fuzz::unreadable;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let read = TdxEvidence::from_json(text);
        if let Ok(evidence) = &read {
            let written = evidence.to_json().expect("what was read has a size that is read");
            assert_eq!(TdxEvidence::from_json(&written).as_ref(), Ok(evidence));
        }
        let whole = read.is_ok_and(|evidence| Quote::parse(&evidence.quote).is_ok());
        assert_eq!(unreadable("tdx", text), !whole);
    }
    if let Ok(quote) = sgx::Quote::parse(bytes) {
        assert_eq!(quote.signed(), &bytes[..quote.signed().len()]);
    }
    let Ok(quote) = Quote::parse(bytes) else { return };
    let used = bytes.len() - quote.trailing;
    assert_eq!(quote.signed(), &bytes[..quote.signed().len()]);
    assert!(quote.signed().ends_with(&quote.body.encode()));
    // Nothing of a quote is dropped by reading it.
    let written =
        assemble(quote.signed(), &quote.signature).expect("parts that were read have short lengths");
    assert_eq!(written, &bytes[..used]);
    let _ = quote.body.td_attributes.to_string();
});
