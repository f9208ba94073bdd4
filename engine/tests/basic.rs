//! Round trips, recycling, reading, failing.

use proptest::prelude::*;
use ringraft_engine::{Config, EngineError, ReadError};
use ringraft_raft::{EntryId, Index, Term};

use crate::rig::{Rig, small};

#[test]
fn an_empty_log_stays_empty() {
    let rig = Rig::new(small(16));
    assert_eq!((rig.report.epoch, rig.report.groups), (1, 0));
    let rig = rig.reopen();
    assert_eq!((rig.report.epoch, rig.report.segments), (2, 1));
}

#[test]
fn what_was_appended_is_there_again() {
    let mut rig = Rig::new(small(16));
    rig.put(1, &[10, 0, 300]);
    rig.append(2, 0, &[], Some(3)).unwrap();
    rig.settle();
    rig.append(1, 1, &[5], Some(2)).unwrap();
    rig.commit(1, 2);
    rig.put(1, &[7]);
    rig.snapshot(1, 2, 3);
    rig.compact(1, 2).unwrap();
    rig.check();
    rig.settle();
    let mut rig = rig.reopen();
    rig.put(1, &[1, 2, 3]);
    rig.install(2, EntryId { term: Term(9), index: Index(100) }, 2);
    rig.put(2, &[4]);
    rig.settle();
    rig.reopen().check();
}

#[test]
fn big_writes_are_split_and_bigger_records_get_their_own_batch() {
    let mut rig = Rig::new(small(64));
    rig.put(1, &[100; 100]);
    rig.append(1, 100, &[6000, 8000, 20, 8000], Some(1)).unwrap();
    rig.check();
    rig.settle();
    rig.reopen().check();
}

#[test]
fn segments_are_recycled_without_new_files() {
    (0..3).for_each(recycle);
}

/// With so many files kept for votes on a full disk: none of them is made anew for a segment that takes one.
fn recycle(segments_reserve: usize) {
    let mut rig = Rig::new(Config { segments_reserve, ..small(16) });
    rig.append(9, 0, &[], Some(5)).unwrap();
    for round in 1..300_u64 {
        rig.put(1, &[3000]);
        rig.put(2, &[100]);
        rig.settle();
        if round % 5 == 0 {
            rig.compact(1, round - 1).unwrap();
            rig.compact(2, round - 2).unwrap();
        }
        let creates = rig.world.creates;
        assert!(creates <= 5 + segments_reserve, "{creates} files, {segments_reserve} in reserve");
        if round % 97 == 0 {
            rig = rig.reopen();
        }
    }
    rig.settle();
    let mut rig = rig.reopen();
    assert_eq!(rig.now[&9].hard.vote.0, 5, "the vote of a group that was idle ever since");
    rig.check();
}

#[test]
fn idle_groups_pin_and_are_named() {
    let mut rig = Rig::new(small(16));
    rig.put(1, &[10]);
    rig.put(2, &[10]);
    for _ in 0..80 {
        rig.put(3, &[3000]);
        rig.settle();
    }
    let pinning: Vec<u64> = rig.engine.pinning_groups().map(|group| group.0).collect();
    assert_eq!(pinning, [1, 2, 3]);
    let segments = rig.engine.stats().segments;
    rig.compact(1, 1).unwrap();
    rig.compact(2, 1).unwrap();
    rig.compact(3, 79).unwrap();
    rig.settle();
    assert!(rig.engine.stats().segments < segments.min(3));
    assert_eq!(rig.engine.pinning_groups().count(), 0);
    rig.reopen().check();
}

/// Groups that never advance do not hold the log.
#[test]
fn survivors_are_written_again() {
    let config = Config { rewrite_percent: 25, ..small(16) };
    let mut rig = Rig::new(config);
    for group in 10..90 {
        rig.put(group, &[10, 20]);
        rig.append(group, 2, &[30], Some(1)).unwrap();
    }
    rig.put(5, &[1500; 2]);
    rig.settle();
    let mut most = 0;
    for round in 1..2000 {
        rig.put(1, &[1500]);
        rig.settle();
        if round % 8 == 0 {
            rig.compact(1, round - 4).unwrap();
        }
        most = most.max(rig.engine.stats().segments);
        if round == 1500 {
            // The one that is too large to be moved keeps all since, until it is compacted.
            assert_eq!(rig.engine.pinning_groups().map(|group| group.0).collect::<Vec<_>>(), [5]);
            rig.compact(5, 2).unwrap();
            rig.settle();
            rig = rig.reopen();
        }
        if round == 1520 {
            most = 0;
        }
    }
    let stats = rig.engine.stats();
    assert!(most <= 7 && stats.segments <= 7, "{most} segments, {stats:?}");
    assert!(stats.rewritten_bytes > 0 && stats.rewritten_bytes * 4 <= stats.written_bytes, "{stats:?}");
    rig.check();
    rig.settle();
    rig.reopen().check();
}

