//! Which group is to be looked at when: a wheel with a spoke per tick, on each a list of groups that is linked through
//! a table. Nothing is allocated but when a group is added.

/// Ticks ahead that the wheel can tell apart: who is due later is looked at in between, and put on it again.
const SPOKES: usize = 256;

/// Due never: on no list.
const NEVER: u64 = u64::MAX;

/// Nobody: the end of a list.
const NOBODY: u32 = u32::MAX;

/// See the module. Groups are named by their slots, ticks are counted from the start of the shard.
pub(crate) struct Wheel {
    /// Nobody is due before this tick; everybody is due less than [`SPOKES`] ticks after it.
    floor: u64,
    /// The first group of each spoke.
    heads: [u32; SPOKES],
    /// Which spokes have groups, a bit each.
    taken: [u64; SPOKES / 64],
    places: Vec<Place>,
}

/// Where a group stands.
#[derive(Clone, Copy)]
struct Place {
    due: u64,
    before: u32,
    after: u32,
}

impl Wheel {
    pub(crate) fn new() -> Wheel {
        Wheel { floor: 0, heads: [NOBODY; SPOKES], taken: [0; SPOKES / 64], places: Vec::new() }
    }

    /// A further group; it is not on the wheel yet.
    pub(crate) fn add(&mut self) {
        assert!(self.places.len() < NOBODY as usize, "slots have 32 bits");
        self.places.push(Place { due: NEVER, before: NOBODY, after: NOBODY });
    }

    /// The group is to be looked at on `tick`, or before. One that is looked at sooner stays where it is: most are put
    /// off again and again, and moving them costs more than looking once.
    pub(crate) fn by(&mut self, slot: usize, tick: u64) {
        let due = tick.clamp(self.floor, self.floor + (SPOKES as u64 - 1));
        let before = self.places[slot].due;
        if before <= due {
            return;
        }
        if before != NEVER {
            self.unlink(slot);
        }
        self.link(slot, due);
    }

    /// Whether the group is on the wheel.
    pub(crate) fn has(&self, slot: usize) -> bool {
        self.places[slot].due != NEVER
    }

    /// The next tick at which a group is to be looked at.
    pub(crate) fn next(&self) -> Option<u64> {
        let start = spoke(self.floor);
        let words = self.taken.len();
        // The word of the first spoke is looked at twice: from that spoke on, and at last before it.
        for step in 0..=words {
            let at = (start / 64 + step) % words;
            let from = match step {
                0 => u64::MAX << (start % 64),
                _ if step == words => !(u64::MAX << (start % 64)),
                _ => u64::MAX,
            };
            let found = self.taken[at] & from;
            if found != 0 {
                let spoke = at * 64 + found.trailing_zeros() as usize;
                return Some(self.floor + ((spoke + SPOKES - start) % SPOKES) as u64);
            }
        }
        None
    }

    /// Takes a group off the wheel that is due on `tick` or before; the longest due first.
    pub(crate) fn pop(&mut self, tick: u64) -> Option<usize> {
        self.turn_to(tick);
        let slot = self.heads[spoke(self.floor)] as usize;
        self.places.get(slot)?;
        self.unlink(slot);
        Some(slot)
    }

    /// It is `tick`, or later if nobody is due before. (Calls may be left out, but for them the wheel reaches less far.)
    pub(crate) fn turn_to(&mut self, tick: u64) {
        let reached = self.next().map_or(tick, |next| next.min(tick));
        self.floor = self.floor.max(reached);
    }

    fn link(&mut self, slot: usize, due: u64) {
        let name = u32::try_from(slot).expect("slots have 32 bits");
        let head = &mut self.heads[spoke(due)];
        let after = std::mem::replace(head, name);
        self.places[slot] = Place { due, before: NOBODY, after };
        if let Some(next) = self.places.get_mut(after as usize) {
            next.before = name;
        }
        self.taken[spoke(due) / 64] |= 1 << (spoke(due) % 64);
    }

