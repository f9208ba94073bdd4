//! raft-rs's [`Storage`] (crate `raft` 0.7, feature `raft-rs`), durable.
//!
//! One [`RaftStorage`] is the log of one peer; clones are the same log. The trait reads; what a `Ready` asks to be written
//! goes to [`RaftStorage::persist`], whose result says when the messages that must wait may leave:
//!
//! ```no_run
//! use raft::prelude::*;
//! use ringraft_engine::adapters::raft_rs::RaftStorage;
//! use ringraft_engine::{Config, blocking::Log};
//! use ringraft_raft::GroupId;
//!
//! # fn send(_: Vec<Message>) {}
//! # fn apply(_: Vec<Entry>) {}
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let log = Log::open(Config::new("data", 1))?;
//! let storage = RaftStorage::open(&log, GroupId(1), ConfState::from((vec![1], vec![])))?;
//! let logger = slog::Logger::root(slog::Discard, slog::o!());
//! let mut node = RawNode::new(&raft::Config::new(1), storage.clone(), &logger)?;
//! # node.campaign()?;
//! while node.has_ready() {
//!     let mut ready = node.ready();
//!     let written = storage.persist(&ready)?; // Messages and committed entries go on beside the disk.
//!     send(ready.take_messages());
//!     apply(ready.take_committed_entries());
//!     let persisted = ready.take_persisted_messages();
//!     written.wait()?;
//!     send(persisted);
//!     let mut light = node.advance(ready);
//!     if let Some(commit) = light.commit_index() {
//!         storage.note_commit(commit)?;
//!     }
//!     send(light.take_messages());
//!     apply(light.take_committed_entries());
//!     node.advance_apply();
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Where `MemStorage` panics (a gap, a range that is not there), this gives an error. Unlike it, this knows the term of the
//! entry before the first one also after a compaction, as the trait asks, and has a snapshot only when one was
//! [saved](RaftStorage::save_snapshot) or [applied](RaftStorage::apply_snapshot).
//!
//! The feature chooses raft-rs's `protobuf-codec`, which needs no `protoc`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{BufMut, BytesMut};
use raft::eraftpb::{self, EntryType, Snapshot};
use raft::util::limit_size;
use raft::{Error, GetEntriesContext, RaftState, Ready, Result, Storage, StorageError};
use ringraft_raft::{ConfState, EntryId, EntryKind, GroupId, HardState, Index, PeerId, Term};

use crate::blocking::{self, Group, Log, LogError, Pending, Reply, Write};
use crate::error::{ReadError, StageError};

/// Bytes of records that are read in one go.
const READ_BYTES: u64 = 1 << 20;

/// Of the first word of a payload: the entry's `sync_log`. The rest is the length of its context.
const SYNC_LOG: u32 = 1 << 31;

/// The log of one raft-rs peer. See the module.
#[derive(Clone)]
pub struct RaftStorage {
    group: Group,
    tail: Arc<Mutex<Tail>>,
    /// A write has failed: the tail may hold what the log does not.
    is_stale: Arc<AtomicBool>,
}

impl RaftStorage {
    /// The log of a group; `conf` is its first membership if there is no such group yet. Keeps the newest entries, up to
    /// 1 MiB, at hand.
    ///
    /// # Errors
    /// Why there is no such group.
    ///
    /// # Panics
    /// If `conf` names more than [`MEMBERS_MAX`](crate::MEMBERS_MAX) members.
    pub fn open(log: &Log, group: GroupId, conf: eraftpb::ConfState) -> Result<RaftStorage> {
        RaftStorage::with_tail(log, group, conf, 1 << 20)
    }

    /// As [`RaftStorage::open`], with so many bytes of entries at hand.
    ///
    /// # Errors
    /// As [`RaftStorage::open`].
    ///
    /// # Panics
    /// As [`RaftStorage::open`].
    pub fn with_tail(
        log: &Log,
        group: GroupId,
        conf: eraftpb::ConfState,
        tail_bytes_max: usize,
    ) -> Result<RaftStorage> {
        let group = log.group_with(group, conf_in(conf)).map_err(error_out)?;
        let tail = Tail { bytes_max: tail_bytes_max, ..Tail::default() };
        Ok(RaftStorage { group, tail: Arc::new(Mutex::new(tail)), is_stale: Arc::default() })
    }

    /// The group behind it.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Writes what a `Ready` asks for. A snapshot is durable when this returns; hard state and entries are when the result
    /// comes: only then may `ready.persisted_messages()` leave and `advance` (or `on_persist_ready`) be called.
    ///
    /// # Errors
    /// As [`RaftStorage::apply_snapshot`] and [`RaftStorage::write`].
    pub fn persist(&self, ready: &Ready) -> Result<Pending<Index>> {
        if !ready.snapshot().is_empty() {
            self.apply_snapshot(ready.snapshot().clone())?;
        }
        match ready.hs() {
            Some(hard_state) if !ready.must_sync() => {
                // Nothing but the commit index has changed.
                self.note_commit(hard_state.commit)?;
                Ok(Pending::done(Ok(self.group.bounds().1)))
            }
            hard_state => self.write(hard_state, ready.entries()),
        }
    }

