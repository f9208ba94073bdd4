//! What a node is told at start, apart from how it reaches the world.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ringraft_io::ShardNo;
use ringraft_raft::{GroupId, PRIORITY_MAX, PeerId, record};

use crate::protocol::COMMAND_SIZE_MAX;

/// The same for every shard of a node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Cluster id; peers and data of another one are refused.
    pub cluster: u64,
    /// Own id.
    pub node: PeerId,
    /// Distinguishes this run of the process from every other one.
    pub incarnation: u64,
    /// The initial voters with their peer addresses (`host:port`), own included. Only a new data directory takes its
    /// membership from here.
    pub members: BTreeMap<PeerId, Vec<String>>,
    /// Number of shards; the same on all nodes of the cluster, for the life of the data.
    pub shards: u16,
    /// Number of groups, ids from 0; the same on all nodes of the cluster, for the life of the data.
    pub groups: u64,
    /// Data directory; shard `s` lives in `shard-s` below it.
    pub data_dir: PathBuf,
    /// Directory of the logs if not `data_dir`.
    pub wal_dir: Option<PathBuf>,
    /// Length of a tick.
    pub tick: Duration,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: u32,
    /// Ticks without a leader before an election, at the least.
    pub election_ticks: u32,
    /// How soon this node asks to lead when a leader is lost, from [`PRIORITY_MAX`] (first) to 1; 0: never by itself.
    /// See [`ringraft_raft::Config::priority`].
    pub priority: u8,
    /// How long a client's request may wait before it is answered as uncertain.
    pub request_timeout: Duration,
    /// Most requests that wait at one shard.
    pub requests_max: usize,
    /// Most unanswered requests of one connection before it is not read any more.
    pub connection_requests_max: usize,
    /// Bytes that may wait for one stream of a peer (more with very many groups).
    pub peer_queue_size_max: usize,
    /// Largest snapshot of one group that is taken from a peer, in bytes; it is held in memory while it is installed.
    pub snapshot_size_max: u64,
    /// Entries applied after a group's last snapshot before the next one is taken.
    pub snapshot_every: u64,
    /// Entries kept in the log behind a snapshot, for followers that are a little behind.
    pub snapshot_keep: u64,
    /// Bytes of a snapshot made per turn.
    pub snapshot_chunk_size: usize,
    /// Most bytes of one entry's record; larger requests are refused.
    pub record_size_max: usize,
    /// Most bytes of one log write, unless a single record is larger.
    pub batch_size_max: usize,
    /// Size of a log segment.
    pub segment_size: u64,
    /// Segments in use beyond which groups that pin the oldest one are snapshotted.
    pub segments_max: usize,
    /// Bytes of log entries a shard keeps in memory.
    pub cache_size_max: usize,
}

impl NodeConfig {
    /// Defaults for node `node` of a cluster, everything under `data_dir`.
    #[must_use]
    pub fn new(cluster: u64, node: PeerId, data_dir: PathBuf) -> NodeConfig {
        NodeConfig {
            cluster,
            node,
            incarnation: 0,
            members: BTreeMap::new(),
            shards: 1,
            groups: 1,
            data_dir,
            wal_dir: None,
            tick: Duration::from_millis(100),
            heartbeat_ticks: 1,
            election_ticks: 10,
            priority: PRIORITY_MAX,
            request_timeout: Duration::from_secs(5),
            requests_max: 65_536,
            connection_requests_max: 4096,
            peer_queue_size_max: 16 << 20,
            snapshot_size_max: 8 << 30,
            snapshot_every: 1_000_000,
            snapshot_keep: 10_000,
            snapshot_chunk_size: 256 << 10,
            record_size_max: record::encoded_len(super::core::ENVELOPE + COMMAND_SIZE_MAX),
            batch_size_max: 1 << 20,
            segment_size: 64 << 20,
            segments_max: 8,
            cache_size_max: 128 << 20,
        }
    }

    /// Where a shard keeps its log.
    #[must_use]
    pub fn log_dir(&self, shard: ShardNo) -> PathBuf {
        self.wal_dir.as_ref().unwrap_or(&self.data_dir).join(format!("shard-{shard}"))
    }

    /// Where a shard keeps its snapshots.
    #[must_use]
    pub fn snapshot_dir(&self, shard: ShardNo) -> PathBuf {
        self.data_dir.join(format!("shard-{shard}")).join("snap")
    }

    /// The shard on which a group lives.
    #[must_use]
    pub fn shard_of(&self, group: GroupId) -> ShardNo {
        shard_of(group, self.shards)
    }

    /// The groups of a shard, ascending.
    pub fn groups_of(&self, shard: ShardNo) -> impl Iterator<Item = GroupId> + '_ {
        (0..self.groups).map(GroupId).filter(move |group| self.shard_of(*group) == shard)
    }
}

/// The shard, of `shards`, on which a group lives: a hash, so that numbered groups spread evenly.
#[must_use]
pub fn shard_of(group: GroupId, shards: u16) -> ShardNo {
    // Fibonacci hashing: the high bits of a product with 2^64 / golden ratio.
    let hash = group.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    ShardNo(u16::try_from(hash % u64::from(shards)).expect("less than shards"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_spread_over_shards() {
        let mut config = NodeConfig::new(1, PeerId(1), PathBuf::new());
        (config.shards, config.groups) = (4, 1000);
        let counts: Vec<usize> = (0..4).map(|shard| config.groups_of(ShardNo(shard)).count()).collect();
        assert_eq!(counts.iter().sum::<usize>(), 1000);
        assert!(counts.iter().all(|count| (200..300).contains(count)), "{counts:?}");
    }
}
