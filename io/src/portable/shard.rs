//! A shard behind the trait: what is asked is done by non-blocking calls, or by the thread that syncs.

mod streams;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;

use self::streams::Streams;
use super::disk::{Disk, WriteOp, Written};
use super::poller::Poller;
use super::sending::Sending;
use crate::host::files::{Durability, Identity};
use crate::host::mail::Permit;
use crate::host::shard::{Common, HostShard};
use crate::host::signal::{WOKEN, WRITTEN};
use crate::host::world::Start;
use crate::{AlignedBuf, CloseReason, Completion, FileId, ShardNo, StreamId, Token, WorldConfig, WorldError};

/// The key of the shard's own event among those of streams, which have 63 bits.
const EVENT: u64 = u64::MAX;

/// One shard without a ring. Made by [`PortableSeed::into_io`](super::PortableSeed::into_io) on the thread that uses it.
pub struct Portable {
    common: Common<()>,
    poller: Poller,
    streams: Streams,
    disk: Disk,
}

impl Portable {
    pub(super) fn new(start: Start, config: &WorldConfig) -> Result<Portable, WorldError> {
        let failed = |what| move |source| WorldError::Io { what, source };
        // Before this thread is tied to a processor: those it starts later are tied to the same one.
        let disk = Disk::start(start.shard, start.signals.clone());
        let disk = disk.map_err(failed("start a thread for durable writes"))?;
        let common = Common::new(start, config, Durability::ByFile)?;
        let poller = Poller::new().map_err(failed("set up epoll"))?;
        poller.add_event(common.signal().event(), EVENT).map_err(failed("watch a shard's event"))?;
        let streams = Streams::new(config.recv_buffers, config.recv_buffer_size);
        Ok(Portable { common, poller, streams, disk })
    }

    /// Sends, receives and writes that are under way.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.streams.in_flight() + self.disk.in_flight()
    }

    /// The socket of a stream.
    #[cfg(test)]
    pub(crate) fn socket(&self, id: StreamId) -> &OwnedFd {
        self.streams.socket(id)
    }

    /// Takes changes of sockets, waiting for one at most for `timeout`.
    fn poll(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let streams = &mut self.streams;
        self.poller.wait(timeout, |change| {
            if change.key != EVENT {
                streams.note(change);
            }
        })
    }
}

impl HostShard for Portable {
    type Handle = ();

    fn common(&self) -> &Common<()> {
        &self.common
    }

    fn common_mut(&mut self) -> &mut Common<()> {
        &mut self.common
    }

    fn adopt_stream(&mut self, fd: OwnedFd, permit: Option<Permit>) -> StreamId {
        let (stream, watched) = self.streams.insert(fd, permit, &self.poller);
        if let Err(error) = watched {
            self.common.ready.push(Completion::Closed { stream, reason: CloseReason::Error(error.kind()) });
        }
        stream
    }

    fn adopt_file(&mut self, file: File) -> FileId {
        self.common.files.insert(file, ())
    }

    fn removed(&mut self, identity: Identity) {
        self.common.files.removed(identity, |()| {});
    }

    fn before_wait(&mut self, out: &mut Vec<Completion>) {
        self.streams.send_all(&self.poller, out);
    }

    fn has_work(&mut self) -> bool {
        self.streams.has_work()
    }

    fn look(&mut self) -> io::Result<()> {
        self.poll(Some(Duration::ZERO))
    }

    fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.poll(timeout)
    }

    fn after_wait(&mut self, bits: u8, out: &mut Vec<Completion>) -> io::Result<()> {
        self.streams.send_all(&self.poller, out);
        self.streams.receive_all(&self.poller, out);
        if bits & WRITTEN != 0 {
            while let Some(Written { id, token, buf, result }) = self.disk.next() {
                self.common.files.end_write(id);
                out.push(Completion::Written { file: id, token, buf, result });
            }
        }
        Ok(())
    }

    fn start_send(&mut self, stream: StreamId, bufs: Vec<Bytes>) {
        self.common.ready.extend(self.streams.send(stream, Sending::new(bufs)));
    }

    fn spare_bufs(&mut self) -> Vec<Bytes> {
        self.streams.spare_bufs()
    }

    fn want(&mut self, stream: StreamId, wanted: bool) {
        self.streams.want(stream, wanted);
    }

    fn shut(&mut self, stream: StreamId) {
        self.streams.close(stream, &self.poller);
    }

    fn start_write(&mut self, id: FileId, offset: u64, buf: AlignedBuf, token: Token) {
        let file = self.common.files.get(id).expect("there while it is written").clone();
        self.disk.put(WriteOp { id, file, token, offset, buf });
    }

    fn ring(&mut self, shard: ShardNo) {
        self.common.signals[usize::from(shard.0)].raise_and_kick(WOKEN);
    }
}

impl Drop for Portable {
    fn drop(&mut self) {
        // The locks of directories go after the last write to them.
        self.disk.end();
        self.common.helpers.end_jobs();
    }
}

impl fmt::Debug for Portable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Portable(shard {})", self.common.shard)
    }
}
