//! One connection: greeted, written to by whoever sends, read by a thread of its own.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use super::pending::Reply;
use super::{Call, Session, Shared};
use crate::protocol::Status;
use crate::protocol::head::{Hello, Welcome, judge_response, request_head};
use ringraft_io::head::{HEAD_MAX, head_len};

/// How often requests are looked through for those whose time is up.
const SWEEP: Duration = Duration::from_millis(20);

const RECEIVE_SIZE: usize = 64 * 1024;

/// A connection that has been greeted.
#[derive(Debug)]
pub(super) struct Dialed {
    pub(super) welcome: Welcome,
    stream: TcpStream,
    /// What came behind the head.
    rest: Vec<u8>,
}

/// Connects and greets.
pub(super) fn dial(address: &str, timeout: Duration) -> Result<Dialed, String> {
    let deadline = Instant::now() + timeout;
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let resolved = address.to_socket_addrs().map_err(|error| error.to_string())?;
    let mut problem = "the name has no address".to_owned();
    for target in resolved {
        match TcpStream::connect_timeout(&target, left()) {
            Ok(stream) => return greet(stream, address, &left).map_err(|error| error.to_string()),
            Err(error) => problem = error.to_string(),
        }
    }
    Err(problem)
}

fn greet(mut stream: TcpStream, address: &str, left: &dyn Fn() -> Duration) -> std::io::Result<Dialed> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(left()))?;
    stream.write_all(&request_head(address, &Hello::default()))?;
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    let len = loop {
        if let Some(len) = head_len(&head) {
            break len;
        }
        let time = left();
        if head.len() > HEAD_MAX || time <= Duration::from_millis(1) {
            return Err(std::io::Error::new(ErrorKind::TimedOut, "no head in time, or one without end"));
        }
        stream.set_read_timeout(Some(time))?;
        let size = stream.read(&mut piece)?;
        if size == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&piece[..size]);
    };
    let welcome = judge_response(&head[..len]).map_err(std::io::Error::other)?;
    Ok(Dialed { welcome, stream, rest: head.split_off(len) })
}

/// A connection in use.
#[derive(Debug)]
pub(super) struct Link {
    endpoint: usize,
    stream: TcpStream,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    session: Session<Call>,
    /// Someone is writing, and will write what is appended meanwhile.
    writing: bool,
    /// Takes no more calls.
    broken: bool,
}

impl Link {
    /// Takes a connection into use and starts its reader.
    pub(super) fn start(shared: &Arc<Shared>, endpoint: usize, dialed: Dialed) -> std::io::Result<Arc<Link>> {
        let Dialed { stream, rest, .. } = dialed;
        stream.set_read_timeout(Some(SWEEP))?;
        stream.set_write_timeout(Some(shared.options.request_timeout))?;
        let session = Session::new(shared.options.requests_max);
        let state = Mutex::new(State { session, writing: false, broken: false });
        let link = Arc::new(Link { endpoint, stream, state });
        let (reader, weak) = (link.clone(), Arc::downgrade(shared));
        std::thread::Builder::new().name("ringraft-client".into()).spawn(move || reader.read(&weak, &rest))?;
        Ok(link)
    }

    /// Sends a call; gives it back if the connection is broken, or full.
    pub(super) fn send(&self, call: Call) -> Result<(), Call> {
        let mut state = self.state();
        if state.broken {
            return Err(call);
        }
        let free = call.free.clone();
        if let Err(error) = state.session.send_encoded(&free, call) {
            let (super::SendError::Full(call) | super::SendError::Request(call, _)) = error;
            return Err(call);
        }
        if state.writing {
            return Ok(());
        }
        // The calls that come while this one is being written go out together after it.
        state.writing = true;
        while !state.session.output().is_empty() && !state.broken {
            let output = state.session.output().split();
            drop(state);
            let written = (&self.stream).write_all(&output);
            state = self.state();
            if written.is_err() {
                state.broken = true;
                self.close();
            }
        }
        state.writing = false;
        Ok(())
    }

    /// Whether it takes no more calls.
    pub(super) fn is_broken(&self) -> bool {
        self.state().broken
    }

    /// Ends the connection; the reader sees to what is under way.
    pub(super) fn close(&self) {
        // It may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Reads until the connection ends.
    fn read(self: Arc<Self>, shared: &Weak<Shared>, rest: &[u8]) {
        let mut buffer = vec![0; RECEIVE_SIZE];
        let mut swept = Instant::now();
        let mut problem = self.receive(shared, rest).err();
        while problem.is_none() {
            match (&self.stream).read(&mut buffer) {
                Ok(0) => problem = Some("the connection was closed".into()),
                Ok(size) => problem = self.receive(shared, &buffer[..size]).err(),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => problem = Some(error.to_string()),
            }
            let now = Instant::now();
            if now.duration_since(swept) >= SWEEP {
                swept = now;
                let late = self.state().session.cancel_if(|call| call.deadline <= now);
                late.into_iter().for_each(|call| {
                    let error = call.lost();
                    call.finish(Err(error));
                });
            }
        }
        self.end(shared, &problem.unwrap_or_default());
    }

    /// Takes received bytes, and does with the replies what they ask for.
    fn receive(&self, shared: &Weak<Shared>, piece: &[u8]) -> Result<(), String> {
        let mut replies = Vec::new();
        let result = self.state().session.receive(piece, |call, answer| replies.push((call, Reply::new(&answer))));
        for (call, reply) in replies {
            let undone =
                matches!(reply.status, Status::NotLeader | Status::NoLeader | Status::Stopping | Status::Unavailable);
            match shared.upgrade().filter(|_| undone) {
                Some(shared) => {
                    shared.reroute(call, self.endpoint, reply.status, reply.arg, &reply.answer().text());
                }
                None => call.finish(Ok(reply)),
            }
        }
        result.map_err(|error| error.to_string())
    }

    /// The connection is over: reads may be sent again, the fate of writes is unknown.
    fn end(self: &Arc<Self>, shared: &Weak<Shared>, problem: &str) {
        self.close();
        let calls = {
            let mut state = self.state();
            state.broken = true;
            state.session.cancel_if(|_| true)
        };
        let shared = shared.upgrade();
        if let Some(shared) = &shared {
            let mut routes = shared.routes();
            let slot = &mut routes.links[self.endpoint];
            if slot.as_ref().is_some_and(|link| Arc::ptr_eq(link, self)) {
                *slot = None;
            }
        }
        for call in calls {
            match &shared {
                Some(shared) if !call.is_write => {
                    let next = (self.endpoint + 1) % shared.endpoints.len();
                    let problem = format!("{}: {problem}", shared.endpoints[self.endpoint]);
                    shared.hand_over(call, next, Duration::ZERO, problem);
                }
                _ => {
                    let error = call.lost();
                    call.finish(Err(error));
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}
