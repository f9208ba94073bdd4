//! Client connections of one shard: frames in, replies out, one send in flight per connection.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use ringraft_io::{Io, StreamId};

use crate::protocol::{self, Decoder, REQUEST_BODY_MAX};

/// All client connections of a shard.
pub(crate) struct Clients {
    connections: HashMap<StreamId, Connection>,
    dirty: Vec<StreamId>,
    requests_max: usize,
}

struct Connection {
    decoder: Option<Decoder>,
    out: BytesMut,
    sending: bool,
    dirty: bool,
    paused: bool,
    outstanding: usize,
}

/// Bytes of replies that may wait for a client that does not read, before it is not read from either, and its reads are
/// refused.
const UNSENT_MAX: usize = 8 << 20;

/// Memory a connection keeps for replies.
const OUT_SIZE: usize = 16 << 10;

/// What became of received bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fed {
    /// All frames were taken.
    All,
    /// The bytes are not frames: the connection must end.
    Garbage,
}

/// The receiving half of a connection, taken out while its requests are carried out.
pub(crate) struct Inbox(Decoder);

impl Inbox {
    /// Calls `request` with id and free part of every whole frame.
    pub(crate) fn feed(&mut self, mut piece: &[u8], mut request: impl FnMut(u64, &[u8])) -> Fed {
        loop {
            match self.0.next(&mut piece) {
                Ok(Some(frame)) => request(frame.id(), frame.free()),
                Ok(None) => return Fed::All,
                Err(_) => return Fed::Garbage,
            }
        }
    }
}

impl Clients {
    /// No connections; each may have `requests_max` unanswered requests before it is not read any more.
    pub(crate) fn new(requests_max: usize) -> Clients {
        Clients { connections: HashMap::new(), dirty: Vec::new(), requests_max }
    }

    pub(crate) fn accept<I: Io>(&mut self, io: &mut I, stream: StreamId) {
        let connection = Connection {
            decoder: Some(Decoder::new(REQUEST_BODY_MAX)),
            out: BytesMut::with_capacity(OUT_SIZE),
            sending: false,
            dirty: false,
            paused: false,
            outstanding: 0,
        };
        self.connections.insert(stream, connection);
        io.receive(stream);
    }

    pub(crate) fn take_inbox(&mut self, stream: StreamId) -> Option<Inbox> {
        self.connections.get_mut(&stream)?.decoder.take().map(Inbox)
    }

    pub(crate) fn put_inbox<I: Io>(&mut self, io: &mut I, stream: StreamId, inbox: Inbox, fed: Fed) {
        let Some(connection) = self.connections.get_mut(&stream) else { return };
        connection.decoder = Some(inbox.0);
        if fed == Fed::Garbage {
            // What was answered so far is lost with the connection: the client sees it end.
            self.connections.remove(&stream);
            io.close(stream);
        } else if !connection.paused && connection.is_full(self.requests_max) {
            connection.paused = true;
            io.pause(stream);
        }
    }

    pub(crate) fn count_request(&mut self, stream: StreamId) {
        if let Some(connection) = self.connections.get_mut(&stream) {
            connection.outstanding += 1;
        }
    }

    /// Whether a client has not read so much that big answers must be refused.
    pub(crate) fn is_backed_up(&self, stream: StreamId) -> bool {
        self.connections.get(&stream).is_some_and(|connection| connection.out.len() >= UNSENT_MAX)
    }

    /// Queues the reply to request `id`; lost if the connection is gone.
    pub(crate) fn reply(&mut self, stream: StreamId, id: u64, answer: &[u8]) {
        let Some(connection) = self.connections.get_mut(&stream) else { return };
        connection.outstanding = connection.outstanding.saturating_sub(1);
        let start = protocol::begin_frame(&mut connection.out);
        connection.out.extend_from_slice(answer);
        protocol::finish_frame(&mut connection.out, start, id);
        if !std::mem::replace(&mut connection.dirty, true) {
            self.dirty.push(stream);
        }
    }

    pub(crate) fn sent(&mut self, stream: StreamId) {
        let Some(connection) = self.connections.get_mut(&stream) else { return };
        connection.sending = false;
        if !std::mem::replace(&mut connection.dirty, true) {
            self.dirty.push(stream);
        }
    }

    pub(crate) fn closed(&mut self, stream: StreamId) {
        self.connections.remove(&stream);
    }

    /// Once per turn: sends what has been queued, and reads again from connections that have caught up.
    pub(crate) fn flush<I: Io>(&mut self, io: &mut I) {
        for stream in self.dirty.drain(..) {
            let Some(connection) = self.connections.get_mut(&stream) else { continue };
            connection.dirty = false;
            if connection.paused && !connection.is_full(self.requests_max) {
                connection.paused = false;
                io.receive(stream);
            }
            if connection.sending || connection.out.is_empty() {
                continue;
            }
            connection.sending = true;
            let bytes: Bytes = connection.out.split().freeze();
            let mut bufs = io.send_bufs();
            bufs.push(bytes);
            io.send(stream, bufs);
        }
    }
}

impl Connection {
    fn is_full(&self, requests_max: usize) -> bool {
        self.outstanding >= requests_max || self.out.len() >= UNSENT_MAX
    }
}
