//! Images and their signatures from registries, over HTTP.
//!
//! A [`Client`] turns the name of an image into [`Attempts`], the places where it may be after search list, mirrors and
//! rewriting; each is a [`Repository`], which is an [`image_rs::Source`] and gives
//! the [`image_rs::policy::Signatures`] of its images.
//!
//! Nothing of a registry is trusted here either: lengths of documents, heads and challenges are bounded, every wait has a
//! limit, redirects do not leave TLS and do not lead into the network we are in, credentials go to whom they are for. Whether
//! the bytes are the right ones is found out by `image_rs`, which hashes them.
//!
//! Implements the pulling half of the OCI distribution specification 1.1, the token protocol of Docker's registry,
//! containers-registries.conf(5) version 2 and containers-auth.json(5).

mod auth_file;
mod authorization;
mod blob;
mod challenge;
mod client;
mod connection;
mod content_range;
mod dial;
mod error;
mod http_client;
mod link;
mod options;
mod pieces;
mod reach;
mod registries;
mod repository;
mod signatures;
mod stop;

pub use auth_file::AuthFile;
pub use challenge::Challenge;
pub use client::{Attempts, Client, leading};
pub use content_range::ContentRange;
pub use error::RegistryError;
pub use link::next_page;
pub use options::{Login, Options, Patience, Proxy, Ranges};
pub use registries::{Attempt, Registries};
pub use repository::Repository;
pub use signatures::RepositorySignatures;
pub use stop::Stop;
