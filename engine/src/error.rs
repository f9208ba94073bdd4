//! What can go wrong: a variant per thing a caller can do differently.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ringraft_io::{LockError, Time};
use ringraft_raft::record::RecordError;
use ringraft_raft::{GroupId, Index, StorageError, Term};

use crate::wal::block::BlockError;
use crate::wal::section::SectionError;

/// Why the engine did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// The limits do not go together. Change them.
    #[error("log configuration: {what}")]
    Config {
        /// The rule that was broken.
        what: &'static str,
    },
    /// The directory is in use.
    #[error(transparent)]
    Lock(Arc<LockError>),
    /// The file system got in the way while the log was being opened; nothing was changed.
    #[error("cannot {what} {file}: {source}", file = file.display())]
    Open {
        /// What was tried.
        what: &'static str,
        /// On which file.
        file: PathBuf,
        /// What the file system said.
        source: Arc<io::Error>,
    },
    /// The files are there but cannot be trusted; nothing was changed.
    #[error(transparent)]
    Refused(Arc<Refusal>),
    /// A durable write failed: the log has ended, and says so to everything that is asked of it from now on. Stop the
    /// shard; a restart recovers what is really on the disk.
    #[error("the log has ended: writing {file} at {offset} failed: {source}", file = file.display())]
    Failed {
        /// The segment.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What the disk said.
        source: Arc<io::Error>,
    },
    /// The disk does not answer while the log is being opened.
    #[error("the disk hangs: {0}")]
    Hangs(Overdue),
    /// The next segment could not be made (no space?). The log goes on in what it has; see
    /// [`Engine::retry_segments`](crate::Engine::retry_segments).
    #[error("cannot prepare the segment {file}: {source}", file = file.display())]
    NoSegment {
        /// The file that should have been made or reused.
        file: PathBuf,
        /// What the file system said.
        source: Arc<io::Error>,
    },
    /// The queue is full, or the next segment is not ready yet: nothing was taken; ask again after a completion.
    #[error("the log is busy: {queued_bytes} bytes wait to be written")]
    Busy {
        /// Bytes of batches that wait.
        queued_bytes: usize,
    },
    /// The disk takes no more segments, and what is left is for votes and compactions: no entries were taken. Compact, or
    /// make room; it goes on by itself then, see [`Engine::retry_segments`](crate::Engine::retry_segments).
    #[error("the disk is full: entries are not taken, votes and compactions are")]
    Full,
    /// A checkpoint of all groups must fit a quarter of a segment.
    #[error("no room for another group: the checkpoint of {groups} groups fills its share of a segment")]
    TooManyGroups {
        /// How many there are.
        groups: usize,
    },
    /// The group is there already.
    #[error("group {group} exists already")]
    GroupExists {
        /// Which.
        group: GroupId,
    },
}

/// A write that takes too long.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a write to {file} at {offset} does not end", file = file.display())]
pub struct Overdue {
    /// The segment.
    pub file: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// When it was submitted.
    pub since: Time,
}

/// Why the files of a log were refused, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{file} at {offset}: {reason}; {advice}", file = file.display(), advice = reason.advice())]
pub struct Refusal {
    /// The file, or the directory if no file is to blame.
    pub file: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// What is wrong.
    pub reason: Reason,
}

