//! What the files of a log mean, on start. Decides only: nothing is written here.
//!
//! The log is the longest sequence of valid blocks with consecutive numbers, from the oldest segment that is needed on.
//! What ends it decides ([`judge`]): if no block anywhere attests that more than that was durable, the rest is the torn
//! tail of a crash and is cut; otherwise acknowledged data is damaged, and the log is refused as it is.
//!
//! Blocks behind a cut stay on the disk until they are overwritten. They can never be mistaken for valid ones later:
//! each opening writes under a higher epoch, and epochs never fall along the log.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ringraft_io::{BLOCK_ALIGN, FileId};
use ringraft_raft::record::Records;
use ringraft_raft::{ConfState, EntryId, GroupId, HardState, Storage};

use super::block::{self, BlockError, Head, Header, Kind};
use super::section::{self, Section, SectionError};
use crate::config::Config;
use crate::error::{EngineError, Reason, Refusal};
use crate::group::{Group, Pins, Run, Runs};
use crate::group_log::{GroupLog, Meta};

/// What lies where the next block should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Here {
    /// The block that continues the log.
    Valid,
    /// Something else.
    Invalid(BlockError),
    /// The end of the file.
    Full,
}

/// What the next segment of the chain begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Following {
    /// A head that continues the log from here.
    Valid,
    /// A head that does not.
    Invalid,
    /// There is no next segment.
    None,
}

/// What to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// The block is part of the log.
    Take,
    /// Go on with the next segment.
    Continue,
    /// The log ends here; whatever follows is cut.
    Cut,
    /// Acknowledged data is damaged.
    Damaged,
    /// Written by a release, or for a log, that is not ours.
    Stranger,
}

/// The table. `attested`: some block says that more was durable than what has been taken so far.
pub(crate) fn judge(here: Here, following: Following, attested: bool) -> Verdict {
    match (here, following, attested) {
        (Here::Valid, ..) => Verdict::Take,
        (Here::Invalid(BlockError::Version(_) | BlockError::Foreign(_)), ..) => Verdict::Stranger,
        (_, Following::Valid, _) => Verdict::Continue,
        (_, _, false) => Verdict::Cut,
        (_, _, true) => Verdict::Damaged,
    }
}

/// A file as found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) id: FileId,
    pub(crate) bytes: u64,
    /// Its first 4096 bytes; fewer if it is shorter.
    pub(crate) start: Bytes,
}

/// What was recovered.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) groups: BTreeMap<GroupId, (GroupLog, Group)>,
    /// The segments of the log, oldest first. The last one is to be continued.
    pub(crate) segments: Vec<Kept>,
    pub(crate) last_lsn: u64,
    /// Highest ones seen anywhere.
    pub(crate) epoch: u64,
    pub(crate) generation: u64,
    /// Blocks of the log that nobody attests as durable: they may still be in a volatile cache.
    pub(crate) unattested: Vec<Unattested>,
    pub(crate) cut: Option<Cut>,
    pub(crate) blocks: u64,
    pub(crate) entries: u64,
    /// Files whose pages the cache may hold now.
    pub(crate) mapped: Vec<usize>,
}

/// A segment of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Kept {
    pub(crate) generation: u32,
    /// Position in the list of files found.
    pub(crate) file: usize,
    /// Where its last block ends.
    pub(crate) end: u64,
    pub(crate) last_lsn: u64,
}

/// A block to write once more.
#[derive(Clone, Debug)]
pub(crate) struct Unattested {
    pub(crate) file: usize,
    pub(crate) position: u64,
    /// It is durable if this batch is.
    lsn: u64,
    pub(crate) bytes: Bytes,
}

/// Where a torn tail was cut.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The segment.
    pub file: PathBuf,
    /// Where in it the log ends.
    pub offset: u64,
    /// The last batch kept.
    pub last_lsn: u64,
    /// What was found behind it.
    pub found: BlockError,
}

/// Loads a whole file: from the page cache, or (true) past it.
pub(crate) type Load<'a> = dyn FnMut(usize, bool) -> Result<Bytes, EngineError> + 'a;

