//! Changes of membership as arithmetic on [`ConfState`]: simple changes, and joint consensus (thesis 4.3). Pure.
//!
//! The core never sees a payload; [`ConfChange::encode`] is the one that our own shells use. Layout, little-endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | transition: 0 auto, 1 joint implicit, 2 joint explicit |
//! | 1 + 9 n | 1 | operation: 0 add voter, 1 add learner, 2 remove, 3 update, 4 add witness |
//! | 2 + 9 n | 8 | peer |
//!
//! No bytes at all are the leaving of a joint configuration, as the core itself proposes it.
//!
//! # Changes and witnesses
//!
//! A [witness](crate::witness) keeps no payloads, so it cannot become anything else under its id, nor anything else a
//! witness: its log would not be what the others take it for. It is removed, and added again with an empty log.
//!
//! A full voter may be the only one that has the payload of an entry which a quorum of it and witnesses has committed.
//! Where there are witnesses, a change that takes the vote of a full voter is therefore always made joint: only the
//! outgoing half is known to hold what is committed, and the incoming half must hold all of it, payloads too, before
//! the outgoing one can be left.

use bytes::BufMut;

use crate::mutant::mutant;
use crate::types::{ConfState, PeerId};

/// Most operations of one change.
pub const OPS_MAX: usize = 256;

/// Most ids that a membership may name, all its lists together.
pub const MEMBERS_MAX: usize = 256;

/// One operation on the membership.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ConfChangeOp {
    /// Make it a voter; promotes a learner.
    AddVoter(PeerId),
    /// Make it a learner; demotes a voter.
    AddLearner(PeerId),
    /// Make it no member.
    Remove(PeerId),
    /// Nothing changes for raft; for shells that carry addresses beside.
    Update(PeerId),
    /// Make it a voter whose log keeps no payloads.
    AddWitness(PeerId),
}

/// How a change is made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum Transition {
    /// Simple if it is one operation (and does not take the vote of a full voter beside witnesses), else joint and left
    /// by itself.
    #[default]
    Auto = 0,
    /// Joint, left by itself.
    JointImplicit = 1,
    /// Joint, left by another change (one without operations).
    JointExplicit = 2,
}

/// A change of membership; without operations and [`Transition::Auto`], the leaving of a joint configuration.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct ConfChange {
    /// How.
    pub transition: Transition,
    /// What, in this order.
    pub ops: Vec<ConfChangeOp>,
}

impl ConfChange {
    /// A simple change.
    #[must_use]
    pub fn simple(op: ConfChangeOp) -> ConfChange {
        ConfChange { transition: Transition::Auto, ops: vec![op] }
    }

    /// The leaving of a joint configuration.
    #[must_use]
    pub fn leave_joint() -> ConfChange {
        ConfChange::default()
    }

    /// Whether it leaves a joint configuration.
    #[must_use]
    pub fn leaves_joint(&self) -> bool {
        self.transition == Transition::Auto && self.ops.is_empty()
    }

    /// Whether it enters a joint configuration.
    #[must_use]
    pub fn enters_joint(&self) -> bool {
        mutant!("many-voters-at-once", false, self.transition != Transition::Auto || self.ops.len() > 1)
    }
}

impl ConfChange {
    /// Appends its encoding.
    pub fn encode(&self, out: &mut impl BufMut) {
        if self.leaves_joint() {
            return;
        }
        out.put_u8(self.transition as u8);
        for op in &self.ops {
            let (number, peer) = match *op {
                ConfChangeOp::AddVoter(peer) => (0, peer),
                ConfChangeOp::AddLearner(peer) => (1, peer),
                ConfChangeOp::Remove(peer) => (2, peer),
                ConfChangeOp::Update(peer) => (3, peer),
                ConfChangeOp::AddWitness(peer) => (4, peer),
            };
            out.put_u8(number);
            out.put_u64_le(peer.0);
        }
    }

