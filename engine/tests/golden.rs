//! Small logs of every format version, as hexadecimal dumps: they must read as they did, and a writer of the current
//! version must still make the same bytes.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ringraft_engine::snapshot::{SnapshotName, SnapshotReader, SnapshotWriter};
use ringraft_raft::{EntryId, GroupId, Index, Term};

use crate::rig::{Rig, conf, small};
use crate::world::Image;

/// A log with everything in it: several segments, a split write, votes, truncations, compactions, an installed
/// snapshot, a recycled file.
fn history() -> Rig {
    let mut rig = Rig::new(small(8));
    rig.append(7, 0, &[], Some(3)).unwrap();
    rig.put(1, &[8, 21, 30]);
    rig.settle();
    rig.append(1, 1, &[9], Some(2)).unwrap();
    rig.commit(1, 2);
    rig.put(2, &[10; 4]);
    rig.snapshot(2, 2, 3);
    rig.compact(2, 2).unwrap();
    rig.settle();
    for round in 0..14 {
        rig.put(3, &[20, 8]);
        rig.settle();
        if round == 9 {
            rig.compact(3, 18).unwrap();
            rig.compact(1, 1).unwrap();
        }
    }
    rig.put(3, &[8; 120]);
    rig.settle();
    rig.compact(3, 140).unwrap();
    rig.compact(1, 2).unwrap();
    rig.compact(2, 4).unwrap();
    rig.put(2, &[12]);
    rig.settle();
    rig.install(5, EntryId { term: Term(4), index: Index(50) }, 3);
    rig.put(5, &[16]);
    rig.settle();
    rig.engine.attest();
    rig.settle();
    rig
}

fn snapshot() -> Vec<u8> {
    let name = SnapshotName { group: GroupId(5), id: EntryId { term: Term(4), index: Index(50) } };
    let (mut writer, head) = SnapshotWriter::new(77, name, &conf(3));
    let mut file = head.to_vec();
    file.extend_from_slice(&writer.chunk(b"what the state machine"));
    file.extend_from_slice(&writer.chunk(b"says"));
    file.extend_from_slice(&writer.finish());
    file
}

/// One line per 32 bytes that are not all zeros.
fn dump(image: &Image) -> String {
    let mut out = String::new();
    for (path, bytes) in image {
        writeln!(out, "file {} {}", path.display(), bytes.len()).unwrap();
        for (nth, line) in bytes.chunks(32).enumerate().filter(|(_, line)| line.iter().any(|byte| *byte != 0)) {
            write!(out, "{:06x} ", nth * 32).unwrap();
            line.iter().for_each(|byte| write!(out, "{byte:02x}").unwrap());
            out.push('\n');
        }
    }
    out
}

fn undump(text: &str) -> Image {
    let mut image = Image::new();
    let mut path = PathBuf::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let first = words.next().unwrap();
        if first == "file" {
            path = PathBuf::from(words.next().unwrap());
            image.insert(path.clone(), vec![0; words.next().unwrap().parse().unwrap()]);
            continue;
        }
        let hex = words.next().unwrap();
        let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
        let start = usize::from_str_radix(first, 16).unwrap();
        image.get_mut(&path).unwrap()[start..].iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    }
    image
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Compares with a file. To write it (for a new version only): set `GOLDEN_WRITE=1`.
fn compare(name: &str, image: &Image) {
    let text = dump(image);
    assert_eq!(&undump(&text), image);
    if std::env::var_os("GOLDEN_WRITE").is_some() {
        std::fs::write(path(name), &text).unwrap();
    }
    assert!(std::fs::read_to_string(path(name)).unwrap() == text, "{name} is made of other bytes now");
}

#[test]
fn golden_logs_still_read() {
    let expected = history().said;
    for (name, footers) in [("log-v1.hex", 0), ("log-v2.hex", 1)] {
        let image = undump(&std::fs::read_to_string(path(name)).unwrap());
        // Opening compares with the independent reader.
        let config = ringraft_engine::Config { verify_on_open: false, ..small(8) };
        let mut rig = Rig::open(image, config).unwrap();
        assert_eq!((&rig.now, &rig.report.cut), (&expected, &None), "{name}");
        assert_eq!(rig.report.footers, footers, "{name}");
        rig.put(1, &[100]);
        rig.settle();
        rig.reopen().check();
    }
}

#[test]
fn the_writer_makes_the_same_bytes() {
    compare("log-v2.hex", &history().world.files);
}

#[test]
fn golden_snapshots_still_read() {
    let image = Image::from([(PathBuf::from("snap"), snapshot())]);
    compare("snapshot-v1.hex", &image);
    let image = undump(&std::fs::read_to_string(path("snapshot-v1.hex")).unwrap());
    let reader = SnapshotReader::new(Bytes::from(image[Path::new("snap")].clone()), 77).unwrap();
    assert_eq!(reader.chunks().collect::<Vec<_>>(), [&b"what the state machine"[..], b"says"]);
    assert_eq!(reader.conf(), &conf(3));
}
