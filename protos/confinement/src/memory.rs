//! Memory that was freed goes back to the system.
//!
//! glibc keeps what was freed for the next time. In a confidential machine memory is what the whole machine has, so a program asks
//! for large blocks to be mapped one by one, and gives the rest back when it has worked. Other C libraries do so by themselves.
//! It is NOT a limit on memory: limits are where the bytes come in.

mod sys;

/// Bytes from which a block is mapped on its own.
pub const LARGE_BLOCK: usize = 128 << 10;

/// From now on each block of [`LARGE_BLOCK`] bytes and more is mapped by itself, and goes back when it is freed (`M_MMAP_THRESHOLD` of
/// mallopt(3)). Without this glibc raises the bound up to 32 MiB when such blocks are freed, and then every thread's heap keeps as
/// much as it once had. To be called at the start. It costs the zeroing of new pages, so it is for programs that keep their
/// large buffers as long as they work.
pub fn map_large_blocks() {
    sys::map_large_blocks(LARGE_BLOCK);
}

/// Gives the free pages of all heaps back (malloc_trim(3)).
pub fn release() {
    sys::release();
}

#[cfg(test)]
#[cfg(target_env = "gnu")]
mod tests {
    use super::*;

    /// Resident bytes of this process (statm of proc(5)).
    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
        pages * rustix::param::page_size()
    }

    #[test]
    fn what_lies_free_between_live_blocks_is_released() {
        // Blocks below the size that is mapped on its own; the last one keeps the heap from shrinking.
        let mut blocks: Vec<Vec<u8>> = (0..1024).map(|_| vec![1; 64 << 10]).collect();
        let last = blocks.pop();
        let full = resident();
        drop(blocks);
        release();
        let after = resident();
        assert!(after + (48 << 20) < full, "{full} bytes before, {after} after");
        drop(last);
    }

    #[test]
    fn a_large_block_goes_back_whatever_was_freed_before() {
        map_large_blocks();
        // Freeing a mapped block is what raises the bound otherwise.
        drop(vec![1_u8; 8 << 20]);
        let blocks: Vec<Vec<u8>> = (0..8).map(|_| vec![1; 8 << 20]).collect();
        let small = vec![1_u8; 64 << 10];
        let full = resident();
        drop(blocks);
        let after = resident();
        assert!(after + (48 << 20) < full, "{full} bytes before, {after} after");
        drop(small);
    }
}