    /// Reads a payload; nothing if it is no change, or one of more than [`OPS_MAX`] operations.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<ConfChange> {
        let Some((transition, ops)) = payload.split_first() else { return Some(ConfChange::leave_joint()) };
        let transition = match transition {
            0 => Transition::Auto,
            1 => Transition::JointImplicit,
            2 => Transition::JointExplicit,
            _ => return None,
        };
        let (ops, rest) = ops.as_chunks::<9>();
        if !rest.is_empty() || ops.len() > OPS_MAX {
            return None;
        }
        let op = |bytes: &[u8; 9]| {
            let [number, peer @ ..] = *bytes;
            let peer = PeerId(u64::from_le_bytes(peer));
            match number {
                0 => Some(ConfChangeOp::AddVoter(peer)),
                1 => Some(ConfChangeOp::AddLearner(peer)),
                2 => Some(ConfChangeOp::Remove(peer)),
                3 => Some(ConfChangeOp::Update(peer)),
                4 => Some(ConfChangeOp::AddWitness(peer)),
                _ => None,
            }
        };
        Some(ConfChange { transition, ops: ops.iter().map(op).collect::<Option<_>>()? })
    }
}

/// Why a change cannot be applied to this membership, or a membership is none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum ConfChangeError {
    /// Nobody would have a vote.
    #[error("removed all voters")]
    NoVoters,
    /// Simple changes have to wait until the joint configuration is left.
    #[error("can't apply simple config change in joint config")]
    SimpleWhileJoint,
    /// Two majorities might not meet.
    #[error("more than one voter changed without entering joint config")]
    NotSimple,
    /// It is joint already.
    #[error("config is already joint")]
    AlreadyJoint,
    /// There is nothing to start from.
    #[error("can't make a zero-voter config joint")]
    JointFromNothing,
    /// There is nothing to leave.
    #[error("can't leave a non-joint config")]
    NotJoint,
    /// Nobody would have a vote and payloads; or, in a joint configuration, nobody of one half.
    #[error("removed all voters but witnesses")]
    OnlyWitnesses,
    /// A witness was to become something else, or something else a witness: remove it first, and start it anew.
    #[error("peer {0} can't become a witness, or stop being one, while it is a member")]
    KindChanged(PeerId),
    /// More than [`OPS_MAX`] operations.
    #[error("more than {OPS_MAX} operations in one change")]
    TooManyOps,
    /// The membership would name more than [`MEMBERS_MAX`] ids.
    #[error("more than {MEMBERS_MAX} members")]
    TooManyMembers,
    /// A stored membership breaks a rule of [`ConfState`].
    #[error("not a membership: {0}")]
    Invalid(&'static str),
}

/// A membership that is being changed, with everybody who is in any part of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Draft {
    pub(crate) conf: ConfState,
    /// Sorted by id; and whether the member is new, so that nothing is known of its log.
    pub(crate) members: Vec<(PeerId, bool)>,
}

impl Draft {
    /// Starts from a valid membership.
    #[must_use]
    pub fn from(conf: &ConfState) -> Draft {
        let mut members: Vec<_> = [&conf.voters, &conf.voters_outgoing, &conf.learners]
            .into_iter()
            .flatten()
            .map(|id| (*id, false))
            .collect();
        members.sort_unstable();
        members.dedup();
        Draft { conf: conf.clone(), members }
    }

    /// The membership.
    #[must_use]
    pub fn conf(&self) -> &ConfState {
        &self.conf
    }

    /// Applies a change.
    ///
    /// # Errors
    /// Why it does not fit.
    pub fn change(conf: &ConfState, change: &ConfChange) -> Result<Draft, ConfChangeError> {
        let draft = Draft::from(conf);
        let draft = if change.leaves_joint() {
            draft.leave_joint()
        } else if change.enters_joint() {
            draft.enter_joint(change.transition != Transition::JointExplicit, &change.ops)
        } else {
            let simple = draft.clone().simple(&change.ops)?;
            if mutant!("full-voter-leaves-in-one-step", false, simple.misses_full_voter_of(conf)) {
                draft.enter_joint(true, &change.ops)
            } else {
                Ok(simple)
            }
        };
        draft.and_then(
            |draft| if draft.conf.names() > MEMBERS_MAX { Err(ConfChangeError::TooManyMembers) } else { Ok(draft) },
        )
    }

