//! What leaves: queues of messages, what they wait for, and the Ready that takes it all.

use crate::config::Compat;
use crate::error::Refused;
use crate::message::{Body, Message};
use crate::mutant::mutant;
use crate::progress::Wanted;
use crate::raft::Raft;
use crate::read_only::ReadRequest;
use crate::ready::{AfterSync, Append, ReadState, Ready, SyncTicket};
use crate::storage::Storage;
use crate::types::{EntryId, HardState, Index, PeerId, ReadId, SoftState, Term};

impl<S: Storage> Raft<S> {
    /// Whether [`Raft::ready`] has something to say.
    pub fn has_ready(&self) -> bool {
        let (from, to) = self.log.unstable.to_write();
        !self.messages.is_empty()
            || !self.after_sync.is_empty()
            || !self.read_states.is_empty()
            || self.notices.is_some()
            || self.sends_wanted
            || self.heartbeat_wanted
            || from != to
            || self.log.unstable.snapshot_to_write().is_some()
            || self.log.has_committed()
            || self.hard_state() != self.given_hard
            || self.soft_state() != self.given_soft
    }

    /// Hands out all there is to do. Clears `out` first, and keeps its memory: give back the same one each turn, with
    /// its `append` still in it, and nothing is allocated.
    pub fn ready(&mut self, out: &mut Ready) {
        if let Some(before) = &mut out.append {
            self.spare = std::mem::take(&mut before.after_sync).into_memory();
            out.append = None;
        }
        out.messages.clear();
        if !self.messages.is_empty() {
            out.messages.append(&mut self.messages);
        }
        if self.sends_wanted || self.heartbeat_wanted {
            // What is made only now is made in the shell's memory, which may serve many groups.
            std::mem::swap(&mut out.messages, &mut self.messages);
            self.flush();
            std::mem::swap(&mut out.messages, &mut self.messages);
        }
        out.reads.clear();
        if !self.read_states.is_empty() {
            out.reads.append(&mut self.read_states);
        }
        self.take_notices(out);
        self.take_append(&mut out.append);
        out.commit = (self.log.committed > self.given_hard.commit).then_some(self.log.committed);
        self.given_hard.commit = self.log.committed;
        out.committed = self.log.take_committed();
        let soft = self.soft_state();
        out.soft_state = (soft != self.given_soft).then_some(soft);
        self.given_soft = soft;
    }

    fn take_notices(&mut self, out: &mut Ready) {
        out.reads_lost.clear();
        out.transfers_ended.clear();
        out.stepped_down = None;
        if let Some(notices) = self.notices.take() {
            out.reads_lost.extend(notices.reads_lost);
            out.transfers_ended.extend(notices.transfers_ended);
            out.stepped_down = notices.stepped_down;
        }
    }

    /// Fills in the write, if there is one.
    fn take_append(&mut self, out: &mut Option<Append>) {
        let hard = self.hard_state();
        // etcd writes a commit index that stands alone, too.
        let before = self.given_hard;
        let voted = mutant!("vote-not-written", false, hard.vote != before.vote);
        let moved = mutant!("term-not-written", false, hard.term != before.term);
        let promised = moved || voted || self.etcd() && hard.commit != self.given_hard.commit;
        let (snapshot, entries) = (self.log.unstable.snapshot_to_write(), self.log.unstable.to_write());
        if !promised && snapshot.is_none() && entries.0 == entries.1 && self.after_sync.is_empty() {
            return;
        }
        if promised {
            self.given_hard = hard;
        }
        self.log.unstable.accept();
        let last = self.log.last_id();
        let unstable = last.index >= self.log.unstable.offset;
        let awaited = if unstable { last } else { EntryId::default() };
        let after_sync = std::mem::replace(&mut self.after_sync, std::mem::take(&mut self.spare));
        *out = Some(Append {
            hard_state: promised.then_some(hard),
            entries,
            last,
            snapshot,
            ticket: SyncTicket { term: self.term, last: awaited, snapshot },
            after_sync: AfterSync::from_memory(after_sync),
        });
    }

    fn soft_state(&self) -> SoftState {
        SoftState { lead: self.lead, role: self.role }
    }

    fn hard_state(&self) -> HardState {
        HardState { term: self.term, vote: self.vote, commit: self.log.committed }
    }

    /// Queues a message in our term.
    #[inline(always)]
    pub(crate) fn send(&mut self, to: PeerId, body: Body) {
        let timeless = matches!(body, Body::ReadIndex { .. } | Body::ReadIndexReject { .. });
        let term = if timeless { Term::ZERO } else { self.term };
        self.send_in(term, to, body);
    }

