//! How an io_uring world is configured and starts.

use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use super::net::RingNet;
use super::probe::probe;
use super::shard::Uring;
use crate::host::world::Start;
use crate::{HostWorld, ShardNo, WorldConfig, WorldError};

/// How an io_uring world is made. [`UringConfig::new`] gives what suits most.
#[derive(Clone, Debug)]
pub struct UringConfig {
    /// What every world is told.
    pub world: WorldConfig,
    /// Entries that fit into one submit of a shard.
    pub sq_entries: u32,
    /// Completions that fit between two looks at them.
    pub cq_entries: u32,
    /// Let one receive fill several buffers where the kernel can.
    pub bundles: bool,
    /// Places in a ring's table of sockets and files; further ones work, a little slower.
    pub table_size: u32,
}

impl UringConfig {
    /// As [`WorldConfig::new`].
    #[must_use]
    pub fn new(shards: u16) -> UringConfig {
        WorldConfig::new(shards).into()
    }
}

impl From<WorldConfig> for UringConfig {
    fn from(world: WorldConfig) -> UringConfig {
        UringConfig { world, sq_entries: 256, cq_entries: 4096, bundles: true, table_size: 1024 }
    }
}

/// What a shard's own thread turns into its [`Uring`].
#[derive(Debug)]
pub struct UringSeed {
    start: Start,
    config: Arc<UringConfig>,
    rings: Rings,
}

/// The shards' rings, for kicks from each other. Held until the world ends, so that their numbers are never reused.
pub(super) type Rings = Arc<[OnceLock<OwnedFd>]>;

impl UringSeed {
    /// Whose seed it is.
    #[must_use]
    pub fn shard(&self) -> ShardNo {
        self.start.shard
    }

    /// Sets up the ring for the calling thread, which alone may use it; pins the thread if the world is so configured.
    ///
    /// # Errors
    /// What [`probe`] may say, and lack of memory.
    pub fn into_io(self) -> Result<Uring, WorldError> {
        Uring::new(self.start, &self.config, self.rings)
    }
}

/// A running world with io_uring.
pub type UringWorld = HostWorld<UringSeed>;

impl UringWorld {
    /// Probes the kernel, binds the listeners and starts the control thread.
    ///
    /// # Errors
    /// One line that names the cause and the cure: io_uring is not permitted, an address is taken.
    ///
    /// # Panics
    /// If the configuration has no shards.
    pub fn start(config: UringConfig) -> Result<UringWorld, WorldError> {
        probe()?;
        let config = Arc::new(config);
        let rings: Rings = (0..config.world.shards).map(|_| OnceLock::new()).collect();
        let seed = |start| UringSeed { start, config: config.clone(), rings: rings.clone() };
        HostWorld::open::<RingNet>(config.world.clone(), seed)
    }
}
