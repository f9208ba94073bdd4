//! The member: raft over the log engine, fed by the sockets. One thread, which waits only in [`Io::turn`].
//!
//! Entries are stored as etcd proposed them, one record each. A member never wants to lead, for a leader of etcd does
//! more than replicate (leases, compaction, snapshots of its own kind). It campaigns later than all others, because it
//! may be the only one left that has the newest entries; and if it wins, it brings the others up to date and hands over.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use ringraft_engine::{BatchNo, Engine, EngineError, GroupLog, MEMBERS_MAX, ReadError, Write};
use ringraft_io::{Completion, Io, Time};
use ringraft_raft::record::{self, GroupSeed, Record, Records};
use ringraft_raft::{
    Body, ConfChangeError, EntryId, EntryKind, EntryMeta, Index, Message, PeerId, ProgressState, Proposed, Raft,
    ReadId, Ready, Role, StepError, Storage as _, SyncTicket,
};
use ringraft_transport::etcd::dialect::{self, Inbound};
use ringraft_transport::etcd::raftpb::{self, ConfChange};
use ringraft_transport::etcd::requests::{InternalRaftRequest, LegacyRequest, Payload};

use super::members::{Members, address_of};
use super::net::{Arrived, Event, Net, Sayings};
use super::snapshots::{Snapshots, Stored};
use super::{FollowError, Output, Shared, Status};

/// What the member is told at start.
#[derive(Clone, Debug)]
pub(super) struct MemberConfig {
    pub(super) id: PeerId,
    pub(super) name: String,
    pub(super) tick: Duration,
    /// The last entry that is not wanted.
    pub(super) told: Index,
}

/// See the module.
pub(super) struct Member<I: Io> {
    io: I,
    config: MemberConfig,
    engine: Engine,
    raft: Raft<GroupLog>,
    seed: GroupSeed,
    /// What has arrived and was not looked at yet. Stands before the sockets: whoever waits there for an answer to one
    /// of these has to be let go first.
    events: VecDeque<Event>,
    net: Net,
    shared: Arc<Shared>,
    snapshots: Snapshots,
    membership: Membership,
    /// Writes that are not known to be durable, and what waits for them.
    held: VecDeque<Held>,
    /// Up to where entries were told.
    told: Index,
    /// A snapshot that is being installed.
    installing: Option<Stored>,
    next_tick: Time,
    /// Ticks until the name is said again.
    publish_wait: u32,
    requests: u64,
    /// Whether a read is wanted that shows how far the log is.
    frontier_wanted: bool,
    removed: bool,
    no_segment: bool,
    /// Whom messages did not get out to. Raft is told when nothing hangs on what it said before.
    unreachable: Vec<PeerId>,
    ready: Ready,
    completions: Vec<Completion>,
    runs: Vec<Bytes>,
}

/// Who belongs to the cluster, and what follows from it.
pub(super) struct Membership {
    /// As of the last entry applied.
    pub(super) members: Members,
    /// Where each is reached. Known before the log says so.
    pub(super) addresses: BTreeMap<PeerId, Vec<String>>,
    pub(super) cluster_version: String,
    /// The members as they were said to be when we asked: for others, until our log tells.
    pub(super) asked: Members,
}

struct Held {
    batch: BatchNo,
    messages: Vec<Message>,
    ticket: SyncTicket,
    snapshot: Option<EntryId>,
}

/// Bytes of entries that are taken before they are written.
const STAGED_MAX: usize = 4 << 20;

/// Bytes of entries that are told in one go.
const TELL_BYTES: u64 = 1 << 20;

/// Ticks between two tries to say our name.
const PUBLISH_TICKS: u32 = 30;

impl<I: Io> Member<I> {
    #[expect(clippy::too_many_arguments, reason = "its parts, each made elsewhere")]
    pub(super) fn new(
        io: I,
        config: MemberConfig,
        engine: Engine,
        raft: Raft<GroupLog>,
        net: Net,
        shared: Arc<Shared>,
        snapshots: Snapshots,
        membership: Membership,
    ) -> Member<I> {
        let next_tick = io.now() + config.tick;
        let seed = raft.storage().seed();
        let told = config.told;
        let mut member = Member {
            io,
            config,
            engine,
            raft,
            seed,
            events: VecDeque::new(),
            net,
            shared,
            snapshots,
            membership,
            held: VecDeque::new(),
            told,
            installing: None,
            next_tick,
            publish_wait: PUBLISH_TICKS / 10,
            requests: 0,
            frontier_wanted: true,
            removed: false,
            no_segment: false,
            unreachable: Vec::new(),
            ready: Ready::default(),
            completions: Vec::new(),
            runs: Vec::new(),
        };
        member.meet();
        member
    }

