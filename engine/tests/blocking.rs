//! The log with a thread of its own: many callers, one disk, and what they are told when it fails.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use bytes::Bytes;
use ringraft_engine::blocking::{Config, Entry, Group, Log, LogError, State, Write};
use ringraft_engine::{EngineError, ReadError, StageError};
use ringraft_raft::{ConfState, EntryId, EntryKind, GroupId, HardState, Index, PeerId, StorageError, Term};
use tempfile::TempDir;

use crate::faults::{self, Faults};

fn temporary() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Small, so that segments are filled, sealed, mapped and written again.
fn small(dir: &Path) -> ringraft_engine::Config {
    ringraft_engine::Config {
        segment_bytes: 64 * 4096,
        batch_bytes_max: 16 << 10,
        record_bytes_max: 16 << 10,
        cache_bytes_max: 8 << 10,
        segments_max: 4,
        ..ringraft_engine::Config::new(dir, 5)
    }
}

fn id(term: u64, index: u64) -> EntryId {
    EntryId { term: Term(term), index: Index(index) }
}

fn entry(term: u64, index: u64, payload: &[u8]) -> Entry {
    Entry { id: id(term, index), kind: EntryKind::Normal, payload: Bytes::copy_from_slice(payload) }
}

fn all(group: &Group) -> Vec<Entry> {
    let (base, last) = group.bounds();
    group.read(base.next(), last, u64::MAX).unwrap()
}

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Waits for a future on this thread.
fn wait<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn what_threads_append_is_found_again() {
    const THREADS: u64 = 16;
    const EACH: u64 = 100;
    let dir = temporary();
    let log = Log::open(small(dir.path())).unwrap();
    let found = Mutex::new(vec![Vec::new(); 2]);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (log, found) = (&log, &found);
            scope.spawn(move || {
                let group = log.group(GroupId(thread % 2)).unwrap();
                for n in 0..EACH {
                    let payload = format!("{n} of thread {thread}");
                    let index = group.append(&[&payload]).unwrap();
                    found.lock().unwrap()[usize::try_from(thread % 2).unwrap()].push((index, payload));
                }
            });
        }
    });
    assert!(matches!(Log::open(small(dir.path())), Err(LogError::Engine(EngineError::Lock(_)))));
    drop(log);

    let log = Log::open(small(dir.path())).unwrap();
    assert_eq!(log.groups(), [GroupId(0), GroupId(1)]);
    for (number, mut expected) in (0..).zip(found.into_inner().unwrap()) {
        expected.sort();
        let entries = all(&log.group(GroupId(number)).unwrap());
        let entries: Vec<_> =
            entries.iter().map(|e| (e.id.index, String::from_utf8_lossy(&e.payload).into())).collect();
        assert_eq!(entries, expected, "group {number}");
    }
}

#[test]
fn what_arrives_while_batches_are_written_shares_the_next_one() {
    let dir = temporary();
    let faults = Arc::new(Faults::default());
    let log = faults::open(small(dir.path()), &faults).unwrap();
    let group = log.group(GroupId(1)).unwrap();
    faults.stall.store(true, SeqCst);
    let before = log.stats().unwrap().written_batches;
    let mut pending = Vec::new();
    for n in 0..100 {
        pending.push(group.append_async(&[[n]]));
        if n < 2 {
            // Two batches are on their way when this is answered.
            log.stats().unwrap();
        }
    }
    faults.go_on();
    let last = pending.into_iter().map(|pending| pending.wait().unwrap()).max();
    assert_eq!(last, Some(Index(100)));
    assert_eq!(log.stats().unwrap().written_batches - before, 3);
}

/// What a group must be.
#[derive(Clone, PartialEq, Debug)]
struct Model {
    hard: HardState,
    base: EntryId,
    entries: Vec<Entry>,
    conf: ConfState,
}

