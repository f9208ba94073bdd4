//! The engine's half of a group: what the wal says of it, where its runs lie, and which of them are cached.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use ringraft_raft::{ConfState, EntryId, GroupId, HardState, Index};

use crate::group_log::Meta;
use crate::wal::footer::Mark;

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

/// The runs of one group, oldest first; the newest of them cached.
#[derive(Default, Debug)]
pub(crate) struct Runs {
    runs: VecDeque<Run>,
    /// Index of the last entry of the last run; meaningless without runs.
    last: Index,
    /// The bytes of the last `cached.len()` runs.
    cached: VecDeque<Bytes>,
    cached_bytes: u64,
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
        if let Some(back) = self.runs.back() {
            assert!(self.last.next() == run.first && back.segment <= run.segment, "runs follow each other");
        }
        if self.runs.back().is_none_or(|back| back.segment != run.segment) {
            pins.pin(run.segment);
        }
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

    /// Forgets everything.
    pub(crate) fn clear(&mut self, pins: &mut impl Pins) {
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

    /// The segment of the oldest run.
    pub(crate) fn oldest_segment(&self) -> Option<u32> {
        self.runs.front().map(|run| run.segment)
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
