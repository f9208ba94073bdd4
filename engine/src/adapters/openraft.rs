//! openraft's [`RaftLogStorage`] (crate `openraft` 0.9 with `storage-v2`, feature `openraft`), durable.
//!
//! A [`LogStore`] is the log, the vote and the committed id of one openraft node; a process that runs many nodes (shards of
//! a store) opens them all on one [`Log`], where they share batches and syncs:
//!
//! ```no_run
//! use std::io::Cursor; // The macro below takes it for granted.
//!
//! use ringraft_engine::adapters::openraft::LogStore;
//! use ringraft_engine::{Config, blocking::Log};
//! use ringraft_raft::GroupId;
//!
//! openraft::declare_raft_types!(pub Types: D = String, R = String, NodeId = u64);
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let log = Log::open(Config::new("data", 1))?;
//! let shard_7: LogStore<Types> = LogStore::open(&log, GroupId(7))?;
//! // let raft = openraft::Raft::new(id, config, network, shard_7, state_machine).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Entries can be read when `append` returns; the callback comes from the log's thread once they are durable. A vote, a
//! truncation and a purge are durable when they return. A committed id is written with whatever comes next, or when the
//! last handle is dropped: after a crash an older one may be found, which openraft allows. Entries up to the purged one that
//! are appended again are passed over.
//!
//! Each store takes two groups of the log: the one named, and that number with its highest bit set, for vote, committed and
//! purged id. Entries are stored as [`MessagePack`], or in whatever [`Format`] is named.

#![expect(clippy::result_large_err, reason = "openraft's error is that large")]

use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard};

use openraft::entry::RaftPayload as _;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    ErrorSubject, ErrorVerb, LogId, LogState, OptionalSend, RaftLogId as _, RaftLogReader, RaftTypeConfig,
    StorageError, Vote,
};
use ringraft_raft::{EntryId, EntryKind, GroupId, Index, Term};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::blocking::{Entry, Group, Log, LogError, Pending, Write};
use crate::error::ReadError;

/// Bytes of records that one limited read gives, roughly.
const LIMITED_READ_BYTES: u64 = 4 << 20;

/// Of the group beside a store's entries.
const STATE_GROUP: u64 = 1 << 63;

/// How values become bytes. What is written must be read by all later releases of a program.
pub trait Format: Send + Sync + 'static {
    /// Appends the bytes of a value.
    ///
    /// # Errors
    /// If the value has no such form.
    fn write<T: Serialize>(value: &T, out: &mut Vec<u8>) -> io::Result<()>;

    /// The value that was written so.
    ///
    /// # Errors
    /// If it was not.
    fn read<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T>;
}

/// MessagePack with the names of fields: a field may be added later, with a default.
#[derive(Clone, Copy, Debug)]
pub enum MessagePack {}

impl Format for MessagePack {
    fn write<T: Serialize>(value: &T, out: &mut Vec<u8>) -> io::Result<()> {
        rmp_serde::encode::write_named(out, value).map_err(io::Error::other)
    }

