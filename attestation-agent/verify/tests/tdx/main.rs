//! TDX verification from outside: recorded quotes under Intel's root, and quotes made here under test roots,
//! so that every check is seen to pass and to fail.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr
)]

mod authority;
#[path = "../snp/der_writer.rs"]
mod der_writer;
mod event_log;
mod generated;
mod hostile;
mod platform;
mod recorded;