impl Model {
    fn last(&self) -> EntryId {
        self.entries.last().map_or(self.base, |entry| entry.id)
    }

    fn term(&self, index: u64) -> Term {
        let at = usize::try_from(index - self.base.index.0).unwrap();
        at.checked_sub(1).map_or(self.base.term, |at| self.entries[at].id.term)
    }

    fn check(&self, group: &Group) {
        let State { hard_state, conf, base, last, .. } = group.state();
        assert_eq!((hard_state, conf, base, last), (self.hard, self.conf.clone(), self.base, self.last()));
        assert_eq!(all(group), self.entries);
        for index in base.index.0..=last.index.0 {
            assert_eq!(group.term(Index(index)), Ok(self.term(index)));
        }
        let beyond = last.index.next();
        assert_eq!(group.term(beyond), Err(StorageError::Unavailable { index: beyond, last: last.index }));
    }

    /// Something legal, done here and there.
    fn step(&mut self, group: &Group, dice: &mut Dice) {
        let (base, last) = (self.base.index.0, self.last().index.0);
        let within = base + dice.below(last - base + 1);
        match dice.below(12) {
            0..6 => {
                // From anywhere on, in terms that do not fall.
                let after = if dice.below(3) == 0 { within } else { last };
                let mut term = self.term(after).0 + dice.below(2);
                let entries: Vec<Entry> = (after + 1..=after + dice.below(20))
                    .map(|index| {
                        term += dice.below(10) / 9;
                        let payload =
                            vec![u8::try_from(index % 256).unwrap(); usize::try_from(dice.below(600)).unwrap()];
                        Entry {
                            kind: EntryKind::from_u8(u8::try_from(index % 3).unwrap()).unwrap(),
                            ..entry(term, index, &payload)
                        }
                    })
                    .collect();
                let hard = (dice.below(2) == 0).then(|| HardState {
                    term: Term(self.hard.term.0 + 1),
                    vote: PeerId(dice.below(4)),
                    commit: self.hard.commit,
                });
                group.write(&Write { hard_state: hard, entries: &entries }).unwrap();
                self.hard = hard.unwrap_or(self.hard);
                if !entries.is_empty() {
                    self.truncate(after);
                    self.entries.extend(entries);
                }
            }
            6 => {
                group.truncate(Index(within)).unwrap();
                self.truncate(within);
            }
            7..10 => {
                group.compact(Index(within)).unwrap();
                self.base = id(self.term(within).0, within);
                self.entries.drain(..usize::try_from(within - base).unwrap());
                self.hard.commit = self.hard.commit.max(self.base.index);
            }
            10 => {
                self.conf.voters = (1..=dice.below(5)).map(PeerId).collect();
                group.set_conf(self.conf.clone()).unwrap();
            }
            _ => {
                self.base = id(self.last().term.0 + dice.below(2), last + dice.below(100));
                group.reset(self.base).unwrap();
                self.entries.clear();
                self.hard.commit = self.hard.commit.max(self.base.index);
            }
        }
        // A tail that is cut off takes what was said to be committed of it along, at the next opening.
        let commit = self.hard.commit.min(self.last().index);
        if commit < self.hard.commit {
            self.hard.commit = commit;
            group.set_hard_state(self.hard).unwrap();
        }
    }

    fn truncate(&mut self, last: u64) {
        self.entries.truncate(usize::try_from(last - self.base.index.0).unwrap());
    }
}

#[test]
fn groups_are_what_was_asked_for_before_and_after_a_restart() {
    for seed in 0..4 {
        let dir = temporary();
        let mut dice = Dice(seed);
        let empty =
            Model { hard: HardState::default(), base: id(0, 0), entries: Vec::new(), conf: ConfState::default() };
        let mut models = vec![empty; 3];
        for _ in 0..5 {
            let log = Log::open(small(dir.path())).unwrap();
            let groups: Vec<Group> = (0..3).map(|number| log.group(GroupId(number)).unwrap()).collect();
            for (model, group) in models.iter().zip(&groups) {
                model.check(group);
            }
            for _ in 0..100 {
                let at = usize::try_from(dice.below(3)).unwrap();
                models[at].step(&groups[at], &mut dice);
            }
            for (model, group) in models.iter().zip(&groups) {
                model.check(group);
            }
            log.close().unwrap();
        }
    }
}

