//! What the files of a log mean, on start. Decides only: nothing is written here.
//!
//! The log is the sequence of valid blocks with consecutive numbers, from the oldest segment that is needed on. What ends
//! it decides ([`judge`]): if no block anywhere attests that more than that was durable, the rest is the torn tail of a
//! crash and is cut; otherwise acknowledged data is damaged. Then the log goes on behind the damage, as far as blocks
//! prove that they are its own ([`Cursor::resume`]), and what every group has lost is told ([`Replay`]).
//!
//! Blocks behind a cut stay on the disk until they are overwritten. They can never be mistaken for valid ones later:
//! each opening writes under a higher epoch, and epochs never fall along the log.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ringraft_io::{BLOCK_ALIGN, FileId};
use ringraft_raft::{GroupId, Storage};

use super::block::{self, BlockError, Header};
use super::chain::{Candidate, Link, Sealed, links_of, read_head_header};
use super::cursor::{Cursor, HeadError, Headless};
use super::footer::{Footer, Links};
use super::judge::{Following, Here, Verdict, judge};
use super::replay::{Finished, Replay, Took, cached};
use crate::config::Config;
use crate::error::{EngineError, Reason, Refusal};
use crate::group::Group;
use crate::group_log::GroupLog;
use crate::wounds::Gap;

/// A file as found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) id: FileId,
    pub(crate) bytes: u64,
    /// Its first 4096 bytes; fewer if it is shorter.
    pub(crate) start: Bytes,
}

/// Both halves of every group.
pub(crate) type Groups = BTreeMap<GroupId, (GroupLog, Group)>;

/// What was recovered.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) groups: Groups,
    /// The segments of the log, oldest first. The last one is to be continued.
    pub(crate) segments: Vec<Kept>,
    pub(crate) last_lsn: u64,
    /// Highest ones seen anywhere.
    pub(crate) epoch: u64,
    pub(crate) generation: u64,
    /// Blocks of the log that nobody attests as durable: they may still be in a volatile cache.
    pub(crate) unattested: Vec<Unattested>,
    pub(crate) cut: Option<Cut>,
    /// Places where the log is damaged.
    pub(crate) gaps: Vec<Gap>,
    /// There may have been groups that nothing tells of.
    pub(crate) groups_lost: bool,
    /// How many groups have wounds.
    pub(crate) wounded: usize,
    /// The last segment is not to be continued after all: another one begins, with all that is known now.
    pub(crate) begin_anew: bool,
    pub(crate) blocks: u64,
    pub(crate) footers: usize,
    pub(crate) entries: u64,
    /// Of the newest segment, as far as it is filled.
    pub(crate) footer: Footer,
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

/// How a file is loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    /// All of it.
    All,
    /// So many bytes from an offset on; both multiples of 4096.
    Part(u64, usize),
}

/// Loads a file, by its place in the list of those found.
pub(crate) type Load<'a> = dyn FnMut(usize, How) -> Result<Bytes, EngineError> + 'a;

