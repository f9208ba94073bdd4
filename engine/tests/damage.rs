//! Rot and strangers: found or harmless, never silent.

use ringraft_engine::{Engine, EngineError, ReadError, Reason};
use ringraft_raft::Index;

use crate::crash::Dice;
use crate::rig::{ROT, Rig, small};
use crate::world::{Image, World};

/// What was recovered is what some batch left, at most `lost` before the last one.
fn check(before: &Rig, after: &Rig, lost: u64) {
    let (last, end) = (after.report.last_batch.0, before.durable.0);
    assert!(last + lost >= end, "the log ended with {end}, now with {last}");
    let (_, state) = before.history.range(..=last).next_back().unwrap();
    assert_eq!(after.now, *state);
}

/// With and without reading everything: damage is found when the log is opened, or when an entry is read.
const BOTH: [bool; 2] = [true, false];

/// A log of a few segments, fully attested.
fn sample(verify_on_open: bool) -> Rig {
    ROT.set(true);
    let mut rig = Rig::new(ringraft_engine::Config { verify_on_open, ..small(8) });
    for round in 0..14 {
        rig.put(1, &[700, 20]);
        rig.append(2, 0, &[10], Some(round)).unwrap();
        rig.settle();
    }
    rig.engine.attest();
    rig.settle();
    rig
}

/// The file that holds the highest generation.
fn newest(image: &Image) -> std::path::PathBuf {
    let generation = |bytes: &[u8]| u64::from_le_bytes(bytes[24..32].try_into().unwrap());
    image.iter().max_by_key(|(_, bytes)| generation(bytes)).unwrap().0.clone()
}

fn reason(image: Image, config: ringraft_engine::Config) -> Reason {
    let before = image.clone();
    let mut world = World::on(image);
    match Engine::open(&mut world, config) {
        Err(EngineError::Refused(refusal)) => {
            assert!(world.files == before && world.pending.is_empty(), "a refusal changes nothing");
            assert!(!refusal.to_string().is_empty());
            refusal.reason.clone()
        }
        other => panic!("not refused: {:?}", other.map(|(_, _, report)| report)),
    }
}

#[test]
fn every_flipped_bit_is_found_or_harmless() {
    BOTH.into_iter().for_each(every_flipped_bit_is_found_or_harmless_when);
}

fn every_flipped_bit_is_found_or_harmless_when(verify_on_open: bool) {
    let rig = sample(verify_on_open);
    let (image, said) = (rig.world.files.clone(), rig.said.clone());
    let mut dice = Dice::new(3);
    let (mut found, mut harmless) = (0, 0);
    for (path, bytes) in &image {
        for (byte, value) in bytes.iter().enumerate() {
            // All of what is not zero, and samples of the rest.
            if *value == 0 && !byte.is_multiple_of(509) && byte % 4096 > 200 {
                continue;
            }
            let mut bad = image.clone();
            bad.get_mut(path).unwrap()[byte] ^= 1 << dice.roll(8);
            match Rig::open(bad, rig.config.clone()) {
                Ok(after) => {
                    assert_eq!(after.now, said, "{path:?} byte {byte}");
                    harmless += 1;
                }
                Err(EngineError::Refused(_)) => found += 1,
                Err(error) => panic!("{path:?} byte {byte}: {error}"),
            }
        }
    }
    assert!(found > harmless && harmless > 0, "{found} found, {harmless} harmless");
}

#[test]
fn every_cut_is_found_or_at_the_end() {
    BOTH.into_iter().for_each(every_cut_is_found_or_at_the_end_when);
}

fn every_cut_is_found_or_at_the_end_when(verify_on_open: bool) {
    let rig = sample(verify_on_open);
    let image = rig.world.files.clone();
    let newest = newest(&image);
    for (path, bytes) in &image {
        for len in (0..bytes.len()).step_by(512) {
            for zeros in [true, false] {
                let mut bad = image.clone();
                let file = bad.get_mut(path).unwrap();
                if zeros {
                    file[len..].fill(0);
                } else {
                    file.truncate(len);
                }
                match Rig::open(bad, rig.config.clone()) {
                    // What ends in zeros was never written, as far as anybody can tell.
                    Ok(after) if *path == newest => check(&rig, &after, 8),
                    Ok(after) => check(&rig, &after, 0),
                    Err(EngineError::Refused(_)) => {}
                    Err(error) => panic!("{path:?} cut at {len}: {error}"),
                }
            }
        }
    }
}

#[test]
fn lost_and_foreign_files_are_refused() {
    BOTH.into_iter().for_each(lost_and_foreign_files_are_refused_when);
}

