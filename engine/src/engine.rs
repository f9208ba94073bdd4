//! The engine: the log of one shard, driven by its loop.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use ringraft_io::{Completion, Io, Time, Token};
use ringraft_raft::record::{GroupSeed, Records};
use ringraft_raft::{ConfState, EntryId, GroupId, HardState, Index, Storage, StorageError};

use crate::config::Config;
use crate::error::{EngineError, Overdue, ReadError};
use crate::group::{Group, Run, Runs};
use crate::group_log::{GroupLog, Unsaid};
use crate::repair::Fills;
use crate::wal::footer::Mark;
use crate::wal::pool::Pool;
use crate::wal::recovery::Cut;
use crate::wal::section::{self, Parts};
use crate::wal::segment::{Chain, Mapping, Segment};
use crate::wal::writer::{Place, Writer, checkpoint};
use crate::wounds::{Gap, Wounded};

/// Number of a batch: everything appended to it is durable once [`Engine::complete`] has given this number or a higher
/// one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BatchNo(pub u64);

/// What one group writes in one turn. The payload of `entries` is what was [staged](GroupLog::stage).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Write {
    /// The hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Entries `entries.0 + 1 ..= entries.1`, replacing everything from `entries.0 + 1` on. Equal: none.
    pub entries: (Index, Index),
    /// Install this snapshot, the [set](GroupLog::set_snapshot) one, in place of the log.
    pub snapshot: Option<EntryId>,
}

/// What was found when the log was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecoveryReport {
    /// Groups found.
    pub groups: usize,
    /// Entries found.
    pub entries: u64,
    /// Segments of the log.
    pub segments: usize,
    /// Blocks read.
    pub blocks: u64,
    /// Segments known by their footers, without reading them.
    pub footers: usize,
    /// The last batch kept.
    pub last_batch: BatchNo,
    /// The torn tail, if there was one.
    pub cut: Option<Cut>,
    /// Places where blocks that were durable cannot be read.
    pub gaps: Vec<Gap>,
    /// How many groups have [`Wounds`](crate::Wounds) from that.
    pub wounded: usize,
    /// There may have been groups that nothing tells of. One that is [created](Engine::create) now is in doubt.
    pub groups_lost: bool,
    /// Blocks that were written once more, because nothing attested that they were durable.
    pub rewritten: usize,
    /// How often this log was opened.
    pub epoch: u64,
}

/// Numbers about a running engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Groups.
    pub groups: usize,
    /// Segments in use.
    pub segments: usize,
    /// Files ready for reuse.
    pub segments_free: usize,
    /// Files that wait until nobody reads through their mapping.
    pub segments_retired: usize,
    /// The last batch begun.
    pub last_batch: BatchNo,
    /// Everything up to this batch is durable.
    pub durable: BatchNo,
    /// Bytes of full batches that wait.
    pub queue_bytes: usize,
    /// Writes in flight.
    pub inflight: usize,
    /// Bytes of entries in memory.
    pub cached_bytes: u64,
    /// Bytes written since the log was opened.
    pub written_bytes: u64,
    /// Batches written since the log was opened.
    pub written_batches: u64,
    /// Bytes of entries written again because their groups kept the oldest segment.
    pub rewritten_bytes: u64,
}

/// The log of one shard: many groups in one sequence of batches.
///
/// One turn: [`complete`](Engine::complete) what has ended, [`GroupLog::stage`] and [`append`](Engine::append) what
/// every group writes, [`read`](Engine::read) what followers are sent, [`submit`](Engine::submit) once.
#[derive(Debug)]
pub struct Engine {
    pub(crate) config: Config,
    pub(crate) groups: Vec<Group>,
    pub(crate) slots: HashMap<GroupId, usize>,
    pub(crate) checkpoint_bytes: usize,
    pub(crate) chain: Chain,
    pub(crate) pool: Pool,
    pub(crate) writer: Writer,
    pub(crate) tokens: Tokens,
    pub(crate) cached_bytes: u64,
    pub(crate) rewriting: Rewriting,
    pub(crate) fills: Fills,
    pub(crate) failed: Option<EngineError>,
}

