//! Quotes come from the guest and collateral from an operator: whatever they are, a verdict and never a panic.

use cc_evidence::dcap::SignatureData;
use cc_evidence::tdx::{TdxEvidence, assemble, to_be_signed};
use cc_verify::TrustRoots;
use cc_verify::tdx::{Collateral, Numbering, event_claims, verify};
use proptest::prelude::*;

use crate::platform::{Platform, expectation};

proptest! {
    #[test]
    fn random_quotes_are_refused(mut quote in proptest::collection::vec(any::<u8>(), 0..1500), five: bool) {
        let start = [4 + u8::from(five), 0, 2, 0, 0x81, 0, 0, 0];
        for (target, byte) in quote.iter_mut().zip(start) {
            *target = byte;
        }
        let evidence = TdxEvidence { quote, cc_eventlog: None };
        prop_assert!(verify(&evidence, &TrustRoots::vendor(), None, &expectation()).is_err());
    }

    #[test]
    fn random_collateral_is_refused(info: String, identity: String, chain: String) {
        prop_assert!(Collateral::parse(&info, &identity, &chain).is_err());
    }

    #[test]
    fn random_logs_never_panic(log in proptest::collection::vec(any::<u8>(), 0..400), kind in 0..0x12_u32) {
        let data_len = u32::try_from(log.len()).unwrap().to_le_bytes();
        for kind in [kind, 0x8000_0000 + kind] {
            let record = [1_u32.to_le_bytes(), kind.to_le_bytes(), [0; 4], data_len].concat();
            let whole = cc_evidence::ccel::assemble(None, Some(&[record, log.clone()].concat()));
            if let Ok(Some(whole)) = whole {
                prop_assert!(event_claims(&whole, Numbering::RunTime).is_ok());
            }
        }
        let _ = event_claims(&log, Numbering::RunTime);
    }
}

#[test]
fn cut_certificates_and_documents_are_refused() {
    let platform = Platform::new();
    let (roots, signed) = (platform.roots(), to_be_signed([0; 20], &platform.body));
    let whole = platform.signature_data(&signed);
    let chain = String::from_utf8(whole.pck_chain.clone()).unwrap();
    // The line break and the NUL at the end may go.
    for len in (0..chain.len() - 2).step_by(7) {
        let signature = SignatureData { pck_chain: chain.as_bytes()[..len].to_vec(), ..whole.clone() };
        let evidence = TdxEvidence { quote: assemble(&signed, &signature).unwrap(), cc_eventlog: None };
        assert_eq!(platform.verdict_of(&evidence, &roots).unwrap_err(), "tdx.pck_chain", "{len} bytes");
    }
    let ([info, identity], signing_chain) = (platform.documents(), platform.signing_chain());
    for len in (0..info.len()).step_by(13) {
        assert!(Collateral::parse(&info[..len], &identity, &signing_chain).is_err(), "{len} bytes");
    }
    for len in (0..identity.len()).step_by(13) {
        assert!(Collateral::parse(&info, &identity[..len], &signing_chain).is_err(), "{len} bytes");
    }
    for len in (0..signing_chain.len() - 1).step_by(13) {
        assert!(Collateral::parse(&info, &identity, &signing_chain[..len]).is_err(), "{len} bytes");
    }
    let long = " ".repeat(1024 * 1024 + 1);
    for [a, b, c] in
        [[&long, &identity, &signing_chain], [&info, &long, &signing_chain], [&info, &identity, &long]]
    {
        assert!(Collateral::parse(a, b, c).is_err());
    }
}
