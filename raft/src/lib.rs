//! A sans-IO raft core: it decides, and never touches a payload.
//!
//! The core knows an entry as (index, term, kind, size). Payload bytes stay with the shell, which keeps them as runs of
//! encoded [records](record) in a log that answers the core's [`Storage`] questions; messages and [`Ready`] name ranges
//! of indexes, and the shell turns a range into bytes in the same turn.
//!
//! # The loop that drives raft
//!
//! Messages, ticks and proposals go in through [`Raft::step`], [`Raft::tick`] and [`Raft::propose`]; what is to be done
//! comes out through [`Raft::ready`], as often as the shell likes to take a turn:
//!
//! ```
//! use ringraft_raft::{Append, Index, Message, Raft, ReadState, Ready, Storage};
//!
//! trait Shell {
//!     fn send(&mut self, message: Message);                   // looks up the bytes of its range, never waits
//!     fn write(&mut self, append: &mut Append);               // begins a write, keeps ticket and after_sync beside it
//!     fn apply(&mut self, after: Index, upto: Index);         // in this order, once only
//!     fn serve(&mut self, read: ReadState);                   // once its index is applied
//!     fn synced(&mut self) -> Option<Append>;                 // the oldest write, if it is durable
//! }
//!
//! fn turn(raft: &mut Raft<impl Storage>, ready: &mut Ready, shell: &mut impl Shell) {
//!     while let Some(mut append) = shell.synced() {
//!         raft.synced(append.ticket);
//!         for message in append.after_sync.hold() {           // what the write promised may leave now
//!             if message.to != raft.id() {
//!                 shell.send(message);
//!             } else if let Err(error) = raft.step(message, &[]) {
//!                 unreachable!("our own word: {error}");
//!             }
//!         }
//!     }
//!     if raft.has_ready() {
//!         raft.ready(ready);
//!         ready.messages.drain(..).for_each(|message| shell.send(message)); // beside the write, not after it
//!         ready.append.iter_mut().for_each(|append| shell.write(append));
//!         let (after, upto) = ready.committed;
//!         if after < upto {
//!             shell.apply(after, upto);
//!             raft.applied(upto);
//!         }
//!         ready.reads.drain(..).for_each(|read| shell.serve(read));
//!     }
//! }
//! ```
//!
//! Five rules for shells: writes become durable in the order in which they were handed out; what hangs on a write
//! leaves after it, and comes back through `step` if it is for ourselves; a range in a message is read before the next
//! step; entries that the core appends by itself are empty, and [`Raft::meta`] tells their kind; a membership change is
//! applied with [`Raft::apply_conf_change`] before `applied` says so.
//!
//! A shell with many groups need not tick every one of them: it asks [`Raft::ticks_until_due`] after a turn, puts the
//! group on a timer wheel, and before it steps anything else, or when the group is due, catches up with
//! [`Raft::advance`].
//!
//! # etcd
//!
//! Where our rules differ from those of etcd's raft, [`Config::compat`] gives etcd's, so that recordings of it replay
//! byte for byte (`tests/traces.rs`): every message when it is asked for, not merged with others; every append answered,
//! and every answer after a sync; no hand-over before a leader goes; refused changes of membership as empty entries; snapshots that do not name us ignored; lost tails not mended;
//! reads of a lone voter, and under a lease, at once. What etcd logs comes as [`Event`]s, if [`Raft::observe`] gave a
//! listener; without one no event is even made.
#![forbid(unsafe_code)]

pub mod confchange;
pub mod config;
mod election;
pub mod error;
pub mod event;
mod handover;
pub mod inflights;
mod log;
pub mod message;
mod outbox;
pub mod progress;
pub mod quorum;
mod raft;
mod read_only;
pub mod ready;
pub mod record;
mod replication;
mod status;
pub mod storage;
mod tick;
pub mod tracker;
pub mod types;
mod unstable;

pub use confchange::{ConfChange, ConfChangeError, ConfChangeOp, Transition};
pub use config::{Compat, Config, ConfigError, PRIORITY_MAX, ReadPolicy};
pub use error::{OpenError, Refused, StepError};
pub use event::{Event, Observer};
pub use message::{Body, Message};
pub use progress::{Progress, ProgressState};
pub use raft::{Lost, Proposed, Raft, Stepped};
pub use ready::{AfterSync, Append, ReadState, Ready, SyncTicket};
pub use status::Status;
pub use storage::{Sizes, Storage, StorageError};
pub use types::{
    ConfState, EntryId, EntryKind, EntryMeta, GroupId, HardState, Index, PeerId, ReadId, Role, SoftState, Term,
};
