//! What a shard knows and decides, apart from its doors to disk and network: groups, waiting requests, connections.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ringraft_engine::GroupLog;
use ringraft_io::{Completion, Io, ShardNo, StreamId, Time};
use ringraft_raft::Storage as _;
use ringraft_raft::record::{self, GroupSeed, Record, Records};
use ringraft_raft::{
    Body, ConfState, EntryId, EntryKind, EntryMeta, GroupId, Index, Message, Payloads, PeerId, Proposed, Raft, ReadId,
    Refused, Role, SyncTicket, Term,
};
use ringraft_transport::Inbound;
use ringraft_transport::handshake::SnapshotHead;

use super::agenda::Agenda;
use super::arena::Arena;
use super::config::NodeConfig;
use super::error::NodeError;
use super::mail::{Mail, Post, ReplyTo, RequestKind};
use super::mend::{Leader, Mend};
use super::reads::{Query, Reads};
use super::status::Board;
use super::waiters::{WaiterId, Waiters};
use crate::machine::StateMachine;
use crate::protocol::{Answer, Request, Status};
use crate::server::clients::{Clients, Place};

/// One raft group of this shard.
pub(crate) struct Group<M> {
    pub(crate) id: GroupId,
    pub(crate) seed: GroupSeed,
    pub(crate) raft: Raft<GroupLog>,
    pub(crate) machine: M,
    pub(crate) reads: Reads,
    /// A received snapshot whose mark in the log is being written, and the state it holds.
    pub(crate) installing: Option<(EntryId, M)>,
    /// Its log has lost something, which its peers are giving back.
    pub(crate) mend: Option<Box<Mend>>,
    /// Votes of this term and earlier ones may have been given and forgotten: no others are.
    pub(crate) votes_after: Term,
}

impl<M> Group<M> {
    pub(crate) fn new(id: GroupId, raft: Raft<GroupLog>, machine: M, first_read: u64) -> Group<M> {
        let seed = GroupSeed::of(id);
        let reads = Reads::new(first_read);
        Group { id, seed, raft, machine, reads, installing: None, mend: None, votes_after: Term::ZERO }
    }

    /// Whether the core may hear this.
    fn hears(&mut self, message: &Message) -> bool {
        match &mut self.mend {
            Some(mend) => mend.hears(message),
            None => !matches!(message.body, Body::Vote { .. }) || message.term > self.votes_after,
        }
    }

    /// The core has taken an append or a snapshot of this leader, which comes after `prev`; or it does not fit.
    fn joined(&mut self, leader: Leader, prev: EntryId) {
        let raft = &self.raft;
        let leads = raft.leader() == Some(leader.peer) && raft.term() == leader.term;
        let fits = || prev.index <= raft.commit() || raft.entry_term(prev.index) == Ok(prev.term);
        if let Some(mend) = self.mend.as_mut().filter(|_| leads && fits()) {
            mend.joined(leader);
        }
    }
}

/// See the module.
pub(crate) struct Core<M> {
    pub(crate) config: Arc<NodeConfig>,
    pub(crate) shard: ShardNo,
    pub(crate) now: Time,
    pub(crate) groups: Vec<Group<M>>,
    /// By the number of the group; [`NO_SLOT`] for those of other shards.
    slots: Vec<u32>,
    pub(crate) agenda: Agenda,
    pub(crate) clients: Clients,
    pub(crate) post: Post,
    pub(crate) forwards: Vec<(GroupId, PeerId, Bytes)>,
    /// Frames from peers that the core refused, by whatever reason.
    pub(crate) refused_messages: u64,
    /// Makes the empty state of a group.
    make: Box<dyn FnMut(GroupId) -> M>,
    board: Arc<Board>,
    arena: Arena,
    open_run: Option<OpenRun>,
    waiters: Waiters<ReplyTo>,
    /// Linearizable reads that wait, in all groups.
    reads_waiting: usize,
    /// Groups that are being mended.
    pub(crate) mending: Vec<usize>,
    origin: u64,
    metas: Vec<EntryMeta>,
    expired: Vec<Query>,
    answer: BytesMut,
}

/// Records of one group that are being written, one behind the other, and not shown to its log yet.
#[derive(Clone, Copy)]
struct OpenRun {
    slot: usize,
    first: Index,
    last: Index,
}

