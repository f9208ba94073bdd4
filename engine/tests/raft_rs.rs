//! raft-rs on the log: the same answers as its own storage in memory, and a cluster of its nodes that restart.

#[expect(dead_code, reason = "other tests need more of it")]
#[path = "faults.rs"]
mod faults;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use raft::prelude::*;
use raft::storage::MemStorage;
use raft::{Error, GetEntriesContext, StorageError};
use ringraft_engine::Config;
use ringraft_engine::adapters::raft_rs::RaftStorage;
use ringraft_engine::blocking::Log;
use ringraft_raft::{GroupId, Index};
use tempfile::TempDir;

fn temporary() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn small(dir: &Path) -> Config {
    Config {
        segment_bytes: 64 * 4096,
        batch_bytes_max: 16 << 10,
        record_bytes_max: 16 << 10,
        cache_bytes_max: 8 << 10,
        ..Config::new(dir, 5)
    }
}

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    /// One of `low..=high`.
    fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    fn bytes(&mut self, max: u64) -> Vec<u8> {
        let byte = u8::try_from(self.below(256)).unwrap();
        vec![byte; usize::try_from(self.below(max + 1)).unwrap()]
    }
}

thread_local! {
    /// A panic here is expected and not printed.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

fn quiet_where_expected() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !QUIET.get() {
            print(info);
        }
    }));
}

/// Operations of the differential test.
const OPERATIONS: usize = 100_000;
/// Operations between two openings.
const SESSION: usize = 2_000;

/// raft-rs's storage, and what it does not remember.
struct Model {
    memory: MemStorage,
    /// The entry before the first one: known to ours also after a compaction, as the trait asks.
    base: (u64, u64),
    /// The latest snapshot saved or applied, and its data.
    snapshot: Option<(u64, Vec<u8>)>,
    /// How often which kind of operation was compared.
    compared: BTreeMap<&'static str, usize>,
}

impl Model {
    fn first(&self) -> u64 {
        self.memory.first_index().unwrap()
    }

    fn last(&self) -> u64 {
        self.memory.last_index().unwrap()
    }

    fn term(&self, index: u64) -> u64 {
        if index == self.base.0 { self.base.1 } else { self.memory.term(index).unwrap() }
    }

    fn hard(&self) -> HardState {
        self.memory.initial_state().unwrap().hard_state
    }

    fn count(&mut self, what: &'static str) {
        *self.compared.entry(what).or_default() += 1;
    }

    fn entries(&self, dice: &mut Dice, after: u64) -> Vec<Entry> {
        let mut term = self.term(after) + dice.below(8) / 7;
        (after + 1..=after + dice.below(6))
            .map(|index| {
                term += dice.below(10) / 9;
                let mut entry = Entry { term, index, sync_log: dice.below(8) == 0, ..Entry::default() };
                entry.data = dice.bytes(300).into();
                entry.context = if dice.below(4) == 0 { dice.bytes(40).into() } else { Vec::new().into() };
                let kinds = [EntryType::EntryNormal, EntryType::EntryConfChange, EntryType::EntryConfChangeV2];
                entry.set_entry_type(kinds[usize::try_from(dice.below(9) / 4).unwrap()]);
                entry
            })
            .collect()
    }

