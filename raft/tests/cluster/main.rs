//! Whole small clusters over seeded networks and disks that lose, repeat, reorder, delay and crash. After every step
//! the promises of raft are checked (`promises.rs` lists them); in the end, that the cluster comes to rest and serves
//! (`calm.rs`). What is likely to happen is drawn anew for every seed (`weather.rs`).
//!
//! `cargo test -p ringraft-raft --test cluster -- --nocapture` runs some 2,000 seeds and shows what came about in them.
//! `RINGRAFT_SEEDS_TIMES=50` runs fifty times as many, `RINGRAFT_STEPS=20000` makes each of them longer (3,000 steps are
//! usual), `RINGRAFT_FAILURES_MAX=20` goes on until twenty have failed. A failure names its test and its seed: `RINGRAFT_SEED=123` runs that one alone, and `RINGRAFT_TRACE=1` shows
//! every message that leaves or arrives. The same seed is the same run.

#[path = "../support/mod.rs"]
mod support;

mod calm;
#[cfg(ringraft_mutants)]
mod mutants;
mod promises;
mod weather;
mod world;

use std::rc::Rc;
use std::time::Instant;

use ringraft_raft::{
    Body, Compat, Config, EntryId, EntryKind, EntryMeta, Index, Message, Payloads, PeerId, Role, Term,
};
use support::Dice;
use support::node::{Disk, Image, Node, Packet, voters};
use world::{Counts, Spice, World};

/// Where the member with this id is.
fn place(id: PeerId) -> usize {
    usize::try_from(id.0 - 1).unwrap()
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Members of a run.
fn member_count(seed: u64, spice: Spice) -> u64 {
    let mut dice = Dice(!seed);
    match spice {
        Spice::Nothing => [1, 2, 3, 3, 3, 4, 5, 5][dice.below(8)],
        Spice::ConfChanges => [2, 2, 3, 4, 5, 6][dice.below(6)],
        Spice::Witnesses => [3, 3, 4, 5, 6][dice.below(5)],
        Spice::Priorities => 5,
        Spice::Losses | Spice::Stalls | Spice::Leases | Spice::Etcd => [3, 5][dice.below(2)],
    }
}

fn run(seed: u64, spice: Spice, steps: u64) -> Counts {
    let mut world = World::new(seed, member_count(seed, spice), spice);
    for _ in 0..steps {
        world.chaos();
    }
    if matches!(spice, Spice::Stalls | Spice::Witnesses) {
        world.go_on_without_one();
    }
    world.settle();
    world.counts()
}

fn fuzz(first: u64, count: u64, spice: Spice) {
    let steps = number("RINGRAFT_STEPS").unwrap_or(3000);
    let count = count * number("RINGRAFT_SEEDS_TIMES").unwrap_or(1);
    let seeds = number("RINGRAFT_SEED").map_or(first..first + count, |seed| seed..seed + 1);
    let (total, begin) = (seeds.end - seeds.start, Instant::now());
    let failures_max = number("RINGRAFT_FAILURES_MAX").unwrap_or(1);
    let mut failed = 0;
    let mut sum = Counts::default();
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed, spice, steps));
        let Ok(counts) = result else {
            println!("failing seed: RINGRAFT_SEED={seed} ({spice:?})");
            failed += 1;
            assert!(failed < failures_max, "{failed} of {total} seeds fail ({spice:?}), the last is {seed}");
            continue;
        };
        if seed.is_multiple_of(64) {
            assert_eq!(run(seed, spice, steps), counts, "seed {seed} is not the same run twice ({spice:?})");
        }
        sum.add(&counts);
    }
    let rate = sum.steps as f64 / begin.elapsed().as_secs_f64();
    assert_eq!(failed, 0, "seeds of {total} that fail ({spice:?})");
    let Counts { commits, elections, reads, restarts, snapshots, transfers, replaced, lost, repeated, .. } = sum;
    let common = [commits, elections, reads, restarts, snapshots, transfers, replaced, lost, repeated];
    let changes = matches!(spice, Spice::ConfChanges | Spice::Witnesses);
    let special = [(changes, sum.conf_changes), (spice == Spice::Losses, sum.losses)];
    let all = common.iter().all(|count| *count > 0) && special.iter().all(|(due, count)| *due == (*count > 0));
    assert!(all || total < 50, "something never came about in {total} seeds ({spice:?}): {sum:?}");
    println!("{spice:?}: {total} seeds, {rate:.0} steps/s, {sum:?}");
}

#[test]
fn first_election_and_commit() {
    let mut world = World::new(1, 3, Spice::Nothing);
    world.act(0, |node, _| node.raft.campaign());
    world.calm_turn();
    assert_eq!(world.nodes[0].raft.role(), Role::Leader);
    assert!(world.propose(0).is_some());
    world.calm_turn();
    world.calm_turn();
    for node in &world.nodes {
        assert_eq!(node.raft.commit(), Index(2));
        assert_eq!(node.machine.at.index, Index(2));
        assert_eq!(node.raft.meta(Index(1)).unwrap().kind, EntryKind::Normal);
    }
}

