//! The streams of a shard: what each waits for, and what is moved when it can be.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

use crate::host::mail::Permit;
use crate::host::slots::{Key, Slots};
use crate::portable::poller::{Change, Poller};
use crate::portable::pool::Pool;
use crate::portable::sending::{SLICES, Sending};
use crate::{CloseReason, Completion, StreamId};

/// Calls to receive in one turn at most, so that wakes and writes are not kept waiting.
const RECEIVES_PER_TURN_MAX: usize = 64;
/// Calls to send for one stream in one turn at most.
const SENDS_PER_TURN_MAX: usize = 32;
/// Spare vectors of buffers kept for the next send.
const SPARE_MAX: usize = 256;

/// One stream.
struct Stream {
    fd: OwnedFd,
    /// The caller wants to receive.
    wanted: bool,
    /// There may be something to receive: no call has said that there is not, since the kernel said that there is.
    readable: bool,
    /// It stands in `to_receive`.
    in_receive_queue: bool,
    /// The end is in sight, so that receiving goes on until a call tells it.
    ended: bool,
    /// The socket may take bytes.
    writable: bool,
    sending: Option<Sending>,
    /// It stands in `to_send`.
    in_send_queue: bool,
    /// Its place among the accepted connections.
    _permit: Option<Permit>,
}

/// The streams of a shard by id.
pub(super) struct Streams {
    streams: Slots<Stream>,
    /// Streams that may have something to receive and want it; some may be gone, or not want it any more.
    to_receive: VecDeque<StreamId>,
    /// Streams that have something to send and may do so; some may be gone.
    to_send: VecDeque<StreamId>,
    pool: Pool,
    spare_bufs: Vec<Vec<Bytes>>,
}

impl Streams {
    pub(super) fn new(recv_buffers: u16, recv_buffer_size: usize) -> Streams {
        Streams {
            streams: Slots::with_capacity(64),
            to_receive: VecDeque::new(),
            to_send: VecDeque::new(),
            pool: Pool::new(recv_buffers, recv_buffer_size),
            spare_bufs: Vec::new(),
        }
    }

    fn get(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.streams.get_mut(Key::from_bits(id.0))
    }

    #[cfg(test)]
    pub(super) fn in_flight(&self) -> usize {
        let streams = self.streams.keys().map(|key| self.streams.get(key).expect("listed"));
        streams.map(|stream| usize::from(stream.wanted) + usize::from(stream.sending.is_some())).sum()
    }

    #[cfg(test)]
    pub(super) fn socket(&self, id: StreamId) -> &OwnedFd {
        &self.streams.get(Key::from_bits(id.0)).expect("the stream exists").fd
    }

    /// A new stream; an error if it cannot be watched, and then it is gone already.
    pub(super) fn insert(
        &mut self,
        fd: OwnedFd,
        permit: Option<Permit>,
        poller: &Poller,
    ) -> (StreamId, io::Result<()>) {
        let stream = Stream {
            fd,
            wanted: false,
            readable: false,
            in_receive_queue: false,
            ended: false,
            writable: true,
            sending: None,
            in_send_queue: false,
            _permit: permit,
        };
        let key = self.streams.insert(stream);
        let watched = poller.add_socket(&self.streams.get_mut(key).expect("just inserted").fd, key.bits());
        if watched.is_err() {
            self.streams.remove(key);
        }
        (StreamId(key.bits()), watched)
    }

    /// What has become of a socket.
    pub(super) fn note(&mut self, change: Change) {
        let id = StreamId(change.key);
        let Some(stream) = self.get(id) else { return };
        stream.readable |= change.readable;
        stream.writable |= change.writable;
        stream.ended |= change.ended;
        self.queue(id);
    }

    /// Queues a stream for what it wants and may do.
    fn queue(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(Key::from_bits(id.0)) else { return };
        if stream.wanted && stream.readable && !stream.in_receive_queue {
            stream.in_receive_queue = true;
            self.to_receive.push_back(id);
        }
        if stream.sending.is_some() && stream.writable && !stream.in_send_queue {
            stream.in_send_queue = true;
            self.to_send.push_back(id);
        }
    }

    /// Whether something can be moved without waiting. Without buffers nothing can be received: they come back between
    /// turns.
    pub(super) fn has_work(&self) -> bool {
        !self.to_send.is_empty() || !self.to_receive.is_empty() && !self.pool.is_empty()
    }

    /// Asks for a send; its completion if there is nothing to do.
    pub(super) fn send(&mut self, id: StreamId, sending: Sending) -> Option<Completion> {
        let Some(stream) = self.get(id) else {
            self.recycle(sending);
            return None;
        };
        assert!(stream.sending.is_none(), "a send is in flight on {id:?}");
        if sending.is_done() {
            self.recycle(sending);
            return Some(Completion::Sent { stream: id, bytes: 0 });
        }
        stream.sending = Some(sending);
        self.queue(id);
        None
    }

