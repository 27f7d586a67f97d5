//! Arm CCA: attestation tokens and the evidence around them.
//!
//! There is no manufacturer's root, so the platform's signature can be verified only with the key that the operator gives;
//! what ties realm and platform together needs none.

use cc_evidence::{
    cca::{CcaEvidence, Token},
    summary::summarize,
};
use cc_verify::cca::{CcaClaims, verify_platform, verify_realm};
use serde_json::{Map, json};

use super::{Check, Inspection, Trust};
use crate::table::Table;

/// Explains evidence JSON with a token in it.
pub(super) fn evidence(text: &str, trust: &Trust) -> Result<Inspection, String> {
    let evidence = CcaEvidence::from_json(text).map_err(|error| error.to_string())?;
    explain("cca-evidence", evidence, trust)
}

/// Explains a bare token.
pub(super) fn token(bytes: &[u8], trust: &Trust) -> Result<Inspection, String> {
    explain("cca-token", CcaEvidence { token: bytes.to_vec() }, trust)
}

fn explain(kind: &'static str, evidence: CcaEvidence, trust: &Trust) -> Result<Inspection, String> {
    let token = Token::parse(&evidence.token).map_err(|error| error.to_string())?;
    let mut table = Table::new();
    table.section("Arm CCA token");
    for (label, value) in summarize("cca", &evidence.to_json().map_err(|error| error.to_string())?) {
        table.row(&label, value);
    }
    let facts = Map::from_iter([("claims".to_owned(), json!(CcaClaims::of(&token)))]);
    let checks = vec![
        platform(&token, trust),
        Check::of(
            "realm signature",
            format!(
                "made by the realm's key ({}), whose hash the platform's token carries",
                token.realm.envelope.algorithm.as_str()
            ),
            verify_realm(&token),
        ),
        Check::not_verified(
            "challenge and personalization",
            "they count only against the session's digest and the init-data; compare them with what was expected",
        ),
        Check::not_verified("measurements", "which ones are good is a matter of reference values"),
    ];
    Ok(Inspection { kind, facts, table, checks })
}

fn platform(token: &Token, trust: &Trust) -> Check {
    const NAME: &str = "platform signature";
    if trust.cca_keys.is_empty() {
        return Check::not_verified(NAME, "Arm has no common root: give the platform's key with --cca-keys");
    }
    match verify_platform(token, &trust.cca_keys) {
        Ok(key) => Check::verified(
            NAME,
            format!(
                "made by a key given with --cca-keys ({} {}, sha256 of its point {})",
                token.platform.envelope.algorithm.as_str(),
                key.key.curve.as_str(),
                key.fingerprint()
            ),
        ),
        Err(why) => Check::failed(NAME, why.to_string()),
    }
}
