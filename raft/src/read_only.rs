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
    /// Who asked, for what was committed then, and when that was.
    waiting: VecDeque<(ReadRequest, Index, u64)>,
    deferred: VecDeque<ReadRequest>,
    /// How many of `waiting` nobody waits for: they only renew a lease.
    rounds: usize,
}

impl ReadOnly {
    /// Forgets what waits for a quorum, and counts anew. (With etcd's rules: nobody is told.)
    pub(crate) fn reset(&mut self) {
        if let Some(queues) = &mut self.queues {
            queues.waiting.clear();
            queues.rounds = 0;
        }
        self.confirmed = 0;
    }

    /// Takes out some read that somebody waits for, in whatever state: who asked must ask again.
    pub(crate) fn give_up(&mut self) -> Option<ReadRequest> {
        let queues = self.queues.as_mut()?;
        while let Some((request, ..)) = queues.waiting.pop_front() {
            if request.from != PeerId::ZERO {
                return Some(request);
            }
            queues.rounds -= 1;
        }
        queues.deferred.pop_front()
    }

    /// Reads kept here that somebody waits for.
    pub(crate) fn count(&self) -> usize {
        self.queues.as_ref().map_or(0, |queues| queues.waiting.len() + queues.deferred.len() - queues.rounds)
    }

    /// What heartbeats carry; 0 while nothing waits.
    pub(crate) fn token(&self) -> u64 {
        match self.queues.as_ref().map_or(0, |queues| queues.waiting.len()) {
            0 => 0,
            count => self.confirmed + count as u64,
        }
    }

    /// Waits for a quorum to echo the token, with the commit index of now.
    pub(crate) fn wait(&mut self, request: ReadRequest, index: Index, now: u64) {
        let queues = self.queues.get_or_insert_default();
        queues.rounds += usize::from(request.from == PeerId::ZERO);
        queues.waiting.push_back((request, index, now));
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
    pub(crate) fn pop_confirmed(&mut self, reached: u64) -> Option<(ReadRequest, Index, u64)> {
        if self.confirmed >= reached {
            return None;
        }
        let queues = self.queues.as_mut()?;
        let read = queues.waiting.pop_front()?;
        queues.rounds -= usize::from(read.0.from == PeerId::ZERO);
        self.confirmed += 1;
        Some(read)
    }

    /// Gives back the memory, if nothing waits.
    pub(crate) fn shrink(&mut self) {
        // Rounds count: a token must never come twice.
        self.queues.take_if(|queues| queues.waiting.is_empty() && queues.deferred.is_empty());
    }

    /// Bytes on the heap.
    pub(crate) fn memory(&self) -> usize {
        let heap = |queues: &Queues| {
            size_of::<Queues>()
                + queues.waiting.capacity() * size_of::<(ReadRequest, Index, u64)>()
                + queues.deferred.capacity() * size_of::<ReadRequest>()
        };
        self.queues.as_deref().map_or(0, heap)
    }
}
