//! A shell around one member, with a disk that finishes when told, and a state machine that is a hash of what it
//! applied.

use std::collections::{HashMap, VecDeque};

use ringraft_raft::{
    Append, Body, ConfChange, ConfState, Config, EntryId, EntryKind, EntryMeta, HardState, Index, Message, Payloads,
    PeerId, Proposed, Raft, ReadState, Ready, Refused, SoftState, StepError, Storage,
};

use super::log::MemLog;

/// A payload stands for bytes; 0 is the empty one.
pub type Payload = u64;

/// A message with what travels beside it.
#[derive(Clone, Debug)]
pub struct Packet {
    pub message: Message,
    pub entries: Vec<(EntryMeta, Payload)>,
    pub snapshot: Option<Image>,
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
    pub image: Image,
}

/// A write that was begun.
#[derive(Debug)]
struct Write {
    append: Append,
    entries: Vec<(EntryMeta, Payload)>,
    commit: Option<Index>,
    image: Option<Image>,
}

/// Entries to apply.
#[derive(Debug)]
struct Apply {
    entries: Vec<(Index, EntryMeta, Payload)>,
}

pub struct Node {
    pub raft: Raft<MemLog>,
    pub disk: Disk,
    pub machine: Image,
    pub reads: Vec<ReadState>,
    pub soft: SoftState,
    /// Whether the log that the core asks shows entries when their write begins, or when it ends.
    early: bool,
    /// Payloads from the log's base on, durable or not.
    cache_base: Index,
    cache: VecDeque<Payload>,
    writes: VecDeque<Write>,
    applies: VecDeque<Apply>,
    /// Snapshot that arrived and was taken, until its write begins.
    arrived: Option<Image>,
    commit_to_write: Option<Index>,
    ready: Ready,
}

impl Node {
    pub fn new(config: Config, disk: Disk, early: bool) -> Node {
        let raft = Raft::new(config, disk.log.clone()).expect("a valid log");
        Node {
            raft,
            machine: disk.image.clone(),
            reads: Vec::new(),
            soft: SoftState::default(),
            early,
            cache_base: disk.log.base.index,
            cache: disk.payloads.clone(),
            disk,
            writes: VecDeque::new(),
            applies: VecDeque::new(),
            arrived: None,
            commit_to_write: None,
            ready: Ready::default(),
        }
    }

    pub fn payload(&self, index: Index) -> Payload {
        self.cache[usize::try_from(index.0 - self.cache_base.0 - 1).unwrap()]
    }

    fn cached_to(&self) -> Index {
        Index(self.cache_base.0 + self.cache.len() as u64)
    }

    /// Entries that the core appended by itself are empty.
    fn fill(&mut self) {
        while self.cached_to() < self.raft.last_index() {
            let meta = self.raft.meta(self.cached_to().next()).unwrap();
            assert_eq!(meta.size, 0, "an entry of the core's own is empty");
            self.cache.push_back(0);
        }
    }

    fn stage(&mut self, first: Index, payloads: impl Iterator<Item = Payload>) {
        self.cache.truncate(usize::try_from(first.0 - self.cache_base.0 - 1).unwrap());
        assert_eq!(self.cached_to().next(), first, "staging leaves a gap");
        self.cache.extend(payloads);
    }

    pub fn propose(&mut self, payload: Payload, size: u32) -> Result<Proposed, Refused> {
        let proposed = self.raft.propose(EntryKind::Normal, size)?;
        self.stage_own(proposed, payload);
        Ok(proposed)
    }

    pub fn propose_conf_change(&mut self, change: &ConfChange, payload: Payload) -> Result<Proposed, Refused> {
        let proposed = self.raft.propose_conf_change(change, 8)?;
        self.stage_own(proposed, payload);
        Ok(proposed)
    }

    fn stage_own(&mut self, proposed: Proposed, payload: Payload) {
        if let Proposed::Appended(id) = proposed {
            while self.cached_to().next() < id.index {
                self.cache.push_back(0);
            }
            self.stage(id.index, std::iter::once(payload));
        }
    }

    pub fn step(&mut self, packet: &Packet) -> Result<(), StepError> {
        self.fill();
        if let (Some(image), Body::Snapshot { .. }) = (&packet.snapshot, packet.message.body) {
            if self.raft.step_snapshot(packet.message, image.at, &image.conf)? {
                self.arrived = Some(image.clone());
                self.cache.clear();
                self.cache_base = image.at.index;
            }
            return Ok(());
        }
        let metas: Vec<EntryMeta> = packet.entries.iter().map(|(meta, _)| *meta).collect();
        let stepped = self.raft.step(packet.message, &metas)?;
        if let (Some(first), Body::Append { prev, .. }) = (stepped.appended, packet.message.body) {
            let skip = usize::try_from(first.0 - prev.index.0 - 1).unwrap();
            self.stage(first, packet.entries[skip..].iter().map(|(_, payload)| *payload));
        }
        Ok(())
    }