/// Finds the log in `files`.
pub(crate) fn recover(config: &Config, files: &[Found], load: &mut Load) -> Result<Recovered, EngineError> {
    let mut candidates = Vec::new();
    let mut seen = Seen::default();
    let mut search = |at: usize, load: &mut Load, candidates: &mut Vec<Candidate>| {
        let bytes = load(at, How::All)?;
        seen.look(config, &bytes, 0);
        let found = Headless::find(config, &bytes, None);
        candidates.extend(found.map(|headless| Candidate::headless(at, headless)));
        Ok::<_, EngineError>(())
    };
    for (at, file) in files.iter().enumerate() {
        match read_head_header(config, file) {
            Ok(header) if is_whole(config, file, &header, &mut |how| load(at, how))? => {
                // No crash changes the size of a file that has a head.
                if let Ok(head) = block::read_head(&file.start[block::HEADER..])
                    && head.segment_bytes != file.bytes
                {
                    let reason = Reason::Resized { found: file.bytes, expected: head.segment_bytes };
                    return Err(refused(&file.path, 0, reason));
                }
                candidates.push(Candidate { generation: header.generation, file: at, headless: None });
            }
            Err(error @ (BlockError::Version(_) | BlockError::Foreign(_))) => {
                return Err(stranger(config, &file.path, 0, error));
            }
            // Never used, or its first block was lost or damaged: what lies behind it may know more.
            _ if file.bytes > 0 => search(at, load, &mut candidates)?,
            _ => {}
        }
    }
    candidates.sort_by_key(|candidate| (candidate.generation, candidate.headless.is_some()));
    let headed = |pair: &[Candidate]| pair.iter().all(|candidate| candidate.headless.is_none());
    let same = |pair: &[Candidate]| pair[0].generation == pair[1].generation;
    if let Some(twice) = candidates.windows(2).find(|pair| same(pair) && headed(pair)) {
        let reason = Reason::Duplicate { generation: twice[1].generation };
        return Err(refused(&files[twice[1].file].path, 0, reason));
    }
    candidates.dedup_by_key(|candidate| candidate.generation);
    let mut whole = config.verify_on_open;
    loop {
        let attempt = Attempt { config, files, candidates: &candidates, seen, whole };
        match attempt.run(load)? {
            Outcome::Done(recovered) => return Ok(*recovered),
            Outcome::Whole => whole = true,
            // The log ends before the newest segment: what the later ones know still counts.
            Outcome::Shorten { upto } => {
                for Candidate { file, .. } in candidates.extract_if(.., |candidate| candidate.generation > upto) {
                    seen.look(config, &load(file, How::All)?, 0);
                }
            }
            Outcome::Headless(found) => {
                let mut candidates = candidates.iter_mut();
                let candidate = candidates.find(|candidate| candidate.generation == found.generation);
                candidate.expect("it was read").headless = Some(found);
            }
        }
    }
}

/// Whether a head is that of its file: a torn one is none, nor is one of an earlier life in front of later blocks (the
/// write that should have replaced it was lost).
fn is_whole(
    config: &Config,
    file: &Found,
    header: &Header,
    load: &mut dyn FnMut(How) -> Result<Bytes, EngineError>,
) -> Result<bool, EngineError> {
    let len = block::padded_len(header.body_len as usize);
    let bytes = if len > file.start.len() { load(How::Part(0, len))? } else { file.start.clone() };
    if block::read_body(header, &bytes).is_err() {
        return Ok(false);
    }
    let left = file.bytes - len as u64;
    if left < BLOCK_ALIGN as u64 {
        return Ok(true);
    }
    let next = load(How::Part(len as u64, BLOCK_ALIGN))?;
    let next = block::read_header(&next, config.log_id, len as u64, left);
    Ok(next.map_or(true, |next| next.generation <= header.generation))
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

/// One try to read the log.
pub(crate) struct Attempt<'a> {
    pub(crate) config: &'a Config,
    pub(crate) files: &'a [Found],
    /// By generation.
    pub(crate) candidates: &'a [Candidate],
    seen: Seen,
    /// No footer stands for its segment.
    pub(crate) whole: bool,
}

pub(crate) enum Outcome {
    Done(Box<Recovered>),
    /// Again, without the candidates above this generation.
    Shorten {
        upto: u64,
    },
    /// Again, with a segment whose head is damaged.
    Headless(Headless),
    /// Again, without footers: there is no checkpoint behind them.
    Whole,
}

