//! The log's own thread: requests in, one batch, one submit, completions out.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ringraft_io::{Completion, Io, Job, JobOutput, Token};
use ringraft_raft::{Index, Storage};

use super::LogError;
use super::error::WorldError;
use super::group::Inner;
use super::pending::Reply;
use super::queue::{Change, Queue, Request};
use super::snapshot_dir;
use super::view::View;
use crate::config::Config;
use crate::engine::{BatchNo, Engine, RecoveryReport, Write};
use crate::error::EngineError;
use crate::group_log::GroupLog;
use crate::snapshot::SnapshotName;

/// How long it must be quiet before the log attests its last batch.
const ATTEST_AFTER: Duration = Duration::from_millis(100);

/// What opening gives.
pub(super) type Opened = (Vec<Arc<Inner>>, RecoveryReport);

/// See the module.
pub(super) struct Driver<I> {
    io: I,
    engine: Engine,
    /// By the engine's slot.
    logs: Vec<GroupLog>,
    groups: Vec<Arc<Inner>>,
    queue: Arc<Queue>,
    /// Taken from the queue, not yet done.
    requests: VecDeque<Request>,
    /// Laid out, not yet durable; in the order of the batches.
    waiting: VecDeque<(BatchNo, Waiting)>,
    jobs: HashMap<Token, (PathBuf, Reply<JobOutput>)>,
    next_job: u64,
    /// The last segment could not be made, and was not tried again.
    held: bool,
    /// The first of `requests` finds no room.
    blocked: bool,
    /// Something was written since the log last attested.
    unattested: bool,
}

/// Who waits for a batch.
enum Waiting {
    Change(Index, Reply<Index>),
    Sync(Reply<()>),
}

/// Ends the queue if the thread panics.
struct Guard(Arc<Queue>);

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(LogError::Panicked);
        }
    }
}

impl<I: Io> Driver<I> {
    /// The thread: makes its world, opens the engine, and works until the queue is closed or the log has failed.
    pub(super) fn run(
        config: Config,
        queue: Arc<Queue>,
        make: impl FnOnce() -> Result<I, WorldError>,
        opened: Reply<Opened>,
    ) {
        let guard = Guard(queue.clone());
        let (mut driver, report) = match Driver::open(config, queue, make) {
            Ok(opened) => opened,
            Err(error) => {
                guard.0.end(error.clone());
                return opened.send(Err(error));
            }
        };
        opened.send(Ok((driver.groups.clone(), report)));
        let ended = driver.work().err().unwrap_or(LogError::Closed);
        guard.0.end(ended.clone());
        driver.end(&ended);
    }

    fn open(
        config: Config,
        queue: Arc<Queue>,
        make: impl FnOnce() -> Result<I, WorldError>,
    ) -> Result<(Driver<I>, RecoveryReport), LogError> {
        let mut io = make().map_err(|error| LogError::World(Arc::new(error)))?;
        let dir = snapshot_dir(&config);
        let (engine, logs, report) = Engine::open(&mut io, config)?;
        let useless = useless_files(&mut io, &dir, &logs)?;
        let inner = |(slot, log): (usize, &GroupLog)| Arc::new(Inner::new(log.group(), slot, View::of(log)));
        let groups = logs.iter().enumerate().map(inner).collect();
        let mut driver = Driver {
            io,
            engine,
            logs,
            groups,
            queue,
            requests: VecDeque::new(),
            waiting: VecDeque::new(),
            jobs: HashMap::new(),
            next_job: 0,
            held: false,
            blocked: false,
            unattested: true,
        };
        for path in useless {
            // Whether it could be removed is of no consequence: the next opening tries again.
            driver.job(path.clone(), Job::Remove { path }, Reply::call(|_| {}));
        }
        Ok((driver, report))
    }

