//! Looking at the files of a log from outside: what is in it, whether it is intact, what takes the space.
//!
//! Read-only, and without the lock of the directory: nothing is changed, and the log may be in use. What is found of a
//! log in use is a moment of it; files that changed while they were read are read again if something looked wrong.
//!
//! Everything is read, past damage as far as blocks can still be told. See `FORMAT.md`.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use ringraft_io::BLOCK_ALIGN;
use ringraft_raft::record::{GroupSeed, Records};
use ringraft_raft::{ConfState, EntryId, EntryKind, GroupId, HardState, Index};

use crate::snapshot::{SnapshotError, SnapshotName, SnapshotReader};
use crate::wal::block::{self, BlockError, Head, Header, Kind};
use crate::wal::footer::{self, Items};
use crate::wal::pool::Pool;
use crate::wal::section::{self, Doubt, Section, SectionError};

/// What is wrong, or remarkable, at one place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The file; the directory if no file is to blame.
    pub file: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// The batches that cannot be read because of it: first and last number; none if no batch is lost.
    pub batches: Option<(u64, u64)>,
    /// The entries that lay there, as far as the segment's footer tells: group, first and last index.
    pub entries: Vec<(GroupId, Index, Index)>,
    /// What is the matter.
    pub verdict: Verdict,
}

/// What is the matter with a place in the files of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Verdict {
    /// The end of a crash, or of a write under way: nothing that was acknowledged. Cut when the log is opened.
    #[error("a torn tail ({0}): not acknowledged, cut when the log is opened")]
    Torn(BlockError),
    /// A later block attests that this one was durable.
    #[error("acknowledged data is damaged ({0})")]
    Damaged(BlockError),
    /// A whole block does not make sense.
    #[error("whole but nonsense ({0})")]
    Nonsense(SectionError),
    /// A segment that is still needed is not there.
    #[error("the segment of generation {0} is missing")]
    Missing(u64),
    /// Two files claim to be the same segment.
    #[error("another file is generation {0} too")]
    Duplicate(u64),
    /// The file is not as long as its segment, which has this many bytes.
    #[error("the file has another size than its segment, {0} bytes")]
    Resized(u64),
    /// Of another release or another log.
    #[error("a stranger's: {0}")]
    Stranger(BlockError),
    /// The footer cannot be used: a restart reads the whole segment instead.
    #[error("the footer is damaged; nothing is lost")]
    Footer,
    /// A snapshot file is damaged.
    #[error(transparent)]
    Snapshot(SnapshotError),
}

impl Verdict {
    /// Whether something is lost that may have been acknowledged, or the log cannot be opened.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        !matches!(self, Verdict::Torn(_) | Verdict::Footer)
    }
}

/// Whether a log is intact.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Check {
    /// Whose log it is; 0 if there is none.
    pub log_id: u64,
    /// The last batch that can be read.
    pub last_batch: u64,
    /// Every batch up to this is attested as durable.
    pub attested: u64,
    /// Every group, in order.
    pub groups: Vec<GroupCheck>,
    /// Every place that is not as it should be, in the order of the log.
    pub damage: Vec<Damage>,
    /// An opening has found damage, and there may have been groups that nothing tells of since.
    pub groups_lost: bool,
    /// The files were changing all the time: somebody writes this log.
    pub changing: bool,
}

impl Check {
    /// Whether nothing is lost and the log can be opened.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        let whole = |group: &GroupCheck| group.holes.is_empty() && !group.in_doubt;
        let damaged = self.damage.iter().any(|damage| damage.verdict.is_damage());
        !damaged && !self.groups_lost && self.groups.iter().all(whole)
    }
}

/// One group of a log.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct GroupCheck {
    /// Which.
    pub group: GroupId,
    /// The latest hard state found.
    pub hard_state: HardState,
    /// The log begins behind this entry.
    pub base: EntryId,
    /// The latest snapshot named.
    pub snapshot: Option<EntryId>,
    /// All entries from the base up to this one are intact.
    pub intact: Index,
    /// The last entry found.
    pub last: Index,
    /// Entries between base and last that are nowhere: first and last index of each gap.
    pub holes: Vec<(Index, Index)>,
    /// An opening has found damage, and it has not been healed since.
    pub in_doubt: bool,
}

