//! What an encrypted image layer says about its encryption: the annotations of its descriptor, and the private options
//! that come out of them.
//!
//! ```text
//! org.opencontainers.image.enc.keys.provider.<name>   base64 packets, parted by commas: wrapped private options
//! org.opencontainers.image.enc.keys.jwe               the same, each a JWE
//! org.opencontainers.image.enc.pubopts                base64 {"cipher":…,"hmac":base64,"cipheroptions":{}}
//! private options                                     {"symkey":base64,"digest":…,"cipheroptions":{"nonce":base64}}
//! ```
//!
//! Defined by the ocicrypt project (its `blockcipher` and `keywrap` packages). The annotations are as hostile as the image;
//! the private options are authentic once the layer's cipher text has the code that [`LayerEncryption`] names. The nonce is
//! covered by no code, so the private one counts, and a public one that differs is refused. Who unwraps is the caller's.

use std::{collections::BTreeMap, fmt};

use cc_crypto::{
    Secret,
    layer::{KEY_LEN, MAC_LEN, NONCE_LEN},
};
use serde_json::{Map, Value};

use crate::{
    SealedError,
    error::quoted,
    json::{self, Members, decode, wipe},
    packet::MAX_PACKET_LEN,
};

/// The one cipher of layers.
const CIPHER: &str = "AES_256_CTR_HMAC_SHA256";
const PROVIDER: &str = "org.opencontainers.image.enc.keys.provider.";
/// The provider's name in images of the Confidential Containers guest components.
const OURS: &str = "org.opencontainers.image.enc.keys.provider.attestation-agent";
const JWE: &str = "org.opencontainers.image.enc.keys.jwe";
const PUBLIC: &str = "org.opencontainers.image.enc.pubopts";
/// Most ways in which the options of one layer are wrapped. Real images have one to three.
const MAX_PACKETS: usize = 32;
/// Longest options read, in bytes; real ones have 200.
const MAX_OPTIONS_LEN: usize = 8 * 1024;
const ANNOTATIONS: &str = "annotations of an encrypted layer";
const PUBLIC_OPTIONS: &str = "public options of an encrypted layer";
const PRIVATE_OPTIONS: &str = "private options of an encrypted layer";

/// The encryption of one layer, as its descriptor tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerEncryption {
    packets: Vec<WrappedOptions>,
    mac: [u8; MAC_LEN],
    nonce: Option<[u8; NONCE_LEN]>,
}

/// The private options of a layer, wrapped for somebody.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WrappedOptions {
    /// For a key provider, such as the data hub; an [`crate::AnnotationPacket`] in images for confidential guests.
    Provider(Vec<u8>),
    /// For the holder of a private key, as JWE in one of its JSON serialisations (RFC 7516 section 7.2).
    Jwe(Vec<u8>),
}

/// What decrypts one layer.
pub struct LayerKey {
    /// Key of cipher and code, 32 bytes.
    pub key: Secret,
    /// The first counter block.
    pub nonce: [u8; NONCE_LEN],
    /// The code of the cipher text.
    pub mac: [u8; MAC_LEN],
    /// Digest of the layer before it was encrypted, `algorithm:hexadecimal`, not looked at here.
    pub digest: String,
}

