//! What the core costs: `cargo test --release -p ringraft-raft --test cost -- --ignored --nocapture`.

mod support;

use std::time::{Duration, Instant};

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
#[ignore = "a measurement"]
fn memory_of_an_idle_member() {
    let raft = std::mem::size_of::<ringraft_raft::Raft<support::log::MemLog>>();
    let storage = std::mem::size_of::<support::log::MemLog>();
    let progress = std::mem::size_of::<ringraft_raft::Progress>();
    println!("{} bytes, and {progress} per member of the group", raft - storage);
}
