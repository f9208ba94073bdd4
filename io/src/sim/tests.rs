//! Whole-world tests: two processes talk over every fault, and what the contract promises holds.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::{
    Acceptor, AlignedBuf, BLOCK_ALIGN, CloseReason, Completion, Dial, DialError, FileId, Io, Job, JobOutput,
    ListenerKind, LockError, SendFile, ShardNo, StreamId, Time, Token, Verdict,
};

const REQUEST: &[u8] = b"GET /stream HTTP/1.1\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
const NO: &[u8] = b"HTTP/1.1 412 No\r\n\r\n";
const DONE: &[u8] = b"HTTP/1.1 204 Done\r\n\r\n";
const S0: ShardNo = ShardNo(0);

/// Streams go to shard 0, `PUT /file/<size>` becomes `/d/received`, everything else is refused.
struct Door;

impl Acceptor for Door {
    fn judge(&self, listener: ListenerKind, request: &[u8]) -> Verdict {
        assert_eq!(listener, ListenerKind::Peer);
        let (shard, response) = (S0, Bytes::from_static(OK));
        let greeting = Bytes::copy_from_slice(request);
        let text = std::str::from_utf8(request).unwrap();
        if let Some(rest) = text.strip_prefix("PUT /file/") {
            let size = rest.split(' ').next().unwrap().parse().unwrap();
            let path = PathBuf::from("/d/received");
            return Verdict::File { shard, response, done: Bytes::from_static(DONE), greeting, path, size };
        }
        if request == REQUEST {
            return Verdict::Stream { shard, response, greeting };
        }
        Verdict::Refuse { response: Bytes::from_static(NO) }
    }
}

fn server(world: &World, name: &str) -> ProcessId {
    world.add_process(name, 1, vec![(ListenerKind::Peer, format!("{name}:1"))], Arc::new(Door))
}

fn dial(address: &str, token: u64) -> Dial {
    let request = Bytes::from_static(REQUEST);
    Dial { token: Token(token), address: address.to_owned(), request, timeout: Duration::from_millis(200) }
}

/// Runs the world for a while; whatever `io` is handed goes to `out`. Shards of other processes are left alone.
fn run_for(world: &World, io: &mut SimIo, for_ms: u64, out: &mut Vec<Completion>) {
    let stop = world.random();
    world.schedule(world.now() + Duration::from_millis(for_ms), stop);
    while let Some(step) = world.next() {
        match step {
            Step::Shard { process, shard } if (process, shard) == (io.process(), io.shard()) => {
                io.turn(None, out).unwrap();
            }
            Step::Driver(token) if token == stop => return,
            _ => {}
        }
    }
    panic!("the stop comes");
}

/// Runs the world with several shards, each handing to its own vector.
fn run_all(world: &World, shards: &mut [(&mut SimIo, &mut Vec<Completion>)], for_ms: u64) {
    let stop = world.random();
    world.schedule(world.now() + Duration::from_millis(for_ms), stop);
    while let Some(step) = world.next() {
        match step {
            Step::Shard { process, shard } => {
                for (io, out) in shards.iter_mut().filter(|(io, _)| (io.process(), io.shard()) == (process, shard)) {
                    io.turn(None, out).unwrap();
                }
            }
            Step::Driver(token) if token == stop => return,
            Step::Driver(_) => {}
        }
    }
    panic!("the stop comes");
}

/// Two shards of two processes with an open stream between them, both receiving.
struct Pair {
    world: World,
    a: SimIo,
    b: SimIo,
    a_out: Vec<Completion>,
    b_out: Vec<Completion>,
    a_stream: StreamId,
    b_stream: StreamId,
}

