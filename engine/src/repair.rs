//! Mending what damage has taken from a group: holes are filled with entries of its peers, doubts end when the node says
//! so. The rule stands at [`Wounds`].

use std::path::{Path, PathBuf};

use bytes::Bytes;
use ringraft_raft::record::{Record, Records};
use ringraft_raft::{GroupId, HardState, Index, PeerId, Storage, Term};

use crate::engine::{BatchNo, Engine};
use crate::error::{EngineError, RepairError};
use crate::group::{Pins, Run, Runs};
use crate::group_log::{GroupLog, Meta, Unsaid};
use crate::wal::section::Parts;
use crate::wal::segment::Chain;
use crate::wounds::{Hole, HoleReason, Wounded, Wounds};

impl Engine {
    /// What a group has lost to damage; nothing for one that is sound or unknown.
    #[must_use]
    pub fn wounds(&self, group: GroupId) -> Option<&Wounds> {
        let slot = *self.slots.get(&group)?;
        self.groups[slot].wounded.as_ref().map(|wounded| &wounded.told)
    }

    /// The entries of a group that are known to be missing, in order: of its [`Wounds`].
    #[must_use]
    pub fn holes(&self, group: GroupId) -> &[Hole] {
        self.wounds(group).map_or(&[], |wounds| &wounds.holes)
    }

    /// Fills a hole that begins with `first`, or its first part: with encoded records as a peer has them. Gives the batch
    /// that completes it; until then a restart finds the hole. Once a hole that was not [known](Hole::known) is full, the
    /// log goes on to what waits behind it.
    ///
    /// A checksum says that a record is as it was made, not that it belongs here: take them from the leader, or from
    /// whoever has them committed.
    ///
    /// # Errors
    /// [`RepairError`]; nothing was taken.
    ///
    /// # Panics
    /// If something is staged and not yet appended.
    pub fn repair(&mut self, log: &mut GroupLog, first: Index, records: Bytes) -> Result<BatchNo, RepairError> {
        self.alive()?;
        assert!(log.staged.is_empty(), "what is staged comes behind a hole");
        let at = self.holes(log.group()).iter().position(|hole| hole.first == first);
        let at = at.ok_or(RepairError::NoHole { index: first })?;
        let last = self.check_repair(log, at, &records)?;
        if last < first {
            return Ok(BatchNo(self.writer.last_lsn()));
        }
        self.room(records.len())?;
        let parts = Parts { doubt: self.groups[log.slot].doubt(), fill: true, ..Parts::default() };
        let (mut next, mut rest) = (first, records);
        while !rest.is_empty() {
            let (piece, end, place) = self.put_run(log.slot, &parts, next, &mut rest);
            let len = u32::try_from(piece.len()).expect("bytes of one block");
            let run = Run { first: next, segment: place.generation, offset: place.offset, len };
            self.filled(log, at, run, end.prev(), &piece);
            self.fills.add(run, piece);
            next = end;
        }
        let group = &mut self.groups[log.slot];
        let wounded = group.wounded.as_mut().expect("it has a hole");
        let hole = &mut wounded.told.holes[at];
        hole.first = next;
        if hole.first > hole.last {
            let known = hole.known;
            wounded.told.holes.remove(at);
            if !known {
                close(log, &mut group.runs, wounded, at, &mut self.chain);
            }
        }
        group.forget_no_wounds();
        Ok(BatchNo(self.writer.last_lsn()))
    }

    /// Ends all doubts about a group: its hard state is this one, its log ends where it ends. Gives the batch that says
    /// so. Holes whose entries are [known](Hole::known) stay.
    ///
    /// # Errors
    /// [`RepairError::Holes`] while entries are missing that nobody knows; [`RepairError::Engine`].
    ///
    /// # Panics
    /// If the term goes back, or something is staged and not yet appended.
    pub fn heal(&mut self, log: &mut GroupLog, hard_state: HardState) -> Result<BatchNo, RepairError> {
        self.alive()?;
        assert!(log.staged.is_empty(), "what is staged comes later");
        assert!(hard_state.term >= log.hard.term, "term {} after {}", hard_state.term, log.hard.term);
        let mut holes = self.holes(log.group()).iter();
        if let Some(hole) = holes.find(|hole| !hole.known) {
            return Err(RepairError::Holes { first: hole.first });
        }
        self.room_for_votes()?;
        self.room_in_checkpoint(log)?;
        log.hard = hard_state;
        let group = &mut self.groups[log.slot];
        if let Some(wounded) = &mut group.wounded {
            (wounded.told.hard_state_lost, wounded.told.tail_lost) = (false, false);
        }
        group.forget_no_wounds();
        log.unsaid = Unsaid::default();
        let (hard, snapshot, conf) = (Some(log.hard), log.snapshot, log.conf.clone());
        let parts = Parts { hard, snapshot, conf: Some(&conf), sound: true, ..Parts::default() };
        self.put_parts(log, &parts);
        Ok(BatchNo(self.writer.last_lsn()))
    }

