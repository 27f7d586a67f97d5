//! The one call into the C library's allocator.

#![allow(unsafe_code)]

/// Gives the free pages of all heaps back to the system.
#[cfg(target_env = "gnu")]
pub(super) fn release_free_memory() {
    // SAFETY: malloc_trim takes the allocator's own locks and touches free memory alone; 0 bytes of padding is in its
    // range. Its answer says whether anything was released, which nobody needs.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other C libraries give memory back by themselves.
#[cfg(not(target_env = "gnu"))]
pub(super) fn release_free_memory() {}
