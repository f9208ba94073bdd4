//! One process's io_uring world: its listeners, its control thread, and a seed for each shard.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::control::{self, Command, ControlHandle, Door};
use super::error::UringError;
use super::jobs::Outcome;
use super::net::RingNet;
use super::probe::probe;
use super::shard::Uring;
use super::signal::{MAIL, Signal, Waker};
use super::sockets;
use crate::{Acceptor, DialError, ListenerKind, ShardNo, Token, Verdict};

/// How a world is made. [`UringConfig::new`] gives what suits most.
#[derive(Clone)]
pub struct UringConfig {
    /// Number of shards, at least 1.
    pub shards: u16,
    /// Where to listen; port 0 means any free one. Empty for a process that only dials.
    pub listeners: Vec<(ListenerKind, SocketAddr)>,
    /// Judges incoming connections.
    pub acceptor: Arc<dyn Acceptor>,
    /// Entries that fit into one submit of a shard.
    pub sq_entries: u32,
    /// Completions that fit between two looks at them.
    pub cq_entries: u32,
    /// Receive buffers per shard; a power of two up to 32768.
    pub recv_buffers: u16,
    /// Bytes of a receive buffer; a multiple of 4096.
    pub recv_buffer_size: usize,
    /// Let one receive fill several buffers where the kernel can.
    pub bundles: bool,
    /// Tie each shard's thread to a processor of its own.
    pub pin: bool,
    /// How long a shard looks around before it waits, at most; zero: not at all.
    pub spin: Duration,
    /// Places in a ring's table of sockets and files; further ones work, a little slower.
    pub table_size: u32,
    /// Client connections that may be open at a time, handshakes included; further ones are closed at once.
    pub client_connections_max: usize,
    /// The same for connections of peers.
    pub peer_connections_max: usize,
    /// How long an incoming connection may take for its request head.
    pub head_timeout: Duration,
    /// How long a file may be received without any progress.
    pub file_timeout: Duration,
}