const NO_SLOT: u32 = u32::MAX;

/// Why a read is refused whose client does not read its answers.
const UNREAD: &str = "too many answers wait to be read; read them and try again";

/// In front of every command in the log: who proposed it, so that this one answers its client when it applies it.
pub(super) const ENVELOPE: usize = 16;

impl<M: StateMachine> Core<M> {
    pub(crate) fn new(
        config: Arc<NodeConfig>,
        shard: ShardNo,
        post: Post,
        board: Arc<Board>,
        now: Time,
        make: Box<dyn FnMut(GroupId) -> M>,
    ) -> Core<M> {
        let chunk_size = 1 << 20;
        let retired_max = config.cache_size_max / chunk_size + 64;
        // Unique to this shard in this run of the process: an entry proposed before a restart finds no waiter.
        let origin = config.incarnation ^ (u64::from(shard.0) << 48) ^ config.node.0.rotate_left(32);
        let waiters = Waiters::new(config.requests_max);
        let clients = Clients::new(config.connection_requests_max);
        Core {
            shard,
            now,
            groups: Vec::new(),
            slots: Vec::new(),
            agenda: Agenda::new(config.tick, now),
            clients,
            post,
            forwards: Vec::new(),
            refused_messages: 0,
            make,
            board,
            arena: Arena::new(chunk_size, retired_max),
            open_run: None,
            waiters,
            reads_waiting: 0,
            mending: Vec::new(),
            origin,
            metas: Vec::new(),
            expired: Vec::new(),
            answer: BytesMut::new(),
            config,
        }
    }

    /// The empty state of a group.
    pub(crate) fn new_machine(&mut self, group: GroupId) -> M {
        (self.make)(group)
    }

    pub(crate) fn add_group(&mut self, group: Group<M>) {
        let slot = self.groups.len();
        let number = usize::try_from(group.id.0).expect("groups are numbered from 0");
        if number >= self.slots.len() {
            self.slots.resize(number + 1, NO_SLOT);
        }
        self.slots[number] = u32::try_from(slot).expect("slots have 32 bits");
        if group.mend.is_some() {
            self.mending.push(slot);
        }
        self.groups.push(group);
        self.agenda.add();
    }

    /// Where a group of this shard is; `None`: it is not of this shard.
    pub(crate) fn slot(&self, group: GroupId) -> Option<usize> {
        let slot = *self.slots.get(usize::try_from(group.0).ok()?)?;
        (slot != NO_SLOT).then_some(slot as usize)
    }

    // ---- driving groups ----

    /// The group, to be told something: it knows what time it is, and will be asked what there is to do.
    pub(crate) fn wake(&mut self, slot: usize) -> &mut Group<M> {
        self.agenda.touched.insert(slot);
        self.catch_up(slot)
    }

    fn catch_up(&mut self, slot: usize) -> &mut Group<M> {
        let passed = self.agenda.passed(slot);
        let group = &mut self.groups[slot];
        match passed {
            0 => {}
            1 => group.raft.tick(),
            _ => group.raft.advance(passed),
        }
        group
    }

    /// The next group that may have something to say.
    pub(crate) fn next_touched(&mut self) -> Option<usize> {
        let slot = self.agenda.touched.pop()?;
        self.catch_up(slot);
        Some(slot)
    }

    /// The group has said all that it has to say for now: it sleeps until it is due.
    pub(crate) fn sleep(&mut self, slot: usize) {
        let ticks = self.groups[slot].raft.ticks_until_due();
        self.agenda.sleeps(slot, ticks);
    }

    /// Whether something waits for the next tick, beside the groups.
    pub(crate) fn wants_tick(&self) -> bool {
        !self.waiters.is_empty() || !self.mending.is_empty()
    }

    /// The next tick, if it is time for it; whether it is.
    pub(crate) fn tick(&mut self) -> bool {
        if !self.agenda.tick(self.now) {
            return false;
        }
        while let Some(slot) = self.agenda.next_due() {
            if self.catch_up(slot).raft.has_ready() {
                self.wake(slot);
            } else {
                // It was put off since.
                self.sleep(slot);
            }
        }
        self.expire();
        self.agenda.rest(|slot| {
            self.groups[slot].raft.shrink();
            self.groups[slot].reads.shrink();
        });
        self.publish();
        true
    }

