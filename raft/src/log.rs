//! The log as the core sees it: durable storage, overlaid by the unstable tail, with its cursors.

use std::collections::VecDeque;

use crate::config::Compat;
use crate::event::LogSummary;
use crate::mutant::mutant;
use crate::storage::{Sizes, Storage, StorageError};
use crate::types::{EntryId, EntryKind, EntryMeta, Index, Term};
use crate::unstable::Unstable;

/// `applied <= applying <= committed <= last`.
#[derive(Debug)]
pub(crate) struct RaftLog<S> {
    pub(crate) storage: S,
    pub(crate) unstable: Unstable,
    /// Highest index known to be on a quorum.
    pub(crate) committed: Index,
    /// Highest index handed out for application.
    pub(crate) applying: Index,
    /// Highest index reported applied.
    pub(crate) applied: Index,
    handed_out: VecDeque<HandedOut>,
    handed_out_size: u64,
    apply_size_max: u64,
    apply_paused: bool,
    pub(crate) compat: Compat,
}

/// One lot of committed entries that is not reported applied.
#[derive(Clone, Copy, Debug)]
struct HandedOut {
    last: Index,
    size: u64,
    payload: u64,
}

/// Entries that are added up without looking at limits in between; a backlog of more is not added up over and over.
const WHOLE_LOT_MAX: u64 = 1 << 14;

/// Lots remembered one by one; further ones are added to the last.
const HANDED_OUT_MAX: usize = 64;

impl<S: Storage> RaftLog<S> {
    /// The log at start: nothing is known to be committed beyond the base.
    pub(crate) fn new(storage: S, apply_size_max: u64) -> RaftLog<S> {
        let (base, last) = (storage.base().index, storage.last_index());
        assert!(base <= last, "a log from {base} to {last}");
        RaftLog {
            unstable: Unstable::new(last),
            committed: base,
            applying: base,
            applied: base,
            handed_out: VecDeque::new(),
            handed_out_size: 0,
            apply_size_max,
            apply_paused: false,
            compat: Compat::Off,
            storage,
        }
    }

    /// What an entry counts against limits in bytes: limits are met at the same entry as etcd's only by its own sizes.
    fn sizes(&self) -> impl Fn(Index, EntryMeta) -> u64 + use<S> {
        let etcd = self.compat != Compat::Off;
        move |index, meta| if etcd { meta.etcd_encoded_size(index) } else { meta.encoded_size() }
    }

    /// The position before the first entry.
    pub(crate) fn base(&self) -> EntryId {
        self.unstable.snapshot.unwrap_or_else(|| self.storage.base())
    }

    pub(crate) fn last_index(&self) -> Index {
        self.unstable.last_index()
    }

    pub(crate) fn last_id(&self) -> EntryId {
        let index = self.last_index();
        EntryId { term: self.term(index).expect("the last entry or the base has a term"), index }
    }

    /// Term of an entry, or of the base.
    pub(crate) fn term(&self, index: Index) -> Result<Term, StorageError> {
        match self.unstable.term(index) {
            Some(term) => Ok(term),
            None => self.stable(index).and_then(|()| self.storage.term(index)),
        }
    }

    pub(crate) fn meta(&self, index: Index) -> Result<EntryMeta, StorageError> {
        match self.unstable.meta(index) {
            Some(meta) => Ok(meta),
            None => self.stable(index).and_then(|()| self.storage.meta(index)),
        }
    }

    /// Whether storage may be asked about `index`, which is not in the unstable tail.
    fn stable(&self, index: Index) -> Result<(), StorageError> {
        match self.unstable.snapshot {
            _ if index > self.last_index() => Err(StorageError::Unavailable { index, last: self.last_index() }),
            Some(snapshot) => Err(StorageError::Compacted { index, base: snapshot.index }),
            None => Ok(()),
        }
    }

    /// Whether this very entry is in the log.
    pub(crate) fn holds(&self, id: EntryId) -> bool {
        self.term(id.index) == Ok(id.term)
    }