/// A lot of entries is handed out and not applied yet when a snapshot takes its place. By etcd's rules the shell answers
/// for it all the same; else nothing would ever be handed out again.
#[test]
fn a_snapshot_overtakes_what_is_to_be_applied() {
    for compat in [Compat::Off, Compat::Etcd { async_storage_writes: true }] {
        let config = Config { apply_size_max: 1, compat, ..Config::new(PeerId(2)) };
        let mut node = Node::new(config, Disk::new(voters(3)), false);
        let meta = EntryMeta { term: Term(1), kind: EntryKind::Normal, size: 1 };
        let id = |index| EntryId { term: Term(if index == 0 { 0 } else { 1 }), index: Index(index) };
        let say = |node: &mut Node, body, count, snapshot| {
            let message = Message { from: PeerId(1), to: PeerId(2), term: Term(1), body };
            let entries = vec![(meta, 7); count];
            node.step(&Packet { message, entries, snapshot }).unwrap();
            for _ in 0..2 {
                node.take_ready(&mut Vec::new());
                node.finish_write(&mut Vec::new());
            }
        };
        say(
            &mut node,
            Body::Append { prev: id(0), last: Index(3), commit: Index(3), payloads: Payloads::All },
            3,
            None,
        );
        assert_eq!(node.applies.len(), 1, "one entry is handed out at a time");
        let image = Image { at: id(10), conf: voters(3), ..Image::default() };
        say(&mut node, Body::Snapshot { at: id(10), payloads: Payloads::All }, 0, Some(Rc::new(image)));
        assert_eq!((node.machine.at, node.applies.len()), (id(10), 0));
        say(
            &mut node,
            Body::Append { prev: id(10), last: Index(11), commit: Index(11), payloads: Payloads::All },
            1,
            None,
        );
        assert_eq!(node.applies.len(), 1, "the next entry is handed out ({compat:?})");
    }
}

/// Why `World::restart` treats candidates by etcd's rules with care: they ask before their term is durable, are elected
/// by the others alone, and after a crash are elected once more in the same term, with another log. Ours ask later.
#[test]
fn by_the_rules_of_etcd_one_can_lead_twice_in_a_term() {
    let led = |compat: Compat| {
        let config = |id| Config { pre_vote: false, check_quorum: false, compat, ..Config::new(PeerId(id)) };
        let mut nodes: Vec<Node> = (1..=3).map(|id| Node::new(config(id), Disk::new(voters(3)), false)).collect();
        let mut led = Vec::new();
        // The first time both others vote, and 2 gets what the leader appends; the second time 3 votes alone.
        for hear in [[1, 2].as_slice(), &[2]] {
            let mut questions = Vec::new();
            nodes[0].raft.campaign();
            nodes[0].take_ready(&mut questions);
            if hear == [2] {
                nodes[0].finish_write(&mut questions);
            }
            let mut answers = Vec::new();
            for packet in questions.iter().filter(|packet| hear.contains(&place(packet.message.to))) {
                let voter = &mut nodes[place(packet.message.to)];
                voter.step(packet).unwrap();
                voter.take_ready(&mut answers);
                voter.finish_write(&mut answers);
            }
            answers.iter().for_each(|answer| nodes[0].step(answer).unwrap());
            if nodes[0].raft.role() == Role::Leader {
                led.push(nodes[0].raft.term());
            }
            let mut appends = Vec::new();
            nodes[0].take_ready(&mut appends);
            appends
                .iter()
                .filter(|append| place(append.message.to) == 1)
                .for_each(|append| nodes[1].step(append).unwrap());
            if hear == [1, 2] {
                nodes[0].restart();
            }
        }
        led
    };
    assert_eq!(led(Compat::Etcd { async_storage_writes: true }), [Term(1), Term(1)]);
    assert_eq!(led(Compat::Off), [Term(1)], "nobody is asked before the write");
}

#[test]
fn members_that_stay() {
    fuzz(10_000, 800, Spice::Nothing);
}

#[test]
fn changing_membership() {
    fuzz(20_000, 500, Spice::ConfChanges);
}

#[test]
fn losing_tails() {
    fuzz(30_000, 200, Spice::Losses);
}

#[test]
fn hanging_disks() {
    fuzz(40_000, 150, Spice::Stalls);
}

#[test]
fn differing_priority() {
    fuzz(50_000, 100, Spice::Priorities);
}

#[test]
fn reads_by_lease() {
    fuzz(60_000, 100, Spice::Leases);
}

#[test]
fn voters_without_payloads() {
    fuzz(65_000, 150, Spice::Witnesses);
}

#[test]
fn the_rules_of_etcd() {
    fuzz(70_000, 150, Spice::Etcd);
}

#[test]
fn who_has_the_highest_priority_leads() {
    let mut firsts = 0;
    for seed in 0..100 {
        let mut world = World::new(seed, 4, Spice::Priorities);
        let lead = |world: &mut World| {
            (0..60).for_each(|_| world.calm_turn());
            world.nodes.iter().position(|node| node.raft.role() == Role::Leader)
        };
        // Member 4 has priority 4, 1 has 1.
        firsts += usize::from(lead(&mut world) == Some(3));
        // It falls silent, and comes back without what the others have agreed on in between.
        (1..4).for_each(|id| world.cut_between(PeerId(4), PeerId(id)));
        let next = lead(&mut world).filter(|at| *at != 3);
        firsts += usize::from(next == Some(2));
        if let Some(next) = next {
            world.propose(next);
        }
        world.settle();
    }
    println!("{firsts} of 200 elections won by the first");
    assert!(firsts >= 190, "{firsts} of 200 elections won by the first");
}
