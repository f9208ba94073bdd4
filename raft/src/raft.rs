//! The doors into the core, and the changes of role behind them.

use crate::confchange::{ConfChange, ConfChangeError, Draft};
use crate::config::{Compat, Config, PRIORITY_MAX, ReadPolicy};
use crate::error::{OpenError, Refused, StepError};
use crate::event::{Event, Observed, Observer, TransferEvent};
use crate::inflights::Inflights;
use crate::log::RaftLog;
use crate::message::{Body, Message};
use crate::mutant::mutant;
use crate::progress::{ProgressState, Wanted};
use crate::read_only::{ReadOnly, ReadRequest};
use crate::ready::{Notices, ReadState, SteppedDown, SyncTicket, TransferEnd, TransferEnded};
use crate::record::PAYLOAD_MAX;
use crate::storage::Storage;
use crate::tracker::Tracker;
use crate::types::{ConfState, EntryId, EntryKind, EntryMeta, HardState, Index, PeerId, ReadId, Role, SoftState, Term};

/// No honest term or index comes near; what a peer says beyond is refused, so that our own arithmetic cannot overflow.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// One member of one group: it decides, and the shell acts on its [`Ready`](crate::Ready).
#[derive(Debug)]
pub struct Raft<S> {
    pub(crate) config: Config,
    pub(crate) log: RaftLog<S>,
    pub(crate) tracker: Tracker,
    pub(crate) term: Term,
    pub(crate) vote: PeerId,
    /// The newest term that is known to be durable.
    pub(crate) durable_term: Term,
    pub(crate) role: Role,
    pub(crate) lead: PeerId,
    /// Ticks since the leader was heard of, or since our own last check of the quorum.
    pub(crate) election_elapsed: u32,
    pub(crate) heartbeat_elapsed: u32,
    /// Drawn anew at each reset, from once to twice the configured ticks.
    pub(crate) election_timeout: u32,
    /// Whether a low priority still lets others go first: no election was seen since the last leader, or the start.
    pub(crate) lets_others_first: bool,
    /// Ticks for which entries have waited for our disk, without any of them becoming durable.
    pub(crate) stalled_ticks: u32,
    /// Ticks since the start, or since an election timeout before it if there is no past in which anything was promised.
    pub(crate) now: u64,
    /// When the lease ends, on the same clock; 0: there is none.
    pub(crate) lease_until: u64,
    /// Whether somebody was told to take over in this term, which ends leases in it.
    pub(crate) lease_broken: bool,
    random: u64,
    /// Whom leadership is being handed to; 0: nobody.
    pub(crate) transferee: PeerId,
    /// No change of membership lies in the unapplied log beyond this index.
    pub(crate) pending_conf_index: Index,
    pub(crate) uncommitted_size: u64,
    /// Losses seen, ours and those of peers.
    pub(crate) losses: u32,
    pub(crate) reads: ReadOnly,
    pub(crate) messages: Vec<Message>,
    pub(crate) after_sync: Vec<Message>,
    pub(crate) read_states: Vec<ReadState>,
    pub(crate) notices: Option<Box<Notices>>,
    /// Memory for the next `after_sync` of a Ready.
    pub(crate) spare: Vec<Message>,
    /// While a snapshot is not durable: the membership that the state machine still has, and may still change.
    pub(crate) conf_before_snapshot: Option<Box<ConfState>>,
    /// Whether any progress has something wanted.
    pub(crate) sends_wanted: bool,
    pub(crate) heartbeat_wanted: bool,
    pub(crate) given_soft: SoftState,
    pub(crate) given_hard: HardState,
    observer: Observed,
}

/// What became of a proposal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Proposed {
    /// It is in the log. Not committed yet; and in another leader's log there may be another entry in its place, so
    /// wait for this very id.
    Appended(EntryId),
    /// Send it to the leader.
    Forward(PeerId),
}

/// What a step did to the log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Stepped {
    /// The shell must stage the payloads from here to the message's `last`, in place of all it has from here on.
    pub appended: Option<Index>,
    /// A member was seen to have lost durable entries. It is being mended; its disk should be looked at.
    pub lost: Option<Lost>,
}

/// A member whose log ends before what it had acknowledged as durable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Lost {
    /// Who: ourselves, as our leader's heartbeat shows; or, if we lead, the peer whose refusal shows it (which can be a
    /// false alarm if that message was overtaken by later ones).
    pub peer: PeerId,
    /// What it had acknowledged, at the least.
    pub acked: Index,
    /// Up to where its log reaches, at the most.
    pub last: Index,
}

/// The window of a new member.
fn window(config: &Config) -> Inflights {
    Inflights::new(config.inflight_count_max, config.inflight_size_max)
}

