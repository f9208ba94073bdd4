//! The layout of a footer: where the entries of a sealed segment lie. Pure.
//!
//! A footer is a block behind the last batch of a segment; the next segment's head names its place. With it a restart
//! need not read the segment: what is not an entry is in the checkpoint of the newest head. Its body, little-endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | generation of the previous segment, as in this segment's head |
//! | 8 | 8 | LSN of this segment's head |
//! | 16 | 4 | place of the previous segment's footer, as in this segment's head |
//! | 20 | 4 | groups |
//! | 24 | 4 | items |
//! | 28 | 4 | zero |
//! | 32 | 8 n | the groups, by first appearance |
//! | | | the items, in the order of the log |
//!
//! An item is a sequence of records of one section with one term:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | which of the groups above, from 0 |
//! | 4 | 4 | offset of the first record in the segment |
//! | 8 | 4 | bits 0..29 records, bit 29 fill, bit 30 follows, bit 31 alike |
//! | 12 | 4 | first word of the first record |
//! | 16 | 16 | index and term of the first record; not if it *follows* the group's item before, in the same term |
//! | | 4 n | first words of the other records, zeros up to a multiple of 8; not if all are *alike* |

use ringraft_raft::record::{self, PAYLOAD_MAX, Records};
use ringraft_raft::{EntryId, EntryKind, GroupId, Index, Term};

use super::block::{padded_len, u32_at, u64_at};

/// Bytes before the groups.
pub(crate) const FIXED: usize = 32;
/// Bytes of an item before what may be missing.
const ITEM: usize = 16;

const FILL: u32 = 1 << 29;
const FOLLOWS: u32 = 1 << 30;
const ALIKE: u32 = 1 << 31;
const RECORDS: u32 = FILL - 1;

/// What a footer says beside its groups and items.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Links {
    pub(crate) previous: u64,
    pub(crate) head_lsn: u64,
    /// In blocks; 0: there is none.
    pub(crate) previous_footer: u32,
}

/// A footer that is being collected while its segment is filled.
#[derive(Debug)]
pub(crate) struct Footer {
    generation: u32,
    links: Links,
    groups: Vec<u8>,
    items: Vec<u8>,
    count: u32,
    bytes_max: usize,
    /// It knows all of its segment, and is not too large.
    good: bool,
}

/// Where a group stands in the footer that is being collected.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Mark {
    generation: u32,
    number: u32,
    next: Index,
    term: Term,
}

impl Footer {
    /// A footer that is not collected, of at most so many bytes once it is.
    pub(crate) fn none(bytes_max: usize) -> Footer {
        Footer {
            generation: 0,
            links: Links::default(),
            groups: Vec::new(),
            items: Vec::new(),
            count: 0,
            bytes_max,
            good: false,
        }
    }

    /// Begins the footer of another segment.
    pub(crate) fn begin(&mut self, generation: u32, links: Links) {
        self.groups.clear();
        self.items.clear();
        (self.generation, self.links, self.count, self.good) = (generation, links, 0, true);
    }

    pub(crate) fn head_lsn(&self) -> u64 {
        self.links.head_lsn
    }

    /// Adds the records of a section, which begin at `offset` of the segment. `fill`: they fill a hole.
    pub(crate) fn add(&mut self, group: GroupId, mark: &mut Mark, offset: u32, run: &[u8], fill: bool) {
        if !self.good {
            return;
        }
        let known = mark.generation == self.generation;
        if !known {
            let number = u32::try_from(self.groups.len() / 8).expect("fewer than 2^32 groups");
            *mark = Mark { generation: self.generation, number, ..Mark::default() };
            self.groups.extend_from_slice(&group.0.to_le_bytes());
        }
        let mut offset = offset as usize;
        let mut rest = run;
        while !rest.is_empty() {
            let len = self.item(mark, offset, rest, fill);
            (offset, rest) = (offset + len, &rest[len..]);
        }
        self.good = self.body_len() <= self.bytes_max;
    }

    /// Adds the first records of `run`, as far as they are of one term. Gives their bytes.
    fn item(&mut self, mark: &mut Mark, offset: usize, run: &[u8], fill: bool) -> usize {
        let at = self.items.len();
        let (mut len, mut records, mut alike) = (0, 0, true);
        let mut start = (EntryId::default(), 0);
        for record in Records::new(run) {
            let record = record.expect("read when it was staged");
            let word = u32_at(record.bytes(), 0);
            if records == 0 {
                start = (record.id, word);
                let follows = mark.next == record.id.index && mark.term == record.id.term;
                self.put(&[mark.number, u32::try_from(offset).expect("at most 2 GiB"), 0, word]);
                if !follows {
                    self.items.extend_from_slice(&record.id.index.0.to_le_bytes());
                    self.items.extend_from_slice(&record.id.term.0.to_le_bytes());
                    mark.term = record.id.term;
                }
                records = if follows { FOLLOWS } else { 0 } | if fill { FILL } else { 0 };
            } else if record.id.term != start.0.term {
                break;
            } else {
                alike &= word == start.1;
                self.put(&[word]);
            }
            records += 1;
            len += record.bytes().len();
        }
        mark.next = Index(start.0.index.0 + u64::from(records & RECORDS));
        if alike {
            let fields = if records & FOLLOWS == 0 { ITEM + 16 } else { ITEM };
            self.items.truncate(at + fields);
            records |= ALIKE;
        } else {
            self.items.resize(self.items.len().next_multiple_of(8), 0);
        }
        self.items[at + 8..at + 12].copy_from_slice(&records.to_le_bytes());
        self.count += 1;
        len
    }

