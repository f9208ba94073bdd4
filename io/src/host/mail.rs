//! What helpers tell a shard.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::Sender;

use bytes::Bytes;

use super::jobs::Outcome;
use super::signal::{MAIL, Signal};
use crate::{DialError, ShardNo, Token};

/// One letter.
pub(crate) enum Mail {
    Accepted { fd: OwnedFd, permit: Permit, greeting: Bytes },
    Dialed { token: Token, result: Result<(OwnedFd, Bytes), DialError> },
    FileSent { token: Token, result: Result<(), DialError> },
    FileReceived { greeting: Bytes, path: PathBuf },
    JobDone { token: Token, result: io::Result<Outcome> },
}

/// Where to put a shard's mail. It is bounded by what the shard has asked for, and by the connection limit.
#[derive(Clone)]
pub(crate) struct Mailbox {
    mail: Sender<Mail>,
    signals: Arc<[Signal]>,
    shard: ShardNo,
}

impl Mailbox {
    pub(crate) fn new(mail: Sender<Mail>, signals: Arc<[Signal]>, shard: ShardNo) -> Mailbox {
        Mailbox { mail, signals, shard }
    }

    pub(crate) fn put(&self, mail: Mail) {
        // A shard that is gone needs no mail; dropping it closes what is in it.
        if self.mail.send(mail).is_ok() {
            self.signals[usize::from(self.shard.0)].raise_and_kick(MAIL);
        }
    }
}

/// One of the places for accepted connections; free again when dropped.
pub(crate) struct Permit(Arc<AtomicUsize>);

impl Permit {
    /// A place, if fewer than `max` are taken. Only one thread asks.
    pub(crate) fn take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Permit> {
        if taken.load(Relaxed) >= max {
            return None;
        }
        taken.fetch_add(1, Relaxed);
        Some(Permit(taken.clone()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