    /// Gives up what lies at and behind a group's first hole: the log ends before it, here at once, and on the disk its
    /// end is in doubt with the batch whose number is given. For who gets it all again from a leader, by appending, rather
    /// than by [repair](Engine::repair). The term is at least that of the last entry left.
    ///
    /// # Errors
    /// As [`Engine::append`]; nothing was given up.
    ///
    /// # Panics
    /// If something is staged.
    pub fn cut_at_hole(&mut self, log: &mut GroupLog) -> Result<BatchNo, EngineError> {
        self.alive()?;
        assert!(log.staged.is_empty(), "nothing is staged behind a hole");
        self.room_for_votes()?;
        let group = &mut self.groups[log.slot];
        let before = group.runs.cached_bytes();
        if let Some(wounded) = &mut group.wounded
            && let Some(hole) = wounded.told.holes.first()
        {
            let first = hole.first;
            wounded.told.holes.clear();
            wounded.told.tail_lost = true;
            wounded.islands.drain(..).for_each(|mut island| island.runs.clear(&mut self.chain));
            if first <= log.last_index() {
                log.entries_mut().replace_from(first);
                group.runs.truncate(first, log.entries(), &mut self.chain);
            }
        }
        self.cached_bytes = self.cached_bytes - before + group.runs.cached_bytes();
        let last = log.last_index();
        log.hard.commit = log.hard.commit.min(last).max(log.base.index);
        let term = log.term(last).expect("within the log");
        if log.hard.term < term {
            (log.hard.term, log.hard.vote) = (term, PeerId::ZERO);
        }
        // What is given up keeps no segment any more: from now on only the doubt tells that there was something.
        self.lay_out(log, true, false);
        Ok(BatchNo(self.writer.last_lsn()))
    }

    /// All groups that may have been lost to damage have been [created](Engine::create) again by now: others that are
    /// created are new. Said on the disk with the next segment; until then a restart is in doubt again.
    pub fn forget_lost_groups(&mut self) {
        self.writer.groups_lost = false;
    }

    /// Whether these records can be what is missing in a hole; gives the index of the last one.
    fn check_repair(&self, log: &GroupLog, at: usize, records: &[u8]) -> Result<Index, RepairError> {
        let wounded = self.groups[log.slot].wounded.as_ref().expect("it has a hole");
        let hole = &wounded.told.holes[at];
        let nth = wounded.told.holes[..at].iter().filter(|hole| !hole.known).count();
        // The terms of its neighbours.
        let ends = |nth: usize| wounded.islands[nth].meta.ends().expect("an island is not empty");
        let (mut term, next_term) = match nth.checked_sub(1) {
            _ if hole.known => (Term(0), Term(u64::MAX)),
            None => (log.term(log.last_index()).expect("within the log"), ends(nth).0.term),
            Some(before) => (ends(before).1.term, ends(nth).0.term),
        };
        let mut index = hole.first;
        for record in Records::new(records) {
            let record: Record = record?;
            let fits = index <= hole.last && record.id.index == index && record.verify(log.seed());
            let fits = fits && (!hole.known || log.entries().is_at(index, &record));
            if !fits || record.bytes().len() > self.config.record_bytes_max {
                return Err(RepairError::Entry { index });
            }
            if record.id.term < term || record.id.term > next_term {
                return Err(RepairError::Term { index, term: record.id.term });
            }
            term = record.id.term;
            index = index.next();
        }
        Ok(index.prev())
    }

