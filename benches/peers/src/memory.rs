//! Counts the bytes that a piece of work leaves on the heap.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering::Relaxed};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static LIVE: AtomicIsize = AtomicIsize::new(0);

/// What `make` gives, and the bytes it has asked for and not given back. One measurement at a time.
pub(crate) fn left_by<T>(make: impl FnOnce() -> T) -> (T, isize) {
    LIVE.store(0, Relaxed);
    COUNTS.store(true, Relaxed);
    let made = make();
    COUNTS.store(false, Relaxed);
    (made, LIVE.load(Relaxed))
}

/// The system's allocator. While nothing is counted it costs one load more, the same for all sides.
struct Counting;

impl Counting {
    fn count(size: usize, sign: isize) {
        if COUNTS.load(Relaxed) {
            LIVE.fetch_add(sign * size.cast_signed(), Relaxed);
        }
    }
}

// SAFETY: everything is passed on to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Counting::count(layout.size(), 1);
        // SAFETY: the caller's layout, unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Counting::count(layout.size(), 1);
        // SAFETY: the caller's layout, unchanged.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Counting::count(layout.size(), -1);
        Counting::count(size, 1);
        // SAFETY: the caller's memory, of this allocator, and its layout, unchanged.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        Counting::count(layout.size(), -1);
        // SAFETY: the caller's memory, of this allocator, and its layout, unchanged.
        unsafe { System.dealloc(memory, layout) }
    }
}
