//! The codecs of etcd's own peer protocol.

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use ringraft_raft::EntryKind;
use ringraft_raft::PeerId;
use ringraft_raft::confchange::Draft;
use ringraft_raft::record::GroupSeed;

use crate::etcd::appends::{AppendReader, AppendWriter};
use crate::etcd::chunks::ChunkReader;
use crate::etcd::dialect::{self, Inbound};
use crate::etcd::http::{Answer, Body, Host, Request, Version};
use crate::etcd::raftpb::{Entry, Message};
use crate::etcd::requests::Payload;
use crate::etcd::streams::StreamReader;
use crate::etcd::{Limits, WireError, messages as wire, snapshots};
use crate::{ClusterId, StreamKind};

const REMOTE: u64 = 1;
const LOCAL: u64 = 2;

const LIMITS: Limits = Limits { message_bytes_max: 64 << 10, entries_max: 64 };

/// A message stream.
pub fn messages(bytes: &[u8]) {
    let mut input = BytesMut::from(bytes);
    let mut again = BytesMut::new();
    while let Ok(Some(message)) = wire::take(&mut input, &LIMITS) {
        is_one(&message);
        wire::put(&message, &mut again);
    }
    let (mut left, mut whole) = (again.clone(), BytesMut::new());
    while let Some(message) = wire::take(&mut left, &Limits::default()).expect("our own") {
        wire::put(&message, &mut whole);
    }
    assert!(left.is_empty() && whole == again, "what is read is written and read again");
}

/// The body of a `POST` to the pipeline.
pub fn body(bytes: &[u8]) {
    if let Ok(message) = wire::decode(Bytes::copy_from_slice(bytes), &LIMITS) {
        is_one(&message);
    }
}

/// What becomes of a message that was read.
fn is_one(message: &Message) {
    assert!(message.entries.len() <= LIMITS.entries_max);
    let body = wire::body(message);
    assert_eq!(wire::decode(body, &Limits::default()).as_ref(), Ok(message));
    message.entries.iter().for_each(is_entry);
    let Ok(inbound) = dialect::decode(message.clone()) else { return };
    match &inbound {
        Inbound::Message { message: said, metas, entries } => {
            assert_eq!(metas.len(), entries.len());
            if let Some(same) = dialect::encode(said, entries.clone()) {
                assert_eq!(dialect::decode(same).as_ref(), Ok(&inbound));
            }
        }
        Inbound::Snapshot { conf, .. } => drop(Draft::restore(conf)),
        Inbound::Proposals(_) | Inbound::Nothing => {}
    }
}

/// An entry becomes a record, and that record the entry.
fn is_entry(entry: &Entry) {
    let Ok(meta) = dialect::meta(entry) else { return };
    let mut record = BytesMut::new();
    dialect::put_record(GroupSeed::of(ringraft_raft::GroupId(0)), entry, meta, &mut record);
    let data = entry.data.clone().filter(|data| !data.is_empty());
    let payload = data.clone().unwrap_or_default();
    assert_eq!(dialect::entries(&record.freeze()), Ok(vec![Entry { data, ..entry.clone() }]));
    is_payload(meta.kind, &payload);
}

/// The payload of an entry; the first byte says of what kind.
pub fn payload(bytes: &[u8]) {
    let Some((kind, payload)) = bytes.split_first() else { return };
    is_payload(EntryKind::from_u8(kind % 3).expect("there are three"), payload);
}

fn is_payload(kind: EntryKind, payload: &[u8]) {
    let _ = dialect::conf_change(kind, payload);
    match Payload::decode(payload) {
        Payload::Empty => assert!(payload.is_empty()),
        Payload::Request(request) => {
            let again = request.encode_to_vec();
            let same = if again.is_empty() { Payload::Empty } else { Payload::Request(request) };
            assert_eq!(Payload::decode(&again), same);
        }
        Payload::Legacy(legacy) => {
            // By itself it may be taken for a request, as it may by etcd.
            let again = legacy.encode_to_vec();
            assert_eq!(crate::etcd::requests::LegacyRequest::decode(&again[..]).as_ref(), Ok(&*legacy));
        }
        Payload::Unknown => {}
    }
}

