//! Our side: the engine on a ring in this thread.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ringraft_engine::{BatchNo, Config, Engine, GroupLog, Write};
use ringraft_io::uring::{Uring, UringConfig, UringWorld};
use ringraft_io::{Completion, Io};
use ringraft_raft::record::{self, GroupSeed};
use ringraft_raft::{ConfState, EntryId, EntryKind, GroupId, Index, PeerId, Storage, Term};
use tempfile::TempDir;

use super::KEEP_BYTES;
use crate::row::Failure;

const GROUP: GroupId = GroupId(1);

/// A log of one group. The directory goes last.
pub(super) struct Ours {
    engine: Engine,
    log: GroupLog,
    io: Uring,
    completions: Vec<Completion>,
    arena: BytesMut,
    payload: Vec<u8>,
    kept_bytes: usize,
    _world: UringWorld,
    _dir: TempDir,
}

impl Ours {
    pub(super) fn open(dir: &Path) -> Result<Ours, Failure> {
        let dir = tempfile::Builder::new().prefix("ringraft-").tempdir_in(dir)?;
        let mut world = UringWorld::start(UringConfig::new(1))?;
        let mut io = world.take_seeds().pop().expect("one shard").into_io()?;
        let (mut engine, ..) = Engine::open(&mut io, Config::new(dir.path(), 1))?;
        let log = engine.create(GROUP, ConfState { voters: vec![PeerId(1)], ..ConfState::default() })?;
        let (completions, arena, payload) = (Vec::new(), BytesMut::new(), vec![7; 64 << 10]);
        let mut ours = Ours { engine, log, io, completions, arena, payload, kept_bytes: 0, _world: world, _dir: dir };
        // Segments are filled with zeros once, at the first start.
        while ours.engine.stats().segments_free == 0 {
            ours.turn()?;
        }
        Ok(ours)
    }

    /// Makes `count` further entries durable.
    pub(super) fn append(&mut self, count: usize, size: usize) -> Result<(), Failure> {
        let batch = self.write(count, size)?;
        while self.engine.durable() < batch {
            self.turn()?;
        }
        Ok(())
    }

    /// Keeps `waiting` appends of `count` entries under way; nanoseconds per entry that was acknowledged.
    pub(super) fn stream(&mut self, time: Duration, waiting: usize, count: usize, size: usize) -> Result<f64, Failure> {
        let mut batches = VecDeque::with_capacity(waiting);
        let (mut done, begin) = (0, Instant::now());
        while done == 0 || begin.elapsed() < time {
            while batches.len() < waiting && self.has_room(count, size) {
                batches.push_back(self.write(count, size)?);
            }
            self.turn()?;
            let durable = self.engine.durable();
            let acked = batches.iter().take_while(|batch| **batch <= durable).count();
            batches.drain(..acked);
            done += acked * count;
        }
        let took = begin.elapsed().as_nanos() as f64 / done as f64;
        while self.engine.durable() < batches.back().copied().unwrap_or_default() {
            self.turn()?;
        }
        Ok(took)
    }

    /// Whether so many entries would be taken now, and a compaction before them.
    fn has_room(&self, count: usize, size: usize) -> bool {
        self.engine.has_room_for(&self.log, count * record::encoded_len(size)) && self.engine.takes_compaction()
    }

    fn write(&mut self, count: usize, size: usize) -> Result<BatchNo, Failure> {
        while !self.has_room(count, size) {
            self.turn()?;
        }
        let after = self.log.last_index();
        if self.kept_bytes > KEEP_BYTES {
            // Rides with the batch.
            self.engine.compact(&mut self.log, after)?;
            self.kept_bytes = 0;
        }
        let seed = GroupSeed::of(GROUP);
        self.arena.reserve(count * record::encoded_len(size));
        for index in (after.0 + 1..).take(count) {
            let id = EntryId { term: Term(1), index: Index(index) };
            record::encode(seed, id, EntryKind::Normal, &[&self.payload[..size]], &mut self.arena);
        }
        self.kept_bytes += self.arena.len();
        let last = self.log.stage(after.next(), self.arena.split().freeze())?;
        Ok(self.engine.append(&mut self.log, Write { entries: (after, last), ..Write::default() })?)
    }

    fn turn(&mut self) -> Result<(), Failure> {
        self.engine.submit(&mut self.io);
        self.io.turn(None, &mut self.completions)?;
        for completion in self.completions.drain(..) {
            self.engine.complete(&mut self.io, completion)?;
        }
        Ok(())
    }
}
