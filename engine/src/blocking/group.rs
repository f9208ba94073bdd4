//! One group's log, for any thread.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Bytes, BytesMut};
use ringraft_io::{Job, JobOutput};
use ringraft_raft::record::{self, GroupSeed, Records};
use ringraft_raft::{ConfState, EntryId, EntryKind, GroupId, HardState, Index, StorageError, Term};

use super::pending::{Pending, Reply};
use super::queue::{Change, Place, Request, Room};
use super::view::View;
use super::{Log, LogError, snapshot_dir};
use crate::snapshot::{CHUNK_BYTES_MAX, SnapshotName, SnapshotReader, SnapshotWriter};
use crate::wal::section::MEMBERS_MAX;

/// Bytes of records that the log's thread reads in one go; others wait for it meanwhile.
const READ_BYTES_MAX: u64 = 1 << 20;

/// An entry of a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Which.
    pub id: EntryId,
    /// What for.
    pub kind: EntryKind,
    /// Its payload.
    pub payload: Bytes,
}

/// What is written at once.
#[derive(Clone, Copy, Default, Debug)]
pub struct Write<'a> {
    /// The hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Consecutive entries. They replace everything from the first one's index on, which is in the log or right behind.
    pub entries: &'a [Entry],
}

/// What a group's log is, all that was asked for included, durable or not yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// Term, vote, commit index. Compacting raises the commit index: only what is committed is compacted.
    pub hard_state: HardState,
    /// The membership, as last set.
    pub conf: ConfState,
    /// The entry before the first one.
    pub base: EntryId,
    /// The last entry; the base if there is none.
    pub last: EntryId,
    /// The latest snapshot.
    pub snapshot: Option<EntryId>,
}

/// One group of a [`Log`]. Clones are the same group; all may be used at once, by any threads.
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
    log: Log,
}

/// What the handles of a group and the log's thread share.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) id: GroupId,
    pub(super) slot: usize,
    pub(super) view: Mutex<View>,
    /// One snapshot is written at a time.
    snapshots: Mutex<()>,
}

impl Inner {
    pub(super) fn new(id: GroupId, slot: usize, view: View) -> Inner {
        Inner { id, slot, view: Mutex::new(view), snapshots: Mutex::new(()) }
    }
}

impl Group {
    pub(super) fn new(inner: Arc<Inner>, log: Log) -> Group {
        Group { inner, log }
    }

