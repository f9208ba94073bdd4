//! Looking at logs from outside: the same verdicts as opening them, and the same entries.

use std::path::Path;

use ringraft_engine::inspect::{self, Check, Piece, Verdict};
use ringraft_engine::{Config, Engine};
use ringraft_raft::{EntryId, GroupId, Index, Term};

use crate::rig::{Rig, State, small};
use crate::world::{Image, World};

fn on_disk(image: &Image) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, bytes) in image {
        std::fs::write(dir.path().join(path.file_name().unwrap()), bytes).unwrap();
    }
    dir
}

/// An intact log must be found so, with all that is in it.
pub(crate) fn agrees(image: &Image, state: &State) {
    let dir = on_disk(image);
    let check = inspect::check(dir.path(), None).unwrap();
    assert!(check.is_intact() && !check.changing, "{:?}", check.damage);
    assert_eq!(check.groups.len(), state.len());
    for group in &check.groups {
        let model = &state[&group.group.0];
        assert_eq!((group.base, group.intact.0, group.last.0), (model.base, model.last(), model.last()));
        assert_eq!((group.hard_state.term, group.hard_state.vote), (model.hard.term, model.hard.vote));
        assert_eq!(group.snapshot, model.snapshot);
    }
    let stats = inspect::stats(dir.path(), Some(77)).unwrap();
    for group in &stats.groups {
        let entries = &state[&group.group.0].entries;
        let bytes: usize = entries.iter().map(|(_, payload)| 24 + payload.len().next_multiple_of(8)).sum();
        assert_eq!((group.entries, group.live_bytes), (entries.len() as u64, bytes as u64));
        assert_eq!(group.oldest == 0, entries.is_empty());
    }
    assert_eq!(stats.live_bytes, stats.segments.iter().map(|segment| segment.live_bytes).sum::<u64>());
    assert!(stats.live_bytes <= stats.record_bytes && stats.record_bytes <= stats.file_bytes);
    // What was dumped last of every entry that is there.
    let mut found = std::collections::BTreeMap::new();
    inspect::dump(dir.path(), None, &mut |piece| {
        if let Piece::Entry { group, id, payload, .. } = piece {
            found.insert((group.0, id.index.0), (id.term.0, payload.to_vec()));
        }
    })
    .unwrap();
    for (group, model) in state {
        for (index, entry) in (model.base.index.0 + 1..).zip(&model.entries) {
            assert_eq!(found.get(&(*group, index)), Some(entry));
        }
    }
}

fn sample() -> Rig {
    let mut rig = Rig::new(small(8));
    for round in 0..14 {
        rig.put(1, &[700, 20]);
        rig.append(2, 0, &[10], Some(round)).unwrap();
        rig.settle();
    }
    rig.engine.attest();
    rig.settle();
    rig
}

fn check(image: &Image) -> Check {
    inspect::check(on_disk(image).path(), Some(77)).unwrap()
}

#[test]
fn an_intact_log_is_found_so() {
    let rig = sample();
    agrees(&rig.world.files, &rig.said);
    let empty = tempfile::tempdir().unwrap();
    let check = inspect::check(empty.path(), None).unwrap();
    assert!(check.is_intact() && check.groups.is_empty());
    assert!(inspect::check(Path::new("/nowhere/at/all"), None).is_err());
}

/// Damages every place in turn: it can be opened if it is intact.
#[test]
fn damage_is_named_if_opening_refuses() {
    let rig = sample();
    let config = Config { verify_on_open: true, ..rig.config.clone() };
    let (mut refused, mut named, mut opened) = (0, 0, 0);
    for (path, bytes) in &rig.world.files {
        for at in (0..bytes.len()).step_by(4096) {
            for how in 0..4 {
                let mut bad = rig.world.files.clone();
                let file = bad.get_mut(path).unwrap();
                match how {
                    0 => file[at..at + 4096].fill(0),
                    1 => file[at + 20] ^= 1,
                    2 => file[at + 90] ^= 1,
                    _ => file[at + 40] ^= 1,
                }
                let opens = Engine::open(&mut World::on(bad.clone()), config.clone()).is_ok();
                let check = check(&bad);
                // It may open although something is damaged that nobody needs any more.
                assert!(opens || !check.is_intact(), "{path:?} at {at}, {how}: {:?}", check.damage);
                if !check.is_intact() {
                    opened += usize::from(opens);
                    refused += 1;
                    let name = path.file_name().unwrap();
                    named += usize::from(
                        check
                            .damage
                            .iter()
                            .any(|damage| damage.file.file_name() == Some(name) && damage.offset == at as u64),
                    );
                }
            }
        }
    }
    assert!(refused > 40 && named == refused, "{named} of {refused} places named");
    assert!(opened > 0 && opened < refused / 4, "{opened} of {refused} opened");
}

