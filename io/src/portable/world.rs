//! One process's portable world: its listeners, its control thread, and a seed for each shard.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::net::PollNet;
use super::shard::Portable;
use crate::host::world::{House, Start};
use crate::{ListenerKind, ShardNo, Waker, WorldConfig, WorldError};

/// What a shard's own thread turns into its [`Portable`].
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

impl fmt::Debug for PortableSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortableSeed(shard {})", self.shard())
    }
}

/// A running world. Dropping it ends the control thread: nothing is accepted and nothing can be dialed any more, while
/// the shards' streams go on.
pub struct PortableWorld {
    seeds: Vec<PortableSeed>,
    house: House,
}

impl PortableWorld {
    /// Binds the listeners and starts the control thread.
    ///
    /// # Errors
    /// One line that names the cause and the cure: an address is taken, no descriptors are left.
    ///
    /// # Panics
    /// If the configuration has no shards.
    pub fn start(config: WorldConfig) -> Result<PortableWorld, WorldError> {
        let (house, starts) = House::open::<PollNet>(config.clone())?;
        let config = Arc::new(config);
        let seeds = starts.into_iter().map(|start| PortableSeed { start, config: config.clone() }).collect();
        Ok(PortableWorld { seeds, house })
    }

    /// The shards' seeds, in order. Empty after the first call.
    pub fn take_seeds(&mut self) -> Vec<PortableSeed> {
        std::mem::take(&mut self.seeds)
    }

    /// Where this world listens, in the order of the configuration, with the ports it really has.
    #[must_use]
    pub fn listening(&self) -> &[(ListenerKind, SocketAddr)] {
        self.house.listening()
    }

    /// Wakes shards from any thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.house.waker()
    }
}

impl fmt::Debug for PortableWorld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortableWorld({:?})", self.house)
    }
}
