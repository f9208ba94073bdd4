//! A shard on the real machine: what is the same in every world is written here, over what each does in its own way.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::config::WorldConfig;
use super::error::WorldError;
use super::files::{self, Durability, Identity};
use super::helpers::{self, Helpers};
use super::mail::Permit;
use super::open_files::OpenFiles;
use super::signal::{MAIL, Signal, WOKEN};
use super::spin::Spin;
use super::sys;
use super::world::Start;
use crate::{
    AlignedBuf, BLOCK_ALIGN, Completion, Dial, FileId, FileInfo, Io, Job, LockError, SendFile, ShardNo, StreamId, Time,
    Token,
};

/// What a shard has in every world. `H` is how the world's operations name a file.
pub(crate) struct Common<H> {
    pub(crate) shard: ShardNo,
    now: Time,
    pub(crate) files: OpenFiles<H>,
    locks: Vec<File>,
    pub(crate) signals: Arc<[Signal]>,
    pub(crate) helpers: Helpers,
    durability: Durability,
    /// Completions that needed no kernel.
    pub(crate) ready: Vec<Completion>,
    spin: Spin,
    /// Rings and receive buffers belong to their thread.
    _not_send: PhantomData<*const ()>,
}

impl<H: Copy> Common<H> {
    /// Of the calling thread, which is tied to its processor if that is wanted.
    pub(crate) fn new(start: Start, config: &WorldConfig, durability: Durability) -> Result<Common<H>, WorldError> {
        let Start { shard, signals, mail, mailbox, control } = start;
        if config.pin {
            sys::pin_thread(usize::from(shard.0))
                .map_err(|source| WorldError::Io { what: "pin a shard's thread", source })?;
        }
        Ok(Common {
            shard,
            now: sys::clock(),
            files: OpenFiles::new(),
            locks: Vec::new(),
            signals,
            helpers: Helpers::new(shard, mail, mailbox, control, durability),
            durability,
            ready: Vec::new(),
            spin: Spin::new(config.spin),
            _not_send: PhantomData,
        })
    }

    pub(crate) fn signal(&self) -> &Signal {
        &self.signals[usize::from(self.shard.0)]
    }
}

/// A shard in one world: how it moves bytes. [`Io`] is the rest, below.
pub(crate) trait HostShard {
    /// How an operation names a file.
    type Handle: Copy;

    fn common(&self) -> &Common<Self::Handle>;
    fn common_mut(&mut self) -> &mut Common<Self::Handle>;

    // ---- what others hand over ----

    fn adopt_stream(&mut self, fd: OwnedFd, permit: Option<Permit>) -> StreamId;
    fn adopt_file(&mut self, file: File) -> FileId;
    /// The file with this identity has lost its last name.
    fn removed(&mut self, identity: Identity);

    // ---- the steps of a turn ----

    /// Does what must be done before the wait; may complete something already.
    fn before_wait(&mut self, out: &mut Vec<Completion>);
    /// Whether there is something to take, or to do without waiting.
    fn has_work(&mut self) -> bool;
    /// Gives the kernel what was asked for and looks around, without waiting.
    fn look(&mut self) -> io::Result<()>;
    /// The same, but waits for something to happen, at most for `timeout` (`None`: for ever).
    fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()>;
    /// Takes what has happened; `bits` are those of the shard's signal.
    fn after_wait(&mut self, bits: u8, out: &mut Vec<Completion>) -> io::Result<()>;

    // ---- what is asked: see `Io` ----

    fn start_send(&mut self, stream: StreamId, bufs: Vec<Bytes>);
    fn spare_bufs(&mut self) -> Vec<Bytes>;
    fn want(&mut self, stream: StreamId, wanted: bool);
    fn shut(&mut self, stream: StreamId);
    /// Of a file that is there; counted by `begin_write`.
    fn start_write(&mut self, file: FileId, offset: u64, buf: AlignedBuf, token: Token);
    fn ring(&mut self, shard: ShardNo);
}