    fn work(&mut self) -> Result<(), LogError> {
        let mut completions = Vec::new();
        loop {
            let open = !self.requests.is_empty() || self.queue.take(&mut self.requests);
            self.serve()?;
            if !open && self.is_idle() {
                return self.finish();
            }
            self.engine.submit(&mut self.io);
            self.release();
            let attest_at = self.unattested.then(|| self.io.now() + ATTEST_AFTER);
            self.turn(attest_at, &mut completions)?;
            let quiet = self.is_idle() && self.engine.stats().inflight == 0;
            if quiet && attest_at.is_some_and(|at| self.io.now() >= at) {
                self.engine.attest();
                self.unattested = false;
            }
        }
    }

    /// Waits for something to happen, and takes it.
    fn turn(&mut self, until: Option<ringraft_io::Time>, completions: &mut Vec<Completion>) -> Result<(), LogError> {
        let broken = |error| LogError::World(Arc::new(WorldError::new(error)));
        self.io.turn(until, completions).map_err(broken)?;
        for completion in completions.drain(..) {
            match completion {
                Completion::Written { token, .. } | Completion::JobDone { token, .. } if self.engine.owns(token) => {
                    match self.engine.complete(&mut self.io, completion) {
                        Ok(_) => {}
                        Err(error @ EngineError::NoSegment { .. }) => self.disk_full(error),
                        Err(error) => {
                            // What was durable before is no part of the failure.
                            self.release();
                            return Err(error.into());
                        }
                    }
                }
                Completion::JobDone { token, result } => {
                    if let Some((file, reply)) = self.jobs.remove(&token) {
                        reply.send(result.map_err(|source| LogError::File { file, source: Arc::new(source) }));
                    }
                }
                _ => {}
            }
        }
        self.release();
        Ok(())
    }

    /// Lays out what was asked for, as far as there is room.
    fn serve(&mut self) -> Result<(), LogError> {
        self.blocked = false;
        while let Some(request) = self.requests.pop_front() {
            if let Some(request) = self.one(request)? {
                self.requests.push_front(request);
                self.blocked = true;
                if std::mem::take(&mut self.held) {
                    self.engine.retry_segments();
                }
                return Ok(());
            }
        }
        Ok(())
    }

    /// A segment could not be made. Who waits for one is told; the next who needs one finds out whether it is still so.
    fn disk_full(&mut self, error: EngineError) {
        self.held = true;
        if std::mem::take(&mut self.blocked)
            && let Some(Request::Change { slot, .. }) = self.requests.front()
        {
            self.reject(*slot, &error.into());
        }
    }

    /// Does what was asked; gives it back if there is no room now.
    fn one(&mut self, request: Request) -> Result<Option<Request>, LogError> {
        match request {
            Request::Change { slot, change, last, reply } => {
                let log = &self.logs[slot];
                let bytes = match change {
                    Change::Truncate(last) if last > log.base().index => log.entries().encoded_len(last),
                    _ => change.bytes(),
                };
                if !self.engine.has_room_for(log, bytes) {
                    return Ok(Some(Request::Change { slot, change, last, reply }));
                }
                match self.change(slot, change) {
                    Ok(batch) => {
                        self.waiting.push_back((batch, Waiting::Change(last, reply)));
                        self.unattested = true;
                    }
                    Err(error @ LogError::Engine(EngineError::Failed { .. })) => {
                        reply.send(Err(error.clone()));
                        return Err(error);
                    }
                    Err(error) => {
                        self.reject(slot, &error);
                        reply.send(Err(error));
                    }
                }
            }
            Request::Read { slot, after, upto, bytes_max, reply } => {
                reply.send(self.read(slot, after, upto, bytes_max))
            }
            Request::Create { group, conf, reply } => {
                reply.send(self.engine.create(group, conf).map_err(Into::into).map(|log| {
                    let inner = Arc::new(Inner::new(group, log.slot, View::of(&log)));
                    assert!(log.slot == self.logs.len(), "groups are numbered in order");
                    self.logs.push(log);
                    self.groups.push(inner.clone());
                    inner
                }))
            }
            Request::Job { file, job, reply } => self.job(file, job, reply),
            Request::Sync { reply } => {
                let batch = self.engine.stats().last_batch;
                self.waiting.push_back((batch, Waiting::Sync(reply)));
            }
            Request::Stats { reply } => reply.send(Ok(self.engine.stats())),
        }
        Ok(None)
    }

