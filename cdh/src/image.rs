//! Images: pulled, checked and left as a bundle for whoever starts the container (`api.ImagePullService`).
//!
//! The hub has the network, the policy and the keys; what needs privileges is `cdh-storage`'s ([`cc_storage`]). The way of one
//! pull, each step of which is undone when a later one fails:
//!
//! ```text
//! reference ─► image (manifest, configuration) ─► policy ─► layers into the store ─► bundle ─► event ─► manifest digest
//!              checked by their digests          each time   cdh-storage unpack     … mount    agent
//! ```
//!
//! Afterwards the session with the key broker is dropped: the evidence behind its token is older than the event.

pub mod config;
mod door;
mod event;
mod layers;
mod pull;
mod resource;
mod source;
pub(crate) mod storage;

pub use door::ImageService;
pub use pull::Puller;