    /// Writes a hard state and entries, which replace everything from the first one's index on. Durable when the result
    /// comes; to be read at once.
    ///
    /// # Errors
    /// [`StorageError::Compacted`] or [`StorageError::Unavailable`] if the entries do not join the log,
    /// [`StorageError::Other`] if they cannot follow each other there or are too large: nothing was taken. What goes wrong
    /// later, the result says.
    pub fn write(&self, hard_state: Option<&eraftpb::HardState>, entries: &[eraftpb::Entry]) -> Result<Pending<Index>> {
        let encoded: Vec<blocking::Entry> = entries.iter().map(entry_in).collect();
        let write = Write { hard_state: hard_state.map(hard_in), entries: &encoded };
        // Locked first, so that the tail is as the log.
        let mut tail = self.tail();
        self.group.check(&write).map_err(|error| error_out(error.into()))?;
        let (reply, pending) = Reply::pending();
        let is_stale = self.is_stale.clone();
        self.group.write_then(&write, move |result| {
            if result.is_err() {
                is_stale.store(true, SeqCst);
            }
            reply.send(result);
        });
        tail.append(entries);
        Ok(pending)
    }

    /// Appends entries, which replace everything from the first one's index on; durable when it returns.
    ///
    /// # Errors
    /// As [`RaftStorage::write`], and if the disk failed.
    pub fn append(&self, entries: &[eraftpb::Entry]) -> Result<()> {
        self.write(None, entries)?.wait().map(drop).map_err(error_out)
    }

    /// Replaces the hard state; durable when it returns.
    ///
    /// # Errors
    /// If the disk failed.
    pub fn set_hard_state(&self, hard_state: &eraftpb::HardState) -> Result<()> {
        self.group.set_hard_state(hard_in(hard_state)).map_err(error_out)
    }

    /// Raises the commit index of the hard state; it is written with whatever comes next, or when the log is closed. After a
    /// crash it may be an older one.
    ///
    /// # Errors
    /// If the log has ended.
    pub fn note_commit(&self, commit: u64) -> Result<()> {
        self.group.note_commit(Index(commit)).map_err(error_out)
    }

    /// Replaces the membership; durable when it returns.
    ///
    /// # Errors
    /// If the disk failed.
    ///
    /// # Panics
    /// If it names more than [`MEMBERS_MAX`](crate::MEMBERS_MAX) members.
    pub fn set_conf_state(&self, conf: eraftpb::ConfState) -> Result<()> {
        self.group.set_conf(conf_in(conf)).map_err(error_out)
    }

    /// Forgets all entries before `index`, which must be applied; durable when it returns. What is forgotten already is left
    /// alone. A follower that needs what was forgotten needs a snapshot that covers it: save it first.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] if `index` is more than one beyond the last.
    pub fn compact(&self, index: u64) -> Result<()> {
        let mut tail = self.tail();
        let pending = self.group.compact_async(Index(index).prev());
        tail.forget_before(index);
        drop(tail);
        pending.wait().map(drop).map_err(error_out)
    }

    /// Saves a snapshot of the state as of the entry at `index`, and the membership then; durable when it returns. It is
    /// what followers are sent from now on.
    ///
    /// # Errors
    /// [`StorageError::SnapshotOutOfDate`] if there is a newer one, [`StorageError::Compacted`] or
    /// [`StorageError::Unavailable`] if the entry is not there.
    ///
    /// # Panics
    /// If it names more than [`MEMBERS_MAX`](crate::MEMBERS_MAX) members.
    pub fn save_snapshot(&self, index: u64, conf: eraftpb::ConfState, data: &[u8]) -> Result<()> {
        self.group.save_snapshot(Index(index), conf_in(conf), [data]).map(drop).map_err(error_out)
    }

    /// Puts a received snapshot in place of the log, and raises the hard state to it; durable when it returns.
    ///
    /// # Errors
    /// [`StorageError::SnapshotOutOfDate`] if the log begins behind it.
    ///
    /// # Panics
    /// If it names more than [`MEMBERS_MAX`](crate::MEMBERS_MAX) members.
    pub fn apply_snapshot(&self, mut snapshot: Snapshot) -> Result<()> {
        let mut meta = snapshot.take_metadata();
        let id = EntryId { index: Index(meta.index), term: Term(meta.term) };
        let before = self.group.state();
        if id.index <= before.base.index {
            return Err(StorageError::SnapshotOutOfDate.into());
        }
        let HardState { term, vote, .. } = before.hard_state;
        let hard_state = HardState { term: term.max(id.term), vote, commit: id.index };
        self.tail().clear();
        let data: &[u8] = snapshot.data.as_ref();
        let conf = conf_in(meta.take_conf_state());
        self.group.install_snapshot(id, conf, hard_state, [data]).map_err(error_out)
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().expect("no holder panics")
    }
}

