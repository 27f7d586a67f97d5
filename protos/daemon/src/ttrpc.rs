//! ttrpc, the protocol of kata-agent: framing, envelope, and the bridge to gRPC services.
//!
//! ttrpc is gRPC without HTTP: each frame is a header of ten bytes and a protobuf message that holds service,
//! method and payload. Source: the protocol description `PROTOCOL.md` and `request.proto` of the containerd
//! project's ttrpc. A request is turned into the gRPC request that the same caller would have sent, given to the
//! same tonic service, and its answer turned back; there are no ttrpc handlers.
//!
//! It is NOT a full ttrpc: no streams (no method of these daemons has one), no client.

mod bridge;
pub(crate) mod connection;
pub mod envelope;
pub mod frame;
