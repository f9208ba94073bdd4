//! A simulated client: one operation at a time over one connection, everything it sees goes into the history.

use std::time::Duration;

use bytes::BytesMut;
use ringraft::protocol::head::{self, Hello};
use ringraft::protocol::{Answer, Command, Decoder, Query, REPLY_BODY_MAX, Request, Status, encode_request, group_of};
use ringraft_io::sim::{Rng, SimIo};
use ringraft_io::{Completion, Dial, Io, StreamId, Time, Token};

use crate::history::{Kind, Operation, Outcome};

/// One closed-loop client.
pub(crate) struct SimClient {
    io: SimIo,
    rng: Rng,
    number: u64,
    endpoints: Vec<String>,
    groups: u64,
    keys: u64,
    state: State,
    decoder: Decoder,
    sequence: u64,
    wake: Time,
    /// The last request has not been taken by the network yet.
    sending: bool,
    dials: u64,
    /// The operation under way.
    current: Option<Operation>,
    /// Operations that have ended.
    pub(crate) history: Vec<Operation>,
    /// No new operations.
    pub(crate) resting: bool,
    completions: Vec<Completion>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Unconnected,
    Dialing,
    Connected(StreamId),
}

/// After that a client gives up on an answer. Longer than a server's patience.
const PATIENCE: Duration = Duration::from_secs(8);

impl SimClient {
    pub(crate) fn new(io: SimIo, rng: Rng, number: u64, endpoints: Vec<String>, groups: u64, keys: u64) -> SimClient {
        SimClient {
            io,
            rng,
            number,
            endpoints,
            groups,
            keys,
            state: State::Unconnected,
            decoder: Decoder::new(REPLY_BODY_MAX),
            sequence: 0,
            wake: Time(0),
            sending: false,
            dials: 0,
            current: None,
            history: Vec::new(),
            resting: false,
            completions: Vec::new(),
        }
    }

    /// Operations that ended with a known outcome.
    pub(crate) fn known(&self) -> usize {
        self.history.iter().filter(|operation| operation.outcome != Outcome::Unknown).count()
    }

    pub(crate) fn turn(&mut self) {
        let mut completions = std::mem::take(&mut self.completions);
        self.io.turn(Some(self.wake), &mut completions).expect("the simulated world does not break");
        for completion in completions.drain(..) {
            self.complete(completion);
        }
        self.completions = completions;
        self.act();
    }

    fn act(&mut self) {
        let now = self.io.now();
        if now < self.wake {
            return;
        }
        match self.state {
            State::Unconnected => self.dial(),
            State::Dialing => self.wake = now + PATIENCE,
            State::Connected(stream) if self.current.is_some() => {
                // No answer in all this time: this connection is of no use.
                self.io.close(stream);
                self.disconnected();
            }
            State::Connected(_) if self.resting => self.wake = now + PATIENCE,
            State::Connected(_) if self.sending => self.pause(),
            State::Connected(stream) => self.begin(stream),
        }
    }

    fn dial(&mut self) {
        let address = self.endpoints[self.rng.index(self.endpoints.len())].clone();
        let request = head::request_head(&address, &Hello::default());
        self.dials += 1;
        let token = Token(self.dials);
        self.io.dial(Dial { token, address, request, timeout: Duration::from_secs(1) });
        self.state = State::Dialing;
        self.wake = self.io.now() + PATIENCE;
    }

    fn disconnected(&mut self) {
        if let Some(operation) = self.current.take() {
            self.history.push(Operation { end: u64::MAX, outcome: Outcome::Unknown, ..operation });
        }
        self.state = State::Unconnected;
        self.pause();
    }

    fn pause(&mut self) {
        self.wake = self.io.now() + Duration::from_millis(self.rng.between(1, 40));
    }

