//! The engine's half of a group: what the wal says of it, where its runs lie, and which of them are cached.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use ringraft_raft::{ConfState, EntryId, GroupId, HardState, Index};

use crate::group_log::Meta;
use crate::wal::footer::Mark;
use crate::wal::section::Doubt;
use crate::wounds::Wounded;

/// What is written of a group: as of the last section laid out, which may not be durable yet.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) group: GroupId,
    /// Whether any section says that there is such a group. Only then is it part of a checkpoint.
    pub(crate) said: bool,
    pub(crate) hard: HardState,
    pub(crate) base: EntryId,
    pub(crate) snapshot: Option<EntryId>,
    pub(crate) conf: ConfState,
    pub(crate) runs: Runs,
    pub(crate) mark: Mark,
    /// What damage has taken, if it has.
    pub(crate) wounded: Option<Box<Wounded>>,
}

impl Group {
    /// What every section of this group says of its wounds.
    pub(crate) fn doubt(&self) -> Doubt {
        self.wounded.as_ref().map_or(Doubt::default(), |wounded| {
            let told = &wounded.told;
            Doubt { hard: told.hard_state_lost, tail: told.tail_lost }
        })
    }

    /// Whether any run lies in this segment, which no run is older than.
    pub(crate) fn pins_oldest(&self, segment: u32) -> bool {
        let islands = self.wounded.iter().flat_map(|wounded| &wounded.islands);
        self.runs.pins_oldest(segment) || islands.into_iter().any(|island| island.runs.pins_oldest(segment))
    }

    /// Nothing is missing from `first` on any more: it is replaced.
    pub(crate) fn replaced_from(&mut self, first: Index, pins: &mut impl Pins) {
        let Some(wounded) = &mut self.wounded else { return };
        wounded.islands.drain(..).for_each(|mut island| island.runs.clear(pins));
        wounded.told.holes.retain_mut(|hole| {
            hole.last = hole.last.min(first.prev());
            hole.known && hole.first < first
        });
        self.forget_no_wounds();
    }

    /// Nothing is missing up to `base` any more: it is compacted.
    pub(crate) fn compacted_upto(&mut self, base: Index) {
        let Some(wounded) = &mut self.wounded else { return };
        wounded.told.holes.retain_mut(|hole| {
            hole.first = hole.first.max(base.next());
            hole.first <= hole.last
        });
        self.forget_no_wounds();
    }

    pub(crate) fn forget_no_wounds(&mut self) {
        if self.wounded.as_ref().is_some_and(|wounded| wounded.told.is_empty()) {
            self.wounded = None;
        }
    }
}

/// Where a run lies. Runs of a group follow each other without gaps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub(crate) first: Index,
    /// Generation of the segment.
    pub(crate) segment: u32,
    /// Of the first record, in bytes from the start of the segment.
    pub(crate) offset: u32,
    /// In bytes.
    pub(crate) len: u32,
}

/// The runs of one group in the order of their entries; the newest of them cached.
///
/// Their segments are in order, too, unless a hole was filled.
#[derive(Default, Debug)]
pub(crate) struct Runs {
    runs: VecDeque<Run>,
    /// Index of the last entry of the last run; meaningless without runs.
    last: Index,
    /// The bytes of the last `cached.len()` runs.
    cached: VecDeque<Bytes>,
    cached_bytes: u64,
    /// A filled hole: the segments may be out of order.
    mixed: bool,
}

/// What a change of a group's runs means for the segments.
pub(crate) trait Pins {
    /// A group has its first run in this segment.
    fn pin(&mut self, segment: u32);
    /// A group has no run in this segment any more.
    fn unpin(&mut self, segment: u32);
}

