//! Whether this machine gives a whole world its rings, found out by setting them all up at the same time: a limit on
//! memory may allow one of them and not the next.

use super::explain::explain;
use super::probe::{self, Capabilities, probe};
use super::recv_pool::RecvPool;
use super::ring::Ring;
use super::world::UringConfig;
use crate::WorldError;

/// One shard's ring with its buffers.
struct Part {
    ring: Ring,
    pool: RecvPool,
}

impl Drop for Part {
    fn drop(&mut self) {
        self.pool.unregister(&self.ring.submitter);
    }
}

/// Sets up what the shards and the control thread of a world need, enters each ring once, and takes all down again.
///
/// # Errors
/// One line that names the cause and the cure.
pub(crate) fn rehearse(config: &UringConfig) -> Result<Capabilities, WorldError> {
    let capabilities = probe()?;
    let mut parts = Vec::new();
    for _ in 0..config.world.shards {
        let mut ring = Ring::new(config.sq_entries, config.cq_entries)?;
        ring.enter(0, None).map_err(explain)?;
        let pool = probe::pool(&ring.submitter, &config.world)?;
        parts.push(Part { ring, pool });
    }
    let _control = probe::setup(super::net::ENTRIES, 2 * super::net::ENTRIES)?;
    Ok(capabilities)
}
