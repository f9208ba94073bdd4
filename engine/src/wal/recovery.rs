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
use ringraft_raft::{ConfState, EntryId, GroupId, HardState, Index, Storage};

use super::block::{self, BlockError, Head, Header, Kind};
use super::footer::{self, Footer, Items, Links, Mark};
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
    pub(crate) blocks: u64,
    pub(crate) footers: usize,
    pub(crate) entries: u64,
    /// Of the newest segment, as far as it is filled.
    pub(crate) footer: Footer,
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

/// How a file is loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    /// All of it, through the page cache.
    Mapped,
    /// All of it, past the page cache.
    Read,
    /// So many bytes from an offset on, past the page cache; both multiples of 4096.
    Part(u64, usize),
}

/// Loads a file, by its place in the list of those found.
pub(crate) type Load<'a> = dyn FnMut(usize, How) -> Result<Bytes, EngineError> + 'a;

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
                    seen.look(config, &load(at, How::Mapped)?, 0);
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
                    seen.look(config, &load(at, How::Mapped)?, 0);
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

/// A segment of the chain.
struct Link {
    generation: u64,
    file: usize,
    /// Its footer, if it need not be read.
    sealed: Option<Sealed>,
}

/// A footer that may stand for its segment.
struct Sealed {
    header: Header,
    links: Links,
    bytes: Bytes,
}

enum Outcome {
    Done(Box<Recovered>),
    Shorten { upto: u64 },
}

