//! A real ring whose disk fails, fills up or stalls when it is told to.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ringraft_engine::blocking::{Config, Log, LogError, WorldError};
use ringraft_io::uring::{Uring, UringConfig, UringWorld};
use ringraft_io::{
    AlignedBuf, Completion, Dial, FileId, FileInfo, Io, Job, LockError, SendFile, ShardNo, StreamId, Time, Token,
};

/// What the disk does from now on. Shared with the test.
#[derive(Default)]
pub(crate) struct Faults {
    /// Completions of writes are kept back.
    pub(crate) stall: AtomicBool,
    /// No new segment can be made.
    pub(crate) full: AtomicBool,
    /// So many writes succeed before one fails; 0: none fails.
    pub(crate) fail_in: AtomicU32,
    wake: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl Faults {
    /// Lets the writes that were kept back complete.
    pub(crate) fn go_on(&self) {
        self.stall.store(false, SeqCst);
        (self.wake.lock().unwrap().as_ref().expect("a log was opened"))();
    }
}

/// Opens a log on such a disk.
pub(crate) fn open(config: impl Into<Config>, faults: &Arc<Faults>) -> Result<Log, LogError> {
    let mut world = UringWorld::start(UringConfig::new(1)).expect("a ring");
    let seed = world.take_seeds().pop().expect("one shard");
    let (waker, ours) = (world.waker(), world.waker());
    *faults.wake.lock().unwrap() = Some(Box::new(move || ours.wake(ShardNo(0))));
    let faults = faults.clone();
    let make = move || {
        let ring = seed.into_io().map_err(WorldError::new)?;
        Ok(Faulty { ring, faults, kept: Vec::new() })
    };
    Log::open_on(config, move || waker.wake(ShardNo(0)), make)
}

struct Faulty {
    ring: Uring,
    faults: Arc<Faults>,
    kept: Vec<Completion>,
}

impl Io for Faulty {
    fn now(&self) -> Time {
        self.ring.now()
    }

    fn turn(&mut self, wait_until: Option<Time>, out: &mut Vec<Completion>) -> io::Result<()> {
        let mut found = Vec::new();
        self.ring.turn(wait_until, &mut found)?;
        for mut completion in found {
            match &mut completion {
                Completion::Written { result, .. } => {
                    let left = self.faults.fail_in.load(SeqCst);
                    if left == 1 {
                        *result = Err(io::Error::other("the disk is broken"));
                    }
                    self.faults.fail_in.store(left.saturating_sub(1), SeqCst);
                    self.kept.push(completion);
                }
                _ => out.push(completion),
            }
        }
        if !self.faults.stall.load(SeqCst) {
            out.append(&mut self.kept);
        }
        Ok(())
    }

    fn job(&mut self, job: Job, token: Token) {
        let job = match job {
            // It fails as the other would on a full disk: there is no such directory.
            Job::CreateZeroed { path, .. } if self.faults.full.load(SeqCst) => {
                Job::Load { path: path.join("there-is-no-space") }
            }
            job => job,
        };
        self.ring.job(job, token);
    }

    fn write(&mut self, file: FileId, offset: u64, buf: AlignedBuf, token: Token) {
        self.ring.write(file, offset, buf, token);
    }

    fn send(&mut self, stream: StreamId, bufs: Vec<Bytes>) {
        self.ring.send(stream, bufs);
    }

    fn send_bufs(&mut self) -> Vec<Bytes> {
        self.ring.send_bufs()
    }

    fn receive(&mut self, stream: StreamId) {
        self.ring.receive(stream);
    }

    fn pause(&mut self, stream: StreamId) {
        self.ring.pause(stream);
    }

    fn close(&mut self, stream: StreamId) {
        self.ring.close(stream);
    }

    fn dial(&mut self, dial: Dial) {
        self.ring.dial(dial);
    }

    fn send_file(&mut self, send: SendFile) {
        self.ring.send_file(send);
    }

    fn wake(&mut self, shard: ShardNo) {
        self.ring.wake(shard);
    }

    fn lock_dir(&mut self, dir: &Path) -> Result<(), LockError> {
        self.ring.lock_dir(dir)
    }

    fn list(&mut self, dir: &Path) -> io::Result<Vec<FileInfo>> {
        self.ring.list(dir)
    }

    fn open(&mut self, path: &Path) -> io::Result<FileId> {
        self.ring.open(path)
    }

    fn create_zeroed(&mut self, path: &Path, size: u64) -> io::Result<FileId> {
        self.ring.create_zeroed(path, size)
    }

    fn read(&mut self, file: FileId, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        self.ring.read(file, offset, len)
    }

    fn map(&mut self, file: FileId) -> io::Result<Bytes> {
        self.ring.map(file)
    }

    fn read_file(&mut self, path: &Path) -> io::Result<Bytes> {
        self.ring.read_file(path)
    }

    fn write_file(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.ring.write_file(path, bytes)
    }
}
