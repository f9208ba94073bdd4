//! The log engine on a ring of its own: from staging a batch until it is durable, one batch at a time.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use criterion::Criterion;
use ringraft_engine::{BatchNo, Config, Engine, GroupLog, Write};
use ringraft_io::uring::{Uring, UringConfig, UringWorld};
use ringraft_io::{Completion, Io};
use ringraft_raft::{ConfState, EntryId, Index, PeerId, Storage, Term};
use tempfile::TempDir;

use crate::support::{GROUP, data_dir, encode_run, has_ring, payload, throughput};

const PAYLOAD_SIZE: usize = 256;

/// Small enough that segments fill and are used again within a short run.
const SEGMENT_SIZE: u64 = 16 << 20;

/// Bytes written between two compactions.
const COMPACT_EVERY: u64 = 8 << 20;

pub(crate) fn bench(criterion: &mut Criterion) {
    if !has_ring("wal") {
        return;
    }
    let mut rig = None;
    let mut group = criterion.benchmark_group("wal");
    for count in [1, 16, 256, 1024] {
        group.throughput(throughput(count, PAYLOAD_SIZE));
        group.bench_function(format!("append-durable/{count}x256B"), |bencher| {
            let rig = rig.get_or_insert_with(Rig::open);
            bencher.iter_custom(|iterations| (0..iterations).map(|_| rig.batch(count)).sum());
        });
    }
    group.finish();
}

/// A log on a disk. The directory goes last.
struct Rig {
    engine: Engine,
    log: GroupLog,
    io: Uring,
    completions: Vec<Completion>,
    durable: BatchNo,
    compacted_bytes: u64,
    payload: Vec<u8>,
    _world: UringWorld,
    _dir: TempDir,
}

impl Rig {
    fn open() -> Rig {
        let dir = data_dir("wal");
        let mut world = UringWorld::start(UringConfig::new(1)).expect("a ring was probed");
        let seed = world.take_seeds().pop().expect("one shard");
        let mut io = seed.into_io().expect("a ring was probed");
        let mut config = Config::new(dir.path(), 1);
        config.segment_bytes = SEGMENT_SIZE;
        config.record_bytes_max = 1 << 20;
        let (mut engine, ..) = Engine::open(&mut io, config).expect("an empty directory");
        let voters = ConfState { voters: vec![PeerId(1)], ..ConfState::default() };
        let log = engine.create(GROUP, voters).expect("the first group");
        let durable = engine.stats().durable;
        let mut rig = Rig {
            engine,
            log,
            io,
            completions: Vec::new(),
            durable,
            compacted_bytes: 0,
            payload: payload(PAYLOAD_SIZE),
            _world: world,
            _dir: dir,
        };
        // The next segment is being filled with zeros: that belongs to no batch.
        while rig.engine.stats().segments_free == 0 {
            rig.turn();
        }
        rig
    }

    /// Makes `count` further entries durable; how long that took, but for encoding them.
    fn batch(&mut self, count: usize) -> Duration {
        let after = self.log.last_index();
        let run = self.encode(after, count);
        let start = Instant::now();
        while !self.engine.has_room() {
            self.turn();
        }
        let written = self.engine.stats().written_bytes;
        if written - self.compacted_bytes > COMPACT_EVERY {
            // Rides with the batch.
            self.engine.compact(&mut self.log, after).expect("room for a compaction");
            self.compacted_bytes = written;
        }
        let last = self.log.stage(after.next(), run).expect("the next run");
        let write = Write { entries: (after, last), ..Write::default() };
        let batch = self.engine.append(&mut self.log, write).expect("there is room");
        while self.durable < batch {
            self.turn();
        }
        start.elapsed()
    }

    fn encode(&self, after: Index, count: usize) -> Bytes {
        let mut run = BytesMut::new();
        encode_run(EntryId { term: Term(1), index: after }, count, &self.payload, &mut run);
        run.freeze()
    }

    fn turn(&mut self) {
        self.engine.submit(&mut self.io);
        self.io.turn(None, &mut self.completions).expect("the ring works");
        for completion in self.completions.drain(..) {
            let durable = self.engine.complete(&mut self.io, completion).expect("the disk works");
            self.durable = durable.unwrap_or(self.durable);
        }
    }
}