impl Attempt<'_> {
    fn run(mut self, load: &mut Load) -> Result<Outcome, EngineError> {
        let Some(&newest) = self.candidates.iter().rfind(|candidate| candidate.is_proven()) else {
            return self.none();
        };
        if newest.headless.is_some() && !self.whole {
            return Ok(Outcome::Whole);
        }
        let bytes = load(newest.file, How::All)?;
        let mut cursor = Cursor::new(self.config, newest.generation, self.files[newest.file].bytes);
        let links = match newest.headless {
            Some(headless) => {
                cursor = headless.cursor(self.config, bytes.len() as u64);
                Links { previous: self.below(newest.generation), head_lsn: cursor.lsn, previous_footer: 0 }
            }
            None => match cursor.head(&bytes, None) {
                Ok(head) => links_of(&head, cursor.lsn),
                Err(HeadError::Checksum(kind)) => {
                    return Err(refused(&self.files[newest.file].path, 0, Reason::Checksum { kind }));
                }
                // The head's body is torn, or damaged.
                Err(HeadError::Block(_)) => {
                    let found = Headless::find(self.config, &bytes, Some(newest.generation));
                    let shorter = Outcome::Shorten { upto: newest.generation - 1 };
                    return Ok(found.filter(|found| found.proven).map_or(shorter, Outcome::Headless));
                }
            },
        };
        cursor.run(&bytes);
        while let Some(begin) = cursor.resume(&bytes, |_, _| Ok::<_, EngineError>(false))? {
            cursor = begin;
            cursor.run(&bytes);
        }
        let first = cursor.first;
        self.seen.attested = self.seen.attested.max(cursor.durable);
        // Then what says which segments are needed may be lost, and they may be gone with good reason.
        let ends_damaged = self.seen.attested > cursor.lsn;

        let newest =
            Link { generation: newest.generation, file: newest.file, headless: newest.headless, links, sealed: None };
        match self.chain(newest, first, cursor.durable, ends_damaged, load)? {
            Ok(chain) => self.read(&chain, &bytes, load),
            Err(outcome) => Ok(outcome),
        }
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
            gaps: Vec::new(),
            groups_lost: false,
            wounded: 0,
            begin_anew: true,
            blocks: 0,
            footers: 0,
            entries: 0,
            footer: Footer::none(self.config.footer_bytes_max()),
        })))
    }

    /// Reads the segments of a chain, oldest first.
    fn read(mut self, chain: &[Link], newest_bytes: &Bytes, load: &mut Load) -> Result<Outcome, EngineError> {
        let mut reading = Reading {
            replay: Replay::new(self.config),
            segments: Vec::new(),
            blocks: 0,
            unattested: VecDeque::new(),
            cursor: Cursor::new(self.config, chain[0].generation, self.files[chain[0].file].bytes),
        };
        for (nth, link) in chain.iter().enumerate() {
            let file = &self.files[link.file];
            let is_newest = nth + 1 == chain.len();
            if let Some(sealed) = &link.sealed {
                reading.cursor = reading.cursor.over(sealed, file.bytes);
                reading.replay.sealed(sealed, generation_u32(link.generation)?);
                reading.keep(link.file)?;
                continue;
            }
            let bytes = if is_newest { newest_bytes.clone() } else { load(link.file, How::All)? };
            let before = (nth > 0).then_some(reading.cursor);
            if is_newest {
                reading.replay.footer.begin(generation_u32(link.generation)?, link.links);
            }
            if let Some(outcome) = self.begin(&mut reading, link, before, &bytes, is_newest)? {
                return Ok(outcome);
            }
            match self.segment(&mut reading, chain, nth, &bytes, load)? {
                End::Next => reading.keep(link.file)?,
                End::Again => return Ok(Outcome::Shorten { upto: link.generation }),
                End::Log { found, last_lsn } => {
                    reading.keep(link.file)?;
                    let tail = Tail { file, bytes: &bytes, found, last_lsn };
                    let footers = chain.iter().filter(|link| link.sealed.is_some()).count();
                    return self.done(reading, footers, &tail);
                }
            }
        }
        unreachable!("the newest segment ends the log, or is not the newest")
    }

    /// Begins a segment: with its head, or behind it. Gives what to try instead if that is not possible.
    fn begin(
        &mut self,
        reading: &mut Reading,
        link: &Link,
        before: Option<Cursor>,
        bytes: &Bytes,
        is_newest: bool,
    ) -> Result<Option<Outcome>, EngineError> {
        let file = &self.files[link.file];
        reading.cursor = reading.cursor.into_next(link.generation, file.bytes);
        if let Some(headless) = link.headless {
            reading.cursor = headless.cursor(self.config, file.bytes);
            let from = reading.cursor.lsn;
            let lost = before.filter(|before| before.lsn < from).map(|before| (before.lsn + 1, from));
            let took = if lost.is_some() || before.is_none() { Took::Anything } else { Took::Head };
            let error = read_head_header(self.config, file).err().unwrap_or(BlockError::Body);
            reading.replay.gap(Gap { file: file.path.clone(), offset: 0, batches: lost, error }, took);
            return Ok(None);
        }
        match reading.cursor.head(bytes, before.map(|before| (before.generation, before.lsn))) {
            Ok(head) => {
                reading.replay.head(head.groups_lost);
                self.take(reading, link.file, 0, bytes)?;
                Ok(None)
            }
            Err(HeadError::Checksum(kind)) => Err(refused(&file.path, 0, Reason::Checksum { kind })),
            Err(HeadError::Block(error)) => {
                // Only its header has been believed so far. In a chain every head but the last was durable.
                let found = Headless::find(self.config, bytes, Some(link.generation));
                if let Some(found) = found.filter(|found| found.proven || !is_newest) {
                    return Ok(Some(Outcome::Headless(found)));
                }
                let Some(before) = before else {
                    // Nothing of it is known, nor is anything older.
                    let attested = self.seen.attested.max(1);
                    return Err(refused(&file.path, 0, Reason::Damaged { lsn: 0, attested, error }));
                };
                Ok(Some(Outcome::Shorten { upto: before.generation }))
            }
        }
    }

    /// Reads the batches of a segment, past damage.
    fn segment(
        &mut self,
        reading: &mut Reading,
        chain: &[Link],
        nth: usize,
        bytes: &Bytes,
        load: &mut Load,
    ) -> Result<End, EngineError> {
        let (link, is_newest) = (&chain[nth], nth + 1 == chain.len());
        let file = &self.files[link.file];
        let mut footer: Option<Option<Sealed>> = None;
        loop {
            let cursor = reading.cursor;
            let position = usize::try_from(cursor.position).expect("within the file");
            let here = match reading.cursor.next(bytes) {
                Ok(()) => Here::Valid,
                Err(_) if cursor.position == file.bytes => Here::Full,
                Err(error) => Here::Invalid(error),
            };
            if here == Here::Valid {
                self.take(reading, link.file, position, bytes)?;
                continue;
            }
            let following = self.following(&cursor, chain, nth + 1, load)?;
            let mut resumed = None;
            if following != Following::Valid {
                self.look_behind(bytes, position, &chain[nth + 1..], load)?;
                let proves = |end: &Cursor, mark| self.proves(end, chain, nth + 1, mark, load);
                resumed = cursor.resume(bytes, proves)?;
            }
            let found = if let Here::Invalid(error) = here { error } else { BlockError::Length };
            let attested = self.seen.attested;
            let verdict = judge(here, following, resumed.is_some(), attested > cursor.lsn);
            // Where the log goes on behind the damage.
            let (position, lsn) = match verdict {
                Verdict::Take => unreachable!("handled above"),
                Verdict::Continue => return Ok(End::Next),
                Verdict::Stranger => return Err(stranger(self.config, &file.path, cursor.position, found)),
                Verdict::Cut | Verdict::Damaged if !is_newest => return Ok(End::Again),
                Verdict::Cut => return Ok(End::Log { found, last_lsn: cursor.lsn }),
                Verdict::Damaged => (cursor.position, attested),
                Verdict::Resume => resumed.map(|begin| (begin.position, begin.lsn)).expect("judged by it"),
                Verdict::Jump => (file.bytes, self.begin_of(&chain[nth + 1]).0),
            };
            let known = footer.get_or_insert_with(|| self.footer_of(chain, nth, load)).as_ref();
            let batches = Some((cursor.lsn + 1, lsn));
            let gap = Gap { file: file.path.clone(), offset: cursor.position, batches, error: found };
            reading.replay.gap(gap, if known.is_some() { Took::Known } else { Took::Anything });
            if let Some(sealed) = known {
                let generation = generation_u32(link.generation)?;
                reading.replay.unreadable(sealed, generation, &(cursor.position..position));
            }
            match verdict {
                Verdict::Resume => reading.cursor = resumed.expect("judged by it"),
                Verdict::Jump => {
                    reading.cursor = cursor.numbered(lsn, cursor.epoch);
                    return Ok(End::Next);
                }
                _ => return Ok(End::Log { found, last_lsn: lsn }),
            }
        }
    }

    /// Takes the block that begins at `position` and ends at the cursor.
    fn take(&mut self, reading: &mut Reading, file: usize, position: usize, bytes: &Bytes) -> Result<(), EngineError> {
        let cursor = &reading.cursor;
        let end = usize::try_from(cursor.position).expect("within the file");
        let body = &bytes[position + block::HEADER..position + block::HEADER + cursor.body_len];
        let skip = if position == 0 { block::HEAD } else { 0 };
        let offset = position + block::HEADER + skip;
        let nonsense = |error| {
            let reason = Reason::Section { lsn: cursor.lsn, error };
            refused(&self.files[file].path, position as u64, reason)
        };
        reading.replay.block(&body[skip..], cursor.sections, cursor.generation, offset).map_err(nonsense)?;
        self.seen.epoch = self.seen.epoch.max(cursor.epoch);
        self.seen.attested = self.seen.attested.max(cursor.durable);
        reading.blocks += 1;
        // A head is durable if a batch behind it is.
        let lsn = cursor.lsn + u64::from(position == 0);
        let block = Unattested { file, position: position as u64, lsn, bytes: bytes.slice(position..end) };
        reading.unattested.push_back(block);
        while reading.unattested.front().is_some_and(|block| block.lsn <= self.seen.attested) {
            reading.unattested.pop_front();
        }
        Ok(())
    }

    /// Looks at everything that is not part of the log: the rest of this segment, and the later ones.
    fn look_behind(&mut self, bytes: &[u8], from: usize, later: &[Link], load: &mut Load) -> Result<(), EngineError> {
        self.seen.look(self.config, bytes, from);
        for link in later {
            self.seen.look(self.config, &load(link.file, How::All)?, 0);
        }
        Ok(())
    }

    fn done(self, reading: Reading, footers: usize, tail: &Tail) -> Result<Outcome, EngineError> {
        let Reading { replay, segments, blocks, unattested, cursor } = reading;
        let (gaps, groups_lost) = (replay.gaps.clone(), replay.groups_lost);
        let in_newest = gaps.iter().any(|gap| gap.file == tail.file.path);
        let Finished { mut groups, footer, wounded } = replay.finish(&tail.file.path, cursor.lsn)?;
        // Doubts are to be on the disk before anything else; and damage is not written over.
        let begin_anew = wounded > 0 || groups_lost || in_newest;
        if !begin_anew {
            let generation = generation_u32(cursor.generation)?;
            for (_, group) in groups.values_mut() {
                group.runs.fill(|run| cached(run, generation, tail.bytes));
            }
        }
        let attested = self.seen.attested;
        // What follows may be an earlier life of a recycled segment; then nothing was torn.
        let torn = matches!(tail.found, BlockError::Header | BlockError::Body);
        let lost = self.seen.youngest > (cursor.epoch, cursor.lsn);
        let cut = ((torn || lost) && tail.last_lsn == cursor.lsn).then(|| Cut {
            file: tail.file.path.clone(),
            offset: cursor.position,
            last_lsn: cursor.lsn,
            found: tail.found,
        });
        let newest = self.candidates.last().map_or(0, |candidate| candidate.generation);
        let of_group = |log: &GroupLog| log.last_index().0 - log.base().index.0;
        Ok(Outcome::Done(Box::new(Recovered {
            entries: groups.values().map(|(log, _)| of_group(log)).sum(),
            groups,
            segments,
            last_lsn: tail.last_lsn,
            epoch: self.seen.epoch,
            generation: self.seen.generation.max(newest),
            unattested: unattested.into_iter().filter(|block| block.lsn > attested).collect(),
            cut,
            gaps,
            groups_lost,
            wounded,
            begin_anew,
            blocks,
            footers,
            footer,
        })))
    }
}

