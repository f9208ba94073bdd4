//! Streams: ordered bytes between two shards, in pieces, with delays, bounds and breaks.
//!
//! A connection has two ends and two pipes; pipe `i` carries the bytes of end `i` to the other one. Nothing inside a
//! pipe is reordered, and bytes are lost only off its tail, by a break that the receiver gets to see (or by the two
//! sides never hearing of each other again). As with sockets, an orderly end is noticed only by who receives, and a
//! break at once.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::mem;

use bytes::{Buf, Bytes, BytesMut};

use super::events::{Event, Who};
use super::trace::Note;
use super::world::{Inner, place};
use super::{Delay, ProcessId};
use crate::buf::Memory;
use crate::{CloseReason, Completion, RecvBuf, SEND_BUFS_MAX, StreamId, Time};

/// The network between all processes.
#[derive(Default)]
pub(super) struct Net {
    /// Slots are never reused, so a stream's name is its slot and its end.
    conns: Vec<Option<Box<Conn>>>,
    /// Blocked directions, and since when.
    pub(super) blocked: BTreeMap<(ProcessId, ProcessId), Time>,
    /// Directions with a delay of their own.
    pub(super) delays: BTreeMap<(ProcessId, ProcessId), Delay>,
    /// Emptied vectors of sends, to be used again.
    spare_bufs: Vec<Vec<Bytes>>,
}

struct Conn {
    slot: usize,
    ends: [End; 2],
    pipes: [Pipe; 2],
    /// For the shard of end 1.
    greeting: Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum EndState {
    /// The shard does not know of it yet.
    Pending,
    Open,
    /// Closed by the shard, or the shard has been told; nothing more is said.
    Gone,
}

struct End {
    who: Who,
    state: EndState,
    receiving: bool,
    /// Arrived while the shard was not receiving.
    inbox: VecDeque<Vec<u8>>,
    /// The remote side has ended, and the shard could not be told yet.
    ended: Option<CloseReason>,
}

#[derive(Default)]
struct Pipe {
    /// Sent, not arrived.
    bytes: BytesMut,
    /// Position of the first of them in the stream.
    taken: u64,
    /// Bytes before this position may arrive from this time on.
    marks: VecDeque<(u64, Time)>,
    /// The latest time in `marks` so far.
    last_ready: Time,
    /// Arrived, not handed out.
    unread: usize,
    /// Handed out, but word of it cannot get back.
    unacked: usize,
    sending: Option<Sending>,
    serial: u32,
    /// The end of the stream travels behind the bytes.
    fin: Option<(Time, CloseReason)>,
    /// The tail is lost: what is sent from now on goes nowhere.
    broken: bool,
    /// A delivery is in the queue.
    queued: bool,
    /// A delivery found the way blocked.
    held: bool,
}

struct Sending {
    len: usize,
    bufs: Vec<Bytes>,
    /// `Sent` is in the queue, or due.
    taken: bool,
}

impl Pipe {
    fn outstanding(&self) -> usize {
        self.bytes.len() + self.unread + self.unacked
    }

    /// Loses all but `keep` of the bytes on their way, and all that follow.
    fn cut(&mut self, keep: usize) {
        self.broken = true;
        self.bytes.truncate(keep);
        let end = self.taken + self.bytes.len() as u64;
        while let Some((mark, ready)) = self.marks.pop_back() {
            let before = self.marks.back().map_or(self.taken, |(mark, _)| *mark);
            if before < end {
                self.marks.push_back((mark.min(end), ready));
                break;
            }
        }
    }

    /// How many bytes may arrive by `now`.
    fn ready(&self, now: Time) -> usize {
        let end = self.marks.iter().take_while(|(_, ready)| *ready <= now).last().map_or(self.taken, |(mark, _)| *mark);
        usize::try_from(end - self.taken).expect("no more than the bytes there are")
    }
}

impl Inner {
    // ---- what a shard asks ----

