//! Who leads first: the node of the highest priority that is up to date.

use std::collections::BTreeSet;
use std::time::Duration;

use ringraft_io::sim::{ProcessId, Rng, World, WorldConfig};
use ringraft_raft::PeerId;

use super::cluster::Cluster;

/// Whom the nodes that run take for the leader of some group.
fn leaders(cluster: &Cluster) -> BTreeSet<Option<PeerId>> {
    let running = cluster.processes.iter().filter(|node| cluster.is_running(**node));
    running.flat_map(|node| cluster.groups_of(*node)).map(|group| group.raft.leader()).collect()
}

/// Three nodes with these priorities and ten groups, after their first elections.
fn cluster(seed: u64, priorities: [u8; 3]) -> (Cluster, Vec<ProcessId>) {
    let (world, mut rng) = (World::new(seed, WorldConfig::default()), Rng::new(seed));
    let mut cluster = Cluster::new(&world, &mut rng, 3, 1, 10);
    cluster.set_priorities(&priorities);
    let nodes = cluster.processes.clone();
    nodes.iter().for_each(|node| cluster.open(*node).expect("it opens"));
    cluster.run(None, ELECTION);
    (cluster, nodes)
}

/// Enough for the lowest priority to be elected, with ticks of 50 ms and timeouts of 10 to 20 of them.
const ELECTION: Duration = Duration::from_millis(50 * (20 + 3 * 10 + 20));

#[test]
fn the_preferred_node_leads_and_the_next_one_after_it() {
    for seed in 0..10 {
        let (mut cluster, nodes) = cluster(seed, [1, 4, 2]);
        assert_eq!(leaders(&cluster), [Some(PeerId(2))].into(), "seed {seed}: the first election");
        cluster.crash(nodes[1]);
        cluster.run(None, ELECTION);
        assert_eq!(leaders(&cluster), [Some(PeerId(3))].into(), "seed {seed}: node 2 is away");
        // It is back, but nobody is deposed for it.
        cluster.restart(nodes[1], seed).expect("it starts");
        cluster.run(None, ELECTION);
        assert_eq!(leaders(&cluster), [Some(PeerId(3))].into(), "seed {seed}: node 2 is back");
    }
}

#[test]
fn a_node_of_priority_zero_never_asks() {
    let (mut cluster, nodes) = cluster(1, [0, 4, 0]);
    assert_eq!(leaders(&cluster), [Some(PeerId(2))].into());
    cluster.crash(nodes[1]);
    // Two of three are up, and would elect each other, but neither asks.
    let term = |cluster: &Cluster| cluster.groups_of(nodes[0]).next().map(|group| group.raft.term());
    let before = term(&cluster);
    cluster.run(None, 10 * ELECTION);
    assert_eq!(term(&cluster), before);
    cluster.restart(nodes[1], 1).expect("it starts");
    cluster.run(None, ELECTION);
    assert_eq!(leaders(&cluster), [Some(PeerId(2))].into());
}
