//! [`Io`](crate::Io) without io_uring, for kernels and containers that forbid it.
//!
//! A shard waits by epoll and moves bytes with plain non-blocking calls; a thread beside it does the durable writes, one
//! after the other, and wakes it when one has ended. All else is as in the io_uring world: the same control thread (on
//! plain tokio), the same job thread, the same files, byte for byte. Nothing here is unsafe.
//!
//! ```no_run
//! use ringraft_io::{Io, ListenerKind, WorldConfig, portable::PortableWorld};
//!
//! let listeners = vec![(ListenerKind::Client, "127.0.0.1:2379".parse()?)];
//! let mut world = PortableWorld::start(WorldConfig { listeners, ..WorldConfig::new(1) })?;
//! let mut io = world.take_seeds().remove(0).into_io()?;
//! let mut out = Vec::new();
//! while io.turn(None, &mut out).is_ok() {
//!     out.drain(..).for_each(|completion| println!("{completion:?}"));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod disk;
mod net;
mod poller;
mod pool;
mod sending;
mod shard;
mod world;

#[cfg(test)]
mod tests;

pub use pool::Pooled;
pub use shard::Portable;
pub use world::{PortableSeed, PortableWorld};
