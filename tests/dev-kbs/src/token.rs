//! Attestation tokens: signing them, and checking them when they come back.
//!
//! A token is a compact JWS (RFC 7515) with ES256 (RFC 7518 §3.4) over the claims that `ear` makes. Its header shows
//! the public key of the signer, as the attestation service of Trustee does; that member is for people and is never
//! read here. One key is trusted: our own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, ParsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::Error;
use crate::ear::Module;
use crate::jws;
use crate::state::StateDir;

/// File of the signing key in the state directory, PKCS#8 PEM.
const KEY_FILE: &str = "token.key";

/// Most tokens remembered as verified.
const REMEMBERED: usize = 4096;

/// What a verified token says of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouched {
    /// End of the token's life, Unix seconds.
    pub expires: u64,
    /// The key that answers are encrypted to, a JWK.
    pub tee_pubkey: Value,
    /// One for each attested device, `cpu0` among them or not.
    pub modules: Vec<Module>,
}

impl Vouched {
    /// Reads the claims of a token whose signature holds.
    ///
    /// # Errors
    /// [`Error::TokenRefused`] when a claim is missing that every token of this server has.
    pub fn from_claims(claims: &Value) -> Result<Self, Error> {
        let refused = |why: &str| Error::TokenRefused(why.to_owned());
        let expires = claims.get("exp").and_then(Value::as_u64).ok_or_else(|| refused("it has no expiry"))?;
        let modules = claims
            .get("submods")
            .and_then(Value::as_object)
            .ok_or_else(|| refused("it has no submods"))?
            .iter()
            .map(|(name, module)| Module::from_claims(name, module))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| refused("a submodule has no status"))?;
        let tee_pubkey = claims
            .pointer("/submods/cpu0/ear.veraison.annotated-evidence/runtime_data_claims/tee-pubkey")
            .ok_or_else(|| refused("it holds no tee-pubkey"))?;
        Ok(Self { expires, tee_pubkey: tee_pubkey.clone(), modules })
    }

    /// Checks that the token still lives at `now`, Unix seconds.
    ///
    /// # Errors
    /// [`Error::TokenRefused`] when it does not.
    pub fn check_life(&self, now: u64) -> Result<(), Error> {
        match now.checked_sub(self.expires) {
            Some(late) => Err(Error::TokenRefused(format!("it expired {late} s ago"))),
            None => Ok(()),
        }
    }
}

/// The signer of tokens, and the only one whose tokens are accepted.
pub struct Signer {
    key: EcdsaKeyPair,
    public: ParsedPublicKey,
    header: Value,
    random: SystemRandom,
    verified: Verified,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Signer {
    /// The key in the state directory; made there at the first start.
    ///
    /// # Errors
    /// [`Error::State`] or [`Error::KeyFile`] when the file cannot be used.
    pub fn load_or_create(state: &StateDir) -> Result<Self, Error> {
        let pem = state.load_or_create(KEY_FILE, || {
            rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
                .map(|pair| pair.serialize_pem())
                .map_err(|_| Error::Internal("no signing key could be made"))
        })?;
        let unusable = |reason: String| Error::KeyFile { path: state.file(KEY_FILE), reason };
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| unusable(e.to_string()))?;
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der())
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| unusable("not a P-256 private key in PKCS#8".into()))
    }

    fn new(key: EcdsaKeyPair) -> Option<Self> {
        let point = key.public_key().as_ref();
        let public = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok()?;
        // Uncompressed SEC 1 form: 0x04, 32 bytes x, 32 bytes y.
        let (x, y) = (point.get(1..33)?, point.get(33..65)?);
        let encode = |coordinate| URL_SAFE_NO_PAD.encode(coordinate);
        let jwk = json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "x": encode(x), "y": encode(y) });
        let header = json!({ "typ": "JWT", "alg": "ES256", "jwk": jwk });
        Some(Self { key, public, header, random: SystemRandom::new(), verified: Verified::default() })
    }

    /// A signed token over `claims`.
    ///
    /// # Errors
    /// [`Error::Internal`] when the library cannot sign.
    pub fn sign(&self, claims: &Value) -> Result<String, Error> {
        let signed = jws::signing_input(&self.header, claims);
        let signature = self
            .key
            .sign(&self.random, signed.as_bytes())
            .map_err(|_| Error::Internal("a token could not be signed"))?;
        Ok(jws::finish(&signed, signature.as_ref()))
    }

    /// Checks signature and life of `token` at `now` (Unix seconds) and gives what it says.
    ///
    /// # Errors
    /// [`Error::TokenRefused`], which names the failed check.
    pub fn verify(&self, token: &str, now: u64) -> Result<Arc<Vouched>, Error> {
        let digest = Fingerprint::of(token);
        let vouched = match self.verified.recall(&digest) {
            Some(vouched) => vouched,
            None => {
                let vouched = Arc::new(self.verify_afresh(token)?);
                if vouched.expires > now {
                    self.verified.remember(digest, &vouched, now);
                }
                vouched
            }
        };
        vouched.check_life(now).map(|()| vouched)
    }

    fn verify_afresh(&self, token: &str) -> Result<Vouched, Error> {
        let refused = |why: &str| Error::TokenRefused(why.to_owned());
        let parts = jws::split(token).ok_or_else(|| refused("it is not a compact JWS"))?;
        if parts.header.get("alg") != Some(&Value::from("ES256")) {
            return Err(refused("its alg is not ES256"));
        }
        self.public
            .verify_sig(parts.signed.as_bytes(), &parts.signature)
            .map_err(|_| refused("its signature is not from the key of this server"))?;
        Vouched::from_claims(&parts.payload)
    }
}

