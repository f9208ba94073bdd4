//! What a transport may be told, checked at the door.

use std::time::Duration;

use ringraft_io::ShardNo;
use ringraft_raft::PeerId;

use crate::frame::ClusterId;
use crate::send_queue::QueueLimits;

/// The settings of one shard's [`Transport`](crate::Transport).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: PeerId,
    /// The start of this process; no two processes of one node may use the same.
    pub incarnation: u64,
    /// This shard.
    pub shard: ShardNo,
    /// How many shards there are; the same on every node.
    pub shards: u16,
    /// First of the [`TOKENS`](crate::TOKENS) tokens that are the transport's own.
    pub token_base: u64,
    /// For the jitter of back-off.
    pub seed: u64,
    /// For connecting and greeting together.
    pub dial_timeout: Duration,
    /// Wait before the first redial; doubles with every further one.
    pub backoff_min: Duration,
    /// Longest wait before a redial.
    pub backoff_max: Duration,
    /// A writer that has been silent for so long says that it is alive. The same on every node.
    pub link_heartbeat: Duration,
    /// A reader that hears nothing for so many link heartbeats gives the stream up.
    pub link_heartbeats_missed_max: u32,
    /// A send that takes longer costs its stream.
    pub send_timeout: Duration,
    /// Payload of one send, in bytes; one message may exceed it.
    pub send_size_max: usize,
    /// What may wait for an append stream.
    pub append_queue: QueueLimits,
    /// What may wait for a message stream.
    pub message_queue: QueueLimits,
}

impl Config {
    /// The settings that suit most networks, for shard 0 of 1.
    #[must_use]
    pub fn new(cluster: ClusterId, node: PeerId, incarnation: u64) -> Config {
        Config {
            cluster,
            node,
            incarnation,
            shard: ShardNo(0),
            shards: 1,
            token_base: 0,
            seed: incarnation ^ node.0,
            dial_timeout: Duration::from_secs(2),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            link_heartbeat: Duration::from_millis(500),
            link_heartbeats_missed_max: 3,
            send_timeout: Duration::from_secs(5),
            send_size_max: 256 << 10,
            append_queue: QueueLimits { messages_max: 4096, bytes_max: 16 << 20 },
            message_queue: QueueLimits { messages_max: 4096, bytes_max: 4 << 20 },
        }
    }

    /// How long a reader waits for a sign of life.
    #[must_use]
    pub fn silence_max(&self) -> Duration {
        self.link_heartbeat.saturating_mul(self.link_heartbeats_missed_max)
    }

    /// Whether these settings can work.
    ///
    /// # Errors
    /// The first that cannot.
    pub fn check(&self) -> Result<(), ConfigError> {
        let queues = [self.append_queue, self.message_queue];
        let refuse = |field, reason| Err(ConfigError { field, reason });
        if self.node == PeerId::ZERO {
            refuse("node", "0 is nobody")
        } else if self.shard.0 >= self.shards {
            refuse("shard", "it is not below the number of shards")
        } else if self.token_base.checked_add(crate::TOKENS).is_none() {
            refuse("token_base", "its range does not fit into 64 bits")
        } else if self.backoff_min.is_zero() || self.backoff_max < self.backoff_min {
            refuse("backoff_min", "it must be positive and at most backoff_max")
        } else if self.dial_timeout.is_zero() {
            refuse("dial_timeout", "it must be positive")
        } else if self.link_heartbeat.is_zero() || self.link_heartbeats_missed_max < 2 {
            refuse("link_heartbeat", "it must be positive, and more than one may be missed")
        } else if self.send_timeout.is_zero() {
            refuse("send_timeout", "it must be positive")
        } else if self.send_size_max == 0 {
            refuse("send_size_max", "it must be positive")
        } else if queues.iter().any(|queue| queue.messages_max == 0 || queue.bytes_max == 0) {
            refuse("append_queue", "a queue needs room for one message")
        } else {
            Ok(())
        }
    }
}

/// A setting that cannot work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ConfigError {
    /// Which.
    pub field: &'static str,
    /// Why.
    pub reason: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checked_at_the_door() {
        let good = Config::new(ClusterId(1), PeerId(1), 1);
        assert_eq!(good.check(), Ok(()));
        for (field, bad) in [
            ("node", Config { node: PeerId(0), ..good.clone() }),
            ("shard", Config { shard: ShardNo(1), ..good.clone() }),
            ("token_base", Config { token_base: u64::MAX, ..good.clone() }),
            ("backoff_min", Config { backoff_min: Duration::ZERO, ..good.clone() }),
            ("backoff_min", Config { backoff_max: Duration::from_millis(1), ..good.clone() }),
            ("link_heartbeat", Config { link_heartbeats_missed_max: 1, ..good.clone() }),
            ("send_size_max", Config { send_size_max: 0, ..good.clone() }),
        ] {
            assert_eq!(bad.check().map_err(|error| error.field), Err(field));
        }
    }
}