    /// Queues a message: where it waits for a sync if it promises something that is not durable. Laid out where it is
    /// called, where all but a few lines of it are decided already and the message is made in its place.
    #[inline(always)]
    pub(crate) fn send_in(&mut self, term: Term, to: PeerId, body: Body) {
        self.lease_broken |= mutant!("lease-outlives-hand-over", false, body == Body::TimeoutNow);
        let message = Message { from: self.config.id, to, term, body };
        let waits = match body {
            _ if to == self.config.id => true,
            // What is durable already can be acknowledged at once, and a refusal promises nothing. But a member that
            // forgets the term it acknowledged in could let an older leader replace what it acknowledged. (etcd lets
            // every answer about the log and to a vote wait, and merges none.)
            Body::AppendAck { index: Index::ZERO } => self.etcd(),
            Body::AppendAck { index } => {
                let entry = mutant!("ack-before-sync", false, index > self.durable_index());
                let term = mutant!("ack-before-its-term", false, self.term > self.durable_term);
                entry || term || self.etcd()
            }
            // A candidate that asks, crashes before its term is durable, and starts again with a shorter log would ask
            // in the same term once more, and be elected by the answers to its first question. (etcd asks at once.)
            Body::Vote { .. } => mutant!("asks-before-sync", false, !self.etcd()),
            Body::VoteReply { granted } => mutant!("vote-before-sync", false, granted) || self.etcd(),
            Body::AppendReject { .. } | Body::PreVoteReply { .. } => self.etcd(),
            _ => false,
        };
        if !waits {
            // Often the only one: a follower's answer to a heartbeat.
            if self.messages.capacity() == 0 {
                self.messages.reserve_exact(1);
            }
            self.messages.push(message);
            return;
        }
        match body {
            Body::AppendAck { index } if self.merge_ack(to, term, index) => {}
            _ => self.after_sync.push(message),
        }
    }

    /// One write, one acknowledgement: the higher one says all. Whether one waits that says it now.
    #[inline]
    pub(crate) fn merge_ack(&mut self, to: PeerId, term: Term, index: Index) -> bool {
        let Some(before) = self.after_sync.last_mut() else { return false };
        let Body::AppendAck { index: said } = &mut before.body else { return false };
        let same = (before.to, before.term) == (to, term) && self.config.compat == Compat::Off;
        if same {
            *said = mutant!("first-ack-says-all", *said, index.max(*said));
        }
        same
    }

    /// Drops appends that wait to be taken and reach beyond `index`: those entries are being replaced, and a range says
    /// nothing of which entries it meant.
    pub(crate) fn drop_appends_after(&mut self, index: Index) {
        self.messages.retain(|message| !matches!(message.body, Body::Append { last, .. } if last > index));
    }

    /// Asks for an append to a peer. All sending waits for the next Ready, so that one message serves all that was
    /// asked for in a turn, and names a range of the log as it is then. (etcd sends right here, one message at a time.)
    pub(crate) fn want(&mut self, at: usize, wanted: Wanted) {
        if self.etcd() {
            return self.send_now(at, wanted);
        }
        let last = self.log.last_index();
        let progress = self.tracker.at_mut(at);
        if progress.is_paused() || wanted == Wanted::Entries && progress.next > last {
            return;
        }
        progress.wanted = progress.wanted.max(wanted);
        self.sends_wanted = true;
    }

    #[cold]
    fn send_now(&mut self, at: usize, wanted: Wanted) {
        self.send_append(at, wanted == Wanted::Append);
    }

    /// Asks for as many appends to a peer as limits allow.
    pub(crate) fn want_all(&mut self, at: usize) {
        if self.etcd() {
            while self.send_append(at, false) {}
        } else {
            self.want(at, Wanted::Entries);
        }
    }

    /// Turns what was asked for into messages.
    fn flush(&mut self) {
        if self.sends_wanted {
            self.sends_wanted = false;
            for at in 0..self.tracker.count() {
                let wanted = std::mem::take(&mut self.tracker.at_mut(at).wanted);
                if wanted == Wanted::Nothing || wanted == Wanted::Append && !self.send_append(at, true) {
                    continue;
                }
                while self.send_append(at, false) {}
            }
        }
        if self.heartbeat_wanted {
            self.heartbeat_wanted = false;
            self.broadcast_heartbeat();
        }
    }

    /// Asks for a round of heartbeats with the next Ready.
    pub(crate) fn want_heartbeat(&mut self) {
        if self.etcd() {
            self.broadcast_heartbeat();
        } else {
            self.heartbeat_wanted = true;
        }
    }

    /// Takes the messages that may leave at once, ahead of the next Ready. Ranges in them are valid until the next
    /// step.
    pub fn take_messages(&mut self, out: &mut Vec<Message>) {
        self.flush();
        out.append(&mut self.messages);
    }

    /// A read of ours is given up.
    pub(crate) fn lose_read(&mut self, id: ReadId, refused: Refused) {
        if !self.etcd() {
            self.notices.get_or_insert_default().reads_lost.push((id, refused));
        }
    }

    /// A read of another member is given up. (With etcd it waits until its patience ends.)
    pub(crate) fn reject_read(&mut self, to: PeerId, id: ReadId, why: Refused) {
        if !self.etcd() && self.tracker.find(to).is_some() {
            self.send(to, Body::ReadIndexReject { id, busy: matches!(why, Refused::TooManyReads { .. }) });
        }
    }

    /// A read is answered.
    pub(crate) fn answer_read(&mut self, request: ReadRequest, index: Index) {
        if request.from == self.config.id {
            self.read_states.push(ReadState { id: request.id, index });
        } else {
            self.send(request.from, Body::ReadIndexReply { id: request.id, index });
        }
    }
}
