//! What clients saw, and whether one copy of the data, changed one operation at a time, could have shown it to them.
//!
//! Every acknowledged write tells its revision, and every value read tells the revision of the write that put it there.
//! So the order of the writes is known, and linearizability can be checked in time linear in the history (after
//! sorting): the revisions must agree with the clocks of the clients.

use std::collections::{BTreeMap, HashMap};

/// Key number within a test.
pub(crate) type Key = u64;

/// A value: unique to one write.
pub(crate) type Value = u64;

/// One operation of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Write this value.
    Put(Value),
    /// Read.
    Get,
    /// Delete.
    Delete,
}

/// How an operation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// A write, at this revision. A delete of nothing has the revision of the last change before it.
    Written { revision: u64, changed: bool },
    /// A value, put there at this revision.
    Read { value: Value, revision: u64 },
    /// There was no such key; the state had this revision.
    Absent { revision: u64 },
    /// Nobody knows whether it took effect.
    Unknown,
}

/// An operation with the times between which it took effect (if it did). Equal times are concurrent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) group: u64,
    pub(crate) key: Key,
    pub(crate) kind: Kind,
    pub(crate) begin: u64,
    pub(crate) end: u64,
    pub(crate) outcome: Outcome,
}

/// Checks a history; says what is wrong with it.
pub(crate) fn check(history: &[Operation]) -> Result<(), String> {
    let mut groups: BTreeMap<u64, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        groups.entry(operation.group).or_default().push(operation);
    }
    groups.values().try_for_each(|operations| check_group(operations))
}

fn check_group(operations: &[&Operation]) -> Result<(), String> {
    let writers = values(operations)?;
    let writes = revisions(operations, &writers)?;
    real_time(operations)?;
    let newest = Newest::of(operations);
    for operation in operations {
        reads(operation, operations, &writers, &writes, &newest)?;
    }
    Ok(())
}

/// Who wrote each value.
fn values<'a>(operations: &[&'a Operation]) -> Result<HashMap<Value, &'a Operation>, String> {
    let mut writers = HashMap::new();
    for operation in operations {
        if let Kind::Put(value) = operation.kind
            && let Some(other) = writers.insert(value, *operation)
        {
            return Err(format!("a test bug: {operation:?} and {other:?} write the same value"));
        }
    }
    Ok(writers)
}

/// The changes whose revision is known, by revision: acknowledged ones, and unknown ones whose value was read.
fn revisions<'a>(
    operations: &[&'a Operation],
    writers: &HashMap<Value, &'a Operation>,
) -> Result<BTreeMap<u64, &'a Operation>, String> {
    let mut writes: BTreeMap<u64, &Operation> = BTreeMap::new();
    for operation in operations {
        let (revision, writer) = match operation.outcome {
            Outcome::Written { revision, changed: true } => (revision, *operation),
            Outcome::Read { value, revision } => match writers.get(&value) {
                Some(writer) => (revision, *writer),
                None => return Err(format!("{operation:?} read a value that nobody wrote")),
            },
            _ => continue,
        };
        if let Some(other) = writes.insert(revision, writer)
            && !std::ptr::eq(other, writer)
        {
            return Err(format!("{other:?} and {writer:?} have the same revision {revision}"));
        }
    }
    Ok(writes)
}

/// An operation that begins after another ended sees a state that is not older.
fn real_time(operations: &[&Operation]) -> Result<(), String> {
    // What an operation proves: the state had at least revision `low` when it ended, and had not more than `high`
    // before it began.
    let mut ends: Vec<(u64, u64, &Operation)> = Vec::new();
    let mut begins: Vec<(u64, u64, &Operation)> = Vec::new();
    for operation in operations {
        match operation.outcome {
            Outcome::Written { revision, changed } => {
                ends.push((operation.end, revision, operation));
                // A change is the only one of its revision; a delete of nothing shares it with the last change.
                let before = if changed { revision - 1 } else { revision };
                begins.push((operation.begin, before, operation));
            }
            Outcome::Absent { revision } => {
                ends.push((operation.end, revision, operation));
                begins.push((operation.begin, revision, operation));
            }
            // The revision of a value says nothing of the state's, except that it is not older.
            Outcome::Read { revision, .. } => ends.push((operation.end, revision, operation)),
            Outcome::Unknown => {}
        }
    }
    ends.sort_by_key(|(end, ..)| *end);
    begins.sort_by_key(|(begin, ..)| *begin);
    let mut highest: Option<(u64, &Operation)> = None;
    let mut ended = ends.into_iter().peekable();
    for (begin, at_most, operation) in begins {
        while let Some((_, revision, earlier)) = ended.next_if(|(end, ..)| *end < begin) {
            if highest.is_none_or(|(most, _)| revision > most) {
                highest = Some((revision, earlier));
            }
        }
        if let Some((revision, earlier)) = highest.filter(|(revision, _)| *revision > at_most) {
            return Err(format!("{earlier:?} showed revision {revision}, then {operation:?} an older state"));
        }
    }
    Ok(())
}

