//! Our side: the core, and what a shell must do beside it. A proposal becomes a record in the leader's log; followers
//! copy the records of an append into logs of their own; what is applied is read from there.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use ringraft_raft::record::{self, GroupSeed, Records};
use ringraft_raft::{
    Body, ConfState, Config, EntryId, EntryKind, EntryMeta, GroupId, HardState, Index, Message, PeerId, Proposed, Raft,
    Ready, Role, Sizes, Storage, StorageError, Term,
};

use super::{CHUNK, COMPACT_EVERY, look_at};

/// Three replicas; the first leads.
pub(crate) struct Trio {
    replicas: [Replica; 3],
    uncompacted: usize,
}

impl Trio {
    pub(crate) fn elect(shell: &mut Shell) -> Trio {
        let mut trio = Trio { replicas: [1, 2, 3].map(|id| Replica::new(PeerId(id))), uncompacted: 0 };
        trio.replicas[0].raft.campaign();
        shell.settle(&mut trio.replicas);
        assert_eq!(trio.replicas[0].raft.role(), Role::Leader);
        trio
    }

    /// Proposes `batch` entries in one turn; all three have applied them then.
    pub(crate) fn put(&mut self, batch: usize, payload: &[u8], shell: &mut Shell) {
        self.replicas[0].propose(batch, payload, &mut shell.arena);
        shell.settle(&mut self.replicas);
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
        self.uncompacted = 0;
    }

    /// Nothing is in the logs any more, and what busy times took is given back; some heartbeats have passed since.
    pub(crate) fn rest(&mut self, shell: &mut Shell) {
        self.compact();
        for replica in &mut self.replicas {
            replica.raft.shrink();
            replica.raft.storage_mut().shrink();
        }
        for _ in 0..5 {
            for replica in &mut self.replicas {
                replica.raft.tick();
                replica.touched = true;
            }
            shell.settle(&mut self.replicas);
        }
    }

    /// Bytes of the logs' own structs, in here.
    pub(crate) const LOGS: usize = 3 * size_of::<Log>();
}

/// What a shell has once, for all its groups.
pub(crate) struct Shell {
    network: Vec<Packet>,
    delivered: Vec<Packet>,
    /// Where records are written.
    arena: BytesMut,
    ready: Ready,
    metas: Vec<EntryMeta>,
}

/// A message with the records of the range that it names.
struct Packet {
    message: Message,
    records: Bytes,
}

impl Shell {
    pub(crate) fn new() -> Shell {
        Shell {
            network: Vec::new(),
            delivered: Vec::new(),
            arena: BytesMut::with_capacity(CHUNK),
            ready: Ready::default(),
            metas: Vec::new(),
        }
    }

