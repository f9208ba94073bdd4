//! The log as the core sees it: durable storage, overlaid by the unstable tail, with its cursors.

use std::collections::VecDeque;

use crate::storage::{Storage, StorageError};
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
}

/// One lot of committed entries that is not reported applied.
#[derive(Clone, Copy, Debug)]
struct HandedOut {
    last: Index,
    size: u64,
    payload: u64,
}

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
            storage,
        }
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
        let stable_last = self.unstable.offset.prev();
        if after < stable_last {
            self.stable(after)?;
            end = self.storage.limit(after, stable_last, size_max)?;
            size = self.storage.size(after, end)?;
            if end < stable_last {
                return Ok((end, size));
            }
        }
        while let Some(meta) = self.unstable.meta(end.next()) {
            let more = meta.encoded_size();
            if end > after && size.saturating_add(more) > size_max {
                break;
            }
            end = end.next();
            size += more;
        }
        Ok((end, size))
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
        if index <= self.committed {
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
        match self.unstable.snapshot {
            None if !self.apply_paused => self.committed.min(self.unstable.offset.prev()).max(self.applying),
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
        let budget = self.apply_size_max.saturating_sub(self.handed_out_size);
        let mut lot = HandedOut { last: before, size: 0, payload: 0 };
        while lot.last < upto {
            let meta = self.storage.meta(lot.last.next()).expect("durable entries stay in the log until applied");
            let more = meta.encoded_size();
            if lot.last > before && lot.size + more > budget {
                break;
            }
            lot =
                HandedOut { last: lot.last.next(), size: lot.size + more, payload: lot.payload + u64::from(meta.size) };
        }
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

    /// A snapshot takes the place of the log.
    pub(crate) fn restore(&mut self, at: EntryId) {
        assert!(at.index > self.committed, "a snapshot at {at} behind the commit index {}", self.committed);
        self.committed = at.index;
        self.unstable.restore(at);
    }

    /// The snapshot's write is durable: the state machine continues from there.
    pub(crate) fn stable_snapshot_to(&mut self, at: EntryId) {
        if self.unstable.stable_snapshot_to(at) {
            self.applying = self.applying.max(at.index);
            self.applied = self.applied.max(at.index);
            self.handed_out.clear();
            self.handed_out_size = 0;
            self.apply_paused = false;
        }
    }
}
