//! Flattened JWE (RFC 7516 section 7.2.2) as the KBS protocol of Trustee uses it.
//!
//! ```text
//! {"protected": b64url(header), "encrypted_key": b64url, "iv": b64url, "ciphertext": b64url, "tag": b64url}
//! header: {"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"crv":"P-256","kty":"EC","x":…,"y":…}}
//!     or  {"alg":"RSA-OAEP-256","enc":"A256GCM"}
//! ```
//!
//! Everything is checked while parsing, before a key is touched: allow lists for `enc`, `alg` and `crv`,
//! exact lengths, the ephemeral point on its curve, header extensions that would change the meaning
//! (`crit`, `zip`, `apu`, `apv`) refused, no repeated member. The additional data of AES-GCM is the text of
//! `protected` as received, never a second printing of it. A member `aad` is not part of this protocol and
//! is ignored, as the existing clients do.

mod recipients;

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::PrivateKey;
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

pub use recipients::RecipientKey;

use crate::ecdh::{self, Point, WRAPPED_LEN};
use crate::error::quoted;
use crate::jwk::{self, Kind, PublicJwk, RSA_ALG};
use crate::{Error, Secret, base64url, unique_json};

/// Longest JWE read, in bytes of JSON text. A KBS takes uploads of 2 MiB by default, which make 2.8 MB of
/// JWE; three times that leaves room and still bounds what a hostile server can make us hold.
pub const MAX_JWE_LEN: usize = 8 * 1024 * 1024;
/// Longest protected header read, in characters of base64url.
const MAX_PROTECTED_LEN: usize = 8 * 1024;
/// RSA moduli of 2048 to 8192 bits, in bytes.
const RSA_LENGTHS: std::ops::RangeInclusive<usize> = 256..=1024;
const IV_LEN: usize = 12;
const TAG_LEN: usize = 16;
const ENC: &str = "A256GCM";
const WHAT: &str = "JWE";

/// The content-encryption key, wiped on drop.
pub(crate) type ContentKey = ecdh::Key;

/// A parsed and checked JWE, not yet decrypted.
pub struct Jwe {
    protected: String,
    recipient: Recipient,
    iv: [u8; IV_LEN],
    ciphertext: Vec<u8>,
    tag: [u8; TAG_LEN],
}

/// Whom the content key is wrapped for, and how.
pub(crate) enum Recipient {
    Ecdh { ephemeral: Point, wrapped: [u8; WRAPPED_LEN] },
    Rsa { wrapped: Vec<u8> },
}

impl Recipient {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ecdh { ephemeral, .. } => crate::KeyAlgorithm::from(ephemeral.curve).as_str(),
            Self::Rsa { .. } => RSA_ALG,
        }
    }
}

impl Jwe {
    /// Parses the JSON text of a flattened JWE of at most [`MAX_JWE_LEN`] bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Malformed`] or [`Error::Unsupported`], each naming the member; the text
    /// of the document is never quoted beyond algorithm names.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        if text.len() > MAX_JWE_LEN {
            return Err(Error::TooLarge { what: WHAT, found: text.len(), limit: MAX_JWE_LEN });
        }
        // A derived reader takes a list of the members' values as well, which no JOSE document is.
        if text.trim_ascii_start().first() == Some(&b'[') {
            return Err(Error::malformed(WHAT, "a list where an object is expected"));
        }
        let parts: Received<'_> = serde_json::from_slice(text).map_err(|e| Error::json(WHAT, &e))?;
        let protected = present("protected", parts.protected)?;
        let encrypted_key = present("encrypted_key", parts.encrypted_key)?;
        Ok(Self {
            recipient: recipient(protected, encrypted_key)?,
            protected: protected.to_owned(),
            iv: base64url::decode_array("iv", present("iv", parts.iv)?)?,
            ciphertext: base64url::decode("ciphertext", present("ciphertext", parts.ciphertext)?)?,
            tag: base64url::decode_array("tag", present("tag", parts.tag)?)?,
        })
    }

    pub(crate) fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    /// The plaintext under `key`.
    pub(crate) fn decrypt(&self, key: &ContentKey) -> Result<Secret, Error> {
        decrypt_content(key, &self.protected, self.iv, &self.ciphertext, &self.tag)
    }
}

impl fmt::Debug for Jwe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jwe({}, {} bytes)", self.recipient.name(), self.ciphertext.len())
    }
}