    /// Gives up on requests that have waited too long, and asks again for reads that nobody has answered.
    fn expire(&mut self) {
        let stale = self.config.tick * self.config.election_ticks;
        let stale = Time(self.now.0.saturating_sub(u64::try_from(stale.as_nanos()).unwrap_or(u64::MAX)));
        let mut expired = std::mem::take(&mut self.expired);
        for _ in 0..self.agenda.reading.len() {
            let slot = self.agenda.reading.pop().expect("as many as counted");
            let reads = &mut self.groups[slot].reads;
            reads.retry(self.now, stale, &mut expired);
            let fresh = reads.has_fresh();
            if !reads.is_empty() {
                self.agenda.reading.insert(slot);
            }
            if fresh {
                self.wake(slot);
            }
        }
        self.reads_waiting -= expired.len();
        for query in expired.drain(..) {
            self.answer_error(query.to, Status::NoLeader, 0, "no leader confirmed this read in time; try again");
        }
        self.expired = expired;
        while let Some(to) = self.waiters.expired(self.now) {
            let text = "not confirmed in time: it may or may not take effect";
            self.answer_error(to, Status::Uncertain, 0, text);
        }
    }

    /// Writes what the groups are doing on the node's board.
    pub(crate) fn publish(&mut self) {
        let changed = &mut self.agenda.changed;
        if !changed.is_empty() {
            let groups = &self.groups;
            self.board.publish(self.shard, changed.iter().map(|slot| (slot, super::status::of_group(&groups[slot]))));
            changed.clear();
        }
    }

    /// Entries up to `upto` are applied.
    pub(crate) fn applied(&mut self, slot: usize, upto: Index) {
        self.groups[slot].raft.applied(upto);
        if self.has_grown(slot) {
            self.agenda.grown.insert(slot);
        }
    }

    /// Whether the group has applied enough since its last snapshot to take the next one.
    fn has_grown(&self, slot: usize) -> bool {
        let raft = &self.groups[slot].raft;
        let last = raft.storage().snapshot().unwrap_or_default();
        raft.applied_index().0 >= last.index.0 + self.config.snapshot_every
    }

    /// The groups that have applied enough since their last snapshot to take the next one.
    pub(crate) fn take_grown(&mut self, to: &mut VecDeque<usize>) {
        while let Some(slot) = self.agenda.grown.pop() {
            // Perhaps it took one since.
            if self.has_grown(slot) {
                to.push_back(slot);
            }
        }
    }

    /// A message of one group to a peer could not be queued.
    pub(crate) fn report_group_unreachable(&mut self, slot: usize, peer: PeerId) {
        self.wake(slot).raft.report_unreachable(peer);
    }

    /// Whether the log of a group of this shard holds this entry, or begins right behind it.
    pub(crate) fn holds(&self, group: GroupId, id: EntryId) -> bool {
        let raft = self.slot(group).map(|slot| &self.groups[slot].raft);
        raft.is_some_and(|raft| raft.storage().term(id.index).is_ok_and(|term| term == id.term))
    }

    /// Whether a snapshot of this group waits for its mark in the log to become durable.
    pub(crate) fn is_installing(&self, group: GroupId) -> bool {
        self.slot(group).is_some_and(|slot| self.groups[slot].installing.is_some())
    }

    /// How a snapshot went on its way to a peer.
    pub(crate) fn report_snapshot(&mut self, slot: usize, peer: PeerId, ok: bool) {
        self.wake(slot).raft.report_snapshot(peer, ok);
    }

    /// A snapshot has come for a group of ours, whole and verified; whether it replaces the log.
    pub(crate) fn install(&mut self, head: &SnapshotHead, from: PeerId, conf: &ConfState, machine: M) -> bool {
        let Some(slot) = self.slot(head.group) else { return false };
        self.seal_run();
        let body = Body::Snapshot { at: head.at, payloads: Payloads::All };
        let message = Message { from, to: self.config.node, term: head.term, body };
        if !self.groups[slot].hears(&message) {
            return false;
        }
        let installed = match self.wake(slot).raft.step_snapshot(message, head.at, conf) {
            Ok(installed) => installed,
            Err(_) => {
                self.refused_messages += 1;
                false
            }
        };
        if installed {
            let group = &mut self.groups[slot];
            group.raft.storage_mut().set_snapshot(head.at, conf.clone());
            group.installing = Some((head.at, machine));
        }
        self.groups[slot].joined(Leader { peer: from, term: head.term }, head.at);
        installed
    }

