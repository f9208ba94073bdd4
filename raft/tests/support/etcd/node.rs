//! One member as etcd's harness has it: the core, a storage, work lists, and a history of snapshots.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use ringraft_raft::{
    Body, Config, EntryId, EntryKind, HardState, Index, Message, PeerId, Proposed, Raft, ReadId, Ready, Refused, Role,
    StepError, Term,
};

use super::disk::Disk;
use super::lines::{DEBUG, ERROR, INFO, name};
use super::show::{APPEND_THREAD, APPLY_THREAD, Data, Entry, Inner, Msg, Snapshot};
use super::{Output, Reads};

const DROPPED: &str = "raft proposal dropped";

pub struct Node {
    pub raft: Raft<Disk>,
    pub history: Vec<Snapshot>,
    pub append_work: VecDeque<Msg>,
    pub apply_work: VecDeque<Msg>,
    is_async: bool,
    /// The log with all that entries carry, durable or not.
    log: BTreeMap<Index, Entry>,
    /// Where it began when it was last replaced.
    log_base: Index,
    /// What is to leave with the next Ready.
    messages: Vec<Msg>,
    hard: HardState,
    /// A snapshot that was stepped, until it is handed to the disk.
    arrived: Option<Snapshot>,
    ready: Ready,
    reads: Reads,
    out: Output,
}

impl Node {
    pub fn new(config: Config, disk: Disk, history: Vec<Snapshot>, is_async: bool, reads: Reads, out: Output) -> Node {
        let log = disk.entries.iter().map(|entry| (entry.index, entry.clone())).collect();
        let log_base = disk.base.index;
        let mut raft = Raft::new(config, disk).expect("a valid start");
        let (status, conf) = (raft.status(), raft.conf_state().clone());
        let (own, term) = (status.id.0, status.term);
        out.log(INFO, &format!("{own:x} switched to configuration {}", super::show::show_config(&conf)));
        out.log(INFO, &format!("{own:x} became follower at term {term}"));
        let mut voters: Vec<_> = conf.voters.iter().chain(&conf.voters_outgoing).map(|id| id.0).collect();
        voters.sort_unstable();
        voters.dedup();
        let peers = voters.iter().map(|id| format!("{id:x}")).collect::<Vec<_>>().join(",");
        let (last, commit, applied) = (status.last, status.commit, status.applied);
        out.log(
            INFO,
            &format!(
                "newRaft {own:x} [peers: [{peers}], term: {term}, commit: {commit}, applied: {applied}, lastindex: {}, \
                 lastterm: {}]",
                last.index, last.term
            ),
        );
        let listener = out.clone();
        raft.observe(Box::new(move |status, event| {
            for (severity, line) in super::lines::of(status, &event) {
                listener.log(severity, &line);
            }
        }));
        Node {
            hard: HardState { term: status.term, vote: status.vote, commit },
            raft,
            history,
            append_work: VecDeque::new(),
            apply_work: VecDeque::new(),
            is_async,
            log,
            log_base,
            messages: Vec::new(),
            arrived: None,
            ready: Ready::default(),
            reads,
            out,
        }
    }

    fn own(&self) -> u64 {
        self.raft.id().0
    }

    /// After every call into the core: names what it appended, and fetches what it has to say.
    pub fn collect(&mut self) {
        self.fill(self.raft.last_index());
        let mut messages = Vec::new();
        self.raft.take_messages(&mut messages);
        for message in messages {
            let shown = self.translate(message);
            self.messages.push(shown);
        }
    }

    /// Entries up to `upto` that nobody named are the core's own.
    fn fill(&mut self, upto: Index) {
        let from = self.log.keys().next_back().copied().unwrap_or(self.log_base).next();
        for index in from.0..=upto.0 {
            let index = Index(index);
            let meta = self.raft.meta(index).expect("the log has no holes");
            assert_eq!(meta.size, 0, "an entry of the core's own is empty");
            self.log.insert(index, Entry::empty(index, meta));
        }
    }

    fn range(&self, after: Index, upto: Index) -> Vec<Entry> {
        (after.0 + 1..=upto.0).map(|index| self.log[&Index(index)].clone()).collect()
    }

