//! One shard: the loop that everything passes through.
//!
//! A turn: take completions -> decode frames -> step raft -> take the `Ready` of every touched group -> one WAL batch,
//! one gather-send per stream -> one submit-and-wait (the beginning of the next turn). What arrives while a batch is
//! syncing forms the next batch.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use ringraft_engine::{BatchNo, Engine, EngineError, GroupLog, RepairError, Write};
use ringraft_io::{Completion, Io, Time, Token};
use ringraft_raft::record;
use ringraft_raft::{
    Body, EntryId, GroupId, HardState, Message, Payloads, PeerId, Raft, Ready, SteppedDown, Storage as _, SyncTicket,
    Term, TransferEnd,
};
use ringraft_transport::{PeerStatus, SendOutcome, Transport};

use super::core::Core;
use super::error::NodeError;
use super::mend::{Leader, Next};
use super::snapshots::Snapshots;
use crate::machine::StateMachine;

/// One shard of a node in the world `I`, with a state machine `M` per group.
pub struct Shard<I: Io, M: StateMachine> {
    pub(crate) io: I,
    pub(crate) core: Core<M>,
    pub(crate) engine: Engine,
    pub(crate) transport: Transport,
    pub(crate) snapshots: Snapshots<M>,
    held: Held,
    // Reused from turn to turn.
    completions: Vec<Completion>,
    ready: Ready,
    runs: Vec<Bytes>,
    unreachable: Vec<(usize, PeerId)>,
    waiting: Vec<usize>,
    no_segment: bool,
    /// Something was written since the log was last looked after.
    wrote: bool,
    /// The next turn must not wait: there is more to apply.
    again: bool,
}

/// What waits for writes to become durable, in the order of the batches.
#[derive(Default)]
struct Held {
    messages: VecDeque<(BatchNo, usize, Message)>,
    tickets: VecDeque<(BatchNo, usize, SyncTicket, Option<EntryId>)>,
}

impl Held {
    /// Whether something waits for no later batch than `durable`.
    fn is_due(&self, durable: BatchNo) -> bool {
        let message = self.messages.front().map(|(no, ..)| *no);
        let ticket = self.tickets.front().map(|(no, ..)| *no);
        message.into_iter().chain(ticket).any(|no| no <= durable)
    }
}

impl<I: Io, M: StateMachine> Shard<I, M> {
    pub(crate) fn new(io: I, core: Core<M>, engine: Engine, transport: Transport, snapshots: Snapshots<M>) -> Self {
        Shard {
            io,
            core,
            engine,
            transport,
            snapshots,
            held: Held::default(),
            completions: Vec::new(),
            ready: Ready::default(),
            runs: Vec::new(),
            unreachable: Vec::new(),
            waiting: Vec::new(),
            no_segment: false,
            wrote: false,
            again: false,
        }
    }

    /// One turn of the loop; waits for something to do first, without end if nothing is due: whoever wants it to return
    /// wakes it ([`Io::wake`]).
    ///
    /// # Errors
    /// What ends the shard for good: its log has failed or is damaged, or the world is broken.
    pub fn turn(&mut self) -> Result<(), NodeError> {
        let mut completions = std::mem::take(&mut self.completions);
        self.io.turn(self.next_deadline(), &mut completions).map_err(NodeError::World)?;
        self.core.now = self.io.now();
        self.core.agenda.slept(self.core.now, self.wants_tick());
        for completion in completions.drain(..) {
            self.complete(completion)?;
        }
        self.completions = completions;
        self.core.read_post();
        let ticked = self.tick();
        self.again = false;
        self.drive()?;
        if ticked {
            self.mend()?;
        }
        self.snapshots.drive(&mut self.io, &mut self.core, &mut self.engine)?;
        let mut unsent = Vec::new();
        for (group, leader, payload) in self.core.forwards.drain(..) {
            if self.transport.send_proposal(leader, group, payload.clone()) != SendOutcome::Queued {
                unsent.push(payload);
            }
        }
        for payload in unsent {
            self.core.not_forwarded(&payload);
        }
        self.engine.submit(&mut self.io);
        self.transport.flush(&mut self.io);
        self.transport.report(&mut self.core);
        self.core.clients.flush(&mut self.io);
        let io = &mut self.io;
        self.core.post.deliver(|shard| io.wake(shard));
        Ok(())
    }