#[test]
fn what_is_lost_is_told_from_the_footer() {
    let rig = sample();
    let mut image = rig.world.files.clone();
    // The first batch with entries: the one behind the head and the batch of the opening.
    let path = image.iter().find(|(_, bytes)| bytes[24] == 1).unwrap().0.clone();
    let file = image.get_mut(&path).unwrap();
    file[2 * 4096 + 100] ^= 1;
    let found = check(&image);
    let damage: Vec<_> = found.damage.iter().filter(|damage| damage.verdict.is_damage()).collect();
    assert_eq!(damage.len(), 1);
    assert_eq!((damage[0].offset, damage[0].batches), (8192, Some((2, 2))));
    let lost = [(GroupId(1), Index(1), Index(2)), (GroupId(2), Index(1), Index(1))];
    assert_eq!(damage[0].entries, lost);
    assert!(matches!(damage[0].verdict, Verdict::Damaged(_)));
    let group = &found.groups[0];
    assert_eq!((group.intact.0, group.last.0, &group.holes[..]), (0, 28, &[(Index(1), Index(2))][..]));
    assert!(found.groups[1].holes.is_empty(), "written again later");
}

#[test]
fn torn_tails_and_damaged_footers_are_no_damage() {
    let mut rig = sample();
    rig.world.hold = true;
    rig.put(1, &[2000]);
    rig.turn().unwrap();
    let torn = rig.world.crash(|_, sector| sector % 2 == 0);
    let found = check(&torn);
    assert!(found.is_intact() && matches!(found.damage[..], [ref one] if matches!(one.verdict, Verdict::Torn(_))));
    let mut image = rig.world.files.clone();
    let mut footer = None;
    inspect::dump(on_disk(&image).path(), None, &mut |piece| {
        if let Piece::Block { file, offset, what: "footer", .. } = piece {
            footer = Some((Path::new("/log").join(file.file_name().unwrap()), usize::try_from(offset).unwrap()));
        }
    })
    .unwrap();
    let (path, offset) = footer.expect("a sealed segment has one");
    image.get_mut(&path).unwrap()[offset + 100] ^= 1;
    let found = check(&image);
    assert!(found.is_intact());
    assert_eq!(found.damage.iter().map(|damage| damage.verdict).collect::<Vec<_>>(), [Verdict::Footer]);
}

#[test]
fn snapshots_are_checked_too() {
    use ringraft_engine::snapshot::{SnapshotName, SnapshotWriter};
    let rig = sample();
    let dir = on_disk(&rig.world.files);
    let name = SnapshotName { group: GroupId(1), id: EntryId { term: Term(1), index: Index(3) } };
    let (writer, head) = SnapshotWriter::new(77, name, &crate::rig::conf(1));
    let bytes = [head, writer.finish()].concat();
    std::fs::create_dir(dir.path().join("snap")).unwrap();
    std::fs::write(name.path(dir.path()), &bytes).unwrap();
    assert!(inspect::check(dir.path(), None).unwrap().is_intact());
    std::fs::write(name.path(dir.path()), &bytes[1..]).unwrap();
    let found = inspect::check(dir.path(), None).unwrap();
    assert!(matches!(found.damage[..], [ref one] if matches!(one.verdict, Verdict::Snapshot(_))));
    assert_eq!(inspect::stats(dir.path(), None).unwrap().snapshots, 1);
}
