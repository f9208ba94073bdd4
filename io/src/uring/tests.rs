//! Two worlds on the real kernel, talking over loopback.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use socket2::SockRef;

use super::*;
use crate::{
    Acceptor, AlignedBuf, BLOCK_ALIGN, CloseReason, Completion, Dial, DialError, Io, Job, JobOutput, ListenerKind,
    LockError, RecvBuf, SendFile, ShardNo, StreamId, Token, Verdict,
};

/// Counts what each thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);
const STREAM: &[u8] = b"GET /stream HTTP/1.1\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

/// Does what the request's target says.
struct Obedient;

impl Acceptor for Obedient {
    fn judge(&self, _listener: ListenerKind, request: &[u8]) -> Verdict {
        let request = std::str::from_utf8(request).expect("tests send text");
        let words: Vec<&str> = request.split_whitespace().collect();
        let greeting = Bytes::copy_from_slice(words[1].as_bytes());
        let (shard, response) = (ShardNo(0), Bytes::from_static(OK));
        match words[1] {
            "/stream" => Verdict::Stream { shard, response, greeting },
            "/file" => Verdict::File {
                shard,
                response,
                done: Bytes::from_static(b"HTTP/1.1 201 Created\r\n\r\n"),
                greeting,
                path: words[4].into(),
                size: words[3].parse().expect("tests send a number"),
            },
            _ => Verdict::Refuse { response: Bytes::from_static(b"HTTP/1.1 412 No\r\n\r\n") },
        }
    }
}

struct Node {
    world: UringWorld,
    io: Uring,
    /// Completions nobody has asked for yet.
    got: Vec<Completion>,
}

fn permitted() -> bool {
    match probe() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("skipped: {error}");
            false
        }
    }
}

fn config() -> UringConfig {
    let any = "127.0.0.1:0".parse().expect("an address");
    UringConfig {
        listeners: vec![(ListenerKind::Peer, any)],
        acceptor: Arc::new(Obedient),
        head_timeout: Duration::from_millis(300),
        file_timeout: Duration::from_millis(500),
        spin: Duration::ZERO,
        ..UringConfig::new(1)
    }
}

impl Node {
    fn start(config: UringConfig) -> Node {
        let mut world = UringWorld::start(config).expect("a world");
        let io = world.take_seeds().remove(0).into_io().expect("a ring");
        Node { world, io, got: Vec::new() }
    }

    fn address(&self) -> SocketAddr {
        self.world.listening()[0].1
    }

    fn turn(&mut self) {
        let until = self.io.now() + Duration::from_millis(2);
        self.io.turn(Some(until), &mut self.got).expect("a turn");
    }

    fn take<T>(&mut self, mut want: impl FnMut(&Completion) -> bool, then: impl FnOnce(Completion) -> T) -> Option<T> {
        let at = self.got.iter().position(&mut want)?;
        Some(then(self.got.remove(at)))
    }

    fn dial(&mut self, address: impl ToString, request: &'static [u8], token: u64, timeout: Duration) {
        let (address, request, token) = (address.to_string(), Bytes::from_static(request), Token(token));
        self.io.dial(Dial { token, address, request, timeout });
    }

    fn dialed(&mut self) -> Result<crate::Dialed, DialError> {
        wait(|| {
            self.turn();
            self.take(
                |c| matches!(c, Completion::Dialed { .. }),
                |c| match c {
                    Completion::Dialed { result, .. } => result,
                    _ => unreachable!(),
                },
            )
        })
    }

    fn accepted(&mut self) -> StreamId {
        wait(|| {
            self.turn();
            self.take(
                |c| matches!(c, Completion::Accepted { .. }),
                |c| match c {
                    Completion::Accepted { stream, .. } => stream,
                    _ => unreachable!(),
                },
            )
        })
    }

    /// Pieces received so far, taken out.
    fn pieces(&mut self) -> Vec<(StreamId, RecvBuf)> {
        let mut pieces = Vec::new();
        for completion in std::mem::take(&mut self.got) {
            match completion {
                Completion::Received { stream, data } => pieces.push((stream, data)),
                other => self.got.push(other),
            }
        }
        pieces
    }

    fn closed(&mut self, id: StreamId) -> Option<CloseReason> {
        self.take(
            |c| matches!(c, Completion::Closed { stream, .. } if *stream == id),
            |c| match c {
                Completion::Closed { reason, .. } => reason,
                _ => unreachable!(),
            },
        )
    }

    fn sent(&mut self) -> Option<usize> {
        self.take(
            |c| matches!(c, Completion::Sent { .. }),
            |c| match c {
                Completion::Sent { bytes, .. } => bytes,
                _ => unreachable!(),
            },
        )
    }

    fn job(&mut self, job: Job) -> std::io::Result<JobOutput> {
        self.io.job(job, Token(9));
        wait(|| {
            self.turn();
            self.take(
                |c| matches!(c, Completion::JobDone { .. }),
                |c| match c {
                    Completion::JobDone { result, .. } => result,
                    _ => unreachable!(),
                },
            )
        })
    }

    fn write(&mut self, file: crate::FileId, offset: u64, buf: AlignedBuf) -> AlignedBuf {
        self.io.write(file, offset, buf, Token(offset));
        wait(|| {
            self.turn();
            self.take(
                |c| matches!(c, Completion::Written { .. }),
                |c| match c {
                    Completion::Written { buf, result, token, .. } => {
                        result.expect("written");
                        assert_eq!(token, Token(offset));
                        buf
                    }
                    _ => unreachable!(),
                },
            )
        })
    }
}

