//! The raft core beside raft-rs: three replicas in one thread, from the proposal until all have applied it. Disk and
//! network are memory that answers at once; payloads lie in the logs of all three, and the appliers look at them.
//!
//! On both sides the three logs share the memory of the payloads. Ours does more with one: it is laid out as a record with
//! a checksum. Nobody verifies checksums: nothing leaves a disk or a wire here.

mod ours;
mod raft_rs;

use crate::memory::left_by;
use crate::row::{Reach, Row, per_item};

const RIVAL: &str = "raft-rs 0.7";

/// Ours shall take at most a third of the rival's time.
const REACH: Reach = Reach::Part(1.0 / 3.0);

/// Bytes that an idle group of three may take, beside its logs: less than 1 KiB a member.
const IDLE_BYTES: Reach = Reach::Cost(3.0 * 1023.0);

/// Entries between two compactions.
const COMPACT_EVERY: usize = 4096;

/// Entries of a lap: four compactions.
const LAP: usize = 4 * COMPACT_EVERY;

/// Groups of the row on memory.
const IDLE_GROUPS: usize = 10_000;

/// The rows of `peers raft`.
pub(crate) fn rows() -> Vec<Row> {
    let sizes = [16, 256];
    let batches = [1, 64, 1024];
    let rows = sizes.into_iter().flat_map(|size| batches.map(|batch| propose_to_applied(batch, size)));
    rows.chain([idle_memory()]).collect()
}

fn propose_to_applied(batch: usize, size: usize) -> Row {
    let payload = vec![7; size];
    let (for_ours, for_rival) = (payload.clone(), payload);
    Row {
        id: format!("raft/propose-to-applied/{batch}x{size}B"),
        description: format!("{batch} proposals a turn, all 3 apply them"),
        unit: "ns/entry",
        reach: REACH,
        rival_name: RIVAL,
        ours: Box::new(move || {
            let mut shell = ours::Shell::new();
            let mut trio = ours::Trio::elect(&mut shell);
            let mut lap = move || (0..LAP / batch).for_each(|_| trio.put(batch, &for_ours, &mut shell));
            Ok(Box::new(move |time| Ok(per_item(time, LAP, &mut lap))))
        }),
        rival: Box::new(move || {
            let mut shell = raft_rs::Shell::new();
            let mut trio = raft_rs::Trio::elect(&mut shell);
            let mut lap = move || (0..LAP / batch).for_each(|_| trio.put(batch, &for_rival, &mut shell));
            Ok(Box::new(move |time| Ok(per_item(time, LAP, &mut lap))))
        }),
    }
}

fn idle_memory() -> Row {
    Row {
        id: "raft/idle-memory/3-replicas".into(),
        description: format!("at rest, beside the logs; {IDLE_GROUPS} groups"),
        unit: "B/group",
        reach: IDLE_BYTES,
        rival_name: RIVAL,
        ours: Box::new(|| {
            Ok(Box::new(|_| {
                let mut shell = ours::Shell::new();
                Ok(per_group(ours::Trio::LOGS, || {
                    let mut trio = ours::Trio::elect(&mut shell);
                    trio.put(64, &[7; 16], &mut shell);
                    trio.rest(&mut shell);
                    trio
                }))
            }))
        }),
        rival: Box::new(|| {
            Ok(Box::new(|_| {
                let mut shell = raft_rs::Shell::new();
                Ok(per_group(raft_rs::Trio::LOGS, || {
                    let mut trio = raft_rs::Trio::elect(&mut shell);
                    trio.put(64, &[7; 16], &mut shell);
                    trio.rest(&mut shell);
                    trio
                }))
            }))
        }),
    }
}

/// Bytes that many groups take, in the mean, on the heap and in themselves, but for `logs` of the latter.
fn per_group<T>(logs: usize, mut make: impl FnMut() -> T) -> f64 {
    // What the shell takes at first, it keeps.
    make();
    let (groups, bytes) = left_by(|| {
        let mut groups = Vec::with_capacity(IDLE_GROUPS);
        groups.extend((0..IDLE_GROUPS).map(|_| make()));
        groups
    });
    drop(groups);
    bytes as f64 / IDLE_GROUPS as f64 - logs as f64
}

/// Bytes that are taken at a time for payloads or records.
const CHUNK: usize = 64 << 10;

/// What the state machines do with an entry.
fn look_at(payload: &[u8]) -> u64 {
    payload.first().map_or(0, |byte| u64::from(*byte))
}