    /// One operation on both, and the same outcome.
    fn step(&mut self, ours: &RaftStorage, dice: &mut Dice) {
        let (first, last, hard) = (self.first(), self.last(), self.hard());
        match dice.below(100) {
            0..30 => {
                let after = if dice.below(4) == 0 { dice.within(hard.commit.max(first - 1), last) } else { last };
                let entries = self.entries(dice, after);
                self.memory.wl().append(&entries).unwrap();
                let written = ours.write(None, &entries).unwrap();
                if dice.below(8) == 0 {
                    assert_eq!(written.wait().unwrap(), Index(self.last()));
                }
                self.count("append");
            }
            30..32 => {
                // What does not join the log: a panic there, an error here.
                let compacted = dice.below(2) == 0 && first > 1;
                let at = if compacted { first - 1 } else { last + 2 + dice.below(3) };
                let entries = [Entry { term: 1 << 40, index: at, ..Entry::default() }];
                assert!(self.panics(|memory| memory.wl().append(&entries).unwrap()));
                let expected = if compacted { StorageError::Compacted } else { StorageError::Unavailable };
                assert_eq!(ours.append(&entries).unwrap_err(), Error::Store(expected));
                self.count("append where it does not join");
            }
            32..44 => {
                let mut hard = hard.clone();
                hard.term += dice.below(2);
                hard.vote = dice.below(4);
                hard.commit = dice.within(hard.commit, last);
                self.memory.wl().set_hardstate(hard.clone());
                drop(ours.write(Some(&hard), &[]).unwrap());
                self.count("set hard state");
            }
            44..50 => {
                let commit = dice.within(hard.commit, last);
                self.memory.wl().mut_hard_state().commit = commit;
                ours.note_commit(commit).unwrap();
                self.count("commit");
            }
            50..54 => {
                let mut conf = ConfState::from(((1..=dice.below(5)).collect::<Vec<_>>(), vec![9, 7]));
                conf.set_voters_outgoing((5..=dice.within(4, 7)).collect());
                conf.auto_leave = dice.below(2) == 0;
                self.memory.wl().set_conf_state(conf.clone());
                ours.set_conf_state(conf).unwrap();
                self.count("set conf state");
            }
            54..58 => {
                // The entry at the commit index stays: without any, MemStorage forgets where it was.
                let index = dice.within(first.saturating_sub(3), hard.commit.max(first));
                if index > first {
                    self.base = (index - 1, self.term(index - 1));
                }
                self.memory.wl().compact(index).unwrap();
                ours.compact(index).unwrap();
                self.count("compact");
            }
            58 => {
                let index = last + 2 + dice.below(3);
                assert!(self.panics(|memory| memory.wl().compact(index).unwrap()));
                assert_eq!(ours.compact(index).unwrap_err(), Error::Store(StorageError::Unavailable));
                self.count("compact beyond the log");
            }
            59 => {
                let mut snapshot = Snapshot { data: dice.bytes(5000).into(), ..Snapshot::default() };
                snapshot.mut_metadata().index = dice.within(first.saturating_sub(3), last + 5);
                snapshot.mut_metadata().term = self.term(last) + dice.below(2);
                snapshot.mut_metadata().set_conf_state(ConfState::from((vec![1, 2], vec![dice.below(9)])));
                let (meta, data) = (snapshot.get_metadata().clone(), snapshot.data.to_vec());
                let theirs = self.memory.wl().apply_snapshot(snapshot.clone());
                assert_eq!(ours.apply_snapshot(snapshot), theirs);
                if theirs.is_ok() {
                    self.base = (meta.index, meta.term);
                    self.snapshot = Some((meta.index, data));
                }
                self.count("apply snapshot");
            }
            60 => self.compare_snapshot(ours, dice),
            61..80 => self.compare_entries(ours, dice),
            _ => self.compare_term(ours, dice),
        }
        let (theirs, ours_now) = (self.memory.initial_state().unwrap(), ours.initial_state().unwrap());
        assert_eq!((theirs.hard_state, theirs.conf_state), (ours_now.hard_state, ours_now.conf_state));
        assert_eq!(self.memory.first_index(), ours.first_index());
        assert_eq!(self.memory.last_index(), ours.last_index());
    }

