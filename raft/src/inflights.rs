//! The window of appends that a follower has not answered yet, in messages and in bytes.

use std::collections::VecDeque;

use crate::types::Index;

/// Appends in flight to one follower, oldest first. Takes memory only as the window fills.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inflights {
    window: VecDeque<(Index, u64)>,
    size: u64,
    count_max: usize,
    size_max: u64,
}

impl Inflights {
    /// An empty window of at most `count_max` messages, and of `size_max` bytes, which one message may overshoot
    /// (0: any number of bytes).
    #[must_use]
    pub fn new(count_max: usize, size_max: u64) -> Inflights {
        Inflights { window: VecDeque::new(), size: 0, count_max, size_max }
    }

    /// Messages in flight.
    #[must_use]
    pub fn count(&self) -> usize {
        self.window.len()
    }

    /// Bytes in flight.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether nothing more may be sent.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.window.len() >= self.count_max || (self.size_max != 0 && self.size >= self.size_max)
    }

    /// Notes an append whose last entry is `last`.
    ///
    /// # Panics
    /// If the window is full, or `last` does not come after the append before.
    pub fn add(&mut self, last: Index, size: u64) {
        assert!(!self.is_full(), "an append beyond the window");
        assert!(self.window.back().is_none_or(|(before, _)| *before < last), "appends leave in order");
        self.window.push_back((last, size));
        self.size += size;
    }

    /// Forgets the appends that end at or before `index`: they are answered.
    pub fn free_to(&mut self, index: Index) {
        while let Some((last, size)) = self.window.front().copied() {
            if last > index {
                break;
            }
            self.size -= size;
            self.window.pop_front();
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.window.clear();
        self.size = 0;
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
