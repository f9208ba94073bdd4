//! Real processes, real sockets, real files; with io_uring where it is permitted, else without.

mod cli;
mod crash;
mod doctor;
mod io;
mod load;
mod rot;

use std::path::{Path, PathBuf};

use ringraft::bench::cluster::{Cluster, ClusterConfig, RunDir};
use ringraft_io::{IoChoice, IoKind, WorldConfig};

/// The `--io` of all programs that these tests start: the variable RINGRAFT_TEST_IO, else what the program takes by itself.
pub(crate) fn io() -> Option<String> {
    std::env::var("RINGRAFT_TEST_IO").ok().filter(|io| !io.is_empty())
}

/// What that comes to here, for what runs in this process.
pub(crate) fn io_kind() -> IoKind {
    let choice = io().map_or(IoChoice::Auto, |io| io.parse().expect("RINGRAFT_TEST_IO is auto, uring or portable"));
    choice.settle(&WorldConfig::new(1)).expect("a world").kind
}

/// Whether io_uring is permitted, for what is to be tried both with it and without; says why if not.
pub(crate) fn has_ring() -> bool {
    match ringraft_io::uring::probe() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("skipped: {error}");
            false
        }
    }
}

pub(crate) fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_ringraft"))
}

/// A directory on the disk that the build is on: tests of a log belong on a disk, and /tmp may be memory.
pub(crate) fn run_dir(name: &str) -> RunDir {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let name = format!("{name}-{}", std::process::id());
    let _ = std::fs::remove_dir_all(parent.join(&name));
    RunDir::create(parent, &name).expect("a directory for the test")
}

/// A cluster of three nodes.
pub(crate) fn cluster(dir: &RunDir, groups: u64, shards: u16, flags: &[&str]) -> Cluster {
    cluster_of(3, dir, groups, shards, flags)
}

pub(crate) fn cluster_of(nodes: u64, dir: &RunDir, groups: u64, shards: u16, flags: &[&str]) -> Cluster {
    let io = io().into_iter().flat_map(|io| ["--io".to_owned(), io]);
    let config = ClusterConfig {
        program: program(),
        dir: dir.path().to_owned(),
        nodes,
        shards,
        groups,
        flags: flags.iter().map(|flag| (*flag).to_owned()).chain(io).collect(),
    };
    Cluster::start(config).expect("a cluster starts")
}