/// A directory on a real disk: what is usually found under /tmp may not know unbuffered writes.
fn directory() -> tempfile::TempDir {
    let program = std::env::current_exe().expect("we are running");
    tempfile::tempdir_in(program.parent().expect("it lies somewhere")).expect("a directory")
}

/// Calls `step` until it gives something.
fn wait<T>(mut step: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = step() {
            return value;
        }
        assert!(Instant::now() < end, "nothing happened for too long");
    }
}

/// Two nodes with a stream from `a` to `b`.
fn pair(config: UringConfig) -> (Node, Node, StreamId, StreamId) {
    let mut a = Node::start(config.clone());
    let mut b = Node::start(config);
    let (x, y) = connect(&mut a, &mut b);
    (a, b, x, y)
}

fn connect(a: &mut Node, b: &mut Node) -> (StreamId, StreamId) {
    a.dial(b.address(), STREAM, 1, PATIENCE);
    let dialed = a.dialed().expect("connected");
    assert_eq!(dialed.response, OK);
    (dialed.stream, b.accepted())
}

/// Bytes that tell where they stand.
fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|n| u8::try_from((n * 31 + (n >> 8) * 7 + (n >> 16)) % 251).expect("small")).collect()
}

/// Lets `a` send `total` patterned bytes in sends of `size`, and `b` receive them; `each` sees the pieces.
fn transfer(a: &mut Node, b: &mut Node, x: StreamId, y: StreamId, total: usize, size: usize) {
    b.io.receive(y);
    let (mut sent, mut confirmed, mut received) = (0, 0, 0);
    let end = Instant::now() + PATIENCE;
    while received < total {
        if sent == confirmed && sent < total {
            let len = size.min(total - sent);
            let mut bufs = a.io.send_bufs();
            let whole = Bytes::from(pattern(sent, len));
            let step = len.div_ceil(100).max(1);
            bufs.extend((0..len).step_by(step).map(|at| whole.slice(at..(at + step).min(len))));
            a.io.send(x, bufs);
            sent += len;
        }
        a.turn();
        b.turn();
        if let Some(bytes) = a.sent() {
            confirmed += bytes;
        }
        for (id, data) in b.pieces() {
            assert_eq!(id, y);
            assert!(!data.is_empty());
            assert!(*data == *pattern(received, data.len()), "wrong bytes at {received}");
            received += data.len();
        }
        assert!(Instant::now() < end, "{received} of {total} bytes in time");
    }
    assert_eq!(received, total);
}

#[test]
fn probing_says_what_is_there() {
    if permitted() {
        let capabilities = probe().expect("permitted");
        eprintln!("this kernel lacks {capabilities}");
    }
    let bare =
        Capabilities { no_sqarray: false, submit_all: true, taskrun_flag: true, bundles: false, no_iowait: true };
    assert_eq!(bare.to_string(), "rings without index array, receive bundles");
    assert_eq!(Capabilities { no_sqarray: true, bundles: true, ..bare }.to_string(), "nothing");
}

#[test]
fn errors_name_cause_and_cure() {
    for (errno, want) in [
        (libc::ENOSYS, "does not exist"),
        (libc::ENOMEM, "RLIMIT_MEMLOCK"),
        (libc::EINVAL, "6.1 or newer"),
        (libc::EPERM, "io_uring is not permitted"),
    ] {
        let text = UringError::setup(std::io::Error::from_raw_os_error(errno), 4096).to_string();
        assert!(text.contains(want) && !text.contains('\n'), "{errno}: {text}");
    }
}

/// Lets every `io_uring_setup` of this process fail with `errno` from now on.
fn forbid(errno: u16) {
    const LOAD: u16 = 0x20; // a word of the call's description; the first is its number
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let setup = u32::try_from(libc::SYS_io_uring_setup).expect("small");
    let steps = [
        step(LOAD, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 1, setup),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | u32::from(errno)),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: steps.as_ptr().cast_mut() };
    // SAFETY: no memory is passed.
    let first = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: `steps` and `program` live on our stack for the whole call, and the kernel copies them.
    let second = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!((first, second), (0, 0));
}

#[test]
fn a_forbidden_ring_is_explained() {
    const CHILD: &str = "RINGRAFT_TEST_FORBID";
    if let Ok(errno) = std::env::var(CHILD) {
        // We are the child: filters cannot be taken off again.
        forbid(errno.parse().expect("a number"));
        println!("{}", UringWorld::start(UringConfig::new(1)).expect_err("forbidden"));
        return;
    }
    for (errno, want) in [
        (libc::EPERM, ["io_uring is not permitted", "seccomp"]),
        (libc::ENOSYS, ["io_uring is not permitted", "does not exist"]),
        (libc::EINVAL, ["io_uring lacks", "6.1 or newer"]),
        (libc::ENOMEM, ["memory", "LimitMEMLOCK"]),
    ] {
        let this = std::env::current_exe().expect("we are running");
        let child = std::process::Command::new(this)
            .args(["--exact", "uring::tests::a_forbidden_ring_is_explained", "--nocapture"])
            .env(CHILD, errno.to_string())
            .output()
            .expect("a child");
        let text = String::from_utf8_lossy(&child.stdout);
        let line = text.lines().find(|line| line.contains(want[0])).unwrap_or_else(|| panic!("{errno}: {text}"));
        assert!(child.status.success() && line.contains(want[1]), "{errno}: {text}");
    }
}

