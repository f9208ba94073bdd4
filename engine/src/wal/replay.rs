//! The groups as the blocks of a log say, one block after the other; and what damage leaves of them.
//!
//! A block that cannot be read may have held anything, of any group: a vote, entries, other entries in place of the
//! last ones. So every group is in doubt at every [gap](Gap), until something that was written later says how it is:
//!
//! - A hard state, as in every checkpoint, says what the hard state is.
//! - Entries say what comes before them: what is missing there is a hole. Behind them was nothing.
//! - What is committed is never replaced. What was not committed at a gap may have been: it is forgotten there.
//! - The footer of the segment, if there is one, knows every entry that lay in the gap.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use ringraft_raft::record::{GroupSeed, Records};
use ringraft_raft::{ConfState, EntryId, GroupId, HardState, Index, Storage};

use super::block;
use super::chain::Sealed;
use super::footer::{Footer, Item, Items, Mark};
use super::pieces::{Nobody, Piece, Pieces, Unreadable};
use super::recovery::{Groups, refused};
use super::section::{self, Doubt, Section, SectionError};
use crate::config::Config;
use crate::error::{EngineError, Reason};
use crate::group::{Group, Run};
use crate::group_log::GroupLog;
use crate::wounds::{Gap, Hole, HoleReason, Wounded, Wounds};

/// What the blocks taken so far say.
pub(crate) struct Replay<'a> {
    config: &'a Config,
    known: BTreeMap<GroupId, Known>,
    /// Of the newest segment.
    pub(crate) footer: Footer,
    pub(crate) gaps: Vec<Gap>,
    lost: Lost,
    /// There may have been groups that nothing tells of.
    pub(crate) groups_lost: bool,
}

/// How many gaps may have taken something of a kind.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Lost {
    /// A hard state or a membership.
    hard: u32,
    /// Entries at the end.
    tail: u32,
    /// Entries in place of others.
    replaced: u32,
}

/// A group.
#[derive(Default)]
struct Known {
    /// A section has begun it, with a membership.
    said: bool,
    hard: HardState,
    base: EntryId,
    snapshot: Option<EntryId>,
    conf: ConfState,
    pieces: Pieces,
    mark: Mark,
    /// As the last section says.
    doubt: Doubt,
    /// The gaps that count no more.
    over: Lost,
    /// How many gaps there were when its membership was said last.
    conf_over: u32,
}

/// What a gap may have taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Took {
    /// The head of a segment, with its checkpoint.
    Head,
    /// Batches; a footer knows what entries were in them.
    Known,
    /// Batches.
    Anything,
}

/// What was found in the end.
pub(crate) struct Finished {
    pub(crate) groups: Groups,
    pub(crate) footer: Footer,
    pub(crate) wounded: usize,
}

