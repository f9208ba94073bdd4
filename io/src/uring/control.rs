//! The control thread, on `tokio-uring`: accepts and dials, exchanges heads, moves whole files.
//!
//! A connection that is ready leaves for its shard as a plain descriptor: a second one is made, and the stream dropped.
//! Nothing here is fast or needs to be; nothing here may wait for a shard.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio_uring::buf::BoundedBuf;
use tokio_uring::fs::{File, OpenOptions};
use tokio_uring::net::TcpStream;

use super::error::UringError;
use super::files::{self, Partial};
use super::timers::{Timer, Timers};
use super::world::{Mail, Mailbox, Permit, UringConfig};
use super::{sockets, sys};
use crate::head::{HEAD_MAX, head_len, status};
use crate::{Acceptor, Dial, DialError, ListenerKind, SendFile, ShardNo, Time, Verdict};

/// Files go in pieces of this many bytes.
const FILE_PIECE: usize = 512 * 1024;
/// How long accepting rests when the process has run out of descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Entries of the control thread's ring.
const ENTRIES: u32 = 256;

/// A listener and what comes through it.
pub(super) struct Door {
    pub(super) kind: ListenerKind,
    pub(super) listener: TcpListener,
}

/// What the control thread is asked to do.
pub(super) enum Command {
    Dial {
        shard: ShardNo,
        dial: Dial,
    },
    SendFile {
        shard: ShardNo,
        send: SendFile,
    },
    /// The addresses of a name, from a thread of its own; the number says who waits for them.
    Resolved {
        number: u64,
        result: io::Result<Vec<SocketAddr>>,
    },
    Stop,
}

/// Asks the control thread, from any thread.
#[derive(Clone)]
pub(super) struct ControlHandle {
    commands: Sender<Command>,
    event: Arc<OwnedFd>,
}

/// The other end of [`ControlHandle`].
pub(super) struct Inbox {
    commands: Receiver<Command>,
    event: Arc<OwnedFd>,
}

impl ControlHandle {
    pub(super) fn new() -> io::Result<(ControlHandle, Inbox)> {
        let (sender, receiver) = mpsc::channel();
        let event = Arc::new(sys::eventfd()?);
        Ok((ControlHandle { commands: sender, event: event.clone() }, Inbox { commands: receiver, event }))
    }

    /// False if the control thread has ended.
    pub(super) fn put(&self, command: Command) -> bool {
        let sent = self.commands.send(command).is_ok();
        sys::eventfd_add(&self.event);
        sent
    }
}

/// Starts the thread and waits until its ring is there.
pub(super) fn start(
    config: UringConfig,
    doors: Vec<Door>,
    inbox: Inbox,
    handle: ControlHandle,
    mailboxes: Vec<Mailbox>,
) -> Result<JoinHandle<()>, UringError> {
    let (started, result) = mpsc::channel();
    let body = move || {
        let timers = Timers::new();
        // Not with deferred task runs: this runtime waits by epoll on the ring, which would never become ready.
        let runtime = tokio_uring::Runtime::new(tokio_uring::builder().entries(ENTRIES));
        let (timers, runtime) = match (timers, runtime) {
            (Ok(timers), Ok(runtime)) => (timers, runtime),
            (Err(error), _) | (_, Err(error)) => return drop(started.send(Err(error))),
        };
        let control = Rc::new(Control {
            acceptor: config.acceptor,
            client_places: Places { taken: Arc::default(), max: config.client_connections_max },
            peer_places: Places { taken: Arc::default(), max: config.peer_connections_max },
            head_timeout: config.head_timeout,
            file_timeout: config.file_timeout,
            timers,
            mailboxes,
            handle,
            resolving: RefCell::default(),
            resolve_next: Cell::new(0),
            receiving: RefCell::default(),
        });
        let _ = started.send(Ok(()));
        if let Err(error) = runtime.block_on(control.run(doors, inbox)) {
            eprintln!("the control thread has ended: {error}");
        }
    };
    let failed = |source| UringError::Io { what: "start the control thread", source };
    let thread = std::thread::Builder::new().name("ringraft-control".into()).spawn(body).map_err(failed)?;
    match result.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(UringError::setup(error, 0)),
        Err(_) => Err(failed(io::ErrorKind::Other.into())),
    }
}

type Resolve = Box<dyn FnOnce(io::Result<Vec<SocketAddr>>)>;

/// For accepted connections. Each kind of listener has its own, so that clients cannot keep peers out.
struct Places {
    taken: Arc<AtomicUsize>,
    max: usize,
}

