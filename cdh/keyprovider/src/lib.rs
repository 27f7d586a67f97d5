//! The image-encrypting key provider: wraps the keys of image layers for skopeo and other users of ocicrypt.
//!
//! It runs where images are built and signed, outside of the guest, and answers `keyprovider.KeyProviderService/WrapKey`
//! over gRPC: the private options of a layer are wrapped under a key-encryption key, and what comes out is the annotation
//! packet that the confidential data hub unwraps in the guest ([`cc_sealed::AnnotationPacket`]). With an administrator's
//! key it registers the key-encryption key with the key broker.
//!
//! It is NOT part of a guest, and it does not unwrap: that takes attestation. Its callers have no identity: whoever
//! reaches the socket may have keys wrapped, and new ones registered.
//!
//! Implements the key-provider protocol of ocicrypt and the parameters of the key provider of the Confidential Containers
//! guest components.
#![forbid(unsafe_code)]

pub mod config;
pub mod error;
pub mod key_id;
pub mod server;
pub mod service;
pub mod wrap;
