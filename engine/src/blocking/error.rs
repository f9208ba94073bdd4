//! Why a log of its own thread did not do what it was asked.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ringraft_raft::StorageError;

use crate::error::{EngineError, ReadError, StageError};
use crate::snapshot::SnapshotError;

/// Why the log did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// There is no world to work in (io_uring was asked for and is not permitted; no descriptors are left), or it broke.
    #[error(transparent)]
    World(Arc<WorldError>),
    /// What the engine says. [`EngineError::Failed`]: a write or sync failed, the log has ended.
    /// [`EngineError::NoSegment`]: the disk is full; nothing was taken, compact or ask again later.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The entries cannot be appended there. Nothing was taken.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The entries cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is no such entry.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The snapshot is older than what there is. Nothing was taken.
    #[error("snapshot {found} is older than {latest}")]
    SnapshotOutOfDate {
        /// The one offered.
        found: ringraft_raft::EntryId,
        /// The latest one, or where the log begins.
        latest: ringraft_raft::EntryId,
    },
    /// A snapshot file is not as it was written.
    #[error("{file}: {source}", file = file.display())]
    Snapshot {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        source: SnapshotError,
    },
    /// A snapshot file cannot be written or read.
    #[error("{file}: {source}", file = file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What the file system said.
        source: Arc<io::Error>,
    },
    /// A value has no form as bytes.
    #[error("cannot encode: {source}")]
    Format {
        /// What the format says.
        source: Arc<io::Error>,
    },
    /// The queue is full. Nothing was taken.
    #[error("the log's queue is full")]
    Full,
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// The log's thread has panicked: a bug, of the engine or of a callback.
    #[error("the log has ended: its thread has panicked")]
    Panicked,
}

/// Why there is no world, in its own words.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct WorldError(Box<dyn std::error::Error + Send + Sync>);

impl WorldError {
    /// Whatever the reason is.
    #[must_use]
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> WorldError {
        WorldError(error.into())
    }
}
