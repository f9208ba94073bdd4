//! What can go wrong at the doors.

use crate::confchange::ConfChangeError;
use crate::config::ConfigError;
use crate::types::{EntryId, Index, PeerId, Term};

/// Why a proposal, a read or a transfer was refused. Nothing has happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// Nobody is known to lead; try again later.
    #[error("no leader is known")]
    NoLeader,
    /// Leadership is being handed over; try again later, elsewhere.
    #[error("leadership is being transferred to peer {target}")]
    Transferring {
        /// To whom.
        target: PeerId,
    },
    /// Too many bytes wait for a quorum; try again later.
    #[error("{size} bytes more would exceed the limit of {limit} uncommitted bytes ({uncommitted} now)")]
    TooMuchUncommitted {
        /// Payload bytes uncommitted now.
        uncommitted: u64,
        /// Payload bytes proposed.
        size: u64,
        /// [`Config::uncommitted_size_max`](crate::Config::uncommitted_size_max).
        limit: u64,
    },
    /// The payload is longer than a record can be ([`PAYLOAD_MAX`](crate::record::PAYLOAD_MAX)).
    #[error("a payload of {size} bytes is longer than a record can be")]
    TooLong {
        /// Payload bytes proposed.
        size: u64,
    },
    /// We do not lead, and proposals are not forwarded; ask the leader.
    #[error("not the leader; the leader is peer {leader}")]
    NotLeader {
        /// Who leads.
        leader: PeerId,
    },
    /// We lead, but are no longer a member.
    #[error("no longer a member of the group")]
    NotMember,
    /// The target of a transfer is not a voter.
    #[error("peer {target} is not a voter")]
    NotVoter {
        /// The target.
        target: PeerId,
    },
    /// A witness was to lead, or to answer a read: it has no state to do that with. Ask another member.
    #[error("peer {peer} is a witness: it has no state")]
    Witness {
        /// Who.
        peer: PeerId,
    },
    /// The change does not fit the membership of now.
    #[error("change of membership: {error}")]
    ConfChange {
        /// Why.
        error: ConfChangeError,
    },
    /// A change of membership may be in the log, unapplied; try again once `index` is applied.
    #[error("a change of membership may be pending at index {index}")]
    ConfChangePending {
        /// Where.
        index: Index,
    },
    /// The configuration is joint: only leaving it can be proposed.
    #[error("the configuration is joint and must be left first")]
    MustLeaveJoint,
    /// There is no joint configuration to leave.
    #[error("the configuration is not joint")]
    NotJoint,
    /// Too many reads wait; try again later.
    #[error("{limit} reads wait already")]
    TooManyReads {
        /// [`Config::read_count_max`](crate::Config::read_count_max).
        limit: usize,
    },
    /// We led, and lead no more. Ask again, the leader of now.
    #[error("leadership of term {term} ended before it was done")]
    SteppedDown {
        /// The term in which we led.
        term: Term,
    },
    /// Whom we took for the leader gave our read up. Ask again, later if it is busy.
    #[error("peer {by} gave the read up: {}", if *.busy { "too many wait there" } else { "it does not lead" })]
    GivenUp {
        /// Who.
        by: PeerId,
        /// Whether it leads, but too many reads wait.
        busy: bool,
    },
    /// Leases are trusted: forgetting the leader would break them.
    #[error("the leader cannot be forgotten while reads trust its lease")]
    Lease,
}