    /// Turns until nobody has anything to say.
    fn settle(&mut self, replicas: &mut [Replica]) {
        loop {
            for replica in &mut *replicas {
                while std::mem::take(&mut replica.touched) && replica.raft.has_ready() {
                    replica.turn(self);
                }
            }
            if self.network.is_empty() {
                return;
            }
            std::mem::swap(&mut self.network, &mut self.delivered);
            for packet in self.delivered.drain(..) {
                let to = usize::try_from(packet.message.to.0 - 1).expect("one of three");
                replicas[to].step(packet, &mut self.metas, &mut self.arena);
            }
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

    fn propose(&mut self, batch: usize, payload: &[u8], arena: &mut BytesMut) {
        self.touched = true;
        let size = u32::try_from(payload.len()).expect("a small payload");
        let after = self.raft.last_index();
        arena.reserve(batch * record::encoded_len(payload.len()));
        for _ in 0..batch {
            let proposed = self.raft.propose(EntryKind::Normal, size).expect("a leader without a backlog");
            let Proposed::Appended(id) = proposed else { unreachable!("it leads") };
            record::encode(self.seed, id, EntryKind::Normal, &[payload], arena);
        }
        let meta = EntryMeta { term: self.raft.term(), kind: EntryKind::Normal, size };
        self.raft.storage_mut().stage(after, std::iter::repeat_n(meta, batch), arena.split().freeze());
    }

    fn step(&mut self, packet: Packet, metas: &mut Vec<EntryMeta>, arena: &mut BytesMut) {
        let Packet { message, records } = packet;
        metas.clear();
        for record in Records::new(&records) {
            metas.push(record.expect("whole records").meta());
        }
        self.touched = true;
        let stepped = self.raft.step(message, metas).expect("nobody is behind");
        if let (Some(first), Body::Append { prev, .. }) = (stepped.appended, message.body) {
            assert_eq!(first, prev.index.next(), "nothing is sent twice");
            arena.extend_from_slice(&records);
            self.raft.storage_mut().stage(prev.index, metas.iter().copied(), arena.split().freeze());
        }
    }

    fn turn(&mut self, shell: &mut Shell) {
        self.stage_own_entries();
        let ready = &mut shell.ready;
        self.raft.ready(ready);
        for message in ready.messages.drain(..) {
            let records = match message.body {
                Body::Append { prev, last, .. } => self.raft.storage().records(prev.index, last),
                _ => Bytes::new(),
            };
            shell.network.push(Packet { message, records });
        }
        let (after, upto) = ready.committed;
        if after < upto {
            self.apply(after, upto);
        }
        if let Some(append) = &mut ready.append {
            // The log has shown the entries since they came; what is written to memory is durable at once.
            let log = self.raft.storage_mut();
            log.hard = append.hard_state.unwrap_or(log.hard);
            self.raft.synced(append.ticket);
            self.touched = true;
            for message in append.after_sync.hold() {
                if message.to == self.raft.id() {
                    self.raft.step(message, &[]).expect("our own word");
                } else {
                    shell.network.push(Packet { message, records: Bytes::new() });
                }
            }
        }
    }

    fn apply(&mut self, after: Index, upto: Index) {
        let mut expected = after.next();
        for run in self.raft.storage().runs(after, upto) {
            for record in Records::new(&run.records) {
                let record = record.expect("whole records");
                assert_eq!(record.id.index, expected);
                self.sum += look_at(record.payload);
                expected = expected.next();
            }
        }
        assert_eq!(expected, upto.next(), "whole runs are committed");
        self.raft.applied(upto);
    }

    /// A new leader appends an empty entry by itself.
    fn stage_own_entries(&mut self) {
        let (held, last) = (self.raft.storage().last_index(), self.raft.last_index());
        for index in (held.0 + 1..=last.0).map(Index) {
            let meta = self.raft.meta(index).expect("within the log");
            assert_eq!(meta.size, 0, "an entry of the core's own is empty");
            let mut out = BytesMut::new();
            record::encode(self.seed, EntryId { term: meta.term, index }, meta.kind, &[], &mut out);
            self.raft.storage_mut().stage(index.prev(), std::iter::once(meta), out.freeze());
        }
    }
}

/// A log in memory: records as they came, and what the core may ask of them.
#[derive(Default)]
struct Log {
    hard: HardState,
    base: EntryId,
    /// The first is that of `base.index + 1`.
    metas: VecDeque<EntryMeta>,
    runs: VecDeque<Run>,
}

/// The records of the entries `after + 1 ..= upto`, which came in one turn.
struct Run {
    after: Index,
    upto: Index,
    records: Bytes,
}

impl Log {
    fn stage(&mut self, after: Index, metas: impl Iterator<Item = EntryMeta>, records: Bytes) {
        assert_eq!(after, self.last_index(), "nothing is replaced");
        self.metas.extend(metas);
        self.runs.push_back(Run { after, upto: self.last_index(), records });
    }

    /// The runs behind `after` up to `upto`.
    fn runs(&self, after: Index, upto: Index) -> impl Iterator<Item = &Run> {
        // What is asked for came lately.
        let later = self.runs.iter().rev().take_while(|run| run.upto > after).count();
        self.runs.range(self.runs.len() - later..).take_while(move |run| run.upto <= upto)
    }

    /// The records of a message: what one turn brought, or nothing.
    fn records(&self, after: Index, upto: Index) -> Bytes {
        if after == upto {
            return Bytes::new();
        }
        let run = self.runs.iter().rev().find(|run| run.after <= after).expect("within the log");
        assert!(run.after == after && run.upto == upto, "a message carries what one turn brought");
        run.records.clone()
    }

    /// Forgets the entries up to `upto`, which are applied everywhere.
    fn compact(&mut self, upto: Index) {
        let term = self.term(upto).expect("within the log");
        self.metas.drain(..=self.slot(upto).expect("within the log"));
        while self.runs.front().is_some_and(|run| run.upto <= upto) {
            self.runs.pop_front();
        }
        self.base = EntryId { term, index: upto };
    }

    /// Gives back the memory that is not in use: all of it, when everything is compacted.
    fn shrink(&mut self) {
        self.metas.shrink_to_fit();
        self.runs.shrink_to_fit();
        assert_eq!(self.metas.capacity() + self.runs.capacity(), 0, "an empty log has nothing on the heap");
    }

    /// Of the entries `after + 1 ..= upto`, at least one.
    fn metas(&self, after: Index, upto: Index) -> Result<impl Iterator<Item = &EntryMeta>, StorageError> {
        Ok(self.metas.range(self.slot(after.next())?..=self.slot(upto)?))
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
        Index(self.base.index.0 + self.metas.len() as u64)
    }

    fn term(&self, index: Index) -> Result<Term, StorageError> {
        if index == self.base.index { Ok(self.base.term) } else { Ok(self.meta(index)?.term) }
    }

    fn meta(&self, index: Index) -> Result<EntryMeta, StorageError> {
        Ok(self.metas[self.slot(index)?])
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
        self.metas(after, upto)?.for_each(|meta| sizes += *meta);
        Ok(sizes)
    }

    fn snapshot(&self) -> Option<EntryId> {
        (self.base.index > Index::ZERO).then_some(self.base)
    }
}
