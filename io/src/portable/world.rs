//! How a portable world starts.

use std::sync::Arc;

use super::net::PollNet;
use super::shard::Portable;
use crate::host::world::Start;
use crate::{HostWorld, ShardNo, WorldConfig, WorldError};

/// What a shard's own thread turns into its [`Portable`].
#[derive(Debug)]
pub struct PortableSeed {
    start: Start,
    config: Arc<WorldConfig>,
}

impl PortableSeed {
    /// Whose seed it is.
    #[must_use]
    pub fn shard(&self) -> ShardNo {
        self.start.shard
    }

    /// Sets up the shard for the calling thread, which alone may use it; pins the thread if the world is so configured.
    ///
    /// # Errors
    /// Lack of descriptors or memory.
    pub fn into_io(self) -> Result<Portable, WorldError> {
        Portable::new(self.start, &self.config)
    }
}

/// A running world without io_uring.
pub type PortableWorld = HostWorld<PortableSeed>;

impl PortableWorld {
    /// Binds the listeners and starts the control thread.
    ///
    /// # Errors
    /// One line that names the cause and the cure: an address is taken, no descriptors are left.
    ///
    /// # Panics
    /// If the configuration has no shards.
    pub fn start(config: WorldConfig) -> Result<PortableWorld, WorldError> {
        let shared = Arc::new(config.clone());
        HostWorld::open::<PollNet>(config, |start| PortableSeed { start, config: shared.clone() })
    }
}
