//! The client: pipelined requests to a cluster.
//!
//! [`Session`] is the protocol without a socket, for those who have their own. [`Client`] has threads and sockets: its
//! methods never wait, they give a [`Pending`] that can be awaited or waited for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::protocol::{Command, NodeStatus, Query, Request, RequestError, Status};

mod link;
mod pending;
mod results;
mod router;
mod session;

pub use pending::Pending;
pub use results::{Deleted, KeyValue, RangeResult, Value};
pub use session::{SendError, Session, SessionError};

use link::Link;
use pending::{Reply, Slot};
use router::Job;

/// How a client behaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientOptions {
    /// For connecting and the heads, per endpoint.
    pub connect_timeout: Duration,
    /// For a request, all its attempts together.
    pub request_timeout: Duration,
    /// Most requests under way; further ones end at once with [`ClientError::Full`].
    pub requests_max: usize,
    /// Most bytes in them; further ones end at once with [`ClientError::Full`].
    pub request_bytes_max: usize,
    /// Between attempts, when there is no node that would do better at once.
    pub retry_pause: Duration,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(10),
            requests_max: 16 * 1024,
            request_bytes_max: 256 << 20,
            retry_pause: Duration::from_millis(20),
        }
    }
}

/// Why a request has no result.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClientError {
    /// Not sent: it breaks a rule.
    #[error("{0}")]
    Request(#[from] RequestError),
    /// Not sent: as many requests, or bytes in them, are under way as the client allows.
    #[error("{0} requests are under way already; wait for some of them")]
    Full(usize),
    /// Not done: no endpoint could be reached, or none that serves; the last reason.
    #[error("no endpoint serves: {0}")]
    Unreachable(String),
    /// Not done: a node has refused.
    #[error("{status}: {text}")]
    Refused {
        /// How.
        status: Status,
        /// In its words.
        text: String,
    },
    /// A read got no answer in time.
    #[error("no answer in time")]
    Timeout,
    /// A write got no answer; it may or may not have been done, or be done yet. Read before you write again.
    #[error("no answer to a write: whether it was done is unknown")]
    Uncertain,
    /// The other side breaks the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// The client was dropped.
    #[error("the client is closed")]
    Closed,
}

/// Connections to the endpoints of a cluster. Clones share them; the last one closes them.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    serializable: bool,
}

impl Client {
    /// Connects to the first of `endpoints` (`host:port` each) that can be reached; to others when they are needed.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], if none can.
    pub fn connect<S: AsRef<str>>(endpoints: &[S], options: ClientOptions) -> Result<Client, ClientError> {
        let endpoints: Vec<String> = endpoints.iter().map(|endpoint| endpoint.as_ref().to_owned()).collect();
        let mut problem = ClientError::Unreachable("no endpoints are given".into());
        for (endpoint, address) in endpoints.iter().enumerate() {
            match link::dial(address, options.connect_timeout) {
                Ok(dialed) => return Ok(Client::start(endpoints, options, endpoint, dialed)),
                Err(error) => problem = ClientError::Unreachable(format!("{address}: {error}")),
            }
        }
        Err(problem)
    }

    fn start(endpoints: Vec<String>, options: ClientOptions, first: usize, dialed: link::Dialed) -> Client {
        let (sender, jobs) = mpsc::channel();
        let groups = dialed.welcome.groups;
        let routes = Routes {
            links: endpoints.iter().map(|_| None).collect(),
            nodes: vec![0; endpoints.len()],
            by_group: HashMap::new(),
            preferred: first,
        };
        let shared = Arc::new(Shared {
            endpoints,
            options,
            groups,
            routes: Mutex::new(routes),
            load: Arc::new(Load::default()),
            jobs: Mutex::new(sender),
        });
        let weak = Arc::downgrade(&shared);
        std::thread::spawn(move || router::run(&weak, &jobs));
        shared.adopt(first, dialed);
        Client { shared, serializable: false }
    }

    /// The same client, whose reads are answered by any node from its own state, which may be behind.
    #[must_use]
    pub fn serializable(&self) -> Client {
        Client { shared: self.shared.clone(), serializable: true }
    }

