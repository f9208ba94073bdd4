//! The streams of a shard, and the table by which the kernel finds their sockets and the files.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use io_uring::Submitter;

use crate::StreamId;
use crate::host::mail::Permit;
use crate::host::slots::{Key, Slots};

/// How an entry names a socket or file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Handle {
    /// By its place in the ring's table.
    Fixed(u32),
    /// By its descriptor: the table is full.
    Plain(RawFd),
}

/// The ring's table of open files.
pub(super) struct Table {
    free: Vec<u32>,
}

impl Table {
    /// A table of `size` places, or of none if the kernel does not give one.
    pub(super) fn new(submitter: &Submitter<'_>, size: u32) -> Table {
        let size = if size > 0 && submitter.register_files_sparse(size).is_ok() { size } else { 0 };
        Table { free: (0..size).rev().collect() }
    }

    /// A handle for `fd`, which must stay open until it is removed.
    pub(super) fn insert(&mut self, submitter: &Submitter<'_>, fd: &impl AsRawFd) -> Handle {
        let fd = fd.as_raw_fd();
        let Some(place) = self.free.pop() else { return Handle::Plain(fd) };
        if submitter.register_files_update(place, &[fd]).is_ok() {
            Handle::Fixed(place)
        } else {
            self.free.push(place);
            Handle::Plain(fd)
        }
    }

    /// Gives a place back. Operations in flight keep what stood there.
    pub(super) fn remove(&mut self, submitter: &Submitter<'_>, handle: Handle) {
        if let Handle::Fixed(place) = handle {
            // A place that cannot be emptied is not used again.
            if submitter.register_files_update(place, &[-1]).is_ok() {
                self.free.push(place);
            }
        }
    }
}

/// One stream.
pub(super) struct Stream {
    pub(super) fd: OwnedFd,
    pub(super) handle: Handle,
    /// The caller wants to receive.
    pub(super) wanted: bool,
    /// The receive in flight, if any.
    pub(super) receiving: Option<Key>,
    /// A cancel for it is under way.
    pub(super) cancelling: bool,
    /// It waits for buffers to come back.
    pub(super) starved: bool,
    /// The send in flight, if any.
    pub(super) sending: Option<Key>,
    /// Nothing more is said about it; it goes when nothing is in flight.
    pub(super) closing: bool,
    /// Its place among the accepted connections.
    pub(super) _permit: Option<Permit>,
}

/// The streams of a shard by id.
pub(super) struct Streams(Slots<Stream>);

impl Streams {
    pub(super) fn new() -> Streams {
        Streams(Slots::with_capacity(64))
    }

    pub(super) fn insert(&mut self, fd: OwnedFd, handle: Handle, permit: Option<Permit>) -> StreamId {
        let stream = Stream {
            fd,
            handle,
            wanted: false,
            receiving: None,
            cancelling: false,
            starved: false,
            sending: None,
            closing: false,
            _permit: permit,
        };
        StreamId(self.0.insert(stream).bits())
    }

    /// A stream that exists, closing or not.
    pub(super) fn get(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.0.get_mut(Key::from_bits(id.0))
    }

    /// A stream that is not closing.
    pub(super) fn open(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.get(id).filter(|stream| !stream.closing)
    }

    /// Takes a closing stream out if nothing is in flight on it.
    pub(super) fn release(&mut self, id: StreamId) -> Option<Stream> {
        let stream = self.get(id)?;
        if !stream.closing || stream.receiving.is_some() || stream.sending.is_some() {
            return None;
        }
        self.0.remove(Key::from_bits(id.0))
    }

    pub(super) fn ids(&self) -> Vec<StreamId> {
        self.0.keys().map(|key| StreamId(key.bits())).collect()
    }
}
