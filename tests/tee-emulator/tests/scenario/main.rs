//! The emulator through its file system, and the production platform code over it.
//!
//! Needs root and `/dev/fuse`; without them each test says so and does nothing.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stderr, clippy::disallowed_methods)]

mod cca;
mod devices;
mod interface;
mod measurements;
mod nvidia;
mod platform;
mod program;
mod room;
mod tdx;
mod verdict;