    /// How many groups the cluster's keys are spread over.
    #[must_use]
    pub fn groups(&self) -> u64 {
        self.shared.groups
    }

    /// Sets `key` to `value`; gives the revision.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Pending<u64> {
        let pending = self.shared.submit(&[Request::Write(Command::Put { key, value })]);
        Pending::new(pending, 0, results::put)
    }

    /// The value of `key`, if it has one.
    pub fn get(&self, key: &[u8]) -> Pending<Option<Value>> {
        let serializable = self.serializable;
        Pending::new(self.shared.submit(&[Request::Read(Query::Get { key, serializable })]), 0, results::get)
    }

    /// Removes `key`.
    pub fn delete(&self, key: &[u8]) -> Pending<Deleted> {
        Pending::new(self.shared.submit(&[Request::Write(Command::Delete { key })]), 0, results::delete)
    }

    /// The pairs from `start` on (empty: from the first) and before `end` (empty: to the last), in order; at most
    /// `limit` of them (0: what the replies hold). Every group answers for itself: the pairs of different groups may
    /// show different moments.
    pub fn range(&self, start: &[u8], end: &[u8], limit: u32) -> Pending<RangeResult> {
        let serializable = self.serializable;
        let groups = u32::try_from(self.shared.groups).unwrap_or(u32::MAX);
        let requests: Vec<Request<'_>> =
            (0..groups).map(|group| Request::Read(Query::Range { start, end, limit, group, serializable })).collect();
        Pending::new(self.shared.submit(&requests), limit, results::range)
    }

    /// What the node that is asked by default says about itself.
    pub fn status(&self) -> Pending<NodeStatus> {
        Pending::new(self.shared.submit(&[Request::Status]), 0, results::status)
    }
}

/// What the clones of a client and its threads share.
#[derive(Debug)]
struct Shared {
    endpoints: Vec<String>,
    options: ClientOptions,
    groups: u64,
    routes: Mutex<Routes>,
    load: Arc<Load>,
    jobs: Mutex<mpsc::Sender<Job>>,
}

/// What is under way.
#[derive(Default, Debug)]
struct Load {
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

impl Load {
    /// Adds to it, if that stays within the bounds; else the number of requests there are.
    fn add(&self, requests: usize, bytes: usize, options: &ClientOptions) -> Result<(), usize> {
        let requests_before = self.requests.fetch_add(requests, Ordering::Relaxed);
        let bytes_before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = requests_before + requests <= options.requests_max
            && bytes_before.saturating_add(bytes) <= options.request_bytes_max;
        if fits {
            return Ok(());
        }
        self.remove(requests, bytes);
        Err(requests_before)
    }

