//! The thread that connects, and sends again what a node has not done.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::{Call, ClientError, Shared, link};

/// A call that needs a connection, or some patience.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) call: Call,
    /// Which to try first.
    pub(super) endpoint: usize,
    pub(super) not_before: Instant,
    /// Why it is here: the last that is known if nothing helps.
    pub(super) problem: String,
}

/// Serves jobs until the client is dropped; what is left then ends as closed.
pub(super) fn run(shared: &Weak<Shared>, jobs: &Receiver<Job>) {
    let mut waiting: Vec<Job> = Vec::new();
    loop {
        let received = match waiting.iter().map(|job| job.not_before).min() {
            None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => jobs.recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        match received {
            Ok(job) => waiting.push(job),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let Some(shared) = shared.upgrade() else { return };
        let now = Instant::now();
        let (due, later): (Vec<Job>, Vec<Job>) = waiting.into_iter().partition(|job| job.not_before <= now);
        waiting = later;
        waiting.extend(due.into_iter().filter_map(|job| place(&shared, job)));
    }
}

/// Sends the call to the first endpoint that takes it; gives the job back if none does and there is time left.
fn place(shared: &Arc<Shared>, job: Job) -> Option<Job> {
    let Job { mut call, endpoint: first, mut problem, .. } = job;
    if call.deadline <= Instant::now() {
        // It is here because it was never sent, or was refused undone, or is a read.
        call.finish(Err(ClientError::Unreachable(problem)));
        return None;
    }
    let count = shared.endpoints.len();
    for endpoint in (0..count).map(|step| (first + step) % count) {
        let link = match connected(shared, endpoint) {
            Ok(link) => link,
            Err(error) => {
                problem = format!("{}: {error}", shared.endpoints[endpoint]);
                continue;
            }
        };
        {
            let mut routes = shared.routes();
            if let Some(group) = call.group {
                routes.by_group.insert(group, endpoint);
            }
            if routes.links[routes.preferred].is_none() {
                routes.preferred = endpoint;
            }
        }
        match link.send(call) {
            Ok(()) => return None,
            Err(returned) => call = returned,
        }
    }
    Some(Job { call, endpoint: first, not_before: Instant::now() + shared.options.retry_pause, problem })
}

fn connected(shared: &Arc<Shared>, endpoint: usize) -> Result<Arc<link::Link>, String> {
    // One that broke before it was in its place is still there.
    if let Some(link) = shared.routes().links[endpoint].clone().filter(|link| !link.is_broken()) {
        return Ok(link);
    }
    let dialed = link::dial(&shared.endpoints[endpoint], shared.options.connect_timeout)?;
    if dialed.welcome.groups != shared.groups {
        let (there, here) = (dialed.welcome.groups, shared.groups);
        return Err(format!("it has {there} groups, not {here}: not a node of this cluster"));
    }
    shared.adopt(endpoint, dialed).ok_or_else(|| "no thread to serve the connection".into())
}
