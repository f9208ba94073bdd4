//! A shell around one member, with a disk that finishes when told, and a state machine that is a hash of what it
//! applied.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use ringraft_raft::{
    Append, Body, Compat, ConfChange, ConfChangeOp, ConfState, Config, EntryId, EntryKind, EntryMeta, HardState, Index,
    Message, OpenError, Payloads, PeerId, Proposed, Raft, ReadState, Ready, Refused, SoftState, StepError, Storage,
};

use super::log::MemLog;

/// A payload stands for bytes; 0 is the empty one.
pub type Payload = u64;

/// A message with what travels beside it.
#[derive(Clone, Debug)]
pub struct Packet {
    pub message: Message,
    pub entries: Vec<(EntryMeta, Payload)>,
    pub snapshot: Option<Rc<Image>>,
}

/// A snapshot of the state machine.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Image {
    pub at: EntryId,
    pub conf: ConfState,
    pub hash: u64,
}

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub log: MemLog,
    pub payloads: VecDeque<Payload>,
    pub image: Rc<Image>,
}

impl Disk {
    /// An empty one of a member that begins with this membership.
    pub fn new(conf: ConfState) -> Disk {
        let image = Image { conf: conf.clone(), ..Image::default() };
        Disk { log: MemLog::new(conf), image: Rc::new(image), ..Disk::default() }
    }
}

/// A write that was begun.
#[derive(Debug)]
struct Write {
    append: Append,
    entries: Vec<(EntryMeta, Payload)>,
    commit: Option<Index>,
    image: Option<Rc<Image>>,
}

pub struct Node {
    pub raft: Raft<MemLog>,
    pub disk: Disk,
    pub machine: Image,
    pub reads: Vec<ReadState>,
    pub soft: SoftState,
    /// Entries handed out for application, in the lots in which they were.
    pub applies: VecDeque<VecDeque<(Index, EntryMeta, Payload)>>,
    /// What the member has said to itself since somebody looked.
    pub said: Vec<Message>,
    /// The entries from here on may be others than when somebody last looked.
    pub changed: Option<Index>,
    /// How often a leader's entries took the place of others.
    pub replaced: usize,
    /// What the membership of the core is as of: the last change applied, or a snapshot that is not durable yet.
    pub conf_at: Index,
    /// Whether the log that the core asks shows entries when their write begins, or when it ends.
    early: bool,
    /// The log as the shell holds it, durable or not.
    cache_base: Index,
    cache: VecDeque<(EntryMeta, Payload)>,
    writes: VecDeque<Write>,
    /// Snapshot that arrived and was taken, until its write begins.
    arrived: Option<Rc<Image>>,
    commit_to_write: Option<Index>,
    ready: Ready,
    messages: Vec<Message>,
}

impl Node {
    /// A member that (re)starts from its disk; what its snapshot covers is applied.
    pub fn new(config: Config, disk: Disk, early: bool) -> Node {
        let config = Config { applied: disk.image.at.index, ..config };
        let raft = Raft::new(config, disk.log.clone()).expect("a valid log");
        Node {
            raft,
            machine: Image::clone(&disk.image),
            reads: Vec::new(),
            soft: SoftState::default(),
            applies: VecDeque::new(),
            said: Vec::new(),
            changed: Some(disk.log.base.index.next()),
            replaced: 0,
            conf_at: disk.image.at.index,
            early,
            cache_base: disk.log.base.index,
            cache: disk.log.entries.iter().copied().zip(disk.payloads.iter().copied()).collect(),
            disk,
            writes: VecDeque::new(),
            arrived: None,
            commit_to_write: None,
            ready: Ready::default(),
            messages: Vec::new(),
        }
    }

    /// What the shell holds as the entry at `index`.
    pub fn entry(&self, index: Index) -> (EntryMeta, Payload) {
        self.cache[usize::try_from(index.0 - self.cache_base.0 - 1).unwrap()]
    }

    /// The index before the first entry that the shell holds.
    pub fn cache_base(&self) -> Index {
        self.cache_base
    }

    /// The index of the last entry that the shell holds.
    pub fn cached_to(&self) -> Index {
        Index(self.cache_base.0 + self.cache.len() as u64)
    }

    /// Notes that the entries from `first` on may be others.
    pub fn touch(&mut self, first: Index) {
        self.changed = Some(self.changed.map_or(first, |before| before.min(first)));
    }

