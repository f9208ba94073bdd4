//! Groups at rest: nobody wakes for them, and the memory of busy times is given back.

use std::time::Duration;

use ringraft_io::ShardNo;
use ringraft_io::sim::{Rng, World, WorldConfig};

use super::client::SimClient;
use super::cluster::Cluster;

#[test]
fn a_lone_node_at_rest_takes_no_turns() {
    let (world, mut rng) = (World::new(1, WorldConfig::default()), Rng::new(1));
    let mut cluster = Cluster::new(&world, &mut rng, 1, 1, 5);
    let node = cluster.processes[0];
    cluster.open(node).expect("it opens");
    let process = world.add_client("client", 1);
    let io = world.io(process, ShardNo(0));
    let mut client = SimClient::new(io, rng, 1, cluster.client_endpoints(), cluster.groups, 30);
    cluster.run(Some(&mut client), Duration::from_secs(20));
    let known = client.known();
    assert!(known > 100, "only {known} operations");
    let most = |cluster: &Cluster| cluster.groups_of(node).map(|group| group.raft.memory()).max();
    let busy = most(&cluster);

    client.resting = true;
    cluster.run(Some(&mut client), Duration::from_secs(20));
    assert_eq!(cluster.run(Some(&mut client), Duration::from_secs(3600)), 0, "turns in an hour of rest");
    let rest = most(&cluster);
    assert!(rest < Some(1024) && rest < busy, "{rest:?} bytes of a group, {busy:?} when it was busy");

    // And it is there when it is needed.
    client.resting = false;
    cluster.run(Some(&mut client), Duration::from_secs(20));
    assert!(client.known() > known + 100, "{} operations after {known}", client.known());
}

#[test]
fn followers_at_rest_hear_of_time_by_their_leaders_only() {
    let (world, mut rng) = (World::new(2, WorldConfig::default()), Rng::new(2));
    let mut cluster = Cluster::new(&world, &mut rng, 3, 1, 5);
    for node in cluster.processes.clone() {
        cluster.open(node).expect("it opens");
    }
    let process = world.add_client("client", 1);
    let mut client = SimClient::new(world.io(process, ShardNo(0)), rng, 1, cluster.client_endpoints(), 5, 30);
    cluster.run(Some(&mut client), Duration::from_secs(10));
    client.resting = true;
    cluster.run(Some(&mut client), Duration::from_secs(20));
    let terms = |cluster: &Cluster| -> Vec<_> {
        let groups = cluster.processes.iter().flat_map(|node| cluster.groups_of(*node));
        groups.map(|group| (group.id, group.raft.term(), group.raft.leader())).collect()
    };
    let before = terms(&cluster);
    cluster.run(Some(&mut client), Duration::from_secs(600));
    assert_eq!(terms(&cluster), before, "no election without need");
    assert!(before.iter().all(|(_, _, leader)| leader.is_some()), "{before:?}");

    // Without their leader they notice, in the time they have.
    let lost = cluster.groups_of(cluster.processes[0]).next().and_then(|group| group.raft.leader()).expect("a leader");
    let lost = cluster.processes[usize::try_from(lost.0 - 1).unwrap()];
    cluster.crash(lost);
    // Twice the longest timeout: the first election may fail.
    cluster.run(Some(&mut client), Duration::from_millis(50 * 40));
    for node in cluster.processes.iter().filter(|node| **node != lost) {
        for group in cluster.groups_of(*node) {
            assert!(group.raft.leader().is_some(), "group {} has no leader", group.id);
        }
    }
}
