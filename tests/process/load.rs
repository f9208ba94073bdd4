//! Client threads that write and read a few keys and remember everything they saw.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringraft::client::{Client, ClientError, ClientOptions};
use ringraft::protocol::{NodeStatus, group_of};

use crate::history::{Kind, Operation, Outcome};

/// Running client threads.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    endpoints: Vec<String>,
    threads: Vec<JoinHandle<Vec<Operation>>>,
}

impl Load {
    /// `threads` clients over `keys` keys. Loads of one cluster have different rounds, so that no value is written twice.
    pub(crate) fn start(endpoints: &[String], round: u64, threads: u64, keys: u64, groups: u64) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let written = Arc::new(AtomicU64::new(0));
        let epoch = *EPOCH.get_or_init(Instant::now);
        let threads = (round * 1000 + 1..=round * 1000 + threads)
            .map(|number| {
                let (stop, written) = (stop.clone(), written.clone());
                let mut endpoints = endpoints.to_vec();
                let by = usize::try_from(number).unwrap() % endpoints.len();
                endpoints.rotate_left(by);
                let worker = Worker {
                    number,
                    endpoints,
                    keys,
                    groups,
                    epoch,
                    state: number,
                    sequence: 0,
                    written_keys: BTreeSet::new(),
                };
                std::thread::spawn(move || worker.run(&stop, &written))
            })
            .collect();
        Load { stop, written, endpoints: endpoints.to_vec(), threads }
    }

    /// Writes acknowledged so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Waits until `count` more writes are acknowledged than now.
    pub(crate) fn wait_for_writes(&self, count: u64) {
        let goal = self.written() + count;
        let begin = Instant::now();
        while self.written() < goal {
            if begin.elapsed() > Duration::from_secs(60) {
                panic!("writes have stopped at {}; the nodes say: {:#?}", self.written(), self.nodes());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What the nodes say of themselves, for a test that fails.
    fn nodes(&self) -> Vec<Result<NodeStatus, ClientError>> {
        let ask = |endpoint: &String| {
            Client::connect(&[endpoint], ClientOptions::default()).and_then(|client| client.status().wait())
        };
        self.endpoints.iter().map(ask).collect()
    }

    /// Stops the clients; what they saw.
    pub(crate) fn finish(self) -> Vec<Operation> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("a client thread")).collect()
    }
}

/// The clock of all loads of this process, so that their histories can be joined.
static EPOCH: OnceLock<Instant> = OnceLock::new();

struct Worker {
    number: u64,
    endpoints: Vec<String>,
    keys: u64,
    groups: u64,
    epoch: Instant,
    state: u64,
    sequence: u64,
    /// Keys that this client has written with success.
    written_keys: BTreeSet<u64>,
}

impl Worker {
    fn run(mut self, stop: &AtomicBool, written: &AtomicU64) -> Vec<Operation> {
        let options = ClientOptions { request_timeout: Duration::from_secs(10), ..ClientOptions::default() };
        let mut history = Vec::new();
        let mut client = None;
        while !stop.load(Ordering::Relaxed) {
            let Some(connected) = &client else {
                client = Client::connect(&self.endpoints, options.clone()).ok();
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            if let Some(operation) = self.operate(connected) {
                if matches!(operation.outcome, Outcome::Written { .. }) {
                    written.fetch_add(1, Ordering::Relaxed);
                }
                history.push(operation);
            }
        }
        history
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).expect("not for centuries")
    }

    fn draw(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % bound
    }

    /// One operation; nothing if it was refused, for then nothing happened.
    fn operate(&mut self, client: &Client) -> Option<Operation> {
        let key = self.draw(self.keys);
        let name = format!("key-{key}");
        self.sequence += 1;
        let value = self.number << 32 | self.sequence;
        let kind = match self.draw(10) {
            0..=5 => Kind::Put(value),
            6..=8 => Kind::Get,
            // Half of the keys are never deleted: there, absence after a write is a loss, whatever else is unknown.
            _ if key.is_multiple_of(2) => Kind::Get,
            _ => Kind::Delete,
        };
        let begin = self.now();
        let outcome = match kind {
            Kind::Put(value) => client.put(name.as_bytes(), &value.to_le_bytes()).wait().map(|revision| {
                self.written_keys.insert(key);
                Outcome::Written { revision, changed: true }
            }),
            Kind::Delete => client
                .delete(name.as_bytes())
                .wait()
                .map(|done| Outcome::Written { revision: done.revision, changed: done.deleted }),
            Kind::Get => match client.get(name.as_bytes()).wait() {
                Ok(Some(found)) => {
                    let value = u64::from_le_bytes(found.value[..].try_into().expect("eight bytes"));
                    Ok(Outcome::Read { value, revision: found.mod_revision })
                }
                // Its revision is not told here, so absence proves nothing for a key that may be deleted.
                Ok(None) if !key.is_multiple_of(2) => return None,
                Ok(None) => {
                    assert!(!self.written_keys.contains(&key), "{name} is gone, and nobody deletes it");
                    return None;
                }
                Err(error) => Err(error),
            },
        };
        let (outcome, end) = match outcome {
            Ok(outcome) => (outcome, self.now()),
            Err(ClientError::Uncertain) => (Outcome::Unknown, u64::MAX),
            Err(ClientError::Protocol(what)) => panic!("{what}"),
            Err(_) => return None,
        };
        let group = group_of(name.as_bytes(), self.groups);
        Some(Operation { group, key, kind, begin, end, outcome })
    }
}

/// After the load: every key must hold what its last acknowledged write put there, or something newer. Added to the
/// history as reads, so that the checker says so.
pub(crate) fn read_all(endpoints: &[String], keys: u64, groups: u64, history: &mut Vec<Operation>) {
    let client = Client::connect(endpoints, ClientOptions::default()).expect("the cluster is up");
    let begin = history.iter().map(|it| if it.end == u64::MAX { it.begin } else { it.end }).max().unwrap_or(0) + 1;
    for key in 0..keys {
        let name = format!("key-{key}");
        let found = client.get(name.as_bytes()).wait().expect("the cluster serves");
        let group = group_of(name.as_bytes(), groups);
        let outcome = match found {
            Some(found) => {
                let value = u64::from_le_bytes(found.value[..].try_into().expect("eight bytes"));
                Outcome::Read { value, revision: found.mod_revision }
            }
            None => {
                // Absent at the end: no acknowledged put may be the last change of the key. The newest revision seen
                // of its group stands for that of the state.
                let revision = history
                    .iter()
                    .filter(|it| it.group == group)
                    .filter_map(|it| match it.outcome {
                        Outcome::Written { revision, .. } | Outcome::Read { revision, .. } => Some(revision),
                        _ => None,
                    })
                    .max()
                    .unwrap_or(1);
                Outcome::Absent { revision }
            }
        };
        history.push(Operation { group, key, kind: Kind::Get, begin, end: begin, outcome });
    }
}