    /// Whether raft-rs's storage panics at this. Asked of a copy: a panic poisons its lock.
    fn panics(&self, call: impl FnOnce(&MemStorage)) -> bool {
        let copy = MemStorage::new();
        let (first, last) = (self.first(), self.last());
        if first > 1 {
            let mut snapshot = Snapshot::default();
            (snapshot.mut_metadata().index, snapshot.mut_metadata().term) = self.base;
            copy.wl().apply_snapshot(snapshot).unwrap();
        }
        if last >= first {
            let entries = self.memory.entries(first, last + 1, None, GetEntriesContext::empty(false)).unwrap();
            copy.wl().append(&entries).unwrap();
        }
        assert_eq!((copy.first_index().unwrap(), copy.last_index().unwrap()), (first, last));
        QUIET.set(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| call(&copy)));
        QUIET.set(false);
        outcome.is_err()
    }

    fn compare_snapshot(&mut self, ours: &RaftStorage, dice: &mut Dice) {
        let hard = self.hard();
        let beyond = ours.snapshot(hard.commit + 1 + dice.below(3), 2);
        assert_eq!(beyond.unwrap_err(), Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        if self.snapshot.as_ref().is_none_or(|(index, _)| *index < hard.commit) {
            if hard.commit == self.base.0 {
                return;
            }
            let data = dice.bytes(5000);
            let conf = self.memory.initial_state().unwrap().conf_state;
            ours.save_snapshot(hard.commit, conf, &data).unwrap();
            self.snapshot = Some((hard.commit, data));
        }
        let (index, data) = self.snapshot.clone().unwrap();
        if index != hard.commit {
            return;
        }
        let request = dice.below(hard.commit + 1);
        let (theirs, found) = (self.memory.snapshot(request, 2).unwrap(), ours.snapshot(request, 2).unwrap());
        let (theirs, found_meta) = (theirs.get_metadata(), found.get_metadata());
        assert_eq!((theirs.index, theirs.term), (found_meta.index, found_meta.term));
        assert_eq!(found.data, data);
        self.count("snapshot");
    }

    fn compare_entries(&mut self, ours: &RaftStorage, dice: &mut Dice) {
        let (first, last) = (self.first(), self.last());
        let low = dice.within(first.saturating_sub(2), last + 1);
        let high = dice.within(low, last + 1);
        if first > last && low >= first {
            // MemStorage panics when it is asked for nothing of nothing.
            assert_eq!(ours.entries(low, high, None, GetEntriesContext::empty(false)).unwrap(), []);
            return;
        }
        let max = match dice.below(4) {
            0 => None,
            1 => Some(dice.below(100)),
            _ => Some(dice.below(3000)),
        };
        let theirs = self.memory.entries(low, high, max, GetEntriesContext::empty(false));
        assert_eq!(ours.entries(low, high, max, GetEntriesContext::empty(false)), theirs);
        self.count(if theirs.is_ok() { "entries" } else { "entries that are gone" });
    }

    fn compare_term(&mut self, ours: &RaftStorage, dice: &mut Dice) {
        let (first, last) = (self.first(), self.last());
        let index = dice.within(first.saturating_sub(4), last + 3);
        let found = ours.term(index);
        if index == first - 1 {
            assert_eq!(found, Ok(self.base.1), "the trait asks for the term before the first entry");
        } else if index < first - 1 {
            assert_eq!(found, Err(Error::Store(StorageError::Compacted)));
        } else {
            assert_eq!(found, self.memory.term(index));
        }
        self.count("term");
    }
}