impl<S: Storage> Raft<S> {
    /// A member that (re)starts from what its log says.
    ///
    /// # Errors
    /// If the configuration breaks a rule, or the log contradicts itself.
    pub fn new(config: Config, storage: S) -> Result<Raft<S>, OpenError> {
        config.check()?;
        let (hard, conf) = storage.initial_state();
        let mut log = RaftLog::new(storage, config.apply_size_max);
        log.compat = config.compat;
        let (base, last) = (log.base(), log.last_id());
        // A member that starts from somebody's first snapshot may not know any term yet.
        let fresh = hard == HardState::default() && last.term <= Term(1);
        if hard.term < last.term && !fresh || hard.term.0 > NUMBER_MAX {
            return Err(OpenError::Term { term: hard.term, last: last.term });
        }
        // What is stored may lag behind, for a commit index alone is not worth a sync; what was compacted or applied
        // was committed.
        if hard.commit > last.index {
            return Err(OpenError::Commit { commit: hard.commit, last: last.index });
        }
        log.commit_to(hard.commit);
        let applied = config.applied;
        if applied > Index::ZERO {
            if applied < base.index || applied > last.index {
                return Err(OpenError::Applied { applied, base: base.index, last: last.index });
            }
            log.commit_to(applied);
            log.applying = applied;
            log.applied = applied;
        }
        let draft = Draft::restore(&conf)?;
        if draft.is_member(config.id) && draft.conf.is_witness(config.id) != config.witness {
            return Err(OpenError::Witness { configured: config.witness });
        }
        let mut tracker = Tracker::default();
        tracker.install(draft, last.index, &window(&config));
        let given_hard = HardState { commit: log.committed, ..hard };
        let mut raft = Raft {
            log,
            tracker,
            term: mutant!("term-forgotten", last.term, hard.term),
            vote: mutant!("vote-forgotten", PeerId::ZERO, hard.vote),
            durable_term: hard.term,
            role: Role::Follower,
            lead: PeerId::ZERO,
            election_elapsed: 0,
            heartbeat_elapsed: 0,
            election_timeout: 0,
            lets_others_first: false,
            stalled_ticks: 0,
            now: if hard.term == Term::ZERO { config.election_ticks.into() } else { 0 },
            lease_until: 0,
            lease_broken: false,
            random: config.seed,
            transferee: PeerId::ZERO,
            pending_conf_index: Index::ZERO,
            uncommitted_size: 0,
            losses: 0,
            reads: ReadOnly::default(),
            messages: Vec::new(),
            after_sync: Vec::new(),
            read_states: Vec::new(),
            notices: None,
            spare: Vec::new(),
            conf_before_snapshot: None,
            sends_wanted: false,
            heartbeat_wanted: false,
            given_soft: SoftState::default(),
            given_hard,
            observer: Observed::default(),
            config,
        };
        raft.become_follower(raft.term, PeerId::ZERO);
        raft.lets_others_first = true;
        Ok(raft)
    }

    /// Tells `observer` of everything that happens from now on. Meant for tests and for the curious: see [`Event`].
    pub fn observe(&mut self, observer: Observer) {
        self.observer.0 = Some(Box::new(observer));
    }

    /// Tells the observer, if there is one.
    #[inline]
    pub(crate) fn tell(&mut self, event: Event<'_>) {
        if self.observer.0.is_some() {
            self.tell_observer(|_, say| say(event));
        }
    }