    /// The longest run after `after` within `size_max` bytes, but at least one entry if there is one: its last index
    /// and its size.
    pub(crate) fn limit(&self, after: Index, size_max: u64) -> Result<(Index, u64), StorageError> {
        let (mut end, mut size) = (after, 0);
        let (stable_last, size_of) = (self.unstable.offset.prev(), self.sizes());
        if after < stable_last {
            self.stable(after)?;
            end = self.storage.limit(after, stable_last, size_max)?;
            size = self.storage.size(after, end)?;
            if end < stable_last {
                return Ok((end, size));
            }
        }
        for meta in self.unstable.metas_after(end) {
            let more = size_of(end.next(), meta);
            if end > after && size.saturating_add(more) > size_max {
                break;
            }
            end = end.next();
            size += more;
        }
        Ok((end, size))
    }

    /// As [`RaftLog::limit`], by the sizes of stripped records, and no farther than `upto`.
    pub(crate) fn limit_stripped(
        &self,
        after: Index,
        upto: Index,
        size_max: u64,
    ) -> Result<(Index, u64), StorageError> {
        let (mut end, mut size) = (after, 0_u64);
        while end < upto {
            let more = self.meta(end.next())?.stripped().encoded_size();
            if end > after && size.saturating_add(more) > size_max {
                break;
            }
            end = end.next();
            size += more;
        }
        Ok((end, size))
    }

    /// Payload bytes of the entries after `after` up to `upto`.
    pub(crate) fn payload_size(&self, after: Index, upto: Index) -> u64 {
        let size = |index| self.meta(Index(index)).map_or(0, |meta| u64::from(meta.size));
        (after.0 + 1..=upto.0).map(size).sum()
    }

    /// The highest position at or below `upto.index` where our term is at most `upto.term`, or unknown (then 0):
    /// where two logs can match at the highest, if the other has `upto.term` at `upto.index`.
    pub(crate) fn find_conflict(&self, upto: EntryId) -> EntryId {
        let mut index = upto.index;
        loop {
            match self.term(index) {
                Ok(term) if term > upto.term => index = index.prev(),
                Ok(term) => return EntryId { term, index },
                Err(_) => return EntryId { term: Term::ZERO, index },
            }
            if index == Index::ZERO {
                return EntryId::default();
            }
        }
    }

    /// Puts `metas` at `first`, replacing what is there.
    pub(crate) fn append(&mut self, first: Index, metas: &[EntryMeta]) {
        assert!(first > self.committed, "entries at {first} would replace committed ones (up to {})", self.committed);
        self.unstable.append(first, metas);
    }

    /// Moves the commit mark forward, never back.
    pub(crate) fn commit_to(&mut self, index: Index) -> bool {
        if mutant!("commit-goes-back", index == self.committed, index <= self.committed) {
            return false;
        }
        assert!(index <= self.last_index(), "commit of {index} beyond the last entry {}", self.last_index());
        self.committed = index;
        true
    }

    /// Whether a change of membership is committed but not applied.
    pub(crate) fn has_unapplied_conf_change(&self) -> bool {
        let unapplied = self.applied.max(self.base().index).0 + 1..=self.committed.0;
        unapplied.into_iter().any(|index| {
            let meta = self.meta(Index(index)).expect("unapplied entries are in the log");
            meta.kind != EntryKind::Normal
        })
    }

    /// Up to where committed entries may be handed out: only what is durable here, and nothing behind a snapshot
    /// that is not.
    fn applicable(&self) -> Index {
        // etcd's synchronous shell has made everything durable by the time it applies.
        let durable = match self.compat {
            Compat::Etcd { async_storage_writes: false } => self.committed,
            _ => mutant!("apply-before-sync", self.last_index(), self.unstable.offset.prev()),
        };
        match self.unstable.snapshot {
            None if mutant!("apply-without-limit", true, !self.apply_paused) => {
                self.committed.min(durable).max(self.applying)
            }
            _ => self.applying,
        }
    }

    /// Whether there are entries to apply.
    pub(crate) fn has_committed(&self) -> bool {
        self.applicable() > self.applying
    }

    /// Hands out entries `.0 + 1 ..= .1` for application.
    pub(crate) fn take_committed(&mut self) -> (Index, Index) {
        let (before, upto) = (self.applying, self.applicable());
        if before == upto {
            return (before, before);
        }
        let lot = self.whole_lot(before, upto).unwrap_or_else(|| self.lot_within_budget(before, upto));
        self.applying = lot.last;
        self.handed_out_size += lot.size;
        self.apply_paused = self.handed_out_size >= self.apply_size_max || lot.last < upto;
        let full = self.handed_out.len() >= HANDED_OUT_MAX;
        match self.handed_out.back_mut() {
            Some(back) if full => {
                *back = HandedOut { last: lot.last, size: back.size + lot.size, payload: back.payload + lot.payload };
            }
            _ => self.handed_out.push_back(lot),
        }
        (before, lot.last)
    }