    /// Lays out one change of a group. Nothing of it is done if there is an error.
    fn change(&mut self, slot: usize, change: Change) -> Result<BatchNo, LogError> {
        let (engine, log) = (&mut self.engine, &mut self.logs[slot]);
        let at_end = (log.last_index(), log.last_index());
        let batch = match change {
            Change::Write { first, run, hard } => {
                let entries = match run.is_empty() {
                    true => at_end,
                    false => (first.prev(), log.stage(first, run).expect("checked when it was asked for")),
                };
                engine.append(log, Write { hard_state: hard, entries, snapshot: None })?
            }
            Change::Truncate(last) if last == log.base().index => engine.reset(log, log.base())?,
            Change::Truncate(last) => {
                // The last entry that stays is written again: entries replace everything behind them.
                let mut runs = Vec::new();
                engine.read(&mut self.io, log, last.prev(), last, &mut runs)?;
                log.stage(last, Bytes::copy_from_slice(&runs[0])).expect("it was in the log");
                engine.append(log, Write { entries: (last.prev(), last), ..Write::default() })?
            }
            Change::Compact(upto) => {
                engine.compact(log, upto)?;
                engine.stats().last_batch
            }
            Change::Reset(base) => engine.reset(log, base)?,
            Change::Commit(commit) => {
                engine.note_commit(log, commit);
                engine.durable()
            }
            Change::Conf(conf) => {
                let before = (log.snapshot, log.conf.clone(), log.unsaid.snapshot);
                (log.conf, log.unsaid.snapshot) = (conf, true);
                name(engine, log, Write { entries: at_end, ..Write::default() }, before)?
            }
            Change::Snapshot(id, conf) => {
                let before = (log.snapshot, log.conf.clone(), log.unsaid.snapshot);
                log.set_snapshot(id, conf);
                name(engine, log, Write { entries: at_end, ..Write::default() }, before)?
            }
            Change::Install(id, conf, hard) => {
                let before = (log.snapshot, log.conf.clone(), log.unsaid.snapshot);
                log.set_snapshot(id, conf);
                let entries = (id.index, id.index);
                name(engine, log, Write { hard_state: Some(hard), entries, snapshot: Some(id) }, before)?
            }
        };
        Ok(batch)
    }

    fn read(&mut self, slot: usize, after: Index, upto: Index, bytes_max: u64) -> Result<Vec<Bytes>, LogError> {
        let log = &self.logs[slot];
        let upto = log.limit(after, upto, bytes_max).map_err(crate::ReadError::from)?;
        let mut runs = Vec::new();
        self.engine.read(&mut self.io, log, after, upto, &mut runs)?;
        Ok(runs)
    }

    fn job(&mut self, file: PathBuf, job: Job, reply: Reply<JobOutput>) {
        // The engine's tokens have other bits set.
        self.next_job += 1;
        let token = Token(self.next_job);
        assert!(!self.engine.owns(token), "fewer jobs than numbers");
        self.jobs.insert(token, (file, reply));
        self.io.job(job, token);
    }

