//! The sockets of a member of an etcd cluster: a thread for each connection, which blocks.
//!
//! A follower has few connections, and the log behind them is faster than etcd; so what is simple will do. The member
//! itself is elsewhere, and never waits for a socket: it [sends](Net::send) into bounded queues, and takes what has
//! arrived from the [inbox](Net::inbox).

mod dial;
mod inbox;
mod peer;
mod serve;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringraft_raft::PeerId;
use ringraft_transport::etcd::http::{Answer, Host, plain_request};
use ringraft_transport::etcd::{Limits, raftpb};

pub use inbox::{Arrived, Event, Inbox};

use peer::Peer;
use wire::{Connections, Wire};

/// How long a connection may be silent, or take nothing.
const SILENCE: Duration = Duration::from_secs(5);

/// How long connecting may take: as in etcd, a second more than an election.
const CONNECT: Duration = Duration::from_secs(2);

/// At most so often is a stream asked for.
const REDIAL: Duration = Duration::from_millis(100);

/// Bytes of an answer that is not a stream.
const ANSWER_MAX: usize = 4 << 20;

/// How it all is set up.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Who we are.
    pub host: Host,
    /// What is taken at most.
    pub limits: Limits,
    /// Where snapshots arrive; none: they are refused.
    pub snapshot_dir: Option<PathBuf>,
}

/// What we say of the cluster to those who ask. Replaced as it changes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sayings {
    /// The members, as JSON.
    pub members: String,
    /// The cluster's version, or `not_decided`.
    pub cluster_version: String,
}

/// The sockets; they are closed when it is dropped.
pub struct Net {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

/// What all threads know.
struct Shared {
    config: NetConfig,
    inbox: Inbox,
    connections: Connections,
    peers: Mutex<BTreeMap<PeerId, Arc<Peer>>>,
    sayings: Mutex<Sayings>,
    stop: Stop,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Ends threads that pause.
#[derive(Default)]
struct Stop {
    stopped: AtomicBool,
    lock: Mutex<()>,
    bell: Condvar,
}

impl Stop {
    fn is_set(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    fn set(&self) {
        let _held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.stopped.store(true, Ordering::Release);
        self.bell.notify_all();
    }

    /// Waits until `until`, or until the end.
    fn pause(&self, until: Instant) {
        let held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let left = until.saturating_duration_since(Instant::now());
        drop(self.bell.wait_timeout_while(held, left, |()| !self.is_set()));
    }
}

impl Net {
    /// Listens for peers; nobody is dialed yet. `wake` is called, by any thread, when something has arrived.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn start(config: NetConfig, listener: TcpListener, wake: Box<dyn Fn() + Send + Sync>) -> io::Result<Net> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            config,
            inbox: Inbox::new(wake),
            connections: Connections::default(),
            peers: Mutex::default(),
            sayings: Mutex::default(),
            stop: Stop::default(),
            threads: Mutex::default(),
        });
        let accepting = shared.clone();
        let acceptor = std::thread::Builder::new().name("etcd-accept".into());
        let acceptor = acceptor.spawn(move || serve::accept(&accepting, &listener))?;
        Ok(Net { shared, address, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has arrived.
    #[must_use]
    pub fn inbox(&self) -> &Inbox {
        &self.shared.inbox
    }

    /// What to say of the cluster from now on.
    pub fn say(&self, sayings: Sayings) {
        *self.shared.sayings.lock().unwrap_or_else(PoisonError::into_inner) = sayings;
    }

    /// Who the others are, and at which addresses (`host:port`) each is reached. Streams of new ones are dialed from
    /// now on, those of others end.
    pub fn set_peers(&self, peers: &BTreeMap<PeerId, Vec<String>>) {
        let mut known = self.shared.peers();
        let gone: Vec<PeerId> = known.keys().filter(|id| !peers.contains_key(id)).copied().collect();
        for id in gone {
            if let Some(peer) = known.remove(&id) {
                peer.close();
            }
        }
        for (id, addresses) in peers {
            match known.get(id) {
                Some(peer) => peer.set_addresses(addresses),
                None => {
                    known.insert(*id, Peer::start(&self.shared, *id, addresses));
                }
            }
        }
    }

    /// Sends a message to whom it is for. Never waits; false if it is dropped, for want of room or of a peer that is
    /// known under this id.
    #[must_use]
    pub fn send(&self, message: raftpb::Message) -> bool {
        let peer = self.shared.peers().get(&PeerId(message.to)).cloned();
        peer.is_some_and(|peer| peer.send(message))
    }
}

impl Shared {
    fn peers(&self) -> MutexGuard<'_, BTreeMap<PeerId, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sayings(&self) -> Sayings {
        self.sayings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts a thread that ends when all do. Without a thread, `body` is dropped.
    fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) {
        if let Ok(thread) = std::thread::Builder::new().name(name.into()).spawn(body) {
            let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
            threads.retain(|thread| !thread.is_finished());
            threads.push(thread);
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.shared.stop.set();
        self.shared.inbox.close();
        for peer in self.shared.peers().values() {
            peer.close();
        }
        self.shared.connections.close();
        // The acceptor waits for somebody to connect.
        if TcpStream::connect_timeout(&self.address, CONNECT).is_ok()
            && let Some(acceptor) = self.acceptor.take()
        {
            let _ = acceptor.join();
        }
        let threads = std::mem::take(&mut *self.shared.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

/// Reads what a member has at `path`: the head of its answer, and its body.
///
/// # Errors
/// If it does not answer in time, or with another status than 200.
pub fn get(address: &str, path: &str) -> io::Result<(Answer, String)> {
    let mut wire = Wire::connect(address, CONNECT, SILENCE)?;
    wire.write(&plain_request(path, address))?;
    let head = wire.head()?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let not_http = || io::Error::new(io::ErrorKind::InvalidData, "the answer is not one of HTTP/1.1");
    let answer = Answer::parse(&head).ok_or_else(not_http)?;
    let body = wire.body(answer.body, ANSWER_MAX)?;
    let body = String::from_utf8(body.into()).map_err(|_| not_http())?;
    if answer.status == 200 {
        return Ok((answer, body));
    }
    let why = format!("GET {path} gives status {}: {}", answer.status, body.trim());
    Err(io::Error::other(why))
}