#[test]
fn sealed_runs_are_evicted_and_read_from_the_map() {
    let mut rig = Rig::new(small(16));
    for _ in 0..60 {
        rig.put(1, &[1000, 2000]);
        rig.settle();
    }
    let cached = rig.engine.stats().cached_bytes;
    assert!(cached <= rig.config.cache_bytes_max + rig.config.segment_bytes, "{cached}");
    assert_eq!(rig.world.maps, 0);
    rig.check();
    assert!(rig.world.maps > 0);
    let log = &rig.logs[&1];
    let mut out = Vec::new();
    for after in (0..120).step_by(7) {
        for upto in (after..120).step_by(11) {
            out.clear();
            rig.engine.read(&mut rig.world, log, Index(after), Index(upto), &mut out).unwrap();
            let records = out.iter().flat_map(|run| ringraft_raft::record::Records::new(run));
            let found: Vec<u64> = records.map(|record| record.unwrap().id.index.0).collect();
            assert_eq!(found, (after + 1..=upto).collect::<Vec<_>>());
        }
    }
    let beyond = rig.engine.read(&mut rig.world, log, Index(0), Index(121), &mut out);
    assert!(matches!(beyond, Err(ReadError::Storage(_))));
}

#[test]
fn a_mapped_segment_is_not_recycled() {
    let mut rig = Rig::new(small(16));
    for _ in 0..60 {
        rig.put(1, &[3000]);
        rig.settle();
    }
    let mut out = Vec::new();
    rig.engine.read(&mut rig.world, &rig.logs[&1], Index(0), Index(1), &mut out).unwrap();
    let held = out[0].clone();
    let copy = held.to_vec();
    out.clear();
    for _ in 0..60 {
        let last = rig.now[&1].last();
        rig.compact(1, last).unwrap();
        rig.put(1, &[3000]);
        // The world panics when a mapped file is written.
        rig.settle();
    }
    rig.turn().unwrap();
    assert_eq!(rig.engine.stats().segments_retired, 1);
    assert_eq!(held, copy);
    drop(held);
    rig.turn().unwrap();
    assert_eq!(rig.engine.stats().segments_retired, 0);
    rig.reopen().check();
}

#[test]
fn two_batches_in_flight_become_durable_in_order() {
    let mut rig = Rig::new(small(64));
    rig.world.hold = true;
    let before = rig.durable;
    let first = rig.put(1, &[10]);
    rig.turn().unwrap();
    let second = rig.put(1, &[20]);
    rig.turn().unwrap();
    let third = rig.put(1, &[30]);
    rig.turn().unwrap();
    assert_eq!(rig.put(1, &[40]), third, "it fills while two are in flight");
    assert_eq!(rig.world.pending.len(), 2);
    rig.world.finish(1);
    rig.complete().unwrap();
    assert_eq!(rig.durable, before);
    rig.turn().unwrap();
    assert_eq!(rig.world.pending.len(), 1, "still two that are not durable in order");
    rig.world.finish(0);
    rig.complete().unwrap();
    assert_eq!(rig.durable, second);
    assert!(first < second);
    rig.world.hold = false;
    rig.settle();
    assert_eq!(rig.durable, third);
    rig.reopen().check();
}

#[test]
fn a_failed_write_ends_the_log() {
    for fail_first in [true, false] {
        let mut rig = Rig::new(small(64));
        rig.world.hold = true;
        rig.put(1, &[10]);
        rig.turn().unwrap();
        rig.put(1, &[20]);
        rig.turn().unwrap();
        let durable = rig.durable;
        rig.world.fail_after = Some(0);
        rig.world.finish(usize::from(!fail_first));
        rig.world.fail_after = None;
        rig.world.finish(0);
        assert!(matches!(rig.complete(), Err(EngineError::Failed { .. })));
        assert_eq!(rig.durable, durable, "nothing is durable after a failure");
        assert!(matches!(rig.append(1, 2, &[1], None), Err(EngineError::Failed { .. })));
        assert!(matches!(rig.compact(1, 1), Err(EngineError::Failed { .. })));
        rig.turn().unwrap();
        assert!(rig.world.pending.is_empty() && !rig.engine.has_room());
    }
}