/// What takes the space. Bytes, unless it says otherwise.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct LogStats {
    /// Segment files.
    pub files: usize,
    /// Of all segment files.
    pub file_bytes: u64,
    /// The segments of the log, oldest first.
    pub segments: Vec<SegmentStats>,
    /// Records in these segments.
    pub record_bytes: u64,
    /// Records that are still part of a group's log.
    pub live_bytes: u64,
    /// Every group, in order.
    pub groups: Vec<GroupStats>,
    /// Snapshot files.
    pub snapshots: usize,
    /// Of all snapshot files.
    pub snapshot_bytes: u64,
}

/// One segment of a log.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SegmentStats {
    /// The file.
    pub file: PathBuf,
    /// Its generation.
    pub generation: u64,
    /// Of the file.
    pub bytes: u64,
    /// Head with checkpoint.
    pub head_bytes: u64,
    /// Batches, with headers and padding.
    pub batch_bytes: u64,
    /// How many batches.
    pub batches: u64,
    /// The footer; 0: none.
    pub footer_bytes: u64,
    /// Records in it.
    pub record_bytes: u64,
    /// Records in it that are still part of a group's log.
    pub live_bytes: u64,
}

/// One group's share of the space.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct GroupStats {
    /// Which.
    pub group: GroupId,
    /// Entries it has.
    pub entries: u64,
    /// Bytes of their records.
    pub live_bytes: u64,
    /// The generation of the oldest segment that it needs; 0: none.
    pub oldest: u64,
}

/// A piece of a log, in the order of the log.
#[derive(Clone, PartialEq, Debug)]
pub enum Piece<'a> {
    /// A block begins.
    Block {
        /// The file.
        file: &'a Path,
        /// Where in it.
        offset: u64,
        /// Head, batch or footer.
        what: &'static str,
        /// Generation of the segment.
        generation: u64,
        /// Number of the batch.
        batch: u64,
        /// Its durable mark.
        durable: u64,
        /// Its epoch.
        epoch: u64,
        /// Bytes, with header and padding.
        bytes: u64,
    },
    /// What a section says beside its entries.
    State {
        /// The group.
        group: GroupId,
        /// Its hard state.
        hard_state: Option<HardState>,
        /// Its base.
        base: Option<EntryId>,
        /// All entries are forgotten.
        reset: bool,
        /// Its latest snapshot.
        snapshot: Option<EntryId>,
        /// Its members.
        conf: Option<ConfState>,
    },
    /// An entry.
    Entry {
        /// The group.
        group: GroupId,
        /// Which.
        id: EntryId,
        /// What for.
        kind: EntryKind,
        /// Where the record begins in the segment's file.
        offset: u64,
        /// Its payload.
        payload: &'a [u8],
    },
    /// Something is wrong here.
    Damage(&'a Damage),
}

/// Reads all of the log in `dir` and verifies it, snapshots included (under the id each names: nodes exchange them). `log_id`: whose log it should be; `None` takes
/// that of the first block found.
///
/// # Errors
/// What the file system says. Damage is no error.
pub fn check(dir: &Path, log_id: Option<u64>) -> io::Result<Check> {
    const TRIES: usize = 5;
    let mut check = Check::default();
    for nth in 0..TRIES {
        let last = nth + 1 == TRIES;
        let found = times(dir).and_then(|before| {
            let mut found = Scan::run(dir, log_id, &mut |_| {})?.check();
            found.changing = times(dir)? != before;
            Ok(found)
        });
        check = match found {
            // A free file was removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound && dir.is_dir() && !last => continue,
            found => found?,
        };
        if !check.changing || check.is_intact() {
            break;
        }
        // A place may have been read before it was written, one behind it after.
        std::thread::sleep(Duration::from_millis(20 << nth));
    }
    Ok(check)
}

