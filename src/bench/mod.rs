//! The load generator: how much a cluster takes, how long it makes clients wait, and whether it kept its word.

pub mod cluster;
mod keys;
mod load;
mod report;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use ringraft_io::{Io, IoKind, Seed, World, WorldConfig, WorldError};

pub use keys::{Keys, VALUE_SIZE_MIN};
pub use load::{Load, LoadConfig, Tally, Work};
pub use report::Report;

use crate::client::{Client, ClientOptions};
use crate::protocol::{GroupRole, NodeStatus};

/// One run.
#[derive(Clone, Debug)]
pub struct BenchConfig {
    /// Client addresses of the cluster.
    pub endpoints: Vec<String>,
    /// Closed-loop clients.
    pub clients: usize,
    /// Connections.
    pub connections: usize,
    /// Bytes of a value.
    pub value_size: usize,
    /// How long the load lasts.
    pub duration: Duration,
    /// Keys in all, divided among the clients.
    pub keys: u64,
    /// How the load generator talks to the network.
    pub io: IoKind,
    /// Load the leader of a single-group cluster only, as etcd's benchmark can; otherwise all nodes in turn.
    pub target_leader: bool,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No world to run in, such as no io_uring.
    #[error(transparent)]
    Start(#[from] WorldError),
    /// It failed while running.
    #[error("waiting for the network has failed: {0}")]
    World(std::io::Error),
    /// The cluster is not there, or has no leader.
    #[error(
        "no usable cluster at {endpoints} after {waited:?}: {last}; check that the nodes run and can reach each other"
    )]
    NoCluster {
        /// Where it was looked for.
        endpoints: String,
        /// For how long.
        waited: Duration,
        /// What was seen last.
        last: String,
    },
    /// Requests came to a halt.
    #[error("the cluster stopped answering: {0}")]
    Stuck(String),
}

