//! The log engine beside raft-engine, and beside what the disk can do at all as fio shows it: entries appended until they
//! are durable, by the clock on the wall. Both engines lie on the same file system, in directories of their own, and are
//! compacted as they go.

mod fio;
mod ours;
mod raft_engine;

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use self::ours::Ours;
use self::raft_engine::{Files, Threads};
use crate::row::{Failure, Reach, Row, Setup, Side, median};

const RIVAL: &str = "raft-engine 0.4.2";
const FLOOR: &str = "fio, the floor";

/// Payload bytes of an entry, where nothing else is said.
const SIZE: usize = 256;

/// Appends that wait at a time.
const OUTSTANDING: usize = 1024;

/// Entries of one call.
const BATCH: usize = 512;

/// Entries that a log keeps behind its end before it is compacted, in bytes.
const KEEP_BYTES: usize = 8 << 20;

/// The rows of `peers wal`, with files below `dir`.
pub(crate) fn rows(dir: &Path) -> Vec<Row> {
    let dir: Rc<Path> = dir.into();
    let ours = Rc::new(RefCell::new(None));
    let mut rows = Vec::new();
    for (name, files, part) in [("fresh", Files::Fresh, 0.5), ("recycled", Files::Recycled, 0.88)] {
        rows.push(Row {
            id: format!("wal/append/1x256B/{name}"),
            description: format!("one entry at a time: median; the rival's files are {name}"),
            unit: "us",
            reach: Reach::Part(part),
            rival_name: RIVAL,
            ours: on_ours(&dir, &ours, |ours, time| one_at_a_time(time, || ours.append(1, SIZE))),
            rival: on_rival(&dir, files, |rival, time| one_at_a_time(time, || rival.append(0, 1, SIZE))),
        });
    }
    rows.push(Row {
        id: "wal/append/1x256B/floor".into(),
        description: "one entry at a time: median; 4 KiB written over by fio".into(),
        unit: "us",
        reach: Reach::Part(1.15),
        rival_name: FLOOR,
        ours: on_ours(&dir, &ours, |ours, time| one_at_a_time(time, || ours.append(1, SIZE))),
        rival: on_fio(&dir, fio::latency),
    });
    rows.push(Row {
        id: "wal/append/1024-waiting/256B".into(),
        description: format!("{OUTSTANDING} appends of one entry wait at a time, each acknowledged by itself"),
        unit: "ns/entry",
        reach: Reach::Part(1.0 / 15.0),
        rival_name: RIVAL,
        ours: on_ours(&dir, &ours, |ours, time| ours.stream(time, OUTSTANDING, 1, SIZE)),
        rival: on_rival(&dir, Files::Recycled, |rival, time| rival.best_of(&[16, 64, 128], time, 1, SIZE)),
    });
    rows.push(Row {
        id: "wal/append/512x256B".into(),
        description: format!("{BATCH} entries a call, 16 calls at a time"),
        unit: "ns/entry",
        reach: Reach::Part(1.0 / 3.0),
        rival_name: RIVAL,
        ours: on_ours(&dir, &ours, |ours, time| ours.stream(time, 16, BATCH, SIZE)),
        rival: on_rival(&dir, Files::Recycled, |rival, time| rival.best_of(&[1, 4, 16], time, BATCH, SIZE)),
    });
    rows.push(Row {
        id: "wal/append/64KiB/floor".into(),
        description: "entries of 64 KiB, 32 of them wait at a time; 256 KiB a write by fio, two at a time".into(),
        unit: "us/64KiB",
        reach: Reach::Part(1.0 / 0.9),
        rival_name: FLOOR,
        ours: on_ours(&dir, &ours, |ours, time| Ok(ours.stream(time, 32, 1, 64 << 10)? / 1e3)),
        rival: on_fio(&dir, fio::bandwidth),
    });
    rows
}

/// Calls `append` again and again; the median of how long it took, in microseconds.
fn one_at_a_time(time: Duration, mut append: impl FnMut() -> Result<(), Failure>) -> Result<f64, Failure> {
    let (mut took, begin) = (Vec::new(), Instant::now());
    while took.len() < 5 || begin.elapsed() < time {
        let start = Instant::now();
        append()?;
        took.push(start.elapsed().as_nanos() as f64 / 1e3);
    }
    Ok(median(&took))
}

/// A side on our engine, of which there is one for all rows.
fn on_ours(
    dir: &Rc<Path>,
    ours: &Rc<RefCell<Option<Ours>>>,
    round: impl Fn(&mut Ours, Duration) -> Result<f64, Failure> + 'static,
) -> Setup {
    let (dir, ours) = (dir.clone(), ours.clone());
    Box::new(move || {
        Ok(Box::new(move |time| {
            let mut ours = ours.borrow_mut();
            let ours = match &mut *ours {
                Some(ours) => ours,
                none => none.insert(Ours::open(&dir)?),
            };
            round(ours, time)
        }) as Side)
    })
}

/// A side on an engine of the rival's own.
fn on_rival(
    dir: &Rc<Path>,
    files: Files,
    round: impl Fn(&mut Threads, Duration) -> Result<f64, Failure> + 'static,
) -> Setup {
    let dir = dir.clone();
    Box::new(move || {
        let mut rival = Threads::open(&dir, files)?;
        Ok(Box::new(move |time| round(&mut rival, time)) as Side)
    })
}

/// A side that is a run of fio.
fn on_fio(dir: &Rc<Path>, run: impl Fn(&Path, Duration) -> Result<f64, Failure> + 'static) -> Setup {
    let dir = dir.clone();
    Box::new(move || Ok(Box::new(move |time| run(&dir, time)) as Side))
}