    fn read<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
        rmp_serde::from_slice(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// The log of one openraft node. Clones are the same log. See the module.
pub struct LogStore<C: RaftTypeConfig, F: Format = MessagePack> {
    inner: Arc<Inner<C, F>>,
}

struct Inner<C: RaftTypeConfig, F: Format> {
    entries: Group,
    /// Its only entry says what [`Said`] says.
    state: Group,
    said: Mutex<Said<C>>,
    format: PhantomData<F>,
}

/// What is not an entry.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
struct Said<C: RaftTypeConfig> {
    vote: Option<Vote<C::NodeId>>,
    committed: Option<LogId<C::NodeId>>,
    purged: Option<LogId<C::NodeId>>,
    /// The log does not say so yet.
    #[serde(skip)]
    unwritten: bool,
}

/// What went wrong while what was done to what.
type Context<C> = (ErrorSubject<<C as RaftTypeConfig>::NodeId>, ErrorVerb);

impl<C: RaftTypeConfig, F: Format> LogStore<C, F> {
    /// The store of a group, empty if there is none. *Blocking*, for a moment.
    ///
    /// # Errors
    /// Why the log has ended, or that the groups hold something else.
    ///
    /// # Panics
    /// If the number has its highest bit set.
    pub fn open(log: &Log, group: GroupId) -> Result<LogStore<C, F>, StorageError<C::NodeId>> {
        assert!(group.0 & STATE_GROUP == 0, "group {group} is kept for the state of another");
        let read = || (ErrorSubject::Store, ErrorVerb::Read);
        let entries = log.group(group).map_err(|error| failed::<C>(read(), error))?;
        let state = log.group(GroupId(group.0 | STATE_GROUP)).map_err(|error| failed::<C>(read(), error))?;
        let (base, last) = state.bounds();
        let found = state.read(base.next(), last, u64::MAX).map_err(|error| failed::<C>(read(), error))?;
        let said = match found.last() {
            Some(entry) => F::read(&entry.payload).map_err(|error| failed_io::<C>(read(), error))?,
            None => Said { vote: None, committed: None, purged: None, unwritten: false },
        };
        let store = LogStore { inner: Arc::new(Inner { entries, state, said: Mutex::new(said), format: PhantomData }) };
        // A crash may have come between a purge's two halves.
        let purged = store.said().purged.clone();
        if let Some(purged) = purged {
            store.forget_upto(&purged).wait().map_err(|error| failed::<C>(read(), error))?;
        }
        Ok(store)
    }

    fn said(&self) -> MutexGuard<'_, Said<C>> {
        self.inner.said.lock().expect("no holder panics")
    }

    /// Changes what is said and writes it; durable when the result comes. Waits for room in the queue.
    async fn say(&self, change: impl Fn(&mut Said<C>)) -> Result<Pending<Index>, LogError> {
        loop {
            let attempt = {
                let mut said = self.said();
                change(&mut said);
                self.inner.write_said(&mut said)
            };
            match attempt {
                Err(LogError::Full) => self.inner.state.room(0).await,
                result => return result,
            }
        }
    }

    /// Forgets the entries up to this one, whether they are here or not.
    fn forget_upto(&self, purged: &LogId<C::NodeId>) -> Pending<Index> {
        let upto = index_of(purged.index);
        let (base, last) = self.inner.entries.bounds();
        if upto > last && upto > base {
            let base = EntryId { index: upto, term: Term(purged.leader_id.term) };
            return self.inner.entries.reset_async(base);
        }
        self.inner.entries.compact_async(upto)
    }

    /// The entries of a range of openraft's indexes, as far as they are here.
    async fn read(&self, first: u64, last: u64, bytes_max: u64) -> Result<Vec<C::Entry>, StorageError<C::NodeId>> {
        let group = &self.inner.entries;
        loop {
            let (base, end) = group.bounds();
            let (first, last) = (index_of(first).max(base.next()), index_of(last).min(end));
            match group.read_async(first, last, bytes_max).await {
                // Purged or truncated meanwhile.
                Err(LogError::Read(ReadError::Storage(_))) if group.bounds() != (base, end) => {}
                Err(error) => return Err(failed::<C>((ErrorSubject::Logs, ErrorVerb::Read), error)),
                Ok(found) => return found.iter().map(decode::<C, F>).collect(),
            }
        }
    }
}

impl<C: RaftTypeConfig, F: Format> Inner<C, F> {
    /// Replaces the entry that holds what is said.
    fn write_said(&self, said: &mut Said<C>) -> Result<Pending<Index>, LogError> {
        let mut payload = Vec::new();
        F::write(said, &mut payload).map_err(|source| LogError::Format { source: Arc::new(source) })?;
        let id = EntryId { term: Term(1), index: Index(1) };
        let entries = [Entry { id, kind: EntryKind::Normal, payload: payload.into() }];
        let pending = self.state.try_write(&Write { hard_state: None, entries: &entries })?;
        said.unwritten = false;
        Ok(pending)
    }
}

impl<C: RaftTypeConfig, F: Format> Drop for Inner<C, F> {
    fn drop(&mut self) {
        let Ok(mut said) = self.said.lock() else { return };
        if said.unwritten {
            let mut said = Said {
                vote: said.vote.take(),
                committed: said.committed.take(),
                purged: said.purged.take(),
                unwritten: true,
            };
            // Nobody was promised that a committed id is kept.
            drop(self.write_said(&mut said));
        }
    }
}

impl<C: RaftTypeConfig, F: Format> Clone for LogStore<C, F> {
    fn clone(&self) -> LogStore<C, F> {
        LogStore { inner: self.inner.clone() }
    }
}

impl<C: RaftTypeConfig, F: Format> Debug for LogStore<C, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogStore({:?})", self.inner.entries)
    }
}

