//! Counts what Rust code allocates, so that "bounded memory" is a property that a target checks and
//! not a limit that the system enforces much later. C libraries allocate elsewhere and do not count.
#![allow(unsafe_code, reason = "an allocator that counts and leaves the work to the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD_BYTES: Cell<usize> = const { Cell::new(0) };
    static PEAK_BYTES: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

/// The most bytes that `work` held at once on this thread, beyond what was held before.
pub fn peak_bytes(work: impl FnOnce()) -> usize {
    let before = HELD_BYTES.get();
    PEAK_BYTES.set(before);
    work();
    PEAK_BYTES.get().saturating_sub(before)
}

fn took(bytes: usize) {
    // A thread that ends has no counters any more, and nobody asks it.
    let _ = HELD_BYTES.try_with(|held| {
        held.set(held.get().saturating_add(bytes));
        let _ = PEAK_BYTES.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

fn gave(bytes: usize) {
    // What another thread took may be given back here, so it may go below zero.
    let _ = HELD_BYTES.try_with(|held| held.set(held.get().saturating_sub(bytes)));
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promises are those of `System.alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, bytes: *mut u8, layout: Layout) {
        gave(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(bytes, layout) }
    }

    unsafe fn realloc(&self, bytes: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Old and new exist side by side while the contents move.
        took(new_size);
        // SAFETY: as above.
        let moved = unsafe { System.realloc(bytes, layout, new_size) };
        gave(layout.size());
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_that_was_held_at_once_is_counted() {
        let bytes = peak_bytes(|| {
            drop(std::hint::black_box(vec![0_u8; 10_000]));
            drop(std::hint::black_box(vec![0_u8; 20_000]));
        });
        assert!((20_000..25_000).contains(&bytes), "{bytes}");
    }
}
