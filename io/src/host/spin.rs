//! How long a shard looks around before it waits.

use std::time::Duration;

/// How long to look around before waiting: longer while that pays, shorter while it does not.
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

    /// Something turned up.
    pub(crate) fn hit(&mut self) {
        self.now = (self.now * 2).min(self.max);
    }

    /// Nothing turned up.
    pub(crate) fn miss(&mut self) {
        self.now = (self.now / 2).max(self.max / 16);
    }
}