/// Why a message was not taken. A correct peer can cause [`StepError::UnknownPeer`], [`StepError::ReadRefused`],
/// [`StepError::TransferRefused`] and, where an id was given to a new member of another kind,
/// [`StepError::WrongPayloads`]; everything else says that someone speaks another language, or has lost data
/// in a way that is not mended by itself ([`Lost`](crate::Lost)).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StepError {
    /// It is for somebody else.
    #[error("message is for peer {to}")]
    NotForUs {
        /// For whom.
        to: PeerId,
    },
    /// An answer from a peer that is not a member.
    #[error("peer {from} is not a member")]
    UnknownPeer {
        /// Who.
        from: PeerId,
    },
    /// It claims to come from ourselves, but we say no such thing to ourselves.
    #[error("message claims to come from this member")]
    Forged,
    /// It contradicts itself, or is out of all bounds.
    #[error("message from peer {from} is malformed: {what}")]
    Malformed {
        /// Who.
        from: PeerId,
        /// What is wrong.
        what: &'static str,
    },
    /// It takes us for a witness, and we are none, or the other way round: what it carries is not what our log is made
    /// of.
    #[error("message from peer {from} takes this member for {}", if *.witness { "a full one, but it is a witness" } else { "a witness" })]
    WrongPayloads {
        /// Who.
        from: PeerId,
        /// Whether we are one.
        witness: bool,
    },
    /// It is taken by [`Raft::step_snapshot`](crate::Raft::step_snapshot), once the snapshot itself is here.
    #[error("a snapshot is stepped once it has arrived")]
    SnapshotDoor,
    /// The leader's log contradicts what we know to be committed.
    #[error("append from peer {from} conflicts at {index} with entries committed up to {committed}")]
    CommittedConflict {
        /// Who.
        from: PeerId,
        /// Where.
        index: Index,
        /// Our commit index.
        committed: Index,
    },
    /// A second leader in our own term.
    #[error("peer {from} acts as leader of term {term}, which is led by this member")]
    SecondLeader {
        /// Who.
        from: PeerId,
        /// Our term.
        term: Term,
    },
    /// It acknowledges what we never sent.
    #[error("peer {from} acknowledges {index}, but the log ends at {last}")]
    AckBeyondLog {
        /// Who.
        from: PeerId,
        /// What.
        index: Index,
        /// Our last index.
        last: Index,
    },
    /// The membership in a snapshot is not one.
    #[error("snapshot from peer {from}: {error}")]
    BadMembership {
        /// Who.
        from: PeerId,
        /// What is wrong.
        error: ConfChangeError,
    },
    /// A follower's read was not taken; it has to ask again.
    #[error("read of peer {from} refused: {refused}")]
    ReadRefused {
        /// Who asked.
        from: PeerId,
        /// Why.
        refused: Refused,
    },
    /// A transfer was not started.
    #[error("transfer asked for by peer {from} refused: {refused}")]
    TransferRefused {
        /// Who asked.
        from: PeerId,
        /// Why.
        refused: Refused,
    },
}

/// Why a member could not start from what its log and its configuration say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// A field breaks its rule.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The stored membership is not one.
    #[error("stored membership: {0}")]
    Membership(#[from] ConfChangeError),
    /// The stored membership and the configuration disagree on whether this member is a witness.
    #[error("configured as {}, but the stored membership says otherwise", if *.configured { "a witness" } else { "a full member" })]
    Witness {
        /// What is configured.
        configured: bool,
    },
    /// A group can be founded only on a log without entries and membership.
    #[error("the log is not empty: its last entry is {last}, or it has a membership")]
    NotEmpty {
        /// The last entry.
        last: EntryId,
    },
    /// A group is founded by somebody.
    #[error("nobody is named as a founder")]
    NoFounders,
    /// The stored commit index is beyond the log: durable entries are lost.
    #[error("stored commit index {commit} is beyond the last entry {last}")]
    Commit {
        /// What is stored.
        commit: Index,
        /// The log's last index.
        last: Index,
    },
    /// The applied index is outside of the log.
    #[error("applied index {applied} is outside of the log, which runs from {base} to {last}")]
    Applied {
        /// What is configured.
        applied: Index,
        /// The log's base.
        base: Index,
        /// The log's last index.
        last: Index,
    },
    /// The stored term is older than the last entry's, or out of all bounds.
    #[error("stored term {term} does not fit the last entry's, {last}")]
    Term {
        /// What is stored.
        term: Term,
        /// The term of the last entry.
        last: Term,
    },
}