#[test]
fn mistakes_are_told_at_once_and_change_nothing() {
    let dir = temporary();
    let log = Log::open(small(dir.path())).unwrap();
    let group = log.group(GroupId(1)).unwrap();
    group
        .write(&Write { hard_state: None, entries: &[entry(3, 1, b"a"), entry(3, 2, b"b"), entry(4, 3, b"c")] })
        .unwrap();
    group.compact(Index(1)).unwrap();
    let before = (group.state(), all(&group));
    let write = |entries: &[Entry]| match group.write(&Write { hard_state: None, entries }) {
        Err(LogError::Stage(error)) => error,
        other => panic!("{other:?}"),
    };
    let gap = |first| StageError::Gap { first: Index(first), base: Index(1), last: Index(3) };
    assert_eq!(write(&[entry(4, 5, b"")]), gap(5));
    assert_eq!(write(&[entry(4, 1, b"")]), gap(1));
    assert_eq!(write(&[entry(3, 4, b"")]), StageError::Term { index: Index(4), term: Term(3) });
    assert_eq!(write(&[entry(4, 4, b""), entry(4, 6, b"")]), StageError::Order { expected: Index(5), found: Index(6) });
    assert!(matches!(write(&[entry(4, 4, &[0; 17 << 10])]), StageError::TooLarge { index: Index(4), .. }));
    assert!(matches!(group.compact(Index(4)), Err(LogError::Storage(StorageError::Unavailable { .. }))));
    assert!(matches!(group.truncate(Index(0)), Err(LogError::Storage(StorageError::Compacted { .. }))));
    let read = |first, last| group.read(Index(first), Index(last), u64::MAX);
    assert!(matches!(read(1, 3), Err(LogError::Read(ReadError::Storage(StorageError::Compacted { .. })))));
    assert!(matches!(read(2, 4), Err(LogError::Read(ReadError::Storage(StorageError::Unavailable { .. })))));
    assert_eq!(read(4, 3).unwrap(), []);
    assert_eq!((group.state(), all(&group)), before);
}

#[test]
fn reads_stop_where_they_are_told_to() {
    let dir = temporary();
    let log = Log::open(small(dir.path())).unwrap();
    let group = log.group(GroupId(1)).unwrap();
    // A record takes 24 bytes and its payload: 1024 each.
    let payloads = vec![vec![7_u8; 1000]; 3000];
    for some in payloads.chunks(10) {
        group.append(some).unwrap();
    }
    for (first, last, bytes_max, expected) in [
        (1, 3000, u64::MAX, 3000),
        (1, 3000, 2 << 20, 2048),
        (1, 3000, (2 << 20) - 1, 2047),
        (1, 3000, 1024, 1),
        (1, 3000, 0, 1),
        (1, 3000, 2047, 1),
        (2990, 2995, 1 << 30, 6),
        (3000, 3000, 5000, 1),
    ] {
        let entries = group.read(Index(first), Index(last), bytes_max).unwrap();
        let same = wait(group.read_async(Index(first), Index(last), bytes_max)).unwrap();
        assert_eq!((entries.len(), entries[0].id.index), (expected, Index(first)), "{first} {last} {bytes_max}");
        assert!(entries.windows(2).all(|two| two[0].id.index.next() == two[1].id.index) && entries == same);
    }
}

