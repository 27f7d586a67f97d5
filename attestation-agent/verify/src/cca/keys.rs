//! The platforms that a relying party knows: their public attestation keys (CPAK).
//!
//! Read from PEM (`PUBLIC KEY`, RFC 7468; SubjectPublicKeyInfo, RFC 5480) or JSON: a JWK or JWK set (RFC 7517), or a list
//! that names the platform beside each key, the form of Veraison's trust anchor stores.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use cc_evidence::cca::{Curve, EcKey};
use der::Decode;
use der::asn1::ObjectIdentifier;
use serde::Deserialize;
use x509_cert::spki::SubjectPublicKeyInfoRef;

/// Longest text of keys that is read, in bytes.
const MAX_LEN: usize = 256 * 1024;

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const CURVES: [(Curve, ObjectIdentifier); 3] = [
    (Curve::P256, ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7")),
    (Curve::P384, ObjectIdentifier::new_unwrap("1.3.132.0.34")),
    (Curve::P521, ObjectIdentifier::new_unwrap("1.3.132.0.35")),
];

/// A platform by its key, and what else must be its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformKey {
    /// The public key.
    pub key: EcKey,
    /// The implementation that has it; any if none is named.
    pub implementation_id: Option<[u8; 32]>,
    /// The instance that has it; any if none is named.
    pub instance_id: Option<[u8; 33]>,
}

impl PlatformKey {
    /// SHA-256 over the point (4, x, y), lower-case hex: a name for people.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex::encode(digest(&SHA256, &self.key.point))
    }
}

/// The platforms under which tokens are accepted; none by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlatformKeys(Vec<PlatformKey>);

/// Keys that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the platform keys are unusable: {why}")]
pub struct InvalidKeys {
    why: String,
}

impl InvalidKeys {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into() }
    }

    /// Stable name for logs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "CCA_KEYS_INVALID"
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> String {
        "pass the public attestation keys of the platforms as PEM (PUBLIC KEY), as JWK, or as a list of \
         {pkey, implementation-id, instance-id}"
            .to_owned()
    }
}

