//! Hand-over: when a leader should go before it must, and to whom. (With etcd's rules it just goes, or stays.)
//!
//! Two leaders cannot go on: one that a change of membership has left without a vote, and one whose disk hangs while a
//! quorum of the others acknowledges entries that it does not hold itself. Heartbeats need no disk, so that without
//! this such a leader would stay for ever, and every restart of it would cost an election timeout. Both name a
//! successor as in any transfer (thesis 3.10), refuse proposals meanwhile, and step down if nobody took over within an
//! election timeout. None of it is needed for safety: the successor is elected like everybody else.

use std::cmp::Reverse;

use crate::mutant::mutant;
use crate::progress::Progress;
use crate::quorum;
use crate::raft::Raft;
use crate::storage::Storage;
use crate::types::PeerId;

impl<S: Storage> Raft<S> {
    /// Whether entries have waited for our disk for an election timeout, and none became durable.
    pub(crate) fn is_stalled(&self) -> bool {
        let stalled = self.stalled_ticks >= self.config.election_ticks;
        !self.etcd() && mutant!("leads-without-a-disk", false, stalled)
    }

    pub(crate) fn has_unsynced(&self) -> bool {
        self.log.last_index() > self.durable_index()
    }

    /// Whether the others could go on without us: a quorum of them acknowledged more than we hold. A witness that has
    /// all it may have would take more from another leader.
    pub(crate) fn is_outrun(&self) -> bool {
        let matched = |id| match self.tracker.get(id) {
            Some(progress) if progress.witness && progress.matched >= self.witness_may_have() => quorum::INFINITY,
            Some(progress) if id != self.config.id => progress.matched.0,
            _ => 0,
        };
        quorum::joint_held(&self.tracker.conf, matched) > self.durable_index().0
    }

    /// Whether a leader that did not get rid of its office in time must give it up.
    pub(crate) fn must_step_down(&self) -> bool {
        let removed = self.config.step_down_on_removal && !self.tracker.is_voter(self.config.id);
        let stalled = self.transferee != PeerId::ZERO && self.is_stalled() && self.is_outrun();
        !self.etcd() && (removed || stalled)
    }

    /// A leader whose disk hangs looks for a successor.
    pub(crate) fn leave_if_outrun(&mut self) {
        if self.transferee == PeerId::ZERO && self.is_stalled() && self.is_outrun() && !self.hand_over() {
            self.become_follower(self.term, PeerId::ZERO);
        }
    }

    /// Hands over to the best of the others, unless that is under way. Whether there is one.
    pub(crate) fn hand_over(&mut self) -> bool {
        let under_way = self.transferee != PeerId::ZERO && self.tracker.is_voter(self.transferee);
        under_way || self.best_successor().is_some_and(|target| self.transfer_leader(target).is_ok())
    }

    /// The voter whose log reaches farthest; of several, one that was heard of lately, that stays a voter, of the
    /// highest priority. Never a witness.
    fn best_successor(&self) -> Option<PeerId> {
        let may_lead = |id: PeerId, one: &Progress| id != self.config.id && self.tracker.is_voter(id) && !one.witness;
        let others = self.tracker.iter().filter(|(id, progress)| may_lead(*id, progress));
        let best = others.max_by_key(|(id, progress)| {
            let stays = self.tracker.conf.voters.contains(id);
            (progress.matched, progress.recently_active, stays, progress.priority, Reverse(*id))
        });
        best.map(|(id, _)| id)
    }
}