impl fmt::Debug for LayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerKey").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl LayerEncryption {
    /// Reads the annotations of the descriptor of an encrypted layer. Of several key providers the one of confidential
    /// guests counts alone; where it is not among them all others do, in the order of their names.
    ///
    /// # Errors
    /// [`SealedError::Malformed`], [`SealedError::TooLarge`], [`SealedError::Unsupported`]; also where nobody could have a
    /// key, and where there is no message authentication code.
    pub fn parse(annotations: &BTreeMap<String, String>) -> Result<Self, SealedError> {
        let mut packets = Vec::new();
        match annotations.get(OURS) {
            Some(list) => read_packets(OURS, list, WrappedOptions::Provider, &mut packets)?,
            None => {
                for (name, list) in annotations.iter().filter(|(name, _)| name.starts_with(PROVIDER)) {
                    read_packets(name, list, WrappedOptions::Provider, &mut packets)?;
                }
            }
        }
        if let Some(list) = annotations.get(JWE) {
            read_packets(JWE, list, WrappedOptions::Jwe, &mut packets)?;
        }
        if packets.is_empty() {
            let why = "the key is wrapped neither for a key provider nor as JWE";
            return Err(SealedError::malformed(ANNOTATIONS, why));
        }
        let public = annotations
            .get(PUBLIC)
            .ok_or_else(|| SealedError::malformed(ANNOTATIONS, format!("{PUBLIC} is missing")))?;
        let (mac, nonce) = read_public(public)?;
        Ok(Self { packets, mac, nonce })
    }

    /// The private options as they are wrapped, in the order in which they are to be tried. Never empty.
    #[must_use]
    pub fn packets(&self) -> &[WrappedOptions] {
        &self.packets
    }

    /// What decrypts the layer, by the JSON text of the private options.
    ///
    /// # Errors
    /// [`SealedError::Malformed`] for options of another form, for lengths of key and nonce other than the cipher's, and for
    /// two nonces that differ; [`SealedError::TooLarge`].
    pub fn join(&self, private: &Secret) -> Result<LayerKey, SealedError> {
        let mut options = json::object(PRIVATE_OPTIONS, private.expose(), MAX_OPTIONS_LEN)?;
        let key = self.read_private(&options);
        options.values_mut().for_each(wipe);
        key
    }

    fn read_private(&self, options: &Map<String, Value>) -> Result<LayerKey, SealedError> {
        let members = Members { what: PRIVATE_OPTIONS, members: options };
        let key = Secret::new(members.bytes("symkey")?);
        if key.len() != KEY_LEN {
            let why = format!("member symkey has {} bytes, the cipher takes {KEY_LEN}", key.len());
            return Err(SealedError::malformed(PRIVATE_OPTIONS, why));
        }
        let nonce = match (read_nonce(&members)?, self.nonce) {
            (Some(private), Some(public)) if private != public => {
                return Err(SealedError::malformed(PRIVATE_OPTIONS, "its nonce is not the public one"));
            }
            (Some(nonce), _) | (None, Some(nonce)) => nonce,
            (None, None) => {
                return Err(SealedError::malformed(PRIVATE_OPTIONS, "there is no nonce, nor a public one"));
            }
        };
        Ok(LayerKey { key, nonce, mac: self.mac, digest: members.text("digest")?.to_owned() })
    }
}

fn read_packets(
    name: &str,
    list: &str,
    wrap: fn(Vec<u8>) -> WrappedOptions,
    packets: &mut Vec<WrappedOptions>,
) -> Result<(), SealedError> {
    for text in list.split(',') {
        if packets.len() >= MAX_PACKETS {
            let why = format!("more than {MAX_PACKETS} wrapped keys");
            return Err(SealedError::malformed(ANNOTATIONS, why));
        }
        // Base64 makes four characters of three bytes.
        if text.len() > MAX_PACKET_LEN.div_ceil(3) * 4 {
            return Err(SealedError::TooLarge {
                what: "wrapped key of a layer",
                found: text.len(),
                limit: MAX_PACKET_LEN.div_ceil(3) * 4,
            });
        }
        let packet = decode(ANNOTATIONS, &quoted(name), text)?;
        if packet.is_empty() {
            return Err(SealedError::malformed(ANNOTATIONS, format!("{} has an empty part", quoted(name))));
        }
        packets.push(wrap(packet));
    }
    Ok(())
}

fn read_public(text: &str) -> Result<([u8; MAC_LEN], Option<[u8; NONCE_LEN]>), SealedError> {
    if text.len() > 2 * MAX_OPTIONS_LEN {
        return Err(SealedError::TooLarge {
            what: PUBLIC_OPTIONS,
            found: text.len(),
            limit: 2 * MAX_OPTIONS_LEN,
        });
    }
    let options = json::object(PUBLIC_OPTIONS, &decode(ANNOTATIONS, PUBLIC, text)?, MAX_OPTIONS_LEN)?;
    let members = Members { what: PUBLIC_OPTIONS, members: &options };
    let cipher = members.text("cipher")?;
    if cipher != CIPHER {
        return Err(SealedError::Unsupported {
            what: "cipher of a layer",
            found: quoted(cipher),
            expected: CIPHER,
        });
    }
    let mac = members.bytes("hmac")?;
    let mac = mac.as_slice().try_into().map_err(|_| {
        let why = format!("member hmac has {} bytes instead of {MAC_LEN}", mac.len());
        SealedError::malformed(PUBLIC_OPTIONS, why)
    })?;
    Ok((mac, read_nonce(&members)?))
}

