//! A disk of a few small segments, as bytes tell what was written to it.
//!
//! The first byte says how it is opened. Then comes block after block, each in the file that a byte chooses, behind what
//! is there. A number that a block's header or a section has is mostly the one that an engine would have put there, so
//! that the blocks are a log; a byte of 128 and more says that another one follows. At last a block may be damaged.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use ringraft_io::{BLOCK_ALIGN, FileId};
use ringraft_raft::record::encode;
use ringraft_raft::{ConfState, EntryId, EntryKind, GroupId, HardState, Index, PeerId, Storage, Term};

use super::{LOG, seed};
use crate::config::Config;
use crate::error::EngineError;
use crate::wal::block::{self, Head, Header, Kind};
use crate::wal::footer::{Footer, Links, Mark};
use crate::wal::recovery::{self, Found, How, Recovered};
use crate::wal::section::{self, Doubt, Parts};

const FILES: usize = 4;
const FILE_BYTES: usize = 6 * BLOCK_ALIGN;
const GROUPS: usize = 3;

/// What is in a file.
struct Segment {
    bytes: Vec<u8>,
    /// Where its next block goes.
    end: usize,
    generation: u64,
    /// Where its footer is, in blocks.
    footer: u32,
    links: Links,
}

/// A group as its writer knows it.
#[derive(Clone, Copy, Default)]
struct Known {
    last: Index,
    term: Term,
    mark: Mark,
    /// It has had a section.
    begun: bool,
}

struct Disk<'a> {
    input: &'a [u8],
    segments: Vec<Segment>,
    groups: [Known; GROUPS],
    lsn: u64,
    epoch: u64,
    generation: u64,
    footer: Footer,
    /// File of the segment that was begun last.
    newest: usize,
}

/// Writes it, and opens it in every way.
pub(super) fn recover(bytes: &[u8]) {
    let (choice, input) = bytes.split_first().map_or((0, bytes), |(first, rest)| (*first, rest));
    let segment = |_| Segment { bytes: vec![0; FILE_BYTES], end: 0, generation: 0, footer: 0, links: Links::default() };
    let mut disk = Disk {
        input,
        segments: (0..FILES).map(segment).collect(),
        groups: [Known::default(); GROUPS],
        lsn: 0,
        epoch: 1,
        generation: 0,
        footer: Footer::none(FILE_BYTES / 8),
        newest: 0,
    };
    while !disk.input.is_empty() {
        disk.block();
    }
    let files: Vec<Bytes> = disk.segments.into_iter().map(|segment| segment.bytes.into()).collect();
    let strict = open(&files, choice & 1 != 0, false);
    let lenient = open(&files, choice & 1 != 0, true);
    if let (Ok(strict), Ok(lenient)) = (&strict, &lenient) {
        let same = |one: &Recovered| (one.last_lsn, one.entries, one.groups.len(), one.segments.clone());
        assert_eq!(same(strict), same(lenient), "a log that is not refused has no holes");
        assert_eq!((strict.wounded, lenient.wounded), (0, 0));
    }
    assert!(lenient.is_ok() || strict.is_err(), "leniency refuses nothing more: {:?}", lenient.err());
}

fn open(files: &[Bytes], verify_on_open: bool, open_with_holes: bool) -> Result<Recovered, EngineError> {
    let segment_bytes = FILE_BYTES as u64;
    let config = Config { segment_bytes, verify_on_open, open_with_holes, ..Config::new("log", LOG) };
    let found: Vec<Found> = (0..)
        .zip(files)
        .map(|(nth, bytes)| Found {
            path: Path::new("log").join(format!("seg-{nth:04}")),
            id: FileId(nth),
            bytes: bytes.len() as u64,
            start: bytes.slice(..BLOCK_ALIGN),
        })
        .collect();
    let mut load = |at: usize, how: How| {
        let file = &files[at];
        Ok(match how {
            How::All => file.clone(),
            How::Part(from, len) => {
                // As the engine loads what cannot be read: as zeros.
                let mut part = vec![0; len];
                let there = file.get(usize::try_from(from).expect("a small file")..).unwrap_or_default();
                let size = there.len().min(len);
                part[..size].copy_from_slice(&there[..size]);
                part.into()
            }
        })
    };
    let recovered = recovery::recover(&config, &found, &mut load)?;
    is_sound(&recovered, files);
    Ok(recovered)
}