    /// Whose log it is.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.inner.id
    }

    /// The log that the group is part of.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// What the log is, all that was asked for included.
    #[must_use]
    pub fn state(&self) -> State {
        let view = self.view();
        State {
            hard_state: view.hard,
            conf: view.conf.clone(),
            base: view.base,
            last: view.last_id(),
            snapshot: view.snapshot,
        }
    }

    /// The index before the first entry, and that of the last.
    #[must_use]
    pub fn bounds(&self) -> (Index, Index) {
        let view = self.view();
        (view.base.index, view.last)
    }

    /// Term of the entry at `index`, or of the base.
    ///
    /// # Errors
    /// Below the base, or beyond the last index.
    pub fn term(&self, index: Index) -> Result<Term, StorageError> {
        self.view().term(index)
    }

    // ---- writing ----

    /// Appends entries behind the last one, in the highest term that the log knows (at least 1), and waits until they are
    /// durable. Gives the last index.
    ///
    /// # Errors
    /// [`LogError::Stage`] for a payload that is too large; [`LogError::Engine`] if it could not be made durable.
    pub fn append<P: AsRef<[u8]>>(&self, payloads: &[P]) -> Result<Index, LogError> {
        self.append_async(payloads).wait()
    }

    /// As [`Group::append`], without waiting for the disk; waits for room in the queue.
    pub fn append_async<P: AsRef<[u8]>>(&self, payloads: &[P]) -> Pending<Index> {
        let (reply, pending) = Reply::pending();
        let bytes = payloads.iter().map(|payload| record::encoded_len(payload.as_ref().len())).sum();
        match self.log.queue().reserve(bytes) {
            Err(error) => reply.send(Err(error)),
            Ok(place) => {
                let mut view = self.view();
                let term = view.last_id().term.max(view.hard.term).max(Term(1));
                let entry = |(index, payload): (u64, &P)| Entry {
                    id: EntryId { index: Index(index), term },
                    kind: EntryKind::Normal,
                    payload: Bytes::copy_from_slice(payload.as_ref()),
                };
                let entries: Vec<Entry> = (view.last.0 + 1..).zip(payloads).map(entry).collect();
                self.put_write(&mut view, place, &Write { hard_state: None, entries: &entries }, reply);
            }
        }
        pending
    }

    /// Writes a hard state, entries, or both, and waits until they are durable. Gives the last index.
    ///
    /// # Errors
    /// [`LogError::Stage`] for entries that do not join the log; [`LogError::Engine`] if it could not be made durable.
    pub fn write(&self, write: &Write<'_>) -> Result<Index, LogError> {
        self.write_async(write).wait()
    }

    /// As [`Group::write`], without waiting for the disk; waits for room in the queue.
    pub fn write_async(&self, write: &Write<'_>) -> Pending<Index> {
        let (reply, pending) = Reply::pending();
        self.write_to(self.log.queue().reserve(write_bytes(write)), write, reply);
        pending
    }

    /// As [`Group::write_async`], but a full queue is [`LogError::Full`].
    ///
    /// # Errors
    /// [`LogError::Full`], and why the log has ended: nothing was taken.
    pub fn try_write(&self, write: &Write<'_>) -> Result<Pending<Index>, LogError> {
        let place = self.log.queue().try_reserve(write_bytes(write))?;
        let (reply, pending) = Reply::pending();
        self.write_to(Ok(place), write, reply);
        Ok(pending)
    }

    /// As [`Group::write_async`], calling `then` when it is durable or has failed: on the log's own thread (or on this
    /// one, if nothing was taken), so it must be short, must not wait for this log and must not panic.
    pub fn write_then(&self, write: &Write<'_>, then: impl FnOnce(Result<Index, LogError>) + Send + 'static) {
        self.write_to(self.log.queue().reserve(write_bytes(write)), write, Reply::call(then));
    }

    /// As [`Group::write_then`], but a full queue is [`LogError::Full`], and `then` is given back.
    ///
    /// # Errors
    /// [`LogError::Full`], and why the log has ended: nothing was taken.
    pub fn try_write_then<F>(&self, write: &Write<'_>, then: F) -> Result<(), (LogError, F)>
    where
        F: FnOnce(Result<Index, LogError>) + Send + 'static,
    {
        match self.log.queue().try_reserve(write_bytes(write)) {
            Err(error) => Err((error, then)),
            Ok(place) => {
                self.write_to(Ok(place), write, Reply::call(then));
                Ok(())
            }
        }
    }

    /// Comes when the queue has room for so many bytes of records, or the log has ended: to try again after
    /// [`LogError::Full`].
    pub fn room(&self, bytes: usize) -> Room<'_> {
        Room { queue: self.log.queue(), bytes }
    }

    /// Makes term, vote and commit index durable.
    ///
    /// # Errors
    /// [`LogError::Engine`] if it could not be made durable.
    pub fn set_hard_state(&self, hard_state: HardState) -> Result<(), LogError> {
        self.write(&Write { hard_state: Some(hard_state), entries: &[] }).map(drop)
    }

    /// Raises the commit index (up to the last index): here at once, on the disk with whatever this group writes next, or
    /// when the log is closed. After a crash it may be an older one.
    ///
    /// # Errors
    /// Why the log has ended.
    pub fn note_commit(&self, commit: Index) -> Result<(), LogError> {
        let place = self.log.queue().reserve(0)?;
        let mut view = self.view();
        let commit = commit.min(view.last);
        if commit > view.hard.commit {
            view.hard.commit = commit;
            let (slot, last) = (self.inner.slot, view.last);
            place.push(Request::Change { slot, change: Change::Commit(commit), last, reply: Reply::call(|_| {}) });
        }
        Ok(())
    }

    /// Makes a membership durable: the one that [`State::conf`] has after a restart.
    ///
    /// # Errors
    /// [`LogError::Engine`] if it could not be made durable.
    ///
    /// # Panics
    /// If it names more than [`MEMBERS_MAX`] members.
    pub fn set_conf(&self, conf: ConfState) -> Result<(), LogError> {
        check_members(&conf);
        let change = |view: &mut View| {
            view.conf.clone_from(&conf);
            Ok(Some(Change::Conf(conf)))
        };
        self.change(change).wait().map(drop)
    }

    /// Forgets the entries behind `last`; durable when it returns. Nothing happens if there are none.
    ///
    /// # Errors
    /// [`LogError::Storage`] if `last` is below the base; [`LogError::Engine`] if it could not be made durable.
    pub fn truncate(&self, last: Index) -> Result<(), LogError> {
        self.truncate_async(last).wait().map(drop)
    }

    /// As [`Group::truncate`], without waiting for the disk. Gives the last index.
    pub fn truncate_async(&self, last: Index) -> Pending<Index> {
        self.change(|view| {
            if last >= view.last {
                return Ok(None);
            }
            view.term(last)?;
            view.truncate(last);
            Ok(Some(Change::Truncate(last)))
        })
    }

    /// Forgets the entries up to `upto`, which must be of no more use; durable when it returns. What lies at or below the
    /// base already is left alone.
    ///
    /// # Errors
    /// [`LogError::Storage`] if `upto` is beyond the last index; [`LogError::Engine`] if it could not be made durable.
    pub fn compact(&self, upto: Index) -> Result<(), LogError> {
        self.compact_async(upto).wait().map(drop)
    }

    /// As [`Group::compact`], without waiting for the disk. Gives the last index.
    pub fn compact_async(&self, upto: Index) -> Pending<Index> {
        self.change(|view| {
            if upto <= view.base.index {
                return Ok(None);
            }
            view.term(upto)?;
            view.compact(upto);
            Ok(Some(Change::Compact(upto)))
        })
    }

    /// Forgets all entries: the log begins behind `base`, whatever it held. Durable when it returns.
    ///
    /// # Errors
    /// [`LogError::Engine`] if it could not be made durable.
    pub fn reset(&self, base: EntryId) -> Result<(), LogError> {
        self.reset_async(base).wait().map(drop)
    }

    /// As [`Group::reset`], without waiting for the disk. Gives the last index.
    pub fn reset_async(&self, base: EntryId) -> Pending<Index> {
        self.change(|view| {
            view.reset(base);
            Ok(Some(Change::Reset(base)))
        })
    }

    // ---- reading ----

    /// The entries from `first` to `last`, as far as their records take at most so many bytes together, but at least
    /// one. None if `first` is behind `last`.
    ///
    /// # Errors
    /// [`LogError::Read`]: they are compacted, not there, or damaged on the disk.
    pub fn read(&self, first: Index, last: Index, bytes_max: u64) -> Result<Vec<Entry>, LogError> {
        let mut reading = Reading { entries: Vec::new(), next: first, last, left: bytes_max };
        while let Some(budget) = reading.budget() {
            let place = self.log.queue().reserve(0)?;
            reading.take(&self.read_runs(place, reading.next, last, budget).wait()?);
        }
        Ok(reading.entries)
    }

    /// As [`Group::read`], for `async` code.
    ///
    /// # Errors
    /// As [`Group::read`].
    pub async fn read_async(&self, first: Index, last: Index, bytes_max: u64) -> Result<Vec<Entry>, LogError> {
        let mut reading = Reading { entries: Vec::new(), next: first, last, left: bytes_max };
        while let Some(budget) = reading.budget() {
            let pending = match self.log.queue().try_reserve(0) {
                Ok(place) => self.read_runs(place, reading.next, last, budget),
                Err(LogError::Full) => {
                    self.room(0).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            reading.take(&pending.await?);
        }
        Ok(reading.entries)
    }

    // ---- snapshots ----

    /// Writes a snapshot of the state up to the entry `upto` of this log, as a file in pieces, and names it; durable when
    /// it returns. The file of the snapshot before is removed. The entries stay: see [`Group::compact`].
    ///
    /// # Errors
    /// [`LogError::SnapshotOutOfDate`], [`LogError::Storage`] if `upto` is not in the log, [`LogError::File`],
    /// [`LogError::Engine`].
    ///
    /// # Panics
    /// If `conf` names more than [`MEMBERS_MAX`] members.
    pub fn save_snapshot<P: AsRef<[u8]>>(
        &self,
        upto: Index,
        conf: ConfState,
        pieces: impl IntoIterator<Item = P>,
    ) -> Result<EntryId, LogError> {
        check_members(&conf);
        let _one = self.inner.snapshots.lock().expect("no holder panics");
        let id = EntryId { index: upto, term: self.term(upto)? };
        self.newer_than(self.view().snapshot, id)?;
        let older = self.write_snapshot(id, &conf, pieces)?;
        let change = |view: &mut View| {
            view.snapshot = Some(id);
            view.conf.clone_from(&conf);
            Ok(Some(Change::Snapshot(id, conf)))
        };
        self.change(change).wait()?;
        self.remove_snapshot(older)?;
        Ok(id)
    }

    /// Writes a snapshot that came from elsewhere, and puts it in place of the log: all entries are forgotten, the log
    /// begins behind `id`, the commit index is at least there. Durable when it returns.
    ///
    /// # Errors
    /// [`LogError::SnapshotOutOfDate`] if the log begins behind it, [`LogError::File`], [`LogError::Engine`].
    ///
    /// # Panics
    /// If `conf` names more than [`MEMBERS_MAX`] members.
    pub fn install_snapshot<P: AsRef<[u8]>>(
        &self,
        id: EntryId,
        conf: ConfState,
        hard_state: HardState,
        pieces: impl IntoIterator<Item = P>,
    ) -> Result<(), LogError> {
        check_members(&conf);
        let _one = self.inner.snapshots.lock().expect("no holder panics");
        self.newer_than(Some(self.view().base), id)?;
        let older = self.write_snapshot(id, &conf, pieces)?;
        let change = |view: &mut View| {
            view.snapshot = Some(id);
            view.conf.clone_from(&conf);
            view.hard = hard_state;
            view.reset(id);
            Ok(Some(Change::Install(id, conf, view.hard)))
        };
        self.change(change).wait()?;
        self.remove_snapshot(older)
    }

    /// The latest snapshot, read and verified; none if there is none.
    ///
    /// # Errors
    /// [`LogError::File`], [`LogError::Snapshot`].
    pub fn snapshot(&self) -> Result<Option<SnapshotReader>, LogError> {
        let _one = self.inner.snapshots.lock().expect("no holder panics");
        let Some(id) = self.view().snapshot else { return Ok(None) };
        let file = self.snapshot_path(id);
        let JobOutput::Loaded(bytes) = self.job(&file, Job::Load { path: file.clone() })? else {
            unreachable!("a load gives what was loaded")
        };
        let read = SnapshotReader::new(bytes, self.log.config().log_id);
        read.map(Some).map_err(|source| LogError::Snapshot { file, source })
    }

    /// Writes a file under its name. Gives the path of the one that it will replace.
    fn write_snapshot<P: AsRef<[u8]>>(
        &self,
        id: EntryId,
        conf: &ConfState,
        pieces: impl IntoIterator<Item = P>,
    ) -> Result<Option<PathBuf>, LogError> {
        let to = self.snapshot_path(id);
        let aside = to.with_extension("new");
        let name = SnapshotName { group: self.inner.id, id };
        let (mut writer, head) = SnapshotWriter::new(self.log.config().log_id, name, conf);
        self.job(&aside, Job::WriteAside { path: aside.clone(), offset: 0, bytes: head })?;
        for piece in pieces {
            for chunk in piece.as_ref().chunks(CHUNK_BYTES_MAX) {
                let (offset, bytes) = (writer.file_bytes(), writer.chunk(chunk));
                self.job(&aside, Job::WriteAside { path: aside.clone(), offset, bytes })?;
            }
        }
        let (offset, bytes) = (writer.file_bytes(), writer.finish());
        self.job(&aside, Job::WriteAside { path: aside.clone(), offset, bytes })?;
        self.job(&to, Job::Commit { from: aside, to: to.clone() })?;
        let older = self.view().snapshot.filter(|older| *older != id);
        Ok(older.map(|older| self.snapshot_path(older)))
    }

    fn newer_than(&self, latest: Option<EntryId>, found: EntryId) -> Result<(), LogError> {
        match latest.filter(|latest| found.index < latest.index) {
            Some(latest) => Err(LogError::SnapshotOutOfDate { found, latest }),
            None => Ok(()),
        }
    }

    fn remove_snapshot(&self, path: Option<PathBuf>) -> Result<(), LogError> {
        let Some(path) = path else { return Ok(()) };
        self.job(&path.clone(), Job::Remove { path }).map(drop)
    }

    fn snapshot_path(&self, id: EntryId) -> PathBuf {
        snapshot_dir(self.log.config()).join(SnapshotName { group: self.inner.id, id }.file_name())
    }

    // ---- asking the thread ----

    fn job(&self, file: &std::path::Path, job: Job) -> Result<JobOutput, LogError> {
        let (reply, pending) = Reply::pending();
        self.log.queue().reserve(0)?.push(Request::Job { file: file.to_owned(), job, reply });
        pending.wait()
    }

    fn read_runs(&self, place: Place<'_>, first: Index, upto: Index, bytes_max: u64) -> Pending<Vec<Bytes>> {
        let (reply, pending) = Reply::pending();
        place.push(Request::Read { slot: self.inner.slot, after: first.prev(), upto, bytes_max, reply });
        pending
    }

    fn write_to(&self, place: Result<Place<'_>, LogError>, write: &Write<'_>, reply: Reply<Index>) {
        match place {
            Ok(place) => self.put_write(&mut self.view(), place, write, reply),
            Err(error) => reply.send(Err(error)),
        }
    }

    /// Whether a write would be taken.
    #[cfg(feature = "raft-rs")]
    pub(crate) fn check(&self, write: &Write<'_>) -> Result<(), crate::StageError> {
        self.view().check(write.entries, self.log.config().record_bytes_max)
    }

    /// With the view locked, so that requests stand in the queue in the order in which they were checked.
    fn put_write(&self, view: &mut View, place: Place<'_>, write: &Write<'_>, reply: Reply<Index>) {
        if let Err(error) = view.check(write.entries, self.log.config().record_bytes_max) {
            return reply.send(Err(error.into()));
        }
        let seed = GroupSeed::of(self.inner.id);
        let mut run = BytesMut::with_capacity(write_bytes(write));
        for Entry { id, kind, payload } in write.entries {
            record::encode(seed, *id, *kind, &[payload], &mut run);
        }
        view.append(write.entries);
        view.hard = write.hard_state.unwrap_or(view.hard);
        let first = write.entries.first().map_or(view.last.next(), |entry| entry.id.index);
        let change = Change::Write { first, run: run.freeze(), hard: write.hard_state };
        place.push(Request::Change { slot: self.inner.slot, change, last: view.last, reply });
    }

    /// A change without records. None: there is nothing to do.
    fn change(&self, change: impl FnOnce(&mut View) -> Result<Option<Change>, LogError>) -> Pending<Index> {
        let (reply, pending) = Reply::pending();
        match self.log.queue().reserve(0) {
            Err(error) => reply.send(Err(error)),
            Ok(place) => {
                let mut view = self.view();
                match change(&mut view) {
                    Err(error) => reply.send(Err(error)),
                    Ok(None) => reply.send(Ok(view.last)),
                    Ok(Some(change)) => {
                        place.push(Request::Change { slot: self.inner.slot, change, last: view.last, reply });
                    }
                }
            }
        }
        pending
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.inner.view.lock().expect("no holder panics")
    }
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Group({} of {:?})", self.inner.id, self.log)
    }
}

