//! Where records are encoded: big chunks of memory, handed out as refcounted runs, taken back when nobody reads them.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Memory for runs. A run costs no allocation once as many chunks exist as the log cache keeps alive.
pub(crate) struct Arena {
    current: BytesMut,
    retired: VecDeque<BytesMut>,
    chunk_size: usize,
    retired_max: usize,
}

impl Arena {
    /// Chunks of `chunk_size` bytes; at most `retired_max` used ones are kept for reuse.
    pub(crate) fn new(chunk_size: usize, retired_max: usize) -> Arena {
        Arena { current: BytesMut::with_capacity(chunk_size), retired: VecDeque::new(), chunk_size, retired_max }
    }

    /// A buffer with room for `len` more bytes behind what was [taken](Arena::take) last.
    pub(crate) fn reserve(&mut self, len: usize) -> &mut BytesMut {
        if self.current.capacity() - self.current.len() < len {
            self.replace(len);
        }
        &mut self.current
    }

    /// Everything written since the last call, as one run.
    pub(crate) fn take(&mut self) -> Bytes {
        self.current.split().freeze()
    }

    /// A run that is a copy of `bytes`. What was written before must have been taken.
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> Bytes {
        assert!(self.current.is_empty(), "an untaken run would be joined with a copy");
        self.reserve(bytes.len()).extend_from_slice(bytes);
        self.take()
    }

    fn replace(&mut self, len: usize) {
        let needed = self.current.len() + len;
        let fits = needed <= self.chunk_size;
        let free = fits && self.retired.front_mut().is_some_and(|oldest| oldest.try_reclaim(self.chunk_size));
        let reclaimed = if free { self.retired.pop_front() } else { None };
        let chunk = reclaimed.unwrap_or_else(|| BytesMut::with_capacity(needed.max(self.chunk_size)));
        let mut old = std::mem::replace(&mut self.current, chunk);
        // A run being written continues in the new chunk: runs are contiguous.
        self.current.extend_from_slice(&old);
        old.clear();
        if self.retired.len() < self.retired_max {
            self.retired.push_back(old);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_keep_their_bytes_and_chunks_come_back() {
        let mut arena = Arena::new(1024, 4);
        let mut kept = VecDeque::new();
        let mut addresses = std::collections::BTreeSet::new();
        for round in 0..200_u8 {
            let run = arena.copy(&[round; 300]);
            addresses.insert(run.as_ptr().addr() / 1024);
            kept.push_back(run);
            if kept.len() > 6 {
                kept.pop_front();
            }
            let oldest = round.saturating_sub(6).max(round.saturating_sub(u8::try_from(kept.len()).unwrap() - 1));
            assert!(kept.iter().zip(oldest..).all(|(run, want)| run.iter().all(|byte| *byte == want)));
        }
        assert!(addresses.len() < 20, "{} places for 200 runs", addresses.len());
    }

    #[test]
    fn a_run_that_outgrows_its_chunk_stays_whole() {
        let mut arena = Arena::new(64, 2);
        arena.reserve(40).extend_from_slice(&[1; 40]);
        arena.reserve(100).extend_from_slice(&[2; 100]);
        let run = arena.take();
        assert_eq!((run.len(), run[39], run[40]), (140, 1, 2));
    }
}
