//! A shard behind the trait: what is asked is done by non-blocking calls, or by the thread that syncs.

mod streams;

use std::fmt;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use self::streams::Streams;
use super::disk::{Disk, WriteOp, Written};
use super::poller::Poller;
use super::sending::Sending;
use crate::host::files::{self, Durability, Identity};
use crate::host::helpers::{self, Adopt, Helpers};
use crate::host::mail::Permit;
use crate::host::open_files::OpenFiles;
use crate::host::signal::{MAIL, Signal, WOKEN, WRITTEN};
use crate::host::spin::Spin;
use crate::host::sys;
use crate::host::world::Start;
use crate::{
    AlignedBuf, BLOCK_ALIGN, CloseReason, Completion, Dial, FileId, FileInfo, Io, Job, LockError, SendFile, ShardNo,
    StreamId, Time, Token, WorldConfig, WorldError,
};

/// The key of the shard's own event among those of streams, which have 63 bits.
const EVENT: u64 = u64::MAX;

/// One shard without a ring. Made by [`PortableSeed::into_io`](super::PortableSeed::into_io) on the thread that uses it.
pub struct Portable {
    shard: ShardNo,
    now: Time,
    poller: Poller,
    streams: Streams,
    files: OpenFiles<()>,
    locks: Vec<File>,
    signals: Arc<[Signal]>,
    helpers: Helpers,
    disk: Disk,
    /// Completions that needed no call.
    ready: Vec<Completion>,
    spin: Spin,
    /// Receive buffers belong to their thread.
    _not_send: PhantomData<*const ()>,
}

impl Portable {
    pub(super) fn new(start: Start, config: &WorldConfig) -> Result<Portable, WorldError> {
        let Start { shard, signals, mail, mailbox, control } = start;
        let failed = |what| move |source| WorldError::Io { what, source };
        // Before this thread is tied to a processor: those it starts later are tied to the same one.
        let disk = Disk::start(shard, signals.clone()).map_err(failed("start a thread for durable writes"))?;
        if config.pin {
            sys::pin_thread(usize::from(shard.0)).map_err(failed("pin a shard's thread"))?;
        }
        let poller = Poller::new().map_err(failed("set up epoll"))?;
        poller.add_event(signals[usize::from(shard.0)].event(), EVENT).map_err(failed("watch a shard's event"))?;
        Ok(Portable {
            shard,
            now: sys::clock(),
            poller,
            streams: Streams::new(config.recv_buffers, config.recv_buffer_size),
            files: OpenFiles::new(),
            locks: Vec::new(),
            signals,
            helpers: Helpers::new(shard, mail, mailbox, control, Durability::ByFile),
            disk,
            ready: Vec::new(),
            spin: Spin::new(config.spin),
            _not_send: PhantomData,
        })
    }

