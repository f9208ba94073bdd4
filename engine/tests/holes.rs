//! Damage below the durable mark: every group knows what it has lost, and can be mended.

use bytes::Bytes;
use proptest::prelude::*;
use ringraft_engine::{
    BlockError, Config, Engine, EngineError, GroupLog, HoleReason, Reason, RepairError, Wounds, Write,
};
use ringraft_raft::{GroupId, HardState, Index, Storage, Term};

use crate::crash::{self, Before, Dice};
use crate::rig::{ROT, Rig, State, run, small};
use crate::world::{Image, World};

fn wounds(rig: &Rig, group: u64) -> Option<&Wounds> {
    rig.engine.wounds(GroupId(group))
}

/// What was found must be true, and what is not found must be told.
pub(crate) fn check(rig: &mut Rig, truth: &State) -> Result<(), String> {
    for (group, model) in truth {
        let Some(log) = rig.logs.get(group) else {
            if !rig.report.groups_lost {
                return Err(format!("group {group} is gone, and nobody says so"));
            }
            continue;
        };
        let told = wounds(rig, *group).cloned().unwrap_or_default();
        let hard = log.initial_state().0;
        let (base, last) = (log.base().index.0, log.last_index().0);
        let told_hard = told.hard_state_lost || (hard.term, hard.vote) == (model.hard.term, model.hard.vote);
        let commit = hard.commit == model.hard.commit || told.silence();
        if !told_hard || !commit || hard.term > model.hard.term || hard.commit > model.hard.commit.max(Index(base)) {
            return Err(format!("group {group}: {hard:?}, not {model:?}, {told:?}"));
        }
        // A compaction that is forgotten does no harm.
        if !told.silence() && last != model.last() || base > model.base.index.0 {
            return Err(format!("group {group} is {base}..{last}, not {model:?}, {told:?}"));
        }
        // An older mark is as good, if the log reaches back to it.
        let older = rig.config.open_with_holes && base <= log.snapshot().map_or(0, |id| id.index.0);
        let same = (log.snapshot(), &log.initial_state().1) == (model.snapshot, &model.conf);
        if !told.hard_state_lost && !same && !older {
            return Err(format!("group {group}: {:?}, not {model:?}", log.snapshot()));
        }
        let mut after = base;
        for hole in told.holes.iter().filter(|hole| !hole.known) {
            if hole.first.0 <= after || hole.last < hole.first || hole.first.0 <= last {
                return Err(format!("group {group}: {told:?}"));
            }
            after = hole.last.0;
        }
        // Every entry by itself.
        for index in base + 1..=last {
            let mut out = Vec::new();
            let hole = told.holes.iter().any(|hole| (hole.first.0..=hole.last.0).contains(&index));
            let entry =
                index.checked_sub(model.base.index.0 + 1).map(|at| model.entries.get(usize::try_from(at).unwrap()));
            let read = rig.engine.read(&mut rig.world, log, Index(index - 1), Index(index), &mut out);
            let term = log.term(Index(index)).unwrap().0;
            match (read, entry) {
                // Compacted meanwhile.
                (_, None) => {}
                (_, Some(None)) => return Err(format!("group {group}: entry {index} is invented, {told:?}")),
                (Ok(()), Some(Some(entry))) => {
                    let expected = run(*group, index, std::slice::from_ref(entry));
                    if out.concat() != expected || term != entry.0 {
                        return Err(format!("group {group}: entry {index} is another one, {told:?}"));
                    }
                }
                (Err(_), Some(Some(entry))) if term == entry.0 && (hole || rig.report.footers > 0) => {}
                (Err(error), _) => return Err(format!("group {group}: {error}, {told:?}")),
            }
        }
    }
    if let Some(group) = rig.logs.keys().find(|group| !truth.contains_key(group)) {
        return Err(format!("group {group} is invented"));
    }
    Ok(())
}

