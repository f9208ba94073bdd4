//! Every legal crash image of random histories: of the writes in flight any part may be on the disk, sector by sector, in
//! any order. What is found must hold all that was acknowledged, and nothing that was not appended.
//!
//! The images of one moment share a disk: what differs is put there, opened, looked at and taken back.

use std::time::Instant;

use ringraft_engine::{Config, Engine, GroupLog};
use ringraft_raft::record::Records;
use ringraft_raft::{Index, Storage};

use crate::crash::{Before, Dice, act, crash};
use crate::rig::{Model, Rig, State, small};
use crate::world::{SECTOR, World};

/// Images to look at; `ENGINE_IMAGES` says another number.
const IMAGES: u64 = 200_000;

/// Most images of one moment.
const IMAGES_PER_MOMENT: u64 = 128;

#[derive(Default, Debug)]
struct Counts {
    histories: u64,
    moments: u64,
    images: u64,
    /// Images in which less was found than was appended.
    shorter: u64,
    /// Moments of which every image was looked at.
    exhausted: u64,
}

#[test]
fn every_crash_image_holds_what_was_acknowledged() {
    let images = std::env::var("ENGINE_IMAGES").map_or(IMAGES, |number| number.parse().unwrap());
    let first: u64 = std::env::var("ENGINE_SEED").map_or(1, |number| number.parse().unwrap());
    let begun = Instant::now();
    let mut counts = Counts::default();
    for seed in first.. {
        history(seed, images, &mut counts);
        counts.histories += 1;
        if counts.images >= images {
            break;
        }
    }
    println!("{counts:?} in {:?}", begun.elapsed());
    assert!(counts.shorter * 10 > counts.images && counts.exhausted > counts.histories, "{counts:?}");
}

/// One log's life, with a look at the disk at every moment.
fn history(seed: u64, images: u64, counts: &mut Counts) {
    let mut dice = Dice::new(seed);
    let blocks = 8 + dice.roll(12);
    let mut config = Config {
        batches_inflight_max: 1 + usize::try_from(dice.roll(4)).unwrap(),
        rewrite_percent: if dice.roll(2) == 0 { 0 } else { 200 },
        segments_max: 2,
        verify_on_open: dice.roll(2) == 0,
        ..small(blocks)
    };
    config.batch_bytes_max =
        if dice.roll(3) == 0 { 16384.min(usize::try_from(blocks / 2).unwrap() * 4096) } else { 4096 };
    let mut rig = Rig::new(config.clone());
    rig.world.hold = true;
    for turn in 0..100 {
        if turn % 40 == 39 {
            // Another life, on a disk with stale blocks.
            let image = crash(&rig.world, &mut dice);
            rig = Before::of(&rig).check(image, config.clone());
            rig.world.hold = true;
        }
        for _ in 0..dice.roll(3) {
            if rig.engine.has_room() {
                act(&mut rig, &mut dice);
            }
        }
        rig.engine.submit(&mut rig.world);
        look(&rig, &mut dice, counts, seed);
        for _ in 0..dice.roll(3) {
            if !rig.world.pending.is_empty() {
                let at = usize::try_from(dice.roll(rig.world.pending.len() as u64)).unwrap();
                rig.world.finish(at);
                look(&rig, &mut dice, counts, seed);
            }
        }
        rig.complete().unwrap();
        if counts.images >= images {
            return;
        }
    }
}