/// The nonce among the cipher options, if there is one.
fn read_nonce(members: &Members<'_>) -> Result<Option<[u8; NONCE_LEN]>, SealedError> {
    let options = members.object("cipheroptions")?;
    let what = members.what;
    match (Members { what, members: &options }).optional_text("nonce")? {
        None => Ok(None),
        Some(text) => {
            let nonce = decode(what, "nonce", text)?;
            let exact = nonce.as_slice().try_into().map_err(|_| {
                let why = format!("member nonce has {} bytes instead of {NONCE_LEN}", nonce.len());
                SealedError::malformed(what, why)
            })?;
            Ok(Some(exact))
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn public() -> Value {
        json!({"cipher": CIPHER, "hmac": STANDARD.encode([5; 32]), "cipheroptions": {}})
    }

    fn private() -> Value {
        let nonce = STANDARD.encode([9; 16]);
        json!({"symkey": STANDARD.encode([7; 32]), "digest": "sha256:00", "cipheroptions": {"nonce": nonce}})
    }

    fn annotations(public: &Value, more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let public = (PUBLIC.to_owned(), STANDARD.encode(public.to_string()));
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        std::iter::once(public).chain(more).collect()
    }

    fn parsed(public: &Value) -> Result<LayerEncryption, SealedError> {
        LayerEncryption::parse(&annotations(public, &[(OURS, "YQ==")]))
    }

    fn joined(public: &Value, private: &Value) -> Result<LayerKey, SealedError> {
        parsed(public).unwrap().join(&Secret::new(private.to_string().into_bytes()))
    }

    #[test]
    fn packets_come_in_the_order_of_trying() {
        let provider = |text: &str| WrappedOptions::Provider(text.into());
        let jwe = |text: &str| WrappedOptions::Jwe(text.into());
        let other = "org.opencontainers.image.enc.keys.provider.other";
        for (given, packets) in [
            (&[(OURS, "YQ==,Yg==")][..], vec![provider("a"), provider("b")]),
            (&[(JWE, "YQ=="), (OURS, "Yg==")], vec![provider("b"), jwe("a")]),
            (&[(other, "YQ==")], vec![provider("a")]),
            (&[(other, "YQ=="), (OURS, "Yg==")], vec![provider("b")]),
        ] {
            let read = LayerEncryption::parse(&annotations(&public(), given)).unwrap();
            assert_eq!(read.packets(), packets, "{given:?}");
        }
    }

    #[test]
    fn key_nonce_code_and_digest_are_joined() {
        let mut without = private();
        without["cipheroptions"] = Value::Null;
        let mut with = public();
        with["cipheroptions"]["nonce"] = private()["cipheroptions"]["nonce"].clone();
        for (public, private) in [(public(), private()), (with.clone(), private()), (with, without)] {
            let key = joined(&public, &private).unwrap();
            assert_eq!((key.key.expose(), key.nonce, key.mac), (&[7; 32][..], [9; 16], [5; 32]));
            assert_eq!(key.digest, "sha256:00");
            assert_eq!(format!("{key:?}"), "LayerKey { digest: \"sha256:00\", .. }");
        }
    }

    #[test]
    fn bad_annotations_are_refused() {
        let long = "A".repeat(100_000);
        let many = vec!["YQ=="; 10_000].join(",");
        for (more, code) in [
            (&[][..], "SEALED_MALFORMED"),
            (&[(OURS, "")], "SEALED_MALFORMED"),
            (&[(OURS, "YQ==,")], "SEALED_MALFORMED"),
            (&[(OURS, "YQ==, Yg==")], "SEALED_MALFORMED"),
            (&[(OURS, "?")], "SEALED_MALFORMED"),
            (&[(OURS, many.as_str())], "SEALED_MALFORMED"),
            (&[(JWE, long.as_str())], "SEALED_TOO_LARGE"),
            (&[(OURS, "YQ=="), (PUBLIC, "?")], "SEALED_MALFORMED"),
            (&[(OURS, "YQ=="), (PUBLIC, "")], "SEALED_MALFORMED"),
            (&[(OURS, "YQ=="), (PUBLIC, long.as_str())], "SEALED_TOO_LARGE"),
        ] {
            let error = LayerEncryption::parse(&annotations(&public(), more)).unwrap_err();
            assert_eq!(error.code(), code, "{more:?}: {error}");
            assert!(error.to_string().len() < 300, "{error}");
        }
        let mut missing = annotations(&public(), &[(OURS, "YQ==")]);
        missing.remove(PUBLIC);
        assert_eq!(LayerEncryption::parse(&missing).unwrap_err().code(), "SEALED_MALFORMED");
        for edit in [
            (|o: &mut Value| o["hmac"] = json!("")) as fn(&mut Value),
            |o| o["hmac"] = Value::Null,
            |o| o["hmac"] = json!(STANDARD.encode([5; 31])),
            |o| o["hmac"] = json!([5]),
            |o| o["cipher"] = json!(""),
            |o| o["cipher"] = json!("AES_256_GCM"),
            |o| o["cipheroptions"] = json!([]),
            |o| o["cipheroptions"] = json!({"nonce": STANDARD.encode([9; 15])}),
            |o| *o = json!([]),
        ] {
            let mut options = public();
            edit(&mut options);
            assert!(parsed(&options).is_err(), "{options}");
        }
    }

    #[test]
    fn bad_private_options_are_refused_and_not_told() {
        for edit in [
            (|o: &mut Value| o["symkey"] = json!(STANDARD.encode([7; 31]))) as fn(&mut Value),
            |o| o["symkey"] = json!(STANDARD.encode([7; 33])),
            |o| o["symkey"] = json!("BwcHBw"),
            |o| o["symkey"] = Value::Null,
            |o| o["digest"] = Value::Null,
            |o| o["cipheroptions"] = json!({}),
            |o| o["cipheroptions"]["nonce"] = json!(STANDARD.encode([9; 15])),
            |o| o["cipheroptions"]["nonce"] = json!(STANDARD.encode([9; 17])),
            |o| *o = json!("BwcHBw"),
        ] {
            let mut options = private();
            edit(&mut options);
            let error = joined(&public(), &options).unwrap_err();
            assert_eq!(error.code(), "SEALED_MALFORMED");
            assert!(!error.to_string().contains("BwcH"), "{error}");
        }
        let mut other = public();
        other["cipheroptions"]["nonce"] = json!(STANDARD.encode([8; 16]));
        assert!(joined(&other, &private()).unwrap_err().to_string().contains("nonce"));
    }

    proptest! {
        #[test]
        fn never_panics(list in "[A-Za-z0-9+/=,]{0,40}", public in proptest::collection::vec(any::<u8>(), 0..120), private in proptest::collection::vec(any::<u8>(), 0..120)) {
            let given = [(OURS.to_owned(), list.clone()), (JWE.to_owned(), list), (PUBLIC.to_owned(), STANDARD.encode(public))];
            let _ = LayerEncryption::parse(&given.into());
            let _ = parsed(&self::public()).unwrap().join(&Secret::new(private));
        }

        #[test]
        fn what_is_written_is_read(key in any::<[u8; 32]>(), nonce in any::<[u8; 16]>(), mac in any::<[u8; 32]>()) {
            let public = json!({"cipher": CIPHER, "hmac": STANDARD.encode(mac)});
            let private = json!({"symkey": STANDARD.encode(key), "digest": "d", "cipheroptions": {"nonce": STANDARD.encode(nonce)}});
            let read = joined(&public, &private).unwrap();
            prop_assert_eq!((read.key.expose(), read.nonce, read.mac), (&key[..], nonce, mac));
        }
    }
}
