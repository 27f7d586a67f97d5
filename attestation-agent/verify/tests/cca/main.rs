//! Arm CCA evidence: the recorded token of a simulated platform, and tokens that the tests sign.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stderr, clippy::disallowed_methods)]

mod made;
mod maker;
mod recorded;
