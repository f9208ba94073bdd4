//! Two of us talk as members of etcd do, and others talk to us as they like.

use std::collections::{HashSet, VecDeque};
use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, channel};

use bytes::BytesMut;
use prost::Message as _;
use ringraft_transport::ClusterId;
use ringraft_transport::etcd::raftpb::{Entry, Message, MessageType, Snapshot, SnapshotMetadata};
use ringraft_transport::etcd::{chunks, messages, snapshots};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// One end, and what its inbox got.
struct End {
    net: Net,
    id: PeerId,
    bell: Receiver<()>,
    /// Taken out of the inbox and not looked at yet.
    events: VecDeque<Event>,
}

impl End {
    fn start(id: u64, snapshot_dir: Option<PathBuf>) -> End {
        let version = ringraft_transport::etcd::http::Version { major: 3, minor: 4, patch: 23 };
        let host = Host { cluster: ClusterId(0xc1), id: PeerId(id), version, peer_urls: "http://h:1".into() };
        let config = NetConfig { host, limits: Limits { message_bytes_max: 1 << 20, entries_max: 100 }, snapshot_dir };
        let (ring, bell) = channel();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let net = Net::start(config, listener, Box::new(move || _ = ring.send(()))).unwrap();
        net.say(Sayings { members: "[]".into(), cluster_version: "3.4.0".into() });
        End { net, id: PeerId(id), bell, events: VecDeque::new() }
    }

    /// Knows `other` from now on.
    fn meet(&self, other: &End) {
        self.net.set_peers(&BTreeMap::from([(other.id, vec![other.net.address().to_string()])]));
    }

    /// The next event, if there is one in time.
    fn next(&mut self, wait: Duration) -> Option<Event> {
        let deadline = Instant::now() + wait;
        while self.events.is_empty() {
            let mut events = Vec::new();
            self.net.inbox().take(&mut events);
            self.events.extend(events);
            let left = deadline.saturating_duration_since(Instant::now());
            if self.events.is_empty() && self.bell.recv_timeout(left).is_err() {
                break;
            }
        }
        self.events.pop_front()
    }

    /// The next event that is `wanted`; those before it are dropped.
    #[track_caller]
    fn wait<T>(&mut self, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let event = self.next(deadline.saturating_duration_since(Instant::now())).expect("it comes in time");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    }

    #[track_caller]
    fn wait_message(&mut self) -> Message {
        self.wait(|event| match event {
            Event::Message(message) => Some((**message).clone()),
            _ => None,
        })
    }

