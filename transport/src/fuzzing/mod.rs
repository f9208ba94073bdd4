//! What a fuzzer runs: functions of any bytes that must not panic. Compiled for tests and for fuzzers only.

pub mod etcd;

use std::path::{Path, PathBuf};

use bytes::{BufMut, BytesMut};
use crc32fast::Hasher;
use ringraft_io::head::status;
use ringraft_io::{ShardNo, Verdict};
use ringraft_raft::PeerId;
use ringraft_raft::record::Records;

use crate::codec::{CodecError, Item, Items, Section, SectionHead, Sections, put_message, put_proposal};
use crate::frame::{FrameKind, HEADER, Link};
use crate::handshake::{Greeting, HandshakeError, Judge, JudgeConfig, Members, Request, Response};
use crate::reader::{StreamError, StreamReader};
use crate::{ClusterId, StreamKind};

const CLUSTER: ClusterId = ClusterId(0xc1);
const DIALER: PeerId = PeerId(0xa);
const LISTENER: PeerId = PeerId(0xb);
const SHARDS: u16 = 4;
const SNAPSHOT_SIZE_MAX: u64 = 1000;

fn dialed(kind: StreamKind) -> Request {
    let purpose = crate::handshake::Purpose::Stream(kind);
    let (cluster, from, to) = (CLUSTER, DIALER, LISTENER);
    Request { purpose, cluster, from, to, incarnation: 77, shard: ShardNo(1), shards: SHARDS }
}

fn dir(shard: u16) -> PathBuf {
    Path::new("data").join(shard.to_string())
}

/// The head of who dials us.
pub fn request(bytes: &[u8]) {
    let parsed = Request::parse(bytes);
    if let Ok(request) = parsed {
        assert_eq!(Request::parse(&request.encode("host")), Ok(request));
    }
    let config = JudgeConfig {
        cluster: CLUSTER,
        node: LISTENER,
        incarnation: 99,
        snapshot_dirs: (0..SHARDS).map(dir).collect(),
        snapshot_size_max: SNAPSHOT_SIZE_MAX,
    };
    let members = Members::default();
    members.add(DIALER);
    members.remove(PeerId(0xd));
    match Judge::new(config, members).judge(bytes) {
        Verdict::Stream { shard, response, greeting } => {
            let request = parsed.expect("whoever is let in has asked for it");
            let response = Response::parse(&response, &request).expect("our own answer");
            let link = request.link(&response).expect("a stream becomes a link");
            let Some(Greeting::Stream { kind, shard: told, from, salt, .. }) = Greeting::decode(&greeting) else {
                panic!("a stream has the greeting of one");
            };
            assert_eq!((kind, told, from, salt), (link.kind, shard, link.to, link.salt));
            assert!(shard.0 < SHARDS && from == DIALER);
        }
        Verdict::File { shard, path, size, greeting, .. } => {
            assert!(shard.0 < SHARDS && size <= SNAPSHOT_SIZE_MAX);
            assert_eq!(path.parent(), Some(&*dir(shard.0)), "{}", path.display());
            assert!(matches!(Greeting::decode(&greeting), Some(Greeting::Snapshot { .. })));
        }
        Verdict::Refuse { response } => {
            assert!(matches!(HandshakeError::of_refusal(&response), HandshakeError::Refused(_)));
        }
    }
}

/// The head of whom we dialed.
pub fn answer(bytes: &[u8]) {
    let request = dialed(StreamKind::Append);
    if let Ok(response) = Response::parse(bytes, &request) {
        assert_eq!(status(bytes), Some(200));
        assert_eq!(Response::parse(&response.encode(), &request), Ok(response));
    }
    let _ = HandshakeError::of_refusal(bytes).to_string();
    if let Some(greeting) = Greeting::decode(bytes) {
        assert_eq!(Greeting::decode(&greeting.encode()), Some(greeting));
    }
}

fn link() -> Link {
    Link { cluster: CLUSTER, from: LISTENER, to: DIALER, kind: StreamKind::Append, shard: ShardNo(1), salt: 9 }
}

/// A stream. The first byte says in which pieces it arrives; the rest is read as it is, and with right checksums.
pub fn stream(bytes: &[u8]) {
    let Some((size, bytes)) = bytes.split_first() else { return };
    stream_in(bytes, usize::from(*size).max(1));
    let mut sealed = bytes.to_vec();
    seal(&mut sealed, &link());
    stream_in(&sealed, usize::from(*size).max(1));
}

fn stream_in(bytes: &[u8], size: usize) {
    let (frames, result) = read_stream([bytes]);
    let (in_pieces, same) = read_stream(bytes.chunks(size));
    assert_eq!((&frames, result), (&in_pieces, same), "pieces of {size}");
    for (kind, count, body) in &frames {
        assert!(body.len() <= kind.body_max() && body.len().is_multiple_of(8));
        match kind {
            FrameKind::Append => sections(body, *count),
            FrameKind::Message => items(body, *count),
            FrameKind::LinkHeartbeat => {}
        }
    }
}

