//! The administrator: a key pair made at the first start, and the tokens it signs.
//!
//! A token is a compact JWS with EdDSA (RFC 8037, Ed25519) and the claims that the tools of Trustee make: `iss`,
//! `role`, `aud`, `iat`, `exp`. There is one role, `admin`, and no way to switch the check off.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use axum::http::{HeaderMap, header};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::Error;
use crate::jws;
use crate::state::StateDir;

/// File of the private key in the state directory, PKCS#8 PEM, mode 0600.
const KEY_FILE: &str = "admin.key";
/// File of the public key, SubjectPublicKeyInfo PEM, for people who want to check a token.
const PUBLIC_FILE: &str = "admin.pub";
/// The `aud` claim of an admin token.
const AUDIENCE: &str = "kbs";
const ROLE: &str = "admin";

/// The administrator's key pair.
pub struct Admin {
    key: Ed25519KeyPair,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    /// The key pair in the state directory; made there at the first start.
    ///
    /// # Errors
    /// [`Error::State`] or [`Error::KeyFile`] when the files cannot be used.
    pub fn load_or_create(state: &StateDir) -> Result<Self, Error> {
        let pem = state.load_or_create(KEY_FILE, || {
            rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)
                .map(|pair| pair.serialize_pem())
                .map_err(|_| Error::Internal("no admin key could be made"))
        })?;
        let unusable = |reason: String| Error::KeyFile { path: state.file(KEY_FILE), reason };
        if state.load(PUBLIC_FILE)?.is_none() {
            let pair = rcgen::KeyPair::from_pem(&pem).map_err(|e| unusable(e.to_string()))?;
            state.create(PUBLIC_FILE, &pair.public_key_pem(), 0o644)?;
        }
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| unusable(e.to_string()))?;
        let key = Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der())
            .map_err(|_| unusable("not an Ed25519 private key in PKCS#8".into()))?;
        Ok(Self { key })
    }

    /// A token good from `now` (Unix seconds) for `lifetime` seconds.
    #[must_use]
    pub fn token(&self, now: u64, lifetime: u64) -> String {
        let claims = json!({
            "iss": "dev-kbs", "role": ROLE, "aud": [AUDIENCE], "iat": now, "exp": now.saturating_add(lifetime),
        });
        let signed = jws::signing_input(&json!({ "alg": "EdDSA", "typ": "JWT" }), &claims);
        jws::finish(&signed, self.key.sign(signed.as_bytes()).as_ref())
    }

    /// Checks that `headers` carry a good admin token at `now` (Unix seconds).
    ///
    /// # Errors
    /// [`Error::AdminRefused`], which names the failed check.
    pub fn check(&self, headers: &HeaderMap, now: u64) -> Result<(), Error> {
        let token = bearer(headers).ok_or(Error::AdminRefused("no bearer token came with the request"))?;
        let parts = jws::split(token).ok_or(Error::AdminRefused("the token is not a compact JWS"))?;
        if parts.header.get("alg") != Some(&Value::from("EdDSA")) {
            return Err(Error::AdminRefused("the token's alg is not EdDSA"));
        }
        UnparsedPublicKey::new(&ED25519, self.key.public_key().as_ref())
            .verify(parts.signed.as_bytes(), &parts.signature)
            .map_err(|_| Error::AdminRefused("the token is not signed by the admin key of this server"))?;
        let claim = |name: &str| parts.payload.get(name);
        let time = |name: &str| claim(name).and_then(Value::as_u64);
        if time("exp").is_none_or(|exp| exp <= now) {
            return Err(Error::AdminRefused("the token is expired, or has no expiry"));
        }
        if claim("nbf").is_some() && time("nbf").is_none_or(|nbf| nbf > now) {
            return Err(Error::AdminRefused("the token is not valid yet"));
        }
        let audience = match claim("aud") {
            Some(Value::Array(many)) => many.contains(&Value::from(AUDIENCE)),
            one => one == Some(&Value::from(AUDIENCE)),
        };
        if !audience {
            return Err(Error::AdminRefused("the token's aud does not name kbs"));
        }
        if claim("role") != Some(&Value::from(ROLE)) {
            return Err(Error::AdminRefused("the token's role is not admin"));
        }
        Ok(())
    }
}

/// The token of an `Authorization: Bearer` header; the scheme's name has no case (RFC 9110 §11.1).
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn fresh() -> (tempfile::TempDir, Admin) {
        let place = tempfile::tempdir().unwrap();
        let admin = Admin::load_or_create(&StateDir::open(place.path()).unwrap()).unwrap();
        (place, admin)
    }

    fn with(token: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
        headers
    }

    fn signed(admin: &Admin, header: Value, claims: Value) -> HeaderMap {
        let input = jws::signing_input(&header, &claims);
        with(&jws::finish(&input, admin.key.sign(input.as_bytes()).as_ref()))
    }

    #[test]
    fn a_token_is_good_for_its_life() {
        let (place, admin) = fresh();
        let token = admin.token(1000, 60);
        assert!(admin.check(&with(&token), 1059).is_ok());
        assert!(admin.check(&with(&token), 1060).unwrap_err().to_string().contains("expired"));
        let again = Admin::load_or_create(&StateDir::open(place.path()).unwrap()).unwrap();
        assert!(again.check(&with(&token), 1000).is_ok(), "the key survives a restart");
        let public = std::fs::read_to_string(place.path().join("admin.pub")).unwrap();
        assert!(public.starts_with("-----BEGIN PUBLIC KEY-----"));
    }

    #[test]
    fn everything_else_is_refused() {
        let (_place, admin) = fresh();
        let (_other_place, other) = fresh();
        let good = json!({ "role": "admin", "aud": ["kbs"], "exp": 100 });
        let eddsa = || json!({ "alg": "EdDSA" });
        let with_claim = |name: &str, value: Value| {
            let mut claims = good.clone();
            claims[name] = value;
            signed(&admin, eddsa(), claims)
        };
        assert!(admin.check(&signed(&admin, eddsa(), good.clone()), 1).is_ok());
        assert!(admin.check(&with_claim("aud", json!("kbs")), 1).is_ok());
        let cases = [
            (HeaderMap::new(), "no bearer token"),
            (with("x"), "compact JWS"),
            (with(&other.token(0, 100)), "not signed"),
            (signed(&admin, json!({ "alg": "none" }), good.clone()), "alg"),
            (signed(&admin, json!({ "alg": "HS256" }), good.clone()), "alg"),
            (with_claim("exp", Value::Null), "expired"),
            (with_claim("exp", json!("100")), "expired"),
            (with_claim("nbf", json!(2)), "not valid yet"),
            (with_claim("nbf", json!("1")), "not valid yet"),
            (with_claim("aud", json!(["other"])), "aud"),
            (with_claim("role", json!("user")), "role"),
            (with_claim("role", json!(["admin"])), "role"),
        ];
        for (headers, why) in cases {
            let refused = admin.check(&headers, 1).unwrap_err();
            assert!(refused.to_string().contains(why), "{refused} / {why}");
        }
    }
}
