//! Every single bit of the blocks of a small log, flipped in turn: each flip is told at its place, or it makes no
//! difference. Nothing panics, and nothing takes more memory for it. Of the bytes that no block covers one bit each is
//! flipped, unless `ENGINE_BITS=all`. Its own test binary, for the allocator counts for all of it.

#[path = "world.rs"]
#[expect(dead_code, reason = "shared with the other tests")]
mod world;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use ringraft_engine::{Config, Engine, EngineError, GroupLog, Wounds, Write};
use ringraft_io::Io;
use ringraft_raft::record::{Records, encode};
use ringraft_raft::{ConfState, EntryId, EntryKind, GroupId, HardState, Index, PeerId, Storage, Term};

use world::{Image, World};

struct Counting;

thread_local! {
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.set(BYTES.get() + layout.size());
        // SAFETY: the caller's layout, unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: memory that `alloc` got from the same allocator, for the same layout.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What is known of a group.
#[derive(Clone, PartialEq, Debug)]
struct Known {
    hard: HardState,
    base: Index,
    conf: ConfState,
    /// By index: term, payload.
    entries: BTreeMap<u64, (u64, Vec<u8>)>,
}

fn config() -> Config {
    Config {
        segment_bytes: 8 * 4096,
        batch_bytes_max: 4096,
        record_bytes_max: 4096,
        segments_reserve: 0,
        cache_bytes_max: 4 << 10,
        rewrite_percent: 0,
        open_with_holes: true,
        ..Config::new("/log", 77)
    }
}

/// A log in three segments with everything in it, all of it but the last batch known to be durable; and what it says.
fn log() -> (Image, BTreeMap<u64, Known>) {
    let mut world = World::default();
    let (mut engine, _, _) = Engine::open(&mut world, config()).unwrap();
    let conf = |voters: u64| ConfState { voters: (1..=voters).map(PeerId).collect(), ..ConfState::default() };
    let mut logs: Vec<GroupLog> = (1..=3).map(|group| engine.create(GroupId(group), conf(group)).unwrap()).collect();
    for round in 1..=13_u64 {
        for log in &mut logs {
            let group = log.group().0;
            let (after, mut run) = (log.last_index(), BytesMut::new());
            let hard = HardState { term: Term(round), vote: PeerId(group), commit: after };
            let mut write = Write { hard_state: Some(hard), ..Write::default() };
            if group < 3 && round % group == 0 {
                for nth in 1..=3 {
                    let id = EntryId { term: Term(round), index: Index(after.0 + nth) };
                    let payload = vec![u8::try_from(round).unwrap(); usize::try_from(40 * nth).unwrap()];
                    encode(log.seed(), id, EntryKind::Normal, &[&payload], &mut run);
                }
                log.stage(after.next(), run.freeze()).unwrap();
                write.entries = (after, log.last_index());
            }
            engine.append(log, write).unwrap();
        }
        if round == 6 {
            engine.compact(&mut logs[0], Index(4)).unwrap();
        }
        settle(&mut engine, &mut world);
    }
    engine.attest();
    settle(&mut engine, &mut world);
    let known = known(&mut engine, &mut world, &logs);
    (world.files, known)
}

fn settle(engine: &mut Engine, world: &mut World) {
    let mut completions = Vec::new();
    while engine.durable() < engine.stats().last_batch {
        engine.submit(world);
        world.turn(None, &mut completions).unwrap();
        for completion in completions.drain(..) {
            engine.complete(world, completion).unwrap();
        }
    }
}

/// What can be read.
fn known(engine: &mut Engine, world: &mut World, logs: &[GroupLog]) -> BTreeMap<u64, Known> {
    let mut all = BTreeMap::new();
    let mut runs = Vec::new();
    for log in logs {
        let (hard, conf) = log.initial_state();
        let mut entries = BTreeMap::new();
        for index in log.base().index.0 + 1..=log.last_index().0 {
            if engine.read(world, log, Index(index - 1), Index(index), &mut runs).is_ok() {
                for record in runs.iter().flat_map(|run| Records::new(run)).map(Result::unwrap) {
                    entries.insert(record.id.index.0, (record.id.term.0, record.payload.to_vec()));
                }
            }
            runs.clear();
        }
        all.insert(log.group().0, Known { hard, base: log.base().index, conf, entries });
    }
    all
}

/// Which bytes of a file belong to blocks, as far as their lengths say: what lies behind them is read by nobody.
fn covered(bytes: &[u8]) -> Vec<bool> {
    let mut covered = vec![false; bytes.len()];
    for (at, block) in (0..).step_by(4096).zip(bytes.chunks(4096)).filter(|(_, block)| &block[..4] == b"RRBK") {
        let len = 80 + u32::from_le_bytes(block[64..68].try_into().unwrap()) as usize;
        covered[at..at + len].fill(true);
    }
    covered
}

#[derive(Default, Debug)]
struct Counts {
    refused: usize,
    /// Told as holes or doubts.
    wounded: usize,
    /// Told, and nothing was lost that is still needed.
    gaps: usize,
    /// The last batch, which nobody attests.
    cut: usize,
    harmless: usize,
    bytes_max: usize,
}

/// Opens the log with one bit flipped, and looks at what it says.
fn look(world: &mut World, path: &Path, bit: usize, truth: &BTreeMap<u64, Known>, counts: &mut Counts) {
    let (at, what) = (bit / 8, || format!("{} at {}, bit {}", path.display(), bit / 8, bit % 8));
    let flipped = world.files[path][at] ^ 1 << (bit % 8);
    world.put(path, at, &[flipped]);
    BYTES.set(0);
    let opened = Engine::open(world, config());
    counts.bytes_max = counts.bytes_max.max(BYTES.get());
    let (mut engine, logs, report) = match opened {
        Ok(opened) => opened,
        Err(EngineError::Refused(refusal)) => {
            let named = refusal.file == path || refusal.file == Path::new("/log");
            assert!(named, "{}: {refusal}", what());
            counts.refused += 1;
            return;
        }
        Err(error) => panic!("{}: {error}", what()),
    };
    let found = known(&mut engine, world, &logs);
    if report.gaps.is_empty() {
        assert_eq!((report.wounded, report.groups_lost), (0, false), "{}", what());
        assert_eq!(&found, truth, "{}", what());
        if report.cut.is_some() {
            counts.cut += 1
        } else {
            counts.harmless += 1
        }
        return;
    }
    let [gap] = &report.gaps[..] else { panic!("{}: {:?}", what(), report.gaps) };
    assert_eq!((gap.file.as_path(), gap.offset), (path, (at - at % 4096) as u64), "{}", what());
    if report.wounded == 0 {
        counts.gaps += 1;
    } else {
        counts.wounded += 1;
    }
    for (group, truth) in truth {
        let Some(found) = found.get(group) else {
            assert!(report.groups_lost, "{}: group {group} is gone", what());
            continue;
        };
        match engine.wounds(GroupId(*group)) {
            None => assert_eq!(found, truth, "{}: group {group}", what()),
            Some(told) => {
                check(found, truth, told).unwrap_or_else(|error| panic!("{}: group {group}: {error}", what()))
            }
        }
    }
    assert!(found.keys().all(|group| truth.contains_key(group)), "{}: a group is invented", what());
}

/// What was found must be true, and what is not found must be told.
fn check(found: &Known, truth: &Known, told: &Wounds) -> Result<(), String> {
    let hard = (found.hard.term, found.hard.vote) == (truth.hard.term, truth.hard.vote);
    if !hard && !told.hard_state_lost || found.hard.term > truth.hard.term {
        return Err(format!("{:?}, not {:?}; {told:?}", found.hard, truth.hard));
    }
    for (index, entry) in &truth.entries {
        let hole = told.holes.iter().any(|hole| (hole.first.0..=hole.last.0).contains(index));
        match found.entries.get(index) {
            Some(other) if other != entry => return Err(format!("entry {index} is another one")),
            None if !hole && !told.silence() => return Err(format!("entry {index} is gone: {told:?}")),
            _ => {}
        }
    }
    let invented = found
        .entries
        .keys()
        .find(|index| **index > found.base.0.max(truth.base.0) && !truth.entries.contains_key(index));
    invented.map_or(Ok(()), |index| Err(format!("entry {index} is invented")))
}

#[test]
fn every_flipped_bit_is_told_or_harmless() {
    let (image, truth) = log();
    let every = std::env::var("ENGINE_BITS").is_ok_and(|text| text == "all");
    let mut bits: Vec<(&PathBuf, usize)> = Vec::new();
    for (path, bytes) in &image {
        let covered = covered(bytes);
        let wanted = |bit: &usize| every || covered[bit / 8] || bit % 8 == bit / 8 % 8;
        bits.extend((0..bytes.len() * 8).filter(wanted).map(|bit| (path, bit)));
    }
    let total: usize = image.values().map(Vec::len).sum();
    let (next, all) = (AtomicUsize::new(0), Mutex::new(Counts::default()));
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let (mut world, mut counts) = (World::scratch(&image), Counts::default());
                while let Some((path, bit)) = bits.get(next.fetch_add(1, Ordering::Relaxed)) {
                    look(&mut world, path, *bit, &truth, &mut counts);
                    world.take_back();
                }
                let mut all = all.lock().unwrap();
                all.refused += counts.refused;
                all.wounded += counts.wounded;
                all.gaps += counts.gaps;
                all.cut += counts.cut;
                all.harmless += counts.harmless;
                all.bytes_max = all.bytes_max.max(counts.bytes_max);
            });
        }
    });
    let counts = all.into_inner().unwrap();
    println!("{} bits in {:?}: {counts:?}", bits.len(), begun.elapsed());
    let opened = counts.wounded + counts.gaps + counts.cut + counts.harmless;
    assert_eq!(counts.refused + opened, bits.len());
    assert!(counts.wounded > 1000 && counts.gaps > 0 && counts.cut > 0 && counts.harmless > 1000, "{counts:?}");
    // Reading it takes a few times its size, whatever it says.
    assert!(counts.bytes_max < 16 * total, "{} bytes for a log of {total}", counts.bytes_max);
}
