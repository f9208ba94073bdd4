//! Replication: appends and their answers on both sides, commit, and reads confirmed by heartbeats.

use crate::config::ReadPolicy;
use crate::error::{Refused, StepError};
use crate::event::{Event, TransferEvent};
use crate::message::Body;
use crate::mutant::mutant;
use crate::progress::{ProgressState, Wanted};
use crate::raft::{Lost, Raft, Stepped};
use crate::read_only::ReadRequest;
use crate::storage::Storage;
use crate::types::{EntryId, EntryKind, EntryMeta, Index, PeerId, Role, Term};
use crate::witness::payloads_for;

impl<S: Storage> Raft<S> {
    // The leader: appending.

    /// Appends an entry of our own; our acknowledgement follows when it is durable.
    pub(crate) fn append_own(&mut self, kind: EntryKind, size: u32) -> EntryId {
        self.log.unstable.push(EntryMeta { term: self.term, kind, size });
        let index = self.log.last_index();
        mutant!("leader-counts-before-sync", _ = self.tracker.get_mut(self.config.id).map(|own| own.matched = index));
        if !self.merge_ack(self.config.id, self.term, index) {
            self.send(self.config.id, Body::AppendAck { index });
        }
        EntryId { term: self.term, index }
    }

    /// Counts payload bytes against the limit; one proposal into an empty tail always goes.
    pub(crate) fn reserve_uncommitted(&mut self, size: u64) -> Result<(), Refused> {
        let (uncommitted, limit) = (self.uncommitted_size, self.config.uncommitted_size_max);
        let full = uncommitted > 0 && size > 0 && uncommitted.saturating_add(size) > limit;
        if mutant!("tail-without-limit", false, full) {
            return Err(Refused::TooMuchUncommitted { uncommitted, size, limit });
        }
        self.uncommitted_size += size;
        Ok(())
    }

    /// Asks for new entries to be sent to everybody else; to witnesses it is done again when they are durable.
    pub(crate) fn broadcast_entries(&mut self) {
        if self.etcd() {
            return self.broadcast_append_now();
        }
        for (id, progress) in self.tracker.iter_mut() {
            if id != self.config.id && !progress.is_paused() {
                let wanted = if progress.witness { Wanted::Entries } else { Wanted::Append };
                progress.wanted = progress.wanted.max(wanted);
                self.sends_wanted = true;
            }
        }
    }

    /// Asks for an append to everybody else.
    pub(crate) fn broadcast_append(&mut self) {
        if self.etcd() {
            return self.broadcast_append_now();
        }
        for (id, progress) in self.tracker.iter_mut() {
            if id != self.config.id && !progress.is_paused() {
                progress.wanted = Wanted::Append;
                self.sends_wanted = true;
            }
        }
    }

    #[cold]
    fn broadcast_append_now(&mut self) {
        for at in 0..self.tracker.count() {
            if self.tracker.id(at) != self.config.id {
                self.want(at, Wanted::Append);
            }
        }
    }

    /// Sends one append, with as many entries as limits allow; without entries only if asked to. Or the news that a
    /// snapshot is needed. Whether something was sent.
    pub(crate) fn send_append(&mut self, at: usize, even_if_empty: bool) -> bool {
        let progress = self.tracker.at(at);
        if progress.is_paused() || progress.next > self.log.last_index() && !even_if_empty {
            return false;
        }
        let index = progress.next.prev();
        // Nothing is left to send; or it may not be sent: a peer that is probed has nothing in flight, and its window is
        // full only if it was closed.
        let none = index == self.log.last_index() || progress.inflights.is_full();
        let witness = progress.witness;
        let Ok(term) = self.log.term(index) else { return self.send_snapshot(at) };
        let size_max = self.config.message_size_max;
        let room = match witness {
            _ if none => Ok((index, 0)),
            true => self.log.limit_stripped(index, self.witness_may_have(), size_max),
            false => self.log.limit(index, size_max),
        };
        let Ok((last, size)) = room else { return self.send_snapshot(at) };
        if last == index && !even_if_empty {
            return false;
        }
        // etcd counts payloads in flight.
        let size = if self.etcd() { self.log.payload_size(index, last) } else { size };
        // A probe wants an answer, and news of a commit get none. (With etcd they do.)
        let probes = last == index && self.tracker.at(at).state == ProgressState::Probe && !self.etcd();
        let commit = if probes { Index::ZERO } else { self.log.committed };
        let to = self.tracker.id(at);
        self.send(to, Body::Append { prev: EntryId { term, index }, last, commit, payloads: payloads_for(witness) });
        let etcd = self.etcd();
        let progress = self.tracker.at_mut(at);
        progress.sent(last, size, if probes { progress.sent_commit } else { commit });
        // One probe at a time, with or without entries. (etcd sends those without as often as it is asked.)
        progress.flow_paused |= progress.state == ProgressState::Probe && !etcd;
        true
    }

