//! The rival's side: raft-engine without compression, which our payloads do not have either; a thread's writes are synced
//! by `write(batch, true)`, and threads share syncs.

use std::path::Path;
use std::time::{Duration, Instant};

use raft::eraftpb::Entry;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};
use tempfile::TempDir;

use super::KEEP_BYTES;
use crate::row::Failure;

/// What the files are that it writes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Files {
    /// As by default: they grow.
    Fresh,
    /// Filled ahead, and used again.
    Recycled,
}

struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// An engine, and threads that write groups of their own. The directory goes last.
pub(super) struct Threads {
    engine: Engine,
    /// By thread.
    groups: Vec<Group>,
    payload: bytes::Bytes,
    _dir: TempDir,
}

/// A thread's group.
#[derive(Default)]
struct Group {
    id: u64,
    last: u64,
    kept_bytes: usize,
    batch: LogBatch,
    entries: Vec<Entry>,
}

const THREADS_MAX: usize = 128;

impl Threads {
    pub(super) fn open(dir: &Path, files: Files) -> Result<Threads, Failure> {
        let dir = tempfile::Builder::new().prefix("raft-engine-").tempdir_in(dir)?;
        let recycled = files == Files::Recycled;
        let engine = Engine::open(Config {
            dir: dir.path().to_str().ok_or("a path that is not UTF-8")?.into(),
            batch_compression_threshold: ReadableSize(0),
            target_file_size: ReadableSize::mb(64),
            purge_threshold: ReadableSize::mb(256),
            enable_log_recycle: recycled,
            prefill_for_recycle: recycled,
            ..Config::default()
        })?;
        let group = |id| Group { id: id as u64 + 1, ..Group::default() };
        let payload = vec![7; 64 << 10].into();
        Ok(Threads { engine, groups: (0..THREADS_MAX).map(group).collect(), payload, _dir: dir })
    }

    /// Makes `count` further entries of one group durable.
    pub(super) fn append(&mut self, group: usize, count: usize, size: usize) -> Result<(), Failure> {
        self.groups[group].append(&self.engine, &self.payload.slice(..size), count)?;
        Ok(())
    }

    /// Nanoseconds per entry with as many threads as go best: each writes `count` entries at a time.
    pub(super) fn best_of(
        &mut self,
        threads: &[usize],
        time: Duration,
        count: usize,
        size: usize,
    ) -> Result<f64, Failure> {
        let mut best = f64::INFINITY;
        for threads in threads {
            best = best.min(self.stream(*threads, time, count, size)?);
        }
        Ok(best)
    }

    fn stream(&mut self, threads: usize, time: Duration, count: usize, size: usize) -> Result<f64, Failure> {
        let (engine, payload, begin) = (&self.engine, &self.payload.slice(..size), Instant::now());
        let groups = &mut self.groups[..threads];
        let done: Result<usize, raft_engine::Error> = std::thread::scope(|scope| {
            let threads = groups.iter_mut().map(|group| {
                scope.spawn(move || {
                    let mut done = 0;
                    while done == 0 || begin.elapsed() < time {
                        group.append(engine, payload, count)?;
                        done += count;
                    }
                    Ok(done)
                })
            });
            let threads: Vec<_> = threads.collect();
            threads.into_iter().map(|thread| thread.join().expect("it does not panic")).sum()
        });
        let took = begin.elapsed().as_nanos() as f64 / done? as f64;
        self.engine.purge_expired_files()?;
        Ok(took)
    }
}

impl Group {
    fn append(&mut self, engine: &Engine, payload: &bytes::Bytes, count: usize) -> Result<(), raft_engine::Error> {
        self.entries.resize_with(count, Entry::default);
        for entry in &mut self.entries {
            self.last += 1;
            (entry.index, entry.term, entry.data) = (self.last, 1, payload.clone());
        }
        self.batch.add_entries::<Entries>(self.id, &self.entries)?;
        engine.write(&mut self.batch, true)?;
        self.kept_bytes += count * payload.len();
        if self.kept_bytes > KEEP_BYTES {
            engine.compact_to(self.id, self.last);
            self.kept_bytes = 0;
        }
        Ok(())
    }
}
