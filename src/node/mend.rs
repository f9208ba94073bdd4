//! A group whose log has lost something that was durable: it may have promised what it does not know any more. It is
//! kept from breaking a promise until its peers have given back what is lost. Pure; the rule stands at
//! [`Wounds`](ringraft_engine::Wounds).
//!
//! 1. **Silent.** It asks every other voter for its term and hears nothing else. Whoever it may have given its vote, and
//!    whose entries it may have acknowledged, was a voter of that term or a higher one.
//! 2. **Following.** A leader of no lower term than any of those is followed as ever. What it is told then is true: its
//!    log has all that was ever committed with our help. An append that fits shows that the leader does not count
//!    more of our old acknowledgements than what we hold.
//! 3. **Asking.** That leader is asked for its read index: up to there everything is committed that ever was, but what
//!    is committed from then on, and that counts on what we acknowledge now.
//! 4. **Writing.** Once that much is applied, the log says that nothing is in doubt any more, with a vote for that
//!    leader, whatever vote was lost. When this is durable, the member votes and stands for election again.

use ringraft_engine::BatchNo;
use ringraft_raft::{Body, EntryId, Index, Message, PeerId, ReadId, Term};

/// See the module.
#[derive(Debug)]
pub(crate) struct Mend {
    own: PeerId,
    /// Other voters that have not answered yet.
    unheard: Vec<PeerId>,
    /// The highest term that anybody answered with.
    floor: Term,
    /// The next question for a read index; no answer to an earlier one counts.
    ask: ReadId,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Silent,
    Following,
    Asking { leader: Leader, asked_ticks: u32 },
    Told { leader: Leader, index: Index },
    Writing { term: Term, batch: BatchNo },
}

/// Who leads, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Leader {
    pub(crate) peer: PeerId,
    pub(crate) term: Term,
}

/// What a group that is being mended wants done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Nothing now.
    Wait,
    /// Ask those that were not heard yet.
    AskTerms,
    /// Ask this peer for its read index.
    AskIndex(PeerId, ReadId),
    /// If everything up to this index is applied, say in the log that nothing is in doubt, with a vote for this leader.
    Heal(Leader, Index),
    /// It is done once this batch is durable. Votes of this term and earlier ones have been given.
    Finish(BatchNo, Term),
}

/// Ticks between questions.
const ASK_TICKS: u32 = 10;

impl Mend {
    /// `first`: an id for the first read; the following ones are used, too.
    pub(crate) fn new(own: PeerId, others: Vec<PeerId>, first: ReadId) -> Mend {
        Mend { own, unheard: others, floor: Term::ZERO, ask: first, stage: Stage::Silent }
    }

    /// Whether the core may hear this. Votes are not even considered: what is not remembered cannot be sent later.
    pub(crate) fn hears(&mut self, message: &Message) -> bool {
        match message.body {
            Body::PreVoteReply { .. } => {
                if self.stage == Stage::Silent {
                    self.unheard.retain(|peer| *peer != message.from);
                    self.floor = self.floor.max(message.term);
                }
                false
            }
            Body::Vote { .. } | Body::PreVote { .. } | Body::VoteReply { .. } | Body::TimeoutNow => false,
            Body::ReadIndexReply { id, index } if id == self.ask => {
                if let Stage::Asking { leader, .. } = self.stage
                    && leader == (Leader { peer: message.from, term: message.term })
                {
                    self.stage = Stage::Told { leader, index };
                }
                false
            }
            Body::ReadIndexReject { id, .. } if id == self.ask => false,
            _ => self.stage != Stage::Silent,
        }
    }

    /// Whether this may be said: no candidacy and no vote, and nothing at all to a leader that may be an old one.
    pub(crate) fn says(&self, message: &Message) -> bool {
        let harmless = match message.body {
            Body::AppendAck { .. } | Body::AppendReject { .. } | Body::HeartbeatReply { .. } => {
                message.term >= self.floor
            }
            Body::ReadIndex { .. } => true,
            _ => false,
        };
        self.stage != Stage::Silent && harmless
    }

    /// A leader's append or snapshot was taken that follows on an entry which we hold.
    pub(crate) fn joined(&mut self, leader: Leader) {
        let known = match self.stage {
            Stage::Following => None,
            Stage::Asking { leader, .. } | Stage::Told { leader, .. } => Some(leader),
            Stage::Silent | Stage::Writing { .. } => return,
        };
        if leader.term >= self.floor && known != Some(leader) {
            self.stage = Stage::Asking { leader, asked_ticks: ASK_TICKS };
        }
    }

    /// A tick: what is to be done, if the core's leader is this one.
    pub(crate) fn tick(&mut self, now: Option<Leader>) -> Next {
        if let Stage::Asking { leader, .. } | Stage::Told { leader, .. } = self.stage
            && now != Some(leader)
        {
            self.stage = Stage::Following;
        }
        match &mut self.stage {
            Stage::Silent if self.unheard.is_empty() => {
                self.stage = Stage::Following;
                Next::Wait
            }
            Stage::Silent => Next::AskTerms,
            Stage::Following => Next::Wait,
            Stage::Asking { leader, asked_ticks } => {
                *asked_ticks += 1;
                if *asked_ticks < ASK_TICKS {
                    return Next::Wait;
                }
                *asked_ticks = 0;
                self.ask = ReadId(self.ask.0.wrapping_add(1));
                Next::AskIndex(leader.peer, self.ask)
            }
            Stage::Told { leader, index } => Next::Heal(*leader, *index),
            Stage::Writing { term, batch } => Next::Finish(*batch, *term),
        }
    }