    fn unlink(&mut self, slot: usize) {
        let Place { due, before, after } = self.places[slot];
        assert!(due != NEVER, "it is on a list");
        let at = spoke(due);
        self.places[slot].due = NEVER;
        match self.places.get_mut(before as usize) {
            Some(place) => place.after = after,
            None => self.heads[at] = after,
        }
        if let Some(place) = self.places.get_mut(after as usize) {
            place.before = before;
        }
        if self.heads[at] == NOBODY {
            self.taken[at / 64] &= !(1 << (at % 64));
        }
    }
}

fn spoke(tick: u64) -> usize {
    usize::try_from(tick % SPOKES as u64).expect("less than SPOKES")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The same with a sorted set, and nothing clever.
    #[derive(Default)]
    struct Naive {
        floor: u64,
        dues: BTreeSet<(u64, usize)>,
    }

    impl Naive {
        fn by(&mut self, slot: usize, tick: u64) {
            let due = tick.clamp(self.floor, self.floor + SPOKES as u64 - 1);
            if self.dues.iter().all(|(other, its)| *its != slot || *other > due) {
                self.dues.retain(|(_, its)| *its != slot);
                self.dues.insert((due, slot));
            }
        }

        fn next(&self) -> Option<u64> {
            self.dues.first().map(|(due, _)| *due)
        }

        fn turn_to(&mut self, tick: u64) {
            self.floor = self.floor.max(self.next().unwrap_or(tick).min(tick));
        }

        fn pop_all(&mut self, tick: u64) -> Vec<Vec<usize>> {
            let mut popped = Vec::new();
            while let Some(due) = self.next().filter(|due| *due <= tick) {
                popped.push(self.dues.iter().filter(|(other, _)| *other == due).map(|(_, slot)| *slot).collect());
                self.dues.retain(|(other, _)| *other != due);
                self.floor = due;
            }
            self.turn_to(tick);
            popped
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        By(usize, u64),
        Pass(u64),
        Pop(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let far = SPOKES as u64 * 3;
        let ticks = || prop_oneof![0..4_u64, 0..40_u64, 0..far];
        let step = prop_oneof![
            4 => (0..20_usize, ticks()).prop_map(|(slot, ticks)| Step::By(slot, ticks)),
            1 => ticks().prop_map(Step::Pass),
            2 => ticks().prop_map(Step::Pop),
        ];
        proptest::collection::vec(step, 1..120)
    }

    proptest! {
        #[test]
        fn as_a_sorted_set(steps in steps()) {
            let (mut wheel, mut naive, mut now) = (Wheel::new(), Naive::default(), 0);
            (0..20).for_each(|_| wheel.add());
            for step in steps {
                match step {
                    Step::By(slot, ticks) => {
                        wheel.by(slot, now + ticks);
                        naive.by(slot, now + ticks);
                    }
                    // Time passes and nobody looks.
                    Step::Pass(ticks) => {
                        now += ticks;
                        wheel.turn_to(now);
                        naive.turn_to(now);
                    }
                    Step::Pop(ticks) => {
                        now += ticks;
                        for together in naive.pop_all(now) {
                            let mut popped: Vec<_> = together.iter().map(|_| wheel.pop(now).unwrap()).collect();
                            popped.sort_unstable();
                            prop_assert_eq!(popped, together);
                        }
                        prop_assert_eq!(wheel.pop(now), None);
                    }
                }
                prop_assert_eq!(wheel.next(), naive.next());
                prop_assert_eq!(wheel.floor, naive.floor);
            }
        }
    }

    #[test]
    fn who_is_due_far_ahead_is_looked_at_in_between() {
        let mut wheel = Wheel::new();
        wheel.add();
        wheel.by(0, 1_000_000);
        assert_eq!(wheel.next(), Some(255));
        assert_eq!(wheel.pop(254), None);
        assert_eq!(wheel.pop(255), Some(0));
        wheel.by(0, 300);
        assert_eq!((wheel.next(), wheel.pop(300), wheel.next()), (Some(300), Some(0), None));
    }
}
