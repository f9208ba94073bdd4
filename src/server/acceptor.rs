//! Who may come in: peers to their shards, clients to any.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::Bytes;
use ringraft_io::{Acceptor, ListenerKind, ShardNo, Verdict};
use ringraft_raft::PeerId;
use ringraft_transport::ClusterId;
use ringraft_transport::handshake::{Judge, JudgeConfig, Members};

use crate::node::NodeConfig;
use crate::protocol::head::{self, HeadError, Welcome};

/// Judges connections to both of a node's listeners.
#[derive(Debug)]
pub struct NodeAcceptor {
    peers: Judge,
    node: PeerId,
    shards: u16,
    groups: u64,
    next_shard: AtomicU16,
}

impl NodeAcceptor {
    /// The judge of a node; lets in the members of its configuration.
    #[must_use]
    pub fn new(config: Arc<NodeConfig>) -> NodeAcceptor {
        let members = Members::default();
        config.members.keys().filter(|peer| **peer != config.node).for_each(|peer| members.add(*peer));
        let snapshot_dirs: Vec<PathBuf> = (0..config.shards).map(|shard| config.snapshot_dir(ShardNo(shard))).collect();
        let judge = JudgeConfig {
            cluster: ClusterId(config.cluster),
            node: config.node,
            incarnation: config.incarnation,
            snapshot_dirs,
            snapshot_size_max: config.snapshot_size_max,
        };
        NodeAcceptor {
            peers: Judge::new(judge, members),
            node: config.node,
            shards: config.shards,
            groups: config.groups,
            next_shard: AtomicU16::new(0),
        }
    }

    fn client(&self, request: &[u8]) -> Verdict {
        let hello = match head::judge_request(request) {
            Ok(hello) => hello,
            Err(error) => return Verdict::Refuse { response: head::refusal_head(&error) },
        };
        let shard = match hello.shard {
            Some(shard) if shard >= self.shards => {
                let text = format!("there is no shard {shard}, only {}", self.shards);
                let error = HeadError::Refused { status: 404, text };
                return Verdict::Refuse { response: head::refusal_head(&error) };
            }
            Some(shard) => shard,
            // Clients that do not care are spread evenly.
            None => self.next_shard.fetch_add(1, Ordering::Relaxed) % self.shards,
        };
        let welcome = Welcome { node: self.node.0, shards: self.shards, groups: self.groups };
        Verdict::Stream { shard: ShardNo(shard), response: head::response_head(&welcome), greeting: Bytes::new() }
    }
}

impl Acceptor for NodeAcceptor {
    fn judge(&self, listener: ListenerKind, request: &[u8]) -> Verdict {
        match listener {
            ListenerKind::Peer => self.peers.judge(request),
            ListenerKind::Client => self.client(request),
        }
    }
}
