//! Client connections of one shard: frames in, replies out, one send in flight per connection.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use ringraft_io::{Io, StreamId};

use crate::protocol::{self, Decoder, REQUEST_BODY_MAX};

/// All client connections of a shard.
pub(crate) struct Clients {
    places: Vec<Option<Connection>>,
    free: Vec<Place>,
    by_stream: HashMap<StreamId, Place>,
    dirty: Vec<Place>,
    requests_max: usize,
}

/// A connection of a shard, found without a search. Another stream may have it once this one is gone, so that it counts
/// only together with the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place(pub(crate) u32);

impl Place {
    fn index(self) -> usize {
        self.0 as usize
    }
}

struct Connection {
    stream: StreamId,
    decoder: Option<Decoder>,
    out: BytesMut,
    sending: bool,
    dirty: bool,
    paused: bool,
    /// Requests taken from it; not yet those of a piece whose requests are being carried out.
    asked: u64,
    /// Replies queued for it.
    answered: u64,
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
pub(crate) struct Inbox {
    pub(crate) place: Place,
    stream: StreamId,
    decoder: Decoder,
    asked: u64,
}

impl Inbox {
    /// Calls `request` with id and free part of every whole frame.
    pub(crate) fn feed(&mut self, mut piece: &[u8], mut request: impl FnMut(u64, &[u8])) -> Fed {
        loop {
            match self.decoder.next(&mut piece) {
                Ok(Some(frame)) => {
                    self.asked += 1;
                    request(frame.id(), frame.free());
                }
                Ok(None) => return Fed::All,
                Err(_) => return Fed::Garbage,
            }
        }
    }
}

/// What a connection needs now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Need {
    Nothing,
    /// Not to be read for a while.
    Pause,
    /// To end.
    Close,
}

impl Clients {
    /// No connections; each may have `requests_max` unanswered requests before it is not read any more.
    pub(crate) fn new(requests_max: usize) -> Clients {
        Clients { places: Vec::new(), free: Vec::new(), by_stream: HashMap::new(), dirty: Vec::new(), requests_max }
    }

    pub(crate) fn accept<I: Io>(&mut self, io: &mut I, stream: StreamId) {
        self.insert(stream);
        io.receive(stream);
    }

