//! The tail of the log that is not known to be durable yet: metadata of entries, perhaps after a snapshot.

use std::collections::VecDeque;

use crate::mutant::mutant;
use crate::types::{EntryId, EntryMeta, Index, Term};

/// Entries from `offset` on, some of which (those below `offset_in_progress`) are already handed out for writing.
///
/// `offset` may lie at or below the last durable index: the entries here then replace durable ones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Unstable {
    /// A snapshot that replaces the whole log before `offset`, until it is durable.
    pub(crate) snapshot: Option<EntryId>,
    /// Whether `snapshot` is handed out.
    pub(crate) snapshot_in_progress: bool,
    entries: VecDeque<EntryMeta>,
    /// Index of the first entry.
    pub(crate) offset: Index,
    /// Index of the first entry that is not handed out.
    pub(crate) offset_in_progress: Index,
}

impl Unstable {
    /// Nothing unstable after a durable log that ends at `last`.
    pub(crate) fn new(last: Index) -> Unstable {
        Unstable {
            snapshot: None,
            snapshot_in_progress: false,
            entries: VecDeque::new(),
            offset: last.next(),
            offset_in_progress: last.next(),
        }
    }

    /// Index of the last entry; the one before `offset` if there is none.
    pub(crate) fn last_index(&self) -> Index {
        Index(self.offset.0 - 1 + self.entries.len() as u64)
    }

    pub(crate) fn meta(&self, index: Index) -> Option<EntryMeta> {
        let at = index.0.checked_sub(self.offset.0)?;
        self.entries.get(usize::try_from(at).ok()?).copied()
    }

    /// The entries after `index`, which is at least the one before `offset`.
    pub(crate) fn metas_after(&self, index: Index) -> impl Iterator<Item = EntryMeta> {
        let from = index.next().0.saturating_sub(self.offset.0);
        let from = usize::try_from(from).expect("within a list").min(self.entries.len());
        self.entries.range(from..).copied()
    }

    /// Term of an entry, or of the snapshot itself.
    pub(crate) fn term(&self, index: Index) -> Option<Term> {
        match self.snapshot {
            Some(snapshot) if snapshot.index == index => Some(snapshot.term),
            _ => self.meta(index).map(|meta| meta.term),
        }
    }

    /// Adds one entry at the end.
    pub(crate) fn push(&mut self, meta: EntryMeta) {
        self.entries.push_back(meta);
    }

    /// Puts `metas` at `first`, in place of whatever is there and after.
    pub(crate) fn append(&mut self, first: Index, metas: &[EntryMeta]) {
        let end = self.last_index().next();
        assert!(first <= end, "entries at {first} leave a gap after {}", end.prev());
        if first < end {
            if first > self.offset {
                self.entries.truncate(usize::try_from(first.0 - self.offset.0).expect("within a list"));
                let written = self.offset_in_progress;
                self.offset_in_progress = mutant!("replaced-entries-not-written", written, written.min(first));
            } else {
                self.entries.clear();
                self.offset = first;
                self.offset_in_progress = first;
            }
        }
        self.entries.extend(metas);
    }

    /// Entries `.0 + 1 ..= .1` are not handed out.
    pub(crate) fn to_write(&self) -> (Index, Index) {
        (self.offset_in_progress.prev(), self.last_index())
    }

    /// The snapshot, if it is not handed out.
    pub(crate) fn snapshot_to_write(&self) -> Option<EntryId> {
        self.snapshot.filter(|_| !self.snapshot_in_progress)
    }

    /// All is handed out.
    pub(crate) fn accept(&mut self) {
        self.offset_in_progress = self.last_index().next();
        self.snapshot_in_progress = self.snapshot.is_some();
    }

    /// Exactly this entry and all before it are durable. Ignored if the entry is not here, or not in this term.
    pub(crate) fn stable_to(&mut self, id: EntryId) {
        let other = |meta: EntryMeta| mutant!("sync-of-another-entry", false, meta.term != id.term);
        if self.meta(id.index).is_none_or(other) {
            return;
        }
        let count = usize::try_from(id.index.0 - self.offset.0).expect("within a list") + 1;
        // Mostly all of it, which is cheaper to clear.
        if count == self.entries.len() {
            self.entries.clear();
        } else {
            self.entries.drain(..count);
        }
        self.offset = id.index.next();
        self.offset_in_progress = self.offset_in_progress.max(self.offset);
    }

