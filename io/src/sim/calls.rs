//! Dials and file transfers: a request head travels, is judged, and an answer travels back.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use super::ProcessId;
use super::events::{Event, Who};
use super::trace::{Note, hash_bytes};
use super::world::{Inner, index, place};
use crate::head::{HEAD_MAX, head_len, status};
use crate::{CloseReason, Completion, Dial, DialError, Dialed, ListenerKind, SendFile, Time, Token, Verdict};

/// One dial or file transfer under way.
pub(super) struct Call {
    who: Who,
    token: Token,
    /// `None`: it ends without leaving the process.
    target: Option<(ProcessId, ListenerKind)>,
    request: Bytes,
    timeout: Duration,
    progress_at: Time,
    /// For a file transfer, what to send.
    file: Option<Bytes>,
    stage: Stage,
}

enum Stage {
    /// The request is on its way.
    Asking,
    /// The answer is on its way.
    Answering(Answer),
    /// The file is on its way.
    Sending(Incoming),
}

enum Answer {
    Failed(DialError),
    Stream { conn: usize, response: Bytes },
    Invited { incoming: Incoming, response: Bytes },
    Done { response: Bytes },
}

/// A file as its receiver sees it.
#[derive(Clone)]
struct Incoming {
    who: Who,
    path: PathBuf,
    size: u64,
    got: usize,
    done: Bytes,
    greeting: Bytes,
}

impl Inner {
    pub(super) fn dial(&mut self, who: Who, dial: Dial) {
        self.note(Note::AskDial, place(who), dial.token.0, hash_bytes(&dial.request));
        let target = self.addresses.get(&dial.address).copied();
        self.call(who, dial.token, target, dial.request, dial.timeout, None);
    }

    pub(super) fn send_file(&mut self, who: Who, send: SendFile) {
        self.note(Note::AskSendFile, place(who), send.token.0, hash_bytes(&send.request));
        let target = self.addresses.get(&send.address).copied();
        match self.process(who.process).disk.load(&send.path) {
            Ok(file) => {
                self.call(who, send.token, target, send.request, send.timeout, Some(file));
            }
            Err(error) => {
                let call = self.call(who, send.token, None, send.request, send.timeout, Some(Bytes::new()));
                let call = self.calls.get_mut(&call).expect("just made");
                call.stage = Stage::Answering(Answer::Failed(DialError::Io(error.kind())));
            }
        }
    }

    fn call(
        &mut self,
        who: Who,
        token: Token,
        target: Option<(ProcessId, ListenerKind)>,
        request: Bytes,
        timeout: Duration,
        file: Option<Bytes>,
    ) -> u64 {
        assert_eq!(head_len(&request), Some(request.len()), "a request is one whole head");
        assert!(request.len() <= HEAD_MAX, "a request of {} bytes", request.len());
        let start = self.start(who);
        self.calls_made += 1;
        let id = self.calls_made;
        let stage = match target {
            Some(_) => Stage::Asking,
            None => Stage::Answering(Answer::Failed(DialError::Io(io::ErrorKind::ConnectionRefused))),
        };
        self.calls.insert(id, Call { who, token, target, request, timeout, progress_at: start, file, stage });
        self.queue.push(start + timeout, Event::CallTimeout(id));
        if let Some((process, _)) = target {
            // There and back to connect, and there again with the request.
            let way = self.net_delay(who.process, process) + self.net_delay(process, who.process);
            let arrives = start + way + self.net_delay(who.process, process);
            self.queue.push(arrives, Event::CallArrives(id));
        } else {
            let fails = start + self.config.sent_delay.draw(&mut self.rng);
            self.queue.push(fails, Event::CallAnswered(id));
        }
        id
    }

    pub(super) fn call_arrives(&mut self, id: u64) {
        let Some(call) = self.calls.get(&id) else { return };
        let (caller, (process, kind)) = (call.who, call.target.expect("it has left its process"));
        if self.is_blocked(caller.process, process) {
            self.again(Event::CallArrives(id));
            return;
        }
        let answer = if !self.process(process).alive {
            self.counters.dials_unanswered += 1;
            Answer::Failed(DialError::Io(io::ErrorKind::ConnectionRefused))
        } else if self.rng.chance(self.config.dial_failure_chance) {
            self.counters.dials_failed += 1;
            Answer::Failed(DialError::Io(io::ErrorKind::ConnectionReset))
        } else if let Some(until) = self.paused(process) {
            self.queue.push(until, Event::CallArrives(id));
            return;
        } else {
            self.judge(id, process, kind)
        };
        self.answer(id, answer);
    }

