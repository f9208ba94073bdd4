//! A connection of the control thread: its head, and how long it may take.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::net::Net;
use crate::DialError;
use crate::head::{HEAD_MAX, head_len, status};
use crate::host::sys;

/// A socket of this thread. Reads and writes on it are never dropped half-way: when its time is up it is shut down, and
/// they end by themselves.
pub(crate) struct Connection<N: Net> {
    stream: N::Stream,
    /// A second descriptor: for looking at what has arrived, for shutting down, and to hand over in the end.
    fd: OwnedFd,
    end: Cell<Instant>,
    timed_out: Cell<bool>,
}

impl<N: Net> Connection<N> {
    /// A connection that may take `span`.
    pub(crate) fn new(stream: N::Stream, span: Duration) -> io::Result<Connection<N>> {
        let fd = N::dup(&stream)?;
        Ok(Connection { stream, fd, end: Cell::new(Instant::now() + span), timed_out: Cell::new(false) })
    }

    /// From now on it may take `span`.
    pub(crate) fn allow(&self, span: Duration) {
        self.end.set(Instant::now() + span);
    }

    /// The socket, for a shard.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// What to call an error of this connection.
    pub(crate) fn kind(&self, error: &io::Error) -> io::ErrorKind {
        if self.timed_out.get() { io::ErrorKind::TimedOut } else { error.kind() }
    }

    /// Waits for `work` on the socket, and shuts the socket down when its time is up.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut alarm = pin!(tokio::time::sleep_until(self.end.get()));
        poll_fn(|context| {
            if !self.timed_out.get() && alarm.as_mut().poll(context).is_ready() {
                self.timed_out.set(true);
                sys::shutdown(&self.fd);
            }
            work.as_mut().poll(context)
        })
        .await
    }

    pub(crate) async fn read(&self, buf: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        self.in_time(N::read(&self.stream, buf)).await
    }

    pub(crate) async fn write(&self, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        self.in_time(N::write_all(&self.stream, bytes)).await
    }

    pub(crate) async fn write_head(&self, head: &Bytes) -> io::Result<()> {
        self.write(head.to_vec()).await.0
    }

    /// Whether bytes have arrived that nobody has read.
    pub(crate) fn has_bytes(&self) -> bool {
        sys::recv_now(&self.fd, &mut [0], true).is_ok_and(|n| n > 0)
    }

    /// Reads exactly one head, not a byte more: what follows belongs to the stream's own protocol.
    ///
    /// The runtime waits for one byte, which belongs to the head while the head is incomplete. What has arrived behind
    /// it is looked at, and only the part up to the head's end is taken.
    pub(crate) async fn read_head(&self) -> Result<Vec<u8>, HeadError> {
        let mut head = Vec::new();
        let mut byte = vec![0];
        let mut behind = [0; HEAD_MAX];
        loop {
            let result;
            (result, byte) = self.read(byte).await;
            if result.map_err(HeadError::Io)? == 0 {
                return Err(HeadError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            let known = head.len();
            head.push(byte[0]);
            let room = HEAD_MAX - head.len();
            let n = sys::recv_now(&self.fd, &mut behind[..room], true).unwrap_or(0);
            head.extend_from_slice(&behind[..n]);
            // The end may have begun in what was known before.
            let from = known.saturating_sub(3);
            let end = head_len(&head[from..]).map(|len| from + len);
            head.truncate(end.unwrap_or(head.len()));
            let take = head.len() - known - 1;
            let mut taken = 0;
            while taken < take {
                taken += sys::recv_now(&self.fd, &mut behind[taken..take], false).map_err(HeadError::Io)?;
            }
            if end.is_some() {
                return Ok(head);
            }
            if head.len() == HEAD_MAX {
                return Err(HeadError::TooLong);
            }
        }
    }

    /// Reads a response head; one that does not say success is an error.
    pub(crate) async fn read_response(&self) -> Result<Bytes, DialError> {
        let head = match self.read_head().await {
            Ok(head) => Bytes::from(head),
            Err(HeadError::Io(error)) => return Err(DialError::Io(self.kind(&error))),
            Err(HeadError::TooLong) => return Err(DialError::Garbage),
        };
        match status(&head) {
            Some(200..300) => Ok(head),
            Some(_) => Err(DialError::Refused(head)),
            None => Err(DialError::Garbage),
        }
    }
}

/// Why there is no head.
pub(crate) enum HeadError {
    Io(io::Error),
    TooLong,
}

impl From<HeadError> for io::Error {
    fn from(error: HeadError) -> io::Error {
        match error {
            HeadError::Io(error) => error,
            HeadError::TooLong => io::ErrorKind::InvalidData.into(),
        }
    }
}
