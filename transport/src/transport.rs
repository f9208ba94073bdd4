//! Transport: the peers and streams of one shard, driven through an [`Io`].

use std::collections::HashMap;

use bytes::Bytes;
use ringraft_io::{CloseReason, Completion, Dial, DialError, Dialed, Io, StreamId, Time, Token};
use ringraft_raft::{Body, EntryId, GroupId, Message, PeerId};

use crate::codec::{COUNT_MAX, CodecError, Item, Items, Section, Sections};
use crate::config::{Config, ConfigError};
use crate::frame::{FrameKind, Link, StreamKind};
use crate::handshake::{Greeting, HandshakeError, Purpose, Request, Response, SnapshotHead};
use crate::peer::{Due, Peer, ReadState};
use crate::reader::{Frame, StreamError};
use crate::send_queue::{Refused, What};
use crate::status::{PeerError, PeerStatus};
use crate::writer::{Gathered, StreamWriter};

/// How many tokens belong to a transport, from [`Config::token_base`] on.
pub const TOKENS: u64 = 1 << 32;

/// Longest address of a peer.
const ADDRESS_MAX: usize = 255;

/// Who takes what arrives. Called while a completion is handled; what is borrowed goes back to the network after that.
pub trait Inbound {
    /// An append. `records` are the whole records of the entries that `message` names, in order; their terms and
    /// checksums are not looked at.
    fn append(&mut self, group: GroupId, message: Message, records: &[u8]);
    /// Any other message but a snapshot.
    fn message(&mut self, group: GroupId, message: Message);
    /// A proposal that a peer forwards to us as the leader.
    fn proposal(&mut self, group: GroupId, from: PeerId, payload: &[u8]);
    /// Something sent to `peer` is lost; of which groups is not known.
    fn unreachable(&mut self, peer: PeerId);
}

/// What became of something to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a snapshot is not sent by streams"]
pub enum SendOutcome {
    /// It waits for the next [`Transport::flush`].
    Queued,
    /// Dropped and reported unreachable: the stream's queue is full.
    Full,
    /// Dropped and reported unreachable: there is no stream.
    Unconnected,
    /// Dropped and reported unreachable: no frame can hold it ([`RECORDS_MAX`](crate::RECORDS_MAX),
    /// [`RUNS_MAX`](crate::RUNS_MAX), [`PROPOSAL_MAX`](crate::PROPOSAL_MAX)).
    TooLarge,
    /// Dropped: no such peer.
    UnknownPeer,
    /// Left to the caller: a snapshot goes by [`Io::send_file`], with what [`Transport::snapshot_dial`] says.
    NeedsSnapshotChannel,
}

/// Where to and how to send a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotDial {
    /// The peer's address.
    pub address: String,
    /// The request head.
    pub request: Bytes,
}

/// Why a peer was not added or updated.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeerRefused {
    /// It is this node, or nobody.
    #[error("peer {0} is this node itself, or nobody")]
    Itself(PeerId),
    /// It is there already.
    #[error("peer {0} is there already")]
    Exists(PeerId),
    /// It is not there.
    #[error("peer {0} is not known")]
    Unknown(PeerId),
    /// It has no address.
    #[error("peer {0} has no address")]
    NoAddress(PeerId),
    /// An address is empty, too long, or has bytes that no address has.
    #[error("peer {peer} cannot have the address {address:?}")]
    BadAddress {
        /// The peer.
        peer: PeerId,
        /// The address.
        address: String,
    },
}

/// Which stream of which peer a stream id is.
#[derive(Clone, Copy, Debug)]
struct Route {
    peer: PeerId,
    kind: StreamKind,
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Read,
    Write,
}

/// The peers of one shard and the streams to and from them.
pub struct Transport {
    config: Config,
    /// Sorted by id.
    peers: Vec<Peer>,
    routes: HashMap<StreamId, Route>,
    /// Streams closed since the last flush: completions taken from the world before that may still name them.
    closed: Vec<StreamId>,
    /// Whether some peer is to be reported.
    unreachable: bool,
    /// Time of the last call that came with one.
    now: Time,
    dials: u64,
    dice: Dice,
}

impl Transport {
    /// A transport without peers.
    ///
    /// # Errors
    /// If the settings cannot work.
    pub fn new(config: Config) -> Result<Transport, ConfigError> {
        config.check()?;
        Ok(Transport {
            peers: Vec::new(),
            routes: HashMap::new(),
            closed: Vec::new(),
            unreachable: false,
            now: Time(0),
            dials: 0,
            dice: Dice(config.seed),
            config,
        })
    }