    /// Notes where a part of a hole lies now, up to `last`.
    fn filled(&mut self, log: &mut GroupLog, at: usize, run: Run, last: Index, records: &[u8]) {
        let group = &mut self.groups[log.slot];
        let wounded = group.wounded.as_mut().expect("it has a hole");
        let pins = &mut self.chain;
        if wounded.told.holes[at].known {
            let mut old = group.runs.split_off(run.first, log.entries(), pins);
            let back = old.split_off(last.next(), log.entries(), pins);
            old.clear(pins);
            group.runs.push(run, last, None, pins);
            group.runs.append(back, pins);
            return;
        }
        let nth = wounded.told.holes[..at].iter().filter(|hole| !hole.known).count();
        let (meta, runs): (&mut Meta, &mut Runs) = match nth.checked_sub(1) {
            None => (log.entries_mut(), &mut group.runs),
            Some(before) => {
                let island = &mut wounded.islands[before];
                (&mut island.meta, &mut island.runs)
            }
        };
        Records::new(records).for_each(|record| meta.push(&record.expect("read before")));
        runs.push(run, last, None, pins);
    }

    /// The run at `at` cannot be read whole: finds out which of its records cannot.
    pub(crate) fn unreadable(&mut self, log: &GroupLog, at: usize, mapping: &[u8], file: &Path) {
        let runs = &self.groups[log.slot].runs;
        let (run, _) = runs.get(at).expect("it was read");
        let (end, mut offset) = (runs.end(at), run.offset as usize);
        let mut bad: Vec<Hole> = Vec::new();
        let mut index = run.first;
        while index < end {
            let len = log.entries().encoded_len(index);
            let record = mapping.get(offset..offset + len).and_then(|bytes| Record::read(bytes).ok());
            let good = record.is_some_and(|it| log.entries().is_at(index, &it) && it.verify(log.seed()));
            // What lies in a damaged block stays a hole, even if it can be read: the next start finds it again.
            let told = self.holes(log.group()).iter().any(|hole| (hole.first..=hole.last).contains(&index));
            match bad.last_mut().filter(|hole| hole.last == index.prev()) {
                _ if good || told => {}
                Some(hole) => hole.last = index,
                None => {
                    let (reason, file) = (HoleReason::Record, PathBuf::from(file));
                    bad.push(Hole { first: index, last: index, known: true, reason, file, offset: offset as u64 });
                }
            }
            (index, offset) = (index.next(), offset + len);
        }
        let wounded = self.groups[log.slot].wounded.get_or_insert_with(Box::<Wounded>::default);
        wounded.told.holes.extend(bad);
        wounded.told.holes.sort_unstable_by_key(|hole| hole.first);
        self.groups[log.slot].forget_no_wounds();
    }
}

/// Joins the log before a hole that is full now with what waited behind it.
fn close(log: &mut GroupLog, runs: &mut Runs, wounded: &mut Wounded, at: usize, pins: &mut impl Pins) {
    let nth = wounded.told.holes[..at].iter().filter(|hole| !hole.known).count();
    let Some(island) = wounded.islands.remove(nth) else { return };
    let (meta, runs): (&mut Meta, &mut Runs) = match nth.checked_sub(1) {
        None => (log.entries_mut(), runs),
        Some(before) => {
            let before = &mut wounded.islands[before];
            (&mut before.meta, &mut before.runs)
        }
    };
    meta.append(island.meta);
    runs.append(island.runs, pins);
}

/// Bytes of filled holes, as long as they cannot be read from the disk.
#[derive(Default, Debug)]
pub(crate) struct Fills {
    fills: Vec<(Run, Bytes)>,
}

impl Fills {
    fn add(&mut self, run: Run, bytes: Bytes) {
        self.fills.push((run, bytes));
    }

    /// The bytes of a run, if it is one of these or part of it.
    pub(crate) fn find(&self, run: &Run) -> Option<Bytes> {
        let (from, to) = (run.offset, run.offset + run.len);
        let holds =
            |whole: &Run| whole.segment == run.segment && whole.offset <= from && to <= whole.offset + whole.len;
        let (whole, bytes) = self.fills.iter().find(|(whole, _)| holds(whole))?;
        Some(bytes.slice((from - whole.offset) as usize..(to - whole.offset) as usize))
    }

    /// Lets go of what can be read from the disk.
    pub(crate) fn evict(&mut self, chain: &Chain, durable: u64) {
        self.fills.retain(|(run, _)| !chain.is_settled(run.segment, durable));
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.fills.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }
}