impl Runs {
    /// Adds a run that ends with `last` at the end.
    pub(crate) fn push(&mut self, run: Run, last: Index, bytes: Option<Bytes>, pins: &mut impl Pins) {
        assert!(self.runs.is_empty() || self.last.next() == run.first, "runs follow each other");
        if self.runs.back().is_none_or(|back| back.segment != run.segment) {
            pins.pin(run.segment);
        }
        self.mixed |= self.runs.back().is_some_and(|back| back.segment > run.segment);
        self.runs.push_back(run);
        self.last = last;
        match bytes {
            Some(bytes) => {
                self.cached_bytes += bytes.len() as u64;
                self.cached.push_back(bytes);
            }
            None => assert!(self.cached.is_empty(), "only the newest runs are cached"),
        }
    }

    /// Forgets the entries from `first` on. `meta` knows those before it.
    pub(crate) fn truncate(&mut self, first: Index, meta: &Meta, pins: &mut impl Pins) {
        if first > self.last {
            return;
        }
        while let Some(run) = self.runs.back().copied().filter(|run| run.first >= first) {
            self.runs.pop_back();
            if let Some(bytes) = self.cached.pop_back() {
                self.cached_bytes -= bytes.len() as u64;
            }
            self.last = run.first.prev();
            if self.runs.back().is_none_or(|back| back.segment != run.segment) {
                pins.unpin(run.segment);
            }
        }
        let Some(run) = self.runs.back_mut() else { return };
        if first <= self.last {
            let len = meta.encoded_sum(run.first, first);
            run.len = u32::try_from(len).expect("less than before");
            if let Some(bytes) = self.cached.back_mut() {
                self.cached_bytes -= (bytes.len() - len) as u64;
                bytes.truncate(len);
            }
            self.last = first.prev();
        }
    }

    /// Forgets the entries up to `base`. `meta` still knows them.
    pub(crate) fn forget_upto(&mut self, base: Index, meta: &Meta, pins: &mut impl Pins) {
        while let Some(run) = self.runs.front().copied() {
            let all_cached = self.cached.len() == self.runs.len();
            let end = self.runs.get(1).map_or(self.last, |next| next.first.prev());
            if end > base {
                if run.first <= base {
                    let gone = meta.encoded_sum(run.first, base.next());
                    if all_cached {
                        self.cached[0].advance(gone);
                        self.cached_bytes -= gone as u64;
                    }
                    let gone = u32::try_from(gone).expect("part of a run");
                    self.runs[0] = Run { first: base.next(), offset: run.offset + gone, len: run.len - gone, ..run };
                }
                return;
            }
            if all_cached {
                let bytes = self.cached.pop_front().expect("as many as runs");
                self.cached_bytes -= bytes.len() as u64;
            }
            self.runs.pop_front();
            if self.runs.front().is_none_or(|next| next.segment != run.segment) {
                pins.unpin(run.segment);
            }
        }
    }

    /// Takes the entries from `first` on. `meta` knows all.
    pub(crate) fn split_off(&mut self, first: Index, meta: &Meta, pins: &mut impl Pins) -> Runs {
        if self.runs.is_empty() || first > self.last {
            return Runs::default();
        }
        let at = self.runs.partition_point(|run| run.first < first);
        if at == 0 {
            return std::mem::take(self);
        }
        let evicted = self.runs.len() - self.cached.len();
        if first < self.end(at - 1) {
            let run = self.runs[at - 1];
            let len = meta.encoded_sum(run.first, first);
            let front = u32::try_from(len).expect("part of a run");
            self.runs[at - 1].len = front;
            self.runs.insert(at, Run { first, offset: run.offset + front, len: run.len - front, ..run });
            if at > evicted {
                let back = self.cached[at - 1 - evicted].split_off(len);
                self.cached.insert(at - evicted, back);
            }
        }
        let evicted = self.runs.len() - self.cached.len();
        let cached = self.cached.split_off(at.saturating_sub(evicted));
        let runs = self.runs.split_off(at);
        if self.runs[at - 1].segment == runs[0].segment {
            pins.pin(runs[0].segment);
        }
        let cached_bytes = cached.iter().map(|bytes| bytes.len() as u64).sum();
        self.cached_bytes -= cached_bytes;
        let last = std::mem::replace(&mut self.last, first.prev());
        Runs { runs, last, cached, cached_bytes, mixed: self.mixed }
    }