/// Encrypts `plaintext` to the holder of `public_jwk` under a new content key. This is the server's half of
/// the protocol; the member order is the one that the existing clients need.
///
/// # Errors
/// [`Error::Malformed`] or [`Error::Unsupported`] for a JWK that is not one of the protocol, [`Error::Library`]
/// if encryption fails.
pub fn seal(public_jwk: &Value, plaintext: &[u8]) -> Result<Vec<u8>, Error> {
    let mut content_key = ContentKey::default();
    let mut iv = [0; IV_LEN];
    let no_random = |_| Error::Library { doing: "drawing random bytes" };
    rand::fill(content_key.as_mut_slice()).map_err(no_random)?;
    rand::fill(&mut iv).map_err(no_random)?;

    let (header, encrypted_key) = match PublicJwk::from_json(public_jwk)?.0 {
        Kind::Ec(point) => address_ecdh(&point, &content_key)?,
        Kind::Rsa { key, .. } => {
            let failed = |_| Error::Library { doing: "encrypting a key by RSA" };
            let key = OaepPublicEncryptingKey::new(key).map_err(failed)?;
            let mut out = vec![0; key.ciphertext_size()];
            key.encrypt(&OAEP_SHA256_MGF1SHA256, content_key.as_slice(), &mut out, None).map_err(failed)?;
            (format!(r#"{{"alg":"{RSA_ALG}","enc":"{ENC}"}}"#), out)
        }
    };

    let protected = base64url::encode(header.as_bytes());
    // Encrypted in place: until then the buffer is plaintext, so it is wiped should a step fail.
    let mut body = Zeroizing::new(plaintext.to_vec());
    let tag = cipher(&content_key)?
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(iv),
            Aad::from(protected.as_bytes()),
            body.as_mut_slice(),
        )
        .map_err(|_| Error::Library { doing: "encrypting" })?;
    serde_json::to_vec(&Sent {
        protected: &protected,
        encrypted_key: base64url::encode(&encrypted_key),
        iv: base64url::encode(&iv),
        ciphertext: base64url::encode(&body),
        tag: base64url::encode(tag.as_ref()),
    })
    .map_err(|_| Error::Library { doing: "writing a JWE" })
}

/// Header text and wrapped content key for the holder of `point`.
fn address_ecdh(point: &Point, content_key: &ContentKey) -> Result<(String, Vec<u8>), Error> {
    let ephemeral = PrivateKey::generate(point.curve.agreement())
        .map_err(|_| Error::Library { doing: "generating an ephemeral key" })?;
    let public = Point::of(point.curve, &ephemeral)?;
    let (x, y) = public.coordinates()?;
    let header = format!(
        r#"{{"alg":"{}","enc":"{ENC}","epk":{{"crv":"{}","kty":"EC","x":"{}","y":"{}"}}}}"#,
        ecdh::ALG,
        point.curve.name(),
        base64url::encode(x),
        base64url::encode(y),
    );
    let wrapped = ecdh::wrap(&ecdh::agree(&ephemeral, point)?, content_key)?;
    Ok((header, wrapped.to_vec()))
}

/// AES-256-GCM (RFC 7518 section 5.3) under `key`; the text of `protected` is the additional data.
fn decrypt_content(
    key: &ContentKey,
    protected: &str,
    iv: [u8; IV_LEN],
    ciphertext: &[u8],
    tag: &[u8; TAG_LEN],
) -> Result<Secret, Error> {
    let mut plain = Zeroizing::new(vec![0; ciphertext.len()]);
    let (nonce, aad) = (Nonce::assume_unique_for_key(iv), Aad::from(protected.as_bytes()));
    cipher(key)?
        .open_separate_gather(nonce, aad, ciphertext, tag, &mut plain)
        .map_err(|_| Error::CannotOpen)?;
    Ok(Secret::from(plain))
}

fn cipher(key: &ContentKey) -> Result<LessSafeKey, Error> {
    UnboundKey::new(&AES_256_GCM, key.as_slice())
        .map(LessSafeKey::new)
        .map_err(|_| Error::Library { doing: "preparing AES" })
}

/// Reads the protected header and, by its `alg`, the wrapped key.
fn recipient(protected: &str, encrypted_key: &str) -> Result<Recipient, Error> {
    const HEADER: &str = "JWE protected header";
    if protected.len() > MAX_PROTECTED_LEN {
        return Err(Error::TooLarge { what: HEADER, found: protected.len(), limit: MAX_PROTECTED_LEN });
    }
    let header = unique_json::parse(HEADER, &base64url::decode("protected", protected)?)?;
    let header = header.as_object().ok_or_else(|| Error::malformed(HEADER, "not an object"))?;
    if let Some(name) = ["crit", "zip", "apu", "apv"].into_iter().find(|n| header.contains_key(*n)) {
        return Err(Error::Unsupported { what: "header extension", found: quoted(name), expected: "none" });
    }
    let enc = jwk::text(header, "enc")?;
    if enc != ENC {
        return Err(Error::Unsupported { what: "enc", found: quoted(enc), expected: ENC });
    }
    match jwk::text(header, "alg")? {
        ecdh::ALG => {
            let epk = header
                .get("epk")
                .and_then(Value::as_object)
                .ok_or_else(|| Error::malformed(HEADER, "member epk is missing or not an object"))?;
            let kty = jwk::text(epk, "kty")?;
            if kty != "EC" {
                return Err(Error::Unsupported { what: "kty of epk", found: quoted(kty), expected: "EC" });
            }
            Ok(Recipient::Ecdh {
                ephemeral: jwk::point(epk)?,
                wrapped: base64url::decode_array("encrypted_key", encrypted_key)?,
            })
        }
        RSA_ALG => {
            let wrapped = base64url::decode("encrypted_key", encrypted_key)?;
            if !RSA_LENGTHS.contains(&wrapped.len()) {
                let why = format!("{} bytes, an RSA modulus has 256 to 1024", wrapped.len());
                return Err(Error::malformed("encrypted_key", why));
            }
            Ok(Recipient::Rsa { wrapped })
        }
        other => Err(Error::Unsupported {
            what: "alg",
            found: quoted(other),
            expected: "ECDH-ES+A256KW or RSA-OAEP-256",
        }),
    }
}

fn present<'a>(name: &'static str, value: Option<&'a str>) -> Result<&'a str, Error> {
    value.ok_or_else(|| Error::malformed(WHAT, format!("member {name} is missing")))
}

/// The members read; base64url needs no JSON escapes, so the text can be borrowed.
#[derive(Deserialize)]
struct Received<'a> {
    protected: Option<&'a str>,
    encrypted_key: Option<&'a str>,
    iv: Option<&'a str>,
    ciphertext: Option<&'a str>,
    tag: Option<&'a str>,
}

#[derive(Serialize)]
struct Sent<'a> {
    protected: &'a str,
    encrypted_key: String,
    iv: String,
    ciphertext: String,
    tag: String,
}

#[cfg(test)]
mod tests;
