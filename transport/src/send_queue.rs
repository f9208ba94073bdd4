//! A bounded queue of what waits for one stream, and what "full" does: the newest is refused, the rest is kept. Pure.

use std::collections::VecDeque;

use bytes::Bytes;
use ringraft_io::SEND_BUFS_MAX;
use ringraft_raft::{Body, EntryId, GroupId, Index, Payloads, Term};

use crate::codec::{self, ITEM, SECTION};
use crate::frame::{APPEND_BODY_MAX, FrameKind, HEADER, MESSAGE_BODY_MAX};

/// Most pieces that the records of one append may come in: they leave in one send, beside a header.
pub const RUNS_MAX: usize = SEND_BUFS_MAX - 2;

/// Most bytes of records in one append.
pub const RECORDS_MAX: usize = APPEND_BODY_MAX - SECTION;

/// Longest payload of a forwarded proposal.
pub const PROPOSAL_MAX: usize = MESSAGE_BODY_MAX - ITEM - 8;

/// How much may wait for one stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueLimits {
    /// Messages.
    pub messages_max: usize,
    /// Bytes on the wire. An empty queue takes one message of any size.
    pub bytes_max: usize,
}

/// One thing to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Queued {
    pub(crate) group: GroupId,
    pub(crate) what: What,
    /// How many of the queue's byte pieces are its own.
    pub(crate) runs: usize,
    /// Bytes of those pieces.
    pub(crate) run_bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Append { term: Term, prev: EntryId, commit: Index, payloads: Payloads, count: u32 },
    Message { term: Term, body: Body },
    Proposal,
}

impl Queued {
    /// Which kind of frame it travels in.
    pub(crate) fn frame(&self) -> FrameKind {
        match self.what {
            What::Append { .. } => FrameKind::Append,
            What::Message { .. } | What::Proposal => FrameKind::Message,
        }
    }

    /// Its bytes in the body of a frame, without its pieces.
    pub(crate) fn head_len(&self) -> usize {
        match self.what {
            What::Append { .. } => SECTION,
            What::Message { body, .. } => codec::message_len(&body),
            What::Proposal => ITEM,
        }
    }

    /// Its bytes in the body of a frame.
    pub(crate) fn body_len(&self) -> usize {
        self.head_len() + self.run_bytes.next_multiple_of(8)
    }
}

/// Why something was not queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// No room now.
    Full,
    /// Never.
    TooLarge,
}

pub(crate) struct SendQueue {
    limits: QueueLimits,
    items: VecDeque<Queued>,
    runs: VecDeque<Bytes>,
    bytes: usize,
}

