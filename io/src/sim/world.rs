//! The world itself: processes, whose turn it is, and the faults that a driver may order.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::calls::Call;
use super::disk::{Disk, Inode};
use super::events::{Event, Queue, Who};
use super::net::Net;
use super::trace::{Note, Trace, hash_bytes};
use super::{Counters, Delay, Rng, SimIo, WorldConfig};
use crate::{Acceptor, Completion, Job, ListenerKind, ShardNo, Time, Token, Verdict};

/// One process of a world; it keeps its number over crashes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProcessId(pub u32);

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whose turn it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// This shard must take a turn: call [`Io::turn`](crate::Io::turn) on its [`SimIo`] once.
    ///
    /// A turn that was handed something, or whose deadline had passed, is followed by another one when its cost has
    /// passed, so that the shard can say its new deadline: it parks with an empty turn, as it would in the kernel.
    Shard {
        /// Its process.
        process: ProcessId,
        /// Its number.
        shard: ShardNo,
    },
    /// A time that the driver [scheduled](World::schedule).
    Driver(u64),
}

/// A copy of a disk, to be put back later (a restored backup) or into another process (a swapped disk).
#[derive(Clone)]
pub struct DiskImage(Disk);

impl fmt::Debug for DiskImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiskImage({} files)", self.0.paths().len())
    }
}

/// A simulated world; a cheap handle to it.
#[derive(Clone)]
pub struct World(pub(super) Rc<RefCell<Inner>>);

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "World(at {} ns)", self.now().0)
    }
}

impl World {
    /// An empty world.
    ///
    /// # Panics
    /// If a size in `config` is 0, or a turn could cost nothing.
    #[must_use]
    pub fn new(seed: u64, config: WorldConfig) -> World {
        assert!(config.turn_cost.min_ns > 0, "a turn that costs nothing could go on for ever");
        assert!(config.retry_delay.min_ns > 0, "an attempt that costs nothing could go on for ever");
        assert!(config.piece_size_max > 0 && config.receive_window_size > 0 && config.file_piece_size > 0);
        World(Rc::new(RefCell::new(Inner {
            trace: Trace::new(seed, config.trace),
            config,
            rng: Rng::new(seed),
            now: Time(1_000_000_000),
            queue: Queue::default(),
            processes: Vec::new(),
            addresses: BTreeMap::new(),
            net: Net::default(),
            calls: BTreeMap::new(),
            calls_made: 0,
            counters: Counters::default(),
        })))
    }

    /// Adds a process with an empty disk; its shards take their first turns soon.
    ///
    /// # Panics
    /// If it has no shard, or one of its addresses is taken.
    pub fn add_process(
        &self,
        name: &str,
        shards: u16,
        listeners: Vec<(ListenerKind, String)>,
        acceptor: Arc<dyn Acceptor>,
    ) -> ProcessId {
        assert!(shards > 0, "process {name} has no shard");
        let mut inner = self.0.borrow_mut();
        let process = ProcessId(u32::try_from(inner.processes.len()).expect("fewer than 2^32 processes"));
        for (kind, address) in listeners {
            let taken = inner.addresses.insert(address, (process, kind));
            assert!(taken.is_none(), "an address of process {name} is taken");
        }
        inner.processes.push(Process {
            name: name.to_owned(),
            life: 0,
            alive: false,
            paused_until: Time(0),
            shards: (0..shards).map(|_| Shard::default()).collect(),
            acceptor,
            disk: Disk::default(),
            locks: BTreeSet::new(),
        });
        inner.start_process(process);
        process
    }

    /// Adds a process that nobody can connect to.
    pub fn add_client(&self, name: &str, shards: u16) -> ProcessId {
        self.add_process(name, shards, Vec::new(), Arc::new(NobodyHome))
    }

    /// The `Io` of a shard, for the present life of its process.
    ///
    /// # Panics
    /// If the process is not alive, or has no such shard.
    #[must_use]
    pub fn io(&self, process: ProcessId, shard: ShardNo) -> SimIo {
        let inner = self.0.borrow();
        let owner = inner.process(process);
        assert!(owner.alive, "process {process} is not alive");
        assert!(usize::from(shard.0) < owner.shards.len(), "process {process} has no shard {shard}");
        let who = Who { process, life: owner.life, shard };
        SimIo::new(self.clone(), who, inner.now)
    }

