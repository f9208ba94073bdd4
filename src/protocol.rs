//! The client protocol: what a client and a node say to each other; pure.
//!
//! After the heads ([`head`]) both sides send **frames**, all numbers little-endian:
//!
//! ```text
//! offset  size  field
//!      0     4  body length
//!      4     4  CRC-32 (IEEE) over bytes 0..4, 8..32 and the body
//!      8     8  request id; a reply repeats it
//!     16     1  op: 1 put, 2 get, 3 delete, 4 range, 5 status; in a reply | 0x80
//!     17     1  flags: 1 serializable (request), 2 more (range reply), 4 deleted (delete reply)
//!     18     2  status (replies; 0 is ok)
//!     20     4  key length
//!     24     8  arg
//!     32     -  body: the key, then the value or the range end
//! ```
//!
//! From [`FREE_AT`] on a frame does not depend on where it stands or whose it is. So the part behind it goes through
//! the node as it came: that of a put or delete is a [`Command`] and goes into the log, that of a get or range is a
//! [`Query`], and what a state machine answers is that of the reply ([`Answer`]). [`begin_frame`] and [`finish_frame`]
//! put the front before it in place.
//!
//! `docs/client-protocol.md` tells the whole of it.

use bytes::BytesMut;

mod answer;
mod decoder;
mod group;
pub mod head;
mod request;
mod status;

pub use answer::{Answer, AnswerError, Pair, Pairs, RangeAnswer};
pub use decoder::{Decoder, Frame, FrameError};
pub use group::{group_of, key_hash};
pub use request::{Command, Query, Request, RequestError};
pub use status::{GroupRole, GroupStatus, NodeStatus, Status};

/// Version of this protocol, told in the heads.
pub const PROTOCOL_VERSION: u32 = 1;

/// Bytes of a frame before its body.
pub const HEADER_SIZE: usize = 32;

/// Where the part of a frame begins that is the same wherever it stands.
pub const FREE_AT: usize = 16;

/// Bytes of that part before the body.
pub const FREE_HEADER_SIZE: usize = HEADER_SIZE - FREE_AT;

/// Longest key, in bytes; the shortest has one.
pub const KEY_SIZE_MAX: usize = 4096;

/// Longest value, in bytes.
pub const VALUE_SIZE_MAX: usize = 1 << 20;

/// Longest body of a request, in bytes.
pub const REQUEST_BODY_MAX: usize = KEY_SIZE_MAX + VALUE_SIZE_MAX;

/// Longest command or query, in bytes: what the log and the forwarding paths must be able to carry.
pub const COMMAND_SIZE_MAX: usize = FREE_HEADER_SIZE + REQUEST_BODY_MAX;

/// Longest body of a reply, in bytes.
pub const REPLY_BODY_MAX: usize = 2 << 20;

// One pair of a range always fits, so that a client can get on.
const _: () = assert!(REPLY_BODY_MAX >= answer::PAIR_HEADER_SIZE + KEY_SIZE_MAX + VALUE_SIZE_MAX);

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Op {
    /// Set a key.
    Put = 1,
    /// Read a key.
    Get = 2,
    /// Remove a key.
    Delete = 3,
    /// Read the keys of an interval, in order.
    Range = 4,
    /// Ask the node about itself.
    Status = 5,
}

impl Op {
    /// The op with this number, if there is one.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Op> {
        match number {
            1 => Some(Op::Put),
            2 => Some(Op::Get),
            3 => Some(Op::Delete),
            4 => Some(Op::Range),
            5 => Some(Op::Status),
            _ => None,
        }
    }

    /// Whether it changes the state.
    #[must_use]
    pub fn is_write(self) -> bool {
        matches!(self, Op::Put | Op::Delete)
    }
}

/// Set in the op byte of a reply.
pub const REPLY_BIT: u8 = 0x80;

/// Flag of a get or range: answer from the node's own state, which may be behind.
pub const FLAG_SERIALIZABLE: u8 = 1;

/// Flag of a range reply: there is more behind the last pair.
pub const FLAG_MORE: u8 = 2;

/// Flag of a delete reply: there was something to delete.
pub const FLAG_DELETED: u8 = 4;

/// Reserves the front of a frame at the end of `out`; gives the frame's start for [`finish_frame`]. What is appended
/// to `out` in between is the frame from [`FREE_AT`] on.
pub fn begin_frame(out: &mut BytesMut) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; FREE_AT]);
    start
}