impl SendQueue {
    pub(crate) fn new(limits: QueueLimits) -> SendQueue {
        SendQueue { limits, items: VecDeque::new(), runs: VecDeque::new(), bytes: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes that wait, as they will be on the wire but for frame headers.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Queues one thing with its pieces of bytes.
    pub(crate) fn push(
        &mut self,
        group: GroupId,
        what: What,
        runs: impl IntoIterator<Item = Bytes>,
    ) -> Result<(), Refused> {
        if self.items.len() >= self.limits.messages_max {
            return Err(Refused::Full);
        }
        let before = self.runs.len();
        self.runs.extend(runs.into_iter().filter(|run| !run.is_empty()).take(RUNS_MAX + 1));
        let added = self.runs.range(before..);
        let item = Queued { group, what, runs: added.len(), run_bytes: added.map(Bytes::len).sum() };
        if let Err(refused) = self.admit(&item) {
            self.runs.truncate(before);
            return Err(refused);
        }
        self.bytes += item.body_len();
        self.items.push_back(item);
        Ok(())
    }

    fn admit(&self, item: &Queued) -> Result<(), Refused> {
        if item.runs > RUNS_MAX {
            return Err(Refused::TooLarge);
        }
        let max = match item.what {
            What::Append { count, .. } => {
                assert!(item.run_bytes.is_multiple_of(8), "records are multiples of 8 bytes");
                assert!((count == 0) == (item.runs == 0), "{count} entries in {} pieces", item.runs);
                RECORDS_MAX
            }
            What::Message { .. } => 0,
            What::Proposal => PROPOSAL_MAX,
        };
        if item.run_bytes > max {
            Err(Refused::TooLarge)
        } else if !self.is_empty() && self.bytes + item.body_len() > self.limits.bytes_max {
            Err(Refused::Full)
        } else {
            Ok(())
        }
    }

    pub(crate) fn front(&self) -> Option<&Queued> {
        self.items.front()
    }

    /// The oldest thing; its pieces are handed out by [`SendQueue::pop_run`].
    pub(crate) fn pop(&mut self) -> Option<Queued> {
        let item = self.items.pop_front()?;
        self.bytes -= item.body_len();
        Some(item)
    }

    /// The oldest piece of what was popped.
    pub(crate) fn pop_run(&mut self) -> Bytes {
        self.runs.pop_front().expect("as many pieces as the popped items say")
    }
}

const _: () = assert!(HEADER.is_multiple_of(8) && SECTION.is_multiple_of(8) && ITEM.is_multiple_of(8));

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(messages_max: usize, bytes_max: usize) -> SendQueue {
        SendQueue::new(QueueLimits { messages_max, bytes_max })
    }

    fn append(count: u32) -> What {
        What::Append { term: Term(1), prev: EntryId::default(), commit: Index(0), payloads: Payloads::All, count }
    }

    fn bytes(len: usize) -> Bytes {
        Bytes::from(vec![0; len])
    }

    #[test]
    fn full_by_messages() {
        let mut queue = queue(2, 1000);
        let message = What::Message { term: Term(1), body: Body::TimeoutNow };
        assert_eq!(queue.push(GroupId(1), message, []), Ok(()));
        assert_eq!(queue.push(GroupId(2), message, []), Ok(()));
        assert_eq!(queue.push(GroupId(3), message, []), Err(Refused::Full));
        assert_eq!((queue.len(), queue.bytes()), (2, 2 * ITEM));
        assert_eq!(queue.pop().map(|item| item.group), Some(GroupId(1)), "the oldest first");
        assert_eq!(queue.push(GroupId(3), message, []), Ok(()));
    }

    #[test]
    fn full_by_bytes() {
        let mut queue = queue(10, 200);
        assert_eq!(queue.push(GroupId(1), append(1), [bytes(1000)]), Ok(()), "an empty queue takes any size");
        assert_eq!(queue.push(GroupId(2), append(1), [bytes(8)]), Err(Refused::Full));
        assert_eq!((queue.pop().map(|item| item.run_bytes), queue.pop_run().len()), (Some(1000), 1000));
        assert_eq!(queue.push(GroupId(2), append(2), [bytes(8), Bytes::new(), bytes(16)]), Ok(()));
        assert_eq!(queue.push(GroupId(2), append(1), [bytes(96)]), Err(Refused::Full));
        assert_eq!(queue.push(GroupId(2), append(1), [bytes(80)]), Ok(()));
        assert_eq!(queue.pop().map(|item| (item.runs, item.run_bytes)), Some((2, 24)), "refused pieces left nothing");
        assert_eq!([queue.pop_run().len(), queue.pop_run().len()], [8, 16]);
        assert_eq!(queue.pop().map(|item| item.runs), Some(1));
        assert_eq!((queue.pop_run().len(), queue.bytes(), queue.is_empty()), (80, 0, true));
    }

    #[test]
    fn never_in_one_frame() {
        let mut queue = queue(10, 1000);
        let many = (0..=RUNS_MAX + 1).map(|_| Bytes::from_static(&[0; 4]));
        assert_eq!(queue.push(GroupId(1), append(1), many), Err(Refused::TooLarge));
        assert_eq!(queue.push(GroupId(1), What::Proposal, [bytes(PROPOSAL_MAX + 1)]), Err(Refused::TooLarge));
        assert_eq!(queue.push(GroupId(1), What::Proposal, [bytes(PROPOSAL_MAX)]), Ok(()));
    }
}
