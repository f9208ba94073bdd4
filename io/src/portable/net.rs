//! The control thread's sockets and files, on plain tokio: epoll, and a few threads for the files.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use socket2::Socket;
use tokio::net;
use tokio::runtime;
use tokio::task::{LocalSet, spawn_blocking};

use crate::WorldError;
use crate::host::control::Net;

/// Threads that may move pieces of files at a time.
const FILE_THREADS_MAX: usize = 4;

/// A runtime that waits by epoll.
pub(super) struct PollNet;

/// The tasks go before what they run on.
pub(super) struct Runtime {
    tasks: LocalSet,
    tokio: runtime::Runtime,
}

impl Net for PollNet {
    type Runtime = Runtime;
    type Listener = net::TcpListener;
    type Stream = net::TcpStream;
    type File = Arc<File>;

    fn runtime() -> Result<Runtime, WorldError> {
        let mut builder = runtime::Builder::new_current_thread();
        builder.enable_all().max_blocking_threads(FILE_THREADS_MAX).thread_name("ringraft-files");
        let tokio = builder.build();
        let tokio = tokio.map_err(|source| WorldError::Io { what: "start the control thread", source })?;
        Ok(Runtime { tasks: LocalSet::new(), tokio })
    }

    fn block_on<T>(runtime: &Runtime, future: impl Future<Output = T>) -> T {
        runtime.tokio.block_on(runtime.tasks.run_until(future))
    }

    fn listener(listener: TcpListener) -> io::Result<net::TcpListener> {
        listener.set_nonblocking(true)?;
        net::TcpListener::from_std(listener)
    }

    async fn accept(listener: &net::TcpListener) -> io::Result<net::TcpStream> {
        listener.accept().await.map(|(stream, _)| stream)
    }

    fn connecting(socket: Socket) -> io::Result<net::TcpStream> {
        net::TcpStream::from_std(socket.into())
    }

    fn dup(stream: &net::TcpStream) -> io::Result<OwnedFd> {
        stream.as_fd().try_clone_to_owned()
    }

    async fn read(stream: &net::TcpStream, mut buf: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        loop {
            let result = match stream.readable().await {
                Ok(()) => stream.try_read(&mut buf),
                Err(error) => Err(error),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return (result, buf),
            }
        }
    }

    async fn write_all(stream: &net::TcpStream, buf: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        let mut written = 0;
        while written < buf.len() {
            let result = match stream.writable().await {
                Ok(()) => stream.try_write(&buf[written..]),
                Err(error) => Err(error),
            };
            match result {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), buf),
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return (Err(error), buf),
            }
        }
        (Ok(()), buf)
    }

    async fn open(path: &Path) -> io::Result<Arc<File>> {
        let path = path.to_owned();
        blocking(move || File::open(path).map(Arc::new)).await
    }

    async fn create(path: &Path) -> io::Result<Arc<File>> {
        let path = path.to_owned();
        blocking(move || File::create(path).map(Arc::new)).await
    }

    async fn read_at(file: &Arc<File>, mut buf: Vec<u8>, offset: u64) -> (io::Result<usize>, Vec<u8>) {
        let file = file.clone();
        blocking(move || (file.read_at(&mut buf, offset), buf)).await
    }

    async fn write_all_at(file: &Arc<File>, buf: Vec<u8>, len: usize, offset: u64) -> (io::Result<()>, Vec<u8>) {
        let file = file.clone();
        blocking(move || (file.write_all_at(&buf[..len], offset), buf)).await
    }

    async fn sync_and_close(file: Arc<File>) -> io::Result<()> {
        blocking(move || file.sync_all()).await
    }
}

/// Runs plain calls on a thread of their own, for as long as they take.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(work).await.expect("calls on files do not panic")
}