impl Pair {
    fn new(seed: u64, config: WorldConfig) -> Pair {
        let world = World::new(seed, config);
        let (pa, pb) = (server(&world, "a"), server(&world, "b"));
        let (mut a, mut b) = (world.io(pa, S0), world.io(pb, S0));
        let (mut a_out, mut b_out) = (Vec::new(), Vec::new());
        a.dial(dial("b:1", 7));
        run_all(&world, &mut [(&mut a, &mut a_out), (&mut b, &mut b_out)], 20);
        let [Completion::Dialed { token: Token(7), result: Ok(dialed) }] = &a_out[..] else { panic!("{a_out:?}") };
        let [Completion::Accepted { stream: b_stream, greeting }] = &b_out[..] else { panic!("{b_out:?}") };
        assert_eq!((&dialed.response[..], &greeting[..]), (OK, REQUEST));
        let (a_stream, b_stream) = (dialed.stream, *b_stream);
        a.receive(a_stream);
        b.receive(b_stream);
        a_out.clear();
        b_out.clear();
        Pair { world, a, b, a_out, b_out, a_stream, b_stream }
    }

    fn run(&mut self, for_ms: u64) {
        let shards = &mut [(&mut self.a, &mut self.a_out), (&mut self.b, &mut self.b_out)];
        run_all(&self.world, shards, for_ms);
    }
}

/// All bytes received on a stream, in order, and why it closed.
fn heard(out: &[Completion], about: StreamId) -> (Vec<u8>, Option<CloseReason>) {
    let (mut bytes, mut end) = (Vec::new(), None);
    for completion in out {
        match completion {
            Completion::Received { stream, data } if *stream == about => {
                assert!(end.is_none() && !data.is_empty());
                bytes.extend_from_slice(data);
            }
            Completion::Closed { stream, reason } if *stream == about => {
                assert!(end.is_none(), "closed twice");
                end = Some(reason.clone());
            }
            _ => {}
        }
    }
    (bytes, end)
}

fn sent(out: &[Completion], about: StreamId) -> usize {
    out.iter().filter(|done| matches!(done, Completion::Sent { stream, .. } if *stream == about)).count()
}

// ---- streams ----

#[test]
fn refused_and_unanswered_dials() {
    let world = World::new(1, WorldConfig::default());
    let (a, b) = (server(&world, "a"), server(&world, "b"));
    let mut io = world.io(a, S0);
    let mut out = Vec::new();
    let mut check = |dial: Dial, want: DialError| {
        io.dial(dial);
        run_for(&world, &mut io, 300, &mut out);
        let [Completion::Dialed { result: Err(error), .. }] = &out[..] else { panic!("{out:?}") };
        assert_eq!(*error, want);
        out.clear();
    };
    let stranger = Dial { request: Bytes::from_static(b"GET /x HTTP/1.1\r\n\r\n"), ..dial("b:1", 1) };
    check(stranger, DialError::Refused(Bytes::from_static(NO)));
    let file = Dial { request: Bytes::from_static(b"PUT /file/3 HTTP/1.1\r\n\r\n"), ..dial("b:1", 1) };
    check(file, DialError::Garbage);
    check(dial("c:1", 1), DialError::Io(std::io::ErrorKind::ConnectionRefused));
    world.partition(a, b, true);
    check(dial("b:1", 1), DialError::Io(std::io::ErrorKind::TimedOut));
    world.partition(a, b, false);
    world.partition(b, a, true);
    check(dial("b:1", 1), DialError::Io(std::io::ErrorKind::TimedOut));
    world.heal_all();
    world.pause(b, world.now() + Duration::from_secs(1));
    check(dial("b:1", 1), DialError::Io(std::io::ErrorKind::TimedOut));
    world.crash(b);
    check(dial("b:1", 1), DialError::Io(std::io::ErrorKind::ConnectionRefused));
}

#[test]
fn a_partition_holds_everything_and_heals() {
    let mut p = Pair::new(2, WorldConfig::default());
    p.world.partition(p.a.process(), p.b.process(), true);
    p.a.send(p.a_stream, vec![Bytes::from_static(b"hello "), Bytes::from_static(b"world")]);
    p.b.send(p.b_stream, vec![Bytes::from_static(b"the other way")]);
    p.run(1000);
    assert_eq!((sent(&p.a_out, p.a_stream), sent(&p.b_out, p.b_stream)), (1, 1));
    assert_eq!(heard(&p.a_out, p.a_stream), (b"the other way".to_vec(), None));
    assert_eq!(heard(&p.b_out, p.b_stream), (Vec::new(), None));
    p.world.partition(p.a.process(), p.b.process(), false);
    p.run(200);
    assert_eq!(heard(&p.b_out, p.b_stream), (b"hello world".to_vec(), None));
}

