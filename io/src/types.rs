//! The plain data that crosses the seam.

use std::fmt;
use std::io;
use std::ops::Add;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use crate::{AlignedBuf, RecvBuf};

/// Nanoseconds on the world's monotonic clock; its zero means nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(pub u64);

impl Time {
    /// The time that has passed since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, rhs: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// One connected byte stream of a shard. Never reused within the life of the shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub u64);

/// One open file of a shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId(pub u32);

/// A shard's number within its process, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ShardNo(pub u16);

impl fmt::Display for ShardNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The asker's own mark on an operation, given back in its completion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

/// A file found by [`Io::list`](crate::Io::list).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileInfo {
    /// Full path.
    pub path: PathBuf,
    /// Size in bytes.
    pub size: u64,
}

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{dir} is in use by process {pid}; stop that process or choose another directory", dir = dir.display())]
    Held {
        /// The directory.
        dir: PathBuf,
        /// The holder, as it wrote itself into the lock file (0: unknown).
        pid: u32,
    },
    /// The lock file could not be made or locked.
    #[error("cannot lock {dir}: {source}", dir = dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
}

/// What has completed.
#[derive(Debug)]
pub enum Completion {
    /// Bytes arrived on a stream, in order. Never empty.
    Received {
        /// The stream.
        stream: StreamId,
        /// The bytes; dropping them frees the receive buffer.
        data: RecvBuf,
    },
    /// All bytes of a send were taken by the network. (Not: received.)
    Sent {
        /// The stream.
        stream: StreamId,
        /// How many bytes it was.
        bytes: usize,
    },
    /// The stream has ended; nothing more is said about it, and nothing may be asked of it.
    Closed {
        /// The stream.
        stream: StreamId,
        /// Why.
        reason: CloseReason,
    },
    /// A remote side connected and its request was judged [`Verdict::Stream`] for this shard.
    Accepted {
        /// The new stream; call [`Io::receive`](crate::Io::receive) to hear from it.
        stream: StreamId,
        /// What the acceptor made of the request.
        greeting: Bytes,
    },
    /// A [`Dial`] ended.
    Dialed {
        /// The dial's token.
        token: Token,
        /// The stream and the response, or why there is none.
        result: Result<Dialed, DialError>,
    },
    /// A durable write ended. Without error, every byte is on stable storage. With an error, none may be
    /// trusted, and the file must not be written again.
    Written {
        /// The file.
        file: FileId,
        /// The write's token.
        token: Token,
        /// The buffer, given back.
        buf: AlignedBuf,
        /// The outcome. A short write that could not be completed is an error.
        result: io::Result<()>,
    },
    /// A [`Job`] ended.
    JobDone {
        /// The job's token.
        token: Token,
        /// The outcome.
        result: io::Result<JobOutput>,
    },
    /// A [`SendFile`] ended.
    FileSent {
        /// The send's token.
        token: Token,
        /// Whether the remote side has confirmed that it holds the whole file.
        result: Result<(), DialError>,
    },
    /// A file was received whole ([`Verdict::File`]) and synced; its content is unverified.
    FileReceived {
        /// What the acceptor made of the request.
        greeting: Bytes,
        /// Where it was put.
        path: PathBuf,
    },
    /// Another shard called [`Io::wake`](crate::Io::wake).
    Woken,
}

/// Why a stream ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// The remote side closed it.
    Eof,
    /// The connection failed.
    Error(io::ErrorKind),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Eof => f.write_str("closed by the remote side"),
            CloseReason::Error(kind) => kind.fmt(f),
        }
    }
}

/// A request to connect.
#[derive(Clone, Debug)]
pub struct Dial {
    /// Given back in the completion.
    pub token: Token,
    /// `host:port`.
    pub address: String,
    /// The whole request head, see [`head`](crate::head).
    pub request: Bytes,
    /// For connect and handshake together.
    pub timeout: Duration,
}