    /// Advances to the next moment at which somebody must act; `None` when nothing will ever happen again.
    pub fn next(&self) -> Option<Step> {
        self.0.borrow_mut().next()
    }

    /// Makes [`World::next`] return [`Step::Driver`] at `at` (now, if that is past).
    pub fn schedule(&self, at: Time, token: u64) {
        let mut inner = self.0.borrow_mut();
        let at = at.max(inner.now);
        inner.queue.push(at, Event::Driver(token));
    }

    /// Gives a shard a turn soon, as when the driver has put work into it.
    pub fn poke(&self, process: ProcessId, shard: ShardNo) {
        let mut inner = self.0.borrow_mut();
        let life = inner.process(process).life;
        let now = inner.now;
        inner.schedule_turn(Who { process, life, shard }, now);
    }

    /// The present time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.0.borrow().now
    }

    /// 64 random bits.
    #[must_use]
    pub fn random(&self) -> u64 {
        self.0.borrow_mut().rng.bits()
    }

    /// A generator for the driver's own, seeded from the world's.
    #[must_use]
    pub fn fork_rng(&self) -> Rng {
        self.0.borrow_mut().rng.fork()
    }

    /// The hash over everything that has happened so far.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.0.borrow().trace.hash()
    }

    /// What has happened how often.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.0.borrow().counters
    }

    /// Changes the world's ways from now on.
    pub fn configure(&self, change: impl FnOnce(&mut WorldConfig)) {
        change(&mut self.0.borrow_mut().config);
    }

    /// Whether the process is alive (paused ones are).
    #[must_use]
    pub fn is_alive(&self, process: ProcessId) -> bool {
        self.0.borrow().process(process).alive
    }

    /// The name given to the process.
    #[must_use]
    pub fn name(&self, process: ProcessId) -> String {
        self.0.borrow().process(process).name.clone()
    }

    // ---- faults of processes ----

    /// Cuts the power of a process: its streams break, what it had not made durable is lost in part, and its
    /// [`SimIo`]s are dead from now on.
    ///
    /// # Panics
    /// If it is not alive.
    pub fn crash(&self, process: ProcessId) {
        self.0.borrow_mut().crash(process);
    }

    /// Starts a crashed process again on what its disk has kept. Take new [`World::io`]s.
    ///
    /// # Panics
    /// If it is alive.
    pub fn restart(&self, process: ProcessId, acceptor: Arc<dyn Acceptor>) {
        let mut inner = self.0.borrow_mut();
        assert!(!inner.process(process).alive, "process {process} is alive");
        inner.counters.restarts += 1;
        inner.process_mut(process).acceptor = acceptor;
        inner.start_process(process);
    }

    /// Stops a process until a time: it takes no turns and answers nobody, while the kernel under it goes on. A time
    /// that has passed ends a pause.
    pub fn pause(&self, process: ProcessId, until: Time) {
        let mut inner = self.0.borrow_mut();
        inner.counters.pauses += 1;
        inner.note(Note::Pause, u64::from(process.0) << 16, until.0, 0);
        let life = inner.process(process).life;
        inner.process_mut(process).paused_until = until;
        for number in 0..inner.process(process).shards.len() {
            let shard = ShardNo(u16::try_from(number).expect("shards are counted in 16 bits"));
            let who = Who { process, life, shard };
            if inner.shard(who).turn_at.is_some() {
                // A pause may also be cut short: then the turn that waits for its old end comes earlier.
                inner.schedule_turn(who, until);
            }
        }
    }

    // ---- faults of the network ----

    /// Blocks or heals one direction of the link between two processes. Bytes and ends of streams wait; dials time
    /// out; some of the streams break when a long partition heals.
    pub fn partition(&self, from: ProcessId, to: ProcessId, blocked: bool) {
        self.0.borrow_mut().partition(from, to, blocked);
    }

    /// Blocks or heals both directions.
    pub fn partition_both(&self, a: ProcessId, b: ProcessId, blocked: bool) {
        self.partition(a, b, blocked);
        self.partition(b, a, blocked);
    }

    /// Blocks or heals both directions between a process and all others.
    pub fn isolate(&self, process: ProcessId, blocked: bool) {
        let count = u32::try_from(self.0.borrow().processes.len()).expect("fewer than 2^32 processes");
        for other in (0..count).map(ProcessId).filter(|other| *other != process) {
            self.partition_both(process, other, blocked);
        }
    }

    /// Heals every link.
    pub fn heal_all(&self) {
        let blocked: Vec<_> = self.0.borrow().net.blocked.keys().copied().collect();
        for (from, to) in blocked {
            self.partition(from, to, false);
        }
    }

    /// Breaks every stream between two processes.
    pub fn reset(&self, a: ProcessId, b: ProcessId) {
        self.0.borrow_mut().reset_between(a, b);
    }

    /// Gives one direction of a link a delay of its own (`None`: the world's again).
    pub fn set_link_delay(&self, from: ProcessId, to: ProcessId, delay: Option<Delay>) {
        let mut inner = self.0.borrow_mut();
        match delay {
            Some(delay) => inner.net.delays.insert((from, to), delay),
            None => inner.net.delays.remove(&(from, to)),
        };
    }

    // ---- faults of the disk ----

    /// Makes the next durable write of the process fail with an I/O error; some of its sectors may have landed.
    pub fn fail_next_write(&self, process: ProcessId) {
        self.0.borrow_mut().process_mut(process).disk.writes_to_fail += 1;
    }

    /// Lets no write and no job of the process end before `until`.
    pub fn stall_disk(&self, process: ProcessId, until: Time) {
        let mut inner = self.0.borrow_mut();
        inner.counters.disk_stalls += 1;
        inner.process_mut(process).disk.stalled_until = until;
    }

    /// Gives a disk a delay of its own for durable writes (`None`: the world's again).
    pub fn set_disk_delay(&self, process: ProcessId, delay: Option<Delay>) {
        self.0.borrow_mut().process_mut(process).disk.delay = delay;
    }

    /// Makes a disk full, or not. A full disk makes no files and grows none; writes inside files go on.
    pub fn set_disk_full(&self, process: ProcessId, full: bool) {
        self.0.borrow_mut().process_mut(process).disk.full = full;
    }

    /// Changes every one of `len` bytes at rest.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn corrupt(&self, process: ProcessId, path: &Path, offset: u64, len: usize) -> io::Result<()> {
        let mut inner = self.0.borrow_mut();
        let Inner { processes, rng, counters, .. } = &mut *inner;
        processes[index(process)].disk.corrupt(path, offset, len, rng)?;
        counters.disk_corruptions += 1;
        inner.note(Note::Disk, u64::from(process.0) << 16, offset, len as u64);
        Ok(())
    }

    /// Makes the sector at `offset` unreadable until it is written again: reading it is an I/O error. (Mapped files
    /// do not notice.)
    ///
    /// # Errors
    /// If there is no such file.
    pub fn spoil(&self, process: ProcessId, path: &Path, offset: u64) -> io::Result<()> {
        let mut inner = self.0.borrow_mut();
        inner.process_mut(process).disk.spoil(path, offset)?;
        inner.counters.sectors_spoilt += 1;
        inner.note(Note::Disk, u64::from(process.0) << 16, offset, 0);
        Ok(())
    }

    /// Replaces the disk of a process that is not alive with an empty one.
    ///
    /// # Panics
    /// If it is alive.
    pub fn wipe_disk(&self, process: ProcessId) {
        self.0.borrow_mut().counters.disk_wipes += 1;
        self.set_disk_image(process, &DiskImage(Disk::default()));
    }

    /// A copy of the disk of a process that is not alive.
    ///
    /// # Panics
    /// If it is alive.
    #[must_use]
    pub fn disk_image(&self, process: ProcessId) -> DiskImage {
        let inner = self.0.borrow();
        assert!(!inner.process(process).alive, "process {process} is alive");
        DiskImage(inner.process(process).disk.clone())
    }

    /// Puts a disk into a process that is not alive.
    ///
    /// # Panics
    /// If it is alive.
    pub fn set_disk_image(&self, process: ProcessId, image: &DiskImage) {
        let mut inner = self.0.borrow_mut();
        let target = inner.process_mut(process);
        assert!(!target.alive, "process {process} is alive");
        let mut disk = image.0.clone();
        disk.replaces(&target.disk);
        target.disk = disk;
        let files = target.disk.paths().len() as u64;
        inner.note(Note::Disk, u64::from(process.0) << 16, files, 0);
    }

    /// Every file on a disk, sorted.
    #[must_use]
    pub fn files(&self, process: ProcessId) -> Vec<PathBuf> {
        self.0.borrow().process(process).disk.paths()
    }

    /// A whole file, past the process.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn file(&self, process: ProcessId, path: &Path) -> io::Result<Bytes> {
        self.0.borrow().process(process).disk.peek(path)
    }

    /// Makes or replaces a file, past the process.
    pub fn set_file(&self, process: ProcessId, path: &Path, bytes: &[u8]) {
        let mut inner = self.0.borrow_mut();
        inner.note(Note::Disk, u64::from(process.0) << 16, bytes.len() as u64, hash_bytes(bytes));
        inner.process_mut(process).disk.plant(path, bytes);
    }

    /// How many durable writes of the process have not ended yet.
    #[must_use]
    pub fn writes_in_flight(&self, process: ProcessId) -> usize {
        self.0.borrow().process(process).disk.writes_in_flight()
    }
}

