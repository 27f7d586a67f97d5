//! The server over real sockets, with stand-ins for the two daemons behind it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(missing_docs, clippy::disallowed_methods)]

mod client;
mod outage;
mod process;
mod raw;
mod rows;
mod stand_in;
