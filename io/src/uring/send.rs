//! One send: the buffers, and the vectors and header the kernel reads them by. Kept in a box that is used again.

use std::ptr;

use bytes::Bytes;
use io_uring::{opcode, squeue, types};

use super::streams::Handle;
use crate::{SEND_BUFS_MAX, StreamId};

/// How sends go: whole, and without a signal when the remote side is gone.
const FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// A send in flight. Its address must not change meanwhile, hence always in a box.
pub(super) struct SendOp {
    pub(super) stream: StreamId,
    pub(super) bufs: Vec<Bytes>,
    /// What is left to send lies in `vectors[first..]`.
    vectors: Vec<libc::iovec>,
    first: usize,
    header: libc::msghdr,
    pub(super) total: usize,
    left: usize,
}

impl SendOp {
    pub(super) fn new() -> Box<SendOp> {
        // SAFETY: a struct of integers and pointers; all zeros is an empty header.
        let header = unsafe { std::mem::zeroed() };
        let (stream, vectors) = (StreamId(u64::MAX), Vec::new());
        Box::new(SendOp { stream, bufs: Vec::new(), vectors, first: 0, header, total: 0, left: 0 })
    }

    /// Makes this the send of `bufs`.
    pub(super) fn fill(&mut self, stream: StreamId, bufs: Vec<Bytes>) {
        assert!(!bufs.is_empty() && bufs.len() <= SEND_BUFS_MAX, "a send of {} buffers", bufs.len());
        self.stream = stream;
        self.vectors.clear();
        self.vectors.extend(
            bufs.iter()
                .filter(|buf| !buf.is_empty())
                .map(|buf| libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() }),
        );
        self.first = 0;
        self.total = bufs.iter().map(Bytes::len).sum();
        self.left = self.total;
        self.bufs = bufs;
    }

    /// Counts `sent` bytes as gone; true if nothing is left.
    pub(super) fn advance(&mut self, sent: usize) -> bool {
        assert!(sent <= self.left, "sent {sent} of {} bytes", self.left);
        self.left -= sent;
        let mut skip = sent;
        while skip > 0 {
            let vector = &mut self.vectors[self.first];
            if skip < vector.iov_len {
                vector.iov_base = vector.iov_base.cast::<u8>().wrapping_add(skip).cast();
                vector.iov_len -= skip;
                break;
            }
            skip -= vector.iov_len;
            self.first += 1;
        }
        self.left == 0
    }

    /// The entry that sends what is left. It points into `self`.
    pub(super) fn entry(&mut self, handle: Handle) -> squeue::Entry {
        let vectors = &mut self.vectors[self.first..];
        self.header.msg_iov = vectors.as_mut_ptr();
        self.header.msg_iovlen = vectors.len();
        let header = ptr::from_ref(&self.header);
        let flags = FLAGS.cast_unsigned();
        match handle {
            Handle::Fixed(n) => opcode::SendMsg::new(types::Fixed(n), header).flags(flags).build(),
            Handle::Plain(fd) => opcode::SendMsg::new(types::Fd(fd), header).flags(flags).build(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advances_over_vectors() {
        let bufs = || vec![Bytes::from_static(b"abc"), Bytes::new(), Bytes::from_static(b"defg")];
        for cut in 0..=7 {
            let mut op = SendOp::new();
            op.fill(StreamId(1), bufs());
            assert_eq!(op.total, 7);
            let done = op.advance(cut);
            assert_eq!(done, cut == 7);
            let left: usize = op.vectors[op.first..].iter().map(|vector| vector.iov_len).sum();
            assert_eq!(left, 7 - cut, "cut at {cut}");
            assert!(op.advance(7 - cut));
        }
    }
}