/// A connection made.
#[derive(Debug)]
pub struct Dialed {
    /// The new stream; call [`Io::receive`](crate::Io::receive) to hear from it.
    pub stream: StreamId,
    /// The whole response head.
    pub response: Bytes,
}

/// A request to stream a file over a connection of its own.
#[derive(Clone, Debug)]
pub struct SendFile {
    /// Given back in the completion.
    pub token: Token,
    /// `host:port`.
    pub address: String,
    /// The whole request head; it must tell the receiver the file's length.
    pub request: Bytes,
    /// The file.
    pub path: PathBuf,
    /// How long the transfer may go without any progress.
    pub timeout: Duration,
}

/// Why a connection could not be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody there, no route, reset, timed out.
    #[error("{0}")]
    Io(io::ErrorKind),
    /// The remote side answered the handshake with a refusal: its whole response head.
    #[error("refused: {}", String::from_utf8_lossy(.0).lines().next().unwrap_or_default())]
    Refused(Bytes),
    /// What came back is not a response head, or larger than a head may be.
    #[error("the remote side does not speak this protocol")]
    Garbage,
}

/// Slow file work for the helper of a shard.
#[derive(Clone, Debug)]
pub enum Job {
    /// Create, write zeros, sync file and directory, open. Gives [`JobOutput::Opened`]. On error nothing is left
    /// under `path`.
    CreateZeroed {
        /// Where.
        path: PathBuf,
        /// How long; a multiple of [`BLOCK_ALIGN`](crate::BLOCK_ALIGN).
        size: u64,
    },
    /// Write `bytes` at `offset` of a file that is being built aside, creating it (with its directories) at offset 0.
    /// Not durable before [`Job::Commit`].
    WriteAside {
        /// The file aside.
        path: PathBuf,
        /// Where the bytes go; the end of the file so far.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// Sync `from`, rename it to `to` (replacing it), sync the directory.
    Commit {
        /// The file aside.
        from: PathBuf,
        /// Its name from now on.
        to: PathBuf,
    },
    /// Remove a file; fine if it is gone already.
    Remove {
        /// Which.
        path: PathBuf,
    },
    /// Read a whole file. Gives [`JobOutput::Loaded`].
    Load {
        /// Which.
        path: PathBuf,
    },
    /// Drop what the page cache holds of a file, so that durable writes to it stay direct.
    DropCache {
        /// Which.
        file: FileId,
    },
}

/// What a [`Job`] gives.
#[derive(Debug)]
pub enum JobOutput {
    /// Done.
    Done,
    /// Done, and this file is open.
    Opened(FileId),
    /// Done, and this is the content.
    Loaded(Bytes),
}

/// Which of a process's doors a connection came through.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ListenerKind {
    /// Peers: streams and files of other nodes.
    Peer,
    /// Clients.
    Client,
}

/// Judges incoming connections by their request head. Called off the shards, so it holds no shard state.
pub trait Acceptor: Send + Sync {
    /// What to do with a connection whose request head ([`head`](crate::head)) is `request`.
    fn judge(&self, listener: ListenerKind, request: &[u8]) -> Verdict;
}

/// What becomes of an incoming connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Answer with `response` and hand the stream to a shard.
    Stream {
        /// Whose it is.
        shard: ShardNo,
        /// The whole response head.
        response: Bytes,
        /// Passed on in [`Completion::Accepted`].
        greeting: Bytes,
    },
    /// Answer with `response`, receive exactly `size` bytes into `path` (removed again on failure), sync, answer with
    /// `done`, and tell a shard.
    File {
        /// Whose it is.
        shard: ShardNo,
        /// The whole response head that invites the bytes.
        response: Bytes,
        /// The whole response head that confirms them.
        done: Bytes,
        /// Passed on in [`Completion::FileReceived`].
        greeting: Bytes,
        /// Where to put them; directories are created.
        path: PathBuf,
        /// How many bytes follow.
        size: u64,
    },
    /// Answer with `response` and close.
    Refuse {
        /// The whole response head (and a body, if any).
        response: Bytes,
    },
}
