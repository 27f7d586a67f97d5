//! OpenPGP as simple signing uses it (RFC 9580): one signed message, and a ring of public keys that may have signed it.
//!
//! A message is a signature around literal data, at most once compressed; nothing else may be in it. The signature is of
//! the binary type, by version 4 or later, over SHA-256 or longer. The key is a primary key that may sign or a subkey with
//! that use that is bound in both directions; neither it nor its primary key is revoked or expired, at the moment that the
//! caller names. RSA keys have 2048 bits or more; DSA and Elgamal are not taken.
//!
//! Web of trust, key servers and passphrases have no place here: a key is trusted because the policy names it.

use std::io::Read;

use pgp::{
    composed::{Deserializable, SignedPublicKey, SignedPublicSubKey},
    crypto::hash::HashAlgorithm,
    packet::{Packet, PacketParser, Signature, SignatureType, SignatureVersion, SubpacketData},
    ser::Serialize,
    types::{KeyDetails, KeyVersion, PublicParams, Tag, VerifyingKey},
};

/// Longest ring read, in bytes, and longest message, compressed or not.
const MAX_LEN: usize = 1 << 20;
/// Most packets in a message that is not refused: signature, data, signature.
const MAX_PACKETS: usize = 3;
/// Most keys looked at in a ring.
const MAX_KEYS: usize = 256;
/// Seconds by which the clock of a signer may be ahead of ours.
const MAX_SKEW: u64 = 300;
/// Bytes of an RSA key of 2048 bits with the smallest exponent, as two numbers with their lengths.
const MIN_RSA: usize = 2 + 256 + 2 + 1;

/// Public keys of whom a policy trusts.
#[derive(Debug, Clone)]
pub(crate) struct Ring(Vec<SignedPublicKey>);

/// What was signed, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    /// The data.
    pub(crate) payload: Vec<u8>,
    /// Fingerprint of the primary key, in hexadecimal.
    pub(crate) signer: String,
}

/// Why a message is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is no message of the kind described.
    Malformed(String),
    /// No key of the ring made it, or the one that did may not.
    Untrusted(String),
}

impl Ring {
    /// Reads public keys, binary or in ASCII armour, at most 1 MiB and 256 keys. The error is a sentence.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MAX_LEN {
            return Err(format!("it has more than {MAX_LEN} bytes"));
        }
        let (keys, _) =
            SignedPublicKey::from_reader_many(bytes).map_err(|_| "it holds no OpenPGP keys".to_owned())?;
        let mut ring = Vec::new();
        for key in keys {
            ring.push(key.map_err(|error| format!("a key in it is malformed: {}", short(&error)))?);
            if ring.len() > MAX_KEYS {
                return Err(format!("it holds more than {MAX_KEYS} keys"));
            }
        }
        if ring.is_empty() { Err("it holds no OpenPGP keys".to_owned()) } else { Ok(Self(ring)) }
    }

    /// Checks `message` at the moment `at`, seconds since 1970.
    pub(crate) fn verify(&self, message: &[u8], at: u64) -> Result<Signed, Fault> {
        let (signature, payload) = read_message(message).map_err(Fault::Malformed)?;
        check_form(&signature, at).map_err(Fault::Untrusted)?;
        let mut why = "no key of the policy made it".to_owned();
        for key in &self.0 {
            match signer(key, &signature, &payload, at) {
                Some(Ok(())) => {
                    let signer = hex::encode(key.primary_key.fingerprint().as_bytes());
                    return Ok(Signed { payload, signer });
                }
                Some(Err(refused)) => why = refused,
                None => {}
            }
        }
        Err(Fault::Untrusted(why))
    }
}

/// The one signature in `message` and the data that it is over.
fn read_message(message: &[u8]) -> Result<(Signature, Vec<u8>), String> {
    if message.len() > MAX_LEN {
        return Err(format!("it has more than {MAX_LEN} bytes"));
    }
    let mut packets = read_packets(message)?;
    if let [Packet::CompressedData(compressed)] = packets.as_slice() {
        let mut plain = Vec::new();
        let reader = compressed.decompress().map_err(|error| short(&error))?;
        reader
            .take(MAX_LEN as u64 + 1)
            .read_to_end(&mut plain)
            .map_err(|_| "it cannot be decompressed".to_owned())?;
        if plain.len() > MAX_LEN {
            return Err(format!("it has more than {MAX_LEN} bytes when decompressed"));
        }
        packets = read_packets(&plain)?;
    }
    let mut packets = packets.into_iter();
    match (packets.next(), packets.next(), packets.next()) {
        (
            Some(Packet::OnePassSignature(_)),
            Some(Packet::LiteralData(data)),
            Some(Packet::Signature(signature)),
        )
        | (Some(Packet::Signature(signature)), Some(Packet::LiteralData(data)), None) => {
            Ok((signature, data.data().to_vec()))
        }
        _ => Err("it is not one signature around data".to_owned()),
    }
}