impl Attempt<'_> {
    fn run(mut self, load: &mut Load) -> Result<Outcome, EngineError> {
        let Some(&(newest, newest_at)) = self.heads.last() else { return self.none() };
        let newest_bytes = load(newest_at, How::Read)?;
        let mut cursor = Cursor::new(self.config, newest, self.files[newest_at].bytes);
        let head = match cursor.head(&newest_bytes, None) {
            Ok(head) => head,
            Err(HeadError::Checksum(kind)) => {
                return Err(refused(&self.files[newest_at].path, 0, Reason::Checksum { kind }));
            }
            // The head's body is torn: not a segment after all.
            Err(HeadError::Block(_)) => return Ok(Outcome::Shorten { upto: newest - 1 }),
        };
        let newest_links = Links { previous: head.previous, head_lsn: cursor.lsn, previous_footer: head.footer };
        while cursor.next(&newest_bytes).is_ok() {}
        let first = cursor.first;
        self.seen.attested = self.seen.attested.max(cursor.durable);

        let mut links = newest_links;
        // Of this history: a mark in a segment that is not part of it may be about batches of the same numbers in another.
        let mut proven = cursor.durable;
        let mut chain = vec![Link { generation: newest, file: newest_at, sealed: None }];
        while links.previous >= first && links.previous > 0 {
            let previous = links.previous;
            let missing = || refused(&self.config.dir, 0, Reason::Missing { generation: previous });
            let at = self.heads.binary_search_by_key(&previous, |head| head.0).map_err(|_| missing())?;
            let (generation, file) = self.heads[at];
            let next = &chain[chain.len() - 1];
            if generation >= next.generation {
                return Err(missing());
            }
            let naming = self.head_header(next.file);
            proven = proven.max(naming.durable);
            let sealed = self.sealed(file, generation, &naming, &links, proven, load);
            links = match &sealed {
                Some(sealed) => sealed.links,
                // These are believed once the segment has been read. The first 4096 bytes hold what is needed here.
                None => {
                    let start = &self.files[file].start;
                    let head = block::read_head(start.get(block::HEADER..).unwrap_or_default());
                    let head = head.map_err(|kind| refused(&self.files[file].path, 0, Reason::Checksum { kind }))?;
                    let head_lsn = self.head_header(file).lsn;
                    Links { previous: head.previous, head_lsn, previous_footer: head.footer }
                }
            };
            chain.push(Link { generation, file, sealed });
        }
        if chain[chain.len() - 1].generation > first {
            return Err(refused(&self.config.dir, 0, Reason::Missing { generation: first }));
        }
        chain.reverse();
        self.read(&chain, &newest_bytes, newest_links, load)
    }

    /// The header of a candidate's head.
    fn head_header(&self, file: usize) -> Header {
        read_head_header(self.config, &self.files[file]).expect("readable, or it were no candidate")
    }

    /// What the footer of a sealed segment says, if it may stand for the segment: all of that is `proven` to be durable,
    /// and the footer is the one which the next segment's head names. Both were written in one opening: a footer of an
    /// earlier one may lie in the same place and end with the same batch.
    fn sealed(
        &self,
        file: usize,
        generation: u64,
        naming: &Header,
        links: &Links,
        proven: u64,
        load: &mut Load,
    ) -> Option<Sealed> {
        if self.config.verify_on_open || links.previous_footer == 0 || links.head_lsn > proven {
            return None;
        }
        let position = u64::from(links.previous_footer) * BLOCK_ALIGN as u64;
        let left = self.files[file].bytes.checked_sub(position)?;
        // What cannot be read is read again as part of the segment, and then told.
        let mut bytes = load(file, How::Part(position, BLOCK_ALIGN)).ok()?;
        let header = block::read_header(&bytes, self.config.log_id, position, left).ok()?;
        let named = header.lsn == links.head_lsn && header.lsn == naming.lsn && header.epoch == naming.epoch;
        if header.kind != Kind::Footer || header.generation != generation || !named {
            return None;
        }
        let len = block::padded_len(header.body_len as usize);
        if len > bytes.len() {
            bytes = load(file, How::Part(position, len)).ok()?;
        }
        let body = block::read_body(&header, &bytes).ok()?;
        let links = footer::read(body, position)?;
        Some(Sealed { header, links, bytes })
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
            footers: 0,
            entries: 0,
            footer: Footer::none(self.config.footer_bytes_max()),
            mapped: self.mapped,
        })))
    }

    fn read(
        &mut self,
        chain: &[Link],
        newest_bytes: &Bytes,
        newest_links: Links,
        load: &mut Load,
    ) -> Result<Outcome, EngineError> {
        let footer = Footer::none(self.config.footer_bytes_max());
        let mut replay = Replay { config: self.config, groups: BTreeMap::new(), footer };
        let mut segments: Vec<Kept> = Vec::new();
        let mut blocks = 0;
        let mut unattested: VecDeque<Unattested> = VecDeque::new();
        let mut cursor = Cursor::new(self.config, chain[0].generation, self.files[chain[0].file].bytes);
        let mut before: Option<Cursor> = None;
        for (nth, link) in chain.iter().enumerate() {
            let (generation, at) = (link.generation, link.file);
            let file = &self.files[at];
            let is_newest = nth + 1 == chain.len();
            if let Some(sealed) = &link.sealed {
                cursor = cursor.over(sealed, file.bytes);
                replay.sealed(sealed, cursor.generation_u32()?);
                segments.push(cursor.kept(at)?);
                before = Some(cursor);
                continue;
            }
            let bytes = if is_newest { newest_bytes.clone() } else { load(at, How::Mapped)? };
            if !is_newest {
                self.mapped.push(at);
            }
            if let Some(before) = before {
                cursor = before.into_next(generation, file.bytes);
            }
            if is_newest {
                replay.footer.begin(cursor.generation_u32()?, newest_links);
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
                    Some(next) => {
                        let header = read_head_header(self.config, &self.files[next.file]);
                        let fits = |header: &Header| {
                            header.generation == next.generation
                                && header.lsn == cursor.lsn
                                && header.epoch >= cursor.epoch
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
                        let footers = chain.iter().filter(|link| link.sealed.is_some()).count();
                        return self.done(replay, segments, (blocks, footers, unattested), &tail);
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
    fn look_behind(&mut self, bytes: &[u8], from: usize, later: &[Link], load: &mut Load) -> Result<(), EngineError> {
        self.seen.look(self.config, bytes, from);
        for link in later {
            self.seen.look(self.config, &load(link.file, How::Mapped)?, 0);
        }
        Ok(())
    }

    fn done(
        &mut self,
        replay: Replay,
        segments: Vec<Kept>,
        (blocks, footers, unattested): (u64, usize, VecDeque<Unattested>),
        tail: &Tail,
    ) -> Result<Outcome, EngineError> {
        let entries = replay.entries();
        let (groups, footer) = replay.finish(tail)?;
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
            footers,
            entries,
            footer,
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

    /// Behind the last batch of a sealed segment.
    fn over(self, sealed: &Sealed, file_bytes: u64) -> Cursor {
        let Header { generation, position, lsn, epoch, .. } = sealed.header;
        Cursor { generation, file_bytes, position, lsn, epoch, ..self }
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
    groups: Groups,
    /// Of the newest segment.
    footer: Footer,
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
        let known = self.groups.get(&section.group).is_some_and(|(_, group)| group.said);
        if !known && section.conf.is_none() {
            return Err(SectionError::Unknown);
        }
        let (log, group) = group_of(&mut self.groups, section.group, self.config);
        if let Some(conf) = &section.conf {
            log.conf.clone_from(conf);
            group.said = true;
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
        replace_from(log, group, first);
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
        self.footer.add(group.group, &mut group.mark, offset, entries.run);
        group.runs.push(Run { first, segment: generation, offset, len }, index.prev(), None, &mut Nobody);
        Ok(())
    }

    /// Takes the entries of a sealed segment by its footer. Whatever else is known of their groups is in the checkpoint
    /// of a later head.
    fn sealed(&mut self, sealed: &Sealed, generation: u32) {
        let body = block::read_body(&sealed.header, &sealed.bytes).expect("verified before");
        for item in Items::new(body).expect("read before") {
            let (log, group) = group_of(&mut self.groups, item.group, self.config);
            let first = item.id.index;
            replace_from(log, group, first);
            log.entries_mut().push_words(item.id, item.words());
            let len = u32::try_from(item.len).expect("within a segment");
            let last = Index(first.0 + u64::from(item.records) - 1);
            group.runs.push(Run { first, segment: generation, offset: item.offset, len }, last, None, &mut Nobody);
        }
    }

    fn entries(&self) -> u64 {
        self.groups.values().map(|(log, _)| log.last_index().0 - log.entries().start().0).sum()
    }

    /// Checks that every log is without holes, and caches what lies in the last segment.
    fn finish(mut self, tail: &Tail) -> Result<(Groups, Footer), EngineError> {
        let (file, generation, bytes) = (&tail.file.path, tail.cursor.generation_u32()?, tail.bytes);
        for (slot, (log, group)) in self.groups.values_mut().enumerate() {
            let (base, start) = (log.base.index, log.entries().start());
            if !group.said {
                let reason = Reason::Section { lsn: tail.cursor.lsn, error: SectionError::Unknown };
                return Err(refused(file, 0, reason));
            }
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
                (run.segment == generation).then(|| Bytes::copy_from_slice(&bytes[from..from + len]))
            });
        }
        Ok((self.groups, self.footer))
    }
}

/// The group, made out of nothing if it is new.
fn group_of<'a>(groups: &'a mut Groups, id: GroupId, config: &Config) -> (&'a mut GroupLog, &'a mut Group) {
    let (log, group) = groups.entry(id).or_insert_with(|| {
        let log = GroupLog::new(id, ConfState::default(), 0, config.record_bytes_max);
        let group = Group {
            group: id,
            said: false,
            hard: HardState::default(),
            base: EntryId::default(),
            snapshot: None,
            conf: ConfState::default(),
            runs: Runs::default(),
            mark: Mark::default(),
        };
        (log, group)
    });
    (log, group)
}

/// Makes the log ready for entries from `first` on.
fn replace_from(log: &mut GroupLog, group: &mut Group, first: Index) {
    let hole = first > log.last_index().next() || first <= log.entries().start();
    log.entries_mut().replace_from(first);
    if hole {
        // What is missing was recycled: it is compacted or overwritten further on, see `finish`.
        group.runs.clear(&mut Nobody);
    } else {
        group.runs.truncate(first, log.entries(), &mut Nobody);
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
        let strangers = [E::Version(3), E::Foreign(9)];
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