    pub(super) fn want(&mut self, id: StreamId, wanted: bool) {
        if let Some(stream) = self.get(id) {
            stream.wanted = wanted;
            self.queue(id);
        }
    }

    pub(super) fn close(&mut self, id: StreamId, poller: &Poller) {
        if let Some(stream) = self.streams.remove(Key::from_bits(id.0)) {
            // Another descriptor of it may live on for a moment.
            poller.remove(&stream.fd);
            if let Some(sending) = stream.sending {
                self.recycle(sending);
            }
        }
    }

    /// The stream has ended by itself.
    fn end(&mut self, id: StreamId, reason: CloseReason, poller: &Poller, out: &mut Vec<Completion>) {
        self.close(id, poller);
        out.push(Completion::Closed { stream: id, reason });
    }

    /// An empty vector for a send.
    pub(super) fn spare_bufs(&mut self) -> Vec<Bytes> {
        self.spare_bufs.pop().unwrap_or_default()
    }

    fn recycle(&mut self, sending: Sending) {
        let mut bufs = sending.into_bufs();
        bufs.clear();
        if self.spare_bufs.len() < SPARE_MAX {
            self.spare_bufs.push(bufs);
        }
    }

    /// Sends what can be sent.
    pub(super) fn send_all(&mut self, poller: &Poller, out: &mut Vec<Completion>) {
        for _ in 0..self.to_send.len() {
            let Some(id) = self.to_send.pop_front() else { return };
            let Some(stream) = self.get(id) else { continue };
            stream.in_send_queue = false;
            let Some(sending) = &mut stream.sending else { continue };
            match send(&stream.fd, sending) {
                Ok(Progress::Done) => {
                    let sending = stream.sending.take().expect("just looked at");
                    out.push(Completion::Sent { stream: id, bytes: sending.total() });
                    self.recycle(sending);
                }
                Ok(Progress::Blocked) => stream.writable = false,
                Ok(Progress::More) => self.queue(id),
                Err(error) => self.end(id, CloseReason::Error(error.kind()), poller, out),
            }
        }
    }

    /// Receives what has arrived, one buffer of each stream in turn.
    pub(super) fn receive_all(&mut self, poller: &Poller, out: &mut Vec<Completion>) {
        for _ in 0..RECEIVES_PER_TURN_MAX {
            let Some(id) = self.to_receive.pop_front() else { return };
            let Some(stream) = self.streams.get_mut(Key::from_bits(id.0)) else { continue };
            stream.in_receive_queue = false;
            if !stream.wanted {
                continue;
            }
            let Some(mut memory) = self.pool.take() else {
                stream.in_receive_queue = true;
                return self.to_receive.push_front(id);
            };
            match rustix::net::recv(&stream.fd, &mut memory[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => {
                    self.pool.give_back(memory);
                    self.end(id, CloseReason::Eof, poller, out);
                }
                Ok((len, _)) => {
                    // Less than there was room for: that was all, and the kernel will tell when there is more. Not so
                    // at the end, which it has told already.
                    stream.readable = len == memory.len() || stream.ended;
                    out.push(Completion::Received { stream: id, data: self.pool.lend(memory, len) });
                    self.queue(id);
                }
                Err(error) => {
                    self.pool.give_back(memory);
                    match error {
                        Errno::AGAIN => stream.readable = false,
                        Errno::INTR => self.queue(id),
                        error => {
                            let kind = io::Error::from(error).kind();
                            self.end(id, CloseReason::Error(kind), poller, out);
                        }
                    }
                }
            }
        }
    }
}

/// How far a send has come.
enum Progress {
    Done,
    /// The socket takes no more.
    Blocked,
    /// Enough for this turn.
    More,
}

/// Gives the socket what it takes.
fn send(fd: &OwnedFd, sending: &mut Sending) -> io::Result<Progress> {
    for _ in 0..SENDS_PER_TURN_MAX {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let (count, bytes, more) = sending.next(&mut slices);
        let mut flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        if more {
            // The rest follows at once: no short packet in between.
            flags |= SendFlags::MORE;
        }
        let sent = match rustix::net::sendmsg(fd, &slices[..count], &mut SendAncillaryBuffer::default(), flags) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => sent,
            Err(Errno::AGAIN) => return Ok(Progress::Blocked),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        sending.advance(sent);
        if sending.is_done() {
            return Ok(Progress::Done);
        }
        if sent < bytes {
            return Ok(Progress::Blocked);
        }
    }
    Ok(Progress::More)
}