    fn apply_budget(&self) -> u64 {
        let left = self.apply_size_max.saturating_sub(self.handed_out_size);
        mutant!("apply-without-limit", u64::MAX, left)
    }

    /// All of it at once, if limits allow: storage adds up faster than we could here, entry by entry.
    fn whole_lot(&self, after: Index, upto: Index) -> Option<HandedOut> {
        // etcd counts other sizes, and hands out what is not durable.
        if self.compat != Compat::Off || upto >= self.unstable.offset || upto.0 - after.0 > WHOLE_LOT_MAX {
            return None;
        }
        let Sizes { encoded: size, payload } = self.storage.sizes(after, upto).ok()?;
        (size <= self.apply_budget()).then_some(HandedOut { last: upto, size, payload })
    }

    /// As much of it as limits allow, but one entry at least.
    fn lot_within_budget(&self, after: Index, upto: Index) -> HandedOut {
        let budget = self.apply_budget();
        let mut lot = HandedOut { last: after, size: 0, payload: 0 };
        let (unstable_from, size_of) = (self.unstable.offset, self.sizes());
        while lot.last < upto {
            let index = lot.last.next();
            let meta = if index < unstable_from { self.storage.meta(index) } else { self.meta(index) };
            let meta = meta.expect("entries stay in the log until applied");
            let more = size_of(index, meta);
            if lot.last > after && lot.size + more > budget {
                break;
            }
            lot = HandedOut { last: index, size: lot.size + more, payload: lot.payload + u64::from(meta.size) };
        }
        lot
    }

    /// Everything up to `index` is applied. Returns the payload bytes of the lots that are through.
    pub(crate) fn applied_to(&mut self, index: Index) -> u64 {
        assert!(index <= self.applying, "entry {index} was not handed out (up to {})", self.applying);
        let mut payload = 0;
        while let Some(lot) = self.handed_out.front().copied().filter(|lot| lot.last <= index) {
            self.handed_out_size -= lot.size;
            payload += lot.payload;
            self.handed_out.pop_front();
        }
        self.applied = self.applied.max(index);
        self.apply_paused = self.handed_out_size >= self.apply_size_max;
        payload
    }

    /// The cursors.
    pub(crate) fn summary(&self) -> LogSummary {
        let unstable_from = self.unstable.offset;
        LogSummary {
            committed: self.committed,
            applied: self.applied,
            applying: self.applying,
            unstable_from,
            unwritten_from: self.unstable.offset_in_progress,
            unstable_count: usize::try_from(self.last_index().next().0 - unstable_from.0).expect("within a list"),
        }
    }

    /// Gives back memory that is not in use.
    pub(crate) fn shrink(&mut self) {
        self.unstable.shrink();
        self.handed_out.shrink_to_fit();
    }

    /// Bytes on the heap, beside the storage's.
    pub(crate) fn memory(&self) -> usize {
        self.unstable.memory() + self.handed_out.capacity() * size_of::<HandedOut>()
    }

    /// A snapshot takes the place of the log.
    pub(crate) fn restore(&mut self, at: EntryId) {
        assert!(at.index > self.committed, "a snapshot at {at} behind the commit index {}", self.committed);
        self.committed = at.index;
        self.unstable.restore(at);
    }