/// A read in pieces: the log's thread is never kept long.
struct Reading {
    entries: Vec<Entry>,
    next: Index,
    last: Index,
    left: u64,
}

impl Reading {
    /// How many bytes to ask for next, if there is anything left to ask for.
    fn budget(&self) -> Option<u64> {
        let more = self.next <= self.last && (self.entries.is_empty() || self.left > 0);
        more.then_some(self.left.min(READ_BYTES_MAX))
    }

    fn take(&mut self, runs: &[Bytes]) {
        let bytes: u64 = runs.iter().map(|run| run.len() as u64).sum();
        if bytes > self.left && !self.entries.is_empty() {
            // One entry is always given, but only the first one may be too much.
            self.left = 0;
            return;
        }
        self.left = self.left.saturating_sub(bytes);
        for run in runs {
            for record in Records::new(run) {
                let record = record.expect("the engine gives records");
                let payload = run.slice_ref(record.payload);
                self.entries.push(Entry { id: record.id, kind: record.kind, payload });
                self.next = record.id.index.next();
            }
        }
    }
}

/// Bytes of the records of a write.
fn write_bytes(write: &Write<'_>) -> usize {
    write.entries.iter().map(|entry| record::encoded_len(entry.payload.len())).sum()
}

fn check_members(conf: &ConfState) {
    assert!(conf.names() <= MEMBERS_MAX, "{} members", conf.names());
}
