//! A log in memory that knows entries only as the core does, without their payloads.

use std::collections::VecDeque;

use ringraft_raft::{ConfState, EntryId, EntryMeta, HardState, Index, PeerId, Storage, StorageError};

/// Entry `base.index + 1` is the first of `entries`.
#[derive(Clone, Default)]
pub(crate) struct Log {
    pub(crate) hard: HardState,
    pub(crate) conf: ConfState,
    pub(crate) base: EntryId,
    pub(crate) entries: VecDeque<EntryMeta>,
}

impl Log {
    /// An empty log of a group with voters 1, 2, ... and learners behind them.
    pub(crate) fn new(voters: u64, learners: u64) -> Log {
        let peers = |ids: std::ops::RangeInclusive<u64>| ids.map(PeerId).collect();
        let (voters, learners) = (peers(1..=voters), peers(voters + 1..=voters + learners));
        Log { conf: ConfState { voters, learners, ..ConfState::default() }, ..Log::default() }
    }

    /// Forgets the entries up to `index`, which must be applied.
    pub(crate) fn compact(&mut self, index: Index) {
        let term = self.term(index).expect("an entry of the log");
        self.entries.drain(..=self.slot(index).expect("an entry of the log"));
        self.base = EntryId { term, index };
    }

    fn slot(&self, index: Index) -> Result<usize, StorageError> {
        let (base, last) = (self.base.index, self.last_index());
        if index <= base {
            return Err(StorageError::Compacted { index, base });
        }
        if index > last {
            return Err(StorageError::Unavailable { index, last });
        }
        Ok(usize::try_from(index.0 - base.0 - 1).expect("it fits memory"))
    }
}

impl Storage for Log {
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
        Ok(self.entries[self.slot(index)?])
    }

    fn limit(&self, after: Index, upto: Index, bytes_max: u64) -> Result<Index, StorageError> {
        let (first, last) = (self.slot(after.next())?, self.slot(upto)?);
        let mut bytes = 0;
        let fits = self.entries.range(first..=last).take_while(|meta| {
            bytes += meta.encoded_size();
            bytes <= bytes_max
        });
        Ok(Index(after.0 + fits.count().max(1) as u64))
    }

    fn snapshot(&self) -> Option<EntryId> {
        (self.base.index > Index::ZERO).then_some(self.base)
    }
}
