//! Propose to applied: three replicas in one loop. The core, and what a shell must do beside it (encode, hand records
//! on, verify them before they are applied); disk and network are memory that answers at once.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use criterion::Criterion;
use ringraft_raft::record::{self, GroupSeed, Records};
use ringraft_raft::{
    Body, Config, EntryId, EntryKind, EntryMeta, HardState, Index, Message, PeerId, Proposed, Raft, Ready, Role,
    Storage,
};

use crate::log::Log;
use crate::support::{GROUP, payload, throughput};

/// Entries between two compactions.
const COMPACT_EVERY: usize = 4096;

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("raft");
    for size in [16, 256] {
        let payload = payload(size);
        for batch in [1, 64, 1024] {
            group.throughput(throughput(batch, size));
            let mut trio = None;
            group.bench_function(format!("propose-to-applied/{batch}x{size}B"), |bencher| {
                let trio = trio.get_or_insert_with(Trio::elect);
                bencher.iter(|| trio.put(batch, &payload));
            });
        }
    }
    group.finish();
}

/// Three replicas; the first leads.
struct Trio {
    replicas: Vec<Replica>,
    network: Vec<Packet>,
    delivered: Vec<Packet>,
    buffer: BytesMut,
    uncompacted: usize,
}

/// A message with the records of the range that it names.
struct Packet {
    message: Message,
    records: Bytes,
}

impl Trio {
    fn elect() -> Trio {
        let replicas = (1..=3).map(|id| Replica::new(PeerId(id))).collect();
        let mut trio =
            Trio { replicas, network: Vec::new(), delivered: Vec::new(), buffer: BytesMut::new(), uncompacted: 0 };
        trio.replicas[0].raft.campaign();
        trio.settle();
        assert_eq!(trio.replicas[0].raft.role(), Role::Leader);
        trio
    }

    /// Proposes `batch` entries in one turn; all three have applied them then.
    fn put(&mut self, batch: usize, payload: &[u8]) {
        let leader = &mut self.replicas[0];
        let after = leader.raft.last_index();
        let size = u32::try_from(payload.len()).expect("a small payload");
        self.buffer.reserve(batch * record::encoded_len(payload.len()));
        for _ in 0..batch {
            let proposed = leader.raft.propose(EntryKind::Normal, size).expect("a leader without a backlog");
            let Proposed::Appended(id) = proposed else { unreachable!("it leads") };
            record::encode(leader.seed, id, EntryKind::Normal, &[payload], &mut self.buffer);
        }
        let upto = leader.raft.last_index();
        leader.runs.push_back(Run { after, upto, records: self.buffer.split().freeze() });
        self.settle();
        assert!(self.replicas.iter().all(|replica| replica.raft.applied_index() == upto));
        self.uncompacted += batch;
        if self.uncompacted >= COMPACT_EVERY {
            self.replicas.iter_mut().for_each(Replica::compact);
            self.uncompacted = 0;
        }
    }

    /// Turns until nobody has anything to say.
    fn settle(&mut self) {
        loop {
            for replica in &mut self.replicas {
                replica.turn(&mut self.network);
            }
            if self.network.is_empty() && self.replicas.iter().all(|replica| !replica.raft.has_ready()) {
                return;
            }
            std::mem::swap(&mut self.network, &mut self.delivered);
            for packet in self.delivered.drain(..) {
                let to = usize::try_from(packet.message.to.0 - 1).expect("one of three");
                self.replicas[to].step(packet);
            }
        }
    }
}

/// One member, its log and its state machine (the sum of what it was given).
struct Replica {
    raft: Raft<Log>,
    seed: GroupSeed,
    ready: Ready,
    runs: VecDeque<Run>,
    metas: Vec<EntryMeta>,
    own: Vec<Message>,
    payload_bytes: usize,
}

/// The records of the entries `after + 1 ..= upto`, which came in one turn.
struct Run {
    after: Index,
    upto: Index,
    records: Bytes,
}

impl Replica {
    fn new(id: PeerId) -> Replica {
        Replica {
            raft: Raft::new(Config::new(id), Log::new(3, 0)).expect("an empty log"),
            seed: GroupSeed::of(GROUP),
            ready: Ready::default(),
            runs: VecDeque::new(),
            metas: Vec::new(),
            own: Vec::new(),
            payload_bytes: 0,
        }
    }

