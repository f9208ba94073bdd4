//! A result that is to come: for `async` code and for code that waits.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::ClientError;
use crate::protocol::{Answer, Status};

/// An answer that owns its body.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) op: u8,
    pub(super) flags: u8,
    pub(super) status: Status,
    pub(super) arg: u64,
    pub(super) body: Bytes,
}

impl Reply {
    pub(super) fn new(answer: &Answer<'_>) -> Reply {
        let Answer { op, flags, status, arg, body } = *answer;
        Reply { op, flags, status, arg, body: Bytes::copy_from_slice(body) }
    }

    pub(super) fn answer(&self) -> Answer<'_> {
        Answer { op: self.op, flags: self.flags, status: self.status, arg: self.arg, body: &self.body }
    }
}

/// Where the threads put the replies, and where their result is waited for.
#[derive(Debug)]
pub(super) struct Slot {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Debug)]
struct State {
    parts: Vec<Option<Result<Reply, ClientError>>>,
    missing: usize,
    waker: Option<Waker>,
}

impl Slot {
    /// One for so many replies.
    pub(super) fn new(parts: usize) -> Slot {
        let state = State { parts: (0..parts).map(|_| None).collect(), missing: parts, waker: None };
        Slot { state: Mutex::new(state), filled: Condvar::new() }
    }

    /// Sets the result of one part, if it has none yet.
    pub(super) fn set(&self, part: usize, result: Result<Reply, ClientError>) {
        let mut state = self.state.lock().expect("no holder panics");
        // Once all were there they may have been taken.
        if state.missing == 0 || state.parts[part].is_some() {
            return;
        }
        state.parts[part] = Some(result);
        state.missing -= 1;
        if state.missing == 0 {
            let waker = state.waker.take();
            drop(state);
            self.filled.notify_all();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// The replies, waiting for them; or the first error.
    fn wait(&self) -> Result<Vec<Reply>, ClientError> {
        let state = self.state.lock().expect("no holder panics");
        let mut state = self.filled.wait_while(state, |state| state.missing > 0).expect("no holder panics");
        state.parts.drain(..).flatten().collect()
    }

    /// The replies, if they are there; else `waker` is woken when they are.
    fn poll(&self, waker: &Waker) -> Option<Result<Vec<Reply>, ClientError>> {
        let mut state = self.state.lock().expect("no holder panics");
        if state.missing == 0 {
            return Some(state.parts.drain(..).flatten().collect());
        }
        state.waker = Some(waker.clone());
        None
    }
}

/// Makes the result of the replies; the number is the caller's.
type Decode<T> = fn(Vec<Reply>, u32) -> Result<T, ClientError>;

/// A result that is to come: await it, or [`wait`](Pending::wait). The request is under way already, and goes on if
/// this is dropped.
#[derive(Debug)]
#[must_use = "whether it was done is known only from the result"]
pub struct Pending<T> {
    /// `None`: the result was given out.
    slot: Option<Result<Arc<Slot>, ClientError>>,
    number: u32,
    decode: Decode<T>,
}

impl<T> Pending<T> {
    pub(super) fn new(slot: Result<Arc<Slot>, ClientError>, number: u32, decode: Decode<T>) -> Pending<T> {
        Pending { slot: Some(slot), number, decode }
    }

    /// Waits for the result; no longer than the client's request timeout and a little.
    ///
    /// # Errors
    /// Why there is none.
    ///
    /// # Panics
    /// If the result was awaited before.
    pub fn wait(self) -> Result<T, ClientError> {
        let slot = self.slot.expect("a result is given out once")?;
        (self.decode)(slot.wait()?, self.number)
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let replies = match self.slot.as_ref().expect("a result is given out once") {
            Err(error) => Err(error.clone()),
            Ok(slot) => match slot.poll(context.waker()) {
                None => return Poll::Pending,
                Some(replies) => replies,
            },
        };
        self.slot = None;
        Poll::Ready(replies.and_then(|replies| (self.decode)(replies, self.number)))
    }
}
