//! One group's log as raft sees it: where it begins, how long it is, terms and sizes of its entries.
//!
//! What is kept per entry is the first word of its record (length and kind, 4 bytes), plus one boundary per term. The
//! payloads are the engine's: [`GroupLog::stage`] hands them over with the next append.

use std::collections::VecDeque;

use bytes::Bytes;
use ringraft_raft::record::{self, GroupSeed, PAYLOAD_MAX, Records};
use ringraft_raft::{ConfState, EntryId, EntryKind, EntryMeta, GroupId, HardState, Index, Storage, StorageError, Term};

use crate::error::StageError;
use crate::wal::section::MEMBERS_MAX;

/// One group's log. Made by [`Engine::create`](crate::Engine::create) or found by
/// [`Engine::open`](crate::Engine::open); belongs to that engine.
#[derive(Debug)]
pub struct GroupLog {
    group: GroupId,
    seed: GroupSeed,
    record_bytes_max: usize,
    /// Where the engine keeps its half.
    pub(crate) slot: usize,
    pub(crate) hard: HardState,
    pub(crate) base: EntryId,
    pub(crate) snapshot: Option<EntryId>,
    pub(crate) conf: ConfState,
    /// Which of the above the wal does not say yet.
    pub(crate) unsaid: Unsaid,
    entries: Meta,
    /// Runs that no append has taken yet, consecutive.
    pub(crate) staged: VecDeque<(Index, Bytes)>,
}

/// What rides with a group's next write.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Unsaid {
    pub(crate) commit: bool,
    pub(crate) snapshot: bool,
}

/// Terms and sizes of consecutive entries.
#[derive(Clone, Default, Debug)]
pub(crate) struct Meta {
    /// The index before the first word.
    start: Index,
    /// First words of the records.
    words: VecDeque<u32>,
    /// Where a term begins: first index, term. The first boundary lies at or before the first word.
    terms: VecDeque<(Index, Term)>,
}

impl GroupLog {
    pub(crate) fn new(group: GroupId, conf: ConfState, slot: usize, record_bytes_max: usize) -> GroupLog {
        assert!(conf.names() <= MEMBERS_MAX, "group {group}: {} members", conf.names());
        GroupLog {
            group,
            seed: GroupSeed::of(group),
            record_bytes_max,
            slot,
            hard: HardState::default(),
            base: EntryId::default(),
            snapshot: None,
            conf,
            unsaid: Unsaid::default(),
            entries: Meta::default(),
            staged: VecDeque::new(),
        }
    }

    /// Whose log it is.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Start value of this group's record checksums.
    #[must_use]
    pub fn seed(&self) -> GroupSeed {
        self.seed
    }

