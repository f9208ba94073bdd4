//! The in-memory storage of etcd's harness.

use ringraft_raft::{ConfState, EntryId, EntryMeta, HardState, Index, Storage, StorageError, Term};

use super::show::{Entry, Snapshot};

/// Entries after a compacted position, and the latest snapshot installed.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub hard: HardState,
    pub snapshot: Snapshot,
    pub base: EntryId,
    pub entries: Vec<Entry>,
    /// The latest snapshot of the state machine: that is what peers are sent.
    pub newest: EntryId,
}

impl Disk {
    fn at(&self, index: Index) -> Result<&Entry, StorageError> {
        let last = self.last_index();
        match index.0.checked_sub(self.base.index.0 + 1) {
            None => Err(StorageError::Compacted { index, base: self.base.index }),
            Some(at) => {
                let entry = self.entries.get(usize::try_from(at).unwrap());
                entry.ok_or(StorageError::Unavailable { index, last })
            }
        }
    }

    pub fn append(&mut self, entries: &[Entry]) {
        let entries: Vec<_> = entries.iter().filter(|one| one.index > self.base.index).cloned().collect();
        let Some(first) = entries.first() else { return };
        let keep = usize::try_from(first.index.0 - self.base.index.0 - 1).unwrap();
        assert!(keep <= self.entries.len(), "missing log entry before {}", first.index);
        self.entries.truncate(keep);
        self.entries.extend(entries);
    }

    pub fn install(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        if self.snapshot.at.index > Index::ZERO && self.snapshot.at.index >= snapshot.at.index {
            return Err("requested index is older than the existing snapshot".into());
        }
        self.snapshot = snapshot.clone();
        self.base = snapshot.at;
        self.entries.clear();
        Ok(())
    }

    pub fn compact(&mut self, index: Index) -> Result<(), String> {
        if index <= self.base.index {
            return Err("requested index is unavailable due to compaction".into());
        }
        let term = self.at(index).expect("compacting beyond the last entry").term;
        self.entries.drain(..usize::try_from(index.0 - self.base.index.0).unwrap());
        self.base = EntryId { term, index };
        Ok(())
    }
}

impl Storage for Disk {
    fn initial_state(&self) -> (HardState, ConfState) {
        (self.hard, self.snapshot.conf.clone())
    }

    fn base(&self) -> EntryId {
        self.base
    }

    fn last_index(&self) -> Index {
        Index(self.base.index.0 + self.entries.len() as u64)
    }

    fn term(&self, index: Index) -> Result<Term, StorageError> {
        if index == self.base.index { Ok(self.base.term) } else { self.at(index).map(|entry| entry.term) }
    }

    fn meta(&self, index: Index) -> Result<EntryMeta, StorageError> {
        self.at(index).map(Entry::meta)
    }

    fn limit(&self, after: Index, upto: Index, bytes_max: u64) -> Result<Index, StorageError> {
        let mut last = after.next();
        let mut size = self.meta(last)?.etcd_encoded_size(last);
        while last < upto {
            size += self.meta(last.next())?.etcd_encoded_size(last.next());
            if size > bytes_max {
                break;
            }
            last = last.next();
        }
        Ok(last)
    }

    fn size(&self, after: Index, upto: Index) -> Result<u64, StorageError> {
        let one = |index| self.meta(Index(index)).map(|meta| meta.etcd_encoded_size(Index(index)));
        (after.0 + 1..=upto.0).map(one).sum()
    }

    fn snapshot(&self) -> Option<EntryId> {
        Some(self.newest).filter(|at| at.index > Index::ZERO)
    }
}