struct NobodyHome;

impl Acceptor for NobodyHome {
    fn judge(&self, _: ListenerKind, _: &[u8]) -> Verdict {
        unreachable!("this process has no listener")
    }
}

pub(super) struct Inner {
    pub(super) config: WorldConfig,
    pub(super) rng: Rng,
    pub(super) now: Time,
    pub(super) queue: Queue,
    pub(super) processes: Vec<Process>,
    pub(super) addresses: BTreeMap<String, (ProcessId, ListenerKind)>,
    pub(super) net: Net,
    pub(super) calls: BTreeMap<u64, Call>,
    pub(super) calls_made: u64,
    pub(super) trace: Trace,
    pub(super) counters: Counters,
}

pub(super) struct Process {
    name: String,
    pub(super) life: u32,
    pub(super) alive: bool,
    pub(super) paused_until: Time,
    pub(super) shards: Vec<Shard>,
    pub(super) acceptor: Arc<dyn Acceptor>,
    pub(super) disk: Disk,
    pub(super) locks: BTreeSet<PathBuf>,
}

#[derive(Default)]
pub(super) struct Shard {
    /// Completed, not handed out yet.
    pub(super) due: Vec<Completion>,
    /// What its last turn is busy until.
    busy_until: Time,
    /// Its next turn, if one is in the queue; other turns in the queue are stale.
    turn_at: Option<Time>,
    /// What it said to `turn`.
    wait_until: Option<Time>,
    /// The earliest deadline in the queue.
    deadline_queued: Option<Time>,
    /// Open files by `FileId`.
    pub(super) files: Vec<Inode>,
    /// Jobs, the running one first.
    pub(super) jobs: VecDeque<(Job, Token)>,
    /// Shards may wake one often: one event is enough.
    pub(super) wake_queued: bool,
    /// It has had its first turn from the driver; before that it opens its directory, see [`crate::Io`].
    pub(super) started: bool,
}

