//! Forged TDX evidence: time, test roots, quote, collateral, revocation lists, event log, all of them the attacker's.
//! Nobody has the keys behind the seed any more, so that whatever is accepted must be the seed's quote, and whatever
//! rates it the seed's collateral.
#![no_main]

use std::collections::BTreeMap;

use cc_evidence::tdx::{Quote, TdxEvidence};
use cc_fuzz::{parts, time};
use cc_verify::TrustRoots;
use cc_verify::tdx::{Collateral, Expectation, verify};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

const GENUINE: &[u8] = include_bytes!("../seeds/tdx_verify/made-all");

fuzz_target!(|input: &[u8]| {
    let [now, roots, bytes, info, identity, chain, root_list, platform_list, log] = parts(input);
    let text = |part| std::str::from_utf8(part).unwrap_or_default();
    let roots = TrustRoots::vendor().with_test_roots(text(roots)).unwrap_or_else(|_| TrustRoots::vendor());
    let collateral = Collateral::parse(text(info), text(identity), text(chain))
        .and_then(|read| read.with_revocation_lists(vec![root_list.to_vec(), platform_list.to_vec()]));
    let Ok(quote) = Quote::parse(bytes) else { return };
    let evidence =
        TdxEvidence { quote: bytes.to_vec(), cc_eventlog: Some(log.to_vec()).filter(|l| !l.is_empty()) };
    let expectation =
        Expectation { report_data: &quote.body.report_data, init_data_digest: None, now: time(now) };
    let [_, _, genuine, genuine_info, genuine_identity, ..]: [&[u8]; 9] = parts(GENUINE);
    if verify(&evidence, &roots, None, &expectation).is_ok() {
        let genuine = Quote::parse(genuine).expect("the seed is a quote");
        assert_eq!(quote.signed(), genuine.signed());
    }
    let rated = collateral.is_ok_and(|read| verify(&evidence, &roots, Some(&read), &expectation).is_ok());
    assert!(rated || input != GENUINE);
    if rated {
        // What is signed is the member, not the text around it.
        for (name, read, genuine) in
            [("tcbInfo", info, genuine_info), ("enclaveIdentity", identity, genuine_identity)]
        {
            assert_eq!(member(name, read), member(name, genuine));
        }
    }
});

/// The text of a member, as it stands in `document`.
fn member(name: &str, document: &[u8]) -> String {
    let mut members: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(document).expect("JSON");
    members.remove(name).expect("the member").get().to_owned()
}
