//! Our side: the core, and what a shell must do beside it. A proposal becomes a record; the logs of all three say where
//! it lies in one memory, as raft-rs's entries share theirs; followers read the heads of the records that an append
//! names, and what is applied is read from the records.

use bytes::{Buf, BytesMut};
use ringraft_raft::record::{self, GroupSeed, Records};
use ringraft_raft::{
    Body, ConfState, Config, EntryId, EntryKind, EntryMeta, GroupId, HardState, Index, Message, PeerId, Proposed, Raft,
    Ready, Role, Sizes, Storage, StorageError, Term,
};

use super::{COMPACT_EVERY, look_at};

/// Three replicas; the first leads.
pub(crate) struct Trio {
    replicas: [Replica; 3],
    memory: Memory,
    uncompacted: usize,
}

impl Trio {
    pub(crate) fn elect(shell: &mut Shell) -> Trio {
        let replicas = [1, 2, 3].map(|id| Replica::new(PeerId(id)));
        let mut trio = Trio { replicas, memory: Memory::default(), uncompacted: 0 };
        trio.replicas[0].raft.campaign();
        shell.settle(&mut trio);
        assert_eq!(trio.replicas[0].raft.role(), Role::Leader);
        trio
    }

    /// Proposes `batch` entries in one turn; all three have applied them then.
    pub(crate) fn put(&mut self, batch: usize, payload: &[u8], shell: &mut Shell) {
        self.replicas[0].propose(batch, payload, &mut self.memory);
        shell.settle(self);
        let (last, sum) = (self.replicas[0].raft.last_index(), self.replicas[0].sum);
        assert!(self.replicas.iter().all(|replica| replica.raft.applied_index() == last && replica.sum == sum));
        self.uncompacted += batch;
        if self.uncompacted >= COMPACT_EVERY {
            self.compact();
        }
    }

    fn compact(&mut self) {
        for replica in &mut self.replicas {
            let applied = replica.raft.applied_index();
            replica.raft.storage_mut().compact(applied);
        }
        self.memory.forget(self.replicas[0].raft.storage().place(self.replicas[0].raft.last_index()));
        self.uncompacted = 0;
    }

    /// Nothing is in the logs any more, and what busy times took is given back; some heartbeats have passed since.
    pub(crate) fn rest(&mut self, shell: &mut Shell) {
        self.compact();
        for replica in &mut self.replicas {
            replica.raft.shrink();
            replica.raft.storage_mut().shrink();
        }
        self.memory.shrink();
        for _ in 0..5 {
            for replica in &mut self.replicas {
                replica.raft.tick();
                replica.touched = true;
            }
            shell.settle(self);
        }
    }

    /// Bytes of the logs' own structs, in here.
    pub(crate) const LOGS: usize = 3 * size_of::<Log>() + size_of::<Memory>();
}

/// What a shell has once, for all its groups.
#[derive(Default)]
pub(crate) struct Shell {
    /// What was said; where the records lie that an append names, its sender's log knows.
    network: Vec<Message>,
    delivered: Vec<Message>,
    ready: Ready,
    metas: Vec<EntryMeta>,
}

impl Shell {
    pub(crate) fn new() -> Shell {
        Shell::default()
    }

    /// Turns until nobody has anything to say.
    fn settle(&mut self, trio: &mut Trio) {
        let Trio { replicas, memory, .. } = trio;
        loop {
            for replica in &mut *replicas {
                while std::mem::take(&mut replica.touched) && replica.raft.has_ready() {
                    replica.turn(&mut self.ready, &mut self.network, memory);
                }
            }
            if self.network.is_empty() {
                return;
            }
            std::mem::swap(&mut self.network, &mut self.delivered);
            for message in &self.delivered {
                let [to, from] = [message.to, message.from].map(|id| usize::try_from(id.0 - 1).expect("one of three"));
                let [to, from] = replicas.get_disjoint_mut([to, from]).expect("two of three");
                to.step(message, from.raft.storage(), memory, &mut self.metas);
            }
            self.delivered.clear();
        }
    }
}

struct Replica {
    raft: Raft<Log>,
    seed: GroupSeed,
    /// Whether something has happened since its last turn.
    touched: bool,
    /// The state machine: a sum of what it was given.
    sum: u64,
}

