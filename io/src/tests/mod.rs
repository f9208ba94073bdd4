//! What holds in every world on the real machine: each test runs in each of them, two nodes talking over loopback.

mod doors;
mod files;
mod pace;
pub(crate) mod streams;
mod waking;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use socket2::SockRef;

use crate::portable::{Portable, PortableSeed, PortableWorld};
use crate::uring::{Uring, UringConfig, UringSeed, UringWorld, probe};
use crate::{
    Acceptor, AlignedBuf, CloseReason, Completion, Dial, DialError, Dialed, FileId, HostWorld, Io, Job, JobOutput,
    ListenerKind, RecvBuf, ShardNo, StreamId, Token, Verdict, WorldConfig, WorldError,
};

/// A world to test in, as its shards' seeds.
pub(crate) trait TestSeed: Sized + Send + 'static {
    type Config: From<WorldConfig>;
    type Io: Io;

    /// Whether this world can be had here; says why not.
    fn permitted() -> bool {
        true
    }

    fn open(config: Self::Config) -> Result<HostWorld<Self>, WorldError>;
    fn number(&self) -> ShardNo;
    fn grow(self) -> Self::Io;

    /// How many sends, receives and writes are under way.
    fn operations(io: &Self::Io) -> usize;
    fn socket(io: &mut Self::Io, stream: StreamId) -> SockRef<'_>;
}

impl TestSeed for UringSeed {
    type Config = UringConfig;
    type Io = Uring;

    fn permitted() -> bool {
        probe().inspect_err(|error| eprintln!("skipped: {error}")).is_ok()
    }

    fn open(config: UringConfig) -> Result<UringWorld, WorldError> {
        UringWorld::start(config)
    }

    fn number(&self) -> ShardNo {
        self.shard()
    }

    fn grow(self) -> Uring {
        self.into_io().expect("a ring")
    }

    fn operations(io: &Uring) -> usize {
        // The ring always waits for kicks.
        io.in_flight() - 1
    }

    fn socket(io: &mut Uring, stream: StreamId) -> SockRef<'_> {
        SockRef::from(io.socket(stream))
    }
}

impl TestSeed for PortableSeed {
    type Config = WorldConfig;
    type Io = Portable;

    fn open(config: WorldConfig) -> Result<PortableWorld, WorldError> {
        PortableWorld::start(config)
    }

    fn number(&self) -> ShardNo {
        self.shard()
    }

    fn grow(self) -> Portable {
        self.into_io().expect("a shard")
    }

    fn operations(io: &Portable) -> usize {
        io.in_flight()
    }

    fn socket(io: &mut Portable, stream: StreamId) -> SockRef<'_> {
        SockRef::from(io.socket(stream))
    }
}

/// Makes each test one of every world.
macro_rules! in_every_world {
    ($($(#[$attribute:meta])* $test:ident),* $(,)?) => {
        mod on_uring {
            use crate::tests::TestSeed;
            use crate::uring::UringSeed;

            $(
                $(#[$attribute])*
                #[test]
                fn $test() {
                    if UringSeed::permitted() {
                        super::$test::<UringSeed>();
                    }
                }
            )*
        }

        mod on_portable {
            use crate::portable::PortableSeed;

            $(
                $(#[$attribute])*
                #[test]
                fn $test() {
                    super::$test::<PortableSeed>();
                }
            )*
        }
    };
}
use in_every_world;

/// Longer than anything here takes on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
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

/// One shard, driven by the test.
pub(crate) struct Node<S: TestSeed> {
    pub(crate) world: HostWorld<S>,
    pub(crate) io: S::Io,
    /// Completions nobody has asked for yet.
    pub(crate) got: Vec<Completion>,
}

pub(crate) fn config() -> WorldConfig {
    let any = "127.0.0.1:0".parse().expect("an address");
    WorldConfig {
        listeners: vec![(ListenerKind::Peer, any)],
        acceptor: Arc::new(Obedient),
        head_timeout: Duration::from_millis(300),
        file_timeout: Duration::from_millis(500),
        spin: Duration::ZERO,
        ..WorldConfig::new(1)
    }
}

impl<S: TestSeed> Node<S> {
    pub(crate) fn start(config: impl Into<S::Config>) -> Node<S> {
        let mut world = S::open(config.into()).expect("a world");
        Node { io: world.take_seeds().remove(0).grow(), world, got: Vec::new() }
    }

    fn operations(&self) -> usize {
        S::operations(&self.io)
    }

    fn socket(&mut self, stream: StreamId) -> SockRef<'_> {
        S::socket(&mut self.io, stream)
    }

    fn address(&self) -> SocketAddr {
        self.world.listening()[0].1
    }

    pub(crate) fn turn(&mut self) {
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

    fn dialed(&mut self) -> Result<Dialed, DialError> {
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

    /// Takes what arrives until the remote side has closed.
    fn receive_to_the_end(&mut self, stream: StreamId) {
        self.io.receive(stream);
        wait(|| {
            self.turn();
            self.pieces();
            self.closed(stream)
        });
    }

    /// Waits for the end of so many writes and jobs; none fails, and nothing else happens.
    fn wait_for_disk(&mut self, count: usize) {
        let mut ended = 0;
        wait(|| {
            self.turn();
            for completion in self.got.drain(..) {
                match completion {
                    Completion::Written { result, .. } => result.expect("written"),
                    Completion::JobDone { result, .. } => drop(result.expect("done")),
                    other => panic!("{other:?}"),
                }
                ended += 1;
            }
            (ended == count).then_some(())
        });
    }

    pub(crate) fn job(&mut self, job: Job) -> io::Result<JobOutput> {
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

    fn write(&mut self, file: FileId, offset: u64, buf: AlignedBuf) -> AlignedBuf {
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
pub(crate) fn directory() -> tempfile::TempDir {
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
pub(crate) fn pair<S: TestSeed>(config: impl Into<S::Config> + Clone) -> (Node<S>, Node<S>, StreamId, StreamId) {
    let mut a = Node::start(config.clone());
    let mut b = Node::start(config);
    let (x, y) = connect(&mut a, &mut b);
    (a, b, x, y)
}

fn connect<S: TestSeed>(a: &mut Node<S>, b: &mut Node<S>) -> (StreamId, StreamId) {
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
pub(crate) fn transfer<S: TestSeed>(
    a: &mut Node<S>,
    b: &mut Node<S>,
    x: StreamId,
    y: StreamId,
    total: usize,
    size: usize,
) {
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
