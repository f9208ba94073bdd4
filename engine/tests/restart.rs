//! Logs on a real disk: how long it takes to open one of a GiB, and looking at one that is written.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use ringraft_engine::inspect;
use ringraft_engine::{Config, Engine, GroupLog, Write};
use ringraft_io::uring::{Uring, UringConfig, UringWorld};
use ringraft_io::{Io, Job, Token};
use ringraft_raft::record::encode;
use ringraft_raft::{EntryId, EntryKind, GroupId, Index, Storage, Term};

use crate::rig::conf;

const LOG_BYTES: u64 = 1 << 30;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().unwrap())
}

fn turn(io: &mut Uring, engine: &mut Engine) {
    engine.submit(io);
    let mut out = Vec::new();
    io.turn(None, &mut out).unwrap();
    for completion in out {
        engine.complete(io, completion).unwrap();
    }
}

fn put(log: &mut GroupLog, engine: &mut Engine, entries: u64, payload: &[u8]) {
    let after = log.last_index();
    let mut run = BytesMut::new();
    for index in after.0 + 1..=after.0 + entries {
        let id = EntryId { term: Term(1), index: Index(index) };
        encode(log.seed(), id, EntryKind::Normal, &[payload], &mut run);
    }
    let last = log.stage(after.next(), run.freeze()).unwrap();
    engine.append(log, Write { hard_state: None, entries: (after, last), snapshot: None }).unwrap();
}

/// Forgets what the page cache holds of the log.
fn drop_caches(io: &mut Uring, dir: &Path) {
    for file in io.list(dir).unwrap().into_iter().filter(|file| file.size > 4096) {
        let file = io.open(&file.path).unwrap();
        io.job(Job::DropCache { file }, Token(1));
        let mut out = Vec::new();
        while out.is_empty() {
            io.turn(None, &mut out).unwrap();
        }
    }
}

fn world() -> (UringWorld, Uring) {
    let mut world = UringWorld::start(UringConfig::new(1)).unwrap();
    let io = world.take_seeds().pop().unwrap().into_io().unwrap();
    (world, io)
}

/// `GROUPS`, `PAYLOAD` (bytes) and `RUN` (entries of a group in one batch) change the shape.
#[test]
#[ignore = "writes 1 GiB; run with --release --nocapture"]
fn restart_of_a_gibibyte() {
    let (groups, payload, run) = (number("GROUPS", 1000), number("PAYLOAD", 256), number("RUN", 4));
    let parent = std::env::var("LOG_DIR").unwrap_or(env!("CARGO_TARGET_TMPDIR").to_owned());
    let dir = tempfile::tempdir_in(parent).unwrap();
    let config = Config { segments_max: 64, ..Config::new(dir.path(), 7) };
    let payload = Bytes::from(vec![7; usize::try_from(payload).unwrap()]);
    let begun = Instant::now();
    let (mut entries, mut written) = (0, 0);
    {
        let (_world, mut io) = world();
        let (mut engine, _, _) = Engine::open(&mut io, config.clone()).unwrap();
        let mut logs: Vec<_> = (1..=groups).map(|id| engine.create(GroupId(id), conf(3)).unwrap()).collect();
        let mut next = 0;
        while written < LOG_BYTES {
            for _ in 0..32 {
                if engine.has_room() {
                    put(&mut logs[next], &mut engine, run, &payload);
                    next = (next + 1) % logs.len();
                    entries += run;
                }
            }
            turn(&mut io, &mut engine);
            written = engine.stats().written_bytes;
        }
        while engine.stats().durable < engine.stats().last_batch {
            turn(&mut io, &mut engine);
        }
    }
    println!("{groups} groups, {entries} entries, {written} bytes written in {:?}", begun.elapsed());
    for round in 0..3 {
        let (_world, mut io) = world();
        drop_caches(&mut io, dir.path());
        let begun = Instant::now();
        let (mut engine, logs, report) = Engine::open(&mut io, config.clone()).unwrap();
        println!("round {round}: {:?}, {report:?}", begun.elapsed());
        assert_eq!((report.groups as u64, report.entries), (groups, entries));
        let mut out = Vec::new();
        let log = &logs[0];
        engine.read(&mut io, log, Index(0), log.last_index(), &mut out).unwrap();
    }
}

/// A log that is written, compacted and recycled all the time is found intact at any moment.
#[test]
fn a_log_in_use_can_be_looked_at() {
    if UringWorld::start(UringConfig::new(1)).and_then(|mut w| w.take_seeds().pop().unwrap().into_io()).is_err() {
        println!("skipped: no io_uring here");
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().to_owned();
    let done = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let done = done.clone();
        move || {
            let (_world, mut io) = world();
            let mut config = Config { segment_bytes: 256 << 10, batch_bytes_max: 16 << 10, ..Config::new(path, 7) };
            config.record_bytes_max = 16 << 10;
            let (mut engine, _, _) = Engine::open(&mut io, config).unwrap();
            let mut logs: Vec<_> = (1..=3).map(|id| engine.create(GroupId(id), conf(3)).unwrap()).collect();
            while !done.load(Ordering::Relaxed) {
                for log in &mut logs {
                    let last = log.last_index();
                    if engine.has_room_for(log, 4096) {
                        put(log, &mut engine, 1 + last.0 % 5, &[7; 500]);
                    }
                    if last.0 > log.base().index.0 + 1500 {
                        engine.compact(log, Index(last.0 - 500)).unwrap();
                    }
                }
                turn(&mut io, &mut engine);
            }
            engine.stats().written_bytes
        }
    });
    let (mut checks, mut batches) = (0, 0);
    let begun = Instant::now();
    while begun.elapsed().as_millis() < 700 {
        // Before the first segment there is no directory, or nothing in it.
        let Ok(check) = inspect::check(dir.path(), None) else { continue };
        assert!(check.is_intact(), "{check:?}");
        assert!(check.last_batch >= batches, "it goes on");
        (checks, batches) = (checks + 1, check.last_batch);
    }
    done.store(true, Ordering::Relaxed);
    let written = writer.join().unwrap();
    println!("{checks} checks while {written} bytes were written");
    let check = inspect::check(dir.path(), Some(7)).unwrap();
    assert!(check.is_intact() && !check.changing && check.groups.len() == 3);
}
