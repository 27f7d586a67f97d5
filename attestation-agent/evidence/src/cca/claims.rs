//! What the two tokens say: claims by their labels.
//!
//! DEN0137, "CCA platform token claims" and "Realm token claims". A claim of another type or length is refused, a label
//! that nobody knows is ignored: profiles add some.

use std::fmt;

use crate::Error;
use crate::cbor::Value;

use super::key::EcKey;
use super::{invalid, member, optional};

const CHALLENGE: i128 = 10;
const PROFILE: i128 = 265;

/// Most software components of a platform.
const MAX_COMPONENTS: usize = 64;

/// The lifecycle states in which a platform is secured: all others are development, debug or the end of its life.
const SECURED: std::ops::RangeInclusive<u64> = 0x3000..=0x30FF;

/// Hash algorithms by the names that tokens use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashName {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl HashName {
    /// The name in tokens, from the IANA registry of named hash functions.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha-256",
            Self::Sha384 => "sha-384",
            Self::Sha512 => "sha-512",
        }
    }

    /// Length of a digest in bytes.
    #[must_use]
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    fn parse(field: &'static str, name: &str) -> Result<Self, Error> {
        match name {
            "sha-256" => Ok(Self::Sha256),
            "sha-384" => Ok(Self::Sha384),
            "sha-512" => Ok(Self::Sha512),
            _ => Err(invalid(field, "the hash is none of sha-256, sha-384, sha-512".to_owned())),
        }
    }
}

impl fmt::Display for HashName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The platform: firmware, its measurements, its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformClaims {
    /// Profile of the claims, a URI.
    pub profile: String,
    /// Hash over the realm's public key: what ties the two tokens together. 32, 48 or 64 bytes.
    pub challenge: Vec<u8>,
    /// Implementation of the platform.
    pub implementation_id: [u8; 32],
    /// The one platform: 1 and a hash of its attestation key.
    pub instance_id: [u8; 33],
    /// System properties, in a form of the platform's own.
    pub config: Vec<u8>,
    /// State of the lifecycle.
    pub lifecycle: u64,
    /// What was measured at boot.
    pub software_components: Vec<SoftwareComponent>,
    /// Where the platform can be verified, a URL.
    pub verification_service: Option<String>,
    /// Hash of the measurements.
    pub hash: HashName,
}

/// A part of the platform's firmware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoftwareComponent {
    /// Its name.
    pub kind: Option<String>,
    /// Its digest: 32, 48 or 64 bytes.
    pub measurement: Vec<u8>,
    /// Its version.
    pub version: Option<String>,
    /// Digest of the key that signed it: 32, 48 or 64 bytes.
    pub signer_id: Vec<u8>,
    /// Hash of its measurement, where it is not that of the platform.
    pub hash: Option<HashName>,
}

/// The realm: its launch and its run-time measurements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealmClaims {
    /// Profile of the claims, a URI; older tokens have none.
    pub profile: Option<String>,
    /// The caller's data.
    pub challenge: [u8; 64],
    /// What the host launched the realm with.
    pub personalization: [u8; 64],
    /// Hash of the measurements.
    pub hash: HashName,
    /// The realm's attestation key as it stands in the token, the input of the platform's challenge.
    pub public_key_bytes: Vec<u8>,
    /// The same, read.
    pub public_key: EcKey,
    /// Hash of the platform's challenge.
    pub public_key_hash: HashName,
    /// Measurement of the initial content: 32, 48 or 64 bytes.
    pub initial_measurement: Vec<u8>,
    /// The four registers that the realm extends: 32, 48 or 64 bytes each.
    pub extensible_measurements: [Vec<u8>; 4],
}

impl PlatformClaims {
    /// Whether the platform is in a secured state: not in development, not debugged, not at the end of its life.
    #[must_use]
    pub fn is_secured(&self) -> bool {
        SECURED.contains(&self.lifecycle)
    }

