//! The process: parse, give up what is not needed, serve the socket on descriptor 0.

use std::process::ExitCode;

use cdh_storage::cli::{self, Cli};
use clap::Parser;

/// Keys pass through here: whatever is freed is wiped.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    cli::run(&Cli::parse())
}
