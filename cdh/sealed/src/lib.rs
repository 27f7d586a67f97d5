//! Sealed secrets and wrapped image keys, as texts: parsed, checked, opened with a key, and written.
//!
//! Formats of the Confidential Containers guest components and of ocicrypt: the sealed secret ([`SealedSecret`], a compact
//! JWS of RFC 7515 behind the prefix `sealed.`), what an encrypted image layer says about its encryption
//! ([`LayerEncryption`]), the annotation packet that carries the wrapped key of such a layer ([`AnnotationPacket`]), and the
//! JSON of the key-provider protocol that such a packet travels in ([`key_provider`]), with the parameters of an image that
//! is being encrypted ([`WrapParameters`]).
//!
//! Pure: bytes in, typed values out. Where keys come from, which keys may sign, and who is asked to unwrap is decided by
//! the caller. All these texts come from the host (a Kubernetes secret, an image manifest), so they are bounded, parsed
//! once, and ambiguous ones are refused.
#![forbid(unsafe_code)]

mod error;
mod json;
pub mod key_provider;
mod layer;
mod packet;
mod payload;
mod wrap_parameters;
mod wrapper;

pub use error::SealedError;
pub use layer::{LayerEncryption, LayerKey, WrappedOptions};
pub use packet::{AnnotationPacket, Wrapping};
pub use payload::{Envelope, Payload, Vault};
pub use wrap_parameters::WrapParameters;
pub use wrapper::{MAX_SEALED_LEN, PREFIX, SealedSecret, VerifiedPayload, seal, unverified};
