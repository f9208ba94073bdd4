//! Sets of a shard's groups, by slot: small tables beside the groups, for what is asked of thousands of them in a turn.

use std::collections::VecDeque;

/// A set of slots in the order in which they came. Takes no memory at a steady pace.
#[derive(Default)]
pub(crate) struct SlotSet {
    order: VecDeque<u32>,
    /// By slot, whether it is in.
    has: Vec<bool>,
}

impl SlotSet {
    /// Puts a slot at the end, unless it is in.
    pub(crate) fn insert(&mut self, slot: usize) {
        if slot >= self.has.len() {
            self.has.resize(slot + 1, false);
        }
        if !std::mem::replace(&mut self.has[slot], true) {
            self.order.push_back(u32::try_from(slot).expect("slots have 32 bits"));
        }
    }

    /// Takes the first one out.
    pub(crate) fn pop(&mut self) -> Option<usize> {
        let slot = self.order.pop_front()? as usize;
        self.has[slot] = false;
        Some(slot)
    }

    pub(crate) fn contains(&self, slot: usize) -> bool {
        self.has.get(slot).is_some_and(|has| *has)
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The slots, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.order.iter().map(|slot| *slot as usize)
    }

    /// Takes all of them out.
    pub(crate) fn clear(&mut self) {
        while self.pop().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_order_and_everybody_once() {
        let mut set = SlotSet::default();
        for slot in [5, 2, 5, 9, 2] {
            set.insert(slot);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [5, 2, 9]);
        assert_eq!((set.pop(), set.len(), set.contains(5), set.contains(9)), (Some(5), 2, false, true));
        set.insert(5);
        assert_eq!(set.iter().collect::<Vec<_>>(), [2, 9, 5]);
        set.clear();
        assert!(set.is_empty() && !set.contains(9) && !set.contains(1000));
    }
}
