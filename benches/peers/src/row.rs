//! A row: one thing that both sides do, and what it costs each.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What ends a run early: one line for a person.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// One comparison. All numbers are costs, less is better: what is usually told as a rate is told as the time of one.
pub(crate) struct Row {
    /// `subject/what/variant`; the same as that of the criterion bench, where there is one.
    pub(crate) id: String,
    /// What both sides do.
    pub(crate) description: String,
    /// What the numbers count.
    pub(crate) unit: &'static str,
    pub(crate) reach: Reach,
    /// Who the rival is.
    pub(crate) rival_name: &'static str,
    pub(crate) ours: Setup,
    pub(crate) rival: Setup,
}

/// What our cost shall be, at the most.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Reach {
    /// This part of the rival's.
    Part(f64),
    /// This much, whatever the rival's is.
    Cost(f64),
}

/// Sets a side up, before its first round.
pub(crate) type Setup = Box<dyn FnOnce() -> Result<Side, Failure>>;

/// Plays a round of about this long; its cost.
pub(crate) type Side = Box<dyn FnMut(Duration) -> Result<f64, Failure>>;

/// The time in nanoseconds of one of the `items` that a lap goes through: that of the median of as many laps as fit
/// into `time`, but of five at least. It is time of this thread on a core, so that only work counts that needs nothing
/// else, and other programs in between do not.
pub(crate) fn per_item(time: Duration, items: usize, mut lap: impl FnMut()) -> f64 {
    let mut laps = Vec::new();
    let begin = Instant::now();
    while laps.len() < 5 || begin.elapsed() < time {
        let start = thread_time();
        lap();
        laps.push((thread_time() - start).as_nanos() as f64 / items as f64);
    }
    median(&laps)
}

fn thread_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().expect("a clock that begins with the thread")
}

/// The middle one; of an even count, the mean of the two in the middle.
///
/// # Panics
/// If there is none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let check = |values: &[f64], expected: f64| assert_eq!(median(values), expected, "{values:?}");
        check(&[3.0], 3.0);
        check(&[9.0, 1.0, 2.0], 2.0);
        check(&[9.0, 1.0, 2.0, 4.0], 3.0);
    }

    #[test]
    fn the_time_of_an_item_is_that_of_this_thread() {
        let mut laps = 0;
        let nanos = per_item(Duration::ZERO, 2, || {
            laps += 1;
            // Costs time, but none of ours.
            std::thread::spawn(|| {
                std::hint::black_box((0..1_000_000_u64).fold(0, |sum, n| sum ^ n.wrapping_mul(sum | 1)))
            })
            .join()
            .expect("it adds up");
        });
        assert_eq!(laps, 5);
        assert!(nanos > 0.0 && nanos < 500_000.0, "{nanos} ns");
    }
}
