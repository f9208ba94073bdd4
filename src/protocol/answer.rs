//! What a node answers: the free part of a reply frame.

use bytes::BytesMut;
use prost::Message as _;

use super::{
    FLAG_DELETED, FLAG_MORE, FREE_HEADER_SIZE, FreeHeader, NodeStatus, Op, REPLY_BIT, REPLY_BODY_MAX, Status, u32_at,
    u64_at,
};

/// Bytes of a pair before its key: key length, value length, mod revision.
pub(super) const PAIR_HEADER_SIZE: usize = 16;

/// Longest text of a refusal, in bytes; longer ones are cut.
const TEXT_SIZE_MAX: usize = 1024;

/// An answer as it is on the wire: the fields, and a body whose meaning hangs on op and status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer<'a> {
    /// Op of the request, as it stands there: one may be refused because it is unknown.
    pub op: u8,
    /// [`FLAG_MORE`], [`FLAG_DELETED`]; unknown ones are to be ignored.
    pub flags: u8,
    /// How it ended.
    pub status: Status,
    /// Revision; after [`Status::NotLeader`] the leader's id.
    pub arg: u64,
    /// Value of a get, pairs of a range, message of a status; after anything but [`Status::Ok`] a text.
    pub body: &'a [u8],
}

/// Why bytes are no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AnswerError {
    /// The fields contradict each other.
    #[error("malformed answer: {0}")]
    Malformed(&'static str),
    /// No such status.
    #[error("status {0} is unknown to this version")]
    UnknownStatus(u16),
}

impl<'a> Answer<'a> {
    /// Reads the free part of a reply frame.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(free: &'a [u8]) -> Result<Answer<'a>, AnswerError> {
        let (header, body) = FreeHeader::split(free).ok_or(AnswerError::Malformed("shorter than a header"))?;
        if header.op & REPLY_BIT == 0 {
            return Err(AnswerError::Malformed("a request where a reply belongs"));
        }
        if header.key_len != 0 {
            return Err(AnswerError::Malformed("a key in a reply"));
        }
        let status = Status::from_u16(header.status).ok_or(AnswerError::UnknownStatus(header.status))?;
        Ok(Answer { op: header.op & !REPLY_BIT, flags: header.flags, status, arg: header.arg, body })
    }

    /// Appends the free part of a reply frame.
    ///
    /// # Panics
    /// If the body is longer than a reply's may be.
    pub fn encode(&self, out: &mut BytesMut) {
        assert!(self.body.len() <= REPLY_BODY_MAX, "a reply has at most {REPLY_BODY_MAX} bytes");
        out.reserve(FREE_HEADER_SIZE + self.body.len());
        out.extend_from_slice(&self.header().encode());
        out.extend_from_slice(self.body);
    }

    /// The answer to a put.
    #[must_use]
    pub fn put(revision: u64) -> Answer<'static> {
        Answer { op: Op::Put as u8, flags: 0, status: Status::Ok, arg: revision, body: b"" }
    }

    /// The answer to a delete; `revision` is that of the state after it.
    #[must_use]
    pub fn delete(revision: u64, deleted: bool) -> Answer<'static> {
        let flags = if deleted { FLAG_DELETED } else { 0 };
        Answer { op: Op::Delete as u8, flags, status: Status::Ok, arg: revision, body: b"" }
    }

    /// The answer to a get of a key that is there.
    #[must_use]
    pub fn value(mod_revision: u64, value: &'a [u8]) -> Answer<'a> {
        Answer { op: Op::Get as u8, flags: 0, status: Status::Ok, arg: mod_revision, body: value }
    }

    /// The answer to a get of a key that is not there; `revision` is that of the state.
    #[must_use]
    pub fn not_found(revision: u64) -> Answer<'static> {
        Answer { op: Op::Get as u8, flags: 0, status: Status::NotFound, arg: revision, body: b"" }
    }

    /// A refusal. `op` is that of the request as it stands there; a long `text` is cut.
    #[must_use]
    pub fn refusal(op: u8, status: Status, arg: u64, text: &'a str) -> Answer<'a> {
        let mut size = text.len().min(TEXT_SIZE_MAX);
        while !text.is_char_boundary(size) {
            size -= 1;
        }
        Answer { op: op & !REPLY_BIT, flags: 0, status, arg, body: &text.as_bytes()[..size] }
    }

    /// Appends the answer to a status request. Groups that do not fit a reply are left out, the highest ones, and
    /// [`more`](Answer::more) says so.
    pub fn encode_status(status: &NodeStatus, out: &mut BytesMut) {
        let mut body = status.encode_to_vec();
        let mut flags = 0;
        if body.len() > REPLY_BODY_MAX {
            // Groups differ little in size: half of what would fit on average always does.
            let fits = status.group.len() * REPLY_BODY_MAX / body.len() / 2;
            let group = status.group[..fits].to_vec();
            body = NodeStatus { group, version: status.version.clone(), ..*status }.encode_to_vec();
            flags = FLAG_MORE;
        }
        Answer { op: Op::Status as u8, flags, status: Status::Ok, arg: 0, body: &body }.encode(out);
    }

    /// The text of a refusal.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.body).into_owned()
    }

    /// Whether there is more behind the last pair of a range.
    #[must_use]
    pub fn more(&self) -> bool {
        self.flags & FLAG_MORE != 0
    }

    /// Whether a delete has removed something.
    #[must_use]
    pub fn deleted(&self) -> bool {
        self.flags & FLAG_DELETED != 0
    }

    /// The pairs of a range.
    #[must_use]
    pub fn pairs(&self) -> Pairs<'a> {
        Pairs { rest: self.body }
    }

    fn header(&self) -> FreeHeader {
        FreeHeader {
            op: self.op | REPLY_BIT,
            flags: self.flags,
            status: self.status.number(),
            key_len: 0,
            arg: self.arg,
        }
    }
}