/// Finds the log in `files`.
pub(crate) fn recover(config: &Config, files: &[Found], load: &mut Load) -> Result<Recovered, EngineError> {
    let mut heads = Vec::new();
    let mut seen = Seen::default();
    let mut mapped = Vec::new();
    for (at, file) in files.iter().enumerate() {
        match read_head_header(config, file) {
            Ok(header) => {
                // No crash changes the size of a file that has a head.
                if let Ok(head) = block::read_head(&file.start[block::HEADER..])
                    && head.segment_bytes != file.bytes
                {
                    let reason = Reason::Resized { found: file.bytes, expected: head.segment_bytes };
                    return Err(refused(&file.path, 0, reason));
                }
                heads.push((header.generation, at));
            }
            Err(error @ (BlockError::Version(_) | BlockError::Foreign(_))) => {
                return Err(stranger(config, &file.path, 0, error));
            }
            // Never used, or its first block was lost or damaged: what lies behind it may know more.
            Err(_) => {
                if file.bytes > 0 {
                    seen.look(config, &load(at, false)?, 0);
                    mapped.push(at);
                }
            }
        }
    }
    heads.sort_unstable();
    if let Some(twice) = heads.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(refused(&files[twice[1].1].path, 0, Reason::Duplicate { generation: twice[1].0 }));
    }
    loop {
        let attempt = Attempt { config, files, heads: &heads, seen, mapped: mapped.clone() };
        match attempt.run(load)? {
            Outcome::Done(recovered) => return Ok(*recovered),
            // The log ends before the newest segment: what the later ones know still counts.
            Outcome::Shorten { upto } => {
                for (_, at) in heads.extract_if(.., |(generation, _)| *generation > upto) {
                    seen.look(config, &load(at, false)?, 0);
                    mapped.push(at);
                }
            }
        }
    }
}

/// The highest numbers that any readable header says, in the part of the files that is not the log.
#[derive(Clone, Copy, Default, Debug)]
struct Seen {
    attested: u64,
    epoch: u64,
    generation: u64,
    /// The youngest batch: by epoch, then by number.
    youngest: (u64, u64),
}

impl Seen {
    /// Looks for headers of this log from `from` on.
    fn look(&mut self, config: &Config, bytes: &[u8], from: usize) {
        let mut at = from;
        while at < bytes.len() {
            let header = block::read_header(&bytes[at..], config.log_id, at as u64, (bytes.len() - at) as u64);
            at += header.map_or(BLOCK_ALIGN, |header| block::padded_len(header.body_len as usize));
            if let Ok(header) = header {
                self.note(&header);
            }
        }
    }

    fn note(&mut self, header: &Header) {
        self.attested = self.attested.max(header.durable);
        self.epoch = self.epoch.max(header.epoch);
        self.generation = self.generation.max(header.generation);
        self.youngest = self.youngest.max((header.epoch, header.lsn));
    }
}

/// One try to read the log with a given newest segment.
struct Attempt<'a> {
    config: &'a Config,
    files: &'a [Found],
    /// Generation and file, in order.
    heads: &'a [(u64, usize)],
    seen: Seen,
    mapped: Vec<usize>,
}

enum Outcome {
    Done(Box<Recovered>),
    Shorten { upto: u64 },
}

