//! The log engine: one write-ahead log per shard, shared by many raft groups.
//!
//! Segments of a fixed size are written once with zeros, then overwritten and recycled. A batch (all that all groups
//! appended in a turn) is one block, one write and one sync; two are in flight, the third fills meanwhile.
//!
//! There are two ways to use it. Who has a loop and a ring of its own drives an [`Engine`] through an
//! [`Io`](ringraft_io::Io), as a shard of the node does. Who just wants a log opens a [`blocking::Log`], which brings its
//! own thread (`examples/log.rs`):
//!
//! ```no_run
#![doc = include_str!("../examples/log.rs")]
//! ```
#![forbid(unsafe_code)]

#[cfg(any(feature = "openraft", feature = "raft-rs"))]
pub mod adapters;
pub mod blocking;
mod config;
mod engine;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod group_log;
pub mod inspect;
mod open;
mod repair;
pub mod snapshot;
mod wal;
mod wounds;

pub use config::Config;
pub use engine::{BatchNo, Engine, RecoveryReport, Stats, Write};
pub use error::{EngineError, Overdue, ReadError, Reason, Refusal, RepairError, StageError};
pub use group_log::GroupLog;
pub use wal::block::BlockError;
pub use wal::recovery::Cut;
pub use wal::section::{MEMBERS_MAX, SectionError};
pub use wounds::{Gap, Hole, HoleReason, Wounds};
