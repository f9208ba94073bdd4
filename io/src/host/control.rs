//! The control thread: accepts and dials, exchanges heads, moves whole files.
//!
//! A connection that is ready leaves for its shard as a plain descriptor: a second one is made, and the stream dropped.
//! Nothing here is fast or needs to be; nothing here may wait for a shard.

mod connection;
mod net;

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout_at};

use self::connection::Connection;
pub(crate) use self::net::Net;
use super::config::WorldConfig;
use super::error::WorldError;
use super::files::{self, Partial};
use super::mail::{Mail, Mailbox, Permit};
use super::sockets;
use crate::{Acceptor, Dial, DialError, ListenerKind, SendFile, ShardNo, Verdict};

/// Files go in pieces of this many bytes.
const FILE_PIECE: usize = 512 * 1024;
/// How long accepting rests when the process has run out of descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// A listener and what comes through it.
pub(crate) struct Door {
    pub(crate) kind: ListenerKind,
    pub(crate) listener: TcpListener,
}

/// What the control thread is asked to do. Bounded by what shards ask for.
pub(crate) enum Command {
    Dial { shard: ShardNo, dial: Dial },
    SendFile { shard: ShardNo, send: SendFile },
    Stop,
}

/// Asks the control thread, from any thread.
#[derive(Clone)]
pub(crate) struct ControlHandle(UnboundedSender<Command>);

/// The other end of [`ControlHandle`].
pub(crate) struct Inbox(UnboundedReceiver<Command>);

impl ControlHandle {
    pub(crate) fn new() -> (ControlHandle, Inbox) {
        let (sender, receiver) = unbounded_channel();
        (ControlHandle(sender), Inbox(receiver))
    }

    /// False if the control thread has ended.
    pub(crate) fn put(&self, command: Command) -> bool {
        self.0.send(command).is_ok()
    }
}

/// Starts the thread and waits until its runtime is there.
pub(crate) fn start<N: Net>(
    config: WorldConfig,
    doors: Vec<Door>,
    inbox: Inbox,
    mailboxes: Vec<Mailbox>,
) -> Result<JoinHandle<()>, WorldError> {
    let (started, result) = mpsc::channel();
    let body = move || {
        let runtime = match N::runtime() {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(error))),
        };
        let control = Rc::new(Control {
            acceptor: config.acceptor,
            client_places: Places { taken: Arc::default(), max: config.client_connections_max },
            peer_places: Places { taken: Arc::default(), max: config.peer_connections_max },
            head_timeout: config.head_timeout,
            file_timeout: config.file_timeout,
            mailboxes,
            receiving: RefCell::default(),
        });
        let _ = started.send(Ok(()));
        if let Err(error) = N::block_on(&runtime, control.run::<N>(doors, inbox)) {
            eprintln!("the control thread has ended: {error}");
        }
    };
    let failed = |source| WorldError::Io { what: "start the control thread", source };
    let thread = std::thread::Builder::new().name("ringraft-control".into()).spawn(body).map_err(failed)?;
    match result.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(failed(io::ErrorKind::Other.into())),
    }
}

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
    mailboxes: Vec<Mailbox>,
    /// Files that are being received: two senders must not write into one.
    receiving: RefCell<HashSet<PathBuf>>,
}

impl Control {
    async fn run<N: Net>(self: Rc<Self>, doors: Vec<Door>, mut inbox: Inbox) -> io::Result<()> {
        for Door { kind, listener } in doors {
            spawn_local(self.clone().accept::<N>(kind, N::listener(listener)?));
        }
        loop {
            match inbox.0.recv().await {
                Some(Command::Dial { shard, dial }) => drop(spawn_local(self.clone().dial::<N>(shard, dial))),
                Some(Command::SendFile { shard, send }) => drop(spawn_local(self.clone().send_file::<N>(shard, send))),
                Some(Command::Stop) | None => return Ok(()),
            }
        }
    }

    fn mail(&self, shard: ShardNo, mail: Mail) {
        self.mailboxes[usize::from(shard.0)].put(mail);
    }

    // ---- accepting ----

