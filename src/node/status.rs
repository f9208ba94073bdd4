//! What a node tells about itself: each shard writes on the board what has changed, at most once per tick.

use std::sync::Mutex;

use ringraft_engine::GroupLog;
use ringraft_io::ShardNo;
use ringraft_raft::{Raft, Storage};

use super::config::NodeConfig;
use super::core::Group;
use crate::protocol::{GroupRole, GroupStatus, NodeStatus};

/// The latest word of every shard of a node.
#[derive(Debug)]
pub struct Board {
    shards: Vec<Mutex<Vec<GroupStatus>>>,
}

impl Board {
    /// An empty board for `shards` shards.
    #[must_use]
    pub fn new(shards: u16) -> Board {
        Board { shards: (0..shards).map(|_| Mutex::default()).collect() }
    }

    /// Groups of a shard, by slot, as they are now.
    pub(crate) fn publish(&self, shard: ShardNo, changed: impl Iterator<Item = (usize, GroupStatus)>) {
        let mut page = self.shards[usize::from(shard.0)].lock().expect("nobody panics with the lock");
        for (slot, status) in changed {
            if slot >= page.len() {
                page.resize_with(slot + 1, GroupStatus::default);
            }
            page[slot] = status;
        }
    }

    /// What all shards said last.
    pub(crate) fn read(&self, config: &NodeConfig) -> NodeStatus {
        let mut group: Vec<GroupStatus> = Vec::new();
        for page in &self.shards {
            group.extend(page.lock().expect("nobody panics with the lock").iter().cloned());
        }
        group.sort_unstable_by_key(|group| group.group_id);
        NodeStatus {
            node_id: config.node.0,
            cluster_id: config.cluster,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            shards: u32::from(config.shards),
            groups: config.groups,
            group,
        }
    }
}

pub(crate) fn of_group<M>(group: &Group<M>) -> GroupStatus {
    of_raft(group.id.0, &group.raft)
}

fn of_raft(group_id: u64, raft: &Raft<GroupLog>) -> GroupStatus {
    let status = raft.status();
    GroupStatus {
        group_id,
        role: GroupRole::from(status.role) as i32,
        leader: status.lead.0,
        term: status.term.0,
        commit: status.commit.0,
        applied: status.applied.0,
        log_base: raft.storage().base().index.0,
        last_index: raft.last_index().0,
    }
}
