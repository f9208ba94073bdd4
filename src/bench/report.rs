//! What a benchmark run says at its end: to a person, and to a program.

use std::fmt;

use serde::Serialize;

/// The result of one run. The names are the keys of `--json`; times are microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Acknowledged writes per second.
    pub ops_per_s: f64,
    /// Median latency, from the first try to the acknowledgement.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// Slowest.
    pub max_us: f64,
    /// Closed-loop clients.
    pub clients: usize,
    /// Connections.
    pub conns: usize,
    /// Bytes of a value.
    pub value_size: usize,
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Raft groups.
    pub groups: u64,
    /// Shards per node.
    pub shards: u32,
    /// How the load generator, and the nodes if it has started them, talk to disk and network: uring or portable.
    pub io: String,
    /// Seconds of load.
    pub duration_s: f64,
    /// Writes acknowledged.
    pub acked: u64,
    /// Writes refused and tried again.
    pub retried: u64,
    /// Writes whose outcome is unknown.
    pub uncertain: u64,
    /// Keys with an acknowledged write, each read back at the end.
    pub verified: u64,
    /// Of these, how many were missing, old or damaged. Anything but 0 is a failure.
    pub lost: u64,
    /// The first few losses, or the last error.
    pub last_error: Option<String>,
    /// Version of this program.
    pub version: &'static str,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:.0} writes/s acknowledged ({} in {:.1} s): {} clients on {} connections, {}-byte values",
            self.ops_per_s, self.acked, self.duration_s, self.clients, self.conns, self.value_size
        )?;
        writeln!(
            f,
            "latency us: p50 {:.0}  p90 {:.0}  p99 {:.0}  p99.9 {:.0}  max {:.0}",
            self.p50_us, self.p90_us, self.p99_us, self.p999_us, self.max_us
        )?;
        let Report { nodes, shards, groups, io, .. } = self;
        writeln!(f, "cluster: {nodes} nodes, {shards} shards each, {groups} groups; io: {io}")?;
        writeln!(
            f,
            "synced: every acknowledged write was written with O_DIRECT and its own data sync by a quorum of the group's \
             voters before its reply"
        )?;
        write!(
            f,
            "verified: {} keys with an acknowledged write read back linearizably, {} lost; {} retried, {} uncertain",
            self.verified, self.lost, self.retried, self.uncertain
        )?;
        match &self.last_error {
            Some(error) if self.lost + self.retried + self.uncertain > 0 => write!(f, "\nlast error: {error}"),
            _ => Ok(()),
        }
    }
}