    /// The log says so with this batch.
    pub(crate) fn writes(&mut self, term: Term, batch: BatchNo) {
        self.stage = Stage::Writing { term, batch };
    }

    /// The questions for terms. Everybody whose term is above 1 answers with it, even within the lease of a leader; and
    /// nobody's log is so short that it would say yes, unless it is empty.
    pub(crate) fn questions(&self) -> impl Iterator<Item = Message> {
        let body = Body::PreVote { last: EntryId::default() };
        self.unheard.iter().map(move |to| Message { from: self.own, to: *to, term: Term(1), body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: Leader = Leader { peer: PeerId(2), term: Term(5) };

    fn message(from: u64, term: u64, body: Body) -> Message {
        Message { from: PeerId(from), to: PeerId(1), term: Term(term), body }
    }

    fn ack(term: u64) -> Message {
        Message { from: PeerId(1), to: PeerId(2), term: Term(term), body: Body::AppendAck { index: Index(1) } }
    }

    fn mend() -> Mend {
        Mend::new(PeerId(1), vec![PeerId(2), PeerId(3)], ReadId(70))
    }

    fn following() -> Mend {
        let mut mend = mend();
        for (from, term) in [(2, 5), (3, 4)] {
            assert!(!mend.hears(&message(from, term, Body::PreVoteReply { granted: false })));
        }
        assert_eq!(mend.tick(None), Next::Wait);
        mend
    }

    #[test]
    fn nothing_is_said_or_heard_before_all_have_answered() {
        let mut mend = mend();
        assert_eq!(mend.tick(None), Next::AskTerms);
        assert_eq!(mend.questions().map(|it| it.to.0).collect::<Vec<_>>(), [2, 3]);
        let heartbeat = message(2, 5, Body::Heartbeat { commit: Index(0), read: 0 });
        assert!(!mend.hears(&heartbeat) && !mend.says(&ack(5)));
        assert!(!mend.hears(&message(2, 5, Body::PreVoteReply { granted: false })));
        assert_eq!(mend.tick(None), Next::AskTerms);
        assert_eq!(mend.questions().map(|it| it.to.0).collect::<Vec<_>>(), [3]);
        assert!(!mend.hears(&heartbeat) && !mend.says(&ack(9)));
        assert!(!mend.hears(&message(3, 7, Body::PreVoteReply { granted: true })));
        assert_eq!(mend.tick(None), Next::Wait);
        assert!(mend.hears(&heartbeat));
        // Of an older leader than there has been nothing is acknowledged, and nobody is joined.
        assert!(!mend.says(&ack(6)) && mend.says(&ack(7)));
        mend.joined(LEADER);
        assert_eq!(mend.tick(Some(LEADER)), Next::Wait);
    }

    #[test]
    fn no_vote_is_given_and_none_is_asked_for() {
        let mut mend = following();
        let vote = Body::Vote { last: EntryId::default(), transfer: true };
        let pre_vote = Body::PreVote { last: EntryId::default() };
        for body in [vote, pre_vote, Body::TimeoutNow, Body::VoteReply { granted: true }] {
            assert!(!mend.hears(&message(2, 9, body)), "{body:?}");
        }
        for body in [vote, pre_vote, Body::VoteReply { granted: true }, Body::PreVoteReply { granted: true }] {
            assert!(!mend.says(&Message { body, ..ack(9) }), "{body:?}");
        }
    }

    #[test]
    fn it_ends_with_what_the_leader_has_committed() {
        let mut mend = following();
        mend.joined(LEADER);
        let Next::AskIndex(PeerId(2), id) = mend.tick(Some(LEADER)) else { panic!("{mend:?}") };
        let reply = |id, term| message(2, term, Body::ReadIndexReply { id, index: Index(44) });
        // An answer to another question, or of another term, is none.
        assert!(mend.hears(&reply(ReadId(1), 5)));
        assert!(!mend.hears(&reply(id, 6)));
        assert_eq!(mend.tick(Some(LEADER)), Next::Wait);
        assert!(!mend.hears(&reply(id, 5)));
        assert_eq!(mend.tick(Some(LEADER)), Next::Heal(LEADER, Index(44)));
        // Another leader comes between: it is asked anew.
        let next = Leader { peer: PeerId(3), term: Term(6) };
        assert_eq!(mend.tick(Some(next)), Next::Wait);
        mend.joined(next);
        let Next::AskIndex(PeerId(3), id) = mend.tick(Some(next)) else { panic!("{mend:?}") };
        assert!(!mend.hears(&message(3, 6, Body::ReadIndexReply { id, index: Index(45) })));
        assert_eq!(mend.tick(Some(next)), Next::Heal(next, Index(45)));
        mend.writes(Term(6), BatchNo(8));
        assert_eq!(mend.tick(None), Next::Finish(BatchNo(8), Term(6)));
    }

    #[test]
    fn a_question_that_was_lost_is_asked_again_under_another_id() {
        let mut mend = following();
        mend.joined(LEADER);
        let Next::AskIndex(_, first) = mend.tick(Some(LEADER)) else { panic!("{mend:?}") };
        let again = (1..=ASK_TICKS).map(|_| mend.tick(Some(LEADER))).last();
        assert!(matches!(again, Some(Next::AskIndex(PeerId(2), second)) if second != first), "{again:?}");
        let late = message(2, 5, Body::ReadIndexReply { id: first, index: Index(1) });
        mend.hears(&late);
        assert_eq!(mend.tick(Some(LEADER)), Next::Wait);
    }
}
