//! A small log, sector by sector: cut at every one, with what may lie behind; and every one damaged in every way. What
//! was never known durable is cut; what was is told, and never cut.

use std::path::PathBuf;

use crc32fast::Hasher;
use ringraft_engine::Config;

use crate::crash::{Before, Dice};
use crate::holes::{Survived, survive};
use crate::reader::{u32_at, u64_at};
use crate::rig::{ROT, Rig, small};
use crate::world::{Image, SECTOR};

/// A log in recycled files, every batch one write; and what its newest file held before.
struct Sample {
    rig: Rig,
    newest: PathBuf,
    old: Vec<u8>,
}

fn sample() -> Sample {
    let mut rig = Rig::new(small(12));
    let mut dice = Dice::new(7);
    let mut past: Vec<Image> = Vec::new();
    let (mut round, mut vote) = (0, 0);
    loop {
        round += 1;
        rig.put(1, &[usize::try_from(dice.roll(1500)).unwrap(), 30]);
        rig.settle();
        if round % 3 == 0 {
            vote += 1;
            rig.append(2, 0, &[usize::try_from(dice.roll(2500)).unwrap()], Some(vote)).unwrap();
            rig.settle();
        }
        if round % 7 == 0 {
            let upto = rig.now[&1].last() - 12;
            rig.commit(1, upto);
            rig.compact(1, upto).unwrap();
            rig.settle();
        }
        past.push(rig.world.files.clone());
        if round < 60 {
            continue;
        }
        let (newest, blocks) = newest(&rig.world.files);
        // Full but for its footer.
        if blocks.len() >= 10 {
            let generation = |image: &Image| u64_at(&image[&newest], 24);
            let now = generation(&rig.world.files);
            let before = past.iter().rev().find(|image| image.contains_key(&newest) && generation(image) != now);
            let old = before.expect("a recycled file")[&newest].clone();
            return Sample { rig, newest, old };
        }
    }
}

/// A block that can be read.
#[derive(Clone, Copy, Debug)]
struct Block {
    generation: u64,
    lsn: u64,
    durable: u64,
    /// Where what its checksums cover ends.
    end: usize,
}

/// The block at a place, if its header can be read.
fn block(bytes: &[u8], at: usize) -> Option<Block> {
    let header = bytes.get(at..at + 80)?;
    let mut crc = Hasher::new();
    crc.update(&header[..8]);
    crc.update(&header[12..]);
    let good = &header[..4] == b"RRBK" && crc.finalize() == u32_at(header, 8) && u64_at(header, 32) == at as u64;
    let end = at + 80 + u32_at(header, 64) as usize;
    let (generation, lsn, durable) = (u64_at(header, 24), u64_at(header, 40), u64_at(header, 48));
    good.then_some(Block { generation, lsn, durable, end })
}

fn blocks(bytes: &[u8]) -> impl Iterator<Item = Block> {
    (0..bytes.len()).step_by(4096).filter_map(|at| block(bytes, at))
}

/// The file of the highest generation, and the blocks of that.
fn newest(image: &Image) -> (PathBuf, Vec<Block>) {
    let generation = |bytes: &[u8]| block(bytes, 0).map_or(0, |head| head.generation);
    let (path, bytes) = image.iter().max_by_key(|(_, bytes)| generation(bytes)).unwrap();
    (path.clone(), blocks(bytes).filter(|block| block.generation == generation(bytes)).collect())
}

#[test]
fn a_log_cut_at_any_sector_is_exactly_what_comes_before() {
    let Sample { rig, newest: path, old } = sample();
    let before = Before::of(&rig);
    let (_, blocks) = newest(&rig.world.files);
    let mut dice = Dice::new(1);
    let whole = &rig.world.files[&path];
    let mut cuts = 0;
    for verify_on_open in [true, false] {
        let config = Config { verify_on_open, ..rig.config.clone() };
        for cut in (0..=whole.len()).step_by(SECTOR) {
            // The last block that is whole; without the head, what the head says came before.
            let expected = blocks.iter().take_while(|block| block.end <= cut).last().unwrap_or(&blocks[0]).lsn;
            let noise: Vec<u8> = (cut..whole.len()).map(|_| u8::try_from(dice.roll(256)).unwrap()).collect();
            for behind in [&old[cut..], &vec![0; whole.len() - cut], &noise] {
                let mut image = rig.world.files.clone();
                image.insert(path.clone(), [&whole[..cut], behind].concat());
                let found = Rig::open(image, config.clone()).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
                assert_eq!(found.report.last_batch.0, expected, "cut at {cut}");
                let (_, state) = before.history.range(..=expected).next_back().unwrap();
                assert_eq!(&found.now, state, "cut at {cut}");
                cuts += 1;
            }
        }
    }
    assert_eq!(cuts, 2 * 3 * (12 * 8 + 1));
}

#[test]
fn every_damaged_sector_is_cut_or_told() {
    ROT.set(true);
    let Sample { mut rig, newest: path, old } = sample();
    rig.engine.attest();
    rig.settle();
    let before = Before::of(&rig);
    let files = &rig.world.files;
    let generations: Vec<u64> =
        files.values().filter_map(|bytes| block(bytes, 0)).map(|head| head.generation).collect();
    let mut dice = Dice::new(2);
    let (mut told, mut harmless, mut cut) = (0, 0, 0);
    for verify_on_open in [true, false] {
        let config = Config { verify_on_open, ..rig.config.clone() };
        for (name, bytes) in files {
            for at in (0..bytes.len()).step_by(SECTOR) {
                for how in 0..4 {
                    let mut image = files.clone();
                    let file = image.get_mut(name).unwrap();
                    match how {
                        0 => file[at..at + SECTOR].fill(0),
                        1 => file[at + usize::try_from(dice.roll(SECTOR as u64)).unwrap()] ^= 1 << dice.roll(8),
                        2 if *name == path => file[at..at + SECTOR].copy_from_slice(&old[at..at + SECTOR]),
                        // Another sector of the same file, or of any.
                        2 => file.copy_within(at..at + SECTOR, (at + 7 * SECTOR) % (bytes.len() - SECTOR)),
                        _ => {
                            let names: Vec<_> = files.keys().collect();
                            let other = names[usize::try_from(dice.roll(names.len() as u64)).unwrap()];
                            let place = usize::try_from(dice.roll(files[other].len() as u64 / 512)).unwrap() * SECTOR;
                            file[at..at + SECTOR].copy_from_slice(&files[other][place..place + SECTOR]);
                            image.get_mut(other).unwrap()[place..place + SECTOR]
                                .copy_from_slice(&bytes[at..at + SECTOR]);
                        }
                    }
                    // What any block of the log still says was durable.
                    let readable = image.values().flat_map(|bytes| blocks(bytes));
                    let attested =
                        readable.filter(|it| generations.contains(&it.generation)).map(|it| it.durable).max();
                    let what = format!("{name:?} at {at}, {how}, {verify_on_open}");
                    let (survived, last) = survive(image, &config, &before, &what);
                    match survived {
                        Survived::Refused(reason) => panic!("{what}: {reason}"),
                        Survived::Wounded => told += 1,
                        Survived::Whole if last < before.durable => cut += 1,
                        Survived::Whole => harmless += 1,
                    }
                    assert!(last >= attested.unwrap(), "{what}: cut to {last}, attested is {attested:?}");
                }
            }
        }
    }
    println!("{told} told, {harmless} harmless, {cut} cut");
    assert!(told > 200 && harmless > 200 && cut > 0, "{told} told, {harmless} harmless, {cut} cut");
}
