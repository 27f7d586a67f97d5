//! The header of a LUKS2 volume (LUKS2 On-Disk Format Specification 1.1): read once, judged, authenticated.
//!
//! [`format`](mod@format) has the constants and types, `read` the two binary headers, `metadata` their JSON, `policy`
//! the rules for what a header may say, `tag` its authentication. Nothing here writes a header.

pub mod format;
mod metadata;
mod object;
mod policy;
mod read;
mod rule;
mod tag;

pub use policy::{KdfLimits, Policy, Verdict, Violation};
pub use read::{Header, Secondary};
pub use rule::Rule;
pub use tag::{HeaderKey, Tag};