    pub(crate) fn report_unreachable(&mut self, peer: PeerId) {
        for slot in 0..self.groups.len() {
            if self.groups[slot].raft.role() == Role::Leader {
                self.report_group_unreachable(slot, peer);
            }
        }
    }

    /// A message of this node to itself, let go by a sync.
    pub(crate) fn step_own(&mut self, slot: usize, message: Message) {
        if self.wake(slot).raft.step(message, &[]).is_err() {
            self.refused_messages += 1;
        }
    }

    /// A write of this group is durable, and with it the mark of `snapshot`, if it had one.
    pub(crate) fn synced(&mut self, slot: usize, ticket: SyncTicket, snapshot: Option<EntryId>) {
        let group = self.wake(slot);
        if let Some((_, machine)) = group.installing.take_if(|(id, _)| Some(*id) == snapshot) {
            group.machine = machine;
        }
        group.raft.synced(ticket);
    }

    // ---- proposals ----

    /// Ends the run of records being written and shows it to its group's log.
    pub(crate) fn seal_run(&mut self) {
        if let Some(run) = self.open_run.take() {
            let bytes = self.arena.take();
            self.stage(run.slot, run.first, bytes);
        }
    }

    fn stage(&mut self, slot: usize, first: Index, run: Bytes) {
        let log = self.groups[slot].raft.storage_mut();
        log.stage(first, run).expect("records are encoded here or were checked on arrival");
    }

    /// Writes the record of an entry behind the open run, or into a new one.
    fn write_record(&mut self, slot: usize, id: EntryId, kind: EntryKind, parts: &[&[u8]]) {
        if self.open_run.is_some_and(|run| run.slot != slot || run.last.next() != id.index) {
            self.seal_run();
        }
        let run = self.open_run.get_or_insert(OpenRun { slot, first: id.index, last: id.index });
        run.last = id.index;
        let size: usize = parts.iter().map(|part| part.len()).sum();
        let out = self.arena.reserve(record::encoded_len(size));
        record::encode(self.groups[slot].seed, id, kind, parts, out);
    }

    /// Writes the entries among `after + 1 ..= last` that the core appended by itself: they have no payload.
    pub(crate) fn write_own(&mut self, slot: usize, after: Index, last: Index) {
        let log_last = self.groups[slot].raft.storage().last_index().max(after);
        let written = self.open_run.filter(|run| run.slot == slot).map_or(log_last, |run| run.last);
        if written >= last {
            return;
        }
        for index in written.0 + 1..=last.0 {
            let index = Index(index);
            let meta = self.groups[slot].raft.meta(index).expect("the core has appended it");
            assert_eq!(meta.size, 0, "an entry with a payload was never staged");
            self.write_record(slot, EntryId { term: meta.term, index }, meta.kind, &[]);
        }
        self.seal_run();
    }

    /// Proposes a payload made of `parts` to the group.
    fn propose(&mut self, slot: usize, parts: &[&[u8]]) -> Result<(), Refused> {
        let size: usize = parts.iter().map(|part| part.len()).sum();
        let size = u32::try_from(size).expect("requests are bounded");
        let group = self.wake(slot);
        let id = group.id;
        match group.raft.propose(EntryKind::Normal, size)? {
            Proposed::Appended(entry) => {
                self.write_own(slot, Index::ZERO, entry.index.prev());
                self.write_record(slot, entry, EntryKind::Normal, parts);
            }
            Proposed::Forward(leader) => self.forwards.push((id, leader, parts.concat().into())),
        }
        Ok(())
    }

    /// A forwarded proposal did not leave this node: its client may try again at once.
    pub(crate) fn not_forwarded(&mut self, payload: &[u8]) {
        if let Some(to) = payload.split_at_checked(ENVELOPE).and_then(|(envelope, _)| self.take_waiter(envelope)) {
            let text = "the leader cannot be reached from this node; try again";
            self.answer_error(to, Status::NoLeader, 0, text);
        }
    }