    /// Tells a peer that it needs a snapshot, unless it seems to be away, or there is none that would help yet.
    fn send_snapshot(&mut self, at: usize) -> bool {
        let to = self.tracker.id(at);
        if !self.tracker.at(at).recently_active {
            self.tell(Event::SnapshotWithheld(to));
            return false;
        }
        let base = self.log.base();
        let snapshot = self.log.unstable.snapshot.or_else(|| self.log.storage.snapshot());
        // etcd sends any snapshot.
        let helps = |snapshot: &EntryId| snapshot.index >= base.index || self.etcd();
        let Some(snapshot) = snapshot.filter(helps) else { return false };
        self.tell_of(|raft, say| {
            let first = base.index.next();
            say(Event::SnapshotSent { to, at: snapshot, first, progress: raft.tracker.at(at) });
        });
        self.tracker.at_mut(at).become_snapshot(snapshot.index);
        self.tell_of(|raft, say| say(Event::SnapshotAwaited(to, raft.tracker.at(at))));
        let payloads = payloads_for(self.tracker.at(at).witness);
        self.send(to, Body::Snapshot { at: snapshot, payloads });
        true
    }

    pub(crate) fn broadcast_heartbeat(&mut self) {
        let (commit, read) = (self.log.committed, self.reads.token());
        for at in 0..self.tracker.count() {
            let to = self.tracker.id(at);
            if to == self.config.id {
                continue;
            }
            // Never more than it has acknowledged: its log may end in something else.
            let progress = self.tracker.at_mut(at);
            let commit = mutant!("heartbeat-commits-unseen", commit, progress.matched.min(commit));
            progress.sent_commit = commit;
            self.send(to, Body::Heartbeat { commit, read });
        }
    }

    // The leader: answers.

    pub(crate) fn handle_append_ack(&mut self, from: PeerId, index: Index) -> Result<(), StepError> {
        let Some(at) = self.tracker.find(from).filter(|_| self.role == Role::Leader) else { return Ok(()) };
        let last = self.log.last_index();
        if index > last {
            return Err(StepError::AckBeyondLog { from, index, last });
        }
        let base = self.log.base().index;
        let progress = self.tracker.at_mut(at);
        progress.recently_active = true;
        let probed = progress.matched == index && progress.state == ProgressState::Probe;
        if !progress.maybe_update(index) && !probed {
            return Ok(());
        }
        match progress.state {
            ProgressState::Probe => progress.become_replicate(),
            ProgressState::Replicate => progress.inflights.free_to(index),
            // Any snapshot will do from which our log goes on.
            ProgressState::Snapshot if progress.matched >= base => {
                self.tell_of(|raft, say| say(Event::SnapshotOvertaken(from, raft.tracker.at(at))));
                let progress = self.tracker.at_mut(at);
                progress.become_probe();
                progress.become_replicate();
            }
            ProgressState::Snapshot => {}
        }
        self.want_witnesses();
        let committed = self.log.committed;
        let wants_commit = self.tracker.at(at).can_bump_commit(committed);
        if index > committed && self.advance_commit() {
            // Everybody was asked for.
        } else if from != self.config.id && wants_commit {
            self.want(at, Wanted::Append);
        }
        if from != self.config.id {
            self.want_all(at);
            if from == self.transferee && self.tracker.at(at).matched == self.log.last_index() {
                self.tell(Event::Transfer(from, TransferEvent::Told));
                self.send(from, Body::TimeoutNow);
            }
        }
        Ok(())
    }

    pub(crate) fn handle_append_reject(&mut self, from: PeerId, rejected: Index, hint: EntryId) -> Option<Lost> {
        let at = self.tracker.find(from).filter(|_| self.role == Role::Leader)?;
        // Where our terms are above the follower's there is no match: skip whole terms at a time.
        let mut index = hint.index.min(self.log.last_index());
        if hint.term.0 > 0 {
            index = self.log.find_conflict(EntryId { term: hint.term, index }).index;
        }
        self.tell(Event::Rejected { from, rejected, hint });
        let etcd = self.etcd();
        let progress = self.tracker.at_mut(at);
        progress.recently_active = true;
        // etcd takes the message for an old one, for ever.
        if mutant!("lost-tail-not-resent", false, hint.index < progress.matched) && !etcd {
            // Where we match, no term of ours is above that of `prev`, so a log that is whole never points below it:
            // this one has lost entries that it had acknowledged, or the message was overtaken by a later one.
            let lost = Lost { peer: from, acked: progress.matched, last: hint.index };
            progress.lose(index);
            self.losses = self.losses.saturating_add(1);
            self.tell(Event::Lost(lost));
            self.want(at, Wanted::Append);
            return Some(lost);
        }
        if progress.maybe_decrease(rejected, index) {
            self.tell_of(|raft, say| say(Event::Decreased(from, raft.tracker.at(at))));
            let progress = self.tracker.at_mut(at);
            if progress.state == ProgressState::Replicate {
                progress.become_probe();
            }
            self.want(at, Wanted::Append);
        }
        None
    }