/// Writing survivors again.
#[derive(Default, Debug)]
pub(crate) struct Rewriting {
    /// The group to look at next.
    slot: usize,
    /// Bytes that may be written again now.
    credit: u64,
    /// Bytes written that have given credit.
    seen: u64,
    bytes: u64,
}

/// Groups looked at in one turn for survivors to write again.
const REWRITE_LOOKS: usize = 64;

/// Makes the engine's tokens.
#[derive(Debug)]
pub(crate) struct Tokens {
    base: u64,
    mask: u64,
    next: u64,
}

impl Tokens {
    pub(crate) fn new(config: &Config) -> Tokens {
        Tokens { base: config.token_base, mask: config.token_mask, next: 0 }
    }

    pub(crate) fn next(&mut self) -> Token {
        // The bits of the mask are filled with ones, so that counting carries over them.
        self.next = (self.next | self.mask).wrapping_add(1);
        Token(self.base | self.next & !self.mask)
    }
}

impl Engine {
    /// A new group with this first membership. Touches no file: it becomes durable with its first append.
    ///
    /// # Errors
    /// [`EngineError::GroupExists`], [`EngineError::TooManyGroups`].
    pub fn create(&mut self, group: GroupId, conf: ConfState) -> Result<GroupLog, EngineError> {
        if self.slots.contains_key(&group) {
            return Err(EngineError::GroupExists { group });
        }
        let bytes = self.checkpoint_bytes + section::HEADER + section::PARTS_MAX;
        if bytes as u64 > self.config.checkpoint_bytes_max() {
            return Err(EngineError::TooManyGroups { groups: self.groups.len() });
        }
        let slot = self.groups.len();
        let log = GroupLog::new(group, conf.clone(), slot, self.config.record_bytes_max);
        self.groups.push(Group {
            group,
            said: false,
            hard: HardState::default(),
            base: EntryId::default(),
            snapshot: None,
            conf,
            runs: Runs::default(),
            mark: Mark::default(),
            wounded: self.writer.groups_lost.then(|| Box::new(Wounded::unknown())),
        });
        self.checkpoint_bytes += section::HEADER + checkpoint(&self.groups[slot]).len();
        self.slots.insert(group, slot);
        Ok(log)
    }