    /// Adds a peer with its addresses (`host:port`, tried in turn); its streams are dialed at the next flush.
    ///
    /// # Errors
    /// If it is there already, is this node, or has no usable address.
    pub fn add_peer(&mut self, peer: PeerId, addresses: &[String]) -> Result<(), PeerRefused> {
        if peer == self.config.node || peer == PeerId::ZERO {
            return Err(PeerRefused::Itself(peer));
        }
        check_addresses(peer, addresses)?;
        match self.find(peer) {
            Ok(_) => Err(PeerRefused::Exists(peer)),
            Err(at) => {
                self.peers.insert(at, Peer::new(peer, addresses.to_vec(), self.now));
                Ok(())
            }
        }
    }

    /// Gives a peer other addresses. Streams that work stay.
    ///
    /// # Errors
    /// If it is not there, or has no usable address.
    pub fn update_peer(&mut self, peer: PeerId, addresses: &[String]) -> Result<(), PeerRefused> {
        check_addresses(peer, addresses)?;
        let at = self.find(peer).map_err(|_| PeerRefused::Unknown(peer))?;
        self.peers[at].set_addresses(addresses.to_vec(), self.now);
        Ok(())
    }

    /// Closes all streams of a peer and forgets it, what waits included. Says whether it was there.
    pub fn remove_peer(&mut self, io: &mut impl Io, peer: PeerId) -> bool {
        let Ok(at) = self.find(peer) else { return false };
        let peer = self.peers.remove(at);
        for stream in peer.streams() {
            self.routes.remove(&stream).expect("every stream has a route");
            self.closed.push(stream);
            io.close(stream);
        }
        true
    }

    /// Queues a message. `runs` are the records of an append, in pieces of any size; empty for all others.
    ///
    /// # Panics
    /// If it is not from this node, or `runs` are not what the message names.
    pub fn send(&mut self, group: GroupId, message: &Message, runs: impl IntoIterator<Item = Bytes>) -> SendOutcome {
        let Message { from, to, term, body } = *message;
        assert!(from == self.config.node && to != from, "message from {from} to {to}");
        match body {
            Body::Append { prev, last, commit, payloads } => {
                assert!(prev.index <= last, "an append of {} after {prev}", last);
                // More entries than that are more bytes than any frame holds.
                let count = u32::try_from(last.0 - prev.index.0).map_or(COUNT_MAX, |count| count.min(COUNT_MAX));
                self.queue(to, StreamKind::Append, group, What::Append { term, prev, commit, payloads, count }, runs)
            }
            Body::Snapshot { .. } => SendOutcome::NeedsSnapshotChannel,
            _ => self.queue(to, StreamKind::Message, group, What::Message { term, body }, runs),
        }
    }

    /// Queues a proposal for the leader.
    pub fn send_proposal(&mut self, to: PeerId, group: GroupId, payload: Bytes) -> SendOutcome {
        self.queue(to, StreamKind::Message, group, What::Proposal, [payload])
    }

    fn queue(
        &mut self,
        to: PeerId,
        kind: StreamKind,
        group: GroupId,
        what: What,
        runs: impl IntoIterator<Item = Bytes>,
    ) -> SendOutcome {
        let Ok(at) = self.find(to) else { return SendOutcome::UnknownPeer };
        let peer = &mut self.peers[at];
        let outcome = match peer.pick(kind).map(|writer| writer.push(group, what, runs)) {
            Some(Ok(())) => return SendOutcome::Queued,
            Some(Err(Refused::Full)) => SendOutcome::Full,
            Some(Err(Refused::TooLarge)) => SendOutcome::TooLarge,
            None => SendOutcome::Unconnected,
        };
        let counters = &mut peer.counters;
        match outcome {
            SendOutcome::Full => counters.dropped_full += 1,
            SendOutcome::TooLarge => counters.dropped_too_large += 1,
            _ => counters.dropped_unconnected += 1,
        }
        peer.unreachable = true;
        self.unreachable = true;
        outcome
    }

    /// How to send a snapshot that answers `message` (a [`Body::Snapshot`]) with one at `at`, which may be newer than
    /// asked for. `None` if the peer is not known.
    #[must_use]
    pub fn snapshot_dial(&self, group: GroupId, message: &Message, at: EntryId, size: u64) -> Option<SnapshotDial> {
        let peer = &self.peers[self.find(message.to).ok()?];
        let purpose = Purpose::Snapshot(SnapshotHead { group, term: message.term, at, size });
        let (_, address) = peer.address();
        Some(SnapshotDial { address: address.to_owned(), request: self.request(purpose, peer.id).encode(address) })
    }

