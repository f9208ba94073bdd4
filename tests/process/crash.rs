//! `kill -9` under load: nothing acknowledged is lost, and nothing stale is read.

use std::time::{Duration, Instant};

use ringraft::bench::wait_for_leaders;
use ringraft::client::{Client, ClientOptions};
use ringraft::protocol::{GroupRole, GroupStatus};

use super::load::{Load, read_all};
use super::{cluster, run_dir};
use crate::history;

const CYCLES: u64 = 20;
const KEYS: u64 = 8;

/// The node that leads group 0, as far as any node that answers knows.
pub(crate) fn leader(endpoints: &[String]) -> Option<u64> {
    (1..).zip(endpoints).find_map(|(node, endpoint)| {
        let options = ClientOptions { connect_timeout: Duration::from_millis(500), ..ClientOptions::default() };
        let status = Client::connect(&[endpoint], options).and_then(|client| client.status().wait()).ok()?;
        let leads = status.group.iter().any(|group| group.group_id == 0 && group.role == GroupRole::Leader as i32);
        leads.then_some(node)
    })
}

/// What a node says of group 0.
pub(crate) fn status(endpoint: &String) -> GroupStatus {
    let status = Client::connect(&[endpoint], ClientOptions::default()).and_then(|client| client.status().wait());
    status.expect("it answers").group.remove(0)
}

/// Waits until the node has applied entry `index`.
fn wait_applied(endpoint: &String, index: u64) {
    let begin = Instant::now();
    while status(endpoint).applied < index {
        assert!(begin.elapsed() < Duration::from_secs(60), "it stays behind {index}: {:?}", status(endpoint));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_follower_far_behind_in_small_steps_catches_up_by_log() {
    let dir = run_dir("behind");
    let mut cluster = cluster(&dir, 1, 1, &[]);
    let endpoints = cluster.endpoints();
    wait_for_leaders(&endpoints).expect("a leader");
    let lead = leader(&endpoints).expect("a leader");
    let (behind, other) = (1 + lead % 3, 1 + (lead + 1) % 3);
    cluster.kill(behind);
    // One write at a time is one piece of the log each: more pieces than one send can gather.
    let client = Client::connect(&[&endpoints[usize::try_from(lead - 1).unwrap()]], ClientOptions::default()).unwrap();
    let mut last = 0;
    for number in 0..3000_u64 {
        last = client.put(b"key", &number.to_le_bytes()).wait().expect("two of three are up");
    }
    cluster.restart(behind).expect("it starts");
    wait_applied(&endpoints[usize::try_from(behind - 1).unwrap()], 3000);
    assert_eq!(status(&endpoints[usize::try_from(behind - 1).unwrap()]).log_base, 0, "by log, not by snapshot");
    // It counts again: with it and without the other one the cluster goes on.
    cluster.kill(other);
    let revision = client.put(b"key", b"more").wait().expect("two of three are up");
    assert_eq!(revision, last + 1);
}

#[test]
fn twenty_kills_lose_nothing() {
    let cycles = std::env::var("KILL_CYCLES").map_or(CYCLES, |text| text.parse().expect("KILL_CYCLES is a number"));
    let dir = run_dir("kills");
    let mut cluster = cluster(&dir, 1, 1, &["--snapshot-every", "5000"]);
    let endpoints = cluster.endpoints();
    wait_for_leaders(&endpoints).expect("a leader");
    let load = Load::start(&endpoints, 0, 6, KEYS, 1);
    for cycle in 0..cycles {
        load.wait_for_writes(50);
        // Leader and followers in turn; without a known leader, any node.
        let lead = leader(&endpoints).unwrap_or(1 + cycle % 3);
        let victim = if cycle.is_multiple_of(2) { lead } else { 1 + lead % 3 };
        cluster.kill(victim);
        // The other two go on.
        load.wait_for_writes(20);
        cluster.restart(victim).expect("it starts again from what is on its disk");
    }
    load.wait_for_writes(50);
    let mut history = load.finish();
    read_all(&endpoints, KEYS, 1, &mut history);
    history::check(&history).unwrap_or_else(|what| panic!("after {} operations: {what}", history.len()));
    println!("{cycles} kills, {} operations checked", history.len());
}

#[test]
fn all_nodes_killed_at_once_lose_nothing() {
    let dir = run_dir("blackout");
    // Several groups on two shards, clients at every shard.
    let mut cluster = cluster(&dir, 5, 2, &[]);
    let endpoints = cluster.endpoints();
    wait_for_leaders(&endpoints).expect("leaders");
    let mut history = Vec::new();
    for round in 0..3 {
        let load = Load::start(&endpoints, round, 6, KEYS, 5);
        load.wait_for_writes(200);
        for node in 1..=3 {
            cluster.kill(node);
        }
        history.extend(load.finish());
        for node in 1..=3 {
            cluster.restart(node).expect("it starts again from what is on its disk");
        }
        wait_for_leaders(&endpoints).expect("leaders again");
    }
    read_all(&endpoints, KEYS, 5, &mut history);
    history::check(&history).unwrap_or_else(|what| panic!("after {} operations: {what}", history.len()));
}

#[test]
fn a_wiped_node_catches_up_by_snapshot() {
    let dir = run_dir("wipe");
    let mut cluster = cluster(&dir, 1, 1, &["--snapshot-every", "300", "--snapshot-keep", "0"]);
    let endpoints = cluster.endpoints();
    wait_for_leaders(&endpoints).expect("a leader");
    let load = Load::start(&endpoints, 0, 4, KEYS, 1);
    load.wait_for_writes(2000);
    let lead = leader(&endpoints).expect("a leader");
    // The beginning of the log is gone: an empty node can only be helped with a snapshot.
    let base = status(&endpoints[usize::try_from(lead - 1).unwrap()]).log_base;
    assert!(base > 1000, "the leader's log begins at {base}");
    let victim = 1 + lead % 3;
    cluster.kill(victim);
    std::fs::remove_dir_all(cluster.dir(victim)).expect("wiped");
    load.wait_for_writes(200);
    cluster.restart(victim).expect("an empty node starts");

    let begin = Instant::now();
    let endpoint = &endpoints[usize::try_from(victim - 1).unwrap()];
    loop {
        let group = status(endpoint);
        if group.log_base > 0 && group.applied > 2000 && group.leader != 0 {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "it does not catch up: {group:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    load.wait_for_writes(100);
    // With it, and without another, the cluster goes on: it is a full member again.
    let other = (1..=3).find(|node| *node != victim && *node != leader(&endpoints).unwrap_or(0)).unwrap();
    cluster.kill(other);
    load.wait_for_writes(100);
    cluster.restart(other).expect("it starts again");
    let mut history = load.finish();
    read_all(&endpoints, KEYS, 1, &mut history);
    history::check(&history).unwrap_or_else(|what| panic!("{what}"));
}
