//! The flags of `ringraft serve`, and what their help says.

use std::path::PathBuf;

/// Run a node.
///
/// Every flag may also be given as an environment variable (named below) or in the file of --config (the flag's name
/// without the dashes). A flag wins over the environment, the environment over the file, the file over the default.
/// Sizes are written as 64MiB (B, KiB, MiB, GiB, TiB), durations as 10ms (us, ms, s, min, h).
#[derive(Clone, PartialEq, Eq, Debug, Default, clap::Args)]
pub struct ServeArgs {
    /// Read settings from this TOML file, for example: node-id = 1, tick = "100ms" (each on a line of its own). A key
    /// that is not known is refused. [env: RINGRAFT_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Number of this node in the cluster, from 1 on. No two nodes may share one, and a node keeps its number for
    /// ever. [env: RINGRAFT_NODE_ID] [default: 1]
    #[arg(long, value_name = "NUMBER")]
    pub node_id: Option<String>,

    /// Name of the cluster. Nodes refuse to talk to nodes of another name, so that two clusters cannot be mixed up by
    /// a wrong address. [env: RINGRAFT_CLUSTER] [default: ringraft]
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,

    /// Directory of everything durable; created if missing. It belongs to this node alone.
    /// [env: RINGRAFT_DATA_DIR] [default: ringraft-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,

    /// Directory of the logs, if they shall lie on a disk of their own. [env: RINGRAFT_WAL_DIR] [default: within the
    /// data directory]
    #[arg(long, value_name = "DIR")]
    pub wal_dir: Option<String>,

    /// Address that clients connect to; port 0 takes any free one.
    /// [env: RINGRAFT_LISTEN_CLIENT] [default: 127.0.0.1:7001]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen_client: Option<String>,

    /// Address that the other nodes connect to; port 0 takes any free one (of a single node only).
    /// [env: RINGRAFT_LISTEN_PEER] [default: 127.0.0.1:7101]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen_peer: Option<String>,

    /// Address under which the other nodes find this one, if it is not the one listened on.
    /// [env: RINGRAFT_ADVERTISE_PEER] [default: this node's address in --peers, else --listen-peer]
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise_peer: Option<String>,

    /// All members that the cluster starts with, this node among them: 1=host:port,2=host:port,3=host:port. Without
    /// it the node is a cluster of its own. [env: RINGRAFT_PEERS]
    #[arg(long, value_name = "ID=HOST:PORT,...")]
    pub peers: Option<String>,

    /// Threads that serve; 'auto' is one per core. [env: RINGRAFT_SHARDS] [default: auto]
    #[arg(long, value_name = "NUMBER")]
    pub shards: Option<String>,

    /// How the node talks to its disk and its network: 'uring' with io_uring, 'portable' without (epoll, and a thread
    /// per shard that syncs), 'auto' with io_uring where it is permitted, else without, after a warning that says why.
    /// [env: RINGRAFT_IO] [default: auto]
    #[arg(long, value_name = "auto|uring|portable")]
    pub io: Option<String>,

    /// Raft groups that the keys are spread over. More groups keep more shards busy; one group gives one order over
    /// all keys. The same on every node, and not to be changed later. [env: RINGRAFT_GROUPS] [default: 16]
    #[arg(long, value_name = "NUMBER")]
    pub groups: Option<String>,

    /// Length of a tick, the unit of the two settings below. [env: RINGRAFT_TICK] [default: 100ms]
    #[arg(long, value_name = "DURATION")]
    pub tick: Option<String>,

    /// Ticks between two heartbeats of a leader. [env: RINGRAFT_HEARTBEAT_TICKS] [default: 1]
    #[arg(long, value_name = "TICKS")]
    pub heartbeat_ticks: Option<String>,

    /// Ticks without a word from a leader after which a node stands for election; the actual time is drawn from once
    /// to twice this. At least twice the heartbeat, ten times is good.
    /// [env: RINGRAFT_ELECTION_TICKS] [default: 10]
    #[arg(long, value_name = "TICKS")]
    pub election_ticks: Option<String>,

    /// How soon this node asks to lead when there is no leader, from 4 (at once) to 1: each step down is another
    /// election-ticks of waiting, so that a node of a higher number that is up to date usually leads. 0: it never asks,
    /// and leads only if a leader hands over to it; while no other node is up to date, nobody leads. Nobody is
    /// deposed for it: leadership moves when a leader is lost. [env: RINGRAFT_PRIORITY] [default: 4]
    #[arg(long, value_name = "0-4")]
    pub priority: Option<String>,

    /// Size of a log file; a multiple of 4KiB, from 4MiB to 4GiB. [env: RINGRAFT_SEGMENT_SIZE] [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub segment_size: Option<String>,

    /// Entries of a group after which its state is written out and its log cut. Fewer make a restart faster and cost
    /// more writing. [env: RINGRAFT_SNAPSHOT_EVERY] [default: 500000]
    #[arg(long, value_name = "ENTRIES")]
    pub snapshot_every: Option<String>,

    /// How many entries stay in the log behind a snapshot, so that a node that is a little behind does not need the
    /// snapshot. [env: RINGRAFT_SNAPSHOT_KEEP] [default: 10000]
    #[arg(long, value_name = "ENTRIES")]
    pub snapshot_keep: Option<String>,

    /// Time after which a client is told that the outcome of its request is unknown.
    /// [env: RINGRAFT_REQUEST_TIMEOUT] [default: 5s]
    #[arg(long, value_name = "DURATION")]
    pub request_timeout: Option<String>,

    /// Most client connections; further ones are refused. [env: RINGRAFT_CLIENT_CONNECTIONS_MAX] [default: 10000]
    #[arg(long, value_name = "NUMBER")]
    pub client_connections_max: Option<String>,

    /// Most requests under way in one shard; further ones are answered with 'overloaded'.
    /// [env: RINGRAFT_REQUESTS_MAX] [default: 65536]
    #[arg(long, value_name = "NUMBER")]
    pub requests_max: Option<String>,

    /// Most bytes that wait to be sent to one peer by one shard; beyond it messages are dropped and sent again later.
    /// [env: RINGRAFT_PEER_QUEUE_SIZE] [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub peer_queue_size: Option<String>,
}

impl ServeArgs {
    /// The value of the setting `name`, if it was given.
    ///
    /// # Panics
    /// If there is no such setting.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        let value = match name {
            "node-id" => &self.node_id,
            "cluster" => &self.cluster,
            "data-dir" => &self.data_dir,
            "wal-dir" => &self.wal_dir,
            "listen-client" => &self.listen_client,
            "listen-peer" => &self.listen_peer,
            "advertise-peer" => &self.advertise_peer,
            "peers" => &self.peers,
            "shards" => &self.shards,
            "io" => &self.io,
            "groups" => &self.groups,
            "tick" => &self.tick,
            "heartbeat-ticks" => &self.heartbeat_ticks,
            "election-ticks" => &self.election_ticks,
            "priority" => &self.priority,
            "segment-size" => &self.segment_size,
            "snapshot-every" => &self.snapshot_every,
            "snapshot-keep" => &self.snapshot_keep,
            "request-timeout" => &self.request_timeout,
            "client-connections-max" => &self.client_connections_max,
            "requests-max" => &self.requests_max,
            "peer-queue-size" => &self.peer_queue_size,
            other => panic!("setting {other} has no flag"),
        };
        value.as_deref()
    }
}