#[test]
fn a_taken_address_is_named() {
    if !permitted() {
        return;
    }
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let config = UringConfig { listeners: vec![(ListenerKind::Client, address)], ..config() };
    let text = UringWorld::start(config).expect_err("taken").to_string();
    assert!(text.starts_with(&format!("cannot listen on {address}: ")), "{text}");
    assert!(text.ends_with("; choose another"), "{text}");
}

#[test]
fn streams_carry_bytes_both_ways() {
    if !permitted() {
        return;
    }
    let (mut a, mut b, x, y) = pair(config());
    transfer(&mut a, &mut b, x, y, 100_000, 7_000);
    transfer(&mut b, &mut a, y, x, 100_000, 50_000);
    a.io.close(x);
    let reason = wait(|| {
        a.turn();
        b.turn();
        b.closed(y)
    });
    assert_eq!(reason, CloseReason::Eof);
    wait(|| {
        a.turn();
        (a.io.in_flight() == 1 && b.io.in_flight() == 1).then_some(())
    });
    // Nothing may be asked of it any more, but asking is harmless.
    b.io.send(y, vec![Bytes::from_static(b"late")]);
    b.io.receive(y);
    b.io.pause(y);
    b.io.close(y);
    b.turn();
    assert!(b.got.is_empty() && a.got.is_empty(), "{:?} {:?}", a.got, b.got);
}

#[test]
fn dials_fail_with_a_reason() {
    if !permitted() {
        return;
    }
    let mut a = Node::start(config());
    let mut b = Node::start(config());
    a.dial(b.address(), b"GET /no HTTP/1.1\r\n\r\n", 1, PATIENCE);
    let refused = a.dialed().expect_err("refused");
    assert_eq!(refused, DialError::Refused(Bytes::from_static(b"HTTP/1.1 412 No\r\n\r\n")));
    assert_eq!(refused.to_string(), "refused: HTTP/1.1 412 No");

    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    a.dial(address, STREAM, 2, Duration::from_millis(50));
    assert_eq!(a.dialed().expect_err("silence"), DialError::Io(ErrorKind::TimedOut));
    drop(silent);
    a.dial(address, STREAM, 3, PATIENCE);
    assert_eq!(a.dialed().expect_err("nobody"), DialError::Io(ErrorKind::ConnectionRefused));

    for (answer, want) in [
        (b"SSH-2.0-OpenSSH\r\n\r\n".to_vec(), DialError::Garbage),
        (vec![b'x'; 20_000], DialError::Garbage),
        (b"HTTP/1.1 200".to_vec(), DialError::Io(ErrorKind::UnexpectedEof)),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        a.dial(listener.local_addr().expect("an address"), STREAM, 4, PATIENCE);
        let (mut socket, _) = listener.accept().expect("a connection");
        socket.read_exact(&mut [0; STREAM.len()]).expect("the request");
        // Garbage may be given up on before it is all written.
        let _ = socket.write_all(&answer);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        assert_eq!(a.dialed().expect_err("no answer"), want);
    }
    // A name is looked up; whatever it stands for, the port answers on 127.0.0.1.
    let port = b.address().port();
    a.dial(format!("localhost:{port}"), STREAM, 5, PATIENCE);
    a.dialed().expect("connected by name");
    b.accepted();
    // Without a control thread there is an answer, too.
    drop(a.world);
    a.io.dial(Dial {
        token: Token(6),
        address: "127.0.0.1:1".into(),
        request: Bytes::from_static(STREAM),
        timeout: PATIENCE,
    });
    let mut out = Vec::new();
    a.io.turn(None, &mut out).expect("a turn");
    assert!(matches!(&out[..], [Completion::Dialed { result: Err(DialError::Io(_)), .. }]), "{out:?}");
}

#[test]
fn bytes_behind_a_response_head_belong_to_the_stream() {
    if !permitted() {
        return;
    }
    let mut a = Node::start(config());
    for cut in [0, 1, OK.len() - 2, OK.len() - 1, OK.len(), OK.len() + 3] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        a.dial(listener.local_addr().expect("an address"), STREAM, 1, PATIENCE);
        let (mut socket, _) = listener.accept().expect("a connection");
        socket.set_nodelay(true).expect("set");
        socket.read_exact(&mut [0; STREAM.len()]).expect("the request");
        let answer = [OK, b"the stream's own bytes"].concat();
        socket.write_all(&answer[..cut]).expect("written");
        a.turn();
        socket.write_all(&answer[cut..]).expect("written");
        let dialed = a.dialed().expect("connected");
        assert_eq!(dialed.response, OK);
        a.io.receive(dialed.stream);
        let mut got = Vec::new();
        wait(|| {
            a.turn();
            a.pieces().iter().for_each(|(_, data)| got.extend_from_slice(data));
            (got.len() == 22).then_some(())
        });
        assert_eq!(got, b"the stream's own bytes", "cut at {cut}");
        a.io.close(dialed.stream);
    }
}

