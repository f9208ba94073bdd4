//! The ring itself: entries in, one enter, completions out.

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{CompletionQueue, EnterFlags, IoUring, SubmissionQueue, Submitter, cqueue, squeue};

use super::probe::{self, Capabilities};
use super::raw;
use crate::WorldError;

/// A ring, split for good: the registered descriptor is remembered by one `Submitter` only.
pub(super) struct Ring {
    pub(super) submitter: ManuallyDrop<Submitter<'static>>,
    sq: ManuallyDrop<SubmissionQueue<'static>>,
    cq: ManuallyDrop<CompletionQueue<'static>>,
    /// What the three above borrow. Given back to its box in `drop`.
    whole: *mut IoUring,
    /// Entries that found the queue full while the kernel would not take them.
    backlog: VecDeque<squeue::Entry>,
    pub(super) capabilities: Capabilities,
    wait_flags: EnterFlags,
}

impl Ring {
    /// A ring for the calling thread, which alone may use it.
    pub(super) fn new(sq_entries: u32, cq_entries: u32) -> Result<Ring, WorldError> {
        let (ring, capabilities) = probe::setup(sq_entries, cq_entries)?;
        let whole = Box::into_raw(Box::new(ring));
        // SAFETY: `whole` comes from a box that `Ring::drop` takes back after the three parts are gone; until then
        // nobody touches it but through them.
        let (mut submitter, sq, cq) = unsafe { &mut *whole }.split();
        // Saves a tenth of an enter; nothing else depends on it.
        let _ = submitter.register_ring_fd();
        let mut wait_flags = EnterFlags::EXT_ARG | EnterFlags::GETEVENTS;
        if capabilities.no_iowait {
            wait_flags |= EnterFlags::NO_IOWAIT;
        }
        Ok(Ring {
            submitter: ManuallyDrop::new(submitter),
            sq: ManuallyDrop::new(sq),
            cq: ManuallyDrop::new(cq),
            whole,
            backlog: VecDeque::new(),
            capabilities,
            wait_flags,
        })
    }

    /// A second descriptor of this ring.
    pub(super) fn dup(&self) -> io::Result<OwnedFd> {
        struct Raw(RawFd);
        impl AsRawFd for Raw {
            fn as_raw_fd(&self) -> RawFd {
                self.0
            }
        }
        // SAFETY: `whole` is valid until `drop`, and reading its descriptor number touches nothing the parts change.
        raw::dup(&Raw(unsafe { &*self.whole }.as_raw_fd()))
    }

    /// Queues an entry for the next enter.
    ///
    /// # Safety
    /// What the entry points to must stay in place and untouched until the last completion of its operation.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) {
        if self.sq.is_full() {
            // A failure leaves the queue full; the entry waits, and the next turn will meet the failure too.
            let _ = self.enter(0, None);
        }
        // SAFETY: by the contract of this function.
        if !self.backlog.is_empty() || unsafe { self.sq.push(entry) }.is_err() {
            self.backlog.push_back(entry.clone());
        }
    }

    /// Whether an enter would bring anything in or out.
    pub(super) fn wants_enter(&mut self) -> bool {
        !self.sq.is_empty()
            || !self.backlog.is_empty()
            || !self.capabilities.taskrun_flag
            || self.sq.taskrun()
            || self.sq.cq_overflow()
    }

    /// Whether completions wait to be taken.
    pub(super) fn has_completions(&mut self) -> bool {
        self.cq.sync();
        !self.cq.is_empty()
    }

    /// Submits everything queued and waits for `want` completions, or until `timeout` has passed.
    pub(super) fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        self.sq.sync();
        let queued = u32::try_from(self.sq.len()).expect("a queue has fewer than 2^32 entries");
        // What waits for room in the queue must not wait for completions, which may depend on it.
        let want = if self.backlog.is_empty() { want } else { 0 };
        let span = timespec(timeout.unwrap_or_default());
        let args = if timeout.is_some() { SubmitArgs::new().timespec(&span) } else { SubmitArgs::new() };
        // SAFETY: `args` and `span` live on our stack for the whole call; the entries were vouched for in `push`.
        let result = unsafe { self.submitter.enter(queued, want, self.wait_flags.bits(), Some(&args)) };
        self.sq.sync();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: vouched for when it was given to `push`.
            if unsafe { self.sq.push(entry) }.is_err() {
                break;
            }
            self.backlog.pop_front();
        }
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // The time is up, a signal came, or the kernel wants completions taken first: the next enter goes on.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// The next completion that has arrived.
    pub(super) fn next(&mut self) -> Option<cqueue::Entry> {
        if let Some(entry) = self.cq.next() {
            return Some(entry);
        }
        self.cq.sync();
        self.cq.next()
    }

    /// Whether the kernel keeps completions back because the queue was full; an enter brings them.
    pub(super) fn overflowed(&self) -> bool {
        self.sq.cq_overflow()
    }
}

/// A time span as a ring wants it.
fn timespec(span: Duration) -> Timespec {
    Timespec::new().sec(span.as_secs()).nsec(span.subsec_nanos())
}

impl Drop for Ring {
    fn drop(&mut self) {
        let _ = self.submitter.unregister_ring_fd();
        // SAFETY: not used again; `drop` runs once.
        unsafe { ManuallyDrop::drop(&mut self.cq) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.sq) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.submitter) };
        // SAFETY: `whole` came out of a box in `new`, and the parts that borrowed it are gone.
        drop(unsafe { Box::from_raw(self.whole) });
    }
}
