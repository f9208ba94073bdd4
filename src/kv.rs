//! The state machine we ship: an ordered key space with revisions, counted as etcd counts them.

use std::collections::BTreeMap;
use std::mem;
use std::ops::Bound;

use bytes::BytesMut;
use ringraft_raft::Index;

use crate::machine::{RestoreError, StateMachine};
use crate::protocol::{Answer, Command, Query, RangeAnswer, RequestError, key_hash};

mod snapshot;

use snapshot::Snapshot;

/// Revision of the empty key space; the first write makes it 2.
const REVISION_FIRST: u64 = 1;

/// A value keeps its memory unless a new one would leave more than this many bytes, and three quarters of it, unused.
const SPARE_KEEP: usize = 256;

/// The key space of one group. A key's history is not kept.
#[derive(Debug)]
pub struct Kv {
    revision: u64,
    items: BTreeMap<Box<[u8]>, Item>,
    snapshot: Option<Snapshot>,
}

/// What is known of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// The revision that made the key.
    pub create_revision: u64,
    /// The revision that set the value.
    pub mod_revision: u64,
    /// How often it was set since it was made.
    pub version: u64,
    /// The value.
    pub value: Vec<u8>,
}

impl Default for Kv {
    fn default() -> Kv {
        Kv::new()
    }
}

impl Kv {
    /// An empty key space at revision 1.
    #[must_use]
    pub fn new() -> Kv {
        Kv { revision: REVISION_FIRST, items: BTreeMap::new(), snapshot: None }
    }

    /// The revision: 1, and one more for every write that changed something.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// What is known of `key`.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Item> {
        self.items.get(key)
    }

    /// All keys in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Item)> {
        self.items.iter().map(|(key, item)| (&key[..], item))
    }

    /// Sets `key`; gives the new revision.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> u64 {
        self.revision += 1;
        let save_to = self.snapshot.as_mut().filter(|snapshot| snapshot.needs(key));
        if let Some(item) = self.items.get_mut(key) {
            if let Some(snapshot) = save_to {
                snapshot.save(key, Some(Item { value: mem::take(&mut item.value), ..*item }));
            }
            item.mod_revision = self.revision;
            item.version += 1;
            set_value(&mut item.value, value);
        } else {
            if let Some(snapshot) = save_to {
                snapshot.save(key, None);
            }
            let revision = self.revision;
            let item = Item { create_revision: revision, mod_revision: revision, version: 1, value: value.to_vec() };
            self.items.insert(key.into(), item);
        }
        self.revision
    }

    /// Removes `key`; whether it was there. The revision rises only then.
    pub fn delete(&mut self, key: &[u8]) -> bool {
        let Some(item) = self.items.remove(key) else { return false };
        if let Some(snapshot) = self.snapshot.as_mut().filter(|snapshot| snapshot.needs(key)) {
            snapshot.save(key, Some(item));
        }
        self.revision += 1;
        true
    }

    fn range(&self, start: &[u8], end: &[u8], limit: u32, answer: &mut BytesMut) {
        let mut pairs = RangeAnswer::begin(answer);
        let mut more = false;
        // An interval that ends before it begins has no keys; the map would rather panic.
        if end.is_empty() || start < end {
            let upper = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
            for ((key, item), count) in self.items.range::<[u8], _>((Bound::Included(start), upper)).zip(0_u32..) {
                if limit != 0 && count == limit || !pairs.push(key, &item.value, item.mod_revision) {
                    more = true;
                    break;
                }
            }
        }
        pairs.finish(self.revision, more);
    }
}

impl StateMachine for Kv {
    fn apply(&mut self, _index: Index, command: &[u8], answer: &mut BytesMut) {
        match Command::decode(command) {
            Ok(Command::Put { key, value }) => Answer::put(self.put(key, value)).encode(answer),
            Ok(Command::Delete { key }) => {
                let deleted = self.delete(key);
                Answer::delete(self.revision, deleted).encode(answer);
            }
            Err(error) => refuse(command, &error, answer),
        }
    }

    fn query(&self, query: &[u8], answer: &mut BytesMut) {
        match Query::decode(query) {
            Ok(Query::Get { key, .. }) => match self.items.get(key) {
                Some(item) => Answer::value(item.mod_revision, &item.value).encode(answer),
                None => Answer::not_found(self.revision).encode(answer),
            },
            Ok(Query::Range { start, end, limit, .. }) => self.range(start, end, limit, answer),
            Err(error) => refuse(query, &error, answer),
        }
    }

    fn snapshot_begin(&mut self) {
        self.snapshot = Some(Snapshot::new(self.revision, self.items.len()));
    }

    fn snapshot_chunk(&mut self, size_max: usize, out: &mut BytesMut) -> bool {
        let snapshot = self.snapshot.as_mut().expect("a snapshot is begun before its chunks are asked for");
        let more = snapshot.chunk(&self.items, size_max, out);
        if !more {
            self.snapshot = None;
        }
        more
    }

    fn snapshot_cancel(&mut self) {
        self.snapshot = None;
    }

    fn restore(&mut self, chunks: &mut dyn Iterator<Item = &[u8]>) -> Result<(), RestoreError> {
        let (revision, items) = snapshot::read(chunks)?;
        *self = Kv { revision, items, snapshot: None };
        Ok(())
    }

    fn digest(&self) -> u64 {
        self.items.iter().fold(key_hash(&self.revision.to_le_bytes()), |sum, (key, item)| {
            let mut fields = [0; 40];
            for (field, number) in fields.chunks_exact_mut(8).zip([
                key_hash(key),
                key_hash(&item.value),
                item.create_revision,
                item.mod_revision,
                item.version,
            ]) {
                field.copy_from_slice(&number.to_le_bytes());
            }
            sum.wrapping_add(key_hash(&fields))
        })
    }
}

/// Sets a value in the memory of the one before, if that fits.
fn set_value(slot: &mut Vec<u8>, value: &[u8]) {
    slot.clear();
    let capacity = slot.capacity();
    if capacity > SPARE_KEEP && value.len() < capacity / 4 {
        *slot = Vec::new();
    }
    if slot.capacity() < value.len() {
        slot.reserve_exact(value.len());
    }
    slot.extend_from_slice(value);
}

/// Answers what is neither command nor query. A leader refuses such bytes at its door; still, the log may hold them.
fn refuse(free: &[u8], error: &RequestError, answer: &mut BytesMut) {
    let op = free.first().copied().unwrap_or_default();
    Answer::refusal(op, error.status(), 0, &error.to_string()).encode(answer);
}

#[cfg(test)]
mod tests;
