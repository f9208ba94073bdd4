//! The queue of what is going to happen, ordered by time and then by who asked first.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::ProcessId;
use crate::{ShardNo, Time};

/// One shard in one life of its process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Who {
    pub(super) process: ProcessId,
    pub(super) life: u32,
    pub(super) shard: ShardNo,
}

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// A shard has something to do.
    Turn(Who),
    /// A shard's deadline.
    Deadline(Who),
    /// Another shard of the process called `wake`.
    Wake(Who),
    /// Bytes or the end of a stream reach the other side.
    Deliver { conn: usize, dir: usize },
    /// A send has been taken.
    Sent { conn: usize, dir: usize, serial: u32 },
    /// The control thread hands an incoming stream to its shard.
    HandOver { conn: usize },
    /// A call's request reaches the listener.
    CallArrives(u64),
    /// A call's answer reaches the caller.
    CallAnswered(u64),
    /// A call may have run out of time.
    CallTimeout(u64),
    /// The next piece of a file transfer.
    FilePiece(u64),
    /// A file transfer's bytes are all there and synced.
    FileSynced(u64),
    /// A durable write ends.
    WriteEnds { process: ProcessId, write: u64 },
    /// The job at the head of a shard's queue ends.
    JobEnds(Who),
    /// The driver's own.
    Driver(u64),
}

struct Entry {
    at: Time,
    seq: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.seq == other.seq
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// Reversed, for `BinaryHeap` gives the greatest first.
    fn cmp(&self, other: &Entry) -> Ordering {
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}

/// Events to come.
#[derive(Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Entry>,
    seq: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at: Time, event: Event) {
        self.seq += 1;
        self.heap.push(Entry { at, seq: self.seq, event });
    }

    pub(super) fn pop(&mut self) -> Option<(Time, Event)> {
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_time_then_by_asking() {
        let mut queue = Queue::default();
        for (at, token) in [(5, 1), (3, 2), (5, 3), (3, 4)] {
            queue.push(Time(at), Event::Driver(token));
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        let want = [(3, 2), (3, 4), (5, 1), (5, 3)].map(|(at, token)| (Time(at), Event::Driver(token)));
        assert_eq!(order, want);
    }
}