    fn entries(&self, after: Index, upto: Index) -> Vec<(EntryMeta, Payload)> {
        let one = |index| (self.raft.meta(Index(index)).unwrap(), self.payload(Index(index)));
        (after.0 + 1..=upto.0).map(one).collect()
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
                    image.hash = 0;
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
        let mut messages = Vec::new();
        self.raft.take_messages(&mut messages);
        out.extend(messages.into_iter().map(|message| self.pack(message)));
    }

    /// Takes a Ready: messages out, the write and the entries to apply into their queues. Returns what it took, for
    /// showing.
    pub fn take_ready(&mut self, out: &mut Vec<Packet>) -> Ready {
        self.fill();
        let mut ready = std::mem::take(&mut self.ready);
        self.raft.ready(&mut ready);
        let shown = ready.clone();
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
            let one = |index| (Index(index), self.raft.meta(Index(index)).unwrap(), self.payload(Index(index)));
            self.applies.push_back(Apply { entries: (after.0 + 1..=upto.0).map(one).collect() });
        }
        self.reads.append(&mut ready.reads);
        if let Some(soft) = ready.soft_state {
            self.soft = soft;
        }
        self.ready = ready;
        shown
    }

    pub fn has_write(&self) -> bool {
        !self.writes.is_empty()
    }

    pub fn has_apply(&self) -> bool {
        !self.applies.is_empty()
    }

    /// The oldest write becomes durable.
    pub fn finish_write(&mut self, out: &mut Vec<Packet>) {
        let Some(mut write) = self.writes.pop_front() else { return };
        write_to(&mut self.disk.log, &write);
        if !self.early {
            write_to(self.raft.storage_mut(), &write);
        }
        if let Some(image) = &write.image {
            self.disk.payloads.clear();
            self.disk.image = image.clone();
        }
        let (after, _) = write.append.entries;
        if !write.entries.is_empty() {
            self.disk.payloads.truncate(usize::try_from(after.0 - self.disk.log.base.index.0).unwrap());
            self.disk.payloads.extend(write.entries.iter().map(|(_, payload)| *payload));
        }
        for message in write.append.after_sync.hold() {
            if message.to == self.raft.id() {
                self.raft.step(message, &[]).expect("our own word");
            } else {
                out.push(self.pack(message));
            }
        }
        self.raft.synced(write.append.ticket);
        if let Some(image) = write.image
            && image.at.index > self.machine.at.index
        {
            self.machine = image;
            self.applies.clear();
        }
    }

    /// The oldest lot of committed entries is applied; `each` sees every one.
    pub fn finish_apply(
        &mut self,
        changes: &HashMap<Payload, ConfChange>,
        mut each: impl FnMut(Index, &EntryMeta, Payload, &Image),
    ) {
        let Some(apply) = self.applies.pop_front() else { return };
        for (index, meta, payload) in apply.entries {
            assert_eq!(index, self.machine.at.index.next(), "entries are applied in order, once");
            self.machine.at = EntryId { term: meta.term, index };
            self.machine.hash = mix(self.machine.hash, payload ^ meta.term.0 << 32);
            if meta.kind != EntryKind::Normal {
                let change = changes.get(&payload).cloned().unwrap_or_default();
                if let Ok(conf) = self.raft.apply_conf_change(&change) {
                    self.machine.conf = conf;
                }
            }
            each(index, &meta, payload, &self.machine);
        }
        self.raft.applied(self.machine.at.index);
    }

    /// Makes a snapshot of what is applied, and compacts the log up to there.
    pub fn compact(&mut self) {
        let at = self.machine.at;
        let replaced = self.has_write() || self.arrived.is_some();
        if at.index <= self.disk.log.base.index || at.index > self.disk.log.last_index() || replaced {
            return;
        }
        self.disk.image = self.machine.clone();
        let conf = self.machine.conf.clone();
        self.disk.payloads.drain(..usize::try_from(at.index.0 - self.disk.log.base.index.0).unwrap());
        self.disk.log.compact(at.index, conf.clone());
        self.raft.storage_mut().compact(at.index, conf);
        self.cache.drain(..usize::try_from(at.index.0 - self.cache_base.0).unwrap());
        self.cache_base = at.index;
    }

    /// Loses durable entries after `last`, or the whole log and its snapshot if that is not in it any more, and starts
    /// again. Term and vote stay: what was promised about them was promised to others.
    pub fn lose(&mut self, last: Index, first_conf: &ConfState) {
        let log = &mut self.disk.log;
        if last < log.base.index {
            *log = MemLog { hard: log.hard, ..MemLog::new(first_conf.clone()) };
            self.disk.payloads.clear();
            self.disk.image = Image { conf: first_conf.clone(), ..Image::default() };
        } else {
            log.truncate(last);
            self.disk.payloads.truncate(usize::try_from(last.0 - log.base.index.0).unwrap());
        }
        log.hard.commit = log.hard.commit.min(log.last_index());
        self.restart();
    }

    /// Loses everything that is not durable, and starts again.
    pub fn restart(&mut self) {
        let config = self.raft.config().clone();
        let seed = config.seed.wrapping_add(1);
        *self = Node::new(Config { seed, ..config }, std::mem::take(&mut self.disk), self.early);
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