#[test]
fn a_long_partition_breaks_some_streams() {
    let (mut broken, mut whole) = (0, 0);
    for seed in 0..40 {
        let mut p = Pair::new(seed, WorldConfig::default());
        p.world.partition_both(p.a.process(), p.b.process(), true);
        p.run(6000);
        p.world.heal_all();
        p.run(200);
        match (heard(&p.a_out, p.a_stream).1, heard(&p.b_out, p.b_stream).1) {
            (None, None) => whole += 1,
            (Some(_), Some(_)) => broken += 1,
            other => panic!("half closed: {other:?}"),
        }
    }
    assert!(broken > 5 && whole > 5, "{broken} broken, {whole} whole");
}

#[test]
fn closing_and_crashing_end_streams() {
    let mut p = Pair::new(3, WorldConfig::default());
    p.a.send(p.a_stream, vec![Bytes::from_static(b"last words")]);
    p.run(10);
    p.a.close(p.a_stream);
    p.run(10);
    assert_eq!(heard(&p.b_out, p.b_stream), (b"last words".to_vec(), Some(CloseReason::Eof)));
    assert_eq!(heard(&p.a_out, p.a_stream), (Vec::new(), None));
    // What has ended may be asked for things by a shard that has not looked yet.
    p.b.send(p.b_stream, vec![Bytes::from_static(b"too late")]);
    p.b.close(p.b_stream);

    let mut p = Pair::new(4, WorldConfig::default());
    p.world.crash(p.b.process());
    let mut out = Vec::new();
    run_for(&p.world, &mut p.a, 20, &mut out);
    assert!(heard(&out, p.a_stream).1.is_some());
    assert!(p.b.turn(None, &mut out).is_err());
    assert!(p.b.list(Path::new("/d")).is_err());
    p.b.send(p.b_stream, vec![Bytes::from_static(b"from the grave")]);
}

#[test]
fn a_receiver_that_stops_holds_its_sender_back() {
    let config = WorldConfig { socket_buffer_size: 10_000, receive_window_size: 4_000, ..WorldConfig::default() };
    let mut p = Pair::new(5, config);
    p.b.pause(p.b_stream);
    let piece = Bytes::from(vec![1; 3_000]);
    for round in 1..=4 {
        p.a.send(p.a_stream, vec![piece.clone()]);
        p.run(50);
        assert_eq!(sent(&p.a_out, p.a_stream), round.min(3));
    }
    assert!(!piece.is_unique(), "a send in flight keeps its buffers");
    assert_eq!(heard(&p.b_out, p.b_stream).0.len(), 0);
    assert_eq!(p.world.counters().sends_held_back, 1);
    p.b.receive(p.b_stream);
    p.run(50);
    assert_eq!(sent(&p.a_out, p.a_stream), 4);
    assert!(piece.is_unique());
    assert_eq!(heard(&p.b_out, p.b_stream).0.len(), 12_000);
}

#[test]
#[should_panic(expected = "a send is in flight already")]
fn a_second_send_is_a_bug() {
    let mut p = Pair::new(6, WorldConfig::default());
    p.a.send(p.a_stream, vec![Bytes::from_static(b"1")]);
    p.a.send(p.a_stream, vec![Bytes::from_static(b"2")]);
}

#[test]
fn corruption_is_only_where_it_is_asked_for() {
    for (corrupt_chance, clean) in [(0.0, true), (1.0, false)] {
        let mut p = Pair::new(8, WorldConfig { corrupt_chance, ..WorldConfig::default() });
        let bytes = vec![5; 100_000];
        p.a.send(p.a_stream, vec![Bytes::from(bytes.clone())]);
        p.run(100);
        let (got, _) = heard(&p.b_out, p.b_stream);
        assert_eq!(got.len(), bytes.len());
        assert_eq!(got == bytes, clean);
    }
}