/// Gives every piece of the log in `dir` to `visit`, oldest first.
///
/// # Errors
/// What the file system says. Damage is no error.
pub fn dump(dir: &Path, log_id: Option<u64>, visit: &mut dyn FnMut(Piece)) -> io::Result<()> {
    Scan::run(dir, log_id, visit).map(|_| ())
}

/// Counts what takes the space in `dir`.
///
/// # Errors
/// What the file system says. Damage is no error.
pub fn stats(dir: &Path, log_id: Option<u64>) -> io::Result<LogStats> {
    Ok(Scan::run(dir, log_id, &mut |_| {})?.stats())
}

/// Sizes and times of the segment files.
fn times(dir: &Path) -> io::Result<Vec<(PathBuf, u64, SystemTime)>> {
    let files = list(dir, |name| Pool::parse_name(name).is_some())?.into_iter();
    files.map(|path| fs::metadata(&path).and_then(|meta| Ok((path, meta.len(), meta.modified()?)))).collect()
}

/// The files whose names are right, in order.
fn list(dir: &Path, mut right: impl FnMut(&str) -> bool) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(&mut right) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Most entries that a hole is believed to have: more is a log that begins anew.
const HOLE_MAX: u64 = 1 << 24;

/// A group on the way through the log.
#[derive(Default)]
struct Group {
    hard: HardState,
    base: EntryId,
    snapshot: Option<EntryId>,
    in_doubt: bool,
    /// The index before the first of `entries`.
    start: u64,
    /// Segment (place in the chain) and bytes of each entry that is there.
    entries: VecDeque<Option<(u32, u32)>>,
}

impl Group {
    fn forget_upto(&mut self, base: u64) {
        let gone = base.saturating_sub(self.start).min(self.entries.len() as u64);
        self.entries.drain(..usize::try_from(gone).expect("entries in memory"));
        self.start = self.start.max(base);
    }

    /// Puts an entry in its place.
    fn put(&mut self, index: u64, entry: (u32, u32)) {
        if self.entries.is_empty() {
            self.start = index - 1;
        }
        let last = self.start + self.entries.len() as u64;
        if index <= self.base.index.0 || (last + HOLE_MAX) < index || index + HOLE_MAX < self.start {
            return;
        }
        while index <= self.start {
            self.entries.push_front(None);
            self.start -= 1;
        }
        let at = usize::try_from(index - self.start - 1).expect("entries in memory");
        self.entries.resize(self.entries.len().max(at + 1), None);
        self.entries[at] = Some(entry);
    }

    fn replace_from(&mut self, first: u64) {
        let last = self.start + self.entries.len() as u64;
        // Within the log, a gap is a hole. A gap of more than can be is a log that begins anew.
        let hole = first.saturating_sub(last + 1);
        if first <= self.start || self.entries.is_empty() || hole > HOLE_MAX {
            (self.start, self.entries) = (first - 1, VecDeque::new());
        } else {
            let len = usize::try_from(first - 1 - self.start).expect("entries in memory");
            self.entries.resize(len, None);
        }
    }
}

/// A file as found.
struct File {
    path: PathBuf,
    bytes: u64,
    generation: u64,
    /// Highest `first` in blocks of that generation.
    first: u64,
    head: Option<(Header, Head)>,
}

struct Scan<'a> {
    log_id: u64,
    attested: u64,
    last_lsn: u64,
    epoch: u64,
    groups: BTreeMap<GroupId, Group>,
    groups_lost: bool,
    damage: Vec<Damage>,
    stats: LogStats,
    visit: &'a mut dyn FnMut(Piece),
}