impl Storage for RaftStorage {
    fn initial_state(&self) -> Result<RaftState> {
        let state = self.group.state();
        Ok(RaftState::new(hard_out(state.hard_state), conf_out(state.conf)))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<eraftpb::Entry>> {
        let max_size = max_size.into();
        let mut taken = Taken { entries: Vec::new(), left: max_size.unwrap_or(u64::MAX) };
        {
            let mut tail = self.tail();
            // Asked before the mark is looked at: a log that has taken entries back has set it by then.
            let (base, last) = self.group.bounds();
            if low <= base.0 {
                return Err(StorageError::Compacted.into());
            }
            if high > last.0 + 1 {
                return Err(StorageError::Unavailable.into());
            }
            if self.is_stale.swap(false, SeqCst) {
                tail.clear();
            }
            if !tail.get(low, high, &mut taken) {
                drop(tail);
                let mut next = low;
                while next < high && !taken.is_full() {
                    let bytes = taken.left.saturating_mul(8).clamp(4096, READ_BYTES);
                    let read = self.group.read(Index(next), Index(high - 1), bytes).map_err(error_out)?;
                    next += read.len() as u64;
                    for entry in &read {
                        taken.push(entry_out(entry)?);
                    }
                }
            }
        }
        limit_size(&mut taken.entries, max_size);
        Ok(taken.entries)
    }

    fn term(&self, index: u64) -> Result<u64> {
        let term = self.group.term(Index(index)).map_err(|error| error_out(error.into()))?;
        Ok(term.0)
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.group.bounds().0.next().0)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.group.bounds().1.0)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> Result<Snapshot> {
        let state = self.group.state();
        // One from before the log begins does not help whoever asks.
        let least = state.base.index.max(Index(request_index));
        let Some(id) = state.snapshot.filter(|id| id.index >= least) else {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        };
        let reader = self.group.snapshot().map_err(error_out)?.expect("it has a name");
        let mut data = BytesMut::new();
        reader.chunks().for_each(|chunk| data.put_slice(&chunk));
        let mut snapshot = Snapshot { data: data.freeze(), ..Snapshot::default() };
        let meta = snapshot.mut_metadata();
        (meta.index, meta.term) = (reader.name().id.index.0, reader.name().id.term.0);
        assert!(meta.index >= id.index.0, "snapshots do not become older");
        meta.set_conf_state(conf_out(reader.conf().clone()));
        Ok(snapshot)
    }
}

impl std::fmt::Debug for RaftStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RaftStorage({:?})", self.group)
    }
}

/// The newest entries, so that a leader that sends them asks nobody.
#[derive(Default)]
struct Tail {
    entries: VecDeque<eraftpb::Entry>,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    fn append(&mut self, entries: &[eraftpb::Entry]) {
        let Some(first) = entries.first() else { return };
        while self.entries.back().is_some_and(|last| last.index >= first.index) {
            self.bytes -= self.entries.pop_back().map_or(0, |entry| size(&entry));
        }
        if self.entries.back().is_some_and(|last| last.index + 1 != first.index) {
            self.clear();
        }
        for entry in entries {
            self.bytes += size(entry);
            self.entries.push_back(entry.clone());
        }
        while self.bytes > self.bytes_max {
            self.bytes -= self.entries.pop_front().map_or(0, |entry| size(&entry));
        }
    }

