//! What a control thread needs of its runtime.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;

use socket2::Socket;

use crate::WorldError;

/// The sockets and files of one runtime, which runs the tasks of one thread and offers tokio's clock. Buffers are handed
/// over and given back, as a ring wants it; no future of a read is dropped before it has ended.
pub(crate) trait Net: Sized + 'static {
    type Runtime;
    type Listener;
    type Stream;
    type File;

    /// A runtime for the calling thread.
    fn runtime() -> Result<Self::Runtime, WorldError>;

    /// Runs `future`, and what it spawns, until `future` ends.
    fn block_on<T>(runtime: &Self::Runtime, future: impl Future<Output = T>) -> T;

    fn listener(listener: TcpListener) -> io::Result<Self::Listener>;

    async fn accept(listener: &Self::Listener) -> io::Result<Self::Stream>;

    /// A stream of a socket that is connecting: the first write waits until it is, or fails.
    fn connecting(socket: Socket) -> io::Result<Self::Stream>;

    /// A second descriptor of a stream; once the stream is dropped, a shard can use it.
    fn dup(stream: &Self::Stream) -> io::Result<OwnedFd>;

    /// Reads what has arrived, up to `buf.len()` bytes.
    async fn read(stream: &Self::Stream, buf: Vec<u8>) -> (io::Result<usize>, Vec<u8>);

    async fn write_all(stream: &Self::Stream, buf: Vec<u8>) -> (io::Result<()>, Vec<u8>);

    /// Opens a file for reading.
    async fn open(path: &Path) -> io::Result<Self::File>;

    /// Creates a file for writing; what was there is gone.
    async fn create(path: &Path) -> io::Result<Self::File>;

    /// Reads up to `buf.len()` bytes at `offset`; none at the end.
    async fn read_at(file: &Self::File, buf: Vec<u8>, offset: u64) -> (io::Result<usize>, Vec<u8>);

    /// Writes the first `len` bytes of `buf` at `offset`.
    async fn write_all_at(file: &Self::File, buf: Vec<u8>, len: usize, offset: u64) -> (io::Result<()>, Vec<u8>);

    /// Makes a written file durable, and closes it.
    async fn sync_and_close(file: Self::File) -> io::Result<()>;
}