    fn begin(&mut self, stream: StreamId) {
        let key = self.rng.below(self.keys);
        self.sequence += 1;
        let value = self.number << 32 | self.sequence;
        let kind = match self.rng.below(10) {
            0..=4 => Kind::Put(value),
            5..=8 => Kind::Get,
            _ => Kind::Delete,
        };
        let name = key_name(key);
        let bytes = value_bytes(value);
        let request = match kind {
            Kind::Put(_) => Request::Write(Command::Put { key: &name, value: &bytes }),
            Kind::Get => Request::Read(Query::Get { key: &name, serializable: false }),
            Kind::Delete => Request::Write(Command::Delete { key: &name }),
        };
        let mut out = BytesMut::new();
        encode_request(&mut out, self.sequence, &request);
        let mut bufs = self.io.send_bufs();
        bufs.push(out.freeze());
        self.io.send(stream, bufs);
        self.sending = true;
        let group = group_of(&name, self.groups);
        let begin = self.io.now().0;
        self.current = Some(Operation { group, key, kind, begin, end: u64::MAX, outcome: Outcome::Unknown });
        self.wake = self.io.now() + PATIENCE;
    }

    fn complete(&mut self, completion: Completion) {
        match completion {
            Completion::Dialed { token, result } if token.0 == self.dials => match result {
                Ok(dialed) => {
                    head::judge_response(&dialed.response).expect("the nodes speak our protocol");
                    self.decoder = Decoder::new(REPLY_BODY_MAX);
                    self.sending = false;
                    self.state = State::Connected(dialed.stream);
                    self.io.receive(dialed.stream);
                    self.pause();
                }
                Err(_) => self.disconnected(),
            },
            Completion::Dialed { result: Ok(dialed), .. } => self.io.close(dialed.stream),
            Completion::Received { stream, data } if self.state == State::Connected(stream) => {
                let mut piece: &[u8] = &data;
                let mut answers = Vec::new();
                while let Some(frame) = self.decoder.next(&mut piece).expect("bytes from nodes are frames") {
                    answers.push((frame.id(), frame.free().to_vec()));
                }
                for (id, answer) in answers {
                    if id == self.sequence {
                        self.answered(stream, &answer);
                    }
                }
            }
            Completion::Sent { stream, .. } if self.state == State::Connected(stream) => self.sending = false,
            Completion::Closed { stream, .. } if self.state == State::Connected(stream) => self.disconnected(),
            _ => {}
        }
    }

    fn answered(&mut self, stream: StreamId, answer: &[u8]) {
        let Some(mut operation) = self.current.take() else { return };
        operation.end = self.io.now().0;
        let answer = Answer::decode(answer).expect("nodes answer in our protocol");
        operation.outcome = match (answer.status, operation.kind) {
            (Status::Ok, Kind::Put(_)) => Outcome::Written { revision: answer.arg, changed: true },
            (Status::Ok, Kind::Delete) => Outcome::Written { revision: answer.arg, changed: answer.deleted() },
            (Status::Ok, Kind::Get) => {
                let value = u64::from_le_bytes(answer.body[..8].try_into().expect("eight bytes"));
                assert_eq!(answer.body, value_bytes(value), "a damaged value was served");
                Outcome::Read { value, revision: answer.arg }
            }
            (Status::NotFound, Kind::Get) => Outcome::Absent { revision: answer.arg },
            (Status::Uncertain, _) => Outcome::Unknown,
            // A definite refusal: nothing happened, and nothing is to be remembered. Perhaps another node knows more.
            (Status::NoLeader | Status::NotLeader | Status::Overloaded | Status::Unavailable, _) => {
                if self.rng.chance(0.5) {
                    self.io.close(stream);
                    self.state = State::Unconnected;
                }
                return self.pause();
            }
            other => panic!("{operation:?} was answered with {other:?}: {}", answer.text()),
        };
        if operation.outcome == Outcome::Unknown {
            operation.end = u64::MAX;
        }
        self.history.push(operation);
        self.pause();
    }
}

fn key_name(key: u64) -> Vec<u8> {
    format!("key-{key}").into_bytes()
}

/// Values of many sizes; what follows the number follows from it.
fn value_bytes(value: u64) -> Vec<u8> {
    let mut rng = Rng::new(value);
    let len = rng.below(300);
    let mut bytes = value.to_le_bytes().to_vec();
    bytes.extend((0..len).map(|_| u8::try_from(rng.below(256)).expect("a byte")));
    bytes
}