    fn insert(&mut self, stream: StreamId) -> Place {
        let connection = Connection {
            stream,
            decoder: Some(Decoder::new(REQUEST_BODY_MAX)),
            out: BytesMut::with_capacity(OUT_SIZE),
            sending: false,
            dirty: false,
            paused: false,
            asked: 0,
            answered: 0,
        };
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            Place(u32::try_from(self.places.len() - 1).expect("fewer connections than 2^32"))
        });
        self.places[place.index()] = Some(connection);
        self.by_stream.insert(stream, place);
        place
    }

    fn remove(&mut self, stream: StreamId) {
        if let Some(place) = self.by_stream.remove(&stream) {
            self.places[place.index()] = None;
            self.free.push(place);
        }
    }

    fn find(&mut self, stream: StreamId) -> Option<(Place, &mut Connection)> {
        let place = *self.by_stream.get(&stream)?;
        Some((place, self.places[place.index()].as_mut().expect("a stream leads to its connection")))
    }

    fn at(&mut self, place: Place, stream: StreamId) -> Option<&mut Connection> {
        self.places.get_mut(place.index())?.as_mut().filter(|connection| connection.stream == stream)
    }

    pub(crate) fn take_inbox(&mut self, stream: StreamId) -> Option<Inbox> {
        let (place, connection) = self.find(stream)?;
        Some(Inbox { place, stream, decoder: connection.decoder.take()?, asked: 0 })
    }

    pub(crate) fn put_inbox<I: Io>(&mut self, io: &mut I, inbox: Inbox, fed: Fed) {
        let stream = inbox.stream;
        match self.settle(inbox, fed) {
            Need::Nothing => {}
            Need::Pause => io.pause(stream),
            Need::Close => io.close(stream),
        }
    }

    fn settle(&mut self, inbox: Inbox, fed: Fed) -> Need {
        let requests_max = self.requests_max;
        let Some(connection) = self.at(inbox.place, inbox.stream) else { return Need::Nothing };
        connection.decoder = Some(inbox.decoder);
        connection.asked += inbox.asked;
        if fed == Fed::Garbage {
            // What was answered so far is lost with the connection: the client sees it end.
            self.remove(inbox.stream);
            Need::Close
        } else if !connection.paused && connection.is_full(requests_max) {
            connection.paused = true;
            Need::Pause
        } else {
            Need::Nothing
        }
    }

    /// Whether a client has not read so much that big answers must be refused.
    pub(crate) fn is_backed_up(&mut self, place: Place, stream: StreamId) -> bool {
        self.at(place, stream).is_some_and(|connection| connection.out.len() >= UNSENT_MAX)
    }

    /// Queues the reply to request `id`; lost if the connection is gone.
    pub(crate) fn reply(&mut self, place: Place, stream: StreamId, id: u64, answer: &[u8]) {
        let Some(connection) = self.at(place, stream) else { return };
        connection.answered += 1;
        let start = protocol::begin_frame(&mut connection.out);
        connection.out.extend_from_slice(answer);
        protocol::finish_frame(&mut connection.out, start, id);
        if !std::mem::replace(&mut connection.dirty, true) {
            self.dirty.push(place);
        }
    }

    pub(crate) fn sent(&mut self, stream: StreamId) {
        let Some((place, connection)) = self.find(stream) else { return };
        connection.sending = false;
        if !std::mem::replace(&mut connection.dirty, true) {
            self.dirty.push(place);
        }
    }

    pub(crate) fn closed(&mut self, stream: StreamId) {
        self.remove(stream);
    }

    /// Once per turn: sends what has been queued, and reads again from connections that have caught up.
    pub(crate) fn flush<I: Io>(&mut self, io: &mut I) {
        for place in self.dirty.drain(..) {
            let connection = self.places[place.index()].as_mut();
            // One that came in the place of another may be listed twice.
            let Some(connection) = connection.filter(|connection| connection.dirty) else { continue };
            connection.dirty = false;
            let stream = connection.stream;
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
        // Answers to a piece's requests may be there before the requests are counted.
        let outstanding = self.asked.saturating_sub(self.answered);
        outstanding >= requests_max as u64 || self.out.len() >= UNSENT_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Query, Request, encode_request};

    fn piece(requests: u64) -> BytesMut {
        let mut out = BytesMut::new();
        (0..requests).for_each(|id| {
            encode_request(&mut out, id, &Request::Read(Query::Get { key: b"key", serializable: true }));
        });
        out
    }

    /// Feeds that many requests, of which `answered` are answered at once.
    fn feed(clients: &mut Clients, stream: StreamId, requests: u64, answered: u64) -> Need {
        let mut inbox = clients.take_inbox(stream).expect("connected");
        let place = inbox.place;
        let fed = inbox.feed(&piece(requests), |id, _| {
            if id < answered {
                clients.reply(place, stream, id, b"0123456789abcdef");
            }
        });
        clients.settle(inbox, fed)
    }

    #[test]
    fn a_connection_with_too_many_unanswered_requests_is_paused() {
        let mut clients = Clients::new(4);
        let stream = StreamId(7);
        let place = clients.insert(stream);
        assert_eq!(feed(&mut clients, stream, 20, 20), Need::Nothing, "all were answered at once");
        assert_eq!(feed(&mut clients, stream, 5, 2), Need::Nothing, "three wait");
        assert_eq!(feed(&mut clients, stream, 1, 0), Need::Pause, "four wait");
        assert_eq!(feed(&mut clients, stream, 1, 0), Need::Nothing, "told once");
        clients.reply(place, stream, 9, b"0123456789abcdef");
        assert!(clients.at(place, stream).is_some_and(|connection| connection.is_full(4)));
        clients.reply(place, stream, 9, b"0123456789abcdef");
        assert!(clients.at(place, stream).is_some_and(|connection| !connection.is_full(4)));
    }

    #[test]
    fn an_answer_does_not_reach_who_came_in_the_place_of_another() {
        let mut clients = Clients::new(4);
        let (old, new) = (StreamId(7), StreamId(8));
        let place = clients.insert(old);
        clients.reply(place, old, 1, b"0123456789abcdef");
        clients.closed(old);
        assert_eq!(clients.insert(new), place);
        clients.reply(place, old, 2, b"0123456789abcdef");
        assert!(clients.at(place, new).is_some_and(|connection| connection.out.is_empty() && !connection.dirty));
        assert!(clients.take_inbox(old).is_none() && clients.take_inbox(new).is_some());
    }

    #[test]
    fn bytes_that_are_no_frames_end_a_connection() {
        let mut clients = Clients::new(4);
        let stream = StreamId(7);
        clients.insert(stream);
        let mut inbox = clients.take_inbox(stream).unwrap();
        let fed = inbox.feed(&[0xff; 64], |_, _| panic!("nothing was asked"));
        assert_eq!((fed, clients.settle(inbox, fed)), (Fed::Garbage, Need::Close));
        assert!(clients.take_inbox(stream).is_none());
    }
}
