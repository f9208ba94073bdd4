//! The helper thread of a shard: slow file work with plain calls, in the order given.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

use bytes::Bytes;

use super::files::{Durability, Identity};
use super::mail::{Mail, Mailbox};
use super::{files, sys};
use crate::{Job, Token};

/// What a job gives, before its file has become a `FileId` of the shard.
pub(crate) enum Outcome {
    Done,
    Opened(File),
    Loaded(Bytes),
    /// This file has lost its last name; nobody can mean it any more.
    Removed(Identity),
}

/// A job, with the open file it names if it names one.
struct Request {
    job: Job,
    file: Option<Arc<File>>,
    token: Token,
}

/// The thread, started with the first job and ended with the shard.
pub(crate) struct Jobs {
    requests: Option<Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Jobs {
    /// Starts the thread; outcomes go to `mailbox`.
    pub(crate) fn start(name: String, mailbox: Mailbox, durability: Durability) -> io::Result<Jobs> {
        let (requests, inbox) = mpsc::channel::<Request>();
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            for Request { job, file, token } in inbox {
                let result = run(job, file.as_deref(), durability);
                mailbox.put(Mail::JobDone { token, result });
            }
        })?;
        Ok(Jobs { requests: Some(requests), thread: Some(thread) })
    }

    /// Queues a job. `file` is what a `Job::DropCache` names.
    pub(crate) fn put(&self, job: Job, file: Option<Arc<File>>, token: Token) {
        let requests = self.requests.as_ref().expect("there until dropped");
        // The thread ends only after the sender is gone, or when it panicked; then there is nobody to answer either.
        let _ = requests.send(Request { job, file, token });
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(job: Job, file: Option<&File>, durability: Durability) -> io::Result<Outcome> {
    match job {
        Job::CreateZeroed { path, size } => files::create_zeroed(&path, size, durability).map(Outcome::Opened),
        Job::WriteAside { path, offset, bytes } => files::write_aside(&path, offset, &bytes).map(|()| Outcome::Done),
        Job::Commit { from, to } => files::commit(&from, &to).map(|()| Outcome::Done),
        Job::Remove { path } => files::remove(&path).map(|file| file.map_or(Outcome::Done, Outcome::Removed)),
        Job::Load { path } => files::load(&path).map(Outcome::Loaded),
        Job::DropCache { .. } => sys::drop_cache(file.expect("the shard passes the file")).map(|()| Outcome::Done),
    }
}
