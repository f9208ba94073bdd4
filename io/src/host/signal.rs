//! Waking a shard: what other threads want of it, and whether it has to be pulled out of its wait.
//!
//! A waker first sets a bit, then looks at `parked`. A shard first sets `parked`, then looks at the bits. Both pairs
//! are sequentially consistent, so at least one of them sees the other: either the shard does not wait, or the waker
//! kicks it. A kick says nothing by itself; it only ends a wait.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};

use super::sys;
use crate::ShardNo;

/// Somebody called `wake`.
pub(crate) const WOKEN: u8 = 1;
/// There is something in the mailbox.
pub(crate) const MAIL: u8 = 2;
/// A durable write has ended (where a thread does them).
pub(crate) const WRITTEN: u8 = 4;

/// One shard's bell. On cache lines of its own: it is written by others while the shard runs.
#[repr(align(128))]
pub(crate) struct Signal {
    bits: AtomicU8,
    parked: AtomicBool,
    /// Watched by the shard while it waits.
    event: OwnedFd,
}

impl Signal {
    pub(crate) fn new() -> std::io::Result<Signal> {
        Ok(Signal { bits: AtomicU8::new(0), parked: AtomicBool::new(false), event: sys::eventfd()? })
    }

    /// Sets `bit`; true if the shard is waiting and must be kicked by the caller.
    pub(crate) fn raise(&self, bit: u8) -> bool {
        self.bits.fetch_or(bit, SeqCst);
        self.parked.load(SeqCst)
    }

    /// Sets `bit` and kicks the shard if it waits. One system call at most, and none if the shard is awake.
    pub(crate) fn raise_and_kick(&self, bit: u8) {
        // Only who takes the flag down kicks, and does so at once: others may rely on it.
        if self.raise(bit) && self.parked.swap(false, SeqCst) {
            self.kick();
        }
    }

    /// What a shard watches while it waits.
    pub(crate) fn event(&self) -> &OwnedFd {
        &self.event
    }

    /// Ends the shard's wait.
    pub(crate) fn kick(&self) {
        sys::eventfd_add(&self.event);
    }

    /// By the shard, before it waits: false if it must not, because a bit is set.
    pub(crate) fn park(&self) -> bool {
        self.parked.store(true, SeqCst);
        if self.bits.load(SeqCst) != 0 {
            self.parked.store(false, SeqCst);
            return false;
        }
        true
    }

    /// By the shard, after it has waited.
    pub(crate) fn unpark(&self) {
        self.parked.store(false, SeqCst);
    }

    /// By the shard: whether a bit is set.
    pub(crate) fn is_raised(&self) -> bool {
        self.bits.load(SeqCst) != 0
    }

    /// By the shard: the bits set since the last call.
    pub(crate) fn take(&self) -> u8 {
        if self.bits.load(SeqCst) == 0 { 0 } else { self.bits.swap(0, SeqCst) }
    }
}

/// Wakes the shards of one world from any thread.
#[derive(Clone)]
pub struct Waker {
    signals: Arc<[Signal]>,
}

impl Waker {
    pub(crate) fn new(signals: Arc<[Signal]>) -> Waker {
        Waker { signals }
    }

    /// Gives a shard a [`Completion::Woken`](crate::Completion::Woken). Wakes may be merged.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn wake(&self, shard: ShardNo) {
        self.signals[usize::from(shard.0)].raise_and_kick(WOKEN);
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Waker({} shards)", self.signals.len())
    }
}
