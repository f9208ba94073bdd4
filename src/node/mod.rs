//! The node: the only place that knows all its neighbours.
//!
//! A [`Shard`] is a loop over one [`Io`](ringraft_io::Io): it owns a log engine, a transport, and some raft groups, each
//! with a [`StateMachine`](crate::machine::StateMachine). [`Shard::turn`] is one lap. The same code runs on the kernel
//! and in simulation.

mod agenda;
mod arena;
mod clock;
mod config;
mod core;
mod error;
mod mail;
mod mend;
mod open;
mod reads;
mod shard;
mod slots;
mod snapshots;
mod status;
mod waiters;
mod wheel;

pub use self::config::{NodeConfig, shard_of};
pub use self::error::NodeError;
pub use self::mail::Post;
pub use self::shard::{GroupView, Shard};
pub use self::status::Board;