    async fn accept<N: Net>(self: Rc<Self>, kind: ListenerKind, listener: N::Listener) {
        let places = match kind {
            ListenerKind::Client => &self.client_places,
            ListenerKind::Peer => &self.peer_places,
        };
        loop {
            match N::accept(&listener).await {
                Ok(stream) => {
                    // Over the limit: closed at once.
                    if let Some(permit) = Permit::take(&places.taken, places.max) {
                        spawn_local(self.clone().greet::<N>(kind, stream, permit));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => sleep(ACCEPT_REST).await,
            }
        }
    }

    /// One incoming connection. Failing means closing it.
    async fn greet<N: Net>(self: Rc<Self>, kind: ListenerKind, stream: N::Stream, permit: Permit) -> io::Result<()> {
        let connection = Connection::<N>::new(stream, self.head_timeout)?;
        sockets::tune(connection.fd())?;
        let request = connection.read_head().await.map_err(io::Error::from)?;
        if connection.has_bytes() {
            // The dialer must wait for the answer.
            return Err(io::ErrorKind::InvalidData.into());
        }
        match self.acceptor.judge(kind, &request) {
            Verdict::Refuse { response } => {
                connection.write_head(&response).await?;
            }
            Verdict::Stream { shard, response, greeting } => {
                connection.write_head(&response).await?;
                let fd = connection.into_fd();
                self.mail(shard, Mail::Accepted { fd, permit, greeting });
            }
            Verdict::File { shard, response, done, greeting, path, size } => {
                if !self.receiving.borrow_mut().insert(path.clone()) {
                    return Err(io::ErrorKind::ResourceBusy.into());
                }
                let result = self.receive_file(&connection, &response, &path, size).await;
                self.receiving.borrow_mut().remove(&path);
                result?;
                // The file is whole, whether the sender hears of it or not.
                connection.allow(self.file_timeout);
                let _ = connection.write_head(&done).await;
                self.mail(shard, Mail::FileReceived { greeting, path });
            }
        }
        Ok(())
    }

    async fn receive_file<N: Net>(
        &self,
        connection: &Connection<N>,
        response: &Bytes,
        path: &Path,
        size: u64,
    ) -> io::Result<()> {
        files::create_parents(path)?;
        let partial = Partial::new(path.into());
        let file = N::create(path).await?;
        connection.allow(self.file_timeout);
        connection.write_head(response).await?;
        let mut buf = Vec::new();
        let mut at = 0;
        while at < size {
            buf.resize(usize::try_from(size - at).unwrap_or(FILE_PIECE).min(FILE_PIECE), 0);
            let result;
            (result, buf) = connection.read(buf).await;
            let got = result?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let result;
            (result, buf) = N::write_all_at(&file, buf, got, at).await;
            result?;
            at += u64::try_from(got).expect("a small piece");
            connection.allow(self.file_timeout);
        }
        N::sync_and_close(file).await?;
        files::sync_parent(path)?;
        partial.keep();
        Ok(())
    }

    // ---- dialing ----

    async fn dial<N: Net>(self: Rc<Self>, shard: ShardNo, dial: Dial) {
        let end = Instant::now() + dial.timeout;
        let result = connect::<N>(&dial.address, &dial.request, end).await;
        let result = result.map(|(connection, response)| (connection.into_fd(), response));
        self.mail(shard, Mail::Dialed { token: dial.token, result });
    }

    async fn send_file<N: Net>(self: Rc<Self>, shard: ShardNo, send: SendFile) {
        let result = stream_file::<N>(&send).await;
        self.mail(shard, Mail::FileSent { token: send.token, result });
    }
}

/// Connects to the first address that answers, sends `request` and reads a response head of success.
async fn connect<N: Net>(address: &str, request: &Bytes, end: Instant) -> Result<(Connection<N>, Bytes), DialError> {
    let mut last = DialError::Io(io::ErrorKind::AddrNotAvailable);
    let addresses = resolve(address, end).await?;
    for (address, others) in addresses.iter().zip((1..=addresses.len()).rev()) {
        // One that does not answer leaves time for the others.
        let left = end.saturating_duration_since(Instant::now()) / u32::try_from(others).unwrap_or(u32::MAX);
        if left.is_zero() {
            return Err(DialError::Io(io::ErrorKind::TimedOut));
        }
        let socket = sockets::connect(*address).and_then(N::connecting);
        let connection = match socket.and_then(|stream| Connection::<N>::new(stream, left)) {
            Ok(connection) => connection,
            Err(error) => {
                last = DialError::Io(error.kind());
                continue;
            }
        };
        // The first write waits for the connection.
        if let Err(error) = connection.write_head(request).await {
            last = DialError::Io(connection.kind(&error));
            continue;
        }
        let response = connection.read_response().await?;
        return Ok((connection, response));
    }
    Err(last)
}

/// The addresses of `host:port`. Names are looked up by a thread of their own, for that call blocks.
async fn resolve(address: &str, end: Instant) -> Result<Vec<SocketAddr>, DialError> {
    if let Ok(address) = address.parse() {
        return Ok(vec![address]);
    }
    let failed = |error: io::Error| DialError::Io(error.kind());
    let (sender, answer) = oneshot::channel();
    let name = address.to_owned();
    let thread = std::thread::Builder::new().name("ringraft-resolve".into());
    let body = move || drop(sender.send(name.to_socket_addrs().map(Iterator::collect)));
    thread.spawn(body).map_err(failed)?;
    match timeout_at(end, answer).await {
        Ok(answer) => answer.expect("the thread has answered").map_err(failed),
        Err(_) => Err(DialError::Io(io::ErrorKind::TimedOut)),
    }
}

async fn stream_file<N: Net>(send: &SendFile) -> Result<(), DialError> {
    let failed = |error: io::Error| DialError::Io(error.kind());
    let file = N::open(&send.path).await.map_err(failed)?;
    let end = Instant::now() + send.timeout;
    let (connection, _) = connect::<N>(&send.address, &send.request, end).await?;
    let mut buf = Vec::new();
    let mut at = 0;
    loop {
        buf.resize(FILE_PIECE, 0);
        let result;
        (result, buf) = N::read_at(&file, buf, at).await;
        let got = result.map_err(failed)?;
        if got == 0 {
            break;
        }
        at += u64::try_from(got).expect("a small piece");
        buf.truncate(got);
        connection.allow(send.timeout);
        let result;
        (result, buf) = connection.write(buf).await;
        result.map_err(|error| DialError::Io(connection.kind(&error)))?;
    }
    connection.allow(send.timeout);
    connection.read_response().await.map(drop)
}