    /// Runs until it is told to stop, the member is removed, or its log ends.
    pub(super) fn run(mut self) -> Result<(), FollowError> {
        while !self.shared.is_stopping() {
            self.turn()?;
            if self.removed && self.told >= self.raft.applied_index() {
                return Err(FollowError::Removed);
            }
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<(), FollowError> {
        let busy = !self.events.is_empty() && self.engine.has_room_for(self.raft.storage(), 0);
        let until = if busy { self.io.now() } else { self.next_tick };
        let mut completions = std::mem::take(&mut self.completions);
        self.io.turn(Some(until), &mut completions).map_err(FollowError::World)?;
        for completion in completions.drain(..) {
            self.complete(completion)?;
        }
        self.completions = completions;
        self.take_events()?;
        for payload in self.shared.take_proposals() {
            self.propose(&payload);
        }
        self.tick();
        self.drive()?;
        self.engine.submit(&mut self.io);
        // Whoever is told of an entry finds it in the status.
        self.report();
        self.tell()
    }

    fn complete(&mut self, completion: Completion) -> Result<(), FollowError> {
        match completion {
            Completion::Written { token, .. } | Completion::JobDone { token, .. } if self.engine.owns(token) => {
                match self.engine.complete(&mut self.io, completion) {
                    Ok(Some(batch)) => self.release(batch),
                    Ok(None) => {
                        self.no_segment = false;
                        Ok(())
                    }
                    Err(error @ EngineError::NoSegment { .. }) => {
                        // It is tried again at every tick, and told once.
                        if !std::mem::replace(&mut self.no_segment, true) {
                            self.notice(error.to_string());
                        }
                        Ok(())
                    }
                    Err(error) => Err(error.into()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Everything up to `batch` is durable: lets go of what waited for it.
    fn release(&mut self, batch: BatchNo) -> Result<(), FollowError> {
        while self.held.front().is_some_and(|held| held.batch <= batch) {
            let held = self.held.pop_front().expect("it is there");
            if let Some(stored) = self.installing.take_if(|stored| Some(stored.at) == held.snapshot) {
                self.install(stored)?;
            }
            self.raft.synced(held.ticket);
            for message in held.messages {
                if message.to == self.config.id {
                    self.step(message, &[]);
                } else {
                    self.send(message)?;
                }
            }
        }
        Ok(())
    }

    // What arrives.

    fn take_events(&mut self) -> Result<(), FollowError> {
        if self.events.is_empty() {
            let mut events = Vec::new();
            self.net.inbox().take(&mut events);
            self.events = events.into();
        }
        let mut staged = 0;
        // Without room in the log they stay where they are, and others before the door.
        while self.engine.has_room_for(self.raft.storage(), 0) {
            let Some(event) = self.events.pop_front() else { break };
            match event {
                Event::Message(message) => staged += self.take_message(*message)?,
                Event::Snapshot(arrived) => self.take_snapshot(arrived)?,
                Event::Unreachable(peer) => self.raft.report_unreachable(peer),
                Event::Stream { peer, kind, ended } => self.shared.set_stream(peer, kind, ended),
                Event::Removed => {
                    self.notice("a member says that this one was removed".to_owned());
                    self.removed = true;
                }
            }
            if staged > STAGED_MAX {
                staged = 0;
                self.drive()?;
            }
        }
        Ok(())
    }

    /// Steps a message; gives how many bytes wait to be written with it.
    fn take_message(&mut self, message: raftpb::Message) -> Result<usize, FollowError> {
        let from = PeerId(message.from);
        match dialect::decode(message) {
            Ok(Inbound::Message { message, metas, entries }) => self.take_append(message, &metas, &entries),
            // Two members that each take the other for the leader would send it to and fro.
            Ok(Inbound::Proposals(_)) if self.raft.leader() == Some(from) => Ok(0),
            Ok(Inbound::Proposals(entries)) => {
                for entry in entries {
                    self.take_proposal(&entry);
                }
                Ok(0)
            }
            // A snapshot without its database has no effect.
            Ok(Inbound::Snapshot { .. } | Inbound::Nothing) => Ok(0),
            Err(error) => {
                self.notice(format!("a message that is none: {error}"));
                Ok(0)
            }
        }
    }

    fn take_append(
        &mut self,
        message: Message,
        metas: &[EntryMeta],
        entries: &[raftpb::Entry],
    ) -> Result<usize, FollowError> {
        let largest = metas.iter().map(|meta| meta.encoded_size()).max().unwrap_or(0);
        if largest > super::RECORD_MAX as u64 {
            return Err(FollowError::EntryTooLarge { bytes: largest });
        }
        let Some(first) = self.step(message, metas) else { return Ok(0) };
        let mut run = BytesMut::new();
        let new = entries.iter().zip(metas).skip_while(|(entry, _)| entry.index < first.0);
        new.for_each(|(entry, meta)| dialect::put_record(self.seed, entry, *meta, &mut run));
        let bytes = run.len();
        self.stage(first, run.freeze());
        Ok(bytes)
    }

    /// Steps a message; gives from where on entries are to be staged.
    fn step(&mut self, message: Message, metas: &[EntryMeta]) -> Option<Index> {
        match self.raft.step(message, metas) {
            Ok(stepped) => {
                if let Some(lost) = stepped.lost {
                    self.notice(format!("{}: entries {} to {} were lost", lost.peer, lost.last.next(), lost.acked));
                }
                stepped.appended
            }
            // A new member knows nobody until the log has told it.
            Err(StepError::UnknownPeer { .. }) => None,
            Err(error) => {
                self.notice(error.to_string());
                None
            }
        }
    }

    fn stage(&mut self, first: Index, run: Bytes) {
        self.raft.storage_mut().stage(first, run).expect("records are made here, and raft has taken them");
    }

    // What is proposed.

    /// Proposes a payload of ours.
    fn propose(&mut self, payload: &Bytes) {
        let entry = raftpb::Entry { data: Some(payload.clone()), ..raftpb::Entry::default() };
        self.take_proposal(&entry);
    }

    /// Proposes an entry, ours or one that another member has forwarded: appends it if we lead, or passes it on. What
    /// cannot be done now is dropped, as etcd does: its proposer waits in vain, and tries again.
    fn take_proposal(&mut self, entry: &raftpb::Entry) {
        let Ok(meta) = dialect::meta(entry) else { return };
        if meta.encoded_size() > super::RECORD_MAX as u64 {
            return;
        }
        match self.raft.propose(meta.kind, meta.size) {
            Ok(Proposed::Appended(id)) => {
                self.stage_own(Index::ZERO, id.index.prev());
                let mut run = BytesMut::new();
                let entry = raftpb::Entry { index: id.index.0, ..entry.clone() };
                dialect::put_record(self.seed, &entry, EntryMeta { term: id.term, ..meta }, &mut run);
                self.stage(id.index, run.freeze());
            }
            Ok(Proposed::Forward(leader)) => {
                let mut message = dialect::proposal(self.config.id, leader, Bytes::new());
                message.entries = vec![entry.clone()];
                if !self.net.send(message) {
                    self.notice(format!("a proposal is dropped: {:x} is not reached", leader.0));
                }
            }
            Err(refused) => self.notice(format!("a proposal is dropped: {refused}")),
        }
    }

    /// Stages the entries among `after + 1 ..= last` that raft has appended by itself: they have no payload.
    fn stage_own(&mut self, after: Index, last: Index) {
        let first = self.raft.storage().last_index().max(after).next();
        if first > last {
            return;
        }
        let mut run = BytesMut::new();
        for index in first.0..=last.0 {
            let meta = self.raft.meta(Index(index)).expect("raft has appended it");
            assert!(meta.size == 0, "an entry with a payload was never staged");
            let id = EntryId { term: meta.term, index: Index(index) };
            record::encode(self.seed, id, meta.kind, &[], &mut run);
        }
        self.stage(first, run.freeze());
    }

    // What raft wants done.

    fn drive(&mut self) -> Result<(), FollowError> {
        for peer in self.unreachable.drain(..) {
            self.raft.report_unreachable(peer);
        }
        loop {
            while self.raft.has_ready() && self.has_room() {
                let mut ready = std::mem::take(&mut self.ready);
                self.raft.ready(&mut ready);
                let done = self.handle(&mut ready);
                self.ready = ready;
                done?;
            }
            // What had nothing to write may be durable already.
            let durable = self.engine.durable();
            if self.held.front().is_none_or(|held| held.batch > durable) {
                return Ok(());
            }
            self.release(durable)?;
        }
    }

    fn has_room(&self) -> bool {
        let log = self.raft.storage();
        // A new leader's own entry is staged with its Ready.
        let own = if self.raft.last_index() > log.last_index() { record::encoded_len(0) } else { 0 };
        self.engine.has_room_for(log, own)
    }

    fn handle(&mut self, ready: &mut Ready) -> Result<(), FollowError> {
        if let Some(append) = &mut ready.append {
            self.stage_own(append.entries.0, append.entries.1);
            let write = Write { hard_state: append.hard_state, entries: append.entries, snapshot: append.snapshot };
            let batch = self.engine.append(self.raft.storage_mut(), write)?;
            let messages = append.after_sync.hold().collect();
            self.held.push_back(Held { batch, messages, ticket: append.ticket, snapshot: append.snapshot });
        }
        for message in ready.messages.drain(..) {
            self.send(message)?;
        }
        if let Some(commit) = ready.commit {
            self.engine.note_commit(self.raft.storage_mut(), commit);
        }
        if let Some(read) = ready.reads.drain(..).next_back() {
            self.frontier_wanted = false;
            self.shared.set_frontier(read.index);
        }
        let (after, upto) = ready.committed;
        if after < upto {
            self.apply(after, upto)?;
        }
        Ok(())
    }

    fn send(&mut self, message: Message) -> Result<(), FollowError> {
        let mut entries = Vec::new();
        match message.body {
            Body::Append { prev, last, .. } if prev.index < last => {
                for run in self.read(prev.index, last)? {
                    let found =
                        dialect::entries(&run).map_err(|_| FollowError::Damaged { index: prev.index.next() })?;
                    entries.extend(found);
                }
            }
            Body::Snapshot { .. } => {
                // Whoever needs one gets it from a leader of etcd's.
                self.raft.report_snapshot(message.to, false);
                return Ok(());
            }
            _ => {}
        }
        if let Some(words) = dialect::encode(&message, entries)
            && !self.net.send(words)
        {
            self.unreachable.push(message.to);
        }
        Ok(())
    }

    fn read(&mut self, after: Index, upto: Index) -> Result<Vec<Bytes>, FollowError> {
        let mut runs = std::mem::take(&mut self.runs);
        runs.clear();
        self.engine.read(&mut self.io, self.raft.storage(), after, upto, &mut runs)?;
        Ok(runs)
    }

    // What is applied: members, and what they say of themselves. All else is only told.

    fn apply(&mut self, after: Index, upto: Index) -> Result<(), FollowError> {
        let before = self.membership.sayings();
        let runs = self.read(after, upto)?;
        let mut index = after;
        for run in &runs {
            for record in Records::new(run) {
                let record = record.ok().filter(|record| record.verify(self.seed) && record.id.index == index.next());
                let record = record.ok_or(FollowError::Damaged { index: index.next() })?;
                index = record.id.index;
                self.apply_one(&record);
            }
        }
        self.runs = runs;
        self.raft.applied(upto);
        if self.membership.sayings() != before {
            self.meet();
        }
        Ok(())
    }

    fn apply_one(&mut self, record: &Record<'_>) {
        match record.kind {
            EntryKind::Normal => self.membership.take_payload(record.payload),
            EntryKind::ConfChange => {
                let Ok(change) = ConfChange::decode(record.payload) else {
                    return self.notice(format!("entry {}: not a change of membership", record.id.index));
                };
                if let Err(refused) = self.membership.apply(&change) {
                    return self.notice(format!("entry {}: a change without effect: {refused}", record.id.index));
                }
                self.change(record);
                self.removed |= self.membership.members.was_removed(self.config.id);
            }
            // etcd has no such entries; raft does.
            EntryKind::ConfChangeV2 => self.change(record),
        }
    }

    /// Tells raft of a change of membership that has an effect.
    fn change(&mut self, record: &Record<'_>) {
        let changed = dialect::conf_change(record.kind, record.payload).map_err(|error| error.to_string());
        let changed = changed.and_then(|change| {
            self.raft.apply_conf_change(&change).map_err(|error| ConfChangeError::to_string(&error))
        });
        if let Err(problem) = changed {
            self.notice(format!("entry {}: {problem}", record.id.index));
        }
    }

    /// The members are these now: dials them, and says so.
    fn meet(&mut self) {
        let others = self.membership.addresses.iter().filter(|(id, _)| **id != self.config.id);
        self.net.set_peers(&others.map(|(id, addresses)| (*id, addresses.clone())).collect());
        self.net.say(self.membership.sayings());
    }

    // Snapshots.

    fn take_snapshot(&mut self, arrived: Arrived) -> Result<(), FollowError> {
        let answer = match dialect::decode((*arrived.message).clone()) {
            Ok(Inbound::Snapshot { message, at, conf, data }) => {
                let ids = [&conf.voters, &conf.voters_outgoing, &conf.learners, &conf.learners_next];
                if ids.iter().map(|list| list.len()).sum::<usize>() > MEMBERS_MAX {
                    Err("too many members".to_owned())
                } else if self.installing.is_some() {
                    Err("another snapshot is being installed".to_owned())
                } else if at.index <= self.raft.commit() {
                    // What it says is known; raft answers with how far we are.
                    self.raft.step_snapshot(message, at, &conf).map(drop).map_err(|error| error.to_string())
                } else {
                    // Its files first: once raft has taken it there is no way back.
                    let members = Members::of_snapshot(&data, &conf, &self.membership.asked);
                    let stored = self.snapshots.keep(&arrived, at, members).map_err(FollowError::Snapshot)?;
                    match self.raft.step_snapshot(message, at, &conf) {
                        Ok(true) => {
                            self.raft.storage_mut().set_snapshot(at, conf);
                            self.installing = Some(stored);
                            // It must reach the log before entries that follow it are staged there.
                            self.drive()?;
                            Ok(())
                        }
                        Ok(false) => {
                            self.snapshots.forget(&stored);
                            Ok(())
                        }
                        Err(error) => {
                            self.snapshots.forget(&stored);
                            Err(error.to_string())
                        }
                    }
                }
            }
            Ok(_) => Err("not a snapshot".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        // Its sender may have given up.
        let _ = arrived.taken.try_send(answer);
        Ok(())
    }

    /// The log begins with this snapshot now, and that is durable.
    fn install(&mut self, stored: Stored) -> Result<(), FollowError> {
        self.notice(format!("the leader has sent a snapshot: the log begins after {}", stored.at));
        self.membership.replace(stored.members.clone());
        self.meet();
        self.snapshots.installed(stored);
        Ok(())
    }

    // What is told.

    /// Tells of committed entries, as long as somebody takes them.
    fn tell(&mut self) -> Result<(), FollowError> {
        let applied = self.raft.applied_index();
        // While a snapshot replaces the log, there is nothing in it to be told.
        while self.installing.is_none() && self.shared.outlet.has_room() {
            let base = self.raft.storage().base();
            if self.told < base.index {
                let database = self.snapshots.database(base);
                self.shared.tell(Output::Snapshot { at: base, database }, 0);
                self.told = base.index;
            }
            if self.told >= applied {
                return Ok(());
            }
            let log = self.raft.storage();
            let upto = log.limit(self.told, applied, TELL_BYTES).map_err(ReadError::from)?;
            let runs = self.read(self.told, upto)?;
            for run in &runs {
                for record in Records::new(run) {
                    let record = record.map_err(|_| FollowError::Damaged { index: self.told.next() })?;
                    let entry =
                        super::Entry { id: record.id, kind: record.kind, payload: run.slice_ref(record.payload) };
                    self.shared.tell(Output::Entry(entry), record.bytes().len());
                }
            }
            self.runs = runs;
            self.told = upto;
        }
        Ok(())
    }

    fn notice(&self, text: String) {
        self.shared.notice(text);
    }

    fn report(&self) {
        let status = self.raft.status();
        let conf = self.raft.conf_state();
        self.shared.set_status(|all| {
            *all = Status {
                term: status.term,
                leader: self.raft.leader(),
                role: status.role,
                is_voter: conf.voters.contains(&self.config.id),
                is_member: self.membership.members.get(self.config.id).is_some(),
                name: self.membership.members.get(self.config.id).map(|one| one.name.clone()).unwrap_or_default(),
                members: self.membership.members.iter().count(),
                last: status.last.index,
                durable: status.durable,
                commit: status.commit,
                applied: status.applied,
                ..std::mem::take(all)
            };
        });
    }

    // What passes with time.

    fn tick(&mut self) {
        if self.io.now() < self.next_tick {
            return;
        }
        self.next_tick = self.io.now() + self.config.tick;
        self.raft.tick();
        self.engine.attest();
        self.engine.retry_segments();
        self.hand_over();
        self.publish();
        if self.frontier_wanted && self.raft.leader().is_some() {
            self.requests += 1;
            // Refused: asked again with the next tick.
            let _ = self.raft.read_index(ReadId(self.request_id()));
        }
    }

    /// Gives leadership to whoever is furthest of those that live.
    fn hand_over(&mut self) {
        if self.raft.role() != Role::Leader || self.raft.status().transferee != PeerId::ZERO {
            return;
        }
        let voters = &self.raft.conf_state().voters;
        let others = self.raft.progress_all().filter(|(id, progress)| {
            *id != self.config.id
                && voters.contains(id)
                && progress.recently_active
                && progress.state == ProgressState::Replicate
        });
        let best = others.max_by_key(|(_, progress)| progress.matched).map(|(id, _)| id);
        if let Some(best) = best {
            self.notice(format!("leading only to hand over to {:x}", best.0));
            // Refused: tried again with the next tick.
            let _ = self.raft.transfer_leader(best);
        }
    }

    /// Says our name, until it has come back: who has none counts as not started.
    fn publish(&mut self) {
        let ours = self.membership.members.get(self.config.id);
        if self.raft.leader().is_none() || ours.is_none_or(|member| member.name == self.config.name) {
            return;
        }
        self.publish_wait = self.publish_wait.saturating_sub(1);
        if self.publish_wait > 0 {
            return;
        }
        self.publish_wait = PUBLISH_TICKS;
        self.requests += 1;
        let (request, id) = (self.request_id(), self.config.id.0);
        // Clusters that may have members of 3.4 know one form only, later ones both, those from 3.7 on the other only.
        let payload = if self.membership.takes_new_requests() {
            InternalRaftRequest::publish(request, id, &self.config.name).encode_to_vec()
        } else {
            LegacyRequest::publish(request, id, &self.config.name).encode_to_vec()
        };
        self.propose(&payload.into());
    }

    /// An id that no other request of the cluster has, as etcd makes them.
    fn request_id(&self) -> u64 {
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let millis = u64::try_from(millis & 0xff_ffff_ffff).expect("40 bits");
        self.config.id.0 << 48 | millis << 8 | self.requests & 0xff
    }
}

impl Membership {
    fn apply(&mut self, change: &ConfChange) -> Result<(), super::members::ChangeRefused> {
        self.members.apply(change)?;
        let id = PeerId(change.node_id);
        match self.members.get(id) {
            Some(member) => {
                self.addresses.insert(id, addresses(&member.peer_urls));
            }
            None => drop(self.addresses.remove(&id)),
        }
        Ok(())
    }

    fn replace(&mut self, members: Members) {
        self.addresses = members.iter().map(|(id, member)| (id, addresses(&member.peer_urls))).collect();
        self.members = members;
    }

    fn take_payload(&mut self, payload: &[u8]) {
        match Payload::decode(payload) {
            Payload::Request(request) => {
                if let Some(set) = request.cluster_version_set {
                    self.cluster_version = set.version;
                }
                if let Some(set) = request.cluster_member_attr_set
                    && let Some(said) = set.attributes
                {
                    self.members.set_attributes(PeerId(set.member_id), &said.name, &said.client_urls);
                }
            }
            Payload::Legacy(request) => {
                if !self.members.take_legacy(&request) && request.method == "PUT" && request.path == "/0/version" {
                    self.cluster_version = request.val;
                }
            }
            Payload::Empty | Payload::Unknown => {}
        }
    }

    fn sayings(&self) -> Sayings {
        let members = if self.members.iter().next().is_some() { &self.members } else { &self.asked };
        Sayings { members: members.to_json(), cluster_version: self.cluster_version.clone() }
    }

    fn takes_new_requests(&self) -> bool {
        let version = ringraft_transport::etcd::http::Version::parse(&self.cluster_version);
        version.is_some_and(|version| (version.major, version.minor) >= (3, 5))
    }
}

/// Where a member is reached, of those addresses that we can dial.
pub(super) fn addresses(urls: &[String]) -> Vec<String> {
    urls.iter().filter_map(|url| address_of(url).ok()).collect()
}