    pub(super) fn send(&mut self, who: Who, stream: StreamId, mut bufs: Vec<Bytes>) {
        assert!(!bufs.is_empty() && bufs.len() <= SEND_BUFS_MAX, "a send of {} buffers", bufs.len());
        let (slot, side) = locate(stream);
        let Some(mut conn) = self.take_open(who, stream) else {
            self.recycle(bufs);
            return;
        };
        assert!(conn.pipes[side].sending.is_none(), "stream {}: a send is in flight already", stream.0);
        let start = self.start(who);
        let ready = start + self.net_delay(who.process, conn.ends[1 - side].who.process);
        let pipe = &mut conn.pipes[side];
        let len = bufs.iter().map(Bytes::len).sum();
        if !pipe.broken && len > 0 {
            for buf in &bufs {
                pipe.bytes.extend_from_slice(buf);
            }
            pipe.last_ready = pipe.last_ready.max(ready);
            pipe.marks.push_back((pipe.taken + pipe.bytes.len() as u64, pipe.last_ready));
        }
        if pipe.broken {
            bufs.clear();
        }
        pipe.serial = pipe.serial.wrapping_add(1);
        pipe.sending = Some(Sending { len, bufs, taken: false });
        self.note(Note::AskSend, place(who), stream.0, len as u64);
        self.check_taken(&mut conn, side, start);
        if !conn.pipes[side].sending.as_ref().is_some_and(|sending| sending.taken) {
            self.counters.sends_held_back += 1;
        }
        self.kick(&mut conn, side, start);
        if self.rng.chance(self.config.reset_chance) {
            self.break_conn(&mut conn);
        }
        self.put(slot, conn);
    }

    pub(super) fn send_bufs(&mut self) -> Vec<Bytes> {
        self.net.spare_bufs.pop().unwrap_or_default()
    }

    pub(super) fn receive(&mut self, who: Who, stream: StreamId) {
        let (slot, side) = locate(stream);
        let Some(mut conn) = self.take_open(who, stream) else { return };
        self.note(Note::AskReceive, place(who), stream.0, 0);
        let end = &mut conn.ends[side];
        end.receiving = true;
        for piece in mem::take(&mut end.inbox) {
            self.complete(who, Completion::Received { stream, data: RecvBuf(Memory::Heap(piece)) });
        }
        if let Some(reason) = conn.ends[side].ended.take() {
            self.close_end(&mut conn, side, reason);
        }
        self.put(slot, conn);
    }

    pub(super) fn pause_stream(&mut self, who: Who, stream: StreamId) {
        let (slot, side) = locate(stream);
        let Some(mut conn) = self.take_open(who, stream) else { return };
        self.note(Note::AskPause, place(who), stream.0, 0);
        conn.ends[side].receiving = false;
        self.put(slot, conn);
    }

    pub(super) fn close(&mut self, who: Who, stream: StreamId) {
        self.shard_mut(who).due.retain(|completion| !is_about(completion, stream));
        let (slot, side) = locate(stream);
        let Some(mut conn) = self.take_open(who, stream) else { return };
        self.note(Note::AskClose, place(who), stream.0, 0);
        self.hang_up(&mut conn, side);
        self.put(slot, conn);
    }

    // ---- making and ending ----

    /// A connection that neither shard knows of yet; end 0 is the caller's.
    pub(super) fn connect(&mut self, caller: Who, target: Who, greeting: Bytes) -> usize {
        let slot = self.net.conns.len();
        let end = |who| End { who, state: EndState::Pending, receiving: false, inbox: VecDeque::new(), ended: None };
        let conn = Conn { slot, ends: [end(caller), end(target)], pipes: Default::default(), greeting };
        self.net.conns.push(Some(Box::new(conn)));
        slot
    }