impl<'a> Replay<'a> {
    pub(crate) fn new(config: &'a Config) -> Replay<'a> {
        let footer = Footer::none(config.footer_bytes_max());
        let known = BTreeMap::new();
        Replay { config, known, footer, gaps: Vec::new(), lost: Lost::default(), groups_lost: false }
    }

    /// Replays the sections of a block; `offset` is where they begin in the segment.
    pub(crate) fn block(
        &mut self,
        body: &[u8],
        sections: u32,
        generation: u64,
        offset: usize,
    ) -> Result<(), SectionError> {
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

    /// A head: its checkpoint, which comes as a block, names every group.
    pub(crate) fn head(&mut self, groups_lost: bool) {
        self.groups_lost = groups_lost;
    }

    /// Something is lost here.
    pub(crate) fn gap(&mut self, gap: Gap, took: Took) {
        self.gaps.push(gap);
        self.groups_lost = true;
        self.lost.hard += 1;
        self.lost.tail += u32::from(took != Took::Known);
        self.lost.replaced += u32::from(took == Took::Anything);
        // It would not know all of its segment.
        self.footer = Footer::none(self.config.footer_bytes_max());
    }

    fn section(&mut self, section: &Section, generation: u32, at: usize) -> Result<(), SectionError> {
        let (lost, gap) = (self.lost, self.last_gap());
        let known = self.known.entry(section.group).or_default();
        if !known.said && section.conf.is_none() && !self.groups_lost {
            return Err(SectionError::Unknown);
        }
        known.forget_replaced(lost);
        if let Some(conf) = &section.conf {
            known.conf.clone_from(conf);
            known.said = true;
            known.conf_over = lost.hard;
        }
        if section.snapshot.is_some() {
            known.snapshot = section.snapshot;
        }
        if let Some(base) = section.base {
            if section.reset {
                known.pieces.reset(base.index);
                known.over.tail = lost.tail;
            } else {
                known.pieces.forget_upto(base.index);
            }
            known.base = base;
        }
        if let Some(hard) = section.hard {
            known.hard = hard;
            known.over.hard = lost.hard;
        }
        // Every section of a group in doubt says so.
        known.doubt = section.doubt;
        if section.sound {
            (known.over, known.conf_over) = (lost, lost.hard);
        }
        let Some(entries) = section.entries else { return Ok(()) };
        if entries.after < known.base.index || entries.after.0 > u64::MAX / 2 {
            return Err(SectionError::Record(entries.after));
        }
        let (first, seed) = (entries.after.next(), GroupSeed::of(section.group));
        let mut filled = entries.fill.then(|| Piece::starting_after(entries.after, gap));
        if !entries.fill {
            known.pieces.replace_from(first, gap);
            known.over.tail = lost.tail;
        }
        let piece = filled.as_mut().unwrap_or(&mut known.pieces.last);
        let mut index = first;
        for record in Records::new(entries.run) {
            let record = record.map_err(|_| SectionError::Record(index))?;
            if record.id.index != index || !record.verify(seed) {
                return Err(SectionError::Record(index));
            }
            piece.meta.push(&record);
            index = index.next();
        }
        if index == first || index.0 - first.0 != u64::from(entries.records) {
            return Err(SectionError::Record(index));
        }
        let offset = u32::try_from(at + entries.offset).map_err(|_| SectionError::Length)?;
        let len = u32::try_from(entries.run.len()).map_err(|_| SectionError::Length)?;
        self.footer.add(section.group, &mut known.mark, offset, entries.run, entries.fill);
        piece.runs.push(Run { first, segment: generation, offset, len }, index.prev(), None, &mut Nobody);
        if let Some(piece) = filled {
            known.pieces.fill(piece);
        }
        Ok(())
    }

    /// Takes the entries of a sealed segment by its footer. Whatever else is known of their groups is in the checkpoint
    /// of a later head.
    pub(crate) fn sealed(&mut self, sealed: &Sealed, generation: u32) {
        for item in sealed.items() {
            self.item(&item, generation);
        }
    }

    /// Takes the entries that a footer knows in a part of its segment that was lost in the last gap.
    pub(crate) fn unreadable(&mut self, sealed: &Sealed, generation: u32, part: &std::ops::Range<u64>) {
        let gap = self.last_gap().expect("after a gap");
        for item in sealed.items().filter(|item| part.contains(&u64::from(item.offset))) {
            let pieces = self.item(&item, generation);
            let (first, last) = (item.id.index, Index(item.id.index.0 + u64::from(item.records) - 1));
            pieces.unreadable.push(Unreadable { first, last, gap });
            pieces.unreadable.sort_unstable_by_key(|range| range.first);
        }
    }

    fn item(&mut self, item: &Item, generation: u32) -> &mut Pieces {
        let (lost, gap) = (self.lost, self.last_gap());
        let known = self.known.entry(item.group).or_default();
        known.forget_replaced(lost);
        known.over.tail = lost.tail;
        let first = item.id.index;
        let mut filled = item.fill.then(|| Piece::starting_after(first.prev(), gap));
        if !item.fill {
            known.pieces.replace_from(first, gap);
        }
        let piece = filled.as_mut().unwrap_or(&mut known.pieces.last);
        piece.meta.push_words(item.id, item.words());
        let len = u32::try_from(item.len).expect("within a segment");
        let last = Index(first.0 + u64::from(item.records) - 1);
        piece.runs.push(Run { first, segment: generation, offset: item.offset, len }, last, None, &mut Nobody);
        if let Some(piece) = filled {
            known.pieces.fill(piece);
        }
        &mut known.pieces
    }

    fn last_gap(&self) -> Option<u32> {
        u32::try_from(self.gaps.len()).expect("fewer gaps than blocks").checked_sub(1)
    }

    /// What every group is, in the end. Refuses wounds if they are not wanted. `tail`: the newest segment, and its
    /// bytes if it is continued.
    pub(crate) fn finish(mut self, file: &Path, lsn: u64) -> Result<Finished, EngineError> {
        let mut groups = Groups::new();
        let mut wounded = 0;
        for (id, mut known) in std::mem::take(&mut self.known) {
            if !known.said && self.groups_lost {
                // Without a membership it is no group: whoever makes it anew is told.
                continue;
            }
            if !known.said {
                return Err(refused(file, 0, Reason::Section { lsn, error: SectionError::Unknown }));
            }
            known.forget_replaced(self.lost);
            let slot = groups.len();
            let (log, group) = self.group(id, known, slot);
            if let Some(found) = &group.wounded {
                wounded += 1;
                self.check_wanted(id, &log, Some(&found.told))?;
            }
            groups.insert(id, (log, group));
        }
        if self.groups_lost {
            self.check_wanted(GroupId(0), &GroupLog::new(GroupId(0), ConfState::default(), 0, 0), None)?;
        }
        Ok(Finished { groups, footer: self.footer, wounded })
    }

    /// Both halves of a group.
    fn group(&self, id: GroupId, mut known: Known, slot: usize) -> (GroupLog, Group) {
        let base = known.base.index;
        let unreadable = std::mem::take(&mut known.pieces.unreadable);
        let mut pieces =
            std::mem::take(&mut known.pieces).into_pieces().filter(|piece| !piece.meta.is_empty()).peekable();
        let front = pieces.next_if(|piece| piece.meta.start() == base);
        let front = front.unwrap_or_else(|| Piece::starting_after(base, None));
        let mut told = Wounds::default();
        for range in unreadable.iter().filter(|range| range.last <= front.meta.last()) {
            told.holes.push(self.hole(range.first, range.last, true, Some(range.gap)));
        }
        let mut islands = std::collections::VecDeque::new();
        let mut last = front.meta.last();
        for piece in pieces.flat_map(|piece| readable(piece, &unreadable)) {
            told.holes.push(self.hole(last.next(), piece.meta.start(), false, piece.gap));
            last = piece.meta.last();
            islands.push_back(piece);
        }
        let stale_conf = known.conf_over < self.lost.hard && base > known.snapshot.map_or(Index::ZERO, |id| id.index);
        told.hard_state_lost = known.doubt.hard || known.over.hard < self.lost.hard || stale_conf;
        let beyond = unreadable.last().is_some_and(|range| range.last > last);
        told.tail_lost = known.doubt.tail || known.over.tail < self.lost.tail || beyond;

        let mut log = GroupLog::new(id, known.conf.clone(), slot, self.config.record_bytes_max);
        (log.base, log.snapshot) = (known.base, known.snapshot);
        // A write may have been split over two batches, the commit index in the first.
        known.hard.commit = known.hard.commit.clamp(base, front.meta.last());
        log.hard = known.hard;
        *log.entries_mut() = front.meta;
        let wounded = (!told.is_empty()).then(|| Box::new(Wounded { told, islands }));
        let group = Group {
            group: id,
            said: true,
            hard: known.hard,
            base: known.base,
            snapshot: known.snapshot,
            conf: known.conf,
            runs: front.runs,
            mark: known.mark,
            wounded,
        };
        (log, group)
    }

    fn hole(&self, first: Index, last: Index, known: bool, gap: Option<u32>) -> Hole {
        match gap.map(|gap| &self.gaps[gap as usize]) {
            Some(Gap { file, offset, error, .. }) => {
                Hole { first, last, known, reason: HoleReason::Block(*error), file: file.clone(), offset: *offset }
            }
            None => Hole { first, last, known, reason: HoleReason::Missing, file: self.config.dir.clone(), offset: 0 },
        }
    }

    /// Refuses a damaged log, unless it shall be opened with its wounds.
    fn check_wanted(&self, group: GroupId, log: &GroupLog, wounds: Option<&Wounds>) -> Result<(), EngineError> {
        if self.config.open_with_holes {
            return Ok(());
        }
        if let Some(gap) = self.gaps.first() {
            let (lsn, attested) = gap.batches.unwrap_or_default();
            let reason = Reason::Damaged { lsn, attested, error: gap.error };
            return Err(refused(&gap.file, gap.offset, reason));
        }
        let reason = match wounds.and_then(|wounds| wounds.holes.first()) {
            Some(hole) => Reason::Hole { group, base: log.base().index, start: hole.last },
            None => Reason::Wounded { group },
        };
        Err(refused(&self.config.dir, 0, reason))
    }
}

impl Known {
    /// Forgets what may have been replaced in gaps that this group has not met yet.
    fn forget_replaced(&mut self, lost: Lost) {
        if self.over.replaced < lost.replaced {
            self.over.replaced = lost.replaced;
            let first = self.hard.commit.max(self.base.index).next();
            self.pieces.truncate(first);
        }
    }
}

/// What of a piece can be read.
fn readable(piece: Piece, unreadable: &[Unreadable]) -> Vec<Piece> {
    let mut pieces = vec![piece];
    for range in unreadable {
        let mut rest = pieces.pop().expect("at least one");
        if rest.meta.is_empty() || range.first > rest.meta.last() || range.last <= rest.meta.start() {
            pieces.push(rest);
            continue;
        }
        let mut back = rest.split_off(range.first.max(rest.meta.start().next()));
        let behind = back.split_off(range.last.next().min(back.meta.last().next()));
        pieces.push(rest);
        pieces.push(Piece { gap: Some(range.gap), ..behind });
    }
    pieces.retain(|piece| !piece.meta.is_empty());
    pieces
}

impl Sealed {
    fn items(&self) -> Items<'_> {
        let body = block::read_body(&self.header, &self.bytes).expect("verified before");
        Items::new(body).expect("read before")
    }
}

/// The bytes of a run in the segment that is continued.
pub(crate) fn cached(run: &Run, generation: u32, bytes: &Bytes) -> Option<Bytes> {
    let (from, len) = (run.offset as usize, run.len as usize);
    (run.segment == generation).then(|| Bytes::copy_from_slice(&bytes[from..from + len]))
}
