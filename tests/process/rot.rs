//! A bit that flips in a log file of a node that is down: the node starts, is repaired by the others, and serves.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ringraft::bench::wait_for_leaders;

use super::crash::{leader, status};
use super::load::{Load, read_all};
use super::{cluster, run_dir};
use crate::history;

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Flips a bit in a batch of entries that later ones say was durable, in the middle of the log: in which file. None if
/// there are too few batches for that: a follower that was slow may have written much in one.
fn flip(dir: &Path) -> Option<PathBuf> {
    let mut batches = Vec::new();
    let mut mark = 0;
    for file in std::fs::read_dir(dir).expect("a directory") {
        let path = file.expect("readable").path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seg-")) {
            continue;
        }
        let bytes = std::fs::read(&path).expect("readable");
        for (at, block) in bytes.chunks_exact(4096).enumerate().filter(|(_, block)| &block[..4] == b"RRBK") {
            mark = mark.max(u64_at(block, 48));
            // A batch; then the flags of its one section: it has entries. The last byte that it covers.
            if block[6] == 2 && u64_at(block, 32) == at as u64 * 4096 && block[80 + 8] & 64 != 0 {
                let len = u32::from_le_bytes(block[64..68].try_into().expect("four bytes")) as usize;
                batches.push((u64_at(block, 40), path.clone(), at * 4096 + 80 + len - 1));
            }
        }
    }
    batches.retain(|(lsn, ..)| *lsn + 20 < mark);
    if batches.is_empty() {
        return None;
    }
    batches.sort_unstable();
    let (_, path, at) = batches.swap_remove(batches.len() / 2);
    let mut bytes = std::fs::read(&path).expect("readable");
    bytes[at] ^= 16;
    std::fs::write(&path, bytes).expect("writable");
    Some(path)
}

#[test]
fn a_flipped_bit_is_repaired_by_the_others() {
    let dir = run_dir("rot");
    let mut cluster = cluster(&dir, 1, 1, &[]);
    let endpoints = cluster.endpoints();
    wait_for_leaders(&endpoints).expect("a leader");
    let load = Load::start(&endpoints, 0, 6, 8, 1);
    load.wait_for_writes(1000);
    let victim = 1 + leader(&endpoints).expect("a leader") % 3;
    let path = loop {
        cluster.kill(victim);
        if let Some(path) = flip(&cluster.dir(victim).join("shard-0")) {
            break path;
        }
        cluster.restart(victim).expect("it starts");
        load.wait_for_writes(1000);
    };
    load.wait_for_writes(100);
    cluster.restart(victim).expect("it starts with a hole");

    // The others go on, and it says what it has lost, and when it has it again.
    let begin = Instant::now();
    let said = |what: &str| cluster.said(victim).iter().any(|line| line.contains(what));
    while !said("group 0: repaired by its peers") {
        assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", cluster.said(victim));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(said(&format!("{} is damaged at ", path.display())), "{:?}", cluster.said(victim));
    assert!(said("it does not vote until its peers have repaired it"), "{:?}", cluster.said(victim));
    load.wait_for_writes(100);

    // It counts again: with it and without another one the cluster goes on.
    let other = (1..=3).find(|node| *node != victim).expect("three");
    cluster.kill(other);
    load.wait_for_writes(100);
    let applied = status(&endpoints[usize::try_from(victim - 1).unwrap()]).applied;
    assert!(applied > 1100, "{applied}");
    let mut history = load.finish();
    let alive: Vec<String> =
        (1..).zip(&endpoints).filter(|(node, _)| *node != other).map(|(_, endpoint)| endpoint.clone()).collect();
    read_all(&alive, 8, 1, &mut history);
    history::check(&history).unwrap_or_else(|what| panic!("{what}"));

    // Mended for good: the next start has nothing to say.
    cluster.kill(victim);
    cluster.restart(victim).expect("it starts");
    let lines = cluster.said(victim);
    let last = lines.iter().rposition(|line| line.contains("repaired by its peers")).expect("said before");
    assert!(lines[last..].iter().all(|line| !line.contains("does not vote")), "{lines:?}");
}
