//! A group that founds itself: the membership as the first entries of the log.
//!
//! The better way to begin is a log that already has a membership ([`Storage::initial_state`]), the same on every
//! founder; then nothing below is needed. etcd's older way is to put one change of membership per founder into every
//! founder's log, at term 1, and to count them as committed at once: nobody has a vote before, so nobody can say so, and
//! all founders write the same. Whoever reads the log later finds in it how the membership came about.

use crate::confchange::{ConfChange, ConfChangeOp, Draft};
use crate::error::OpenError;
use crate::raft::Raft;
use crate::storage::Storage;
use crate::types::{EntryId, EntryKind, EntryMeta, HardState, Index, PeerId, Term};

impl<S: Storage> Raft<S> {
    /// Founds a group, on a member whose log is empty and has no membership: one entry per founder, which the shell
    /// stages under the id it gets, with [`ConfChange::encode`] as its payload. The same founders in the same order on
    /// each of them.
    ///
    /// The entries come with the next Ready, to be written and, once durable, applied like all others (to a membership
    /// that knows of them already).
    ///
    /// # Errors
    /// [`OpenError`], with nothing done: the log is not empty, or the founders are no membership.
    pub fn bootstrap(&mut self, founders: &[ConfChangeOp]) -> Result<Vec<(EntryId, ConfChange)>, OpenError> {
        self.bootstrap_as(founders, |change| {
            let mut payload = Vec::new();
            change.encode(&mut payload);
            u32::try_from(payload.len()).expect("a change of one operation")
        })
    }

    /// As [`Raft::bootstrap`], for shells that encode changes in a way of their own: `size_of` says how many bytes each
    /// takes.
    ///
    /// # Errors
    /// As [`Raft::bootstrap`].
    pub fn bootstrap_as(
        &mut self,
        founders: &[ConfChangeOp],
        size_of: impl Fn(&ConfChange) -> u32,
    ) -> Result<Vec<(EntryId, ConfChange)>, OpenError> {
        let (last, conf) = (self.log.last_id(), &self.tracker.conf);
        if last.index > Index::ZERO || self.term > Term::ZERO || conf.names() > 0 {
            return Err(OpenError::NotEmpty { last });
        }
        // All of them, before anything is changed.
        let mut drafts: Vec<Draft> = Vec::with_capacity(founders.len());
        let changes: Vec<_> = founders.iter().map(|founder| ConfChange::simple(*founder)).collect();
        for change in &changes {
            let before = drafts.last().map_or(conf, Draft::conf);
            drafts.push(Draft::change(before, change)?);
        }
        let Some(founded) = drafts.last() else { return Err(OpenError::NoFounders) };
        if founded.is_member(self.config.id) && founded.conf.is_witness(self.config.id) != self.config.witness {
            return Err(OpenError::Witness { configured: self.config.witness });
        }
        let waits = self.lets_others_first;
        self.become_follower(Term(1), PeerId::ZERO);
        self.lets_others_first = waits;
        for change in &changes {
            let (term, kind) = (self.term, EntryKind::ConfChange);
            self.log.unstable.push(EntryMeta { term, kind, size: size_of(change) });
        }
        self.log.commit_to(self.log.last_index());
        drafts.into_iter().for_each(|draft| self.install(draft));
        // Nothing of it was written: the next Ready says all.
        self.given_hard = HardState::default();
        let ids = (1..).map(|index| EntryId { term: Term(1), index: Index(index) });
        Ok(ids.zip(changes).collect())
    }
}
