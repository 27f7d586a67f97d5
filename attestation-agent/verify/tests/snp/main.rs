//! SNP verification from outside: recorded evidence under AMD's roots, and evidence made here under
//! test roots, so that every check is seen to pass and to fail.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr
)]

mod authority;
mod der_writer;
mod generated;
mod hostile;
mod machine;
mod recorded;
mod revocation;