    /// Whether somebody who voted in `before`, beside witnesses, and has payloads, votes no more.
    fn misses_full_voter_of(&self, before: &ConfState) -> bool {
        let gone = |id: &PeerId| !before.is_witness(*id) && !contains(&self.conf.voters, *id);
        !before.witnesses.is_empty() && before.voters.iter().any(gone)
    }

    /// Checks a stored membership; its lists may be in any order. Everybody is new.
    ///
    /// # Errors
    /// Which rule of a membership it breaks.
    pub fn restore(conf: &ConfState) -> Result<Draft, ConfChangeError> {
        let mut conf = conf.clone();
        for list in conf.lists_mut() {
            list.sort_unstable();
            list.dedup();
        }
        let is_in = |id: &PeerId, list: &[PeerId]| list.binary_search(id).is_ok();
        let joint = !conf.voters_outgoing.is_empty();
        let rules = [
            (
                conf.learners.iter().all(|id| !is_in(id, &conf.voters) && !is_in(id, &conf.voters_outgoing)),
                "a learner that votes",
            ),
            (
                conf.learners_next.iter().all(|id| is_in(id, &conf.voters_outgoing)),
                "a future learner that does not vote",
            ),
            (conf.learners_next.iter().all(|id| !is_in(id, &conf.voters)), "a future learner that stays a voter"),
            (joint || !conf.auto_leave, "leaves joint by itself, but is not joint"),
            (!joint || !conf.voters.is_empty(), "joint without incoming voters"),
            (Draft::from(&conf).members.iter().all(|(id, _)| *id != PeerId::ZERO), "a member 0"),
            (
                conf.witnesses.iter().all(|id| is_in(id, &conf.voters) || is_in(id, &conf.voters_outgoing)),
                "a witness that does not vote",
            ),
            (conf.learners_next.iter().all(|id| !conf.is_witness(*id)), "a witness that becomes a learner"),
            (has_full(&conf.voters, &conf) && has_full(&conf.voters_outgoing, &conf), "a half of witnesses alone"),
            (conf.names() <= MEMBERS_MAX, "too many members"),
        ];
        if let Some((_, rule)) = rules.into_iter().find(|(holds, _)| !holds) {
            return Err(ConfChangeError::Invalid(rule));
        }
        let mut draft = Draft::from(&conf);
        draft.members.iter_mut().for_each(|(_, new)| *new = true);
        Ok(draft)
    }

    fn joint(&self) -> bool {
        !self.conf.voters_outgoing.is_empty()
    }

    /// One change of at most one voter.
    ///
    /// # Errors
    /// Why it does not fit.
    pub fn simple(mut self, ops: &[ConfChangeOp]) -> Result<Draft, ConfChangeError> {
        if self.joint() {
            return Err(ConfChangeError::SimpleWhileJoint);
        }
        let before = self.conf.voters.clone();
        self.apply(ops)?;
        let gone = before.iter().filter(|id| !self.conf.voters.contains(id)).count();
        let come = self.conf.voters.iter().filter(|id| !before.contains(id)).count();
        if mutant!("many-voters-at-once", false, gone + come > 1) { Err(ConfChangeError::NotSimple) } else { Ok(self) }
    }

    /// Enters a joint configuration.
    ///
    /// # Errors
    /// Why it does not fit.
    pub fn enter_joint(mut self, auto_leave: bool, ops: &[ConfChangeOp]) -> Result<Draft, ConfChangeError> {
        if self.joint() {
            return Err(ConfChangeError::AlreadyJoint);
        }
        if self.conf.voters.is_empty() {
            return Err(ConfChangeError::JointFromNothing);
        }
        self.conf.voters_outgoing = mutant!("joint-without-outgoing", Vec::new(), self.conf.voters.clone());
        self.apply(ops)?;
        self.conf.auto_leave = auto_leave;
        Ok(self)
    }

    /// Leaves a joint configuration.
    ///
    /// # Errors
    /// Why it does not fit.
    pub fn leave_joint(mut self) -> Result<Draft, ConfChangeError> {
        if !self.joint() {
            return Err(ConfChangeError::NotJoint);
        }
        for id in std::mem::take(&mut self.conf.learners_next) {
            insert(&mut self.conf.learners, id);
        }
        for id in std::mem::take(&mut self.conf.voters_outgoing) {
            if !contains(&self.conf.voters, id) && !contains(&self.conf.learners, id) {
                self.members.retain(|(member, _)| *member != id);
                remove(&mut self.conf.witnesses, id);
            }
        }
        self.conf.auto_leave = false;
        Ok(self)
    }

