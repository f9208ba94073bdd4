//! Requests that wait for something to happen: a slab of them, and their deadlines.

use std::collections::VecDeque;

use ringraft_io::Time;

/// Names one waiting request; never reused within the life of the slab.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct WaiterId(pub(crate) u64);

impl WaiterId {
    fn index(self) -> usize {
        usize::try_from(self.0 & u64::from(u32::MAX)).expect("32 bits fit")
    }
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Waiting requests, all with the same patience, at most `count_max` of them.
pub(crate) struct Waiters<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    deadlines: VecDeque<(Time, WaiterId)>,
    count_max: usize,
}

impl<T> Waiters<T> {
    pub(crate) fn new(count_max: usize) -> Waiters<T> {
        Waiters { slots: Vec::new(), free: Vec::new(), deadlines: VecDeque::new(), count_max }
    }

    /// Parks a request until `deadline`; gives it back if there is no room. Deadlines never go backwards.
    pub(crate) fn park(&mut self, value: T, deadline: Time) -> Result<WaiterId, T> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() >= self.count_max => return Err(value),
            None => {
                self.slots.push(Slot { generation: 0, value: None });
                u32::try_from(self.slots.len() - 1).expect("bounded by count_max")
            }
        };
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.value = Some(value);
        let id = WaiterId(u64::from(slot.generation) << 32 | u64::from(index));
        assert!(self.deadlines.back().is_none_or(|(last, _)| *last <= deadline), "deadlines go forwards");
        self.deadlines.push_back((deadline, id));
        if self.deadlines.len() > 2 * self.count_max {
            // One that waits long at the front keeps those answered behind it.
            let (slots, deadlines) = (&self.slots, &mut self.deadlines);
            deadlines.retain(|(_, id)| waits(slots, *id));
        }
        Ok(id)
    }

    /// Takes a request out, if it still waits.
    pub(crate) fn take(&mut self, id: WaiterId) -> Option<T> {
        let index = id.index();
        let slot = self.slots.get_mut(index)?;
        if u64::from(slot.generation) != id.0 >> 32 {
            return None;
        }
        let value = slot.value.take()?;
        self.free.push(u32::try_from(index).expect("it was one"));
        // Deadlines of requests answered long ago are dropped as they come to the front.
        while self.deadlines.front().is_some_and(|(_, front)| !self.waits(*front)) {
            self.deadlines.pop_front();
        }
        Some(value)
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    fn waits(&self, id: WaiterId) -> bool {
        waits(&self.slots, id)
    }

    /// Takes out one request whose deadline has passed.
    pub(crate) fn expired(&mut self, now: Time) -> Option<T> {
        while let Some((deadline, id)) = self.deadlines.front().copied() {
            if self.waits(id) && deadline > now {
                return None;
            }
            self.deadlines.pop_front();
            if let Some(value) = self.take(id) {
                return Some(value);
            }
        }
        None
    }
}

fn waits<T>(slots: &[Slot<T>], id: WaiterId) -> bool {
    let slot = &slots[id.index()];
    u64::from(slot.generation) == id.0 >> 32 && slot.value.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parks_takes_and_expires() {
        let mut waiters = Waiters::new(3);
        assert!(waiters.is_empty());
        let a = waiters.park("a", Time(10)).unwrap();
        let b = waiters.park("b", Time(20)).unwrap();
        let c = waiters.park("c", Time(20)).unwrap();
        assert_eq!(waiters.park("d", Time(30)), Err("d"));
        assert_eq!(waiters.take(b), Some("b"));
        assert_eq!(waiters.take(b), None, "only once");
        let d = waiters.park("d", Time(30)).unwrap();
        assert_ne!(b, d, "a slot used again has another name");
        assert_eq!(waiters.take(b), None, "an old name does not reach the new request");
        assert_eq!(waiters.expired(Time(9)), None);
        assert!(!waiters.is_empty());
        assert_eq!(waiters.expired(Time(10)), Some("a"));
        assert_eq!(waiters.take(a), None);
        assert_eq!(waiters.expired(Time(99)), Some("c"));
        assert_eq!(waiters.expired(Time(99)), Some("d"));
        assert_eq!(waiters.expired(Time(99)), None);
        assert_eq!(waiters.take(c), None);
        assert!(waiters.is_empty());
    }
}