#[test]
fn answers_are_those_of_the_storage_in_memory() {
    quiet_where_expected();
    let dir = temporary();
    let mut dice = Dice(1);
    let first_conf = ConfState::from((vec![1, 2, 3], vec![]));
    let memory = MemStorage::new_with_conf_state(first_conf.clone());
    let mut model = Model { memory, base: (0, 0), snapshot: None, compared: BTreeMap::new() };
    let mut restarts = 0;
    while restarts * SESSION < OPERATIONS {
        let log = Log::open(small(dir.path())).unwrap();
        // Few entries at hand, so that most are read from the log.
        let ours = RaftStorage::with_tail(&log, GroupId(7), first_conf.clone(), 4000).unwrap();
        for _ in 0..SESSION {
            model.step(&ours, &mut dice);
        }
        let (first, last) = (model.first(), model.last());
        if last >= first {
            let all = |storage: &dyn Fn() -> raft::Result<Vec<Entry>>| storage().unwrap();
            let theirs = all(&|| model.memory.entries(first, last + 1, None, GetEntriesContext::empty(false)));
            let found = all(&|| ours.entries(first, last + 1, None, GetEntriesContext::empty(false)));
            assert_eq!(found, theirs);
        }
        log.close().unwrap();
        restarts += 1;
    }
    println!("{restarts} openings; compared: {:?}", model.compared);
    assert!(model.compared.len() == 12 && model.compared.values().all(|count| *count > 100), "{:?}", model.compared);
}

#[test]
fn what_a_full_disk_did_not_take_is_not_read() {
    let dir = temporary();
    let faults = Arc::new(faults::Faults::default());
    let config = Config { segment_bytes: 32 * 4096, segments_free_max: 1, ..small(dir.path()) };
    let log = faults::open(config, &faults).unwrap();
    let storage = RaftStorage::open(&log, GroupId(1), ConfState::default()).unwrap();
    let entry = |term, index| Entry { term, index, data: vec![1; 8000].into(), ..Entry::default() };
    faults.full.store(true, SeqCst);
    let refused = (1..1000).find(|index| storage.append(&[entry(1, *index)]).is_err()).expect("the disk is full");
    let last = refused - 1;
    let all = || storage.entries(1, last + 1, None, GetEntriesContext::empty(false)).unwrap();
    let before = all();
    assert!(storage.append(&[entry(2, last), entry(2, last + 1)]).is_err(), "it would have replaced the last one");
    assert_eq!((storage.last_index().unwrap(), storage.term(last).unwrap()), (last, 1));
    assert_eq!(all(), before);
    faults.full.store(false, SeqCst);
    storage.append(&[entry(2, last), entry(2, last + 1)]).unwrap();
    assert_eq!((storage.last_index().unwrap(), storage.term(last).unwrap()), (last + 1, 2));
}

/// A node of a cluster: its log, and what it has applied.
struct Node {
    dir: TempDir,
    log: Log,
    storage: RaftStorage,
    raw: RawNode<RaftStorage>,
    applied: Vec<(u64, Vec<u8>)>,
}

const NODES: u64 = 3;

impl Node {
    fn open(number: u64, dir: TempDir, applied: Vec<(u64, Vec<u8>)>) -> Node {
        let log = Log::open(small(dir.path())).unwrap();
        let members = ConfState::from(((1..=NODES).collect::<Vec<_>>(), vec![]));
        let storage = RaftStorage::open(&log, GroupId(1), members).unwrap();
        let config = raft::Config {
            id: number,
            applied: applied.last().map_or(0, |(index, _)| *index),
            max_inflight_msgs: 16,
            max_size_per_msg: 2000,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, storage.clone(), &logger).unwrap();
        Node { dir, log, storage, raw, applied }
    }