/// What has been read so far.
struct Reading<'a> {
    replay: Replay<'a>,
    segments: Vec<Kept>,
    blocks: u64,
    unattested: VecDeque<Unattested>,
    /// Behind the last block that was taken.
    cursor: Cursor,
}

impl Reading<'_> {
    /// Ends the segment in this file.
    fn keep(&mut self, file: usize) -> Result<(), EngineError> {
        let Cursor { generation, position: end, lsn: last_lsn, .. } = self.cursor;
        self.segments.push(Kept { generation: generation_u32(generation)?, file, end, last_lsn });
        Ok(())
    }
}

/// How a segment ends.
enum End {
    /// The log goes on in the next one.
    Next,
    /// With the log, although others seemed to follow: without these, then.
    Again,
    /// With the log. `last_lsn`: the last batch, whether it can be read or not.
    Log { found: BlockError, last_lsn: u64 },
}

/// Where the log ends.
struct Tail<'a> {
    file: &'a Found,
    bytes: &'a Bytes,
    found: BlockError,
    last_lsn: u64,
}

fn generation_u32(generation: u64) -> Result<u32, EngineError> {
    u32::try_from(generation).map_err(|_| refused(Path::new(""), 0, Reason::Missing { generation }))
}

pub(crate) fn refused(file: &Path, offset: u64, reason: Reason) -> EngineError {
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