#[test]
fn a_failed_write_ends_the_log_for_all_with_the_reason() {
    let dir = temporary();
    let faults = Arc::new(Faults::default());
    let config = ringraft_engine::Config { batches_inflight_max: 1, ..small(dir.path()) };
    let log = faults::open(config, &faults).unwrap();
    let group = log.group(GroupId(1)).unwrap();
    let other = log.group(GroupId(2)).unwrap();
    let acknowledged = group.append(&["kept"]).unwrap();

    faults.stall.store(true, SeqCst);
    faults.fail_in.store(2, SeqCst);
    let mut pending: Vec<_> =
        (0..50).map(|n| if n % 2 == 0 { &group } else { &other }.append_async(&[[n; 3000]])).collect();
    let (told, heard) = mpsc::channel();
    group.write_then(&Write { hard_state: Some(HardState::default()), entries: &[] }, move |result| {
        told.send(result).unwrap();
    });
    faults.go_on();

    let is_failed = |error: &LogError| match error {
        LogError::Engine(EngineError::Failed { source, file, .. }) => {
            assert!(source.to_string().contains("broken") && file.starts_with(dir.path()));
            true
        }
        _ => false,
    };
    // The first batch of them was written before the one that failed.
    let results: Vec<_> = pending.drain(..).map(ringraft_engine::blocking::Pending::wait).collect();
    let first_bad = results.iter().position(Result::is_err).expect("one write has failed");
    assert!(first_bad > 0, "one batch was written before");
    assert!(results[first_bad..].iter().all(|result| result.as_ref().is_err_and(is_failed)), "{results:?}");
    assert!(is_failed(&heard.recv().unwrap().unwrap_err()));
    assert!(is_failed(&group.append(&["late"]).unwrap_err()));
    assert!(is_failed(&other.set_hard_state(HardState::default()).unwrap_err()));
    assert!(is_failed(&log.stats().unwrap_err()));
    assert!(is_failed(&log.group(GroupId(9)).unwrap_err()));
    assert!(is_failed(&log.close().unwrap_err()));

    let log = Log::open(small(dir.path())).unwrap();
    let entries = all(&log.group(GroupId(1)).unwrap());
    assert!(entries.len() as u64 >= acknowledged.0 + first_bad.div_ceil(2) as u64);
    assert_eq!(entries[0].payload, "kept");
}

#[test]
fn a_full_disk_is_told_and_gone_on_with_when_there_is_space() {
    let dir = temporary();
    let faults = Arc::new(Faults::default());
    let config = ringraft_engine::Config { segment_bytes: 32 * 4096, segments_free_max: 1, ..small(dir.path()) };
    let log = faults::open(config.clone(), &faults).unwrap();
    let (group, other) = (log.group(GroupId(1)).unwrap(), log.group(GroupId(2)).unwrap());
    other.append(&["before"]).unwrap();
    faults.full.store(true, SeqCst);
    let mut written = Index(0);
    let error = loop {
        match group.append(&[vec![1; 8000]]) {
            Ok(last) => written = last,
            Err(error) => break error,
        }
        assert!(written.0 < 1000, "the disk is full");
    };
    assert!(matches!(error, LogError::Engine(EngineError::NoSegment { .. })), "{error}");
    let full = |result: Result<Index, LogError>| matches!(result, Err(LogError::Engine(EngineError::NoSegment { .. })));
    // Those behind it fail too; what it is then is what is in the log.
    let pending: Vec<_> = (0..20).map(|_| group.append_async(&[vec![2; 8000]])).collect();
    let vote = HardState { term: Term(7), vote: PeerId(3), commit: Index(0) };
    let voted = group.write_async(&Write { hard_state: Some(vote), entries: &[] });
    assert!(pending.into_iter().all(|pending| full(pending.wait())));
    assert_eq!(voted.wait().unwrap(), written, "votes find room");
    assert!(full(other.append(&[vec![2; 8000]])));
    let state = group.state();
    assert_eq!((state.last.index, state.hard_state), (written, vote));
    assert_eq!(other.state().last.index, Index(1));

    faults.full.store(false, SeqCst);
    assert_eq!(group.append(&["after"]).unwrap(), written.next(), "no restart is needed");
    assert_eq!(other.append(&["after"]).unwrap(), Index(2));
    group.compact(written).unwrap();
    drop((group, other));
    drop(log);
    let log = Log::open(config).unwrap();
    assert_eq!(all(&log.group(GroupId(1)).unwrap()), [entry(7, written.0 + 1, b"after")]);
    assert_eq!(all(&log.group(GroupId(2)).unwrap()).len(), 2);
}