struct Control {
    acceptor: Arc<dyn Acceptor>,
    client_places: Places,
    peer_places: Places,
    head_timeout: Duration,
    file_timeout: Duration,
    timers: Timers,
    mailboxes: Vec<Mailbox>,
    handle: ControlHandle,
    /// Who waits for the addresses of a name.
    resolving: RefCell<std::collections::HashMap<u64, Resolve>>,
    resolve_next: Cell<u64>,
    /// Files that are being received: two senders must not write into one.
    receiving: RefCell<HashSet<PathBuf>>,
}

impl Control {
    async fn run(self: Rc<Self>, doors: Vec<Door>, inbox: Inbox) -> io::Result<()> {
        for door in doors {
            tokio_uring::spawn(self.clone().accept(door));
        }
        tokio_uring::spawn(self.timers.clone().run());
        let event = File::from_std(sys::dup(&*inbox.event)?.into());
        let mut count = vec![0; 8];
        loop {
            while let Ok(command) = inbox.commands.try_recv() {
                match command {
                    Command::Dial { shard, dial } => drop(tokio_uring::spawn(self.clone().dial(shard, dial))),
                    Command::SendFile { shard, send } => drop(tokio_uring::spawn(self.clone().send_file(shard, send))),
                    Command::Resolved { number, result } => {
                        let waiting = self.resolving.borrow_mut().remove(&number);
                        if let Some(waiting) = waiting {
                            waiting(result);
                        }
                    }
                    Command::Stop => return Ok(()),
                }
            }
            let result;
            (result, count) = event.read_at(count, 0).await;
            result?;
        }
    }

    fn mail(&self, shard: ShardNo, mail: Mail) {
        self.mailboxes[usize::from(shard.0)].put(mail);
    }

    // ---- accepting ----

