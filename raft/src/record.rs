//! The one encoding of an entry: in the leader's log cache, on the wire, in the write-ahead log, in the follower's log
//! cache. A proposal becomes a record once, where it enters the cluster.
//!
//! Layout, little-endian, every record a multiple of 8 bytes:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | bits 0..28 payload length, bits 28..32 kind |
//! | 4 | 4 | CRC-32 of bytes 0..4 and 8..24+length, seeded with the group ([`GroupSeed`]) |
//! | 8 | 8 | index |
//! | 16 | 8 | term |
//! | 24 | length | payload |
//! | | 0..8 | zeros up to a multiple of 8 |
//!
//! A **run** is a sequence of records of one group with consecutive indexes. The checksum is made by the proposer and
//! checked when an entry leaves a disk or is applied; on the wire the frame's checksum covers it.

use bytes::BytesMut;
use crc32fast::Hasher;

use crate::types::{EntryId, EntryKind, EntryMeta, GroupId, Index, Term};

/// Bytes before the payload.
pub const HEADER: usize = 24;

/// Longest payload: what 28 bits can say.
pub const PAYLOAD_MAX: usize = (1 << 28) - 1;

/// Start value of a group's record checksums, so that a record of another group never verifies. Made once per group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupSeed(u32);

impl GroupSeed {
    /// The seed of `group`.
    #[must_use]
    pub fn of(group: GroupId) -> GroupSeed {
        GroupSeed(crc32fast::hash(&group.0.to_le_bytes()))
    }
}

/// Size of a record with this many payload bytes.
#[must_use]
pub const fn encoded_len(payload: usize) -> usize {
    HEADER + ((payload + 7) & !7)
}

/// Appends the record of an entry whose payload is the concatenation of `parts`.
///
/// # Panics
/// If the payload is longer than [`PAYLOAD_MAX`]; callers refuse such proposals at the door.
pub fn encode(seed: GroupSeed, id: EntryId, kind: EntryKind, parts: &[&[u8]], out: &mut BytesMut) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    assert!(len <= PAYLOAD_MAX, "payload of {len} bytes");
    let start = out.len();
    out.reserve(encoded_len(len));
    let mut header = [0; HEADER];
    header[0..4].copy_from_slice(&word(len, kind).to_le_bytes());
    header[8..16].copy_from_slice(&id.index.0.to_le_bytes());
    header[16..24].copy_from_slice(&id.term.0.to_le_bytes());
    out.extend_from_slice(&header);
    for part in parts {
        out.extend_from_slice(part);
    }
    let crc = checksum(seed, &out[start..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&[0; 8][..encoded_len(len) - HEADER - len]);
}

/// Appends the record as a [witness](crate::witness) gets it: a change of membership whole, anything else without its
/// payload. It is a record like others, with a checksum of its own; [`EntryMeta::stripped`] says its size. What is not a
/// change of membership need not be read for that: index and term make it, as `encode(seed, id, Normal, &[], out)`.
pub fn strip(seed: GroupSeed, record: &Record<'_>, out: &mut BytesMut) {
    match record.kind {
        EntryKind::Normal => encode(seed, record.id, record.kind, &[], out),
        EntryKind::ConfChange | EntryKind::ConfChangeV2 => out.extend_from_slice(record.bytes()),
    }
}

fn word(len: usize, kind: EntryKind) -> u32 {
    u32::try_from(len).expect("bounded by PAYLOAD_MAX") | (kind as u32) << 28
}

fn checksum(seed: GroupSeed, record: &[u8]) -> u32 {
    let word = u32::from_le_bytes(record[..4].try_into().expect("four bytes"));
    let mut hasher = Hasher::new_with_initial(crc_of_word(seed.0, word));
    hasher.update(&record[8..]);
    hasher.finalize()
}

/// A CRC-32 carried on over the four bytes of a word: a third of what the hasher takes for so few.
fn crc_of_word(crc: u32, word: u32) -> u32 {
    let bytes = (!crc ^ word).to_le_bytes();
    !bytes.iter().zip(&TABLES).fold(0, |sum, (byte, table)| sum ^ table[usize::from(*byte)])
}

/// `TABLES[n][byte]`: the CRC-32 remainder of a byte with `3 - n` zero bytes behind it.
const TABLES: [[u32; 256]; 4] = {
    let mut tables = [[0; 256]; 4];
    let mut byte = 0_u32;
    while byte < 256 {
        let mut crc = byte;
        let mut zeros = 4;
        while zeros > 0 {
            zeros -= 1;
            let mut bit = 0;
            while bit < 8 {
                // The polynomial of CRC-32, reflected.
                crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
                bit += 1;
            }
            tables[zeros][byte as usize] = crc;
        }
        byte += 1;
    }
    tables
};