impl Inner {
    fn next(&mut self) -> Option<Step> {
        loop {
            let (at, event) = self.queue.pop()?;
            debug_assert!(at >= self.now, "time goes on");
            self.now = at;
            self.counters.events += 1;
            match event {
                Event::Turn(who) => {
                    if self.begin_turn(who) {
                        return Some(Step::Shard { process: who.process, shard: who.shard });
                    }
                }
                Event::Driver(token) => {
                    self.note(Note::Driver, 0, token, 0);
                    return Some(Step::Driver(token));
                }
                Event::Deadline(who) => self.deadline(who),
                Event::Wake(who) => self.woken(who),
                Event::Deliver { conn, dir } => self.deliver(conn, dir),
                Event::Sent { conn, dir, serial } => self.sent(conn, dir, serial),
                Event::HandOver { conn } => self.hand_over(conn),
                Event::CallArrives(call) => self.call_arrives(call),
                Event::CallAnswered(call) => self.call_answered(call),
                Event::CallTimeout(call) => self.call_timeout(call),
                Event::FilePiece(call) => self.file_piece(call),
                Event::FileSynced(call) => self.file_synced(call),
                Event::WriteEnds { process, write } => self.write_ends(process, write),
                Event::JobEnds(who) => self.job_ends(who),
            }
        }
    }

