//! A slab whose keys carry a generation, so that a key that outlived its value is noticed.

/// Names one value of a [`Slots`]: generation above, index below. At most 63 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Key(u64);

/// Generations count up to here and start again.
const GENERATION_MAX: u32 = u32::MAX >> 1;

impl Key {
    fn new(generation: u32, index: u32) -> Key {
        Key(u64::from(generation) << 32 | u64::from(index))
    }

    /// The key whose [`Key::bits`] were `bits`.
    pub(crate) fn from_bits(bits: u64) -> Key {
        Key(bits)
    }

    /// The key as a number.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    fn index(self) -> usize {
        usize::try_from(self.0 & u64::from(u32::MAX)).expect("32 bits fit")
    }
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values by [`Key`]. Grows to the largest number of values it ever held, and allocates nothing after that.
pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    pub(crate) fn with_capacity(capacity: usize) -> Slots<T> {
        Slots { slots: Vec::with_capacity(capacity), free: Vec::with_capacity(capacity) }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, value: T) -> Key {
        if let Some(index) = self.free.pop() {
            let key = Key::new(0, index);
            let slot = &mut self.slots[key.index()];
            assert!(slot.value.is_none(), "a free slot is empty");
            slot.generation = if slot.generation == GENERATION_MAX { 0 } else { slot.generation + 1 };
            slot.value = Some(value);
            Key::new(slot.generation, index)
        } else {
            let index = u32::try_from(self.slots.len()).expect("fewer than 2^32 values");
            self.slots.push(Slot { generation: 0, value: Some(value) });
            Key::new(0, index)
        }
    }

    #[cfg(test)]
    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.index())?;
        if u64::from(slot.generation) == key.bits() >> 32 { slot.value.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index())?;
        if Key::new(slot.generation, 0).bits() >> 32 == key.bits() >> 32 { slot.value.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        self.get_mut(key)?;
        self.free.push(u32::try_from(key.index()).expect("made from 32 bits"));
        self.slots[key.index()].value.take()
    }

    /// The key of the value that stands at `index` (the low 32 bits of a key) now, if any.
    pub(crate) fn current(&self, index: u64) -> Option<Key> {
        let index = u32::try_from(index).ok()?;
        let slot = self.slots.get(Key::new(0, index).index())?;
        slot.value.is_some().then(|| Key::new(slot.generation, index))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        (0u32..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.value.is_some())
            .map(|(index, slot)| Key::new(slot.generation, index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_keys_find_nothing() {
        let mut slots = Slots::with_capacity(2);
        let a = slots.insert("a");
        let b = slots.insert("b");
        assert_eq!(slots.remove(a), Some("a"));
        let c = slots.insert("c");
        assert_ne!(a, c);
        assert_eq!(slots.get_mut(a), None);
        assert_eq!((slots.remove(a), slots.len()), (None, 2));
        assert_eq!(slots.get_mut(Key::from_bits(c.bits())).copied(), Some("c"));
        assert_eq!((slots.current(0), slots.current(1), slots.current(2)), (Some(c), Some(b), None));
        assert_eq!(slots.keys().collect::<Vec<_>>(), [c, b]);
    }
}
