//! Witnesses: voters that keep no payloads.
//!
//! A witness stores index, term and kind of every entry, the payloads of changes of membership, and no other payload. It
//! keeps no state machine. So it costs next to nothing in disk and network, and a third machine that is only a witness
//! lets a group of two real copies go on when one of them is gone. It votes, acknowledges and confirms leadership like
//! everybody; it never campaigns, is never handed leadership, and answers no reads.
//!
//! # The rules
//!
//! 1. *Few payloads are said to be few.* What a leader sends to a witness is marked ([`Payloads::Stripped`]), and a
//!    member knows from its [`Config`](crate::Config) which kind of log it has: neither takes what is meant for the
//!    other. So the log of a full member has the payload of every entry in it, whatever anybody believes.
//! 2. *A witness is sent only what is durable* in the leader's own log and, in each half of a membership, on some full
//!    voter.
//! 3. *An entry is committed* when it is durable on a quorum, in each half of which there is a full voter
//!    ([`quorum::joint_held`](crate::quorum::joint_held)).
//! 4. *A full voter's vote is taken in two steps* where there are witnesses, and nobody changes between witness and full
//!    member while being a member ([`confchange`](crate::confchange)).
//!
//! # Why nothing acknowledged is lost
//!
//! *It is never replaced.* Elections and commits count witnesses like all voters, so that the quorum which committed an
//! entry and the quorum which elects a later leader have a member in common. If that is a witness, it knows index and
//! term of what it acknowledged, which is all that the rule of the longer log asks for (thesis 5.4.1): it refuses a
//! candidate without the entry. Candidates are full members, so the leader that is elected has the entry with its
//! payload, by rule 1. Nothing else in the proof of leader completeness looks at what an entry carries.
//!
//! *Its payload exists.* By rule 3 at least one full voter had it durably when it was committed; counting witnesses
//! alone would not do: with one full voter and two witnesses these two are a majority, and could acknowledge what the
//! leader is still writing. A full voter that has it loses its vote only through a joint membership (rule 4), whose
//! incoming half needs a full voter with everything, the leaving itself included, before it stands alone. In a single
//! step, of members 1, 2 and witness 3, where 1 and 3 have committed what 2 lacks, 1 could be removed by the acknowledgements
//! of 1 and 3: 2 could never be elected, and nobody would have what 3 insists on.
//!
//! *Rule 2 is for going on.* It is not needed for safety: if a witness had an entry that the leader loses in a crash,
//! the witness would refuse to elect it, and with the other full voter away nobody could be elected though a majority
//! is there. It costs a witness's acknowledgement a sync of the leader's ahead of it. With one witness to two or three full
//! voters nobody waits for that while everybody is well: the full voters are a quorum, the faster one, and commits have
//! two payloads.
//!
//! # What it costs
//!
//! A committed entry has as many payloads as its quorum has full voters: at least the size of a quorum less the number of
//! witnesses, and at least one. If they are all lost for good before others have got them, the group stops: the witness
//! knows what is missing, and nobody can be elected. It never goes on without it. Advice:
//!
//! - One witness to two full voters (or to three): one voter can be away at any time. While a full one is away, the other
//!   holds the only copy of what is new.
//! - More witnesses than that take away more safety than they add: with three full voters and two witnesses, a quorum of
//!   three may have a single payload, where three full voters alone have two.
//! - One full voter with any number of witnesses has no copy at all.
//!
//! # What the shell does
//!
//! *For a leader.* In a message with [`Payloads::Stripped`], an append's records are [stripped](crate::record::strip):
//! changes of membership whole, all others header alone, which index and term make without reading anything. An append
//! may name many entries, for only the sizes of stripped records are counted. A snapshot is its position and its
//! membership ([`ConfState`](crate::ConfState)) as of there, and no state.
//!
//! *For a witness.* Records are staged and written as they come. Of what is committed it applies the changes of
//! membership ([`Raft::apply_conf_change`]), nothing else, and reports it [applied](Raft::applied). It compacts its log
//! when it likes, by writing down position and membership; it is never asked for a snapshot, for it never leads. A
//! snapshot that it is sent is stepped as always, with the membership it came with.

use crate::error::StepError;
use crate::message::Payloads;
use crate::mutant::mutant;
use crate::progress::Wanted;
use crate::raft::Raft;
use crate::storage::Storage;
use crate::types::{EntryKind, EntryMeta, Index, PeerId, Role};

/// What a witness is sent, or anybody else.
pub(crate) fn payloads_for(witness: bool) -> Payloads {
    if witness { Payloads::Stripped } else { Payloads::All }
}

impl<S: Storage> Raft<S> {
    /// Up to where a leader may send entries to witnesses.
    pub(crate) fn witness_may_have(&self) -> Index {
        let durable = self.tracker.full_matched().min(self.durable_index());
        mutant!("witness-ahead-of-payloads", self.log.last_index(), durable)
    }

    /// Something became durable: witnesses may have more.
    pub(crate) fn want_witnesses(&mut self) {
        let awaited = self.role == Role::Leader && self.tracker.has_witnesses();
        if !mutant!("witnesses-forgotten", false, awaited) {
            return;
        }
        let upto = self.witness_may_have();
        for at in 0..self.tracker.count() {
            if self.tracker.at(at).witness && self.tracker.at(at).next <= upto {
                self.want(at, Wanted::Entries);
            }
        }
    }

    /// Whether what a leader sends is what our log is made of.
    pub(crate) fn check_payloads(
        &self,
        from: PeerId,
        payloads: Payloads,
        entries: &[EntryMeta],
    ) -> Result<(), StepError> {
        let witness = self.config.witness;
        if payloads != payloads_for(witness) {
            return Err(StepError::WrongPayloads { from, witness });
        }
        if witness && entries.iter().any(|meta| meta.kind == EntryKind::Normal && meta.size > 0) {
            return Err(StepError::Malformed { from, what: "a payload for a witness" });
        }
        Ok(())
    }
}