    /// Handles a completion if it is the transport's own; gives it back if it is not.
    pub fn complete<I: Io>(
        &mut self,
        io: &mut I,
        completion: Completion,
        inbound: &mut impl Inbound,
    ) -> Option<Completion> {
        self.now = io.now();
        match completion {
            Completion::Received { stream, data } if self.owns(stream) => self.received(io, stream, &data, inbound),
            Completion::Sent { stream, bytes } if self.owns(stream) => self.sent(stream, bytes),
            Completion::Closed { stream, reason } if self.owns(stream) => self.ended(stream, reason),
            Completion::Dialed { token, result } if self.owns_token(token) => self.dialed(io, token, result),
            Completion::Accepted { stream, greeting } => {
                if !self.accepted(io, stream, &greeting) {
                    return Some(Completion::Accepted { stream, greeting });
                }
            }
            other => return Some(other),
        }
        self.report(inbound);
        None
    }

    /// Hands over what is known to be lost; once a turn, for that is also found out in `send` and `flush`.
    pub fn report(&mut self, inbound: &mut impl Inbound) {
        if std::mem::take(&mut self.unreachable) {
            for peer in &mut self.peers {
                if std::mem::take(&mut peer.unreachable) {
                    inbound.unreachable(peer.id);
                }
            }
        }
    }

    /// Starts what is due: one send on every stream where something waits and none is in flight, link heartbeats,
    /// dials, and the end of streams that are silent. Once a turn, after everything was queued.
    pub fn flush(&mut self, io: &mut impl Io) {
        self.now = io.now();
        self.closed.clear();
        // Messages of all peers first: they are small, and someone waits for each of them.
        for kind in [StreamKind::Message, StreamKind::Append] {
            for at in 0..self.peers.len() {
                self.flush_write(io, at, kind);
                self.flush_read(io, at, kind);
            }
        }
    }

    fn flush_write(&mut self, io: &mut impl Io, at: usize, kind: StreamKind) {
        let peer = &mut self.peers[at];
        let due = peer.write_due(kind, &self.config).filter(|(when, _)| *when <= self.now).map(|(_, due)| due);
        let Some(writer) = peer.writers[kind.slot()].as_mut() else { return };
        let stream = writer.stream;
        let made = if writer.can_send() {
            let mut bufs = io.send_bufs();
            let made = writer.gather(self.now, self.config.send_size_max, &mut bufs);
            io.send(stream, bufs);
            made
        } else if due == Some(Due::LinkHeartbeat) {
            let mut bufs = io.send_bufs();
            let made = writer.link_heartbeat(self.now, &mut bufs);
            io.send(stream, bufs);
            made
        } else {
            if due == Some(Due::SendTimeout) {
                self.drop_stream(io, stream, PeerError::SendTimeout);
            }
            return;
        };
        let Gathered { frames, messages, bytes } = made;
        let counters = &mut peer.counters;
        counters.sent_frames += frames;
        counters.sent_messages += messages;
        counters.sent_bytes += bytes;
    }

    fn flush_read(&mut self, io: &mut impl Io, at: usize, kind: StreamKind) {
        match self.peers[at].read_due(kind, &self.config) {
            Some((when, Due::Dial)) if when <= self.now => self.dial(io, at, kind),
            Some((when, Due::Silent)) if when <= self.now => {
                let stream = self.peers[at].readers[kind.slot()].stream().expect("only a connected stream is silent");
                self.peers[at].counters.silences += 1;
                self.drop_stream(io, stream, PeerError::Silent);
            }
            _ => {}
        }
    }

    fn dial(&mut self, io: &mut impl Io, at: usize, kind: StreamKind) {
        let token = self.config.token_base + self.dials % TOKENS;
        self.dials += 1;
        let peer = &self.peers[at];
        let request = self.request(Purpose::Stream(kind), peer.id);
        let (_, address) = peer.address();
        io.dial(Dial {
            token: Token(token),
            address: address.to_owned(),
            request: request.encode(address),
            timeout: self.config.dial_timeout,
        });
        self.peers[at].dialing(kind, token, request);
    }

    fn request(&self, purpose: Purpose, to: PeerId) -> Request {
        let Config { cluster, node, incarnation, shard, shards, .. } = self.config;
        Request { purpose, cluster, from: node, to, incarnation, shard, shards }
    }

