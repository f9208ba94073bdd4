//! The sending half of a stream: what waits becomes frames, and the frames one gather send. Pure.

use bytes::{BufMut, Bytes, BytesMut};
use crc32fast::Hasher;
use ringraft_io::{SEND_BUFS_MAX, StreamId, Time};
use ringraft_raft::GroupId;

use crate::codec::{self, SectionHead};
use crate::frame::{FrameKind, HEADER, Header, Link};
use crate::send_queue::{QueueLimits, Queued, Refused, SendQueue, What};

/// Bytes of headers, messages and small proposals in one send; the buffer they are written to is used again and again.
const HEAD_SIZE: usize = 128 << 10;

/// A proposal up to this size is copied into the frame: dearer than copying it is one more piece to gather.
const PROPOSAL_COPY_MAX: usize = 512;

/// Writes one stream: a bounded queue, and at most one send in flight.
pub(crate) struct StreamWriter {
    pub(crate) stream: StreamId,
    pub(crate) link: Link,
    seed: u32,
    /// Number of the next frame.
    number: u64,
    queue: SendQueue,
    /// Everything in a send but gathered pieces. Empty between sends.
    head: BytesMut,
    /// Where in `head`, counted from its beginning, a piece goes. Empty between frames.
    cuts: Vec<(usize, Bytes)>,
    in_flight: Option<InFlight>,
    last_send: Time,
}

/// A send that has not ended.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    bytes: usize,
    messages: u64,
    since: Time,
}

