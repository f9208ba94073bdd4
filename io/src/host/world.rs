//! A world on the real machine, but for its shards: its listeners, its control thread, and a seed for each shard.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::config::WorldConfig;
use super::control::{self, Command, ControlHandle, Door, Net};
use super::error::WorldError;
use super::mail::{Mail, Mailbox};
use super::signal::{Signal, Waker};
use super::sockets;
use crate::{ListenerKind, ShardNo};

/// What a shard's thread starts with.
pub(crate) struct Start {
    pub(crate) shard: ShardNo,
    pub(crate) signals: Arc<[Signal]>,
    pub(crate) mail: Receiver<Mail>,
    pub(crate) mailbox: Mailbox,
    pub(crate) control: ControlHandle,
}

impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Start(shard {})", self.shard)
    }
}

/// A running world on the real machine. Dropping it ends the control thread: nothing is accepted and nothing can be
/// dialed any more, while the shards' streams go on.
pub struct HostWorld<S> {
    seeds: Vec<S>,
    listening: Listening,
    signals: Arc<[Signal]>,
    control: Control,
}

impl<S> HostWorld<S> {
    /// Binds the listeners, starts the control thread on `N`, and makes a seed of what each shard starts with.
    ///
    /// # Panics
    /// If the configuration has no shards.
    pub(crate) fn open<N: Net>(config: WorldConfig, seed: impl FnMut(Start) -> S) -> Result<HostWorld<S>, WorldError> {
        assert!(config.shards > 0, "a world has shards");
        let (doors, listening) = bind(&config.listeners)?;
        let signals = (0..config.shards).map(|_| Signal::new()).collect::<io::Result<Arc<[Signal]>>>();
        let signals = signals.map_err(|source| WorldError::Io { what: "make an event", source })?;
        let (handle, inbox) = ControlHandle::new();
        let starts: Vec<Start> = (0..config.shards)
            .map(|n| {
                let shard = ShardNo(n);
                let (sender, mail) = mpsc::channel();
                let mailbox = Mailbox::new(sender, signals.clone(), shard);
                Start { shard, signals: signals.clone(), mail, mailbox, control: handle.clone() }
            })
            .collect();
        let mailboxes = starts.iter().map(|start| start.mailbox.clone()).collect();
        let thread = control::start::<N>(config, doors, inbox, mailboxes)?;
        let control = Control { handle, thread: Some(thread) };
        Ok(HostWorld { seeds: starts.into_iter().map(seed).collect(), listening, signals, control })
    }

    /// The same world with its seeds under another type.
    pub(crate) fn map<T>(self, change: impl FnMut(S) -> T) -> HostWorld<T> {
        let HostWorld { seeds, listening, signals, control } = self;
        HostWorld { seeds: seeds.into_iter().map(change).collect(), listening, signals, control }
    }

    /// The shards' seeds, in order; the shard's own thread turns its seed into its [`Io`](crate::Io). Empty after the
    /// first call.
    pub fn take_seeds(&mut self) -> Vec<S> {
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

impl<S> fmt::Debug for HostWorld<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostWorld({} shards, listening on {:?})", self.signals.len(), self.listening)
    }
}

/// The control thread, which ends with this.
struct Control {
    handle: ControlHandle,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.handle.put(Command::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the control thread has panicked");
        }
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

fn bind(listeners: &[(ListenerKind, SocketAddr)]) -> Result<(Vec<Door>, Listening), WorldError> {
    let mut doors = Vec::new();
    let mut listening = Vec::new();
    for &(kind, address) in listeners {
        let failed = |source| WorldError::Listen { address, source };
        let listener = TcpListener::from(listen(address).map_err(failed)?);
        listening.push((kind, listener.local_addr().map_err(failed)?));
        doors.push(Door { kind, listener });
    }
    Ok((doors, listening))
}
