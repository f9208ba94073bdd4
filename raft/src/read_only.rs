//! Reads that wait: for a quorum to confirm that we still lead, or for our first commit. Thesis 6.4.
//!
//! The token that travels with heartbeats is a count of reads: those confirmed in this term plus those waiting. A peer
//! that echoes it has confirmed every read up to it, so that a late or repeated echo can never confirm a later read.

use std::collections::VecDeque;

use crate::types::{Index, PeerId, ReadId};

/// Who asked, and how they call it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ReadRequest {
    pub(crate) from: PeerId,
    pub(crate) id: ReadId,
}

/// The leader's reads. Takes memory only when the first one waits.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ReadOnly {
    queues: Option<Box<Queues>>,
    confirmed: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Queues {
    waiting: VecDeque<(ReadRequest, Index)>,
    deferred: VecDeque<ReadRequest>,
}

impl ReadOnly {
    /// Forgets what waits for a quorum, and counts anew. (With etcd's rules: nobody is told.)
    pub(crate) fn reset(&mut self) {
        if let Some(queues) = &mut self.queues {
            queues.waiting.clear();
        }
        self.confirmed = 0;
    }

    /// Takes out some read, in whatever state: whoever asked must ask again.
    pub(crate) fn give_up(&mut self) -> Option<ReadRequest> {
        let queues = self.queues.as_mut()?;
        let waiting = queues.waiting.pop_front().map(|(request, _)| request);
        waiting.or_else(|| queues.deferred.pop_front())
    }

    /// Reads kept here.
    pub(crate) fn count(&self) -> usize {
        self.queues.as_ref().map_or(0, |queues| queues.waiting.len() + queues.deferred.len())
    }

    /// What heartbeats carry; 0 while nothing waits.
    pub(crate) fn token(&self) -> u64 {
        match self.queues.as_ref().map_or(0, |queues| queues.waiting.len()) {
            0 => 0,
            count => self.confirmed + count as u64,
        }
    }

    /// Waits for a quorum to echo the token, with the commit index of now.
    pub(crate) fn wait(&mut self, request: ReadRequest, index: Index) {
        self.queues.get_or_insert_default().waiting.push_back((request, index));
    }

    /// Waits for the first commit of this term.
    pub(crate) fn defer(&mut self, request: ReadRequest) {
        self.queues.get_or_insert_default().deferred.push_back(request);
    }

    /// The next read that waited for the first commit.
    pub(crate) fn pop_deferred(&mut self) -> Option<ReadRequest> {
        self.queues.as_mut()?.deferred.pop_front()
    }

    /// The next read confirmed by a quorum that has echoed `reached`.
    pub(crate) fn pop_confirmed(&mut self, reached: u64) -> Option<(ReadRequest, Index)> {
        if self.confirmed >= reached {
            return None;
        }
        let read = self.queues.as_mut()?.waiting.pop_front()?;
        self.confirmed += 1;
        Some(read)
    }

    /// Gives back the memory, if nothing waits.
    pub(crate) fn shrink(&mut self) {
        if self.count() == 0 {
            self.queues = None;
        }
    }

    /// Bytes on the heap.
    pub(crate) fn memory(&self) -> usize {
        let heap = |queues: &Queues| {
            size_of::<Queues>()
                + queues.waiting.capacity() * size_of::<(ReadRequest, Index)>()
                + queues.deferred.capacity() * size_of::<ReadRequest>()
        };
        self.queues.as_deref().map_or(0, heap)
    }
}