    /// Whether an append of entries would be taken now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.failed.is_none() && self.room(0).is_ok()
    }

    /// Everything up to this batch is durable. An append that had nothing to write may be durable at once.
    #[must_use]
    pub fn durable(&self) -> BatchNo {
        BatchNo(self.writer.durable())
    }

    /// Whether a [`compact`](Engine::compact) would be taken now. It is even when entries are not.
    #[must_use]
    pub fn takes_compaction(&self) -> bool {
        self.failed.is_none() && self.room_for_votes().is_ok()
    }

    /// Whether an [`append`](Engine::append) of what is staged in `log`, and of `more` bytes of records that are still
    /// to be staged, would be taken now.
    #[must_use]
    pub fn has_room_for(&self, log: &GroupLog, more: usize) -> bool {
        let staged = more + log.staged.iter().map(|(_, run)| run.len()).sum::<usize>();
        self.failed.is_none() && if staged == 0 { self.room_for_votes() } else { self.room(staged) }.is_ok()
    }

    /// Adds what a group writes to the open batch, together with what was only noted so far. Gives the number of the
    /// batch that completes it. An empty write gives the last batch begun.
    ///
    /// # Errors
    /// [`EngineError::Failed`], [`EngineError::Busy`], [`EngineError::Full`], [`EngineError::TooManyGroups`] (for a
    /// membership that grew): nothing was taken, what is staged stays so.
    ///
    /// # Panics
    /// If the entries are not exactly those staged, or the snapshot is not the one set.
    pub fn append(&mut self, log: &mut GroupLog, write: Write) -> Result<BatchNo, EngineError> {
        self.alive()?;
        if log.staged.is_empty() {
            self.room_for_votes()?;
        } else {
            self.room(log.staged.iter().map(|(_, run)| run.len()).sum())?;
        }
        self.room_in_checkpoint(log)?;
        let (after, last) = write.entries;
        let first_staged = log.staged.front().map(|(first, _)| *first);
        if last > after {
            assert!(first_staged == Some(after.next()) && log.last_index() == last, "entries {after}..={last} staged");
        } else {
            assert!(first_staged.is_none(), "what is staged is appended");
        }
        if let Some(id) = write.snapshot {
            assert!(log.snapshot == Some(id), "snapshot {id} is set");
            log.reset(id);
        }
        if let Some(hard) = write.hard_state {
            log.hard = hard;
        }
        let before = self.groups[log.slot].runs.cached_bytes();
        self.lay_out(log, write.hard_state.is_some(), write.snapshot.is_some());
        self.cached_bytes = self.cached_bytes - before + self.groups[log.slot].runs.cached_bytes();
        self.evict();
        Ok(BatchNo(self.writer.last_lsn()))
    }

    /// Remembers a commit index, to be written with the group's next write. It never goes back.
    pub fn note_commit(&mut self, log: &mut GroupLog, commit: Index) {
        let commit = commit.min(log.last_index());
        if commit > log.hard.commit {
            log.hard.commit = commit;
            log.unsaid.commit = true;
        }
    }

    /// Forgets the entries up to `upto`: here at once, on the disk with the open batch. Segments that nobody needs any
    /// more are recycled once that is durable. What lies at or below the base already is left alone.
    ///
    /// # Errors
    /// As [`Engine::append`]; nothing was forgotten.
    ///
    /// # Panics
    /// If `upto` is beyond the last index, or something is staged and not yet appended.
    pub fn compact(&mut self, log: &mut GroupLog, upto: Index) -> Result<(), EngineError> {
        self.alive()?;
        if upto <= log.base.index {
            return Ok(());
        }
        assert!(upto <= log.last_index(), "compaction to {upto} of {}", log.last_index());
        self.room_for_votes()?;
        self.room_in_checkpoint(log)?;
        let base = EntryId { index: upto, term: log.term(upto).expect("within the log") };
        // Only what is committed is compacted.
        self.note_commit(log, upto);
        let before = self.groups[log.slot].runs.cached_bytes();
        log.base = base;
        // What is staged follows with its own append: it lies behind everything that is committed.
        let staged = std::mem::take(&mut log.staged);
        self.lay_out(log, false, false);
        log.staged = staged;
        self.cached_bytes = self.cached_bytes - before + self.groups[log.slot].runs.cached_bytes();
        log.forget_upto(base);
        self.pool.retry();
        Ok(())
    }

    /// Forgets all entries: the log begins behind `base`, whatever it held, here at once, on the disk with the batch whose
    /// number is given. The commit index is at least there.
    ///
    /// # Errors
    /// As [`Engine::append`]; nothing was forgotten.
    ///
    /// # Panics
    /// If something is staged and not yet appended.
    pub fn reset(&mut self, log: &mut GroupLog, base: EntryId) -> Result<BatchNo, EngineError> {
        self.alive()?;
        assert!(log.staged.is_empty(), "what is staged is appended");
        self.room_for_votes()?;
        self.room_in_checkpoint(log)?;
        log.reset(base);
        self.note_commit(log, base.index);
        let before = self.groups[log.slot].runs.cached_bytes();
        self.lay_out(log, false, true);
        self.cached_bytes = self.cached_bytes - before + self.groups[log.slot].runs.cached_bytes();
        self.pool.retry();
        Ok(BatchNo(self.writer.last_lsn()))
    }

    /// Starts the open batch if fewer than [`Config::batches_inflight_max`] are in flight, and whatever keeps
    /// segments ready. Once per turn, before [`Io::turn`].
    pub fn submit<I: Io>(&mut self, io: &mut I) {
        if self.failed.is_some() {
            return;
        }
        self.rewrite_survivors(io);
        let tokens = &mut self.tokens;
        let mut token = || tokens.next();
        self.pool.maintain(io, &mut token);
        self.writer.submit(io, &mut self.chain, &mut self.pool, &mut token);
        self.pool.maintain(io, &mut token);
    }

    /// Takes a completion that the engine [owns](Engine::owns). Gives the number of the batch up to which all is now
    /// durable, if that has moved.
    ///
    /// # Errors
    /// [`EngineError::Failed`]: the log has ended, nothing more will become durable. [`EngineError::NoSegment`]: the
    /// log goes on in what it has.
    pub fn complete<I: Io>(&mut self, io: &mut I, completion: Completion) -> Result<Option<BatchNo>, EngineError> {
        let _ = io;
        match completion {
            Completion::Written { token, buf, result, .. } => {
                self.alive()?;
                let durable = self.writer.complete(token, buf, result, &mut self.chain);
                let durable = durable.inspect_err(|error| self.failed = Some(error.clone()))?;
                while let Some(segment) = self.chain.pop_below(self.writer.first()) {
                    self.pool.retire(segment);
                }
                self.evict();
                Ok(durable.map(BatchNo))
            }
            Completion::JobDone { token, result } => self.pool.complete(token, result).map(|()| None),
            _ => Ok(None),
        }
    }

    /// Whether a completion with this token is for [`Engine::complete`].
    #[must_use]
    pub fn owns(&self, token: Token) -> bool {
        token.0 & self.config.token_mask == self.config.token_base
    }

    /// Appends the records of the entries `after + 1 ..= upto` to `out`, as runs: from the cache, or from a mapped
    /// segment (then their checksums are verified). What is only staged is not found.
    ///
    /// # Errors
    /// [`ReadError`]; `out` is as it was.
    pub fn read<I: Io>(
        &mut self,
        io: &mut I,
        log: &GroupLog,
        after: Index,
        upto: Index,
        out: &mut Vec<Bytes>,
    ) -> Result<(), ReadError> {
        if after < log.base.index {
            return Err(StorageError::Compacted { index: after.next(), base: log.base.index }.into());
        }
        let last = self.groups[log.slot].runs.last_index().unwrap_or(log.base.index);
        if upto > last {
            return Err(StorageError::Unavailable { index: upto, last }.into());
        }
        let kept = out.len();
        let mut first = after.next();
        let mut at = if first <= upto { self.groups[log.slot].runs.find(first) } else { 0 };
        while first <= upto {
            match self.piece(io, log, at, first, upto) {
                Ok((bytes, next)) => {
                    out.push(bytes);
                    (first, at) = (next, at + 1);
                }
                Err(error) => {
                    out.truncate(kept);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The groups that keep the oldest segment, if more than [`Config::segments_max`] are in use: make a snapshot of
    /// these and compact them. Walks all groups: ask now and then, not every turn.
    pub fn pinning_groups(&self) -> impl Iterator<Item = GroupId> {
        // A disk without room for another segment needs one back, however few there are.
        let short = self.pool.is_held() && self.chain.len() > 1;
        let oldest = (short || self.chain.len() > self.config.segments_max).then(|| self.chain.oldest().generation);
        let pins = move |group: &&Group| oldest.is_some_and(|oldest| group.pins_oldest(oldest));
        self.groups.iter().filter(pins).map(|group| group.group)
    }

    /// Begins an empty batch if nothing is on its way and the disk does not say yet that all of it is durable; then a
    /// damaged last batch can be told from a torn one. For quiet times, say once per tick.
    pub fn attest(&mut self) {
        if self.failed.is_none() && self.writer.is_idle() && !self.writer.is_attested() {
            self.writer.begin(&mut self.chain, &self.groups);
        }
    }

    /// The oldest write in flight, if it has been so for [`Config::write_deadline`]: the disk hangs. Nothing is given up
    /// for that; whether to wait for it is the node's affair.
    #[must_use]
    pub fn overdue(&self, now: Time) -> Option<Overdue> {
        let limit = self.config.write_deadline;
        self.writer.oldest(&self.chain).filter(|oldest| self.failed.is_none() && now.since(oldest.since) >= limit)
    }

    /// When the oldest write in flight becomes [overdue](Engine::overdue): the time to ask, if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let since = self.writer.oldest_since().filter(|_| self.failed.is_none())?;
        Some(since + self.config.write_deadline)
    }

    /// Tries again to make a segment after [`EngineError::NoSegment`]. Compacting does so, too.
    pub fn retry_segments(&mut self) {
        self.pool.retry();
    }

    /// Numbers for people.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            groups: self.groups.len(),
            segments: self.chain.len(),
            segments_free: self.pool.free_files(),
            segments_retired: self.pool.retired_files(),
            last_batch: BatchNo(self.writer.last_lsn()),
            durable: BatchNo(self.writer.durable()),
            queue_bytes: self.writer.queue_bytes(),
            inflight: self.writer.inflight(),
            cached_bytes: self.cached_bytes + self.fills.bytes(),
            written_bytes: self.writer.written_bytes,
            written_batches: self.writer.written_batches,
            rewritten_bytes: self.rewriting.bytes,
        }
    }

    pub(crate) fn alive(&self) -> Result<(), EngineError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Whether entries of so many bytes are taken.
    pub(crate) fn room(&self, bytes: usize) -> Result<(), EngineError> {
        let queued_bytes = self.writer.queue_bytes();
        // The last files, and without any the rest of the segment, are for votes and compactions: they are what frees
        // segments.
        let (active, free) = (self.chain.active(), self.pool.free_files());
        let rest = if free == 0 { self.config.segment_bytes / 16 } else { 0 };
        let takes = active.file.is_some() && !active.reserved;
        let fits = takes && self.writer.segment_left(&self.chain) > rest + 2 * bytes as u64;
        let room = free > self.config.segments_reserve || fits;
        if !room && self.pool.is_held() {
            return Err(EngineError::Full);
        }
        if !room || queued_bytes > self.config.queue_bytes_max {
            return Err(EngineError::Busy { queued_bytes });
        }
        Ok(())
    }

    /// Whether a write without entries is taken.
    pub(crate) fn room_for_votes(&self) -> Result<(), EngineError> {
        let queued_bytes = self.writer.queue_bytes();
        if queued_bytes > 2 * self.config.queue_bytes_max {
            return Err(EngineError::Busy { queued_bytes });
        }
        Ok(())
    }

    /// Whether a membership that grew still fits the checkpoint.
    pub(crate) fn room_in_checkpoint(&self, log: &GroupLog) -> Result<(), EngineError> {
        if !log.unsaid.snapshot {
            return Ok(());
        }
        let grown = 24 + 8 * log.conf.names();
        if (self.checkpoint_bytes + grown) as u64 > self.config.checkpoint_bytes_max() {
            return Err(EngineError::TooManyGroups { groups: self.groups.len() });
        }
        Ok(())
    }

    /// Lays out what a group has to say, as sections of the open batch and, if it is much, of further ones.
    pub(crate) fn lay_out(&mut self, log: &mut GroupLog, hard: bool, reset: bool) {
        let group = &self.groups[log.slot];
        let said = group.said;
        let mut parts = Parts {
            hard: (hard || log.unsaid.commit || !said).then_some(log.hard),
            base: (reset || log.base != group.base).then_some(log.base),
            snapshot: log.snapshot.filter(|_| log.unsaid.snapshot),
            conf: None,
            reset,
            doubt: group.doubt(),
            ..Parts::default()
        };
        let mut staged = std::mem::take(&mut log.staged);
        if log.unsaid.snapshot || !said {
            parts.conf = Some(&log.conf);
        }
        if staged.is_empty() && !parts.is_empty() {
            self.put_parts(log, &parts);
        }
        while let Some((first, run)) = staged.pop_front() {
            self.lay_out_run(log, &mut parts, first, run);
        }
        log.staged = staged;
        log.unsaid = Unsaid::default();
    }

    fn lay_out_run(&mut self, log: &GroupLog, parts: &mut Parts, mut first: Index, mut run: Bytes) {
        while !run.is_empty() {
            let (piece, next, place) = self.put_run(log.slot, parts, first, &mut run);
            self.written(log, parts);
            *parts = Parts { doubt: parts.doubt, ..Parts::default() };

            let group = &mut self.groups[log.slot];
            group.replaced_from(first, &mut self.chain);
            group.runs.truncate(first, log.entries(), &mut self.chain);
            let len = u32::try_from(piece.len()).expect("bytes of one block");
            let at = Run { first, segment: place.generation, offset: place.offset, len };
            group.runs.push(at, next.prev(), Some(piece), &mut self.chain);
            let slot = u32::try_from(log.slot).expect("fewer than 2^32 groups");
            self.chain.get_mut(place.generation).cached.push_back(slot);
            first = next;
        }
    }

    /// Puts a section with the first records of `run` into the open block, or into the next one. Gives what it took of
    /// the run, the index behind that, and where it lies.
    pub(crate) fn put_run(
        &mut self,
        slot: usize,
        parts: &Parts,
        first: Index,
        run: &mut Bytes,
    ) -> (Bytes, Index, Place) {
        let head = section::HEADER + parts.len();
        let mut records = Records::new(run).map(|record| record.expect("read before").bytes().len());
        let one = records.next().expect("not empty");
        let left = self.writer.reserve(head + one, &mut self.chain, &self.groups) - head;
        let (mut len, mut count) = (one, 1);
        for more in records {
            if len + more > left {
                break;
            }
            (len, count) = (len + more, count + 1);
        }
        let piece = run.split_to(len);
        let Group { group, mark, .. } = &mut self.groups[slot];
        let place = self.writer.put(*group, parts, Some((first.prev(), count, &piece)));
        self.writer.footer.add(*group, mark, place.offset, &piece, parts.fill);
        (piece, Index(first.0 + u64::from(count)), place)
    }

    /// Puts a section without entries.
    pub(crate) fn put_parts(&mut self, log: &GroupLog, parts: &Parts) {
        self.writer.reserve(section::HEADER + parts.len(), &mut self.chain, &self.groups);
        self.writer.put(log.group(), parts, None);
        self.written(log, parts);
    }

    /// A section with these parts is laid out: only from now on may a checkpoint say so, and segments be given up for
    /// it.
    fn written(&mut self, log: &GroupLog, parts: &Parts) {
        let group = &mut self.groups[log.slot];
        let before = checkpoint(group).len();
        group.said = true;
        if let Some(hard) = parts.hard {
            group.hard = hard;
        }
        if let Some(base) = parts.base {
            if parts.reset {
                group.replaced_from(Index::ZERO, &mut self.chain);
                group.runs.clear(&mut self.chain);
            } else {
                group.compacted_upto(base.index);
                group.runs.forget_upto(base.index, log.entries(), &mut self.chain);
            }
            group.base = base;
        }
        if parts.snapshot.is_some() {
            group.snapshot = parts.snapshot;
        }
        if let Some(conf) = parts.conf {
            group.conf.clone_from(conf);
        }
        self.checkpoint_bytes = self.checkpoint_bytes - before + checkpoint(group).len();
    }

    /// Lets go of cached runs of sealed segments, oldest first, down to the budget.
    fn evict(&mut self) {
        let durable = self.writer.durable();
        self.fills.evict(&self.chain, durable);
        while self.cached_bytes > self.config.cache_bytes_max {
            let Some(segment) = self.chain.evictable(durable) else { return };
            let slot = segment.cached.pop_front().expect("not empty");
            self.cached_bytes -= self.groups[slot as usize].runs.evict_from(segment.generation);
        }
    }

    /// The part of the run at `at` from `first` to `upto`, and the index behind it.
    fn piece<I: Io>(
        &mut self,
        io: &mut I,
        log: &GroupLog,
        at: usize,
        first: Index,
        upto: Index,
    ) -> Result<(Bytes, Index), ReadError> {
        let runs = &self.groups[log.slot].runs;
        let (run, cached) = runs.get(at).expect("a log without holes");
        let next = runs.end(at).min(upto.next());
        let from = if first == run.first { 0 } else { log.entries().encoded_sum(run.first, first) };
        let whole = first == run.first && next == runs.end(at);
        let to = if whole { run.len as usize } else { from + log.entries().encoded_sum(first, next) };
        if let Some(bytes) = cached {
            return Ok((bytes.slice(from..to), next));
        }
        if let Some(bytes) = self.fills.find(&run) {
            return Ok((bytes.slice(from..to), next));
        }
        let segment = self.chain.get_mut(run.segment);
        let mapping = mapped(io, segment)?;
        let (from, to) = (run.offset as usize + from, run.offset as usize + to);
        let bytes = mapping.slice(from.min(mapping.len())..to.min(mapping.len()));
        let mut index = first;
        for record in Records::new(&bytes) {
            if !record.is_ok_and(|record| record.id.index == index && record.verify(log.seed())) {
                break;
            }
            index = index.next();
        }
        if index == next {
            return Ok((bytes, next));
        }
        let file = segment.file.as_ref().expect("it was mapped").path.clone();
        self.unreadable(log, at, &mapping, &file);
        Err(ReadError::Damaged { file, offset: run.offset.into(), index })
    }

    /// Writes small groups that keep the oldest segment again, so that it can be given up. What is staged is not
    /// touched: it comes behind.
    fn rewrite_survivors<I: Io>(&mut self, io: &mut I) {
        let percent = u64::from(self.config.rewrite_percent);
        if percent == 0 || self.chain.len() <= self.config.segments_max || self.groups.is_empty() {
            return;
        }
        let written = self.writer.written_bytes - self.rewriting.seen;
        self.rewriting.seen = self.writer.written_bytes;
        let most = self.config.batch_bytes_max / 2;
        self.rewriting.credit = (self.rewriting.credit + written * percent / 100).min(2 * most as u64);
        let oldest = self.chain.oldest().generation;
        for _ in 0..REWRITE_LOOKS.min(self.groups.len()) {
            let slot = self.rewriting.slot % self.groups.len();
            self.rewriting.slot = slot + 1;
            let Group { runs, wounded, .. } = &self.groups[slot];
            let moves = wounded.is_none() && runs.pins_oldest(oldest);
            let Some(bytes) = runs.bytes_upto(most).filter(|_| moves) else { continue };
            if self.rewriting.credit < bytes as u64 || self.room(bytes).is_err() {
                // Its turn comes when there is credit or room.
                self.rewriting.slot = slot;
                return;
            }
            if self.rewrite(io, slot).is_some() {
                self.rewriting.credit -= bytes as u64;
                self.rewriting.bytes += bytes as u64;
            }
        }
    }

    /// Writes all entries of a group again, as one section: a crash finds all of it, or none and the old ones. Nothing
    /// is done if they cannot be read.
    fn rewrite<I: Io>(&mut self, io: &mut I, slot: usize) -> Option<()> {
        let Group { group: id, runs, .. } = &self.groups[slot];
        let (id, seed) = (*id, GroupSeed::of(*id));
        let (first, last) = (runs.get(0)?.0.first, runs.last_index()?);
        let mut bytes = Vec::new();
        for at in 0.. {
            match runs.get(at) {
                Some((_, Some(cached))) => bytes.extend_from_slice(cached),
                Some((run, None)) => {
                    let mapping = mapped(io, self.chain.get_mut(run.segment)).ok()?;
                    bytes.extend_from_slice(mapping.get(run.offset as usize..(run.offset + run.len) as usize)?);
                }
                None => break,
            }
        }
        let mut index = first;
        for record in Records::new(&bytes) {
            record.ok().filter(|record| record.id.index == index && record.verify(seed))?;
            index = index.next();
        }
        let records = u32::try_from(index.0 - first.0).ok().filter(|_| index == last.next())?;
        let bytes = Bytes::from(bytes);
        self.writer.reserve(section::HEADER + bytes.len(), &mut self.chain, &self.groups);
        let place = self.writer.put(id, &Parts::default(), Some((first.prev(), records, &bytes)));
        let group = &mut self.groups[slot];
        let before = group.runs.cached_bytes();
        self.writer.footer.add(id, &mut group.mark, place.offset, &bytes, false);
        group.runs.clear(&mut self.chain);
        let len = u32::try_from(bytes.len()).expect("bytes of one block");
        let run = Run { first, segment: place.generation, offset: place.offset, len };
        group.runs.push(run, last, Some(bytes), &mut self.chain);
        self.cached_bytes = self.cached_bytes - before + group.runs.cached_bytes();
        let slot = u32::try_from(slot).expect("fewer than 2^32 groups");
        self.chain.get_mut(place.generation).cached.push_back(slot);
        self.evict();
        Some(())
    }
}

/// The mapping of a sealed segment.
fn mapped<I: Io>(io: &mut I, segment: &mut Segment) -> Result<Bytes, ReadError> {
    let file = segment.file.as_mut().expect("a sealed segment is in a file");
    let mapping = match &segment.mapping {
        Some(mapping) => mapping,
        None => {
            let map = io.map(file.id);
            let map = map.map_err(|source| ReadError::Map { file: file.path.clone(), source: Arc::new(source) })?;
            file.mapped_once = true;
            segment.mapping.insert(Mapping::new(map))
        }
    };
    Ok(mapping.bytes().clone())
}