    async fn accept(self: Rc<Self>, door: Door) {
        let listener = tokio_uring::net::TcpListener::from_std(door.listener);
        let places = match door.kind {
            ListenerKind::Client => &self.client_places,
            ListenerKind::Peer => &self.peer_places,
        };
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Over the limit: closed at once.
                    if let Some(permit) = Permit::take(&places.taken, places.max) {
                        tokio_uring::spawn(self.clone().greet(door.kind, stream, permit));
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => {}
                Err(_) => self.timers.sleep(ACCEPT_REST).await,
            }
        }
    }

    /// One incoming connection. Failing means closing it.
    async fn greet(self: Rc<Self>, kind: ListenerKind, stream: TcpStream, permit: Permit) -> io::Result<()> {
        let fd = sys::dup(&stream)?;
        sockets::tune(&fd)?;
        let connection = Connection { stream, fd: Rc::new(fd) };
        let deadline = connection.deadline(&self.timers, self.head_timeout);
        let request = connection.read_head().await.map_err(io::Error::from)?;
        if connection.has_bytes() {
            // The dialer must wait for the answer.
            return Err(io::ErrorKind::InvalidData.into());
        }
        match self.acceptor.judge(kind, &request) {
            Verdict::Refuse { response } => {
                connection.write(response).await?;
            }
            Verdict::Stream { shard, response, greeting } => {
                connection.write(response).await?;
                drop(deadline);
                let fd = connection.into_fd()?;
                self.mail(shard, Mail::Accepted { fd, permit, greeting });
            }
            Verdict::File { shard, response, done, greeting, path, size } => {
                if !self.receiving.borrow_mut().insert(path.clone()) {
                    return Err(io::ErrorKind::ResourceBusy.into());
                }
                drop(deadline);
                let result = self.receive_file(&connection, response, &path, size).await;
                self.receiving.borrow_mut().remove(&path);
                result?;
                let deadline = connection.deadline(&self.timers, self.file_timeout);
                // The file is whole, whether the sender hears of it or not.
                let _ = connection.write(done).await;
                drop(deadline);
                self.mail(shard, Mail::FileReceived { greeting, path });
            }
        }
        Ok(())
    }

    async fn receive_file(&self, connection: &Connection, response: Bytes, path: &Path, size: u64) -> io::Result<()> {
        files::create_parents(path)?;
        let partial = Partial::new(path.into());
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).await?;
        let mut deadline = connection.deadline(&self.timers, self.file_timeout);
        connection.write(response).await?;
        let mut buf = vec![0; FILE_PIECE];
        let mut at = 0;
        while at < size {
            let want = usize::try_from(size - at).unwrap_or(FILE_PIECE).min(FILE_PIECE);
            let (result, piece) = connection.stream.read(buf.slice(..want)).await;
            let got = result?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (result, piece) = file.write_all_at(piece.into_inner().slice(..got), at).await;
            result?;
            buf = piece.into_inner();
            at += u64::try_from(got).expect("a small piece");
            deadline.restart(&self.timers, connection);
        }
        drop(deadline);
        file.sync_all().await?;
        file.close().await?;
        files::sync_parent(path)?;
        partial.keep();
        Ok(())
    }

    // ---- dialing ----

    async fn dial(self: Rc<Self>, shard: ShardNo, dial: Dial) {
        let end = sys::clock() + dial.timeout;
        let result = match self.connect(&dial.address, &dial.request, end).await {
            Ok((connection, response)) => match connection.into_fd() {
                Ok(fd) => Ok((fd, response)),
                Err(error) => Err(DialError::Io(error.kind())),
            },
            Err(error) => Err(error),
        };
        self.mail(shard, Mail::Dialed { token: dial.token, result });
    }

    /// Connects to the first address that answers, sends `request` and reads a response head of success.
    async fn connect(
        self: &Rc<Self>,
        address: &str,
        request: &Bytes,
        end: Time,
    ) -> Result<(Connection, Bytes), DialError> {
        let mut last = DialError::Io(io::ErrorKind::AddrNotAvailable);
        let addresses = self.resolve(address, end).await?;
        for (address, others) in addresses.iter().zip((1..=addresses.len()).rev()) {
            // One that does not answer leaves time for the others.
            let left = end.since(sys::clock()) / u32::try_from(others).unwrap_or(u32::MAX);
            if left.is_zero() {
                return Err(DialError::Io(io::ErrorKind::TimedOut));
            }
            let connection = match Connection::to(*address) {
                Ok(connection) => connection,
                Err(error) => {
                    last = DialError::Io(error.kind());
                    continue;
                }
            };
            let deadline = connection.deadline(&self.timers, left);
            // The first write waits for the connection.
            if let Err(error) = connection.write(request.clone()).await {
                last = DialError::Io(deadline.kind(&error));
                continue;
            }
            let response = connection.read_response(&deadline).await?;
            return Ok((connection, response));
        }
        Err(last)
    }

    /// The addresses of `host:port`. Names are looked up by a thread of their own, for that call blocks.
    async fn resolve(self: &Rc<Self>, address: &str, end: Time) -> Result<Vec<SocketAddr>, DialError> {
        if let Ok(address) = address.parse() {
            return Ok(vec![address]);
        }
        let number = self.resolve_next.replace(self.resolve_next.get() + 1);
        let answer = Rc::new(RefCell::new(None));
        let waker = Rc::new(RefCell::new(None::<std::task::Waker>));
        let put = {
            let (answer, waker) = (answer.clone(), waker.clone());
            move |result: io::Result<Vec<SocketAddr>>| {
                answer.replace(Some(result));
                if let Some(waker) = waker.take() {
                    waker.wake();
                }
            }
        };
        self.resolving.borrow_mut().insert(number, Box::new(put));
        let control = self.clone();
        let _timer = self.timers.after(end.since(sys::clock()), move || {
            let waiting = control.resolving.borrow_mut().remove(&number);
            if let Some(waiting) = waiting {
                waiting(Err(io::ErrorKind::TimedOut.into()));
            }
        });
        let (handle, name) = (self.handle.clone(), address.to_owned());
        let thread = std::thread::Builder::new().name("ringraft-resolve".into()).spawn(move || {
            let result = name.to_socket_addrs().map(Iterator::collect);
            handle.put(Command::Resolved { number, result });
        });
        if let Err(error) = thread {
            self.resolving.borrow_mut().remove(&number);
            return Err(DialError::Io(error.kind()));
        }
        let result = std::future::poll_fn(|context| {
            if let Some(result) = answer.take() {
                return std::task::Poll::Ready(result);
            }
            waker.replace(Some(context.waker().clone()));
            std::task::Poll::Pending
        })
        .await;
        result.map_err(|error| DialError::Io(error.kind()))
    }

    async fn send_file(self: Rc<Self>, shard: ShardNo, send: SendFile) {
        let result = self.stream_file(&send).await;
        self.mail(shard, Mail::FileSent { token: send.token, result });
    }

    async fn stream_file(self: &Rc<Self>, send: &SendFile) -> Result<(), DialError> {
        let failed = |error: io::Error| DialError::Io(error.kind());
        let file = File::open(&send.path).await.map_err(failed)?;
        let end = sys::clock() + send.timeout;
        let (connection, _) = self.connect(&send.address, &send.request, end).await?;
        let mut deadline = connection.deadline(&self.timers, send.timeout);
        let mut buf = Vec::with_capacity(FILE_PIECE);
        let mut at = 0;
        loop {
            buf.clear();
            let result;
            (result, buf) = file.read_at(buf, at).await;
            let got = result.map_err(failed)?;
            if got == 0 {
                break;
            }
            at += u64::try_from(got).expect("a small piece");
            let result;
            (result, buf) = connection.stream.write_all(buf).await;
            result.map_err(|error| DialError::Io(deadline.kind(&error)))?;
            deadline.restart(&self.timers, &connection);
        }
        connection.read_response(&deadline).await.map(drop)
    }
}

