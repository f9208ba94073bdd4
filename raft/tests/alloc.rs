//! At a steady pace the core takes no memory. Its own test binary, for the allocator counts for all of it.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ringraft_raft::Index;
use support::trio::Trio;

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's layout, unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: memory that `alloc` got from the same allocator, for the same layout.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn steady_replication_allocates_nothing() {
    let mut trio = Trio::new();
    let mut round = |count: usize| {
        for at in 0..count {
            trio.propose([1, 7, 64][at % 3]);
            if at % 5 == 0 {
                trio.tick();
            }
            if at % 10 == 9 {
                trio.compact();
            }
        }
        (COUNT.get(), trio.leader().commit())
    };
    let (warm, from) = round(300);
    let (end, to) = round(3000);
    assert!(to > Index(from.0 + 60_000), "it did replicate");
    assert_eq!(end - warm, 0, "allocations in 3000 rounds");
}
