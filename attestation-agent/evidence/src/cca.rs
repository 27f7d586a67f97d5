//! Arm CCA evidence: the attestation token of a realm and its JSON form.
//!
//! The token is CBOR: a collection of two signed tokens, one that the platform makes about itself and one that the realm
//! management monitor makes about the realm. Layouts of Arm's realm management monitor specification (DEN0137, "CCA
//! attestation token") and draft-ffm-rats-cca-token; both forms of the collection are read, tag 399 and tag 907. Signatures
//! and trust are NOT judged here.

use crate::Error;
use crate::cbor::Value;

mod claims;
mod cose;
mod json;
mod key;

pub use claims::{HashName, PlatformClaims, RealmClaims, SoftwareComponent};
pub use cose::{Algorithm, Sign1};
pub use json::{CcaEvidence, MAX_JSON_LEN};
pub use key::{Curve, EcKey};

/// Longest token that is read, in bytes: the kernel passes on 32 KiB at most.
pub const MAX_TOKEN_LEN: usize = 64 * 1024;

/// Tag of the collection, first form: a map from label to token.
const TAG_FIRST: u64 = 399;
/// Tag of the collection as the conceptual message wrapper writes it: each token stands beside its content format.
const TAG_WRAPPER: u64 = 907;
/// Content format of a token in a wrapper, `application/eat+cwt`.
const EAT_CWT: i128 = 263;
/// Label of the platform's token.
const PLATFORM: i128 = 44234;
/// Label of the realm's token.
const REALM: i128 = 44241;

/// A token, read and not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What the platform says about itself, signed by its attestation key (CPAK).
    pub platform: Signed<PlatformClaims>,
    /// What the realm management monitor says about the realm, signed by the realm's attestation key (RAK).
    pub realm: Signed<RealmClaims>,
}

/// Claims and the signature over them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<C> {
    /// The signed bytes, algorithm and signature.
    pub envelope: Sign1,
    /// What the signed bytes say.
    pub claims: C,
}

impl Token {
    /// Reads a token of at most [`MAX_TOKEN_LEN`] bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Truncated`] and [`Error::Trailing`]; [`Error::Invalid`] for CBOR that is not strict, for
    /// a claim that is missing or of another form, and for an algorithm that CCA does not use.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_TOKEN_LEN {
            return Err(Error::TooLarge { what: "a CCA token", size: bytes.len(), limit: MAX_TOKEN_LEN });
        }
        let (platform, realm) = match Value::parse(bytes)? {
            Value::Tag(TAG_FIRST, map) => (
                member(&map, PLATFORM, "cca.platform_token", Value::bytes)?,
                member(&map, REALM, "cca.realm_token", Value::bytes)?,
            ),
            Value::Tag(TAG_WRAPPER, map) => (
                member(&map, PLATFORM, "cca.platform_token", wrapped)?,
                member(&map, REALM, "cca.realm_token", wrapped)?,
            ),
            _ => {
                let why = format!("neither a collection of tag {TAG_FIRST} nor of tag {TAG_WRAPPER}");
                return Err(Error::Invalid { field: "cca.token", why });
            }
        };
        let platform = Sign1::parse(platform)?;
        let realm = Sign1::parse(realm)?;
        Ok(Self {
            platform: Signed { claims: PlatformClaims::parse(platform.payload())?, envelope: platform },
            realm: Signed { claims: RealmClaims::parse(realm.payload())?, envelope: realm },
        })
    }
}

/// The bytes beside the content format of a token.
fn wrapped<'a>(value: &Value<'a>) -> Option<&'a [u8]> {
    match value.array()? {
        [Value::Integer(EAT_CWT), Value::Bytes(bytes)] => Some(bytes),
        _ => None,
    }
}

/// The member `key` of a map, read by `form`.
fn member<'v, 'a, T>(
    map: &'v Value<'a>,
    key: i128,
    field: &'static str,
    form: impl FnOnce(&'v Value<'a>) -> Option<T>,
) -> Result<T, Error> {
    let value = map.get(key).ok_or_else(|| invalid(field, format!("there is no member {key}")))?;
    form(value).ok_or_else(|| invalid(field, format!("member {key} is of another type")))
}

/// The same for a member that may be missing.
fn optional<'v, 'a, T>(
    map: &'v Value<'a>,
    key: i128,
    field: &'static str,
    form: impl FnOnce(&'v Value<'a>) -> Option<T>,
) -> Result<Option<T>, Error> {
    if map.get(key).is_some() { member(map, key, field, form).map(Some) } else { Ok(None) }
}

fn invalid(field: &'static str, why: String) -> Error {
    Error::Invalid { field, why }
}

#[cfg(test)]
mod tests;