    /// Entries that the core appended by itself are empty.
    pub fn fill(&mut self) {
        while self.cached_to() < self.raft.last_index() {
            let index = self.cached_to().next();
            let meta = self.raft.meta(index).unwrap();
            assert_eq!(meta.size, 0, "an entry of the core's own is empty");
            self.touch(index);
            self.cache.push_back((meta, 0));
        }
    }

    fn stage(&mut self, first: Index, entries: impl Iterator<Item = (EntryMeta, Payload)>) {
        self.touch(first);
        self.cache.truncate(usize::try_from(first.0 - self.cache_base.0 - 1).unwrap());
        assert_eq!(self.cached_to().next(), first, "staging leaves a gap");
        self.cache.extend(entries);
    }

    pub fn propose(&mut self, payload: Payload, size: u32) -> Result<Proposed, Refused> {
        self.fill();
        let proposed = self.raft.propose(EntryKind::Normal, size)?;
        self.stage_own(proposed, EntryKind::Normal, size, payload);
        Ok(proposed)
    }

    pub fn propose_conf_change(&mut self, change: &ConfChange, payload: Payload) -> Result<Proposed, Refused> {
        self.fill();
        let proposed = self.raft.propose_conf_change(change, 8)?;
        self.stage_own(proposed, EntryKind::ConfChangeV2, 8, payload);
        Ok(proposed)
    }

    fn stage_own(&mut self, proposed: Proposed, kind: EntryKind, size: u32, payload: Payload) {
        if let Proposed::Appended(id) = proposed {
            self.stage(id.index, std::iter::once((EntryMeta { term: id.term, kind, size }, payload)));
        }
    }

    /// Founds a group; the changes get these payloads.
    pub fn bootstrap(
        &mut self,
        founders: &[ConfChangeOp],
        payloads: &[Payload],
    ) -> Result<Vec<(EntryId, ConfChange)>, OpenError> {
        let founded = self.raft.bootstrap(founders)?;
        for ((id, _), payload) in founded.iter().zip(payloads) {
            let meta = self.raft.meta(id.index).unwrap();
            self.stage(id.index, std::iter::once((meta, *payload)));
        }
        Ok(founded)
    }

    pub fn step(&mut self, packet: &Packet) -> Result<(), StepError> {
        self.fill();
        if let (Some(image), Body::Snapshot { .. }) = (&packet.snapshot, packet.message.body) {
            if self.raft.step_snapshot(packet.message, image.at, &image.conf)? {
                self.arrived = Some(image.clone());
                self.cache.clear();
                self.cache_base = image.at.index;
                self.conf_at = image.at.index;
                self.touch(image.at.index.next());
            }
            return Ok(());
        }
        let metas: Vec<EntryMeta> = packet.entries.iter().map(|(meta, _)| *meta).collect();
        let stepped = self.raft.step(packet.message, &metas)?;
        if let (Some(first), Body::Append { prev, .. }) = (stepped.appended, packet.message.body) {
            let skip = usize::try_from(first.0 - prev.index.0 - 1).unwrap();
            self.replaced += usize::from(first <= self.cached_to());
            self.stage(first, packet.entries[skip..].iter().copied());
        }
        Ok(())
    }

    fn entries(&self, after: Index, upto: Index) -> Vec<(EntryMeta, Payload)> {
        (after.0 + 1..=upto.0).map(|index| self.entry(Index(index))).collect()
    }

    /// Fills in what a message names.
    fn pack(&self, message: Message) -> Packet {
        let (entries, snapshot) = match message.body {
            Body::Append { prev, last, payloads: Payloads::All, .. } => (self.entries(prev.index, last), None),
            Body::Append { prev, last, payloads: Payloads::Stripped, .. } => {
                let strip = |(meta, payload): (EntryMeta, Payload)| {
                    (meta.stripped(), if meta.kind == EntryKind::Normal { 0 } else { payload })
                };
                (self.entries(prev.index, last).into_iter().map(strip).collect(), None)
            }
            Body::Snapshot { at, payloads } => {
                assert!(self.disk.image.at >= at, "the snapshot promised is there");
                let mut image = self.disk.image.clone();
                if payloads == Payloads::Stripped {
                    Rc::make_mut(&mut image).hash = 0;
                }
                (Vec::new(), Some(image))
            }
            _ => (Vec::new(), None),
        };
        Packet { message, entries, snapshot }
    }