/// Mends every group from what is true.
pub(crate) fn mend(rig: &mut Rig, truth: &mut State) {
    for (group, model) in truth {
        rig.ensure(*group);
        let id = GroupId(*group);
        room(rig);
        let log = rig.logs.get_mut(group).unwrap();
        let entries = |first: u64, last: u64| {
            let at = |index: u64| usize::try_from(index - model.base.index.0 - 1).unwrap();
            run(*group, first, &model.entries[at(first)..at(last + 1)])
        };
        let told = rig.engine.wounds(id).cloned().unwrap_or_default();
        let behind =
            log.last_index() < model.base.index || told.holes.iter().any(|hole| hole.first <= model.base.index);
        if behind {
            log.set_snapshot(model.base, model.conf.clone());
            let write = Write { snapshot: Some(model.base), ..Write::default() };
            rig.engine.append(log, write).unwrap();
            model.snapshot = model.snapshot.or(Some(model.base));
        }
        loop {
            while let Some(hole) = rig.engine.holes(id).first().cloned() {
                let (first, last) = (hole.first.0, hole.last.0);
                // In two parts.
                let half = first + (last - first) / 2;
                rig.engine.repair(log, Index(first), entries(first, half)).unwrap();
                if half < last {
                    rig.engine.repair(log, Index(half + 1), entries(half + 1, last)).unwrap();
                }
            }
            // What a footer says is there may be damaged: reading finds out.
            for index in log.base().index.0 + 1..=log.last_index().0 {
                let _ = rig.engine.read(&mut rig.world, log, Index(index - 1), Index(index), &mut Vec::new());
            }
            if rig.engine.holes(id).is_empty() {
                break;
            }
        }
        let last = log.last_index().0;
        if last < model.last() {
            assert!(behind || told.tail_lost, "group {group} ends with {last}, not {}, and said nothing", model.last());
            log.stage(Index(last + 1), entries(last + 1, model.last())).unwrap();
            let entries = (Index(last), Index(model.last()));
            rig.engine.append(log, Write { entries, ..Write::default() }).unwrap();
        }
        if let Some(id) = model.snapshot
            && (log.snapshot(), &log.initial_state().1) != (Some(id), &model.conf)
        {
            log.set_snapshot(id, model.conf.clone());
            rig.engine.append(log, Write::default()).unwrap();
        }
        rig.engine.compact(log, model.base.index).unwrap();
        if told.silence() {
            rig.engine.heal(log, model.hard).unwrap();
        }
        assert!(rig.engine.wounds(id).is_none());
    }
    rig.engine.forget_lost_groups();
    rig.settle();
}

fn room(rig: &mut Rig) {
    rig.settle();
    for _ in 0..3 {
        rig.turn().unwrap();
    }
}

fn sample() -> Rig {
    let mut rig = Rig::new(small(8));
    rig.append(9, 0, &[], Some(3)).unwrap();
    for round in 0..14 {
        rig.put(1, &[700, 20]);
        rig.append(2, 0, &[10], Some(round)).unwrap();
        if round % 3 == 0 {
            rig.commit(1, 2 * round);
            rig.append(4, round.saturating_sub(2), &[10, 20, 30], None).unwrap();
        }
        if round == 6 {
            rig.snapshot(1, 4, 2);
            rig.compact(1, 3).unwrap();
        }
        rig.settle();
    }
    rig.engine.attest();
    rig.settle();
    rig
}

