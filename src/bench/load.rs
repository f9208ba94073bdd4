//! The load: closed-loop clients, one request outstanding each, many to a connection, in one thread on one ring.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::BytesMut;
use hdrhistogram::Histogram;
use ringraft_io::{Completion, Dial, Io, StreamId, Time, Token};

use super::keys::Keys;
use crate::protocol::head::{self, Hello};
use crate::protocol::{Answer, Command, Decoder, Query, REPLY_BODY_MAX, Request, Status, encode_request};

/// What the load is made of.
#[derive(Clone, Debug)]
pub struct LoadConfig {
    /// Client addresses of the nodes to load; connections are spread over them in turn.
    pub endpoints: Vec<String>,
    /// Closed-loop clients.
    pub clients: usize,
    /// Connections that they share; at most as many as clients.
    pub connections: usize,
    /// How long a refused request waits before it is tried again.
    pub retry_after: Duration,
}

/// What the load has seen so far.
#[derive(Debug)]
pub struct Tally {
    /// Latency of acknowledged requests in nanoseconds, from the first try to the acknowledgement.
    pub latency: Histogram<u64>,
    /// Requests acknowledged.
    pub acked: u64,
    /// Requests refused and tried again.
    pub retried: u64,
    /// Requests whose outcome is unknown: timed out in the cluster, or their connection broke.
    pub uncertain: u64,
    /// Reads whose value was missing, older than the last acknowledged write of its key, or not what was written.
    pub lost: u64,
    /// Connections that broke.
    pub broken: u64,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
}

impl Tally {
    fn new() -> Tally {
        let latency = Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("valid bounds");
        Tally { latency, acked: 0, retried: 0, uncertain: 0, lost: 0, broken: 0, last_error: None }
    }
}

/// What clients do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Each client writes its keys round and round until told to stop.
    Write,
    /// Each client reads every key of its own that has an acknowledged write, once.
    Verify,
}

struct Client {
    connection: usize,
    /// The key in hand, and which write of it.
    key: u64,
    sequence: u64,
    started: Time,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nothing to do, or not started.
    Idle,
    /// Wants to send.
    Wants,
    /// Waits for a reply.
    Waits,
}

struct Connection {
    endpoint: usize,
    stream: Option<StreamId>,
    decoder: Decoder,
    out: BytesMut,
    sending: bool,
    dirty: bool,
    /// Clients that share it.
    clients: Vec<usize>,
}

/// The generator; drive it with [`Load::turn`].
pub struct Load<I: Io> {
    io: I,
    config: LoadConfig,
    keys: Keys,
    clients: Vec<Client>,
    connections: Vec<Connection>,
    streams: HashMap<StreamId, usize>,
    /// When something is to be tried again: a client's request, or a connection.
    later: VecDeque<(Time, Later)>,
    dirty: Vec<usize>,
    completions: Vec<Completion>,
    work: Work,
    stopping: bool,
    value: Vec<u8>,
    /// What has happened since the last [`Load::begin`].
    pub tally: Tally,
}

#[derive(Clone, Copy, Debug)]
enum Later {
    Client(usize),
    Connection(usize),
}

const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

impl<I: Io> Load<I> {
    /// Connects; requests begin with [`Load::begin`].
    pub fn new(io: I, config: LoadConfig, keys: Keys) -> Load<I> {
        let count = config.connections.clamp(1, config.clients.max(1));
        let connections = (0..count).map(|connection| Connection {
            endpoint: connection % config.endpoints.len(),
            stream: None,
            decoder: Decoder::new(REPLY_BODY_MAX),
            out: BytesMut::with_capacity(64 << 10),
            sending: false,
            dirty: false,
            clients: (connection..config.clients).step_by(count).collect(),
        });
        let clients = (0..config.clients).map(|client| Client {
            connection: client % count,
            key: 0,
            sequence: 0,
            started: Time(0),
            state: State::Idle,
        });
        let mut load = Load {
            clients: clients.collect(),
            connections: connections.collect(),
            io,
            config,
            keys,
            streams: HashMap::new(),
            later: VecDeque::new(),
            dirty: Vec::new(),
            completions: Vec::new(),
            work: Work::Write,
            stopping: false,
            value: Vec::new(),
            tally: Tally::new(),
        };
        for connection in 0..load.connections.len() {
            load.dial(connection);
        }
        load
    }

    /// Whether every connection stands.
    pub fn is_connected(&self) -> bool {
        self.connections.iter().all(|connection| connection.stream.is_some())
    }