    /// A message of the core as etcd would send it.
    fn translate(&self, message: Message) -> Msg {
        let mut msg = Msg::new(name(&message.body), message.from.0, message.to.0, Inner::Raft(message));
        msg.term = message.term.0;
        let index = |index| EntryId { term: Term(0), index };
        match message.body {
            Body::Append { prev, last, commit, .. } => {
                msg.log = prev;
                msg.commit = commit.0;
                msg.entries = self.range(prev.index, last);
            }
            Body::AppendAck { index: acked } => msg.log = index(acked),
            Body::AppendReject { rejected, hint } => {
                msg.log = EntryId { term: hint.term, index: rejected };
                msg.reject = Some(hint.index.0);
            }
            Body::Vote { last, .. } | Body::PreVote { last } => msg.log = last,
            Body::VoteReply { granted } | Body::PreVoteReply { granted } => msg.reject = (!granted).then_some(0),
            Body::Heartbeat { commit, .. } => msg.commit = commit.0,
            Body::HeartbeatReply { .. } | Body::TimeoutNow => {}
            Body::Snapshot { .. } => msg.snapshot = self.history.last().cloned(),
            Body::ReadIndex { id } => msg.entries = vec![self.read(id)],
            Body::ReadIndexReply { id, index: at } => {
                msg.log = index(at);
                msg.entries = vec![self.read(id)];
            }
            Body::ReadIndexReject { .. } => unreachable!("etcd says nothing"),
            Body::TransferLeader { target } => msg.from = target.0,
        }
        msg
    }

    fn read(&self, id: ReadId) -> Entry {
        let data = Data::Normal(self.reads.name(id));
        Entry { term: Term(0), index: Index(0), kind: EntryKind::Normal, data }
    }

    // Requests.

    pub fn campaign(&mut self) {
        self.raft.campaign();
        self.collect();
    }

