//! The half of a world that is no shard: its listeners, its control thread, and what each shard's thread starts with.

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

/// The listeners and the control thread. Dropping it ends the thread: nothing is accepted and nothing can be dialed any
/// more, while the shards' streams go on.
pub(crate) struct House {
    listening: Vec<(ListenerKind, SocketAddr)>,
    signals: Arc<[Signal]>,
    control: ControlHandle,
    thread: Option<JoinHandle<()>>,
}

impl House {
    /// Binds the listeners and starts the control thread on `N`.
    ///
    /// # Panics
    /// If the configuration has no shards.
    pub(crate) fn open<N: Net>(config: WorldConfig) -> Result<(House, Vec<Start>), WorldError> {
        assert!(config.shards > 0, "a world has shards");
        let (doors, listening) = bind(&config.listeners)?;
        let signals = (0..config.shards).map(|_| Signal::new()).collect::<io::Result<Arc<[Signal]>>>();
        let signals = signals.map_err(|source| WorldError::Io { what: "make an event", source })?;
        let (control, inbox) = ControlHandle::new();
        let starts: Vec<Start> = (0..config.shards)
            .map(|n| {
                let shard = ShardNo(n);
                let (sender, mail) = mpsc::channel();
                let mailbox = Mailbox::new(sender, signals.clone(), shard);
                Start { shard, signals: signals.clone(), mail, mailbox, control: control.clone() }
            })
            .collect();
        let mailboxes = starts.iter().map(|start| start.mailbox.clone()).collect();
        let thread = control::start::<N>(config, doors, inbox, mailboxes)?;
        Ok((House { listening, signals, control, thread: Some(thread) }, starts))
    }

    /// Where this world listens, in the order of the configuration, with the ports it really has.
    pub(crate) fn listening(&self) -> &[(ListenerKind, SocketAddr)] {
        &self.listening
    }

    /// Wakes shards from any thread.
    pub(crate) fn waker(&self) -> Waker {
        Waker::new(self.signals.clone())
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.control.put(Command::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the control thread has panicked");
        }
    }
}

impl fmt::Debug for House {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} shards, listening on {:?}", self.signals.len(), self.listening)
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
