//! From the certificate of a device's signing key to NVIDIA's root of device identities.
//!
//! The chain comes with the report, leaf first and root last, so that nothing in it counts until its root has been found
//! among the trusted ones. Every certificate but the leaf must be an authority, allow as many others below it as there are, and
//! have signed the one before it; the leaf's key is for signatures. All keys are on P-384, which leaves ECDSA with SHA-384 as
//! the one algorithm. The firmware identity (FWID) stands in an extension of the leaf (TCG DICE
//! Attestation Architecture, composite device id: version, key, FWID).

use std::fmt;

use cc_evidence::nvidia::{Architecture, FWID_LEN, MAX_CHAIN_LEN};
use der::asn1::{AnyRef, ObjectIdentifier, OctetStringRef};
use der::{Decode, Reader as _, SliceReader};

use crate::TrustRoots;
use crate::certificate::{Cert, read_pem};
use crate::rejection::Utc;
use crate::roots::Vouching;

/// Composite device id, with the FWID at its end.
const COMPOSITE_DEVICE_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.5.4.1");
const SHA_384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");

/// Fewest and most certificates of a chain: device and root; GPUs of today have five.
const LENGTH: std::ops::RangeInclusive<usize> = 2..=8;

/// A chain that was verified, but for its dates.
#[derive(Clone)]
pub struct GpuChain {
    certs: Vec<Cert>,
    leaf_name: String,
    leaf_sha256: [u8; 32],
    public_key: Vec<u8>,
    fwid: [u8; FWID_LEN],
    test_root: bool,
}

impl GpuChain {
    /// Reads and verifies the chain in `pem`, all but the dates. The error is a sentence.
    ///
    /// # Errors
    /// A sentence: which certificate fails and how.
    pub(super) fn read(pem: &[u8], roots: &TrustRoots) -> Result<Self, String> {
        let text = std::str::from_utf8(pem).map_err(|_| "it is not PEM text".to_owned())?;
        let certs = read_pem(text, MAX_CHAIN_LEN)?;
        if !LENGTH.contains(&certs.len()) {
            return Err(format!(
                "it has {} certificates instead of {} to {}: device, authorities, root",
                certs.len(),
                LENGTH.start(),
                LENGTH.end()
            ));
        }
        let (Some(leaf), Some(root)) = (certs.first(), certs.last()) else {
            return Err("it is empty".to_owned());
        };
        let vouching = roots.check_nvidia(root)?;
        for ((cert, issuer), below) in certs.iter().zip(certs.iter().skip(1)).zip(0_u8..) {
            issuer.check_authority()?;
            if issuer.p384_point().is_none() {
                return Err(format!("the key of {} is not on the curve P-384", issuer.common_name()));
            }
            if issuer.path_length()?.is_some_and(|limit| limit < below) {
                return Err(format!(
                    "{} allows fewer than {below} authorities below it",
                    issuer.common_name()
                ));
            }
            cert.check_issued_by(issuer)?;
        }
        if leaf.is_authority() {
            return Err(format!("{} signs certificates, so it is not that of a device", leaf.common_name()));
        }
        if !leaf.may_sign_data() {
            return Err(format!("the key of {} is not for signatures", leaf.common_name()));
        }
        let public_key = leaf
            .p384_point()
            .ok_or_else(|| format!("the key of {} is not on the curve P-384", leaf.common_name()))?;
        let fwid = leaf
            .extension(COMPOSITE_DEVICE_ID)
            .ok_or_else(|| format!("{} names no firmware identity (FWID)", leaf.common_name()))
            .and_then(|value| {
                fwid(value).map_err(|e| {
                    format!("the firmware identity of {} cannot be read: {e}", leaf.common_name())
                })
            })?;
        Ok(Self {
            leaf_name: leaf.common_name().to_owned(),
            leaf_sha256: leaf.sha256(),
            public_key: public_key.to_vec(),
            fwid,
            test_root: vouching == Vouching::Test,
            certs,
        })
    }