impl Attempt<'_> {
    fn run(mut self, load: &mut Load) -> Result<Outcome, EngineError> {
        let Some(&(newest, newest_at)) = self.heads.last() else { return self.none() };
        let newest_bytes = load(newest_at, true)?;
        let mut cursor = Cursor::new(self.config, newest, self.files[newest_at].bytes);
        let head = match cursor.head(&newest_bytes, None) {
            Ok(head) => head,
            Err(HeadError::Checksum(kind)) => {
                return Err(refused(&self.files[newest_at].path, 0, Reason::Checksum { kind }));
            }
            // The head's body is torn: not a segment after all.
            Err(HeadError::Block(_)) => return Ok(Outcome::Shorten { upto: newest - 1 }),
        };
        let mut previous = head.previous;
        while cursor.next(&newest_bytes).is_ok() {}
        let first = cursor.first;

        let mut chain = vec![(newest, newest_at)];
        while previous >= first && previous > 0 {
            let missing = || refused(&self.config.dir, 0, Reason::Missing { generation: previous });
            let at = self.heads.binary_search_by_key(&previous, |head| head.0).map_err(|_| missing())?;
            let (generation, file) = self.heads[at];
            if generation >= chain[chain.len() - 1].0 {
                return Err(missing());
            }
            chain.push((generation, file));
            // The link is in the head's body, which the first 4096 bytes hold the beginning of.
            let head = block::read_head(self.files[file].start.get(block::HEADER..).unwrap_or_default());
            previous = head.map_err(|kind| refused(&self.files[file].path, 0, Reason::Checksum { kind }))?.previous;
        }
        if chain[chain.len() - 1].0 > first {
            return Err(refused(&self.config.dir, 0, Reason::Missing { generation: first }));
        }
        chain.reverse();
        self.read(&chain, &newest_bytes, load)
    }

    /// No segment at all: an empty log, unless something says that there was one.
    fn none(self) -> Result<Outcome, EngineError> {
        if self.seen.attested > 0 {
            let damaged = Reason::Damaged { lsn: 1, attested: self.seen.attested, error: BlockError::Blank };
            return Err(refused(&self.config.dir, 0, damaged));
        }
        Ok(Outcome::Done(Box::new(Recovered {
            groups: BTreeMap::new(),
            segments: Vec::new(),
            last_lsn: 0,
            epoch: self.seen.epoch,
            generation: self.seen.generation,
            unattested: Vec::new(),
            cut: None,
            blocks: 0,
            entries: 0,
            mapped: self.mapped,
        })))
    }

    fn read(&mut self, chain: &[(u64, usize)], newest_bytes: &Bytes, load: &mut Load) -> Result<Outcome, EngineError> {
        let mut replay = Replay { config: self.config, groups: BTreeMap::new() };
        let mut segments: Vec<Kept> = Vec::new();
        let mut blocks = 0;
        let mut unattested: VecDeque<Unattested> = VecDeque::new();
        let mut cursor = Cursor::new(self.config, chain[0].0, self.files[chain[0].1].bytes);
        let mut before: Option<Cursor> = None;
        for (nth, &(generation, at)) in chain.iter().enumerate() {
            let file = &self.files[at];
            let is_newest = nth + 1 == chain.len();
            let bytes = if is_newest { newest_bytes.clone() } else { load(at, false)? };
            if !is_newest {
                self.mapped.push(at);
            }
            if let Some(before) = before {
                cursor = before.into_next(generation, file.bytes);
            }
            let continues = before.map(|before| (before.generation, before.lsn));
            let head = cursor.head(&bytes, continues);
            match head {
                Ok(_) => {}
                Err(HeadError::Checksum(kind)) => return Err(refused(&file.path, 0, Reason::Checksum { kind })),
                Err(HeadError::Block(error)) if nth == 0 => {
                    // Without its checkpoint nothing is known.
                    let attested = self.seen.attested.max(1);
                    return Err(refused(&file.path, 0, Reason::Damaged { lsn: 0, attested, error }));
                }
                Err(HeadError::Block(error)) => {
                    // `Following::Valid` was judged by the header; the body decides now.
                    let before = before.expect("not the first");
                    let kept = segments[segments.len() - 1];
                    self.look_behind(&[], 0, &chain[nth..], load)?;
                    return self.short(&before, &self.files[kept.file].path, error);
                }
            }
            let mut position = 0;
            loop {
                // The block that ends at `cursor.position` was valid.
                let end = usize::try_from(cursor.position).expect("within the file");
                let body = &bytes[position + block::HEADER..position + block::HEADER + cursor.body_len];
                let skip = if position == 0 { block::HEAD } else { 0 };
                let offset = position + block::HEADER + skip;
                replay.block(&body[skip..], cursor.sections, cursor.generation, offset).map_err(|error| {
                    refused(&file.path, position as u64, Reason::Section { lsn: cursor.lsn, error })
                })?;
                self.seen.epoch = self.seen.epoch.max(cursor.epoch);
                self.seen.attested = self.seen.attested.max(cursor.durable);
                blocks += 1;
                // A head is durable if a batch behind it is.
                let lsn = cursor.lsn + u64::from(position == 0);
                let bytes_of = bytes.slice(position..end);
                unattested.push_back(Unattested { file: at, position: position as u64, lsn, bytes: bytes_of });
                while unattested.front().is_some_and(|block| block.lsn <= self.seen.attested) {
                    unattested.pop_front();
                }
                position = end;

                let here = match cursor.next(&bytes) {
                    Ok(()) => Here::Valid,
                    Err(_) if cursor.position == file.bytes => Here::Full,
                    Err(error) => Here::Invalid(error),
                };
                if here == Here::Valid {
                    continue;
                }
                let following = match chain.get(nth + 1) {
                    None => Following::None,
                    Some((next, at)) => {
                        let header = read_head_header(self.config, &self.files[*at]);
                        let fits = |header: &Header| {
                            header.generation == *next && header.lsn == cursor.lsn && header.epoch >= cursor.epoch
                        };
                        if header.is_ok_and(|header| fits(&header)) { Following::Valid } else { Following::Invalid }
                    }
                };
                if following != Following::Valid {
                    self.look_behind(&bytes, position, chain.get(nth + 1..).unwrap_or_default(), load)?;
                }
                let found = if let Here::Invalid(error) = here { error } else { BlockError::Length };
                match judge(here, following, self.seen.attested > cursor.lsn) {
                    Verdict::Take => unreachable!("handled above"),
                    Verdict::Continue => break,
                    Verdict::Stranger => return Err(stranger(self.config, &file.path, cursor.position, found)),
                    Verdict::Damaged => {
                        let reason =
                            Reason::Damaged { lsn: cursor.lsn + 1, attested: self.seen.attested, error: found };
                        return Err(refused(&file.path, cursor.position, reason));
                    }
                    Verdict::Cut if !is_newest => return Ok(Outcome::Shorten { upto: generation }),
                    Verdict::Cut => {
                        segments.push(cursor.kept(at)?);
                        let tail = Tail { file, bytes: &bytes, found, cursor };
                        return self.done(replay, segments, (blocks, unattested), &tail);
                    }
                }
            }
            segments.push(cursor.kept(at)?);
            before = Some(cursor);
        }
        unreachable!("the newest segment ends in a verdict")
    }

    /// A head that should continue the log is torn.
    fn short(&self, before: &Cursor, file: &Path, error: BlockError) -> Result<Outcome, EngineError> {
        if self.seen.attested > before.lsn {
            let reason = Reason::Damaged { lsn: before.lsn + 1, attested: self.seen.attested, error };
            return Err(refused(file, before.position, reason));
        }
        Ok(Outcome::Shorten { upto: before.generation })
    }

    /// Looks at everything that is not part of the log: the rest of this segment, and the later ones.
    fn look_behind(
        &mut self,
        bytes: &[u8],
        from: usize,
        later: &[(u64, usize)],
        load: &mut Load,
    ) -> Result<(), EngineError> {
        self.seen.look(self.config, bytes, from);
        for (_, at) in later {
            self.seen.look(self.config, &load(*at, false)?, 0);
        }
        Ok(())
    }

    fn done(
        &mut self,
        replay: Replay,
        segments: Vec<Kept>,
        (blocks, unattested): (u64, VecDeque<Unattested>),
        tail: &Tail,
    ) -> Result<Outcome, EngineError> {
        let entries = replay.entries();
        let groups = replay.finish(&tail.file.path, tail.cursor.generation_u32()?, tail.bytes)?;
        let attested = self.seen.attested;
        // What follows may be an earlier life of a recycled segment; then nothing was torn.
        let torn = matches!(tail.found, BlockError::Header | BlockError::Body);
        let lost = self.seen.youngest > (tail.cursor.epoch, tail.cursor.lsn);
        let cut = (torn || lost).then(|| Cut {
            file: tail.file.path.clone(),
            offset: tail.cursor.position,
            last_lsn: tail.cursor.lsn,
            found: tail.found,
        });
        let newest_head = self.heads.last().map_or(0, |head| head.0);
        Ok(Outcome::Done(Box::new(Recovered {
            groups,
            segments,
            last_lsn: tail.cursor.lsn,
            epoch: self.seen.epoch,
            generation: self.seen.generation.max(newest_head),
            unattested: unattested.into_iter().filter(|block| block.lsn > attested).collect(),
            cut,
            blocks,
            entries,
            mapped: std::mem::take(&mut self.mapped),
        })))
    }
}

