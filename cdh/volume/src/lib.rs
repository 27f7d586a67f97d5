//! Encrypted volumes without a device: the LUKS2 header, read strictly, judged by a policy, and authenticated.
//!
//! A disk of a confidential machine belongs to its host. Of a LUKS2 header nothing is protected but the volume key, so a
//! host may write one that opens with any key, encrypts with no cipher, or is read from another place than was meant.
//! [`luks2::Header`] reads the header from one copy in memory, [`luks2::Policy`] refuses what a header of ours never says,
//! and [`luks2::HeaderKey`] ties a header to the secret that opens it. [`luks2::DetachedHeader`] is the copy to open the volume
//! with, and [`dm_crypt`] and [`dm_integrity`] compare with it what the kernel then has. [`command_line`] finds what would have a
//! volume opened otherwise, [`mount_request`] reads what a host asks to have mounted, and [`client_id`] puts a machine's id into the name of
//! a key.
//!
//! Pure: bytes in, typed values out. It knows no files, no devices and no libcryptsetup, never opens a volume, and does
//! not ask where a secret comes from. What is in the volume is not its business either.
#![forbid(unsafe_code)]

pub mod client_id;
pub mod command_line;
pub mod dm_crypt;
pub mod dm_integrity;
mod error;
pub mod luks2;
pub mod mount_request;

pub use error::VolumeError as Error;
