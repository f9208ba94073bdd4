//! What a fuzzer runs: functions of any bytes that must not panic. Compiled for tests and for fuzzers only.

use bytes::BytesMut;
use prost::Message as _;
use ringraft_raft::{ConfState, Index, PeerId};
use ringraft_transport::etcd::raftpb::ConfChange;

use crate::config;
use crate::etcd_follow::members::Members;
use crate::kv::Kv;
use crate::machine::StateMachine;
use crate::protocol::head::{
    HeadError, is_client_request, judge_request, judge_response, refusal_head, request_head, response_head,
};
use crate::protocol::{
    Answer, Decoder, FREE_AT, FrameError, HEADER_SIZE, NodeStatus, REPLY_BODY_MAX, Request, begin_frame, finish_frame,
};

/// What a client sends, or is sent. The first byte says in which pieces; the rest is read as it is, and with right
/// checksums.
pub fn client(bytes: &[u8]) {
    let Some((size, bytes)) = bytes.split_first() else { return };
    client_in(bytes, usize::from(*size).max(1));
    client_in(&seal_frames(bytes), usize::from(*size).max(1));
}

fn client_in(bytes: &[u8], size: usize) {
    let (frames, result) = read_frames([bytes]);
    let (in_pieces, same) = read_frames(bytes.chunks(size));
    assert_eq!(frames, in_pieces, "pieces of {size}");
    assert_eq!(result, same, "pieces of {size}");
    for free in frames {
        let mut again = BytesMut::new();
        match Request::decode(&free) {
            Ok(request) => {
                request.encode(&mut again);
                assert_eq!(again, free, "there is one way to say it");
                assert!(request.group(16).is_none_or(|group| group < 16) && free[0] == request.op() as u8);
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        if let Ok(answer) = Answer::decode(&free) {
            again.clear();
            answer.encode(&mut again);
            assert_eq!(again, free, "there is one way to say it");
            let pairs = answer.pairs().filter_map(Result::ok);
            assert!(pairs.map(|pair| 16 + pair.key.len() + pair.value.len()).sum::<usize>() <= answer.body.len());
            if let Ok(status) = NodeStatus::decode(answer.body) {
                assert_eq!(NodeStatus::decode(&status.encode_to_vec()[..]).as_ref(), Ok(&status));
            }
            let _ = answer.text();
        }
    }
}

fn read_frames<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, Result<(), FrameError>) {
    let mut decoder = Decoder::new(REPLY_BODY_MAX);
    let mut frames = Vec::new();
    for mut piece in pieces {
        loop {
            match decoder.next(&mut piece) {
                Ok(Some(frame)) => frames.push(frame.free().to_vec()),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
        assert!(piece.is_empty() && decoder.carried() <= HEADER_SIZE + REPLY_BODY_MAX);
    }
    (frames, Ok(()))
}

/// The same frames with checksums that are right, as far as they are whole.
fn seal_frames(mut bytes: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    while let Some((len, _)) = bytes.split_first_chunk::<4>() {
        let size = HEADER_SIZE.saturating_add(u32::from_le_bytes(*len) as usize);
        let Some((frame, rest)) = bytes.split_at_checked(size) else { break };
        let start = begin_frame(&mut out);
        out.extend_from_slice(&frame[FREE_AT..]);
        finish_frame(&mut out, start, 7);
        bytes = rest;
    }
    out.extend_from_slice(bytes);
    out
}

/// The head of a client, or of a node.
pub fn head(bytes: &[u8]) {
    let error = match judge_request(bytes) {
        Ok(hello) => {
            assert!(is_client_request(bytes));
            assert_eq!(judge_request(&request_head("host", &hello)), Ok(hello));
            None
        }
        Err(error) => Some(error),
    };
    if let Some(error) = error {
        let refused = judge_response(&refusal_head(&error));
        assert!(matches!(refused, Err(HeadError::Refused { status: 400.., .. })), "{error}: {refused:?}");
    }
    if let Ok(welcome) = judge_response(bytes) {
        assert!(welcome.groups > 0);
        assert_eq!(judge_response(&response_head(&welcome)), Ok(welcome));
    }
}

/// Commands and queries, as they stand in a log, each behind a byte that says how long it is; a snapshot is written
/// while they are applied.
pub fn machine(bytes: &[u8]) {
    let (mut kv, mut twin, mut answer) = (Kv::new(), Kv::new(), BytesMut::new());
    let mut rest = bytes;
    let mut snapshot: Option<(BytesMut, u64)> = None;
    for index in 1.. {
        let Some((len, after)) = rest.split_first() else { break };
        let (command, after) = after.split_at(usize::from(*len).min(after.len()));
        rest = after;
        answer.clear();
        kv.apply(Index(index), command, &mut answer);
        assert!(Answer::decode(&answer).is_ok(), "every command has an answer");
        twin.apply(Index(index), command, &mut BytesMut::new());
        answer.clear();
        kv.query(command, &mut answer);
        assert!(Answer::decode(&answer).is_ok(), "every query has an answer");
        match &mut snapshot {
            None => {
                kv.snapshot_begin();
                snapshot = Some((BytesMut::new(), kv.digest()));
            }
            Some((out, digest)) => {
                if !kv.snapshot_chunk(40, out) {
                    let mut restored = Kv::new();
                    restored.restore(&mut std::iter::once(&out[..])).expect("our own");
                    assert_eq!(restored.digest(), *digest, "it shows the state at its begin");
                    snapshot = None;
                }
            }
        }
    }
    assert_eq!(kv.digest(), twin.digest(), "the same commands, the same state");
}

/// A snapshot of the state machine. The first byte says in which pieces it is read; the rest is read as it is, and
/// with a right checksum.
pub fn snapshot(bytes: &[u8]) {
    let Some((size, bytes)) = bytes.split_first() else { return };
    let mut sealed = bytes.to_vec();
    if let Some((whole, crc)) = sealed.split_last_chunk_mut::<4>() {
        *crc = crc32fast::hash(whole).to_le_bytes();
    }
    for bytes in [bytes, &sealed] {
        let mut kv = Kv::new();
        let result = kv.restore(&mut std::iter::once(bytes));
        let mut other = Kv::new();
        assert_eq!(other.restore(&mut bytes.chunks(usize::from(*size).max(1))), result, "pieces of {size}");
        if result.is_err() {
            assert!(kv.is_empty(), "nothing has changed");
            continue;
        }
        let mut again = BytesMut::new();
        kv.snapshot_begin();
        while kv.snapshot_chunk(100, &mut again) {}
        assert_eq!(again, bytes, "there is one way to write it");
        // It goes on.
        let revision = kv.revision();
        assert_eq!(kv.put(b"k", b"v"), revision + 1);
        for (key, _) in other.iter() {
            kv.put(key, b"v");
        }
    }
}

/// A configuration file.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let config = match config::of_text(text) {
        Ok(config) => config,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(config.explain().lines().count() >= config.settings.len());
    assert!(config.node_id > 0 && config.groups > 0 && config.peers.iter().any(|peer| peer.id == config.node_id));
    let line = |setting: &config::Setting| format!("{} = {}\n", setting.name, toml::Value::from(&setting.value[..]));
    let again: String = config.settings.iter().map(line).collect();
    let read = config::of_text(&again).expect("what was read can be written");
    assert_eq!(
        config::ServeConfig { settings: Vec::new(), ..read },
        config::ServeConfig { settings: Vec::new(), ..config }
    );
}

/// What etcd says of its members: a list, its v2 store, or what a change carries.
pub fn members(bytes: &[u8]) {
    const LEARNERS_MAX: usize = 1;
    if let Ok(members) =
        std::str::from_utf8(bytes).map_err(drop).and_then(|text| Members::parse(text, LEARNERS_MAX).map_err(drop))
    {
        assert_eq!(Members::parse(&members.to_json(), LEARNERS_MAX).ok(), Some(members));
    }
    let conf = ConfState { voters: vec![PeerId(1)], learners: vec![PeerId(2)], ..ConfState::default() };
    let mut members = Members::of_snapshot(bytes, &conf, &Members::new(LEARNERS_MAX));
    for kind in 0..4 {
        let context = Some(bytes::Bytes::copy_from_slice(bytes));
        let _ = members.apply(&ConfChange { id: 1, r#type: kind, node_id: 4, context });
        assert!(members.iter().all(|(id, member)| id.0 == member.id));
    }
}

#[cfg(test)]
mod tests {
    use ringraft_fuzz_replay::Replay;

    use super::*;
    use crate::protocol::head::{Hello, Welcome};
    use crate::protocol::{Command, GroupStatus, Op, Query, RangeAnswer, Status, encode_request};

    fn named(seeds: Vec<(&str, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
        seeds.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
    }

    fn requests() -> Vec<(&'static str, Request<'static>)> {
        let range = Query::Range { start: b"a", end: b"z", limit: 9, group: 3, serializable: true };
        vec![
            ("put", Request::Write(Command::Put { key: b"key", value: b"value" })),
            ("delete", Request::Write(Command::Delete { key: b"key" })),
            ("get", Request::Read(Query::Get { key: b"key", serializable: false })),
            ("range", Request::Read(range)),
            ("status", Request::Status),
        ]
    }

    #[test]
    fn replay_client() {
        let mut seeds: Vec<(&str, Vec<u8>)> = Vec::new();
        let mut all = BytesMut::from(&[9][..]);
        for (name, request) in requests() {
            let mut out = BytesMut::from(&[3][..]);
            encode_request(&mut out, 7, &request);
            all.extend_from_slice(&out[1..]);
            seeds.push((name, out.to_vec()));
        }
        seeds.push(("all", all.to_vec()));
        let mut reply = |name, encode: &dyn Fn(&mut BytesMut)| {
            let mut out = BytesMut::from(&[20][..]);
            let start = begin_frame(&mut out);
            encode(&mut out);
            finish_frame(&mut out, start, 7);
            seeds.push((name, out.to_vec()));
        };
        reply("put-reply", &|out| Answer::put(2).encode(out));
        reply("refusal", &|out| Answer::refusal(Op::Get as u8, Status::NotLeader, 3, "node 3 leads").encode(out));
        reply("range-reply", &|out| {
            let mut range = RangeAnswer::begin(out);
            assert!(range.push(b"a", b"1", 5) && range.push(b"b", b"", 6));
            range.finish(8, true);
        });
        reply("status-reply", &|out| {
            let group = vec![GroupStatus { group_id: 3, leader: 2, ..GroupStatus::default() }];
            let status = NodeStatus { node_id: 1, version: "0.1.0".into(), group, ..NodeStatus::default() };
            Answer::encode_status(&status, out);
        });
        Replay { target: "node_client", run: client, heap: (8 << 10, 80), seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_head() {
        let seeds = vec![
            ("hello", request_head("localhost:7001", &Hello { shard: None }).to_vec()),
            ("hello-shard", request_head("h", &Hello { shard: Some(3) }).to_vec()),
            ("welcome", response_head(&Welcome { node: 3, shards: 2, groups: 64 }).to_vec()),
            ("refused", refusal_head(&HeadError::Version("2".into())).to_vec()),
        ];
        Replay { target: "node_head", run: head, heap: (4 << 10, 8), seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_machine() {
        let log = |commands: &[Request<'_>]| {
            let mut out = Vec::new();
            for command in commands {
                let mut free = BytesMut::new();
                command.encode(&mut free);
                out.push(u8::try_from(free.len()).expect("short"));
                out.extend_from_slice(&free);
            }
            out
        };
        let put = |key, value| Request::Write(Command::Put { key, value });
        let delete = |key| Request::Write(Command::Delete { key });
        let all: Vec<Request<'_>> = requests().into_iter().map(|(_, request)| request).collect();
        let some = [
            put(b"b", b"1"),
            put(b"a", b"2"),
            put(b"c", b"3"),
            put(b"b", b"4"),
            delete(b"a"),
            put(b"d", b"5"),
            put(b"a", b""),
            delete(b"x"),
        ];
        let seeds = vec![("all", log(&all)), ("some", log(&some))];
        Replay { target: "node_machine", run: machine, heap: (8 << 10, 80), seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_snapshot() {
        let file = |size: u8, pairs: &[(&[u8], &[u8])]| {
            let (mut kv, mut out) = (Kv::new(), BytesMut::from(&[size][..]));
            for (key, value) in pairs {
                kv.put(key, value);
            }
            kv.snapshot_begin();
            while kv.snapshot_chunk(10, &mut out) {}
            out.to_vec()
        };
        let seeds = vec![
            ("empty", file(1, &[])),
            ("two", file(7, &[(b"a", b"1"), (b"b", b""), (b"a", b"2")])),
            ("one", file(255, &[(b"key", b"value")])),
        ];
        // A value is read into memory that was set aside for all of it.
        let heap = (crate::protocol::VALUE_SIZE_MAX + (16 << 10), 40);
        Replay { target: "node_snapshot", run: snapshot, heap, seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_configuration() {
        let all: String = config::of_text("")
            .expect("defaults are sound")
            .settings
            .iter()
            // As many shards as there are cores is not the same everywhere.
            .map(|setting| format!("{} = \"{}\"\n", setting.name, setting.value))
            .collect();
        let seeds = vec![
            ("all", all.into_bytes()),
            ("peers", b"node-id = 2\n[peers]\n1 = \"a:1\"\n2 = \"b:1\"\n".to_vec()),
            (
                "units",
                b"tick = \"30ms\" # short\nsegment-size = '4MiB'\nrequest-timeout = \"1min\"\nshards = 4\n".to_vec(),
            ),
            ("unknown", b"node_id = 1\n".to_vec()),
        ];
        Replay { target: "node_configuration", run: configuration, heap: (64 << 10, 200), seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_members() {
        let list = r#"[{"id":1,"peerURLs":["http://10.0.0.1:2380"],"name":"a","clientURLs":["http://10.0.0.1:2379"]},
            {"id":2,"peerURLs":["http://10.0.0.2:2380"],"isLearner":true,"clientURLs":null}]"#;
        let store = r#"{"Root":{"Children":{"0":{"Children":{"members":{"Children":{"a1":{"Children":{
            "attributes":{"Value":"{\"name\":\"a\",\"clientURLs\":[\"http://c\"]}"},
            "raftAttributes":{"Value":"{\"peerURLs\":[\"http://p\"]}","Children":null}}}}},
            "removed_members":{"Children":{"b2":{}}}}}}}}"#;
        let change = r#"{"id":4,"peerURLs":["http://10.0.0.4:2380"],"isLearner":true,"isPromote":false}"#;
        let seeds = vec![
            ("list", list.as_bytes().to_vec()),
            ("store", store.as_bytes().to_vec()),
            ("change", change.as_bytes().to_vec()),
        ];
        Replay { target: "node_members", run: members, heap: (16 << 10, 400), seeds: named(seeds) }.check();
    }
}
