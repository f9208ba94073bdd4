//! [`Io`](crate::Io) on io_uring: one ring per shard thread, one enter per turn.
//!
//! A [`UringWorld`] binds the listeners, runs the control thread (accepting, dialing, whole files; on `tokio-uring`)
//! and gives one [`UringSeed`] per shard. The shard's own thread turns its seed into a [`Uring`]. Everything the kernel
//! touches lives in a slot of that ring until the last completion of its operation, so nothing is freed or changed
//! under it; this folder is the only place of the workspace that says `unsafe`.
//!
//! ```no_run
//! use ringraft_io::{Io, ListenerKind, RefuseAll, WorldConfig, uring::UringWorld};
//!
//! let listeners = vec![(ListenerKind::Client, "127.0.0.1:2379".parse()?)];
//! let acceptor = std::sync::Arc::new(RefuseAll);
//! let mut world = UringWorld::start(WorldConfig { listeners, acceptor, ..WorldConfig::new(2) }.into())?;
//! println!("listening on {:?}", world.listening());
//! for seed in world.take_seeds() {
//!     std::thread::spawn(move || {
//!         let mut io = seed.into_io().expect("a ring");
//!         let mut out = Vec::new();
//!         while io.turn(None, &mut out).is_ok() {
//!             out.drain(..).for_each(|completion| println!("{completion:?}"));
//!         }
//!     });
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![allow(unsafe_code)]

pub mod disk;
mod explain;
mod mapping;
mod net;
mod probe;
mod raw;
mod recv_pool;
mod rehearsal;
mod ring;
mod send;
mod shard;
mod streams;
mod world;

#[cfg(test)]
mod counting;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use counting::allocations;
pub(crate) use mapping::map;
pub use probe::{Capabilities, probe};
pub use recv_pool::Provided;
pub(crate) use rehearsal::rehearse;
pub use shard::Uring;
pub use world::{UringConfig, UringSeed, UringWorld};