    // ---- turns ----

    /// True if the shard must act now.
    fn begin_turn(&mut self, who: Who) -> bool {
        if !self.is_current(who) {
            return false;
        }
        let now = self.now;
        let paused_until = self.process(who.process).paused_until;
        let shard = self.shard_mut(who);
        if shard.turn_at != Some(now) {
            return false;
        }
        shard.turn_at = None;
        shard.started = true;
        if paused_until > now {
            self.schedule_turn(who, paused_until);
            return false;
        }
        true
    }

    /// Hands out what is due; `None` if the process has crashed.
    pub(super) fn turn(&mut self, who: Who, wait_until: Option<Time>, out: &mut Vec<Completion>) -> Option<Time> {
        if !self.is_current(who) {
            return None;
        }
        let now = self.now;
        let busy_until = now + self.config.turn_cost.draw(&mut self.rng);
        let shard = self.shard_mut(who);
        shard.busy_until = busy_until;
        shard.wait_until = wait_until;
        let mut due = mem::take(&mut shard.due);
        self.counters.turns += 1;
        self.note(Note::Turn, place(who), due.len() as u64, busy_until.0);
        let again = !due.is_empty() || wait_until.is_some_and(|at| at <= now);
        for completion in due.drain(..) {
            match &completion {
                Completion::Received { stream, data } => self.consumed(*stream, data.len()),
                Completion::Sent { stream, .. } => self.sent_seen(*stream),
                _ => {}
            }
            out.push(completion);
        }
        // Keeps the allocation; nothing above can have made anything due.
        let shard = self.shard_mut(who);
        assert!(shard.due.is_empty(), "handing out completes nothing");
        shard.due = due;
        if again {
            // The shard has not parked: it will be back to say its new deadline.
            self.schedule_turn(who, busy_until);
        } else if let Some(at) = wait_until {
            self.queue_deadline(who, at);
        }
        Some(now)
    }

    fn deadline(&mut self, who: Who) {
        if !self.is_current(who) {
            return;
        }
        let now = self.now;
        let shard = self.shard_mut(who);
        if shard.deadline_queued == Some(now) {
            shard.deadline_queued = None;
        }
        match shard.wait_until {
            Some(at) if at <= now => self.schedule_turn(who, now),
            Some(at) => self.queue_deadline(who, at),
            None => {}
        }
    }

    fn queue_deadline(&mut self, who: Who, at: Time) {
        let shard = self.shard_mut(who);
        if shard.deadline_queued.is_none_or(|queued| at < queued) {
            shard.deadline_queued = Some(at);
            self.queue.push(at, Event::Deadline(who));
        }
    }

    /// A turn no earlier than `at`, and not while the shard is busy.
    pub(super) fn schedule_turn(&mut self, who: Who, at: Time) {
        if !self.is_current(who) {
            return;
        }
        let now = self.now;
        let shard = self.shard_mut(who);
        let at = at.max(now).max(shard.busy_until);
        if shard.turn_at.is_none_or(|planned| at < planned) {
            shard.turn_at = Some(at);
            self.queue.push(at, Event::Turn(who));
        }
    }

    /// When what a shard asks for now begins: after the turn that asks.
    pub(super) fn start(&self, who: Who) -> Time {
        self.now.max(self.shard(who).busy_until)
    }

    /// Makes a completion due.
    pub(super) fn complete(&mut self, who: Who, completion: Completion) {
        if !self.is_current(who) {
            return;
        }
        let (note, a, b) = digest(&completion);
        self.note(note, place(who), a, b);
        self.shard_mut(who).due.push(completion);
        let now = self.now;
        self.schedule_turn(who, now);
    }

    // ---- waking ----