/// What is wrong with the files of a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// A block that a later one attests as durable cannot be read.
    #[error("block {lsn} is damaged ({error}), and it was durable: a later block attests up to {attested}")]
    Damaged {
        /// Number of the block.
        lsn: u64,
        /// Highest number attested as durable.
        attested: u64,
        /// What is wrong with it.
        error: BlockError,
    },
    /// A segment that is still needed is not there.
    #[error("the segment of generation {generation} is missing")]
    Missing {
        /// Which.
        generation: u64,
    },
    /// Two files claim to be the same segment.
    #[error("another file is generation {generation} too")]
    Duplicate {
        /// Which.
        generation: u64,
    },
    /// The file is longer or shorter than the segment in it.
    #[error("the file has {found} bytes, its segment {expected}")]
    Resized {
        /// Bytes of the file.
        found: u64,
        /// Bytes that the segment's head says.
        expected: u64,
    },
    /// Written by a later release, or never by this program.
    #[error("unknown format version {version}")]
    Version {
        /// What the block says.
        version: u16,
    },
    /// Checksums of a kind this release does not know.
    #[error("unknown checksum kind {kind}")]
    Checksum {
        /// What the segment says.
        kind: u16,
    },
    /// A file of another log.
    #[error("belongs to log {found:#018x}, this is log {expected:#018x}")]
    Foreign {
        /// Whose the file is.
        found: u64,
        /// Who we are.
        expected: u64,
    },
    /// The block is as it was written, but what was written makes no sense.
    #[error("block {lsn} is whole but holds nonsense ({error})")]
    Section {
        /// Number of the block.
        lsn: u64,
        /// What is wrong with it.
        error: SectionError,
    },
    /// Entries that a group must have are nowhere.
    #[error("group {group} begins after {base}, but its first entry found follows {start}")]
    Hole {
        /// Which group.
        group: GroupId,
        /// Its base.
        base: Index,
        /// Where its entries start.
        start: Index,
    },
    /// An earlier opening has found damage, and this group has not been healed since; group 0: groups may be lost.
    #[error("group {group} has not recovered from damage that was found earlier")]
    Wounded {
        /// Which group.
        group: GroupId,
    },
}

impl Reason {
    fn advice(&self) -> &'static str {
        match self {
            Reason::Damaged { .. } | Reason::Section { .. } | Reason::Hole { .. } | Reason::Wounded { .. } => {
                "nothing was changed; check the disk, then restore this node from its peers with an empty directory"
            }
            Reason::Missing { .. } | Reason::Duplicate { .. } | Reason::Resized { .. } => {
                "nothing was changed; put the directory back as it was, or restore this node from its peers"
            }
            Reason::Version { .. } | Reason::Checksum { .. } => "nothing was changed; start a release that knows it",
            Reason::Foreign { .. } => "nothing was changed; point this node at its own directory",
        }
    }
}

/// Why a run could not be staged. Nothing was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StageError {
    /// The bytes are not records.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Larger than the log takes.
    #[error("the record of entry {index} takes {bytes} bytes, at most {bytes_max} are allowed")]
    TooLarge {
        /// Which entry.
        index: Index,
        /// Its encoded size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The indexes do not follow each other.
    #[error("expected entry {expected}, found {found}")]
    Order {
        /// What should have come.
        expected: Index,
        /// What came.
        found: Index,
    },
    /// The terms go backwards.
    #[error("entry {index} has term {term}, lower than the term before it")]
    Term {
        /// Which entry.
        index: Index,
        /// Its term.
        term: Term,
    },
    /// The run does not join the log.
    #[error("a run from {first} on does not join a log of {base} to {last}")]
    Gap {
        /// First index of the run.
        first: Index,
        /// The log's base.
        base: Index,
        /// The log's last index.
        last: Index,
    },
}

/// Why entries could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// They are not there.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The segment could not be mapped.
    #[error("cannot map {file}: {source}", file = file.display())]
    Map {
        /// The segment.
        file: PathBuf,
        /// What the file system said.
        source: Arc<io::Error>,
    },
    /// What the disk holds is not what was written.
    #[error("{file} at {offset}: the record of entry {index} is damaged", file = file.display())]
    Damaged {
        /// The segment.
        file: PathBuf,
        /// Where its run begins.
        offset: u64,
        /// Which entry.
        index: Index,
    },
}

/// Why a group was not mended. Nothing was taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RepairError {
    /// The log does not take it now.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No hole begins there.
    #[error("no hole begins at entry {index}")]
    NoHole {
        /// Where the entries begin.
        index: Index,
    },
    /// The bytes are not records.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It is not the entry that is missing: another index, a checksum that is wrong, or, where it is known, another term
    /// or size.
    #[error("this is not the entry {index} that is missing")]
    Entry {
        /// The index that was expected.
        index: Index,
    },
    /// Its term does not lie between those of its neighbours.
    #[error("entry {index} cannot have term {term}")]
    Term {
        /// Which entry.
        index: Index,
        /// Its term.
        term: Term,
    },
    /// Entries are missing, and nobody knows which.
    #[error("entries from {first} on are still missing")]
    Holes {
        /// The first one.
        first: Index,
    },
}
