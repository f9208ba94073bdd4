//! Power cuts: whatever part of the unsynced writes survives, nothing acknowledged is lost, nothing is invented.

use proptest::prelude::*;
use ringraft_engine::{Config, Engine, EngineError};
use ringraft_raft::Storage;

use crate::rig::{Rig, State, small};
use crate::world::{Image, SECTOR, World};

/// A cheap, seeded source of choices.
#[derive(Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

/// What the crashed engine knew.
pub(crate) struct Before {
    pub(crate) durable: u64,
    pub(crate) history: std::collections::BTreeMap<u64, State>,
    begun: std::collections::BTreeMap<u64, State>,
}

impl Before {
    pub(crate) fn of(rig: &Rig) -> Before {
        Before { durable: rig.durable.0, history: rig.history.clone(), begun: rig.begun.clone() }
    }

    /// Opens the image; what it holds must be what some batch not below the durable one left.
    pub(crate) fn check(&self, image: Image, config: Config) -> Rig {
        self.check_reopened(image, config, false)
    }

    /// `reopened`: an earlier opening may have put a batch of its own at the end, in place of a lost one.
    pub(crate) fn check_reopened(&self, image: Image, config: Config, reopened: bool) -> Rig {
        let rig = Rig::open(image, config).unwrap_or_else(|error| panic!("refused: {error}"));
        let last = rig.report.last_batch.0;
        assert!(last >= self.durable, "batch {} was acknowledged, the log ends with {last}", self.durable);
        let any = self.history.range(..last).next_back().map(|(lsn, _)| (*lsn).max(self.durable));
        if reopened && any.is_some_and(|lsn| lsn >= self.durable && self.fits(lsn, &rig.now).is_ok()) {
            return rig;
        }
        self.fits(last, &rig.now).unwrap();
        rig
    }

    /// Whether the log may look like this if it ends with batch `last`.
    pub(crate) fn fits(&self, last: u64, now: &State) -> Result<(), String> {
        let (_, state) = self.history.range(..=last).next_back().unwrap();
        if now != state {
            // A write that was split over several batches: every group is as before it or as part of it.
            let next = self.begun.range(last + 1..).next().map(|(_, state)| state);
            for (group, model) in now {
                let parts = next.and_then(|next| next.get(group)).is_some_and(|whole| {
                    let (part, all) = (model.entries.len(), &whole.entries);
                    part <= all.len() && model.entries[..] == all[..part] && model.hard.term == whole.hard.term
                });
                if state.get(group) != Some(model) && !parts {
                    return Err(format!("group {group} is {model:?}\nwas {:?}\nbatch {last}", state.get(group)));
                }
            }
        }
        Ok(())
    }
}

/// Writes something of every kind.
pub(crate) fn act(rig: &mut Rig, dice: &mut Dice) {
    let group = 1 + dice.roll(4);
    let known = rig.now.get(&group).cloned();
    match (dice.roll(12), known) {
        (0, Some(model)) => {
            let ahead = dice.roll(4);
            rig.commit(group, model.hard.commit.0 + ahead);
        }
        (1, Some(model)) if model.last() > model.base.index.0 => {
            rig.snapshot(group, model.base.index.0 + 1, 3);
        }
        (2 | 3, Some(model)) => {
            let upto = model.base.index.0 + dice.roll(model.entries.len() as u64 + 1);
            rig.compact(group, upto).unwrap();
        }
        (4, _) => {
            rig.append(group, rig.now.get(&group).map_or(0, |model| model.last()), &[], Some(dice.roll(5))).unwrap();
        }
        (5, Some(model)) => {
            let after = model.last().saturating_sub(dice.roll(4)).max(model.base.index.0).max(model.hard.commit.0);
            rig.append(group, after, &[30], None).unwrap();
        }
        (_, known) => {
            let count = usize::try_from(dice.roll(4) + 1).unwrap();
            let lens: Vec<usize> = (0..count).map(|_| usize::try_from(dice.roll(700)).unwrap()).collect();
            rig.append(group, known.map_or(0, |model| model.last()), &lens, None).unwrap();
        }
    }
}

/// Runs a few turns in which writes complete in any order, or not at all.
pub(crate) fn run(rig: &mut Rig, dice: &mut Dice, turns: u64) {
    rig.world.hold = true;
    for _ in 0..turns {
        turn(rig, dice).unwrap();
    }
}

/// A turn with a few things done, in which some of the pending writes complete.
pub(crate) fn turn(rig: &mut Rig, dice: &mut Dice) -> Result<(), EngineError> {
    for _ in 0..dice.roll(3) {
        if rig.engine.has_room() {
            act(rig, dice);
        }
    }
    rig.engine.submit(&mut rig.world);
    for _ in 0..dice.roll(3) {
        if !rig.world.pending.is_empty() {
            let at = usize::try_from(dice.roll(rig.world.pending.len() as u64)).unwrap();
            rig.world.finish(at);
        }
    }
    rig.complete()
}