/// Where the log ends.
struct Tail<'a> {
    file: &'a Found,
    bytes: &'a Bytes,
    found: BlockError,
    cursor: Cursor,
}

/// Walks the valid blocks of a segment. All but `position` is of the block that ends there.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    log_id: u64,
    generation: u64,
    file_bytes: u64,
    position: u64,
    lsn: u64,
    epoch: u64,
    first: u64,
    durable: u64,
    body_len: usize,
    sections: u32,
}

enum HeadError {
    Block(BlockError),
    Checksum(u16),
}

impl Cursor {
    fn new(config: &Config, generation: u64, file_bytes: u64) -> Cursor {
        Cursor {
            log_id: config.log_id,
            generation,
            file_bytes,
            position: 0,
            lsn: 0,
            epoch: 0,
            first: 0,
            durable: 0,
            body_len: 0,
            sections: 0,
        }
    }

    fn into_next(self, generation: u64, file_bytes: u64) -> Cursor {
        Cursor { generation, file_bytes, position: 0, ..self }
    }

    /// Takes the head, which must continue a segment of this generation and last batch.
    fn head(&mut self, bytes: &[u8], continues: Option<(u64, u64)>) -> Result<Head, HeadError> {
        let (header, body) = self.read(bytes, Kind::Head).map_err(HeadError::Block)?;
        let head = block::read_head(body).map_err(HeadError::Checksum)?;
        let fits = continues.is_none_or(|(previous, lsn)| head.previous == previous && header.lsn == lsn);
        if !fits || head.segment_bytes != self.file_bytes || header.first > self.generation {
            return Err(HeadError::Block(BlockError::Stale));
        }
        self.take(&header);
        Ok(head)
    }

