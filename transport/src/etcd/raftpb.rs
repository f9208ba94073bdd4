//! What etcd's raft says, as protobuf. Field numbers and types are those of its `raftpb`.
//!
//! In these messages `required` means *always written*, zero or not, as etcd up to 3.6 does; when reading, a field that
//! is not there is zero, as etcd from 3.7 on leaves it out. Fields are written in ascending order, repeated numbers one
//! by one, unknown fields are skipped.

use bytes::Bytes;

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Entry {
    /// What it is for: [`EntryType`].
    #[prost(enumeration = "EntryType", required, tag = "1")]
    pub r#type: i32,
    /// Term in which it was proposed; 0 while it is only proposed.
    #[prost(uint64, required, tag = "2")]
    pub term: u64,
    /// Position in the log; 0 while it is only proposed.
    #[prost(uint64, required, tag = "3")]
    pub index: u64,
    /// Its payload; etcd tells none from an empty one, raft does not.
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub data: Option<Bytes>,
}

/// What an entry is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, prost::Enumeration)]
#[repr(i32)]
pub enum EntryType {
    /// For the state machine.
    Normal = 0,
    /// A [`ConfChange`].
    ConfChange = 1,
    /// A [`ConfChangeV2`]. etcd itself never writes one, and ends when it has to apply one.
    ConfChangeV2 = 2,
}

/// One message between two members.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Message {
    /// What it says: [`MessageType`].
    #[prost(enumeration = "MessageType", required, tag = "1")]
    pub r#type: i32,
    /// Receiver.
    #[prost(uint64, required, tag = "2")]
    pub to: u64,
    /// Sender; of a `TransferLeader`, the member that shall lead.
    #[prost(uint64, required, tag = "3")]
    pub from: u64,
    /// The sender's term; 0 in `Prop` and `ReadIndex`.
    #[prost(uint64, required, tag = "4")]
    pub term: u64,
    /// Term of the entry at `index`; of a rejected append, of the one at `reject_hint`.
    #[prost(uint64, required, tag = "5")]
    pub log_term: u64,
    /// An index; which one depends on the type.
    #[prost(uint64, required, tag = "6")]
    pub index: u64,
    /// Entries to append, proposals, or the one that carries a read's id.
    #[prost(message, repeated, tag = "7")]
    pub entries: Vec<Entry>,
    /// Commit index.
    #[prost(uint64, required, tag = "8")]
    pub commit: u64,
    /// A snapshot if its metadata names an index other than 0; every message has this field up to 3.5.
    #[prost(message, required, tag = "9")]
    pub snapshot: Snapshot,
    /// Whether it refuses.
    #[prost(bool, required, tag = "10")]
    pub reject: bool,
    /// Where a follower that refuses an append might match.
    #[prost(uint64, required, tag = "11")]
    pub reject_hint: u64,
    /// A mark to echo, or [`CAMPAIGN_TRANSFER`].
    #[prost(bytes = "bytes", optional, tag = "12")]
    pub context: Option<Bytes>,
    /// The sender's vote, in messages to its own storage; 3.6 writes it always.
    #[prost(uint64, optional, tag = "13")]
    pub vote: Option<u64>,
}

/// Context of a `Vote` that a leader asked for: leases are ignored.
pub const CAMPAIGN_TRANSFER: &[u8] = b"CampaignTransfer";

/// What a message says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, prost::Enumeration)]
#[repr(i32)]
#[expect(missing_docs, reason = "they are raft's own words")]
pub enum MessageType {
    Hup = 0,
    Beat = 1,
    Prop = 2,
    App = 3,
    AppResp = 4,
    Vote = 5,
    VoteResp = 6,
    Snap = 7,
    Heartbeat = 8,
    HeartbeatResp = 9,
    Unreachable = 10,
    SnapStatus = 11,
    CheckQuorum = 12,
    TransferLeader = 13,
    TimeoutNow = 14,
    ReadIndex = 15,
    ReadIndexResp = 16,
    PreVote = 17,
    PreVoteResp = 18,
    StorageAppend = 19,
    StorageAppendResp = 20,
    StorageApply = 21,
    StorageApplyResp = 22,
    ForgetLeader = 23,
}