    fn judge(&mut self, id: u64, process: ProcessId, kind: ListenerKind) -> Answer {
        let call = &self.calls[&id];
        let (caller, wants_file) = (call.who, call.file.is_some());
        let target = self.process(process);
        let shards = target.shards.len();
        let life = target.life;
        let verdict = target.acceptor.judge(kind, &call.request);
        match verdict {
            Verdict::Refuse { response } => Answer::Failed(refusal(&response).err().unwrap_or(DialError::Garbage)),
            // The two sides disagree about what the connection is for; neither gets anywhere.
            Verdict::Stream { .. } if wants_file => Answer::Failed(DialError::Garbage),
            Verdict::File { .. } if !wants_file => Answer::Failed(DialError::Garbage),
            Verdict::Stream { shard, response, greeting } => {
                assert!(usize::from(shard.0) < shards, "judged for shard {shard} of {shards}");
                let conn = self.connect(caller, Who { process, life, shard }, greeting);
                let handed = self.now + self.config.wake_delay.draw(&mut self.rng);
                self.queue.push(handed, Event::HandOver { conn });
                Answer::Stream { conn, response }
            }
            Verdict::File { shard, response, done, greeting, path, size } => {
                assert!(usize::from(shard.0) < shards, "judged for shard {shard} of {shards}");
                let who = Who { process, life, shard };
                Answer::Invited { incoming: Incoming { who, path, size, got: 0, done, greeting }, response }
            }
        }
    }

    /// Sends an answer back.
    fn answer(&mut self, id: u64, answer: Answer) {
        let call = self.calls.get_mut(&id).expect("looked up by the caller");
        call.stage = Stage::Answering(answer);
        let (caller, target) = (call.who.process, call.target.map_or(call.who.process, |(process, _)| process));
        let arrives = self.now + self.net_delay(target, caller);
        self.queue.push(arrives, Event::CallAnswered(id));
    }

    pub(super) fn call_answered(&mut self, id: u64) {
        let Some(call) = self.calls.get(&id) else { return };
        let caller = call.who.process;
        if let Some((process, _)) = call.target
            && self.is_blocked(process, caller)
        {
            self.again(Event::CallAnswered(id));
            return;
        }
        if let Some(until) = self.paused(caller) {
            self.queue.push(until, Event::CallAnswered(id));
            return;
        }
        if !matches!(call.stage, Stage::Answering(_)) {
            return;
        }
        let mut call = self.calls.remove(&id).expect("looked up above");
        let Stage::Answering(answer) = call.stage else { unreachable!("matched above") };
        match answer {
            Answer::Failed(error) => self.end_call(call.who, call.token, call.file.is_some(), Err(error)),
            Answer::Stream { conn, response } => {
                let result = match refusal(&response) {
                    Err(error) => {
                        self.abandon(conn, 0);
                        Err(error)
                    }
                    Ok(()) => match self.establish(conn, 0) {
                        Ok(stream) => Ok(Dialed { stream, response }),
                        Err(CloseReason::Eof) => Err(DialError::Io(io::ErrorKind::UnexpectedEof)),
                        Err(CloseReason::Error(kind)) => Err(DialError::Io(kind)),
                    },
                };
                self.complete(call.who, Completion::Dialed { token: call.token, result });
            }
            Answer::Invited { incoming, response } => {
                if let Err(error) = refusal(&response) {
                    self.end_call(call.who, call.token, true, Err(error));
                    return;
                }
                call.progress_at = self.now;
                call.stage = Stage::Sending(incoming);
                self.calls.insert(id, call);
                self.queue_piece(id);
            }
            Answer::Done { response } => self.end_call(call.who, call.token, true, refusal(&response)),
        }
    }

    pub(super) fn call_timeout(&mut self, id: u64) {
        let Some(call) = self.calls.get(&id) else { return };
        let deadline = call.progress_at + call.timeout;
        let caller = call.who.process;
        if let Some(until) = self.paused(caller) {
            self.queue.push(until, Event::CallTimeout(id));
        } else if deadline > self.now {
            self.queue.push(deadline, Event::CallTimeout(id));
        } else {
            self.counters.dials_timed_out += 1;
            let call = self.calls.remove(&id).expect("looked up above");
            let error = Err(DialError::Io(io::ErrorKind::TimedOut));
            let (who, token, is_file) = (call.who, call.token, call.file.is_some());
            self.abandon_call(call);
            self.end_call(who, token, is_file, error);
        }
    }

    fn end_call(&mut self, who: Who, token: Token, is_file: bool, result: Result<(), DialError>) {
        if is_file {
            self.complete(who, Completion::FileSent { token, result });
        } else {
            let error = result.expect_err("a dial that succeeds has a stream");
            self.complete(who, Completion::Dialed { token, result: Err(error) });
        }
    }

    // ---- files ----

    fn queue_piece(&mut self, id: u64) {
        let at = self.now + self.config.file_piece_gap.draw(&mut self.rng);
        self.queue.push(at, Event::FilePiece(id));
    }