    /// Makes an end known to its shard; the reason if it has broken meanwhile.
    pub(super) fn establish(&mut self, slot: usize, side: usize) -> Result<StreamId, CloseReason> {
        let broken = Err(CloseReason::Error(io::ErrorKind::ConnectionReset));
        let Some(mut conn) = self.take(slot) else { return broken };
        let end = &mut conn.ends[side];
        let result = match (&end.state, &end.ended) {
            (EndState::Gone, _) => broken,
            (_, Some(CloseReason::Error(kind))) => {
                let result = Err(CloseReason::Error(*kind));
                self.hang_up(&mut conn, side);
                result
            }
            (EndState::Open, _) => unreachable!("established twice"),
            (EndState::Pending, _) => {
                end.state = EndState::Open;
                Ok(StreamId((slot * 2 + side) as u64))
            }
        };
        self.put(slot, conn);
        result
    }

    /// The caller has given up before it heard of the connection.
    pub(super) fn abandon(&mut self, slot: usize, side: usize) {
        let Some(mut conn) = self.take(slot) else { return };
        if conn.ends[side].state != EndState::Gone {
            self.hang_up(&mut conn, side);
        }
        self.put(slot, conn);
    }

    pub(super) fn hand_over(&mut self, slot: usize) {
        let Some(conn) = &self.net.conns[slot] else { return };
        let (who, greeting) = (conn.ends[1].who, conn.greeting.clone());
        if let Some(until) = self.paused(who.process) {
            self.queue.push(until, Event::HandOver { conn: slot });
            return;
        }
        if let Ok(stream) = self.establish(slot, 1) {
            self.complete(who, Completion::Accepted { stream, greeting });
        }
    }

    pub(super) fn crash_streams(&mut self, process: ProcessId) {
        for slot in 0..self.net.conns.len() {
            let Some(mut conn) = self.take(slot) else { continue };
            for side in 0..2 {
                if conn.ends[side].who.process == process && conn.ends[side].state != EndState::Gone {
                    self.crash_end(&mut conn, side);
                }
            }
            self.put(slot, conn);
        }
    }

    fn crash_end(&mut self, conn: &mut Conn, side: usize) {
        let kept = self.rng.index(conn.pipes[side].bytes.len() + 1);
        let notice = self.now + self.config.crash_notice_delay.draw(&mut self.rng);
        let reset = self.rng.chance(0.7);
        let reason = if reset { CloseReason::Error(io::ErrorKind::ConnectionReset) } else { CloseReason::Eof };
        let pipe = &mut conn.pipes[side];
        pipe.cut(kept);
        pipe.fin = Some((notice.max(pipe.last_ready), reason));
        self.leave(conn, side);
    }

    /// The shard closes its end.
    fn hang_up(&mut self, conn: &mut Conn, side: usize) {
        let rude = conn.pipes[1 - side].unread > 0;
        let arrives = self.now + self.net_delay(conn.ends[side].who.process, conn.ends[1 - side].who.process);
        let pipe = &mut conn.pipes[side];
        if pipe.sending.is_some() && self.rng.chance(0.5) {
            pipe.cut(self.rng.index(pipe.bytes.len() + 1));
        }
        let reason = if rude { CloseReason::Error(io::ErrorKind::ConnectionReset) } else { CloseReason::Eof };
        if pipe.fin.is_none() {
            pipe.fin = Some((arrives.max(pipe.last_ready), reason));
        }
        self.leave(conn, side);
    }

    /// Tells the shard that its stream has ended.
    fn close_end(&mut self, conn: &mut Conn, side: usize, reason: CloseReason) {
        let (who, stream) = (conn.ends[side].who, StreamId((conn.slot * 2 + side) as u64));
        self.complete(who, Completion::Closed { stream, reason });
        self.hang_up(conn, side);
    }

    /// What is common to all ways of losing an end.
    fn leave(&mut self, conn: &mut Conn, side: usize) {
        let end = &mut conn.ends[side];
        end.state = EndState::Gone;
        end.inbox = VecDeque::new();
        if let Some(sending) = conn.pipes[side].sending.take() {
            self.recycle(sending.bufs);
        }
        let incoming = &mut conn.pipes[1 - side];
        incoming.unread = 0;
        incoming.unacked = 0;
        let now = self.now;
        self.kick(conn, side, now);
        self.kick(conn, 1 - side, now);
    }

