//! How long a shard looks around before it waits.

use std::time::Duration;

/// How long to look around before waiting: longer while that pays, shorter while it does not.
pub(super) struct Spin {
    pub(super) max: Duration,
    pub(super) now: Duration,
}

impl Spin {
    /// Something turned up.
    pub(super) fn hit(&mut self) {
        self.now = (self.now * 2).min(self.max);
    }

    /// Nothing turned up.
    pub(super) fn miss(&mut self) {
        self.now = (self.now / 2).max(self.max / 16);
    }
}
