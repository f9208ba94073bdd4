//! Our messages as etcd's and back; and what of etcd's is not for us.

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use ringraft_raft::record::GroupSeed;
use ringraft_raft::{
    Body, ConfChange, ConfChangeOp, EntryId, EntryKind, EntryMeta, GroupId, Index, Message, Payloads, PeerId, ReadId,
    Term, Transition,
};

use super::super::dialect::{DialectError, Inbound, conf_change, decode, encode, entries, meta, put_record};
use super::super::raftpb::{self, ConfChangeSingle};
use super::super::requests::{InternalRaftRequest, LegacyRequest, Payload};
use super::entry;

fn id(index: u64, term: u64) -> EntryId {
    EntryId { term: Term(term), index: Index(index) }
}

/// Every body but those with entries or a snapshot; the match makes a new one fail to compile here.
fn bodies() -> Vec<Body> {
    let all = vec![
        Body::AppendAck { index: Index(u64::MAX) },
        Body::AppendReject { rejected: Index(8), hint: id(6, 2) },
        Body::Vote { last: id(10, 3), transfer: true },
        Body::Vote { last: id(10, 3), transfer: false },
        Body::VoteReply { granted: true },
        Body::VoteReply { granted: false },
        Body::PreVote { last: id(10, 3) },
        Body::PreVoteReply { granted: true },
        Body::PreVoteReply { granted: false },
        Body::Heartbeat { commit: Index(5), read: 77 },
        Body::Heartbeat { commit: Index(5), read: 0 },
        Body::HeartbeatReply { read: u64::MAX },
        Body::HeartbeatReply { read: 0 },
        Body::ReadIndex { id: ReadId(0) },
        Body::ReadIndexReply { id: ReadId(1), index: Index(4) },
        Body::TimeoutNow,
    ];
    for body in &all {
        match body {
            Body::Append { .. } | Body::Snapshot { .. } => unreachable!("these have more to them"),
            Body::TransferLeader { .. } => unreachable!("its sender is not kept"),
            Body::ReadIndexReject { .. } => unreachable!("etcd has no word for it"),
            Body::AppendAck { .. }
            | Body::AppendReject { .. }
            | Body::Vote { .. }
            | Body::VoteReply { .. }
            | Body::PreVote { .. }
            | Body::PreVoteReply { .. }
            | Body::Heartbeat { .. }
            | Body::HeartbeatReply { .. }
            | Body::ReadIndex { .. }
            | Body::ReadIndexReply { .. }
            | Body::TimeoutNow => {}
        }
    }
    all
}

#[test]
fn messages_go_both_ways() {
    for body in bodies() {
        let message = Message { from: PeerId(7), to: PeerId(u64::MAX), term: Term(5), body };
        let want = Inbound::Message { message, metas: vec![], entries: vec![] };
        assert_eq!(decode(encode(&message, vec![]).expect("a word of etcd")), Ok(want), "{body:?}");
    }
    let transfer =
        Message { from: PeerId(7), to: PeerId(1), term: Term(5), body: Body::TransferLeader { target: PeerId(3) } };
    let said = encode(&transfer, vec![]).expect("a word of etcd");
    assert_eq!(said.from, 3, "etcd says who shall lead by who sends it");
    let Ok(Inbound::Message { message, .. }) = decode(said) else { panic!("a message") };
    assert_eq!(message.body, transfer.body);
}

#[test]
fn an_answer_that_etcd_does_not_know_is_not_sent() {
    let body = Body::ReadIndexReject { id: ReadId(7), busy: true };
    let message = Message { from: PeerId(7), to: PeerId(1), term: Term(0), body };
    assert_eq!(encode(&message, vec![]), None);
}

#[test]
fn entries_go_both_ways_as_records() {
    let kinds = [(0, EntryKind::Normal), (1, EntryKind::ConfChange), (2, EntryKind::ConfChangeV2)];
    let mut sent = vec![entry(5, 2, None), entry(6, 2, Some(b"one")), entry(7, 3, Some(b"seven bytes and more"))];
    for ((number, _), one) in kinds.iter().zip(&mut sent) {
        one.r#type = *number;
    }
    let body = Body::Append { prev: id(4, 2), last: Index(7), commit: Index(4), payloads: Payloads::All };
    let message = Message { from: PeerId(1), to: PeerId(2), term: Term(3), body };
    let Ok(Inbound::Message { message: read, metas, entries: got }) =
        decode(encode(&message, sent.clone()).expect("a word of etcd"))
    else {
        panic!("an append")
    };
    assert_eq!((read, &got), (message, &sent));
    for ((_, kind), (meta, one)) in kinds.iter().zip(metas.iter().zip(&sent)) {
        let size = u32::try_from(one.data.as_ref().map_or(0, Bytes::len)).unwrap();
        assert_eq!(*meta, EntryMeta { term: Term(one.term), kind: *kind, size });
    }
    let mut run = BytesMut::new();
    got.iter().zip(metas).for_each(|(one, meta)| put_record(GroupSeed::of(GroupId(1)), one, meta, &mut run));
    assert_eq!(entries(&run.freeze()), Ok(sent), "what is stored is what was sent");
}