    /// Waits until both streams are read.
    #[track_caller]
    fn wait_streams(&mut self) {
        let mut kinds = HashSet::new();
        self.wait(|event| {
            if let Event::Stream { kind, ended: None, .. } = event {
                kinds.insert(*kind);
            }
            (kinds.len() == 2).then_some(())
        });
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.net.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

fn message(kind: MessageType, from: u64, to: u64) -> Message {
    Message { r#type: kind.into(), from, to, term: 3, ..Message::default() }
}

fn append(index: u64, count: u64) -> Message {
    let entry = |index| Entry { term: 3, index, data: Some(vec![7; 100].into()), ..Entry::default() };
    let entries = (index + 1..=index + count).map(entry).collect();
    Message { index, log_term: 3, commit: index, entries, ..message(MessageType::App, 1, 2) }
}

#[test]
fn two_members_talk_by_streams() {
    let (mut a, mut b) = (End::start(1, None), End::start(2, None));
    a.meet(&b);
    b.meet(&a);
    b.wait_streams();
    // Each kind of message has its stream, and there they keep their order.
    let appends: Vec<Message> = (0..50).map(|number| append(10 + 2 * number, 2)).collect();
    let beats: Vec<Message> =
        (0..50).map(|commit| Message { commit, ..message(MessageType::Heartbeat, 1, 2) }).collect();
    for (append, beat) in appends.iter().zip(&beats) {
        assert!(a.net.send(append.clone()) && a.net.send(beat.clone()));
    }
    let got: Vec<Message> = (0..100).map(|_| b.wait_message()).collect();
    let of = |kind: MessageType| -> Vec<Message> {
        got.iter().filter(|message| message.r#type == i32::from(kind)).cloned().collect()
    };
    assert_eq!(of(MessageType::App), appends);
    assert_eq!(of(MessageType::Heartbeat), beats);
    a.wait_streams();
    assert!(b.net.send(message(MessageType::AppResp, 2, 1)));
    assert_eq!(a.wait_message(), message(MessageType::AppResp, 2, 1));

    // One of them goes and comes again, elsewhere.
    drop(b);
    a.wait(|event| matches!(event, Event::Stream { ended: Some(_), .. }).then_some(()));
    let mut b = End::start(2, None);
    b.meet(&a);
    a.meet(&b);
    b.wait_streams();
    let beat = message(MessageType::Heartbeat, 1, 2);
    let deadline = Instant::now() + PATIENCE;
    // Until it has noticed, what is sent goes to where the other one was.
    let got = loop {
        assert!(Instant::now() < deadline, "what is sent never arrives");
        let _ = a.net.send(beat.clone());
        if let Some(Event::Message(got)) = b.next(Duration::from_millis(100)) {
            break *got;
        }
    };
    assert_eq!(got, beat);
    assert!(!a.net.send(message(MessageType::Heartbeat, 1, 9)), "nobody has this id");
}

#[test]
fn without_a_stream_messages_are_posted() {
    let (mut a, mut b) = (End::start(1, None), End::start(2, None));
    // The other one does not know us: it neither dials us nor lets us read.
    a.meet(&b);
    for number in 0..10 {
        let sent = Message { index: number, ..message(MessageType::AppResp, 1, 2) };
        assert!(a.net.send(sent.clone()));
        assert_eq!(b.wait_message(), sent);
    }
    let refused = a.wait(|event| match event {
        Event::Stream { ended: Some(why), .. } => Some(why.clone()),
        _ => None,
    });
    assert_eq!(refused, "refused with status 404: error sender not found");
}

#[test]
fn what_does_not_get_out_is_told() {
    let mut a = End::start(1, None);
    // A listener that nobody accepts at: what is posted there is never answered.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    a.net.set_peers(&BTreeMap::from([(PeerId(2), vec![nobody.local_addr().unwrap().to_string()])]));
    let sent = (0..1000).take_while(|_| a.net.send(message(MessageType::AppResp, 1, 2))).count();
    assert!((64..1000).contains(&sent), "the queue is bounded, sending never waits: {sent}");
    drop(nobody);
    a.wait(|event| matches!(event, Event::Unreachable(PeerId(2))).then_some(()));
}

/// An answer's head and body.
fn answer(stream: &mut TcpStream) -> (Answer, String) {
    let mut wire = Wire::new(stream.try_clone().unwrap(), PATIENCE).unwrap();
    let head = wire.head().unwrap().expect("an answer");
    let answer = Answer::parse(&head).unwrap();
    let body = wire.body(answer.body, ANSWER_MAX).unwrap();
    (answer, String::from_utf8(body.to_vec()).unwrap())
}

#[test]
fn questions_are_answered_on_one_connection() {
    let end = End::start(2, None);
    let mut stream = end.connect();
    for (path, status, want) in [
        ("/version", 200, r#"{"etcdserver":"3.4.23","etcdcluster":"3.4.0"}"#),
        ("/members", 200, "[]"),
        ("/downgrade/enabled", 200, "false"),
        ("/raft/probing", 200, r#"{"OK":true,"Now":"2"#),
        ("/nothing", 404, "404 page not found\n"),
        ("/raft", 405, "Method Not Allowed\n"),
        ("/raft/stream/message/1", 412, "incompatible version\n"),
        ("/version", 200, "{"),
    ] {
        stream.write_all(&plain_request(path, "h")).unwrap();
        let (answer, body) = answer(&mut stream);
        assert_eq!((answer.status, answer.cluster), (status, Some(ClusterId(0xc1))), "{path}");
        assert!(body.starts_with(want), "{path}: {body}");
    }
    assert_eq!(get(&end.net.address().to_string(), "/members").unwrap().1, "[]");
    assert!(get(&end.net.address().to_string(), "/nothing").unwrap_err().to_string().contains("404"));
}

#[test]
fn nonsense_costs_its_own_connection_only() {
    let mut end = End::start(2, None);
    let host = End::start(1, None).net.shared.config.host.clone();
    let raft = |body: &[u8]| [&host.pipeline_request(body.len(), "h")[..], body].concat();
    for bytes in [
        &b"nonsense\r\n\r\n"[..],
        b"GET /version HTTP/2.0\r\n\r\n",
        &[b'x'; 10_000],
        &host.pipeline_request(2 << 20, "h"),
        &[&host.snapshot_request("h")[..], b"zz\r\n"].concat(),
    ] {
        let mut stream = end.connect();
        let _ = stream.write_all(bytes);
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 4") || said.starts_with(b"HTTP/1.1 5"), "{said:?}");
    }
    let mut stream = end.connect();
    stream.write_all(&raft(b"no protobuf")).unwrap();
    assert_eq!(answer(&mut stream).0.status, 400);
    let good = message(MessageType::Heartbeat, 1, 2);
    let mut stream = end.connect();
    stream.write_all(&raft(&good.encode_to_vec())).unwrap();
    assert_eq!(answer(&mut stream).0.status, 204);
    assert_eq!(end.wait_message(), good);
}

#[test]
fn snapshots_are_stored_before_they_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mut end = End::start(2, Some(dir.path().to_owned()));
    let host = End::start(1, None).net.shared.config.host.clone();
    let metadata = SnapshotMetadata { index: 9, term: 3, ..SnapshotMetadata::default() };
    let snap = Message { snapshot: Snapshot { data: None, metadata }, ..message(MessageType::Snap, 1, 2) };
    let database = vec![0xdb; 200_000];
    let body = |message: &Message| {
        let mut body = BytesMut::new();
        messages::put(message, &mut body);
        body.extend_from_slice(&database);
        // However the pieces fall.
        let chunks: Vec<u8> = body.chunks(777).flat_map(chunks::chunk).collect();
        [&host.snapshot_request("h")[..], &chunks, chunks::END].concat()
    };
    let mut check = BytesMut::new();
    snapshots::put(&snap, &mut check);

    for verdict in [Ok(()), Err("no room".to_owned())] {
        let mut stream = end.connect();
        stream.write_all(&body(&snap)).unwrap();
        let taken = end.wait(|event| match event {
            Event::Snapshot(arrived) => {
                assert_eq!(*arrived.message, snap);
                assert_eq!(std::fs::read(&arrived.database).unwrap(), database);
                assert_eq!(std::fs::read(&arrived.words).unwrap(), messages::body(&snap));
                if verdict.is_ok() {
                    std::fs::rename(&arrived.database, dir.path().join("kept")).unwrap();
                }
                Some(arrived.taken.clone())
            }
            _ => None,
        });
        taken.send(verdict.clone()).unwrap();
        let (answer, body) = answer(&mut stream);
        match verdict {
            Ok(()) => assert_eq!(answer.status, 204),
            Err(why) => assert_eq!((answer.status, body), (500, format!("failed to save KV snapshot ({why})\n"))),
        }
    }
    // Another message, and half a snapshot.
    let mut stream = end.connect();
    stream.write_all(&body(&message(MessageType::App, 1, 2))).unwrap();
    assert_eq!(answer(&mut stream), (answer_of(400), "wrong raft message type\n".to_owned()));
    let whole = body(&snap);
    let mut stream = end.connect();
    stream.write_all(&whole[..whole.len() / 2]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(answer(&mut stream).0.status, 500);
    drop(end);
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["kept"], "what was not taken is gone");
}

fn answer_of(status: u16) -> Answer {
    let version = ringraft_transport::etcd::http::Version::parse("3.4.23");
    let body = ringraft_transport::etcd::http::Body::Length(24);
    Answer { status, body, cluster: Some(ClusterId(0xc1)), version }
}
