//! The append stream, which etcd calls msgappv2: a leader's appends, most of them without what both ends know already.
//!
//! | type | what follows the type's byte | meaning |
//! |---|---|---|
//! | 0 | nothing | the link is alive |
//! | 1 | count (8), for each entry its length (8) and [`raftpb::Entry`](Entry), commit index (8) | the next append |
//! | 2 | length (8), [`raftpb::Message`](Message) | any append |
//!
//! Numbers are big-endian. Both ends remember where the last append of this connection ended: at first (0, 0); after a
//! frame of type 2, its term and its last index; a frame of type 1 continues from there in that term, and says neither.

use bytes::{Buf as _, BufMut, BytesMut};
use prost::Message as _;

use super::raftpb::{Entry, Message, MessageType, Snapshot};
use super::{Limits, WireError, bounded, messages, take_u64};

const LINK_HEARTBEAT: u8 = 0;
const NEXT: u8 = 1;
const ANY: u8 = 2;

/// Where the last append ended.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Position {
    term: u64,
    index: u64,
}

impl Position {
    /// After a frame of type 2, whether raft takes what it says or not.
    fn after(message: &Message) -> Position {
        let index = message.entries.last().map_or(message.index, |last| last.index);
        Position { term: message.term, index }
    }

    /// Whether a frame of type 1 says all of this message.
    fn says(self, message: &Message) -> bool {
        let continues = message.r#type == i32::from(MessageType::App)
            && (message.index, message.log_term, message.term) == (self.index, self.term, self.term);
        // etcd does not look at the rest: there, an append has no more to say, and its entries are a run.
        let plain = !message.reject
            && (message.reject_hint, message.vote, &message.context) == (0, None, &None)
            && message.snapshot == Snapshot::default();
        let index_of = |n: usize| self.index.checked_add(n as u64 + 1);
        let run = || message.entries.iter().enumerate().all(|(n, entry)| index_of(n) == Some(entry.index));
        continues && plain && run()
    }
}

/// The writing end of one connection.
#[derive(Default, Debug)]
pub struct AppendWriter {
    at: Position,
}

impl AppendWriter {
    /// Appends the frame of a message, or of a [link heartbeat](Message::link_heartbeat). Sender and receiver of the
    /// message must be those of the link: a short frame does not say them.
    pub fn put(&mut self, message: &Message, out: &mut BytesMut) {
        if message.is_link_heartbeat() {
            out.put_u8(LINK_HEARTBEAT);
        } else if self.at.says(message) {
            out.put_u8(NEXT);
            out.put_u64(message.entries.len() as u64);
            for entry in &message.entries {
                out.put_u64(entry.encoded_len() as u64);
                entry.encode(out).expect("it grows");
            }
            out.put_u64(message.commit);
            self.at.index += message.entries.len() as u64;
        } else {
            out.put_u8(ANY);
            messages::put(message, out);
            self.at = Position::after(message);
        }
    }
}

/// The reading end of one connection.
#[derive(Debug)]
pub struct AppendReader {
    remote: u64,
    local: u64,
    limits: Limits,
    at: Position,
    expect: Expect,
    /// Of the short frame that is being read: entries so far, how many more there are, and bytes that are left to it.
    entries: Vec<Entry>,
    missing: u64,
    bytes_left: usize,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expect {
    Type,
    Count,
    EntryLength,
    Entry(usize),
    Commit,
    Message,
}

impl AppendReader {
    /// Reads what `remote` writes to `local`, the member ids of the two ends.
    #[must_use]
    pub fn new(remote: u64, local: u64, limits: Limits) -> AppendReader {
        AppendReader {
            remote,
            local,
            limits,
            at: Position::default(),
            expect: Expect::Type,
            entries: Vec::new(),
            missing: 0,
            bytes_left: 0,
        }
    }

    /// Whether the bytes taken so far end with a frame.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.expect == Expect::Type
    }

    /// Takes the next message from the front of the stream's bytes, or as much of it as is there.
    ///
    /// # Errors
    /// If it is none, or beyond the limits. The stream is at its end then.
    pub fn take(&mut self, input: &mut BytesMut) -> Result<Option<Message>, WireError> {
        loop {
            match self.expect {
                Expect::Type => {
                    let Some(kind) = input.first().copied() else { return Ok(None) };
                    input.advance(1);
                    match kind {
                        LINK_HEARTBEAT => return Ok(Some(Message::link_heartbeat())),
                        NEXT => self.expect = Expect::Count,
                        ANY => self.expect = Expect::Message,
                        other => return Err(WireError::FrameType(other)),
                    }
                }
                Expect::Count => {
                    let Some(count) = take_u64(input) else { return Ok(None) };
                    let max = self.limits.entries_max;
                    bounded("", count, max).map_err(|_| WireError::TooManyEntries { max })?;
                    (self.missing, self.bytes_left) = (count, self.limits.message_bytes_max);
                    self.expect_next();
                }
                Expect::EntryLength => {
                    let Some(len) = take_u64(input) else { return Ok(None) };
                    let len = bounded("entry", len, self.bytes_left)?;
                    self.bytes_left -= len;
                    self.expect = Expect::Entry(len);
                }
                Expect::Entry(len) => {
                    if input.len() < len {
                        return Ok(None);
                    }
                    let entry = Entry::decode(input.split_to(len).freeze());
                    self.entries.push(entry.map_err(|error| WireError::Protobuf { what: "entry", error })?);
                    self.missing -= 1;
                    self.expect_next();
                }
                Expect::Commit => {
                    let Some(commit) = take_u64(input) else { return Ok(None) };
                    self.expect = Expect::Type;
                    return self.next_append(commit).map(Some);
                }
                Expect::Message => {
                    let Some(message) = messages::take(input, &self.limits)? else { return Ok(None) };
                    self.at = Position::after(&message);
                    self.expect = Expect::Type;
                    return Ok(Some(message));
                }
            }
        }
    }

    fn expect_next(&mut self) {
        self.expect = if self.missing > 0 { Expect::EntryLength } else { Expect::Commit };
    }

    fn next_append(&mut self, commit: u64) -> Result<Message, WireError> {
        let entries = std::mem::take(&mut self.entries);
        let Position { term, index } = self.at;
        self.at.index = index.checked_add(entries.len() as u64).ok_or(WireError::Index)?;
        Ok(Message {
            r#type: MessageType::App.into(),
            to: self.local,
            from: self.remote,
            term,
            log_term: term,
            index,
            entries,
            commit,
            ..Message::default()
        })
    }
}
