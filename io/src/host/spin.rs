//! How long a shard looks around before it waits.

use std::time::Duration;

/// How long to look around before waiting: longer while that pays or would have paid, shorter while it does not.
pub(crate) struct Spin {
    max: Duration,
    now: Duration,
}

impl Spin {
    /// Never longer than `max`; zero: not at all.
    pub(crate) fn new(max: Duration) -> Spin {
        Spin { max, now: max }
    }

    /// How long to look around this time.
    pub(crate) fn span(&self) -> Duration {
        self.now
    }

    /// Something turned up while looking around.
    pub(crate) fn hit(&mut self) {
        self.now = (self.now * 2).min(self.max);
    }

    /// Nothing turned up, and the wait behind it ended after `span`, looking around included. Being woken takes about as
    /// long as looking around is worth, so what has come within twice that might have been seen.
    pub(crate) fn missed(&mut self, span: Duration) {
        if span <= self.max * 2 {
            self.hit();
        } else {
            self.now = (self.now / 2).max(self.max / 16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_as_long_as_it_pays() {
        let us = Duration::from_micros;
        let mut spin = Spin::new(us(32));
        for want in [16, 8, 4, 2, 2] {
            spin.missed(us(1000));
            assert_eq!(spin.span(), us(want));
        }
        spin.hit();
        assert_eq!(spin.span(), us(4));
        // It looks around for too short a time to see what always comes after 50 us.
        for want in [8, 16, 32, 32] {
            spin.missed(us(50));
            assert_eq!(spin.span(), us(want));
        }
        let mut none = Spin::new(Duration::ZERO);
        none.missed(us(1));
        assert_eq!(none.span(), Duration::ZERO);
    }
}
