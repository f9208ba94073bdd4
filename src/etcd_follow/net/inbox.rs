//! What the sockets' threads have for the member, up to a number of bytes; who brings more waits.

use std::path::PathBuf;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use prost::Message as _;
use ringraft_raft::PeerId;
use ringraft_transport::StreamKind;
use ringraft_transport::etcd::raftpb;

use super::super::queue::Queue;

/// Something for the member.
#[derive(Debug)]
pub enum Event {
    /// A message; who it is from and for stands in it.
    Message(Box<raftpb::Message>),
    /// A snapshot, stored and synced.
    Snapshot(Arrived),
    /// A message to this member was dropped, or may have been lost.
    Unreachable(PeerId),
    /// A stream that we read began, or ended for this reason.
    Stream {
        /// Whose.
        peer: PeerId,
        /// Which.
        kind: StreamKind,
        /// Why it ended.
        ended: Option<String>,
    },
    /// A member says that we were removed.
    Removed,
}

/// A snapshot that has arrived. Its files are removed after the answer, unless they were moved away.
#[derive(Debug)]
pub struct Arrived {
    /// What was said before it.
    pub message: Box<raftpb::Message>,
    /// The file with these words.
    pub words: PathBuf,
    /// The file with etcd's database.
    pub database: PathBuf,
    /// Whether it was taken; its sender waits for this.
    pub taken: SyncSender<Result<(), String>>,
}

/// Events, and bytes of messages, that may wait here.
const EVENTS_MAX: usize = 64 << 10;
const BYTES_MAX: usize = 64 << 20;

/// See the module.
pub struct Inbox {
    queue: Queue<Event>,
    /// Tells the member, which waits for other things as well.
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Inbox {
    pub(super) fn new(wake: Box<dyn Fn() + Send + Sync>) -> Inbox {
        Inbox { queue: Queue::new(EVENTS_MAX, BYTES_MAX), wake }
    }

    pub(super) fn put(&self, event: Event) {
        let bytes = match &event {
            Event::Message(message) => message.encoded_len(),
            _ => 0,
        };
        if self.queue.put(event, bytes) {
            (self.wake)();
        }
    }

    /// Takes all that is there.
    pub fn take(&self, out: &mut Vec<Event>) {
        self.queue.take(Some(Instant::now()), out);
    }

    pub(super) fn close(&self) {
        // Whoever waits for an answer sees that there will be none.
        self.queue.close_and_drop();
    }
}
