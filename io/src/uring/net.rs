//! The control thread's sockets and files, on `tokio-uring`.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;

use socket2::Socket;
use tokio_uring::Runtime;
use tokio_uring::buf::BoundedBuf;
use tokio_uring::fs::File;
use tokio_uring::net;

use super::explain::explain;
use super::probe::patiently;
use super::raw;
use crate::WorldError;
use crate::host::control::Net;

/// Entries of the control thread's ring.
pub(super) const ENTRIES: u32 = 256;

/// A runtime on a ring of its own.
pub(super) struct RingNet;

impl Net for RingNet {
    type Runtime = Runtime;
    type Listener = net::TcpListener;
    type Stream = net::TcpStream;
    type File = File;

    fn runtime() -> Result<Runtime, WorldError> {
        // Not with deferred task runs: this runtime waits by epoll on the ring, which would never become ready.
        patiently(|| Runtime::new(tokio_uring::builder().entries(ENTRIES))).map_err(explain)
    }

    fn block_on<T>(runtime: &Runtime, future: impl Future<Output = T>) -> T {
        runtime.block_on(future)
    }

    fn listener(listener: TcpListener) -> io::Result<net::TcpListener> {
        Ok(net::TcpListener::from_std(listener))
    }

    async fn accept(listener: &net::TcpListener) -> io::Result<net::TcpStream> {
        listener.accept().await.map(|(stream, _)| stream)
    }

    fn connecting(socket: Socket) -> io::Result<net::TcpStream> {
        // A ring gives up at once on sockets that must not block; on others it waits without a thread.
        socket.set_nonblocking(false)?;
        Ok(net::TcpStream::from_std(socket.into()))
    }

    fn dup(stream: &net::TcpStream) -> io::Result<OwnedFd> {
        raw::dup(stream)
    }

    async fn read(stream: &net::TcpStream, buf: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        let len = buf.len();
        let (result, slice) = stream.read(buf.slice(..len)).await;
        (result, slice.into_inner())
    }

    async fn write_all(stream: &net::TcpStream, buf: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        stream.write_all(buf).await
    }

    async fn open(path: &Path) -> io::Result<File> {
        File::open(path).await
    }

    async fn create(path: &Path) -> io::Result<File> {
        File::create(path).await
    }

    async fn read_at(file: &File, buf: Vec<u8>, offset: u64) -> (io::Result<usize>, Vec<u8>) {
        let len = buf.len();
        let (result, slice) = file.read_at(buf.slice(..len), offset).await;
        (result, slice.into_inner())
    }

    async fn write_all_at(file: &File, buf: Vec<u8>, len: usize, offset: u64) -> (io::Result<()>, Vec<u8>) {
        let (result, slice) = file.write_all_at(buf.slice(..len), offset).await;
        (result, slice.into_inner())
    }

    async fn sync_and_close(file: File) -> io::Result<()> {
        file.sync_all().await?;
        file.close().await
    }
}
