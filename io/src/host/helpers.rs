//! The threads that work for a shard, as the shard sees them: what it asks of them, and what they answer.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::control::{Command, ControlHandle};
use super::files::Durability;
use super::jobs::{Jobs, Outcome};
use super::mail::{Mail, Mailbox};
use super::shard::HostShard;
use crate::{Completion, Dial, DialError, Dialed, FileId, Job, JobOutput, SendFile, ShardNo, Token};

/// Letters of the mailbox that a shard hands out per turn at most.
const MAIL_PER_TURN_MAX: usize = 1024;

/// The control thread and the job thread of one shard.
pub(crate) struct Helpers {
    shard: ShardNo,
    mail: Receiver<Mail>,
    mailbox: Mailbox,
    control: ControlHandle,
    jobs: Option<Jobs>,
    durability: Durability,
}

impl Helpers {
    pub(crate) fn new(
        shard: ShardNo,
        mail: Receiver<Mail>,
        mailbox: Mailbox,
        control: ControlHandle,
        durability: Durability,
    ) -> Helpers {
        Helpers { shard, mail, mailbox, control, jobs: None, durability }
    }

    /// Gives a dial to the control thread; its completion if nobody dials any more.
    pub(crate) fn dial(&self, dial: Dial) -> Option<Completion> {
        let token = dial.token;
        let asked = self.control.put(Command::Dial { shard: self.shard, dial });
        (!asked).then(|| Completion::Dialed { token, result: Err(DialError::Io(io::ErrorKind::NotConnected)) })
    }

    /// Gives a file to the control thread; its completion if nobody sends any more.
    pub(crate) fn send_file(&self, send: SendFile) -> Option<Completion> {
        let token = send.token;
        let asked = self.control.put(Command::SendFile { shard: self.shard, send });
        (!asked).then(|| Completion::FileSent { token, result: Err(DialError::Io(io::ErrorKind::NotConnected)) })
    }

    /// Gives a job to the job thread, which starts with the first one; its completion if it fails at once. `file` finds
    /// the file that a job names.
    pub(crate) fn job<'a>(
        &mut self,
        job: Job,
        token: Token,
        file: impl FnOnce(FileId) -> io::Result<&'a Arc<File>>,
    ) -> Option<Completion> {
        let failed = |error| Some(Completion::JobDone { token, result: Err(error) });
        let file = match &job {
            Job::DropCache { file: id } => match file(*id) {
                Ok(file) => Some(file.clone()),
                Err(error) => return failed(error),
            },
            _ => None,
        };
        if self.jobs.is_none() {
            match Jobs::start(format!("ringraft-job-{}", self.shard), self.mailbox.clone(), self.durability) {
                Ok(jobs) => self.jobs = Some(jobs),
                Err(error) => return failed(error),
            }
        }
        self.jobs.as_ref().expect("started above").put(job, file, token);
        None
    }

    /// Waits for the jobs given so far, and ends the job thread.
    pub(crate) fn end_jobs(&mut self) {
        self.jobs = None;
    }

    /// The next letter that has arrived.
    pub(crate) fn letter(&self) -> Option<Mail> {
        self.mail.try_recv().ok()
    }
}

/// Hands out letters; true if there may be more than one turn hands out.
pub(crate) fn take_mail(shard: &mut impl HostShard, out: &mut Vec<Completion>) -> bool {
    for _ in 0..MAIL_PER_TURN_MAX {
        let Some(mail) = shard.common().helpers.letter() else { return false };
        out.push(open_mail(mail, shard));
    }
    true
}

/// What a letter says to the caller of `shard`.
fn open_mail(mail: Mail, shard: &mut impl HostShard) -> Completion {
    match mail {
        Mail::Accepted { fd, permit, greeting } => {
            Completion::Accepted { stream: shard.adopt_stream(fd, Some(permit)), greeting }
        }
        Mail::Dialed { token, result } => {
            let result = result.map(|(fd, response)| Dialed { stream: shard.adopt_stream(fd, None), response });
            Completion::Dialed { token, result }
        }
        Mail::FileSent { token, result } => Completion::FileSent { token, result },
        Mail::FileReceived { greeting, path } => Completion::FileReceived { greeting, path },
        Mail::JobDone { token, result } => {
            let result = result.map(|outcome| match outcome {
                Outcome::Done => JobOutput::Done,
                Outcome::Opened(file) => JobOutput::Opened(shard.adopt_file(file)),
                Outcome::Loaded(bytes) => JobOutput::Loaded(bytes),
                Outcome::Removed(identity) => {
                    shard.removed(identity);
                    JobOutput::Done
                }
            });
            Completion::JobDone { token, result }
        }
    }
}
