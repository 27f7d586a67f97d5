//! The calls into the C library's allocator.

#![allow(unsafe_code)]

/// Fixes the size from which blocks are mapped on their own.
#[cfg(target_env = "gnu")]
pub(super) fn map_large_blocks(bytes: usize) {
    let Ok(bytes) = libc::c_int::try_from(bytes) else { return };
    // SAFETY: mallopt takes the allocator's own locks and sets one of its numbers. That it refuses a number, which it tells by
    // its answer, leaves all as it was.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, bytes);
    }
}

/// Gives the free pages of all heaps back to the system.
#[cfg(target_env = "gnu")]
pub(super) fn release() {
    // SAFETY: malloc_trim takes the allocator's own locks and touches free memory alone; 0 bytes of padding is in its
    // range. Its answer says whether anything was released, which nobody needs.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other C libraries map large blocks anyway.
#[cfg(not(target_env = "gnu"))]
pub(super) fn map_large_blocks(_: usize) {}

/// Other C libraries give memory back by themselves.
#[cfg(not(target_env = "gnu"))]
pub(super) fn release() {}
