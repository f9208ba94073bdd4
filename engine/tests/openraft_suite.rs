//! openraft's own suite on the log: as it is, and with the log closed and opened again between every two calls.

#[path = "faults.rs"]
mod faults;

use std::fmt::Debug;
use std::future::Future;
use std::io::Cursor;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use openraft::entry::RaftPayload as _;
use openraft::storage::{LogFlushed, RaftLogStorage, RaftLogStorageExt, RaftStateMachine, Snapshot};
use openraft::testing::{StoreBuilder, Suite, blank_ent, log_id};
use openraft::{
    LogId, LogState, OptionalSend, RaftLogReader, RaftSnapshotBuilder, SnapshotMeta, StorageError, StoredMembership,
    Vote,
};
use ringraft_engine::Config;
use ringraft_engine::adapters::openraft::LogStore;
use ringraft_engine::blocking::Log;
use ringraft_raft::GroupId;
use tempfile::TempDir;

use self::faults::Faults;

openraft::declare_raft_types!(
    /// What the suite is run with.
    pub Types: D = String, R = Option<String>, NodeId = u64
);

type Failure = StorageError<u64>;
type Store = LogStore<Types>;

fn temporary() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn small(dir: &Path) -> Config {
    Config {
        segment_bytes: 16 * 4096,
        batch_bytes_max: 8 << 10,
        record_bytes_max: 8 << 10,
        cache_bytes_max: 4 << 10,
        ..Config::new(dir, 5)
    }
}

fn open(dir: &Path) -> (Log, Store) {
    let log = Log::open(small(dir)).unwrap();
    let store = LogStore::open(&log, GroupId(3)).unwrap();
    (log, store)
}

// ---- the state machine, in memory ----

#[derive(Clone, Default)]
struct Machine(Arc<Mutex<State>>);

#[derive(Clone, Default)]
struct State {
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, openraft::BasicNode>,
    values: Vec<String>,
    snapshot: Option<(SnapshotMeta<u64, openraft::BasicNode>, Vec<u8>)>,
    snapshots: usize,
}

impl State {
    fn snapshot(&self) -> Option<Snapshot<Types>> {
        let (meta, bytes) = self.snapshot.clone()?;
        Some(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) })
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, Failure> {
        let mut state = self.0.lock().unwrap();
        state.snapshots += 1;
        let (last_log_id, last_membership) = (state.applied, state.membership.clone());
        let meta = SnapshotMeta { last_log_id, last_membership, snapshot_id: state.snapshots.to_string() };
        state.snapshot = Some((meta, state.values.join("\n").into_bytes()));
        Ok(state.snapshot().unwrap())
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Machine;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, openraft::BasicNode>), Failure> {
        let state = self.0.lock().unwrap();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Option<String>>, Failure>
    where
        I: IntoIterator<Item = openraft::Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut state = self.0.lock().unwrap();
        let mut replies = Vec::new();
        for entry in entries {
            state.applied = Some(entry.log_id);
            if let Some(membership) = entry.get_membership() {
                state.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
            }
            let value = match entry.payload {
                openraft::EntryPayload::Normal(value) => Some(value),
                _ => None,
            };
            state.values.extend(value.clone());
            replies.push(value);
        }
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, Failure> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, openraft::BasicNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), Failure> {
        let mut state = self.0.lock().unwrap();
        let bytes = snapshot.into_inner();
        state.values = String::from_utf8(bytes.clone()).unwrap().lines().map(Into::into).collect();
        (state.applied, state.membership) = (meta.last_log_id, meta.last_membership.clone());
        state.snapshot = Some((meta.clone(), bytes));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, Failure> {
        Ok(self.0.lock().unwrap().snapshot())
    }
}

// ---- the suite ----

struct Plain;

impl StoreBuilder<Types, Store, Machine, (TempDir, Log)> for Plain {
    async fn build(&self) -> Result<((TempDir, Log), Store, Machine), Failure> {
        let dir = temporary();
        let (log, store) = open(dir.path());
        Ok(((dir, log), store, Machine::default()))
    }
}

#[test]
fn the_suite_passes() {
    Suite::test_all(Plain).unwrap();
}

/// A store that is opened for every call and closed after it: nothing is remembered but what is in the directory.
#[derive(Clone)]
struct Reopened {
    dir: PathBuf,
    openings: Arc<AtomicUsize>,
}

/// One call: `reopened!(self, call(arguments))`.
macro_rules! reopened {
    ($self:ident, $call:ident($($argument:expr),*)) => {{
        $self.openings.fetch_add(1, SeqCst);
        let (log, mut store) = open(&$self.dir);
        let result = store.$call($($argument),*).await;
        drop(store);
        log.close().unwrap();
        result
    }};
}

impl RaftLogReader<Types> for Reopened {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<openraft::Entry<Types>>, Failure> {
        reopened!(self, try_get_log_entries(range))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<openraft::Entry<Types>>, Failure> {
        reopened!(self, limited_get_log_entries(start, end))
    }
}

impl RaftLogStorage<Types> for Reopened {
    type LogReader = Reopened;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, Failure> {
        reopened!(self, get_log_state())
    }