    /// Adds the runs that follow. None of those here may be cached, unless all of the others are.
    pub(crate) fn append(&mut self, next: Runs, pins: &mut impl Pins) {
        let (Some(back), Some(front)) = (self.runs.back(), next.runs.front()) else {
            if self.runs.is_empty() {
                *self = next;
            }
            return;
        };
        assert!(front.first == self.last.next(), "runs follow each other");
        assert!(self.cached.is_empty() || next.cached.len() == next.runs.len(), "only the newest runs are cached");
        if back.segment == front.segment {
            pins.unpin(front.segment);
        }
        self.mixed |= next.mixed || back.segment > front.segment;
        self.runs.extend(next.runs);
        self.cached.extend(next.cached);
        self.cached_bytes += next.cached_bytes;
        self.last = next.last;
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self, pins: &mut impl Pins) {
        self.mixed = false;
        self.cached.clear();
        self.cached_bytes = 0;
        while let Some(run) = self.runs.pop_front() {
            if self.runs.front().is_none_or(|next| next.segment != run.segment) {
                pins.unpin(run.segment);
            }
        }
    }

    /// Lets go of the bytes of the oldest cached run, if it lies in this segment. Gives the bytes saved.
    pub(crate) fn evict_from(&mut self, segment: u32) -> u64 {
        let Some(bytes) = self.cached.front() else { return 0 };
        let run = self.runs[self.runs.len() - self.cached.len()];
        if run.segment != segment {
            return 0;
        }
        let len = bytes.len() as u64;
        self.cached.pop_front();
        self.cached_bytes -= len;
        len
    }

    /// Index of the last entry laid out, if there is any.
    pub(crate) fn last_index(&self) -> Option<Index> {
        (!self.runs.is_empty()).then_some(self.last)
    }

    /// Bytes of all runs, if they are at most `max`.
    pub(crate) fn bytes_upto(&self, max: usize) -> Option<usize> {
        self.runs.iter().try_fold(0, |sum, run| Some(sum + run.len as usize).filter(|sum| *sum <= max))
    }

    pub(crate) fn cached_bytes(&self) -> u64 {
        self.cached_bytes
    }

    /// Whether any run lies in this segment, which no run is older than.
    pub(crate) fn pins_oldest(&self, segment: u32) -> bool {
        let front = self.runs.front().is_some_and(|run| run.segment == segment);
        front || self.mixed && self.runs.iter().any(|run| run.segment == segment)
    }

    /// The position of the run that holds `index`, which must be there.
    pub(crate) fn find(&self, index: Index) -> usize {
        self.runs.partition_point(|run| run.first <= index) - 1
    }

    /// The run at a position, and its bytes if they are cached.
    pub(crate) fn get(&self, at: usize) -> Option<(Run, Option<&Bytes>)> {
        let run = *self.runs.get(at)?;
        let evicted = self.runs.len() - self.cached.len();
        Some((run, at.checked_sub(evicted).map(|at| &self.cached[at])))
    }

    /// Caches the newest runs as long as `load` has bytes for them. None may be cached yet.
    pub(crate) fn fill(&mut self, mut load: impl FnMut(&Run) -> Option<Bytes>) {
        assert!(self.cached.is_empty(), "filled once");
        for run in self.runs.iter().rev() {
            let Some(bytes) = load(run) else { return };
            self.cached_bytes += bytes.len() as u64;
            self.cached.push_front(bytes);
        }
    }

    /// The index behind the run at a position.
    pub(crate) fn end(&self, at: usize) -> Index {
        self.runs.get(at + 1).map_or(self.last.next(), |next| next.first)
    }

    pub(crate) fn cached_runs(&self) -> usize {
        self.cached.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter()
    }
}
