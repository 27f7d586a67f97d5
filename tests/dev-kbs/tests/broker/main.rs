//! The broker as its clients see it: through its routes in process, and as a program on the loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod administration;
mod guest;
mod nvidia;
mod program;
mod protocol;
mod resources;
mod snp;
mod tdx;
