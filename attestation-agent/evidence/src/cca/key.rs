//! The realm's public key as it stands in its token: a bare point, or a COSE_Key (RFC 9053, section 7.1.1).

use crate::Error;
use crate::cbor::Value;

use super::{invalid, member};

/// Elliptic curves of signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// NIST P-521.
    P521,
}

impl Curve {
    /// The name in keys.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// Length of a coordinate in bytes.
    #[must_use]
    pub const fn coordinate_len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

/// A public key: a point that nobody has checked to be on its curve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EcKey {
    /// The curve.
    pub curve: Curve,
    /// The point, uncompressed: 4, x, y.
    pub point: Vec<u8>,
}

impl EcKey {
    /// A key of its coordinates, big endian.
    ///
    /// # Errors
    /// [`Error::Invalid`] for coordinates of another length than the curve's.
    pub fn new(curve: Curve, x: &[u8], y: &[u8]) -> Result<Self, Error> {
        let length = curve.coordinate_len();
        if x.len() != length || y.len() != length {
            let why = format!("a coordinate of {} does not have {length} bytes", curve.as_str());
            return Err(invalid("key.coordinate", why));
        }
        Ok(Self { curve, point: [&[4], x, y].concat() })
    }

    /// Reads the claim of a realm's public key: 97 bytes are a point of P-384, anything else is a COSE_Key.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a key of another kind, and those of [`Value::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        // A COSE_Key begins with the head of a map.
        if let ([4, rest @ ..], 97) = (bytes, bytes.len()) {
            let (x, y) = rest.split_at(48);
            return Self::new(Curve::P384, x, y);
        }
        let key = Value::parse(bytes)?;
        let kind = member(&key, 1, "key.type", Value::integer)?;
        if kind != 2 {
            return Err(invalid(
                "key.type",
                format!("{kind} is not an elliptic curve with two coordinates (2)"),
            ));
        }
        let curve = match member(&key, -1, "key.curve", Value::integer)? {
            1 => Curve::P256,
            2 => Curve::P384,
            3 => Curve::P521,
            other => return Err(invalid("key.curve", format!("{other} is none of P-256, P-384, P-521"))),
        };
        Self::new(curve, member(&key, -2, "key.x", Value::bytes)?, member(&key, -3, "key.y", Value::bytes)?)
    }
}