    /// Checks that every certificate is valid at `now`. The error is a sentence.
    pub(super) fn check_dates(&self, now: u64) -> Result<(), String> {
        let outside = |cert: &&Cert| {
            let (not_before, not_after) = cert.validity();
            !(not_before..=not_after).contains(&now)
        };
        match self.certs.iter().find(outside) {
            None => Ok(()),
            Some(cert) => {
                let (not_before, not_after) = cert.validity();
                Err(format!(
                    "the certificate {} is valid from {} to {}, the time of verification is {}",
                    cert.common_name(),
                    Utc(not_before),
                    Utc(not_after),
                    Utc(now)
                ))
            }
        }
    }

    /// Whether the leaf is that of a device of this generation, by its name.
    pub(super) fn is_of(&self, architecture: Architecture) -> bool {
        let begin = match architecture {
            Architecture::Hopper => "GH",
            Architecture::Blackwell => "GB",
            Architecture::Ls10 => "LS10",
        };
        self.leaf_name.starts_with(begin)
    }

    /// Common names, leaf first.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.certs.iter().map(Cert::common_name).collect()
    }

    /// Common name of the leaf.
    #[must_use]
    pub fn leaf_name(&self) -> &str {
        &self.leaf_name
    }

    /// SHA-256 over the leaf's DER.
    #[must_use]
    pub const fn leaf_sha256(&self) -> [u8; 32] {
        self.leaf_sha256
    }

    /// The firmware that the leaf's key belongs to.
    #[must_use]
    pub const fn fwid(&self) -> &[u8; FWID_LEN] {
        &self.fwid
    }

    /// Whether the chain ends at a test root.
    #[must_use]
    pub const fn test_root(&self) -> bool {
        self.test_root
    }

    /// Uncompressed P-384 point of the device's key, 97 bytes.
    pub(super) fn public_key(&self) -> &[u8] {
        &self.public_key
    }
}

impl fmt::Debug for GpuChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GpuChain")
            .field("names", &self.names())
            .field("fwid", &hex::encode(self.fwid))
            .field("test_root", &self.test_root)
            .finish()
    }
}

/// The FWID in a composite device id: `SEQUENCE { version INTEGER, key SubjectPublicKeyInfo, fwid SEQUENCE { hash
/// OBJECT IDENTIFIER, digest OCTET STRING } }`.
fn fwid(extension: &[u8]) -> Result<[u8; FWID_LEN], der::Error> {
    let mut outer = SliceReader::new(extension)?;
    let found = outer.sequence::<_, _, der::Error>(|id| {
        u8::decode(id)?;
        AnyRef::decode(id)?;
        id.sequence::<_, _, der::Error>(|fwid| {
            let hash = ObjectIdentifier::decode(fwid)?;
            let digest = <&OctetStringRef>::decode(fwid)?;
            match <[u8; FWID_LEN]>::try_from(digest.as_bytes()) {
                Ok(digest) if hash == SHA_384 => Ok::<_, der::Error>(digest),
                _ => Err(der::ErrorKind::Failed.into()),
            }
        })
    })?;
    outer.finish()?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 1, an empty key, SHA-384 and 48 bytes.
    fn id(hash: u8, digest: u8) -> Vec<u8> {
        let mut fwid = vec![0x06, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, hash, 0x04, digest];
        fwid.extend(vec![0xF5; usize::from(digest)]);
        let length = u8::try_from(fwid.len()).unwrap();
        [&[0x30, length + 7, 2, 1, 1, 0x30, 0, 0x30, length], fwid.as_slice()].concat()
    }

    #[test]
    fn the_fwid_is_the_digest_at_the_end() {
        assert_eq!(fwid(&id(2, 48)).unwrap(), [0xF5; 48]);
    }

    #[test]
    fn other_hashes_lengths_and_shapes_are_refused() {
        let good = id(2, 48);
        assert!(fwid(&id(1, 48)).is_err(), "SHA-256 by its name");
        assert!(fwid(&id(2, 47)).is_err());
        assert!(fwid(&[good.as_slice(), &[0]].concat()).is_err());
        for len in 0..good.len() {
            assert!(fwid(&good[..len]).is_err(), "{len}");
        }
    }
}