fn read_packets(bytes: &[u8]) -> Result<Vec<Packet>, String> {
    let mut packets = Vec::new();
    for packet in PacketParser::new(bytes) {
        packets.push(packet.map_err(|error| short(&error))?);
        if packets.len() > MAX_PACKETS {
            return Err("it has more packets than a signed message".to_owned());
        }
    }
    Ok(packets)
}

/// What a signature must be, whoever made it.
fn check_form(signature: &Signature, at: u64) -> Result<(), String> {
    let config = signature.config().ok_or_else(|| "its version is not known".to_owned())?;
    if !matches!(signature.version(), SignatureVersion::V4 | SignatureVersion::V6) {
        return Err("its version is outdated".to_owned());
    }
    if config.typ != SignatureType::Binary {
        return Err("it is of another type than a signature over binary data".to_owned());
    }
    if !is_strong(config.hash_alg) {
        return Err(format!("its hash {} is outdated", config.hash_alg));
    }
    for subpacket in config.hashed_subpackets() {
        let unknown = matches!(
            subpacket.data,
            SubpacketData::Notation(_) | SubpacketData::Experimental(..) | SubpacketData::Other(..)
        );
        if subpacket.is_critical && unknown {
            return Err("it has a critical part that is not known".to_owned());
        }
    }
    let created = signature.created().ok_or_else(|| "it does not say when it was made".to_owned())?;
    let created = u64::from(created.as_secs());
    if created > at.saturating_add(MAX_SKEW) {
        return Err("it was made in the future".to_owned());
    }
    let life = signature.signature_expiration_time().map_or(0, |life| u64::from(life.as_secs()));
    if life != 0 && created + life <= at { Err("it has expired".to_owned()) } else { Ok(()) }
}

/// `None`: not made by this key. Else whether the key that made it may.
fn signer(
    key: &SignedPublicKey,
    signature: &Signature,
    payload: &[u8],
    at: u64,
) -> Option<Result<(), String>> {
    if made_by(signature, &key.primary_key, payload) {
        return Some(primary_key(key, at).and_then(|may_sign| {
            if may_sign { Ok(()) } else { Err("the key that made it is not for signing".to_owned()) }
        }));
    }
    let subkey = key.public_subkeys.iter().find(|subkey| made_by(signature, &subkey.key, payload))?;
    Some(primary_key(key, at).and_then(|_| signing_subkey(key, subkey, at)))
}

fn made_by(signature: &Signature, key: &impl VerifyingKey, payload: &[u8]) -> bool {
    let fit = match key.public_params() {
        PublicParams::RSA(parameters) => parameters.write_len() >= MIN_RSA,
        PublicParams::ECDSA(_)
        | PublicParams::EdDSALegacy(_)
        | PublicParams::Ed25519(_)
        | PublicParams::Ed448(_) => true,
        _ => false,
    };
    fit && matches!(key.version(), KeyVersion::V4 | KeyVersion::V6) && signature.verify(key, payload).is_ok()
}