/// Opens a damaged log with its wounds, checks them, mends them, and finds everything again.
pub(crate) fn survive(image: Image, config: &Config, before: &Before, what: &str) -> (Survived, u64) {
    let open = Config { open_with_holes: true, ..config.clone() };
    let mut rig = match Rig::open(image.clone(), open.clone()) {
        Ok(rig) => rig,
        Err(EngineError::Refused(refusal)) => return (Survived::Refused(refusal.reason.clone()), 0),
        Err(error) => panic!("{what}: {error}"),
    };
    let last = rig.report.last_batch.0;
    if last < before.durable {
        // Torn or damaged, the last ones that nobody attests are cut, within a write perhaps.
        let known = before.history.first_key_value().is_some_and(|(first, _)| *first <= last);
        if known && rig.report.gaps.is_empty() && rig.report.footers == 0 {
            before.fits(last, &rig.now).unwrap();
        }
        return (Survived::Whole, last);
    }
    let truth = before.history.range(..=last).next_back();
    let truth = &mut truth.map_or_else(State::new, |(_, state)| state.clone());
    let wounded = rig.report.wounded > 0 || rig.report.groups_lost;
    let refused = Engine::open(&mut World::on(image), config.clone()).is_err();
    assert_eq!(refused, wounded, "{what}: by default it is refused if anything is lost");
    if let Err(error) = check(&mut rig, truth) {
        panic!("{what}: {error}\n{:?}", rig.report);
    }
    // Found again the same, or with more doubt, until it is mended.
    let mut rig = Rig::open(rig.world.files, open.clone()).unwrap();
    if let Err(error) = check(&mut rig, truth) {
        panic!("{what}, again: {error}\n{:?}", rig.report);
    }
    mend(&mut rig, truth);
    let found = rig.found().unwrap();
    assert_eq!(&found, &*truth, "{what}, mended");
    // What follows is in no doubt.
    rig.now = found.clone();
    let mut rig = Rig::open(rig.world.files, open).unwrap();
    let still: Vec<_> = rig.logs.keys().filter_map(|group| Some((*group, wounds(&rig, *group)?))).collect();
    assert!(still.is_empty(), "{what}, mended and opened: {still:?} {:?}", rig.report);
    assert_eq!(&rig.found().unwrap(), &*truth, "{what}, mended and opened");
    assert!(rig.now == found);
    (if wounded { Survived::Wounded } else { Survived::Whole }, last)
}

/// How a log survives damage.
#[derive(Debug)]
pub(crate) enum Survived {
    Whole,
    Wounded,
    Refused(Reason),
}

/// Damages a block.
fn spoil(block: &mut [u8], how: u64) {
    match how {
        0 => block.fill(0),
        1 => block[20] ^= 1,
        2 => block[90] ^= 1,
        _ => block[40] ^= 1,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::default())]
    /// Some blocks of a log that has lived through crashes.
    #[test]
    fn any_damage_is_told_and_mended(
        seed in any::<u64>(),
        blocks in 9..30_u64,
        verify_on_open in any::<bool>(),
        damages in 1..4_u64,
    ) {
        ROT.set(true);
        let mut dice = Dice::new(seed);
        let config = Config { verify_on_open, batches_inflight_max: 1 + usize::try_from(dice.roll(3)).unwrap(), ..small(blocks) };
        let mut rig = Rig::new(config.clone());
        for _ in 0..dice.roll(4) {
            let turns = dice.roll(40);
            crash::run(&mut rig, &mut dice, turns);
            let image = crash::crash(&rig.world, &mut dice);
            let mut history = std::mem::take(&mut rig.history);
            rig = Rig::open(image, config.clone()).unwrap();
            history.split_off(&(rig.report.last_batch.0 + 1));
            history.insert(rig.report.last_batch.0, rig.said.clone());
            history.append(&mut rig.history);
            rig.history = history;
        }
        let turns = dice.roll(60);
        crash::run(&mut rig, &mut dice, turns);
        rig.world.hold = false;
        rig.settle();
        rig.engine.attest();
        rig.settle();
        let (mut bad, before) = (rig.world.files.clone(), Before::of(&rig));
        let places: Vec<_> = bad.iter().flat_map(|(path, bytes)| (0..bytes.len() / 4096).map(|at| (path.clone(), at * 4096))).collect();
        let mut what = String::new();
        for _ in 0..damages {
            let (path, at) = &places[usize::try_from(dice.roll(places.len() as u64)).unwrap()];
            let how = dice.roll(4);
            spoil(&mut bad.get_mut(path).unwrap()[*at..at + 4096], how);
            what += &format!("{path:?} at {at}, {how}; ");
        }
        survive(bad, &config, &before, &what);
    }
}

