//! Deadlines of the control thread, on one timerfd.
//!
//! Dropping a `tokio-uring` read loses the bytes that arrive next, so nothing here races against a read. What takes too
//! long is ended from outside: its socket is shut down, and the read returns.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::sys;
use crate::Time;

type Action = Box<dyn FnOnce()>;
type Id = (Time, u64);

struct Inner {
    fd: OwnedFd,
    next: Cell<u64>,
    actions: RefCell<BTreeMap<Id, Action>>,
}

/// The deadlines of one thread.
#[derive(Clone)]
pub(super) struct Timers(Rc<Inner>);

/// A deadline; dropping it takes it back.
pub(super) struct Timer {
    inner: Rc<Inner>,
    id: Id,
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.inner.actions.borrow_mut().remove(&self.id);
    }
}

impl Timers {
    pub(super) fn new() -> io::Result<Timers> {
        let inner = Inner { fd: sys::timerfd()?, next: Cell::new(0), actions: RefCell::default() };
        Ok(Timers(Rc::new(inner)))
    }

    /// Lets the deadlines pass; runs for ever.
    pub(super) async fn run(self) -> io::Result<()> {
        let file = tokio_uring::fs::File::from_std(sys::dup(&self.0.fd)?.into());
        let mut buf = vec![0; 8];
        loop {
            let result;
            (result, buf) = file.read_at(buf, 0).await;
            result?;
            let now = sys::clock();
            loop {
                let first = self.0.actions.borrow().first_key_value().map(|(id, _)| *id);
                match first {
                    Some(id) if id.0 <= now => {
                        let action = self.0.actions.borrow_mut().remove(&id).expect("just seen");
                        action();
                    }
                    Some(id) => break sys::timerfd_set(&self.0.fd, id.0)?,
                    None => break,
                }
            }
        }
    }

    /// Calls `action` after `span`, unless the timer is dropped before.
    pub(super) fn after(&self, span: Duration, action: impl FnOnce() + 'static) -> Timer {
        let id = (sys::clock() + span, self.0.next.replace(self.0.next.get() + 1));
        self.0.actions.borrow_mut().insert(id, Box::new(action));
        if self.0.actions.borrow().first_key_value().is_some_and(|(first, _)| *first == id) {
            sys::timerfd_set(&self.0.fd, id.0).expect("a timer can always be set");
        }
        Timer { inner: self.0.clone(), id }
    }

    /// Waits for `span`.
    pub(super) async fn sleep(&self, span: Duration) {
        let over = Rc::new((Cell::new(false), RefCell::new(None::<Waker>)));
        let theirs = over.clone();
        let _timer = self.after(span, move || {
            theirs.0.set(true);
            if let Some(waker) = theirs.1.take() {
                waker.wake();
            }
        });
        poll_fn(|context| {
            if over.0.get() {
                return Poll::Ready(());
            }
            over.1.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}
