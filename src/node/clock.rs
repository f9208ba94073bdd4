//! The ticks of a shard: counted from the time that passes, whether or not anybody was awake for them.

use std::time::Duration;

use ringraft_io::Time;

/// Ticks since the start, and when the last one was.
pub(crate) struct Clock {
    tick: Duration,
    ticks: u64,
    last: Time,
}

impl Clock {
    pub(crate) fn new(tick: Duration, now: Time) -> Clock {
        assert!(!tick.is_zero(), "time must pass");
        Clock { tick, ticks: 0, last: now }
    }

    /// How many ticks have passed.
    pub(crate) fn ticks(&self) -> u64 {
        self.ticks
    }

    /// When tick number `tick` is.
    pub(crate) fn time_of(&self, tick: u64) -> Time {
        let ahead = u32::try_from(tick.saturating_sub(self.ticks)).unwrap_or(u32::MAX);
        self.last + self.tick.saturating_mul(ahead)
    }

    /// Counts the ticks that have passed up to `now`, but not the tick `due` and those behind it: they are for
    /// [`Clock::tick`], when it is known what else has happened meanwhile.
    pub(crate) fn pass(&mut self, now: Time, due: Option<u64>) {
        let passed = now.since(self.last).as_nanos() / self.tick.as_nanos();
        let quiet = due.map_or(u64::MAX, |due| due.saturating_sub(self.ticks + 1));
        let count = u64::try_from(passed).unwrap_or(u64::MAX).min(quiet);
        self.last = self.time_of(self.ticks + count);
        self.ticks += count;
    }

    /// Counts the next tick if it is there; whether it is. After a pause (of the process, or of the machine) one tick is
    /// made up for, not all: the others are no less late.
    pub(crate) fn tick(&mut self, now: Time) -> bool {
        let late = now.since(self.last);
        if late < self.tick {
            return false;
        }
        self.last = if late < self.tick * 2 { self.last + self.tick } else { now };
        self.ticks += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(time: u64) -> Time {
        Time(time * 1_000_000)
    }

    #[test]
    fn quiet_ticks_are_counted_and_missed_ones_are_not() {
        let mut clock = Clock::new(Duration::from_millis(100), ms(1_000));
        let mut turn = |now, due| {
            clock.pass(ms(now), due);
            let before = clock.ticks();
            (before, clock.tick(ms(now)), clock.time_of(clock.ticks() + 1))
        };
        // (when, what is due) -> (what is counted before, whether there is a tick, when the next one is)
        assert_eq!(turn(1_099, Some(1)), (0, false, ms(1_100)));
        assert_eq!(turn(1_105, Some(1)), (0, true, ms(1_200)), "the grid stays");
        assert_eq!(turn(1_650, Some(9)), (6, false, ms(1_700)), "woken early, nothing is due");
        assert_eq!(turn(1_901, Some(9)), (8, true, ms(2_000)), "slept until something was due");
        assert_eq!(turn(5_000, Some(12)), (11, true, ms(5_100)), "stopped while something became due");
        assert_eq!(turn(9_250, None), (54, false, ms(9_300)), "nothing is ever due");
        assert_eq!(turn(9_330, Some(3)), (54, true, ms(9_400)), "long due");
    }
}
