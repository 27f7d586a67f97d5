//! Three texts, divided by NUL, as TDX collateral; the third also as test roots.
#![no_main]

use cc_verify::TrustRoots;
use cc_verify::tdx::Collateral;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut parts = text.splitn(3, '\0');
    let [info, identity, chain] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    let _ = Collateral::parse(info, identity, chain);
    let _ = TrustRoots::vendor().with_test_roots(chain);
});