/// Refuses a primary key that is revoked, expired, or not vouched for by itself; else whether it may sign.
fn primary_key(key: &SignedPublicKey, at: u64) -> Result<bool, String> {
    let primary = &key.primary_key;
    if key.details.revocation_signatures.iter().any(|revocation| revocation.verify_key(primary).is_ok()) {
        return Err("the key that made it is revoked".to_owned());
    }
    let direct = key
        .details
        .direct_signatures
        .iter()
        .filter(|own| own.typ() == Some(SignatureType::Key) && own.verify_key(primary).is_ok());
    let on_users = key.details.users.iter().flat_map(|user| {
        let own = |own: &&Signature| own.verify_certification(primary, Tag::UserId, &user.id).is_ok();
        let revoked =
            user.signatures.iter().any(|s| s.typ() == Some(SignatureType::CertRevocation) && own(&s));
        user.signatures
            .iter()
            .filter(move |s| !revoked && s.typ() != Some(SignatureType::CertRevocation) && own(s))
    });
    // Each speaks for itself: a newer signature over the key alone, which may only name who can revoke it, takes back
    // neither the end nor the purpose that the one over the user's name gives.
    let own: Vec<&Signature> = newest(direct, at).into_iter().chain(newest(on_users, at)).collect();
    if own.is_empty() {
        return Err("the key that made it has no valid signature of its own".to_owned());
    }
    own.iter().try_for_each(|signature| check_life(primary, signature, at))?;
    let has_flags = |signature: &&&Signature| {
        signature.config().is_some_and(|config| {
            config.hashed_subpackets().any(|subpacket| matches!(subpacket.data, SubpacketData::KeyFlags(_)))
        })
    };
    Ok(own.iter().filter(has_flags).all(|signature| signature.key_flags().sign()))
}

fn signing_subkey(key: &SignedPublicKey, subkey: &SignedPublicSubKey, at: u64) -> Result<(), String> {
    let valid = |kind: SignatureType| {
        let primary = &key.primary_key;
        subkey.signatures.iter().filter(move |signature| {
            signature.typ() == Some(kind) && signature.verify_subkey_binding(primary, &subkey.key).is_ok()
        })
    };
    if valid(SignatureType::SubkeyRevocation).next().is_some() {
        return Err("the subkey that made it is revoked".to_owned());
    }
    let binding = newest(valid(SignatureType::SubkeyBinding), at)
        .ok_or_else(|| "the subkey that made it is not bound to its key".to_owned())?;
    check_life(&subkey.key, binding, at)?;
    let agreed = binding.embedded_signature().is_some_and(|back| {
        is_current(back, at) && back.verify_primary_key_binding(&subkey.key, &key.primary_key).is_ok()
    });
    if binding.key_flags().sign() && agreed {
        Ok(())
    } else {
        Err("the subkey that made it is not for signing".to_owned())
    }
}

/// The newest of `signatures`, all verified, that counts at `at`.
fn newest<'a>(signatures: impl Iterator<Item = &'a Signature>, at: u64) -> Option<&'a Signature> {
    let created = |signature: &&Signature| signature.created().map_or(0, |created| created.as_secs());
    signatures.filter(|signature| is_current(signature, at)).max_by_key(created)
}

/// Whether a signature over a key counts at `at`.
fn is_current(signature: &Signature, at: u64) -> bool {
    let Some(created) = signature.created() else { return false };
    let created = u64::from(created.as_secs());
    let life = signature.signature_expiration_time().map_or(0, |life| u64::from(life.as_secs()));
    let strong = signature.config().is_some_and(|config| is_strong(config.hash_alg));
    strong && created <= at && (life == 0 || at < created + life)
}

fn check_life(key: &impl KeyDetails, own: &Signature, at: u64) -> Result<(), String> {
    let created = u64::from(key.created_at().as_secs());
    let life = own.key_expiration_time().map_or(0, |life| u64::from(life.as_secs()));
    if at < created || (life != 0 && created + life <= at) {
        return Err("the key that made it has expired or is not valid yet".to_owned());
    }
    Ok(())
}

const fn is_strong(hash: HashAlgorithm) -> bool {
    matches!(
        hash,
        HashAlgorithm::Sha256
            | HashAlgorithm::Sha384
            | HashAlgorithm::Sha512
            | HashAlgorithm::Sha3_256
            | HashAlgorithm::Sha3_512
    )
}

/// The library's sentence on one line, cut.
fn short(error: &pgp::errors::Error) -> String {
    error.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).take(120).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_message_or_ring_is_refused() {
        assert!(Ring::parse(b"").is_err());
        assert!(
            Ring::parse(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n-----END PGP PUBLIC KEY BLOCK-----\n")
                .is_err()
        );
        assert!(Ring::parse(&vec![0x99; MAX_LEN + 1]).is_err());
        for bad in [&b""[..], b"{}", &[0xcb, 0x03, b'b', 0, 0]] {
            assert!(read_message(bad).is_err(), "{bad:02x?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Ring::parse(&bytes);
            let _ = read_message(&bytes);
        }
    }
}