    fn step(&mut self, packet: Packet) {
        let Packet { message, records } = packet;
        self.metas.clear();
        self.metas.extend(Records::new(&records).map(|record| record.expect("whole records").meta()));
        let stepped = self.raft.step(message, &self.metas).expect("nobody is behind");
        if let (Some(first), Body::Append { prev, last, .. }) = (stepped.appended, message.body) {
            assert_eq!(first, prev.index.next(), "nothing is sent twice");
            self.runs.push_back(Run { after: prev.index, upto: last, records });
        }
    }

    fn turn(&mut self, network: &mut Vec<Packet>) {
        if !self.raft.has_ready() {
            return;
        }
        self.hold_own_entries();
        let mut ready = std::mem::take(&mut self.ready);
        self.raft.ready(&mut ready);
        for message in ready.messages.drain(..) {
            network.push(self.pack(message));
        }
        let (after, upto) = ready.committed;
        if after < upto {
            self.apply(after, upto);
            self.raft.applied(upto);
        }
        if let Some(append) = &mut ready.append {
            self.write(append.entries, append.hard_state);
            self.raft.synced(append.ticket);
            self.own.extend(append.after_sync.hold());
            for message in self.own.drain(..) {
                if message.to == self.raft.id() {
                    self.raft.step(message, &[]).expect("our own word");
                } else {
                    network.push(Packet { message, records: Bytes::new() });
                }
            }
        }
        self.ready = ready;
    }

    /// A new leader appends an empty entry by itself.
    fn hold_own_entries(&mut self) {
        let mut after = self.runs.back().map_or(self.raft.applied_index(), |run| run.upto);
        let last = self.raft.last_index();
        while after < last {
            let meta = self.raft.meta(after.next()).expect("within the log");
            assert_eq!(meta.size, 0, "an entry of the core's own is empty");
            let mut record = BytesMut::new();
            record::encode(self.seed, EntryId { term: meta.term, index: after.next() }, meta.kind, &[], &mut record);
            self.runs.push_back(Run { after, upto: after.next(), records: record.freeze() });
            after = after.next();
        }
    }

    fn pack(&self, message: Message) -> Packet {
        let records = match message.body {
            Body::Append { prev, last, .. } if prev.index < last => {
                let run = &self.runs[self.run_behind(prev.index)];
                assert!(run.after == prev.index && run.upto == last, "a message carries what one turn brought");
                run.records.clone()
            }
            _ => Bytes::new(),
        };
        Packet { message, records }
    }

    fn write(&mut self, (after, upto): (Index, Index), hard: Option<HardState>) {
        self.metas.clear();
        let indexes = (after.0 + 1..=upto.0).map(Index);
        self.metas.extend(indexes.map(|index| self.raft.meta(index).expect("within the log")));
        let log = self.raft.storage_mut();
        assert!(self.metas.is_empty() || after == log.last_index(), "nothing is replaced");
        log.entries.extend(&self.metas);
        log.hard = hard.unwrap_or(log.hard);
    }

    fn apply(&mut self, after: Index, upto: Index) {
        let first = self.run_behind(after);
        let mut expected = after.next();
        for run in self.runs.range(first..).take_while(|run| run.upto <= upto) {
            for record in Records::new(&run.records) {
                let record = record.expect("whole records");
                assert!(record.id.index == expected && record.verify(self.seed), "entry {expected} is sound");
                self.payload_bytes += record.payload.len();
                expected = expected.next();
            }
        }
        assert_eq!(expected, upto.next(), "whole turns are committed");
    }

    /// Position of the run that begins behind `after`.
    fn run_behind(&self, after: Index) -> usize {
        self.runs.partition_point(|run| run.upto <= after)
    }

    /// Forgets everything: all of it is applied, here and by the others.
    fn compact(&mut self) {
        let index = self.raft.applied_index();
        let log = self.raft.storage_mut();
        assert_eq!(index, log.last_index());
        log.compact(index);
        self.runs.clear();
    }
}
