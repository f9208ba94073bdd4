//! Real processes, a real ring, real files. Skipped with a message where io_uring is not permitted.

mod cli;
mod crash;
mod load;
mod rot;

use std::path::{Path, PathBuf};

use ringraft::bench::cluster::{Cluster, ClusterConfig, RunDir};

/// Whether these tests can run here; says why if not.
pub(crate) fn can_run() -> bool {
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

pub(crate) fn cluster(dir: &RunDir, groups: u64, shards: u16, flags: &[&str]) -> Cluster {
    let config = ClusterConfig {
        program: program(),
        dir: dir.path().to_owned(),
        nodes: 3,
        shards,
        groups,
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
    };
    Cluster::start(config).expect("a cluster starts")
}