    pub(crate) fn handle_heartbeat_reply(&mut self, from: PeerId, read: u64) {
        let Some(at) = self.tracker.find(from).filter(|_| self.role == Role::Leader) else { return };
        let last = if self.tracker.at(at).witness { self.witness_may_have() } else { self.log.last_index() };
        let progress = self.tracker.at_mut(at);
        progress.recently_active = true;
        progress.flow_paused = false;
        let behind = progress.matched < last || progress.state == ProgressState::Probe;
        if behind {
            self.want(at, Wanted::Append);
        }
        // It may not have heard that it shall take over, or not have been able to. (etcd says so once.)
        if from == self.transferee && !behind && !self.etcd() {
            self.send(from, Body::TimeoutNow);
        }
        // What we never sent confirms nothing.
        let token = self.reads.token();
        if mutant!("any-answer-confirms-reads", true, read > 0 && read <= token) {
            let echoed = mutant!("any-answer-confirms-reads", token, read);
            let progress = self.tracker.at_mut(at);
            progress.read_acked = progress.read_acked.max(echoed);
            self.release_reads();
        }
    }

    /// Commits what a quorum holds, if it is of our term (thesis 3.6.2). Whether that is news; then it is on its way.
    pub(crate) fn advance_commit(&mut self) -> bool {
        let alone = mutant!("removed-leader-commits-alone", !self.tracker.is_voter(self.config.id), false);
        let reached = if alone { self.durable_index() } else { self.tracker.committed() };
        let index = mutant!("commit-one-too-many", reached.next(), reached).min(self.log.last_index());
        let old = mutant!("commit-of-an-older-term", false, self.log.term(index) != Ok(self.term));
        if index <= self.log.committed || old {
            return false;
        }
        self.log.commit_to(index);
        while let Some(request) = self.reads.pop_deferred() {
            self.take_confirmable_read(request);
        }
        self.broadcast_append();
        true
    }

    // The follower.

    pub(crate) fn handle_append(
        &mut self,
        from: PeerId,
        prev: EntryId,
        entries: &[EntryMeta],
        commit: Index,
    ) -> Result<Stepped, StepError> {
        let committed = self.log.committed;
        if prev.index < committed {
            self.check_committed(from, prev, entries)?;
            self.send(from, Body::AppendAck { index: committed });
            return Ok(Stepped::default());
        }
        if !mutant!("append-to-anything", prev.index <= self.log.last_index(), self.log.holds(prev)) {
            let upto = EntryId { term: prev.term, index: prev.index.min(self.log.last_index()) };
            let hint = self.log.find_conflict(upto);
            self.tell_of(|raft, say| {
                say(Event::AppendRefused { from, prev, term: raft.log.term(prev.index).unwrap_or_default() });
            });
            self.send(from, Body::AppendReject { rejected: prev.index, hint });
            return Ok(Stepped::default());
        }
        let last = Index(prev.index.0 + entries.len() as u64);
        let appended = self.first_new(prev.index, entries);
        if let Some(first) = appended {
            let skip = usize::try_from(first.0 - prev.index.0 - 1).expect("within a list");
            if first <= self.log.last_index() {
                self.drop_appends_after(first.prev());
                self.tell_of_conflict(first, entries[skip].term);
            }
            self.log.append(first, &entries[skip..]);
        }
        let news = self.log.commit_to(commit.min(mutant!("commit-own-tail", self.log.last_index(), last)));
        if news && entries.is_empty() && !self.etcd() {
            // The leader learns nothing from an answer. If it misses an earlier one, a heartbeat shows it, and it asks
            // again with a commit index that is no news.
            return Ok(Stepped::default());
        }
        // Not our last index: our tail beyond this message may be anything.
        self.send(from, Body::AppendAck { index: mutant!("ack-own-tail", self.log.last_index(), last) });
        Ok(Stepped { appended, lost: None })
    }