/// How long a cluster may take to have a leader everywhere.
const LEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long answers may take that are under way when the load ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Waits until every group has a leader that some endpoint knows; the nodes' words in the order of the endpoints.
///
/// # Errors
/// If that takes too long.
pub fn wait_for_leaders(endpoints: &[String]) -> Result<Vec<NodeStatus>, BenchError> {
    let begin = Instant::now();
    let options = ClientOptions { connect_timeout: Duration::from_secs(2), ..ClientOptions::default() };
    let mut last = String::new();
    loop {
        let mut nodes = Vec::new();
        for endpoint in endpoints {
            match Client::connect(&[endpoint], options.clone()).and_then(|client| client.status().wait()) {
                Ok(status) => nodes.push(status),
                Err(error) => last = format!("{endpoint}: {error}"),
            }
        }
        let leads = |group: u64| {
            nodes
                .iter()
                .flat_map(|node| &node.group)
                .any(|it| it.group_id == group && it.role == GroupRole::Leader as i32)
        };
        if nodes.len() == endpoints.len() {
            match (0..nodes[0].groups).find(|group| !leads(*group)) {
                None => return Ok(nodes),
                Some(group) => last = format!("group {group} has no leader"),
            }
        }
        if begin.elapsed() > LEADER_TIMEOUT {
            let endpoints = endpoints.join(", ");
            return Err(BenchError::NoCluster { endpoints, waited: LEADER_TIMEOUT, last });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a load and verifies what was acknowledged.
///
/// # Errors
/// If there is no cluster or no io_uring; a lost write is not an error but a result.
pub fn run(config: &BenchConfig) -> Result<Report, BenchError> {
    let nodes = wait_for_leaders(&config.endpoints)?;
    let mut world = World::start(config.io, WorldConfig::new(1))?;
    match world.take_seeds().pop().expect("one shard") {
        Seed::Uring(seed) => load_with(seed.into_io()?, config, &nodes),
        Seed::Portable(seed) => load_with(seed.into_io()?, config, &nodes),
    }
}

fn load_with<I: Io>(io: I, config: &BenchConfig, nodes: &[NodeStatus]) -> Result<Report, BenchError> {
    let load_config = LoadConfig {
        endpoints: targets(config, nodes),
        clients: config.clients,
        connections: config.connections,
        retry_after: Duration::from_millis(20),
    };
    let per_client = (config.keys / config.clients as u64).max(1);
    // Names differ from run to run, so that one run's keys never hold another's values.
    let prefix = format!("bench-{:x}-", std::process::id());
    let keys = Keys::new(config.clients, per_client, config.value_size, &prefix);
    let mut load = Load::new(io, load_config, keys);
    let progress = Progress::new();

    drive(&mut load, &progress, "connecting", Some(DRAIN_TIMEOUT), Load::is_connected)?;
    let _ = load.begin(Work::Write);
    let begin = load.now();
    let end = begin + config.duration;
    drive(&mut load, &progress, "writing", None, |load| load.now() >= end)?;
    let seconds = load.now().since(begin).as_secs_f64();
    let in_time = load.tally.acked;
    load.stop();
    drive(&mut load, &progress, "finishing", Some(DRAIN_TIMEOUT), Load::is_idle)?;
    let keys_acked = load.keys_acked();
    let written = load.begin(Work::Verify);
    drive(&mut load, &progress, "verifying", Some(LEADER_TIMEOUT * 10), Load::is_idle)?;
    progress.finish();
    let checked = &load.tally;

    let us = |quantile: f64| written.latency.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(Report {
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        ops_per_s: in_time as f64 / seconds,
        p50_us: us(0.5),
        p90_us: us(0.9),
        p99_us: us(0.99),
        p999_us: us(0.999),
        max_us: us(1.0),
        clients: config.clients,
        conns: config.connections.min(config.clients),
        value_size: config.value_size,
        nodes: config.endpoints.len(),
        groups: nodes[0].groups,
        shards: nodes[0].shards,
        io: config.io.to_string(),
        duration_s: seconds,
        acked: written.acked,
        retried: written.retried,
        uncertain: written.uncertain,
        verified: checked.acked,
        lost: checked.lost + keys_acked.saturating_sub(checked.acked),
        last_error: checked.last_error.clone().or(written.last_error),
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// Whom to load.
fn targets(config: &BenchConfig, nodes: &[NodeStatus]) -> Vec<String> {
    let leads = |node: &NodeStatus| node.group.iter().any(|group| group.role == GroupRole::Leader as i32);
    if config.target_leader && nodes[0].groups == 1 {
        let leader = nodes.iter().position(leads).expect("waited for");
        return vec![config.endpoints[leader].clone()];
    }
    config.endpoints.clone()
}

/// Turns until `done`; an error if that takes longer than `patience`.
fn drive<I: Io>(
    load: &mut Load<I>,
    progress: &Progress,
    phase: &'static str,
    patience: Option<Duration>,
    done: impl Fn(&Load<I>) -> bool,
) -> Result<(), BenchError> {
    let begin = load.now();
    let mut shown = begin;
    let mut acked = load.tally.acked;
    while !done(load) {
        let now = load.now();
        load.turn(now + Duration::from_millis(50)).map_err(BenchError::World)?;
        let now = load.now();
        if now.since(shown) >= Duration::from_millis(500) {
            progress.show(phase, &load.tally, load.tally.acked - acked, now.since(shown));
            (shown, acked) = (now, load.tally.acked);
        }
        if patience.is_some_and(|patience| now.since(begin) > patience) {
            let last = load.tally.last_error.clone().unwrap_or_else(|| "no answer".to_owned());
            return Err(BenchError::Stuck(format!("{phase} took longer than {patience:?}: {last}")));
        }
    }
    Ok(())
}

/// Live progress, on a terminal only.
struct Progress(Option<ProgressBar>);

impl Progress {
    fn new() -> Progress {
        if !std::io::stderr().is_terminal() {
            return Progress(None);
        }
        let style = ProgressStyle::with_template("{spinner} [{elapsed}] {msg}").expect("a valid template");
        Progress(Some(ProgressBar::new_spinner().with_style(style)))
    }

    fn show(&self, phase: &str, tally: &Tally, acked: u64, over: Duration) {
        let Some(bar) = &self.0 else { return };
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = acked as f64 / over.as_secs_f64();
        let p99 = Duration::from_nanos(tally.latency.value_at_quantile(0.99));
        bar.set_message(format!(
            "{phase}: {rate:.0}/s, {} acknowledged, p99 {p99:.1?}, {} retried, {} lost",
            tally.acked, tally.retried, tally.lost
        ));
        bar.tick();
    }

    fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
