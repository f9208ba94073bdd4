//! An error at every IO in turn: of each log's life, once for every read, write, mapping and job in it. Nothing is
//! acknowledged after a failed write, nothing is tried again, everybody is told, and what was acknowledged is found.

use std::time::Instant;

use ringraft_engine::{Config, Engine, EngineError, ReadError};

use crate::crash::{Before, Dice, crash, turn};
use crate::rig::{Rig, small};
use crate::world::{Image, World};

/// Errors to inject; `ENGINE_FAULTS` says another number.
const FAULTS: u64 = 10_000;

#[derive(Default, Debug)]
struct Counts {
    histories: u64,
    /// Of these ended the log.
    writes: u64,
    /// A segment could not be made.
    segments: u64,
    /// An entry could not be read.
    reads: u64,
    /// The log could not be opened.
    opens: u64,
    /// Nobody was hurt: the removal of a file, say.
    unseen: u64,
}

impl Counts {
    fn faults(&self) -> u64 {
        self.writes + self.segments + self.reads + self.opens + self.unseen
    }
}

#[test]
fn an_error_at_any_io_is_told_and_harms_nothing() {
    let faults = std::env::var("ENGINE_FAULTS").map_or(FAULTS, |number| number.parse().unwrap());
    let begun = Instant::now();
    let mut counts = Counts::default();
    for seed in 1.. {
        history(seed, &mut counts);
        counts.histories += 1;
        if counts.faults() >= faults {
            break;
        }
    }
    println!("{counts:?} in {:?}", begun.elapsed());
    assert!(counts.writes > 100 && counts.segments > 100 && counts.reads > 10 && counts.opens > 100, "{counts:?}");
}

fn config(seed: u64) -> Config {
    let mut dice = Dice::new(seed);
    Config {
        batches_inflight_max: 1 + usize::try_from(dice.roll(3)).unwrap(),
        segments_max: 2,
        rewrite_percent: if dice.roll(2) == 0 { 0 } else { 200 },
        segments_reserve: usize::try_from(dice.roll(2)).unwrap(),
        verify_on_open: dice.roll(2) == 0,
        cache_bytes_max: 4 << 10,
        ..small(9 + dice.roll(8))
    }
}

fn history(seed: u64, counts: &mut Counts) {
    let config = config(seed);
    let mut rig = Rig::new(config.clone());
    let before = rig.world.ios;
    assert!(live(&mut rig, &mut Dice::new(seed), &mut Counts::default()).is_none());
    for at in 0..rig.world.ios - before {
        let mut rig = Rig::new(config.clone());
        rig.world.fail_io = Some(at);
        let mut dice = Dice::new(seed);
        let seen = counts.faults();
        if let Some(error) = live(&mut rig, &mut dice, counts) {
            assert!(matches!(error, EngineError::Failed { .. }), "seed {seed}, io {at}: {error}");
            counts.writes += 1;
            ended(&mut rig);
        }
        assert!(rig.world.fail_io.is_none(), "seed {seed}: no io {at}");
        counts.unseen += u64::from(counts.faults() == seen);
        let known = Before::of(&rig);
        known.check(crash(&rig.world, &mut dice), config.clone());
    }
    let known = Before::of(&rig);
    opening(&known, &crash(&rig.world, &mut Dice::new(seed)), &config, counts);
}

/// A log's life, up to what ends it.
fn live(rig: &mut Rig, dice: &mut Dice, counts: &mut Counts) -> Option<EngineError> {
    rig.world.hold = true;
    for number in 0..60 {
        match turn(rig, dice) {
            Ok(()) => {}
            Err(EngineError::NoSegment { .. }) => {
                counts.segments += 1;
                rig.engine.retry_segments();
            }
            Err(error) => return Some(error),
        }
        if number % 8 == 7 {
            // Read through what is mapped by now.
            match rig.found() {
                Ok(found) => assert_eq!(found, rig.now),
                Err(ReadError::Map { .. }) => {
                    counts.reads += 1;
                    rig.check();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    None
}

/// The log has ended: nothing is acknowledged any more, nothing is written, everybody is told.
fn ended(rig: &mut Rig) {
    let durable = rig.engine.durable();
    while !rig.world.pending.is_empty() {
        // What is in flight may still succeed.
        rig.world.finish(0);
        assert!(rig.complete().is_err());
    }
    for group in rig.logs.keys().copied().collect::<Vec<_>>() {
        let last = rig.now[&group].last();
        assert!(matches!(rig.append(group, last, &[], Some(9)), Err(EngineError::Failed { .. })));
        let log = rig.logs.get_mut(&group).unwrap();
        assert!(rig.engine.heal(log, log.hard_state()).is_err());
    }
    rig.engine.attest();
    rig.engine.retry_segments();
    for _ in 0..3 {
        rig.engine.submit(&mut rig.world);
        assert!(rig.world.pending.is_empty(), "nothing is written any more");
        let _ = rig.complete();
    }
    assert_eq!((rig.engine.durable(), rig.durable), (durable, durable));
    assert!(!rig.engine.has_room() && !rig.engine.takes_compaction());
}

/// An error at every IO of an opening.
fn opening(known: &Before, image: &Image, config: &Config, counts: &mut Counts) {
    let mut world = World::on(image.clone());
    Engine::open(&mut world, config.clone()).unwrap();
    for at in 0..world.ios {
        let mut world = World::on(image.clone());
        world.fail_io = Some(at);
        match Engine::open(&mut world, config.clone()) {
            Ok(_) => counts.unseen += 1,
            Err(EngineError::Open { .. }) => {
                counts.opens += 1;
                assert!(world.pending.is_empty());
            }
            Err(EngineError::Failed { .. }) => counts.writes += 1,
            Err(error) => panic!("io {at} of opening: {error}"),
        }
        assert!(world.fail_io.is_none());
        known.check_reopened(world.crash(|_, _| false), config.clone(), true);
    }
}