pub(crate) fn crash(world: &World, dice: &mut Dice) -> Image {
    // Whole writes lost or kept, or torn anywhere.
    let mood = dice.roll(4);
    let whole: Vec<u64> = (0..world.pending.len()).map(|_| dice.roll(2)).collect();
    let ends: Vec<u64> = (0..world.pending.len()).map(|_| dice.roll(20)).collect();
    world.crash(|write, sector| match mood {
        0 => whole[write] == 0,
        1 => (sector as u64) < ends[write],
        2 => (sector as u64) >= ends[write],
        _ => dice.roll(2) == 0,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::default())]
    #[test]
    fn nothing_acknowledged_is_lost(
        seed in any::<u64>(),
        blocks in 9..40_u64,
        inflight in 1..4_usize,
        verify_on_open in any::<bool>(),
    ) {
        let mut dice = Dice::new(seed);
        let mut config = Config { verify_on_open, ..small(blocks) };
        config.batches_inflight_max = inflight;
        config.rewrite_percent = if seed % 2 == 0 { 0 } else { 200 };
        config.segments_max = 2;
        config.batch_bytes_max = if seed % 3 == 0 { 8192 } else { 4096 };
        config.batch_bytes_max = config.batch_bytes_max.min(usize::try_from(blocks / 2).unwrap() * 4096);
        let mut rig = Rig::new(config.clone());
        for _ in 0..6 {
            let turns = dice.roll(40);
            run(&mut rig, &mut dice, turns);
            let before = Before::of(&rig);
            let image = crash(&rig.world, &mut dice);
            rig = before.check(image, config.clone());
            rig.check();
        }
    }

    /// The machine dies again while it recovers: what was found the first time and acted upon stays.
    #[test]
    fn a_crash_while_recovering_loses_nothing(seed in any::<u64>(), verify_on_open in any::<bool>()) {
        let mut dice = Dice::new(seed);
        let config = Config { verify_on_open, ..small(12) };
        let mut rig = Rig::new(config.clone());
        for _ in 0..4 {
            run(&mut rig, &mut dice, 25);
            let before = Before::of(&rig);
            let image = crash(&rig.world, &mut dice);
            // Dies in the middle of opening: after so many writes the world stops.
            let mut world = World::on(image);
            world.fail_after = Some(usize::try_from(dice.roll(4)).unwrap());
            let image = match Engine::open(&mut world, config.clone()) {
                Err(_) => world.files,
                Ok(_) => world.crash(|_, _| false),
            };
            rig = before.check_reopened(image, config.clone(), true);
        }
    }
}

/// Every subset of the sectors of two small batches in flight.
#[test]
fn all_images_of_two_small_batches() {
    let config = small(16);
    let mut rig = Rig::new(config.clone());
    rig.put(1, &[100]);
    rig.append(2, 0, &[], Some(1)).unwrap();
    rig.settle();
    rig.world.hold = true;
    rig.append(1, 1, &[600, 700], Some(2)).unwrap();
    rig.turn().unwrap();
    rig.append(1, 2, &[300], Some(3)).unwrap();
    rig.append(2, 0, &[200], Some(4)).unwrap();
    rig.turn().unwrap();
    assert_eq!(rig.world.pending.len(), 2);
    let used = |write: usize| {
        let buf = &rig.world.pending[write].buf;
        let end = buf.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        end.div_ceil(SECTOR)
    };
    let (first, second) = (used(0), used(1));
    assert!(first + second <= 8, "{first} {second}");
    let before = Before::of(&rig);
    let mut ends = std::collections::BTreeMap::<u64, usize>::new();
    for bits in 0..1_u32 << (first + second) {
        let image = rig.world.crash(|write, sector| match write {
            0 => sector >= first || bits >> sector & 1 == 1,
            _ => sector >= second || bits >> (first + sector) & 1 == 1,
        });
        let after = before.check(image, config.clone());
        *ends.entry(after.report.last_batch.0).or_default() += 1;
        // The vote that was acknowledged is there.
        assert!(after.logs[&2].initial_state().0.vote.0 >= 1);
    }
    let durable = before.durable;
    let whole = 1_usize << second;
    assert_eq!(ends[&(durable + 2)], 1);
    assert_eq!(ends[&(durable + 1)], whole - 1);
}

/// Stale blocks behind a cut fit the new log exactly, by number and place; only their epoch tells them apart.
#[test]
fn blocks_behind_a_cut_never_come_back() {
    let config = small(16);
    let mut rig = Rig::new(config.clone());
    rig.put(1, &[10]);
    rig.settle();
    rig.world.hold = true;
    for _ in 0..2 {
        rig.put(1, &[20]);
        rig.turn().unwrap();
    }
    // The first of two is lost, the second survives.
    let before = Before::of(&rig);
    let image = rig.world.crash(|write, _| write == 1);
    let mut rig = before.check(image, config.clone());
    assert_eq!(rig.now[&1].entries.len(), 1);
    assert!(rig.report.cut.is_some() && rig.report.last_batch.0 == before.durable);
    // Opening wrote one batch where the lost one was. The stale one lies right behind it.
    rig.world.hold = true;
    rig.put(1, &[30]);
    rig.turn().unwrap();
    let before = Before::of(&rig);
    let image = rig.world.crash(|_, _| false);
    let rig = before.check(image, config);
    assert_eq!(rig.now[&1].entries.len(), 1);
}

