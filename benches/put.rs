//! PUT as a client sees it: three nodes in this process with rings, sockets and disks of their own.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use criterion::{Criterion, SamplingMode};
use ringraft::bench::wait_for_leaders;
use ringraft::client::{Client, ClientOptions, Pending};
use ringraft::node::NodeConfig;
use ringraft::protocol::GroupRole;
use ringraft::server::{Server, ServerConfig};
use ringraft_io::{IoKind, ListenerKind};
use ringraft_raft::PeerId;
use tempfile::TempDir;

use crate::support::{data_dir, has_ring, key, payload, throughput};

/// Keys written in turn; few, so that a snapshot now and then is small.
const KEYS: usize = 1_000;

const VALUE_SIZE: usize = 256;

/// Requests under way in the bench of throughput.
const OUTSTANDING: usize = 256;

pub(crate) fn bench(criterion: &mut Criterion) {
    if !has_ring("put") {
        return;
    }
    let mut cluster = None;
    let mut group = criterion.benchmark_group("put");
    group.throughput(throughput(1, 16 + VALUE_SIZE));
    group.sampling_mode(SamplingMode::Flat);
    group.bench_function("one-at-a-time/256B", |bencher| {
        let cluster = cluster.get_or_insert_with(Cluster::start);
        bencher.iter(|| cluster.put().wait().expect("acknowledged"));
    });
    // Stays full from sample to sample: an iteration is one reply and the request that follows it.
    let mut window = VecDeque::with_capacity(OUTSTANDING);
    group.bench_function(format!("{OUTSTANDING}-outstanding/256B"), |bencher| {
        let cluster = cluster.get_or_insert_with(Cluster::start);
        window.extend((window.len()..OUTSTANDING).map(|_| cluster.put()));
        bencher.iter(|| {
            window.pop_front().expect("a full window").wait().expect("acknowledged");
            window.push_back(cluster.put());
        });
    });
    for put in window {
        put.wait().expect("acknowledged");
    }
    group.finish();
}

/// Three nodes and a client. The directory goes last.
struct Cluster {
    client: Client,
    keys: Vec<[u8; 16]>,
    next: usize,
    value: Vec<u8>,
    _servers: Servers,
    _dir: TempDir,
}

impl Cluster {
    /// Starts the nodes and waits for a leader.
    fn start() -> Cluster {
        let dir = data_dir("put");
        let ports = free_ports(3);
        let members: BTreeMap<PeerId, Vec<String>> =
            (1..).zip(&ports).map(|(node, port)| (PeerId(node), vec![format!("127.0.0.1:{port}")])).collect();
        let mut servers = Servers(Vec::new());
        for (node, port) in (1..).zip(&ports) {
            let mut config = NodeConfig::new(1, PeerId(node), dir.path().join(format!("node-{node}")));
            config.incarnation = node;
            config.members = members.clone();
            // Less to write with zeros at the start, and a log that is compacted within a short run.
            config.segment_size = 16 << 20;
            config.snapshot_every = 100_000;
            let listen = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let server = ServerConfig {
                node: config,
                listen_client: listen(0),
                listen_peer: listen(*port),
                io: IoKind::Uring,
                pin: false,
                client_connections_max: 64,
            };
            servers.0.push(Server::start(server).expect("a ring was probed, and the port was free a moment ago"));
        }

        let mut endpoints: Vec<String> = servers.0.iter().map(client_address).collect();
        let nodes = wait_for_leaders(&endpoints).expect("three nodes elect a leader");
        let leads = |role: i32| role == GroupRole::Leader as i32;
        let leader = nodes.iter().position(|node| node.group.iter().any(|group| leads(group.role)));
        // The client connects to the first.
        endpoints.swap(0, leader.expect("waited for"));
        let client = Client::connect(&endpoints, ClientOptions::default()).expect("the leader listens");
        let keys = (0..KEYS).map(key).collect();
        Cluster { client, keys, next: 0, value: payload(VALUE_SIZE), _servers: servers, _dir: dir }
    }

    fn put(&mut self) -> Pending<u64> {
        self.next = (self.next + 1) % KEYS;
        self.client.put(&self.keys[self.next], &self.value)
    }
}

/// Nodes that are stopped, and their files closed, when this is dropped.
struct Servers(Vec<Server>);

impl Drop for Servers {
    fn drop(&mut self) {
        for server in self.0.drain(..) {
            server.stopper().stop();
            if let Err(error) = server.wait() {
                eprintln!("put: a node ended with an error: {error}");
            }
        }
    }
}

fn client_address(server: &Server) -> String {
    let client = server.listening().iter().find(|(kind, _)| *kind == ListenerKind::Client);
    client.expect("it was told to listen").1.to_string()
}

/// Ports that were free a moment ago.
fn free_ports(count: usize) -> Vec<u16> {
    // All are bound before the first is given back, so that they differ.
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let listeners: Vec<TcpListener> = (0..count).map(bind).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("bound").port()).collect()
}
