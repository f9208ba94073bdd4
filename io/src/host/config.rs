//! What every world on the real machine is told.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::{Acceptor, ListenerKind, Verdict};

/// How a world is made. [`WorldConfig::new`] gives what suits most.
#[derive(Clone)]
pub struct WorldConfig {
    /// Number of shards, at least 1.
    pub shards: u16,
    /// Where to listen; port 0 means any free one. Empty for a process that only dials.
    pub listeners: Vec<(ListenerKind, SocketAddr)>,
    /// Judges incoming connections.
    pub acceptor: Arc<dyn Acceptor>,
    /// Receive buffers per shard; a power of two up to 32768.
    pub recv_buffers: u16,
    /// Bytes of a receive buffer; a multiple of 4096.
    pub recv_buffer_size: usize,
    /// Tie each shard's thread to a processor of its own.
    pub pin: bool,
    /// How long a shard looks around before it waits, at most; zero: not at all.
    pub spin: Duration,
    /// Client connections that may be open at a time, handshakes included; further ones are closed at once.
    pub client_connections_max: usize,
    /// The same for connections of peers.
    pub peer_connections_max: usize,
    /// How long an incoming connection may take for its request head.
    pub head_timeout: Duration,
    /// How long a file may be received without any progress.
    pub file_timeout: Duration,
}

impl WorldConfig {
    /// `shards` shards that listen nowhere, refuse everybody, and spin only if processors are to spare.
    #[must_use]
    pub fn new(shards: u16) -> WorldConfig {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        // The control thread wants one, too.
        let spare = usize::from(shards) < processors.saturating_sub(1);
        WorldConfig {
            shards,
            listeners: Vec::new(),
            acceptor: Arc::new(RefuseAll),
            recv_buffers: 64,
            recv_buffer_size: 16 * 1024,
            pin: false,
            spin: if spare { Duration::from_micros(30) } else { Duration::ZERO },
            client_connections_max: 4096,
            peer_connections_max: 4096,
            head_timeout: Duration::from_secs(5),
            file_timeout: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for WorldConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorldConfig({} shards, {} listeners)", self.shards, self.listeners.len())
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
