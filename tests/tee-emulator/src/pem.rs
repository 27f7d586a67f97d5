//! Certificates and keys as text.

use der::pem::{LineEnding, encode_string};

use crate::Error;

/// `certificates` (DER) as PEM, one after the other.
pub(crate) fn certificates(certificates: &[&[u8]]) -> Result<String, Error> {
    let encode = |der: &&[u8]| encode_string("CERTIFICATE", LineEnding::LF, der);
    certificates
        .iter()
        .map(encode)
        .collect::<Result<_, _>>()
        .map_err(|error| Error::Encoding { what: "certificates as PEM", source: error.into() })
}

/// A public key (SubjectPublicKeyInfo, DER) as PEM.
pub(crate) fn public_key(der: &[u8]) -> Result<String, Error> {
    encode_string("PUBLIC KEY", LineEnding::LF, der)
        .map_err(|error| Error::Encoding { what: "a public key as PEM", source: error.into() })
}