impl Replica {
    fn new(id: PeerId) -> Replica {
        let raft = Raft::new(Config::new(id), Log::default()).expect("an empty log");
        Replica { raft, seed: GroupSeed::of(GroupId(1)), touched: true, sum: 0 }
    }

    fn propose(&mut self, batch: usize, payload: &[u8], memory: &mut Memory) {
        self.touched = true;
        let size = u32::try_from(payload.len()).expect("a small payload");
        for _ in 0..batch {
            let proposed = self.raft.propose(EntryKind::Normal, size).expect("a leader without a backlog");
            let Proposed::Appended(id) = proposed else { unreachable!("it leads") };
            self.stage(id, EntryKind::Normal, payload, memory);
        }
    }

    /// Puts an entry of our own into the log.
    fn stage(&mut self, id: EntryId, kind: EntryKind, payload: &[u8], memory: &mut Memory) {
        let log = self.raft.storage_mut();
        assert_eq!(id.index, log.last_index().next(), "nothing is replaced");
        record::encode(self.seed, id, kind, &[payload], &mut memory.bytes);
        let size = u32::try_from(payload.len()).expect("a small payload");
        log.entries.push(Logged { term: id.term, kind, size, end: memory.end() });
    }

    /// Takes a message, with the records that it names.
    fn step(&mut self, message: &Message, sender: &Log, memory: &Memory, metas: &mut Vec<EntryMeta>) {
        self.touched = true;
        let Body::Append { prev, last, .. } = message.body else {
            self.raft.step(*message, &[]).expect("nobody is behind");
            return;
        };
        let from = sender.place(prev.index);
        metas.clear();
        for record in Records::new(memory.get(from, sender.place(last))) {
            metas.push(record.expect("whole records").meta());
        }
        let stepped = self.raft.step(*message, metas).expect("nobody is behind");
        if let Some(first) = stepped.appended {
            assert_eq!(first, prev.index.next(), "nothing is sent twice");
            self.raft.storage_mut().extend(from, metas);
        }
    }

    fn turn(&mut self, ready: &mut Ready, network: &mut Vec<Message>, memory: &mut Memory) {
        self.stage_own_entries(memory);
        self.raft.ready(ready);
        network.append(&mut ready.messages);
        let (after, upto) = ready.committed;
        if after < upto {
            self.apply(after, upto, memory);
        }
        if let Some(append) = &mut ready.append {
            // The log has shown the entries since they came; what is written to memory is durable at once.
            if let Some(hard) = append.hard_state {
                self.raft.storage_mut().hard = hard;
            }
            self.raft.synced(append.ticket);
            self.touched = true;
            for message in append.after_sync.hold() {
                if message.to == self.raft.id() {
                    self.raft.step(message, &[]).expect("our own word");
                } else {
                    network.push(message);
                }
            }
        }
    }

    fn apply(&mut self, after: Index, upto: Index, memory: &Memory) {
        let log = self.raft.storage();
        let mut expected = after.next();
        for record in Records::new(memory.get(log.place(after), log.place(upto))) {
            let record = record.expect("whole records");
            assert_eq!(record.id.index, expected);
            self.sum += look_at(record.payload);
            expected = expected.next();
        }
        assert_eq!(expected, upto.next(), "all that is committed is applied");
        self.raft.applied(upto);
    }

    /// A new leader appends an empty entry by itself.
    fn stage_own_entries(&mut self, memory: &mut Memory) {
        let (held, last) = (self.raft.storage().last_index(), self.raft.last_index());
        for index in (held.0 + 1..=last.0).map(Index) {
            let meta = self.raft.meta(index).expect("within the log");
            assert_eq!(meta.size, 0, "an entry of the core's own is empty");
            self.stage(EntryId { term: meta.term, index }, meta.kind, &[], memory);
        }
    }
}

/// The records of a group, one after the other. Places in it are counted from the first that ever was there.
#[derive(Default)]
struct Memory {
    bytes: BytesMut,
    /// Where `bytes` begins.
    begin: u64,
}

impl Memory {
    /// Where the last record ends.
    fn end(&self) -> u64 {
        self.begin + self.bytes.len() as u64
    }

    /// The records from one place to another.
    fn get(&self, from: u64, to: u64) -> &[u8] {
        let [from, to] = [from, to].map(|place| usize::try_from(place - self.begin).expect("it fits memory"));
        &self.bytes[from..to]
    }

