//! A cluster on this machine: the flags that `bench` and `dev` share.

use std::path::Path;

use super::Failure;
use crate::bench::cluster::{Cluster, ClusterConfig};

#[derive(clap::Args, Debug)]
pub(crate) struct LocalCluster {
    /// Nodes to start on this machine, as processes of their own.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    pub(crate) nodes: u64,

    /// Shards of each node started: threads, each with a ring and a log of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    shards: u16,

    /// Raft groups of the nodes started; keys are spread over them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    groups: u64,
}

impl LocalCluster {
    /// Starts it with its data below `dir`, and waits until every node listens.
    pub(crate) fn start(&self, dir: &Path) -> Result<Cluster, Failure> {
        Ok(Cluster::start(ClusterConfig {
            program: std::env::current_exe()?,
            dir: dir.to_owned(),
            nodes: self.nodes,
            shards: self.shards,
            groups: self.groups,
            flags: Vec::new(),
        })?)
    }
}