    /// All that the node wants to do, done; gives what it wants to say.
    fn work(&mut self) -> Vec<Message> {
        let mut said = Vec::new();
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            let written = self.storage.persist(&ready).unwrap();
            if !ready.snapshot().is_empty() {
                let snapshot = ready.snapshot();
                self.applied = decode_state(&snapshot.data);
                assert_eq!(self.applied.last().unwrap().0, snapshot.get_metadata().index);
            }
            said.append(&mut ready.take_messages());
            self.apply(ready.take_committed_entries());
            let mut persisted = ready.take_persisted_messages();
            written.wait().unwrap();
            said.append(&mut persisted);
            let mut light = self.raw.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.storage.note_commit(commit).unwrap();
            }
            said.append(&mut light.take_messages());
            self.apply(light.take_committed_entries());
            self.raw.advance_apply();
        }
        said
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            assert_eq!(entry.index, self.applied.last().map_or(0, |(index, _)| *index) + 1);
            self.applied.push((entry.index, entry.data.to_vec()));
        }
    }

    /// Makes a snapshot of what is applied, and forgets the log before it.
    fn compact(&mut self) {
        let Some((index, _)) = self.applied.last() else { return };
        let conf = self.storage.initial_state().unwrap().conf_state;
        self.storage.save_snapshot(*index, conf, &encode_state(&self.applied)).unwrap();
        self.storage.compact(*index + 1).unwrap();
    }

    fn restart(self, number: u64) -> Node {
        let Node { dir, log, storage, raw, applied } = self;
        drop((raw, storage));
        log.close().unwrap();
        Node::open(number, dir, applied)
    }
}

fn encode_state(applied: &[(u64, Vec<u8>)]) -> Vec<u8> {
    applied
        .iter()
        .flat_map(|(index, data)| [&index.to_le_bytes()[..], &[u8::try_from(data.len()).unwrap()], data].concat())
        .collect()
}

fn decode_state(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut state = Vec::new();
    while let Some((index, rest)) = bytes.split_first_chunk() {
        let (data, rest) = rest[1..].split_at(rest[0].into());
        state.push((u64::from_le_bytes(*index), data.to_vec()));
        bytes = rest;
    }
    state
}

#[test]
fn a_cluster_of_its_nodes_restarts_and_agrees() {
    let mut dice = Dice(11);
    let mut nodes: Vec<Node> = (1..=NODES).map(|number| Node::open(number, temporary(), Vec::new())).collect();
    let mut mail: Vec<Message> = Vec::new();
    let (mut proposed, mut restarts) = (0_u64, 0);
    let done = |nodes: &[Node], proposed: u64| {
        proposed >= 300 && nodes.iter().all(|node| node.applied == nodes[0].applied && node.applied.len() > 300)
    };
    for round in 0.. {
        assert!(
            round < 100_000,
            "no end: {proposed} proposed, {:?}",
            nodes.iter().map(|n| n.applied.len()).collect::<Vec<_>>()
        );
        let quiet = proposed >= 300;
        if quiet && done(&nodes, proposed) {
            break;
        }
        let at = usize::try_from(dice.below(NODES)).unwrap();
        if dice.below(3) == 0 {
            nodes.iter_mut().for_each(|node| _ = node.raw.tick());
        }
        if !quiet && nodes[at].raw.raft.state == raft::StateRole::Leader {
            let data = proposed.to_le_bytes().to_vec();
            proposed += u64::from(nodes[at].raw.propose(Vec::new(), data).is_ok());
        }
        if dice.below(40) == 0 {
            nodes[at].compact();
        }
        if !quiet && dice.below(60) == 0 {
            let node = nodes.remove(at);
            nodes.insert(at, node.restart(at as u64 + 1));
            restarts += 1;
        }
        for message in std::mem::take(&mut mail) {
            // Some are lost.
            if dice.below(20) == 0 {
                continue;
            }
            let to = usize::try_from(message.to - 1).unwrap();
            let _ = nodes[to].raw.step(message);
        }
        for node in &mut nodes {
            let said = node.work();
            for message in &said {
                if message.get_msg_type() == MessageType::MsgSnapshot {
                    // Whether it arrived is seen by what the follower says next.
                    node.raw.report_snapshot(message.to, SnapshotStatus::Finish);
                }
            }
            mail.extend(said);
        }
    }
    assert!(restarts > 10, "{restarts} restarts");
    // What is committed of the same history: each node's log says the same.
    for node in &nodes[1..] {
        let index = nodes[0].applied.last().unwrap().0;
        assert_eq!(node.storage.term(index), nodes[0].storage.term(index));
    }
}