    /// A change of a group cannot be done: those behind it rest on it and fail too, but for hard states, and the group is
    /// again what its log is.
    fn reject(&mut self, slot: usize, error: &LogError) {
        let inner = self.groups[slot].clone();
        // Nobody puts another request of this group meanwhile.
        let mut view = inner.view.lock().expect("no holder panics");
        self.queue.take(&mut self.requests);
        *view = View::of(&self.logs[slot]);
        for request in std::mem::take(&mut self.requests) {
            match request {
                Request::Change {
                    slot: of, change: Change::Write { first: _, run, hard: Some(hard) }, reply, ..
                } if of == slot && run.is_empty() => {
                    view.hard = hard;
                    let change = Change::Write { first: view.last.next(), run, hard: Some(hard) };
                    self.requests.push_back(Request::Change { slot, change, last: view.last, reply });
                }
                Request::Change { slot: of, .. } if of == slot => request.fail(error.clone()),
                other => self.requests.push_back(other),
            }
        }
    }

    /// Tells those who waited for what is durable by now.
    fn release(&mut self) {
        let durable = self.engine.durable();
        while self.waiting.front().is_some_and(|(batch, _)| *batch <= durable) {
            match self.waiting.pop_front().expect("looked at").1 {
                Waiting::Change(last, reply) => reply.send(Ok(last)),
                Waiting::Sync(reply) => reply.send(Ok(())),
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.waiting.is_empty() && self.jobs.is_empty()
    }

    /// Before the log is closed: what was only noted is written, and attested, so that a damaged last batch can be told
    /// from a torn one.
    fn finish(&mut self) -> Result<(), LogError> {
        for log in self.logs.iter_mut().filter(|log| log.unsaid.commit) {
            let end = log.last_index();
            match self.engine.append(log, Write { entries: (end, end), ..Write::default() }) {
                // Nobody was promised that it is written.
                Ok(_) | Err(EngineError::Busy { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.wait_for_all()?;
        self.engine.attest();
        self.wait_for_all()
    }

    fn wait_for_all(&mut self) -> Result<(), LogError> {
        let mut completions = Vec::new();
        self.engine.submit(&mut self.io);
        while self.engine.durable() < self.engine.stats().last_batch || self.engine.stats().inflight > 0 {
            self.turn(None, &mut completions)?;
            self.engine.submit(&mut self.io);
        }
        Ok(())
    }

    /// Everybody who still waits hears why it is in vain.
    fn end(&mut self, error: &LogError) {
        self.requests.drain(..).for_each(|request| request.fail(error.clone()));
        for (_, waiting) in self.waiting.drain(..) {
            match waiting {
                Waiting::Change(_, reply) => reply.send(Err(error.clone())),
                Waiting::Sync(reply) => reply.send(Err(error.clone())),
            }
        }
        self.jobs.drain().for_each(|(_, (_, reply))| reply.send(Err(error.clone())));
    }
}

/// Appends what names a snapshot or a membership, or takes the name back: snapshot, membership, whether it was unsaid.
fn name(
    engine: &mut Engine,
    log: &mut GroupLog,
    write: Write,
    before: (Option<ringraft_raft::EntryId>, ringraft_raft::ConfState, bool),
) -> Result<BatchNo, EngineError> {
    engine.append(log, write).inspect_err(|_| (log.snapshot, log.conf, log.unsaid.snapshot) = before)
}

/// Files that a crash left: half written ones, and snapshots older than the one their group names.
fn useless_files<I: Io>(io: &mut I, dir: &std::path::Path, logs: &[GroupLog]) -> Result<Vec<PathBuf>, LogError> {
    let listed = io.list(dir).map_err(|source| LogError::File { file: dir.to_owned(), source: Arc::new(source) })?;
    let is_useless = |path: &PathBuf| {
        if path.extension().is_some_and(|end| end == "new") {
            return true;
        }
        let name = path.file_name().and_then(|name| SnapshotName::parse(name.to_str()?));
        let log = name.and_then(|name| logs.iter().find(|log| log.group() == name.group));
        let latest = log.and_then(|log| log.snapshot());
        latest.is_some_and(|latest| name.is_some_and(|name| name.id.index < latest.index))
    };
    Ok(listed.into_iter().map(|file| file.path).filter(is_useless).collect())
}