/// SHA-256 of a token: the token itself is a credential and is not kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(token: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        Self(bytes)
    }
}

/// Tokens whose signature was checked before: a guest sends the same one with every request.
#[derive(Default)]
struct Verified {
    by_digest: Mutex<HashMap<Fingerprint, Arc<Vouched>>>,
}

impl Verified {
    fn recall(&self, digest: &Fingerprint) -> Option<Arc<Vouched>> {
        self.by_digest.lock().unwrap_or_else(PoisonError::into_inner).get(digest).map(Arc::clone)
    }

    fn remember(&self, digest: Fingerprint, vouched: &Arc<Vouched>, now: u64) {
        let mut by_digest = self.by_digest.lock().unwrap_or_else(PoisonError::into_inner);
        if by_digest.len() >= REMEMBERED {
            by_digest.retain(|_, vouched| vouched.expires > now);
        }
        // Still full: the rest is simply verified each time.
        if by_digest.len() < REMEMBERED {
            by_digest.insert(digest, Arc::clone(vouched));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(exp: u64) -> Value {
        json!({ "exp": exp, "submods": { "cpu0": {
            "ear.status": "affirming",
            "ear.veraison.annotated-evidence": { "snp": { "measurement": "aa" },
                "runtime_data_claims": { "tee-pubkey": { "kty": "EC" } } } } } })
    }

    fn signer() -> (tempfile::TempDir, Signer) {
        let place = tempfile::tempdir().unwrap();
        let signer = Signer::load_or_create(&StateDir::open(place.path()).unwrap()).unwrap();
        (place, signer)
    }

    #[test]
    fn the_header_shows_the_key_and_the_signature_holds() {
        let (_place, signer) = signer();
        let token = signer.sign(&claims(100)).unwrap();
        let parts = jws::split(&token).unwrap();
        assert_eq!(parts.header["alg"], "ES256");
        assert_eq!(parts.header["typ"], "JWT");
        assert_eq!(parts.header["jwk"]["crv"], "P-256");
        assert_eq!(parts.signature.len(), 64);
        let vouched = signer.verify(&token, 99).unwrap();
        assert_eq!(vouched.tee_pubkey, json!({ "kty": "EC" }));
        assert_eq!(vouched.modules[0].measurement.as_deref(), Some("aa"));
    }

    #[test]
    fn the_key_survives_a_restart() {
        let (place, first) = signer();
        let token = first.sign(&claims(100)).unwrap();
        drop(first);
        let second = Signer::load_or_create(&StateDir::open(place.path()).unwrap()).unwrap();
        assert!(second.verify(&token, 1).is_ok());
    }

    #[test]
    fn life_is_checked_also_for_a_remembered_token() {
        let (_place, signer) = signer();
        let token = signer.sign(&claims(100)).unwrap();
        assert!(signer.verify(&token, 99).is_ok());
        let late = signer.verify(&token, 100).unwrap_err();
        assert_eq!(late.to_string(), "token: it expired 0 s ago");
    }

    #[test]
    fn tokens_of_others_are_refused_whatever_their_header_says() {
        let (_place, ours) = signer();
        let (_other_place, other) = signer();
        // The other's key stands in its header; only ours counts.
        let foreign = other.sign(&claims(100)).unwrap();
        assert!(ours.verify(&foreign, 1).unwrap_err().to_string().contains("signature"));

        let good = ours.sign(&claims(100)).unwrap();
        let (signed, _) = good.rsplit_once('.').unwrap();
        let none = jws::finish(&jws::signing_input(&json!({ "alg": "none" }), &claims(100)), b"");
        for bad in ["", "a.b.c", &format!("{signed}."), &jws::finish(signed, &[0; 64]), &none] {
            assert!(matches!(ours.verify(bad, 1), Err(Error::TokenRefused(_))), "{bad}");
        }
        assert!(ours.verify(&good, 1).is_ok());
    }

    #[test]
    fn a_token_without_our_claims_is_refused() {
        let (_place, signer) = signer();
        for claims in [json!({}), json!({ "exp": 100 }), json!({ "exp": 100, "submods": {} })] {
            let token = signer.sign(&claims).unwrap();
            assert!(matches!(signer.verify(&token, 1), Err(Error::TokenRefused(_))), "{claims}");
        }
    }

    #[test]
    fn a_broken_key_file_is_named() {
        let place = tempfile::tempdir().unwrap();
        let state = StateDir::open(place.path()).unwrap();
        state.create(KEY_FILE, "nonsense", 0o600).unwrap();
        assert!(Signer::load_or_create(&state).unwrap_err().to_string().contains("token.key"));
    }
}