#[test]
fn a_full_disk_refuses_entries_but_takes_votes_and_compactions() {
    let mut rig = Rig::new(small(32));
    rig.turn().unwrap();
    rig.world.full = true;
    let mut told = false;
    let mut last = 0;
    let busy = loop {
        match rig.append(1, last, &[1000], None) {
            Ok(_) => last += 1,
            Err(error) => break error,
        }
        match rig.turn() {
            Ok(()) => {}
            Err(EngineError::NoSegment { .. }) => told = true,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(matches!(busy, EngineError::Full), "{busy}");
    assert!(told && !rig.engine.has_room());
    // What was staged and refused may be appended again later, so the model knows nothing of it yet.
    rig.append(2, 0, &[], Some(2)).unwrap();
    rig.settle();
    rig.world.full = false;
    rig.engine.retry_segments();
    rig.turn().unwrap();
    rig.turn().unwrap();
    assert!(rig.engine.has_room());
    rig.append(1, last, &[1000], None).unwrap();
    rig.settle();
    rig.reopen().check();
}

#[test]
fn a_full_disk_is_freed_by_compaction() {
    let mut rig = Rig::new(small(32));
    for _ in 0..100 {
        rig.put(1, &[1000]);
        rig.settle();
    }
    rig.world.full = true;
    while rig.engine.has_room() {
        rig.put(1, &[1000]);
        let _ = rig.turn();
    }
    let last = rig.now[&1].last();
    rig.compact(1, last).unwrap();
    rig.settle();
    for _ in 0..4 {
        let _ = rig.turn();
    }
    assert!(rig.engine.has_room(), "{:?}", rig.engine.stats());
    rig.put(1, &[1000]);
    rig.settle();
    rig.reopen().check();
}

#[derive(Clone, Debug)]
enum Step {
    Append { group: u64, back: u64, lens: Vec<usize>, vote: Option<u64> },
    Commit { group: u64, ahead: u64 },
    Snapshot { group: u64, back: u64 },
    Compact { group: u64, back: u64 },
    Install { group: u64, ahead: u64 },
    Turn,
    Settle,
    Attest,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let group = 1..6_u64;
    let lens = prop::collection::vec(prop_oneof![8 => 0..200_usize, 2 => 200..3000_usize, 1 => 5000..8000_usize], 0..8);
    prop_oneof![
        10 => (group.clone(), prop_oneof![4 => Just(0), 1 => 0..5_u64], lens, prop::option::of(1..4_u64))
            .prop_map(|(group, back, lens, vote)| Step::Append { group, back, lens, vote }),
        2 => (group.clone(), 0..5_u64).prop_map(|(group, ahead)| Step::Commit { group, ahead }),
        1 => (group.clone(), 0..3_u64).prop_map(|(group, back)| Step::Snapshot { group, back }),
        3 => (group.clone(), 0..6_u64).prop_map(|(group, back)| Step::Compact { group, back }),
        1 => (group, 1..9_u64).prop_map(|(group, ahead)| Step::Install { group, ahead }),
        6 => Just(Step::Turn),
        2 => Just(Step::Settle),
        1 => Just(Step::Attest),
        1 => Just(Step::Reopen),
    ]
}

fn apply(mut rig: Rig, step: &Step) -> Rig {
    match step {
        Step::Append { group, back, lens, vote } => {
            let known = rig.now.get(group);
            // What is committed is never replaced.
            let (base, last) = known.map_or((0, 0), |m| (m.base.index.0.max(m.hard.commit.0), m.last()));
            if !rig.engine.has_room() {
                rig.settle();
                let _ = rig.turn();
            }
            let after = last.saturating_sub(*back).max(base);
            let after = if lens.is_empty() { last } else { after };
            rig.append(*group, after, lens, *vote).unwrap();
        }
        Step::Commit { group, ahead } if rig.now.contains_key(group) => {
            let commit = rig.now[group].hard.commit.0 + ahead;
            rig.commit(*group, commit);
        }
        Step::Snapshot { group, back } | Step::Compact { group, back } if rig.now.contains_key(group) => {
            let model = &rig.now[group];
            let index = model.last().saturating_sub(*back).max(model.base.index.0);
            match step {
                Step::Snapshot { .. } => rig.snapshot(*group, index, *back + 1),
                _ => rig.compact(*group, index).unwrap(),
            }
        }
        Step::Install { group, ahead } => {
            let (term, last) = rig.now.get(group).map_or((0, 0), |model| (model.hard.term.0, model.last()));
            let term = term.max(rig.now.get(group).map_or(0, |m| m.entries.last().map_or(m.base.term.0, |e| e.0))) + 1;
            rig.install(*group, EntryId { term: Term(term), index: Index(last + ahead) }, *ahead);
        }
        Step::Turn => rig.turn().unwrap(),
        Step::Settle => {
            rig.settle();
            rig.check();
        }
        Step::Attest => rig.engine.attest(),
        Step::Reopen => {
            rig.settle();
            rig = rig.reopen();
        }
        _ => {}
    }
    rig
}

proptest! {
    #![proptest_config(ProptestConfig::default())]
    #[test]
    fn any_history_survives(steps in prop::collection::vec(step(), 1..120), verify_on_open in any::<bool>()) {
        let mut rig = Rig::new(Config { rewrite_percent: 100, segments_max: 1, verify_on_open, ..small(24) });
        for step in &steps {
            rig = apply(rig, step);
        }
        rig.check();
        rig.settle();
        crate::inspect::agrees(&rig.world.files, &rig.said);
        rig.reopen().check();
    }
}