impl<'a> Scan<'a> {
    fn run(dir: &Path, log_id: Option<u64>, visit: &'a mut dyn FnMut(Piece)) -> io::Result<Scan<'a>> {
        let mut scan = Scan {
            log_id: log_id.unwrap_or(0),
            attested: 0,
            last_lsn: 0,
            epoch: 0,
            groups: BTreeMap::new(),
            groups_lost: false,
            damage: Vec::new(),
            stats: LogStats::default(),
            visit,
        };
        let mut files = Vec::new();
        for path in list(dir, |name| Pool::parse_name(name).is_some())? {
            let bytes = fs::read(&path)?;
            files.extend(scan.survey(path, &bytes));
        }
        scan.chain(dir, files)?;
        scan.snapshots(dir)?;
        Ok(scan)
    }

    fn wrong(&mut self, file: &Path, offset: u64, verdict: Verdict) {
        self.tell(Damage { file: file.to_path_buf(), offset, batches: None, entries: Vec::new(), verdict });
    }

    fn tell(&mut self, damage: Damage) {
        (self.visit)(Piece::Damage(&damage));
        self.damage.push(damage);
    }

    /// Finds out what a file is; nothing if it is free or a stranger's.
    fn survey(&mut self, path: PathBuf, bytes: &[u8]) -> Option<File> {
        self.stats.files += 1;
        self.stats.file_bytes += bytes.len() as u64;
        let mut file = File { path, bytes: bytes.len() as u64, generation: 0, first: 0, head: None };
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            if self.log_id == 0
                && let Err(BlockError::Foreign(found)) = block::read_header(rest, 0, at as u64, rest.len() as u64)
            {
                self.log_id = found;
            }
            match block::read_header(rest, self.log_id, at as u64, rest.len() as u64) {
                Ok(header) => {
                    self.attested = self.attested.max(header.durable);
                    if header.generation > file.generation {
                        (file.generation, file.first) = (header.generation, 0);
                    }
                    if header.generation == file.generation {
                        file.first = file.first.max(header.first);
                    }
                    if at == 0 && header.kind == Kind::Head {
                        let head = block::read_body(&header, rest).ok().and_then(|body| block::read_head(body).ok());
                        file.head = head.map(|head| (header, head));
                    }
                    at += block::padded_len(header.body_len as usize);
                }
                Err(error @ (BlockError::Version(_) | BlockError::Foreign(_))) if at == 0 => {
                    self.wrong(&file.path, 0, Verdict::Stranger(error));
                    return None;
                }
                Err(_) => at += BLOCK_ALIGN,
            }
        }
        if let Some((header, head)) = file.head {
            // What is behind belongs to an earlier life, even if the head is of the same.
            file.generation = header.generation;
            if head.segment_bytes != file.bytes {
                self.wrong(&file.path, 0, Verdict::Resized(head.segment_bytes));
            }
        }
        (file.generation > 0).then_some(file)
    }

    /// Reads the segments from the oldest needed to the newest.
    fn chain(&mut self, dir: &Path, mut files: Vec<File>) -> io::Result<()> {
        files.sort_by_key(|file| file.generation);
        let Some(newest) = files.iter().rposition(|file| file.head.is_some()) else {
            if self.attested > 0 {
                self.wrong(dir, 0, Verdict::Damaged(BlockError::Blank));
            }
            return Ok(());
        };
        let first = files[newest].first;
        let mut chain = vec![newest];
        loop {
            let here = &files[chain[chain.len() - 1]];
            let below = |generation: u64| files.iter().rposition(|file| file.generation < generation);
            let link = match here.head {
                Some((_, head)) => head.previous.min(here.generation - 1),
                // Nobody knows; the next older one is likely.
                None => below(here.generation).map_or(0, |at| files[at].generation),
            };
            if link == 0 || link < first {
                break;
            }
            let same: Vec<usize> = (0..files.len()).filter(|at| files[*at].generation == link).collect();
            if let [_, twice, ..] = same[..] {
                self.wrong(&files[twice].path.clone(), 0, Verdict::Duplicate(link));
            }
            if same.is_empty() {
                self.wrong(dir, 0, Verdict::Missing(link));
            }
            match same.first().copied().or(below(link)) {
                Some(at) => chain.push(at),
                None => break,
            }
        }
        let oldest = files[chain[chain.len() - 1]].generation;
        if oldest > first {
            self.wrong(dir, 0, Verdict::Missing(first));
        }
        let mut chain: Vec<&File> =
            chain.into_iter().rev().map(|at| &files[at]).filter(|file| file.generation >= first).collect();
        // Younger ones whose heads are torn or damaged: what is attested decides which.
        chain.extend(files.iter().filter(|file| file.generation > files[newest].generation));
        for (nth, file) in chain.iter().enumerate() {
            if !self.segment(file, chain.get(nth + 1).copied())? {
                break;
            }
        }
        Ok(())
    }

