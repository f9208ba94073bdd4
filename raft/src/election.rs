//! Elections: asking, answering, counting, and giving up.

use crate::event::{Event, NoElection};
use crate::message::Body;
use crate::mutant::mutant;
use crate::progress::Progress;
use crate::quorum::VoteResult;
use crate::raft::{NUMBER_MAX, Raft};
use crate::storage::Storage;
use crate::types::{EntryId, PeerId, Role, Term};

impl<S: Storage> Raft<S> {
    /// Whether this member may be elected: a voter with payloads whose log is not being replaced.
    pub(crate) fn is_promotable(&self) -> bool {
        let votes = |own: &Progress| mutant!("learner-stands", true, !own.learner);
        let holds = |own: &Progress| mutant!("witness-leads", true, !own.witness && !self.config.witness);
        let voter = self.tracker.get(self.config.id).is_some_and(|own| votes(own) && holds(own));
        voter && self.log.unstable.snapshot.is_none()
    }

    /// Starts an election now. Nothing happens on a leader, on a member that may not be elected, while a committed
    /// change of membership is not applied (the election would count the wrong votes), and while a leader may count on
    /// the lease that we gave it.
    pub fn campaign(&mut self) {
        if self.trusts_leases() && self.in_lease() && self.role != Role::Leader {
            self.tell(Event::ElectionRefused(NoElection::Lease));
        } else {
            self.campaign_if_able();
        }
    }

    pub(crate) fn campaign_if_able(&mut self) {
        if self.may_campaign() {
            self.start_campaign();
        }
    }

    fn start_campaign(&mut self) {
        self.tell(Event::ElectionStarts);
        if self.config.pre_vote {
            self.ask_for_pre_votes();
        } else {
            self.ask_for_votes(false);
        }
    }

    /// Starts an election because the leader asks for it: no pre-vote, and leases do not count.
    pub(crate) fn campaign_for_transfer(&mut self) {
        if self.may_campaign() {
            self.tell(Event::ElectionStarts);
            self.ask_for_votes(true);
        }
    }

    fn may_campaign(&mut self) -> bool {
        let why = if self.role == Role::Leader {
            NoElection::Leader
        } else if !self.is_promotable() || self.term.0 >= NUMBER_MAX {
            NoElection::Unpromotable
        } else if mutant!("stands-before-applying", false, self.log.has_unapplied_conf_change()) {
            NoElection::ConfChangePending
        } else {
            return true;
        };
        self.tell(Event::ElectionRefused(why));
        false
    }

    fn ask_for_pre_votes(&mut self) {
        self.become_pre_candidate();
        let last = self.log.last_id();
        let term = Term(self.term.0 + 1);
        self.ask_voters(term, Body::PreVote { last }, Body::PreVoteReply { granted: true });
    }

    fn ask_for_votes(&mut self, transfer: bool) {
        self.become_candidate();
        let last = self.log.last_id();
        self.ask_voters(self.term, Body::Vote { last, transfer }, Body::VoteReply { granted: true });
    }

    /// Asks all voters of both halves. Our own vote counts once it is durable, like any other.
    fn ask_voters(&mut self, term: Term, question: Body, own_answer: Body) {
        for at in 0..self.tracker.count() {
            let to = self.tracker.id(at);
            if self.tracker.is_voter(to) {
                let own = to == self.config.id;
                if !own {
                    let pre = matches!(question, Body::PreVote { .. });
                    self.tell(Event::VoteAsked { to, pre });
                }
                mutant!("own-vote-at-once", self.tracker.at_mut(at).vote = own.then_some(true));
                self.send_in(term, to, if own { own_answer } else { question });
            }
        }
    }

    /// Answers a (pre-)vote request. Learners answer too: they may have been promoted without knowing it yet.
    pub(crate) fn answer_vote(&mut self, from: PeerId, term: Term, last: EntryId, pre: bool) {
        let unbound = mutant!("two-votes", true, self.vote == PeerId::ZERO) && self.lead == PeerId::ZERO;
        let free = self.vote == from || unbound || pre && term > self.term;
        let ours = self.log.last_id();
        let newer = mutant!("newer-by-index-alone", last.index >= ours.index, last >= ours);
        let granted = free && mutant!("newer-by-term-alone", last.term >= ours.term, newer);
        self.tell(Event::VoteAnswered { to: from, pre, last, granted });
        let body = if pre { Body::PreVoteReply { granted } } else { Body::VoteReply { granted } };
        if granted && !pre {
            self.election_elapsed = 0;
            self.vote = from;
        }
        // A granted pre-vote is about the term asked for, a refusal tells ours.
        self.send_in(if granted { term } else { self.term }, from, body);
        if last < self.log.last_id() && self.may_stand_in_for(from) {
            self.start_campaign();
        }
    }

    /// Whether a member without a vote must stand for election in place of a voter that asks it. It has lost its vote
    /// by a change that this voter does not know to be committed, and still counts on our vote; we cannot give it, for
    /// our log reaches farther. If the voter cannot do without us, nobody else can ever be elected. Those who have a
    /// vote by the newer membership elect us, learn from us what is committed, and can do without us then. (The thesis,
    /// 4.2.2, lets who is removed stand as well. With etcd such a group stays without a leader.)
    fn may_stand_in_for(&self, voter: PeerId) -> bool {
        // Whom we take for the leader may have crashed: without a vote we never miss it by ourselves.
        let silent = self.election_elapsed >= self.config.election_ticks;
        let leaderless = self.lead == PeerId::ZERO || self.lead == voter || silent;
        let outside = leaderless && self.role != Role::Leader && !self.tracker.is_voter(self.config.id);
        let holds = mutant!("witness-stands-in", true, !self.config.witness);
        let able = holds && self.log.unstable.snapshot.is_none() && !self.log.has_unapplied_conf_change();
        mutant!("stands-in-for-nobody", false, outside)
            && self.tracker.is_voter(voter)
            && able
            && self.term.0 < NUMBER_MAX
            && !self.etcd()
    }

    /// Counts an answer to what we ask as `asking`.
    pub(crate) fn count_vote(&mut self, from: PeerId, granted: bool, asking: Role) {
        if self.role != asking {
            return;
        }
        if let Some(progress) = self.tracker.get_mut(from) {
            progress.vote.get_or_insert(granted);
        }
        let pre = asking == Role::PreCandidate;
        self.tell_of(|raft, say| {
            let (yes, no) = raft.tracker.count_votes();
            say(Event::VoteCounted { from, pre, granted, yes, no });
        });
        match (self.tracker.votes(), asking) {
            (VoteResult::Won, Role::PreCandidate) => self.ask_for_votes(false),
            (VoteResult::Won, _) => self.become_leader(),
            (VoteResult::Lost, _) => self.become_follower(self.term, PeerId::ZERO),
            (VoteResult::Pending, _) => {}
        }
    }

    /// A leader that hears of no quorum steps down (thesis 6.2).
    pub(crate) fn check_quorum(&mut self) {
        if !self.tracker.is_quorum_active(self.config.id) {
            self.tell(Event::QuorumLost);
            self.become_follower(self.term, PeerId::ZERO);
        }
        let own = self.config.id;
        for (_, progress) in self.tracker.iter_mut().filter(|(id, _)| *id != own) {
            progress.recently_active = false;
        }
    }
}
