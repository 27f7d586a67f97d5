//! OCI images inside the guest: from a name to a checked, unpacked root file system.
//!
//! The way of an image is a straight pipe. A [`Source`] gives documents and blobs by digest; [`Image::resolve`] turns
//! them into an [`Image`] whose manifest and configuration have the digests they should; a [`policy`] admits its manifest
//! or does not; [`unpack_rootfs`] takes what was admitted and runs every
//! layer through one pass of read, hash, decrypt, decompress, hash, untar, and shows the result under its name only when every
//! digest was right. Nothing of a failed pull stays behind, but of one that was only cut off what was checked, for the next one
//! ([`Error::may_go_on`]).
//!
//! Names, documents and the tar reader are pure: they take bytes and give values. It is NOT a registry client, and knows
//! nothing of key brokers, TEEs and RPC: the keys of encrypted layers come through [`LayerKeys`]. What comes from a registry is hostile until its digest has been compared:
//! every length, count and depth is bounded by [`Limits`].
//!
//! Implements the reading half of the OCI image specification 1.1 (image index, manifest, configuration, layer, image
//! layout) and the corresponding formats of Docker's image manifest version 2, schema 2.

mod artifact;
mod config;
mod crew;
mod descriptor;
mod digest;
mod error;
mod image;
mod json;
mod kept;
mod keys;
pub mod layer;
mod limits;
pub mod manifest;
mod observer;
mod platform;
pub mod policy;
mod reference;
pub mod rootfs;
mod runtime_config;
pub mod source;
mod staging;
pub mod store;
mod target;
pub mod tree;
mod user;

pub use artifact::{Artifact, ArtifactOrder, Part, PartForm, Pulled, Title, pull_artifact};
pub use config::ImageConfig;
pub use descriptor::{Compression, Descriptor, Storage};
pub use digest::{Algorithm, Digest, Hasher};
pub use error::{ImageError as Error, LayerFault, Mismatch, SourceFault};
pub use image::{Image, Layer};
pub use keys::{KeyFault, KeyRefusal, Keys, LayerKeys, NoKeys};
pub use limits::Limits;
pub use manifest::{Index, Manifest, Top};
pub use observer::{Event, Observer, Silent};
pub use platform::Platform;
pub use reference::{Reference, prefix_in_one_form};
pub use rootfs::{Order, Unpacked, unpack_rootfs};
pub use runtime_config::{runtime_config, unusable_volumes, with_user};
pub use source::{Document, Pointer, Source};
pub use staging::discard_kept;
pub use target::Target;
pub use user::{MAX_USER_FILE, User, UserUnknown};