    /// Reads one segment. Gives whether the log goes on behind it.
    fn segment(&mut self, file: &File, next: Option<&File>) -> io::Result<bool> {
        let bytes = fs::read(&file.path)?;
        let stats = SegmentStats {
            file: file.path.clone(),
            generation: file.generation,
            bytes: file.bytes,
            ..SegmentStats::default()
        };
        self.stats.segments.push(stats);
        let place = next.and_then(|next| next.head).map_or(0, |(_, head)| head.footer as usize * BLOCK_ALIGN);
        let footer = self.whole(file, &bytes, place, Kind::Footer).ok().filter(|_| place > 0);
        let known = self.stats.segments.len() > 1;
        let mut at = 0;
        loop {
            let kind = if at == 0 { Kind::Head } else { Kind::Batch };
            let error = match self.next(file, &bytes, at, kind, known || at > 0) {
                Ok((header, body)) => {
                    self.block(file, &header, body, at);
                    at += block::padded_len(header.body_len as usize);
                    continue;
                }
                Err(error) => error,
            };
            if let BlockError::Version(_) | BlockError::Foreign(_) = error {
                self.wrong(&file.path, at as u64, Verdict::Stranger(error));
                return Ok(false);
            }
            // The next block that can only belong here.
            let mut later = (at + BLOCK_ALIGN..bytes.len()).step_by(BLOCK_ALIGN);
            let resume = later.find_map(|at| {
                let (header, _) = self.whole(file, &bytes, at, Kind::Batch).ok()?;
                (header.lsn > self.last_lsn && header.epoch >= self.epoch).then_some((at, header.lsn))
            });
            let next_lsn = next.and_then(|next| next.head).map(|(header, _)| header.lsn);
            let upto = match resume {
                Some((_, lsn)) => lsn - 1,
                None => next_lsn.unwrap_or(if next.is_none() { self.attested } else { 0 }),
            };
            let gap = resume.is_some() || at == 0 || upto > self.last_lsn;
            if gap {
                let damaged = self.attested > self.last_lsn || at == 0 && !known && self.attested > 0;
                let verdict = if damaged { Verdict::Damaged(error) } else { Verdict::Torn(error) };
                let lost = at as u64..resume.map_or(u64::MAX, |(at, _)| at as u64);
                let entries = footer.map_or_else(Vec::new, |(_, body)| lost_entries(body, &lost));
                let batches = (upto > self.last_lsn).then_some((self.last_lsn + 1, upto));
                self.tell(Damage { file: file.path.clone(), offset: at as u64, batches, entries, verdict });
                if !damaged {
                    return Ok(false);
                }
            } else if next.is_none() && matches!(error, BlockError::Header | BlockError::Body) {
                self.wrong(&file.path, at as u64, Verdict::Torn(error));
            }
            match resume {
                Some((place, lsn)) => (at, self.last_lsn) = (place, lsn - 1),
                None => break,
            }
        }
        self.last_lsn = self.last_lsn.max(next.and_then(|next| next.head).map_or(0, |(header, _)| header.lsn));
        if let Some((header, body)) = footer {
            self.announce(file, &header, place);
            let stats = self.stats.segments.last_mut().expect("pushed above");
            stats.footer_bytes = block::padded_len(body.len()) as u64;
        } else if place > 0 {
            self.wrong(&file.path, place as u64, Verdict::Footer);
        }
        Ok(true)
    }