/// What one send holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) frames: u64,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl StreamWriter {
    pub(crate) fn new(stream: StreamId, link: Link, limits: QueueLimits, now: Time) -> StreamWriter {
        StreamWriter {
            stream,
            link,
            seed: link.seed(),
            number: 0,
            queue: SendQueue::new(limits),
            head: BytesMut::with_capacity(HEAD_SIZE),
            cuts: Vec::new(),
            in_flight: None,
            last_send: now,
        }
    }

    pub(crate) fn push(
        &mut self,
        group: GroupId,
        what: What,
        runs: impl IntoIterator<Item = Bytes>,
    ) -> Result<(), Refused> {
        self.queue.push(group, what, runs)
    }

    pub(crate) fn queue(&self) -> &SendQueue {
        &self.queue
    }

    /// Whether something waits and no send is in flight.
    pub(crate) fn can_send(&self) -> bool {
        self.in_flight.is_none() && !self.queue.is_empty()
    }

    /// Whether everything handed over was taken by the network.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.queue.is_empty()
    }

    pub(crate) fn in_flight_since(&self) -> Option<Time> {
        self.in_flight.map(|send| send.since)
    }

    /// Messages in flight.
    pub(crate) fn in_flight_messages(&self) -> u64 {
        self.in_flight.map_or(0, |send| send.messages)
    }

    pub(crate) fn last_send(&self) -> Time {
        self.last_send
    }

    /// The send in flight has ended.
    pub(crate) fn sent(&mut self, bytes: usize) {
        let send = self.in_flight.take().expect("a send ends only if one was in flight");
        assert_eq!(bytes, send.bytes, "a send ends whole");
    }

    /// Makes the next send of what waits, oldest first: payload up to `payload_max` bytes (or one message of any
    /// size). Only if [`StreamWriter::can_send`].
    pub(crate) fn gather(&mut self, now: Time, payload_max: usize, bufs: &mut Vec<Bytes>) -> Gathered {
        assert!(self.can_send(), "a send in flight, or nothing to send");
        self.begin(bufs);
        let mut room = Room { payload: payload_max, head: HEAD_SIZE, bufs: SEND_BUFS_MAX - 1 };
        let mut made = Gathered::default();
        while let Some(item) = self.queue.front()
            && (made.messages == 0 || room.fits(item))
        {
            let kind = item.frame();
            made.messages += self.frame(kind, &mut room, bufs);
            made.frames += 1;
        }
        assert!(made.messages > 0, "an empty send has room for any message");
        self.end(now, made, bufs)
    }

    /// Makes a send that says only "I am here".
    pub(crate) fn link_heartbeat(&mut self, now: Time, bufs: &mut Vec<Bytes>) -> Gathered {
        assert!(self.is_idle(), "who has something to say needs no heartbeat");
        self.begin(bufs);
        self.head.put_bytes(0, HEADER);
        self.seal(0, FrameKind::LinkHeartbeat, 0, 0, Hasher::new_with_initial(self.seed));
        self.end(now, Gathered { frames: 1, messages: 0, bytes: 0 }, bufs)
    }

    fn begin(&mut self, bufs: &[Bytes]) {
        assert!(bufs.is_empty() && self.head.is_empty() && self.cuts.is_empty());
        // The last send is over and its pieces are dropped, so this finds the old memory free again.
        self.head.reserve(HEAD_SIZE);
    }

    fn end(&mut self, now: Time, mut made: Gathered, bufs: &mut Vec<Bytes>) -> Gathered {
        if !self.head.is_empty() {
            bufs.push(self.head.split().freeze());
        }
        assert!(!bufs.is_empty() && bufs.len() <= SEND_BUFS_MAX, "{} pieces", bufs.len());
        let bytes: usize = bufs.iter().map(Bytes::len).sum();
        made.bytes = bytes as u64;
        self.in_flight = Some(InFlight { bytes, messages: made.messages, since: now });
        self.last_send = now;
        made
    }

    /// Writes one frame of this kind from the front of the queue, which has room for one message at least, and says how
    /// many messages it holds.
    fn frame(&mut self, kind: FrameKind, room: &mut Room, bufs: &mut Vec<Bytes>) -> u64 {
        let start = self.head.len();
        self.head.put_bytes(0, HEADER);
        room.head -= HEADER;
        let mut crc = Hasher::new_with_initial(self.seed);
        let (mut count, mut body_len) = (0, 0);
        while let Some(item) = self.queue.front()
            && item.frame() == kind
            && (count == 0 || room.fits(item) && body_len + item.body_len() <= kind.body_max())
        {
            let item = self.queue.pop().expect("it is at the front");
            room.take(&item);
            body_len += item.body_len();
            count += 1;
            self.put(&item, &mut crc);
        }
        self.seal(start, kind, count, body_len, crc);
        self.cut(bufs);
        u64::from(count)
    }

    fn put(&mut self, item: &Queued, crc: &mut Hasher) {
        let start = self.head.len();
        match item.what {
            What::Append { term, prev, commit, payloads, count } => {
                let (group, bytes) = (item.group, len32(item.run_bytes));
                self.head.put_slice(&SectionHead { group, term, prev, commit, payloads, count, bytes }.encode());
            }
            What::Message { term, body } => codec::put_message(&mut self.head, item.group, term, &body),
            What::Proposal => codec::put_proposal(&mut self.head, item.group, len32(item.run_bytes)),
        }
        crc.update(&self.head[start..]);
        let copy = copied(item) > 0;
        for _ in 0..item.runs {
            let run = self.queue.pop_run();
            crc.update(&run);
            if copy {
                self.head.put_slice(&run);
            } else {
                self.cuts.push((self.head.len(), run));
            }
        }
        let padding = item.run_bytes.next_multiple_of(8) - item.run_bytes;
        crc.update(&[0; 8][..padding]);
        self.head.put_bytes(0, padding);
    }

    /// Fills in the header at `start` of `head`, now that the body is known.
    fn seal(&mut self, start: usize, kind: FrameKind, count: u32, body_len: usize, crc: Hasher) {
        let header = Header { kind, body_len: len32(body_len), body_crc: crc.finalize(), number: self.number, count };
        self.head[start..start + HEADER].copy_from_slice(&header.encode(self.seed));
        self.number += 1;
    }

    /// Moves everything up to the last cut into `bufs`. What comes after it stays, to go with the next frame's header.
    fn cut(&mut self, bufs: &mut Vec<Bytes>) {
        let mut done = 0;
        for (at, run) in self.cuts.drain(..) {
            if at > done {
                bufs.push(self.head.split_to(at - done).freeze());
                done = at;
            }
            bufs.push(run);
        }
    }
}

#[cfg(test)]
impl StreamWriter {
    /// Where the memory for headers begins once the last send is over, and how much it is.
    pub(crate) fn head_place(&mut self) -> (*const u8, usize) {
        assert!(self.in_flight.is_none() && self.head.is_empty());
        self.head.reserve(HEAD_SIZE);
        (self.head.as_ptr(), self.head.capacity())
    }
}

/// What is left of the bounds of one send.
struct Room {
    payload: usize,
    head: usize,
    bufs: usize,
}

impl Room {
    /// Whether an item, and a header before it, still fits.
    fn fits(&self, item: &Queued) -> bool {
        item.body_len() <= self.payload && HEADER + head_cost(item) <= self.head && pieces(item) <= self.bufs
    }

    fn take(&mut self, item: &Queued) {
        // The first message of a send may exceed the payload, never the rest.
        self.payload = self.payload.saturating_sub(item.body_len());
        self.head -= head_cost(item);
        self.bufs -= pieces(item);
    }
}

/// Bytes that an item takes in the memory for headers: all but its gathered pieces.
fn head_cost(item: &Queued) -> usize {
    item.body_len() - (item.run_bytes - copied(item))
}

