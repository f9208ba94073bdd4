use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Wake, Waker};

use ringraft_raft::Index;

use super::*;
use crate::kv::Kv;
use crate::machine::StateMachine;
use crate::protocol::head::{Welcome, judge_request, response_head};
use crate::protocol::{Answer, Decoder, REQUEST_BODY_MAX, VALUE_SIZE_MAX, begin_frame, finish_frame};

const GROUPS: u64 = 3;

/// What a node of the test does with requests.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Mood {
    Serve,
    /// Names this leader.
    Refuse(Status, u64),
    /// Takes requests and says nothing.
    Silent,
    /// Takes a request and closes.
    Close,
}

/// A node without a cluster: the state of all nodes of a test is one.
struct Node {
    address: String,
    mood: Arc<Mutex<Mood>>,
    requests: Arc<AtomicUsize>,
}

type State = Arc<Mutex<Vec<Kv>>>;

fn state() -> State {
    Arc::new(Mutex::new((0..GROUPS).map(|_| Kv::new()).collect()))
}

fn start(id: u64, state: &State, mood: Mood) -> Node {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (mood, requests) = (Arc::new(Mutex::new(mood)), Arc::new(AtomicUsize::new(0)));
    let node = Node { address, mood: mood.clone(), requests: requests.clone() };
    let state = state.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (state, mood, requests) = (state.clone(), mood.clone(), requests.clone());
            std::thread::spawn(move || serve(id, stream.unwrap(), &state, &mood, &requests));
        }
    });
    node
}

fn serve(id: u64, mut stream: TcpStream, state: &State, mood: &Mutex<Mood>, requests: &AtomicUsize) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while ringraft_io::head::head_len(&head).is_none() {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    judge_request(&head).unwrap();
    stream.write_all(&response_head(&Welcome { node: id, shards: 1, groups: GROUPS })).ok()?;
    let mut decoder = Decoder::new(REQUEST_BODY_MAX);
    let mut buffer = [0; 4096];
    loop {
        let size = stream.read(&mut buffer).ok().filter(|size| *size > 0)?;
        let mut piece = &buffer[..size];
        let mut out = BytesMut::new();
        while let Some(frame) = decoder.next(&mut piece).unwrap() {
            requests.fetch_add(1, Ordering::SeqCst);
            let start = begin_frame(&mut out);
            let mood = *mood.lock().unwrap();
            let request = Request::decode(frame.free()).unwrap();
            let group = request.group(GROUPS).map(|group| usize::try_from(group).unwrap());
            match (mood, request) {
                (Mood::Serve, Request::Write(_)) => {
                    state.lock().unwrap()[group.unwrap()].apply(Index(1), frame.free(), &mut out);
                }
                (Mood::Serve, Request::Read(_)) => state.lock().unwrap()[group.unwrap()].query(frame.free(), &mut out),
                (Mood::Serve, Request::Status) => {
                    Answer::encode_status(&NodeStatus { node_id: id, ..NodeStatus::default() }, &mut out);
                }
                (Mood::Refuse(status, arg), _) => {
                    Answer::refusal(frame.op_byte(), status, arg, "not me").encode(&mut out);
                }
                (Mood::Silent, _) => {
                    out.truncate(start);
                    continue;
                }
                (Mood::Close, _) => return None,
            }
            finish_frame(&mut out, start, frame.id());
        }
        stream.write_all(&out).ok()?;
    }
}

fn options() -> ClientOptions {
    ClientOptions { request_timeout: Duration::from_secs(5), requests_max: 1000, ..ClientOptions::default() }
}

fn short() -> ClientOptions {
    ClientOptions { request_timeout: Duration::from_millis(150), ..options() }
}

/// The smallest executor there is.
fn block_on<F: std::future::Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread, AtomicBool);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.1.store(true, Ordering::SeqCst);
            self.0.unpark();
        }
    }
    let unpark = Arc::new(Unpark(std::thread::current(), AtomicBool::new(false)));
    let waker = Waker::from(unpark.clone());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        while !unpark.1.swap(false, Ordering::SeqCst) {
            std::thread::park();
        }
    }
}

