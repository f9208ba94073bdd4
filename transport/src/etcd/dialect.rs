//! etcd's messages, entries and memberships as those of our raft, and back.
//!
//! | etcd | here |
//! |---|---|
//! | `App`, entries in it | [`Body::Append`], entries beside it |
//! | `AppResp` | [`Body::AppendAck`], or [`Body::AppendReject`] if it rejects |
//! | `Prop` | [`Inbound::Proposals`]: no message of the core |
//! | `Snap` | [`Inbound::Snapshot`] |
//! | `Heartbeat`, `HeartbeatResp`: context of 8 bytes | read token; without: 0 |
//! | `ReadIndex`, `ReadIndexResp`: one entry of 8 bytes | [`ReadId`] |
//! | `TransferLeader`: from whom shall lead | [`Body::TransferLeader`], from whoever sends it |
//! | heartbeats from nobody, messages to a member's own parts | [`Inbound::Nothing`] |

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use ringraft_raft::record::{self, GroupSeed, PAYLOAD_MAX, Record, RecordError, Records};
use ringraft_raft::{
    Body, ConfChange, ConfChangeOp, ConfState, EntryId, EntryKind, EntryMeta, Index, Message, Payloads, PeerId, ReadId,
    Term, Transition,
};

use super::raftpb::{self, CAMPAIGN_TRANSFER, ConfChangeTransition, ConfChangeType, EntryType, MessageType};

/// What a message from etcd is for us.
#[derive(Clone, PartialEq, Debug)]
pub enum Inbound {
    /// For [`Raft::step`](ringraft_raft::Raft::step).
    Message {
        /// What is said.
        message: Message,
        /// What the core wants to know of the entries of an append.
        metas: Vec<EntryMeta>,
        /// The entries themselves.
        entries: Vec<raftpb::Entry>,
    },
    /// For [`Raft::step_snapshot`](ringraft_raft::Raft::step_snapshot), once the database is here.
    Snapshot {
        /// What is said.
        message: Message,
        /// Its last entry.
        at: EntryId,
        /// Its membership.
        conf: ConfState,
        /// What else is in it.
        data: Bytes,
    },
    /// A follower's proposals, for a leader.
    Proposals(Vec<raftpb::Entry>),
    /// Nothing.
    Nothing,
}

