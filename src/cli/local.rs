//! A cluster on this machine: the flags that `bench` and `dev` share.

use std::path::Path;

use ringraft_io::IoKind;

use super::Failure;
use super::io::IoFlag;
use crate::bench::cluster::{Cluster, ClusterConfig};

/// What the load generator needs, in shards.
const LOAD_SHARDS: u16 = 1;

#[derive(clap::Args, Debug)]
pub(crate) struct LocalCluster {
    /// Nodes to start on this machine, as processes of their own.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) nodes: u16,

    /// Shards of each node started: threads, each with a ring and a log of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    shards: u16,

    /// Raft groups of the nodes started; keys are spread over them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    groups: u64,

    #[command(flatten)]
    io: IoFlag,
}

impl LocalCluster {
    /// What `--io` comes to for all nodes together, with a load in this process beside them: a limit on locked memory
    /// holds for the user, not for a process. To be asked once, for it may warn.
    pub(crate) fn io(&self) -> Result<IoKind, Failure> {
        self.io.settle(self.nodes * self.shards + LOAD_SHARDS)
    }

    /// What it comes to for a load alone.
    pub(crate) fn io_of_load(&self) -> Result<IoKind, Failure> {
        self.io.settle(LOAD_SHARDS)
    }

    /// Starts it with its data below `dir`, and waits until every node listens.
    pub(crate) fn start(&self, dir: &Path, io: IoKind) -> Result<Cluster, Failure> {
        Ok(Cluster::start(ClusterConfig {
            program: std::env::current_exe()?,
            dir: dir.to_owned(),
            nodes: u64::from(self.nodes),
            shards: self.shards,
            groups: self.groups,
            flags: vec!["--io".to_owned(), io.to_string()],
        })?)
    }
}