/// What the engine relies on.
fn is_sound(recovered: &Recovered, files: &[Bytes]) {
    assert!(recovered.epoch < u64::MAX && recovered.last_lsn < u64::MAX && recovered.generation < u64::from(u32::MAX));
    for pair in recovered.segments.windows(2) {
        assert!(pair[0].generation < pair[1].generation && pair[0].last_lsn <= pair[1].last_lsn, "{pair:?}");
    }
    for kept in &recovered.segments {
        assert!(kept.end <= files[kept.file].len() as u64 && kept.end.is_multiple_of(BLOCK_ALIGN as u64));
    }
    for block in &recovered.unattested {
        let from = usize::try_from(block.position).expect("within the file");
        assert_eq!(files[block.file][from..from + block.bytes.len()], block.bytes);
    }
    let mut entries = 0;
    for (id, (log, _)) in &recovered.groups {
        assert_eq!(log.group(), *id);
        let (base, last, (hard, _)) = (log.base(), log.last_index(), log.initial_state());
        assert!(base.index <= last && hard.commit <= last, "group {id}: {base} to {last}, {hard:?}");
        assert_eq!(log.term(base.index), Ok(base.term));
        entries += last.0 - base.index.0;
        assert!(entries < 1_000_000, "of some KiB");
        for index in base.index.0 + 1..=last.0 {
            let meta = log.meta(Index(index)).expect("it is there");
            assert_eq!(log.term(Index(index)), Ok(meta.term));
        }
        assert!(log.meta(last.next()).is_err());
    }
    assert_eq!(entries, recovered.entries);
}

impl Disk<'_> {
    fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.input.split_first() else { return 0 };
        self.input = rest;
        *byte
    }

    /// The natural one, or another.
    fn number(&mut self, natural: u64) -> u64 {
        match self.byte() {
            0..128 => natural,
            255 => u64::MAX,
            254 => 1 << 63,
            253 => u64::from(u32::MAX),
            252 => natural.wrapping_add(1),
            251 => natural.wrapping_sub(1),
            250 => {
                let Some((bytes, rest)) = self.input.split_first_chunk() else { return natural };
                self.input = rest;
                u64::from_le_bytes(*bytes)
            }
            small => u64::from(small - 128),
        }
    }

    /// Bits 0 and 1: the file; 2 to 4: what; 5 to 7: damage.
    fn block(&mut self) {
        let what = self.byte();
        let file = usize::from(what & 3);
        match what >> 2 & 7 {
            0 => self.epoch = self.epoch.wrapping_add(1),
            1 => self.segments[file].end = 0,
            2 | 3 => self.head(file),
            4 => self.footer(file),
            _ => self.batch(file),
        }
        let Segment { bytes, end, .. } = &mut self.segments[file];
        // The last block that was written there.
        let Some(last) = end.checked_sub(BLOCK_ALIGN) else { return };
        let at = last + usize::from(what >> 5);
        match what >> 5 {
            0..4 => {}
            4 => bytes[last + 40] ^= 1,
            5 => bytes[at + block::HEADER + 24] ^= 1,
            6 => bytes[last..*end].fill(0),
            _ => {
                // Lost, as if it was never written.
                bytes[last..*end].fill(0);
                *end = last;
            }
        }
    }

    /// Begins a segment, with a checkpoint of all groups.
    fn head(&mut self, file: usize) {
        let before = &self.segments[self.newest];
        let (previous, footer) = (before.generation, before.footer);
        self.generation = self.number(self.generation.wrapping_add(1));
        let head = Head {
            previous: self.number(previous),
            footer: u32::try_from(self.number(footer.into()) & 0xffff_ffff).expect("masked"),
            segment_bytes: self.number(FILE_BYTES as u64),
            groups_lost: self.byte() == 255,
        };
        let mut body = vec![0; block::HEAD];
        block::put_head(&head, &mut body);
        let mut sections = 0;
        for group in 0..GROUPS {
            if self.groups[group].begun {
                self.section(group, 0, &mut body, 0);
                sections += 1;
            }
        }
        let segment = &mut self.segments[file];
        (segment.end, segment.generation, segment.footer) = (0, self.generation, 0);
        segment.links = Links { previous: head.previous, head_lsn: self.lsn, previous_footer: head.footer };
        self.footer.begin(u32::try_from(self.generation & 0xffff_ffff).expect("masked"), segment.links);
        self.newest = file;
        self.write(file, Kind::Head, self.lsn, sections, &body);
    }

    fn batch(&mut self, file: usize) {
        self.lsn = self.lsn.wrapping_add(1);
        let mut body = Vec::new();
        let count = self.byte() % 4;
        for _ in 0..count {
            let group = usize::from(self.byte()) % GROUPS;
            let offset = self.segments[file].end + block::HEADER;
            let entries = self.byte() % 5;
            self.section(group, entries, &mut body, offset);
        }
        let lsn = self.number(self.lsn);
        self.write(file, Kind::Batch, lsn, count.into(), &body);
    }

    fn footer(&mut self, file: usize) {
        let mut body = vec![0; self.footer.body_len()];
        self.footer.write(&mut body);
        // Damage that its checksum knows of.
        let at = usize::from(self.byte());
        if let Some(byte) = body.get_mut(at.wrapping_sub(128)) {
            *byte ^= 1;
        }
        self.segments[file].footer = u32::try_from(self.segments[file].end / BLOCK_ALIGN).expect("few");
        self.write(file, Kind::Footer, self.lsn, 0, &body);
    }

    /// Appends a section; what a checkpoint has has no entries.
    fn section(&mut self, group: usize, entries: u8, body: &mut Vec<u8>, offset: usize) {
        let known = self.groups[group];
        let bits = self.byte();
        let has = |bit: u8| bits & 1 << bit != 0;
        let checkpoint = offset == 0;
        let conf = ConfState { voters: vec![PeerId(1), PeerId(self.number(2))], ..ConfState::default() };
        let term = Term(self.number(known.term.0.max(1)));
        let last = Index(self.number(known.last.0));
        let id = EntryId { term, index: last };
        let doubtful = bits == 255;
        let parts = Parts {
            hard: (has(0) || checkpoint).then_some(HardState { term, vote: PeerId(1), commit: last }),
            base: (has(1) && has(2)).then_some(id),
            snapshot: (has(1) && has(3)).then_some(id),
            conf: (!known.begun || checkpoint || has(3) && has(4)).then_some(&conf),
            reset: has(2) && has(3) && has(4),
            doubt: Doubt { hard: doubtful, tail: doubtful },
            sound: has(5) && has(4) && has(3),
            fill: has(6) && has(5) && has(4) && entries > 0,
        };
        let mut run = BytesMut::new();
        for nth in 0..u64::from(entries) {
            let id = EntryId { term, index: Index(last.0.wrapping_add(nth + 1)) };
            let wrong = if bits == 254 { 9 } else { 0 };
            encode(seed(group as u64 + 1 + wrong), id, EntryKind::Normal, &[&[7; 10]], &mut run);
        }
        let group_id = GroupId(group as u64 + 1);
        let start = body.len();
        body.resize(start + section::HEADER + parts.len(), 0);
        let said = (entries > 0).then_some((last, u32::from(entries), run.len()));
        section::put(group_id, &parts, said, &mut body[start..]);
        let at = u32::try_from(offset + body.len()).expect("short");
        body.extend_from_slice(&run);
        let known = &mut self.groups[group];
        if entries > 0 && !checkpoint && last.0.checked_add(10).is_some() {
            self.footer.add(group_id, &mut known.mark, at, &run, parts.fill);
        }
        (known.begun, known.term) = (true, term);
        known.last = Index(last.0.wrapping_add(u64::from(entries)));
    }

    fn write(&mut self, file: usize, kind: Kind, lsn: u64, sections: u32, body: &[u8]) {
        let epoch = self.epoch;
        let generation = self.segments[file].generation;
        let header = Header {
            kind,
            log_id: LOG,
            generation: self.number(generation),
            position: self.segments[file].end as u64,
            lsn,
            durable: self.number(lsn.saturating_sub(1)),
            first: self.number(1),
            body_len: u32::try_from(body.len()).expect("short"),
            sections: u32::try_from(self.number(sections.into()) & 0xffff_ffff).expect("masked"),
            epoch: self.number(epoch),
        };
        let segment = &mut self.segments[file];
        let len = block::padded_len(body.len());
        if let Some(to) = segment.bytes.get_mut(segment.end..segment.end + len) {
            to[block::HEADER..block::HEADER + body.len()].copy_from_slice(body);
            block::seal(&header, to);
            segment.end += len;
        }
    }
}

