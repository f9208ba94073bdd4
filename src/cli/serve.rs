//! `ringraft serve`

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use ringraft_raft::PeerId;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{Failure, print};
use crate::config::{self, ServeArgs, ServeConfig};
use crate::node::NodeConfig;
use crate::server::{Server, ServerConfig};

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    settings: ServeArgs,

    /// Print every setting with its value and where it came from, and exit.
    #[arg(long)]
    show_config: bool,

    /// Do not tie each shard's thread to a processor of its own. For several nodes on one machine.
    #[arg(long)]
    no_pin: bool,

    /// End when standard input is closed; for programs that start nodes and must not leave them behind.
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let config = config::load(&arguments.settings)?;
    if arguments.show_config {
        print(config.explain())?;
        return Ok(ExitCode::SUCCESS);
    }
    let server_config = ServerConfig {
        listen_client: resolve("listen-client", &config.listen_client)?,
        listen_peer: resolve("listen-peer", &config.listen_peer)?,
        node: node_config(&config),
        pin: !arguments.no_pin,
        client_connections_max: usize::try_from(config.client_connections_max)?,
        io: super::io::settle(config.io, config.shards)?,
    };
    let server = Server::start(server_config)?;
    let listening: Vec<String> = server.listening().iter().map(|(_, address)| address.to_string()).collect();
    print(format!("ready node {} clients {} peers {}\n", config.node_id, listening[0], listening[1]))?;

    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let stopper = server.stopper();
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            stopper.stop();
        }
    });
    if arguments.exit_with_stdin {
        let stopper = server.stopper();
        std::thread::spawn(move || {
            let mut sink = [0; 64];
            while std::io::stdin().read(&mut sink).is_ok_and(|read| read > 0) {}
            stopper.stop();
        });
    }
    server.wait()?;
    Ok(ExitCode::SUCCESS)
}

fn resolve(flag: &str, address: &str) -> Result<SocketAddr, Failure> {
    let mut found = address.to_socket_addrs().map_err(|error| format!("--{flag} {address}: {error}"))?;
    Ok(found.next().ok_or_else(|| format!("--{flag} {address}: no such host; give an address of this machine"))?)
}

fn node_config(config: &ServeConfig) -> NodeConfig {
    let mut node = NodeConfig::new(config.cluster_id(), PeerId(config.node_id), config.data_dir.clone());
    let mut members: BTreeMap<PeerId, Vec<String>> = BTreeMap::new();
    for peer in &config.peers {
        members.entry(PeerId(peer.id)).or_default().push(peer.address.clone());
    }
    members.entry(PeerId(config.node_id)).or_insert_with(|| vec![config.advertise_peer.clone()]);
    node.members = members;
    // Two runs of one node differ in the clock, two nodes started together in their ids.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    node.incarnation = nanos ^ (u64::from(std::process::id()) << 40) ^ config.node_id;
    node.shards = config.shards;
    node.groups = config.groups;
    node.wal_dir.clone_from(&config.wal_dir);
    node.tick = config.tick;
    node.heartbeat_ticks = config.heartbeat_ticks;
    node.election_ticks = config.election_ticks;
    node.priority = config.priority;
    node.segment_size = config.segment_size;
    node.snapshot_every = config.snapshot_every;
    node.snapshot_keep = config.snapshot_keep;
    node.request_timeout = config.request_timeout;
    node.peer_queue_size_max = usize::try_from(config.peer_queue_size).unwrap_or(usize::MAX);
    node.requests_max = usize::try_from(config.requests_max).unwrap_or(usize::MAX);
    node
}
