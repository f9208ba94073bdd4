//! `Io` on a seeded, simulated world.
//!
//! A [`World`] is a single-threaded, discrete-event simulation of processes with shards, disks, a network and a clock,
//! and of what goes wrong with them. The driver owns the shards (anything that holds a [`SimIo`]); [`World::next`]
//! advances the clock and says whose turn it is. One seed is one run: [`World::trace_hash`] proves it.
//!
//! ```
//! use std::time::Duration;
//! use ringraft_io::sim::{Step, World, WorldConfig};
//! use ringraft_io::{Io, ShardNo, Token};
//!
//! let world = World::new(7, WorldConfig::default());
//! let process = world.add_client("client", 1);
//! let mut io = world.io(process, ShardNo(0));
//! world.schedule(world.now() + Duration::from_secs(1), 0);
//! let mut out = Vec::new();
//! let mut turns = 0;
//! while let Some(step) = world.next() {
//!     match step {
//!         Step::Shard { .. } => {
//!             // A real shard handles `out`, asks `io` for more, and knows its own next deadline.
//!             io.turn(None, &mut out).unwrap();
//!             turns += 1;
//!         }
//!         Step::Driver(_) => break,
//!     }
//! }
//! assert_eq!(turns, 1, "the first turn; nothing was due after it");
//! ```
//!
//! Files: `world` (processes, turns, faults), `net` (streams), `calls` (dials and file transfers), `disk` (what a crash
//! leaves), `shard_io` (the trait), `events`, `trace`, `rng`, `config`, `counters`.
#![forbid(unsafe_code)]

mod calls;
mod config;
mod counters;
mod disk;
mod events;
mod net;
mod rng;
mod shard_io;
mod trace;
mod world;

#[cfg(test)]
mod tests;

pub use config::{Delay, WorldConfig};
pub use counters::Counters;
pub use disk::SECTOR_SIZE;
pub use rng::Rng;
pub use shard_io::SimIo;
pub use world::{DiskImage, ProcessId, Step, World};
