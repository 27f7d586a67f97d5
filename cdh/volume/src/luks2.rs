//! The header of a LUKS2 volume (LUKS2 On-Disk Format Specification 1.1): read once, judged, authenticated.
//!
//! [`format`](mod@format) has the constants and types, `read` the two binary headers, `metadata` their JSON, `policy`
//! the rules for what a header may say, `tag` its authentication. `detached` makes of a header that was read the file that a
//! volume is opened with. Nothing here makes a new header.

mod detached;
pub mod format;
mod metadata;
mod object;
mod policy;
mod read;
mod rule;
#[cfg(test)]
pub(crate) mod sample;
mod tag;

pub use detached::{Canonical, DetachedHeader, NotRead};
pub use policy::{KdfLimits, Policy, Verdict, Violation};
pub use read::{Copies, Damage, Header, Secondary};
pub use rule::Rule;
pub use tag::{HeaderKey, Tag};