    /// Breaks the whole connection; each side hears of it in its own time.
    fn break_conn(&mut self, conn: &mut Conn) {
        self.counters.resets += 1;
        self.note(Note::Reset, place(conn.ends[0].who), conn.slot as u64, 0);
        for dir in 0..2 {
            let kept = if self.rng.chance(0.5) { 0 } else { self.rng.index(conn.pipes[dir].bytes.len() + 1) };
            self.abort(conn, dir, kept);
        }
    }

    /// Ends a pipe with an error after `kept` more bytes.
    fn abort(&mut self, conn: &mut Conn, dir: usize, kept: usize) {
        let now = self.now;
        let arrives = now + self.net_delay(conn.ends[dir].who.process, conn.ends[1 - dir].who.process);
        let pipe = &mut conn.pipes[dir];
        pipe.cut(kept);
        pipe.fin = Some((arrives, CloseReason::Error(io::ErrorKind::ConnectionReset)));
        self.check_taken(conn, dir, now);
        self.kick(conn, dir, now);
    }

    // ---- bytes under way ----

    /// Queues the next delivery of a pipe, if there is something to deliver.
    fn kick(&mut self, conn: &mut Conn, dir: usize, not_before: Time) {
        let window = self.config.receive_window_size;
        let gone = conn.ends[1 - dir].state == EndState::Gone;
        let pipe = &mut conn.pipes[dir];
        if pipe.queued || pipe.held {
            return;
        }
        let at = match (pipe.marks.front(), &pipe.fin) {
            (Some(_), _) if pipe.unread >= window && !gone => return,
            (Some((_, ready)), _) => *ready,
            (None, Some((arrives, _))) => *arrives,
            (None, None) => return,
        };
        pipe.queued = true;
        let at = at.max(not_before).max(self.now);
        self.queue.push(at, Event::Deliver { conn: conn.slot, dir });
    }

    pub(super) fn deliver(&mut self, slot: usize, dir: usize) {
        let Some(mut conn) = self.take(slot) else { return };
        self.deliver_next(&mut conn, dir);
        self.put(slot, conn);
    }

    fn deliver_next(&mut self, conn: &mut Conn, dir: usize) {
        let now = self.now;
        let (from, to) = (conn.ends[dir].who.process, conn.ends[1 - dir].who.process);
        let blocked = self.is_blocked(from, to);
        let pipe = &mut conn.pipes[dir];
        pipe.queued = false;
        if blocked {
            pipe.held = true;
            return;
        }
        if conn.ends[1 - dir].state == EndState::Gone {
            self.deliver_to_nobody(conn, dir);
            return;
        }
        let room = self.config.receive_window_size.saturating_sub(pipe.unread);
        let len = pipe.ready(now).min(room).min(self.config.piece_size_max);
        if len > 0 {
            self.deliver_piece(conn, dir, len);
            let gap = self.config.piece_gap.draw(&mut self.rng);
            self.kick(conn, dir, now + gap);
        } else if pipe.bytes.is_empty() && pipe.fin.as_ref().is_some_and(|(arrives, _)| *arrives <= now) {
            let (_, reason) = pipe.fin.take().expect("checked above");
            self.deliver_end(conn, 1 - dir, reason);
        } else {
            self.kick(conn, dir, now);
        }
    }

    fn deliver_piece(&mut self, conn: &mut Conn, dir: usize, most: usize) {
        let len = if most > 1 && self.rng.chance(self.config.one_byte_chance) {
            self.counters.single_bytes += 1;
            1
        } else if self.rng.bits() & 1 == 0 {
            most
        } else {
            1 + self.rng.index(most)
        };
        let pipe = &mut conn.pipes[dir];
        let mut piece = pipe.bytes[..len].to_vec();
        pipe.bytes.advance(len);
        pipe.taken += len as u64;
        pipe.unread += len;
        while pipe.marks.front().is_some_and(|(mark, _)| *mark <= pipe.taken) {
            pipe.marks.pop_front();
        }
        if self.rng.chance(self.config.corrupt_chance) {
            self.counters.pieces_corrupted += 1;
            let at = self.rng.index(len);
            piece[at] ^= 1 << self.rng.below(8);
        }
        let stream = StreamId((conn.slot * 2 + 1 - dir) as u64);
        let end = &mut conn.ends[1 - dir];
        if end.state == EndState::Open && end.receiving {
            self.complete(end.who, Completion::Received { stream, data: RecvBuf(Memory::Heap(piece)) });
        } else {
            end.inbox.push_back(piece);
        }
    }