    /// Takes the next batch.
    fn next(&mut self, bytes: &[u8]) -> Result<(), BlockError> {
        let (header, _) = self.read(bytes, Kind::Batch)?;
        if header.lsn != self.lsn + 1 || header.durable > self.lsn || header.first > self.generation {
            return Err(BlockError::Stale);
        }
        self.take(&header);
        Ok(())
    }

    fn read<'a>(&self, bytes: &'a [u8], kind: Kind) -> Result<(Header, &'a [u8]), BlockError> {
        let at = usize::try_from(self.position).map_err(|_| BlockError::Length)?;
        let bytes = bytes.get(at..).filter(|rest| !rest.is_empty()).ok_or(BlockError::Length)?;
        let header = block::read_header(bytes, self.log_id, self.position, self.file_bytes - self.position)?;
        if header.kind != kind || header.generation != self.generation || header.epoch < self.epoch {
            return Err(BlockError::Stale);
        }
        let body = block::read_body(&header, bytes)?;
        Ok((header, body))
    }

    fn take(&mut self, header: &Header) {
        self.position += block::padded_len(header.body_len as usize) as u64;
        self.lsn = header.lsn;
        self.epoch = header.epoch;
        self.first = self.first.max(header.first);
        self.durable = header.durable;
        self.body_len = header.body_len as usize;
        self.sections = header.sections;
    }

    fn generation_u32(&self) -> Result<u32, EngineError> {
        let unknown = || refused(Path::new(""), 0, Reason::Missing { generation: self.generation });
        u32::try_from(self.generation).map_err(|_| unknown())
    }

    fn kept(&self, file: usize) -> Result<Kept, EngineError> {
        Ok(Kept { generation: self.generation_u32()?, file, end: self.position, last_lsn: self.lsn })
    }
}

/// The groups as the blocks taken so far say.
struct Replay<'a> {
    config: &'a Config,
    groups: BTreeMap<GroupId, (GroupLog, Group)>,
}

/// Segments are pinned once all is known.
struct Nobody;

impl Pins for Nobody {
    fn pin(&mut self, _: u32) {}
    fn unpin(&mut self, _: u32) {}
}

