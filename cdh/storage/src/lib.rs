//! `cdh-storage`, the small privileged half of the confidential data hub.
//!
//! The hub itself needs no capability; what needs one is done here, when the hub asks for it over a socket that only the
//! hub has ([`cc_storage`]). There are modes of their own, because a process that is confined by Landlock cannot mount:
//!
//! * `mount` mounts overlays and makes bundles,
//! * `unpack` unpacks layers into the store, and cannot touch anything else.
//!
//! Built with the feature `luks` it has two more, which use libcryptsetup: `volume` makes and changes headers of LUKS2 volumes in
//! memory and is given no disk; `disk` opens, formats, mounts and closes block devices.
//!
//! To add a kind of work: a variant of [`cc_storage::Request`], an arm in the mode's [`serve::Worker`], a module beside it.
//! It is NOT a decider: policy, keys and names are the hub's. It does not speak to any network.

#![forbid(unsafe_code)]

mod boot;
pub mod cli;
mod confine;
#[cfg(feature = "luks")]
pub mod disk;
mod error;
pub mod mount;
pub mod serve;
pub mod unpack;
#[cfg(feature = "luks")]
pub mod volume;

pub use error::Failure;
