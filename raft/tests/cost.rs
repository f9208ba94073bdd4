//! What the core costs: `cargo test --release -p ringraft-raft --test cost -- --ignored --nocapture`.

mod support;

use std::time::{Duration, Instant};

use ringraft_raft::Raft;
use support::trio::Trio;

#[test]
#[ignore = "a measurement"]
fn propose_to_commit_over_three_members() {
    for batch in [1, 64, 1024] {
        let mut trio = Trio::new();
        let mut best = Duration::MAX;
        for _ in 0..20 {
            let rounds = 200_000 / batch;
            let start = Instant::now();
            for round in 0..rounds {
                trio.propose(batch);
                if round * batch % 4096 == 0 {
                    trio.compact();
                }
            }
            best = best.min(start.elapsed() / u32::try_from(rounds * batch).unwrap());
        }
        println!("batch {batch}: {best:?} from propose to applied on all three");
    }
}

#[test]
fn an_idle_member_of_three_takes_less_than_a_kibibyte() {
    let mut trio = Trio::new();
    (0..20).for_each(|_| trio.propose(500));
    let busy: Vec<usize> = trio.members().iter().map(Raft::memory).collect();
    trio.shrink();
    (0..30).for_each(|_| trio.tick());
    for (member, busy) in trio.members().iter().zip(busy) {
        let idle = member.memory();
        println!("{:?}: {busy} bytes after busy times, {idle} at rest", member.role());
        assert!(idle < 1024 && idle < busy, "{:?}: {idle} bytes at rest, {busy} before", member.role());
    }
}