#[test]
fn every_damaged_block_is_told_and_mended() {
    for verify_on_open in [true, false] {
        ROT.set(true);
        let rig = sample();
        let config = Config { verify_on_open, ..rig.config.clone() };
        let (mut counts, before) = ([0; 3], Before::of(&rig));
        for (path, bytes) in &rig.world.files {
            for at in (0..bytes.len()).step_by(4096) {
                for how in 0..4 {
                    let mut bad = rig.world.files.clone();
                    spoil(&mut bad.get_mut(path).unwrap()[at..at + 4096], how);
                    let what = format!("{path:?} at {at}, {how}, {verify_on_open}");
                    match survive(bad, &config, &before, &what).0 {
                        Survived::Whole => counts[0] += 1,
                        Survived::Wounded => counts[1] += 1,
                        Survived::Refused(reason) => {
                            println!("{what}: {reason}");
                            counts[2] += 1;
                        }
                    }
                }
            }
        }
        println!("{counts:?}");
        assert!(counts[0] > 0 && counts[1] > 0 && counts[2] == 0, "{counts:?}");
    }
}

/// Three batches of two entries of group 1, the first two committed, with other groups; all in one segment. The second
/// batch is damaged.
fn holed() -> (Rig, State) {
    ROT.set(true);
    let mut rig = Rig::new(Config { open_with_holes: true, ..small(64) });
    rig.append(2, 0, &[], Some(2)).unwrap();
    rig.put(1, &[100, 200]);
    rig.settle();
    rig.commit(1, 2);
    rig.append(1, 2, &[], Some(1)).unwrap();
    rig.settle();
    for _ in 0..2 {
        rig.put(1, &[100, 200]);
        rig.settle();
    }
    rig.append(3, 0, &[10, 20], Some(1)).unwrap();
    rig.settle();
    rig.engine.attest();
    rig.settle();
    let mut files = rig.world.files.clone();
    // The head, the opening's batch, the first of the three, the commit, and this one.
    files.values_mut().next().unwrap()[4 * 4096 + 90] ^= 1;
    (Rig::open(files, rig.config.clone()).unwrap(), rig.said)
}

#[test]
fn a_hole_is_told_and_only_what_is_missing_is_taken() {
    let (mut rig, truth) = holed();
    let told = wounds(&rig, 1).unwrap().clone();
    let [hole] = &told.holes[..] else { panic!("{told:?}") };
    assert_eq!((hole.first, hole.last, hole.known), (Index(3), Index(4), false));
    assert_eq!((hole.reason, hole.offset), (HoleReason::Block(BlockError::Body), 4 * 4096));
    assert!(told.hard_state_lost && !told.tail_lost && told.silence(), "it never said its hard state again");
    let second = wounds(&rig, 2).unwrap();
    assert!(second.holes.is_empty() && second.hard_state_lost && second.tail_lost, "it said nothing since");
    assert!(wounds(&rig, 3).is_none(), "it said all of itself since");
    assert!(rig.report.groups_lost && rig.report.gaps.len() == 1);
    assert_eq!(rig.logs[&1].last_index(), Index(2));

    let entries = |group: u64, first: u64, last: u64| {
        let at = |index: u64| usize::try_from(index - 1).unwrap();
        run(group, first, &truth[&1].entries[at(first)..at(last + 1)])
    };
    let log = rig.logs.get_mut(&1).unwrap();
    let mut refuse = |first: u64, records: Bytes| rig.engine.repair(log, Index(first), records).unwrap_err();
    assert!(matches!(refuse(4, entries(1, 4, 4)), RepairError::NoHole { index: Index(4) }));
    assert!(matches!(refuse(3, entries(1, 4, 4)), RepairError::Entry { index: Index(3) }));
    assert!(matches!(refuse(3, entries(2, 3, 4)), RepairError::Entry { index: Index(3) }));
    assert!(matches!(refuse(3, entries(1, 3, 5)), RepairError::Entry { index: Index(5) }));
    let term = |term: u64| run(1, 3, &[(term, vec![1; 8])]);
    assert!(matches!(refuse(3, term(0)), RepairError::Term { .. }));
    assert!(matches!(refuse(3, term(9)), RepairError::Term { .. }));
    assert!(matches!(refuse(3, Bytes::from_static(&[1; 30])), RepairError::Record(_)));
    let hard = HardState { term: Term(5), ..HardState::default() };
    assert!(matches!(rig.engine.heal(log, hard), Err(RepairError::Holes { first: Index(3) })));

    rig.engine.repair(log, Index(3), entries(1, 3, 3)).unwrap();
    assert_eq!((rig.engine.holes(GroupId(1))[0].first, log.last_index()), (Index(4), Index(3)));
    rig.engine.repair(log, Index(4), entries(1, 4, 4)).unwrap();
    assert_eq!((rig.engine.holes(GroupId(1)).len(), log.last_index()), (0, Index(6)));
    assert!(rig.engine.wounds(GroupId(1)).unwrap().silence(), "its votes are still in doubt");
    rig.engine.heal(log, hard).unwrap();
    assert!(rig.engine.wounds(GroupId(1)).is_none());
    let mut runs = Vec::new();
    rig.engine.read(&mut rig.world, log, Index(0), Index(6), &mut runs).unwrap();
    assert_eq!(runs.concat(), entries(1, 1, 6));
    rig.settle();
    let rig = Rig::open(rig.world.files, rig.config).unwrap();
    assert!(wounds(&rig, 1).is_none() && wounds(&rig, 2).is_some());
    assert_eq!((rig.logs[&1].last_index(), rig.logs[&1].hard_state()), (Index(6), hard));
}