    /// Who waits for the command in this envelope, if it was proposed here.
    fn take_waiter(&mut self, envelope: &[u8]) -> Option<ReplyTo> {
        let number = |at: usize| u64::from_le_bytes(envelope[at..at + 8].try_into().expect("eight bytes"));
        if number(0) == self.origin { self.waiters.take(WaiterId(number(8))) } else { None }
    }

    // ---- requests ----

    /// A client's request, at the shard of its connection.
    pub(crate) fn route(&mut self, stream: StreamId, place: Place, id: u64, bytes: &[u8]) {
        let op = bytes.first().copied().unwrap_or_default();
        let to = ReplyTo { shard: self.shard, stream, place, id, op };
        let request = match Request::decode(bytes) {
            Ok(request) => request,
            Err(error) => return self.answer_error(to, error.status(), 0, &error.to_string()),
        };
        let kind = match &request {
            Request::Status => return self.answer_status(to),
            Request::Write(_) => RequestKind::Write,
            Request::Read(query) if query.serializable() => RequestKind::Query,
            Request::Read(_) => RequestKind::Read,
        };
        let Some(group) = request.group(self.config.groups).map(GroupId) else {
            return self.answer_error(to, Status::Malformed, 0, "there is no such group");
        };
        let shard = self.config.shard_of(group);
        if shard == self.shard {
            return self.request(group, to, kind, bytes, || Bytes::copy_from_slice(bytes));
        }
        let mail = Mail::Request { group, from: to, kind, request: Bytes::copy_from_slice(bytes) };
        if self.post.send(shard, mail).is_err() {
            self.answer_error(to, Status::Overloaded, 0, "the shard of this key is overloaded; try again");
        }
    }

    /// A request for a group of this shard. `keep` gives its bytes for longer.
    fn request(&mut self, group: GroupId, to: ReplyTo, kind: RequestKind, bytes: &[u8], keep: impl FnOnce() -> Bytes) {
        let slot = self.slot(group).expect("the configuration says that it is of this shard");
        let deadline = self.now + self.config.request_timeout;
        match kind {
            RequestKind::Write if record::encoded_len(ENVELOPE + bytes.len()) > self.config.record_size_max => {
                let text = format!("a request of {} bytes is more than a log record may have here", bytes.len());
                self.answer_error(to, Status::TooLarge, 0, &text);
            }
            RequestKind::Write => {
                let Ok(waiter) = self.waiters.park(to, deadline) else { return self.overloaded(to) };
                let envelope = [self.origin.to_le_bytes(), waiter.0.to_le_bytes()];
                if let Err(refused) = self.propose(slot, &[envelope.as_flattened(), bytes]) {
                    self.waiters.take(waiter);
                    self.refuse(slot, to, refused);
                }
            }
            RequestKind::Query => self.query(slot, to, bytes),
            RequestKind::Read if self.reads_waiting >= self.config.requests_max => self.overloaded(to),
            RequestKind::Read => {
                self.reads_waiting += 1;
                let query = Query { to, deadline, request: keep() };
                self.wake(slot).reads.push(query);
                self.agenda.reading.insert(slot);
            }
        }
    }

    fn overloaded(&mut self, to: ReplyTo) {
        self.answer_error(to, Status::Overloaded, 0, "too many requests wait at this node; try again");
    }

    fn answer_status(&mut self, to: ReplyTo) {
        if self.is_backed_up(to) {
            return self.answer_error(to, Status::Overloaded, 0, UNREAD);
        }
        let status = self.board.read(&self.config);
        let mut answer = BytesMut::new();
        Answer::encode_status(&status, &mut answer);
        self.deliver(to, &answer);
    }

    /// Whether so many answers wait to be read at the other end that a big one must be refused.
    fn is_backed_up(&mut self, to: ReplyTo) -> bool {
        if to.shard == self.shard {
            self.clients.is_backed_up(to.place, to.stream)
        } else {
            self.post.is_backed_up(to.shard)
        }
    }

