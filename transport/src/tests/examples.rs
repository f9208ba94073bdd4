//! The worked examples of `docs/protocol.md` are what this crate writes and reads.

use bytes::{Bytes, BytesMut};
use ringraft_io::{ShardNo, StreamId, Time};
use ringraft_raft::record::{self, GroupSeed};
use ringraft_raft::{Body, EntryId, EntryKind, GroupId, Index, Payloads, PeerId, Term};

use crate::frame::Link;
use crate::handshake::{Purpose, Refusal, Request, Response, SnapshotHead};
use crate::reader::StreamReader;
use crate::send_queue::What;
use crate::writer::StreamWriter;
use crate::{ClusterId, QueueLimits, StreamKind};

const DOCUMENT: &str = include_str!("../../../docs/protocol.md");

/// The fenced block after the line that begins with `Example` and holds `name`.
fn block(name: &str) -> &'static str {
    let after = DOCUMENT.split_once(&format!("Example: {name}")).unwrap_or_else(|| panic!("no example {name}")).1;
    after.split("```").nth(1).unwrap().split_once('\n').unwrap().1
}

/// Hex digits up to `;` in every line.
fn hex(name: &str) -> Vec<u8> {
    let lines = block(name).lines().map(|line| line.split(';').next().unwrap());
    let bytes = lines.flat_map(str::split_whitespace);
    bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

fn request(purpose: Purpose) -> Request {
    Request {
        purpose,
        cluster: ClusterId(0xc1),
        from: PeerId(2),
        to: PeerId(1),
        incarnation: 0x18f0,
        shard: ShardNo(0),
        shards: 2,
    }
}

fn response() -> Response {
    Response { cluster: ClusterId(0xc1), from: PeerId(1), incarnation: 0x17aa, salt: 0x1122_3344_5566_7788 }
}

fn writer(kind: StreamKind) -> (Link, StreamWriter) {
    let link = request(Purpose::Stream(kind)).link(&response()).unwrap();
    let limits = QueueLimits { messages_max: 10, bytes_max: 1000 };
    (link, StreamWriter::new(StreamId(1), link, limits, Time(0)))
}

fn check(name: &str, link: &Link, bytes: &[u8]) {
    let want = hex(name);
    let show: Vec<String> =
        bytes.chunks(8).map(|line| line.iter().map(|byte| format!("{byte:02x} ")).collect()).collect();
    assert!(bytes == want, "{name} is\n{}", show.join("\n"));
    let mut frames = 0;
    StreamReader::new(link)
        .push(&want, |_| {
            frames += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(frames, 1);
}

fn text(name: &str, head: &Bytes) {
    let want = block(name).replace('\n', "\r\n");
    assert_eq!(String::from_utf8_lossy(head), want, "{name}");
}

#[test]
fn heads() {
    text("stream request", &request(Purpose::Stream(StreamKind::Append)).encode("10.0.0.1:2380"));
    text("stream response", &response().encode());
    let at = EntryId { term: Term(5), index: Index(9000) };
    let head = SnapshotHead { group: GroupId(0x2a), term: Term(6), at, size: 1_048_576 };
    text("snapshot request", &request(Purpose::Snapshot(head)).encode("10.0.0.1:2380"));
    let (head, body) = block("refusal").split_once("\n\n").unwrap();
    let want = format!("{}\r\n\r\n{body}", head.replace('\n', "\r\n"));
    assert_eq!(String::from_utf8_lossy(&Refusal::ClusterMismatch.encode()), want);
}

#[test]
fn append_frame() {
    let (link, mut writer) = writer(StreamKind::Append);
    let group = GroupId(0x2a);
    let mut run = BytesMut::new();
    let id = EntryId { term: Term(5), index: Index(8) };
    record::encode(GroupSeed::of(group), id, EntryKind::Normal, &[b"hello"], &mut run);
    let prev = EntryId { term: Term(4), index: Index(7) };
    let what = What::Append { term: Term(5), prev, commit: Index(7), payloads: Payloads::All, count: 1 };
    writer.push(group, what, [run.freeze()]).unwrap();
    let mut bufs = Vec::new();
    writer.gather(Time(0), 1000, &mut bufs);
    check("append frame", &link, &bufs.concat());
}

#[test]
fn message_frame() {
    let (link, mut writer) = writer(StreamKind::Message);
    let heartbeat = Body::Heartbeat { commit: Index(8), read: 0 };
    writer.push(GroupId(0x2a), What::Message { term: Term(5), body: heartbeat }, []).unwrap();
    let vote = Body::VoteReply { granted: true };
    writer.push(GroupId(0x2b), What::Message { term: Term(9), body: vote }, []).unwrap();
    writer.push(GroupId(0x2c), What::Proposal, [Bytes::from_static(b"put")]).unwrap();
    let mut bufs = Vec::new();
    writer.gather(Time(0), 1000, &mut bufs);
    check("message frame", &link, &bufs.concat());
}

#[test]
fn link_heartbeat() {
    let (link, mut writer) = writer(StreamKind::Message);
    let mut bufs = Vec::new();
    writer.link_heartbeat(Time(0), &mut bufs);
    check("link heartbeat", &link, &bufs.concat());
}

#[test]
fn seed() {
    let (link, _) = writer(StreamKind::Append);
    let bytes = hex("link bytes");
    assert_eq!(bytes.len(), 48);
    assert_eq!(crc32fast::hash(&bytes), link.seed());
    assert!(DOCUMENT.contains(&format!("`0x{:08x}`", link.seed())), "{:08x}", link.seed());
}