impl Replay<'_> {
    /// Replays the sections of a block; `offset` is where they begin in the segment.
    fn block(&mut self, body: &[u8], sections: u32, generation: u64, offset: usize) -> Result<(), SectionError> {
        let generation = u32::try_from(generation).map_err(|_| SectionError::Count)?;
        let (mut rest, mut at, mut count) = (body, offset, 0);
        while !rest.is_empty() {
            let section = section::read(rest)?;
            self.section(&section, generation, at)?;
            rest = &rest[section.len..];
            at += section.len;
            count += 1;
        }
        if count == sections { Ok(()) } else { Err(SectionError::Count) }
    }

    fn section(&mut self, section: &Section, generation: u32, at: usize) -> Result<(), SectionError> {
        if !self.groups.contains_key(&section.group) {
            if section.conf.is_none() {
                return Err(SectionError::Unknown);
            }
            let log = GroupLog::new(section.group, ConfState::default(), 0, self.config.record_bytes_max);
            let group = Group {
                group: section.group,
                said: true,
                hard: HardState::default(),
                base: EntryId::default(),
                snapshot: None,
                conf: ConfState::default(),
                runs: Runs::default(),
            };
            self.groups.insert(section.group, (log, group));
        }
        let (log, group) = self.groups.get_mut(&section.group).expect("inserted above");
        if let Some(conf) = &section.conf {
            log.conf.clone_from(conf);
        }
        if section.snapshot.is_some() {
            log.snapshot = section.snapshot;
        }
        if let Some(base) = section.base {
            if section.reset {
                group.runs.clear(&mut Nobody);
                *log.entries_mut() = Meta::starting_after(base.index);
            } else {
                group.runs.forget_upto(base.index, log.entries(), &mut Nobody);
            }
            log.forget_upto(base);
        }
        if let Some(hard) = section.hard {
            log.hard = hard;
        }
        let Some(entries) = section.entries else { return Ok(()) };
        if entries.after < log.base.index || entries.after.0 > u64::MAX / 2 {
            return Err(SectionError::Record(entries.after));
        }
        let first = entries.after.next();
        let hole = first > log.last_index().next() || first <= log.entries().start();
        log.entries_mut().replace_from(first);
        if hole {
            // What is missing was recycled: it is compacted or overwritten further on, see `finish`.
            group.runs.clear(&mut Nobody);
        } else {
            group.runs.truncate(first, log.entries(), &mut Nobody);
        }
        let mut index = first;
        for record in Records::new(entries.run) {
            let record = record.map_err(|_| SectionError::Record(index))?;
            if record.id.index != index || !record.verify(log.seed()) {
                return Err(SectionError::Record(index));
            }
            log.entries_mut().push(&record);
            index = index.next();
        }
        if index == first || index.0 - first.0 != u64::from(entries.records) {
            return Err(SectionError::Record(index));
        }
        let offset = u32::try_from(at + entries.offset).map_err(|_| SectionError::Length)?;
        let len = u32::try_from(entries.run.len()).map_err(|_| SectionError::Length)?;
        group.runs.push(Run { first, segment: generation, offset, len }, index.prev(), None, &mut Nobody);
        Ok(())
    }

    fn entries(&self) -> u64 {
        self.groups.values().map(|(log, _)| log.last_index().0 - log.entries().start().0).sum()
    }

    /// Checks that every log is without holes, and caches what lies in the last segment.
    fn finish(
        mut self,
        file: &Path,
        tail: u32,
        bytes: &[u8],
    ) -> Result<BTreeMap<GroupId, (GroupLog, Group)>, EngineError> {
        for (slot, (log, group)) in self.groups.values_mut().enumerate() {
            let (base, start) = (log.base.index, log.entries().start());
            if base != start {
                return Err(refused(file, 0, Reason::Hole { group: log.group(), base, start }));
            }
            log.slot = slot;
            // A write may have been split over two batches, the commit index in the first.
            log.hard.commit = log.hard.commit.clamp(base, log.last_index());
            group.hard = log.hard;
            group.base = log.base;
            group.snapshot = log.snapshot;
            group.conf = log.conf.clone();
            group.runs.fill(|run| {
                let (from, len) = (run.offset as usize, run.len as usize);
                (run.segment == tail).then(|| Bytes::copy_from_slice(&bytes[from..from + len]))
            });
        }
        Ok(self.groups)
    }
}

fn read_head_header(config: &Config, file: &Found) -> Result<Header, BlockError> {
    let header = block::read_header(&file.start, config.log_id, 0, file.bytes)?;
    if header.kind == Kind::Head { Ok(header) } else { Err(BlockError::Stale) }
}

fn refused(file: &Path, offset: u64, reason: Reason) -> EngineError {
    EngineError::Refused(Arc::new(Refusal { file: file.to_path_buf(), offset, reason }))
}

fn stranger(config: &Config, file: &Path, offset: u64, error: BlockError) -> EngineError {
    let reason = match error {
        BlockError::Version(version) => Reason::Version { version },
        BlockError::Foreign(found) => Reason::Foreign { found, expected: config.log_id },
        error => unreachable!("{error} is no stranger"),
    };
    refused(file, offset, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table() {
        use BlockError as E;
        let errors = [E::Blank, E::Magic, E::Header, E::Misplaced, E::Length, E::Body, E::Stale];
        let strangers = [E::Version(2), E::Foreign(9)];
        let mut cases = 0;
        for attested in [false, true] {
            for following in [Following::Valid, Following::Invalid, Following::None] {
                let mut check = |here, expected| {
                    cases += 1;
                    assert_eq!(judge(here, following, attested), expected, "{here:?} {following:?} {attested}");
                };
                let end = match (following, attested) {
                    (Following::Valid, _) => Verdict::Continue,
                    (_, false) => Verdict::Cut,
                    (_, true) => Verdict::Damaged,
                };
                check(Here::Valid, Verdict::Take);
                check(Here::Full, end);
                for error in errors {
                    check(Here::Invalid(error), end);
                }
                for error in strangers {
                    check(Here::Invalid(error), Verdict::Stranger);
                }
            }
        }
        assert_eq!(cases, 2 * 3 * 11);
    }
}
