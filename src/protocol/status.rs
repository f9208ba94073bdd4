//! How a request ended, and what a node tells about itself.

use std::fmt;

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u16)]
pub enum Status {
    /// As asked.
    Ok = 0,
    /// There is no such key.
    NotFound = 1,
    /// Not done: another node leads the group; `arg` is its id.
    NotLeader = 2,
    /// Not done: no leader is known at the moment.
    NoLeader = 3,
    /// It took too long; a write may or may not have been done, or be done later.
    Uncertain = 4,
    /// Not done: a key, a value or an answer would be larger than allowed.
    TooLarge = 5,
    /// Not done: the request makes no sense.
    Malformed = 6,
    /// Not done: the node has as much to do as it can hold; try again later.
    Overloaded = 7,
    /// Not done: this node does not know the operation or a flag of it.
    Unsupported = 8,
    /// Not done: the node is about to stop.
    Stopping = 9,
    /// Not done: the node cannot serve this group any more (its log has failed).
    Unavailable = 10,
}

impl Status {
    /// The status with this number, if there is one.
    #[must_use]
    pub fn from_u16(number: u16) -> Option<Status> {
        Some(match number {
            0 => Status::Ok,
            1 => Status::NotFound,
            2 => Status::NotLeader,
            3 => Status::NoLeader,
            4 => Status::Uncertain,
            5 => Status::TooLarge,
            6 => Status::Malformed,
            7 => Status::Overloaded,
            8 => Status::Unsupported,
            9 => Status::Stopping,
            10 => Status::Unavailable,
            _ => return None,
        })
    }

    /// Its number on the wire.
    #[must_use]
    pub fn number(self) -> u16 {
        self as u16
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Ok => "ok",
            Status::NotFound => "not found",
            Status::NotLeader => "not the leader",
            Status::NoLeader => "no leader",
            Status::Uncertain => "outcome unknown",
            Status::TooLarge => "too large",
            Status::Malformed => "malformed",
            Status::Overloaded => "overloaded",
            Status::Unsupported => "unsupported",
            Status::Stopping => "stopping",
            Status::Unavailable => "unavailable",
        })
    }
}

/// What a node says about itself: the body of a status reply.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeStatus {
    /// The node.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
    /// Its cluster.
    #[prost(uint64, tag = "2")]
    pub cluster_id: u64,
    /// Version of the program.
    #[prost(string, tag = "3")]
    pub version: String,
    /// Shards of this node.
    #[prost(uint32, tag = "4")]
    pub shards: u32,
    /// Groups of the cluster.
    #[prost(uint64, tag = "5")]
    pub groups: u64,
    /// The groups that the answering shard holds.
    #[prost(message, repeated, tag = "6")]
    pub group: Vec<GroupStatus>,
}

/// One raft group as a node sees it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GroupStatus {
    /// The group.
    #[prost(uint64, tag = "1")]
    pub group_id: u64,
    /// What the node is in it.
    #[prost(enumeration = "GroupRole", tag = "2")]
    pub role: i32,
    /// Who leads it; 0: unknown.
    #[prost(uint64, tag = "3")]
    pub leader: u64,
    /// Current term.
    #[prost(uint64, tag = "4")]
    pub term: u64,
    /// Highest index known to be committed.
    #[prost(uint64, tag = "5")]
    pub commit: u64,
    /// Highest index applied.
    #[prost(uint64, tag = "6")]
    pub applied: u64,
    /// The index before the first entry of the log: where the last snapshot ends.
    #[prost(uint64, tag = "7")]
    pub log_base: u64,
    /// The last index of the log.
    #[prost(uint64, tag = "8")]
    pub last_index: u64,
}

/// A node's role in a group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum GroupRole {
    /// Follows a leader, or waits for one.
    Follower = 0,
    /// Asks whether it could win.
    PreCandidate = 1,
    /// Asks for votes.
    Candidate = 2,
    /// Leads.
    Leader = 3,
}

impl From<ringraft_raft::Role> for GroupRole {
    fn from(role: ringraft_raft::Role) -> GroupRole {
        match role {
            ringraft_raft::Role::Follower => GroupRole::Follower,
            ringraft_raft::Role::PreCandidate => GroupRole::PreCandidate,
            ringraft_raft::Role::Candidate => GroupRole::Candidate,
            ringraft_raft::Role::Leader => GroupRole::Leader,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_statuses_agree() {
        let known: Vec<Status> = (0..=u16::MAX).filter_map(Status::from_u16).collect();
        assert_eq!(known.len(), 11);
        for (number, status) in known.into_iter().enumerate() {
            assert_eq!(usize::from(status.number()), number, "{status}");
        }
    }
}
