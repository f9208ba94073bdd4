//! A shard's ring behind the trait: what is asked becomes entries, and a turn gives them to the kernel.

mod completing;
mod op;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use bytes::Bytes;
use io_uring::{opcode, squeue, types};

use self::op::{Op, WriteOp};
use super::probe;
use super::recv_pool::{self, RecvPool};
use super::ring::Ring;
use super::send::SendOp;
use super::streams::{Handle, Streams, Table};
use super::world::{Rings, UringConfig};
use crate::host::files::{Durability, Identity};
use crate::host::mail::Permit;
use crate::host::shard::{Common, HostShard};
use crate::host::signal::WOKEN;
use crate::host::slots::{Key, Slots};
use crate::host::sys;
use crate::host::world::Start;
use crate::{AlignedBuf, CloseReason, Completion, FileId, ShardNo, StreamId, Token, WorldError};

/// Set in the user data of entries that own no slot.
const SLOTLESS: u64 = 1 << 63;
/// A cancel; the slot's index is added. If it succeeds, the cancelled operation says so.
const CANCEL: u64 = SLOTLESS;
/// A message from another ring; it only ends a wait.
const KICK: u64 = SLOTLESS | 1 << 32;
/// A message to another ring that could not be delivered; the shard's number is added.
const KICKING: u64 = SLOTLESS | 2 << 32;

/// Spare sends and vectors of buffers kept for the next send.
const SPARE_MAX: usize = 256;
/// How long a ring that is dropped waits for its operations to end.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// One shard's io_uring. Made by [`UringSeed::into_io`](super::UringSeed::into_io) on the thread that uses it.
pub struct Uring {
    // Before the ring: what stands in slots is freed only after `drop` has seen the kernel let go of it.
    slots: Slots<Op>,
    streams: Streams,
    pool: RecvPool,
    table: Table,
    ring: Ring,
    common: Common<Handle>,
    rings: Rings,
    /// Streams that wait for buffers to come back.
    starved: Vec<StreamId>,
    #[expect(clippy::vec_box, reason = "the kernel holds pointers into a send, so it moves by its box only")]
    spare_sends: Vec<Box<SendOp>>,
    spare_bufs: Vec<Vec<Bytes>>,
    /// Which other shards were already kicked with the entries of this turn.
    kicked: Vec<bool>,
    bundles: bool,
}

impl Uring {
    pub(super) fn new(start: Start, config: &UringConfig, rings: Rings) -> Result<Uring, WorldError> {
        let common = Common::new(start, &config.world, Durability::ByWrite)?;
        let ring = Ring::new(config.sq_entries, config.cq_entries)?;
        let pool = probe::pool(&ring.submitter, &config.world)?;
        let table = Table::new(&ring.submitter, config.table_size);
        let own = ring.dup().map_err(|source| WorldError::Io { what: "duplicate a ring's descriptor", source })?;
        assert!(rings[usize::from(common.shard.0)].set(own).is_ok(), "one ring per shard");
        let mut uring = Uring {
            slots: Slots::with_capacity(256),
            streams: Streams::new(),
            pool,
            table,
            bundles: config.bundles && ring.capabilities.bundles,
            ring,
            kicked: vec![false; common.signals.len()],
            common,
            rings,
            starved: Vec::new(),
            spare_sends: Vec::new(),
            spare_bufs: Vec::new(),
        };
        uring.listen_for_kicks();
        Ok(uring)
    }

