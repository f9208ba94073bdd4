//! Recordings of etcd's raft, replayed byte for byte: `interaction/`, `quorum/` and `confchange/` of a folder.
//!
//! The folder is `RAFT_TRACES`, or `testdata/traces` of this crate: scripts of our own for what those recordings leave
//! out, and beside them the recordings themselves where they lie next to the repository.

mod support;

use std::path::{Path, PathBuf};

use support::etcd::Env;
use support::etcd::pure::{Changer, quorum};
use support::script;

fn scripts(folder: &Path) -> Vec<PathBuf> {
    let Ok(files) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    paths
}

/// Replays one script; tells the first difference.
fn replay(suite: &str, path: &Path) -> Result<(), String> {
    match suite {
        "interaction" => {
            let mut env = Env::default();
            script::check(path, |directive| env.handle(directive))
        }
        "quorum" => script::check(path, quorum),
        _ => {
            let mut changer = Changer::default();
            script::check(path, |directive| changer.handle(directive))
        }
    }
}

/// Replays every script of a folder, and says which did not replay.
fn replay_all(root: &Path) -> Vec<String> {
    let (mut count, mut failures) = (0, Vec::new());
    for suite in ["interaction", "quorum", "confchange"] {
        for path in scripts(&root.join(suite)) {
            let result = std::panic::catch_unwind(|| replay(suite, &path));
            count += 1;
            match result {
                Ok(Ok(())) => {}
                Ok(Err(difference)) => failures.push(difference),
                Err(_) => failures.push(format!("{}: panicked", path.display())),
            }
        }
    }
    println!("{}: {} of {count} scripts replay", root.display(), count - failures.len());
    assert!(count > 0, "no scripts in {}", root.display());
    failures
}

#[test]
fn recordings_replay() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let failures = match std::env::var_os("RAFT_TRACES") {
        Some(root) => replay_all(Path::new(&root)),
        None => {
            let mut failures = replay_all(&own.join("testdata/traces"));
            let beside = own.join("../../shared/testdata/etcd-raft");
            if beside.is_dir() {
                failures.extend(replay_all(&beside));
            } else {
                println!("no recordings in {}: only our own scripts were replayed", beside.display());
            }
            failures
        }
    };
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}