    fn refuse(&mut self, slot: usize, to: ReplyTo, refused: Refused) {
        let leader = self.groups[slot].raft.leader().unwrap_or(PeerId::ZERO);
        let status = match refused {
            Refused::NoLeader | Refused::SteppedDown { .. } | Refused::GivenUp { busy: false, .. } => Status::NoLeader,
            Refused::GivenUp { busy: true, .. } => Status::Overloaded,
            _ if leader != PeerId::ZERO && leader != self.config.node => Status::NotLeader,
            _ => Status::Overloaded,
        };
        self.answer_error(to, status, leader.0, &format!("{refused}; try again"));
    }

    // ---- reads ----

    /// Asks for confirmation of this turn's reads of a group.
    pub(crate) fn ask_reads(&mut self, slot: usize) {
        let group = &mut self.groups[slot];
        group.reads.ask_of(group.raft.term(), group.raft.leader());
        let Some(id) = group.reads.ask(self.now) else { return };
        if let Err(refused) = group.raft.read_index(id) {
            self.refuse_reads(slot, id, refused);
        }
    }

    /// The reads under this mark, if they still wait for it, are not confirmed.
    pub(crate) fn refuse_reads(&mut self, slot: usize, id: ReadId, refused: Refused) {
        let mut queries = self.groups[slot].reads.refuse(id);
        self.reads_waiting -= queries.len();
        for query in queries.drain(..) {
            self.refuse(slot, query.to, refused);
        }
        self.groups[slot].reads.recycle(queries);
    }

    /// We led in `term`, and no more; whoever waits here for one of these entries to be committed is told so.
    pub(crate) fn give_up(&mut self, run: &[u8], term: Term) {
        let ours = Records::new(run).map_while(Result::ok).filter(|record| record.id.term == term);
        for (envelope, _) in ours.filter_map(|record| record.payload.split_at_checked(ENVELOPE)) {
            if let Some(to) = self.take_waiter(envelope) {
                let text = "leadership was lost before this was confirmed: it may or may not take effect";
                self.answer_error(to, Status::Uncertain, 0, text);
            }
        }
    }

    /// Serves the reads whose index is applied.
    pub(crate) fn serve_reads(&mut self, slot: usize) {
        let applied = self.groups[slot].raft.applied_index();
        while let Some(mut queries) = self.groups[slot].reads.servable(applied) {
            self.reads_waiting -= queries.len();
            for query in queries.drain(..) {
                self.query(slot, query.to, &query.request);
            }
            self.groups[slot].reads.recycle(queries);
        }
    }

    fn query(&mut self, slot: usize, to: ReplyTo, request: &[u8]) {
        if self.is_backed_up(to) {
            return self.answer_error(to, Status::Overloaded, 0, UNREAD);
        }
        let mut answer = std::mem::take(&mut self.answer);
        self.groups[slot].machine.query(request, &mut answer);
        self.deliver(to, &answer);
        answer.clear();
        self.answer = answer;
    }

    // ---- applying ----

    /// Applies a run of committed entries.
    pub(crate) fn apply(&mut self, slot: usize, run: &[u8]) -> Result<(), NodeError> {
        let mut answer = std::mem::take(&mut self.answer);
        for record in Records::new(run) {
            let group = &mut self.groups[slot];
            let record = record.ok().filter(|record| record.verify(group.seed));
            let Some(record) = record else {
                return Err(NodeError::DamagedEntry { group: group.id, after: group.raft.applied_index() });
            };
            if let Some(to) = self.apply_one(slot, record, &mut answer)? {
                self.deliver(to, &answer);
            }
            answer.clear();
        }
        self.answer = answer;
        Ok(())
    }

    /// Applies one entry; says who waits for the answer.
    fn apply_one(
        &mut self,
        slot: usize,
        record: Record<'_>,
        answer: &mut BytesMut,
    ) -> Result<Option<ReplyTo>, NodeError> {
        let group = &mut self.groups[slot];
        if record.kind != EntryKind::Normal {
            return Err(NodeError::UnknownEntry { group: group.id, entry: record.id });
        }
        let Some((envelope, command)) = record.payload.split_at_checked(ENVELOPE) else {
            // The no-op of a new leader.
            return Ok(None);
        };
        group.machine.apply(record.id.index, command, answer);
        Ok(self.take_waiter(envelope))
    }