/// A record in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// Which entry.
    pub id: EntryId,
    /// What for.
    pub kind: EntryKind,
    /// Its payload.
    pub payload: &'a [u8],
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads the record that `bytes` begins with. Looks at the structure only; see [`Record::verify`].
    ///
    /// # Errors
    /// If the bytes are too short, the kind is unknown, or the padding is not zero.
    pub fn read(bytes: &'a [u8]) -> Result<Record<'a>, RecordError> {
        let header = bytes.first_chunk::<HEADER>().ok_or(RecordError::Short)?;
        let word = u32::from_le_bytes(header[0..4].try_into().expect("four bytes"));
        let len = (word & ((1 << 28) - 1)) as usize;
        let kind = EntryKind::from_u8((word >> 28) as u8).ok_or(RecordError::Kind)?;
        let record = bytes.get(..encoded_len(len)).ok_or(RecordError::Short)?;
        if record[HEADER + len..].iter().any(|byte| *byte != 0) {
            return Err(RecordError::Padding);
        }
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let id = EntryId { index: Index(number(8)), term: Term(number(16)) };
        Ok(Record { id, kind, payload: &record[HEADER..HEADER + len], bytes: record })
    }

    /// Whether the checksum is right for this group.
    #[must_use]
    pub fn verify(&self, seed: GroupSeed) -> bool {
        let stored = u32::from_le_bytes(self.bytes[4..8].try_into().expect("four bytes"));
        checksum(seed, &self.bytes[..HEADER + self.payload.len()]) == stored
    }

    /// The whole record, padding included.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What the core wants to know of it.
    #[must_use]
    pub fn meta(&self) -> EntryMeta {
        let size = u32::try_from(self.payload.len()).expect("bounded by PAYLOAD_MAX");
        EntryMeta { term: self.id.term, kind: self.kind, size }
    }
}

/// The records of a run, in order. Ends after the first error.
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// Walks `run`.
    #[must_use]
    pub fn new(run: &'a [u8]) -> Records<'a> {
        Records { rest: run }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = Record::read(self.rest);
        self.rest = record.map_or(&[], |record| &self.rest[record.bytes.len()..]);
        Some(record)
    }
}

/// Why bytes are not a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// They end too early.
    #[error("record is cut short")]
    Short,
    /// No such kind of entry.
    #[error("record is of an unknown kind")]
    Kind,
    /// The padding is not zero.
    #[error("record has bytes in its padding")]
    Padding,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (GroupSeed, BytesMut) {
        let seed = GroupSeed::of(GroupId(3));
        let mut run = BytesMut::new();
        for index in 1..=4_u64 {
            let payload = vec![0xa5; usize::try_from(index).unwrap() * 3];
            let id = EntryId { term: Term(2), index: Index(index) };
            encode(seed, id, EntryKind::Normal, &[&payload[..1], &payload[1..]], &mut run);
        }
        (seed, run)
    }

    #[test]
    fn round_trip() {
        let (seed, run) = sample();
        let records: Vec<_> = Records::new(&run).map(Result::unwrap).collect();
        assert_eq!(records.iter().map(|record| record.id.index.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!(records.iter().all(|record| record.verify(seed) && record.bytes().len().is_multiple_of(8)));
        assert_eq!(records[3].payload, [0xa5; 12]);
        assert!(!records[0].verify(GroupSeed::of(GroupId(4))), "another group's seed must not verify");
    }

    #[test]
    fn stripped_records_are_records() {
        let (seed, mut run) = sample();
        let kinds = [EntryKind::ConfChange, EntryKind::ConfChangeV2, EntryKind::Normal];
        for (index, kind) in (5..).zip(kinds) {
            encode(seed, EntryId { term: Term(3), index: Index(index) }, kind, &[&[7; 19]], &mut run);
        }
        let whole: Vec<_> = Records::new(&run).map(Result::unwrap).collect();
        let mut out = BytesMut::new();
        whole.iter().for_each(|record| strip(seed, record, &mut out));
        let stripped: Vec<_> = Records::new(&out).map(Result::unwrap).collect();
        assert_eq!(stripped.len(), whole.len());
        for (was, is) in whole.iter().zip(&stripped) {
            assert!(is.verify(seed));
            assert_eq!((is.id, is.meta(), is.bytes().len() as u64), {
                (was.id, was.meta().stripped(), was.meta().stripped().encoded_size())
            });
            assert_eq!(is.payload, if was.kind == EntryKind::Normal { &[][..] } else { was.payload });
        }
        let mut again = BytesMut::new();
        stripped.iter().for_each(|record| strip(seed, record, &mut again));
        assert_eq!(out, again, "nothing more to strip");
    }

    #[test]
    fn a_word_counts_as_its_four_bytes() {
        for (crc, word) in [(0, 0), (0, 1), (0, u32::MAX), (u32::MAX, 0x8000_0000), (0x1234_5678, 0x0fed_cba9)] {
            let mut hasher = Hasher::new_with_initial(crc);
            hasher.update(&u32::to_le_bytes(word));
            assert_eq!(crc_of_word(crc, word), hasher.finalize(), "{word:#x} after {crc:#x}");
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let (seed, run) = sample();
        for bit in 0..run.len() * 8 {
            let mut bad = run.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut records = Records::new(&bad);
            assert!(!records.all(|record| record.is_ok_and(|record| record.verify(seed))), "bit {bit}");
        }
    }

    #[test]
    fn every_cut_is_seen() {
        let (_, run) = sample();
        let ends: Vec<usize> = Records::new(&run)
            .scan(0, |end, record| {
                *end += record.unwrap().bytes().len();
                Some(*end)
            })
            .collect();
        for cut in 1..run.len() {
            let whole = Records::new(&run[..cut]).all(|record| record.is_ok());
            assert_eq!(whole, ends.contains(&cut), "cut at {cut}");
        }
    }
}
