//! A snapshot of the key space that is written while commands are applied, and read again.
//!
//! A cursor walks the keys. A write to a key that the cursor has not passed saves what was there before, once; the
//! cursor prefers what was saved. So the snapshot shows the state at its begin, and costs memory only for what changes
//! ahead of the cursor while it is under way.
//!
//! ```text
//! offset  size  field
//!      0     8  format: "RRKVSNP" and the version, 1
//!      8     8  revision
//!     16     8  number of keys
//!     24     -  per key, in order:
//!            4  key length      8  create revision     -  key
//!            4  value length    8  mod revision        -  value
//!                               8  version
//!      -     4  CRC-32 over all of the above
//! ```

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::BytesMut;
use crc32fast::Hasher;

use super::{Item, REVISION_FIRST};
use crate::machine::RestoreError;
use crate::protocol::{KEY_SIZE_MAX, VALUE_SIZE_MAX};

type Items = BTreeMap<Box<[u8]>, Item>;

/// Beyond what anybody counts to, so that counting on never overflows.
const REVISION_MAX: u64 = u64::MAX / 2;

const FORMAT: u64 = u64::from_le_bytes(*b"RRKVSNP\x01");
const HEADER_SIZE: usize = 24;
const ITEM_HEADER_SIZE: usize = 32;

/// A snapshot under way.
#[derive(Debug)]
pub(super) struct Snapshot {
    revision: u64,
    count: usize,
    header_written: bool,
    written: usize,
    /// The last key that the cursor has passed; keys are not empty.
    passed: Vec<u8>,
    /// What was there at the begin (`None`: nothing), for keys that the cursor has not passed and that have changed.
    saved: BTreeMap<Box<[u8]>, Option<Item>>,
    crc: Hasher,
}

impl Snapshot {
    /// One of a state with this revision and number of keys.
    pub(super) fn new(revision: u64, count: usize) -> Snapshot {
        Snapshot {
            revision,
            count,
            header_written: false,
            written: 0,
            passed: Vec::new(),
            saved: BTreeMap::new(),
            crc: Hasher::new(),
        }
    }

    /// Whether a change of `key` must be preceded by [`save`](Snapshot::save).
    pub(super) fn needs(&self, key: &[u8]) -> bool {
        key > &self.passed[..] && !self.saved.contains_key(key)
    }

    /// Keeps what is there before the first change of `key`.
    pub(super) fn save(&mut self, key: &[u8], item: Option<Item>) {
        let before = self.saved.insert(key.into(), item);
        assert!(before.is_none(), "only the first change of a key is saved");
    }

