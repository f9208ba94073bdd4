//! What ends a shard, or keeps a node from starting.

use std::io;
use std::path::PathBuf;

use ringraft_engine::{EngineError, ReadError};
use ringraft_raft::{EntryId, GroupId, Index, OpenError};

/// Each names what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The world is broken.
    #[error("the io ring has failed: {0}")]
    World(io::Error),
    /// The log has failed, is damaged, foreign or in use.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A file other than the log.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// A committed entry does not match its checksum.
    #[error("group {group}: the entry after {after} is damaged in memory or on disk; restart to verify the log")]
    DamagedEntry {
        /// The group.
        group: GroupId,
        /// The last entry applied before it.
        after: Index,
    },
    /// A committed entry of a kind that this version cannot apply.
    #[error("group {group}: entry {entry} is of a kind this version cannot apply; run the version that wrote it")]
    UnknownEntry {
        /// The group.
        group: GroupId,
        /// The entry.
        entry: EntryId,
    },
    /// A snapshot that is needed is damaged or missing.
    #[error(
        "group {group}: {what}; if all other nodes are up and have caught up, start this one with an empty directory to \
         take everything from them"
    )]
    Snapshot {
        /// The group.
        group: GroupId,
        /// What is wrong.
        what: String,
    },
    /// A group has witnesses among its members.
    #[error(
        "group {group}: its membership has witnesses, which this version cannot serve; run the version that added them"
    )]
    Witnesses {
        /// The group.
        group: GroupId,
    },
    /// The log of a group has lost something, and the group has nobody else to ask for it.
    #[error(
        "group {group}: {lost}; it has no other member to repair it: bring back a copy of this node's directory, or lose \
         its data with an empty one"
    )]
    Lost {
        /// The group.
        group: GroupId,
        /// What is lost, and where it lay.
        lost: String,
    },
    /// The data directory belongs to something else.
    #[error(
        "{} belongs to {found}, this is {expected}; choose another directory, or start it as what it was",
        path.display()
    )]
    Foreign {
        /// The identity file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who we are.
        expected: String,
    },
    /// A group's log contradicts itself or the configuration.
    #[error("group {group}: {source}")]
    Raft {
        /// The group.
        group: GroupId,
        /// How.
        source: OpenError,
    },
    /// An entry that is needed cannot be read from the log.
    #[error(transparent)]
    Read(#[from] ReadError),
}
