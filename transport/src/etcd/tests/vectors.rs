//! The examples of `docs/etcd.md` are what this crate writes and reads.

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use ringraft_raft::{
    Body, ConfChange, ConfChangeOp, EntryId, EntryKind, Index, Message, Payloads, PeerId, ReadId, Term,
};

use super::super::appends::{AppendReader, AppendWriter};
use super::super::dialect::{self, Inbound};
use super::super::raftpb;
use super::super::requests::{InternalRaftRequest, Payload, PutRequest, RequestHeader};
use super::super::{Limits, messages, snapshots};
use super::{LOCAL, REMOTE, entry};

const DOCUMENT: &str = include_str!("../../../../docs/etcd.md");

/// The bytes of the example that begins with `name`: hex digits up to `;` in every line.
fn hex(name: &str) -> Bytes {
    let after = DOCUMENT.split_once(&format!("Example: {name}")).unwrap_or_else(|| panic!("no example {name}")).1;
    let block = after.split("```").nth(1).unwrap().split_once('\n').unwrap().1;
    let lines = block.lines().map(|line| line.split(';').next().unwrap());
    lines.flat_map(str::split_whitespace).map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

#[track_caller]
fn same(name: &str, bytes: &[u8]) {
    let show: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(bytes == hex(name), "{name} is\n{}", show.join(" "));
}

fn id(index: u64, term: u64) -> EntryId {
    EntryId { term: Term(term), index: Index(index) }
}

fn from_two(term: u64, body: Body) -> Message {
    Message { from: PeerId(2), to: PeerId(1), term: Term(term), body }
}

/// The example is this message, both ways.
#[track_caller]
fn check(name: &str, want: Message) {
    let read = messages::decode(hex(name), &Limits::default()).unwrap();
    let got = dialect::decode(read).unwrap();
    assert_eq!(got, Inbound::Message { message: want, metas: vec![], entries: vec![] }, "{name}");
    same(name, &messages::body(&dialect::encode(&want, vec![]).expect("a word of etcd")));
}

#[test]
fn small_messages() {
    let beat = Body::Heartbeat { commit: Index(7), read: 0 };
    check("heartbeat from 1", Message { from: PeerId(1), to: PeerId(2), term: Term(5), body: beat });
    check("append accepted", from_two(5, Body::AppendAck { index: Index(10) }));
    let reject = |hint| from_two(5, Body::AppendReject { rejected: Index(7), hint });
    check("append rejected by 2, as 3.4", reject(id(3, 0)));
    check("append rejected by 2, as 3.5", reject(id(3, 2)));
    check("vote asked for", from_two(6, Body::Vote { last: id(10, 5), transfer: true }));
    check("read index asked for", from_two(0, Body::ReadIndex { id: ReadId(42) }));
}

#[test]
fn entries_and_their_payloads() {
    let one = entry(8, 5, Some(b"x"));
    same("entry: term 5", &one.encode_to_vec());
    assert_eq!(raftpb::Entry::decode(hex("entry: term 5")), Ok(one));

    let header = RequestHeader { id: 0xeacf_9d00_680d_6685, ..RequestHeader::default() };
    let put = PutRequest { key: "k0".into(), value: "v0".into(), ..PutRequest::default() };
    let request = InternalRaftRequest { put: Some(put), header: Some(header), ..InternalRaftRequest::default() };
    same("put k0", &request.encode_to_vec());
    assert_eq!(Payload::decode(&hex("put k0")), Payload::Request(request.into()));

    let (from, to) = (0xf078_0e70_5a23_e834, 0xa7e7_1709_26fc_eacf);
    let proposal = dialect::proposal(PeerId(from), PeerId(to), hex("put k0"));
    same("proposal of that put", &messages::body(&proposal));
    let read = messages::decode(hex("proposal of that put"), &Limits::default()).unwrap();
    assert_eq!((read.from, read.to), (from, to));
    let Inbound::Proposals(entries) = dialect::decode(read).unwrap() else { panic!("a proposal") };
    assert_eq!(entries[0].data.as_ref(), Some(&hex("put k0")));

    let change = raftpb::ConfChange::decode(hex("change of membership")).unwrap();
    same("change of membership", &change.encode_to_vec());
    assert!(change.context.unwrap().starts_with(b"{\"id\":2,"));
    let read = dialect::conf_change(EntryKind::ConfChange, &hex("change of membership"));
    assert_eq!(read, Ok(ConfChange::simple(ConfChangeOp::AddLearner(PeerId(2)))));
}

#[test]
fn snapshot() {
    let name = "snapshot message";
    let read = messages::decode(hex(name), &Limits::default()).unwrap();
    same(name, &messages::body(&read));
    let mut body = BytesMut::new();
    snapshots::put(&read, &mut body);
    body.extend_from_slice(b"database");
    assert_eq!(snapshots::take(&mut body, &Limits::default()), Ok(Some(read.clone())));
    assert_eq!(body, b"database"[..]);

    let Inbound::Snapshot { message, at, conf, data } = dialect::decode(read).unwrap() else { panic!("a snapshot") };
    let want = Message {
        from: PeerId(1),
        to: PeerId(2),
        term: Term(5),
        body: Body::Snapshot { at: id(10, 5), payloads: Payloads::All },
    };
    assert_eq!((message, at, &data[..]), (want, id(10, 5), &b"{}"[..]));
    assert_eq!((conf.voters, conf.learners), (vec![PeerId(1)], vec![PeerId(2)]));
}

#[test]
fn link_heartbeats() {
    let mut bytes = BytesMut::new();
    messages::put(&raftpb::Message::link_heartbeat(), &mut bytes);
    same("link heartbeat of a message stream", &bytes);
    let read = messages::take(&mut bytes, &Limits::default()).unwrap().unwrap();
    assert!(read.is_link_heartbeat());
    assert_eq!(dialect::decode(read), Ok(Inbound::Nothing));

    AppendWriter::default().put(&raftpb::Message::link_heartbeat(), &mut bytes);
    same("link heartbeat of an append stream", &bytes);
}

#[test]
fn appends_of_one_connection() {
    let (mut writer, mut reader) = (AppendWriter::default(), AppendReader::new(REMOTE, LOCAL, Limits::default()));
    let append = |prev: EntryId, last: u64, commit: u64| {
        let body = Body::Append { prev, last: Index(last), commit: Index(commit), payloads: Payloads::All };
        Message { from: PeerId(REMOTE), to: PeerId(LOCAL), term: Term(5), body }
    };
    for (name, want, entries) in [
        ("append 1 to 2", append(id(7, 4), 8, 7), vec![entry(8, 5, Some(b"x"))]),
        ("the next append", append(id(8, 5), 10, 8), vec![entry(9, 5, Some(b"yz")), entry(10, 5, None)]),
        ("the one after it", append(id(10, 5), 10, 10), vec![]),
    ] {
        let mut bytes = BytesMut::new();
        writer.put(&dialect::encode(&want, entries.clone()).expect("a word of etcd"), &mut bytes);
        same(name, &bytes);
        let read = reader.take(&mut bytes).unwrap().unwrap();
        let Inbound::Message { message, metas, entries: got } = dialect::decode(read).unwrap() else {
            panic!("{name}")
        };
        assert_eq!((message, metas.len(), got), (want, entries.len(), entries), "{name}");
    }
}

#[test]
fn bytes_that_etcd_wrote() {
    let (mut writer, mut reader) = (AppendWriter::default(), AppendReader::new(REMOTE, LOCAL, Limits::default()));
    // What brings both ends to (2, 8).
    let before = raftpb::Message { r#type: 3, to: 2, from: 1, term: 2, index: 8, ..raftpb::Message::default() };
    let mut bytes = BytesMut::new();
    writer.put(&before, &mut bytes);
    assert_eq!(reader.take(&mut bytes).unwrap(), Some(before));

    bytes.extend_from_slice(&hex("written by etcd"));
    let read = reader.take(&mut bytes).unwrap().unwrap();
    assert_eq!((read.term, read.log_term, read.index, read.commit), (2, 2, 8, 9));
    let Payload::Request(request) = Payload::decode(read.entries[0].data.as_ref().unwrap()) else { panic!("a put") };
    let put = request.put.unwrap();
    assert_eq!((&put.key[..], &put.value[..]), (&b"k3"[..], &b"v1"[..]));
    writer.put(&read, &mut bytes);
    same("written by etcd", &bytes);
}

#[test]
fn fields_that_are_not_there_are_zero() {
    // As 3.7 writes a heartbeat of term 5 with commit 7.
    let short = Bytes::from_static(&[0x08, 0x08, 0x10, 0x02, 0x18, 0x01, 0x20, 0x05, 0x40, 0x07]);
    let long = hex("heartbeat from 1");
    let limits = Limits::default();
    assert_eq!(messages::decode(short, &limits), messages::decode(long, &limits));
    // Nothing at all is a message to a member's own parts.
    assert_eq!(dialect::decode(messages::decode(Bytes::new(), &limits).unwrap()), Ok(Inbound::Nothing));
}
