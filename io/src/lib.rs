//! The seam between ringraft and the outside world.
//!
//! Everything above this crate is deterministic given the [`Completion`]s it is handed. A shard owns one [`Io`], asks it
//! for things ([`Io::send`], [`Io::write`], ...) and once per turn calls [`Io::turn`], which gives everything asked for
//! to the world in one go, waits, and returns what has completed. Three worlds stand behind the trait: `uring` (the
//! kernel; one ring per thread), `portable` (the kernel without io_uring, for machines that forbid it) and `sim` (a
//! seeded, single-threaded world of disks, network and clock, with faults).
//!
//! Rules that hold in every world:
//!
//! * A buffer handed over belongs to the world until a completion gives it back. No borrow crosses a turn.
//! * Asking never fails and never blocks; the outcome is a completion. The start-up calls (marked *blocking*) are the
//!   exception: they are for opening a directory before the shard's loop begins, never for a running shard. A write asked
//!   for at that time may be waited for by calling [`Io::turn`] until it completes.
//! * At most one send is in flight per stream; asking for a second one is a bug and panics.
//! * A [`Completion::Written`] without error means that *all* bytes of that write survive a power cut.
//! * A [`StreamId`] is never reused within the life of a shard; after [`Completion::Closed`] or [`Io::close`] nothing
//!   more is said about it.
#![deny(unsafe_code)]

mod buf;
pub mod head;
mod host;
pub mod portable;
#[cfg(test)]
mod tests;
mod types;

#[cfg(feature = "sim")]
pub mod sim;
pub mod uring;
mod world;

use std::io;
use std::path::Path;

use bytes::Bytes;

pub use buf::{AlignedBuf, RecvBuf};
pub use host::config::{RefuseAll, WorldConfig};
pub use host::error::WorldError;
pub use host::signal::Waker;
pub use host::world::HostWorld;
pub use types::{
    Acceptor, CloseReason, Completion, Dial, DialError, Dialed, FileId, FileInfo, Job, JobOutput, ListenerKind,
    LockError, SendFile, ShardNo, StreamId, Time, Token, Verdict,
};
pub use world::{IoChoice, IoKind, Seed, Settled, World};

/// Alignment, in bytes, of memory, offsets and lengths of durable writes and unbuffered reads.
pub const BLOCK_ALIGN: usize = 4096;

/// Most buffers one [`Io::send`] may gather; the kernel's limit of vectors in one message.
pub const SEND_BUFS_MAX: usize = 1024;

/// What a shard may ask of the world. See the crate documentation for the rules.
pub trait Io {
    /// The monotonic time of this turn: read once per [`Io::turn`], constant in between.
    fn now(&self) -> Time;

    /// Hands everything asked for since the last turn to the world, waits until at least one completion is there or
    /// `wait_until` has passed (`None`: no deadline), and appends what has completed to `out`.
    ///
    /// `wait_until <= now()` polls without waiting. Spurious returns without completions are allowed.
    ///
    /// # Errors
    /// Only when the world itself is broken (the ring cannot be entered): the shard must stop.
    fn turn(&mut self, wait_until: Option<Time>, out: &mut Vec<Completion>) -> io::Result<()>;

    /// Sends all bytes of `bufs`, in order, as one operation. Completes with [`Completion::Sent`] or with
    /// [`Completion::Closed`]; the buffers are dropped by then.
    ///
    /// # Panics
    /// If a send on this stream is in flight, or `bufs` is empty or longer than [`SEND_BUFS_MAX`].
    fn send(&mut self, stream: StreamId, bufs: Vec<Bytes>);

    /// An empty vector for [`Io::send`], with the capacity of an earlier send where possible.
    fn send_bufs(&mut self) -> Vec<Bytes>;

    /// Starts (or resumes) receiving: every piece that arrives becomes a [`Completion::Received`].
    fn receive(&mut self, stream: StreamId);

    /// Stops receiving until [`Io::receive`] is called again: back-pressure. Pieces already taken from the socket may
    /// still be handed out after this call.
    fn pause(&mut self, stream: StreamId);

    /// Closes a stream. What is in flight on it ends inside the world; no further completion names it.
    fn close(&mut self, stream: StreamId);

    /// Connects to a remote listener and exchanges handshake heads ([`head`]). Completes with [`Completion::Dialed`].
    fn dial(&mut self, dial: Dial);

    /// Streams a file to a remote listener over a connection of its own. Completes with [`Completion::FileSent`].
    fn send_file(&mut self, send: SendFile);

    /// Writes all of `buf` at `offset` so that it survives a power cut. Completes with [`Completion::Written`].
    /// `offset` and `buf.len()` are multiples of [`BLOCK_ALIGN`]; writes in flight on one file must not overlap.
    fn write(&mut self, file: FileId, offset: u64, buf: AlignedBuf, token: Token);

    /// Gives slow file work (creating, renaming, removing) to a helper. Jobs of one shard run in the order given.
    /// Completes with [`Completion::JobDone`].
    fn job(&mut self, job: Job, token: Token);

    /// Wakes another shard of this process: it gets a [`Completion::Woken`]. Wakes may be merged.
    fn wake(&mut self, shard: ShardNo);

    // ---- blocking: before the first turn only ----

    /// *Blocking.* Creates `dir` if it is missing and takes its lock for the life of this process (shards of one
    /// process may each lock their own directory).
    ///
    /// # Errors
    /// [`LockError::Held`] names the process that holds it.
    fn lock_dir(&mut self, dir: &Path) -> Result<(), LockError>;

    /// *Blocking.* The files of `dir`, sorted by name; none if the directory does not exist.
    ///
    /// # Errors
    /// What the file system says.
    fn list(&mut self, dir: &Path) -> io::Result<Vec<FileInfo>>;

    /// *Blocking.* Opens an existing file for unbuffered reads and durable writes.
    ///
    /// # Errors
    /// What the file system says.
    fn open(&mut self, path: &Path) -> io::Result<FileId>;

    /// *Blocking.* Creates `path` with `size` bytes, all written as zeros and synced together with its directory, and
    /// opens it like [`Io::open`]. The running shard uses [`Job::CreateZeroed`].
    ///
    /// # Errors
    /// What the file system says; nothing is left behind under `path`.
    fn create_zeroed(&mut self, path: &Path, size: u64) -> io::Result<FileId>;

    /// *Blocking.* Reads `len` bytes at `offset` past the page cache; both are multiples of [`BLOCK_ALIGN`]. A read beyond the end is
    /// an error.
    ///
    /// # Errors
    /// What the file system says.
    fn read(&mut self, file: FileId, offset: u64, len: usize) -> io::Result<AlignedBuf>;

    /// Maps the whole of a file that nobody writes any more (a sealed segment) for reading. Cheap; may be called on a
    /// running shard. The mapping ends when the last clone of the `Bytes` is dropped.
    ///
    /// # Errors
    /// What the file system says.
    fn map(&mut self, file: FileId) -> io::Result<Bytes>;

    /// *Blocking.* Reads a whole small file.
    ///
    /// # Errors
    /// What the file system says.
    fn read_file(&mut self, path: &Path) -> io::Result<Bytes>;

    /// *Blocking.* Replaces a small file atomically and durably (write aside, sync, rename, sync the directory),
    /// creating parent directories.
    ///
    /// # Errors
    /// What the file system says.
    fn write_file(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()>;
}