impl PlatformKeys {
    /// Reads keys of any of the forms that the module names.
    ///
    /// # Errors
    /// [`InvalidKeys`] for another form, a key of another curve, or no key at all.
    pub fn parse(text: &str) -> Result<Self, InvalidKeys> {
        if text.len() > MAX_LEN {
            return Err(InvalidKeys::new(format!("{} bytes, the limit is {MAX_LEN}", text.len())));
        }
        let keys = if text.trim_start().starts_with(['{', '[']) { from_json(text)? } else { from_pem(text)? };
        if keys.is_empty() {
            return Err(InvalidKeys::new("there is no key"));
        }
        Ok(Self(keys))
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys that a platform may have signed with.
    pub(super) fn of(
        &self,
        implementation_id: &[u8; 32],
        instance_id: &[u8; 33],
    ) -> impl Iterator<Item = &PlatformKey> {
        self.0.iter().filter(move |key| {
            key.implementation_id.is_none_or(|id| id == *implementation_id)
                && key.instance_id.is_none_or(|id| id == *instance_id)
        })
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    Store(Vec<Anchor>),
    Set { keys: Vec<Jwk> },
    One(Jwk),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Anchor {
    pkey: Jwk,
    implementation_id: String,
    instance_id: String,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    y: String,
}

fn from_json(text: &str) -> Result<Vec<PlatformKey>, InvalidKeys> {
    let document: Document = serde_json::from_str(text)
        .map_err(|_| InvalidKeys::new("neither a JWK, a JWK set nor a list of keys with their platforms"))?;
    let any = |jwk: Jwk| Ok(PlatformKey { key: jwk.read()?, implementation_id: None, instance_id: None });
    match document {
        Document::One(jwk) => any(jwk).map(|key| vec![key]),
        Document::Set { keys } => keys.into_iter().map(any).collect(),
        Document::Store(anchors) => anchors.into_iter().map(Anchor::read).collect(),
    }
}

impl Anchor {
    fn read(self) -> Result<PlatformKey, InvalidKeys> {
        Ok(PlatformKey {
            key: self.pkey.read()?,
            implementation_id: Some(id("implementation-id", &self.implementation_id)?),
            instance_id: Some(id("instance-id", &self.instance_id)?),
        })
    }
}

fn id<const N: usize>(name: &str, text: &str) -> Result<[u8; N], InvalidKeys> {
    let mut id = [0; N];
    hex::decode_to_slice(text, &mut id)
        .map_err(|_| InvalidKeys::new(format!("{name} is not the hex of {N} bytes")))?;
    Ok(id)
}

impl Jwk {
    fn read(&self) -> Result<EcKey, InvalidKeys> {
        if self.kty != "EC" {
            return Err(InvalidKeys::new("a JWK is not of kty EC"));
        }
        let curve = CURVES.iter().map(|(curve, _)| *curve).find(|curve| curve.as_str() == self.crv);
        let curve = curve.ok_or_else(|| InvalidKeys::new("a JWK is not of P-256, P-384 or P-521"))?;
        let part = |text: &str| {
            BASE64_URL_SAFE_NO_PAD
                .decode(text)
                .map_err(|_| InvalidKeys::new("a JWK has no base64url in x or y"))
        };
        EcKey::new(curve, &part(&self.x)?, &part(&self.y)?)
            .map_err(|error| InvalidKeys::new(error.to_string()))
    }
}

fn from_pem(text: &str) -> Result<Vec<PlatformKey>, InvalidKeys> {
    let (begin, end) = ("-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----");
    let mut keys = Vec::new();
    for block in text.split(begin).skip(1) {
        let (body, _) = block
            .split_once(end)
            .ok_or_else(|| InvalidKeys::new("a PEM block of a public key has no end"))?;
        let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
        let der = BASE64_STANDARD
            .decode(body)
            .map_err(|_| InvalidKeys::new("a PEM block of a public key is not base64"))?;
        keys.push(PlatformKey { key: from_spki(&der)?, implementation_id: None, instance_id: None });
    }
    Ok(keys)
}

fn from_spki(der: &[u8]) -> Result<EcKey, InvalidKeys> {
    let wrong = || InvalidKeys::new("a public key is not one of P-256, P-384 or P-521");
    let info = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| wrong())?;
    let parameters = info.algorithm.parameters_oid().map_err(|_| wrong())?;
    let curve = CURVES.iter().find(|(_, oid)| *oid == parameters).map(|(curve, _)| *curve);
    let (Some(curve), true) = (curve, info.algorithm.oid == EC_PUBLIC_KEY) else { return Err(wrong()) };
    let point = info.subject_public_key.as_bytes().ok_or_else(wrong)?;
    match point {
        [4, rest @ ..] => {
            let (x, y) = rest.split_at_checked(curve.coordinate_len()).ok_or_else(wrong)?;
            EcKey::new(curve, x, y).map_err(|error| InvalidKeys::new(error.to_string()))
        }
        _ => Err(InvalidKeys::new("a public key is a compressed point")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_forms_give_the_same_key() {
        let x = BASE64_URL_SAFE_NO_PAD.encode([7; 48]);
        let jwk = format!(r#"{{"kty":"EC","crv":"P-384","x":"{x}","y":"{x}"}}"#);
        let one = PlatformKeys::parse(&jwk).unwrap();
        assert_eq!(PlatformKeys::parse(&format!(r#"{{"keys":[{jwk}]}}"#)).unwrap(), one);
        let head = hex::decode("3076301006072a8648ce3d020106052b81040022036200").unwrap();
        let spki = [head, vec![4], vec![7; 96]].concat();
        let pem = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            BASE64_STANDARD.encode(&spki)
        );
        assert_eq!(PlatformKeys::parse(&pem).unwrap(), one);
        assert_eq!(PlatformKeys::parse(&pem.repeat(2)).unwrap().0.len(), 2);

        let (implementation, instance) = ("7f".repeat(32), "01".repeat(33));
        let store = format!(
            r#"[{{"pkey":{jwk},"implementation-id":"{implementation}","instance-id":"{instance}"}}]"#
        );
        let stored = PlatformKeys::parse(&store).unwrap();
        assert_eq!(stored.of(&[0x7F; 32], &[1; 33]).count(), 1);
        assert_eq!(stored.of(&[0x7E; 32], &[1; 33]).count(), 0);
        assert_eq!(stored.of(&[0x7F; 32], &[2; 33]).count(), 0);
        assert_eq!(one.of(&[0; 32], &[0; 33]).count(), 1, "a bare key is for any platform");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "nonsense",
            "{}",
            "[]",
            "{\"keys\":[]}",
            "[{}]",
            "-----BEGIN PUBLIC KEY-----\n",
            "-----BEGIN PUBLIC KEY-----\n?\n-----END PUBLIC KEY-----",
            "-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----",
            r#"{"kty":"RSA","crv":"P-384","x":"","y":""}"#,
            r#"{"kty":"EC","crv":"P-384","x":"AA","y":"AA"}"#,
            r#"{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"}"#,
        ] {
            assert_eq!(PlatformKeys::parse(text).unwrap_err().code(), "CCA_KEYS_INVALID", "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text: String) {
            let _ = PlatformKeys::parse(&text);
            let _ = PlatformKeys::parse(&format!("-----BEGIN PUBLIC KEY-----{text}-----END PUBLIC KEY-----"));
        }
    }
}