    /// The end of the stream reaches `side`.
    fn deliver_end(&mut self, conn: &mut Conn, side: usize, reason: CloseReason) {
        let end = &mut conn.ends[side];
        let error = reason != CloseReason::Eof;
        if end.state == EndState::Open && (error || end.receiving) {
            assert!(error || end.inbox.is_empty(), "who receives has no inbox");
            self.close_end(conn, side, reason);
        } else {
            end.ended = Some(reason);
        }
    }

    /// Bytes for a closed end are answered with a reset.
    fn deliver_to_nobody(&mut self, conn: &mut Conn, dir: usize) {
        let pipe = &mut conn.pipes[dir];
        let unwanted = !pipe.bytes.is_empty();
        pipe.cut(0);
        pipe.fin = None;
        let now = self.now;
        self.check_taken(conn, dir, now);
        if unwanted && conn.ends[dir].state != EndState::Gone {
            self.abort(conn, 1 - dir, 0);
        }
    }

    /// Completes the send of a pipe once its buffer has room.
    fn check_taken(&mut self, conn: &mut Conn, dir: usize, not_before: Time) {
        let pipe = &mut conn.pipes[dir];
        let fits = pipe.outstanding() <= self.config.socket_buffer_size;
        let serial = pipe.serial;
        if let Some(sending) = &mut pipe.sending
            && fits
            && !sending.taken
        {
            sending.taken = true;
            let at = not_before.max(self.now) + self.config.sent_delay.draw(&mut self.rng);
            self.queue.push(at, Event::Sent { conn: conn.slot, dir, serial });
        }
    }

    pub(super) fn sent(&mut self, slot: usize, dir: usize, serial: u32) {
        let Some(mut conn) = self.take(slot) else { return };
        let who = conn.ends[dir].who;
        if conn.ends[dir].state == EndState::Open
            && conn.pipes[dir].serial == serial
            && let Some(sending) = &mut conn.pipes[dir].sending
        {
            // The buffers are let go now; the send itself is over when the shard has seen it.
            let (bytes, bufs) = (sending.len, mem::take(&mut sending.bufs));
            self.recycle(bufs);
            self.complete(who, Completion::Sent { stream: StreamId((slot * 2 + dir) as u64), bytes });
        }
        self.put(slot, conn);
    }

    /// The shard has been handed a `Sent`.
    pub(super) fn sent_seen(&mut self, stream: StreamId) {
        let (slot, side) = locate(stream);
        if let Some(conn) = &mut self.net.conns[slot] {
            conn.pipes[side].sending = None;
        }
    }

    /// The shard has been handed bytes: there is room for more.
    pub(super) fn consumed(&mut self, stream: StreamId, len: usize) {
        let (slot, side) = locate(stream);
        let Some(mut conn) = self.take(slot) else { return };
        if conn.ends[side].state != EndState::Gone {
            let (from, to) = (conn.ends[1 - side].who.process, conn.ends[side].who.process);
            let blocked = self.is_blocked(to, from);
            let pipe = &mut conn.pipes[1 - side];
            pipe.unread -= len;
            if blocked {
                pipe.unacked += len;
            }
            let now = self.now;
            self.check_taken(&mut conn, 1 - side, now);
            self.kick(&mut conn, 1 - side, now);
        }
        self.put(slot, conn);
    }

    // ---- links ----

    pub(super) fn is_blocked(&self, from: ProcessId, to: ProcessId) -> bool {
        !self.net.blocked.is_empty() && self.net.blocked.contains_key(&(from, to))
    }

