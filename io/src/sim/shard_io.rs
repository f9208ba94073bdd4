//! The trait [`Io`] for one shard of a simulated process, and what its disk and its helper do with time.

use std::fmt;
use std::io;
use std::path::Path;

use bytes::Bytes;

use super::ProcessId;
use super::disk::Inode;
use super::events::{Event, Who};
use super::trace::{Note, hash_bytes};
use super::world::{Inner, World, index, place};
use crate::{
    AlignedBuf, BLOCK_ALIGN, Completion, Dial, FileId, FileInfo, Io, Job, JobOutput, LockError, SendFile, ShardNo,
    StreamId, Time, Token,
};

/// The [`Io`] of one shard, for one life of its process. After a crash it is dead: turns and blocking calls fail, and
/// what is asked goes nowhere.
pub struct SimIo {
    world: World,
    who: Who,
    now: Time,
}

impl SimIo {
    pub(super) fn new(world: World, who: Who, now: Time) -> SimIo {
        SimIo { world, who, now }
    }

    /// The process this belongs to.
    #[must_use]
    pub fn process(&self) -> ProcessId {
        self.who.process
    }

    /// The shard this belongs to.
    #[must_use]
    pub fn shard(&self) -> ShardNo {
        self.who.shard
    }

    /// Asks for something, unless the process is dead.
    fn ask(&self, ask: impl FnOnce(&mut Inner)) {
        let mut inner = self.world.0.borrow_mut();
        if inner.is_current(self.who) {
            ask(&mut inner);
        }
    }

    fn blocking<T>(&self, call: impl FnOnce(&mut Inner) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.world.0.borrow_mut();
        if inner.is_current(self.who) { call(&mut inner) } else { Err(dead()) }
    }
}

impl fmt::Debug for SimIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimIo({}.{} in life {})", self.who.process, self.who.shard, self.who.life)
    }
}

impl Io for SimIo {
    fn now(&self) -> Time {
        self.now
    }

    fn turn(&mut self, wait_until: Option<Time>, out: &mut Vec<Completion>) -> io::Result<()> {
        self.now = self.world.0.borrow_mut().turn(self.who, wait_until, out).ok_or_else(dead)?;
        Ok(())
    }

    fn send(&mut self, stream: StreamId, bufs: Vec<Bytes>) {
        self.ask(|inner| inner.send(self.who, stream, bufs));
    }

    fn send_bufs(&mut self) -> Vec<Bytes> {
        self.world.0.borrow_mut().send_bufs()
    }

    fn receive(&mut self, stream: StreamId) {
        self.ask(|inner| inner.receive(self.who, stream));
    }

    fn pause(&mut self, stream: StreamId) {
        self.ask(|inner| inner.pause_stream(self.who, stream));
    }

    fn close(&mut self, stream: StreamId) {
        self.ask(|inner| inner.close(self.who, stream));
    }

    fn dial(&mut self, dial: Dial) {
        self.ask(|inner| inner.dial(self.who, dial));
    }

    fn send_file(&mut self, send: SendFile) {
        self.ask(|inner| inner.send_file(self.who, send));
    }

    fn write(&mut self, file: FileId, offset: u64, buf: AlignedBuf, token: Token) {
        self.ask(|inner| inner.write(self.who, file, offset, buf, token));
    }

    fn job(&mut self, job: Job, token: Token) {
        self.ask(|inner| inner.job(self.who, job, token));
    }

    fn wake(&mut self, shard: ShardNo) {
        self.ask(|inner| inner.wake(self.who, shard));
    }

    fn lock_dir(&mut self, dir: &Path) -> Result<(), LockError> {
        let held = LockError::Held { dir: dir.to_owned(), pid: self.who.process.0 + 1 };
        let locked = self.blocking(|inner| Ok(inner.process_mut(self.who.process).locks.insert(dir.to_owned())));
        match locked {
            Ok(true) => Ok(()),
            Ok(false) => Err(held),
            Err(source) => Err(LockError::Io { dir: dir.to_owned(), source }),
        }
    }

    fn list(&mut self, dir: &Path) -> io::Result<Vec<FileInfo>> {
        self.blocking(|inner| Ok(inner.process(self.who.process).disk.list(dir)))
    }

    fn open(&mut self, path: &Path) -> io::Result<FileId> {
        self.blocking(|inner| {
            let inode = inner.process(self.who.process).disk.find(path)?;
            Ok(inner.add_file(self.who, inode))
        })
    }

    fn create_zeroed(&mut self, path: &Path, size: u64) -> io::Result<FileId> {
        self.blocking(|inner| inner.create_zeroed(self.who, path, size))
    }

    fn read(&mut self, file: FileId, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        assert!(offset.is_multiple_of(BLOCK_ALIGN as u64), "read at {offset} is not aligned");
        self.blocking(|inner| {
            let mut buf = AlignedBuf::zeroed(len);
            let inode = inner.inode(self.who, file);
            inner.process(self.who.process).disk.read(inode, offset, &mut buf)?;
            Ok(buf)
        })
    }

    fn map(&mut self, file: FileId) -> io::Result<Bytes> {
        self.blocking(|inner| {
            let inode = inner.inode(self.who, file);
            Ok(inner.process_mut(self.who.process).disk.map(inode))
        })
    }

    fn read_file(&mut self, path: &Path) -> io::Result<Bytes> {
        self.blocking(|inner| inner.process(self.who.process).disk.load(path))
    }

    fn write_file(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.blocking(|inner| {
            let Inner { processes, counters, .. } = inner;
            processes[index(self.who.process)].disk.replace(path, bytes, counters)
        })
    }
}

