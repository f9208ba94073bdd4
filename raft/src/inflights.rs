//! The window of appends that a follower has not answered yet, in messages and in bytes.

use std::collections::VecDeque;

use crate::mutant::mutant;
use crate::types::Index;

/// Appends in flight to one follower, oldest first. Takes memory only as the window fills: most members of most groups
/// have nothing in flight.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inflights {
    window: Option<Box<Window>>,
    // Every member of every group has these: small numbers will do.
    count_max: u32,
    size_max: u32,
}

/// What is in flight: the last index and the size of each append.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Window {
    appends: VecDeque<(Index, u64)>,
    size: u64,
}

impl Window {
    fn is_full(&self, count_max: u32, size_max: u32) -> bool {
        self.appends.len() >= count_max as usize || size_max != 0 && self.size >= u64::from(size_max)
    }
}

impl Inflights {
    /// An empty window of at most `count_max` messages, and of `size_max` bytes, which one message may overshoot
    /// (0, or 4 GiB and more: any number of bytes).
    #[must_use]
    pub fn new(count_max: usize, size_max: u64) -> Inflights {
        let count_max = u32::try_from(count_max).unwrap_or(u32::MAX);
        Inflights { window: None, count_max, size_max: u32::try_from(size_max).unwrap_or(0) }
    }

    /// Other limits, whatever is in flight now.
    pub fn resize(&mut self, count_max: usize, size_max: u64) {
        *self = Inflights { window: self.window.take(), ..Inflights::new(count_max, size_max) };
    }

    /// Messages in flight.
    #[must_use]
    pub fn count(&self) -> usize {
        self.window.as_ref().map_or(0, |window| window.appends.len())
    }

    /// Bytes in flight.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.window.as_ref().map_or(0, |window| window.size)
    }

    /// Whether nothing more may be sent.
    #[must_use]
    pub fn is_full(&self) -> bool {
        // Never used: full only if it has no room at all.
        let full =
            self.window.as_ref().map_or(self.count_max == 0, |window| window.is_full(self.count_max, self.size_max));
        mutant!("window-ignored", false, full)
    }

    /// Notes an append whose last entry is `last`. Whether nothing more may be sent now.
    ///
    /// # Panics
    /// If the window is full, or `last` does not come after the append before.
    pub fn add(&mut self, last: Index, size: u64) -> bool {
        assert!(!self.is_full(), "an append beyond the window");
        let window = self.window.get_or_insert_default();
        assert!(window.appends.back().is_none_or(|(before, _)| *before < last), "appends leave in order");
        window.appends.push_back((last, size));
        window.size += size;
        let full = window.is_full(self.count_max, self.size_max);
        mutant!("window-ignored", false, full)
    }

    /// Forgets the appends that end at or before `index`: they are answered.
    pub fn free_to(&mut self, index: Index) {
        let Some(window) = &mut self.window else { return };
        while let Some((last, size)) = window.appends.front().copied() {
            if last > index {
                break;
            }
            window.size -= size;
            window.appends.pop_front();
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        if let Some(window) = &mut self.window {
            window.appends.clear();
            window.size = 0;
        }
    }

    /// Gives back the memory of an empty window.
    pub(crate) fn shrink(&mut self) {
        self.window.take_if(|window| window.appends.is_empty());
    }

    /// Bytes on the heap.
    pub(crate) fn memory(&self) -> usize {
        let heap = |window: &Window| size_of::<Window>() + window.appends.capacity() * size_of::<(Index, u64)>();
        self.window.as_deref().map_or(0, heap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn full_then_freed_then_full_again() {
        // Message i carries 100 + i bytes: (messages, bytes), full after k, free up to f, full again when m - 1 is in.
        let check = |count_max: usize, size_max: u64, k: u64, f: u64, m: u64| {
            let mut window = Inflights::new(count_max, size_max);
            let fill = |window: &mut Inflights, from: u64, until: u64| {
                for i in from..until {
                    assert!(!window.is_full(), "({count_max}, {size_max}): full at {i}");
                    window.add(Index(i), 100 + i);
                }
                assert!(window.is_full(), "({count_max}, {size_max}): not full after {until}");
            };
            fill(&mut window, 0, k);
            window.free_to(Index(f));
            fill(&mut window, k, m);
            window.clear();
            assert_eq!((window.count(), window.size()), (0, 0));
        };
        check(1, 0, 1, 1, 2);
        check(1, 10, 1, 1, 2);
        check(15, 0, 15, 6, 22);
        check(8, 400, 4, 2, 7);
        check(8, 406, 4, 3, 8);
        check(15, 408, 5, 1, 6);
        assert!(Inflights::new(0, 0).is_full());
    }

    #[test]
    fn resized_with_appends_in_flight() {
        let mut window = Inflights::new(4, 0);
        (1..=3).for_each(|index| _ = window.add(Index(index), 10));
        for (count_max, size_max, full) in [(3, 0, true), (4, 0, false), (2, 0, true), (9, 30, true), (9, 31, false)] {
            window.resize(count_max, size_max);
            assert_eq!((window.is_full(), window.count(), window.size()), (full, 3, 30), "{count_max} {size_max}");
        }
        window.resize(0, 0);
        window.clear();
        assert!(window.is_full(), "closed");
    }

    #[test]
    #[should_panic(expected = "beyond the window")]
    fn adding_to_a_full_window_is_our_bug() {
        let mut window = Inflights::new(1, 0);
        window.add(Index(1), 1);
        window.add(Index(2), 1);
    }

    proptest! {
        #[test]
        fn like_a_list(ops in proptest::collection::vec((0_u64..8, 1_u64..50), 1..200)) {
            let mut window = Inflights::new(6, 120);
            let mut list: Vec<(u64, u64)> = Vec::new();
            let mut last = 0;
            for (op, size) in ops {
                let full = list.len() >= 6 || list.iter().map(|(_, size)| size).sum::<u64>() >= 120;
                prop_assert_eq!(window.is_full(), full);
                if op < 5 && !full {
                    last += 1 + op;
                    window.add(Index(last), size);
                    list.push((last, size));
                } else {
                    let upto = last.saturating_sub(size);
                    window.free_to(Index(upto));
                    list.retain(|(index, _)| *index > upto);
                }
                prop_assert_eq!(window.count(), list.len());
                prop_assert_eq!(window.size(), list.iter().map(|(_, size)| size).sum::<u64>());
            }
        }
    }
}
