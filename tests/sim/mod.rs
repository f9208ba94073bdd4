//! A whole cluster in one thread under one seed: the real shard loop, transport, log and state machine, over a
//! simulated network, clock and disks that fail.
//!
//! `SIM_SEEDS=5000 cargo test --release --test tests sim::` runs more seeds; `SIM_SEED=17` replays one, with a trace.

mod client;
mod cluster;
mod deposed;
mod priority;
mod rest;
mod rot;
mod run;

use std::sync::atomic::{AtomicU64, Ordering};

/// How many seeds a plain `cargo test` runs.
const SEEDS: u64 = 500;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

#[test]
fn clusters_survive_faults() {
    if let Some(seed) = number("SIM_SEED") {
        let summary = run::run(seed, true).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        println!("seed {seed}: {summary}");
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let total = std::sync::Mutex::new(run::Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    match std::panic::catch_unwind(|| run::run(seed, false)) {
                        Ok(Ok(summary)) => total.lock().unwrap().add(&summary),
                        Ok(Err(what)) => fail(seed, &what),
                        Err(_) => fail(seed, "panicked, see above"),
                    }
                }
            });
        }
    });
    let total = total.into_inner().unwrap();
    println!("{seeds} seeds: {total}");
    assert!(total.operations > seeds * 20, "the clients hardly did anything: {total}");
}

fn fail(seed: u64, what: &str) {
    panic!(
        "seed {seed}: {what}\nreplay: SIM_SEED={seed} cargo test --test tests sim::clusters_survive_faults -- --nocapture"
    );
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in (0..SEEDS).step_by(50) {
        let one = run::run(seed, false).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        let other = run::run(seed, false).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        assert_eq!(one.hash, other.hash, "seed {seed} went two ways");
    }
}