    /// When the shard wants its next turn at the latest; `None`: when something happens.
    pub fn next_deadline(&self) -> Option<Time> {
        if self.again {
            return Some(self.core.now);
        }
        let post = self.core.post.is_stuck().then(|| self.core.now + Duration::from_micros(50));
        let tick = self.core.agenda.next_deadline(self.wants_tick());
        [self.transport.next_deadline(), post, tick].into_iter().flatten().min()
    }

    /// Whether something is to be looked after at the next tick, beside the groups.
    fn wants_tick(&self) -> bool {
        self.wrote || self.no_segment || self.snapshots.wants_tick() || self.core.wants_tick()
    }

    fn complete(&mut self, completion: Completion) -> Result<(), NodeError> {
        let completion = match self.transport.complete(&mut self.io, completion, &mut self.core) {
            None => return Ok(()),
            Some(completion) => completion,
        };
        match completion {
            Completion::Written { token, .. } | Completion::JobDone { token, .. } if self.engine.owns(token) => {
                self.wrote = true;
                match self.engine.complete(&mut self.io, completion) {
                    Ok(Some(batch)) => self.release(batch),
                    Ok(None) => {
                        self.no_segment = false;
                        Ok(())
                    }
                    Err(error @ EngineError::NoSegment { .. }) => {
                        // Entries wait, votes and compactions go on; it is tried again at every tick, and told once.
                        if !std::mem::replace(&mut self.no_segment, true) {
                            eprintln!("{error}");
                        }
                        Ok(())
                    }
                    Err(error) => Err(error.into()),
                }
            }
            Completion::JobDone { token, result } => {
                if self.snapshots.job_done(&mut self.io, &mut self.core, &self.engine, token, result) {
                    // A snapshot being installed must reach the log before entries that follow it are staged there.
                    self.drive()?;
                }
                Ok(())
            }
            Completion::FileSent { token, result } => {
                self.snapshots.sent(&mut self.core, token, &result);
                Ok(())
            }
            Completion::FileReceived { greeting, path } => {
                self.snapshots.received(&mut self.io, &greeting, path);
                Ok(())
            }
            Completion::Woken => Ok(()),
            other => {
                self.core.client_completion(&mut self.io, other);
                Ok(())
            }
        }
    }

    /// Everything up to `batch` is durable: lets go of what waited for it.
    fn release(&mut self, batch: BatchNo) -> Result<(), NodeError> {
        while self.held.messages.front().is_some_and(|(no, ..)| *no <= batch) {
            let (_, slot, message) = self.held.messages.pop_front().expect("it is there");
            if message.to == self.core.config.node {
                self.core.step_own(slot, message);
            } else {
                self.send(slot, message);
            }
        }
        while self.held.tickets.front().is_some_and(|(no, ..)| *no <= batch) {
            let (_, slot, ticket, snapshot) = self.held.tickets.pop_front().expect("it is there");
            self.core.synced(slot, ticket, snapshot);
        }
        Ok(())
    }

    /// Whether it is time for a tick, which is done then.
    fn tick(&mut self) -> bool {
        if !self.core.tick() {
            return false;
        }
        self.snapshots.tick(&mut self.core);
        if self.wrote || self.no_segment {
            self.engine.attest();
            self.engine.retry_segments();
            self.wrote = !self.snapshots.look(&mut self.core, &self.engine);
        }
        true
    }

    /// Goes on with the groups whose logs have lost something.
    fn mend(&mut self) -> Result<(), NodeError> {
        if self.core.mending.is_empty() {
            return Ok(());
        }
        for slot in std::mem::take(&mut self.core.mending) {
            if self.mend_group(slot)? {
                self.core.mending.push(slot);
            }
        }
        if self.core.mending.is_empty() {
            self.engine.forget_lost_groups();
        }
        Ok(())
    }