    /// The snapshot's write is durable: the state machine continues from there.
    pub(crate) fn stable_snapshot_to(&mut self, at: EntryId) {
        // With etcd a snapshot counts as applied though another has taken its place.
        if self.unstable.stable_snapshot_to(at) || self.compat != Compat::Off {
            self.applying = self.applying.max(at.index);
            self.applied = self.applied.max(at.index);
            // etcd's shell reports what it applied before, too.
            if self.compat == Compat::Off {
                self.handed_out.clear();
                self.handed_out_size = 0;
                self.apply_paused = false;
            } else {
                self.apply_paused = self.handed_out_size >= self.apply_size_max;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ConfState, HardState};
    use proptest::prelude::*;

    /// A durable log: entries after `base`.
    #[derive(Clone, Debug, Default)]
    struct Stable {
        base: EntryId,
        entries: Vec<EntryMeta>,
    }

    impl Storage for Stable {
        fn initial_state(&self) -> (HardState, ConfState) {
            (HardState::default(), ConfState::default())
        }

        fn base(&self) -> EntryId {
            self.base
        }

        fn last_index(&self) -> Index {
            Index(self.base.index.0 + self.entries.len() as u64)
        }

        fn meta(&self, index: Index) -> Result<EntryMeta, StorageError> {
            let gone = StorageError::Compacted { index, base: self.base.index };
            let at = index.0.checked_sub(self.base.index.0 + 1).ok_or(gone)?;
            let missing = StorageError::Unavailable { index, last: self.last_index() };
            self.entries.get(usize::try_from(at).unwrap()).copied().ok_or(missing)
        }

        fn snapshot(&self) -> Option<EntryId> {
            None
        }
    }

    fn meta(term: u64) -> EntryMeta {
        EntryMeta { term: Term(term), kind: EntryKind::Normal, size: 8 }
    }

    fn id(term: u64, index: u64) -> EntryId {
        EntryId { term: Term(term), index: Index(index) }
    }

    /// Terms of a log that begins after `base` with `stable` durable and then `unstable` entries.
    fn log(base: EntryId, stable: &[u64], unstable: &[u64]) -> RaftLog<Stable> {
        let entries = stable.iter().map(|term| meta(*term)).collect();
        let mut log = RaftLog::new(Stable { base, entries }, 1000);
        unstable.iter().for_each(|term| log.unstable.push(meta(*term)));
        log
    }

    #[test]
    fn terms_on_both_sides_of_the_seam() {
        let log = log(id(1, 10), &[1, 2], &[2, 3]);
        let check = |index: u64, expected: Result<u64, StorageError>| {
            assert_eq!(log.term(Index(index)), expected.map(Term), "{index}");
        };
        check(9, Err(StorageError::Compacted { index: Index(9), base: Index(10) }));
        check(10, Ok(1));
        check(11, Ok(1));
        check(12, Ok(2));
        check(13, Ok(2));
        check(14, Ok(3));
        check(15, Err(StorageError::Unavailable { index: Index(15), last: Index(14) }));
    }

    #[test]
    fn runs_within_a_budget() {
        // Every record takes 32 bytes; entries 1..=3 are durable, 4..=6 are not.
        let log = log(EntryId::default(), &[1, 1, 1], &[1, 1, 1]);
        let check = |after: u64, size_max: u64, last: u64| {
            let size = (last - after) * 32;
            assert_eq!(log.limit(Index(after), size_max), Ok((Index(last), size)), "after {after} within {size_max}");
        };
        check(0, 0, 1);
        check(0, 31, 1);
        check(0, 64, 2);
        check(0, 96, 3);
        check(0, 127, 3);
        check(0, 128, 4);
        check(2, 64, 4);
        check(3, 0, 4);
        check(3, 64, 5);
        check(0, u64::MAX, 6);
        check(5, 64, 6);
        check(6, 64, 6);
    }

    #[test]
    fn runs_within_a_budget_of_stripped_records() {
        // Entries of 24 bytes, but for number 4, a change of membership of 40.
        let mut log = log(id(1, 1), &[1, 1], &[1, 1, 1]);
        let change = EntryMeta { term: Term(1), kind: EntryKind::ConfChange, size: 10 };
        log.append(Index(4), &[change, meta(1), meta(1)]);
        let check = |after: u64, upto: u64, size_max: u64, expected: (u64, u64)| {
            let found = log.limit_stripped(Index(after), Index(upto), size_max);
            assert_eq!(found, Ok((Index(expected.0), expected.1)), "{after} to {upto} within {size_max}");
        };
        check(1, 6, 0, (2, 24));
        check(1, 6, 47, (2, 24));
        check(1, 6, 48, (3, 48));
        check(1, 6, 87, (3, 48));
        check(1, 6, 88, (4, 88));
        check(1, 3, 88, (3, 48));
        check(1, 6, u64::MAX, (6, 136));
        check(3, 6, 0, (4, 40));
        check(4, 4, 100, (4, 0));
        check(5, 4, 100, (5, 0));
        assert!(matches!(log.limit_stripped(Index(0), Index(6), 100), Err(StorageError::Compacted { .. })));
    }

    #[test]
    fn where_logs_can_match() {
        let log = log(id(1, 2), &[1, 3, 3], &[5, 5]);
        let check = |upto: EntryId, expected: EntryId| assert_eq!(log.find_conflict(upto), expected, "{upto}");
        check(id(5, 7), id(5, 7));
        check(id(4, 7), id(3, 5));
        check(id(3, 7), id(3, 5));
        check(id(2, 7), id(1, 3));
        check(id(0, 7), id(0, 1));
        check(id(9, 9), id(0, 9));
    }

    #[test]
    fn lots_wait_for_what_is_applied() {
        let mut log = log(EntryId::default(), &[1; 100], &[1]);
        log.commit_to(Index(101));
        assert_eq!(log.take_committed(), (Index(0), Index(31)), "31 records of 32 bytes");
        assert!(!log.has_committed(), "the limit is reached, and more is left");
        assert_eq!(log.applied_to(Index(30)), 0, "the lot is not through");
        assert_eq!(log.take_committed(), (Index(31), Index(32)), "one always goes");
        assert!(!log.has_committed());
        assert_eq!(log.applied_to(Index(31)), 31 * 8);
        assert_eq!(log.take_committed(), (Index(32), Index(62)));
        assert_eq!(log.applied_to(Index(62)), 31 * 8);
        assert_eq!(log.take_committed(), (Index(62), Index(93)));
        log.applied_to(Index(93));
        assert_eq!(log.take_committed(), (Index(93), Index(100)), "the last is not durable");
        log.unstable.stable_to(id(1, 101));
        log.storage.entries.push(meta(1));
        assert_eq!(log.take_committed(), (Index(100), Index(101)));
    }

    #[test]
    fn nothing_is_applied_beside_a_snapshot() {
        let mut log = log(EntryId::default(), &[1; 3], &[]);
        log.commit_to(Index(2));
        log.restore(id(2, 9));
        assert!(!log.has_committed());
        assert_eq!((log.base(), log.last_id(), log.committed), (id(2, 9), id(2, 9), Index(9)));
        assert_eq!(log.term(Index(2)), Err(StorageError::Compacted { index: Index(2), base: Index(9) }));
        log.storage = Stable { base: id(2, 9), entries: Vec::new() };
        log.stable_snapshot_to(id(2, 9));
        assert_eq!((log.applied, log.applying), (Index(9), Index(9)));
    }

    proptest! {
        /// Appends that replace, writes that finish in order: the log is always that of a plain list.
        #[test]
        fn like_a_list(ops in proptest::collection::vec((0_u8..6, 0_u64..12, 1_usize..4), 1..120)) {
            let mut log = log(EntryId::default(), &[], &[]);
            let mut list: Vec<EntryMeta> = Vec::new();
            let mut writes: VecDeque<(Index, Vec<EntryMeta>, EntryId, u64)> = VecDeque::new();
            let mut term = 1;
            for (op, back, count) in ops {
                match op {
                    0..3 => {
                        // A new term may replace the uncommitted tail.
                        let keep = if op == 0 { (list.len() as u64).saturating_sub(back) } else { list.len() as u64 };
                        let keep = keep.max(log.committed.0);
                        term += u64::from(op == 0);
                        list.truncate(usize::try_from(keep).unwrap());
                        let metas = vec![meta(term); count];
                        log.append(Index(keep + 1), &metas);
                        list.extend(metas);
                    }
                    3 => {
                        let (after, upto) = log.unstable.to_write();
                        let metas: Vec<_> = (after.0 + 1..=upto.0).map(|at| log.meta(Index(at)).unwrap()).collect();
                        log.unstable.accept();
                        writes.push_back((after, metas, log.last_id(), term));
                    }
                    4 => {
                        if let Some((after, metas, last, asked)) = writes.pop_front() {
                            if !metas.is_empty() {
                                log.storage.entries.truncate(usize::try_from(after.0).unwrap());
                                log.storage.entries.extend(metas);
                            }
                            if asked == term {
                                log.unstable.stable_to(last);
                            }
                        }
                    }
                    _ => {
                        log.commit_to(Index(back.min(list.len() as u64)));
                        let (after, upto) = log.take_committed();
                        prop_assert!(after <= upto && upto < log.unstable.offset && upto <= log.committed);
                        log.applied_to(upto);
                    }
                }
                prop_assert_eq!(log.last_index().0, list.len() as u64);
                for (at, known) in list.iter().enumerate() {
                    prop_assert_eq!(log.meta(Index(at as u64 + 1)), Ok(*known));
                }
            }
        }
    }
}
