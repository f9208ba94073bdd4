//! The engine with a thread of its own: a log for people who have no ring and no loop.
//!
//! [`Log::open`] starts the thread that owns the ring and the [`Engine`](crate::Engine); every clone of the [`Log`] and
//! every [`Group`] is a handle to it, for any thread. What is asked for while a batch is syncing forms the next batch:
//! many threads that append one entry each share one sync.
//!
//! Three ways to wait for the same thing: [`Group::append`] returns when the entries are durable, [`Group::append_async`]
//! gives a [`Pending`] (a future of any runtime, or [`Pending::wait`]), [`Group::write_then`] calls back.
//!
//! Everything waiting is bounded ([`Config`]): a call that finds the queue full waits for room, or says
//! [`LogError::Full`] if it is one of the `try_` kind. A failed write or sync ends the log for good and for all: who
//! waits, and who asks later, gets the reason ([`EngineError::Failed`](crate::EngineError::Failed)); opening it again
//! finds what is really on the disk.
//!
//! A program that wants more than one core opens more than one log, each in a directory of its own.
//! The [crate documentation](crate) has an example.

mod driver;
mod error;
mod group;
mod pending;
mod queue;
mod view;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use ringraft_io::{Io, IoChoice, Seed, ShardNo, World, WorldConfig};
use ringraft_raft::{ConfState, GroupId};

use self::driver::Driver;
use self::group::Inner;
pub(crate) use self::pending::Reply;
use self::queue::{Queue, Request};
use crate::engine::{RecoveryReport, Stats};

pub use self::error::{LogError, WorldError};
pub use self::group::{Entry, Group, State, Write};
pub use self::pending::Pending;
pub use self::queue::Room;

/// Limits of a [`Log`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Those of the engine, its directory among them.
    pub engine: crate::Config,
    /// Requests of all groups that wait for the engine.
    pub requests_max: usize,
    /// Bytes of records in them. A single larger request is taken when nothing else waits.
    pub request_bytes_max: usize,
}

impl From<crate::Config> for Config {
    fn from(engine: crate::Config) -> Config {
        Config { engine, requests_max: 4096, request_bytes_max: 16 << 20 }
    }
}