/// Some histories.
#[cfg(test)]
pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    // All numbers as an engine has them.
    const HEAD: [u8; 9] = [0; 9];
    const END: [u8; 6] = [0; 6];
    let head = |file: u8, groups: usize| [&[2 << 2 | file][..], &HEAD[..4], &vec![0; 4 * groups], &HEAD[4..]].concat();
    let batch = |file: u8, sections: &[(u8, u8, u8)], damage: u8| {
        let mut out = vec![damage << 5 | 5 << 2 | file, u8::try_from(sections.len()).expect("few")];
        for (group, entries, bits) in sections {
            out.extend_from_slice(&[*group, *entries, *bits, 0, 0, 0]);
        }
        [&out[..], &END].concat()
    };
    let footer = |file: u8| vec![4 << 2 | file, 0, 0, 0, 0, 0, 0];
    let disk = |choice: u8, blocks: &[Vec<u8>]| [&[choice][..], &blocks.concat()].concat();
    let one = batch(0, &[(0, 2, 1), (1, 1, 1)], 0);
    vec![
        ("one-segment", disk(1, &[head(0, 0), one.clone(), batch(0, &[(0, 3, 0)], 0)])),
        ("two-segments", disk(1, &[head(0, 0), one.clone(), footer(0), head(1, 2), batch(1, &[(1, 2, 1)], 0)])),
        ("by-footer", disk(0, &[head(0, 0), one.clone(), footer(0), head(1, 2), batch(1, &[(0, 1, 0)], 0)])),
        ("torn", disk(1, &[head(0, 0), one.clone(), batch(0, &[(0, 1, 0)], 5)])),
        ("damaged", disk(1, &[head(0, 0), batch(0, &[(0, 2, 1)], 5), one.clone(), one.clone()])),
        ("hole", disk(1, &[head(0, 0), one.clone(), batch(0, &[(0, 1, 0)], 6), one.clone(), head(1, 2), one])),
        ("compacted", disk(1, &[head(0, 0), batch(0, &[(0, 3, 1)], 0), batch(0, &[(0, 0, 6)], 0)])),
        ("reset", disk(1, &[head(2, 0), batch(2, &[(2, 3, 1)], 0), batch(2, &[(2, 0, 30), (2, 1, 1)], 0)])),
    ]
}