    pub(super) fn parse(payload: &[u8]) -> Result<Self, Error> {
        let map = &Value::parse(payload)?;
        let hash = member(map, 2402, "cca.platform.hash_algorithm", Value::text)?;
        let lifecycle = member(map, 2395, "cca.platform.lifecycle", Value::integer)?;
        let components = member(map, 2399, "cca.platform.sw_components", Value::array)?;
        if components.is_empty() || components.len() > MAX_COMPONENTS {
            let why = format!("{} were found, 1 to {MAX_COMPONENTS} are expected", components.len());
            return Err(invalid("cca.platform.sw_components", why));
        }
        Ok(Self {
            profile: text(map, PROFILE, "cca.platform.profile")?,
            challenge: digest(map, CHALLENGE, "cca.platform.challenge")?,
            implementation_id: array(map, 2396, "cca.platform.implementation_id")?,
            instance_id: array(map, 256, "cca.platform.instance_id")?,
            config: member(map, 2401, "cca.platform.config", Value::bytes)?.to_vec(),
            lifecycle: u64::try_from(lifecycle)
                .map_err(|_| invalid("cca.platform.lifecycle", "it is negative".to_owned()))?,
            software_components: components.iter().map(SoftwareComponent::read).collect::<Result<_, _>>()?,
            verification_service: optional_text(map, 2400, "cca.platform.verification_service")?,
            hash: HashName::parse("cca.platform.hash_algorithm", hash)?,
        })
    }
}

impl SoftwareComponent {
    fn read(map: &Value<'_>) -> Result<Self, Error> {
        let hash = optional(map, 6, "cca.component.hash_algorithm", Value::text)?;
        Ok(Self {
            kind: optional_text(map, 1, "cca.component.type")?,
            measurement: digest(map, 2, "cca.component.measurement")?,
            version: optional_text(map, 4, "cca.component.version")?,
            signer_id: digest(map, 5, "cca.component.signer_id")?,
            hash: hash.map(|name| HashName::parse("cca.component.hash_algorithm", name)).transpose()?,
        })
    }
}

impl RealmClaims {
    pub(super) fn parse(payload: &[u8]) -> Result<Self, Error> {
        let map = &Value::parse(payload)?;
        let field = "cca.realm.extensible_measurements";
        let registers = member(map, 44239, field, Value::array)?;
        let registers: Vec<_> = registers
            .iter()
            .map(|register| digest_of(register).ok_or_else(|| invalid(field, NO_DIGEST.to_owned())))
            .collect::<Result<_, _>>()?;
        let found = registers.len();
        let extensible_measurements = registers
            .try_into()
            .map_err(|_| invalid(field, format!("{found} were found, 4 are expected")))?;
        let public_key_bytes = member(map, 44237, "cca.realm.public_key", Value::bytes)?;
        let name = |key, field| HashName::parse(field, member(map, key, field, Value::text)?);
        Ok(Self {
            profile: optional_text(map, PROFILE, "cca.realm.profile")?,
            challenge: array(map, CHALLENGE, "cca.realm.challenge")?,
            personalization: array(map, 44235, "cca.realm.personalization_value")?,
            hash: name(44236, "cca.realm.hash_algorithm")?,
            public_key: EcKey::parse(public_key_bytes)?,
            public_key_bytes: public_key_bytes.to_vec(),
            public_key_hash: name(44240, "cca.realm.public_key_hash_algorithm")?,
            initial_measurement: digest(map, 44238, "cca.realm.initial_measurement")?,
            extensible_measurements,
        })
    }
}

const NO_DIGEST: &str = "it is no byte string of 32, 48 or 64 bytes";

fn digest_of(value: &Value<'_>) -> Option<Vec<u8>> {
    value.bytes().filter(|bytes| matches!(bytes.len(), 32 | 48 | 64)).map(<[u8]>::to_vec)
}

fn digest(map: &Value<'_>, key: i128, field: &'static str) -> Result<Vec<u8>, Error> {
    member(map, key, field, Some)
        .and_then(|value| digest_of(value).ok_or_else(|| invalid(field, NO_DIGEST.to_owned())))
}

fn array<const N: usize>(map: &Value<'_>, key: i128, field: &'static str) -> Result<[u8; N], Error> {
    let bytes = member(map, key, field, Value::bytes)?;
    bytes
        .try_into()
        .map_err(|_| invalid(field, format!("{} bytes were found, {N} are expected", bytes.len())))
}

fn text(map: &Value<'_>, key: i128, field: &'static str) -> Result<String, Error> {
    member(map, key, field, Value::text).map(str::to_owned)
}

fn optional_text(map: &Value<'_>, key: i128, field: &'static str) -> Result<Option<String>, Error> {
    Ok(optional(map, key, field, Value::text)?.map(str::to_owned))
}
