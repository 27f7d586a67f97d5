//! Attestation tokens: what the attestation service says about each part of the machine, and until when.
//!
//! A token is a JWS in compact serialization (RFC 7515) whose claims are an attestation result (EAR). The token itself
//! is a secret and is never shown; its claims alone open nothing. The signature is verified only where the roots of the
//! attestation service are given: without them the key inside the token is the token's own word.

use cc_evidence::token::{self, Claims};
use cc_verify::Rejection;
use cc_verify::token_key::{SignedToken, SignerRoots};
use serde_json::{Map, Value};

use super::{Check, Inspection, Moment};
use crate::table::Table;

/// Members of a trustworthiness vector in the order of the specification of AR4SI.
const VECTOR: [&str; 8] = [
    "instance-identity",
    "configuration",
    "executables",
    "file-system",
    "hardware",
    "runtime-opaque",
    "storage-opaque",
    "sourced-data",
];

/// Explains a token and judges its dates, and those of its signer's certificates under `signers`, at `at`.
pub(super) fn inspect(text: &str, at: Moment, signers: Option<&SignerRoots>) -> Result<Inspection, String> {
    let claims = token::decode(text).map_err(|error| error.to_string())?;
    let mut table = Table::new();
    table.section("token");
    for (claim, label) in [("iss", "issuer"), ("eat_profile", "profile")] {
        if let Some(value) = claims.payload.get(claim).and_then(Value::as_str) {
            table.row(label, value);
        }
    }
    for (label, time) in [("issued", claims.iat), ("not before", claims.nbf), ("expires", claims.exp)] {
        if let Some(seconds) = time {
            table.row(label, format!("{} ({})", Moment(seconds), distance(at.0, seconds)));
        }
    }
    for (name, submodule) in claims.payload.get("submods").and_then(Value::as_object).into_iter().flatten() {
        show_submodule(name, submodule, &mut table);
    }
    let mut checks = match signers {
        Some(roots) => signer(text, roots, at),
        None => vec![Check::not_verified(
            "signature",
            "the signer's key is not known here; the token's own copy of it proves nothing. Give the attestation \
             service's roots with --roots",
        )],
    };
    checks.push(dates(&claims, at));
    let facts = Map::from_iter([("claims".to_owned(), claims.payload)]);
    Ok(Inspection { kind: "token", facts, table, checks })
}

/// Whether the key in the header signed the token, and whether `roots` vouch for that key: both are needed.
fn signer(text: &str, roots: &SignerRoots, at: Moment) -> Vec<Check> {
    let failed =
        |name, rejection: Rejection| Check::failed(name, format!("{rejection}; {}", rejection.hint()));
    let token = match SignedToken::parse(text) {
        Ok(token) => token,
        Err(rejection) => return vec![failed("signature", rejection)],
    };
    let signature = match token.verify() {
        Ok(()) => {
            Check::verified("signature", format!("{} by the key in the token's header", token.algorithm()))
        }
        Err(rejection) => failed("signature", rejection),
    };
    let chain = match token.key().verify_chain(roots, at.0) {
        Ok(names) => Check::verified("signer chain", format!("{}, a given root", names.join(", issued by "))),
        Err(rejection) => failed("signer chain", rejection),
    };
    vec![signature, chain]
}

fn dates(claims: &Claims, at: Moment) -> Check {
    match (claims.valid_at(at.0), claims.nbf, claims.exp) {
        (false, Some(start), _) if at.0 < start => {
            Check::failed("dates", format!("not valid before {}", Moment(start)))
        }
        (false, _, end) => Check::failed("dates", format!("expired at {}", Moment(end.unwrap_or_default()))),
        (true, _, Some(end)) => Check::verified("dates", format!("valid at {at}, until {}", Moment(end))),
        (true, _, None) => Check::not_verified("dates", "the token names no end"),
    }
}

