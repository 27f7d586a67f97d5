//! Forged attestation tokens: time, roots and token with the signer's key and certificates, all of them the attacker's.
//! Nobody has the keys behind the seed any more, so that a token under its root must say what the seed says.
#![no_main]

use cc_fuzz::{parts, time};
use cc_verify::token_key::{SignedToken, SignerRoots, TokenKey};
use libfuzzer_sys::fuzz_target;

const GENUINE: &[u8] = include_bytes!("../seeds/token_key/made-token");

fuzz_target!(|input: &[u8]| {
    let [now, roots, token] = parts(input);
    let _ = TokenKey::from_json(token);
    let (Ok(pem), Ok(text)) = (std::str::from_utf8(roots), std::str::from_utf8(token)) else { return };
    let (roots, token) = (SignerRoots::from_pem(pem), SignedToken::parse(text));
    let accepted = match (&roots, &token) {
        (Ok(roots), Ok(token)) => {
            let chain = token.key().verify_chain(roots, time(now));
            assert!(chain.as_ref().map_or(true, |names| !names.is_empty()));
            token.verify().is_ok() && chain.is_ok()
        }
        _ => false,
    };
    assert!(accepted || input != GENUINE);
    if accepted {
        let [_, _, genuine] = parts(GENUINE);
        let signed =
            |token: &[u8]| token.iter().rposition(|byte| *byte == b'.').map(|end| token[..end].to_vec());
        assert_eq!(signed(text.as_bytes()), signed(genuine));
    }
});