/// Looks around without waiting for a while; true if something turned up.
fn spin(shard: &mut impl HostShard, until: Option<Time>) -> io::Result<bool> {
    let span = shard.common().spin.span();
    if span.is_zero() {
        return Ok(false);
    }
    let end = sys::clock() + span;
    loop {
        shard.look()?;
        if shard.has_work() || shard.common().signal().is_raised() {
            shard.common_mut().spin.hit();
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

/// Waits if nothing is there yet and `patient`.
fn wait(shard: &mut impl HostShard, until: Option<Time>, patient: bool) -> io::Result<()> {
    let patient = patient && !shard.common().signal().is_raised() && !shard.has_work();
    let begin = sys::clock();
    if patient && spin(shard, until)? {
        return Ok(());
    }
    // Read after the spinning; a deadline that has passed means polling.
    let timeout = until.map(|until| until.since(sys::clock()));
    if patient && timeout.is_none_or(|timeout| !timeout.is_zero()) && shard.common().signal().park() {
        let result = shard.sleep(timeout);
        shard.common().signal().unpark();
        shard.common_mut().spin.missed(sys::clock().since(begin));
        result
    } else {
        shard.look()
    }
}

impl<S: HostShard> Io for S {
    fn now(&self) -> Time {
        self.common().now
    }

    fn turn(&mut self, wait_until: Option<Time>, out: &mut Vec<Completion>) -> io::Result<()> {
        let known = out.len();
        out.append(&mut self.common_mut().ready);
        self.before_wait(out);
        wait(self, wait_until, out.len() == known)?;
        self.common_mut().now = sys::clock();
        let bits = self.common().signal().take();
        self.after_wait(bits, out)?;
        if bits & WOKEN != 0 {
            out.push(Completion::Woken);
        }
        if bits & MAIL != 0 && helpers::take_mail(self, out) {
            // There may be more: do not wait before having looked.
            self.common().signal().raise(MAIL);
        }
        Ok(())
    }

    fn send(&mut self, stream: StreamId, bufs: Vec<Bytes>) {
        self.start_send(stream, bufs);
    }

    fn send_bufs(&mut self) -> Vec<Bytes> {
        self.spare_bufs()
    }

    fn receive(&mut self, stream: StreamId) {
        self.want(stream, true);
    }

    fn pause(&mut self, stream: StreamId) {
        self.want(stream, false);
    }

    fn close(&mut self, stream: StreamId) {
        self.shut(stream);
    }

    fn dial(&mut self, dial: Dial) {
        let common = self.common_mut();
        common.ready.extend(common.helpers.dial(dial));
    }

    fn send_file(&mut self, send: SendFile) {
        let common = self.common_mut();
        common.ready.extend(common.helpers.send_file(send));
    }

    fn write(&mut self, file: FileId, offset: u64, buf: AlignedBuf, token: Token) {
        let align = u64::try_from(BLOCK_ALIGN).expect("a small constant");
        assert!(offset.is_multiple_of(align) && !buf.is_empty(), "{} bytes at {offset} of {file:?}", buf.len());
        let common = self.common_mut();
        if common.files.begin_write(file) {
            self.start_write(file, offset, buf, token);
        } else {
            let result = Err(io::ErrorKind::NotFound.into());
            common.ready.push(Completion::Written { file, token, buf, result });
        }
    }

    fn job(&mut self, job: Job, token: Token) {
        let Common { files, helpers, ready, .. } = self.common_mut();
        ready.extend(helpers.job(job, token, |id| files.get(id)));
    }

    fn wake(&mut self, shard: ShardNo) {
        self.ring(shard);
    }

    fn lock_dir(&mut self, dir: &Path) -> Result<(), LockError> {
        self.common_mut().locks.push(files::lock_dir(dir)?);
        Ok(())
    }

    fn list(&mut self, dir: &Path) -> io::Result<Vec<FileInfo>> {
        files::list(dir)
    }

    fn open(&mut self, path: &Path) -> io::Result<FileId> {
        files::open_direct(path, self.common().durability).map(|file| self.adopt_file(file))
    }

    fn create_zeroed(&mut self, path: &Path, size: u64) -> io::Result<FileId> {
        files::create_zeroed(path, size, self.common().durability).map(|file| self.adopt_file(file))
    }

    fn read(&mut self, file: FileId, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        files::read_direct(self.common().files.get(file)?, offset, len)
    }

    fn map(&mut self, file: FileId) -> io::Result<Bytes> {
        crate::uring::map(self.common().files.get(file)?)
    }

    fn read_file(&mut self, path: &Path) -> io::Result<Bytes> {
        files::load(path)
    }

    fn write_file(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        files::write_file(path, bytes)
    }
}