    /// How many operations the kernel has in its hands.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len()
    }

    /// The socket of a stream.
    #[cfg(test)]
    pub(crate) fn socket(&mut self, id: StreamId) -> &OwnedFd {
        &self.streams.get(id).expect("the stream exists").fd
    }

    // ---- asking ----

    fn listen_for_kicks(&mut self) {
        let mut count = Box::new([0; 8]);
        let fd = types::Fd(self.common.signal().event().as_raw_fd());
        let entry = opcode::Read::new(fd, count.as_mut_ptr(), 8).build();
        let key = self.slots.insert(Op::Event(count));
        // SAFETY: the slot keeps the box, and `signals` the descriptor, until the completion.
        unsafe { self.ring.push(&entry.user_data(key.bits())) };
    }

    /// Starts a receive if one is wanted and possible.
    fn arm(&mut self, id: StreamId) {
        let Some(stream) = self.streams.open(id) else { return };
        if !stream.wanted || stream.starved || stream.receiving.is_some() {
            return;
        }
        let group = recv_pool::GROUP;
        let entry = match (stream.handle, self.bundles) {
            (Handle::Fixed(n), true) => opcode::RecvMultiBundle::new(types::Fixed(n), group).build(),
            (Handle::Fixed(n), false) => opcode::RecvMulti::new(types::Fixed(n), group).build(),
            (Handle::Plain(fd), true) => opcode::RecvMultiBundle::new(types::Fd(fd), group).build(),
            (Handle::Plain(fd), false) => opcode::RecvMulti::new(types::Fd(fd), group).build(),
        };
        let key = self.slots.insert(Op::Receive(id));
        stream.receiving = Some(key);
        // SAFETY: the kernel writes into buffers of the pool only, which lives until the ring has let go of it.
        unsafe { self.ring.push(&entry.user_data(key.bits())) };
    }

    fn cancel(&mut self, key: Key) {
        let index = key.bits() & u64::from(u32::MAX);
        let entry = opcode::AsyncCancel::new(key.bits()).build().user_data(CANCEL | index);
        // SAFETY: the entry points to nothing.
        unsafe { self.ring.push(&entry) };
    }

    fn rearm_starved(&mut self) {
        if self.starved.is_empty() || !self.pool.has_room() {
            return;
        }
        let mut starved = std::mem::take(&mut self.starved);
        for id in starved.drain(..) {
            if let Some(stream) = self.streams.get(id) {
                stream.starved = false;
                self.arm(id);
            }
        }
        self.starved = starved;
    }

    fn submit_send(&mut self, mut op: Box<SendOp>) {
        let id = op.stream;
        let Some(stream) = self.streams.open(id) else { return self.recycle(op) };
        // The box does not move with the slot, so neither do the header and the vectors.
        let entry = op.entry(stream.handle);
        let key = self.slots.insert(Op::Send(op));
        stream.sending = Some(key);
        // SAFETY: the slot keeps header, vectors and buffers until the completion.
        unsafe { self.ring.push(&entry.user_data(key.bits())) };
    }

    /// Submits a write that was counted by `begin_write`.
    fn submit_write(&mut self, op: WriteOp) {
        let entry = op.entry(self.common.files.writing(op.file));
        let key = self.slots.insert(Op::Write(op));
        // SAFETY: the slot keeps the buffer, and `files` the descriptor, until the completion.
        unsafe { self.ring.push(&entry.user_data(key.bits())) };
    }

    fn recycle(&mut self, mut op: Box<SendOp>) {
        self.recycle_bufs(std::mem::take(&mut op.bufs));
        if self.spare_sends.len() < SPARE_MAX {
            self.spare_sends.push(op);
        }
    }

    fn recycle_bufs(&mut self, mut bufs: Vec<Bytes>) {
        bufs.clear();
        if self.spare_bufs.len() < SPARE_MAX {
            self.spare_bufs.push(bufs);
        }
    }

    fn release(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.release(id) {
            self.table.remove(&self.ring.submitter, stream.handle);
        }
    }

    /// The stream has ended by itself.
    fn end(&mut self, id: StreamId, reason: CloseReason, out: &mut Vec<Completion>) {
        if self.streams.open(id).is_some() {
            out.push(Completion::Closed { stream: id, reason });
            self.shut(id);
        }
    }
}

impl HostShard for Uring {
    type Handle = Handle;

    fn common(&self) -> &Common<Handle> {
        &self.common
    }

    fn common_mut(&mut self) -> &mut Common<Handle> {
        &mut self.common
    }

    fn adopt_stream(&mut self, fd: OwnedFd, permit: Option<Permit>) -> StreamId {
        let handle = self.table.insert(&self.ring.submitter, &fd);
        self.streams.insert(fd, handle, permit)
    }

    fn adopt_file(&mut self, file: File) -> FileId {
        let handle = self.table.insert(&self.ring.submitter, &file);
        self.common.files.insert(file, handle)
    }

    fn removed(&mut self, identity: Identity) {
        self.common.files.removed(identity, |handle| self.table.remove(&self.ring.submitter, handle));
    }

    fn before_wait(&mut self, _out: &mut Vec<Completion>) {
        self.pool.publish();
        self.rearm_starved();
    }

    fn has_work(&mut self) -> bool {
        self.ring.has_completions()
    }

    fn look(&mut self) -> io::Result<()> {
        if self.ring.wants_enter() { self.ring.enter(0, None) } else { Ok(()) }
    }

    fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.ring.enter(1, timeout)
    }

    fn after_wait(&mut self, _bits: u8, out: &mut Vec<Completion>) -> io::Result<()> {
        self.kicked.fill(false);
        self.reap(out)
    }

    fn start_send(&mut self, stream: StreamId, bufs: Vec<Bytes>) {
        let mut op = self.spare_sends.pop().unwrap_or_else(SendOp::new);
        op.fill(stream, bufs);
        let busy = self.streams.open(stream).is_some_and(|open| open.sending.is_some());
        assert!(!busy, "a send is in flight on {stream:?}");
        if op.total == 0 {
            if self.streams.open(stream).is_some() {
                self.common.ready.push(Completion::Sent { stream, bytes: 0 });
            }
            return self.recycle(op);
        }
        self.submit_send(op);
    }

    fn spare_bufs(&mut self) -> Vec<Bytes> {
        self.spare_bufs.pop().unwrap_or_default()
    }

    fn want(&mut self, stream: StreamId, wanted: bool) {
        let Some(open) = self.streams.open(stream) else { return };
        open.wanted = wanted;
        if wanted {
            self.arm(stream);
        } else if let Some(key) = open.receiving
            && !open.cancelling
        {
            open.cancelling = true;
            self.cancel(key);
        }
    }

    /// Nothing more is said about the stream; it goes when the kernel has let go of it.
    fn shut(&mut self, id: StreamId) {
        let Some(stream) = self.streams.open(id) else { return };
        stream.closing = true;
        let in_flight = [stream.receiving, stream.sending];
        if in_flight.iter().any(Option::is_some) {
            sys::shutdown(&stream.fd);
        }
        // The shutdown ends them as well; the cancel does so when the socket is not connected any more.
        for key in in_flight.into_iter().flatten() {
            self.cancel(key);
        }
        self.release(id);
    }

    fn start_write(&mut self, file: FileId, offset: u64, buf: AlignedBuf, token: Token) {
        self.submit_write(WriteOp { file, token, buf, offset, done: 0 });
    }

    fn ring(&mut self, shard: ShardNo) {
        let n = usize::from(shard.0);
        // Not by `raise_and_kick`: the message leaves only with this turn, so nobody else may rely on it.
        if !self.common.signals[n].raise(WOKEN) || self.kicked[n] {
            return;
        }
        self.kicked[n] = true;
        let Some(ring) = self.rings[n].get() else { return };
        let entry = opcode::MsgRingData::new(types::Fd(ring.as_raw_fd()), 0, KICK, None).build();
        let data = KICKING | u64::from(shard.0);
        // SAFETY: the entry points to nothing; `rings` keeps the descriptor.
        unsafe { self.ring.push(&entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(data)) };
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.common.helpers.end_jobs();
        for id in self.streams.ids() {
            self.shut(id);
        }
        let cancel = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build().user_data(CANCEL);
        // SAFETY: the entry points to nothing.
        unsafe { self.ring.push(&cancel) };
        let end = sys::clock() + DRAIN_MAX;
        let mut drained = Vec::new();
        let mut broken = false;
        // Only the event is armed again and again: one operation left means that all others have ended.
        while !broken && self.slots.len() > 1 && sys::clock() < end {
            broken = self.ring.enter(1, Some(Duration::from_millis(20))).is_err() || self.reap(&mut drained).is_err();
        }
        // The event's read ends with a kick, or with the cancel; either way without being armed again.
        while !broken && !self.event_ended() && sys::clock() < end {
            self.common.signal().kick();
            broken = self.ring.enter(1, Some(Duration::from_millis(20))).is_err();
        }
        if broken || self.slots.len() > 0 {
            let left = self.slots.len();
            eprintln!("shard {}: {left} operations have not ended; their memory is given up", self.common.shard);
            std::mem::forget(std::mem::replace(&mut self.slots, Slots::with_capacity(0)));
            self.pool.leak();
        }
        self.pool.unregister(&self.ring.submitter);
        // The world still holds the ring's descriptor; the sockets and files must not wait for it.
        let _ = self.ring.submitter.unregister_files();
    }
}

impl Uring {
    /// Takes completions until the last slot is empty, arming nothing again.
    fn event_ended(&mut self) -> bool {
        while let Some(entry) = self.ring.next() {
            if entry.user_data() & SLOTLESS == 0 {
                self.slots.remove(Key::from_bits(entry.user_data()));
            }
        }
        self.slots.len() == 0
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uring(shard {}, {} operations in flight)", self.common.shard, self.slots.len())
    }
}