impl UringConfig {
    /// `shards` shards that listen nowhere, refuse everybody, and spin only if processors are to spare.
    #[must_use]
    pub fn new(shards: u16) -> UringConfig {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        // The control thread wants one, too.
        let spare = usize::from(shards) < processors.saturating_sub(1);
        UringConfig {
            shards,
            listeners: Vec::new(),
            acceptor: Arc::new(RefuseAll),
            sq_entries: 256,
            cq_entries: 4096,
            recv_buffers: 64,
            recv_buffer_size: 16 * 1024,
            bundles: true,
            pin: false,
            spin: if spare { Duration::from_micros(30) } else { Duration::ZERO },
            table_size: 1024,
            client_connections_max: 4096,
            peer_connections_max: 4096,
            head_timeout: Duration::from_secs(5),
            file_timeout: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for UringConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UringConfig({} shards, {} listeners)", self.shards, self.listeners.len())
    }
}

/// The acceptor of a process that only dials.
#[derive(Clone, Copy, Debug, Default)]
pub struct RefuseAll;

impl Acceptor for RefuseAll {
    fn judge(&self, _listener: ListenerKind, _request: &[u8]) -> Verdict {
        Verdict::Refuse { response: Bytes::from_static(b"HTTP/1.1 503 Service Unavailable\r\n\r\n") }
    }
}

/// What a shard needs to know of the configuration.
#[derive(Clone, Debug)]
pub(super) struct Tuning {
    pub(super) sq_entries: u32,
    pub(super) cq_entries: u32,
    pub(super) recv_buffers: u16,
    pub(super) recv_buffer_size: usize,
    pub(super) bundles: bool,
    pub(super) pin: bool,
    pub(super) spin: Duration,
    pub(super) table_size: u32,
}

/// What helpers tell a shard.
pub(super) enum Mail {
    Accepted { fd: OwnedFd, permit: Permit, greeting: Bytes },
    Dialed { token: Token, result: Result<(OwnedFd, Bytes), DialError> },
    FileSent { token: Token, result: Result<(), DialError> },
    FileReceived { greeting: Bytes, path: PathBuf },
    JobDone { token: Token, result: io::Result<Outcome> },
}

/// Where to put a shard's mail. It is bounded by what the shard has asked for, and by the connection limit.
#[derive(Clone)]
pub(super) struct Mailbox {
    mail: Sender<Mail>,
    signals: Arc<[Signal]>,
    shard: ShardNo,
}

impl Mailbox {
    pub(super) fn put(&self, mail: Mail) {
        // A shard that is gone needs no mail; dropping it closes what is in it.
        if self.mail.send(mail).is_ok() {
            self.signals[usize::from(self.shard.0)].raise_and_kick(MAIL);
        }
    }
}

/// One of the places for accepted connections; free again when dropped.
pub(super) struct Permit(Arc<AtomicUsize>);

impl Permit {
    /// A place, if fewer than `max` are taken. Only one thread asks.
    pub(super) fn take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Permit> {
        if taken.load(Relaxed) >= max {
            return None;
        }
        taken.fetch_add(1, Relaxed);
        Some(Permit(taken.clone()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// What a shard's own thread turns into its [`Uring`].
pub struct UringSeed {
    shard: ShardNo,
    tuning: Tuning,
    signals: Arc<[Signal]>,
    mail: Receiver<Mail>,
    mailbox: Mailbox,
    control: ControlHandle,
}

impl UringSeed {
    /// Whose seed it is.
    #[must_use]
    pub fn shard(&self) -> ShardNo {
        self.shard
    }

    /// Sets up the ring for the calling thread, which alone may use it; pins the thread if the world is so configured.
    ///
    /// # Errors
    /// What [`probe`] may say, and lack of memory.
    pub fn into_io(self) -> Result<Uring, UringError> {
        Uring::new(self.shard, &self.tuning, self.signals, self.mail, self.mailbox, self.control)
    }
}

impl fmt::Debug for UringSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UringSeed(shard {})", self.shard)
    }
}

/// A running world. Dropping it ends the control thread: nothing is accepted and nothing can be dialed any more, while
/// the shards' streams go on.
pub struct UringWorld {
    seeds: Vec<UringSeed>,
    listening: Vec<(ListenerKind, SocketAddr)>,
    signals: Arc<[Signal]>,
    control: ControlHandle,
    thread: Option<JoinHandle<()>>,
}

impl UringWorld {
    /// Probes the kernel, binds the listeners and starts the control thread.
    ///
    /// # Errors
    /// One line that names the cause and the cure: io_uring is not permitted, an address is taken.
    ///
    /// # Panics
    /// If the configuration has no shards.
    pub fn start(config: UringConfig) -> Result<UringWorld, UringError> {
        assert!(config.shards > 0, "a world has shards");
        probe()?;
        let (doors, listening) = bind(&config.listeners)?;
        let failed = |what| move |source| UringError::Io { what, source };
        let signals = (0..config.shards).map(|_| Signal::new()).collect::<io::Result<Arc<[Signal]>>>();
        let signals = signals.map_err(failed("make an event"))?;
        let (control, inbox) = ControlHandle::new();
        let tuning = Tuning {
            sq_entries: config.sq_entries,
            cq_entries: config.cq_entries,
            recv_buffers: config.recv_buffers,
            recv_buffer_size: config.recv_buffer_size,
            bundles: config.bundles,
            pin: config.pin,
            spin: config.spin,
            table_size: config.table_size,
        };
        let seeds: Vec<UringSeed> = (0..config.shards)
            .map(|n| {
                let shard = ShardNo(n);
                let (sender, mail) = mpsc::channel();
                let mailbox = Mailbox { mail: sender, signals: signals.clone(), shard };
                let (tuning, signals, control) = (tuning.clone(), signals.clone(), control.clone());
                UringSeed { shard, tuning, signals, mail, mailbox, control }
            })
            .collect();
        let mailboxes = seeds.iter().map(|seed| seed.mailbox.clone()).collect();
        let thread = control::start::<RingNet>(config, doors, inbox, mailboxes)?;
        Ok(UringWorld { seeds, listening, signals, control, thread: Some(thread) })
    }

    /// The shards' seeds, in order. Empty after the first call.
    pub fn take_seeds(&mut self) -> Vec<UringSeed> {
        std::mem::take(&mut self.seeds)
    }

    /// Where this world listens, in the order of the configuration, with the ports it really has.
    #[must_use]
    pub fn listening(&self) -> &[(ListenerKind, SocketAddr)] {
        &self.listening
    }

    /// Wakes shards from any thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker::new(self.signals.clone())
    }
}

impl Drop for UringWorld {
    fn drop(&mut self) {
        self.control.put(Command::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the control thread has panicked");
        }
    }
}

impl fmt::Debug for UringWorld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UringWorld({} shards, listening on {:?})", self.signals.len(), self.listening)
    }
}

/// How long an address may be taken by what is left of a process that was killed.
const LISTEN_PATIENCE: Duration = Duration::from_secs(2);

/// Listens on `address`. The kernel takes down the ring of a killed process some time after the process is gone, and a
/// request to accept that was in flight keeps the listening socket until then; nothing tells when it is done.
fn listen(address: SocketAddr) -> io::Result<socket2::Socket> {
    let begin = Instant::now();
    loop {
        match sockets::listen(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && begin.elapsed() < LISTEN_PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

type Listening = Vec<(ListenerKind, SocketAddr)>;

fn bind(listeners: &[(ListenerKind, SocketAddr)]) -> Result<(Vec<Door>, Listening), UringError> {
    let mut doors = Vec::new();
    let mut listening = Vec::new();
    for &(kind, address) in listeners {
        let failed = |source| UringError::Listen { address, source };
        let listener = TcpListener::from(listen(address).map_err(failed)?);
        listening.push((kind, listener.local_addr().map_err(failed)?));
        doors.push(Door { kind, listener });
    }
    Ok((doors, listening))
}