/// An append stream; the first byte says in which pieces it arrives.
pub fn appends(bytes: &[u8]) {
    let Some((size, bytes)) = bytes.split_first() else { return };
    let (found, result) = read_appends([bytes]);
    let (same, other) = read_appends(bytes.chunks(usize::from(*size).max(1)));
    assert_eq!((&found, &result), (&same, &other), "pieces of {size}");

    // A short frame does not say between whom it is, and a heartbeat says nothing.
    let named = |message: Message| match message.is_link_heartbeat() {
        true => Message::link_heartbeat(),
        false => Message { from: REMOTE, to: LOCAL, ..message },
    };
    let said: Vec<Message> = found.into_iter().map(named).collect();
    let (mut writer, mut again) = (AppendWriter::default(), BytesMut::new());
    said.iter().for_each(|message| writer.put(message, &mut again));
    assert_eq!(read_appends([&again[..]]), (said, Ok(true)));
}

fn read_appends<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Message>, Result<bool, WireError>) {
    let mut reader = AppendReader::new(REMOTE, LOCAL, LIMITS);
    let (mut input, mut found) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match reader.take(&mut input) {
                Ok(Some(message)) => found.push(message),
                Ok(None) => break,
                Err(error) => return (found, Err(error)),
            }
        }
    }
    (found, Ok(reader.is_between_frames() && input.is_empty()))
}

/// The body of a `POST` of a snapshot.
pub fn snapshot(bytes: &[u8]) {
    let mut input = BytesMut::from(bytes);
    if let Ok(Some(message)) = snapshots::take(&mut input, &LIMITS) {
        let mut again = BytesMut::new();
        snapshots::put(&message, &mut again);
        again.extend_from_slice(&input);
        assert_eq!(snapshots::take(&mut again, &Limits::default()), Ok(Some(message)));
        assert_eq!(again, input, "what follows is the database");
    }
}

/// A body in chunks; the first byte says in which pieces it arrives.
pub fn chunks(bytes: &[u8]) {
    let Some((size, bytes)) = bytes.split_first() else { return };
    let whole = read_chunks([bytes]);
    assert_eq!(whole, read_chunks(bytes.chunks(usize::from(*size).max(1))), "pieces of {size}");
    let (body, result) = whole;
    assert!(body.len() <= bytes.len());
    if let Ok((taken, true)) = result {
        let chunk = if body.is_empty() { Bytes::new() } else { crate::etcd::chunks::chunk(&body) };
        let again = [&chunk[..], crate::etcd::chunks::END].concat();
        assert_eq!(read_chunks([&again[..]]), (body, Ok((again.len(), true))));
        assert!(taken <= bytes.len());
    }
}

type Chunks = (BytesMut, Result<(usize, bool), WireError>);

/// What is in the chunks, how many bytes of them were taken, and whether they have ended.
fn read_chunks<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Chunks {
    let (mut reader, mut out, mut taken) = (ChunkReader::default(), BytesMut::new(), 0);
    for piece in pieces {
        match reader.push(piece, &mut out) {
            Ok(count) => taken += count,
            Err(error) => return (out, Err(error)),
        }
    }
    (out, Ok((taken, reader.is_done())))
}

/// All of a connection behind the heads; the first byte says which stream, and in which pieces it arrives.
pub fn stream(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let kind = if choice.is_multiple_of(2) { StreamKind::Message } else { StreamKind::Append };
    let (found, result) = read_stream(kind, [bytes]);
    let (same, other) = read_stream(kind, bytes.chunks(usize::from(choice / 2).max(1)));
    assert_eq!(result.is_ok(), other.is_ok());
    // Before an error, what came in pieces may have been delivered already.
    assert!(same.starts_with(&found) && (result.is_err() || same.len() == found.len()));
    found.iter().for_each(is_one);
}