/// A socket of this thread. Its reads are never dropped half-way; who takes too long is shut down by a [`Deadline`].
struct Connection {
    stream: TcpStream,
    /// A second descriptor: for looking at what has arrived, for shutting down, and to hand over in the end.
    fd: Rc<OwnedFd>,
}

impl Connection {
    fn to(address: SocketAddr) -> io::Result<Connection> {
        let socket = sockets::connect(address)?;
        let fd = Rc::new(sys::dup(&socket)?);
        Ok(Connection { stream: TcpStream::from_std(socket.into()), fd })
    }

    /// The socket as a plain descriptor.
    fn into_fd(self) -> io::Result<OwnedFd> {
        drop(self.stream);
        // A deadline that has just passed may still hold the other one.
        Rc::try_unwrap(self.fd).or_else(|fd| sys::dup(&*fd))
    }

    async fn write(&self, bytes: Bytes) -> io::Result<()> {
        self.stream.write_all(Vec::from(bytes)).await.0
    }

    /// Whether bytes have arrived that nobody has read.
    fn has_bytes(&self) -> bool {
        sys::recv_now(&self.fd, &mut [0], true).is_ok_and(|n| n > 0)
    }

    /// Reads exactly one head, not a byte more: what follows belongs to the stream's own protocol.
    ///
    /// The ring waits for one byte, which belongs to the head while the head is incomplete. What has arrived behind it
    /// is looked at, and only the part up to the head's end is taken.
    async fn read_head(&self) -> Result<Vec<u8>, HeadError> {
        let mut head = Vec::new();
        let mut byte = vec![0];
        let mut behind = [0; HEAD_MAX];
        loop {
            let (result, slice) = self.stream.read(byte.slice(..1)).await;
            byte = slice.into_inner();
            if result.map_err(HeadError::Io)? == 0 {
                return Err(HeadError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            let known = head.len();
            head.push(byte[0]);
            let room = HEAD_MAX - head.len();
            let n = sys::recv_now(&self.fd, &mut behind[..room], true).unwrap_or(0);
            head.extend_from_slice(&behind[..n]);
            // The end may have begun in what was known before.
            let from = known.saturating_sub(3);
            let end = head_len(&head[from..]).map(|len| from + len);
            head.truncate(end.unwrap_or(head.len()));
            let take = head.len() - known - 1;
            let mut taken = 0;
            while taken < take {
                taken += sys::recv_now(&self.fd, &mut behind[taken..take], false).map_err(HeadError::Io)?;
            }
            if end.is_some() {
                return Ok(head);
            }
            if head.len() == HEAD_MAX {
                return Err(HeadError::TooLong);
            }
        }
    }

    /// Reads a response head; one that does not say success is an error.
    async fn read_response(&self, deadline: &Deadline) -> Result<Bytes, DialError> {
        let head = match self.read_head().await {
            Ok(head) => Bytes::from(head),
            Err(HeadError::Io(error)) => return Err(DialError::Io(deadline.kind(&error))),
            Err(HeadError::TooLong) => return Err(DialError::Garbage),
        };
        match status(&head) {
            Some(200..300) => Ok(head),
            Some(_) => Err(DialError::Refused(head)),
            None => Err(DialError::Garbage),
        }
    }

    /// Shuts the connection down after `span`, unless the deadline is dropped or restarted before.
    fn deadline(&self, timers: &Timers, span: Duration) -> Deadline {
        let passed = Rc::new(Cell::new(false));
        let timer = Deadline::timer(timers, span, &passed, self);
        Deadline { span, passed, _timer: timer }
    }
}

/// Why there is no head.
enum HeadError {
    Io(io::Error),
    TooLong,
}

impl From<HeadError> for io::Error {
    fn from(error: HeadError) -> io::Error {
        match error {
            HeadError::Io(error) => error,
            HeadError::TooLong => io::ErrorKind::InvalidData.into(),
        }
    }
}

/// Ends a connection that takes too long.
struct Deadline {
    span: Duration,
    passed: Rc<Cell<bool>>,
    _timer: Timer,
}

impl Deadline {
    fn timer(timers: &Timers, span: Duration, passed: &Rc<Cell<bool>>, connection: &Connection) -> Timer {
        let (passed, fd) = (passed.clone(), connection.fd.clone());
        timers.after(span, move || {
            passed.set(true);
            sys::shutdown(&fd);
        })
    }

    /// There was progress: the time starts anew.
    fn restart(&mut self, timers: &Timers, connection: &Connection) {
        self._timer = Deadline::timer(timers, self.span, &self.passed, connection);
    }

    /// What to call an error of this connection.
    fn kind(&self, error: &io::Error) -> io::ErrorKind {
        if self.passed.get() { io::ErrorKind::TimedOut } else { error.kind() }
    }
}
