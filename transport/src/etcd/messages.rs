//! The message stream: one message after the other, each behind its length. And the body of a `POST` to the pipeline,
//! which is one message without it.
//!
//! | size | field |
//! |---|---|
//! | 8 | length of the message, big-endian |
//! | length | the message: [`raftpb::Message`](Message) |

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{DecodeContext, decode_key, skip_field};

use super::raftpb::Message;
use super::{Limits, WireError, bounded};

/// Bytes of the length.
const LENGTH: usize = 8;

/// Field of a message's entries.
const ENTRIES: u32 = 7;

/// Appends a message with its length.
pub fn put(message: &Message, out: &mut BytesMut) {
    let len = message.encoded_len();
    out.reserve(LENGTH + len);
    out.put_u64(len as u64);
    message.encode(out).expect("room was made");
}

/// A message alone: the body of a `POST` to the pipeline.
#[must_use]
pub fn body(message: &Message) -> Bytes {
    message.encode_to_vec().into()
}

/// Reads a message that is all of `bytes`. Its payloads share their memory.
///
/// # Errors
/// If they are no message, or one beyond the limits.
pub fn decode(bytes: Bytes, limits: &Limits) -> Result<Message, WireError> {
    bounded("message", bytes.len() as u64, limits.message_bytes_max)?;
    let broken = |error| WireError::Protobuf { what: "message", error };
    if count_entries(&bytes).map_err(broken)? > limits.entries_max {
        return Err(WireError::TooManyEntries { max: limits.entries_max });
    }
    Message::decode(bytes).map_err(broken)
}

fn count_entries(mut bytes: &[u8]) -> Result<usize, prost::DecodeError> {
    let mut count = 0;
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes)?;
        skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?;
        count += usize::from(tag == ENTRIES);
    }
    Ok(count)
}

/// Takes the next message from the front of a stream's bytes; `None` if it is not all there yet.
///
/// # Errors
/// If it is none, or beyond the limits: seen as soon as its length is there.
pub fn take(input: &mut BytesMut, limits: &Limits) -> Result<Option<Message>, WireError> {
    let Some(len) = input.first_chunk::<LENGTH>() else { return Ok(None) };
    let len = bounded("message", u64::from_be_bytes(*len), limits.message_bytes_max)?;
    if input.len() < LENGTH + len {
        return Ok(None);
    }
    let message = input.split_to(LENGTH + len).freeze().split_off(LENGTH);
    decode(message, limits).map(Some)
}