    /// When [`Transport::flush`] has something to do at the latest, even if nothing happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let config = &self.config;
        let dues = self.peers.iter().flat_map(|peer| {
            StreamKind::ALL.into_iter().flat_map(|kind| [peer.read_due(kind, config), peer.write_due(kind, config)])
        });
        dues.flatten().map(|(when, _)| when).min()
    }

    /// How the peers are doing, by id.
    pub fn status(&self) -> impl Iterator<Item = PeerStatus> {
        self.peers.iter().map(Peer::status)
    }

    /// How one peer is doing.
    #[must_use]
    pub fn peer_status(&self, peer: PeerId) -> Option<PeerStatus> {
        self.find(peer).ok().map(|at| self.peers[at].status())
    }

    /// Takes a stream that a peer asked for, if that is what `greeting` ([`Greeting`]) says; `false` if it is not, and
    /// the stream is somebody else's.
    pub fn accepted(&mut self, io: &mut impl Io, stream: StreamId, greeting: &[u8]) -> bool {
        let Some(Greeting::Stream { kind, shard, from, incarnation, salt }) = Greeting::decode(greeting) else {
            return false;
        };
        self.now = io.now();
        // Let in by the listener, and removed (or not yet added) here.
        let Some(at) = self.find(from).ok().filter(|_| shard == self.config.shard) else {
            self.closed.push(stream);
            io.close(stream);
            return true;
        };
        let Config { cluster, node, append_queue, message_queue, .. } = self.config;
        let limits = match kind {
            StreamKind::Append => append_queue,
            StreamKind::Message => message_queue,
        };
        let link = Link { cluster, from: node, to: from, kind, shard, salt };
        let peer = &mut self.peers[at];
        let ended = peer.attach(StreamWriter::new(stream, link, limits, self.now), incarnation, self.now);
        self.unreachable |= peer.unreachable;
        for old in ended {
            self.routes.remove(&old).expect("every stream has a route");
            self.closed.push(old);
            io.close(old);
        }
        self.routes.insert(stream, Route { peer: from, kind, end: End::Write });
        // The reader never speaks; this is how its going is noticed.
        io.receive(stream);
        true
    }

    fn dialed(&mut self, io: &mut impl Io, Token(token): Token, result: Result<Dialed, DialError>) {
        let dialing = |peer: &Peer, kind: StreamKind| match peer.readers[kind.slot()].state {
            ReadState::Dialing { token: its, request, .. } if its == token => Some((kind, request)),
            _ => None,
        };
        let found = self.peers.iter().enumerate().find_map(|(at, peer)| {
            StreamKind::ALL.into_iter().find_map(|kind| dialing(peer, kind)).map(|(kind, request)| (at, kind, request))
        });
        let Some((at, kind, request)) = found else {
            // The peer was removed while this dial was on its way.
            if let Ok(Dialed { stream, .. }) = result {
                self.closed.push(stream);
                io.close(stream);
            }
            return;
        };
        let error = match result {
            Ok(Dialed { stream, response }) => match Response::parse(&response, &request) {
                Ok(response) => {
                    let link = request.link(&response).expect("only streams are dialed");
                    self.peers[at].dialed(stream, link, response.incarnation, self.now);
                    self.routes.insert(stream, Route { peer: request.to, kind, end: End::Read });
                    io.receive(stream);
                    return;
                }
                Err(error) => {
                    self.closed.push(stream);
                    io.close(stream);
                    PeerError::Handshake(error)
                }
            },
            Err(DialError::Refused(head)) => PeerError::Handshake(HandshakeError::of_refusal(&head)),
            Err(error) => PeerError::Dial(error),
        };
        let dice = self.dice.roll();
        self.peers[at].dial_failed(kind, error, self.now, &self.config, dice);
    }

    pub(crate) fn received(&mut self, io: &mut impl Io, stream: StreamId, data: &[u8], inbound: &mut impl Inbound) {
        let Some((at, route)) = self.route(stream) else { return };
        let peer = &mut self.peers[at];
        peer.counters.received_bytes += data.len() as u64;
        if route.end == End::Write {
            self.drop_stream(io, stream, PeerError::ReaderSpoke);
            return;
        }
        let ReadState::Reading { link, reader, heard, .. } = &mut peer.readers[route.kind.slot()].state else {
            unreachable!("a stream with a route is connected");
        };
        *heard = self.now;
        let (before, mut messages) = (reader.frames(), 0);
        let result = reader.push(data, |frame| {
            deliver(link, frame, inbound, &mut messages)?;
            Ok(())
        });
        let frames = reader.frames() - before;
        peer.counters.received_frames += frames;
        peer.counters.received_messages += messages;
        match result {
            Ok(()) if frames > 0 => peer.heard_frames(route.kind),
            Ok(()) => {}
            Err(error) => {
                match error {
                    StreamError::Frame(_) => peer.counters.bad_frames += 1,
                    StreamError::Codec(_) => peer.counters.bad_bodies += 1,
                }
                self.drop_stream(io, stream, error.into());
            }
        }
    }

    fn sent(&mut self, stream: StreamId, bytes: usize) {
        let Some((at, route)) = self.route(stream) else { return };
        let writer = self.peers[at].writers[route.kind.slot()].as_mut();
        writer.expect("only writers send").sent(bytes);
    }

    fn ended(&mut self, stream: StreamId, reason: CloseReason) {
        if let Some((at, route)) = self.route(stream) {
            self.lost(at, stream, route, PeerError::Closed(reason));
        }
    }

    /// Closes a stream of ours.
    fn drop_stream(&mut self, io: &mut impl Io, stream: StreamId, error: PeerError) {
        let (at, route) = self.route(stream).expect("only a stream with a route is dropped");
        self.closed.push(stream);
        io.close(stream);
        self.lost(at, stream, route, error);
    }

    fn lost(&mut self, at: usize, stream: StreamId, route: Route, error: PeerError) {
        self.routes.remove(&stream);
        let dice = self.dice.roll();
        let peer = &mut self.peers[at];
        match route.end {
            End::Read => peer.read_lost(route.kind, error, self.now, &self.config, dice),
            End::Write => peer.write_lost(route.kind, error, self.now),
        }
        self.unreachable |= peer.unreachable;
    }

    fn route(&self, stream: StreamId) -> Option<(usize, Route)> {
        let route = *self.routes.get(&stream)?;
        Some((self.find(route.peer).expect("a route leads to a peer"), route))
    }

    fn owns(&self, stream: StreamId) -> bool {
        self.routes.contains_key(&stream) || self.closed.contains(&stream)
    }

    fn owns_token(&self, Token(token): Token) -> bool {
        token.checked_sub(self.config.token_base).is_some_and(|number| number < TOKENS)
    }

    /// Where a peer is, or would be.
    fn find(&self, peer: PeerId) -> Result<usize, usize> {
        self.peers.binary_search_by_key(&peer, |peer| peer.id)
    }
}

