//! Starting and stopping: one thread per shard, and what ends them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use ringraft_io::{Io, IoKind, ListenerKind, Seed, ShardNo, Waker, World, WorldConfig, WorldError};

use super::acceptor::NodeAcceptor;
use crate::kv::Kv;
use crate::node::{Board, NodeConfig, NodeError, Post, Shard};

/// What a server is told at start.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The node.
    pub node: NodeConfig,
    /// Where clients connect.
    pub listen_client: SocketAddr,
    /// Where peers connect.
    pub listen_peer: SocketAddr,
    /// With io_uring or without.
    pub io: IoKind,
    /// Tie each shard to a processor.
    pub pin: bool,
    /// Most client connections; peers have places of their own.
    pub client_connections_max: usize,
}

/// Why a server did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A ring or a listener.
    #[error(transparent)]
    World(#[from] WorldError),
    /// A shard.
    #[error("shard {shard}: {source}")]
    Shard {
        /// Which.
        shard: ShardNo,
        /// Why.
        source: NodeError,
    },
    /// A shard's thread panicked: a bug in this program.
    #[error("shard {0} panicked; its last words are above")]
    Panic(ShardNo),
    /// No thread to be had.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// A running node.
pub struct Server {
    world: World,
    stop: Arc<AtomicBool>,
    waker: Waker,
    threads: Vec<JoinHandle<()>>,
    reports: Receiver<Report>,
}

/// What a shard's thread says: that it runs, or how it ended.
type Report = (ShardNo, Word);

enum Word {
    Running,
    Ended(Result<(), ServeError>),
}

impl Server {
    /// Starts all shards and returns once each has read its log and takes requests.
    ///
    /// # Errors
    /// One line that says what, where and what to do; nothing runs then.
    pub fn start(config: ServerConfig) -> Result<Server, ServeError> {
        let node = Arc::new(config.node);
        let shards = node.shards;
        let mut world_config = WorldConfig::new(shards);
        world_config.listeners =
            vec![(ListenerKind::Client, config.listen_client), (ListenerKind::Peer, config.listen_peer)];
        world_config.acceptor = Arc::new(NodeAcceptor::new(node.clone()));
        world_config.pin = config.pin;
        world_config.client_connections_max = config.client_connections_max;
        let mut world = World::start(config.io, world_config)?;
        let stop = Arc::new(AtomicBool::new(false));
        let board = Arc::new(Board::new(shards));
        let (sender, reports) = mpsc::channel();
        let mut threads = Vec::new();
        for (seed, post) in world.take_seeds().into_iter().zip(Post::network(shards, POST_CAPACITY)) {
            let (node, board, stop, sender) = (node.clone(), board.clone(), stop.clone(), sender.clone());
            let thread = std::thread::Builder::new()
                .name(format!("shard-{}", seed.shard()))
                .spawn(move || shard_main(seed, post, node, board, &stop, &sender))
                .map_err(ServeError::Thread)?;
            threads.push(thread);
        }
        let waker = world.waker();
        let mut server = Server { world, stop, waker, threads, reports };
        for _ in 0..shards {
            if let Some(error) = server.next_failure() {
                server.stop();
                return Err(error);
            }
        }
        Ok(server)
    }

    /// Waits for one word of a shard; its failure, if it is one.
    fn next_failure(&mut self) -> Option<ServeError> {
        match self.reports.recv() {
            Ok((_, Word::Running)) | Ok((_, Word::Ended(Ok(())))) | Err(_) => None,
            Ok((_, Word::Ended(Err(error)))) => Some(error),
        }
    }

    /// Where it listens, with the ports it really has.
    #[must_use]
    pub fn listening(&self) -> &[(ListenerKind, SocketAddr)] {
        self.world.listening()
    }

    /// A handle that stops the server from another thread.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper { stop: self.stop.clone(), waker: self.waker.clone(), shards: self.threads.len() }
    }

    /// Waits until the server is stopped, or a shard ends by itself.
    ///
    /// # Errors
    /// What ended the shard.
    pub fn wait(mut self) -> Result<(), ServeError> {
        let failure = self.next_failure();
        self.stop();
        failure.map_or(Ok(()), Err)
    }

    fn stop(&mut self) {
        self.stopper().stop();
        for thread in self.threads.drain(..) {
            // How it ended was reported.
            let _ = thread.join();
        }
    }
}

/// Stops a server.
#[derive(Clone)]
pub struct Stopper {
    stop: Arc<AtomicBool>,
    waker: Waker,
    shards: usize,
}

impl Stopper {
    /// Tells every shard to end after its turn.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        for shard in 0..self.shards {
            self.waker.wake(ShardNo(u16::try_from(shard).expect("as many as shards")));
        }
    }
}

/// Letters that fit between two shards.
const POST_CAPACITY: usize = 4096;

/// Reports how the thread ends even if it panics.
struct LastWord<'a>(ShardNo, &'a Sender<Report>, Option<Result<(), ServeError>>);

impl Drop for LastWord<'_> {
    fn drop(&mut self) {
        let end = self.2.take().unwrap_or(Err(ServeError::Panic(self.0)));
        let _ = self.1.send((self.0, Word::Ended(end)));
    }
}

fn shard_main(
    seed: Seed,
    post: Post,
    node: Arc<NodeConfig>,
    board: Arc<Board>,
    stop: &AtomicBool,
    sender: &Sender<Report>,
) {
    let shard = seed.shard();
    let mut last = LastWord(shard, sender, None);
    let end = match seed {
        Seed::Uring(seed) => {
            seed.into_io().map_err(ServeError::from).and_then(|io| run(io, shard, post, node, board, stop, sender))
        }
        Seed::Portable(seed) => {
            seed.into_io().map_err(ServeError::from).and_then(|io| run(io, shard, post, node, board, stop, sender))
        }
    };
    last.2 = Some(end);
}

/// The life of a shard.
fn run<I: Io>(
    io: I,
    shard: ShardNo,
    post: Post,
    node: Arc<NodeConfig>,
    board: Arc<Board>,
    stop: &AtomicBool,
    sender: &Sender<Report>,
) -> Result<(), ServeError> {
    let failed = |source| ServeError::Shard { shard, source };
    let mut running = Shard::open(io, node, shard, post, board, |_| Kv::new()).map_err(failed)?;
    let _ = sender.send((shard, Word::Running));
    while !stop.load(Ordering::Acquire) {
        running.turn().map_err(failed)?;
    }
    Ok(())
}
