//! Makes tokens and signs them.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use cc_vectors::cbor::{array, bytes, map, number, tagged, text};

/// A key of the given curve.
pub(crate) fn key(p256: bool) -> EcdsaKeyPair {
    let algorithm = if p256 { &ECDSA_P256_SHA256_FIXED_SIGNING } else { &ECDSA_P384_SHA384_FIXED_SIGNING };
    EcdsaKeyPair::generate(algorithm).unwrap()
}

/// The public key as JWK.
pub(crate) fn jwk(key: &EcdsaKeyPair) -> String {
    let point = key.public_key().as_ref();
    let (x, y) = point[1..].split_at(point.len() / 2);
    let crv = if x.len() == 32 { "P-256" } else { "P-384" };
    let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    format!(r#"{{"kty":"EC","crv":"{crv}","x":"{}","y":"{}"}}"#, text(x), text(y))
}

/// What a token is made of.
pub(crate) struct Maker {
    pub(crate) platform_key: EcdsaKeyPair,
    pub(crate) realm_key: EcdsaKeyPair,
    pub(crate) challenge: [u8; 64],
    pub(crate) personalization: [u8; 64],
    pub(crate) lifecycle: u64,
    /// Instead of the hash of the realm's key.
    pub(crate) platform_challenge: Option<[u8; 32]>,
    /// Who signs the realm's token, if not its key.
    pub(crate) realm_signer: Option<EcdsaKeyPair>,
}

impl Maker {
    pub(crate) fn new() -> Self {
        Self {
            platform_key: key(false),
            realm_key: key(false),
            challenge: [0xA5; 64],
            personalization: [0; 64],
            lifecycle: 0x3003,
            platform_challenge: None,
            realm_signer: None,
        }
    }

    /// The realm's key as it stands in the token: a point of P-384, or a COSE_Key of P-256.
    fn realm_public(&self) -> Vec<u8> {
        let point = self.realm_key.public_key().as_ref();
        if point.len() == 97 {
            return point.to_vec();
        }
        let (x, y) = point[1..].split_at(32);
        [vec![0xA4, 1, 2, 0x20, 1, 0x21], bytes(x), vec![0x22], bytes(y)].concat()
    }

    pub(crate) fn token(&self) -> Vec<u8> {
        let public = self.realm_public();
        let hashed: [u8; 32] = digest(&SHA256, &public).as_ref().try_into().unwrap();
        let component = map(&[(1, text("RMM")), (2, bytes(&[3; 32])), (5, bytes(&[4; 32]))]);
        let platform = map(&[
            (10, bytes(&self.platform_challenge.unwrap_or(hashed))),
            (265, text("tag:arm.com,2023:cca_platform#1.0.0")),
            (2396, bytes(&[2; 32])),
            (256, bytes(&[1; 33])),
            (2401, bytes(&[0xCF; 4])),
            (2395, number(self.lifecycle)),
            (2399, array(&[component])),
            (2402, text("sha-256")),
        ]);
        let realm = map(&[
            (10, bytes(&self.challenge)),
            (44235, bytes(&self.personalization)),
            (44236, text("sha-512")),
            (44237, bytes(&public)),
            (44238, bytes(&[8; 64])),
            (44239, array(&vec![bytes(&[0; 64]); 4])),
            (44240, text("sha-256")),
        ]);
        let signer = self.realm_signer.as_ref().unwrap_or(&self.realm_key);
        let tokens =
            [(44234, bytes(&sign(&platform, &self.platform_key))), (44241, bytes(&sign(&realm, signer)))];
        tagged(399, &map(&tokens))
    }
}

fn sign(payload: &[u8], key: &EcdsaKeyPair) -> Vec<u8> {
    // {1: -7} and {1: -35}
    let p256 = key.public_key().as_ref().len() == 65;
    let protected: &[u8] = if p256 { &[0xA1, 1, 0x26] } else { &[0xA1, 1, 0x38, 0x22] };
    let signed = [b"\x84\x6aSignature1".to_vec(), bytes(protected), vec![0x40], bytes(payload)].concat();
    let signature = key.sign(&SystemRandom::new(), &signed).unwrap();
    [vec![0xD2, 0x84], bytes(protected), vec![0xA0], bytes(payload), bytes(signature.as_ref())].concat()
}