    /// Forgets what lies before `place`.
    fn forget(&mut self, place: u64) {
        let count = usize::try_from(place - self.begin).expect("it fits memory");
        if count == self.bytes.len() {
            // From the beginning of the same memory again.
            self.bytes.clear();
        } else {
            self.bytes.advance(count);
        }
        self.begin = place;
    }

    /// Gives back the memory that is not in use: all of it, when everything is forgotten.
    fn shrink(&mut self) {
        assert!(self.bytes.is_empty(), "an empty log has nothing on the heap");
        self.bytes = BytesMut::new();
    }
}

/// A log in memory: what the core may ask of its entries, and where their records lie.
#[derive(Default)]
struct Log {
    hard: HardState,
    base: EntryId,
    /// Where the record of `base` ends.
    base_end: u64,
    /// The first is that of `base.index + 1`.
    entries: Vec<Logged>,
}

/// What the core may ask of an entry, and where its record ends.
#[derive(Clone, Copy)]
struct Logged {
    term: Term,
    kind: EntryKind,
    size: u32,
    end: u64,
}

impl Logged {
    fn meta(&self) -> EntryMeta {
        EntryMeta { term: self.term, kind: self.kind, size: self.size }
    }
}

impl Log {
    /// Appends entries whose records begin at `place`.
    fn extend(&mut self, place: u64, metas: &[EntryMeta]) {
        let mut end = place;
        self.entries.extend(metas.iter().map(|meta| {
            end += meta.encoded_size();
            Logged { term: meta.term, kind: meta.kind, size: meta.size, end }
        }));
    }

    /// Where the record of `index`, which may be the base, ends.
    fn place(&self, index: Index) -> u64 {
        match index.0 - self.base.index.0 {
            0 => self.base_end,
            count => self.entries[usize::try_from(count).expect("it fits memory") - 1].end,
        }
    }

    /// Forgets the entries up to `upto`, which are applied everywhere.
    fn compact(&mut self, upto: Index) {
        let (term, count) = (self.term(upto).expect("within the log"), self.slot(upto).expect("within the log") + 1);
        self.base_end = self.place(upto);
        self.entries.drain(..count);
        self.base = EntryId { term, index: upto };
    }

    /// Gives back the memory that is not in use: all of it, when everything is compacted.
    fn shrink(&mut self) {
        assert!(self.entries.is_empty(), "an empty log has nothing on the heap");
        self.entries = Vec::new();
    }

    /// Of the entries `after + 1 ..= upto`, at least one.
    fn metas(&self, after: Index, upto: Index) -> Result<impl Iterator<Item = EntryMeta>, StorageError> {
        Ok(self.entries[self.slot(after.next())?..=self.slot(upto)?].iter().map(Logged::meta))
    }

    fn slot(&self, index: Index) -> Result<usize, StorageError> {
        let (base, last) = (self.base.index, self.last_index());
        match index.0.checked_sub(base.0 + 1) {
            None => Err(StorageError::Compacted { index, base }),
            Some(_) if index > last => Err(StorageError::Unavailable { index, last }),
            Some(slot) => Ok(usize::try_from(slot).expect("it fits memory")),
        }
    }
}

impl Storage for Log {
    fn initial_state(&self) -> (HardState, ConfState) {
        (self.hard, ConfState { voters: (1..=3).map(PeerId).collect(), ..ConfState::default() })
    }

    fn base(&self) -> EntryId {
        self.base
    }

    fn last_index(&self) -> Index {
        Index(self.base.index.0 + self.entries.len() as u64)
    }

    fn meta(&self, index: Index) -> Result<EntryMeta, StorageError> {
        Ok(self.entries[self.slot(index)?].meta())
    }

    fn limit(&self, after: Index, upto: Index, bytes_max: u64) -> Result<Index, StorageError> {
        let mut bytes = 0;
        let fits = self.metas(after, upto)?.take_while(|meta| {
            bytes += meta.encoded_size();
            bytes <= bytes_max
        });
        Ok(Index(after.0 + fits.count().max(1) as u64))
    }

    fn sizes(&self, after: Index, upto: Index) -> Result<Sizes, StorageError> {
        let mut sizes = Sizes::default();
        self.metas(after, upto)?.for_each(|meta| sizes += meta);
        Ok(sizes)
    }

    fn snapshot(&self) -> Option<EntryId> {
        (self.base.index > Index::ZERO).then_some(self.base)
    }
}