type Read = (Vec<(FrameKind, u32, Vec<u8>)>, Result<(), StreamError>);

fn read_stream<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Read {
    let mut reader = StreamReader::new(&link());
    let mut frames = Vec::new();
    for piece in pieces {
        let result = reader.push(piece, |frame| {
            frames.push((frame.kind, frame.count, frame.body.to_vec()));
            // Ends the stream as the codec would.
            if frame.count == u32::MAX { Err(CodecError::Count) } else { Ok(()) }
        });
        if result.is_err() {
            return (frames, result);
        }
    }
    (frames, Ok(()))
}

/// Puts the numbers and checksums in that this link's frames have.
fn seal(mut bytes: &mut [u8], link: &Link) {
    for number in 0_u64.. {
        let Some((head, rest)) = bytes.split_first_chunk_mut::<HEADER>() else { return };
        let len = u32::from_le_bytes(head[8..12].try_into().expect("four bytes")) as usize;
        let whole = rest.len() >= len;
        let (body, rest) = rest.split_at_mut(len.min(rest.len()));
        let crc = |parts: &[&[u8]]| {
            let mut hasher = Hasher::new_with_initial(link.seed());
            parts.iter().for_each(|part| hasher.update(part));
            hasher.finalize().to_le_bytes()
        };
        head[16..24].copy_from_slice(&number.to_le_bytes());
        head[12..16].copy_from_slice(&crc(&[body]));
        let head_crc = crc(&[&head[..4], &head[8..]]);
        head[4..8].copy_from_slice(&head_crc);
        if !whole {
            return;
        }
        bytes = rest;
    }
}

/// The body of a frame of appends; the first byte counts its sections.
pub fn appends(bytes: &[u8]) {
    let Some((count, body)) = bytes.split_first() else { return };
    sections(body, u32::from(*count));
}

fn sections(body: &[u8], count: u32) {
    let mut again = Vec::new();
    let mut broken = false;
    let mut found = 0;
    for section in Sections::new(body, count) {
        assert!(!broken, "nothing follows an error");
        let Ok(section) = section else {
            broken = true;
            continue;
        };
        found += 1;
        let Section { group, term, prev, last, commit, payloads, records } = section;
        let indexes = Records::new(records).map(|record| record.expect("looked at").id.index.0);
        assert!(indexes.eq((prev.index.0..last.0).map(|index| index + 1)), "records are those of its range");
        let count = u32::try_from(last.0 - prev.index.0).expect("counted in 31 bits");
        let bytes = u32::try_from(records.len()).expect("within a frame");
        again.put_slice(&SectionHead { group, term, prev, commit, payloads, count, bytes }.encode());
        again.put_slice(records);
    }
    assert!(broken || (found == count && again == body), "a section is all it says");
}

/// The body of a frame of messages; the first byte counts its items.
pub fn messages(bytes: &[u8]) {
    let Some((count, body)) = bytes.split_first() else { return };
    items(body, u32::from(*count));
}

fn items(body: &[u8], count: u32) {
    let mut again = BytesMut::new();
    let mut broken = false;
    let mut found = 0;
    for item in Items::new(body, count) {
        assert!(!broken, "nothing follows an error");
        found += u32::from(item.is_ok());
        match item {
            Ok(Item::Message { group, term, body }) => put_message(&mut again, group, term, &body),
            Ok(Item::Proposal { group, payload }) => {
                put_proposal(&mut again, group, u32::try_from(payload.len()).expect("within a frame"));
                again.put_slice(payload);
                again.put_bytes(0, payload.len().next_multiple_of(8) - payload.len());
            }
            Err(_) => broken = true,
        }
    }
    assert!(broken || (found == count && again == body), "an item is all it says");
}

#[cfg(test)]
mod tests {
    use ringraft_fuzz_replay::Replay;
    use ringraft_raft::record::{GroupSeed, encode};
    use ringraft_raft::{EntryId, EntryKind, GroupId, Index, Payloads, Term};

    use super::*;
    use crate::frame::{APPEND_BODY_MAX, Header};
    use crate::handshake::{Purpose, Refusal, SnapshotHead};

