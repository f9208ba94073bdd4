//! The thread that does a shard's durable writes: one at a time, in the order asked, whole or not at all.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::host::files;
use crate::host::signal::{Signal, WRITTEN};
use crate::{AlignedBuf, FileId, ShardNo, Token};

/// Writes in the thread's hands at most; further ones wait with the shard.
const QUEUE_MAX: usize = 64;

/// A durable write.
pub(super) struct WriteOp {
    pub(super) id: FileId,
    /// Opened so that a write that returns is durable (`O_DSYNC`).
    pub(super) file: Arc<File>,
    pub(super) token: Token,
    pub(super) offset: u64,
    pub(super) buf: AlignedBuf,
}

/// A write that has ended.
pub(super) struct Written {
    pub(super) id: FileId,
    pub(super) token: Token,
    pub(super) buf: AlignedBuf,
    pub(super) result: io::Result<()>,
}

/// The thread, and what it was given.
pub(super) struct Disk {
    queue: Option<SyncSender<WriteOp>>,
    written: Receiver<Written>,
    /// Writes in the thread's hands; never more than [`QUEUE_MAX`], so neither end ever waits for room.
    busy: usize,
    waiting: VecDeque<WriteOp>,
    thread: Option<JoinHandle<()>>,
}

impl Disk {
    /// Starts the thread of `shard`, which raises the shard's signal whenever a write has ended.
    pub(super) fn start(shard: ShardNo, signals: Arc<[Signal]>) -> io::Result<Disk> {
        let (queue, ops) = sync_channel::<WriteOp>(QUEUE_MAX);
        let (sender, written) = sync_channel(QUEUE_MAX);
        let body = move || {
            for WriteOp { id, file, token, offset, buf } in ops {
                let result = write(&buf, offset, |bytes, at| file.write_at(bytes, at));
                // The shard may close the file as soon as it hears of this.
                drop(file);
                if sender.send(Written { id, token, buf, result }).is_err() {
                    return;
                }
                signals[usize::from(shard.0)].raise_and_kick(WRITTEN);
            }
        };
        let thread = std::thread::Builder::new().name(format!("ringraft-sync-{shard}")).spawn(body)?;
        Ok(Disk { queue: Some(queue), written, busy: 0, waiting: VecDeque::new(), thread: Some(thread) })
    }

    /// Asks for a write.
    pub(super) fn put(&mut self, op: WriteOp) {
        self.waiting.push_back(op);
        self.fill();
    }

    fn fill(&mut self) {
        while self.busy < QUEUE_MAX
            && let Some(op) = self.waiting.pop_front()
        {
            let queue = self.queue.as_ref().expect("there until dropped");
            // The thread writes until the queue is gone, and takes one after the other: there is room.
            assert!(queue.try_send(op).is_ok(), "the thread for durable writes has ended");
            self.busy += 1;
        }
    }

    /// The next write that has ended.
    pub(super) fn next(&mut self) -> Option<Written> {
        let written = self.written.try_recv().ok()?;
        self.busy -= 1;
        self.fill();
        Some(written)
    }

    /// Waits for the writes in the thread's hands, gives up those behind them, and ends the thread.
    pub(super) fn end(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// Writes asked for that have not ended.
    #[cfg(test)]
    pub(super) fn in_flight(&self) -> usize {
        self.busy + self.waiting.len()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.end();
    }
}

/// Writes all of `buf` at `offset` by calls of `write`, going on after a short one and never after an error: the kernel
/// may have dropped what it could not write, and would say at the next try that all is well.
fn write(buf: &[u8], offset: u64, mut write: impl FnMut(&[u8], u64) -> io::Result<usize>) -> io::Result<()> {
    let mut left = buf.len();
    while left > 0 {
        let done = buf.len() - left;
        let at = offset + u64::try_from(done).expect("a length in memory");
        left = files::left_after_write(left, write(&buf[done..], at)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_writes_go_on_and_errors_end() {
        use io::ErrorKind::{Interrupted, StorageFull, WriteZero};
        // What each call gives; what was asked of it; the outcome.
        type Case<'a> = (&'a [Result<usize, io::ErrorKind>], &'a [(u64, usize)], Result<(), io::ErrorKind>);
        let cases: [Case<'_>; 6] = [
            (&[Ok(12288)], &[(4096, 12288)], Ok(())),
            (&[Ok(4096), Ok(8192)], &[(4096, 12288), (8192, 8192)], Ok(())),
            (&[Ok(5000), Ok(4096), Ok(4096)], &[(4096, 12288), (8192, 8192), (12288, 4096)], Ok(())),
            (&[Ok(512)], &[(4096, 12288)], Err(WriteZero)),
            (&[Ok(4096), Err(StorageFull)], &[(4096, 12288), (8192, 8192)], Err(StorageFull)),
            (&[Err(Interrupted)], &[(4096, 12288)], Err(Interrupted)),
        ];
        for (gives, asked, want) in cases {
            let mut gives = gives.iter();
            let mut calls = Vec::new();
            let result = write(&[0; 12288], 4096, |bytes, at| {
                calls.push((at, bytes.len()));
                gives.next().expect("no call too many").map_err(io::Error::from)
            });
            assert_eq!(result.map_err(|error| error.kind()), want);
            assert_eq!(calls, asked);
            assert!(gives.next().is_none(), "no call too few");
        }
    }
}
