//! A log in memory: metadata only, as the core sees it.

use std::collections::VecDeque;

use ringraft_raft::{ConfState, EntryId, EntryMeta, HardState, Index, Storage, StorageError};

#[derive(Clone, Debug, Default)]
pub struct MemLog {
    pub hard: HardState,
    /// Membership as of the base.
    pub conf: ConfState,
    pub base: EntryId,
    pub entries: VecDeque<EntryMeta>,
    pub snapshot: Option<EntryId>,
}

impl MemLog {
    pub fn new(conf: ConfState) -> MemLog {
        MemLog { conf, ..MemLog::default() }
    }

    fn at(&self, index: Index) -> Result<usize, StorageError> {
        let last = self.last_index();
        match index.0.checked_sub(self.base.index.0 + 1) {
            None => Err(StorageError::Compacted { index, base: self.base.index }),
            Some(_) if index > last => Err(StorageError::Unavailable { index, last }),
            Some(at) => Ok(usize::try_from(at).unwrap()),
        }
    }

    /// Forgets everything beyond `last`.
    pub fn truncate(&mut self, last: Index) {
        assert!(last >= self.base.index, "truncating into the compacted part");
        self.entries.truncate(usize::try_from(last.0 - self.base.index.0).unwrap());
    }

    /// Forgets everything up to `upto`, which has this membership.
    pub fn compact(&mut self, upto: Index, conf: ConfState) {
        let at = EntryId { term: self.term(upto).unwrap(), index: upto };
        self.entries.drain(..usize::try_from(upto.0 - self.base.index.0).unwrap());
        self.base = at;
        self.snapshot = Some(at);
        self.conf = conf;
    }

    /// Starts over from a snapshot.
    pub fn install(&mut self, at: EntryId, conf: ConfState) {
        self.entries.clear();
        self.base = at;
        self.snapshot = Some(at);
        self.conf = conf;
    }
}

impl Storage for MemLog {
    fn initial_state(&self) -> (HardState, ConfState) {
        (self.hard, self.conf.clone())
    }

    fn base(&self) -> EntryId {
        self.base
    }

    fn last_index(&self) -> Index {
        Index(self.base.index.0 + self.entries.len() as u64)
    }

    fn meta(&self, index: Index) -> Result<EntryMeta, StorageError> {
        self.at(index).map(|at| self.entries[at])
    }

    fn snapshot(&self) -> Option<EntryId> {
        self.snapshot
    }
}