    pub(super) fn net_delay(&mut self, from: ProcessId, to: ProcessId) -> std::time::Duration {
        let own = if self.net.delays.is_empty() { None } else { self.net.delays.get(&(from, to)) };
        own.unwrap_or(&self.config.net_delay).draw(&mut self.rng)
    }

    pub(super) fn partition(&mut self, from: ProcessId, to: ProcessId, blocked: bool) {
        assert_ne!(from, to, "nothing lies between a process and itself");
        self.note(Note::Partition, u64::from(from.0) << 16, u64::from(to.0), u64::from(blocked));
        if blocked {
            self.counters.partitions += 1;
            let now = self.now;
            self.net.blocked.entry((from, to)).or_insert(now);
        } else if let Some(since) = self.net.blocked.remove(&(from, to)) {
            self.counters.heals += 1;
            let long = self.now.since(since) >= self.config.partition_reset_after;
            for slot in 0..self.net.conns.len() {
                let Some(mut conn) = self.take(slot) else { continue };
                for dir in 0..2 {
                    if (conn.ends[dir].who.process, conn.ends[1 - dir].who.process) == (from, to) {
                        self.heal_pipe(&mut conn, dir, long);
                    }
                }
                self.put(slot, conn);
            }
        }
    }

    fn heal_pipe(&mut self, conn: &mut Conn, dir: usize, long: bool) {
        let again = self.now + self.config.retry_delay.draw(&mut self.rng);
        conn.pipes[dir].held = false;
        // Word of what was received travels this way too.
        conn.pipes[1 - dir].unacked = 0;
        self.check_taken(conn, 1 - dir, again);
        if long && self.rng.chance(self.config.partition_reset_chance) {
            self.break_conn(conn);
        } else {
            self.kick(conn, dir, again);
        }
    }

    pub(super) fn reset_between(&mut self, a: ProcessId, b: ProcessId) {
        for slot in 0..self.net.conns.len() {
            let Some(mut conn) = self.take(slot) else { continue };
            let between = (conn.ends[0].who.process, conn.ends[1].who.process);
            if between == (a, b) || between == (b, a) {
                self.break_conn(&mut conn);
            }
            self.put(slot, conn);
        }
    }

    // ---- slots ----

    /// Takes a connection out while it is worked on; [`Inner::put`] must follow.
    fn take(&mut self, slot: usize) -> Option<Box<Conn>> {
        self.net.conns[slot].take()
    }

    /// Takes the connection of a stream that is open for its shard.
    fn take_open(&mut self, who: Who, stream: StreamId) -> Option<Box<Conn>> {
        let (slot, side) = locate(stream);
        assert!(slot < self.net.conns.len(), "stream {} never was", stream.0);
        let conn = self.net.conns[slot].as_ref()?;
        assert_eq!(conn.ends[side].who, who, "stream {} belongs to another shard", stream.0);
        if conn.ends[side].state == EndState::Gone {
            // It has ended, but the shard may be handling what came before.
            return None;
        }
        self.take(slot)
    }

    fn put(&mut self, slot: usize, conn: Box<Conn>) {
        if conn.ends.iter().any(|end| end.state != EndState::Gone) {
            self.net.conns[slot] = Some(conn);
        }
    }

    fn recycle(&mut self, mut bufs: Vec<Bytes>) {
        bufs.clear();
        if bufs.capacity() > 0 && self.net.spare_bufs.len() < SPARE_BUFS_MAX {
            self.net.spare_bufs.push(bufs);
        }
    }
}

const SPARE_BUFS_MAX: usize = 64;

fn locate(stream: StreamId) -> (usize, usize) {
    let name = usize::try_from(stream.0).expect("a stream's name is a slot and an end");
    (name / 2, name % 2)
}

fn is_about(completion: &Completion, stream: StreamId) -> bool {
    match completion {
        Completion::Received { stream: about, .. }
        | Completion::Sent { stream: about, .. }
        | Completion::Closed { stream: about, .. }
        | Completion::Accepted { stream: about, .. } => *about == stream,
        _ => false,
    }
}