    /// Appends the next piece; whether there is more.
    pub(super) fn chunk(&mut self, live: &Items, size_max: usize, out: &mut BytesMut) -> bool {
        let start = out.len();
        if !self.header_written {
            self.header_written = true;
            for number in [FORMAT, self.revision, self.count as u64] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        let more = self.items(live, start, size_max, out);
        self.crc.update(&out[start..]);
        if !more {
            assert_eq!(self.written, self.count, "a snapshot has every key of its begin");
            out.extend_from_slice(&self.crc.clone().finalize().to_le_bytes());
        }
        more
    }

    /// Moves the cursor until the piece that began at `start` is full; whether there are keys left.
    fn items(&mut self, live: &Items, start: usize, size_max: usize, out: &mut BytesMut) -> bool {
        let mut ahead = live.range::<[u8], _>((Bound::Excluded(&self.passed[..]), Bound::Unbounded)).peekable();
        let mut last: Option<Box<[u8]>> = None;
        let mut last_live: Option<&[u8]> = None;
        let more = loop {
            let saved = self.saved.first_key_value();
            let (key, item, is_saved) = match (ahead.peek(), saved) {
                (None, None) => break false,
                (Some((key, item)), None) => (&key[..], Some(*item), false),
                (Some((key, item)), Some((saved_key, _))) if *key < saved_key => (&key[..], Some(*item), false),
                (_, Some((saved_key, saved))) => (&saved_key[..], saved.as_ref(), true),
            };
            if let Some(item) = item {
                let size = ITEM_HEADER_SIZE + key.len() + item.value.len();
                // One item always goes, or a small bound would stop the cursor for ever.
                if out.len() - start > HEADER_SIZE && out.len() - start + size > size_max {
                    break true;
                }
                write_item(key, item, out);
                self.written += 1;
            }
            if is_saved {
                if ahead.peek().is_some_and(|(live_key, _)| live_key[..] == *key) {
                    ahead.next();
                }
                last = self.saved.pop_first().map(|(key, _)| key);
                last_live = None;
            } else {
                last_live = ahead.next().map(|(key, _)| &key[..]);
            }
        };
        if let Some(key) = last_live.or(last.as_deref()) {
            self.passed.clear();
            self.passed.extend_from_slice(key);
        }
        more
    }
}

fn write_item(key: &[u8], item: &Item, out: &mut BytesMut) {
    out.reserve(ITEM_HEADER_SIZE + key.len() + item.value.len());
    out.extend_from_slice(&u32::try_from(key.len()).expect("keys are bounded").to_le_bytes());
    out.extend_from_slice(&u32::try_from(item.value.len()).expect("values are bounded").to_le_bytes());
    for number in [item.create_revision, item.mod_revision, item.version] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(key);
    out.extend_from_slice(&item.value);
}

/// Reads a snapshot, however its bytes are cut: the revision and the keys.
pub(super) fn read(chunks: &mut dyn Iterator<Item = &[u8]>) -> Result<(u64, Items), RestoreError> {
    let mut reader = Reader { chunks, piece: b"", offset: 0, crc: Hasher::new() };
    let found = reader.number()?;
    if found != FORMAT {
        return Err(RestoreError::Format { found, known: FORMAT });
    }
    let revision = reader.number()?;
    let count = reader.number()?;
    if !(REVISION_FIRST..=REVISION_MAX).contains(&revision) {
        return Err(reader.damaged("a revision that no key space has"));
    }
    // No capacity from `count`: it is only a claim.
    let mut items: Vec<(Box<[u8]>, Item)> = Vec::new();
    for _ in 0..count {
        let (key, item) = reader.item(revision)?;
        if items.last().is_some_and(|(before, _)| *before >= key) {
            return Err(reader.damaged("keys out of order"));
        }
        items.push((key, item));
    }
    let crc = reader.crc.clone().finalize();
    let mut told = [0; 4];
    reader.fill(&mut told)?;
    if u32::from_le_bytes(told) != crc {
        return Err(reader.damaged("the checksum does not match"));
    }
    let mut behind = std::iter::once(reader.piece).chain(reader.chunks);
    if behind.any(|piece| !piece.is_empty()) {
        return Err(RestoreError::Length { size: reader.offset });
    }
    // In order already, so this builds the tree in one go.
    Ok((revision, items.into_iter().collect()))
}

struct Reader<'r, 'a> {
    chunks: &'r mut dyn Iterator<Item = &'a [u8]>,
    piece: &'a [u8],
    offset: u64,
    crc: Hasher,
}

impl Reader<'_, '_> {
    fn item(&mut self, revision: u64) -> Result<(Box<[u8]>, Item), RestoreError> {
        let mut lengths = [[0; 4]; 2];
        self.fill(lengths.as_flattened_mut())?;
        let [key_len, value_len] =
            lengths.map(|length| usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX));
        if !(1..=KEY_SIZE_MAX).contains(&key_len) || value_len > VALUE_SIZE_MAX {
            return Err(self.damaged("a key or value of a size that is not allowed"));
        }
        let (create_revision, mod_revision, version) = (self.number()?, self.number()?, self.number()?);
        let ordered = REVISION_FIRST < create_revision && create_revision <= mod_revision && mod_revision <= revision;
        // Every version is a revision of its own.
        if !ordered || version == 0 || version - 1 > mod_revision - create_revision {
            return Err(self.damaged("revisions that contradict each other"));
        }
        let mut key = vec![0; key_len].into_boxed_slice();
        self.fill(&mut key)?;
        let mut value = vec![0; value_len];
        self.fill(&mut value)?;
        Ok((key, Item { create_revision, mod_revision, version, value }))
    }

    fn number(&mut self) -> Result<u64, RestoreError> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn fill(&mut self, mut out: &mut [u8]) -> Result<(), RestoreError> {
        while !out.is_empty() {
            if self.piece.is_empty() {
                self.piece = self.chunks.next().ok_or(RestoreError::Length { size: self.offset })?;
                continue;
            }
            let size = out.len().min(self.piece.len());
            let (taken, rest) = self.piece.split_at(size);
            let (filled, unfilled) = out.split_at_mut(size);
            filled.copy_from_slice(taken);
            self.crc.update(taken);
            self.piece = rest;
            self.offset += size as u64;
            out = unfilled;
        }
        Ok(())
    }

    fn damaged(&self, what: &'static str) -> RestoreError {
        RestoreError::Damaged { offset: self.offset, what }
    }
}
