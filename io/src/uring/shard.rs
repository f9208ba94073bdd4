//! A shard's ring behind the trait: what is asked becomes entries, and a turn gives them to the kernel.

mod completing;
mod op;

use std::fmt;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
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
use crate::host::helpers::{Adopt, Helpers};
use crate::host::mail::Permit;
use crate::host::open_files::OpenFiles;
use crate::host::signal::{Signal, WOKEN};
use crate::host::slots::{Key, Slots};
use crate::host::spin::Spin;
use crate::host::world::Start;
use crate::host::{files, sys};
use crate::{
    AlignedBuf, BLOCK_ALIGN, CloseReason, Completion, Dial, FileId, FileInfo, Io, Job, LockError, SendFile, ShardNo,
    StreamId, Time, Token, WorldError,
};

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
    shard: ShardNo,
    now: Time,
    // Before the ring: what stands in slots is freed only after `drop` has seen the kernel let go of it.
    slots: Slots<Op>,
    streams: Streams,
    pool: RecvPool,
    table: Table,
    ring: Ring,
    files: OpenFiles<Handle>,
    locks: Vec<File>,
    signals: Arc<[Signal]>,
    rings: Rings,
    helpers: Helpers,
    /// Completions that needed no kernel.
    ready: Vec<Completion>,
    /// Streams that wait for buffers to come back.
    starved: Vec<StreamId>,
    #[expect(clippy::vec_box, reason = "the kernel holds pointers into a send, so it moves by its box only")]
    spare_sends: Vec<Box<SendOp>>,
    spare_bufs: Vec<Vec<Bytes>>,
    /// Which other shards were already kicked with the entries of this turn.
    kicked: Vec<bool>,
    spin: Spin,
    bundles: bool,
    /// A ring belongs to its thread.
    _not_send: PhantomData<*const ()>,
}