    /// The block at `at`, if it continues the log.
    fn next<'b>(
        &self,
        file: &File,
        bytes: &'b [u8],
        at: usize,
        kind: Kind,
        known: bool,
    ) -> Result<(Header, &'b [u8]), BlockError> {
        let (header, body) = self.whole(file, bytes, at, kind)?;
        let lsn = self.last_lsn + u64::from(kind == Kind::Batch);
        if known && (header.lsn != lsn || header.epoch < self.epoch) || header.first > file.generation {
            return Err(BlockError::Stale);
        }
        Ok((header, body))
    }

    /// The block at `at`, if it is whole and of this kind and segment.
    fn whole<'b>(&self, file: &File, bytes: &'b [u8], at: usize, kind: Kind) -> Result<(Header, &'b [u8]), BlockError> {
        let rest = bytes.get(at..).ok_or(BlockError::Length)?;
        let header = block::read_header(rest, self.log_id, at as u64, rest.len() as u64)?;
        if header.kind != kind || header.generation != file.generation {
            return Err(BlockError::Stale);
        }
        let body = block::read_body(&header, rest)?;
        let good = match kind {
            Kind::Head => block::read_head(body).is_ok(),
            Kind::Batch => true,
            Kind::Footer => footer::read(body, at as u64).is_some(),
        };
        if good { Ok((header, body)) } else { Err(BlockError::Body) }
    }

    fn announce(&mut self, file: &File, header: &Header, at: usize) {
        let what = match header.kind {
            Kind::Head => "head",
            Kind::Batch => "batch",
            Kind::Footer => "footer",
        };
        (self.visit)(Piece::Block {
            file: &file.path,
            offset: at as u64,
            what,
            generation: header.generation,
            batch: header.lsn,
            durable: header.durable,
            epoch: header.epoch,
            bytes: block::padded_len(header.body_len as usize) as u64,
        });
    }

    fn block(&mut self, file: &File, header: &Header, body: &[u8], at: usize) {
        self.announce(file, header, at);
        (self.last_lsn, self.epoch) = (header.lsn, header.epoch);
        let stats = self.stats.segments.last_mut().expect("pushed when it was begun");
        let padded = block::padded_len(body.len()) as u64;
        let skip = match header.kind {
            Kind::Head => {
                stats.head_bytes += padded;
                self.groups_lost = block::read_head(body).is_ok_and(|head| head.groups_lost);
                block::HEAD
            }
            _ => {
                (stats.batches, stats.batch_bytes) = (stats.batches + 1, stats.batch_bytes + padded);
                0
            }
        };
        let (mut rest, mut count) = (&body[skip..], 0);
        while !rest.is_empty() {
            let offset = at + block::HEADER + body.len() - rest.len();
            let read = section::read(rest).and_then(|section| self.section(&section, offset).map(|()| section.len));
            match read {
                Ok(len) => rest = &rest[len..],
                Err(error) => return self.wrong(&file.path, offset as u64, Verdict::Nonsense(error)),
            }
            count += 1;
        }
        if count != header.sections {
            self.wrong(&file.path, at as u64, Verdict::Nonsense(SectionError::Count));
        }
    }

    fn section(&mut self, section: &Section, offset: usize) -> Result<(), SectionError> {
        let id = section.group;
        let state = section.hard.is_some() || section.base.is_some() || section.snapshot.is_some();
        if state || section.conf.is_some() || section.reset {
            (self.visit)(Piece::State {
                group: id,
                hard_state: section.hard,
                base: section.base,
                reset: section.reset,
                snapshot: section.snapshot,
                conf: section.conf.clone(),
            });
        }
        let nth = u32::try_from(self.stats.segments.len() - 1).expect("fewer than 2^32 segments");
        let segment = self.stats.segments.last_mut().expect("pushed when it was begun");
        let group = self.groups.entry(id).or_default();
        group.snapshot = section.snapshot.or(group.snapshot);
        group.hard = section.hard.unwrap_or(group.hard);
        group.in_doubt = section.doubt != Doubt::default();
        if let Some(base) = section.base {
            group.base = base;
            if section.reset {
                (group.start, group.entries) = (base.index.0, VecDeque::new());
            }
            group.forget_upto(base.index.0);
        }
        let Some(entries) = section.entries else { return Ok(()) };
        if entries.after.0 > u64::MAX / 2 {
            return Err(SectionError::Record(entries.after));
        }
        if !entries.fill {
            group.replace_from(entries.after.0 + 1);
        }
        let mut index = entries.after.next();
        let mut at = offset + entries.offset;
        for record in Records::new(entries.run) {
            let record = record.map_err(|_| SectionError::Record(index))?;
            if record.id.index != index || !record.verify(GroupSeed::of(id)) {
                return Err(SectionError::Record(index));
            }
            let len = u32::try_from(record.bytes().len()).expect("28 bits and a little");
            let (id, kind, payload) = (record.id, record.kind, record.payload);
            (self.visit)(Piece::Entry { group: section.group, id, kind, offset: at as u64, payload });
            group.put(index.0, (nth, len));
            segment.record_bytes += u64::from(len);
            at += record.bytes().len();
            index = index.next();
        }
        let count = index.0 - entries.after.0 - 1;
        if count == u64::from(entries.records) { Ok(()) } else { Err(SectionError::Record(index)) }
    }

    fn snapshots(&mut self, dir: &Path) -> io::Result<()> {
        let dir = dir.join("snap");
        if !dir.is_dir() {
            return Ok(());
        }
        for path in list(&dir, |name| SnapshotName::parse(name).is_some())? {
            let bytes = fs::read(&path)?;
            self.stats.snapshots += 1;
            self.stats.snapshot_bytes += bytes.len() as u64;
            if let Err(error) = SnapshotReader::of_any_log(Bytes::from(bytes)) {
                self.wrong(&path, 0, Verdict::Snapshot(error));
            }
        }
        Ok(())
    }

    fn check(self) -> Check {
        let groups = self.groups.into_iter().map(|(id, group)| {
            let last = (group.start + group.entries.len() as u64).max(group.base.index.0);
            let mut holes = Vec::new();
            let mut missing = group.base.index.0 + 1..group.start + 1;
            for (index, entry) in (group.start + 1..).zip(&group.entries) {
                if entry.is_none() {
                    missing = if missing.is_empty() { index..index + 1 } else { missing.start..index + 1 };
                } else if !missing.is_empty() {
                    holes.push((Index(missing.start), Index(missing.end - 1)));
                    missing = 0..0;
                }
            }
            if !missing.is_empty() {
                holes.push((Index(missing.start), Index(missing.end - 1)));
            }
            let intact = holes.first().map_or(last, |(first, _)| first.0 - 1);
            GroupCheck {
                group: id,
                hard_state: group.hard,
                base: group.base,
                snapshot: group.snapshot,
                intact: Index(intact),
                last: Index(last),
                holes,
                in_doubt: group.in_doubt,
            }
        });
        Check {
            log_id: self.log_id,
            last_batch: self.last_lsn,
            attested: self.attested,
            groups: groups.collect(),
            damage: self.damage,
            groups_lost: self.groups_lost,
            changing: false,
        }
    }

    fn stats(self) -> LogStats {
        let mut stats = self.stats;
        for (id, group) in self.groups {
            let mut of_group = GroupStats { group: id, ..GroupStats::default() };
            for (nth, len) in group.entries.into_iter().flatten() {
                let segment = &mut stats.segments[nth as usize];
                segment.live_bytes += u64::from(len);
                if of_group.entries == 0 || segment.generation < of_group.oldest {
                    of_group.oldest = segment.generation;
                }
                of_group.entries += 1;
                of_group.live_bytes += u64::from(len);
            }
            stats.live_bytes += of_group.live_bytes;
            stats.groups.push(of_group);
        }
        stats.record_bytes = stats.segments.iter().map(|segment| segment.record_bytes).sum();
        stats
    }
}

/// The entries that a footer knows in a part of its segment.
fn lost_entries(body: &[u8], part: &std::ops::Range<u64>) -> Vec<(GroupId, Index, Index)> {
    let mut lost: Vec<(GroupId, Index, Index)> = Vec::new();
    for item in Items::new(body).into_iter().flatten().filter(|item| part.contains(&u64::from(item.offset))) {
        let (first, last) = (item.id.index, Index(item.id.index.0 + u64::from(item.records) - 1));
        match lost.iter_mut().find(|(group, _, end)| *group == item.group && end.next() == first) {
            Some((_, _, end)) => *end = last,
            None => lost.push((item.group, first, last)),
        }
    }
    lost
}
