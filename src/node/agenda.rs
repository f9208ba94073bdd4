//! Which groups of a shard have something to do, and when the next one has. Groups sleep: nobody ticks them. They are
//! told what time it is before they are told anything else, and when they are due.

use std::time::Duration;

use ringraft_io::Time;

use super::clock::Clock;
use super::slots::SlotSet;
use super::wheel::Wheel;

/// See the module.
pub(crate) struct Agenda {
    clock: Clock,
    /// By slot.
    groups: Vec<Told>,
    /// When each group wants to hear that time has passed.
    due: Wheel,
    /// When to look whether a group that was busy is at rest.
    rest: Wheel,
    rest_ticks: u64,
    /// Groups that may have something to say.
    pub(crate) touched: SlotSet,
    /// Groups with reads that wait.
    pub(crate) reading: SlotSet,
    /// Groups of which the board does not show the latest.
    pub(crate) changed: SlotSet,
    /// Groups that may have applied enough since their last snapshot to take the next one.
    pub(crate) grown: SlotSet,
}

/// What a group knows of the time, in ticks of the shard.
#[derive(Clone, Copy)]
struct Told {
    /// It has been told that it is this tick.
    now: u64,
    /// It wrote or applied something then.
    busy: u64,
}

/// How long a group that wrote and applied nothing keeps the memory of busy times.
const REST: Duration = Duration::from_secs(5);

/// Groups that are looked at for rest in one tick.
const REST_LOOKS: usize = 64;

impl Agenda {
    pub(crate) fn new(tick: Duration, now: Time) -> Agenda {
        Agenda {
            clock: Clock::new(tick, now),
            groups: Vec::new(),
            due: Wheel::new(),
            rest: Wheel::new(),
            rest_ticks: u64::try_from(REST.as_nanos().div_ceil(tick.as_nanos())).unwrap_or(u64::MAX / 2),
            touched: SlotSet::default(),
            reading: SlotSet::default(),
            changed: SlotSet::default(),
            grown: SlotSet::default(),
        }
    }

    /// A further group, which may have something to say.
    pub(crate) fn add(&mut self) {
        let slot = self.groups.len();
        self.groups.push(Told { now: self.clock.ticks(), busy: 0 });
        self.due.add();
        self.rest.add();
        self.touched.insert(slot);
        self.changed.insert(slot);
        self.note_busy(slot);
    }

    /// How many ticks have passed since this was last asked of the group: it is told of them now.
    #[must_use]
    pub(crate) fn passed(&mut self, slot: usize) -> u32 {
        let now = self.clock.ticks();
        let passed = now - std::mem::replace(&mut self.groups[slot].now, now);
        u32::try_from(passed).unwrap_or(u32::MAX)
    }

    /// Whether the group will be looked at, whatever happens.
    pub(crate) fn has_date(&self, slot: usize) -> bool {
        self.due.has(slot)
    }

    /// The group sleeps; it is due in so many ticks, or (`u32::MAX`) never.
    pub(crate) fn sleeps(&mut self, slot: usize, ticks: u32) {
        if ticks < u32::MAX {
            self.due.by(slot, self.clock.ticks() + u64::from(ticks));
        }
    }

    /// The next group that is due now.
    pub(crate) fn next_due(&mut self) -> Option<usize> {
        self.due.pop(self.clock.ticks())
    }

    /// The group has written or applied something.
    pub(crate) fn note_busy(&mut self, slot: usize) {
        self.groups[slot].busy = self.clock.ticks();
        self.rest.by(slot, self.clock.ticks() + self.rest_ticks);
    }

    /// Once per tick: calls `shrink` for groups that have long not been busy; the others are looked at later.
    pub(crate) fn rest(&mut self, mut shrink: impl FnMut(usize)) {
        let now = self.clock.ticks();
        for _ in 0..REST_LOOKS {
            let Some(slot) = self.rest.pop(now) else { return };
            let rests = self.groups[slot].busy + self.rest_ticks;
            if rests > now {
                self.rest.by(slot, rests);
            } else {
                shrink(slot);
            }
        }
    }