#[test]
fn bad_dialers_are_closed() {
    if !permitted() {
        return;
    }
    let mut b = Node::start(UringConfig { client_connections_max: 2, peer_connections_max: 2, ..config() });
    let long = vec![b'x'; 9000];
    for request in [&b"GET /stream HTTP/1.1\r\n\r\nearly"[..], b"GET /stream", &long] {
        let mut socket = TcpStream::connect(b.address()).expect("connected");
        let _ = socket.write_all(request);
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut answer = Vec::new();
        // Closed or reset, but not answered.
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
    // Their places are free again; a third connection is over the limit.
    let good: Vec<StreamId> = (0..2)
        .map(|_| {
            let mut socket = TcpStream::connect(b.address()).expect("connected");
            socket.write_all(STREAM).expect("written");
            socket.read_exact(&mut [0; OK.len()]).expect("the answer");
            let id = b.accepted();
            std::mem::forget(socket);
            id
        })
        .collect();
    let address = b.address();
    let over = || {
        let mut socket = TcpStream::connect(address).expect("connected");
        let _ = socket.write_all(STREAM);
        socket.read(&mut [0; 1]).unwrap_or(0)
    };
    assert_eq!(over(), 0);
    b.io.close(good[0]);
    assert_eq!(over(), 1);
}

#[test]
fn large_sends_arrive_through_small_sockets() {
    if !permitted() {
        return;
    }
    for bundles in [true, false] {
        let (mut a, mut b, x, y) = pair(UringConfig { bundles, ..config() });
        SockRef::from(a.io.socket(x)).set_send_buffer_size(4096).expect("set");
        transfer(&mut a, &mut b, x, y, 3_000_000, 1_000_000);
        // The kernel acknowledges late what fills a small window, so this goes slowly.
        SockRef::from(b.io.socket(y)).set_recv_buffer_size(4096).expect("set");
        transfer(&mut a, &mut b, x, y, 100_000, 100_000);
    }
}

#[test]
fn places_beyond_the_table_work() {
    if !permitted() {
        return;
    }
    let (mut a, mut b, x, y) = pair(UringConfig { table_size: 0, ..config() });
    transfer(&mut a, &mut b, x, y, 1_000_000, 300_000);
    transfer(&mut b, &mut a, y, x, 1_000_000, 300_000);
}

#[test]
fn spinning_shards_work() {
    if !permitted() {
        return;
    }
    let (mut a, mut b, x, y) = pair(UringConfig { spin: Duration::from_micros(50), ..config() });
    transfer(&mut a, &mut b, x, y, 1_000_000, 10_000);
}

#[test]
fn paused_streams_rest() {
    if !permitted() {
        return;
    }
    let (mut a, mut b, x, y) = pair(config());
    transfer(&mut a, &mut b, x, y, 10_000, 10_000);
    b.io.pause(y);
    wait(|| {
        b.turn();
        (b.io.in_flight() == 1).then_some(())
    });
    a.io.send(x, vec![Bytes::from_static(b"later")]);
    wait(|| {
        a.turn();
        a.sent()
    });
    b.turn();
    assert!(b.got.is_empty(), "{:?}", b.got);
    // Asked back and forth, it is still received once and in order.
    for _ in 0..10 {
        b.io.receive(y);
        b.io.pause(y);
    }
    b.io.receive(y);
    let piece = wait(|| {
        b.turn();
        b.pieces().pop()
    });
    assert_eq!(*piece.1, *b"later");
    b.io.pause(y);
    b.io.receive(y);
    transfer(&mut a, &mut b, x, y, 100_000, 1_000);
}

#[test]
fn closing_ends_what_is_in_flight() {
    if !permitted() {
        return;
    }
    let (mut a, mut b, x, y) = pair(config());
    a.io.receive(x);
    let big = Bytes::from(vec![7; 64 << 20]);
    a.io.send(x, vec![big.clone()]);
    // The receiver takes nothing, so the send gets stuck.
    a.turn();
    assert_eq!(a.io.in_flight(), 3);
    a.io.close(x);
    wait(|| {
        a.turn();
        (a.io.in_flight() == 1).then_some(())
    });
    assert!(a.got.is_empty(), "{:?}", a.got);
    assert!(big.is_unique(), "the buffers were dropped");
    b.io.receive(y);
    wait(|| {
        b.turn();
        b.pieces();
        b.closed(y)
    });
    // The other way round: the remote side goes away while we send.
    let (x, y) = connect(&mut a, &mut b);
    a.io.send(x, vec![big.clone()]);
    a.turn();
    b.io.close(y);
    let reason = wait(|| {
        a.turn();
        b.turn();
        a.closed(x)
    });
    assert!(matches!(reason, CloseReason::Error(_)), "{reason:?}");
    assert!(a.got.is_empty() && big.is_unique());
}

#[test]
fn running_out_of_buffers_is_survived() {
    if !permitted() {
        return;
    }
    for bundles in [true, false] {
        let small = UringConfig { recv_buffers: 4, recv_buffer_size: 4096, bundles, ..config() };
        let mut a = Node::start(config());
        let mut b = Node::start(small);
        let streams: Vec<(StreamId, StreamId)> = (0..3).map(|_| connect(&mut a, &mut b)).collect();
        const TOTAL: usize = 200_000;
        for (x, y) in &streams {
            a.io.send(*x, vec![Bytes::from(pattern(0, TOTAL))]);
            b.io.receive(*y);
        }
        let mut received = vec![0; streams.len()];
        let mut held = Vec::new();
        wait(|| {
            a.turn();
            b.turn();
            let pieces = b.pieces();
            let dry = pieces.is_empty();
            for (id, data) in pieces {
                let n = streams.iter().position(|(_, y)| *y == id).expect("a stream of ours");
                assert!(*data == *pattern(received[n], data.len()), "wrong bytes at {}", received[n]);
                received[n] += data.len();
                held.push(data);
            }
            assert!(held.len() <= 4);
            // Only when nothing comes any more, all are given back.
            if dry {
                held.clear();
            }
            received.iter().all(|n| *n == TOTAL).then_some(())
        });
    }
}

#[test]
fn received_bytes_outlive_the_ring() {
    if !permitted() {
        return;
    }
    let (mut a, mut b, x, y) = pair(config());
    a.io.send(x, vec![Bytes::from_static(b"memory")]);
    b.io.receive(y);
    let piece = wait(|| {
        a.turn();
        b.turn();
        b.pieces().pop()
    });
    drop(b);
    assert_eq!(*piece.1, *b"memory");
    // The remote side notices, although the world's descriptor of the ring was open until the end.
    a.io.receive(x);
    wait(|| {
        a.turn();
        a.closed(x)
    });
}

#[test]
fn writes_are_durable_and_read_back() {
    if !permitted() {
        return;
    }
    let dir = directory();
    let mut a = Node::start(UringConfig::new(1));
    let path = dir.path().join("deep/er/segment");
    let file = a.io.create_zeroed(&path, 3 << 20).expect("created");
    assert_eq!(a.io.create_zeroed(&path, 4096).expect_err("taken").kind(), ErrorKind::AlreadyExists);
    assert_eq!(std::fs::metadata(&path).expect("still there").len(), 3 << 20);
    assert!(a.io.read(file, 0, 3 << 20).expect("read").iter().all(|byte| *byte == 0));
    let mut buf = AlignedBuf::zeroed(2 << 20);
    buf.copy_from_slice(&pattern(0, 2 << 20));
    let buf = a.write(file, 8192, buf);
    assert_eq!(buf.len(), 2 << 20);
    let back = a.io.read(file, 8192, 2 << 20).expect("read");
    assert!(*back == *buf);
    assert!(a.io.read(file, 3 << 20, BLOCK_ALIGN).is_err(), "beyond the end");
    let map = a.io.map(file).expect("mapped");
    assert!(map.len() == 3 << 20 && map[8192..][..2 << 20] == *buf && map[..8192].iter().all(|byte| *byte == 0));
    let part = map.slice(8192..8200);
    drop(map);
    assert_eq!(part, buf[..8]);

    let again = a.io.open(&path).expect("opened");
    assert!(*a.io.read(again, 8192, 4096).expect("read") == buf[..4096]);
    assert!(a.io.open(&dir.path().join("none")).is_err());
    let listed = a.io.list(path.parent().expect("a directory")).expect("listed");
    assert_eq!((listed.len(), &listed[0].path, listed[0].size), (1, &path, 3 << 20));
    assert!(a.io.list(&dir.path().join("none")).expect("no directory").is_empty());

    // Many at a time, more than one submit holds.
    for n in 0..400 {
        let mut buf = AlignedBuf::zeroed(4096);
        buf.fill(u8::try_from(n % 251).expect("small"));
        a.io.write(file, n * 4096, buf, Token(n));
    }
    let mut done = 0;
    wait(|| {
        a.turn();
        for completion in a.got.drain(..) {
            match completion {
                Completion::Written { result, .. } => result.expect("written"),
                other => panic!("{other:?}"),
            }
            done += 1;
        }
        (done == 400).then_some(())
    });
    let back = a.io.read(file, 0, 400 * 4096).expect("read");
    assert!(back.chunks(4096).zip(0..).all(|(block, n)| block.iter().all(|byte| usize::from(*byte) == n % 251)));
}

#[test]
fn small_queues_overflow_without_loss() {
    if !permitted() {
        return;
    }
    let dir = directory();
    let mut a = Node::start(UringConfig { sq_entries: 4, cq_entries: 8, ..UringConfig::new(1) });
    let file = a.io.create_zeroed(&dir.path().join("segment"), 1 << 20).expect("created");
    for n in 0..200 {
        a.io.write(file, n * 4096, AlignedBuf::zeroed(4096), Token(n));
    }
    let mut tokens = std::collections::BTreeSet::new();
    while tokens.len() < 200 {
        let until = a.io.now() + PATIENCE;
        a.io.turn(Some(until), &mut a.got).expect("a turn");
        assert!(a.io.now() < until, "{} writes have ended", tokens.len());
        for completion in a.got.drain(..) {
            match completion {
                Completion::Written { token, result: Ok(()), .. } => assert!(tokens.insert(token)),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_busy_ring_can_be_dropped() {
    if !permitted() {
        return;
    }
    let dir = directory();
    let (mut a, mut b, x, y) = pair(config());
    let file = a.io.create_zeroed(&dir.path().join("segment"), 1 << 20).expect("created");
    let big = Bytes::from(vec![7; 64 << 20]);
    a.io.receive(x);
    a.io.send(x, vec![big.clone()]);
    a.turn();
    for n in 0..256 {
        a.io.write(file, n * 4096, AlignedBuf::zeroed(4096), Token(n));
    }
    a.io.job(Job::Load { path: dir.path().join("none") }, Token(1));
    let start = Instant::now();
    drop(a.io);
    assert!(start.elapsed() < Duration::from_secs(4), "took {:?}", start.elapsed());
    assert!(big.is_unique(), "the buffers were dropped");
    b.io.receive(y);
    wait(|| {
        b.turn();
        b.pieces();
        b.closed(y)
    });
}

#[test]
fn removed_files_are_closed() {
    if !permitted() {
        return;
    }
    let dir = directory();
    let mut a = Node::start(UringConfig::new(1));
    let path = dir.path().join("segment");
    let open = || {
        let fds = std::fs::read_dir("/proc/self/fd").expect("listed");
        let links = fds.filter_map(|fd| std::fs::read_link(fd.expect("listed").path()).ok());
        links.filter(|link| link.starts_with(dir.path())).count()
    };
    let file = a.io.create_zeroed(&path, 1 << 20).expect("created");
    let other = a.io.create_zeroed(&dir.path().join("other"), 4096).expect("created");
    let again = a.io.open(&path).expect("opened");
    assert_eq!(open(), 3);
    let map = a.io.map(file).expect("mapped");
    a.io.write(file, 0, AlignedBuf::zeroed(1 << 20), Token(0));
    a.io.job(Job::Remove { path: path.clone() }, Token(1));
    let mut seen = 0;
    wait(|| {
        a.turn();
        for completion in a.got.drain(..) {
            match completion {
                Completion::Written { result, .. } => result.expect("written"),
                Completion::JobDone { result, .. } => drop(result.expect("removed")),
                other => panic!("{other:?}"),
            }
            seen += 1;
        }
        (seen == 2).then_some(())
    });
    assert_eq!(open(), 1);
    assert_eq!(a.io.read(again, 0, 4096).expect_err("gone").kind(), ErrorKind::NotFound);
    assert!(a.io.map(file).is_err());
    a.io.write(again, 0, AlignedBuf::zeroed(4096), Token(2));
    a.io.turn(None, &mut a.got).expect("a turn");
    assert!(matches!(&a.got[..], [Completion::Written { result: Err(_), .. }]), "{:?}", a.got);
    a.got.clear();
    assert_eq!(map[..4096], [0; 4096], "mappings live on");
    a.write(other, 0, AlignedBuf::zeroed(4096));
}

#[test]
fn small_files_are_replaced() {
    if !permitted() {
        return;
    }
    let dir = directory();
    let mut a = Node::start(UringConfig::new(1));
    let path = dir.path().join("sub/meta");
    for content in [&b"one"[..], b"", b"three"] {
        a.io.write_file(&path, content).expect("written");
        assert_eq!(a.io.read_file(&path).expect("read"), content);
    }
    assert_eq!(a.io.list(path.parent().expect("a directory")).expect("listed").len(), 1);
    let empty = a.io.open(&path).expect("opened");
    a.io.write_file(&path, b"").expect("written");
    assert_eq!(a.io.map(empty).expect("mapped"), b"three"[..], "the old file lives on while it is open");
}

#[test]
fn jobs_run_in_order() {
    if !permitted() {
        return;
    }
    let dir = directory();
    let mut a = Node::start(UringConfig::new(1));
    let (aside, path) = (dir.path().join("x/aside"), dir.path().join("y/whole"));
    let write = |offset, bytes: &'static [u8]| Job::WriteAside {
        path: aside.clone(),
        offset,
        bytes: Bytes::from_static(bytes),
    };
    a.io.job(write(0, b"old and long"), Token(1));
    a.io.job(write(0, b"new "), Token(2));
    a.io.job(write(4, b"text"), Token(3));
    a.io.job(Job::Commit { from: aside.clone(), to: path.clone() }, Token(4));
    let tokens: Vec<Token> = (0..4)
        .map(|_| {
            wait(|| {
                a.turn();
                a.take(
                    |_| true,
                    |c| match c {
                        Completion::JobDone { token, result: Ok(JobOutput::Done) } => token,
                        other => panic!("{other:?}"),
                    },
                )
            })
        })
        .collect();
    assert_eq!(tokens, [Token(1), Token(2), Token(3), Token(4)]);
    assert!(!aside.exists());
    match a.job(Job::Load { path: path.clone() }).expect("loaded") {
        JobOutput::Loaded(bytes) => assert_eq!(bytes, b"new text"[..]),
        other => panic!("{other:?}"),
    }
    let file = match a.job(Job::CreateZeroed { path: dir.path().join("z/zeros"), size: 1 << 20 }).expect("created") {
        JobOutput::Opened(file) => file,
        other => panic!("{other:?}"),
    };
    a.write(file, 0, AlignedBuf::zeroed(8192));
    a.job(Job::DropCache { file }).expect("dropped");
    for _ in 0..2 {
        a.job(Job::Remove { path: path.clone() }).expect("removed");
    }
    assert!(!path.exists());
    assert_eq!(a.job(Job::Load { path }).expect_err("gone").kind(), ErrorKind::NotFound);
}

#[test]
fn a_directory_is_locked_once() {
    if !permitted() {
        return;
    }
    let dir = directory();
    let mut a = Node::start(UringConfig::new(1));
    let mut b = Node::start(UringConfig::new(1));
    let path = dir.path().join("new/data");
    a.io.lock_dir(&path).expect("locked");
    b.io.lock_dir(&dir.path().join("other")).expect("locked");
    match b.io.lock_dir(&path) {
        Err(LockError::Held { pid, .. }) => assert_eq!(pid, std::process::id()),
        other => panic!("{other:?}"),
    }
    drop(a);
    b.io.lock_dir(&path).expect("free again");
}

fn send_file(a: &mut Node, b: &mut Node, from: &Path, to: &Path, size: usize) -> Result<(), DialError> {
    a.io.send_file(SendFile {
        token: Token(5),
        address: b.address().to_string(),
        request: Bytes::from(format!("GET /file HTTP/1.1 {size} {}\r\n\r\n", to.display())),
        path: from.into(),
        timeout: PATIENCE,
    });
    wait(|| {
        a.turn();
        a.take(
            |c| matches!(c, Completion::FileSent { .. }),
            |c| match c {
                Completion::FileSent { token: Token(5), result } => result,
                other => panic!("{other:?}"),
            },
        )
    })
}

#[test]
fn files_travel_whole_or_not_at_all() {
    if !permitted() {
        return;
    }
    let dir = directory();
    let mut a = Node::start(config());
    let mut b = Node::start(config());
    let (from, to) = (dir.path().join("from"), dir.path().join("in/to"));
    for size in [0, 1, 3_000_123] {
        let content = pattern(0, size);
        std::fs::write(&from, &content).expect("written");
        send_file(&mut a, &mut b, &from, &to, size).expect("sent");
        let path = wait(|| {
            b.turn();
            b.take(
                |c| matches!(c, Completion::FileReceived { .. }),
                |c| match c {
                    Completion::FileReceived { path, greeting } => {
                        assert_eq!(greeting, b"/file"[..]);
                        path
                    }
                    other => panic!("{other:?}"),
                },
            )
        });
        assert!(std::fs::read(path).expect("read") == content);
        std::fs::remove_file(&to).expect("removed");
    }
    // The sender has less than it promised: the receiver gives up after a while, and leaves nothing behind.
    let result = send_file(&mut a, &mut b, &from, &to, 3_000_124);
    assert!(matches!(result, Err(DialError::Io(_))), "{result:?}");
    wait(|| (!to.exists()).then_some(()));
    b.turn();
    assert!(b.got.is_empty(), "{:?}", b.got);
    let missing = send_file(&mut a, &mut b, &dir.path().join("none"), &to, 1);
    assert_eq!(missing, Err(DialError::Io(ErrorKind::NotFound)));
}

#[test]
fn no_wake_between_shards_is_lost() {
    if !permitted() {
        return;
    }
    const ROUNDS: u64 = 20_000;
    let mut world = UringWorld::start(UringConfig { spin: Duration::ZERO, ..UringConfig::new(2) }).expect("a world");
    let balls: Arc<[AtomicU64; 2]> = Arc::default();
    let waker = world.waker();
    let threads: Vec<_> = world
        .take_seeds()
        .into_iter()
        .map(|seed| {
            let balls = balls.clone();
            std::thread::spawn(move || {
                let me = seed.shard();
                let other = ShardNo(1 - me.0);
                let mut io = seed.into_io().expect("a ring");
                let (mut seen, mut out) = (0, Vec::new());
                while seen < ROUNDS {
                    let until = io.now() + PATIENCE;
                    io.turn(Some(until), &mut out).expect("a turn");
                    assert!(io.now() < until, "shard {me}: a wake was lost after {seen}");
                    if out.drain(..).any(|c| matches!(c, Completion::Woken)) {
                        let now = balls[usize::from(me.0)].load(Ordering::Acquire);
                        if now > seen {
                            seen = now;
                            balls[usize::from(other.0)].fetch_add(1, Ordering::Release);
                            io.wake(other);
                        }
                    }
                }
                // What was asked for last must still leave.
                let now = io.now();
                io.turn(Some(now), &mut out).expect("a turn");
            })
        })
        .collect();
    balls[0].fetch_add(1, Ordering::Release);
    waker.wake(ShardNo(0));
    for thread in threads {
        thread.join().expect("no wake was lost");
    }
}

#[test]
fn no_wake_from_a_thread_is_lost() {
    if !permitted() {
        return;
    }
    const ROUNDS: u64 = 20_000;
    let mut a = Node::start(UringConfig { spin: Duration::ZERO, ..UringConfig::new(1) });
    let (asked, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let waker = a.world.waker();
    let thread = {
        let (asked, answered) = (asked.clone(), answered.clone());
        std::thread::spawn(move || {
            for round in 1..=ROUNDS {
                asked.store(round, Ordering::Release);
                waker.wake(ShardNo(0));
                while answered.load(Ordering::Acquire) < round {
                    std::thread::yield_now();
                }
            }
        })
    };
    let mut out = Vec::new();
    while answered.load(Ordering::Relaxed) < ROUNDS {
        let until = a.io.now() + PATIENCE;
        a.io.turn(Some(until), &mut out).expect("a turn");
        assert!(a.io.now() < until, "a wake was lost");
        out.clear();
        answered.store(asked.load(Ordering::Acquire), Ordering::Release);
    }
    thread.join().expect("answered");
}

#[test]
fn a_wake_of_oneself_ends_the_next_turn() {
    if !permitted() {
        return;
    }
    let mut a = Node::start(UringConfig::new(1));
    a.io.wake(ShardNo(0));
    a.io.turn(None, &mut a.got).expect("a turn");
    assert!(matches!(a.got[..], [Completion::Woken]), "{:?}", a.got);
}

#[test]
fn a_turn_ends_at_its_deadline() {
    if !permitted() {
        return;
    }
    for spin in [Duration::ZERO, Duration::from_micros(50)] {
        let mut a = Node::start(UringConfig { spin, ..UringConfig::new(1) });
        let start = a.io.now();
        let mut out = Vec::new();
        a.io.turn(Some(start), &mut out).expect("a turn");
        assert!(a.io.now().since(start) < Duration::from_secs(1), "polling does not wait");
        let start = a.io.now();
        let span = Duration::from_millis(20);
        while a.io.now() < start + span {
            a.io.turn(Some(start + span), &mut out).expect("a turn");
        }
        assert!(a.io.now().since(start) < Duration::from_secs(10));
        assert!(out.is_empty());
    }
}

#[test]
fn a_steady_pace_allocates_nothing() {
    if !permitted() {
        return;
    }
    let dir = directory();
    let (mut a, mut b, x, y) = pair(config());
    let file = a.io.create_zeroed(&dir.path().join("segment"), 1 << 20).expect("created");
    a.io.receive(x);
    b.io.receive(y);
    let content = Bytes::from(vec![1; 1000]);
    let mut block = Some(AlignedBuf::zeroed(4096));
    let (mut ours, mut theirs) = (Vec::with_capacity(64), Vec::with_capacity(64));
    let mut round = |a: &mut Node, b: &mut Node| {
        let mut bufs = a.io.send_bufs();
        bufs.push(content.clone());
        bufs.push(content.clone());
        a.io.send(x, bufs);
        a.io.write(file, 0, block.take().expect("given back"), Token(1));
        let (mut there, mut back) = (0, 0);
        while back < 2000 || block.is_none() {
            let until = a.io.now() + Duration::from_millis(1);
            a.io.turn(Some(until), &mut ours).expect("a turn");
            for completion in ours.drain(..) {
                match completion {
                    Completion::Received { data, .. } => back += data.len(),
                    Completion::Written { buf, .. } => block = Some(buf),
                    _ => {}
                }
            }
            let until = b.io.now() + Duration::from_millis(1);
            b.io.turn(Some(until), &mut theirs).expect("a turn");
            for completion in theirs.drain(..) {
                if let Completion::Received { data, .. } = completion {
                    there += data.len();
                    if there == 2000 {
                        let mut bufs = b.io.send_bufs();
                        bufs.push(content.clone());
                        bufs.push(content.clone());
                        b.io.send(y, bufs);
                    }
                }
            }
        }
    };
    for _ in 0..100 {
        round(&mut a, &mut b);
    }
    let before = ALLOCATIONS.get();
    for _ in 0..1000 {
        round(&mut a, &mut b);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0, "allocations in 1000 rounds");
}

fn quantile(mut spans: Vec<Duration>, q: f64) -> Duration {
    spans.sort();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a rank")]
    let rank = (spans.len() as f64 * q) as usize;
    spans[rank]
}

/// Not a benchmark, only a look: `cargo test --release -p ringraft-io measure -- --ignored --nocapture`.
#[test]
#[ignore = "prints numbers, checks nothing"]
fn measure() {
    let dir = directory();
    let mut a = Node::start(UringConfig { spin: Duration::ZERO, ..UringConfig::new(1) });
    let file = a.io.create_zeroed(&dir.path().join("segment"), 64 << 20).expect("created");
    for size in [4096usize, 65_536] {
        let (mut spans, mut out) = (Vec::new(), Vec::new());
        let mut buf = Some(AlignedBuf::zeroed(size));
        for n in 0..2000 {
            let start = Instant::now();
            let offset = n % 500 * u64::try_from(size).expect("small");
            a.io.write(file, offset, buf.take().expect("given back"), Token(0));
            while buf.is_none() {
                a.io.turn(None, &mut out).expect("a turn");
                for completion in out.drain(..) {
                    if let Completion::Written { buf: back, .. } = completion {
                        buf = Some(back);
                    }
                }
            }
            spans.push(start.elapsed());
        }
        println!("durable write of {size}: p50 {:?}, p99 {:?}", quantile(spans.clone(), 0.5), quantile(spans, 0.99));
    }
    for spin in [Duration::ZERO, Duration::from_micros(50)] {
        let config = UringConfig { spin, pin: true, shards: 2, ..config() };
        let mut world = UringWorld::start(config).expect("a world");
        let address = world.listening()[0].1;
        let mut seeds = world.take_seeds();
        let second = seeds.pop().expect("two");
        let first = seeds.pop().expect("two");
        let echo = std::thread::spawn(move || {
            let (mut io, mut out) = (first.into_io().expect("a ring"), Vec::new());
            loop {
                io.turn(None, &mut out).expect("a turn");
                for completion in out.drain(..) {
                    match completion {
                        Completion::Accepted { stream, .. } => io.receive(stream),
                        Completion::Received { stream, data } => {
                            let mut bufs = io.send_bufs();
                            bufs.push(Bytes::copy_from_slice(&data));
                            io.send(stream, bufs);
                        }
                        Completion::Closed { .. } => return,
                        _ => {}
                    }
                }
            }
        });
        let ask = std::thread::spawn(move || {
            let (mut io, mut out, mut spans) = (second.into_io().expect("a ring"), Vec::new(), Vec::new());
            io.dial(Dial {
                token: Token(0),
                address: address.to_string(),
                request: Bytes::from_static(STREAM),
                timeout: PATIENCE,
            });
            let (ping, mut start) = (Bytes::from_static(&[1; 64]), Instant::now());
            while spans.len() < 20_000 {
                io.turn(None, &mut out).expect("a turn");
                for completion in out.drain(..) {
                    let stream = match completion {
                        Completion::Dialed { result, .. } => {
                            let stream = result.expect("connected").stream;
                            io.receive(stream);
                            stream
                        }
                        Completion::Received { stream, .. } => {
                            spans.push(start.elapsed());
                            stream
                        }
                        _ => continue,
                    };
                    start = Instant::now();
                    let mut bufs = io.send_bufs();
                    bufs.push(ping.clone());
                    io.send(stream, bufs);
                }
            }
            spans
        });
        let spans = ask.join().expect("asked");
        echo.join().expect("echoed");
        println!("round trip, spin {spin:?}: p50 {:?}, p99 {:?}", quantile(spans.clone(), 0.5), quantile(spans, 0.99));
    }
}