    pub(super) fn named(seeds: Vec<(&str, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
        seeds.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
    }

    #[test]
    fn replay_request() {
        let at = EntryId { term: Term(5), index: Index(1000) };
        let head = SnapshotHead { group: GroupId(0xf00), term: Term(6), at, size: 1000 };
        let snapshot = Request { purpose: Purpose::Snapshot(head), ..dialed(StreamKind::Append) };
        let removed = Request { from: PeerId(0xd), ..dialed(StreamKind::Append) };
        let later = String::from_utf8(dialed(StreamKind::Append).encode("h").to_vec()).expect("ASCII");
        let seeds = vec![
            ("append", dialed(StreamKind::Append).encode("h").to_vec()),
            ("message", dialed(StreamKind::Message).encode("10.0.0.1:2380").to_vec()),
            ("snapshot", snapshot.encode("h").to_vec()),
            ("removed", removed.encode("h").to_vec()),
            ("later", later.replace("X-Raft-Version: 1", "X-RAFT-version:\t7\r\nLater: x").into()),
        ];
        Replay { target: "transport_request", run: request, heap: (16 << 10, 4), seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_answer() {
        let good = Response { cluster: CLUSTER, from: LISTENER, incarnation: 1, salt: u64::MAX };
        let stream = Greeting::Stream {
            kind: StreamKind::Append,
            shard: ShardNo(1),
            from: DIALER,
            incarnation: 77,
            salt: u64::MAX,
        };
        let at = EntryId { term: Term(5), index: Index(1000) };
        let head = SnapshotHead { group: GroupId(0xf00), term: Term(6), at, size: 1000 };
        let file = Greeting::Snapshot { shard: ShardNo(1), from: DIALER, head };
        let seeds = vec![
            ("good", good.encode().to_vec()),
            ("other-node", Response { from: DIALER, ..good }.encode().to_vec()),
            ("other-cluster", Response { cluster: ClusterId(1), ..good }.encode().to_vec()),
            ("mismatch", Refusal::ClusterMismatch.encode().to_vec()),
            ("method", Refusal::MethodNotAllowed.encode().to_vec()),
            ("greeting-stream", stream.encode().to_vec()),
            ("greeting-file", file.encode().to_vec()),
        ];
        Replay { target: "transport_answer", run: answer, heap: (8 << 10, 4), seeds: named(seeds) }.check();
    }

    fn section(group: u64, after: u64, payloads: &[&[u8]]) -> Vec<u8> {
        let (mut run, group) = (BytesMut::new(), GroupId(group));
        for (payload, index) in payloads.iter().zip(after + 1..) {
            let id = EntryId { term: Term(2), index: Index(index) };
            encode(GroupSeed::of(group), id, EntryKind::Normal, &[payload], &mut run);
        }
        let head = SectionHead {
            group,
            term: Term(3),
            prev: EntryId { term: Term(2), index: Index(after) },
            commit: Index(after),
            payloads: if payloads.iter().all(|one| one.is_empty()) { Payloads::Stripped } else { Payloads::All },
            count: u32::try_from(payloads.len()).expect("few"),
            bytes: u32::try_from(run.len()).expect("short"),
        };
        [&head.encode()[..], &run].concat()
    }

    fn all_items() -> (u8, Vec<u8>) {
        let mut out = BytesMut::new();
        let bodies = crate::codec::tests::bodies();
        for (group, body) in (1..).zip(&bodies) {
            put_message(&mut out, GroupId(group), Term(5), body);
        }
        put_proposal(&mut out, GroupId(50), 3);
        out.put_slice(b"abc\0\0\0\0\0");
        (u8::try_from(bodies.len() + 1).expect("few"), out.to_vec())
    }

    fn frame(kind: FrameKind, count: u8, body: &[u8]) -> Vec<u8> {
        let body_len = u32::try_from(body.len()).expect("short");
        let header = Header { kind, body_len, body_crc: 0, number: 0, count: count.into() };
        [&header.encode(link().seed())[..], body].concat()
    }

    fn counted(count: u8, body: &[u8]) -> Vec<u8> {
        [&[count], body].concat()
    }

    #[test]
    fn replay_appends() {
        let two = [section(1, 4, &[b"a", b"more than eight"]), section(2, 0, &[])].concat();
        let seeds = vec![
            ("none", counted(0, &[])),
            ("one", counted(1, &section(1, 4, &[b"payload"]))),
            ("two", counted(2, &two)),
            ("stripped", counted(1, &section(1, u64::MAX - 3, &[b"", b""]))),
        ];
        Replay { target: "transport_appends", run: appends, heap: (1 << 10, 4), seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_messages() {
        let (count, all) = all_items();
        let mut one = BytesMut::new();
        put_message(&mut one, GroupId(1), Term(5), &crate::codec::tests::bodies()[0]);
        let seeds = vec![("none", counted(0, &[])), ("all", counted(count, &all)), ("one", counted(1, &one))];
        Replay { target: "transport_messages", run: messages, heap: (1 << 10, 4), seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_stream() {
        let (count, all) = all_items();
        let heartbeat = frame(FrameKind::LinkHeartbeat, 0, &[]);
        let append = frame(FrameKind::Append, 1, &section(1, 4, &[b"payload"]));
        let frames = [&append[..], &heartbeat, &append].concat();
        let sealed = |size: u8, frames: &[u8]| {
            let mut frames = frames.to_vec();
            seal(&mut frames, &link());
            [&[size], &frames[..]].concat()
        };
        let whole = sealed(1, &frames);
        assert_eq!(read_stream([&whole[1..]]).0.len(), 3);
        let seeds = vec![
            ("heartbeat", sealed(255, &heartbeat)),
            ("three", whole),
            ("messages", sealed(40, &frame(FrameKind::Message, count, &all))),
            ("another-link", [&[7], &frames[..]].concat()),
        ];
        // A header that is in order is believed.
        let heap = (APPEND_BODY_MAX + (8 << 10), 12);
        Replay { target: "transport_stream", run: stream, heap, seeds: named(seeds) }.check();
    }
}
