//! The operations of a shard, each with everything of ours that the kernel touches.

use io_uring::{opcode, squeue, types};

use crate::uring::send::SendOp;
use crate::uring::streams::Handle;
use crate::{AlignedBuf, FileId, StreamId, Token};

/// An operation in the kernel's hands, with everything of ours that it touches.
pub(super) enum Op {
    Receive(StreamId),
    Send(Box<SendOp>),
    Write(WriteOp),
    /// Waits for a kick from a plain thread; the kernel reads the event's count into the box.
    Event(#[expect(dead_code, reason = "held for the kernel, which alone looks at it")] Box<[u8; 8]>),
}

/// A durable write in flight.
pub(super) struct WriteOp {
    pub(super) file: FileId,
    pub(super) token: Token,
    pub(super) buf: AlignedBuf,
    pub(super) offset: u64,
    pub(super) done: usize,
}

impl WriteOp {
    /// The entry that writes what is left. It points into `self.buf`, whose memory does not move with `self`.
    pub(super) fn entry(&self, handle: Handle) -> squeue::Entry {
        let left = &self.buf[self.done..];
        // A longer write would come back short anyway.
        let len = u32::try_from(left.len()).unwrap_or(1 << 30);
        let offset = self.offset + u64::try_from(self.done).expect("a length in memory");
        let write = match handle {
            Handle::Fixed(n) => opcode::Write::new(types::Fixed(n), left.as_ptr(), len),
            Handle::Plain(fd) => opcode::Write::new(types::Fd(fd), left.as_ptr(), len),
        };
        write.offset(offset).rw_flags(libc::RWF_DSYNC).build()
    }
}