impl<C: RaftTypeConfig, F: Format> RaftLogReader<C> for LogStore<C, F> {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<C::Entry>, StorageError<C::NodeId>> {
        let first = match range.start_bound() {
            Bound::Included(first) => *first,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let last = match range.end_bound() {
            Bound::Included(last) => Some(*last),
            Bound::Excluded(end) => end.checked_sub(1),
            Bound::Unbounded => Some(u64::MAX),
        };
        match last {
            Some(last) => self.read(first, last, u64::MAX).await,
            None => Ok(Vec::new()),
        }
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<C::Entry>, StorageError<C::NodeId>> {
        match end.checked_sub(1) {
            Some(last) => self.read(start, last, LIMITED_READ_BYTES).await,
            None => Ok(Vec::new()),
        }
    }
}

impl<C: RaftTypeConfig, F: Format> RaftLogStorage<C> for LogStore<C, F> {
    type LogReader = LogStore<C, F>;

    async fn get_log_state(&mut self) -> Result<LogState<C>, StorageError<C::NodeId>> {
        let (base, last) = self.inner.entries.bounds();
        let purged = self.said().purged.clone();
        let last_log_id = match last > base {
            true => {
                let found = self.read(last.0 - 1, last.0 - 1, 0).await?;
                found.last().map(|entry| entry.get_log_id().clone())
            }
            false => purged.clone(),
        };
        Ok(LogState { last_purged_log_id: purged, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<C::NodeId>) -> Result<(), StorageError<C::NodeId>> {
        let context = || (ErrorSubject::Vote, ErrorVerb::Write);
        let pending = self.say(|said| said.vote = Some(vote.clone())).await;
        pending.map_err(|error| failed::<C>(context(), error))?.await.map_err(|error| failed::<C>(context(), error))?;
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<C::NodeId>>, StorageError<C::NodeId>> {
        Ok(self.said().vote.clone())
    }

    async fn save_committed(&mut self, committed: Option<LogId<C::NodeId>>) -> Result<(), StorageError<C::NodeId>> {
        let mut said = self.said();
        said.unwritten |= said.committed != committed;
        said.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<C::NodeId>>, StorageError<C::NodeId>> {
        Ok(self.said().committed.clone())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<C>) -> Result<(), StorageError<C::NodeId>>
    where
        I: IntoIterator<Item = C::Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let context = || (ErrorSubject::Logs, ErrorVerb::Write);
        let group = &self.inner.entries;
        // What is purged is committed and not missed: a leader that sends it again is right to.
        let purged = self.said().purged.as_ref().map(|purged| purged.index);
        let encoded: Vec<Entry> = entries
            .into_iter()
            .filter(|entry| Some(entry.get_log_id().index) > purged)
            .map(|entry| encode::<C, F>(&entry))
            .collect::<io::Result<_>>()
            .map_err(|error| failed_io::<C>(context(), error))?;
        if let Some(first) = encoded.first() {
            let (base, last) = group.bounds();
            if base == last && first.id.index != base.next() && purged.is_none() {
                // An empty log begins wherever its first entry is.
                let base = EntryId { term: Term(0), index: first.id.index.prev() };
                group.room(0).await;
                drop(group.reset_async(base));
            }
        }
        if self.said().unwritten {
            // Beside the entries it costs no write of its own.
            drop(self.say(|_| {}).await.map_err(|error| failed::<C>(context(), error))?);
        }
        let write = Write { hard_state: None, entries: &encoded };
        let bytes = encoded.iter().map(|entry| entry.payload.len()).sum();
        let mut then = |result: Result<Index, LogError>| {
            callback.log_io_completed(result.map(drop).map_err(io::Error::other));
        };
        loop {
            match group.try_write_then(&write, then) {
                Ok(()) => return Ok(()),
                Err((LogError::Full, again)) => {
                    then = again;
                    group.room(bytes).await;
                }
                Err((error, _)) => return Err(failed::<C>(context(), error)),
            }
        }
    }

    async fn truncate(&mut self, log_id: LogId<C::NodeId>) -> Result<(), StorageError<C::NodeId>> {
        let group = &self.inner.entries;
        group.room(0).await;
        // The last one that stays is the one before.
        let last = index_of(log_id.index).prev().max(group.bounds().0);
        let done = group.truncate_async(last).await;
        done.map(drop).map_err(|error| failed::<C>((ErrorSubject::Log(log_id), ErrorVerb::Delete), error))
    }

    async fn purge(&mut self, log_id: LogId<C::NodeId>) -> Result<(), StorageError<C::NodeId>> {
        let context = || (ErrorSubject::Log(log_id.clone()), ErrorVerb::Delete);
        // First that it is purged, then purged: opening finds out if only the first was done.
        let purge = |said: &mut Said<C>| said.purged = said.purged.clone().max(Some(log_id.clone()));
        let pending = self.say(purge).await.map_err(|error| failed::<C>(context(), error))?;
        self.inner.entries.room(0).await;
        let forgotten = self.forget_upto(&log_id);
        pending.await.map_err(|error| failed::<C>(context(), error))?;
        forgotten.await.map_err(|error| failed::<C>(context(), error))?;
        Ok(())
    }
}

/// openraft counts from 0, the log from 1.
fn index_of(index: u64) -> Index {
    Index(index.saturating_add(1))
}

fn encode<C: RaftTypeConfig, F: Format>(entry: &C::Entry) -> io::Result<Entry> {
    let log_id = entry.get_log_id();
    let id = EntryId { index: index_of(log_id.index), term: Term(log_id.leader_id.term) };
    let kind = if entry.get_membership().is_some() { EntryKind::ConfChange } else { EntryKind::Normal };
    let mut payload = Vec::new();
    F::write(entry, &mut payload)?;
    Ok(Entry { id, kind, payload: payload.into() })
}

fn decode<C: RaftTypeConfig, F: Format>(entry: &Entry) -> Result<C::Entry, StorageError<C::NodeId>> {
    let context = || (ErrorSubject::LogIndex(entry.id.index.0 - 1), ErrorVerb::Read);
    let found: C::Entry = F::read(&entry.payload).map_err(|error| failed_io::<C>(context(), error))?;
    if index_of(found.get_log_id().index) != entry.id.index {
        let error = io::Error::new(io::ErrorKind::InvalidData, format!("{} was found there", found.get_log_id()));
        return Err(failed_io::<C>(context(), error));
    }
    Ok(found)
}

fn failed<C: RaftTypeConfig>(context: Context<C>, error: LogError) -> StorageError<C::NodeId> {
    failed_io::<C>(context, io::Error::other(error))
}

fn failed_io<C: RaftTypeConfig>((subject, verb): Context<C>, error: io::Error) -> StorageError<C::NodeId> {
    StorageError::from_io_error(subject, verb, error)
}