    // ---- answers ----

    fn answer_error(&mut self, to: ReplyTo, status: Status, arg: u64, text: &str) {
        let mut answer = BytesMut::new();
        Answer::refusal(to.op, status, arg, text).encode(&mut answer);
        self.deliver(to, &answer);
    }

    /// Brings an answer to whoever asked.
    fn deliver(&mut self, to: ReplyTo, answer: &[u8]) {
        if to.shard != self.shard {
            self.post.answer(to, Bytes::copy_from_slice(answer));
        } else {
            self.clients.reply(to.place, to.stream, to.id, answer);
        }
    }

    // ---- doors ----

    pub(crate) fn read_post(&mut self) {
        while let Some(mail) = self.post.next() {
            match mail {
                Mail::Request { group, from, kind, request } => {
                    self.request(group, from, kind, &request, || request.clone());
                }
                Mail::Answer { to, answer } => self.deliver(to, &answer),
            }
        }
    }

    /// What is left of the completions: client connections.
    pub(crate) fn client_completion<I: Io>(&mut self, io: &mut I, completion: Completion) {
        match completion {
            Completion::Accepted { stream, .. } => self.clients.accept(io, stream),
            Completion::Received { stream, data } => {
                let Some(mut inbox) = self.clients.take_inbox(stream) else { return };
                let place = inbox.place;
                let outcome = inbox.feed(&data, |id, request| self.route(stream, place, id, request));
                self.clients.put_inbox(io, inbox, outcome);
            }
            Completion::Sent { stream, .. } => self.clients.sent(stream),
            Completion::Closed { stream, .. } => self.clients.closed(stream),
            _ => {}
        }
    }
}

impl<M: StateMachine> Inbound for Core<M> {
    fn append(&mut self, group: GroupId, message: Message, records: &[u8]) {
        let Some(slot) = self.slot(group) else {
            self.refused_messages += 1;
            return;
        };
        if !self.groups[slot].hears(&message) {
            return;
        }
        // The message may replace a tail that a run of this turn belongs to.
        self.seal_run();
        self.metas.clear();
        let mut size_max = 0;
        for record in Records::new(records).map_while(Result::ok) {
            size_max = size_max.max(record.bytes().len());
            self.metas.push(record.meta());
        }
        if size_max > self.config.record_size_max {
            // Once stepped it would have to be staged, and this log takes no such records.
            self.refused_messages += 1;
            return;
        }
        let metas = std::mem::take(&mut self.metas);
        let stepped = self.wake(slot).raft.step(message, &metas);
        self.metas = metas;
        match stepped {
            Ok(stepped) => {
                if let Body::Append { prev, .. } = message.body {
                    self.groups[slot].joined(Leader { peer: message.from, term: message.term }, prev);
                }
                if let Some(first) = stepped.appended {
                    let from = Records::new(records)
                        .map_while(Result::ok)
                        .take_while(|record| record.id.index < first)
                        .map(|record| record.bytes().len())
                        .sum();
                    let run = self.arena.copy(&records[from..]);
                    self.stage(slot, first, run);
                }
            }
            Err(_) => self.refused_messages += 1,
        }
    }

    fn message(&mut self, group: GroupId, message: Message) {
        let Some(slot) = self.slot(group) else {
            self.refused_messages += 1;
            return;
        };
        if self.groups[slot].hears(&message) && self.wake(slot).raft.step(message, &[]).is_err() {
            self.refused_messages += 1;
        }
    }

    fn proposal(&mut self, group: GroupId, from: PeerId, payload: &[u8]) {
        let Some(slot) = self.slot(group) else {
            self.refused_messages += 1;
            return;
        };
        // A refusal is not told: its proposer answers its client as uncertain when patience ends.
        let fits = record::encoded_len(payload.len()) <= self.config.record_size_max;
        // Two members that each take the other for the leader would send it to and fro.
        let returns = self.groups[slot].raft.leader() == Some(from);
        if payload.len() < ENVELOPE || !fits || returns || self.propose(slot, &[payload]).is_err() {
            self.refused_messages += 1;
        }
    }

    fn unreachable(&mut self, peer: PeerId) {
        self.report_unreachable(peer);
    }
}