#[test]
fn everything_once() {
    let node = start(1, &state(), Mood::Serve);
    let client = Client::connect(&[&node.address], options()).unwrap();
    assert_eq!(client.groups(), GROUPS);
    assert_eq!(client.put(b"k", b"v1").wait(), Ok(2));
    assert_eq!(block_on(client.put(b"k", b"v2")), Ok(3));
    assert_eq!(client.get(b"k").wait(), Ok(Some(Value { value: Bytes::from_static(b"v2"), mod_revision: 3 })));
    assert_eq!(block_on(client.get(b"none")), Ok(None));
    assert!(client.serializable().get(b"k").wait().unwrap().is_some());
    assert_eq!(client.delete(b"k").wait(), Ok(Deleted { deleted: true, revision: 4 }));
    assert_eq!(client.delete(b"k").wait(), Ok(Deleted { deleted: false, revision: 4 }));
    assert_eq!(client.status().wait().unwrap().node_id, 1);
    assert!(matches!(client.put(b"", b"").wait(), Err(ClientError::Request(_))));
    let large = vec![1; VALUE_SIZE_MAX];
    client.put(b"large", &large).wait().unwrap();
    assert_eq!(client.get(b"large").wait().unwrap().unwrap().value, large);
    assert!(matches!(client.put(b"k", &[large, vec![1]].concat()).wait(), Err(ClientError::Request(_))));
}

#[test]
fn requests_are_pipelined_and_ranges_merge() {
    let node = start(1, &state(), Mood::Serve);
    let client = Client::connect(&[&node.address], options()).unwrap();
    let keys: Vec<String> = (0..300).map(|number| format!("{number:03}")).collect();
    let puts: Vec<_> = keys.iter().map(|key| client.put(key.as_bytes(), b"v")).collect();
    for put in puts {
        put.wait().unwrap();
    }
    let all = client.range(b"", b"", 0).wait().unwrap();
    assert!(all.pairs.iter().map(|pair| &pair.key[..]).eq(keys.iter().map(|key| key.as_bytes())) && !all.more);
    let some = client.range(b"010", b"250", 20).wait().unwrap();
    assert!(some.pairs.iter().map(|pair| &pair.key[..]).eq(keys[10..30].iter().map(|key| key.as_bytes())));
    assert!(some.more);
}

#[test]
fn goes_where_the_leader_is() {
    let state = state();
    let nodes = [
        start(1, &state, Mood::Refuse(Status::NotLeader, 3)),
        start(2, &state, Mood::Refuse(Status::NotLeader, 3)),
        start(3, &state, Mood::Serve),
    ];
    let endpoints: Vec<&str> = nodes.iter().map(|node| &node.address[..]).collect();
    let client = Client::connect(&endpoints, options()).unwrap();
    assert_eq!(client.put(b"k", b"v").wait(), Ok(2));
    let asked = nodes[0].requests.load(Ordering::SeqCst);
    assert_eq!(client.put(b"k", b"v").wait(), Ok(3));
    assert_eq!(nodes[0].requests.load(Ordering::SeqCst), asked, "the way is remembered");

    *nodes[2].mood.lock().unwrap() = Mood::Refuse(Status::NoLeader, 0);
    let waiting = client.put(b"k", b"v");
    std::thread::sleep(Duration::from_millis(60));
    *nodes[1].mood.lock().unwrap() = Mood::Serve;
    assert_eq!(waiting.wait(), Ok(4));
}

#[test]
fn dead_endpoints_are_passed_by() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let node = start(2, &state(), Mood::Serve);
    let client = Client::connect(&[&dead, &node.address], options()).unwrap();
    assert_eq!(client.put(b"k", b"v").wait(), Ok(2));
    let error = Client::connect(&[&dead], options()).unwrap_err();
    assert!(matches!(&error, ClientError::Unreachable(text) if text.contains(&dead)), "{error}");
    assert!(matches!(Client::connect::<&str>(&[], options()), Err(ClientError::Unreachable(_))));
}