    fn apply(&mut self, ops: &[ConfChangeOp]) -> Result<(), ConfChangeError> {
        if ops.len() > OPS_MAX {
            return Err(ConfChangeError::TooManyOps);
        }
        // Whoever is removed and added again in one change has not heard of it in between.
        let before = self.clone();
        for op in ops {
            if let ConfChangeOp::AddVoter(id) | ConfChangeOp::AddLearner(id) | ConfChangeOp::AddWitness(id) = *op {
                let witness = matches!(op, ConfChangeOp::AddWitness(_));
                let differs = |draft: &Draft| draft.is_member(id) && draft.conf.is_witness(id) != witness;
                if mutant!("witness-changes-kind", false, differs(&before) || differs(self)) {
                    return Err(ConfChangeError::KindChanged(id));
                }
            }
            match *op {
                ConfChangeOp::AddVoter(id) if id != PeerId::ZERO => self.add_voter(id),
                ConfChangeOp::AddLearner(id) if id != PeerId::ZERO => self.add_learner(id),
                ConfChangeOp::AddWitness(id) if id != PeerId::ZERO => {
                    insert(&mut self.conf.witnesses, id);
                    self.add_voter(id);
                }
                ConfChangeOp::Remove(id) if id != PeerId::ZERO => self.remove(id),
                _ => {}
            }
        }
        if self.conf.voters.is_empty() {
            Err(ConfChangeError::NoVoters)
        } else if mutant!("witnesses-among-themselves", false, !has_full(&self.conf.voters, &self.conf)) {
            Err(ConfChangeError::OnlyWitnesses)
        } else {
            Ok(())
        }
    }

    pub(crate) fn is_member(&self, id: PeerId) -> bool {
        self.members.binary_search_by_key(&id, |(member, _)| *member).is_ok()
    }

    fn add_member(&mut self, id: PeerId) {
        if let Err(at) = self.members.binary_search_by_key(&id, |(member, _)| *member) {
            self.members.insert(at, (id, true));
        }
    }

    fn add_voter(&mut self, id: PeerId) {
        self.add_member(id);
        remove(&mut self.conf.learners, id);
        remove(&mut self.conf.learners_next, id);
        insert(&mut self.conf.voters, id);
    }

    fn add_learner(&mut self, id: PeerId) {
        if contains(&self.conf.learners, id) {
            return;
        }
        self.add_member(id);
        remove(&mut self.conf.voters, id);
        // Whoever votes in the outgoing half becomes a learner when that half is left.
        let outgoing = contains(&self.conf.voters_outgoing, id);
        insert(if outgoing { &mut self.conf.learners_next } else { &mut self.conf.learners }, id);
    }

    fn remove(&mut self, id: PeerId) {
        if !self.is_member(id) {
            return;
        }
        remove(&mut self.conf.voters, id);
        remove(&mut self.conf.learners, id);
        remove(&mut self.conf.learners_next, id);
        if !contains(&self.conf.voters_outgoing, id) {
            self.members.retain(|(member, _)| *member != id);
            remove(&mut self.conf.witnesses, id);
        }
    }
}

/// Whether this half has a voter with payloads, if it has voters.
fn has_full(half: &[PeerId], conf: &ConfState) -> bool {
    half.is_empty() || half.iter().any(|id| !conf.is_witness(*id))
}

/// Whether `id` is in a sorted list.
pub(crate) fn contains(list: &[PeerId], id: PeerId) -> bool {
    list.binary_search(&id).is_ok()
}

fn insert(list: &mut Vec<PeerId>, id: PeerId) {
    if let Err(at) = list.binary_search(&id) {
        list.insert(at, id);
    }
}