    async fn get_log_reader(&mut self) -> Reopened {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), Failure> {
        reopened!(self, save_vote(vote))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, Failure> {
        reopened!(self, read_vote())
    }

    async fn save_committed(&mut self, committed: Option<LogId<u64>>) -> Result<(), Failure> {
        reopened!(self, save_committed(committed))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<u64>>, Failure> {
        reopened!(self, read_committed())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), Failure>
    where
        I: IntoIterator<Item = openraft::Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        reopened!(self, append(entries, callback))
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<(), Failure> {
        reopened!(self, truncate(log_id))
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> Result<(), Failure> {
        reopened!(self, purge(log_id))
    }
}

#[derive(Default)]
struct Reopening {
    openings: Arc<AtomicUsize>,
}

impl StoreBuilder<Types, Reopened, Machine, TempDir> for Reopening {
    async fn build(&self) -> Result<(TempDir, Reopened, Machine), Failure> {
        let dir = temporary();
        let store = Reopened { dir: dir.path().to_owned(), openings: self.openings.clone() };
        Ok((dir, store, Machine::default()))
    }
}

#[test]
fn the_suite_passes_with_an_opening_for_every_call() {
    let builder = Reopening::default();
    let openings = builder.openings.clone();
    Suite::test_all(builder).unwrap();
    let openings = openings.load(SeqCst);
    println!("{openings} openings");
    assert!(openings > 300, "{openings} openings");
}

// ---- what the suite does not ask ----

/// The result of a future that needs no runtime.
fn wait<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[test]
fn the_callback_comes_when_entries_are_durable_and_reads_before() {
    let dir = temporary();
    let faults = Arc::new(Faults::default());
    let log = faults::open(small(dir.path()), &faults).unwrap();
    let mut store: Store = LogStore::open(&log, GroupId(3)).unwrap();
    let entries = |indexes: std::ops::Range<u64>| indexes.map(|index| blank_ent::<Types>(1, 1, index));
    wait(store.blocking_append(entries(0..3))).unwrap();

    faults.stall.store(true, SeqCst);
    let mut writer = store.clone();
    let mut append = Box::pin(writer.blocking_append(entries(3..6)));
    let mut context = Context::from_waker(Waker::noop());
    assert!(append.as_mut().poll(&mut context).is_pending());
    let read = wait(store.try_get_log_entries(0..10)).unwrap();
    assert_eq!(read.len(), 6, "readable before they are durable");
    assert!(append.as_mut().poll(&mut context).is_pending(), "the disk stalls");
    faults.go_on();
    wait(append).unwrap();

    faults.fail_in.store(1, SeqCst);
    assert!(wait(store.blocking_append(entries(6..7))).is_err());
    assert!(wait(store.save_vote(&Vote::new(2, 2))).is_err(), "the log has ended");
    drop((store, writer, log));
    let (_log, mut store) = open(dir.path());
    assert!(wait(store.get_log_state()).unwrap().last_log_id >= Some(log_id(1, 1, 5)));
    assert_eq!(wait(store.read_vote()).unwrap(), None);
}

#[test]
fn a_gap_is_refused() {
    let dir = temporary();
    let (_log, mut store) = open(dir.path());
    wait(store.blocking_append([blank_ent::<Types>(1, 1, 0)])).unwrap();
    assert!(wait(store.blocking_append([blank_ent::<Types>(1, 1, 2)])).is_err());
    wait(store.purge(log_id(2, 1, 9))).unwrap();
    assert!(wait(store.blocking_append([blank_ent::<Types>(2, 1, 11)])).is_err());
    wait(store.blocking_append([blank_ent::<Types>(2, 1, 10)])).unwrap();
    let state = wait(store.get_log_state()).unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(2, 1, 9)), Some(log_id(2, 1, 10))));
}

#[test]
fn what_is_purged_is_passed_over() {
    let dir = temporary();
    let (_log, mut store) = open(dir.path());
    wait(store.purge(log_id(2, 1, 9))).unwrap();
    wait(store.blocking_append([blank_ent::<Types>(1, 1, 8)])).unwrap();
    wait(store.blocking_append([8, 9, 10].map(|index| blank_ent::<Types>(2, 1, index)))).unwrap();
    let found = wait(store.try_get_log_entries(..)).unwrap();
    assert_eq!(found.iter().map(|entry| entry.log_id).collect::<Vec<_>>(), [log_id(2, 1, 10)]);
}

/// The vote is written once and read for ever, the entries come and go: its segment is not kept for it.
#[test]
fn a_log_that_is_purged_stays_small_and_keeps_its_vote() {
    let dir = temporary();
    let (log, mut store) = open(dir.path());
    wait(store.save_vote(&Vote::new(7, 2))).unwrap();
    let mut most = 0;
    for index in 0..1000 {
        let mut entry = blank_ent::<Types>(7, 2, index);
        entry.payload = openraft::EntryPayload::Normal("x".repeat(1000));
        wait(store.blocking_append([entry])).unwrap();
        if index % 50 == 49 {
            wait(store.purge(log_id(7, 2, index - 10))).unwrap();
        }
        most = most.max(std::fs::read_dir(dir.path()).unwrap().count());
    }
    drop(store);
    log.close().unwrap();
    // Some 100 segments of 64 KiB were written.
    println!("{most} files at most");
    assert!(most < 16, "{most} files");
    let (_log, mut store) = open(dir.path());
    assert_eq!(wait(store.read_vote()).unwrap(), Some(Vote::new(7, 2)));
    assert_eq!(wait(store.try_get_log_entries(..)).unwrap().len(), 10);
}

#[test]
fn stores_on_one_log_do_not_see_each_other() {
    let dir = temporary();
    for round in 0..3_u64 {
        let log = Log::open(small(dir.path())).unwrap();
        for number in 0..10 {
            let mut store: Store = LogStore::open(&log, GroupId(number)).unwrap();
            let expected = (round > 0).then(|| Vote::new(round, number));
            assert_eq!(wait(store.read_vote()).unwrap(), expected);
            assert_eq!(wait(store.try_get_log_entries(..)).unwrap().len() as u64, round * number);
            wait(store.save_vote(&Vote::new(round + 1, number))).unwrap();
            let entries = (round * number..(round + 1) * number).map(|index| blank_ent::<Types>(1, number, index));
            wait(store.blocking_append(entries)).unwrap();
        }
        log.close().unwrap();
    }
}