/// Builds the answer to a range in place, pair by pair, within the bound of a reply.
#[derive(Debug)]
pub struct RangeAnswer<'a> {
    out: &'a mut BytesMut,
    start: usize,
}

impl<'a> RangeAnswer<'a> {
    /// Begins one at the end of `out`.
    pub fn begin(out: &'a mut BytesMut) -> RangeAnswer<'a> {
        let start = out.len();
        out.extend_from_slice(&[0; FREE_HEADER_SIZE]);
        RangeAnswer { out, start }
    }

    /// Adds a pair, if there is room for it.
    pub fn push(&mut self, key: &[u8], value: &[u8], mod_revision: u64) -> bool {
        let room = REPLY_BODY_MAX - (self.out.len() - self.start - FREE_HEADER_SIZE);
        let size = PAIR_HEADER_SIZE + key.len() + value.len();
        if size > room {
            return false;
        }
        self.out.reserve(size);
        self.out.extend_from_slice(&u32::try_from(key.len()).expect("bounded by the room").to_le_bytes());
        self.out.extend_from_slice(&u32::try_from(value.len()).expect("bounded by the room").to_le_bytes());
        self.out.extend_from_slice(&mod_revision.to_le_bytes());
        self.out.extend_from_slice(key);
        self.out.extend_from_slice(value);
        true
    }

    /// Ends it; `revision` is that of the state, `more` whether pairs of the range were left out.
    pub fn finish(self, revision: u64, more: bool) {
        let flags = if more { FLAG_MORE } else { 0 };
        let head = Answer { op: Op::Range as u8, flags, status: Status::Ok, arg: revision, body: b"" };
        self.out[self.start..self.start + FREE_HEADER_SIZE].copy_from_slice(&head.header().encode());
    }
}

/// One pair of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pair<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
    /// The revision that set it.
    pub mod_revision: u64,
}

/// The pairs of a range, in order; after an error nothing more.
#[derive(Clone, Debug)]
pub struct Pairs<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<Pair<'a>, AnswerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let pair = split_pair(self.rest);
        self.rest = pair.map_or(b"", |(_, rest)| rest);
        Some(pair.map(|(pair, _)| pair).ok_or(AnswerError::Malformed("a torn pair")))
    }
}

fn split_pair(bytes: &[u8]) -> Option<(Pair<'_>, &[u8])> {
    let (header, rest) = bytes.split_at_checked(PAIR_HEADER_SIZE)?;
    let (key, rest) = rest.split_at_checked(usize::try_from(u32_at(header, 0)).ok()?)?;
    let (value, rest) = rest.split_at_checked(usize::try_from(u32_at(header, 4)).ok()?)?;
    Some((Pair { key, value, mod_revision: u64_at(header, 8) }, rest))
}

#[cfg(test)]
mod tests {
    use super::super::{GroupStatus, KEY_SIZE_MAX, VALUE_SIZE_MAX};
    use super::*;

    #[test]
    fn round_trip() {
        for answer in [
            Answer::put(9),
            Answer::delete(9, true),
            Answer::delete(9, false),
            Answer::value(3, b"value"),
            Answer::not_found(4),
            Answer::refusal(77, Status::NotLeader, 2, "node 2 leads"),
        ] {
            let mut free = BytesMut::new();
            answer.encode(&mut free);
            assert_eq!(Answer::decode(&free), Ok(answer));
        }
        let long = "ä".repeat(TEXT_SIZE_MAX);
        assert_eq!(Answer::refusal(1, Status::Overloaded, 0, &long).body.len(), TEXT_SIZE_MAX);
    }

    #[test]
    fn refuses() {
        let mut free = BytesMut::new();
        Answer::put(9).encode(&mut free);
        for (at, byte) in [(0, 1), (2, 99), (4, 1)] {
            let mut bad = free.to_vec();
            bad[at] = byte;
            assert!(Answer::decode(&bad).is_err(), "{bad:?}");
        }
        assert!(Answer::decode(&free[..15]).is_err());
    }

    #[test]
    fn a_range_is_bounded() {
        let mut out = BytesMut::new();
        let mut range = RangeAnswer::begin(&mut out);
        assert!(range.push(&[1; KEY_SIZE_MAX], &vec![2; VALUE_SIZE_MAX], 5));
        assert!(range.push(b"k", b"", 6));
        assert!(!range.push(&[1; KEY_SIZE_MAX], &vec![2; VALUE_SIZE_MAX], 7));
        range.finish(8, true);
        let answer = Answer::decode(&out).unwrap();
        assert!(answer.more() && answer.arg == 8 && answer.status == Status::Ok);
        let pairs: Vec<_> = answer.pairs().map(Result::unwrap).collect();
        assert_eq!(pairs.len(), 2);
        assert_eq!(pairs[1], Pair { key: b"k", value: b"", mod_revision: 6 });

        let torn = Answer { body: &answer.body[..answer.body.len() - 1], ..answer };
        let pairs: Vec<_> = torn.pairs().collect();
        assert_eq!(pairs.len(), 2);
        assert!(pairs[0].is_ok() && pairs[1].is_err());
    }

    #[test]
    fn a_status_is_a_message() {
        let status = NodeStatus {
            node_id: 1,
            version: "0.1.0".into(),
            group: vec![GroupStatus { group_id: 3, leader: 2, ..GroupStatus::default() }],
            ..NodeStatus::default()
        };
        let mut out = BytesMut::new();
        Answer::encode_status(&status, &mut out);
        assert_eq!(NodeStatus::decode(Answer::decode(&out).unwrap().body).unwrap(), status);
    }
}