    /// Starts work on all clients with a fresh tally; gives the one so far.
    pub fn begin(&mut self, work: Work) -> Tally {
        let tally = std::mem::replace(&mut self.tally, Tally::new());
        self.work = work;
        self.stopping = false;
        for client in 0..self.clients.len() {
            self.clients[client].key = self.keys.per_client();
            self.next_request(client);
        }
        // The first requests must not wait for the end of the next turn.
        self.flush();
        tally
    }

    /// No new requests; those under way are finished.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether no request is under way.
    pub fn is_idle(&self) -> bool {
        self.clients.iter().all(|client| client.state == State::Idle)
    }

    /// How many keys have at least one acknowledged write.
    pub fn keys_acked(&self) -> u64 {
        self.keys.acked_count()
    }

    /// The world's time at the last turn.
    pub fn now(&self) -> Time {
        self.io.now()
    }

    /// One turn: waits for something to happen, but not beyond `until`.
    ///
    /// # Errors
    /// If the world is broken.
    pub fn turn(&mut self, until: Time) -> std::io::Result<()> {
        let mut completions = std::mem::take(&mut self.completions);
        let until = self.later.front().map_or(until, |(at, _)| until.min(*at));
        self.io.turn(Some(until), &mut completions)?;
        for completion in completions.drain(..) {
            self.complete(completion);
        }
        self.completions = completions;
        self.retry_due();
        self.flush();
        Ok(())
    }

    fn complete(&mut self, completion: Completion) {
        match completion {
            Completion::Dialed { token, result } => {
                let connection = usize::try_from(token.0).expect("made from one");
                let checked = result.map_err(|error| error.to_string()).and_then(|dialed| {
                    head::judge_response(&dialed.response).map_err(|error| error.to_string())?;
                    Ok(dialed.stream)
                });
                match checked {
                    Ok(stream) => self.connected(connection, stream),
                    Err(error) => {
                        let address = &self.config.endpoints[self.connections[connection].endpoint];
                        self.tally.last_error = Some(format!("{address}: {error}"));
                        self.dial_later(connection);
                    }
                }
            }
            Completion::Received { stream, data } => {
                if let Some(connection) = self.streams.get(&stream).copied() {
                    self.received(connection, &data);
                }
            }
            Completion::Sent { stream, .. } => {
                if let Some(connection) = self.streams.get(&stream).copied() {
                    self.connections[connection].sending = false;
                    self.mark(connection);
                }
            }
            Completion::Closed { stream, reason } => {
                if let Some(connection) = self.streams.remove(&stream) {
                    self.tally.last_error = Some(format!("connection lost: {reason}"));
                    self.broken(connection);
                }
            }
            _ => {}
        }
    }

    // ---- connections ----

    fn dial(&mut self, connection: usize) {
        let address = self.config.endpoints[self.connections[connection].endpoint].clone();
        let request = head::request_head(&address, &Hello::default());
        let token = Token(connection as u64);
        self.io.dial(Dial { token, address, request, timeout: DIAL_TIMEOUT });
    }

    fn dial_later(&mut self, connection: usize) {
        let endpoints = self.config.endpoints.len();
        self.connections[connection].endpoint = (self.connections[connection].endpoint + 1) % endpoints;
        self.later.push_back((self.io.now() + self.config.retry_after, Later::Connection(connection)));
    }

    fn connected(&mut self, connection: usize, stream: StreamId) {
        self.streams.insert(stream, connection);
        self.io.receive(stream);
        let it = &mut self.connections[connection];
        it.stream = Some(stream);
        it.decoder = Decoder::new(REPLY_BODY_MAX);
        it.sending = false;
        it.out.clear();
        for at in 0..self.connections[connection].clients.len() {
            let client = self.connections[connection].clients[at];
            if self.clients[client].state == State::Wants {
                self.send(client);
            }
        }
    }

    fn broken(&mut self, connection: usize) {
        self.tally.broken += 1;
        self.connections[connection].stream = None;
        for at in 0..self.connections[connection].clients.len() {
            let client = self.connections[connection].clients[at];
            if self.clients[client].state == State::Waits {
                self.unknown(client);
            }
        }
        self.dial_later(connection);
    }

    fn received(&mut self, connection: usize, data: &[u8]) {
        let mut decoder = std::mem::replace(&mut self.connections[connection].decoder, Decoder::new(0));
        let mut piece = data;
        loop {
            match decoder.next(&mut piece) {
                Ok(Some(frame)) => self.answered(frame.id(), frame.free()),
                Ok(None) => break,
                Err(error) => {
                    self.tally.last_error = Some(error.to_string());
                    if let Some(stream) = self.connections[connection].stream {
                        self.streams.remove(&stream);
                        self.io.close(stream);
                    }
                    self.broken(connection);
                    return;
                }
            }
        }
        self.connections[connection].decoder = decoder;
    }