fn read_stream<'a>(
    kind: StreamKind,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Message>, Result<(), WireError>) {
    let mut reader = StreamReader::new(kind, REMOTE, LOCAL, LIMITS);
    let mut found = Vec::new();
    for piece in pieces {
        let result = reader.push(piece, |message| found.push(message));
        if result.is_err() {
            return (found, result);
        }
    }
    let end = reader.end();
    (found, end)
}

fn host() -> Host {
    let version = Version { major: 3, minor: 5, patch: 0 };
    Host { cluster: ClusterId(0xc1), id: PeerId(LOCAL), version, peer_urls: "http://10.0.0.2:2380".into() }
}

/// The head of a request, or of an answer.
pub fn head(bytes: &[u8]) {
    let host = host();
    if let Some(request) = Request::parse(bytes) {
        let _ = (request.from(), request.peer_urls());
        if let Err(refusal) = host.judge(&request, |peer| peer == PeerId(REMOTE)) {
            let answer = host.refuse(&refusal);
            let end = ringraft_io::head::head_len(&answer).expect("our own head");
            let read = Answer::parse(&answer[..end]).expect("our own head");
            let len = (answer.len() - end) as u64;
            assert_eq!((read.status, read.body), (refusal.status().0, Body::Length(len)), "{refusal}");
        }
    }
    if let Some(answer) = Answer::parse(bytes) {
        assert!((100..1000).contains(&answer.status));
        let _ = answer.check_stream(&host);
        if let Some(version) = answer.version {
            assert_eq!(Version::parse(&version.to_string()), Some(version));
        }
    }
}

#[cfg(test)]
mod tests {
    use ringraft_fuzz_replay::Replay;

    use super::super::tests::named;
    use super::*;
    use crate::etcd::chunks::{END, chunk};
    use crate::etcd::http::Refusal;
    use crate::etcd::raftpb::{
        ConfChange, ConfChangeSingle, ConfChangeV2, ConfState, EntryType, MessageType, Snapshot, SnapshotMetadata,
    };
    use crate::etcd::requests::{
        DeleteRangeRequest, InternalRaftRequest, LegacyRequest, PutRequest, RequestOp, TxnRequest,
    };
    use crate::etcd::streams::StreamWriter;

    /// A heartbeat of the link is one byte, and the target keeps every message that it reads, three times.
    const KEEPS_ALL: (usize, usize) = (16 << 10, 2000);

