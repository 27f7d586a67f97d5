//! The private protocol between the data hub and `cdh-storage`, its small privileged half.
//!
//! A [`Channel`] is a Unix socket that keeps message boundaries, and only the hub has the other end. On it goes one
//! [`Request`] at a time, with file descriptors and at most one secret, and one answer comes back. More work at once needs
//! more channels, which [`Client::connect`] makes over the one that the hub has from the start.
//!
//! It is NOT the work itself, which is in `cdh-storage`, and no protocol for anybody else: both ends come from one build,
//! and a message of another version is refused.

mod channel;
mod client;
mod error;
mod key_pair;
mod packet;
mod request;

pub use channel::{Channel, Received};
pub use client::{Answered, Client};
pub use error::{Fault, StorageError};
pub use key_pair::{join_keys, split_keys};
pub use packet::{MAX_LEN, Packet};
pub use request::{
    Answer, Bundle, Cipher, Claim, Content, Device, Image, Layer, MAX_LAYERS, Name, Opened, Request, Volume,
    format_mark,
};
