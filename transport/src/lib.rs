//! The wire between the nodes: etcd's peer transport rebuilt for one ring per shard.
//!
//! Each shard owns one [`Transport`]. Between two nodes it keeps, per shard, an append stream and a message stream in
//! each direction, each asked for by its reader. Sending never blocks: what does not fit is dropped and said so, and
//! whether to send again is raft's affair. Everything but [`Transport`] is pure.
//!
//! One turn of a shard, seen from here (`node` stands for the neighbour that steps raft; it implements [`Inbound`]):
//!
//! ```
//! use ringraft_io::{Completion, Io};
//! use ringraft_transport::{Inbound, Transport};
//!
//! fn turn<I: Io>(io: &mut I, transport: &mut Transport, node: &mut impl Inbound, out: &mut Vec<Completion>) {
//!     io.turn(transport.next_deadline(), out).expect("the world works");
//!     for completion in out.drain(..) {
//!         let _not_ours = transport.complete(io, completion, node);
//!     }
//!     transport.report(node);
//!     // ... step raft, take every Ready, `transport.send(..)` its messages ...
//!     transport.flush(io);
//! }
//! ```
#![forbid(unsafe_code)]

pub mod codec;
pub mod config;
pub mod etcd;
pub mod frame;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod handshake;
mod peer;
pub mod reader;
mod send_queue;
pub mod status;
mod transport;
mod writer;

#[cfg(test)]
mod tests;

pub use config::{Config, ConfigError};
pub use frame::{ClusterId, StreamKind};
pub use handshake::{Greeting, Judge, JudgeConfig, Members, SnapshotHead};
pub use send_queue::{PROPOSAL_MAX, QueueLimits, RECORDS_MAX, RUNS_MAX};
pub use status::{Counters, PeerError, PeerStatus};
pub use transport::{Inbound, PeerRefused, SendOutcome, SnapshotDial, TOKENS, Transport};
