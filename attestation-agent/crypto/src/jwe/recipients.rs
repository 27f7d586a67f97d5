//! JWE for the holders of private keys that are kept in files, in the flattened and the general JSON serialisation
//! (RFC 7516 section 7.2), as image tools wrap the keys of encrypted layers (ocicrypt's `jwe` key wrapper).
//!
//! ```text
//! {"protected", "encrypted_key", "header"?, "iv", "ciphertext", "tag"}                        one recipient
//! {"protected", "recipients": [{"header", "encrypted_key"}, …], "iv", "ciphertext", "tag"}    several
//! ```
//!
//! `enc` is `A256GCM`, `alg` is `RSA-OAEP` (RFC 7518 section 4.3: SHA-1, as those tools write it) or `ECDH-ES+A256KW` on
//! P-256 or P-521. Recipients of other kinds are passed over: they are somebody else's. This is not the JWE of the KBS
//! protocol, which the parent module reads.

use std::fmt;

use aws_lc_rs::{
    agreement::PrivateKey,
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{KeyPair as RsaKeyPair, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey},
};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::{ContentKey, ENC, IV_LEN, TAG_LEN, WHAT, decrypt_content};
use crate::{
    Error, Secret, base64url, der,
    ecdh::{self, Curve, Point, WRAPPED_LEN},
    error::quoted,
    jwk, pem, unique_json,
};

/// Longest JWE read, in bytes of JSON text: 64 recipients with keys of 8192 bits.
const MAX_LEN: usize = 128 * 1024;
const MAX_RECIPIENTS: usize = 64;
const RSA_ALG: &str = "RSA-OAEP";
/// Header members that would change the meaning.
const REFUSED: [&str; 4] = ["crit", "zip", "apu", "apv"];

/// A private key of a file. Neither cloned nor printed.
pub struct RecipientKey(Private);

enum Private {
    Ec(Curve, PrivateKey),
    Rsa(PrivateDecryptingKey),
}

impl RecipientKey {
    /// Reads PEM text (RFC 7468): `PRIVATE KEY` (PKCS#8), `RSA PRIVATE KEY` (PKCS#1) or `EC PRIVATE KEY` (RFC 5915).
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::TooLarge`]; [`Error::InvalidKey`] for other keys and those behind a passphrase.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let (label, bytes) = pem::decode(text)?;
        let other = Error::InvalidKey { why: "neither EC on P-256 or P-521 nor RSA of 2048 bits and more" };
        match label {
            "PRIVATE KEY" => ec(bytes.expose())
                .or_else(|| PrivateDecryptingKey::from_pkcs8(bytes.expose()).ok().map(Private::Rsa))
                .map(Self)
                .ok_or(other),
            "EC PRIVATE KEY" => ec(bytes.expose()).map(Self).ok_or(other),
            "RSA PRIVATE KEY" => {
                let pair = RsaKeyPair::from_der(bytes.expose()).map_err(|_| other.clone())?;
                let pkcs8: Pkcs8V1Der<'_> =
                    pair.as_der().map_err(|_| Error::Library { doing: "converting a private key" })?;
                let key = PrivateDecryptingKey::from_pkcs8(pkcs8.as_ref()).map_err(|_| other)?;
                Ok(Self(Private::Rsa(key)))
            }
            "ENCRYPTED PRIVATE KEY" => Err(Error::InvalidKey {
                why: "it is behind a passphrase; take that away with openssl pkey -in",
            }),
            _ => Err(Error::InvalidKey { why: "the PEM label is not one of a private key" }),
        }
    }

    /// Decrypts the JSON text of a JWE that this key is one recipient of.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Malformed`], [`Error::Unsupported`]; [`Error::OtherKey`] if no recipient has a key of
    /// this kind, [`Error::CannotOpen`] if none is this one or the text was altered.
    pub fn open(&self, text: &[u8]) -> Result<Secret, Error> {
        if text.len() > MAX_LEN {
            return Err(Error::TooLarge { what: WHAT, found: text.len(), limit: MAX_LEN });
        }
        let document = unique_json::parse(WHAT, text)?;
        let document = document.as_object().ok_or_else(|| Error::malformed(WHAT, "not an object"))?;
        if document.contains_key("aad") {
            return Err(Error::Unsupported { what: "JWE member", found: quoted("aad"), expected: "none" });
        }
        let protected = jwk::text(document, "protected")?;
        let header = unique_json::parse("JWE protected header", &base64url::decode("protected", protected)?)?;
        let header =
            header.as_object().ok_or_else(|| Error::malformed("JWE protected header", "not an object"))?;
        let shared = member(document, "unprotected")?;
        if jwk::text(header, "enc")? != ENC {
            let found = quoted(jwk::text(header, "enc")?);
            return Err(Error::Unsupported { what: "enc", found, expected: ENC });
        }
        let mut failure = None;
        for recipient in recipients(document)? {
            let merged = merge([Some(header), shared, member(recipient, "header")?])?;
            match self.content_key(&merged, recipient) {
                Ok(Some(key)) => {
                    let iv: [u8; IV_LEN] = base64url::decode_array("iv", jwk::text(document, "iv")?)?;
                    let tag: [u8; TAG_LEN] = base64url::decode_array("tag", jwk::text(document, "tag")?)?;
                    let text = base64url::decode("ciphertext", jwk::text(document, "ciphertext")?)?;
                    return decrypt_content(&key, protected, iv, &text, &tag);
                }
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        let ours = match &self.0 {
            Private::Ec(curve, _) => crate::KeyAlgorithm::from(*curve).as_str(),
            Private::Rsa(_) => RSA_ALG,
        };
        Err(failure.unwrap_or(Error::OtherKey { found: "different", ours }))
    }

    /// The content key that is wrapped for `recipient`; `None` if that has a key of another kind.
    fn content_key(
        &self,
        header: &Map<String, Value>,
        recipient: &Map<String, Value>,
    ) -> Result<Option<ContentKey>, Error> {
        let wrapped = || base64url::decode("encrypted_key", jwk::text(recipient, "encrypted_key")?);
        match (&self.0, jwk::text(header, "alg")?) {
            (Private::Ec(curve, key), ecdh::ALG) => {
                let epk = member(header, "epk")?
                    .ok_or_else(|| Error::malformed(WHAT, "header member epk is missing"))?;
                if jwk::text(epk, "kty")? != "EC" || jwk::text(epk, "crv")? != curve.name() {
                    return Ok(None);
                }
                let ephemeral: Point = jwk::point(epk)?;
                let wrapped: [u8; WRAPPED_LEN] = wrapped()?.try_into().map_err(|_| {
                    Error::malformed("encrypted_key", format!("not the {WRAPPED_LEN} bytes of a wrapped key"))
                })?;
                ecdh::unwrap(&ecdh::agree(key, &ephemeral)?, &wrapped).map(Some)
            }
            (Private::Rsa(key), RSA_ALG) => unwrap_rsa(key, &wrapped()?).map(Some),
            _ => Ok(None),
        }
    }
}

impl fmt::Debug for RecipientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecipientKey")
    }
}

