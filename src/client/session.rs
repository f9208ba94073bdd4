//! The client's side of one connection without the connection: requests to bytes, bytes to replies.

use bytes::BytesMut;

use crate::protocol::{
    Answer, AnswerError, Decoder, FrameError, REPLY_BODY_MAX, Request, RequestError, begin_frame, finish_frame,
};

/// Why a connection cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SessionError {
    /// The bytes are no frames.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// A frame is no answer.
    #[error("{0}")]
    Answer(#[from] AnswerError),
    /// An answer is to another operation than its request.
    #[error("a request of op {asked} was answered as op {answered}")]
    Op {
        /// Asked.
        asked: u8,
        /// Answered.
        answered: u8,
    },
}

/// Why a request was not taken; the tag is given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError<T> {
    /// As many are under way as the session allows.
    #[error("too many requests are under way")]
    Full(T),
    /// It breaks a rule.
    #[error("{1}")]
    Request(T, RequestError),
}

/// Requests under way on one connection, each with the caller's own tag.
#[derive(Debug)]
pub struct Session<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    requests_max: usize,
    out: BytesMut,
    decoder: Decoder,
}

/// A place for a request. Its id is the number of its slot, and above it how often the slot was used: so a reply that
/// comes after its request was given up finds nobody.
#[derive(Debug)]
struct Slot<T> {
    uses: u32,
    op: u8,
    tag: Option<T>,
}

impl<T> Session<T> {
    /// One with at most `requests_max` requests under way.
    #[must_use]
    pub fn new(requests_max: usize) -> Session<T> {
        let requests_max = requests_max.min(1 << 31);
        let decoder = Decoder::new(REPLY_BODY_MAX);
        Session { slots: Vec::new(), free: Vec::new(), requests_max, out: BytesMut::new(), decoder }
    }

    /// Appends a request to the output; gives its id.
    ///
    /// # Errors
    /// If it breaks a rule, or too many are under way.
    pub fn send(&mut self, request: &Request<'_>, tag: T) -> Result<u64, SendError<T>> {
        if let Err(error) = request.check() {
            return Err(SendError::Request(tag, error));
        }
        let id = self.open(request.op() as u8, tag)?;
        let start = begin_frame(&mut self.out);
        request.encode(&mut self.out);
        finish_frame(&mut self.out, start, id);
        Ok(id)
    }

    /// As [`send`](Session::send), with a request that is encoded already.
    ///
    /// # Errors
    /// If it breaks a rule, or too many are under way.
    pub fn send_encoded(&mut self, free: &[u8], tag: T) -> Result<u64, SendError<T>> {
        if let Err(error) = Request::decode(free) {
            return Err(SendError::Request(tag, error));
        }
        let id = self.open(free[0], tag)?;
        let start = begin_frame(&mut self.out);
        self.out.extend_from_slice(free);
        finish_frame(&mut self.out, start, id);
        Ok(id)
    }

    /// What is to be sent; whoever has sent it clears it.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Takes received bytes and gives out the replies in them, each with the tag of its request.
    ///
    /// # Errors
    /// If the connection must be closed.
    pub fn receive(&mut self, mut piece: &[u8], mut on_reply: impl FnMut(T, Answer<'_>)) -> Result<(), SessionError> {
        let Session { slots, free, decoder, .. } = self;
        while let Some(frame) = decoder.next(&mut piece)? {
            let answer = Answer::decode(frame.free())?;
            let Some((number, slot)) = find(slots, frame.id()) else { continue };
            if slot.op != answer.op {
                return Err(SessionError::Op { asked: slot.op, answered: answer.op });
            }
            if let Some(tag) = slot.tag.take() {
                free.push(number);
                on_reply(tag, answer);
            }
        }
        Ok(())
    }

    /// Gives up a request; its reply, if one comes, is ignored.
    pub fn cancel(&mut self, id: u64) -> Option<T> {
        let (number, slot) = find(&mut self.slots, id)?;
        let tag = slot.tag.take()?;
        self.free.push(number);
        Some(tag)
    }

    /// Gives up the requests whose tags are to go.
    pub fn cancel_if(&mut self, mut goes: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut gone = Vec::new();
        for (slot, number) in self.slots.iter_mut().zip(0..) {
            if let Some(tag) = slot.tag.take_if(|tag| goes(tag)) {
                self.free.push(number);
                gone.push(tag);
            }
        }
        gone
    }

    /// How many requests are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a slot; its request's id.
    fn open(&mut self, op: u8, tag: T) -> Result<u64, SendError<T>> {
        if self.under_way() >= self.requests_max {
            return Err(SendError::Full(tag));
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { uses: 0, op: 0, tag: None });
            u32::try_from(self.slots.len() - 1).expect("bounded by requests_max")
        });
        let slot = &mut self.slots[number as usize];
        *slot = Slot { uses: slot.uses.wrapping_add(1), op, tag: Some(tag) };
        Ok(u64::from(slot.uses) << 32 | u64::from(number))
    }
}