fn show_submodule(name: &str, submodule: &Value, table: &mut Table) {
    table.section(&format!("part {name}"));
    if let Some(status) = submodule.get("ear.status") {
        table.row("status", plain(status));
    }
    if let Some(policy) = submodule.get("ear.appraisal-policy-id") {
        table.row("policy", plain(policy));
    }
    let vector = submodule.get("ear.trustworthiness-vector");
    for claim in VECTOR {
        if let Some(value) = vector.and_then(|vector| vector.get(claim)).and_then(Value::as_i64) {
            table.row(claim, format!("{value} ({})", tier(value)));
        }
    }
    let evidence = submodule.get("ear.veraison.annotated-evidence").and_then(Value::as_object);
    for (member, value) in evidence.into_iter().flatten() {
        match value {
            Value::Object(claims) if member != "runtime_data_claims" && member != "init_data_claims" => {
                for (claim, value) in claims {
                    table.row(&format!("{member} {claim}"), plain(value));
                }
            }
            Value::Object(claims) => {
                let names: Vec<&str> = claims.keys().map(String::as_str).collect();
                table.row(member, names.join(", "));
            }
            other => {
                table.row(member, plain(other));
            }
        }
    }
}

/// A JSON value in one cell: strings without quotes, long strings folded.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if text.len() > 64 && text.is_ascii() => {
            text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n")
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Name of the tier of a trustworthiness claim (AR4SI, section 2.3).
fn tier(value: i64) -> &'static str {
    match value {
        2..=31 | -32..=-2 => "affirming",
        32..=95 | -96..=-33 => "warning",
        96..=127 | -128..=-97 => "contraindicated",
        _ => "no statement",
    }
}

/// How far `then` is from `now`, in the largest fitting unit.
fn distance(now: u64, then: u64) -> String {
    let seconds = now.abs_diff(then);
    let length = match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    };
    if then >= now { format!("in {length}") } else { format!("{length} ago") }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::json;

    use super::*;

    fn compact(payload: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2lnbmF0dXJl", part(&json!({"typ": "JWT", "alg": "ES256"})), part(payload))
    }

    fn payload() -> Value {
        json!({
            "iss": "CoCo-Attestation-Service", "iat": 1_790_000_000, "exp": 1_790_000_300,
            "submods": {"cpu0": {
                "ear.status": "contraindicated",
                "ear.trustworthiness-vector": {"executables": 33, "hardware": 97, "configuration": 2},
                "ear.appraisal-policy-id": "default",
                "ear.veraison.annotated-evidence": {
                    "snp": {"measurement": "ab".repeat(48), "reported_tcb_snp": 23},
                    "report_data": "00", "runtime_data_claims": {"nonce": "n", "tee-pubkey": {}}}}}
        })
    }

    #[test]
    fn the_table_names_status_tiers_and_dates() {
        let inspection = inspect(&compact(&payload()), Moment(1_790_000_060), None).unwrap();
        let text = inspection.table.render(false);
        for line in [
            "issuer",
            "CoCo-Attestation-Service",
            "(60 s ago)",
            "(in 4 min)",
            "part cpu0",
            "contraindicated",
            "33 (warning)",
            "97 (contraindicated)",
            "2 (affirming)",
            "snp reported_tcb_snp",
            "nonce, tee-pubkey",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert_eq!(inspection.checks[0].outcome(), "not verified");
        assert_eq!(inspection.checks[1].outcome(), "verified");
    }

    #[test]
    fn dates_are_judged() {
        let cases = [
            (None, Some(100), 99, "verified"),
            (None, Some(100), 101, "failed"),
            (Some(50), Some(100), 49, "failed"),
            (Some(50), Some(100), 50, "verified"),
            (None, None, 1, "not verified"),
        ];
        for (nbf, exp, at, expected) in cases {
            let claims = Claims { iat: None, exp, nbf, payload: Value::Null };
            assert_eq!(dates(&claims, Moment(at)).outcome(), expected, "{nbf:?} {exp:?} {at}");
        }
    }

    #[test]
    fn tiers_follow_the_specification() {
        for (value, name) in [
            (0, "no statement"),
            (1, "no statement"),
            (-1, "no statement"),
            (2, "affirming"),
            (31, "affirming"),
            (-2, "affirming"),
            (32, "warning"),
            (95, "warning"),
            (-33, "warning"),
            (96, "contraindicated"),
            (127, "contraindicated"),
            (-128, "contraindicated"),
        ] {
            assert_eq!(tier(value), name, "{value}");
        }
    }

    #[test]
    fn broken_tokens_are_refused_without_their_text() {
        for text in ["eyJ.b.c", "eyJhIjox.!.c", "eyJhIjoxfQ.bm90IGpzb24.c2ln"] {
            let why = inspect(text, Moment(0), None).unwrap_err();
            assert!(!why.contains("bm90"), "{why}");
        }
    }
}
