//! A token with the signature that is to be checked: JWS in compact serialization (RFC 7515, section 7.1).

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use cc_evidence::token::MAX_LEN;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Algorithm, TokenKey, refused};
use crate::Rejection;

/// A token, its signer's key as it says itself, and its signature; nothing has been verified.
pub struct SignedToken<'t> {
    key: TokenKey,
    algorithm: Algorithm,
    /// What stands under the signature.
    signed: &'t str,
    signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Header<'h> {
    alg: Option<String>,
    #[serde(borrow)]
    jwk: Option<&'h RawValue>,
    #[serde(borrow)]
    crit: Option<&'h RawValue>,
}

impl<'t> SignedToken<'t> {
    /// Takes a token apart and reads the key in its header.
    ///
    /// # Errors
    /// [`Rejection::Token`] with the check `token.format`, `token.algorithm` or `token.key`.
    pub fn parse(token: &'t str) -> Result<Self, Rejection> {
        let malformed = |why: &str| refused("token.format", why);
        if token.len() > MAX_LEN {
            return Err(malformed(&format!("it has {} bytes, the limit is {MAX_LEN}", token.len())));
        }
        let (signed, signature) =
            token.rsplit_once('.').ok_or_else(|| malformed("it has not three parts"))?;
        let header = match signed.split_once('.') {
            Some((header, payload)) if !payload.contains('.') => header,
            _ => return Err(malformed("it has not three parts")),
        };
        let decode = |part| BASE64_URL_SAFE_NO_PAD.decode(part);
        let signature = decode(signature).map_err(|_| malformed("its signature is not base64url"))?;
        let header = decode(header).map_err(|_| malformed("its header is not base64url"))?;
        let header: Header<'_> =
            serde_json::from_slice(&header).map_err(|_| malformed("its header is not a JOSE header"))?;
        if header.crit.is_some() {
            return Err(malformed(
                "its header has extensions that must be understood (crit), and none is known here",
            ));
        }
        let algorithm = match header.alg.as_deref() {
            Some("RS256") => Algorithm::Rs256,
            Some("RS384") => Algorithm::Rs384,
            Some("ES256") => Algorithm::Es256,
            Some("ES384") => Algorithm::Es384,
            _ => return Err(refused("token.algorithm", "its alg is not RS256, RS384, ES256 or ES384")),
        };
        let jwk = header.jwk.ok_or_else(|| refused("token.key", "its header has no key (jwk)"))?;
        Ok(Self { key: TokenKey::from_json(jwk.get().as_bytes())?, algorithm, signed, signature })
    }

    /// Checks that the key in the header signed this token. Who has that key stays open until
    /// [`TokenKey::verify_chain`].
    ///
    /// # Errors
    /// [`Rejection::Token`] with the check `token.algorithm` or `token.signature`.
    pub fn verify(&self) -> Result<(), Rejection> {
        self.key.verify(self.algorithm, self.signed.as_bytes(), &self.signature)
    }

    /// The key in the header.
    #[must_use]
    pub fn key(&self) -> &TokenKey {
        &self.key
    }

    /// How it is signed.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// Without the token, which is a secret.
impl fmt::Debug for SignedToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedToken")
            .field("key", &self.key)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}