fn remove(list: &mut Vec<PeerId>, id: PeerId) {
    if let Ok(at) = list.binary_search(&id) {
        list.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn ids(list: &[u64]) -> Vec<PeerId> {
        list.iter().copied().map(PeerId).collect()
    }

    /// `v1 l2 r3 u4 w5`, with `=` in front for an implicit and `!` for an explicit joint change; `leave`.
    fn parse(text: &str) -> ConfChange {
        let (transition, ops) = match text.as_bytes().first() {
            Some(b'=') => (Transition::JointImplicit, &text[1..]),
            Some(b'!') => (Transition::JointExplicit, &text[1..]),
            _ => (Transition::Auto, text.strip_prefix("leave").unwrap_or(text)),
        };
        let op = |word: &str| {
            let id = PeerId(word[1..].parse().unwrap());
            match &word[..1] {
                "v" => ConfChangeOp::AddVoter(id),
                "l" => ConfChangeOp::AddLearner(id),
                "r" => ConfChangeOp::Remove(id),
                "w" => ConfChangeOp::AddWitness(id),
                _ => ConfChangeOp::Update(id),
            }
        };
        ConfChange { transition, ops: ops.split_whitespace().map(op).collect() }
    }

    fn show(conf: &ConfState) -> String {
        let list = |ids: &[PeerId]| ids.iter().map(|id| id.to_string()).collect::<Vec<_>>().join(" ");
        let mut text = list(&conf.voters);
        let [_, outgoing, learners, next, witnesses] = conf.lists();
        for (name, ids) in [("&&", outgoing), (" learners", learners), (" next", next), (" witnesses", witnesses)] {
            if !ids.is_empty() {
                text += &format!("{name}({})", list(ids));
            }
        }
        text + if conf.auto_leave { " auto" } else { "" }
    }

    #[test]
    fn changes_in_a_row() {
        let check = |changes: &[(&str, Result<&str, ConfChangeError>)]| {
            let mut conf = ConfState { voters: ids(&[1]), ..ConfState::default() };
            for (text, expected) in changes {
                let found = Draft::change(&conf, &parse(text));
                assert_eq!(found.as_ref().map(|draft| show(&draft.conf)).map_err(|e| *e), expected.map(String::from));
                if let Ok(draft) = found {
                    assert_eq!(Draft::restore(&draft.conf).unwrap().conf, draft.conf, "a valid membership");
                    conf = draft.conf;
                }
            }
        };
        check(&[
            ("v2", Ok("1 2")),
            ("v2", Ok("1 2")),
            ("l3", Ok("1 2 learners(3)")),
            ("l2", Ok("1 learners(2 3)")),
            ("v0", Ok("1 learners(2 3)")),
            ("u9", Ok("1 learners(2 3)")),
            ("r1", Err(ConfChangeError::NoVoters)),
            ("leave", Err(ConfChangeError::NotJoint)),
            ("v2 v3", Ok("1 2 3&&(1) auto")),
            ("r1", Err(ConfChangeError::SimpleWhileJoint)),
            ("=v4", Err(ConfChangeError::AlreadyJoint)),
            ("leave", Ok("1 2 3")),
            ("!r1 l2 v4", Ok("3 4&&(1 2 3) next(2)")),
            ("leave", Ok("3 4 learners(2)")),
            ("=v2", Ok("2 3 4&&(3 4) auto")),
        ]);
        let two = ConfState { voters: ids(&[1, 2]), ..ConfState::default() };
        let both = [ConfChangeOp::Remove(PeerId(2)), ConfChangeOp::AddVoter(PeerId(3))];
        assert_eq!(Draft::from(&two).simple(&both), Err(ConfChangeError::NotSimple));
        let empty = Draft::from(&ConfState::default()).enter_joint(true, &[ConfChangeOp::AddVoter(PeerId(1))]);
        assert_eq!(empty, Err(ConfChangeError::JointFromNothing));
    }

    #[test]
    fn changes_of_witnesses() {
        let check = |changes: &[(&str, Result<&str, ConfChangeError>)]| {
            let mut conf = ConfState { voters: ids(&[1, 2]), ..ConfState::default() };
            for (text, expected) in changes {
                let found = Draft::change(&conf, &parse(text));
                let shown = found.as_ref().map(|draft| show(&draft.conf)).map_err(|error| *error);
                assert_eq!(shown, expected.map(String::from), "{text} at {}", show(&conf));
                if let Ok(draft) = found {
                    assert_eq!(Draft::restore(&draft.conf).unwrap().conf, draft.conf, "a valid membership");
                    conf = draft.conf;
                }
            }
        };
        let kind = |id: u64| Err(ConfChangeError::KindChanged(PeerId(id)));
        check(&[
            ("w3", Ok("1 2 3 witnesses(3)")),
            ("w3", Ok("1 2 3 witnesses(3)")),
            ("v3", kind(3)),
            ("l3", kind(3)),
            ("w2", kind(2)),
            ("r3 v3", kind(3)),
            ("r2 w2", kind(2)),
            ("w4 v4", kind(4)),
            // The other full voter may not have all payloads: the vote is taken in two steps.
            ("r1", Ok("2 3&&(1 2 3) witnesses(3) auto")),
            ("leave", Ok("2 3 witnesses(3)")),
            ("r2", Err(ConfChangeError::OnlyWitnesses)),
            ("l2", Err(ConfChangeError::OnlyWitnesses)),
            ("=r2 w4", Err(ConfChangeError::OnlyWitnesses)),
            ("v1", Ok("1 2 3 witnesses(3)")),
            ("l1", Ok("2 3&&(1 2 3) next(1) witnesses(3) auto")),
            ("leave", Ok("2 3 learners(1) witnesses(3)")),
            ("w1", kind(1)),
            ("r3", Ok("2 learners(1)")),
            ("v3", Ok("2 3 learners(1)")),
            ("w4 w5", Ok("2 3 4 5&&(2 3) learners(1) witnesses(4 5) auto")),
            ("leave", Ok("2 3 4 5 learners(1) witnesses(4 5)")),
            // A witness keeps its place in the outgoing half, and is one until that is left.
            ("!r4 w6 r2", Ok("3 5 6&&(2 3 4 5) learners(1) witnesses(4 5 6)")),
            ("leave", Ok("3 5 6 learners(1) witnesses(5 6)")),
            ("w4", Ok("3 4 5 6 learners(1) witnesses(4 5 6)")),
            ("w0", Ok("3 4 5 6 learners(1) witnesses(4 5 6)")),
        ]);
        let many: Vec<_> = (10..10 + OPS_MAX as u64 + 1).map(|id| ConfChangeOp::AddVoter(PeerId(id))).collect();
        let one = ConfState { voters: ids(&[1]), ..ConfState::default() };
        let change = |ops: &[ConfChangeOp]| {
            Draft::change(&one, &ConfChange { ops: ops.to_vec(), ..ConfChange::default() }).map(|draft| draft.conf)
        };
        assert_eq!(change(&many), Err(ConfChangeError::TooManyOps));
        assert_eq!(change(&many[1..]), Err(ConfChangeError::TooManyMembers));
        assert_eq!(change(&many[3..]).unwrap().names(), MEMBERS_MAX);
        let mut bytes = Vec::new();
        ConfChange { ops: many.clone(), ..ConfChange::default() }.encode(&mut bytes);
        assert_eq!(ConfChange::decode(&bytes), None);
        assert!(ConfChange::decode(&bytes[..bytes.len() - 9]).is_some());
    }

    #[test]
    fn not_a_membership_of_witnesses() {
        let check = |voters: &[u64], outgoing: &[u64], next: &[u64], witnesses: &[u64], expected: &str| {
            let (voters, voters_outgoing, learners_next) = (ids(voters), ids(outgoing), ids(next));
            let witnesses = ids(witnesses);
            let conf = ConfState { voters, voters_outgoing, learners_next, witnesses, ..ConfState::default() };
            let found = Draft::restore(&conf).map(|draft| show(&draft.conf));
            assert_eq!(found.map_err(|error| error.to_string()), Err(format!("not a membership: {expected}")));
        };
        check(&[1, 2], &[], &[], &[3], "a witness that does not vote");
        check(&[1], &[], &[], &[1], "a half of witnesses alone");
        check(&[1, 2], &[3, 4], &[], &[3, 4], "a half of witnesses alone");
        check(&[1, 2], &[3, 4], &[], &[1, 2], "a half of witnesses alone");
        check(&[1, 2], &[3, 4], &[3], &[3], "a witness that becomes a learner");
        let all: Vec<u64> = (1..=MEMBERS_MAX as u64 + 1).collect();
        check(&all, &[], &[], &[], "too many members");
    }

    #[test]
    fn not_a_membership() {
        let check = |voters: &[u64], outgoing: &[u64], learners: &[u64], next: &[u64], auto_leave: bool| {
            let conf = ConfState {
                voters: ids(voters),
                voters_outgoing: ids(outgoing),
                learners: ids(learners),
                learners_next: ids(next),
                witnesses: Vec::new(),
                auto_leave,
            };
            assert!(matches!(Draft::restore(&conf), Err(ConfChangeError::Invalid(_))), "{conf:?}");
        };
        check(&[1, 2], &[], &[2], &[], false);
        check(&[1, 2], &[3], &[3], &[], false);
        check(&[1, 2], &[3], &[], &[4], false);
        check(&[1, 2], &[2, 3], &[], &[2], false);
        check(&[1, 2], &[], &[], &[], true);
        check(&[], &[1], &[], &[], true);
        check(&[0, 1], &[], &[], &[], false);
    }

    #[test]
    fn encoding() {
        for text in ["leave", "v1", "=v1 l2", "w7 r1", "!r3 u4 v18446744073709551615", "="] {
            let change = parse(text);
            let mut bytes = Vec::new();
            change.encode(&mut bytes);
            assert_eq!(bytes.len(), if change.leaves_joint() { 0 } else { 1 + 9 * change.ops.len() });
            assert_eq!(ConfChange::decode(&bytes), Some(change), "{text}");
        }
        assert_eq!(ConfChange::decode(&[3]), None, "no such transition");
        assert_eq!(ConfChange::decode(&[0, 5, 1, 0, 0, 0, 0, 0, 0, 0]), None, "no such operation");
        assert_eq!(ConfChange::decode(&[0, 1, 1]), None, "cut short");
    }

    proptest! {
        #[test]
        fn every_result_is_a_membership(
            steps in vec((0_u8..3, vec((0_u8..5, 1_u64..6), 0..5)), 1..20),
        ) {
            let mut conf = ConfState { voters: ids(&[1, 2, 3]), ..ConfState::default() };
            for (kind, ops) in steps {
                let op = |(op, id): (u8, u64)| match op {
                    0 => ConfChangeOp::AddVoter(PeerId(id)),
                    1 => ConfChangeOp::AddLearner(PeerId(id)),
                    2 => ConfChangeOp::Remove(PeerId(id)),
                    3 => ConfChangeOp::AddWitness(PeerId(id)),
                    _ => ConfChangeOp::Update(PeerId(id)),
                };
                let transitions = [Transition::Auto, Transition::JointImplicit, Transition::JointExplicit];
                let transition = transitions[kind as usize];
                let change = ConfChange { transition, ops: ops.into_iter().map(op).collect() };
                if let Ok(draft) = Draft::change(&conf, &change) {
                    let restored = Draft::restore(&draft.conf).unwrap();
                    prop_assert_eq!(&restored.conf, &draft.conf);
                    let members = |draft: &Draft| draft.members.iter().map(|(id, _)| *id).collect::<Vec<_>>();
                    prop_assert_eq!(members(&restored), members(&draft));
                    prop_assert!(!draft.conf.voters.is_empty());
                    // Who is a member before and after is a witness before and after; and the other half of what
                    // a quorum of few payloads has committed is never given up in one step.
                    let both = conf.lists().into_iter().flatten().filter(|id| draft.is_member(**id));
                    prop_assert!(both.into_iter().all(|id| conf.is_witness(*id) == draft.conf.is_witness(*id)));
                    let full = |conf: &ConfState, id: &PeerId| conf.voters.contains(id) && !conf.is_witness(*id);
                    let stays = |id: &&PeerId| !full(&conf, id) || full(&draft.conf, id);
                    let simple = draft.conf.voters_outgoing.is_empty() && conf.voters_outgoing.is_empty();
                    prop_assert!(!simple || conf.witnesses.is_empty() || conf.voters.iter().all(|id| stays(&id)));
                    conf = draft.conf;
                }
            }
        }
    }
}