/// A read shows the last change of its key before it.
fn reads(
    read: &Operation,
    operations: &[&Operation],
    writers: &HashMap<Value, &Operation>,
    writes: &BTreeMap<u64, &Operation>,
    newest: &HashMap<Key, Newest<'_>>,
) -> Result<(), String> {
    let shown = match read.outcome {
        Outcome::Read { value, revision } => {
            let writer = writers[&value];
            if writer.key != read.key {
                return Err(format!("{read:?} shows what {writer:?} wrote to another key"));
            }
            if writer.begin > read.end {
                return Err(format!("{read:?} shows what {writer:?} began to write later"));
            }
            revision
        }
        // The key was absent when the state had this revision: what changed it after that is no concern.
        Outcome::Absent { revision } => {
            let last = writes.range(..=revision).rev().find(|(_, write)| write.key == read.key);
            return match last {
                Some((_, write)) if matches!(write.kind, Kind::Put(_)) && !maybe_deleted(read, operations) => {
                    Err(format!("{read:?} shows nothing, but {write:?} had put something there"))
                }
                _ => Ok(()),
            };
        }
        Outcome::Written { .. } | Outcome::Unknown => return Ok(()),
    };
    match newest.get(&read.key).and_then(|seen| seen.before(read.begin)) {
        Some((revision, earlier)) if revision > shown => {
            Err(format!("{read:?} shows an old value: {earlier:?} had shown revision {revision}"))
        }
        _ => Ok(()),
    }
}

/// The newest revision of one key that operations had shown by a time.
#[derive(Default)]
struct Newest<'a>(Vec<(u64, u64, &'a Operation)>);

impl<'a> Newest<'a> {
    /// By key.
    fn of(operations: &[&'a Operation]) -> HashMap<Key, Newest<'a>> {
        let mut newest: HashMap<Key, Newest<'a>> = HashMap::new();
        for operation in operations {
            if let Outcome::Written { revision, changed: true } | Outcome::Read { revision, .. } = operation.outcome {
                newest.entry(operation.key).or_default().0.push((operation.end, revision, operation));
            }
        }
        for Newest(seen) in newest.values_mut() {
            seen.sort_by_key(|(end, ..)| *end);
            for at in 1..seen.len() {
                if seen[at].1 < seen[at - 1].1 {
                    (seen[at].1, seen[at].2) = (seen[at - 1].1, seen[at - 1].2);
                }
            }
        }
        newest
    }

    /// What had been shown by operations that ended before `begin`.
    fn before(&self, begin: u64) -> Option<(u64, &'a Operation)> {
        let count = self.0.partition_point(|(end, ..)| *end < begin);
        count.checked_sub(1).map(|last| (self.0[last].1, self.0[last].2))
    }
}

/// Whether a delete of the key with unknown outcome may have come before the read.
fn maybe_deleted(read: &Operation, operations: &[&Operation]) -> bool {
    operations.iter().any(|it| {
        it.key == read.key && it.kind == Kind::Delete && it.outcome == Outcome::Unknown && it.begin <= read.end
    })
}

mod tests {
    use super::*;

    fn put(key: Key, value: Value, times: (u64, u64), revision: u64) -> Operation {
        let outcome = Outcome::Written { revision, changed: true };
        Operation { group: 0, key, kind: Kind::Put(value), begin: times.0, end: times.1, outcome }
    }

    fn get(key: Key, times: (u64, u64), outcome: Outcome) -> Operation {
        Operation { group: 0, key, kind: Kind::Get, begin: times.0, end: times.1, outcome }
    }

    #[test]
    fn good_histories_pass() {
        let read = |value, revision| Outcome::Read { value, revision };
        let histories = [
            vec![put(1, 10, (0, 5), 2), get(1, (6, 7), read(10, 2)), put(1, 11, (8, 9), 3)],
            // Concurrent with the write: either is fine.
            vec![put(1, 10, (0, 5), 2), put(1, 11, (6, 20), 3), get(1, (7, 9), read(10, 2))],
            vec![put(1, 10, (0, 5), 2), put(1, 11, (6, 20), 3), get(1, (7, 9), read(11, 3))],
            vec![get(1, (0, 1), Outcome::Absent { revision: 1 }), put(1, 10, (2, 3), 2)],
            // An unknown write was seen.
            vec![Operation { outcome: Outcome::Unknown, ..put(1, 10, (0, 5), 2) }, get(1, (6, 7), read(10, 2))],
        ];
        for history in histories {
            assert_eq!(check(&history), Ok(()), "{history:?}");
        }
    }

    #[test]
    fn bad_histories_do_not() {
        let read = |value, revision| Outcome::Read { value, revision };
        let histories = [
            // Lost: a later read shows nothing, or the value before.
            vec![put(1, 10, (0, 5), 2), get(1, (6, 7), Outcome::Absent { revision: 2 })],
            vec![put(1, 10, (0, 5), 2), get(1, (6, 7), Outcome::Absent { revision: 1 })],
            vec![put(1, 10, (0, 1), 2), put(1, 11, (2, 3), 3), get(1, (4, 5), read(10, 2))],
            // Two writes with one revision; a revision that goes backwards.
            vec![put(1, 10, (0, 1), 2), put(2, 11, (0, 1), 2)],
            vec![put(1, 10, (0, 1), 3), put(2, 11, (2, 3), 2)],
            // Read before written, invented, of another key.
            vec![get(1, (0, 1), read(10, 2)), put(1, 10, (2, 3), 2)],
            vec![get(1, (0, 1), read(99, 2))],
            vec![put(2, 10, (0, 1), 2), get(1, (2, 3), read(10, 2))],
            // A stale read after a fresh one.
            vec![
                put(1, 10, (0, 1), 2),
                put(1, 11, (2, 20), 3),
                get(1, (5, 6), read(11, 3)),
                get(1, (7, 8), read(10, 2)),
            ],
            vec![
                put(1, 10, (0, 1), 2),
                put(1, 11, (2, 20), 3),
                get(1, (5, 6), read(11, 3)),
                get(1, (7, 8), Outcome::Absent { revision: 1 }),
            ],
        ];
        for history in histories {
            assert!(check(&history).is_err(), "{history:?}");
        }
    }
}
