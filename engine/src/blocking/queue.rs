//! What waits for the log's thread: bounded, in order.
//!
//! A place is reserved before anything is locked or changed; with a place in hand, a request is put without waiting.

use std::collections::VecDeque;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use ringraft_io::{Job, JobOutput};
use ringraft_raft::{ConfState, EntryId, GroupId, HardState, Index};

use super::LogError;
use super::group::Inner;
use super::pending::Reply;
use crate::engine::Stats;

/// What the thread is asked.
#[derive(Debug)]
pub(super) enum Request {
    /// A change of a group, durable before it is answered: with the last index after it.
    Change {
        slot: usize,
        change: Change,
        last: Index,
        reply: Reply<Index>,
    },
    /// Entries `after + 1 ..= upto`, as runs; fewer if they are more than so many bytes, but at least one.
    Read {
        slot: usize,
        after: Index,
        upto: Index,
        bytes_max: u64,
        reply: Reply<Vec<Bytes>>,
    },
    Create {
        group: GroupId,
        conf: ConfState,
        reply: Reply<Arc<Inner>>,
    },
    /// File work; the file is named in errors.
    Job {
        file: PathBuf,
        job: Job,
        reply: Reply<JobOutput>,
    },
    Sync {
        reply: Reply<()>,
    },
    Stats {
        reply: Reply<Stats>,
    },
}

/// A change of a group.
#[derive(Debug)]
pub(super) enum Change {
    /// Entries from `first` on (none: an empty run), a hard state, or both.
    Write {
        first: Index,
        run: Bytes,
        hard: Option<HardState>,
    },
    /// Forget the entries behind this one.
    Truncate(Index),
    /// Forget the entries up to this one.
    Compact(Index),
    /// Forget all entries; the log begins behind this one.
    Reset(EntryId),
    Conf(ConfState),
    /// The commit index is this; no need to hurry.
    Commit(Index),
    /// The latest snapshot, made of this log.
    Snapshot(EntryId, ConfState),
    /// A snapshot in place of the log.
    Install(EntryId, ConfState, HardState),
}

impl Change {
    /// Bytes of records in it.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Change::Write { run, .. } => run.len(),
            _ => 0,
        }
    }
}

impl Request {
    /// Tells whoever asked.
    pub(super) fn fail(self, error: LogError) {
        match self {
            Request::Change { reply, .. } => reply.send(Err(error)),
            Request::Read { reply, .. } => reply.send(Err(error)),
            Request::Create { reply, .. } => reply.send(Err(error)),
            Request::Job { reply, .. } => reply.send(Err(error)),
            Request::Sync { reply } => reply.send(Err(error)),
            Request::Stats { reply } => reply.send(Err(error)),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Request::Change { change, .. } => change.bytes(),
            _ => 0,
        }
    }
}

/// See the module.
pub(super) struct Queue {
    requests_max: usize,
    bytes_max: usize,
    wake: Box<dyn Fn() + Send + Sync>,
    state: Mutex<State>,
    room: Condvar,
}

#[derive(Default)]
struct State {
    requests: VecDeque<Request>,
    /// Places taken, those of `requests` included.
    places: usize,
    bytes: usize,
    /// Nothing is taken any more, for this reason.
    ended: Option<LogError>,
    /// The thread takes nothing any more, not even from who has a place.
    is_over: bool,
    wakers: Vec<Waker>,
}

impl Queue {
    pub(super) fn new(requests_max: usize, bytes_max: usize, wake: Box<dyn Fn() + Send + Sync>) -> Queue {
        let (state, room) = (Mutex::default(), Condvar::new());
        Queue { requests_max: requests_max.max(1), bytes_max, wake, state, room }
    }

    /// A place for a request with so many bytes of records; waits for one.
    pub(super) fn reserve(&self, bytes: usize) -> Result<Place<'_>, LogError> {
        let full = |state: &mut State| state.ended.is_none() && self.is_full(state, bytes);
        let mut state = self.room.wait_while(self.state(), full).expect("no holder panics");
        self.take_place(&mut state, bytes)
    }

    /// The same, without waiting.
    pub(super) fn try_reserve(&self, bytes: usize) -> Result<Place<'_>, LogError> {
        let mut state = self.state();
        if state.ended.is_none() && self.is_full(&state, bytes) {
            return Err(LogError::Full);
        }
        self.take_place(&mut state, bytes)
    }

    /// By the thread: all requests that wait. False if there will be no more.
    pub(super) fn take(&self, into: &mut VecDeque<Request>) -> bool {
        let mut state = self.state();
        let (count, bytes) = (state.requests.len(), state.requests.iter().map(Request::bytes).sum::<usize>());
        into.append(&mut state.requests);
        let open = state.ended.is_none() || state.places > count;
        self.free(state, count, bytes);
        open
    }

    /// Lets nothing in any more; what is in is still done.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.ended.get_or_insert(LogError::Closed);
        self.free(state, 0, 0);
        (self.wake)();
    }

    /// By the thread, when it ends: everybody hears why.
    pub(super) fn end(&self, error: LogError) {
        let mut state = self.state();
        // A log that failed while it was being closed has failed.
        state.ended = Some(error.clone());
        state.is_over = true;
        drop(state);
        let mut requests = VecDeque::new();
        self.take(&mut requests);
        requests.into_iter().for_each(|request| request.fail(error.clone()));
    }

    /// Why nothing is taken any more, if so.
    pub(super) fn ended(&self) -> Option<LogError> {
        self.state().ended.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn is_full(&self, state: &State, bytes: usize) -> bool {
        state.places >= self.requests_max || state.bytes > 0 && state.bytes + bytes > self.bytes_max
    }

    fn take_place(&self, state: &mut State, bytes: usize) -> Result<Place<'_>, LogError> {
        match &state.ended {
            Some(error) => Err(error.clone()),
            None => {
                state.places += 1;
                state.bytes += bytes;
                Ok(Place { queue: self, bytes, is_used: false })
            }
        }
    }

    /// Gives places back, and tells those who wait for some.
    fn free(&self, mut state: MutexGuard<'_, State>, places: usize, bytes: usize) {
        state.places -= places;
        state.bytes -= bytes;
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        self.room.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Queue")
    }
}

/// A place in the queue.
pub(super) struct Place<'q> {
    queue: &'q Queue,
    bytes: usize,
    is_used: bool,
}

impl Place<'_> {
    /// Puts a request of the announced size. Never waits.
    pub(super) fn push(mut self, request: Request) {
        assert!(request.bytes() == self.bytes, "{} bytes announced, {} put", self.bytes, request.bytes());
        let mut state = self.queue.state();
        if state.is_over {
            let error = state.ended.clone().expect("it says why");
            drop(state);
            return request.fail(error);
        }
        state.requests.push_back(request);
        self.is_used = true;
        drop(state);
        (self.queue.wake)();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.is_used {
            self.queue.free(self.queue.state(), 1, self.bytes);
            // The thread may wait for this place to be used before it ends.
            (self.queue.wake)();
        }
    }
}

/// Comes when the queue has room, or the log has ended. Somebody else may take the room first: then ask again.
#[must_use = "futures do nothing unless awaited"]
pub struct Room<'a> {
    pub(super) queue: &'a Queue,
    pub(super) bytes: usize,
}

impl Future for Room<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.queue.state();
        if state.ended.is_none() && self.queue.is_full(&state, self.bytes) {
            state.wakers.push(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl std::fmt::Debug for Room<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Room")
    }
}