    fn mark(&mut self, connection: usize) {
        if !std::mem::replace(&mut self.connections[connection].dirty, true) {
            self.dirty.push(connection);
        }
    }

    fn flush(&mut self) {
        while let Some(connection) = self.dirty.pop() {
            let it = &mut self.connections[connection];
            it.dirty = false;
            let Some(stream) = it.stream else { continue };
            if it.sending || it.out.is_empty() {
                continue;
            }
            it.sending = true;
            let bytes = it.out.split().freeze();
            let mut bufs = self.io.send_bufs();
            bufs.push(bytes);
            self.io.send(stream, bufs);
        }
    }

    // ---- requests ----

    /// The client's next request, or rest.
    fn next_request(&mut self, client: usize) {
        let it = &mut self.clients[client];
        it.state = State::Idle;
        if self.stopping {
            return;
        }
        match self.work {
            Work::Write => {
                it.key = self.keys.after(it.key);
                it.sequence = self.keys.begin_write(client, it.key);
            }
            Work::Verify => match self.keys.acked_below(client, it.key) {
                Some(key) => it.key = key,
                None => return,
            },
        }
        it.started = self.io.now();
        it.state = State::Wants;
        self.send(client);
    }

    fn send(&mut self, client: usize) {
        let it = &mut self.clients[client];
        let connection = &mut self.connections[it.connection];
        if connection.stream.is_none() {
            return;
        }
        it.state = State::Waits;
        let key = self.keys.name(client, it.key);
        let request = match self.work {
            Work::Write => {
                self.keys.value(client, it.key, it.sequence, &mut self.value);
                Request::Write(Command::Put { key: &key, value: &self.value })
            }
            Work::Verify => Request::Read(Query::Get { key: &key, serializable: false }),
        };
        encode_request(&mut connection.out, client as u64, &request);
        let connection = it.connection;
        self.mark(connection);
    }

    fn answered(&mut self, id: u64, answer: &[u8]) {
        let client = usize::try_from(id).unwrap_or(usize::MAX);
        if self.clients.get(client).is_none_or(|client| client.state != State::Waits) {
            return;
        }
        match Answer::decode(answer) {
            Ok(answer) => match answer.status {
                Status::Ok | Status::NotFound => self.acknowledged(client, &answer),
                Status::NoLeader | Status::NotLeader | Status::Overloaded | Status::Unavailable => {
                    self.tally.retried += 1;
                    self.tally.last_error = Some(answer.text());
                    self.clients[client].state = State::Wants;
                    self.later.push_back((self.io.now() + self.config.retry_after, Later::Client(client)));
                }
                _ => {
                    self.tally.last_error = Some(answer.text());
                    self.unknown(client);
                }
            },
            Err(error) => {
                self.tally.last_error = Some(error.to_string());
                self.unknown(client);
            }
        }
    }

    fn acknowledged(&mut self, client: usize, answer: &Answer<'_>) {
        let it = &self.clients[client];
        let latency = self.io.now().since(it.started);
        self.tally.acked += 1;
        self.tally.latency.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1));
        match self.work {
            Work::Write => self.keys.acknowledge(client, it.key, it.sequence),
            Work::Verify => {
                let value = (answer.status == Status::Ok).then_some(answer.body);
                if let Err(what) = self.keys.check(client, it.key, value) {
                    self.tally.lost += 1;
                    self.tally.last_error = Some(what);
                }
            }
        }
        self.next_request(client);
    }

    /// Nobody knows what became of the client's request. A write is left alone; a read is asked again.
    fn unknown(&mut self, client: usize) {
        self.tally.uncertain += 1;
        match self.work {
            Work::Write => self.next_request(client),
            Work::Verify => {
                self.clients[client].state = State::Wants;
                self.later.push_back((self.io.now() + self.config.retry_after, Later::Client(client)));
            }
        }
    }

    fn retry_due(&mut self) {
        let now = self.io.now();
        while self.later.front().is_some_and(|(at, _)| *at <= now) {
            match self.later.pop_front() {
                Some((_, Later::Client(client))) if self.clients[client].state == State::Wants => self.send(client),
                Some((_, Later::Connection(connection))) => self.dial(connection),
                _ => {}
            }
        }
    }
}