/// A killed process leaves blocks that can be read but may sit in a volatile cache: they are written again before
/// anything is promised.
#[test]
fn what_nobody_attests_is_written_again() {
    let config = small(16);
    let mut rig = Rig::new(config.clone());
    rig.world.hold = true;
    rig.put(1, &[10]);
    rig.turn().unwrap();
    rig.put(1, &[20]);
    rig.turn().unwrap();
    let before = Before::of(&rig);
    let rig = before.check(rig.world.crash(|_, _| true), config);
    assert_eq!((rig.now[&1].entries.len(), rig.report.rewritten), (2, 2));
    let mut rig = rig.reopen();
    assert_eq!(rig.report.rewritten, 1, "the batch that the opening wrote");
    rig.put(1, &[30]);
    rig.settle();
    rig.engine.attest();
    rig.settle();
    assert!(!rig.world.files.is_empty());
    let written = rig.engine.stats().written_batches;
    rig.engine.attest();
    rig.settle();
    assert_eq!(rig.engine.stats().written_batches, written, "said once");
}

/// A segment is given up only when the batch that says so is durable.
#[test]
fn a_lost_compaction_finds_its_entries() {
    let config = Config { segments_free_max: 1, ..small(16) };
    let mut rig = Rig::new(config.clone());
    for _ in 0..60 {
        rig.put(1, &[3000]);
        rig.settle();
    }
    rig.world.hold = true;
    rig.compact(1, 60).unwrap();
    rig.turn().unwrap();
    rig.put(2, &[10]);
    rig.turn().unwrap();
    rig.world.finish(1);
    for _ in 0..4 {
        rig.complete().unwrap();
        rig.engine.submit(&mut rig.world);
    }
    let before = Before::of(&rig);
    let after = before.check(rig.world.crash(|_, _| false), config);
    assert_eq!(after.now[&1].entries.len(), 60);
    rig.world.hold = false;
    rig.settle();
    for _ in 0..4 {
        rig.turn().unwrap();
    }
    assert!(rig.world.removes > 0, "now they are");
    assert_eq!(rig.engine.stats().segments, 1);
}

/// The kinds of the blocks in flight.
fn kinds(rig: &Rig) -> Vec<u8> {
    rig.world.pending.iter().map(|write| write.buf[6]).collect()
}

const HEAD: u8 = 1;
const BATCH: u8 = 2;
const FOOTER: u8 = 3;

/// Stops when the last batch of a segment, its footer and the head of the next are in flight. `batches`: as many of that
/// segment's last ones.
fn up_to_a_footer(rig: &mut Rig, batches: usize) {
    let all: &[u8] = &[BATCH, BATCH, FOOTER, HEAD];
    loop {
        rig.world.hold = true;
        for _ in 0..3 {
            rig.put(1, &[3000]);
            rig.turn().unwrap();
        }
        if batches == 1 && kinds(rig) == [BATCH, BATCH] {
            rig.world.finish(0);
            rig.complete().unwrap();
            rig.turn().unwrap();
        }
        if kinds(rig).starts_with(&all[2 - batches..]) {
            return;
        }
        rig.world.hold = false;
        rig.settle();
        // So that every batch is once the last one.
        rig.put(2, &[10]);
        rig.settle();
    }
}

/// The footer of an earlier opening survives where the one that the next head names was lost: in the same place, for
/// the same number of batches.
#[test]
fn a_footer_of_an_earlier_opening_is_not_believed() {
    let config = Config { verify_on_open: false, ..small(9) };
    let mut rig = Rig::new(config.clone());
    up_to_a_footer(&mut rig, 1);
    let before = Before::of(&rig);
    let image = rig.world.crash(|write, _| write == 1);
    let mut rig = before.check(image, config.clone());
    rig.world.hold = true;
    rig.put(2, &[10]);
    rig.turn().unwrap();
    assert_eq!(kinds(&rig), [FOOTER, HEAD, BATCH]);
    let before = Before::of(&rig);
    let image = rig.world.crash(|write, _| write != 0);
    before.check(image, config).check();
}

/// A head and the footer that it names survive, the batches between did not; others of the same numbers are durable.
#[test]
fn a_footer_of_batches_that_were_lost_is_not_believed() {
    let config = Config { verify_on_open: false, ..small(9) };
    let mut rig = Rig::new(config.clone());
    up_to_a_footer(&mut rig, 2);
    let before = Before::of(&rig);
    let image = rig.world.crash(|write, _| write >= 2);
    let mut rig = before.check(image, config.clone());
    rig.put(1, &[2000]);
    rig.settle();
    rig.world.hold = true;
    rig.put(1, &[1000]);
    rig.turn().unwrap();
    assert_eq!(kinds(&rig), [FOOTER, HEAD, BATCH]);
    let before = Before::of(&rig);
    let image = rig.world.crash(|write, _| write == 2);
    before.check(image, config).check();
}