/// Hands out what a frame says, and counts it.
fn deliver(link: &Link, frame: Frame<'_>, inbound: &mut impl Inbound, messages: &mut u64) -> Result<(), CodecError> {
    let message = |term, body| Message { from: link.from, to: link.to, term, body };
    match frame.kind {
        FrameKind::Append => {
            for section in Sections::new(frame.body, frame.count) {
                let Section { group, term, prev, last, commit, payloads, records } = section?;
                inbound.append(group, message(term, Body::Append { prev, last, commit, payloads }), records);
                *messages += 1;
            }
        }
        FrameKind::Message => {
            for item in Items::new(frame.body, frame.count) {
                match item? {
                    Item::Message { group, term, body } => inbound.message(group, message(term, body)),
                    Item::Proposal { group, payload } => inbound.proposal(group, link.from, payload),
                }
                *messages += 1;
            }
        }
        FrameKind::LinkHeartbeat => {}
    }
    Ok(())
}

fn check_addresses(peer: PeerId, addresses: &[String]) -> Result<(), PeerRefused> {
    let good = |address: &&String| {
        (1..=ADDRESS_MAX).contains(&address.len()) && address.bytes().all(|byte| byte.is_ascii_graphic())
    };
    match addresses.iter().find(|address| !good(address)) {
        Some(address) => Err(PeerRefused::BadAddress { peer, address: address.clone() }),
        None if addresses.is_empty() => Err(PeerRefused::NoAddress(peer)),
        None => Ok(()),
    }
}

/// Jitter from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        crate::handshake::finalize(self.0)
    }
}

#[cfg(test)]
impl Transport {
    pub(crate) fn write_stream(&self, peer: PeerId, kind: StreamKind) -> Option<StreamId> {
        let at = self.find(peer).ok()?;
        self.peers[at].writers[kind.slot()].as_ref().map(|writer| writer.stream)
    }

    pub(crate) fn write_link(&self, peer: PeerId, kind: StreamKind) -> Link {
        let at = self.find(peer).unwrap();
        self.peers[at].writers[kind.slot()].as_ref().unwrap().link
    }

    pub(crate) fn drop_read_stream(&mut self, io: &mut impl Io, peer: PeerId, kind: StreamKind) {
        let at = self.find(peer).unwrap();
        let stream = self.peers[at].readers[kind.slot()].stream().unwrap();
        self.drop_stream(io, stream, PeerError::Silent);
    }

    pub(crate) fn head_place(&mut self, peer: PeerId, kind: StreamKind) -> (*const u8, usize) {
        let at = self.find(peer).unwrap();
        self.peers[at].writers[kind.slot()].as_mut().unwrap().head_place()
    }
}