/// A log of many groups, in a directory of its own. Clones are the same log; it is closed when the last clone and the
/// last [`Group`] are dropped, or by [`Log::close`].
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    config: crate::Config,
    queue: Arc<Queue>,
    groups: Mutex<BTreeMap<GroupId, Arc<Inner>>>,
    report: RecoveryReport,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Log {
    /// Opens the log in a directory, or begins one there, on an io_uring of its own; without, where that is not permitted.
    ///
    /// # Errors
    /// As [`Log::open_with`].
    pub fn open(config: impl Into<Config>) -> Result<Log, LogError> {
        Log::open_with(config, IoChoice::Auto)
    }

    /// As [`Log::open`], with this choice of a world.
    ///
    /// # Errors
    /// [`LogError::World`] without io_uring if that is what was asked for, or if there is a lack of descriptors or threads;
    /// [`LogError::Engine`] with what [`Engine::open`](crate::Engine::open) says.
    pub fn open_with(config: impl Into<Config>, choice: IoChoice) -> Result<Log, LogError> {
        let start = || {
            let config = WorldConfig::new(1);
            World::start(choice.settle(&config)?.kind, config)
        };
        let mut world = start().map_err(|error| LogError::World(Arc::new(WorldError::new(error))))?;
        let seed = world.take_seeds().pop().expect("a world of one shard");
        let waker = world.waker();
        // Nobody listens or dials here: the world's control thread is not needed.
        drop(world);
        let wake = move || waker.wake(ShardNo(0));
        match seed {
            Seed::Uring(seed) => Log::open_on(config, wake, move || seed.into_io().map_err(WorldError::new)),
            Seed::Portable(seed) => Log::open_on(config, wake, move || seed.into_io().map_err(WorldError::new)),
        }
    }

    /// As [`Log::open`], in another world: `make` makes it, on the log's own thread, and `wake` gives it a
    /// [`Completion::Woken`](ringraft_io::Completion::Woken) from any thread.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_on<I: Io + 'static>(
        config: impl Into<Config>,
        wake: impl Fn() + Send + Sync + 'static,
        make: impl FnOnce() -> Result<I, WorldError> + Send + 'static,
    ) -> Result<Log, LogError> {
        let config = config.into();
        let queue = Arc::new(Queue::new(config.requests_max, config.request_bytes_max, Box::new(wake)));
        let (reply, opened) = Reply::pending();
        let (of_engine, of_thread) = (config.engine.clone(), queue.clone());
        let thread = std::thread::Builder::new().name("ringraft-log".into());
        let thread = thread.spawn(move || Driver::run(of_engine, of_thread, make, reply));
        let thread = thread.map_err(|error| LogError::World(Arc::new(WorldError::new(error))))?;
        let (groups, report) = match opened.wait() {
            Ok(opened) => opened,
            Err(error) => {
                let _ = thread.join();
                return Err(error);
            }
        };
        let groups = groups.into_iter().map(|group: Arc<Inner>| (group.id, group)).collect();
        let thread = Mutex::new(Some(thread));
        let shared = Shared { config: config.engine, queue, groups: Mutex::new(groups), report, thread };
        Ok(Log { shared: Arc::new(shared) })
    }

    /// A group, made with no members if there is none yet. A new group touches no file before its first write.
    ///
    /// # Errors
    /// [`EngineError::TooManyGroups`](crate::EngineError::TooManyGroups), or why the log has ended.
    pub fn group(&self, id: GroupId) -> Result<Group, LogError> {
        self.group_with(id, ConfState::default())
    }

    /// As [`Log::group`], with a first membership for a new group.
    ///
    /// # Errors
    /// As [`Log::group`].
    ///
    /// # Panics
    /// If it names more than [`MEMBERS_MAX`](crate::MEMBERS_MAX) members.
    pub fn group_with(&self, id: GroupId, conf: ConfState) -> Result<Group, LogError> {
        let count = conf.names();
        assert!(count <= crate::MEMBERS_MAX, "group {id}: {count} members");
        let mut groups = self.groups_known();
        let inner = match groups.get(&id) {
            Some(inner) => inner.clone(),
            None => {
                let inner = self.ask(|reply| Request::Create { group: id, conf, reply })?;
                groups.insert(id, inner.clone());
                inner
            }
        };
        Ok(Group::new(inner, self.clone()))
    }

    /// The groups there are, sorted.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        self.groups_known().keys().copied().collect()
    }

    /// What was found when the log was opened.
    #[must_use]
    pub fn report(&self) -> &RecoveryReport {
        &self.shared.report
    }

    /// Where it lies and what its limits are.
    #[must_use]
    pub fn config(&self) -> &crate::Config {
        &self.shared.config
    }

    /// Numbers for people.
    ///
    /// # Errors
    /// Why the log has ended.
    pub fn stats(&self) -> Result<Stats, LogError> {
        self.ask(|reply| Request::Stats { reply })
    }

    /// Waits until all that was asked for before is durable.
    ///
    /// # Errors
    /// Why the log has ended.
    pub fn sync(&self) -> Result<(), LogError> {
        self.ask(|reply| Request::Sync { reply })
    }

    /// Ends the log: what was asked for before is still made durable, what is asked for later gets
    /// [`LogError::Closed`]. Returns when the directory is free for the next one. Again: nothing happens.
    ///
    /// # Errors
    /// Why it had ended before.
    pub fn close(&self) -> Result<(), LogError> {
        self.shared.close();
        match self.shared.queue.ended() {
            Some(LogError::Closed) | None => Ok(()),
            Some(error) => Err(error),
        }
    }

    fn queue(&self) -> &Queue {
        &self.shared.queue
    }

    fn groups_known(&self) -> MutexGuard<'_, BTreeMap<GroupId, Arc<Inner>>> {
        self.shared.groups.lock().expect("no holder panics")
    }

    fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, LogError> {
        let (reply, pending) = Reply::pending();
        self.queue().reserve(0)?.push(request(reply));
        pending.wait()
    }
}

impl Shared {
    fn close(&self) {
        self.queue.close();
        let thread = self.thread.lock().expect("no holder panics").take();
        // The last handle may be dropped by a callback, on the log's own thread: that one ends by itself.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Log({})", self.shared.config.dir.display())
    }
}

/// The directory of a log's snapshot files.
fn snapshot_dir(config: &crate::Config) -> PathBuf {
    config.dir.join("snap")
}