impl Uring {
    pub(super) fn new(start: Start, config: &UringConfig, rings: Rings) -> Result<Uring, WorldError> {
        let Start { shard, signals, mail, mailbox, control } = start;
        let failed = |what| move |source| WorldError::Io { what, source };
        if config.world.pin {
            sys::pin_thread(usize::from(shard.0)).map_err(failed("pin a shard's thread"))?;
        }
        let ring = Ring::new(config.sq_entries, config.cq_entries)?;
        let pool = probe::pool(&ring.submitter, &config.world)?;
        let table = Table::new(&ring.submitter, config.table_size);
        let own = ring.dup().map_err(failed("duplicate a ring's descriptor"))?;
        assert!(rings[usize::from(shard.0)].set(own).is_ok(), "one ring per shard");
        let bundles = config.bundles && ring.capabilities.bundles;
        let kicked = vec![false; signals.len()];
        let mut uring = Uring {
            shard,
            now: sys::clock(),
            slots: Slots::with_capacity(256),
            streams: Streams::new(),
            pool,
            table,
            ring,
            files: OpenFiles::new(),
            locks: Vec::new(),
            signals,
            rings,
            helpers: Helpers::new(shard, mail, mailbox, control, Durability::ByWrite),
            ready: Vec::new(),
            starved: Vec::new(),
            spare_sends: Vec::new(),
            spare_bufs: Vec::new(),
            kicked,
            spin: Spin::new(config.world.spin),
            bundles,
            _not_send: PhantomData,
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

    fn signal(&self) -> &Signal {
        &self.signals[usize::from(self.shard.0)]
    }

    // ---- asking ----

    fn listen_for_kicks(&mut self) {
        let mut count = Box::new([0; 8]);
        let fd = types::Fd(self.signal().event().as_raw_fd());
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
        let entry = op.entry(self.files.writing(op.file));
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

    /// Looks around without waiting for a while; true if something turned up.
    fn spin(&mut self, until: Option<Time>) -> io::Result<bool> {
        if self.spin.span().is_zero() {
            return Ok(false);
        }
        let end = sys::clock() + self.spin.span();
        loop {
            if self.ring.wants_enter() {
                self.ring.enter(0, None)?;
            }
            if self.ring.has_completions() || self.signal().is_raised() {
                self.spin.hit();
                return Ok(true);
            }
            let now = sys::clock();
            if until.is_some_and(|until| until <= now) {
                return Ok(true);
            }
            if now >= end {
                return Ok(false);
            }
            std::hint::spin_loop();
        }
    }

    /// Submits, and waits if nothing is there yet.
    fn submit_and_wait(&mut self, wait_until: Option<Time>, patient: bool) -> io::Result<()> {
        let mut patient = patient && !self.signal().is_raised() && !self.ring.has_completions();
        let begin = sys::clock();
        if patient && self.spin(wait_until)? {
            patient = false;
        }
        // Read after the spinning; a deadline that has passed means polling.
        let timeout = wait_until.map(|until| until.since(sys::clock()));
        if patient && timeout.is_none_or(|timeout| !timeout.is_zero()) && self.signal().park() {
            let result = self.ring.enter(1, timeout);
            self.signal().unpark();
            self.spin.missed(sys::clock().since(begin));
            result
        } else if self.ring.wants_enter() {
            self.ring.enter(0, None)
        } else {
            Ok(())
        }
    }
}

impl Adopt for Uring {
    fn helpers(&self) -> &Helpers {
        &self.helpers
    }

    fn stream(&mut self, fd: OwnedFd, permit: Option<Permit>) -> StreamId {
        let handle = self.table.insert(&self.ring.submitter, &fd);
        self.streams.insert(fd, handle, permit)
    }

    fn file(&mut self, file: File) -> FileId {
        let handle = self.table.insert(&self.ring.submitter, &file);
        self.files.insert(file, handle)
    }

    fn removed(&mut self, identity: Identity) {
        self.files.removed(identity, |handle| self.table.remove(&self.ring.submitter, handle));
    }
}

impl Io for Uring {
    fn now(&self) -> Time {
        self.now
    }

    fn turn(&mut self, wait_until: Option<Time>, out: &mut Vec<Completion>) -> io::Result<()> {
        self.pool.publish();
        self.rearm_starved();
        let patient = self.ready.is_empty();
        out.append(&mut self.ready);
        self.submit_and_wait(wait_until, patient)?;
        self.kicked.fill(false);
        self.now = sys::clock();
        self.reap(out)?;
        self.take_signals(out);
        Ok(())
    }

    fn send(&mut self, stream: StreamId, bufs: Vec<Bytes>) {
        let mut op = self.spare_sends.pop().unwrap_or_else(SendOp::new);
        op.fill(stream, bufs);
        let busy = self.streams.open(stream).is_some_and(|open| open.sending.is_some());
        assert!(!busy, "a send is in flight on {stream:?}");
        if op.total == 0 {
            if self.streams.open(stream).is_some() {
                self.ready.push(Completion::Sent { stream, bytes: 0 });
            }
            return self.recycle(op);
        }
        self.submit_send(op);
    }

    fn send_bufs(&mut self) -> Vec<Bytes> {
        self.spare_bufs.pop().unwrap_or_default()
    }

    fn receive(&mut self, stream: StreamId) {
        if let Some(open) = self.streams.open(stream) {
            open.wanted = true;
            self.arm(stream);
        }
    }

    fn pause(&mut self, stream: StreamId) {
        let Some(open) = self.streams.open(stream) else { return };
        open.wanted = false;
        if let Some(key) = open.receiving
            && !open.cancelling
        {
            open.cancelling = true;
            self.cancel(key);
        }
    }

    fn close(&mut self, stream: StreamId) {
        self.shut(stream);
    }

    fn dial(&mut self, dial: Dial) {
        self.ready.extend(self.helpers.dial(dial));
    }

    fn send_file(&mut self, send: SendFile) {
        self.ready.extend(self.helpers.send_file(send));
    }

    fn write(&mut self, file: FileId, offset: u64, buf: AlignedBuf, token: Token) {
        let align = u64::try_from(BLOCK_ALIGN).expect("a small constant");
        assert!(offset.is_multiple_of(align) && !buf.is_empty(), "{} bytes at {offset} of {file:?}", buf.len());
        if self.files.begin_write(file).is_some() {
            self.submit_write(WriteOp { file, token, buf, offset, done: 0 });
        } else {
            let result = Err(io::ErrorKind::NotFound.into());
            self.ready.push(Completion::Written { file, token, buf, result });
        }
    }

    fn job(&mut self, job: Job, token: Token) {
        let files = &self.files;
        self.ready.extend(self.helpers.job(job, token, |id| files.get(id)));
    }

    fn wake(&mut self, shard: ShardNo) {
        let n = usize::from(shard.0);
        // Not by `raise_and_kick`: the message leaves only with this turn, so nobody else may rely on it.
        if !self.signals[n].raise(WOKEN) || self.kicked[n] {
            return;
        }
        self.kicked[n] = true;
        let Some(ring) = self.rings[n].get() else { return };
        let entry = opcode::MsgRingData::new(types::Fd(ring.as_raw_fd()), 0, KICK, None).build();
        let data = KICKING | u64::from(shard.0);
        // SAFETY: the entry points to nothing; `rings` keeps the descriptor.
        unsafe { self.ring.push(&entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(data)) };
    }

    fn lock_dir(&mut self, dir: &Path) -> Result<(), LockError> {
        self.locks.push(files::lock_dir(dir)?);
        Ok(())
    }

    fn list(&mut self, dir: &Path) -> io::Result<Vec<FileInfo>> {
        files::list(dir)
    }

    fn open(&mut self, path: &Path) -> io::Result<FileId> {
        files::open_direct(path, Durability::ByWrite).map(|file| self.file(file))
    }

    fn create_zeroed(&mut self, path: &Path, size: u64) -> io::Result<FileId> {
        files::create_zeroed(path, size, Durability::ByWrite).map(|file| self.file(file))
    }

    fn read(&mut self, file: FileId, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        files::read_direct(self.files.get(file)?, offset, len)
    }

    fn map(&mut self, file: FileId) -> io::Result<Bytes> {
        super::map(self.files.get(file)?)
    }

    fn read_file(&mut self, path: &Path) -> io::Result<Bytes> {
        files::load(path)
    }

    fn write_file(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        files::write_file(path, bytes)
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.helpers.end_jobs();
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
            self.signal().kick();
            broken = self.ring.enter(1, Some(Duration::from_millis(20))).is_err();
        }
        if broken || self.slots.len() > 0 {
            let left = self.slots.len();
            eprintln!("shard {}: {left} operations have not ended; their memory is given up", self.shard);
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
        write!(f, "Uring(shard {}, {} operations in flight)", self.shard, self.slots.len())
    }
}