    /// The latest hard state appended; its commit index may have been [noted](crate::Engine::note_commit) only.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.hard
    }

    /// Takes the payload of the entries from `first` on: consecutive encoded records. They replace everything from
    /// `first` on, here at once, on the disk with the next [`Engine::append`](crate::Engine::append). Gives the new
    /// last index.
    ///
    /// A run right behind a [set snapshot](GroupLog::set_snapshot) that lies beyond the log is the start of a new log:
    /// the append must then name that snapshot.
    ///
    /// The log keeps the memory behind `run` alive for as long as it caches it, so a run should not be a small slice
    /// of a large buffer.
    ///
    /// # Errors
    /// Nothing is taken if the bytes are not records, do not join the log, or are too large.
    pub fn stage(&mut self, first: Index, run: Bytes) -> Result<Index, StageError> {
        let gap = StageError::Gap { first, base: self.base.index, last: self.last_index() };
        let joins = first > self.base.index && first <= self.last_index().next();
        let behind_snapshot = self.snapshot.filter(|id| id.index.next() == first && !joins);
        let mut term = match behind_snapshot {
            Some(id) => id.term,
            None if joins => self.term(first.prev()).map_err(|_| gap)?,
            None => return Err(gap),
        };
        let mut expected = first;
        for record in Records::new(&run) {
            let record = record?;
            let (found, bytes) = (record.id.index, record.bytes().len());
            if found != expected {
                return Err(StageError::Order { expected, found });
            }
            if record.id.term < term {
                return Err(StageError::Term { index: found, term: record.id.term });
            }
            if bytes > self.record_bytes_max {
                return Err(StageError::TooLarge { index: found, bytes, bytes_max: self.record_bytes_max });
            }
            term = record.id.term;
            expected = expected.next();
        }
        if expected == first {
            return Ok(self.last_index());
        }
        if behind_snapshot.is_some() {
            self.staged.clear();
        }
        self.entries.replace_from(first);
        for record in Records::new(&run) {
            let record = record.expect("read above");
            self.entries.push(&record);
        }
        while self.staged.back().is_some_and(|(staged, _)| *staged >= first) {
            self.staged.pop_back();
        }
        if let Some((staged, bytes)) = self.staged.back_mut() {
            // A later run may replace the tail of an earlier one of the same turn.
            let kept = usize::try_from(first.0 - staged.0).expect("entries of one run");
            let end = Records::new(bytes).take(kept).map(|record| record.map_or(0, |r| r.bytes().len())).sum();
            bytes.truncate(end);
        }
        self.staged.push_back((first, run));
        Ok(self.last_index())
    }

    /// Names the latest snapshot and the membership it holds: one that the node has made of this log, or one that is
    /// about to be installed. Its file must be durable. Rides with the group's next write.
    ///
    /// # Panics
    /// If it names more than [`MEMBERS_MAX`](crate::MEMBERS_MAX) members.
    pub fn set_snapshot(&mut self, id: EntryId, conf: ConfState) {
        assert!(conf.names() <= MEMBERS_MAX, "group {}: {} members", self.group, conf.names());
        self.snapshot = Some(id);
        self.conf = conf;
        self.unsaid.snapshot = true;
    }

    /// Forgets the entries up to `base`.
    /// Whether entries are staged that no append has taken yet.
    #[must_use]
    pub fn has_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    pub(crate) fn forget_upto(&mut self, base: EntryId) {
        self.base = base;
        self.entries.forget_upto(base.index);
    }

    /// Forgets all entries but those staged right behind `base`, where the log begins from now on.
    pub(crate) fn reset(&mut self, base: EntryId) {
        let staged = self.staged.front().is_some_and(|(first, _)| *first == base.index.next());
        self.base = base;
        if staged {
            self.entries.forget_upto(base.index);
        } else {
            self.entries = Meta { start: base.index, ..Meta::default() };
            self.staged.clear();
        }
    }

    pub(crate) fn entries_mut(&mut self) -> &mut Meta {
        &mut self.entries
    }

    pub(crate) fn entries(&self) -> &Meta {
        &self.entries
    }
}

impl Storage for GroupLog {
    fn initial_state(&self) -> (HardState, ConfState) {
        (self.hard, self.conf.clone())
    }

    fn base(&self) -> EntryId {
        self.base
    }

    fn last_index(&self) -> Index {
        self.entries.last()
    }

    fn term(&self, index: Index) -> Result<Term, StorageError> {
        if index == self.base.index {
            return Ok(self.base.term);
        }
        self.meta(index).map(|meta| meta.term)
    }

    fn meta(&self, index: Index) -> Result<EntryMeta, StorageError> {
        if index <= self.base.index {
            return Err(StorageError::Compacted { index, base: self.base.index });
        }
        if index > self.last_index() {
            return Err(StorageError::Unavailable { index, last: self.last_index() });
        }
        Ok(self.entries.meta(index))
    }

    fn limit(&self, after: Index, upto: Index, bytes_max: u64) -> Result<Index, StorageError> {
        if after < self.base.index {
            return Err(StorageError::Compacted { index: after, base: self.base.index });
        }
        if upto > self.last_index() {
            return Err(StorageError::Unavailable { index: upto, last: self.last_index() });
        }
        Ok(self.entries.limit(after, upto, bytes_max))
    }

    fn snapshot(&self) -> Option<EntryId> {
        self.snapshot
    }
}

impl Meta {
    pub(crate) fn starting_after(start: Index) -> Meta {
        Meta { start, ..Meta::default() }
    }

    pub(crate) fn start(&self) -> Index {
        self.start
    }

    pub(crate) fn last(&self) -> Index {
        Index(self.start.0 + self.words.len() as u64)
    }

    /// Drops the entries from `first` on, which is at most one beyond the last, or begins anew before `first`.
    pub(crate) fn replace_from(&mut self, first: Index) {
        if first <= self.start || first > self.last().next() {
            *self = Meta::starting_after(first.prev());
            return;
        }
        self.words.truncate(self.slot(first));
        while self.terms.back().is_some_and(|(begin, _)| *begin >= first) {
            self.terms.pop_back();
        }
    }

    pub(crate) fn push(&mut self, record: &record::Record) {
        let word = u32::from_le_bytes(record.bytes()[..4].try_into().expect("four bytes"));
        self.push_words(record.id, std::iter::once(word));
    }