impl Inner {
    fn inode(&self, who: Who, file: FileId) -> Inode {
        let number = usize::try_from(file.0).expect("32 bits fit");
        *self.shard(who).files.get(number).expect("a file that this shard has opened")
    }

    fn add_file(&mut self, who: Who, inode: Inode) -> FileId {
        let files = &mut self.shard_mut(who).files;
        files.push(inode);
        FileId(u32::try_from(files.len() - 1).expect("fewer than 2^32 files"))
    }

    fn create_zeroed(&mut self, who: Who, path: &Path, size: u64) -> io::Result<FileId> {
        let Inner { processes, counters, .. } = self;
        let inode = processes[index(who.process)].disk.create_zeroed(path, size, counters)?;
        Ok(self.add_file(who, inode))
    }

    // ---- durable writes ----

    fn write(&mut self, who: Who, file: FileId, offset: u64, buf: AlignedBuf, token: Token) {
        self.note(Note::AskWrite, place(who), offset, hash_bytes(&buf));
        let inode = self.inode(who, file);
        if !self.shard(who).started {
            // A shard that opens its directory waits for each write, as it does for the blocking calls, and these take
            // no time here: nobody else acts meanwhile.
            let write = self.process_mut(who.process).disk.begin_write(who, (file, inode), offset, buf, token, false);
            self.write_ends_now(who.process, write);
            return;
        }
        let by_chance = self.rng.chance(self.config.write_error_chance);
        let disk = &mut self.process_mut(who.process).disk;
        let by_order = disk.writes_to_fail > 0;
        disk.writes_to_fail -= u32::from(by_order);
        let write = disk.begin_write(who, (file, inode), offset, buf, token, by_chance || by_order);
        let ends = self.start(who) + self.disk_delay(who.process);
        self.queue.push(ends, Event::WriteEnds { process: who.process, write });
    }

    pub(super) fn write_ends(&mut self, process: ProcessId, write: u64) {
        let stalled_until = self.process(process).disk.stalled_until;
        if stalled_until > self.now {
            let at = stalled_until + self.disk_delay(process);
            self.queue.push(at, Event::WriteEnds { process, write });
            return;
        }
        self.write_ends_now(process, write);
    }

    fn write_ends_now(&mut self, process: ProcessId, write: u64) {
        let Inner { processes, rng, counters, .. } = self;
        if let Some(ended) = processes[index(process)].disk.end_write(write, rng, counters) {
            let (file, token, buf, result) = (ended.file, ended.token, ended.buf, ended.result);
            self.complete(ended.who, Completion::Written { file, token, buf, result });
        }
    }

    pub(super) fn disk_delay(&mut self, process: ProcessId) -> std::time::Duration {
        self.processes[index(process)].disk.delay.unwrap_or(self.config.disk_delay).draw(&mut self.rng)
    }

    // ---- jobs ----

    fn job(&mut self, who: Who, job: Job, token: Token) {
        self.note(Note::AskJob, place(who), token.0, 0);
        let jobs = &mut self.shard_mut(who).jobs;
        jobs.push_back((job, token));
        if jobs.len() == 1 {
            let start = self.start(who);
            self.start_job(who, start);
        }
    }

    fn start_job(&mut self, who: Who, start: Time) {
        let ends = start + self.config.job_delay.draw(&mut self.rng);
        self.queue.push(ends, Event::JobEnds(who));
    }

    pub(super) fn job_ends(&mut self, who: Who) {
        if !self.is_current(who) {
            return;
        }
        let stalled = Some(self.process(who.process).disk.stalled_until).filter(|until| *until > self.now);
        if let Some(until) = self.paused(who.process).max(stalled) {
            self.queue.push(until, Event::JobEnds(who));
            return;
        }
        let (job, token) = self.shard_mut(who).jobs.pop_front().expect("the running job stays in the queue");
        let result = self.do_job(who, job);
        self.complete(who, Completion::JobDone { token, result });
        if !self.shard(who).jobs.is_empty() {
            let now = self.now;
            self.start_job(who, now);
        }
    }

    fn do_job(&mut self, who: Who, job: Job) -> io::Result<JobOutput> {
        if let Job::CreateZeroed { path, size } = job {
            return self.create_zeroed(who, &path, size).map(JobOutput::Opened);
        }
        let Inner { processes, counters, .. } = self;
        let disk = &mut processes[index(who.process)].disk;
        match job {
            Job::CreateZeroed { .. } => unreachable!("returned above"),
            Job::WriteAside { path, offset, bytes } => disk.write_aside(&path, offset, &bytes, counters)?,
            Job::Commit { from, to } => disk.commit(&from, &to)?,
            Job::Remove { path } => disk.remove(&path),
            Job::Load { path } => return disk.load(&path).map(JobOutput::Loaded),
            Job::DropCache { .. } => {}
        }
        Ok(JobOutput::Done)
    }

    /// The running job of each shard has either taken effect already or never will.
    pub(super) fn crash_jobs(&mut self, process: ProcessId) {
        let life = self.process(process).life;
        for number in 0..self.process(process).shards.len() {
            let shard = ShardNo(u16::try_from(number).expect("shards are counted in 16 bits"));
            let who = Who { process, life, shard };
            if let Some((job, _)) = self.shard_mut(who).jobs.pop_front() {
                if self.rng.chance(0.5) {
                    self.counters.jobs_kept += 1;
                    // Nobody is left to hear how it went.
                    let _ = self.do_job(who, job);
                } else {
                    self.counters.jobs_lost += 1;
                }
            }
        }
    }
}

fn dead() -> io::Error {
    io::Error::other("the process has crashed")
}