#[test]
fn a_full_queue_refuses_or_waits() {
    let dir = temporary();
    let faults = Arc::new(Faults::default());
    let engine = ringraft_engine::Config { queue_bytes_max: 4096, ..small(dir.path()) };
    let config = Config { requests_max: 8, request_bytes_max: 4096, ..engine.into() };
    let log = faults::open(config, &faults).unwrap();
    let group = log.group(GroupId(1)).unwrap();
    faults.stall.store(true, SeqCst);
    let mut taken = Vec::new();
    let write = |index| [entry(1, index, &[3; 1000])];
    let refused = loop {
        let entries = write(taken.len() as u64 + 1);
        match group.try_write(&Write { hard_state: None, entries: &entries }) {
            Ok(pending) => taken.push(pending),
            Err(error) => break error,
        }
        // Batches in flight, queued ones and requests are bounded; so this ends.
        assert!(taken.len() < 1000);
        // Let the engine take what it takes: it is asked after what was put before.
        if taken.len() < 8 {
            let _ = log.stats().unwrap();
        }
    };
    assert!(matches!(refused, LogError::Full), "{refused}");
    assert!(taken.iter().all(|pending| !pending.is_done()), "the disk stalls");
    let next = taken.len() as u64 + 1;
    assert_eq!(group.state().last.index.0 + 1, next, "what was refused was not taken");
    let (told, heard) = mpsc::channel();
    std::thread::scope(|scope| {
        let (group, entries) = (&group, write(next));
        scope.spawn(move || told.send(group.write(&Write { hard_state: None, entries: &entries })).unwrap());
        assert!(heard.try_recv().is_err());
        faults.go_on();
        assert_eq!(heard.recv().unwrap().unwrap(), Index(next));
        wait(group.room(1000));
    });
    assert!(taken.into_iter().all(|pending| wait(pending).is_ok()));
    assert_eq!(all(&group).len() as u64, next);
}

#[test]
fn an_ended_log_says_so_and_leaves_its_directory() {
    let dir = temporary();
    let log = Log::open(small(dir.path())).unwrap();
    let group = log.group(GroupId(1)).unwrap();
    let pending = group.append_async(&["asked for before"]);
    log.close().unwrap();
    assert_eq!(pending.wait().unwrap(), Index(1), "what was asked for before is done");
    log.close().unwrap();
    assert!(matches!(group.append(&["late"]), Err(LogError::Closed)));
    assert!(matches!(group.read(Index(1), Index(1), 100), Err(LogError::Closed)));
    assert!(matches!(log.sync(), Err(LogError::Closed)));

    // The last handle goes in a callback, on the log's own thread.
    let log = Log::open(small(dir.path())).unwrap();
    let group = log.group(GroupId(1)).unwrap();
    let (told, heard) = mpsc::channel();
    let handles = Mutex::new(Some((log, group.clone())));
    group.write_then(&Write { hard_state: None, entries: &[entry(1, 2, b"")] }, move |result| {
        drop(handles.lock().unwrap().take());
        told.send(result).unwrap();
    });
    drop(group);
    assert_eq!(heard.recv().unwrap().unwrap(), Index(2));
}