impl Message {
    /// What keeps a stream alive: a heartbeat from nobody to nobody.
    #[must_use]
    pub fn link_heartbeat() -> Message {
        Message { r#type: MessageType::Heartbeat.into(), ..Message::default() }
    }

    /// Whether it only keeps a stream alive.
    #[must_use]
    pub fn is_link_heartbeat(&self) -> bool {
        self.r#type == i32::from(MessageType::Heartbeat) && self.from == 0 && self.to == 0
    }
}

/// A snapshot, but for the database that follows it on its way.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Snapshot {
    /// Up to 3.7, etcd's v2 store as JSON: members and little else.
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub data: Option<Bytes>,
    /// What it covers.
    #[prost(message, required, tag = "2")]
    pub metadata: SnapshotMetadata,
}

/// What a snapshot covers.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SnapshotMetadata {
    /// The membership at its last entry.
    #[prost(message, required, tag = "1")]
    pub conf_state: ConfState,
    /// Its last entry; 0: this is no snapshot.
    #[prost(uint64, required, tag = "2")]
    pub index: u64,
    /// The term of its last entry.
    #[prost(uint64, required, tag = "3")]
    pub term: u64,
}

/// A membership.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ConfState {
    /// Voters.
    #[prost(uint64, repeated, packed = "false", tag = "1")]
    pub voters: Vec<u64>,
    /// Members without a vote.
    #[prost(uint64, repeated, packed = "false", tag = "2")]
    pub learners: Vec<u64>,
    /// The outgoing half of a joint membership.
    #[prost(uint64, repeated, packed = "false", tag = "3")]
    pub voters_outgoing: Vec<u64>,
    /// Outgoing voters that become learners.
    #[prost(uint64, repeated, packed = "false", tag = "4")]
    pub learners_next: Vec<u64>,
    /// Whether a joint membership is left by itself.
    #[prost(bool, required, tag = "5")]
    pub auto_leave: bool,
}

/// What a member must not forget.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct HardState {
    /// Term.
    #[prost(uint64, required, tag = "1")]
    pub term: u64,
    /// Vote.
    #[prost(uint64, required, tag = "2")]
    pub vote: u64,
    /// Commit index.
    #[prost(uint64, required, tag = "3")]
    pub commit: u64,
}

/// What is done with a member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, prost::Enumeration)]
#[repr(i32)]
pub enum ConfChangeType {
    /// It becomes a voter.
    AddNode = 0,
    /// It is no member any more.
    RemoveNode = 1,
    /// Its addresses change.
    UpdateNode = 2,
    /// It becomes a learner.
    AddLearnerNode = 3,
}

/// A change of one member.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ConfChange {
    /// The proposer's mark.
    #[prost(uint64, required, tag = "1")]
    pub id: u64,
    /// What is done: [`ConfChangeType`].
    #[prost(enumeration = "ConfChangeType", required, tag = "2")]
    pub r#type: i32,
    /// With whom.
    #[prost(uint64, required, tag = "3")]
    pub node_id: u64,
    /// The member as JSON.
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub context: Option<Bytes>,
}

/// One operation of a [`ConfChangeV2`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct ConfChangeSingle {
    /// What is done: [`ConfChangeType`].
    #[prost(enumeration = "ConfChangeType", required, tag = "1")]
    pub r#type: i32,
    /// With whom.
    #[prost(uint64, required, tag = "2")]
    pub node_id: u64,
}

/// How a [`ConfChangeV2`] is made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, prost::Enumeration)]
#[repr(i32)]
pub enum ConfChangeTransition {
    /// Simple if it is one operation, else joint.
    Auto = 0,
    /// Joint, left by itself.
    JointImplicit = 1,
    /// Joint, left by another change.
    JointExplicit = 2,
}

/// A change of several members.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ConfChangeV2 {
    /// How: [`ConfChangeTransition`].
    #[prost(enumeration = "ConfChangeTransition", required, tag = "1")]
    pub transition: i32,
    /// What, in this order.
    #[prost(message, repeated, tag = "2")]
    pub changes: Vec<ConfChangeSingle>,
    /// Of no meaning to raft.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub context: Option<Bytes>,
}