#[test]
fn a_paused_process_takes_no_turns() {
    let mut p = Pair::new(9, WorldConfig::default());
    p.a.send(p.a_stream, vec![Bytes::from_static(b"wait for it")]);
    p.world.pause(p.b.process(), p.world.now() + Duration::from_millis(50));
    p.run(40);
    assert!(p.b_out.is_empty());
    p.run(20);
    assert_eq!(heard(&p.b_out, p.b_stream).0, b"wait for it");
    p.a.send(p.a_stream, vec![Bytes::from_static(b", again")]);
    p.world.pause(p.b.process(), p.world.now() + Duration::from_secs(50));
    p.run(40);
    p.world.pause(p.b.process(), p.world.now());
    p.run(1);
    assert_eq!(heard(&p.b_out, p.b_stream).0, b"wait for it, again");
}

// ---- disks ----

#[test]
fn a_write_while_opening_is_done_at_once() {
    let world = World::new(3, WorldConfig::default());
    let a = server(&world, "a");
    let mut io = world.io(a, S0);
    let path = Path::new("/d/wal");
    let file = io.create_zeroed(path, BLOCK_ALIGN as u64).unwrap();
    io.write(file, 0, block(9), Token(1));
    let mut out = Vec::new();
    io.turn(None, &mut out).unwrap();
    assert!(matches!(out[..], [Completion::Written { token: Token(1), result: Ok(()), .. }]));
    world.crash(a);
    assert_eq!(world.file(a, path).unwrap()[..], [9; BLOCK_ALIGN]);
}

/// The shard's loop begins: what it wrote before that was part of opening its directory, and took no time.
fn begin(world: &World, io: &mut SimIo) {
    assert!(matches!(world.next(), Some(Step::Shard { .. })));
    io.turn(None, &mut Vec::new()).unwrap();
}

fn block(fill: u8) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(BLOCK_ALIGN);
    buf.fill(fill);
    buf
}

#[test]
fn what_is_said_to_be_written_survives_every_crash() {
    let wal = Path::new("/d/wal");
    let (mut ended, mut out_of_order) = (0, 0);
    for seed in 0..200 {
        let world = World::new(seed, WorldConfig::default());
        let a = server(&world, "a");
        let mut io = world.io(a, S0);
        let file = io.create_zeroed(wal, 64 * BLOCK_ALIGN as u64).unwrap();
        begin(&world, &mut io);
        for n in 0..64u8 {
            io.write(file, u64::from(n) * BLOCK_ALIGN as u64, block(n + 1), Token(u64::from(n)));
        }
        let crash_at = world.now() + Duration::from_nanos(world.random() % 600_000);
        world.schedule(crash_at, 0);
        let mut out = Vec::new();
        while let Some(Step::Shard { .. }) = world.next() {
            io.turn(None, &mut out).unwrap();
        }
        world.crash(a);
        world.restart(a, Arc::new(Door));
        let mut io = world.io(a, S0);
        let file = io.open(wal).unwrap();
        let mut last = None;
        for completion in &out {
            let Completion::Written { token, result: Ok(()), .. } = completion else { panic!("{completion:?}") };
            let n = u8::try_from(token.0).unwrap();
            let bytes = io.read(file, u64::from(n) * BLOCK_ALIGN as u64, BLOCK_ALIGN).unwrap();
            assert!(bytes.iter().all(|byte| *byte == n + 1));
            out_of_order += usize::from(last > Some(n));
            last = Some(n);
            ended += 1;
        }
    }
    assert!(ended > 1000 && out_of_order > 100, "{ended} ended, {out_of_order} out of order");
}