    /// Whether there is more to do.
    fn mend_group(&mut self, slot: usize) -> Result<bool, NodeError> {
        let group = &mut self.core.groups[slot];
        let (id, raft) = (group.id, &mut group.raft);
        let mend = group.mend.as_mut().expect("it is being mended");
        let leader = raft.leader().map(|peer| Leader { peer, term: raft.term() });
        // What is lost on the way is asked again.
        let mut ask = |message: &Message| {
            let _ = self.transport.send(id, message, std::iter::empty());
        };
        match mend.tick(leader) {
            Next::Wait => {}
            Next::AskTerms => mend.questions().for_each(|question| ask(&question)),
            Next::AskIndex(to, id) => {
                let from = self.core.config.node;
                ask(&Message { from, to, term: Term::ZERO, body: Body::ReadIndex { id } });
            }
            Next::Heal(leader, index) => {
                let hard = raft.storage().hard_state();
                let written = hard.term == leader.term && !raft.storage().has_staged() && group.installing.is_none();
                if written && raft.applied_index() >= index && self.engine.takes_compaction() {
                    let hard = HardState { vote: leader.peer, ..hard };
                    let batch = self.engine.heal(raft.storage_mut(), hard).map_err(|error| match error {
                        RepairError::Engine(error) => NodeError::Engine(error),
                        error => unreachable!("the log was cut at its first hole: {error}"),
                    })?;
                    mend.writes(leader.term, batch);
                }
            }
            Next::Finish(batch, term) if self.engine.durable() >= batch => {
                group.mend = None;
                group.votes_after = term;
                let applied = group.raft.applied_index();
                eprintln!("group {id}: repaired by its peers, up to entry {applied} of term {term}; it votes again");
                return Ok(false);
            }
            Next::Finish(..) => {}
        }
        Ok(true)
    }

    /// Takes the `Ready` of every touched group and does what it asks.
    fn drive_groups(&mut self) -> Result<(), NodeError> {
        for (slot, peer) in self.unreachable.drain(..) {
            self.core.report_group_unreachable(slot, peer);
        }
        self.core.seal_run();
        while let Some(slot) = self.core.next_touched() {
            if self.core.agenda.reading.contains(slot) {
                self.core.ask_reads(slot);
            }
            // What was only answered moves no date but to a later one.
            let mut moved = !self.core.agenda.has_date(slot);
            while self.core.groups[slot].raft.has_ready() {
                let raft = &self.core.groups[slot].raft;
                // The core may have appended an entry of its own (a new leader's): it is staged with the Ready.
                let own = if raft.last_index() > raft.storage().last_index() { record::encoded_len(0) } else { 0 };
                if !self.engine.has_room_for(raft.storage(), own) {
                    // The log has no room now: what the group says is kept by the core until a write completes.
                    self.waiting.push(slot);
                    break;
                }
                let mut ready = std::mem::take(&mut self.ready);
                self.core.groups[slot].raft.ready(&mut ready);
                let applies = ready.committed.0 < ready.committed.1;
                moved |= applies || ready.append.is_some() || ready.soft_state.is_some();
                let done = self.handle(slot, &mut ready);
                self.ready = ready;
                done?;
                if applies && self.core.groups[slot].raft.has_ready() {
                    // A long backlog is applied a lot at a time, so that the other groups have their turn.
                    self.waiting.push(slot);
                    self.again = true;
                    break;
                }
            }
            if moved {
                self.core.sleep(slot);
            }
        }
        for slot in self.waiting.drain(..) {
            self.core.wake(slot);
        }
        Ok(())
    }

    /// Drives the groups until nothing of what they said can be let go yet. An append that has nothing to write is as
    /// durable as what was written before it, perhaps already now: no completion would tell.
    fn drive(&mut self) -> Result<(), NodeError> {
        self.drive_groups()?;
        while self.held.is_due(self.engine.durable()) {
            self.release(self.engine.durable())?;
            self.drive_groups()?;
        }
        Ok(())
    }

    fn handle(&mut self, slot: usize, ready: &mut Ready) -> Result<(), NodeError> {
        let (after, upto) = ready.committed;
        let busy = ready.append.is_some() || after < upto;
        if busy {
            self.core.agenda.note_busy(slot);
        }
        if busy || ready.soft_state.is_some() || ready.commit.is_some() {
            self.core.agenda.changed.insert(slot);
        }
        if let Some(append) = &mut ready.append {
            self.core.write_own(slot, append.entries.0, append.entries.1);
            let write = Write { hard_state: append.hard_state, entries: append.entries, snapshot: append.snapshot };
            let batch = self.engine.append(self.core.groups[slot].raft.storage_mut(), write)?;
            for message in append.after_sync.hold() {
                self.held.messages.push_back((batch, slot, message));
            }
            self.held.tickets.push_back((batch, slot, append.ticket, append.snapshot));
        }
        // Ranges are turned into bytes before anything else can change the log.
        for message in ready.messages.drain(..) {
            self.send(slot, message);
        }
        if let Some(commit) = ready.commit {
            self.engine.note_commit(self.core.groups[slot].raft.storage_mut(), commit);
        }
        for read in ready.reads.drain(..) {
            self.core.groups[slot].reads.confirm(read.id, read.index);
        }
        if after < upto {
            let log = self.core.groups[slot].raft.storage();
            self.engine.read(&mut self.io, log, after, upto, &mut self.runs)?;
            for run in self.runs.drain(..) {
                self.core.apply(slot, &run)?;
            }
            self.core.applied(slot, upto);
        }
        for (id, refused) in ready.reads_lost.drain(..) {
            self.core.refuse_reads(slot, id, refused);
        }
        if self.core.agenda.reading.contains(slot) {
            self.core.serve_reads(slot);
        }
        if let Some(down) = ready.stepped_down {
            let handed_over = ready.transfers_ended.iter().any(|ended| ended.how == TransferEnd::SteppedDown);
            if !handed_over {
                self.give_up(slot, down);
            }
        }
        Ok(())
    }

