//! The members of the group and, for a leader, how far each of them is.

use crate::confchange::{Draft, contains};
use crate::inflights::Inflights;
use crate::mutant::mutant;
use crate::progress::Progress;
use crate::quorum::{self, VoteResult};
use crate::types::{ConfState, Index, PeerId};

/// A membership with a [`Progress`] for everybody in it, ourselves included.
#[derive(Debug, Default)]
pub struct Tracker {
    pub(crate) conf: ConfState,
    /// Sorted by id.
    peers: Vec<(PeerId, Progress)>,
}

impl Tracker {
    /// Takes a changed membership; `last` is our last index, and an empty `window` that of new members. They count as
    /// active, so that the next check of the quorum gives them time.
    pub fn install(&mut self, draft: Draft, last: Index, window: &Inflights) {
        let count = draft.members.len();
        let mut before = std::mem::replace(&mut self.peers, Vec::with_capacity(count)).into_iter().peekable();
        for (id, new) in draft.members {
            while before.next_if(|(other, _)| *other < id).is_some() {}
            let known = before.next_if(|(other, _)| *other == id).filter(|_| !new);
            let (_, mut progress) = known.unwrap_or_else(|| {
                let mut progress = Progress::new(last.max(Index(1)), window.clone());
                progress.recently_active = true;
                (id, progress)
            });
            progress.learner = contains(&draft.conf.learners, id);
            progress.witness = draft.conf.is_witness(id);
            self.peers.push((id, progress));
        }
        self.conf = draft.conf;
        self.conf.lists_mut().into_iter().for_each(Vec::shrink_to_fit);
    }

    /// Gives back memory that is not in use.
    pub(crate) fn shrink(&mut self) {
        self.peers.iter_mut().for_each(|(_, progress)| progress.inflights.shrink());
    }

    /// Bytes on the heap.
    pub(crate) fn memory(&self) -> usize {
        let windows: usize = self.peers.iter().map(|(_, progress)| progress.inflights.memory()).sum();
        windows + self.peers.capacity() * size_of::<(PeerId, Progress)>() + self.conf.memory()
    }

    /// The membership.
    #[must_use]
    pub fn conf(&self) -> &ConfState {
        &self.conf
    }

    /// Members of any kind.
    pub(crate) fn count(&self) -> usize {
        self.peers.len()
    }

    /// Position of a member, by which the other methods name it.
    pub(crate) fn find(&self, id: PeerId) -> Option<usize> {
        // Few are looked through faster than they are halved.
        const FEW: usize = 8;
        if self.peers.len() <= FEW {
            return self.peers.iter().position(|(peer, _)| *peer == id);
        }
        self.peers.binary_search_by_key(&id, |(peer, _)| *peer).ok()
    }

    pub(crate) fn id(&self, at: usize) -> PeerId {
        self.peers[at].0
    }

    pub(crate) fn at(&self, at: usize) -> &Progress {
        &self.peers[at].1
    }

    pub(crate) fn at_mut(&mut self, at: usize) -> &mut Progress {
        &mut self.peers[at].1
    }

    pub(crate) fn get(&self, id: PeerId) -> Option<&Progress> {
        self.find(id).map(|at| self.at(at))
    }

    pub(crate) fn get_mut(&mut self, id: PeerId) -> Option<&mut Progress> {
        self.find(id).map(|at| self.at_mut(at))
    }

    /// Everybody, by ascending id.
    pub fn iter(&self) -> impl Iterator<Item = (PeerId, &Progress)> {
        self.peers.iter().map(|(id, progress)| (*id, progress))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (PeerId, &mut Progress)> {
        self.peers.iter_mut().map(|(id, progress)| (*id, progress))
    }

    /// Whether some voters keep no payloads.
    pub(crate) fn has_witnesses(&self) -> bool {
        !self.conf.witnesses.is_empty()
    }

    /// Whether it votes in either half.
    pub(crate) fn is_voter(&self, id: PeerId) -> bool {
        contains(&self.conf.voters, id) || contains(&self.conf.voters_outgoing, id)
    }

    pub(crate) fn is_joint(&self) -> bool {
        !self.conf.voters_outgoing.is_empty()
    }

    /// Whether `id` is a quorum alone.
    pub(crate) fn is_alone(&self, id: PeerId) -> bool {
        self.conf.voters == [id] && !self.is_joint()
    }

    /// The highest index that is durable on a quorum, and with its payload on one of them.
    pub(crate) fn committed(&self) -> Index {
        let (conf, matched) = (&self.conf, |id| self.matched(id));
        Index(mutant!(
            "learners-count-for-commits",
            quorum::reached(&[conf.voters.as_slice(), &conf.learners].concat(), matched),
            quorum::joint_held(conf, matched)
        ))
    }

    /// The highest index up to which a voter of each half has entries with payloads durably.
    pub(crate) fn full_matched(&self) -> Index {
        Index(quorum::full_reached(&self.conf, |id| self.matched(id)))
    }

    fn matched(&self, id: PeerId) -> u64 {
        self.get(id).map_or(0, |progress| progress.matched.0)
    }

    /// The highest read token that a quorum has echoed.
    pub(crate) fn read_acked(&self) -> u64 {
        quorum::joint_reached(&self.conf, |id| self.get(id).map_or(0, |progress| progress.read_acked))
    }

    /// How the election stands.
    pub(crate) fn votes(&self) -> VoteResult {
        let (conf, vote) = (&self.conf, |id| self.get(id).and_then(|progress| progress.vote));
        mutant!(
            "learners-elect",
            quorum::vote(&[conf.voters.as_slice(), &conf.learners].concat(), vote),
            quorum::joint_vote(conf, vote)
        )
    }

    /// Members that granted and that refused in the election that runs, those without a vote left out.
    pub(crate) fn count_votes(&self) -> (usize, usize) {
        let count = |answer| {
            let answered = |(_, one): &&(PeerId, Progress)| !one.learner && one.vote == Some(answer);
            self.peers.iter().filter(answered).count()
        };
        (count(true), count(false))
    }

    /// Whether a quorum was heard of lately; `own` always was.
    pub(crate) fn is_quorum_active(&self, own: PeerId) -> bool {
        let active = |id| Some(id == own || self.get(id).is_some_and(|progress| progress.recently_active));
        quorum::joint_vote(&self.conf, active) == VoteResult::Won
    }
}
