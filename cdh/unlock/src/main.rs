//! `initrd-unlock`: see the library beside it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use initrd_unlock::cli::Cli;

/// Buffers of the TLS and HTTP libraries hold secrets too: whatever is freed is wiped.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    initrd_unlock::run(&Cli::parse())
}
