//! What the core can tell an observer: plain data, made only when somebody listens.

use crate::confchange::ConfChange;
use crate::error::Refused;
use crate::message::Message;
use crate::progress::Progress;
use crate::raft::Lost;
use crate::status::Status;
use crate::types::{ConfState, EntryId, Index, PeerId, Term};

/// Listens. The [`Status`] is that of the moment: of the role just taken, or of before the vote just given.
pub type Observer = Box<dyn FnMut(&Status, Event<'_>) + Send>;

/// Something happened that nobody needs to act on.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Event<'a> {
    /// A membership takes effect.
    Configured(&'a ConfState),
    /// A role was taken, perhaps the same one anew; the status says which, and in which term.
    Became,
    /// An election starts; the term is still the old one.
    ElectionStarts,
    /// An election that was due did not start.
    ElectionRefused(NoElection),
    /// A (pre-)vote was asked for.
    VoteAsked {
        /// Of whom.
        to: PeerId,
        /// Whether it is a pre-vote.
        pre: bool,
    },
    /// A (pre-)vote arrived, and was counted.
    VoteCounted {
        /// From whom; ourselves included.
        from: PeerId,
        /// Whether it is a pre-vote.
        pre: bool,
        /// What it says.
        granted: bool,
        /// Members that granted so far.
        yes: usize,
        /// Members that refused so far.
        no: usize,
    },
    /// A (pre-)vote request is answered; the status is that of before.
    VoteAnswered {
        /// To whom.
        to: PeerId,
        /// Whether it is a pre-vote.
        pre: bool,
        /// The last entry of the one who asks.
        last: EntryId,
        /// The answer.
        granted: bool,
    },
    /// A (pre-)vote request was ignored, for the leader was heard of lately.
    LeaseHeld {
        /// Who asks.
        from: PeerId,
        /// Whether it is a pre-vote.
        pre: bool,
        /// The last entry of the one who asks.
        last: EntryId,
        /// Ticks until the lease is over.
        ticks_left: u32,
    },
    /// The leader hears of no quorum, and steps down.
    QuorumLost,
    /// The leader is forgotten.
    LeaderForgotten(PeerId),
    /// A message of a newer term: we become its follower.
    NewerTerm(&'a Message),
    /// A message of an older term: ignored.
    OlderTerm(&'a Message),
    /// A write of an older term is durable: its entries do not count.
    OlderSync {
        /// Which term.
        term: Term,
    },
    /// A write is durable whose last entry is not in the unstable tail.
    SyncMissing {
        /// Which entry.
        index: Index,
    },
    /// A write is durable whose last entry is of another term than the one in the unstable tail.
    SyncMismatch {
        /// What is durable.
        written: EntryId,
        /// The term that is in the tail.
        term: Term,
    },
    /// A write is durable whose last entry is that of a snapshot that waits to be written.
    SyncIsSnapshot {
        /// Which entry.
        index: Index,
    },
    /// An append was refused.
    AppendRefused {
        /// Whose.
        from: PeerId,
        /// The entry that it builds on.
        prev: EntryId,
        /// Our term there; 0: unknown.
        term: Term,
    },
    /// An append conflicts with an entry of ours.
    Conflict {
        /// Where.
        index: Index,
        /// Our term there.
        ours: Term,
        /// The leader's.
        theirs: Term,
    },
    /// The unstable tail is replaced from here on.
    TailReplaced {
        /// From where.
        from: Index,
    },
    /// The unstable tail is cut before here, and goes on with other entries.
    TailCut {
        /// From where.
        from: Index,
    },
    /// A peer refused an append.
    Rejected {
        /// Who.
        from: PeerId,
        /// The index of the entry that the append built on.
        rejected: Index,
        /// Where the peer's log may match.
        hint: EntryId,
    },
    /// What is sent next to a peer moves back; before a change of its state.
    Decreased(PeerId, &'a Progress),
    /// A peer was reported unreachable.
    Unreachable(PeerId, &'a Progress),
    /// A message from a peer that is no member, or a report on one.
    NoProgress(PeerId),
    /// A member lost durable entries.
    Lost(Lost),
    /// A peer is told of a snapshot; its progress is that of before.
    SnapshotSent {
        /// Whom.
        to: PeerId,
        /// Which.
        at: EntryId,
        /// The first index of our log.
        first: Index,
        /// Before.
        progress: &'a Progress,
    },
    /// Appends to a peer wait for its snapshot.
    SnapshotAwaited(PeerId, &'a Progress),
    /// A peer needs a snapshot, but seems to be away.
    SnapshotWithheld(PeerId),
    /// A peer does not need the snapshot any more: its acknowledgement reaches our log.
    SnapshotOvertaken(PeerId, &'a Progress),
    /// A snapshot's sending was reported as ended.
    SnapshotReported {
        /// To whom.
        to: PeerId,
        /// How.
        ok: bool,
        /// After.
        progress: &'a Progress,
    },
    /// A snapshot takes the place of the log; nothing is changed yet.
    RestoreStarts {
        /// Which.
        at: EntryId,
        /// The log as it is.
        log: LogSummary,
    },
    /// A snapshot has taken the place of the log.
    Restored(EntryId),
    /// The log holds what a snapshot covers: only the commit index moves there. The status is that of before.
    FastForwarded(EntryId),
    /// A snapshot is not needed.
    SnapshotIgnored(EntryId),
    /// A snapshot does not name us, and is ignored.
    SnapshotWithoutUs(EntryId, &'a ConfState),
    /// With etcd's rules: a refused change of membership becomes an empty entry.
    ConfChangeEmptied {
        /// The change.
        change: &'a ConfChange,
        /// The membership.
        conf: &'a ConfState,
        /// Why.
        why: Refused,
    },
    /// The leaving of a joint membership was proposed by ourselves.
    JointLeaving(&'a ConfState),
    /// A joint membership is not left yet, for leadership is being handed over to this peer.
    JointKept(&'a ConfState, PeerId),
    /// Leadership is to be handed over.
    Transfer(PeerId, TransferEvent),
}

/// Why an election that was due did not start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoElection {
    /// We lead already.
    Leader,
    /// We have no vote, or our log is being replaced.
    Unpromotable,
    /// A committed change of membership is not applied.
    ConfChangePending,
    /// The leader may count on a lease.
    Lease,
}

/// What becomes of a transfer to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransferEvent {
    /// It starts.
    Started,
    /// The target was told to start an election at once, for it has everything.
    ToldAtOnce,
    /// The target was told to start an election once it had everything.
    Told,
    /// It is under way already.
    Repeated,
    /// It gives way to another.
    Aborted,
    /// The target leads already.
    ToOurselves,
    /// The target has no vote.
    ToLearner,
    /// We are the target, and are told so by this peer.
    Received,
}

/// The cursors of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogSummary {
    /// Highest index known to be on a quorum.
    pub committed: Index,
    /// Highest index reported applied.
    pub applied: Index,
    /// Highest index handed out for application.
    pub applying: Index,
    /// First index of the unstable tail.
    pub unstable_from: Index,
    /// First index of the unstable tail that is not handed out for writing.
    pub unwritten_from: Index,
    /// Entries in the unstable tail.
    pub unstable_count: usize,
}

/// The place of an observer; empty at first, and no larger than it must be: every group has one.
#[derive(Default)]
pub(crate) struct Observed(pub(crate) Option<Box<Observer>>);

impl std::fmt::Debug for Observed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "observed" } else { "unobserved" })
    }
}