#[test]
fn a_write_without_answer_is_uncertain_and_not_repeated() {
    let state = state();
    let (first, second) = (start(1, &state, Mood::Close), start(2, &state, Mood::Serve));
    let client = Client::connect(&[&first.address, &second.address], options()).unwrap();
    assert_eq!(client.put(b"k", b"v").wait(), Err(ClientError::Uncertain));
    assert_eq!(second.requests.load(Ordering::SeqCst), 0);
    assert_eq!(client.get(b"k").wait(), Ok(None), "a read goes to the next");

    let silent = start(1, &state, Mood::Silent);
    let client = Client::connect(&[&silent.address, &second.address], short()).unwrap();
    assert_eq!(block_on(client.put(b"k", b"v")), Err(ClientError::Uncertain));
    assert_eq!(client.get(b"k").wait(), Err(ClientError::Timeout));

    let refusing = start(1, &state, Mood::Refuse(Status::Uncertain, 0));
    let client = Client::connect(&[&refusing.address], options()).unwrap();
    assert_eq!(client.put(b"k", b"v").wait(), Err(ClientError::Uncertain));
    assert_eq!(client.get(b"k").wait(), Err(ClientError::Timeout));
}

#[test]
fn connects_again() {
    let node = start(1, &state(), Mood::Close);
    let client = Client::connect(&[&node.address], options()).unwrap();
    for _ in 0..5 {
        *node.mood.lock().unwrap() = Mood::Close;
        assert_eq!(client.put(b"k", b"v").wait(), Err(ClientError::Uncertain));
        *node.mood.lock().unwrap() = Mood::Serve;
        client.put(b"k", b"v").wait().unwrap();
    }
}

#[test]
fn many_threads_share_a_client() {
    let node = start(1, &state(), Mood::Serve);
    let client = Client::connect(&[&node.address], options()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let client = client.clone();
            scope.spawn(move || {
                for number in 0..50_u8 {
                    client.put(&[thread, number], &[number]).wait().unwrap();
                }
            });
        }
    });
    assert_eq!(client.range(b"", b"", 0).wait().unwrap().pairs.len(), 200);
    assert_eq!(client.shared.load.requests.load(Ordering::SeqCst), 0);
    assert_eq!(client.shared.load.bytes.load(Ordering::SeqCst), 0);
}

#[test]
fn what_nobody_serves_ends_in_time_with_a_reason() {
    let node = start(1, &state(), Mood::Refuse(Status::NoLeader, 0));
    let client = Client::connect(&[&node.address], short()).unwrap();
    let error = client.put(b"k", b"v").wait().unwrap_err();
    assert!(matches!(&error, ClientError::Unreachable(text) if text.contains("no leader: not me")), "{error}");
    *node.mood.lock().unwrap() = Mood::Refuse(Status::Overloaded, 0);
    let error = client.put(b"k", b"v").wait().unwrap_err();
    assert_eq!(error, ClientError::Refused { status: Status::Overloaded, text: "not me".into() });
}

#[test]
fn requests_under_way_are_bounded_and_end_with_the_client() {
    let node = start(1, &state(), Mood::Silent);
    let client = Client::connect(&[&node.address], ClientOptions { requests_max: 3, ..options() }).unwrap();
    let (put, get) = (client.put(b"k", b"v"), client.get(b"k"));
    assert_eq!(client.range(b"", b"", 0).wait(), Err(ClientError::Full(2)));
    let last = client.get(b"k");
    assert_eq!(client.get(b"k").wait(), Err(ClientError::Full(3)));
    let few_bytes = ClientOptions { request_bytes_max: 100, ..options() };
    let small = Client::connect(&[&node.address], few_bytes).unwrap();
    assert_eq!(small.put(b"k", &[0; 100]).wait(), Err(ClientError::Full(0)));
    drop(client);
    assert_eq!(put.wait(), Err(ClientError::Uncertain));
    assert!(get.wait().is_err() && last.wait().is_err());
}