    fn remove(&self, requests: usize, bytes: usize) {
        self.requests.fetch_sub(requests, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Where requests go.
#[derive(Debug)]
struct Routes {
    /// Per endpoint the connection, if there is one.
    links: Vec<Option<Arc<Link>>>,
    /// Per endpoint its node id; 0: not known yet.
    nodes: Vec<u64>,
    /// The endpoint that has served a group, or is said to.
    by_group: HashMap<u64, usize>,
    /// The endpoint for all else.
    preferred: usize,
}

/// One request under way. Dropped without a result, it ends as closed.
#[derive(Debug)]
struct Call {
    free: Bytes,
    is_write: bool,
    group: Option<u64>,
    deadline: Instant,
    attempts: u32,
    slot: Arc<Slot>,
    part: usize,
    load: Arc<Load>,
    /// It counts no longer.
    released: bool,
}

impl Call {
    /// Makes room before the result is out: who has it may send the next request at once.
    fn finish(mut self, result: Result<Reply, ClientError>) {
        self.release();
        self.slot.set(self.part, result);
    }

    fn release(&mut self) {
        if !std::mem::replace(&mut self.released, true) {
            self.load.remove(1, self.free.len());
        }
    }

    /// What it means that no answer has come.
    fn lost(&self) -> ClientError {
        if self.is_write { ClientError::Uncertain } else { ClientError::Timeout }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.release();
        self.slot.set(self.part, Err(ClientError::Closed));
    }
}

impl Shared {
    /// Sends requests whose replies together make one result.
    fn submit(&self, requests: &[Request<'_>]) -> Result<Arc<Slot>, ClientError> {
        let mut encoded = Vec::with_capacity(requests.len());
        for request in requests {
            request.check()?;
            let mut free = BytesMut::new();
            request.encode(&mut free);
            encoded.push(free.freeze());
        }
        let bytes = encoded.iter().map(Bytes::len).sum();
        self.load.add(requests.len(), bytes, &self.options).map_err(ClientError::Full)?;
        let slot = Arc::new(Slot::new(requests.len()));
        let deadline = Instant::now() + self.options.request_timeout;
        for ((request, free), part) in requests.iter().zip(encoded).zip(0..) {
            self.dispatch(Call {
                free,
                is_write: request.op().is_write(),
                group: request.group(self.groups),
                deadline,
                attempts: 0,
                slot: slot.clone(),
                part,
                load: self.load.clone(),
                released: false,
            });
        }
        Ok(slot)
    }

    /// Sends at once if there is a connection; connecting is the router's work.
    fn dispatch(&self, call: Call) {
        let (endpoint, link) = {
            let routes = self.routes();
            let endpoint = call.group.and_then(|group| routes.by_group.get(&group)).copied();
            let endpoint = endpoint.unwrap_or(routes.preferred);
            (endpoint, routes.links[endpoint].clone())
        };
        let call = match link {
            Some(link) => link.send(call).err(),
            None => Some(call),
        };
        if let Some(call) = call {
            self.hand_over(call, endpoint, Duration::ZERO, "the connection was lost".into());
        }
    }

    /// Lets the router send `call`, to `endpoint` first, after a pause.
    fn hand_over(&self, call: Call, endpoint: usize, pause: Duration, problem: String) {
        let job = Job { call, endpoint, not_before: Instant::now() + pause, problem };
        // The router lives as long as `self`; without it the call ends as closed when it is dropped here.
        let _ = self.jobs.lock().expect("no holder panics").send(job);
    }

    /// Takes a new connection into use.
    fn adopt(self: &Arc<Self>, endpoint: usize, dialed: link::Dialed) -> Option<Arc<Link>> {
        let node = dialed.welcome.node;
        let link = Link::start(self, endpoint, dialed).ok()?;
        let mut routes = self.routes();
        routes.nodes[endpoint] = node;
        routes.links[endpoint] = Some(link.clone());
        Some(link)
    }

    /// A node has answered that it cannot serve `call` now, and has not done it.
    fn reroute(&self, mut call: Call, endpoint: usize, status: Status, leader: u64, text: &str) {
        call.attempts += 1;
        let next = (endpoint + 1) % self.endpoints.len();
        let hint = {
            let mut routes = self.routes();
            let known = routes.nodes.iter().position(|node| *node == leader && leader != 0);
            // A node may name a leader of the past for long; now and then it is not listened to.
            let listens = status == Status::NotLeader && !call.attempts.is_multiple_of(3);
            let hint = known.filter(|known| listens && *known != endpoint);
            if let Some(group) = call.group {
                routes.by_group.insert(group, hint.unwrap_or(next));
            }
            hint
        };
        // Every endpoint gets one chance at once; from then on nodes need time to agree on a leader.
        let all_asked = usize::try_from(call.attempts).unwrap_or(usize::MAX) >= self.endpoints.len();
        let wait = status != Status::NotLeader || all_asked && (hint.is_none() || call.attempts > 4);
        let pause = if wait { self.options.retry_pause } else { Duration::ZERO };
        let problem = format!("{}: {status}: {text}", self.endpoints[endpoint]);
        self.hand_over(call, hint.unwrap_or(next), pause, problem);
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().expect("no holder panics")
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let routes = self.routes.get_mut().expect("no holder panics");
        routes.links.iter().flatten().for_each(|link| link.close());
    }
}

#[cfg(test)]
mod tests;