    /// Takes the messages that are queued, while what they name is as it was.
    pub fn take_messages(&mut self, out: &mut Vec<Packet>) {
        self.fill();
        let mut messages = std::mem::take(&mut self.messages);
        self.raft.take_messages(&mut messages);
        out.extend(messages.drain(..).map(|message| self.pack(message)));
        self.messages = messages;
    }

    /// Takes a Ready: messages out, the write and the entries to apply into their queues.
    pub fn take_ready(&mut self, out: &mut Vec<Packet>) {
        let mut ready = std::mem::take(&mut self.ready);
        self.raft.ready(&mut ready);
        self.ready = self.act_on(ready, out);
    }

    /// As [`Node::take_ready`]; returns what it took, for showing.
    pub fn show_ready(&mut self, out: &mut Vec<Packet>) -> Ready {
        let mut ready = std::mem::take(&mut self.ready);
        self.raft.ready(&mut ready);
        let shown = ready.clone();
        self.ready = self.act_on(ready, out);
        shown
    }

    fn act_on(&mut self, mut ready: Ready, out: &mut Vec<Packet>) -> Ready {
        self.fill();
        for message in ready.messages.drain(..) {
            assert_ne!(message.to, self.raft.id(), "nothing to ourselves leaves at once");
            out.push(self.pack(message));
        }
        self.commit_to_write = ready.commit.or(self.commit_to_write);
        if let Some(append) = ready.append.take() {
            let image = append.snapshot.map(|at| {
                let image = self.arrived.take().expect("a snapshot that arrived");
                assert_eq!(image.at, at);
                image
            });
            let write = Write {
                entries: self.entries(append.entries.0, append.entries.1),
                commit: self.commit_to_write.take(),
                append,
                image,
            };
            if self.early {
                write_to(self.raft.storage_mut(), &write);
            }
            self.writes.push_back(write);
        }
        let (after, upto) = ready.committed;
        if after < upto {
            let one = |index| {
                let (meta, payload) = self.entry(Index(index));
                (Index(index), meta, payload)
            };
            self.applies.push_back((after.0 + 1..=upto.0).map(one).collect());
        }
        self.reads.append(&mut ready.reads);
        if let Some(soft) = ready.soft_state {
            self.soft = soft;
        }
        ready
    }

    pub fn has_write(&self) -> bool {
        !self.writes.is_empty()
    }

    pub fn has_apply(&self) -> bool {
        !self.applies.is_empty()
    }

    /// The oldest write is on the disk.
    fn write_down(&mut self, write: &Write) {
        write_to(&mut self.disk.log, write);
        if let Some(image) = &write.image {
            self.disk.payloads.clear();
            self.disk.image = image.clone();
        }
        let (after, _) = write.append.entries;
        if !write.entries.is_empty() {
            self.disk.payloads.truncate(usize::try_from(after.0 - self.disk.log.base.index.0).unwrap());
            self.disk.payloads.extend(write.entries.iter().map(|(_, payload)| *payload));
        }
    }

    /// The oldest write becomes durable.
    pub fn finish_write(&mut self, out: &mut Vec<Packet>) {
        let Some(mut write) = self.writes.pop_front() else { return };
        // Whatever the core now takes for durable must look as it did.
        self.touch(self.raft.durable_index().min(write.append.entries.0).max(self.cache_base).next());
        self.write_down(&write);
        if !self.early {
            write_to(self.raft.storage_mut(), &write);
        }
        for message in write.append.after_sync.hold() {
            if message.to == self.raft.id() {
                self.said.push(message);
                self.raft.step(message, &[]).expect("our own word");
            } else {
                out.push(self.pack(message));
            }
        }
        self.raft.synced(write.append.ticket);
        if let Some(image) = write.image
            && image.at.index > self.machine.at.index
        {
            self.machine = Image::clone(&image);
            // A shell by etcd's rules answers for every lot that it was handed, though a snapshot has overtaken it:
            // only that lets further ones go once the limit was reached.
            let last = self.applies.back().and_then(|lot| lot.back()).map(|(last, ..)| *last);
            self.applies.clear();
            if let (Some(last), true) = (last, self.raft.config().compat != Compat::Off) {
                self.raft.applied(last);
            }
        }
    }

    /// The oldest lot of committed entries is applied; `each` sees every one.
    pub fn finish_apply(
        &mut self,
        changes: &HashMap<Payload, ConfChange>,
        mut each: impl FnMut(Index, &EntryMeta, Payload, &Image),
    ) {
        while let Some((index, meta, payload, last)) = self.apply_one(changes) {
            each(index, &meta, payload, &self.machine);
            if last {
                self.report_applied();
                return;
            }
        }
    }