/// What the leader sends replaces whatever there is from there on, also behind a hole.
#[test]
fn appending_over_a_hole_closes_it() {
    let (mut rig, truth) = holed();
    let log = rig.logs.get_mut(&1).unwrap();
    log.stage(Index(3), run(1, 3, &truth[&1].entries[2..4])).unwrap();
    let write = Write { entries: (Index(2), Index(4)), ..Write::default() };
    rig.engine.append(log, write).unwrap();
    let told = rig.engine.wounds(GroupId(1)).unwrap();
    assert!(told.holes.is_empty() && told.hard_state_lost, "{told:?}");
    rig.settle();
    let rig = Rig::open(rig.world.files, rig.config).unwrap();
    let told = wounds(&rig, 1).unwrap();
    assert!(told.holes.is_empty() && told.hard_state_lost && !told.tail_lost, "{told:?}");
    assert_eq!(rig.logs[&1].last_index(), Index(4));
}

/// A group that nothing tells of may have been lost: made anew, it is in doubt, also after another restart.
#[test]
fn a_group_made_after_damage_is_in_doubt_until_healed() {
    let (mut rig, _) = holed();
    rig.ensure(7);
    assert!(wounds(&rig, 7).unwrap().silence());
    rig.append(7, 0, &[10], Some(1)).unwrap();
    rig.settle();
    let mut rig = Rig::open(rig.world.files, rig.config).unwrap();
    assert!(wounds(&rig, 7).unwrap().silence() && rig.report.groups_lost);
    let log = rig.logs.get_mut(&7).unwrap();
    let hard = log.hard_state();
    rig.engine.heal(log, hard).unwrap();
    rig.engine.forget_lost_groups();
    rig.ensure(8);
    assert!(wounds(&rig, 7).is_none() && wounds(&rig, 8).is_none());
    rig.settle();
    let rig = Rig::open(rig.world.files, rig.config).unwrap();
    assert!(wounds(&rig, 7).is_none());
}