    /// The snapshot at `index` is durable. Whether it was still the one waited for.
    pub(crate) fn stable_snapshot_to(&mut self, id: EntryId) -> bool {
        let awaited = self.snapshot == Some(id);
        if awaited {
            self.snapshot = None;
            self.snapshot_in_progress = false;
        }
        awaited
    }

    /// Gives back memory that is not in use.
    pub(crate) fn shrink(&mut self) {
        self.entries.shrink_to_fit();
    }

    /// Bytes on the heap.
    pub(crate) fn memory(&self) -> usize {
        self.entries.capacity() * size_of::<EntryMeta>()
    }

    /// A snapshot replaces everything.
    pub(crate) fn restore(&mut self, snapshot: EntryId) {
        self.entries.clear();
        self.offset = snapshot.index.next();
        self.offset_in_progress = self.offset;
        self.snapshot = Some(snapshot);
        self.snapshot_in_progress = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(term: u64) -> EntryMeta {
        EntryMeta { term: Term(term), ..EntryMeta::default() }
    }

    fn id(term: u64, index: u64) -> EntryId {
        EntryId { term: Term(term), index: Index(index) }
    }

    /// Entries 5, 6, 7 of term 1 after a durable log that ends at 4; the first `handed_out` are being written.
    fn sample(handed_out: u64) -> Unstable {
        let mut unstable = Unstable::new(Index(4));
        unstable.append(Index(5), &[meta(1), meta(1), meta(1)]);
        unstable.offset_in_progress = Index(5 + handed_out);
        unstable
    }

    #[test]
    fn where_an_append_lands() {
        let check = |handed_out: u64, first: u64, count: usize, offset: u64, in_progress: u64, last: u64| {
            let mut unstable = sample(handed_out);
            unstable.append(Index(first), &vec![meta(2); count]);
            let found = (unstable.offset.0, unstable.offset_in_progress.0, unstable.last_index().0);
            assert_eq!(found, (offset, in_progress, last), "{count} at {first}, {handed_out} handed out");
            let terms = (first..=last).map(|index| unstable.term(Index(index)));
            assert!(terms.into_iter().all(|term| term == Some(Term(2))));
        };
        check(0, 8, 2, 5, 5, 9);
        check(3, 8, 2, 5, 8, 9);
        check(2, 5, 1, 5, 5, 5);
        check(3, 3, 2, 3, 3, 4);
        check(3, 6, 1, 5, 6, 6);
        check(1, 7, 3, 5, 6, 9);
    }

    #[test]
    fn stable_only_if_it_is_that_entry() {
        let check = |what: EntryId, offset: u64, in_progress: u64| {
            let mut unstable = sample(1);
            unstable.stable_to(what);
            assert_eq!((unstable.offset.0, unstable.offset_in_progress.0), (offset, in_progress), "{what}");
            assert_eq!(unstable.last_index(), Index(7));
        };
        check(id(1, 4), 5, 6);
        check(id(1, 5), 6, 6);
        check(id(1, 6), 7, 7);
        check(id(2, 6), 5, 6);
        check(id(1, 8), 5, 6);
        check(id(1, 7), 8, 8);
    }

    #[test]
    fn a_snapshot_replaces_everything() {
        let mut unstable = sample(2);
        unstable.restore(id(3, 20));
        assert_eq!((unstable.offset, unstable.last_index()), (Index(21), Index(20)));
        assert_eq!(unstable.term(Index(20)), Some(Term(3)));
        assert_eq!(unstable.term(Index(6)), None);
        assert_eq!(unstable.snapshot_to_write(), Some(id(3, 20)));
        unstable.accept();
        assert_eq!(unstable.snapshot_to_write(), None);
        assert!(!unstable.stable_snapshot_to(id(3, 19)));
        assert!(unstable.stable_snapshot_to(id(3, 20)));
        assert_eq!(unstable.snapshot, None);
    }
}
