//! Sealed secrets and wrapped image keys, as texts: parsed, checked, opened with a key, and written.
//!
//! Three formats of the Confidential Containers guest components: the sealed secret ([`SealedSecret`], a compact JWS of
//! RFC 7515 behind the prefix `sealed.`), the annotation packet that carries the wrapped key of an image layer
//! ([`AnnotationPacket`]), and the JSON of the ocicrypt key-provider protocol that such a packet travels in
//! ([`key_provider`]), with the parameters of an image that is being encrypted ([`WrapParameters`]).
//!
//! Pure: bytes in, typed values out. Where keys come from, which keys may sign, and who is asked to unwrap is decided by
//! the caller. All three texts come from the host (a Kubernetes secret, an image manifest), so they are bounded, parsed
//! once, and ambiguous ones are refused.
#![forbid(unsafe_code)]

mod error;
mod json;
pub mod key_provider;
mod packet;
mod payload;
mod wrap_parameters;
mod wrapper;

pub use error::SealedError;
pub use packet::{AnnotationPacket, Wrapping};
pub use payload::{Envelope, Payload, Vault};
pub use wrap_parameters::WrapParameters;
pub use wrapper::{MAX_SEALED_LEN, PREFIX, SealedSecret, VerifiedPayload, seal, unverified};
