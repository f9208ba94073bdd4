//! A leader that is cut off: its clients are told when it steps down, not when their patience ends.

use std::time::Duration;

use ringraft_io::ShardNo;
use ringraft_io::sim::{ProcessId, Rng, Step, World, WorldConfig};
use ringraft_raft::Role;

use super::client::SimClient;
use super::cluster::Cluster;

const END: u64 = 1;

fn run(world: &World, cluster: &mut Cluster, clients: &mut [(ProcessId, SimClient)], time: Duration) {
    world.schedule(world.now() + time, END);
    loop {
        match world.next().expect("the end is scheduled") {
            Step::Shard { process, shard } if cluster.owns(process) => {
                cluster.turn(process, shard).expect("nothing goes wrong");
            }
            Step::Shard { process, .. } => {
                clients.iter_mut().filter(|(owner, _)| *owner == process).for_each(|(_, client)| client.turn());
            }
            Step::Driver(_) => return,
        }
    }
}

/// Operations that ended without a known outcome.
fn unknown(clients: &[(ProcessId, SimClient)]) -> usize {
    clients.iter().map(|(_, client)| client.history.len() - client.known()).sum()
}

#[test]
fn clients_of_a_deposed_leader_are_told_at_once() {
    for seed in 0..5 {
        let (world, mut rng) = (World::new(seed, WorldConfig::default()), Rng::new(seed));
        let mut cluster = Cluster::new(&world, &mut rng, 3, 1, 1);
        for node in cluster.processes.clone() {
            cluster.open(node).expect("it opens");
        }
        run(&world, &mut cluster, &mut [], Duration::from_secs(5));
        let leads = |node: &ProcessId| cluster.groups_of(*node).any(|group| group.raft.role() == Role::Leader);
        let at = cluster.processes.iter().position(leads).expect("a leader");
        let leader = cluster.processes[at];
        let mut clients: Vec<_> = (1..=8)
            .map(|number| {
                let process = world.add_client(&format!("client-{number}"), 1);
                let (io, endpoint) = (world.io(process, ShardNo(0)), cluster.client_endpoints()[at].clone());
                (process, SimClient::new(io, rng.fork(), number, vec![endpoint], 1, 30))
            })
            .collect();
        run(&world, &mut cluster, &mut clients, Duration::from_secs(5));
        assert_eq!(unknown(&clients), 0, "seed {seed}");

        let others: Vec<_> = cluster.processes.iter().copied().filter(|node| *node != leader).collect();
        others.iter().for_each(|other| world.partition_both(leader, *other, true));
        // It steps down within two election timeouts of 10 ticks of 50 ms; a request's patience is 3 s.
        run(&world, &mut cluster, &mut clients, Duration::from_millis(1200));
        assert!(!leads_now(&cluster, leader), "seed {seed}: it hears of no quorum");
        let told = unknown(&clients);
        assert!(told > 0, "seed {seed}: nobody was told");
        // Nobody else was waiting for something that a step-down had not answered already.
        run(&world, &mut cluster, &mut clients, Duration::from_secs(5));
        assert_eq!(unknown(&clients), told, "seed {seed}");
    }
}

fn leads_now(cluster: &Cluster, node: ProcessId) -> bool {
    cluster.groups_of(node).any(|group| group.raft.role() == Role::Leader)
}
