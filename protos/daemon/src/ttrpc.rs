//! ttrpc, the protocol of kata-agent: framing, envelope, and the bridges to and from gRPC.
//!
//! ttrpc is gRPC without HTTP: each frame is a header of ten bytes and a protobuf message that holds service,
//! method and payload. Source: the protocol description `PROTOCOL.md` and `request.proto` of the containerd
//! project's ttrpc. A request that arrives is turned into the gRPC request that the same caller would have sent,
//! given to the same tonic service, and its answer turned back; there are no ttrpc handlers. The same in the
//! other direction lets a tonic client call a daemon that speaks nothing but ttrpc ([`crate::connect`]).
//!
//! It is NOT a full ttrpc: no streams (no method of these daemons has one).

mod bridge;
pub mod client;
pub(crate) mod connection;
pub mod envelope;
pub mod frame;
pub(crate) mod mirror;