    /// Applies one entry. Whether it was the last of its lot.
    pub fn apply_one(&mut self, changes: &HashMap<Payload, ConfChange>) -> Option<(Index, EntryMeta, Payload, bool)> {
        let lot = self.applies.front_mut()?;
        let (index, meta, payload) = lot.pop_front().expect("lots are not empty");
        let last = lot.is_empty();
        if last {
            self.applies.pop_front();
        }
        assert_eq!(index, self.machine.at.index.next(), "entries are applied in order, once");
        self.machine.at = EntryId { term: meta.term, index };
        self.machine.hash = mix(self.machine.hash, payload ^ meta.term.0 << 32);
        self.conf_at = self.conf_at.max(index);
        if meta.kind != EntryKind::Normal {
            let change = changes.get(&payload).cloned().unwrap_or_default();
            if let Ok(conf) = self.raft.apply_conf_change(&change) {
                self.machine.conf = conf;
            }
        }
        Some((index, meta, payload, last))
    }

    /// Tells the core how far the state machine is.
    pub fn report_applied(&mut self) {
        self.raft.applied(self.machine.at.index);
    }

    /// Makes a snapshot of what is applied, and compacts the log up to there.
    pub fn compact(&mut self) {
        self.compact_but(0);
    }

    /// Makes a snapshot of what is applied, and compacts the log up to `keep` entries before it.
    pub fn compact_but(&mut self, keep: u64) {
        let at = self.machine.at;
        let replaced = self.has_write() || self.arrived.is_some();
        if at.index <= self.disk.image.at.index || at.index > self.disk.log.last_index() || replaced {
            return;
        }
        self.disk.image = Rc::new(self.machine.clone());
        let upto = Index(at.index.0.saturating_sub(keep)).max(self.disk.log.base.index);
        let count = usize::try_from(upto.0 - self.disk.log.base.index.0).unwrap();
        self.disk.payloads.drain(..count);
        for log in [&mut self.disk.log, self.raft.storage_mut()] {
            log.compact(upto, self.machine.conf.clone());
            log.snapshot = Some(at);
        }
        self.cache.drain(..count);
        self.cache_base = upto;
    }

    /// Loses durable entries after `last`, or the whole log and its snapshot if that is not in it any more, and starts
    /// again. Term and vote stay: what was promised about them was promised to others.
    pub fn lose(&mut self, last: Index, first_conf: &ConfState) {
        let log = &mut self.disk.log;
        if last < self.disk.image.at.index {
            let hard = log.hard;
            self.disk = Disk::new(first_conf.clone());
            self.disk.log.hard = hard;
        } else {
            log.truncate(last);
            self.disk.payloads.truncate(usize::try_from(last.0 - log.base.index.0).unwrap());
        }
        let log = &mut self.disk.log;
        log.hard.commit = log.hard.commit.min(log.last_index());
        self.restart();
    }

    /// Loses everything that is not durable, and starts again.
    pub fn restart(&mut self) {
        self.restart_after(0);
    }

    /// Crashes and starts again. The oldest `count` writes had reached the disk, though nobody was told; of the rest
    /// nothing did.
    pub fn restart_after(&mut self, count: usize) {
        for _ in 0..count {
            let Some(write) = self.writes.pop_front() else { break };
            self.write_down(&write);
        }
        let config = self.raft.config().clone();
        let seed = config.seed.wrapping_add(1);
        *self = Node::new(Config { seed, ..config }, std::mem::take(&mut self.disk), self.early);
    }

    /// Writes that were begun.
    pub fn write_count(&self) -> usize {
        self.writes.len()
    }
}

fn write_to(log: &mut MemLog, write: &Write) {
    if let Some(image) = &write.image {
        log.install(image.at, image.conf.clone());
    }
    if !write.entries.is_empty() {
        log.truncate(write.append.entries.0);
        log.entries.extend(write.entries.iter().map(|(meta, _)| *meta));
    }
    if let Some(hard) = write.append.hard_state {
        log.hard = hard;
    } else if let Some(commit) = write.commit {
        log.hard = HardState { commit: log.hard.commit.max(commit), ..log.hard };
    }
}

pub fn mix(hash: u64, value: u64) -> u64 {
    (hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
}

/// Members 1 to `count`.
pub fn voters(count: u64) -> ConfState {
    ConfState { voters: (1..=count).map(PeerId).collect(), ..ConfState::default() }
}