#[test]
fn jobs_run_in_order_and_commit_is_atomic() {
    let (aside, path) = (PathBuf::from("/d/new"), PathBuf::from("/d/snap"));
    let (mut before, mut after) = (0, 0);
    for seed in 0..200 {
        let world = World::new(seed, WorldConfig::default());
        let a = server(&world, "a");
        let mut io = world.io(a, S0);
        io.write_file(&path, b"old").unwrap();
        let write = |offset, bytes| Job::WriteAside { path: aside.clone(), offset, bytes: Bytes::from_static(bytes) };
        io.job(write(0, b"brand "), Token(0));
        io.job(write(6, b"new"), Token(1));
        io.job(Job::Commit { from: aside.clone(), to: path.clone() }, Token(2));
        io.job(Job::Load { path: path.clone() }, Token(3));
        world.schedule(world.now() + Duration::from_micros(world.random() % 20_000), 0);
        let mut out = Vec::new();
        while let Some(Step::Shard { .. }) = world.next() {
            io.turn(None, &mut out).unwrap();
        }
        for (n, completion) in out.iter().enumerate() {
            let Completion::JobDone { token, result: Ok(output) } = completion else { panic!("{completion:?}") };
            assert_eq!(token.0, n as u64);
            assert!(n != 3 || matches!(output, JobOutput::Loaded(bytes) if &bytes[..] == b"brand new"));
        }
        world.crash(a);
        match &world.file(a, &path).unwrap()[..] {
            b"old" => {
                assert!(out.len() < 3, "seed {seed}: a commit that had ended is lost");
                before += 1;
            }
            b"brand new" => {
                assert!(out.len() >= 2, "seed {seed}: committed before it was asked to");
                after += 1;
            }
            other => panic!("seed {seed}: neither old nor new: {other:?}"),
        }
    }
    assert!(before > 20 && after > 20, "{before} before, {after} after");
}

#[test]
fn disk_faults_by_order() {
    let world = World::new(10, WorldConfig::default());
    let a = server(&world, "a");
    let mut io = world.io(a, S0);
    let mut out = Vec::new();
    io.lock_dir(Path::new("/d")).unwrap();
    assert!(matches!(io.lock_dir(Path::new("/d")), Err(LockError::Held { pid: 1, .. })));
    let file = io.create_zeroed(Path::new("/d/b"), 2 * BLOCK_ALIGN as u64).unwrap();
    io.write_file(Path::new("/d/a"), b"id").unwrap();
    let listed: Vec<_> = io.list(Path::new("/d")).unwrap().into_iter().map(|info| (info.path, info.size)).collect();
    assert_eq!(listed, [(PathBuf::from("/d/a"), 2), (PathBuf::from("/d/b"), 2 * BLOCK_ALIGN as u64)]);
    assert_eq!(io.list(Path::new("/nowhere")).unwrap(), []);
    assert!(io.read(file, BLOCK_ALIGN as u64, 2 * BLOCK_ALIGN).is_err());

    begin(&world, &mut io);
    world.stall_disk(a, world.now() + Duration::from_millis(100));
    io.write(file, 0, block(1), Token(1));
    io.job(Job::Remove { path: PathBuf::from("/d/none") }, Token(2));
    run_for(&world, &mut io, 99, &mut out);
    assert!(out.is_empty());
    run_for(&world, &mut io, 50, &mut out);
    assert_eq!(out.len(), 2);
    assert!(io.map(file).unwrap().starts_with(&[1; BLOCK_ALIGN]));

    out.clear();
    world.set_disk_full(a, true);
    io.job(Job::CreateZeroed { path: PathBuf::from("/d/c"), size: BLOCK_ALIGN as u64 }, Token(3));
    run_for(&world, &mut io, 50, &mut out);
    let [Completion::JobDone { result: Err(error), .. }] = &out[..] else { panic!("{out:?}") };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    world.set_disk_full(a, false);

    out.clear();
    world.fail_next_write(a);
    io.write(file, 0, block(2), Token(4));
    run_for(&world, &mut io, 50, &mut out);
    assert!(matches!(&out[..], [Completion::Written { result: Err(_), .. }]));

    world.crash(a);
    let image = world.disk_image(a);
    world.corrupt(a, Path::new("/d/a"), 0, 1).unwrap();
    assert_ne!(world.file(a, Path::new("/d/a")).unwrap(), &b"id"[..]);
    world.set_disk_image(a, &image);
    assert_eq!(world.file(a, Path::new("/d/a")).unwrap(), &b"id"[..]);
    world.wipe_disk(a);
    world.restart(a, Arc::new(Door));
    let mut io = world.io(a, S0);
    io.lock_dir(Path::new("/d")).unwrap();
    assert_eq!(io.list(Path::new("/d")).unwrap(), []);
}

// ---- files ----

