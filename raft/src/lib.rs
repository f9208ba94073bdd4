//! A sans-IO raft core: it decides, and never touches a payload.
//!
//! The core knows an entry as (index, term, kind, size). Payload bytes stay with the shell, which keeps them as runs of
//! encoded [records](record) in a log that answers the core's [`Storage`] questions; messages and [`Ready`] name ranges
//! of indexes, and the shell turns a range into bytes in the same turn.
#![forbid(unsafe_code)]

pub mod config;
pub mod message;
pub mod ready;
pub mod record;
pub mod storage;
pub mod types;

pub use config::{Config, ConfigError, ReadPolicy};
pub use message::{Body, Message};
pub use ready::{AfterSync, Append, ReadState, Ready};
pub use storage::{Storage, StorageError};
pub use types::{
    ConfState, EntryId, EntryKind, EntryMeta, GroupId, HardState, Index, PeerId, ReadId, Role, SoftState, Term,
};