fn lost_and_foreign_files_are_refused_when(verify_on_open: bool) {
    let rig = sample(verify_on_open);
    let image = rig.world.files.clone();
    let paths: Vec<_> = image.keys().cloned().collect();
    assert!(paths.len() >= 3);
    let mut missing = 0;
    for path in &paths {
        let mut bad = image.clone();
        bad.remove(path);
        match Rig::open(bad, rig.config.clone()) {
            // Nobody knows of the newest.
            Ok(after) if *path == newest(&image) => check(&rig, &after, 8),
            Ok(after) => check(&rig, &after, 0),
            Err(EngineError::Refused(_)) => missing += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(missing >= 2);
    let mut twice = image.clone();
    twice.insert("/log/seg-0777".into(), image[&paths[0]].clone());
    assert!(matches!(reason(twice, rig.config.clone()), Reason::Duplicate { .. }));
    let other = ringraft_engine::Config { log_id: 78, ..rig.config.clone() };
    assert_eq!(reason(image.clone(), other), Reason::Foreign { found: 77, expected: 78 });
    // Files of other names are none of our business.
    let mut more = image;
    more.insert("/log/LOCK".into(), vec![1, 2, 3]);
    more.insert("/log/seg-0001.tmp".into(), vec![1, 2, 3]);
    assert_eq!(Rig::open(more, rig.config.clone()).unwrap().now, rig.said);
}

#[test]
fn garbage_of_any_kind_is_no_panic() {
    let mut dice = Dice::new(9);
    for _ in 0..200 {
        let mut image = Image::new();
        for number in 0..dice.roll(4) {
            let len = usize::try_from(dice.roll(9) * 2048).unwrap();
            let bytes = (0..len).map(|_| u8::try_from(dice.roll(256)).unwrap()).collect();
            image.insert(format!("/log/seg-{number:04}").into(), bytes);
        }
        // No block of ours anywhere: an empty log.
        assert!(Rig::open(image, small(16)).unwrap().now.is_empty());
    }
}

#[test]
fn two_damages_at_once() {
    BOTH.into_iter().for_each(two_damages_at_once_when);
}

fn two_damages_at_once_when(verify_on_open: bool) {
    let rig = sample(verify_on_open);
    let image = rig.world.files.clone();
    let paths: Vec<_> = image.keys().cloned().collect();
    let mut dice = Dice::new(5);
    for _ in 0..3000 {
        let mut bad = image.clone();
        for _ in 0..2 {
            let file = bad.get_mut(&paths[usize::try_from(dice.roll(paths.len() as u64)).unwrap()]).unwrap();
            let at = usize::try_from(dice.roll(file.len() as u64 / 4096)).unwrap() * 4096;
            match dice.roll(3) {
                0 => file[at..at + 4096].fill(0),
                1 => file[at + 20] ^= 1,
                _ => file[at + 90] ^= 1,
            }
        }
        match Rig::open(bad, rig.config.clone()) {
            // Both of the last two.
            Ok(after) => check(&rig, &after, 2),
            Err(EngineError::Refused(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Without its footer a segment is read whole; nothing else changes.
#[test]
fn damaged_footers_cost_time_only() {
    let rig = sample(false);
    let good = Rig::open(rig.world.files.clone(), rig.config.clone()).unwrap();
    let all = good.report.footers;
    assert!(all >= 2, "{all}");
    let mut footers = 0;
    for (path, bytes) in &rig.world.files {
        for at in (0..bytes.len()).step_by(4096).filter(|at| bytes[*at..*at + 7] == *b"RRBK\x02\x00\x03") {
            for (byte, bit) in [(9, 1), (30, 4), (90, 1), (120, 2)] {
                let mut bad = rig.world.files.clone();
                bad.get_mut(path).unwrap()[at + byte] ^= bit;
                let after = Rig::open(bad, rig.config.clone()).unwrap();
                assert_eq!(after.now, rig.said);
                assert!(after.report.footers == all - 1 && after.report.blocks > good.report.blocks);
            }
            footers += 1;
        }
    }
    assert_eq!(footers, all);
}

/// Damage in a segment that was not read when the log was opened is found when the entry is read.
#[test]
fn rot_in_a_sealed_segment_is_found_by_reading() {
    let rig = sample(false);
    let mut bad = rig.world.files.clone();
    let path = bad.iter().find(|(_, bytes)| bytes[24] == 1).unwrap().0.clone();
    bad.get_mut(&path).unwrap()[2 * 4096 + 200] ^= 1;
    let mut world = World::on(bad);
    let (mut engine, logs, report) = Engine::open(&mut world, rig.config.clone()).unwrap();
    assert!(report.footers > 0);
    let mut out = Vec::new();
    let error = engine.read(&mut world, &logs[0], Index(0), Index(2), &mut out).unwrap_err();
    assert!(matches!(error, ReadError::Damaged { ref file, index: Index(1), .. } if *file == path), "{error}");
    engine.read(&mut world, &logs[0], Index(2), Index(4), &mut out).unwrap();
}