    fn put(&mut self, words: &[u32]) {
        words.iter().for_each(|word| self.items.extend_from_slice(&word.to_le_bytes()));
    }

    pub(crate) fn body_len(&self) -> usize {
        FIXED + self.groups.len() + self.items.len()
    }

    /// Bytes to keep free for it behind batches that still hold `more` bytes. An estimate: without room there is no
    /// footer.
    pub(crate) fn room(&self, more: usize) -> u64 {
        if self.good { padded_len(self.body_len() + more / 8) as u64 } else { 0 }
    }

    /// Whether it may be written behind its segment's last batch, of which `left` bytes are left.
    pub(crate) fn fits(&self, left: u64) -> bool {
        self.good && padded_len(self.body_len()) as u64 <= left
    }

    /// Writes the body.
    pub(crate) fn write(&self, body: &mut [u8]) {
        let groups = u32::try_from(self.groups.len() / 8).expect("fewer than 2^32 groups");
        body[0..8].copy_from_slice(&self.links.previous.to_le_bytes());
        body[8..16].copy_from_slice(&self.links.head_lsn.to_le_bytes());
        body[16..20].copy_from_slice(&self.links.previous_footer.to_le_bytes());
        body[20..24].copy_from_slice(&groups.to_le_bytes());
        body[24..28].copy_from_slice(&self.count.to_le_bytes());
        body[28..32].fill(0);
        let (to, rest) = body[FIXED..].split_at_mut(self.groups.len());
        to.copy_from_slice(&self.groups);
        rest[..self.items.len()].copy_from_slice(&self.items);
    }
}

/// The links of a footer, if all of its body makes sense for a segment whose last batch ends at `end`.
pub(crate) fn read(body: &[u8], end: u64) -> Option<Links> {
    let fixed = body.get(..FIXED)?;
    let links = Links { previous: u64_at(fixed, 0), head_lsn: u64_at(fixed, 8), previous_footer: u32_at(fixed, 16) };
    let mut items = Items::new(body)?;
    let mut count = 0;
    for item in &mut items {
        if item.id.index.0 == 0 || item.id.index.0 > u64::MAX / 2 || u64::from(item.offset) + item.len > end {
            return None;
        }
        count += 1;
    }
    (items.rest.is_empty() && count == u32_at(fixed, 24)).then_some(links)
}

/// Walks the items of a footer's body; ends early if one makes no sense.
pub(crate) struct Items<'a> {
    groups: &'a [u8],
    rest: &'a [u8],
    /// Index and term that the next item of each group has if it follows.
    next: Vec<Option<EntryId>>,
}

/// An item as read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item<'a> {
    pub(crate) group: GroupId,
    pub(crate) id: EntryId,
    pub(crate) offset: u32,
    pub(crate) records: u32,
    /// They fill a hole.
    pub(crate) fill: bool,
    /// Bytes of all records.
    pub(crate) len: u64,
    word: u32,
    words: &'a [u8],
}

impl<'a> Items<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Option<Items<'a>> {
        let groups = u32_at(body.get(..FIXED)?, 20) as usize;
        let (groups, rest) = body[FIXED..].split_at_checked(groups.checked_mul(8)?)?;
        Some(Items { groups, rest, next: vec![None; groups.len() / 8] })
    }

    fn read(&mut self) -> Option<Item<'a>> {
        let (fields, mut rest) = self.rest.split_at_checked(ITEM)?;
        let (number, bits, word) = (u32_at(fields, 0) as usize, u32_at(fields, 8), u32_at(fields, 12));
        let group = GroupId(u64_at(self.groups.get(8 * number..8 * number + 8)?, 0));
        let records = bits & RECORDS;
        let id = if bits & FOLLOWS == 0 {
            let (id, more) = rest.split_at_checked(16)?;
            rest = more;
            EntryId { index: Index(u64_at(id, 0)), term: Term(u64_at(id, 8)) }
        } else {
            self.next[number]?
        };
        let alike = bits & ALIKE != 0;
        let others = (records as usize).checked_sub(1)?;
        let (words, more) = rest.split_at_checked(if alike { 0 } else { (4 * others).next_multiple_of(8) })?;
        let words = &words[..if alike { 0 } else { 4 * others }];
        let fill = bits & FILL != 0;
        let mut item = Item { group, id, offset: u32_at(fields, 4), records, fill, len: 0, word, words };
        item.len =
            if alike { u64::from(records) * encoded_len(word)? } else { item.words().map_while(encoded_len).sum() };
        let known = alike || item.words().all(|word| encoded_len(word).is_some());
        self.next[number] = Some(EntryId { index: Index(id.index.0.checked_add(u64::from(records))?), ..id });
        self.rest = more;
        known.then_some(item)
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        self.read()
    }
}