    pub(super) fn wake(&mut self, from: Who, shard: ShardNo) {
        let who = Who { shard, ..from };
        assert!(usize::from(shard.0) < self.process(who.process).shards.len(), "no shard {shard} to wake");
        if !mem::replace(&mut self.shard_mut(who).wake_queued, true) {
            let at = self.start(from) + self.config.wake_delay.draw(&mut self.rng);
            self.queue.push(at, Event::Wake(who));
        }
    }

    fn woken(&mut self, who: Who) {
        if self.is_current(who) {
            self.shard_mut(who).wake_queued = false;
            self.complete(who, Completion::Woken);
        }
    }

    // ---- lives ----

    fn start_process(&mut self, process: ProcessId) {
        let target = self.process_mut(process);
        target.alive = true;
        target.life += 1;
        target.paused_until = Time(0);
        let (life, shards) = (target.life, target.shards.len());
        self.note(Note::Start, u64::from(process.0) << 16, u64::from(life), 0);
        for number in 0..shards {
            let shard = ShardNo(u16::try_from(number).expect("shards are counted in 16 bits"));
            let at = self.now + self.config.turn_cost.draw(&mut self.rng);
            self.schedule_turn(Who { process, life, shard }, at);
        }
    }

    fn crash(&mut self, process: ProcessId) {
        assert!(self.process(process).alive, "process {process} is not alive");
        self.counters.crashes += 1;
        self.note(Note::Crash, u64::from(process.0) << 16, u64::from(self.process(process).life), 0);
        self.crash_streams(process);
        self.crash_jobs(process);
        let Inner { processes, rng, counters, config, .. } = self;
        let target = &mut processes[index(process)];
        target.alive = false;
        target.locks.clear();
        target.disk.crash(config.removed_returns_chance, rng, counters);
        for shard in &mut target.shards {
            *shard = Shard::default();
        }
        self.crash_calls(process);
    }

    // ---- looking up ----

    pub(super) fn is_current(&self, who: Who) -> bool {
        let process = self.process(who.process);
        process.alive && process.life == who.life
    }

    pub(super) fn process(&self, process: ProcessId) -> &Process {
        &self.processes[index(process)]
    }

    pub(super) fn process_mut(&mut self, process: ProcessId) -> &mut Process {
        &mut self.processes[index(process)]
    }

    pub(super) fn shard(&self, who: Who) -> &Shard {
        &self.process(who.process).shards[usize::from(who.shard.0)]
    }

    pub(super) fn shard_mut(&mut self, who: Who) -> &mut Shard {
        &mut self.process_mut(who.process).shards[usize::from(who.shard.0)]
    }

    /// When the process runs again, if it is paused now.
    pub(super) fn paused(&self, process: ProcessId) -> Option<Time> {
        Some(self.process(process).paused_until).filter(|until| *until > self.now)
    }

    pub(super) fn note(&mut self, note: Note, place: u64, a: u64, b: u64) {
        self.trace.note(self.now, note, place, a, b);
    }
}

pub(super) fn index(process: ProcessId) -> usize {
    usize::try_from(process.0).expect("32 bits fit")
}

/// A shard as the trace names it.
pub(super) fn place(who: Who) -> u64 {
    u64::from(who.process.0) << 16 | u64::from(who.shard.0)
}

fn digest(completion: &Completion) -> (Note, u64, u64) {
    match completion {
        Completion::Received { stream, data } => (Note::Received, stream.0, hash_bytes(data)),
        Completion::Sent { stream, bytes } => (Note::Sent, stream.0, *bytes as u64),
        Completion::Closed { stream, reason } => {
            (Note::Closed, stream.0, u64::from(reason == &crate::CloseReason::Eof))
        }
        Completion::Accepted { stream, greeting } => (Note::Accepted, stream.0, hash_bytes(greeting)),
        Completion::Dialed { token, result } => (Note::Dialed, token.0, u64::from(result.is_ok())),
        Completion::Written { token, result, .. } => (Note::Written, token.0, u64::from(result.is_ok())),
        Completion::JobDone { token, result } => (Note::JobDone, token.0, u64::from(result.is_ok())),
        Completion::FileSent { token, result } => (Note::FileSent, token.0, u64::from(result.is_ok())),
        Completion::FileReceived { greeting, .. } => (Note::FileReceived, hash_bytes(greeting), 0),
        Completion::Woken => (Note::Woken, 0, 0),
    }
}