    /// Leadership was lost: whoever waits for entries that were not committed is told that nobody knows. (After a
    /// hand-over they are with the next leader, and will most likely be applied: their clients wait on.) What the log has
    /// no more, or cannot be read, is left to the patience of its clients.
    fn give_up(&mut self, slot: usize, down: SteppedDown) {
        let group = &self.core.groups[slot];
        let log = group.raft.storage();
        let after = down.unsettled.0.max(group.raft.applied_index());
        let upto = down.unsettled.1.min(log.last_index());
        if after < upto && self.engine.read(&mut self.io, log, after, upto, &mut self.runs).is_ok() {
            for run in self.runs.drain(..) {
                self.core.give_up(&run, down.term);
            }
        }
        self.runs.clear();
    }

    fn send(&mut self, slot: usize, message: Message) {
        let group = &self.core.groups[slot];
        if group.mend.as_ref().is_some_and(|mend| !mend.says(&message)) {
            return;
        }
        match message.body {
            Body::Append { prev, last, payloads, .. } if prev.index < last => {
                assert!(payloads == Payloads::All, "memberships with witnesses are refused");
                let log = group.raft.storage();
                if self.engine.read(&mut self.io, log, prev.index, last, &mut self.runs).is_err() {
                    self.runs.clear();
                    self.unreachable.push((slot, message.to));
                    return;
                }
            }
            Body::Snapshot { .. } => {
                self.snapshots.send(&mut self.io, &mut self.core, &self.transport, slot, message);
                return;
            }
            _ => {}
        }
        if self.runs.len() > RUNS_JOIN {
            // Entries of many small turns lie in many pieces, and one send gathers few: copying is cheaper, too.
            let joined = Bytes::from(self.runs.concat());
            self.runs.clear();
            self.runs.push(joined);
        }
        match self.transport.send(group.id, &message, self.runs.drain(..)) {
            SendOutcome::Queued | SendOutcome::NeedsSnapshotChannel => {}
            outcome => {
                assert!(outcome != SendOutcome::TooLarge, "messages are bounded by raft's configuration");
                self.unreachable.push((slot, message.to));
            }
        }
    }

    /// The shard's groups.
    pub fn groups(&self) -> impl Iterator<Item = GroupView<'_, M>> {
        self.core.groups.iter().map(|group| GroupView {
            id: group.id,
            raft: &group.raft,
            machine: &group.machine,
            is_mending: group.mend.is_some(),
        })
    }

    /// How its peers are doing.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> {
        self.transport.status()
    }

    /// The world it lives in.
    pub fn io(&mut self) -> &mut I {
        &mut self.io
    }
}

/// A group to look at.
#[derive(Debug)]
pub struct GroupView<'a, M> {
    /// Which.
    pub id: GroupId,
    /// Its member of the raft group, with its log.
    pub raft: &'a Raft<GroupLog>,
    /// Its state.
    pub machine: &'a M,
    /// Its log has lost something that was durable, and its peers have not given back all of it yet: it does not vote.
    pub is_mending: bool,
}

/// Pieces of one append beyond which they are joined before they are sent.
const RUNS_JOIN: usize = 64;

/// Token spaces of those who share a shard's `Io`.
pub(crate) mod tokens {
    use super::Token;

    pub(crate) const ENGINE: u64 = 1 << 56;
    pub(crate) const TRANSPORT: u64 = 2 << 56;
    const SNAPSHOTS: u64 = 3 << 56;

    /// Which bits of a token tell whose it is.
    pub(crate) const MASK: u64 = 0xff << 56;

    /// The `n`th token of the snapshots.
    pub(crate) fn snapshots(n: u64) -> Token {
        Token(SNAPSHOTS | n)
    }
}