#[test]
fn what_etcd_would_not_say() {
    let app = raftpb::Message { r#type: 3, index: 4, term: 1, ..raftpb::Message::default() };
    let gap = raftpb::Message { entries: vec![entry(5, 1, None), entry(7, 1, None)], ..app.clone() };
    assert_eq!(decode(gap), Err(DialectError::NotARun { after: Index(5), found: Index(7) }));
    let unknown = raftpb::Entry { r#type: 3, ..entry(5, 1, None) };
    assert_eq!(meta(&unknown), Err(DialectError::EntryType(3)));
    assert_eq!(decode(raftpb::Message { entries: vec![unknown], ..app }), Err(DialectError::EntryType(3)));
    let of_type = |kind| raftpb::Message { r#type: kind, from: 1, to: 2, ..raftpb::Message::default() };
    assert_eq!(decode(of_type(24)), Err(DialectError::MessageType(24)));
    assert_eq!(decode(of_type(7)), Err(DialectError::EmptySnapshot));
    for entries in [vec![], vec![entry(0, 0, Some(b"short"))], vec![entry(0, 0, None); 2]] {
        assert_eq!(decode(raftpb::Message { entries, ..of_type(15) }), Err(DialectError::ReadId));
    }
    for local in [0, 1, 10, 11, 12, 19, 20, 21, 22, 23] {
        assert_eq!(decode(of_type(local)), Ok(Inbound::Nothing), "type {local} stays inside of a member");
    }
}

#[test]
fn changes_of_membership() {
    let one = |r#type, node_id| ConfChangeSingle { r#type, node_id };
    let v2 = |transition, changes: &[ConfChangeSingle]| {
        raftpb::ConfChangeV2 { transition, changes: changes.to_vec(), context: None }.encode_to_vec()
    };
    let v1 = |r#type| raftpb::ConfChange { id: 1, r#type, node_id: 9, context: None }.encode_to_vec();
    let simple = |op| Ok(ConfChange::simple(op));
    let nine = PeerId(9);
    for (kind, payload, want) in [
        (EntryKind::ConfChange, v1(0), simple(ConfChangeOp::AddVoter(nine))),
        (EntryKind::ConfChange, v1(1), simple(ConfChangeOp::Remove(nine))),
        (EntryKind::ConfChange, v1(2), simple(ConfChangeOp::Update(nine))),
        (EntryKind::ConfChange, v1(3), simple(ConfChangeOp::AddLearner(nine))),
        (EntryKind::ConfChange, v1(4), Err(DialectError::ConfChange)),
        (EntryKind::ConfChange, b"no protobuf".to_vec(), Err(DialectError::ConfChange)),
        (EntryKind::ConfChangeV2, v2(0, &[]), Ok(ConfChange::leave_joint())),
        (EntryKind::ConfChangeV2, vec![], Ok(ConfChange::leave_joint())),
        (
            EntryKind::ConfChangeV2,
            v2(2, &[one(0, 9), one(1, 8)]),
            Ok(ConfChange {
                transition: Transition::JointExplicit,
                ops: vec![ConfChangeOp::AddVoter(nine), ConfChangeOp::Remove(PeerId(8))],
            }),
        ),
        (
            EntryKind::ConfChangeV2,
            v2(1, &[one(3, 9)]),
            Ok(ConfChange { transition: Transition::JointImplicit, ops: vec![ConfChangeOp::AddLearner(nine)] }),
        ),
        (EntryKind::ConfChangeV2, v2(3, &[]), Err(DialectError::ConfChange)),
        (EntryKind::ConfChangeV2, v2(0, &[one(4, 9)]), Err(DialectError::ConfChange)),
        (EntryKind::Normal, v1(0), Err(DialectError::ConfChange)),
    ] {
        assert_eq!(conf_change(kind, &payload), want, "{kind:?} {payload:?}");
    }
}

#[test]
fn names_that_members_publish() {
    let legacy = LegacyRequest::publish(5, 0xab, "a \"name\"\n");
    assert_eq!(legacy.path, "/0/members/ab/attributes");
    assert_eq!(legacy.val, r#"{"name":"a \"name\"\u000a"}"#);
    let bytes = legacy.encode_to_vec();
    assert_eq!(Payload::decode(&bytes), Payload::Legacy(legacy.clone().into()), "told from the other form");
    // Fields 5 to 16 without 8, all zero.
    let zeros = [0x28, 0, 0x32, 0, 0x38, 0, 0x48, 0, 0x50, 0, 0x58, 0, 0x60, 0, 0x68, 0, 0x70, 0, 0x78, 0, 0x80, 1, 0];
    assert!(bytes.ends_with(&zeros), "{bytes:02x?}");

    let request = InternalRaftRequest::publish(5, 0xab, "name");
    assert_eq!(Payload::decode(&request.encode_to_vec()), Payload::Request(request.into()));
    assert_eq!(Payload::decode(&[]), Payload::Empty);
    assert_eq!(Payload::decode(&[0xff]), Payload::Unknown);
    // A legacy request inside of the newer form.
    let inside = InternalRaftRequest { v2: Some(legacy.clone()), ..InternalRaftRequest::default() };
    assert_eq!(Payload::decode(&inside.encode_to_vec()), Payload::Legacy(legacy.into()));
}
