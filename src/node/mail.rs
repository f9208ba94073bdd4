//! Post between the shards of one process: a client may be connected to one shard and ask for a group of another.

use std::collections::VecDeque;

use bytes::Bytes;
use ringraft_io::{ShardNo, StreamId};
use ringraft_raft::GroupId;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::server::clients::Place;

/// Where an answer goes: the connection that a request came from, and the request's number there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ReplyTo {
    pub(crate) shard: ShardNo,
    pub(crate) stream: StreamId,
    pub(crate) place: Place,
    pub(crate) id: u64,
    /// The operation asked for, as the request names it: an answer names it too, whatever it says.
    pub(crate) op: u8,
}

/// How a request is carried out: what is left of decoding it. Keys and values are read again where they are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RequestKind {
    /// By an entry of the log.
    Write,
    /// When a leader has confirmed that nothing newer is committed.
    Read,
    /// From the state as it is here.
    Query,
}

/// What shards say to each other.
#[derive(Debug)]
pub(crate) enum Mail {
    /// A client's request (from its position-independent part on) for a group of the receiver. It was decoded.
    Request { group: GroupId, from: ReplyTo, kind: RequestKind, request: Bytes },
    /// The answer to it.
    Answer { to: ReplyTo, answer: Bytes },
}

/// One shard's ends of the rings to and from every other shard.
pub struct Post {
    outgoing: Vec<Option<Outgoing>>,
    incoming: Vec<Consumer<Mail>>,
}

struct Outgoing {
    ring: Producer<Mail>,
    // Answers that found the ring full; bounded by the requests that the receiver has outstanding here.
    overflow: VecDeque<Mail>,
    overflow_size: usize,
    wake: bool,
}

/// Bytes of answers waiting for room beyond which no more reads are answered for that shard.
const OVERFLOW_MAX: usize = 8 << 20;

impl Post {
    /// The posts of `shards` shards; each ring holds `capacity` letters.
    #[must_use]
    pub fn network(shards: u16, capacity: usize) -> Vec<Post> {
        let mut posts: Vec<Post> = (0..shards).map(|_| Post { outgoing: Vec::new(), incoming: Vec::new() }).collect();
        for from in 0..usize::from(shards) {
            for to in 0..usize::from(shards) {
                let outgoing = (from != to).then(|| {
                    let (ring, receiver) = RingBuffer::new(capacity);
                    posts[to].incoming.push(receiver);
                    Outgoing { ring, overflow: VecDeque::new(), overflow_size: 0, wake: false }
                });
                posts[from].outgoing.push(outgoing);
            }
        }
        posts
    }

    /// Sends a request; gives it back if the ring is full, for the client to be refused. Answers go by [`Post::answer`].
    pub(crate) fn send(&mut self, to: ShardNo, mail: Mail) -> Result<(), Mail> {
        let outgoing = self.outgoing(to);
        if !outgoing.overflow.is_empty() {
            return Err(mail);
        }
        match outgoing.ring.push(mail) {
            Ok(()) => {
                outgoing.wake = true;
                Ok(())
            }
            Err(rtrb::PushError::Full(mail)) => Err(mail),
        }
    }

    /// Sends an answer; never lost: what does not fit now goes with a later [`Post::deliver`].
    pub(crate) fn answer(&mut self, to: ReplyTo, answer: Bytes) {
        let outgoing = self.outgoing(to.shard);
        outgoing.overflow_size += answer.len();
        outgoing.overflow.push_back(Mail::Answer { to, answer });
        outgoing.drain();
    }

    /// Whether so much waits for a shard that big answers must be refused.
    pub(crate) fn is_backed_up(&self, to: ShardNo) -> bool {
        self.outgoing[usize::from(to.0)].as_ref().is_some_and(|outgoing| outgoing.overflow_size >= OVERFLOW_MAX)
    }

    fn outgoing(&mut self, to: ShardNo) -> &mut Outgoing {
        self.outgoing[usize::from(to.0)].as_mut().expect("a shard does not write to itself")
    }

    /// The next letter.
    pub(crate) fn next(&mut self) -> Option<Mail> {
        self.incoming.iter_mut().find_map(|ring| ring.pop().ok())
    }

    /// Once per turn: moves what overflowed, and names the shards to wake.
    pub(crate) fn deliver(&mut self, mut wake: impl FnMut(ShardNo)) {
        for (to, outgoing) in self.outgoing.iter_mut().enumerate() {
            let Some(outgoing) = outgoing else { continue };
            outgoing.drain();
            if std::mem::take(&mut outgoing.wake) {
                wake(ShardNo(u16::try_from(to).expect("as many as shards")));
            }
        }
    }

    /// Whether letters wait for room in a ring: the shard must come back soon.
    pub(crate) fn is_stuck(&self) -> bool {
        self.outgoing.iter().flatten().any(|outgoing| !outgoing.overflow.is_empty())
    }
}

impl Outgoing {
    fn drain(&mut self) {
        while let Some(mail) = self.overflow.pop_front() {
            let size = if let Mail::Answer { answer, .. } = &mail { answer.len() } else { 0 };
            match self.ring.push(mail) {
                Ok(()) => {
                    self.overflow_size -= size;
                    self.wake = true;
                }
                Err(rtrb::PushError::Full(mail)) => {
                    self.overflow.push_front(mail);
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_refused_and_answers_kept_when_a_ring_is_full() {
        let mut posts = Post::network(2, 2);
        let mut one = posts.pop().unwrap();
        let mut zero = posts.pop().unwrap();
        let to = |id| ReplyTo { shard: ShardNo(1), stream: StreamId(5), place: Place(0), id, op: 1 };
        for id in 0..5 {
            zero.answer(to(id), Bytes::from_static(b"x"));
        }
        assert!(zero.is_stuck());
        let kind = RequestKind::Write;
        let mail = Mail::Request { group: GroupId(0), from: to(9), kind, request: Bytes::from_static(b"r") };
        let back = zero.send(ShardNo(1), mail);
        assert!(matches!(back, Err(Mail::Request { request, .. }) if request == b"r"[..]));
        let mut got = Vec::new();
        while got.len() < 5 {
            let mut woken = Vec::new();
            zero.deliver(|shard| woken.push(shard));
            assert_eq!(woken, [ShardNo(1)]);
            while let Some(Mail::Answer { to, .. }) = one.next() {
                got.push(to.id);
            }
        }
        assert_eq!(got, [0, 1, 2, 3, 4]);
        assert!(!zero.is_stuck());
    }
}
