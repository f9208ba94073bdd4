//! A real machine whose disk fails, fills up or stalls when it is told to.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ringraft_engine::blocking::{Config, Log, LogError, WorldError};
use ringraft_io::{
    AlignedBuf, Completion, Dial, FileId, FileInfo, Io, IoChoice, Job, LockError, Seed, SendFile, ShardNo, StreamId,
    Time, Token, World, WorldConfig,
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
    let kind = IoChoice::Auto.settle(&WorldConfig::new(1)).expect("a world").kind;
    let mut world = World::start(kind, WorldConfig::new(1)).expect("a world");
    let seed = world.take_seeds().pop().expect("one shard");
    let (waker, ours) = (world.waker(), world.waker());
    *faults.wake.lock().unwrap() = Some(Box::new(move || ours.wake(ShardNo(0))));
    let faults = faults.clone();
    let wake = move || waker.wake(ShardNo(0));
    match seed {
        Seed::Uring(seed) => {
            Log::open_on(config, wake, move || Ok(Faulty::new(seed.into_io().map_err(WorldError::new)?, faults)))
        }
        Seed::Portable(seed) => {
            Log::open_on(config, wake, move || Ok(Faulty::new(seed.into_io().map_err(WorldError::new)?, faults)))
        }
    }
}

struct Faulty<I> {
    real: I,
    faults: Arc<Faults>,
    kept: Vec<Completion>,
}

impl<I> Faulty<I> {
    fn new(real: I, faults: Arc<Faults>) -> Faulty<I> {
        Faulty { real, faults, kept: Vec::new() }
    }
}

impl<I: Io> Io for Faulty<I> {
    fn now(&self) -> Time {
        self.real.now()
    }

    fn turn(&mut self, wait_until: Option<Time>, out: &mut Vec<Completion>) -> io::Result<()> {
        let mut found = Vec::new();
        self.real.turn(wait_until, &mut found)?;
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
        self.real.job(job, token);
    }

    fn write(&mut self, file: FileId, offset: u64, buf: AlignedBuf, token: Token) {
        self.real.write(file, offset, buf, token);
    }

    fn send(&mut self, stream: StreamId, bufs: Vec<Bytes>) {
        self.real.send(stream, bufs);
    }

    fn send_bufs(&mut self) -> Vec<Bytes> {
        self.real.send_bufs()
    }

    fn receive(&mut self, stream: StreamId) {
        self.real.receive(stream);
    }

    fn pause(&mut self, stream: StreamId) {
        self.real.pause(stream);
    }

    fn close(&mut self, stream: StreamId) {
        self.real.close(stream);
    }

    fn dial(&mut self, dial: Dial) {
        self.real.dial(dial);
    }

    fn send_file(&mut self, send: SendFile) {
        self.real.send_file(send);
    }

    fn wake(&mut self, shard: ShardNo) {
        self.real.wake(shard);
    }

    fn lock_dir(&mut self, dir: &Path) -> Result<(), LockError> {
        self.real.lock_dir(dir)
    }

    fn list(&mut self, dir: &Path) -> io::Result<Vec<FileInfo>> {
        self.real.list(dir)
    }

    fn open(&mut self, path: &Path) -> io::Result<FileId> {
        self.real.open(path)
    }

    fn create_zeroed(&mut self, path: &Path, size: u64) -> io::Result<FileId> {
        self.real.create_zeroed(path, size)
    }

    fn read(&mut self, file: FileId, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        self.real.read(file, offset, len)
    }

    fn map(&mut self, file: FileId) -> io::Result<Bytes> {
        self.real.map(file)
    }

    fn read_file(&mut self, path: &Path) -> io::Result<Bytes> {
        self.real.read_file(path)
    }

    fn write_file(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.real.write_file(path, bytes)
    }
}