    /// The next tick at which there is something to do; `wanted`: the next one in any case.
    fn next_tick(&self, wanted: bool) -> Option<u64> {
        let next = self.clock.ticks() + 1;
        let wanted = (wanted || !self.reading.is_empty() || !self.changed.is_empty()).then_some(next);
        // Who was not looked at in this tick is in the next one.
        [wanted, self.due.next(), self.rest.next()].into_iter().flatten().map(|tick| tick.max(next)).min()
    }

    /// When there is something to do because time has passed; `wanted`: at the next tick in any case.
    pub(crate) fn next_deadline(&self, wanted: bool) -> Option<Time> {
        self.next_tick(wanted).map(|tick| self.clock.time_of(tick))
    }

    /// Counts the time slept through, in which nothing was due. What is due now comes with [`Agenda::tick`], after what
    /// has arrived meanwhile: perhaps that is what was waited for. `wanted` is as [`Agenda::next_deadline`] was asked.
    pub(crate) fn slept(&mut self, now: Time, wanted: bool) {
        self.clock.pass(now, self.next_tick(wanted));
        self.due.turn_to(self.clock.ticks());
        self.rest.turn_to(self.clock.ticks());
    }

    /// The next tick, if it is time for it; whether it is.
    pub(crate) fn tick(&mut self, now: Time) -> bool {
        self.clock.tick(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    fn ms(time: u64) -> Time {
        Time(time * 1_000_000)
    }

    /// An agenda with groups that have nothing to say, at time 0.
    fn agenda(groups: usize) -> Agenda {
        let mut agenda = Agenda::new(TICK, ms(0));
        (0..groups).for_each(|_| agenda.add());
        assert_eq!((agenda.touched.len(), agenda.changed.len()), (groups, groups));
        agenda.touched.clear();
        agenda.changed.clear();
        agenda
    }

    #[test]
    fn nobody_wakes_a_shard_whose_groups_rest() {
        let mut agenda = agenda(100);
        let mut rested = Vec::new();
        // They were busy once, when they began. Not all are looked at in one tick.
        for deadline in [ms(5_000), ms(5_100)] {
            assert_eq!(agenda.next_deadline(false), Some(deadline), "to look who rests");
            agenda.slept(deadline, false);
            assert!(agenda.tick(deadline));
            agenda.rest(|slot| rested.push(slot));
        }
        rested.sort_unstable();
        assert_eq!(rested, (0..100).collect::<Vec<_>>());
        assert_eq!(agenda.next_deadline(false), None);
        assert_eq!(agenda.next_deadline(true), Some(ms(5_200)));
        agenda.reading.insert(3);
        assert_eq!(agenda.next_deadline(false), Some(ms(5_200)));
    }

    #[test]
    fn a_busy_group_is_not_shrunk() {
        let mut agenda = agenda(1);
        let mut rested_at = Vec::new();
        for tick in 1..=200_u64 {
            let now = ms(tick * 100);
            agenda.slept(now, true);
            assert!(agenda.tick(now));
            agenda.rest(|_| rested_at.push(tick));
            if tick <= 70 && tick % 7 == 0 {
                agenda.note_busy(0);
            }
        }
        assert_eq!(rested_at, [120]);
    }

    #[test]
    fn who_sleeps_is_told_of_all_that_passed() {
        let mut agenda = agenda(3);
        agenda.sleeps(0, 12);
        agenda.sleeps(1, 3);
        agenda.sleeps(2, u32::MAX);
        assert!(agenda.has_date(0) && agenda.has_date(1) && !agenda.has_date(2));
        assert_eq!(agenda.next_deadline(false), Some(ms(300)));
        agenda.slept(ms(301), false);
        assert_eq!(agenda.passed(0), 2, "what has arrived comes before the tick at which somebody is due");
        assert!(agenda.tick(ms(301)));
        assert_eq!((agenda.next_due(), agenda.next_due()), (Some(1), None));
        assert_eq!((agenda.passed(0), agenda.passed(1), agenda.passed(1)), (1, 3, 0));
        assert!(!agenda.has_date(1));
        agenda.slept(ms(950), false);
        assert_eq!(agenda.passed(2), 9);
        assert!(!agenda.tick(ms(950)));
    }
}
