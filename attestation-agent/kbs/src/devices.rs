//! Whether a KBS vouches for every GPU whose evidence it was sent.
//!
//! It is NOT what decides about secrets: that is the KBS. The token came over our own connection to it, so that its signature
//! need not be looked at to believe it this far.

use cc_crypto::Secret;
use cc_evidence::nvidia::NvidiaEvidence;
use cc_evidence::token;
use serde::Deserialize;
use serde_json::value::RawValue;

/// How many GPUs `additional`, the JSON text of all device evidence, is about.
pub(crate) fn gpus_in(additional: &str) -> usize {
    #[derive(Deserialize)]
    struct Members<'a> {
        #[serde(borrow)]
        nvidia: Option<&'a RawValue>,
    }
    serde_json::from_str::<Members<'_>>(additional)
        .ok()
        .and_then(|members| NvidiaEvidence::from_json(members.nvidia?.get()).ok())
        .map_or(0, |evidence| evidence.devices.len())
}

/// For how many GPUs `token` vouches; none if not for every one that it speaks of.
pub(crate) fn gpus_affirmed_by(token: &Secret) -> usize {
    let claims = std::str::from_utf8(token.expose()).ok().and_then(|text| token::decode(text).ok());
    claims.map_or(0, |claims| claims.affirmed("gpu"))
}