    pub fn tick(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.raft.tick();
            self.collect();
        }
    }

    /// Proposes on behalf of `from`.
    pub fn propose(&mut self, from: u64, kind: EntryKind, data: Data) -> Result<(), String> {
        self.fill(self.raft.last_index());
        let size = Entry { term: Term(0), index: Index(0), kind, data: data.clone() }.meta().size;
        let proposed = match &data {
            Data::Normal(_) => self.raft.propose(kind, size),
            Data::Change(change) => self.raft.propose_conf_change_as(kind, change, size),
        };
        match proposed {
            Ok(Proposed::Appended(id)) => {
                let meta = self.raft.meta(id.index).expect("just appended");
                if meta.kind == kind {
                    self.log.insert(id.index, Entry { term: id.term, index: id.index, kind, data });
                }
                self.collect();
                Ok(())
            }
            Ok(Proposed::Forward(leader)) => {
                let mut msg = Msg::new("MsgProp", from, leader.0, Inner::Proposal);
                msg.entries = vec![Entry { term: Term(0), index: Index(0), kind, data }];
                self.messages.push(msg);
                Ok(())
            }
            Err(refused) => {
                self.log_refusal(refused);
                Err(DROPPED.into())
            }
        }
    }

    fn log_refusal(&self, refused: Refused) {
        let (own, term) = (self.own(), self.raft.term());
        match refused {
            Refused::NoLeader => {
                self.out.log(INFO, &format!("{own:x} no leader at term {term}; dropping proposal"));
            }
            Refused::NotLeader { leader } => {
                let leader = leader.0;
                let text = format!("{own:x} not forwarding to leader {leader:x} at term {term}; dropping proposal");
                self.out.log(INFO, &text);
            }
            Refused::Transferring { target } => {
                self.out.log(DEBUG, &super::lines::busy(&format!("{own:x}"), term, target));
            }
            Refused::TooMuchUncommitted { .. } => {
                let text = "appending new entries to log would exceed uncommitted entry size limit; dropping proposal";
                self.out.log(DEBUG, &format!("{own:x} {text}"));
            }
            _ => {}
        }
    }

    pub fn transfer_leader(&mut self, target: u64) {
        if self.raft.transfer_leader(PeerId(target)) == Err(Refused::NoLeader) && self.raft.role() == Role::Follower {
            let (own, term) = (self.own(), self.raft.term());
            self.out.log(INFO, &format!("{own:x} no leader at term {term}; dropping leader transfer msg"));
        }
        self.collect();
    }

    pub fn forget_leader(&mut self) {
        if self.raft.forget_leader() == Err(Refused::Lease) {
            self.out.log(ERROR, "ignoring MsgForgetLeader due to ReadOnlyLeaseBased");
        }
    }

    pub fn read_index(&mut self, id: ReadId) {
        if self.raft.read_index(id) == Err(Refused::NoLeader) && self.raft.role() == Role::Follower {
            let (own, term) = (self.own(), self.raft.term());
            self.out.log(INFO, &format!("{own:x} no leader at term {term}; dropping index reading msg"));
        }
        self.collect();
    }

    pub fn report_unreachable(&mut self, peer: u64) {
        self.raft.report_unreachable(PeerId(peer));
        self.collect();
    }

    pub fn report_snapshot(&mut self, peer: u64, ok: bool) {
        self.raft.report_snapshot(PeerId(peer), ok);
        self.collect();
    }

    /// Steps a message that came over the network, or from a local worker.
    pub fn step(&mut self, msg: &Msg) -> Result<(), String> {
        self.fill(self.raft.last_index());
        let result = match &msg.inner {
            Inner::Proposal => {
                let entry = msg.entries[0].clone();
                return self.propose(msg.from, entry.kind, entry.data);
            }
            Inner::Synced(ticket) => {
                self.raft.synced(*ticket);
                Ok(())
            }
            Inner::Applied => {
                let last = msg.entries.last().expect("entries were applied").index;
                self.raft.applied(last);
                Ok(())
            }
            Inner::Append | Inner::Apply => unreachable!("work is no message"),
            Inner::Raft(message) => self.step_message(*message, msg),
        };
        self.collect();
        result
    }

    fn step_message(&mut self, message: Message, msg: &Msg) -> Result<(), String> {
        let answer = matches!(
            message.body,
            Body::AppendAck { .. }
                | Body::AppendReject { .. }
                | Body::VoteReply { .. }
                | Body::PreVoteReply { .. }
                | Body::HeartbeatReply { .. }
                | Body::ReadIndexReply { .. }
        );
        let conf = self.raft.conf_state();
        let members = [&conf.voters, &conf.voters_outgoing, &conf.learners];
        if answer && !members.iter().any(|ids| ids.contains(&message.from)) {
            return Err("raft: cannot step as peer not found".into());
        }
        if let (Body::Snapshot { .. }, Some(snapshot)) = (message.body, &msg.snapshot) {
            return match self.raft.step_snapshot(message, snapshot.at, &snapshot.conf) {
                Ok(true) => {
                    self.log.clear();
                    self.log_base = snapshot.at.index;
                    self.arrived = Some(snapshot.clone());
                    Ok(())
                }
                Ok(false) | Err(StepError::SecondLeader { .. }) => Ok(()),
                Err(error) => Err(error.to_string()),
            };
        }
        if matches!(message.body, Body::TimeoutNow) && matches!(self.raft.role(), Role::Candidate | Role::PreCandidate)
        {
            let (own, term, from) = (self.own(), self.raft.term(), message.from.0);
            if message.term == term {
                let role = self.raft.role();
                let text = format!("{own:x} [term {term} state State{role:?}] ignored MsgTimeoutNow from {from:x}");
                self.out.log(DEBUG, &text);
            }
        }
        let metas: Vec<_> = msg.entries.iter().map(Entry::meta).collect();
        let entries: &[_] = if matches!(message.body, Body::Append { .. }) { &metas } else { &[] };
        match self.raft.step(message, entries) {
            Ok(stepped) => {
                if let Some(first) = stepped.appended {
                    self.log.split_off(&first);
                    let new = msg.entries.iter().filter(|entry| entry.index >= first);
                    self.log.extend(new.map(|entry| (entry.index, entry.clone())));
                }
                Ok(())
            }
            // What etcd drops without a word.
            Err(StepError::SecondLeader { .. } | StepError::ReadRefused { .. } | StepError::TransferRefused { .. }) => {
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    // Turns.

    pub fn has_ready(&self) -> bool {
        self.raft.has_ready() || !self.messages.is_empty()
    }

    pub fn process_ready(&mut self, network: &mut Vec<Msg>) -> Result<(), String> {
        let mut ready = std::mem::take(&mut self.ready);
        self.raft.ready(&mut ready);
        assert!(ready.messages.is_empty(), "all messages were fetched");
        let entries = ready.append.as_ref().map_or(Vec::new(), |one| self.range(one.entries.0, one.entries.1));
        let hard = ready.append.as_ref().and_then(|one| one.hard_state);
        let at = ready.append.as_ref().and_then(|one| one.snapshot);
        let snapshot = at.map(|_| self.arrived.take().expect("a snapshot that arrived"));
        let committed = self.range(ready.committed.0, ready.committed.1);
        let after_sync: Vec<Msg> = match &mut ready.append {
            Some(append) => append.after_sync.hold().map(|message| self.translate(message)).collect(),
            None => Vec::new(),
        };
        let ticket = ready.append.as_ref().map(|one| one.ticket);
        let ticket = ticket.filter(|one| one.last().index > Index::ZERO || one.snapshot().is_some());

        let mut messages = std::mem::take(&mut self.messages);
        let (mut own, mut others) = (Vec::new(), Vec::new());
        if self.is_async {
            self.add_work(&ready, ticket, &entries, hard, snapshot.as_ref(), after_sync, &committed, &mut messages);
        } else {
            (own, others) = after_sync.into_iter().partition(|msg| msg.to == self.own());
        }
        messages.append(&mut others);
        self.show_ready(&ready, hard, &entries, snapshot.as_ref(), &committed, &messages);
        if !self.is_async {
            self.write(hard, &entries, snapshot.as_ref())?;
            self.apply(&committed);
        }
        self.collect();
        for msg in messages {
            match msg.to {
                APPEND_THREAD => self.append_work.push_back(msg),
                APPLY_THREAD => self.apply_work.push_back(msg),
                _ => network.push(msg),
            }
        }
        if !self.is_async {
            for msg in own {
                let Inner::Raft(message) = msg.inner else { unreachable!("the core's own word") };
                self.raft.step(message, &[]).expect("our own word");
                self.collect();
            }
            if let Some(ticket) = ticket {
                self.raft.synced(ticket);
            }
            if let Some(last) = committed.last() {
                self.raft.applied(last.index);
            }
            self.collect();
        }
        self.ready = ready;
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one Ready")]
    fn add_work(
        &self,
        ready: &Ready,
        ticket: Option<ringraft_raft::SyncTicket>,
        entries: &[Entry],
        hard: Option<HardState>,
        snapshot: Option<&Snapshot>,
        mut responses: Vec<Msg>,
        committed: &[Entry],
        messages: &mut Vec<Msg>,
    ) {
        let own = self.own();
        if ready.append.is_some() {
            if let Some(ticket) = ticket {
                let mut synced = Msg::new("MsgStorageAppendResp", APPEND_THREAD, own, Inner::Synced(ticket));
                synced.term = ticket.term().0;
                synced.log = ticket.last();
                synced.snapshot = snapshot.cloned();
                responses.push(synced);
            }
            let mut append = Msg::new("MsgStorageAppend", own, APPEND_THREAD, Inner::Append);
            if let Some(hard) = hard {
                (append.term, append.vote, append.commit) = (hard.term.0, hard.vote.0, hard.commit.0);
            }
            append.entries = entries.to_vec();
            append.snapshot = snapshot.cloned();
            append.responses = responses;
            messages.push(append);
        }
        if !committed.is_empty() {
            let mut applied = Msg::new("MsgStorageApplyResp", APPLY_THREAD, own, Inner::Applied);
            applied.entries = committed.to_vec();
            let mut apply = Msg::new("MsgStorageApply", own, APPLY_THREAD, Inner::Apply);
            apply.entries = committed.to_vec();
            apply.responses = vec![applied];
            messages.push(apply);
        }
    }

    fn show_ready(
        &mut self,
        ready: &Ready,
        hard: Option<HardState>,
        entries: &[Entry],
        snapshot: Option<&Snapshot>,
        committed: &[Entry],
        messages: &[Msg],
    ) {
        let mut text = String::new();
        if let Some(soft) = ready.soft_state {
            writeln!(text, "Lead:{} State:State{:?}", soft.lead, soft.role).unwrap();
        }
        let mut must_sync = !entries.is_empty();
        if let Some(hard) = hard {
            write!(text, "HardState Term:{}", hard.term).unwrap();
            if hard.vote != PeerId::ZERO {
                write!(text, " Vote:{}", hard.vote).unwrap();
            }
            writeln!(text, " Commit:{}", hard.commit).unwrap();
            must_sync |= (hard.term, hard.vote) != (self.hard.term, self.hard.vote);
            self.hard = hard;
        }
        if !ready.reads.is_empty() {
            let one = |read: &ringraft_raft::ReadState| {
                let name = self.reads.name(read.id);
                let bytes = name.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(" ");
                format!("{{{} [{bytes}]}}", read.index)
            };
            let reads = ready.reads.iter().map(one).collect::<Vec<_>>().join(" ");
            writeln!(text, "ReadStates [{reads}]").unwrap();
        }
        list(&mut text, "Entries:", entries.iter().map(Entry::show));
        if let Some(snapshot) = snapshot {
            writeln!(text, "Snapshot {}", snapshot.show()).unwrap();
        }
        list(&mut text, "CommittedEntries:", committed.iter().map(Entry::show));
        list(&mut text, "Messages:", messages.iter().map(Msg::show));
        if text.is_empty() {
            self.out.write("<empty Ready>");
        } else {
            self.out.write(&format!("Ready MustSync={must_sync}:\n{text}"));
        }
    }

    fn write(&mut self, hard: Option<HardState>, entries: &[Entry], snapshot: Option<&Snapshot>) -> Result<(), String> {
        let disk = self.raft.storage_mut();
        if let Some(hard) = hard.filter(|hard| *hard != HardState::default()) {
            disk.hard = hard;
        }
        match snapshot {
            Some(_) if !entries.is_empty() => Err("can't apply snapshot and entries at the same time".into()),
            Some(snapshot) => disk.install(snapshot),
            None => {
                disk.append(entries);
                Ok(())
            }
        }
    }

    fn apply(&mut self, entries: &[Entry]) {
        for entry in entries {
            let before = self.history.last().expect("the first snapshot");
            let mut next = Snapshot { at: EntryId { term: entry.term, index: entry.index }, ..before.clone() };
            match &entry.data {
                Data::Normal(text) => next.data += text,
                Data::Change(change) => {
                    next.conf = self.raft.apply_conf_change(change).expect("a change that fits");
                }
            }
            self.raft.storage_mut().newest = next.at;
            self.history.push(next);
        }
    }

    pub fn process_append(&mut self, network: &mut Vec<Msg>) -> Result<(), String> {
        let Some(mut msg) = self.append_work.pop_front() else {
            self.out.write("no append work to perform");
            return Ok(());
        };
        let responses = std::mem::take(&mut msg.responses);
        self.out.write(&format!("Processing:\n{}\n", msg.show()));
        let hard = HardState { term: Term(msg.term), vote: PeerId(msg.vote), commit: Index(msg.commit) };
        self.write(Some(hard), &msg.entries, msg.snapshot.as_ref())?;
        self.respond(responses, network);
        Ok(())
    }

    pub fn process_apply(&mut self, network: &mut Vec<Msg>) {
        let Some(mut msg) = self.apply_work.pop_front() else {
            self.out.write("no apply work to perform");
            return;
        };
        let responses = std::mem::take(&mut msg.responses);
        self.out.write(&format!("Processing:\n{}\n", msg.show()));
        self.apply(&msg.entries);
        self.collect();
        self.respond(responses, network);
    }

    fn respond(&self, responses: Vec<Msg>, network: &mut Vec<Msg>) {
        self.out.write("Responses:\n");
        for msg in responses {
            self.out.write(&format!("{}\n", msg.show()));
            network.push(msg);
        }
    }

    /// Loses what is not durable, and starts again with this applied index.
    pub fn restart(&mut self, applied: Option<u64>) {
        let mut config = self.raft.config().clone();
        let disk = self.raft.storage().clone();
        // Without a word on what is applied, the state machine starts from the disk's snapshot.
        config.applied = Index(applied.unwrap_or(0));
        let keep = applied.unwrap_or(disk.snapshot.at.index.0);
        let (is_async, reads, out) = (self.is_async, self.reads.clone(), self.out.clone());
        let mut history = std::mem::take(&mut self.history);
        history.retain(|snapshot| snapshot.at.index.0 <= keep);
        *self = Node::new(config, disk, history, is_async, reads, out);
    }
}

fn list(text: &mut String, head: &str, lines: impl Iterator<Item = String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        writeln!(text, "{head}").unwrap();
        lines.for_each(|line| writeln!(text, "{line}").unwrap());
    }
}
