//! Wakes, deadlines, and turns that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::{Completion, Io, ShardNo, WorldConfig};

in_every_world! {
    no_wake_between_shards_is_lost,
    no_wake_from_a_thread_is_lost,
    a_wake_of_oneself_ends_the_next_turn,
    a_turn_ends_at_its_deadline,
}

fn no_wake_between_shards_is_lost<S: TestSeed>() {
    const ROUNDS: u64 = 20_000;
    let config = WorldConfig { spin: Duration::ZERO, ..WorldConfig::new(2) };
    let mut world = S::open(config.into()).expect("a world");
    let balls: Arc<[AtomicU64; 2]> = Arc::default();
    let waker = world.waker();
    let threads: Vec<_> = world
        .take_seeds()
        .into_iter()
        .map(|seed| {
            let balls = balls.clone();
            std::thread::spawn(move || {
                let me = seed.number();
                let other = ShardNo(1 - me.0);
                let mut io = seed.grow();
                let (mut seen, mut out) = (0, Vec::new());
                while seen < ROUNDS {
                    let until = io.now() + PATIENCE;
                    io.turn(Some(until), &mut out).expect("a turn");
                    assert!(io.now() < until, "shard {me}: a wake was lost after {seen}");
                    if out.drain(..).any(|c| matches!(c, Completion::Woken)) {
                        let now = balls[usize::from(me.0)].load(Ordering::Acquire);
                        if now > seen {
                            seen = now;
                            balls[usize::from(other.0)].fetch_add(1, Ordering::Release);
                            io.wake(other);
                        }
                    }
                }
                // What was asked for last must still leave.
                let now = io.now();
                io.turn(Some(now), &mut out).expect("a turn");
            })
        })
        .collect();
    balls[0].fetch_add(1, Ordering::Release);
    waker.wake(ShardNo(0));
    for thread in threads {
        thread.join().expect("no wake was lost");
    }
}

fn no_wake_from_a_thread_is_lost<S: TestSeed>() {
    const ROUNDS: u64 = 20_000;
    let mut a = Node::<S>::start(WorldConfig { spin: Duration::ZERO, ..WorldConfig::new(1) });
    let (asked, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let waker = a.world.waker();
    let thread = {
        let (asked, answered) = (asked.clone(), answered.clone());
        std::thread::spawn(move || {
            for round in 1..=ROUNDS {
                asked.store(round, Ordering::Release);
                waker.wake(ShardNo(0));
                while answered.load(Ordering::Acquire) < round {
                    std::thread::yield_now();
                }
            }
        })
    };
    let mut out = Vec::new();
    while answered.load(Ordering::Relaxed) < ROUNDS {
        let until = a.io.now() + PATIENCE;
        a.io.turn(Some(until), &mut out).expect("a turn");
        assert!(a.io.now() < until, "a wake was lost");
        out.clear();
        answered.store(asked.load(Ordering::Acquire), Ordering::Release);
    }
    thread.join().expect("answered");
}

fn a_wake_of_oneself_ends_the_next_turn<S: TestSeed>() {
    let mut a = Node::<S>::start(WorldConfig::new(1));
    a.io.wake(ShardNo(0));
    a.io.turn(None, &mut a.got).expect("a turn");
    assert!(matches!(a.got[..], [Completion::Woken]), "{:?}", a.got);
}

fn a_turn_ends_at_its_deadline<S: TestSeed>() {
    for spin in [Duration::ZERO, Duration::from_micros(50)] {
        let mut a = Node::<S>::start(WorldConfig { spin, ..WorldConfig::new(1) });
        let start = a.io.now();
        let mut out = Vec::new();
        a.io.turn(Some(start), &mut out).expect("a turn");
        assert!(a.io.now().since(start) < Duration::from_secs(1), "polling does not wait");
        let start = a.io.now();
        let span = Duration::from_millis(20);
        while a.io.now() < start + span {
            a.io.turn(Some(start + span), &mut out).expect("a turn");
        }
        assert!(a.io.now().since(start) < Duration::from_secs(10));
        assert!(out.is_empty());
    }
}
