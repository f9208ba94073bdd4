//! What damage takes from a group. The rule for the node stands at [`Wounds`].

use std::collections::VecDeque;
use std::path::PathBuf;

use ringraft_raft::Index;

use crate::wal::block::BlockError;
use crate::wal::pieces::Piece;

/// A place of the log where blocks that were durable cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The segment.
    pub file: PathBuf,
    /// Where in it the first of them should begin.
    pub offset: u64,
    /// The numbers of the first and the last batch that are lost; none if only the head of a segment is.
    pub batches: Option<(u64, u64)>,
    /// What was found there.
    pub error: BlockError,
}

/// Entries that a group must have and that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hole {
    /// The first of them.
    pub first: Index,
    /// The last of them.
    pub last: Index,
    /// Their terms and sizes are known: the log counts them in, only their payload is gone. Otherwise the log ends
    /// before them, and what is known to follow waits behind.
    pub known: bool,
    /// Why they cannot be read.
    pub reason: HoleReason,
    /// The file where they lay; the directory if nobody knows.
    pub file: PathBuf,
    /// Where in it.
    pub offset: u64,
}

/// Why entries cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HoleReason {
    /// Their blocks are damaged.
    #[error("damaged blocks ({0})")]
    Block(BlockError),
    /// Their records are.
    #[error("damaged records")]
    Record,
    /// Nothing says where they were.
    #[error("nowhere to be found")]
    Missing,
}

/// What a group has lost to damage; see [`Engine::wounds`](crate::Engine::wounds).
///
/// A group that has wounds may have promised what it does not know any more. **The rule**: it is kept silent, which is
/// no vote, no candidacy and no acknowledgement, until
///
/// 1. if `hard_state_lost` or `tail_lost`: every other voter has been heard since this start, and the group's term is
///    not below any of theirs (nobody whom it may have given its vote had a lower one); then
/// 2. its log agrees with that of a leader of such a term up to that leader's last entry at a moment after 1, by
///    [`repair`](crate::Engine::repair), by appending what the leader sends (from a
///    [cut](crate::Engine::cut_at_hole) on), or by a snapshot. With a leader that does not count old acknowledgements
///    any more, its read index is as good as its last entry; and from 1 on acknowledgements to it are true; then
/// 3. [`heal`](crate::Engine::heal) is durable, with a vote for that leader.
///
/// A group whose only wounds are known holes keeps its promises: it may vote and acknowledge (it knows the terms), but
/// not lead before they are repaired. A group of one member has nobody to ask: it stays closed until an operator
/// decides.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Wounds {
    /// Entries that are gone, in order.
    pub holes: Vec<Hole>,
    /// A later hard state, membership or snapshot mark may have been lost: the term may be too low, a vote forgotten.
    pub hard_state_lost: bool,
    /// Entries behind the last one may have been lost, or others in place of the last ones.
    pub tail_lost: bool,
}

impl Wounds {
    /// Whether the group must be silent: see the rule above.
    #[must_use]
    pub fn silence(&self) -> bool {
        self.hard_state_lost || self.tail_lost || self.holes.iter().any(|hole| !hole.known)
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.hard_state_lost && !self.tail_lost && self.holes.is_empty()
    }
}

/// The wounds of a group, and what lies behind its unknown holes: behind each a piece of log.
#[derive(Default, Debug)]
pub(crate) struct Wounded {
    pub(crate) told: Wounds,
    pub(crate) islands: VecDeque<Piece>,
}

impl Wounded {
    /// Of a group of which nothing is known but that it may have been there.
    pub(crate) fn unknown() -> Wounded {
        let told = Wounds { hard_state_lost: true, tail_lost: true, ..Wounds::default() };
        Wounded { told, islands: VecDeque::new() }
    }
}