/// Damage in a segment that was not read when the log was opened: the entries are known by their footer.
#[test]
fn damage_found_by_reading_is_mended() {
    ROT.set(true);
    let rig = sample();
    let path = rig.world.files.iter().find(|(_, bytes)| bytes[24] == 1).unwrap().0.clone();
    let config = Config { open_with_holes: true, verify_on_open: false, ..rig.config };
    // In the first block in which an entry is damaged by that.
    let (mut rig, group, index) = (1..7_usize)
        .find_map(|block| {
            let mut files = rig.world.files.clone();
            files.get_mut(&path).unwrap()[block * 4096 + 300] ^= 1;
            let mut rig = Rig::open(files, config.clone()).unwrap();
            let mut damaged = Vec::new();
            for (group, log) in &rig.logs {
                for index in log.base().index.0..log.last_index().0 {
                    if rig.engine.read(&mut rig.world, log, Index(index), Index(index + 1), &mut Vec::new()).is_err() {
                        damaged.push((*group, index + 1));
                    }
                }
            }
            assert!(damaged.len() <= 1, "{damaged:?}");
            damaged.first().map(|(group, index)| (rig, *group, *index))
        })
        .unwrap();
    let told = wounds(&rig, group).unwrap().clone();
    let [hole] = &told.holes[..] else { panic!("{told:?}") };
    assert_eq!((hole.first.0, hole.last.0, hole.known, hole.reason), (index, index, true, HoleReason::Record));
    assert!(hole.file == path && !told.silence(), "it keeps its promises");
    let model = &sample().said[&group];
    assert_eq!(rig.logs[&group].last_index().0, model.last(), "the log counts it in");

    let at = usize::try_from(index - model.base.index.0 - 1).unwrap();
    let entry = &model.entries[at];
    let log = rig.logs.get_mut(&group).unwrap();
    let other = run(group, index, &[(entry.0, vec![3; entry.1.len() + 8])]);
    assert!(matches!(rig.engine.repair(log, Index(index), other), Err(RepairError::Entry { .. })), "of another size");
    rig.engine.repair(log, Index(index), run(group, index, std::slice::from_ref(entry))).unwrap();
    assert!(rig.engine.wounds(GroupId(group)).is_none());
    rig.settle();
    let truth = sample().said;
    assert_eq!(rig.found().unwrap(), truth);
    let mut rig = Rig::open(rig.world.files, rig.config).unwrap();
    assert_eq!(rig.found().unwrap(), truth);
    // Also when the filled hole lies in a sealed segment.
    for _ in 0..20 {
        rig.put(3, &[2000]);
        rig.settle();
    }
    let found = rig.found().unwrap();
    assert_eq!(found[&group].entries, truth[&group].entries);
    let mut rig = Rig::open(rig.world.files, rig.config).unwrap();
    assert!(rig.report.footers > 2, "{:?}", rig.report);
    assert_eq!(rig.found().unwrap(), found);
}