/// Pieces that an item adds to a send: its own, and the header bytes before them.
fn pieces(item: &Queued) -> usize {
    if item.runs == 0 || copied(item) > 0 { 0 } else { item.runs + 1 }
}

/// How many bytes of an item's pieces are copied instead of gathered.
fn copied(item: &Queued) -> usize {
    if item.what == What::Proposal && item.run_bytes <= PROPOSAL_COPY_MAX { item.run_bytes } else { 0 }
}

fn len32(len: usize) -> u32 {
    u32::try_from(len).expect("bounded by the body of a frame")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ringraft_io::ShardNo;
    use ringraft_raft::record::{self, GroupSeed};
    use ringraft_raft::{Body, EntryId, EntryKind, Index, Payloads, PeerId, Term};

    use super::*;
    use crate::codec::{Items, Sections};
    use crate::frame::{ClusterId, StreamKind};
    use crate::reader::StreamReader;

    fn writer() -> StreamWriter {
        let link = Link {
            cluster: ClusterId(7),
            from: PeerId(1),
            to: PeerId(2),
            kind: StreamKind::Message,
            shard: ShardNo(0),
            salt: 1,
        };
        StreamWriter::new(StreamId(1), link, QueueLimits { messages_max: 1000, bytes_max: 1 << 30 }, Time(0))
    }

    /// Queues one thing and says how it should arrive.
    fn push(writer: &mut StreamWriter, n: u64, what: u8, size: usize) -> String {
        let group = GroupId(n);
        match what {
            0 => {
                let id = EntryId { term: Term(2), index: Index(n + 1) };
                let mut run = BytesMut::new();
                record::encode(GroupSeed::of(group), id, EntryKind::Normal, &[&vec![1; size]], &mut run);
                let run = run.freeze();
                // Cut anywhere: pieces need not end with records.
                let runs = [run.slice(..run.len() / 3), run.slice(run.len() / 3..)];
                let prev = EntryId { term: Term(2), index: Index(n) };
                let what = What::Append { term: Term(3), prev, commit: Index(1), payloads: Payloads::All, count: 1 };
                writer.push(group, what, runs).unwrap();
                format!("append {n} {}", run.len())
            }
            1 => {
                writer.push(group, What::Proposal, [Bytes::from(vec![2; size])]).unwrap();
                format!("proposal {n} {size}")
            }
            _ => {
                let body = Body::Heartbeat { commit: Index(n), read: size as u64 };
                writer.push(group, What::Message { term: Term(3), body }, []).unwrap();
                format!("message {n} {size}")
            }
        }
    }

    fn sizes() -> impl Strategy<Value = usize> {
        prop_oneof![0_usize..20, 400_usize..700, 0_usize..9000]
    }

    proptest! {
        #[test]
        fn what_is_queued_is_what_is_read(
            items in proptest::collection::vec((0_u8..4, sizes()), 1..60),
            payload_max in prop_oneof![1_usize..100, 1000_usize..100_000],
        ) {
            let mut writer = writer();
            let want: Vec<_> =
                (1..).zip(&items).map(|(n, (what, size))| push(&mut writer, n, *what, *size)).collect();
            let (mut reader, mut got, mut messages) = (StreamReader::new(&writer.link), Vec::new(), 0);
            while writer.can_send() {
                let mut bufs = Vec::new();
                let made = writer.gather(Time(0), payload_max, &mut bufs);
                messages += made.messages;
                prop_assert!(bufs.len() <= SEND_BUFS_MAX && !bufs.iter().any(Bytes::is_empty));
                let bytes = bufs.concat();
                prop_assert!(made.messages == 1 || bytes.len() <= payload_max + HEADER * items.len());
                writer.sent(bytes.len());
                reader.push(&bytes, |frame| {
                    if frame.kind == FrameKind::Append {
                        for section in Sections::new(frame.body, frame.count) {
                            let section = section?;
                            got.push(format!("append {} {}", section.group, section.records.len()));
                        }
                        return Ok(());
                    }
                    for item in Items::new(frame.body, frame.count) {
                        got.push(match item? {
                            codec::Item::Proposal { group, payload } => format!("proposal {group} {}", payload.len()),
                            codec::Item::Message { group, body: Body::Heartbeat { read, .. }, .. } => {
                                format!("message {group} {read}")
                            }
                            codec::Item::Message { body, .. } => format!("{body:?}"),
                        });
                    }
                    Ok(())
                }).unwrap();
            }
            prop_assert_eq!(messages, items.len() as u64);
            prop_assert_eq!(got, want);
            prop_assert_eq!(writer.queue().bytes(), 0);
        }
    }
}