impl Item<'_> {
    /// The first words of the records.
    pub(crate) fn words(&self) -> impl Iterator<Item = u32> + '_ {
        let others = (1..self.records as usize).map(|nth| match self.words {
            [] => self.word,
            words => u32_at(words, 4 * (nth - 1)),
        });
        std::iter::once(self.word).chain(others)
    }
}

fn encoded_len(word: u32) -> Option<u64> {
    EntryKind::from_u8((word >> 28) as u8)?;
    Some(record::encoded_len(word as usize & PAYLOAD_MAX) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use ringraft_raft::record::{GroupSeed, encode};

    /// Group, first index, then term and payload length of each entry.
    type Section = (u64, u64, &'static [(u64, usize)]);

    const SECTIONS: &[Section] = &[
        (1, 1, &[(1, 8)]),
        (2, 5, &[(1, 8), (1, 8), (1, 8)]),
        (1, 2, &[(1, 8), (1, 9), (2, 8), (3, 8), (3, 8)]),
        (2, 8, &[(1, 3)]),
        (1, 4, &[(4, 100)]),
        (3, 1, &[(1, 0), (1, 17)]),
    ];

    fn run(group: u64, first: u64, entries: &[(u64, usize)]) -> BytesMut {
        let mut out = BytesMut::new();
        for (index, (term, len)) in (first..).zip(entries) {
            let id = EntryId { term: Term(*term), index: Index(index) };
            encode(GroupSeed::of(GroupId(group)), id, EntryKind::Normal, &[&vec![1; *len]], &mut out);
        }
        out
    }

    /// Group, index, term, first word, offset of a record.
    type Place = (u64, u64, u64, u32, u32);

    fn sample() -> (Vec<u8>, Vec<Place>, u64) {
        let mut footer = Footer::none(1 << 20);
        footer.begin(9, Links { previous: 8, head_lsn: 70, previous_footer: 3 });
        let mut marks = [Mark::default(); 4];
        let (mut offset, mut expected) = (4096, Vec::new());
        for (group, first, entries) in SECTIONS {
            let bytes = run(*group, *first, entries);
            footer.add(GroupId(*group), &mut marks[usize::try_from(*group).unwrap()], offset, &bytes, *group == 2);
            for record in Records::new(&bytes) {
                let record = record.unwrap();
                expected.push((*group, record.id.index.0, record.id.term.0, u32_at(record.bytes(), 0), offset));
                offset += u32::try_from(record.bytes().len()).unwrap();
            }
            offset += 100;
        }
        let mut body = vec![0xee; footer.body_len()];
        footer.write(&mut body);
        (body, expected, u64::from(offset))
    }

    #[test]
    fn what_was_added_is_read() {
        let (body, expected, end) = sample();
        assert_eq!(read(&body, end), Some(Links { previous: 8, head_lsn: 70, previous_footer: 3 }));
        let mut found = Vec::new();
        for item in Items::new(&body).unwrap() {
            let mut offset = item.offset;
            assert_eq!(item.fill, item.group.0 == 2);
            for (index, word) in (item.id.index.0..).zip(item.words()) {
                found.push((item.group.0, index, item.id.term.0, word, offset));
                offset += u32::try_from(encoded_len(word).unwrap()).unwrap();
            }
            assert_eq!(u64::from(offset - item.offset), item.len);
        }
        assert_eq!(found, expected);
        assert_eq!(read(&body, 4096), None, "it lies behind the last batch");
    }

    #[test]
    fn nonsense_is_no_panic() {
        let (body, _, end) = sample();
        for cut in 0..body.len() {
            assert_eq!(read(&body[..cut], end), None, "cut at {cut}");
        }
        for bit in 0..body.len() * 8 {
            let mut bad = body.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let _ = read(&bad, end);
        }
    }

    #[test]
    fn too_large_a_footer_is_none() {
        let mut footer = Footer::none(100);
        footer.begin(1, Links::default());
        let mut mark = Mark::default();
        assert!(footer.fits(4096) && !footer.fits(4095) && footer.room(0) == 4096);
        for first in [1, 3, 5, 7] {
            footer.add(GroupId(1), &mut mark, 4096, &run(1, first, &[(1, 8)]), false);
        }
        assert!(!footer.fits(1 << 20) && footer.room(0) == 0);
    }
}