    /// Adds entries of one term by the first words of their records.
    pub(crate) fn push_words(&mut self, first: EntryId, words: impl Iterator<Item = u32>) {
        debug_assert!(first.index == self.last().next(), "entries follow each other");
        self.words.extend(words);
        if self.terms.back().is_none_or(|(_, term)| *term != first.term) {
            self.terms.push_back((first.index, first.term));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Takes the entries from `first` on, which is within them or one beyond.
    pub(crate) fn split_off(&mut self, first: Index) -> Meta {
        let start = first.prev();
        let words = self.words.split_off(self.slot(first));
        let split = self.terms.partition_point(|(begin, _)| *begin < first);
        let mut terms = self.terms.split_off(split);
        if terms.front().is_none_or(|(begin, _)| *begin > first)
            && !words.is_empty()
            && let Some((_, term)) = self.terms.back()
        {
            terms.push_front((first, *term));
        }
        Meta { start, words, terms }
    }

    /// Adds the entries that follow.
    pub(crate) fn append(&mut self, next: Meta) {
        assert!(next.start == self.last(), "entries follow each other");
        self.words.extend(next.words);
        let known = self.terms.back().map(|(_, term)| *term);
        let again = next.terms.front().is_some_and(|(_, term)| Some(*term) == known);
        self.terms.extend(next.terms.into_iter().skip(usize::from(again)));
    }

    /// Index and term of the first entry, and of the last one, if there is any.
    pub(crate) fn ends(&self) -> Option<(EntryId, EntryId)> {
        let id = |index| EntryId { index, term: self.term(index) };
        (!self.is_empty()).then(|| (id(self.start.next()), id(self.last())))
    }

    /// Whether this record is the entry at `index`, as far as is known here.
    pub(crate) fn is_at(&self, index: Index, record: &record::Record) -> bool {
        let word = u32::from_le_bytes(record.bytes()[..4].try_into().expect("four bytes"));
        record.id.index == index && self.words[self.slot(index)] == word && self.term(index) == record.id.term
    }

    pub(crate) fn forget_upto(&mut self, base: Index) {
        if base <= self.start {
            return;
        }
        if base >= self.last() {
            self.words.clear();
            self.terms.clear();
        } else {
            self.words.drain(..self.slot(base.next()));
            // What is left begins within the first term, which may have begun before.
            while self.terms.get(1).is_some_and(|(begin, _)| *begin <= base.next()) {
                self.terms.pop_front();
            }
        }
        self.start = base;
    }

    pub(crate) fn encoded_len(&self, index: Index) -> usize {
        record::encoded_len(payload_len(self.words[self.slot(index)]))
    }

    /// Encoded bytes of the entries from `first` up to but not including `end`.
    pub(crate) fn encoded_sum(&self, first: Index, end: Index) -> usize {
        let words = self.words.range(self.slot(first)..self.slot(end));
        words.map(|word| record::encoded_len(payload_len(*word))).sum()
    }

    fn limit(&self, after: Index, upto: Index, bytes_max: u64) -> Index {
        let mut last = after;
        let mut bytes = 0_u64;
        for word in self.words.range(self.slot(after.next())..self.slot(upto.next())) {
            bytes += record::encoded_len(payload_len(*word)) as u64;
            if bytes > bytes_max && last > after {
                break;
            }
            last = last.next();
            if bytes > bytes_max {
                break;
            }
        }
        last
    }

    pub(crate) fn meta(&self, index: Index) -> EntryMeta {
        let word = self.words[self.slot(index)];
        let kind = EntryKind::from_u8((word >> 28) as u8).expect("checked when it was pushed");
        let size = u32::try_from(payload_len(word)).expect("28 bits");
        EntryMeta { term: self.term(index), kind, size }
    }

    fn term(&self, index: Index) -> Term {
        // Most questions are about the end of the log.
        match self.terms.back() {
            Some((begin, term)) if *begin <= index => *term,
            _ => self.terms[self.terms.partition_point(|(begin, _)| *begin <= index) - 1].1,
        }
    }

    fn slot(&self, index: Index) -> usize {
        let slot = index.0.checked_sub(self.start.0 + 1).expect("an index behind the start");
        usize::try_from(slot).expect("as many words as memory holds")
    }
}

const fn payload_len(word: u32) -> usize {
    word as usize & PAYLOAD_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use ringraft_raft::record::encode;

    fn run(seed: GroupSeed, first: u64, terms: &[u64]) -> Bytes {
        let mut out = BytesMut::new();
        for (index, term) in (first..).zip(terms) {
            let id = EntryId { term: Term(*term), index: Index(index) };
            let payload = vec![1; usize::try_from(index).unwrap()];
            encode(seed, id, EntryKind::Normal, &[&payload], &mut out);
        }
        out.freeze()
    }

    fn log() -> GroupLog {
        GroupLog::new(GroupId(1), ConfState::default(), 0, 1 << 20)
    }

    fn terms(log: &GroupLog) -> Vec<u64> {
        (log.base.index.0..=log.last_index().0).map(|index| log.term(Index(index)).unwrap().0).collect()
    }

    #[test]
    fn staging_replaces_the_tail() {
        let mut log = log();
        let seed = log.seed();
        assert_eq!(log.stage(Index(1), run(seed, 1, &[1, 1, 2, 2, 2])), Ok(Index(5)));
        assert_eq!(terms(&log), [0, 1, 1, 2, 2, 2]);
        assert_eq!(log.stage(Index(3), run(seed, 3, &[3])), Ok(Index(3)));
        assert_eq!(terms(&log), [0, 1, 1, 3]);
        let staged: Vec<_> = log.staged.iter().map(|(first, run)| (first.0, Records::new(run).count())).collect();
        assert_eq!(staged, [(1, 2), (3, 1)]);
        log.forget_upto(EntryId { term: Term(1), index: Index(2) });
        assert_eq!(terms(&log), [1, 3]);
        assert_eq!(log.meta(Index(3)).unwrap().size, 3);
        assert!(matches!(log.term(Index(1)), Err(StorageError::Compacted { .. })));
        assert!(matches!(log.term(Index(4)), Err(StorageError::Unavailable { .. })));
    }

    #[test]
    fn a_log_in_two_is_the_same_joined_again() {
        let terms = [1, 1, 2, 2, 2, 5];
        let mut whole = log();
        whole.stage(Index(1), run(whole.seed(), 1, &terms)).unwrap();
        for upto in [0, 2, 3] {
            whole.forget_upto(EntryId {
                term: Term(terms[usize::try_from(upto.max(1)).unwrap() - 1]),
                index: Index(upto),
            });
            for first in upto + 1..=7 {
                let mut front = whole.entries.clone();
                let back = front.split_off(Index(first));
                assert_eq!((front.last(), back.start(), back.last()), (Index(first - 1), Index(first - 1), Index(6)));
                for index in upto + 1..=6 {
                    let part = if index < first { &front } else { &back };
                    assert_eq!(part.meta(Index(index)), whole.entries.meta(Index(index)), "{upto} {first} {index}");
                }
                front.append(back);
                let metas = |meta: &Meta| (upto + 1..=6).map(|index| meta.meta(Index(index))).collect::<Vec<_>>();
                assert_eq!(metas(&front), metas(&whole.entries));
                assert_eq!(
                    front.terms.iter().map(|(_, term)| term).collect::<Vec<_>>().len(),
                    whole.entries.terms.len()
                );
            }
        }
    }

    #[test]
    fn bad_runs_are_refused_whole() {
        let mut log = log();
        let seed = log.seed();
        log.stage(Index(1), run(seed, 1, &[2, 2])).unwrap();
        assert!(matches!(log.stage(Index(4), run(seed, 4, &[2])), Err(StageError::Gap { .. })));
        assert!(matches!(log.stage(Index(0), run(seed, 0, &[2])), Err(StageError::Gap { .. })));
        assert!(matches!(log.stage(Index(3), run(seed, 4, &[2])), Err(StageError::Order { .. })));
        assert!(matches!(log.stage(Index(3), run(seed, 3, &[1])), Err(StageError::Term { .. })));
        assert!(matches!(log.stage(Index(3), Bytes::from_static(&[1; 30])), Err(StageError::Record(_))));
        log.record_bytes_max = 24;
        assert!(matches!(log.stage(Index(3), run(seed, 3, &[2])), Err(StageError::TooLarge { .. })));
        assert_eq!(log.last_index(), Index(2));
    }

    #[test]
    fn limits_are_counted_in_encoded_bytes() {
        let mut log = log();
        let seed = log.seed();
        log.stage(Index(1), run(seed, 1, &[1; 20])).unwrap();
        for after in 0..20 {
            for upto in after + 1..=20 {
                for bytes_max in [0, 1, 32, 64, 100, 1000, u64::MAX] {
                    let mut expected = after + 1;
                    while expected < upto
                        && log.entries.encoded_sum(Index(after + 1), Index(expected + 2)) as u64 <= bytes_max
                    {
                        expected += 1;
                    }
                    assert_eq!(log.limit(Index(after), Index(upto), bytes_max), Ok(Index(expected)));
                }
            }
        }
    }
}
