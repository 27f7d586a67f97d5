//! Process rim of `guestctl`: allocator, arguments, streams, exit status.

use std::{alloc::System, process::ExitCode};

use zeroizing_alloc::ZeroAlloc;

/// Secrets pass through buffers of libraries that do not wipe them; freeing wipes them here.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    guestctl::with_stdio(|console| guestctl::run_process(std::env::args_os(), console)).into()
}
