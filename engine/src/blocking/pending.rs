//! A result that is to come: for code that waits, for `async` code, and for callbacks.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};

use super::LogError;

/// A result that is to come: await it, or [`wait`](Pending::wait). What was asked for is under way already, and goes on
/// if this is dropped.
#[must_use = "whether it was done is known only from the result"]
pub struct Pending<T> {
    slot: Arc<Slot<T>>,
}

struct Slot<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
}

struct State<T> {
    result: Option<Result<T, LogError>>,
    waker: Option<Waker>,
}

impl<T> Pending<T> {
    /// One that is there already.
    #[cfg(feature = "raft-rs")]
    pub(crate) fn done(result: Result<T, LogError>) -> Pending<T> {
        let (reply, pending) = Reply::pending();
        reply.send(result);
        pending
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// Why there is none.
    ///
    /// # Panics
    /// If the result was awaited before.
    pub fn wait(self) -> Result<T, LogError> {
        assert!(Arc::strong_count(&self.slot) > 1 || self.is_done(), "a result is given out once");
        let state = self.slot.state.lock().expect("no holder panics");
        let mut state = self.slot.filled.wait_while(state, |state| state.result.is_none()).expect("no holder panics");
        state.result.take().expect("waited for")
    }

    /// Whether the result is there.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.slot.state.lock().expect("no holder panics").result.is_some()
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, LogError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.slot.state.lock().expect("no holder panics");
        match state.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> std::fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pending(done: {})", self.is_done())
    }
}

/// Whom to tell. One that is dropped untold tells of a panic: nobody waits for ever.
pub(crate) struct Reply<T> {
    to: Option<To<T>>,
}

enum To<T> {
    Slot(Arc<Slot<T>>),
    Call(Box<dyn FnOnce(Result<T, LogError>) + Send>),
}

impl<T> Reply<T> {
    pub(crate) fn pending() -> (Reply<T>, Pending<T>) {
        let slot = Slot { state: Mutex::new(State { result: None, waker: None }), filled: Condvar::new() };
        let slot = Arc::new(slot);
        (Reply { to: Some(To::Slot(slot.clone())) }, Pending { slot })
    }

    pub(super) fn call(then: impl FnOnce(Result<T, LogError>) + Send + 'static) -> Reply<T> {
        Reply { to: Some(To::Call(Box::new(then))) }
    }

    pub(crate) fn send(mut self, result: Result<T, LogError>) {
        self.give(result);
    }

    fn give(&mut self, result: Result<T, LogError>) {
        match self.to.take() {
            None => {}
            Some(To::Call(then)) => then(result),
            Some(To::Slot(slot)) => {
                let mut state = slot.state.lock().expect("no holder panics");
                state.result = Some(result);
                let waker = state.waker.take();
                drop(state);
                slot.filled.notify_all();
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        self.give(Err(LogError::Panicked));
    }
}

impl<T> std::fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reply")
    }
}