/// Looks at what the disk may be if power is cut now.
fn look(rig: &Rig, dice: &mut Dice, counts: &mut Counts, seed: u64) {
    if rig.world.pending.is_empty() {
        return;
    }
    let before = Before::of(rig);
    // Sectors that a block's checksums cover; what the others hold makes no difference.
    let covered = |buf: &[u8]| (80 + u32::from_le_bytes(buf[64..68].try_into().unwrap()) as usize).div_ceil(SECTOR);
    let sectors: Vec<usize> = rig.world.pending.iter().map(|write| covered(&write.buf)).collect();
    let all: usize = sectors.iter().sum();
    let exhaustive = 1_u64.checked_shl(u32::try_from(all).unwrap()).filter(|images| *images <= IMAGES_PER_MOMENT);
    let mut scratch = World::scratch(&rig.world.files);
    let most = exhaustive.unwrap_or(IMAGES_PER_MOMENT / 2);
    for nth in 0..most {
        let kept = match exhaustive {
            Some(_) => bits(nth, &sectors),
            None => choose(nth, &sectors, dice),
        };
        for (write, kept) in rig.world.pending.iter().zip(&kept) {
            for (sector, bytes) in write.buf.chunks(SECTOR).enumerate() {
                // Behind what is covered, as the last sector that is.
                if kept[sector.min(kept.len() - 1)] {
                    scratch.put(&write.path, usize::try_from(write.offset).unwrap() + sector * SECTOR, bytes);
                }
            }
        }
        let opened = Engine::open(&mut scratch, rig.config.clone());
        let (mut engine, logs, report) =
            opened.unwrap_or_else(|error| panic!("seed {seed}: {error}\nkept {kept:?} of {sectors:?}"));
        let last = report.last_batch.0;
        assert!(last >= before.durable, "seed {seed}: batch {} was acknowledged, found {last}", before.durable);
        let (_, state) = before.history.range(..=last).next_back().unwrap();
        if !holds(&mut engine, &mut scratch, &logs, state) {
            // Then as a write that was split over several batches, or not at all.
            let now = Rig::state(&mut engine, &mut scratch, &logs).unwrap();
            if let Err(error) = before.fits(last, &now) {
                panic!("seed {seed}: {error}\nkept {kept:?} of {sectors:?}");
            }
        }
        counts.shorter += u64::from(last < rig.engine.stats().last_batch.0);
        counts.images += 1;
        drop((engine, logs));
        scratch.take_back();
    }
    counts.moments += 1;
    counts.exhausted += u64::from(exhaustive.is_some());
}

/// One of all the subsets.
fn bits(nth: u64, sectors: &[usize]) -> Vec<Vec<bool>> {
    let mut bits = (0..).map(|at| nth >> at & 1 == 1);
    sectors.iter().map(|count| bits.by_ref().take(*count).collect()).collect()
}

/// Whole writes, then torn ones of all kinds.
fn choose(nth: u64, sectors: &[usize], dice: &mut Dice) -> Vec<Vec<bool>> {
    let whole = 1_u64 << sectors.len().min(4);
    let mood = dice.roll(4);
    let torn = dice.roll(sectors.len() as u64);
    let cut = |count: usize, dice: &mut Dice| dice.roll(count as u64 + 1);
    let kept = |(write, count): (usize, &usize)| {
        let end = cut(*count, dice);
        let keep = if nth < whole { nth >> write.min(3) & 1 == 1 } else { dice.roll(2) == 1 };
        let one = |sector: usize| match mood {
            _ if nth < whole || write as u64 != torn && mood < 3 => keep,
            0 => (sector as u64) < end,
            1 => sector as u64 >= end,
            2 => sector as u64 != end,
            _ => dice.roll(2) == 1,
        };
        (0..*count).map(one).collect()
    };
    sectors.iter().enumerate().map(kept).collect()
}

/// Whether the groups are exactly as they should be.
fn holds(engine: &mut Engine, world: &mut World, logs: &[GroupLog], state: &State) -> bool {
    let same = |log: &GroupLog| {
        let Some(model) = state.get(&log.group().0) else { return false };
        let (hard, conf) = log.initial_state();
        let Model { base, snapshot, entries, .. } = model;
        if (hard, &conf, log.base(), log.snapshot()) != (model.hard, &model.conf, *base, *snapshot) {
            return false;
        }
        let last = Index(base.index.0 + entries.len() as u64);
        let mut runs = Vec::new();
        if log.last_index() != last || engine.read(world, log, base.index, last, &mut runs).is_err() {
            return false;
        }
        let found = runs.iter().flat_map(|run| Records::new(run)).map(|record| record.unwrap());
        found
            .map(|record| (record.id.term.0, record.payload))
            .eq(entries.iter().map(|(term, payload)| (*term, &payload[..])))
    };
    logs.len() == state.len() && logs.iter().all(same)
}
