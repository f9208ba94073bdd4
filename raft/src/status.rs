//! Where a member stands: questions that change nothing.

use crate::config::Config;
use crate::message::Message;
use crate::progress::Progress;
use crate::raft::Raft;
use crate::ready::ReadState;
use crate::storage::{Storage, StorageError};
use crate::types::{ConfState, EntryId, EntryMeta, Index, PeerId, Role, Term};

/// Where a member stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Status {
    /// Who.
    pub id: PeerId,
    /// Its term.
    pub term: Term,
    /// Whom it voted for in it; 0: nobody.
    pub vote: PeerId,
    /// Whom it believes to lead; 0: unknown.
    pub lead: PeerId,
    /// Its role.
    pub role: Role,
    /// Its last entry.
    pub last: EntryId,
    /// Its commit index.
    pub commit: Index,
    /// Up to where its state machine is known to be.
    pub applied: Index,
    /// Up to where its log is durable.
    pub durable: Index,
    /// Whom it hands leadership to; 0: nobody.
    pub transferee: PeerId,
    /// How often a member was seen to have lost durable entries ([`Lost`](crate::Lost)), since the start.
    pub losses: u64,
}

impl<S: Storage> Raft<S> {
    /// Where this member stands.
    pub fn status(&self) -> Status {
        Status {
            id: self.config.id,
            term: self.term,
            vote: self.vote,
            lead: self.lead,
            role: self.role,
            last: self.log.last_id(),
            commit: self.log.committed,
            applied: self.log.applied,
            durable: self.durable_index(),
            transferee: self.transferee,
            losses: self.losses.into(),
        }
    }

    /// How far a member is, if we lead.
    pub fn progress(&self, peer: PeerId) -> Option<&Progress> {
        self.tracker.get(peer).filter(|_| self.role == Role::Leader)
    }

    /// How far every member is, ourselves included, by ascending id; nobody, unless we lead.
    pub fn progress_all(&self) -> impl Iterator<Item = (PeerId, &Progress)> {
        self.tracker.iter().filter(|_| self.role == Role::Leader)
    }

    /// The membership of now.
    pub fn conf_state(&self) -> &ConfState {
        &self.tracker.conf
    }

    /// The configuration given at start.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Own id.
    pub fn id(&self) -> PeerId {
        self.config.id
    }

    /// Current term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Current role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Who leads, if known.
    pub fn leader(&self) -> Option<PeerId> {
        Some(self.lead).filter(|lead| *lead != PeerId::ZERO)
    }

    /// Commit index.
    pub fn commit(&self) -> Index {
        self.log.committed
    }

    /// Up to where entries are reported applied.
    pub fn applied_index(&self) -> Index {
        self.log.applied
    }

    /// Index of the last entry, durable or not.
    pub fn last_index(&self) -> Index {
        self.log.last_index()
    }

    /// Up to where the log is known to be durable.
    pub fn durable_index(&self) -> Index {
        match self.log.unstable.snapshot {
            Some(_) => Index::ZERO,
            None => self.log.unstable.offset.prev(),
        }
    }

    /// What is known of an entry, durable or not. The core appends entries of its own (a new leader's empty one, the
    /// leaving of a joint configuration), always without payload: a shell that stages payloads asks here for those
    /// between its last and the one it gets, and encodes them empty.
    ///
    /// # Errors
    /// If the entry is compacted, or not there.
    pub fn meta(&self, index: Index) -> Result<EntryMeta, StorageError> {
        self.log.meta(index)
    }

    /// Term of an entry, durable or not, or of the base.
    ///
    /// # Errors
    /// If the entry is compacted, or not there.
    pub fn entry_term(&self, index: Index) -> Result<Term, StorageError> {
        self.log.term(index)
    }

    /// Bytes of memory that this member takes, on the heap and off it, beside the log and an observer: counted from
    /// the sizes of structs and the capacities of lists.
    pub fn memory(&self) -> usize {
        let messages = self.messages.capacity() + self.after_sync.capacity() + self.spare.capacity();
        let conf = self.conf_before_snapshot.as_ref().map_or(0, |conf| size_of::<ConfState>() + conf.memory());
        size_of::<Raft<S>>() - size_of::<S>()
            + self.log.memory()
            + self.tracker.memory()
            + self.reads.memory()
            + messages * size_of::<Message>()
            + self.read_states.capacity() * size_of::<ReadState>()
            + self.notices.as_ref().map_or(0, |notices| notices.memory())
            + conf
    }

    /// The log.
    pub fn storage(&self) -> &S {
        &self.log.storage
    }

    /// The log, to write what a Ready asked for, and to compact it: at most up to what is reported applied.
    pub fn storage_mut(&mut self) -> &mut S {
        &mut self.log.storage
    }
}