    /// As [`Raft::tell`], of something that lies in here.
    #[inline]
    pub(crate) fn tell_of(&mut self, tell: impl FnOnce(&Raft<S>, &mut dyn FnMut(Event<'_>))) {
        if self.observer.0.is_some() {
            self.tell_observer(tell);
        }
    }

    #[cold]
    fn tell_observer(&mut self, tell: impl FnOnce(&Raft<S>, &mut dyn FnMut(Event<'_>))) {
        if let Some(mut observer) = self.observer.0.take() {
            let status = self.status();
            tell(self, &mut |event| observer(&status, event));
            self.observer.0 = Some(observer);
        }
    }

    /// For tests: ticks until this member, hearing nothing, starts an election; until its next change of role.
    pub fn set_election_timeout(&mut self, ticks: u32) {
        self.election_timeout = ticks;
    }

    /// Whether etcd's rules hold. Every place that asks says what differs.
    #[inline]
    pub(crate) fn etcd(&self) -> bool {
        self.config.compat != Compat::Off
    }

    // The doors.

    /// Proposes an entry with a payload of `size` bytes. If it is appended, the shell must hold its payload under the
    /// id it gets; if it is to be forwarded, the shell sends it to the leader's `propose`.
    ///
    /// Changes of membership go through [`Raft::propose_conf_change`], which looks at them; here they are only checked
    /// for not being two at a time.
    ///
    /// # Errors
    /// [`Refused`], with nothing done.
    pub fn propose(&mut self, kind: EntryKind, size: u32) -> Result<Proposed, Refused> {
        if size as usize > PAYLOAD_MAX {
            return Err(Refused::TooLong { size: u64::from(size) });
        }
        match self.role {
            Role::Leader => {}
            _ if self.lead == PeerId::ZERO => return Err(Refused::NoLeader),
            _ if !self.config.forward_proposals => return Err(Refused::NotLeader { leader: self.lead }),
            _ => return Ok(Proposed::Forward(self.lead)),
        }
        if self.tracker.find(self.config.id).is_none() {
            return Err(Refused::NotMember);
        }
        if self.transferee != PeerId::ZERO {
            return Err(Refused::Transferring { target: self.transferee });
        }
        let changes_conf = kind != EntryKind::Normal;
        let pending = mutant!("two-changes", false, self.pending_conf_index > self.log.applied);
        if changes_conf && self.config.check_conf_changes && pending {
            return Err(Refused::ConfChangePending { index: self.pending_conf_index });
        }
        self.reserve_uncommitted(u64::from(size))?;
        let id = self.append_own(kind, size);
        if changes_conf {
            self.pending_conf_index = id.index;
        }
        self.broadcast_entries();
        Ok(Proposed::Appended(id))
    }

    /// Proposes a change of membership, whose encoding in a payload takes `size` bytes. Refused unless it could be
    /// applied to the membership of now, which a leader can tell because no two changes are under way at a time.
    ///
    /// # Errors
    /// [`Refused`], with nothing done.
    pub fn propose_conf_change(&mut self, change: &ConfChange, size: u32) -> Result<Proposed, Refused> {
        self.propose_conf_change_as(EntryKind::ConfChangeV2, change, size)
    }

    /// As [`Raft::propose_conf_change`], as an entry of this kind: for shells that encode a simple change in a way of
    /// its own.
    ///
    /// # Errors
    /// [`Refused`], with nothing done.
    pub fn propose_conf_change_as(
        &mut self,
        kind: EntryKind,
        change: &ConfChange,
        size: u32,
    ) -> Result<Proposed, Refused> {
        match self.check_conf_change(change) {
            // etcd appends an empty entry in place of the change, and tells only its log; if it can append at all.
            Err(why) if self.etcd() => {
                if self.tracker.find(self.config.id).is_some() && self.transferee == PeerId::ZERO {
                    self.tell_of(|raft, say| say(Event::ConfChangeEmptied { change, conf: &raft.tracker.conf, why }));
                }
                self.propose(EntryKind::Normal, 0)
            }
            Err(why) => Err(why),
            Ok(()) => {
                let proposed = self.propose(kind, size);
                mutant!("change-at-append", _ = proposed.map(|_| self.apply_conf_change(change)));
                proposed
            }
        }
    }

    fn check_conf_change(&self, change: &ConfChange) -> Result<(), Refused> {
        if self.role != Role::Leader || !self.config.check_conf_changes {
            return Ok(());
        }
        if mutant!("two-changes", false, self.pending_conf_index > self.log.applied) {
            return Err(Refused::ConfChangePending { index: self.pending_conf_index });
        }
        // etcd takes any change without operations for one that leaves.
        let leaves = change.leaves_joint() || self.etcd() && change.ops.is_empty();
        match (self.tracker.is_joint(), leaves) {
            (true, false) => Err(Refused::MustLeaveJoint),
            (false, true) => Err(Refused::NotJoint),
            // etcd finds out when it applies the change.
            _ if self.etcd() => Ok(()),
            _ => match Draft::change(&self.tracker.conf, change) {
                Ok(_) => Ok(()),
                Err(error) => Err(Refused::ConfChange { error }),
            },
        }
    }

    /// Takes a message from a peer, or one of our own that waited for a sync. `entries` is what is known of the entries
    /// of a [`Body::Append`]: `entries[0]` lies at `prev.index + 1`; empty for all others.
    ///
    /// # Errors
    /// [`StepError`]: the message had no effect beyond a newer term and a leader's sign of life.
    pub fn step(&mut self, message: Message, entries: &[EntryMeta]) -> Result<Stepped, StepError> {
        self.check(&message, entries)?;
        if !self.pass_term(&message) {
            return Ok(Stepped::default());
        }
        let Message { from, body, .. } = message;
        if self.observer.0.is_some() {
            self.tell_of_stranger(&message);
        }
        match body {
            Body::Vote { last, .. } => self.answer_vote(from, message.term, last, false),
            Body::PreVote { last } => self.answer_vote(from, message.term, last, true),
            Body::Append { prev, commit, .. } => {
                self.hear_leader(from)?;
                return self.handle_append(from, prev, entries, commit);
            }
            Body::Heartbeat { commit, read } => {
                self.hear_leader(from)?;
                self.send(from, Body::HeartbeatReply { read });
                return Ok(Stepped { lost: self.commit_as_told(from, commit), ..Stepped::default() });
            }
            Body::VoteReply { granted } => self.count_vote(from, granted, Role::Candidate),
            // A yes to what we asked in an older term is no yes to what we ask now. (etcd counts it.)
            Body::PreVoteReply { granted: true } if message.term.0 != self.term.0 + 1 && !self.etcd() => {}
            Body::PreVoteReply { granted } => self.count_vote(from, granted, Role::PreCandidate),
            Body::AppendAck { index } => self.handle_append_ack(from, index)?,
            Body::AppendReject { rejected, hint } => {
                return Ok(Stepped { lost: self.handle_append_reject(from, rejected, hint), ..Stepped::default() });
            }
            Body::HeartbeatReply { read } => self.handle_heartbeat_reply(from, read),
            Body::ReadIndex { id } => {
                if let Err(refused) = self.take_read(ReadRequest { from, id }) {
                    self.reject_read(from, id, refused);
                    return Err(StepError::ReadRefused { from, refused });
                }
            }
            Body::ReadIndexReply { id, index } => {
                if self.role == Role::Follower && from == self.lead {
                    self.read_states.push(ReadState { id, index });
                }
            }
            Body::ReadIndexReject { id, busy } => {
                self.lose_read(id, Refused::GivenUp { by: from, busy });
            }
            Body::TransferLeader { target } => {
                self.transfer_leader(target).map_err(|refused| StepError::TransferRefused { from, refused })?
            }
            Body::TimeoutNow => {
                if self.role == Role::Follower {
                    self.tell(Event::Transfer(from, TransferEvent::Received));
                    self.campaign_for_transfer();
                }
            }
            Body::Snapshot { .. } => unreachable!("refused by check"),
        }
        Ok(Stepped::default())
    }

    /// Takes the leader's [`Body::Snapshot`], when the snapshot file has arrived whole and verified: it covers `at`
    /// (which may be newer than the message says) with this membership. Whether the log was replaced; if not, the file
    /// is not needed.
    ///
    /// # Errors
    /// As [`Raft::step`], and if `conf` is no membership.
    pub fn step_snapshot(&mut self, message: Message, at: EntryId, conf: &ConfState) -> Result<bool, StepError> {
        let from = message.from;
        self.check_address(&message)?;
        let Body::Snapshot { payloads, .. } = message.body else {
            return Err(StepError::Malformed { from, what: "not a snapshot" });
        };
        self.check_payloads(from, payloads, &[])?;
        if at.index.0 > NUMBER_MAX || at.term > message.term && message.term != Term::ZERO {
            return Err(StepError::Malformed { from, what: "a snapshot from the future" });
        }
        let draft = Draft::restore(conf).map_err(|error| StepError::BadMembership { from, error })?;
        if !self.pass_term(&message) {
            return Ok(false);
        }
        self.hear_leader(from)?;
        let restored = self.restore(at, draft);
        self.tell(if restored { Event::Restored(at) } else { Event::SnapshotIgnored(at) });
        let index = if restored { self.log.last_index() } else { self.log.committed };
        self.send(from, Body::AppendAck { index });
        Ok(restored)
    }

    /// Asks for a linearizable read; the answer comes as a [`ReadState`]. What a leader gives up comes with
    /// [`Ready::reads_lost`](crate::Ready::reads_lost); what a follower has passed on may be lost on the way without a
    /// word: when it sees another leader or term, or has waited too long, the shell asks again under a new id.
    ///
    /// # Errors
    /// [`Refused`], with nothing done.
    pub fn read_index(&mut self, id: ReadId) -> Result<(), Refused> {
        self.take_read(ReadRequest { from: self.config.id, id })
    }

    /// The write of this ticket, and every write before it, is durable. If it installs a snapshot, the state machine
    /// goes on from there: entries handed out before are applied no more. (With etcd's rules the shell reports them as
    /// applied all the same, or what they took of `apply_size_max` is never given back.)
    pub fn synced(&mut self, ticket: SyncTicket) {
        let durable = self.durable_index();
        self.durable_term = self.durable_term.max(ticket.term);
        // In an older term the same entry may have been replaced and put back by writes that still wait; dropping it
        // from the unstable tail would let what lies in between shine through. Some later ticket covers it.
        if ticket.last.index == Index::ZERO {
            // Nothing to note.
        } else if mutant!("sync-of-another-term", true, ticket.term == self.term) {
            if self.observer.0.is_some() {
                self.tell_of_strange_sync(ticket.last);
            }
            self.log.unstable.stable_to(ticket.last);
            self.want_witnesses();
        } else {
            self.tell(Event::OlderSync { term: ticket.term });
        }
        if let Some(at) = ticket.snapshot {
            self.log.stable_snapshot_to(at);
            if self.log.unstable.snapshot.is_none() {
                self.conf_before_snapshot = None;
            }
        }
        if self.durable_index() > durable {
            self.stalled_ticks = 0;
        }
    }

    /// Committed entries up to `index` are applied, in order.
    pub fn applied(&mut self, index: Index) {
        let payload = self.log.applied_to(index);
        self.uncommitted_size = self.uncommitted_size.saturating_sub(payload);
        self.leave_joint_if_due();
    }

    /// An applied entry changes the membership: call this before `applied` says so. Returns the membership as of that
    /// entry, for the state machine's snapshots. An error means that the change does
    /// not fit the membership; every member gets the same one, and the shell treats the entry as empty. An empty
    /// payload of a conf-change entry is [`ConfChange::leave_joint`].
    ///
    /// # Errors
    /// Why the change does not fit.
    pub fn apply_conf_change(&mut self, change: &ConfChange) -> Result<ConfState, ConfChangeError> {
        if let Some(before) = &mut self.conf_before_snapshot {
            // An entry from before a snapshot that is on its way: our membership is the snapshot's already.
            **before = Draft::change(before, change)?.conf;
            return Ok((**before).clone());
        }
        let draft = Draft::change(&self.tracker.conf, change)?;
        self.install(draft);
        Ok(self.tracker.conf.clone())
    }

    /// A message to `peer` could not be delivered.
    pub fn report_unreachable(&mut self, peer: PeerId) {
        if self.role != Role::Leader || peer == self.config.id {
            return;
        }
        let Some(at) = self.tracker.find(peer) else { return self.tell(Event::NoProgress(peer)) };
        let progress = self.tracker.at_mut(at);
        if progress.state == ProgressState::Replicate {
            progress.become_probe();
        }
        self.tell_of(|raft, say| say(Event::Unreachable(peer, raft.tracker.at(at))));
    }

    /// How sending the snapshot of a [`Body::Snapshot`] to `peer` ended.
    pub fn report_snapshot(&mut self, peer: PeerId, ok: bool) {
        if self.role != Role::Leader {
            return;
        }
        let Some(at) = self.tracker.find(peer) else { return self.tell(Event::NoProgress(peer)) };
        let progress = self.tracker.at_mut(at);
        if progress.state != ProgressState::Snapshot {
            return;
        }
        if !ok {
            progress.pending_snapshot = Index::ZERO;
        }
        progress.become_probe();
        self.tell_of(|raft, say| say(Event::SnapshotReported { to: peer, ok, progress: raft.tracker.at(at) }));
        // Success: its acknowledgement comes soon. Failure: a heartbeat later is soon enough.
        self.tracker.at_mut(at).flow_paused = true;
    }

    /// Hands leadership to `target`; a follower passes the wish on to its leader. Until it is done, or an election
    /// timeout has passed, proposals are refused. A wish that is already true, or under way, is granted.
    ///
    /// # Errors
    /// [`Refused`], with nothing done.
    pub fn transfer_leader(&mut self, target: PeerId) -> Result<(), Refused> {
        if self.role != Role::Leader {
            return match self.lead {
                PeerId::ZERO => Err(Refused::NoLeader),
                lead => {
                    self.send(lead, Body::TransferLeader { target });
                    Ok(())
                }
            };
        }
        let Some(at) = self.tracker.find(target) else {
            self.tell(Event::NoProgress(target));
            return Err(Refused::NotVoter { target });
        };
        if mutant!("hand-over-to-a-witness", false, self.tracker.at(at).witness) {
            return Err(Refused::Witness { peer: target });
        }
        if !self.tracker.is_voter(target) {
            self.tell(Event::Transfer(target, TransferEvent::ToLearner));
            return Err(Refused::NotVoter { target });
        }
        if target == self.transferee {
            self.tell(Event::Transfer(target, TransferEvent::Repeated));
            return Ok(());
        }
        // A wish that is true already takes nothing from another. (With etcd it ends a transfer.)
        if self.transferee != PeerId::ZERO && (target != self.config.id || self.etcd()) {
            self.tell(Event::Transfer(self.transferee, TransferEvent::Aborted));
            self.end_transfer(TransferEnd::Replaced);
        }
        if target == self.config.id {
            self.tell(Event::Transfer(target, TransferEvent::ToOurselves));
            return Ok(());
        }
        self.tell(Event::Transfer(target, TransferEvent::Started));
        self.election_elapsed = 0;
        self.transferee = target;
        if mutant!("hand-over-unseen", true, self.tracker.at(at).matched == self.log.last_index()) {
            self.send(target, Body::TimeoutNow);
            self.tell(Event::Transfer(target, TransferEvent::ToldAtOnce));
        } else {
            self.want(at, Wanted::Append);
        }
        Ok(())
    }

    /// Says what a member's [`Config::priority`] is, for choosing whom to hand over to: a hint, which a member that is
    /// removed and added again loses.
    pub fn set_peer_priority(&mut self, peer: PeerId, priority: u8) {
        if let Some(progress) = self.tracker.get_mut(peer) {
            progress.priority = priority.min(PRIORITY_MAX);
        }
    }

    /// How much may be in flight to a peer from now on, in messages and in bytes: instead of
    /// [`Config::inflight_count_max`] and [`Config::inflight_size_max`], until it is removed. Counted and limited as there;
    /// with 0 messages the window is closed, and only heartbeats, snapshots and appends without entries go. So a shell
    /// decides who gets how much, and when: by what its own queues, or a budget of all groups together, have room for.
    pub fn set_peer_window(&mut self, peer: PeerId, count_max: usize, size_max: u64) {
        let Some(at) = self.tracker.find(peer) else { return };
        let progress = self.tracker.at_mut(at);
        progress.inflights.resize(count_max, size_max);
        if self.role == Role::Leader && progress.state == ProgressState::Replicate {
            progress.flow_paused = progress.inflights.is_full();
            if peer != self.config.id {
                self.want(at, Wanted::Entries);
            }
        }
    }

    /// A follower forgets its leader, so that it can vote for another before the lease runs out. For shells that know
    /// the leader to be dead.
    ///
    /// # Errors
    /// [`Refused::Lease`] if reads trust the lease.
    pub fn forget_leader(&mut self) -> Result<(), Refused> {
        if self.role != Role::Follower {
            return Ok(());
        }
        if self.config.read_policy == ReadPolicy::Lease {
            return Err(Refused::Lease);
        }
        if self.lead != PeerId::ZERO {
            self.tell_of(|raft, say| say(Event::LeaderForgotten(raft.lead)));
            self.lead = PeerId::ZERO;
        }
        Ok(())
    }

    /// The group is at rest: gives back the memory that busy times took, all but what its heartbeats need. What comes
    /// next takes it anew, so call it when nothing came for a while, not after every turn.
    pub fn shrink(&mut self) {
        self.log.shrink();
        self.tracker.shrink();
        self.reads.shrink();
        self.messages.shrink_to_fit();
        self.after_sync.shrink_to_fit();
        self.read_states.shrink_to_fit();
        self.spare = Vec::new();
    }

    // At the door.

    fn check_address(&self, message: &Message) -> Result<(), StepError> {
        let from = message.from;
        if message.to != self.config.id {
            return Err(StepError::NotForUs { to: message.to });
        }
        if message.term.0 > NUMBER_MAX {
            return Err(StepError::Malformed { from, what: "term out of bounds" });
        }
        // With etcd term 0 marks what needs no gate; a member that was never elected may send a snapshot so.
        let timeless = matches!(message.body, Body::ReadIndex { .. } | Body::ReadIndexReject { .. });
        if (message.term == Term::ZERO) != timeless && !self.etcd() {
            return Err(StepError::Malformed { from, what: "term missing, or where none belongs" });
        }
        Ok(())
    }

    fn check(&self, message: &Message, entries: &[EntryMeta]) -> Result<(), StepError> {
        self.check_address(message)?;
        let from = message.from;
        let malformed = |what| Err(StepError::Malformed { from, what });
        let answer = match message.body {
            Body::Snapshot { .. } => return Err(StepError::SnapshotDoor),
            Body::AppendAck { .. }
            | Body::AppendReject { .. }
            | Body::VoteReply { .. }
            | Body::PreVoteReply { .. }
            | Body::HeartbeatReply { .. }
            | Body::ReadIndexReply { .. }
            | Body::ReadIndexReject { .. } => true,
            _ => false,
        };
        // Our own word may come back when we are a member no longer; it says nothing then.
        let member = from == self.config.id || self.tracker.find(from).is_some();
        if from == PeerId::ZERO || answer && !member {
            return Err(StepError::UnknownPeer { from });
        }
        let to_ourselves =
            matches!(message.body, Body::AppendAck { .. } | Body::VoteReply { .. } | Body::PreVoteReply { .. });
        if from == self.config.id && !to_ourselves {
            return Err(StepError::Forged);
        }
        let Body::Append { prev, last, payloads, .. } = message.body else {
            return if entries.is_empty() { Ok(()) } else { malformed("entries beside a message without") };
        };
        if prev.index.0 > NUMBER_MAX || last.0 != prev.index.0 + entries.len() as u64 {
            return malformed("entries are not those of its range");
        }
        let mut term = prev.term;
        for meta in entries {
            if meta.term < term {
                return malformed("terms of entries go back");
            }
            term = meta.term;
        }
        if term > message.term {
            return malformed("an entry from a future term");
        }
        self.check_payloads(from, payloads, entries)
    }

    /// The gate of terms: whether the message goes on to its handler. A newer term makes us its follower; an older one
    /// is at best told of ours.
    fn pass_term(&mut self, message: &Message) -> bool {
        let Message { from, term, body, .. } = *message;
        if term == Term::ZERO || term == self.term {
            return true;
        }
        mutant!("old-terms-count", {
            if !matches!(body, Body::Vote { .. } | Body::PreVote { .. }) && term < self.term {
                return true;
            }
        });
        if term < self.term {
            // (With etcd only if it cannot count on our standing for election again.)
            let wakes = self.config.check_quorum || self.config.pre_vote || !self.etcd();
            match body {
                // A leader that cannot get our attention learns our term from this.
                Body::Append { .. } | Body::Heartbeat { .. } if wakes => {
                    self.send(from, Body::AppendAck { index: Index::ZERO });
                }
                Body::PreVote { last } => {
                    self.tell(Event::VoteAnswered { to: from, pre: true, last, granted: false });
                    self.send(from, Body::PreVoteReply { granted: false });
                }
                _ => self.tell(Event::OlderTerm(message)),
            }
            return false;
        }
        let lead = match body {
            Body::Vote { transfer: false, last } | Body::PreVote { last } if self.in_lease() => {
                let ticks_left = self.config.election_ticks.saturating_sub(self.election_elapsed);
                let pre = matches!(body, Body::PreVote { .. });
                self.tell(Event::LeaseHeld { from, pre, last, ticks_left });
                return false;
            }
            // A question about a term, or an answer to ours, is not the term itself.
            Body::PreVote { .. } | Body::PreVoteReply { granted: true } => {
                mutant!("pre-vote-moves-terms", self.become_follower(term, PeerId::ZERO));
                return true;
            }
            Body::Append { .. } | Body::Heartbeat { .. } | Body::Snapshot { .. } => from,
            _ => PeerId::ZERO,
        };
        self.tell(Event::NewerTerm(message));
        self.become_follower(term, lead);
        true
    }

    /// What a leader hears from who is no member has no effect.
    fn tell_of_stranger(&mut self, message: &Message) {
        let to_anybody = matches!(
            message.body,
            Body::Vote { .. } | Body::PreVote { .. } | Body::ReadIndex { .. } | Body::TransferLeader { .. }
        );
        if self.role == Role::Leader && !to_anybody && self.tracker.find(message.from).is_none() {
            self.tell(Event::NoProgress(message.from));
        }
    }

    /// A write's last entry that is not in the unstable tail does not count.
    fn tell_of_strange_sync(&mut self, last: EntryId) {
        match self.log.unstable.term(last.index) {
            Some(_) if self.log.unstable.meta(last.index).is_none() => {
                self.tell(Event::SyncIsSnapshot { index: last.index });
            }
            None => self.tell(Event::SyncMissing { index: last.index }),
            Some(term) if term != last.term => self.tell(Event::SyncMismatch { written: last, term }),
            Some(_) => {}
        }
    }

    /// Whether the leader was heard of so recently that nobody else shall be elected (thesis 4.2.3).
    pub(crate) fn in_lease(&self) -> bool {
        let heard = self.lead != PeerId::ZERO && self.election_elapsed < self.config.election_ticks;
        mutant!("votes-within-a-lease", false, self.config.check_quorum) && (heard || self.may_have_given_lease())
    }

    /// A sign of life of the leader of our term.
    fn hear_leader(&mut self, from: PeerId) -> Result<(), StepError> {
        match self.role {
            Role::Leader => return Err(StepError::SecondLeader { from, term: self.term }),
            Role::Candidate | Role::PreCandidate => self.become_follower(self.term, from),
            Role::Follower => {}
        }
        self.election_elapsed = mutant!("deaf-to-leaders", self.election_elapsed, 0);
        self.lets_others_first = true;
        self.lead = from;
        Ok(())
    }

    // Roles.

    fn reset(&mut self, term: Term) {
        mutant!("vote-dropped-with-the-role", self.vote = PeerId::ZERO);
        let led = self.role == Role::Leader && !self.etcd();
        let before = self.term;
        if led {
            self.end_transfer(TransferEnd::SteppedDown);
            let unsettled = (self.log.committed, self.log.last_index());
            self.notices.get_or_insert_default().stepped_down = Some(SteppedDown { term: before, unsettled });
        }
        if self.term != term {
            assert!(term > self.term, "terms only grow");
            self.term = term;
            self.vote = PeerId::ZERO;
        }
        self.lead = PeerId::ZERO;
        self.lets_others_first = false;
        self.election_elapsed = 0;
        self.heartbeat_elapsed = 0;
        self.draw_election_timeout();
        self.transferee = PeerId::ZERO;
        let (own, last) = (self.config.id, self.log.last_index());
        for (id, progress) in self.tracker.iter_mut() {
            let matched = if id == own { last } else { Index::ZERO };
            progress.reset(matched, last.next());
        }
        self.sends_wanted = false;
        self.heartbeat_wanted = false;
        self.pending_conf_index = Index::ZERO;
        self.uncommitted_size = 0;
        if led {
            self.give_up_reads(before);
        }
        // With etcd what waits for a first commit of ours waits on, whoever leads in between.
        self.reads.reset();
        (self.lease_until, self.lease_broken) = (0, false);
    }

    /// Leadership of `term` is over: whoever asked for a read is told.
    fn give_up_reads(&mut self, term: Term) {
        let refused = Refused::SteppedDown { term };
        while let Some(ReadRequest { from, id }) = self.reads.give_up() {
            if from == self.config.id {
                self.lose_read(id, refused);
            } else {
                self.reject_read(from, id, refused);
            }
        }
    }

    /// Nobody is handed leadership any more.
    pub(crate) fn end_transfer(&mut self, how: TransferEnd) {
        let target = std::mem::take(&mut self.transferee);
        if target != PeerId::ZERO && !self.etcd() {
            self.notices.get_or_insert_default().transfers_ended.push(TransferEnded { target, how });
        }
    }

    pub(crate) fn become_follower(&mut self, term: Term, lead: PeerId) {
        self.reset(term);
        self.role = Role::Follower;
        self.lead = lead;
        self.tell(Event::Became);
    }

    pub(crate) fn become_pre_candidate(&mut self) {
        assert!(self.role != Role::Leader, "a leader has nothing to ask");
        self.lets_others_first = false;
        for (_, progress) in self.tracker.iter_mut() {
            progress.vote = None;
        }
        self.lead = PeerId::ZERO;
        self.role = Role::PreCandidate;
        self.tell(Event::Became);
    }

    pub(crate) fn become_candidate(&mut self) {
        assert!(self.role != Role::Leader, "a leader has nothing to ask");
        self.reset(Term(self.term.0 + 1));
        self.vote = self.config.id;
        self.role = Role::Candidate;
        self.tell(Event::Became);
    }

    pub(crate) fn become_leader(&mut self) {
        assert!(self.role == Role::Candidate, "only a candidate can win");
        self.reset(self.term);
        self.role = Role::Leader;
        self.lead = self.config.id;
        if let Some(own) = self.tracker.get_mut(self.config.id) {
            own.become_replicate();
            own.recently_active = true;
        }
        // Conservative: some change of membership may lie in the tail; looking for it is not worth while.
        self.pending_conf_index = mutant!("inherited-changes-forgotten", Index::ZERO, self.log.last_index());
        self.append_own(EntryKind::Normal, 0);
        self.tell(Event::Became);
        self.broadcast_append();
    }

    /// Splitmix64: the timeouts of members need to differ, nothing more.
    fn draw_election_timeout(&mut self) {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let ticks = u64::from(self.config.election_ticks);
        self.election_timeout = u32::try_from(ticks + z % ticks).unwrap_or(u32::MAX);
    }

    // Memberships.

    pub(crate) fn install(&mut self, draft: Draft) {
        self.tracker.install(draft, self.log.last_index(), &window(&self.config));
        self.tell_of(|raft, say| say(Event::Configured(&raft.tracker.conf)));
        if self.role != Role::Leader {
            return;
        }
        let own = self.config.id;
        if !self.tracker.is_voter(own) {
            if !self.config.step_down_on_removal {
                return;
            }
            // Until somebody takes over, the log goes on to everybody else.
            if self.etcd() || !self.hand_over() {
                self.become_follower(self.term, PeerId::ZERO);
                return;
            }
        }
        // Who gave us a lease may be no quorum of this membership.
        self.lease_until = 0;
        // A smaller quorum may have reached more; if not, new members shall at least be probed.
        if !self.advance_commit() {
            for at in 0..self.tracker.count() {
                if self.tracker.id(at) != own {
                    self.want(at, Wanted::Entries);
                }
            }
        }
        // It may also have confirmed more reads, and nobody may be left to confirm any.
        if !self.etcd() {
            self.release_reads();
        }
        if self.transferee != PeerId::ZERO && !self.tracker.is_voter(self.transferee) {
            self.end_transfer(TransferEnd::NotVoter);
        }
    }

    /// The leader leaves a joint configuration by itself, once the entering of it is applied here.
    pub(crate) fn leave_joint_if_due(&mut self) {
        let applied = mutant!("leaves-joint-twice", true, self.log.applied >= self.pending_conf_index);
        let due = mutant!("never-leaves-joint", false, self.tracker.conf.auto_leave && applied);
        if !due || self.role != Role::Leader {
            return;
        }
        if self.transferee != PeerId::ZERO {
            self.tell_of(|raft, say| say(Event::JointKept(&raft.tracker.conf, raft.transferee)));
        } else {
            self.pending_conf_index = self.append_own(EntryKind::ConfChangeV2, 0).index;
            self.broadcast_entries();
            self.tell_of(|raft, say| say(Event::JointLeaving(&raft.tracker.conf)));
        }
    }

    /// A snapshot takes the place of our log, unless we are beyond it. It need not know of us: it may be older than the
    /// change that made us a member, which then comes with the log. (etcd ignores such a snapshot, and is sent it
    /// again.)
    fn restore(&mut self, at: EntryId, draft: Draft) -> bool {
        if mutant!("snapshot-over-newer-log", false, at.index <= self.log.committed) {
            return false;
        }
        // With etcd it must name us.
        if self.etcd() && !draft.members.iter().any(|(id, _)| *id == self.config.id) {
            self.tell(Event::SnapshotWithoutUs(at, &draft.conf));
            return false;
        }
        if self.log.holds(at) {
            self.tell(Event::FastForwarded(at));
            self.log.commit_to(at.index);
            return false;
        }
        self.tell_of(|raft, say| say(Event::RestoreStarts { at, log: raft.log.summary() }));
        self.drop_appends_after(Index::ZERO);
        self.log.restore(at);
        // With etcd an entry from before the snapshot would change the snapshot's membership.
        if self.conf_before_snapshot.is_none() && !self.etcd() {
            self.conf_before_snapshot = Some(Box::new(self.tracker.conf.clone()));
        }
        self.install(draft);
        true
    }
}
