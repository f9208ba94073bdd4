//! A cluster of real processes on this machine, for `bench`, `dev` and the tests.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

/// What to start.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// The `ringraft` program.
    pub program: PathBuf,
    /// Where the nodes keep their data: `node-1`, `node-2`, ... below it.
    pub dir: PathBuf,
    /// How many nodes.
    pub nodes: u64,
    /// Shards of each.
    pub shards: u16,
    /// Raft groups.
    pub groups: u64,
    /// More flags for `serve`.
    pub flags: Vec<String>,
}

/// Running processes; they end when this is dropped, or when this process dies however it dies.
#[derive(Debug)]
pub struct Cluster {
    config: ClusterConfig,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    client_address: String,
    peer_address: String,
    child: Option<Child>,
    /// The last lines of its standard error, once it listens.
    said: Arc<Mutex<VecDeque<String>>>,
}

/// Why a cluster could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The operating system refused.
    #[error("cannot {what}: {source}")]
    Io {
        /// Doing what.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// A node ended instead of becoming ready.
    #[error("node {node} did not start: {said}")]
    Node {
        /// Which.
        node: u64,
        /// Its last words.
        said: String,
    },
}

/// Lines of a node's standard error that are kept.
const LINES_KEPT: usize = 1000;

/// How long a node may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(60);

impl Cluster {
    /// Starts all nodes and waits until each listens. There may be no leader yet.
    ///
    /// # Errors
    /// If a process cannot be started or ends at once.
    pub fn start(config: ClusterConfig) -> Result<Cluster, ClusterError> {
        let ports = free_ports(usize::try_from(config.nodes).expect("a handful") * 2)?;
        let nodes = ports
            .chunks(2)
            .map(|pair| Node {
                client_address: format!("127.0.0.1:{}", pair[0]),
                peer_address: format!("127.0.0.1:{}", pair[1]),
                child: None,
                said: Arc::default(),
            })
            .collect();
        let mut cluster = Cluster { config, nodes };
        for node in 1..=cluster.config.nodes {
            cluster.spawn(node)?;
        }
        for node in 1..=cluster.config.nodes {
            cluster.wait_ready(node)?;
        }
        Ok(cluster)
    }

    /// Client addresses, by node.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client_address.clone()).collect()
    }

    /// Where node `node` (from 1) keeps its data.
    #[must_use]
    pub fn dir(&self, node: u64) -> PathBuf {
        self.config.dir.join(format!("node-{node}"))
    }

    /// Kills a node at once (`kill -9`). What the kernel holds for it is not lost, unlike in a power failure.
    pub fn kill(&mut self, node: u64) {
        if let Some(mut child) = self.node(node).child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts a node that was killed, and waits until it listens.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn restart(&mut self, node: u64) -> Result<(), ClusterError> {
        self.spawn(node)?;
        self.wait_ready(node)
    }

    /// The process id of a running node.
    #[must_use]
    pub fn pid(&self, node: u64) -> Option<u32> {
        self.nodes[usize::try_from(node - 1).expect("a handful")].child.as_ref().map(Child::id)
    }

    /// A node that has ended by itself, with its exit status.
    pub fn ended(&mut self) -> Option<(u64, std::process::ExitStatus)> {
        (1..).zip(&mut self.nodes).find_map(|(node, it)| {
            let status = it.child.as_mut()?.try_wait().ok()??;
            Some((node, status))
        })
    }

    /// The last lines that a node has written to its standard error since it listened, of all its processes.
    #[must_use]
    pub fn said(&self, node: u64) -> Vec<String> {
        let said = &self.nodes[usize::try_from(node - 1).expect("a handful")].said;
        said.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn node(&mut self, node: u64) -> &mut Node {
        &mut self.nodes[usize::try_from(node - 1).expect("a handful")]
    }

    fn spawn(&mut self, node: u64) -> Result<(), ClusterError> {
        let peers: Vec<String> =
            (1..).zip(&self.nodes).map(|(id, node): (u64, _)| format!("{id}={}", node.peer_address)).collect();
        let config = &self.config;
        let it = &self.nodes[usize::try_from(node - 1).expect("a handful")];
        let mut command = Command::new(&config.program);
        command
            .arg("serve")
            .args(["--node-id", &node.to_string()])
            .args(["--cluster", "local"])
            .arg("--data-dir")
            .arg(self.dir(node))
            .args(["--listen-client", &it.client_address])
            .args(["--listen-peer", &it.peer_address])
            .args(["--peers", &peers.join(",")])
            .args(["--shards", &config.shards.to_string()])
            .args(["--groups", &config.groups.to_string()])
            // All nodes share this machine's processors.
            .arg("--no-pin")
            .arg("--exit-with-stdin")
            .args(&config.flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command
            .spawn()
            .map_err(|source| ClusterError::Io { what: format!("start {}", config.program.display()), source })?;
        self.node(node).child = Some(child);
        Ok(())
    }

    /// Waits for the line that `serve` prints once it listens.
    fn wait_ready(&mut self, node: u64) -> Result<(), ClusterError> {
        let child = self.node(node).child.as_mut().expect("just spawned");
        let stdout = child.stdout.take().expect("piped");
        let (sender, receiver) = mpsc::channel();
        // The thread goes on draining so that the node never blocks on a full pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        loop {
            match receiver.recv_timeout(START_TIMEOUT) {
                Ok(line) if line.starts_with("ready") => break,
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    return Err(ClusterError::Node { node, said: format!("not ready after {START_TIMEOUT:?}") });
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let mut said = String::new();
                    let child = self.node(node).child.as_mut().expect("just spawned");
                    if let Some(stderr) = child.stderr.as_mut() {
                        let _ = stderr.read_to_string(&mut said);
                    }
                    return Err(ClusterError::Node { node, said: said.trim().to_owned() });
                }
            }
        }
        let stderr = self.node(node).child.as_mut().expect("just spawned").stderr.take().expect("piped");
        let said = self.node(node).said.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("node {node}: {line}");
                let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                said.push_back(line);
                if said.len() > LINES_KEPT {
                    said.pop_front();
                }
            }
        });
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in 1..=self.config.nodes {
            self.kill(node);
        }
    }
}

/// Ports that were free a moment ago. Below those that the system gives to outgoing connections, so that a node that is
/// restarted finds its port as it left it; the search begins at a place of this process's own.
fn free_ports(count: usize) -> Result<Vec<u16>, ClusterError> {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let own = std::process::id().wrapping_mul(7919);
    let mut ports = Vec::new();
    for _ in 0..COUNT {
        let place = own.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + place).expect("below 2^16");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.push(port);
        }
        if ports.len() == count {
            return Ok(ports);
        }
    }
    let source = std::io::ErrorKind::AddrInUse.into();
    Err(ClusterError::Io { what: "find free ports on 127.0.0.1".to_owned(), source })
}

/// A directory for the data of a run, removed in the end.
#[derive(Debug)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// Creates `name` below `parent`.
    ///
    /// # Errors
    /// If it exists or cannot be created.
    pub fn create(parent: &Path, name: &str) -> Result<RunDir, ClusterError> {
        let dir = parent.join(name);
        std::fs::create_dir(&dir)
            .map_err(|source| ClusterError::Io { what: format!("create {}", dir.display()), source })?;
        Ok(RunDir(dir))
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
