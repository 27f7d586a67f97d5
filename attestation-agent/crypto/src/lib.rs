//! Secret bytes, the TEE key pair and the JWE of the KBS protocol.
//!
//! A key broker answers a resource request with a flattened JWE (RFC 7516) that only the key named in the
//! attested evidence can open. This crate makes that key, opens the answer, and, for the other side of the
//! conversation, seals one. The primitives come from AWS-LC; what is ours is the strict parsing around them.
//!
//! Sealed secrets and image keys add two whole-message ciphers ([`cipher`]) and one signature algorithm ([`es256`]); signed
//! images add public keys in PEM form ([`verify`]), the tokens of a key broker's administrator another algorithm ([`ed25519`]). Headers of
//! encrypted volumes are authenticated under a derived key ([`mac`]). Requests to a key management service are signed with
//! RSA ([`rsa`]) or an older message authentication code ([`mac::hmac_sha1`]).
//!
//! Encrypted images add the cipher of their layers as a stream ([`layer`]), and layer keys wrapped for private keys of files
//! ([`jwe::RecipientKey`]).
//!
//! It is not a general JOSE library: one content encryption (`A256GCM`), of the KBS two key algorithms
//! (`ECDH-ES+A256KW` on P-256 or P-521, `RSA-OAEP-256`) and one serialization. It knows nothing of HTTP, the
//! KBS, files or evidence.
mod base64url;
pub mod cipher;
mod der;
mod ecdh;
pub mod ed25519;
mod error;
pub mod es256;
pub mod jwe;
mod jwk;
mod key;
pub mod layer;
pub mod mac;
mod pem;
mod pkcs12;
pub mod rsa;
mod secret;
pub mod unique_json;
pub mod verify;

pub use error::CryptoError as Error;
pub use jwe::Jwe;
pub use jwk::PublicJwk;
pub use key::{KeyAlgorithm, TeeKeyPair};
pub use secret::Secret;