    fn say(kind: MessageType) -> Message {
        Message { r#type: kind.into(), to: LOCAL, from: REMOTE, term: 5, ..Message::default() }
    }

    fn entry(index: u64, data: &[u8]) -> Entry {
        Entry { term: 5, index, data: Some(Bytes::copy_from_slice(data)), ..Entry::default() }
    }

    fn append(after: u64, entries: &[&[u8]]) -> Message {
        let entries = (after + 1..).zip(entries).map(|(index, data)| entry(index, data)).collect();
        Message { log_term: 5, index: after, entries, commit: after, ..say(MessageType::App) }
    }

    fn snap() -> Message {
        let conf_state = ConfState { voters: vec![1, 2], learners: vec![3], ..ConfState::default() };
        let metadata = SnapshotMetadata { conf_state, index: 9, term: 5 };
        let snapshot = Snapshot { data: Some(Bytes::from_static(b"{}")), metadata };
        Message { snapshot, ..say(MessageType::Snap) }
    }

    /// One of each, as far as they differ.
    fn all() -> Vec<(&'static str, Message)> {
        let read = vec![entry(0, &7_u64.to_be_bytes())];
        let change = ConfChange { id: 1, r#type: 3, node_id: 4, context: Some(Bytes::from_static(b"{}")) };
        let change = Entry { r#type: EntryType::ConfChange.into(), ..entry(4, &change.encode_to_vec()) };
        vec![
            ("append", append(3, &[b"a", b""])),
            ("change", Message { entries: vec![change], ..append(3, &[]) }),
            ("ack", Message { index: 4, ..say(MessageType::AppResp) }),
            ("reject", Message { reject: true, reject_hint: 2, index: 4, ..say(MessageType::AppResp) }),
            ("vote", Message { context: Some(Bytes::from_static(b"CampaignTransfer")), ..say(MessageType::Vote) }),
            ("pre-vote-reply", Message { reject: true, ..say(MessageType::PreVoteResp) }),
            (
                "heartbeat",
                Message { context: Some(Bytes::from_static(&[1; 8])), commit: 3, ..say(MessageType::Heartbeat) },
            ),
            ("link-heartbeat", Message::link_heartbeat()),
            ("read", Message { entries: read.clone(), term: 0, ..say(MessageType::ReadIndex) }),
            ("read-reply", Message { entries: read, index: 9, ..say(MessageType::ReadIndexResp) }),
            ("transfer", say(MessageType::TransferLeader)),
            ("proposal", Message { entries: vec![entry(0, b"p")], ..say(MessageType::Prop) }),
            ("snapshot", snap()),
        ]
    }

    #[test]
    fn replay_messages() {
        let put = |messages: &[&Message]| {
            let mut out = BytesMut::new();
            messages.iter().for_each(|message| wire::put(message, &mut out));
            out.to_vec()
        };
        let all = all();
        let mut seeds: Vec<_> = all.iter().map(|(name, message)| (*name, put(&[message]))).collect();
        seeds.push(("some", put(&[&all[0].1, &all[2].1, &all[7].1])));
        Replay { target: "etcd_messages", run: messages, heap: (16 << 10, 100), seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_body() {
        let seeds = all().into_iter().map(|(name, message)| (name, wire::body(&message).to_vec())).collect();
        Replay { target: "etcd_body", run: body, heap: (16 << 10, 100), seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_payload() {
        let put =
            PutRequest { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"v"), ..PutRequest::default() };
        let delete = DeleteRangeRequest { key: Bytes::from_static(b"k"), ..DeleteRangeRequest::default() };
        let op = RequestOp { put: Some(put.clone()), ..RequestOp::default() };
        let txn = TxnRequest { success: vec![op.clone(), op.clone()], failure: vec![RequestOp::default()] };
        let deep = RequestOp { txn: Some(txn.clone()), ..RequestOp::default() };
        let requests = [
            ("put", InternalRaftRequest { put: Some(put), ..InternalRaftRequest::default() }),
            ("delete", InternalRaftRequest { delete_range: Some(delete), ..InternalRaftRequest::default() }),
            (
                "txn",
                InternalRaftRequest {
                    txn: Some(TxnRequest { success: vec![deep], ..txn }),
                    ..InternalRaftRequest::default()
                },
            ),
            ("publish", InternalRaftRequest::publish(7, 1, "name")),
            (
                "v2",
                InternalRaftRequest {
                    v2: Some(LegacyRequest::publish(7, 1, "a \"name\"")),
                    ..InternalRaftRequest::default()
                },
            ),
        ];
        let mut seeds: Vec<_> =
            requests.iter().map(|(name, request)| (*name, [&[0], &request.encode_to_vec()[..]].concat())).collect();
        let of = |kind: u8, bytes: Vec<u8>| [&[kind], &bytes[..]].concat();
        seeds.push(("legacy", of(0, LegacyRequest::publish(7, 1, "name").encode_to_vec())));
        let change = ConfChange { id: 1, r#type: 3, node_id: 4, context: Some(Bytes::from_static(b"{}")) };
        seeds.push(("change", of(1, change.encode_to_vec())));
        let changes = vec![ConfChangeSingle { r#type: 1, node_id: 3 }, ConfChangeSingle { r#type: 0, node_id: 4 }];
        seeds.push(("change-v2", of(2, ConfChangeV2 { transition: 2, changes, context: None }.encode_to_vec())));
        Replay { target: "etcd_payload", run: payload, heap: (16 << 10, 400), seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_appends() {
        let put = |size: u8, messages: &[Message]| {
            let (mut writer, mut out) = (AppendWriter::default(), BytesMut::from(&[size][..]));
            messages.iter().for_each(|message| writer.put(message, &mut out));
            out.to_vec()
        };
        let seeds = vec![
            ("heartbeat", put(1, &[Message::link_heartbeat()])),
            ("one", put(3, &[append(3, &[b"a"])])),
            ("run", put(20, &[append(3, &[b"a"]), append(4, &[b"b", b"c"]), append(6, &[])])),
            (
                "back",
                put(255, &[append(3, &[b"a"]), append(2, &[b"b"]), Message::link_heartbeat(), append(3, &[b"c"])]),
            ),
        ];
        Replay { target: "etcd_appends", run: appends, heap: KEEPS_ALL, seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_snapshot() {
        let mut good = BytesMut::new();
        snapshots::put(&snap(), &mut good);
        good.extend_from_slice(b"the database");
        let mut other = BytesMut::new();
        wire::put(&say(MessageType::App), &mut other);
        let seeds = vec![("good", good.to_vec()), ("not-snap", other.to_vec())];
        Replay { target: "etcd_snapshot", run: snapshot, heap: (16 << 10, 100), seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_chunks() {
        let seeds = vec![
            ("none", [&[1], END].concat()),
            ("two", [&[2], &chunk(b"abc")[..], &chunk(&[7; 20]), END].concat()),
            ("lines", b"\x033;name=value\r\nabc\r\nA \r\n0123456789\r\n0\r\nLast: line\r\n\r\nrest".to_vec()),
            ("huge", b"\xffffffffffffffff\r\nabc".to_vec()),
        ];
        Replay { target: "etcd_chunks", run: chunks, heap: (4 << 10, 12), seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_stream() {
        let write = |size: u8, kind: StreamKind, messages: &[Message]| {
            let mut writer = StreamWriter::new(kind);
            let mut out = vec![2 * size + u8::from(kind == StreamKind::Append)];
            for message in messages {
                writer.push(message);
                out.extend_from_slice(&writer.take_chunk().expect("a message"));
            }
            out.extend_from_slice(END);
            out
        };
        let some = [append(3, &[b"a"]), append(4, &[b"b", b"c"]), Message::link_heartbeat()];
        let seeds = vec![
            ("messages", write(3, StreamKind::Message, &some)),
            ("appends", write(50, StreamKind::Append, &some)),
            ("empty", write(1, StreamKind::Append, &[])),
        ];
        Replay { target: "etcd_stream", run: stream, heap: KEEPS_ALL, seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_head() {
        let peer = Host { id: PeerId(REMOTE), ..host() };
        let seeds = vec![
            ("stream", peer.stream_request(StreamKind::Append, PeerId(LOCAL), "h:1").to_vec()),
            ("stranger", host().stream_request(StreamKind::Message, PeerId(LOCAL), "h:1").to_vec()),
            ("pipeline", peer.pipeline_request(77, "h:1").to_vec()),
            ("snapshot", peer.snapshot_request("h:1").to_vec()),
            ("members", crate::etcd::http::plain_request("/members", "h").to_vec()),
            ("accepted", peer.stream_answer().to_vec()),
            ("done", peer.done().to_vec()),
            ("refused", {
                let answer = peer.refuse(&Refusal::MethodNotAllowed { allowed: "GET" });
                answer[..ringraft_io::head::head_len(&answer).expect("a head")].to_vec()
            }),
        ];
        Replay { target: "etcd_head", run: head, heap: (8 << 10, 8), seeds: named(seeds) }.check();
    }
}