    fn tell_of_conflict(&mut self, index: Index, theirs: Term) {
        self.tell_of(|raft, say| {
            say(Event::Conflict { index, ours: raft.log.term(index).unwrap_or_default(), theirs })
        });
        if index <= self.log.unstable.offset {
            self.tell(Event::TailReplaced { from: index });
        } else {
            self.tell(Event::TailCut { from: index });
        }
    }

    /// The first of the entries after `after` that is not in our log.
    fn first_new(&self, after: Index, entries: &[EntryMeta]) -> Option<Index> {
        let mut index = after;
        for meta in entries {
            index = index.next();
            let differs = mutant!("conflict-kept", false, self.log.term(index) != Ok(meta.term));
            mutant!("always-replaced", return Some(index).filter(|index| *index > self.log.committed));
            if index > self.log.last_index() || differs {
                return Some(index);
            }
        }
        None
    }

    /// What we know to be committed, every leader has.
    fn check_committed(&self, from: PeerId, prev: EntryId, entries: &[EntryMeta]) -> Result<(), StepError> {
        let committed = self.log.committed;
        let mut index = prev.index;
        for term in std::iter::once(prev.term).chain(entries.iter().map(|meta| meta.term)) {
            if index > committed {
                break;
            }
            if self.log.term(index).is_ok_and(|ours| ours != term) {
                return Err(StepError::CommittedConflict { from, index, committed });
            }
            index = index.next();
        }
        Ok(())
    }

    /// The commit index of a heartbeat: something that we have acknowledged. If we no longer have it, our log has lost
    /// durable entries: the leader is told where it ends, and sends them again.
    pub(crate) fn commit_as_told(&mut self, from: PeerId, commit: Index) -> Option<Lost> {
        let hint = self.log.last_id();
        if commit > hint.index {
            self.send(from, Body::AppendReject { rejected: commit, hint });
            self.losses = self.losses.saturating_add(1);
            let lost = Lost { peer: self.config.id, acked: commit, last: hint.index };
            self.tell(Event::Lost(lost));
            return Some(lost);
        }
        self.log.commit_to(commit);
        None
    }

    // Reads.

    /// A read, ours or another member's.
    pub(crate) fn take_read(&mut self, request: ReadRequest) -> Result<(), Refused> {
        if self.config.witness {
            return Err(Refused::Witness { peer: self.config.id });
        }
        if self.role != Role::Leader {
            // Passed on once only: a member that is asked, but does not lead, says nothing.
            return match self.lead {
                PeerId::ZERO => Err(Refused::NoLeader),
                lead if request.from != self.config.id => Err(Refused::NotLeader { leader: lead }),
                lead => {
                    self.send(lead, Body::ReadIndex { id: request.id });
                    Ok(())
                }
            };
        }
        if self.reads.count() >= self.config.read_count_max {
            return Err(Refused::TooManyReads { limit: self.config.read_count_max });
        }
        // Before its first commit a leader does not know what is committed (thesis 6.4); a lone voter neither.
        // (With etcd a lone voter answers at once.)
        let alone = self.etcd() && self.tracker.is_alone(self.config.id);
        let behind = mutant!("read-before-own-commit", false, self.log.term(self.log.committed) != Ok(self.term));
        if behind && !alone {
            self.reads.defer(request);
        } else {
            self.take_confirmable_read(request);
        }
        Ok(())
    }

    fn take_confirmable_read(&mut self, request: ReadRequest) {
        let index = self.log.committed;
        // With etcd a leader that is trusted is so until it steps down.
        let holds = mutant!("read-without-quorum", true, self.holds_lease());
        let leased = holds || self.etcd() && self.config.read_policy == ReadPolicy::Lease;
        if leased || self.tracker.is_alone(self.config.id) {
            self.answer_read(request, index);
        } else {
            self.wait_for_quorum(request);
        }
    }

    /// A read that a round of heartbeats must confirm, with the commit index of now.
    pub(crate) fn wait_for_quorum(&mut self, request: ReadRequest) {
        self.reads.wait(request, self.log.committed, self.now);
        let token = self.reads.token();
        if let Some(own) = self.tracker.get_mut(self.config.id) {
            own.read_acked = token;
        }
        // In a joint membership a lone voter is alone all the same, and nobody else will answer.
        if mutant!("lone-reads-wait", false, !self.etcd()) {
            self.release_reads();
        }
        self.want_heartbeat();
    }

    /// Answers the reads that a quorum has confirmed.
    pub(crate) fn release_reads(&mut self) {
        let reached = self.tracker.read_acked();
        while let Some((request, index, asked)) = self.reads.pop_confirmed(reached) {
            self.extend_lease(asked);
            if request.from != PeerId::ZERO {
                self.answer_read(request, index);
            }
        }
    }
}
