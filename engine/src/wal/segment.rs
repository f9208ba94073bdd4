//! The segments in use: a chain of files, oldest first, and how many groups pin each.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use ringraft_io::FileId;

use crate::group::Pins;

/// A segment file. Its name never changes; the generation it holds does.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) id: FileId,
    pub(crate) bytes: u64,
    /// Whether the page cache may hold some of it.
    pub(crate) mapped_once: bool,
}

/// A mapped segment, and whether somebody reads through it.
#[derive(Debug)]
pub(crate) struct Mapping {
    bytes: Bytes,
    readers: Weak<Owner>,
}

/// Lives as long as any slice of the mapping. (`Bytes::is_unique` does not know for memory with an owner.)
#[derive(Debug)]
struct Owner(Bytes);

struct Shared(Arc<Owner>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0.0
    }
}

impl Mapping {
    pub(crate) fn new(bytes: Bytes) -> Mapping {
        let owner = Arc::new(Owner(bytes));
        let readers = Arc::downgrade(&owner);
        Mapping { bytes: Bytes::from_owner(Shared(owner)), readers }
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Lets go of it; gives who else reads through it.
    pub(crate) fn retire(self) -> Readers {
        Readers(self.readers)
    }
}

/// Whoever still reads through a mapping that the engine has let go of.
#[derive(Debug)]
pub(crate) struct Readers(Weak<Owner>);

impl Readers {
    pub(crate) fn are_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

/// One segment in use.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) generation: u32,
    /// Bound when its first block is submitted.
    pub(crate) file: Option<File>,
    pub(crate) bytes: u64,
    /// Where the next block goes.
    pub(crate) next: u64,
    /// The last batch in it.
    pub(crate) last_lsn: u64,
    /// Its file is one of the last ones: it is for votes and compactions.
    pub(crate) reserved: bool,
    /// Its footer is on its way to the disk.
    pub(crate) sealing: bool,
    /// Groups with a run in it.
    pub(crate) pins: u32,
    pub(crate) mapping: Option<Mapping>,
    /// A slot per run that was cached when it was laid out, in that order.
    pub(crate) cached: VecDeque<u32>,
}

impl Segment {
    pub(crate) fn new(generation: u32, bytes: u64) -> Segment {
        Segment {
            generation,
            file: None,
            bytes,
            next: 0,
            last_lsn: 0,
            reserved: false,
            sealing: false,
            pins: 0,
            mapping: None,
            cached: VecDeque::new(),
        }
    }
}

/// The segments in use, oldest first. The last one is the active one; the others are sealed.
#[derive(Default, Debug)]
pub(crate) struct Chain {
    segments: VecDeque<Segment>,
}

impl Chain {
    pub(crate) fn push(&mut self, segment: Segment) {
        assert!(self.segments.back().is_none_or(|last| last.generation < segment.generation), "generations rise");
        self.segments.push_back(segment);
    }

    pub(crate) fn active(&self) -> &Segment {
        self.segments.back().expect("an open log has an active segment")
    }

    pub(crate) fn active_mut(&mut self) -> &mut Segment {
        self.segments.back_mut().expect("an open log has an active segment")
    }

    pub(crate) fn get(&self, generation: u32) -> &Segment {
        let at = self.segments.partition_point(|segment| segment.generation < generation);
        let segment = &self.segments[at];
        assert!(segment.generation == generation, "generation {generation} is in use");
        segment
    }

    pub(crate) fn get_mut(&mut self, generation: u32) -> &mut Segment {
        let at = self.segments.partition_point(|segment| segment.generation < generation);
        let segment = &mut self.segments[at];
        assert!(segment.generation == generation, "generation {generation} is in use");
        segment
    }

    /// Whether the file of this segment may be mapped: it is sealed, and nothing is on its way to it. So it is if there is
    /// no such segment any more.
    pub(crate) fn is_settled(&self, generation: u32, durable: u64) -> bool {
        let at = self.segments.partition_point(|segment| segment.generation < generation);
        let segment = self.segments.get(at).filter(|segment| segment.generation == generation);
        let open = |segment: &Segment| segment.last_lsn > durable || segment.sealing;
        segment.is_none_or(|segment| generation < self.active().generation && !open(segment))
    }

    /// Generation of the oldest segment that any group needs; the active one's if none does.
    pub(crate) fn first_needed(&self) -> u32 {
        let pinned = self.segments.iter().find(|segment| segment.pins > 0);
        pinned.unwrap_or(self.active()).generation
    }

    /// The oldest segment, if its generation is below `first`: nothing on the disk needs it any more.
    pub(crate) fn pop_below(&mut self, first: u32) -> Option<Segment> {
        let oldest = self.segments.front()?;
        if oldest.generation >= first {
            return None;
        }
        assert!(oldest.pins == 0, "generation {} is pinned by {} groups", oldest.generation, oldest.pins);
        self.segments.pop_front()
    }

    pub(crate) fn len(&self) -> usize {
        self.segments.len()
    }

    pub(crate) fn oldest(&self) -> &Segment {
        self.segments.front().expect("an open log has an active segment")
    }

    /// The oldest sealed and durable segment whose runs may be cached. Without them the file is mapped, so nothing may
    /// be on its way to it.
    pub(crate) fn evictable(&mut self, durable: u64) -> Option<&mut Segment> {
        let sealed = self.segments.len().saturating_sub(1);
        let mut segments = self.segments.iter_mut().take(sealed);
        segments.find(|segment| !segment.cached.is_empty() && segment.last_lsn <= durable && !segment.sealing)
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Segment> {
        self.segments.iter()
    }
}

impl Pins for Chain {
    fn pin(&mut self, segment: u32) {
        self.get_mut(segment).pins += 1;
    }

    fn unpin(&mut self, segment: u32) {
        let segment = self.get_mut(segment);
        segment.pins = segment.pins.checked_sub(1).expect("a pinned segment");
    }
}
