//! What a group's log is once all that was asked for is done. Pure: requests are checked and numbered against it, so that
//! a mistake is told at once and to whoever made it.

use std::collections::VecDeque;

use ringraft_raft::record::{self, PAYLOAD_MAX};
use ringraft_raft::{ConfState, EntryId, HardState, Index, Storage, StorageError, Term};

use super::group::Entry;
use crate::error::StageError;
use crate::group_log::GroupLog;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct View {
    pub(super) hard: HardState,
    pub(super) conf: ConfState,
    pub(super) base: EntryId,
    pub(super) snapshot: Option<EntryId>,
    pub(super) last: Index,
    /// Where a term begins: first index, term; the first at or before the first entry.
    terms: VecDeque<(Index, Term)>,
}

impl View {
    /// That of a log as it is.
    pub(super) fn of(log: &GroupLog) -> View {
        let term = |index| log.term(Index(index)).expect("within the log");
        let last = log.last_index();
        let mut terms = VecDeque::new();
        let mut first = log.base().index.0 + 1;
        while first <= last.0 {
            let of_first = term(first);
            terms.push_back((Index(first), of_first));
            // Terms never fall, so the end of this one is found by halving.
            let (mut same, mut other) = (first, last.0 + 1);
            while other - same > 1 {
                let middle = same + (other - same) / 2;
                if term(middle) == of_first { same = middle } else { other = middle }
            }
            first = other;
        }
        let (hard, conf) = log.initial_state();
        View { hard, conf, base: log.base(), snapshot: log.snapshot(), last, terms }
    }

    /// Term of the entry at `index`, or of the base.
    pub(super) fn term(&self, index: Index) -> Result<Term, StorageError> {
        if index == self.base.index {
            return Ok(self.base.term);
        }
        if index < self.base.index {
            return Err(StorageError::Compacted { index, base: self.base.index });
        }
        if index > self.last {
            return Err(StorageError::Unavailable { index, last: self.last });
        }
        let at = self.terms.partition_point(|(first, _)| *first <= index);
        Ok(self.terms[at - 1].1)
    }

    pub(super) fn last_id(&self) -> EntryId {
        EntryId { index: self.last, term: self.term(self.last).expect("the last one") }
    }

    /// Whether these entries may be appended, with records of at most so many bytes.
    pub(super) fn check(&self, entries: &[Entry], record_bytes_max: usize) -> Result<(), StageError> {
        let Some(entry) = entries.first() else { return Ok(()) };
        let first = entry.id.index;
        if first <= self.base.index || first > self.last.next() {
            return Err(StageError::Gap { first, base: self.base.index, last: self.last });
        }
        let mut before = EntryId { index: first.prev(), term: self.term(first.prev()).expect("base or entry") };
        for Entry { id, payload, .. } in entries {
            if id.index != before.index.next() {
                return Err(StageError::Order { expected: before.index.next(), found: id.index });
            }
            if id.term < before.term {
                return Err(StageError::Term { index: id.index, term: id.term });
            }
            let bytes = record::encoded_len(payload.len());
            if bytes > record_bytes_max || payload.len() > PAYLOAD_MAX {
                return Err(StageError::TooLarge { index: id.index, bytes, bytes_max: record_bytes_max });
            }
            before = *id;
        }
        Ok(())
    }

    /// Takes checked entries.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        let Some(entry) = entries.first() else { return };
        self.truncate(entry.id.index.prev());
        for Entry { id, .. } in entries {
            if self.terms.back().is_none_or(|(_, term)| *term != id.term) {
                self.terms.push_back((id.index, id.term));
            }
            self.last = id.index;
        }
    }

    pub(super) fn truncate(&mut self, last: Index) {
        self.last = self.last.min(last);
        while self.terms.back().is_some_and(|(first, _)| *first > self.last) {
            self.terms.pop_back();
        }
    }

    /// Forgets the entries up to `upto`, which is in the log.
    pub(super) fn compact(&mut self, upto: Index) {
        self.base = EntryId { index: upto, term: self.term(upto).expect("within the log") };
        while self.terms.get(1).is_some_and(|(first, _)| *first <= upto.next()) {
            self.terms.pop_front();
        }
        if upto == self.last {
            self.terms.clear();
        }
        self.hard.commit = self.hard.commit.max(upto);
    }

    pub(super) fn reset(&mut self, base: EntryId) {
        (self.base, self.last) = (base, base.index);
        self.terms.clear();
        self.hard.commit = self.hard.commit.max(base.index);
    }
}
