//! Who says what to whom, in which term. Plain data: entries are named by range, never carried.

use crate::types::{EntryId, Index, PeerId, ReadId, Term};

/// One message between two members of a group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Message {
    /// Sender.
    pub from: PeerId,
    /// Receiver.
    pub to: PeerId,
    /// The sender's term; for a pre-vote request and a granted pre-vote, the term asked for. 0 for [`Body::ReadIndex`] and
    /// [`Body::ReadIndexReject`], which are of no term.
    pub term: Term,
    /// What is said.
    pub body: Body,
}

/// Which payloads travel beside a message. A witness is sent few of them and takes no others, and nobody else takes
/// so few: whoever sends what the message does not say is refused by the receiver's core.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Payloads {
    /// All: entries with their payloads, snapshots with the state.
    #[default]
    All,
    /// Only those of changes of membership: all other entries as [stripped records](crate::record::strip), snapshots as
    /// position and membership alone. The receiver is a [witness](crate::witness).
    Stripped,
}

/// What a message says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Body {
    /// Leader: append the entries `prev.index + 1 ..= last` after `prev`, and commit up to `commit`. Their metadata
    /// travels beside the message ([`Raft::step`](crate)); `last == prev.index` means no entries. One without entries
    /// that moves the follower's commit index is not answered.
    Append {
        /// The entry before the first one.
        prev: EntryId,
        /// Index of the last one.
        last: Index,
        /// The leader's commit index.
        commit: Index,
        /// What of the entries is to be sent.
        payloads: Payloads,
    },
    /// Follower: everything up to `index` matches the leader's log *and is durable*.
    AppendAck {
        /// Highest matching index; 0 when sent only to show a newer term.
        index: Index,
    },
    /// Follower: there is no entry `(prev.term, rejected)` in my log.
    AppendReject {
        /// Index of the `prev` refused.
        rejected: Index,
        /// Where a match is possible at the highest, and the follower's term there (0: unknown).
        hint: EntryId,
    },
    /// Candidate: vote for me in this term; my log ends with `last`.
    Vote {
        /// The candidate's last entry.
        last: EntryId,
        /// Whether a leader asked for this election: leases are ignored (thesis 3.10).
        transfer: bool,
    },
    /// Answer to [`Body::Vote`].
    VoteReply {
        /// Whether the vote was given.
        granted: bool,
    },
    /// Pre-candidate: would you vote for me in `term`?
    PreVote {
        /// The candidate's last entry.
        last: EntryId,
    },
    /// Answer to [`Body::PreVote`].
    PreVoteReply {
        /// Whether the vote would be given.
        granted: bool,
    },
    /// Leader: I am here.
    Heartbeat {
        /// `min(follower's match, leader's commit)`.
        commit: Index,
        /// Read token to echo; 0: none.
        read: u64,
    },
    /// Answer to [`Body::Heartbeat`].
    HeartbeatReply {
        /// The token echoed.
        read: u64,
    },
    /// Leader: you are too far behind; take a snapshot that covers at least `at`. The shell sends the snapshot
    /// itself, which may be newer, and reports how it went.
    Snapshot {
        /// Last entry that the snapshot covers.
        at: EntryId,
        /// What of the snapshot is to be sent.
        payloads: Payloads,
    },
    /// Follower, for a client: may a read at this moment be served? (thesis 6.4)
    ReadIndex {
        /// The follower's mark.
        id: ReadId,
    },
    /// Leader: yes, once you have applied `index`.
    ReadIndexReply {
        /// The follower's mark.
        id: ReadId,
        /// The read index.
        index: Index,
    },
    /// To a follower that asked for a read: no; ask again. From whoever cannot or will not confirm it.
    ReadIndexReject {
        /// The follower's mark.
        id: ReadId,
        /// Whether we lead, but too many reads wait.
        busy: bool,
    },
    /// To the leader: hand leadership to `target`.
    TransferLeader {
        /// The new leader.
        target: PeerId,
    },
    /// Leader to the transfer target: start an election at once (thesis 3.10).
    TimeoutNow,
}