/// Who takes everything behind a hole from a leader cuts the log there. From then on no segment is kept for what was
/// given up, so the doubt must stand in the log before any other batch does.
#[test]
fn a_log_cut_at_a_hole_stays_in_doubt_until_it_is_healed() {
    ROT.set(true);
    let rig = sample();
    let config = Config { open_with_holes: true, ..rig.config.clone() };
    let mut cuts = 0;
    for (path, bytes) in &rig.world.files {
        for at in (0..bytes.len()).step_by(4096) {
            let mut files = rig.world.files.clone();
            spoil(&mut files.get_mut(path).unwrap()[at..at + 4096], 0);
            let what = format!("{path:?} at {at}");
            let Ok(mut bad) = Rig::open(files, config.clone()) else { panic!("{what}") };
            let told: Vec<u64> = bad.logs.keys().copied().filter(|group| wounds(&bad, *group).is_some()).collect();
            for group in &told {
                let holes = !wounds(&bad, *group).unwrap().holes.is_empty();
                let log = bad.logs.get_mut(group).unwrap();
                bad.engine.cut_at_hole(log).unwrap();
                let told = bad.engine.wounds(GroupId(*group)).unwrap();
                assert!(told.silence() && told.holes.is_empty() && told.tail_lost >= holes, "{what}: {told:?}");
                cuts += u64::from(holes);
            }
            // What others write from now on may let go of segments.
            for _ in 0..20 {
                bad.ensure(7);
                let log = bad.logs.get_mut(&7).unwrap();
                bad.engine.append(log, Write { hard_state: Some(vote(log)), ..Write::default() }).unwrap();
                bad.settle();
            }
            let mut again = Rig::open(bad.world.files, config.clone()).unwrap();
            for group in &told {
                assert!(
                    wounds(&again, *group).is_some_and(Wounds::silence),
                    "{what}: group {group} is in no doubt any more"
                );
            }
            // What a leader sends, and its word that this is all.
            for group in rig.said.keys().copied().chain([7]) {
                again.ensure(group);
                let log = again.logs.get_mut(&group).unwrap();
                if again.engine.wounds(GroupId(group)).is_none() {
                    continue;
                }
                again.engine.cut_at_hole(log).unwrap();
                let Some(model) = rig.said.get(&group) else {
                    again.engine.heal(log, log.hard_state()).unwrap();
                    continue;
                };
                if log.last_index() < model.base.index {
                    log.set_snapshot(model.base, model.conf.clone());
                    again.engine.reset(log, model.base).unwrap();
                }
                let last = log.last_index().0;
                if last < model.last() {
                    let known = usize::try_from(last - model.base.index.0).unwrap();
                    log.stage(Index(last + 1), run(group, last + 1, &model.entries[known..])).unwrap();
                    let entries = (Index(last), Index(model.last()));
                    again.engine.append(log, Write { entries, ..Write::default() }).unwrap();
                }
                let term = model.hard.term.max(log.hard_state().term);
                again.engine.heal(log, HardState { term, ..model.hard }).unwrap();
            }
            again.engine.forget_lost_groups();
            again.settle();
            let mut whole = Rig::open(again.world.files, config.clone()).unwrap();
            let still: Vec<_> = whole.logs.keys().filter_map(|group| Some((*group, wounds(&whole, *group)?))).collect();
            assert!(still.is_empty(), "{what}: {still:?} {:?}", whole.report);
            let found = whole.found().unwrap();
            for (group, model) in &rig.said {
                // A compaction may be forgotten.
                let more = usize::try_from(model.base.index.0 - found[group].base.index.0).unwrap();
                assert_eq!(found[group].entries[more..], model.entries[..], "{what}: group {group}");
            }
        }
    }
    assert!(cuts > 10, "{cuts} logs with holes");
}

fn vote(log: &GroupLog) -> HardState {
    let hard = log.hard_state();
    HardState { term: Term(hard.term.0 + 1), ..hard }
}

/// The same where nothing else keeps the damaged segment: the next batch lets go of it.
#[test]
fn a_log_cut_to_nothing_stays_in_doubt_without_its_segment() {
    ROT.set(true);
    let config = Config { open_with_holes: true, ..small(64) };
    let mut rig = Rig::new(config.clone());
    for group in [1, 3] {
        rig.append(group, 0, &[], Some(1)).unwrap();
    }
    rig.settle();
    rig.put(1, &[100, 200]);
    rig.settle();
    for group in [1, 3] {
        let last = rig.now[&group].last();
        rig.append(group, last, &[100], Some(2)).unwrap();
    }
    rig.settle();
    rig.engine.attest();
    rig.settle();
    let mut files = rig.world.files.clone();
    // The head, the opening's batch, the votes, and the first entries.
    files.values_mut().next().unwrap()[3 * 4096 + 90] ^= 1;
    let mut rig = Rig::open(files, config.clone()).unwrap();
    let told = wounds(&rig, 1).unwrap();
    assert_eq!((told.holes.len(), told.hard_state_lost, told.tail_lost), (1, false, false), "a hole, and no doubt");
    rig.engine.compact(rig.logs.get_mut(&3).unwrap(), Index(1)).unwrap();
    let log = rig.logs.get_mut(&1).unwrap();
    rig.engine.cut_at_hole(log).unwrap();
    assert_eq!((log.base().index, log.last_index()), (Index(0), Index(0)));
    let log = rig.logs.get_mut(&3).unwrap();
    rig.engine.append(log, Write { hard_state: Some(vote(log)), ..Write::default() }).unwrap();
    rig.settle();
    let rig = Rig::open(rig.world.files, config).unwrap();
    assert_eq!((rig.report.segments, rig.report.gaps.len()), (1, 0), "the damaged segment is let go of");
    assert!(wounds(&rig, 1).is_some_and(Wounds::silence), "{:?}", rig.report);
}