/// Reads a message; it says itself from whom and to whom it is.
///
/// # Errors
/// If it is none that etcd would send. It has no effect then; the connection may go on.
pub fn decode(message: raftpb::Message) -> Result<Inbound, DialectError> {
    let kind = MessageType::try_from(message.r#type).map_err(|_| DialectError::MessageType(message.r#type))?;
    let (from, to, term) = (PeerId(message.from), PeerId(message.to), Term(message.term));
    let id = EntryId { term: Term(message.log_term), index: Index(message.index) };
    let said = |body| Message { from, to, term, body };
    let body = match kind {
        MessageType::App => return decode_append(message),
        MessageType::Prop => return Ok(Inbound::Proposals(message.entries)),
        MessageType::Snap => {
            let raftpb::Snapshot { data, metadata } = message.snapshot;
            let at = EntryId { term: Term(metadata.term), index: Index(metadata.index) };
            if at.index == Index::ZERO {
                return Err(DialectError::EmptySnapshot);
            }
            let message = said(Body::Snapshot { at, payloads: Payloads::All });
            let (conf, data) = (conf_state(&metadata.conf_state), data.unwrap_or_default());
            return Ok(Inbound::Snapshot { message, at, conf, data });
        }
        _ if message.is_link_heartbeat() => return Ok(Inbound::Nothing),
        MessageType::AppResp if message.reject => Body::AppendReject {
            rejected: id.index,
            hint: EntryId { term: id.term, index: Index(message.reject_hint) },
        },
        MessageType::AppResp => Body::AppendAck { index: id.index },
        MessageType::Vote => Body::Vote { last: id, transfer: message.context.as_deref() == Some(CAMPAIGN_TRANSFER) },
        MessageType::VoteResp => Body::VoteReply { granted: !message.reject },
        MessageType::PreVote => Body::PreVote { last: id },
        MessageType::PreVoteResp => Body::PreVoteReply { granted: !message.reject },
        MessageType::Heartbeat => {
            Body::Heartbeat { commit: Index(message.commit), read: number_in(message.context.as_deref()) }
        }
        MessageType::HeartbeatResp => Body::HeartbeatReply { read: number_in(message.context.as_deref()) },
        MessageType::TransferLeader => Body::TransferLeader { target: from },
        MessageType::TimeoutNow => Body::TimeoutNow,
        MessageType::ReadIndex => Body::ReadIndex { id: read_id(&message.entries)? },
        MessageType::ReadIndexResp => Body::ReadIndexReply { id: read_id(&message.entries)?, index: id.index },
        MessageType::Hup
        | MessageType::Beat
        | MessageType::Unreachable
        | MessageType::SnapStatus
        | MessageType::CheckQuorum
        | MessageType::StorageAppend
        | MessageType::StorageAppendResp
        | MessageType::StorageApply
        | MessageType::StorageApplyResp
        | MessageType::ForgetLeader => return Ok(Inbound::Nothing),
    };
    Ok(Inbound::Message { message: said(body), metas: Vec::new(), entries: Vec::new() })
}

fn decode_append(message: raftpb::Message) -> Result<Inbound, DialectError> {
    let prev = EntryId { term: Term(message.log_term), index: Index(message.index) };
    let mut last = prev.index;
    let mut metas = Vec::with_capacity(message.entries.len());
    for entry in &message.entries {
        if last.0.checked_add(1) != Some(entry.index) {
            return Err(DialectError::NotARun { after: last, found: Index(entry.index) });
        }
        last = Index(entry.index);
        metas.push(meta(entry)?);
    }
    let body = Body::Append { prev, last, commit: Index(message.commit), payloads: Payloads::All };
    let said = Message { from: PeerId(message.from), to: PeerId(message.to), term: Term(message.term), body };
    Ok(Inbound::Message { message: said, metas, entries: message.entries })
}

/// What the core wants to know of an entry.
///
/// # Errors
/// If it is of an unknown type, or too long for a record.
pub fn meta(entry: &raftpb::Entry) -> Result<EntryMeta, DialectError> {
    let kind = match EntryType::try_from(entry.r#type) {
        Ok(EntryType::Normal) => EntryKind::Normal,
        Ok(EntryType::ConfChange) => EntryKind::ConfChange,
        Ok(EntryType::ConfChangeV2) => EntryKind::ConfChangeV2,
        Err(_) => return Err(DialectError::EntryType(entry.r#type)),
    };
    let len = payload(entry).len();
    if len > PAYLOAD_MAX {
        return Err(DialectError::TooLong { index: Index(entry.index), len });
    }
    let size = u32::try_from(len).expect("bounded by PAYLOAD_MAX");
    Ok(EntryMeta { term: Term(entry.term), kind, size })
}

fn payload(entry: &raftpb::Entry) -> &[u8] {
    entry.data.as_deref().unwrap_or_default()
}

/// Appends the record of an entry whose [`meta`] this is.
pub fn put_record(seed: GroupSeed, entry: &raftpb::Entry, meta: EntryMeta, out: &mut BytesMut) {
    let id = EntryId { term: meta.term, index: Index(entry.index) };
    record::encode(seed, id, meta.kind, &[payload(entry)], out);
}

/// The entries of a run of records.
///
/// # Errors
/// If it is none.
pub fn entries(run: &Bytes) -> Result<Vec<raftpb::Entry>, RecordError> {
    let of = |record: Record<'_>| raftpb::Entry {
        r#type: entry_type(record.kind).into(),
        term: record.id.term.0,
        index: record.id.index.0,
        data: if record.payload.is_empty() { None } else { Some(run.slice_ref(record.payload)) },
    };
    Records::new(run).map(|record| record.map(of)).collect()
}

fn entry_type(kind: EntryKind) -> EntryType {
    match kind {
        EntryKind::Normal => EntryType::Normal,
        EntryKind::ConfChange => EntryType::ConfChange,
        EntryKind::ConfChangeV2 => EntryType::ConfChangeV2,
    }
}

/// A message of ours as etcd says it, with the entries that an append names. `None` if etcd has no word for it: a read
/// that is given up is not told to who asked, who asks again in time.
///
/// # Panics
/// If it is a snapshot, which takes more than a message; if the entries are not as many as the append names; or if it is
/// for a witness.
#[must_use]
pub fn encode(message: &Message, entries: Vec<raftpb::Entry>) -> Option<raftpb::Message> {
    let Message { from, to, term, body } = *message;
    let mut out = raftpb::Message { to: to.0, from: from.0, term: term.0, ..raftpb::Message::default() };
    let mut named = 0;
    let mut about = |id: EntryId| (out.log_term, out.index) = (id.term.0, id.index.0);
    let kind = match body {
        Body::Append { prev, last, commit, payloads } => {
            assert!(payloads == Payloads::All, "etcd has no witnesses");
            about(prev);
            named = last.0 - prev.index.0;
            (out.commit, out.entries) = (commit.0, entries);
            MessageType::App
        }
        Body::AppendAck { index } => {
            out.index = index.0;
            MessageType::AppResp
        }
        Body::AppendReject { rejected, hint } => {
            about(EntryId { term: hint.term, index: rejected });
            (out.reject, out.reject_hint) = (true, hint.index.0);
            MessageType::AppResp
        }
        Body::Vote { last, transfer } => {
            about(last);
            out.context = transfer.then_some(Bytes::from_static(CAMPAIGN_TRANSFER));
            MessageType::Vote
        }
        Body::PreVote { last } => {
            about(last);
            MessageType::PreVote
        }
        Body::VoteReply { granted } => {
            out.reject = !granted;
            MessageType::VoteResp
        }
        Body::PreVoteReply { granted } => {
            out.reject = !granted;
            MessageType::PreVoteResp
        }
        Body::Heartbeat { commit, read } => {
            (out.commit, out.context) = (commit.0, context(read));
            MessageType::Heartbeat
        }
        Body::HeartbeatReply { read } => {
            out.context = context(read);
            MessageType::HeartbeatResp
        }
        Body::ReadIndex { id } => {
            out.entries = vec![read_entry(id)];
            MessageType::ReadIndex
        }
        Body::ReadIndexReply { id, index } => {
            (out.index, out.entries) = (index.0, vec![read_entry(id)]);
            MessageType::ReadIndexResp
        }
        Body::ReadIndexReject { .. } => return None,
        Body::TransferLeader { target } => {
            out.from = target.0;
            MessageType::TransferLeader
        }
        Body::TimeoutNow => MessageType::TimeoutNow,
        Body::Snapshot { .. } => panic!("a snapshot is more than a message"),
    };
    if kind == MessageType::App {
        assert_eq!(out.entries.len() as u64, named, "entries are those that the append names");
    }
    out.r#type = kind.into();
    Some(out)
}

/// A proposal of ours, from one member to its leader.
#[must_use]
pub fn proposal(from: PeerId, to: PeerId, payload: Bytes) -> raftpb::Message {
    let entry = raftpb::Entry { data: Some(payload), ..raftpb::Entry::default() };
    raftpb::Message {
        r#type: MessageType::Prop.into(),
        to: to.0,
        from: from.0,
        entries: vec![entry],
        ..raftpb::Message::default()
    }
}

/// A number that the other side echoes; etcd's are of 8 bytes, and others are not echoed.
fn number_in(context: Option<&[u8]>) -> u64 {
    context.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

fn context(number: u64) -> Option<Bytes> {
    (number != 0).then(|| Bytes::copy_from_slice(&number.to_be_bytes()))
}

fn read_id(entries: &[raftpb::Entry]) -> Result<ReadId, DialectError> {
    let [entry] = entries else { return Err(DialectError::ReadId) };
    let bytes = payload(entry).try_into().map_err(|_| DialectError::ReadId)?;
    Ok(ReadId(u64::from_be_bytes(bytes)))
}

fn read_entry(id: ReadId) -> raftpb::Entry {
    raftpb::Entry { data: Some(Bytes::copy_from_slice(&id.0.to_be_bytes())), ..raftpb::Entry::default() }
}

/// A membership as raft has it; whether it is a sound one is for raft to say.
#[must_use]
pub fn conf_state(conf: &raftpb::ConfState) -> ConfState {
    let list = |ids: &[u64]| ids.iter().copied().map(PeerId).collect();
    ConfState {
        voters: list(&conf.voters),
        voters_outgoing: list(&conf.voters_outgoing),
        learners: list(&conf.learners),
        learners_next: list(&conf.learners_next),
        witnesses: Vec::new(),
        auto_leave: conf.auto_leave,
    }
}

/// The change of membership in an entry of this kind.
///
/// # Errors
/// If its payload is none.
pub fn conf_change(kind: EntryKind, payload: &[u8]) -> Result<ConfChange, DialectError> {
    let change = match kind {
        EntryKind::Normal => return Err(DialectError::ConfChange),
        EntryKind::ConfChange => {
            let change = raftpb::ConfChange::decode(payload).map_err(|_| DialectError::ConfChange)?;
            ConfChange::simple(operation(change.r#type, change.node_id)?)
        }
        EntryKind::ConfChangeV2 => {
            let change = raftpb::ConfChangeV2::decode(payload).map_err(|_| DialectError::ConfChange)?;
            let transition = match ConfChangeTransition::try_from(change.transition) {
                Ok(ConfChangeTransition::Auto) => Transition::Auto,
                Ok(ConfChangeTransition::JointImplicit) => Transition::JointImplicit,
                Ok(ConfChangeTransition::JointExplicit) => Transition::JointExplicit,
                Err(_) => return Err(DialectError::ConfChange),
            };
            let ops = change.changes.iter().map(|one| operation(one.r#type, one.node_id)).collect::<Result<_, _>>()?;
            ConfChange { transition, ops }
        }
    };
    Ok(change)
}

fn operation(kind: i32, node: u64) -> Result<ConfChangeOp, DialectError> {
    let peer = PeerId(node);
    Ok(match ConfChangeType::try_from(kind).map_err(|_| DialectError::ConfChange)? {
        ConfChangeType::AddNode => ConfChangeOp::AddVoter(peer),
        ConfChangeType::RemoveNode => ConfChangeOp::Remove(peer),
        ConfChangeType::UpdateNode => ConfChangeOp::Update(peer),
        ConfChangeType::AddLearnerNode => ConfChangeOp::AddLearner(peer),
    })
}

/// Why something is not what etcd would say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DialectError {
    /// An unknown type of message.
    #[error("message of unknown type {0}")]
    MessageType(i32),
    /// An unknown type of entry.
    #[error("entry of unknown type {0}")]
    EntryType(i32),
    /// An append whose entries do not follow each other.
    #[error("entry {found} follows entry {after}")]
    NotARun {
        /// The index before.
        after: Index,
        /// What comes next.
        found: Index,
    },
    /// An entry too long for a record.
    #[error("entry {index} of {len} bytes is too long for a record")]
    TooLong {
        /// Which.
        index: Index,
        /// Bytes of its payload.
        len: usize,
    },
    /// A read without one id of 8 bytes.
    #[error("a read without an id")]
    ReadId,
    /// A snapshot of nothing.
    #[error("a snapshot of nothing")]
    EmptySnapshot,
    /// A payload that is no change of membership.
    #[error("not a change of membership")]
    ConfChange,
}