#[test]
fn a_panic_in_a_callback_ends_the_log_and_nobody_hangs() {
    let dir = temporary();
    let log = Log::open(small(dir.path())).unwrap();
    let group = log.group(GroupId(1)).unwrap();
    group.write_then(&Write { hard_state: None, entries: &[entry(1, 1, b"")] }, |_| panic!("on purpose"));
    let later: Vec<_> = (0..10).map(|_| group.append_async(&["later"])).collect();
    // Those of the same batch were durable, the others will never be known.
    for pending in later {
        assert!(matches!(pending.wait(), Ok(_) | Err(LogError::Panicked)));
    }
    loop {
        if let Err(error) = group.append(&["later"]) {
            assert!(matches!(error, LogError::Panicked), "{error}");
            break;
        }
    }
    assert!(matches!(log.close(), Err(LogError::Panicked)));
    let log = Log::open(small(dir.path())).unwrap();
    assert!(log.group(GroupId(1)).unwrap().state().last.index >= Index(1));
}

#[test]
fn snapshots_are_saved_installed_and_replaced() {
    let dir = temporary();
    let conf = |n| ConfState { voters: (1..=n).map(PeerId).collect(), ..ConfState::default() };
    let files = || {
        let names = std::fs::read_dir(dir.path().join("snap")).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let log = Log::open(small(dir.path())).unwrap();
    let group = log.group_with(GroupId(0xa), conf(1)).unwrap();
    assert!(group.snapshot().unwrap().is_none());
    group.append(&["a", "b", "c"]).unwrap();
    let missing = group.save_snapshot(Index(4), conf(2), ["x"]);
    assert!(matches!(missing, Err(LogError::Storage(StorageError::Unavailable { .. }))));
    assert_eq!(group.save_snapshot(Index(2), conf(2), ["one", "two"]).unwrap(), id(1, 2));
    group.compact(Index(2)).unwrap();
    assert_eq!(group.save_snapshot(Index(3), conf(3), ["three"]).unwrap(), id(1, 3));
    assert_eq!(files(), ["000000000000000a-0000000000000003-0000000000000001.snap"]);
    let old = group.save_snapshot(Index(2), conf(1), ["x"]);
    assert!(matches!(old, Err(LogError::SnapshotOutOfDate { .. })));
    let old = group.install_snapshot(id(1, 1), conf(1), HardState::default(), ["x"]);
    assert!(matches!(old, Err(LogError::SnapshotOutOfDate { .. })));
    drop((group, log));

    // What a crash may leave: something half written, and one that was replaced.
    std::fs::write(dir.path().join("snap/000000000000000a-0000000000000009-0000000000000001.new"), "half").unwrap();
    std::fs::write(dir.path().join("snap/000000000000000a-0000000000000002-0000000000000001.snap"), "old").unwrap();
    let log = Log::open(small(dir.path())).unwrap();
    let group = log.group(GroupId(0xa)).unwrap();
    let read = group.snapshot().unwrap().unwrap();
    assert_eq!((read.name().id, read.conf(), read.chunks().next().unwrap()), (id(1, 3), &conf(3), "three".into()));
    assert_eq!(group.state().conf, conf(3));
    let hard = HardState { term: Term(5), vote: PeerId(2), commit: Index(3) };
    group.install_snapshot(id(4, 90), conf(5), hard, [vec![9; 100_000], vec![8]]).unwrap();
    let check = |group: &Group| {
        let state = group.state();
        assert_eq!((state.base, state.last, state.snapshot), (id(4, 90), id(4, 90), Some(id(4, 90))));
        assert_eq!((state.hard_state, state.conf), (HardState { commit: Index(90), ..hard }, conf(5)));
        assert_eq!(group.snapshot().unwrap().unwrap().payload_bytes(), 100_001);
    };
    check(&group);
    drop((group, log));
    let log = Log::open(small(dir.path())).unwrap();
    check(&log.group(GroupId(0xa)).unwrap());
    drop(log);
    assert_eq!(files(), ["000000000000000a-000000000000005a-0000000000000004.snap"]);
}