    pub(super) fn file_piece(&mut self, id: u64) {
        let Some(Call { who: sender, stage: Stage::Sending(incoming), file: Some(file), .. }) = self.calls.get(&id)
        else {
            return;
        };
        let (from, to) = (sender.process, incoming.who.process);
        if let Some(until) = self.paused(from).max(self.paused(to)) {
            self.queue.push(until, Event::FilePiece(id));
            return;
        }
        if self.is_blocked(from, to) || self.is_blocked(to, from) {
            self.again(Event::FilePiece(id));
            return;
        }
        let size = usize::try_from(incoming.size).expect("a simulated file fits in memory");
        let end = (incoming.got + self.config.file_piece_size).min(size).min(file.len());
        let (path, got, mut piece) = (incoming.path.clone(), incoming.got, file.slice(incoming.got..end));
        if !piece.is_empty() && self.rng.chance(self.config.corrupt_chance) {
            self.counters.pieces_corrupted += 1;
            let mut bytes = piece.to_vec();
            let at = self.rng.index(bytes.len());
            bytes[at] ^= 1 << self.rng.below(8);
            piece = Bytes::from(bytes);
        }
        let Inner { processes, counters, .. } = self;
        let wrote = processes[index(to)].disk.write_aside(&path, got as u64, &piece, counters);
        if wrote.is_err() || self.rng.chance(self.config.file_reset_chance) {
            self.break_transfer(id);
            return;
        }
        let now = self.now;
        let call = self.calls.get_mut(&id).expect("looked up above");
        if end > got {
            call.progress_at = now;
        }
        let Stage::Sending(incoming) = &mut call.stage else { unreachable!("matched above") };
        incoming.got = end;
        if end == size {
            let at = now + self.disk_delay(to);
            self.queue.push(at, Event::FileSynced(id));
        } else if end > got {
            self.queue_piece(id);
        }
        // Otherwise the file is shorter than its request said, and both sides wait until one gives up.
    }

    pub(super) fn file_synced(&mut self, id: u64) {
        let Some(Call { stage: Stage::Sending(incoming), .. }) = self.calls.get(&id) else { return };
        let incoming = incoming.clone();
        let receiver = incoming.who;
        let stalled = Some(self.process(receiver.process).disk.stalled_until).filter(|until| *until > self.now);
        if let Some(until) = self.paused(receiver.process).max(stalled) {
            self.queue.push(until, Event::FileSynced(id));
            return;
        }
        self.process_mut(receiver.process).disk.sync(&incoming.path).expect("received a moment ago");
        self.complete(receiver, Completion::FileReceived { greeting: incoming.greeting, path: incoming.path });
        self.answer(id, Answer::Done { response: incoming.done });
    }

    fn break_transfer(&mut self, id: u64) {
        self.counters.transfers_broken += 1;
        let call = self.calls.get_mut(&id).expect("looked up by the caller");
        let stage = std::mem::replace(&mut call.stage, Stage::Asking);
        self.forget_incoming(&stage);
        self.answer(id, Answer::Failed(DialError::Io(io::ErrorKind::ConnectionReset)));
    }

    /// The receiver removes what it has of a file.
    fn forget_incoming(&mut self, stage: &Stage) {
        if let Stage::Sending(Incoming { who, path, .. }) = stage
            && self.is_current(*who)
        {
            self.process_mut(who.process).disk.remove(path);
        }
    }

    // ---- ends ----

    /// The caller is gone or has given up.
    fn abandon_call(&mut self, call: Call) {
        self.forget_incoming(&call.stage);
        if let Stage::Answering(Answer::Stream { conn, .. }) = call.stage {
            self.abandon(conn, 0);
        }
    }

    pub(super) fn crash_calls(&mut self, process: ProcessId) {
        let ids: Vec<u64> = self.calls.keys().copied().collect();
        for id in ids {
            let call = &self.calls[&id];
            let receiver = match &call.stage {
                Stage::Sending(incoming) | Stage::Answering(Answer::Invited { incoming, .. }) => Some(incoming.who),
                _ => None,
            };
            if call.who.process == process {
                let call = self.calls.remove(&id).expect("looked up above");
                self.abandon_call(call);
            } else if receiver.is_some_and(|who| who.process == process) {
                let notice = self.now + self.config.crash_notice_delay.draw(&mut self.rng);
                let call = self.calls.get_mut(&id).expect("looked up above");
                call.stage = Stage::Answering(Answer::Failed(DialError::Io(io::ErrorKind::ConnectionReset)));
                self.queue.push(notice, Event::CallAnswered(id));
            }
        }
    }

    fn again(&mut self, event: Event) {
        let at = self.now + self.config.retry_delay.draw(&mut self.rng);
        self.queue.push(at, event);
    }
}

/// What a caller makes of a response head.
fn refusal(response: &Bytes) -> Result<(), DialError> {
    let len = head_len(response).filter(|len| *len <= HEAD_MAX).ok_or(DialError::Garbage)?;
    match status(&response[..len]) {
        Some(200..300) => Ok(()),
        Some(_) => Err(DialError::Refused(response.slice(..len))),
        None => Err(DialError::Garbage),
    }
}