/// The slot of a request, if it is the latest use of it.
fn find<T>(slots: &mut [Slot<T>], id: u64) -> Option<(u32, &mut Slot<T>)> {
    let number = u32::try_from(id & u64::from(u32::MAX)).expect("masked");
    let slot = slots.get_mut(number as usize).filter(|slot| u64::from(slot.uses) == id >> 32)?;
    Some((number, slot))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Command, REQUEST_BODY_MAX, Status};

    fn reply(id: u64, answer: Answer<'_>) -> BytesMut {
        let mut out = BytesMut::new();
        let start = begin_frame(&mut out);
        answer.encode(&mut out);
        finish_frame(&mut out, start, id);
        out
    }

    #[test]
    fn replies_find_their_requests_in_any_order() {
        let mut session = Session::new(2);
        let put = Request::Write(Command::Put { key: b"k", value: b"v" });
        let first = session.send(&put, "first").unwrap();
        let mut free = BytesMut::new();
        Command::Delete { key: b"k" }.encode(&mut free);
        let second = session.send_encoded(&free, "second").unwrap();
        assert_eq!(session.send(&put, "third"), Err(SendError::Full("third")));
        let empty = Request::Write(Command::Delete { key: b"" });
        assert!(matches!(session.send(&empty, "bad"), Err(SendError::Request("bad", _))));

        let mut decoder = Decoder::new(REQUEST_BODY_MAX);
        let sent = session.output().split();
        let mut piece = &sent[..];
        let mut ids = Vec::new();
        while let Some(frame) = decoder.next(&mut piece).unwrap() {
            ids.push(frame.id());
        }
        assert_eq!(ids, [first, second]);

        let mut got = Vec::new();
        let bytes = [reply(second, Answer::delete(3, true)), reply(first, Answer::put(2))].concat();
        for piece in bytes.chunks(5) {
            session.receive(piece, |tag, answer| got.push((tag, answer.arg))).unwrap();
        }
        assert_eq!(got, [("second", 3), ("first", 2)]);
        assert_eq!(session.under_way(), 0);
    }

    #[test]
    fn late_replies_find_nobody() {
        let mut session = Session::new(1);
        let request = Request::Write(Command::Delete { key: b"k" });
        let late = session.send(&request, 1).unwrap();
        assert_eq!(session.cancel(late), Some(1));
        assert_eq!(session.cancel(late), None);
        let current = session.send(&request, 2).unwrap();
        assert_ne!(late, current);
        let mut got = Vec::new();
        session.receive(&reply(late, Answer::delete(1, false)), |tag, _| got.push(tag)).unwrap();
        assert!(got.is_empty());
        session.receive(&reply(current, Answer::delete(1, false)), |tag, _| got.push(tag)).unwrap();
        assert_eq!(got, [2]);
        session.send(&request, 3).unwrap();
        assert_eq!(session.cancel_if(|_| true), [3]);
        assert_eq!(session.under_way(), 0);
    }

    #[test]
    fn an_answer_to_something_else_ends_it() {
        let mut session = Session::new(1);
        let id = session.send(&Request::Status, ()).unwrap();
        let error = session.receive(&reply(id, Answer::put(1)), |(), _| ()).unwrap_err();
        assert_eq!(error, SessionError::Op { asked: 5, answered: 1 });
        let mut session = Session::new(1);
        let id = session.send(&Request::Status, ()).unwrap();
        let refusal = Answer::refusal(5, Status::Stopping, 0, "");
        session.receive(&reply(id, refusal), |(), answer| assert_eq!(answer.status, Status::Stopping)).unwrap();
    }
}