fn ec(der: &[u8]) -> Option<Private> {
    der::one_sequence(der).ok()?;
    [Curve::P256, Curve::P521].into_iter().find_map(|curve| {
        let key = PrivateKey::from_private_key_der(curve.agreement(), der).ok()?;
        Some(Private::Ec(curve, key))
    })
}

/// RSAES-OAEP with SHA-1 for hash and mask, empty label. OAEP does not rest on collisions being hard to find.
fn unwrap_rsa(key: &PrivateDecryptingKey, wrapped: &[u8]) -> Result<ContentKey, Error> {
    let key =
        OaepPrivateDecryptingKey::new(key.clone()).map_err(|_| Error::Library { doing: "preparing RSA" })?;
    let mut out = Zeroizing::new(vec![0; key.min_output_size()]);
    let plain = key.decrypt(&OAEP_SHA1_MGF1SHA1, wrapped, &mut out, None).map_err(|_| Error::CannotOpen)?;
    let mut content_key = ContentKey::default();
    if plain.len() != content_key.len() {
        return Err(Error::CannotOpen);
    }
    content_key.copy_from_slice(plain);
    Ok(content_key)
}

/// The recipients: those in the list, or the one of the flattened form. A library in wide use repeats the first of a list
/// beside it; anything else there would be read differently by others.
fn recipients(document: &Map<String, Value>) -> Result<Vec<&Map<String, Value>>, Error> {
    let Some(list) = document.get("recipients") else { return Ok(vec![document]) };
    let bad = |why: &str| Error::malformed(WHAT, why);
    let list = list.as_array().filter(|list| !list.is_empty() && list.len() <= MAX_RECIPIENTS);
    let list = list.ok_or_else(|| bad("recipients are no list of 1 to 64"))?;
    let objects: Option<Vec<&Map<String, Value>>> = list.iter().map(Value::as_object).collect();
    let objects = objects.ok_or_else(|| bad("a recipient is no object"))?;
    let first = objects.first().copied();
    let differs =
        |name: &str| document.get(name).is_some_and(|own| first.and_then(|f| f.get(name)) != Some(own));
    if differs("encrypted_key") || differs("header") {
        return Err(bad("it is for one recipient and for a list of others at once"));
    }
    Ok(objects)
}

/// The object member `name`, if there.
fn member<'a>(of: &'a Map<String, Value>, name: &str) -> Result<Option<&'a Map<String, Value>>, Error> {
    match of.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(Error::malformed(WHAT, format!("member {name} is not an object"))),
    }
}

/// The header of one recipient. No member may come twice (RFC 7516 section 4).
fn merge(parts: [Option<&Map<String, Value>>; 3]) -> Result<Map<String, Value>, Error> {
    let mut merged = Map::new();
    for (name, value) in parts.into_iter().flatten().flatten() {
        if REFUSED.contains(&name.as_str()) {
            return Err(Error::Unsupported {
                what: "header extension",
                found: quoted(name),
                expected: "none",
            });
        }
        if merged.insert(name.clone(), value.clone()).is_some() {
            return Err(Error::malformed(WHAT, "a header member comes twice"));
        }
    }
    Ok(merged)
}

#[cfg(test)]
mod tests;