    fn forget_before(&mut self, index: u64) {
        while self.entries.front().is_some_and(|first| first.index < index) {
            self.bytes -= self.entries.pop_front().map_or(0, |entry| size(&entry));
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// Takes the entries from `low` up to but not including `high`, if the first of them is here.
    fn get(&self, low: u64, high: u64, taken: &mut Taken) -> bool {
        let Some(first) = self.entries.front().map(|entry| entry.index).filter(|first| *first <= low) else {
            return false;
        };
        let at = usize::try_from(low - first).expect("as many as memory holds");
        let entries = self.entries.iter().skip(at).take_while(|entry| entry.index < high);
        for entry in entries {
            if taken.is_full() {
                break;
            }
            taken.push(entry.clone());
        }
        true
    }
}

/// Entries up to a size, or a few more: `limit_size` knows exactly.
struct Taken {
    entries: Vec<eraftpb::Entry>,
    left: u64,
}

impl Taken {
    fn push(&mut self, entry: eraftpb::Entry) {
        // An entry's encoding has more than this, never less.
        self.left = self.left.saturating_sub((entry.data.len() + entry.context.len()) as u64 + 2);
        self.entries.push(entry);
    }

    fn is_full(&self) -> bool {
        self.left == 0 && !self.entries.is_empty()
    }
}

/// Bytes that an entry takes in memory, roughly.
fn size(entry: &eraftpb::Entry) -> usize {
    size_of::<eraftpb::Entry>() + entry.data.len() + entry.context.len()
}

// ---- there and back ----

/// The payload is a word (length of the context, `sync_log`), the context, the data.
fn entry_in(entry: &eraftpb::Entry) -> blocking::Entry {
    let (context, data): (&[u8], &[u8]) = (entry.context.as_ref(), entry.data.as_ref());
    let word = u32::try_from(context.len()).ok().filter(|len| len & SYNC_LOG == 0).expect("a context below 2 GiB");
    let mut payload = BytesMut::with_capacity(4 + context.len() + data.len());
    payload.put_u32_le(word | if entry.sync_log { SYNC_LOG } else { 0 });
    payload.put_slice(context);
    payload.put_slice(data);
    let kind = match entry.get_entry_type() {
        EntryType::EntryNormal => EntryKind::Normal,
        EntryType::EntryConfChange => EntryKind::ConfChange,
        EntryType::EntryConfChangeV2 => EntryKind::ConfChangeV2,
    };
    let id = EntryId { index: Index(entry.index), term: Term(entry.term) };
    blocking::Entry { id, kind, payload: payload.freeze() }
}

fn entry_out(entry: &blocking::Entry) -> Result<eraftpb::Entry> {
    let foreign = || {
        let text = format!("entry {} was not written by this adapter", entry.id);
        Error::Store(StorageError::Other(text.into()))
    };
    let word = entry.payload.first_chunk().map(|word| u32::from_le_bytes(*word)).ok_or_else(foreign)?;
    let data_at = 4 + (word & !SYNC_LOG) as usize;
    if entry.payload.len() < data_at {
        return Err(foreign());
    }
    let mut out = eraftpb::Entry::default();
    out.set_entry_type(match entry.kind {
        EntryKind::Normal => EntryType::EntryNormal,
        EntryKind::ConfChange => EntryType::EntryConfChange,
        EntryKind::ConfChangeV2 => EntryType::EntryConfChangeV2,
    });
    (out.index, out.term) = (entry.id.index.0, entry.id.term.0);
    out.sync_log = word & SYNC_LOG != 0;
    out.context = entry.payload.slice(4..data_at);
    out.data = entry.payload.slice(data_at..);
    Ok(out)
}

fn hard_in(hard: &eraftpb::HardState) -> HardState {
    HardState { term: Term(hard.term), vote: PeerId(hard.vote), commit: Index(hard.commit) }
}

fn hard_out(hard: HardState) -> eraftpb::HardState {
    let mut out = eraftpb::HardState::default();
    (out.term, out.vote, out.commit) = (hard.term.0, hard.vote.0, hard.commit.0);
    out
}

fn conf_in(mut conf: eraftpb::ConfState) -> ConfState {
    let peers = |list: Vec<u64>| list.into_iter().map(PeerId).collect();
    ConfState {
        voters: peers(conf.take_voters()),
        voters_outgoing: peers(conf.take_voters_outgoing()),
        learners: peers(conf.take_learners()),
        learners_next: peers(conf.take_learners_next()),
        auto_leave: conf.auto_leave,
        // raft-rs knows none.
        witnesses: Vec::new(),
    }
}

fn conf_out(conf: ConfState) -> eraftpb::ConfState {
    let numbers = |list: Vec<PeerId>| list.into_iter().map(|peer| peer.0).collect::<Vec<u64>>();
    let mut out = eraftpb::ConfState::default();
    out.set_voters(numbers(conf.voters));
    out.set_voters_outgoing(numbers(conf.voters_outgoing));
    out.set_learners(numbers(conf.learners));
    out.set_learners_next(numbers(conf.learners_next));
    out.auto_leave = conf.auto_leave;
    out
}

/// In raft-rs's words.
fn error_out(error: LogError) -> Error {
    use ringraft_raft::StorageError as Ours;
    let store = match error {
        LogError::Stage(StageError::Gap { first, base, .. }) if first <= base => StorageError::Compacted,
        LogError::Stage(StageError::Gap { .. }) => StorageError::Unavailable,
        LogError::Storage(error) | LogError::Read(ReadError::Storage(error)) => match error {
            Ours::Compacted { .. } => StorageError::Compacted,
            Ours::Unavailable { .. } => StorageError::Unavailable,
        },
        LogError::SnapshotOutOfDate { .. } => StorageError::SnapshotOutOfDate,
        error => StorageError::Other(Box::new(error)),
    };
    Error::Store(store)
}