/// Fills in the front of the frame that began at `start` and ends at the end of `out`: length, checksum and `id`.
///
/// # Panics
/// If no whole header follows `start`, or the body is longer than any frame's may be.
pub fn finish_frame(out: &mut BytesMut, start: usize, id: u64) {
    let frame = &mut out[start..];
    assert!(frame.len() >= HEADER_SIZE, "a frame has a whole header");
    let body = frame.len() - HEADER_SIZE;
    assert!(body <= REPLY_BODY_MAX, "a frame's body has at most {REPLY_BODY_MAX} bytes, not {body}");
    let body = u32::try_from(body).expect("bounded above");
    frame[0..4].copy_from_slice(&body.to_le_bytes());
    frame[8..16].copy_from_slice(&id.to_le_bytes());
    let crc = frame_crc(frame);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Appends the whole frame of a request.
pub fn encode_request(out: &mut BytesMut, id: u64, request: &Request<'_>) {
    let start = begin_frame(out);
    request.encode(out);
    finish_frame(out, start, id);
}

/// The checksum of a whole frame, whatever its checksum field says.
fn frame_crc(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[0..4]);
    hasher.update(&frame[8..]);
    hasher.finalize()
}

/// The fixed fields of the free part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct FreeHeader {
    op: u8,
    flags: u8,
    status: u16,
    key_len: u32,
    arg: u64,
}

impl FreeHeader {
    fn encode(self) -> [u8; FREE_HEADER_SIZE] {
        let mut bytes = [0; FREE_HEADER_SIZE];
        bytes[0] = self.op;
        bytes[1] = self.flags;
        bytes[2..4].copy_from_slice(&self.status.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.key_len.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.arg.to_le_bytes());
        bytes
    }

    /// The fields and the body; `None` if there is no whole header.
    fn split(free: &[u8]) -> Option<(FreeHeader, &[u8])> {
        let (header, body) = free.split_first_chunk::<FREE_HEADER_SIZE>()?;
        let fields = FreeHeader {
            op: header[0],
            flags: header[1],
            status: u16::from_le_bytes([header[2], header[3]]),
            key_len: u32_at(header, 4),
            arg: u64_at(header, 8),
        };
        Some((fields, body))
    }
}

/// The number at `at`; the caller has checked the length.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The number at `at`; the caller has checked the length.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../docs/client-protocol.md");

    /// The bytes of the examples of the page, in order.
    fn examples() -> Vec<Vec<u8>> {
        let blocks = PAGE.split("```hex\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        let line = |line: &str| line.split('#').next().unwrap().split_whitespace().map(byte).collect::<Vec<u8>>();
        blocks.map(|block| block.lines().flat_map(line).collect()).collect()
    }

    fn byte(digits: &str) -> u8 {
        u8::from_str_radix(digits, 16).unwrap()
    }

    fn reply(id: u64, answer: Answer<'_>) -> Vec<u8> {
        let mut out = BytesMut::new();
        let start = begin_frame(&mut out);
        answer.encode(&mut out);
        finish_frame(&mut out, start, id);
        out.to_vec()
    }

    fn request(id: u64, request: Request<'_>) -> Vec<u8> {
        let mut out = BytesMut::new();
        encode_request(&mut out, id, &request);
        out.to_vec()
    }

    #[test]
    fn the_page_tells_the_truth() {
        let want = [
            request(1, Request::Write(Command::Put { key: b"k", value: b"v" })),
            reply(1, Answer::put(2)),
            request(7, Request::Read(Query::Get { key: b"k", serializable: false })),
            reply(7, Answer::refusal(Op::Get as u8, Status::NotLeader, 3, "node 3 leads")),
        ];
        assert_eq!(examples(), want);
        for bytes in &want {
            let mut piece = &bytes[..];
            let mut decoder = Decoder::new(REQUEST_BODY_MAX);
            assert_eq!(decoder.next(&mut piece).unwrap().unwrap().bytes(), bytes);
        }
        for fact in [
            format!("at most {REQUEST_BODY_MAX} in a request, {REPLY_BODY_MAX} in a reply"),
            format!("1 to {KEY_SIZE_MAX} bytes, a value 0 to {VALUE_SIZE_MAX}"),
            format!("Key `ringraft` is in group {} of 16", group_of(b"ringraft", 16)),
        ] {
            assert!(PAGE.contains(&fact), "{fact}");
        }
        for number in 0..=u16::MAX {
            if let Some(status) = Status::from_u16(number).filter(|status| *status != Status::NotLeader) {
                let name = if status == Status::Uncertain { "uncertain".into() } else { status.to_string() };
                assert!(PAGE.contains(&format!("| {number:>6} | {name:<11} |")), "{status}");
            }
        }
    }
}