    /// Sends, receives and writes that are under way.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.streams.in_flight() + self.disk.in_flight()
    }

    /// The socket of a stream.
    #[cfg(test)]
    pub(crate) fn socket(&self, id: StreamId) -> &OwnedFd {
        self.streams.socket(id)
    }

    fn signal(&self) -> &Signal {
        &self.signals[usize::from(self.shard.0)]
    }

    // ---- waiting ----

    /// Takes changes of sockets, waiting for one at most for `timeout`.
    fn look(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let streams = &mut self.streams;
        self.poller.wait(timeout, |change| {
            if change.key != EVENT {
                streams.note(change);
            }
        })
    }

    /// Looks around without waiting for a while; true if something turned up.
    fn spin(&mut self, until: Option<Time>) -> io::Result<bool> {
        if self.spin.span().is_zero() {
            return Ok(false);
        }
        let end = sys::clock() + self.spin.span();
        loop {
            self.look(Some(Duration::ZERO))?;
            if self.streams.has_work() || self.signal().is_raised() {
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

    /// Waits if nothing is there yet.
    fn wait(&mut self, until: Option<Time>, patient: bool) -> io::Result<()> {
        let patient = patient && !self.signal().is_raised();
        let begin = sys::clock();
        if patient && self.spin(until)? {
            return Ok(());
        }
        // Read after the spinning; a deadline that has passed means polling.
        let timeout = until.map(|until| until.since(sys::clock()));
        if patient && timeout.is_none_or(|timeout| !timeout.is_zero()) && self.signal().park() {
            let result = self.look(timeout);
            self.signal().unpark();
            self.spin.missed(sys::clock().since(begin));
            result
        } else {
            self.look(Some(Duration::ZERO))
        }
    }

    /// Hands out wakes, mail, and writes that have ended.
    fn take_signals(&mut self, out: &mut Vec<Completion>) {
        let bits = self.signal().take();
        if bits & WOKEN != 0 {
            out.push(Completion::Woken);
        }
        if bits & WRITTEN != 0 {
            while let Some(Written { id, token, buf, result }) = self.disk.next() {
                self.files.end_write(id);
                out.push(Completion::Written { file: id, token, buf, result });
            }
        }
        if bits & MAIL != 0 && helpers::take_mail(self, out) {
            // There may be more: do not wait before having looked.
            self.signal().raise(MAIL);
        }
    }
}

impl Adopt for Portable {
    fn helpers(&self) -> &Helpers {
        &self.helpers
    }

    fn stream(&mut self, fd: OwnedFd, permit: Option<Permit>) -> StreamId {
        let (stream, watched) = self.streams.insert(fd, permit, &self.poller);
        if let Err(error) = watched {
            self.ready.push(Completion::Closed { stream, reason: CloseReason::Error(error.kind()) });
        }
        stream
    }

    fn file(&mut self, file: File) -> FileId {
        self.files.insert(file, ())
    }

    fn removed(&mut self, identity: Identity) {
        self.files.removed(identity, |()| {});
    }
}

impl Io for Portable {
    fn now(&self) -> Time {
        self.now
    }

    fn turn(&mut self, wait_until: Option<Time>, out: &mut Vec<Completion>) -> io::Result<()> {
        let known = out.len();
        out.append(&mut self.ready);
        self.streams.send_all(&self.poller, out);
        let patient = out.len() == known && !self.streams.has_work();
        self.wait(wait_until, patient)?;
        self.now = sys::clock();
        self.streams.send_all(&self.poller, out);
        self.streams.receive_all(&self.poller, out);
        self.take_signals(out);
        Ok(())
    }

    fn send(&mut self, stream: StreamId, bufs: Vec<Bytes>) {
        if let Some(completion) = self.streams.send(stream, Sending::new(bufs)) {
            self.ready.push(completion);
        }
    }

    fn send_bufs(&mut self) -> Vec<Bytes> {
        self.streams.spare_bufs()
    }

    fn receive(&mut self, stream: StreamId) {
        self.streams.want(stream, true);
    }

    fn pause(&mut self, stream: StreamId) {
        self.streams.want(stream, false);
    }

    fn close(&mut self, stream: StreamId) {
        self.streams.close(stream, &self.poller);
    }

    fn dial(&mut self, dial: Dial) {
        self.ready.extend(self.helpers.dial(dial));
    }

    fn send_file(&mut self, send: SendFile) {
        self.ready.extend(self.helpers.send_file(send));
    }

    fn write(&mut self, id: FileId, offset: u64, buf: AlignedBuf, token: Token) {
        let align = u64::try_from(BLOCK_ALIGN).expect("a small constant");
        assert!(offset.is_multiple_of(align) && !buf.is_empty(), "{} bytes at {offset} of {id:?}", buf.len());
        if let Some(file) = self.files.begin_write(id).cloned() {
            self.disk.put(WriteOp { id, file, token, offset, buf });
        } else {
            let result = Err(io::ErrorKind::NotFound.into());
            self.ready.push(Completion::Written { file: id, token, buf, result });
        }
    }

    fn job(&mut self, job: Job, token: Token) {
        let files = &self.files;
        self.ready.extend(self.helpers.job(job, token, |id| files.get(id)));
    }

    fn wake(&mut self, shard: ShardNo) {
        self.signals[usize::from(shard.0)].raise_and_kick(WOKEN);
    }

    fn lock_dir(&mut self, dir: &Path) -> Result<(), LockError> {
        self.locks.push(files::lock_dir(dir)?);
        Ok(())
    }

    fn list(&mut self, dir: &Path) -> io::Result<Vec<FileInfo>> {
        files::list(dir)
    }

    fn open(&mut self, path: &Path) -> io::Result<FileId> {
        files::open_direct(path, Durability::ByFile).map(|file| self.file(file))
    }

    fn create_zeroed(&mut self, path: &Path, size: u64) -> io::Result<FileId> {
        files::create_zeroed(path, size, Durability::ByFile).map(|file| self.file(file))
    }

    fn read(&mut self, file: FileId, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        files::read_direct(self.files.get(file)?, offset, len)
    }

    fn map(&mut self, file: FileId) -> io::Result<Bytes> {
        crate::uring::map(self.files.get(file)?)
    }

    fn read_file(&mut self, path: &Path) -> io::Result<Bytes> {
        files::load(path)
    }

    fn write_file(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        files::write_file(path, bytes)
    }
}

impl Drop for Portable {
    fn drop(&mut self) {
        // The locks of directories go after the last write to them.
        self.disk.end();
        self.helpers.end_jobs();
    }
}

impl fmt::Debug for Portable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Portable(shard {})", self.shard)
    }
}
