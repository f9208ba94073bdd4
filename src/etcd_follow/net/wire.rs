//! One connection, by heads, bodies and pieces; and the list of all of them, so that they can be ended.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ringraft_io::head::{HEAD_MAX, head_len};
use ringraft_transport::etcd::WireError;
use ringraft_transport::etcd::chunks::ChunkReader;
use ringraft_transport::etcd::http::Body;

/// What is read from a socket at once.
const PIECE: usize = 64 * 1024;

/// A connection, and what has arrived on it that nobody has looked at.
pub(super) struct Wire {
    stream: TcpStream,
    input: BytesMut,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, timeout: Duration) -> io::Result<Wire> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Wire { stream, input: BytesMut::new() })
    }

    /// Connects to `host:port`, trying each address of the name.
    pub(super) fn connect(address: &str, connect: Duration, timeout: Duration) -> io::Result<Wire> {
        let mut failed = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
        for target in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&target, connect) {
                Ok(stream) => return Wire::new(stream, timeout),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Waits for more to arrive; false at the end of the connection.
    fn fill(&mut self) -> io::Result<bool> {
        let len = self.input.len();
        self.input.resize(len + PIECE, 0);
        let read = self.stream.read(&mut self.input[len..]);
        self.input.truncate(len + read.as_ref().copied().unwrap_or(0));
        match read {
            Ok(size) => Ok(size > 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            // So does Linux call a timeout.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "nothing came in time"))
            }
            Err(error) => Err(error),
        }
    }

    /// The next piece, all that is there; nothing at the end of the connection.
    pub(super) fn piece(&mut self) -> io::Result<BytesMut> {
        if self.input.is_empty() {
            self.fill()?;
        }
        Ok(self.input.split())
    }

    /// The next head; nothing if the connection ended before it.
    pub(super) fn head(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(len) = head_len(&self.input) {
                return Ok(Some(self.input.split_to(len).freeze()));
            }
            if self.input.len() > HEAD_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a head without end"));
            }
            if !self.fill()? {
                return if self.input.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// A whole body.
    pub(super) fn body(&mut self, body: Body, max: usize) -> io::Result<Bytes> {
        let too_long = || io::Error::new(io::ErrorKind::InvalidData, "a body beyond all bounds");
        let mut out = BytesMut::new();
        match body {
            Body::Length(len) => {
                let len = usize::try_from(len).ok().filter(|len| *len <= max).ok_or_else(too_long)?;
                while self.input.len() < len {
                    if !self.fill()? {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                out = self.input.split_to(len);
            }
            Body::Chunks => self.chunks(|piece| {
                out.extend_from_slice(piece);
                if out.len() > max { Err(too_long()) } else { Ok(()) }
            })?,
            Body::ToEnd => {
                while self.fill()? {
                    if self.input.len() > max {
                        return Err(too_long());
                    }
                }
                out = self.input.split();
            }
        }
        Ok(out.freeze())
    }

    /// A body in chunks, as it falls.
    pub(super) fn chunks(&mut self, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let (mut reader, mut out) = (ChunkReader::default(), BytesMut::new());
        loop {
            let piece = self.input.split();
            let taken = reader.push(&piece, &mut out).map_err(invalid)?;
            self.input.extend_from_slice(&piece[taken..]);
            if !out.is_empty() {
                each(&out)?;
                out.clear();
            }
            if reader.is_done() {
                return Ok(());
            }
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

pub(super) fn invalid(error: WireError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// All connections, by number.
#[derive(Default)]
pub(super) struct Connections(Mutex<List>);

#[derive(Default)]
struct List {
    open: HashMap<u64, TcpStream>,
    next: u64,
    closed: bool,
}

/// A place in the list, until it is dropped.
pub(super) struct Listed<'a> {
    connections: &'a Connections,
    number: u64,
}

impl Connections {
    fn list(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists a connection; an error once all are to end, or there are too many.
    pub(super) fn enter(&self, wire: &Wire, max: usize) -> io::Result<Listed<'_>> {
        let stream = wire.stream().try_clone()?;
        let mut list = self.list();
        if list.closed || list.open.len() >= max {
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "no more connections are taken"));
        }
        let number = list.next;
        list.next += 1;
        list.open.insert(number, stream);
        Ok(Listed { connections: self, number })
    }

    /// Ends all connections, and those to come.
    pub(super) fn close(&self) {
        let mut list = self.list();
        list.closed = true;
        for stream in list.open.values() {
            // Whoever reads or writes it sees that it has ended; if it has already, all the better.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.connections.list().open.remove(&self.number);
    }
}