#[test]
fn files_arrive_whole_or_not_at_all() {
    let content: Vec<u8> = (0..1_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
    let received = Path::new("/d/received");
    let check = |seed: u64, claimed: usize, fault: &dyn Fn(&World, ProcessId, ProcessId)| {
        let world = World::new(seed, WorldConfig::default());
        let (a, b) = (server(&world, "a"), server(&world, "b"));
        let (mut io_a, mut io_b) = (world.io(a, S0), world.io(b, S0));
        let (mut a_out, mut b_out) = (Vec::new(), Vec::new());
        world.set_file(a, Path::new("/d/snap"), &content);
        let request = Bytes::from(format!("PUT /file/{claimed} HTTP/1.1\r\n\r\n"));
        let (path, timeout) = (PathBuf::from("/d/snap"), Duration::from_millis(100));
        io_a.send_file(SendFile { token: Token(1), address: "b:1".to_owned(), request, path, timeout });
        run_all(&world, &mut [(&mut io_a, &mut a_out), (&mut io_b, &mut b_out)], 1);
        fault(&world, a, b);
        if world.is_alive(b) {
            run_all(&world, &mut [(&mut io_a, &mut a_out), (&mut io_b, &mut b_out)], 1000);
        } else {
            run_all(&world, &mut [(&mut io_a, &mut a_out)], 1000);
        }
        let [Completion::FileSent { token: Token(1), result }] = &a_out[..] else { panic!("{a_out:?}") };
        let told = matches!(&b_out[..], [Completion::FileReceived { path, .. }] if path == received);
        (result.clone(), told, world.file(b, received).ok())
    };
    let (result, told, file) = check(1, content.len(), &|_, _, _| {});
    assert_eq!((result, told), (Ok(()), true));
    assert_eq!(file.unwrap(), content);
    let short = check(2, content.len() + 1, &|_, _, _| {});
    assert_eq!(short, (Err(DialError::Io(std::io::ErrorKind::TimedOut)), false, None));
    let cut = check(3, content.len(), &|world, a, b| world.partition(a, b, true));
    assert_eq!(cut, (Err(DialError::Io(std::io::ErrorKind::TimedOut)), false, None));
    let (result, told, _) = check(4, content.len(), &|world, _, b| world.crash(b));
    assert_eq!((result, told), (Err(DialError::Io(std::io::ErrorKind::ConnectionReset)), false));
    let full = check(5, content.len(), &|world, _, b| world.set_disk_full(b, true));
    assert_eq!(full, (Err(DialError::Io(std::io::ErrorKind::ConnectionReset)), false, None));
}

// ---- everything at once ----

/// Counts up: every stream carries the numbers 0, 1, 2, .. as 8 bytes each, and checks those of the other side. The
/// last number heard goes to the disk.
struct Counting {
    io: SimIo,
    peer: Option<String>,
    streams: Vec<Count>,
    file: FileId,
    writing: bool,
    heard: u64,
    dialing: bool,
    next_token: u64,
    out: Vec<Completion>,
}

struct Count {
    stream: StreamId,
    sent: u64,
    heard: u64,
    part: Vec<u8>,
    receiving: bool,
}

const WAL: &str = "/d/wal";

impl Counting {
    fn new(mut io: SimIo, peer: Option<String>) -> Counting {
        let file = io.open(Path::new(WAL)).or_else(|_| io.create_zeroed(Path::new(WAL), BLOCK_ALIGN as u64)).unwrap();
        Counting {
            io,
            peer,
            streams: Vec::new(),
            file,
            writing: false,
            heard: 0,
            dialing: false,
            next_token: 0,
            out: Vec::new(),
        }
    }

    fn turn(&mut self, rng: &mut Rng) {
        let mut out = std::mem::take(&mut self.out);
        let deadline = self.io.now() + Duration::from_millis(20);
        self.io.turn(Some(deadline), &mut out).unwrap();
        for completion in out.drain(..) {
            self.handle(completion, rng);
        }
        self.out = out;
        if let Some(peer) = &self.peer
            && self.streams.len() < 3
            && !self.dialing
        {
            self.dialing = true;
            self.io.dial(dial(peer, 1));
        }
        if !self.writing && rng.chance(0.3) {
            self.writing = true;
            let mut buf = AlignedBuf::zeroed(BLOCK_ALIGN);
            buf[..8].copy_from_slice(&self.heard.to_le_bytes());
            self.next_token += 1;
            self.io.write(self.file, 0, buf, Token(self.next_token));
        }
        if !self.streams.is_empty() && rng.chance(0.05) {
            let at = rng.index(self.streams.len());
            let count = &mut self.streams[at];
            count.receiving = !count.receiving;
            if count.receiving { self.io.receive(count.stream) } else { self.io.pause(count.stream) }
        }
        if !self.streams.is_empty() && rng.chance(0.002) {
            let count = self.streams.swap_remove(rng.index(self.streams.len()));
            self.io.close(count.stream);
        }
    }

    fn handle(&mut self, completion: Completion, rng: &mut Rng) {
        match completion {
            Completion::Received { stream, data } => {
                let Some(count) = self.streams.iter_mut().find(|count| count.stream == stream) else { return };
                count.part.extend_from_slice(&data);
                let whole = count.part.len() / 8 * 8;
                for number in count.part.drain(..whole).collect::<Vec<u8>>().chunks(8) {
                    assert_eq!(u64::from_le_bytes(number.try_into().unwrap()), count.heard, "stream {stream:?}");
                    count.heard += 1;
                    self.heard += 1;
                }
            }
            Completion::Sent { stream, .. } => self.send(stream, rng),
            Completion::Closed { stream, .. } => self.streams.retain(|count| count.stream != stream),
            Completion::Accepted { stream, .. } => self.greet(stream, rng),
            Completion::Dialed { result, .. } => {
                self.dialing = false;
                if let Ok(dialed) = result {
                    self.greet(dialed.stream, rng);
                }
            }
            Completion::Written { result, .. } => {
                self.writing = false;
                result.unwrap();
            }
            other => panic!("{other:?}"),
        }
    }

    fn greet(&mut self, stream: StreamId, rng: &mut Rng) {
        self.streams.push(Count { stream, sent: 0, heard: 0, part: Vec::new(), receiving: true });
        self.io.receive(stream);
        self.send(stream, rng);
    }

    fn send(&mut self, stream: StreamId, rng: &mut Rng) {
        let Some(count) = self.streams.iter_mut().find(|count| count.stream == stream) else { return };
        let mut bufs = self.io.send_bufs();
        for _ in 0..rng.between(1, 4) {
            let mut bytes = Vec::new();
            for _ in 0..rng.between(1, 200) {
                bytes.extend_from_slice(&count.sent.to_le_bytes());
                count.sent += 1;
            }
            bufs.push(Bytes::from(bytes));
        }
        self.io.send(stream, bufs);
    }
}

/// One seed of everything: crashes, pauses, partitions, resets, stalls. Gives the hash, the counters, what was heard.
fn ordeal(seed: u64, for_ms: u64) -> (u64, Counters, u64) {
    let mut setup = Rng::new(seed);
    let world = World::new(seed, WorldConfig::rough(&mut setup));
    let ids = [server(&world, "a"), server(&world, "b")];
    let peers = [Some("b:1".to_owned()), None];
    let make = |n: usize| Counting::new(world.io(ids[n], S0), peers[n].clone());
    let mut shards = [Some(make(0)), Some(make(1))];
    let mut rng = world.fork_rng();
    let end = world.now() + Duration::from_millis(for_ms);
    let mut heard = 0;
    world.schedule(world.now(), 0);
    while let Some(step) = world.next() {
        match step {
            Step::Shard { process, .. } => {
                let n = ids.iter().position(|id| *id == process).unwrap();
                shards[n].as_mut().expect("only the living take turns").turn(&mut rng);
            }
            Step::Driver(_) if world.now() >= end => break,
            Step::Driver(_) => {
                let n = rng.index(2);
                let soon = world.now() + Duration::from_millis(rng.between(1, 400));
                match rng.below(10) {
                    0 => match shards[n].take() {
                        Some(shard) => {
                            heard += shard.heard;
                            world.crash(ids[n]);
                        }
                        None => {
                            world.restart(ids[n], Arc::new(Door));
                            shards[n] = Some(make(n));
                        }
                    },
                    1 => world.pause(ids[n], soon),
                    2 => world.stall_disk(ids[n], soon),
                    3 => world.reset(ids[0], ids[1]),
                    4 | 5 => world.partition(ids[n], ids[1 - n], true),
                    6 => world.heal_all(),
                    _ => {
                        for n in 0..2 {
                            if shards[n].is_none() {
                                world.restart(ids[n], Arc::new(Door));
                                shards[n] = Some(make(n));
                            }
                        }
                        world.heal_all();
                    }
                }
                world.schedule(world.now() + Duration::from_millis(rng.between(1, 100)), 0);
            }
        }
    }
    heard += shards.iter().flatten().map(|shard| shard.heard).sum::<u64>();
    (world.trace_hash(), world.counters(), heard)
}

#[test]
fn numbers_arrive_in_order_over_all_faults() {
    let mut events = 0;
    let mut heard_by_seed = Vec::new();
    let started = std::time::Instant::now();
    for seed in 0..60 {
        let (hash, counters, heard) = ordeal(seed, 1_000);
        eprintln!("{seed}: {hash:016x}, {heard} heard, {counters}");
        events += counters.events;
        heard_by_seed.push(heard);
    }
    let took = started.elapsed();
    eprintln!("{events} events in {took:?}: {:.0} events/s", events as f64 / took.as_secs_f64());
    let deaf = heard_by_seed.iter().filter(|heard| **heard < 100).count();
    assert!(deaf < 6, "{heard_by_seed:?}");
}

#[test]
fn a_seed_is_a_run() {
    for seed in 0..20 {
        let first = ordeal(seed, 300);
        assert_eq!(first, ordeal(seed, 300), "seed {seed}");
        assert_ne!(first.0, ordeal(seed + 1000, 300).0, "seed {seed}");
    }
}

#[test]
fn a_stream_works_again_after_all_faults_end() {
    for seed in 0..20 {
        let mut p = Pair::new(seed, WorldConfig { one_byte_chance: 0.2, ..WorldConfig::default() });
        let (a, b) = (p.a.process(), p.b.process());
        let bytes: Vec<u8> = (0..50_000u32).map(|n| n.to_le_bytes()[0]).collect();
        p.a.send(p.a_stream, vec![Bytes::from(bytes.clone())]);
        for _ in 0..10 {
            p.world.partition(a, b, true);
            p.run(p.world.random() % 3);
            p.world.partition(b, a, true);
            p.world.pause(b, p.world.now() + Duration::from_millis(p.world.random() % 5));
            p.run(p.world.random() % 3);
            p.world.heal_all();
            p.run(p.world.random() % 3);
        }
        p.run(2_000);
        assert_eq!(heard(&p.b_out, p.b_stream), (bytes, None), "seed {seed}");
        assert_eq!(sent(&p.a_out, p.a_stream), 1);
    }
}

#[test]
fn shards_of_a_process_wake_each_other() {
    let world = World::new(11, WorldConfig::default());
    let process = world.add_client("c", 2);
    let (mut first, mut second) = (world.io(process, S0), world.io(process, ShardNo(1)));
    let (mut first_out, mut second_out) = (Vec::new(), Vec::new());
    first.wake(ShardNo(1));
    first.wake(ShardNo(1));
    run_all(&world, &mut [(&mut first, &mut first_out), (&mut second, &mut second_out)], 1);
    assert!(first_out.is_empty());
    assert!(matches!(&second_out[..], [Completion::Woken]));
}

#[test]
fn deadlines_are_kept() {
    let world = World::new(12, WorldConfig::default());
    let process = world.add_client("c", 1);
    let mut io = world.io(process, S0);
    let mut due = [3_000_000u64, 1_000_000, 2_000_000].map(|ns| io.now() + Duration::from_nanos(ns)).to_vec();
    let mut late = Vec::new();
    world.schedule(io.now() + Duration::from_millis(10), 0);
    let mut out = Vec::new();
    while let Some(Step::Shard { .. }) = world.next() {
        let next: Option<Time> = due.iter().copied().min();
        io.turn(next, &mut out).unwrap();
        due.retain(|at| {
            if *at <= io.now() {
                late.push(io.now().since(*at));
            }
            *at > io.now()
        });
    }
    assert_eq!(late.len(), 3);
    assert!(late.iter().all(|late| *late < Duration::from_micros(20)), "{late:?}");
    assert!(world.counters().turns < 12);
}
