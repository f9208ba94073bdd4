//! etcd's own peer protocol, so that a member of a real etcd cluster can be built from these crates. Pure: bytes in,
//! messages out, and back. `docs/etcd.md` has every byte.
//!
//! Two members of an etcd cluster hold four long connections: each reads a *message stream* and an *append stream* from
//! the other, which it asked for with a `GET`. A message may also come by `POST` (the *pipeline*, for when a stream is
//! down), and a snapshot comes by a `POST` of its own.
//!
//! | file | what it reads and writes |
//! |---|---|
//! | [`raftpb`] | raft's messages, entries and memberships, as protobuf |
//! | [`requests`] | what etcd puts into an entry: puts, deletes, leases, ... |
//! | [`messages`] | the message stream, and the body of a `POST` to the pipeline |
//! | [`appends`] | the append stream, with its short frames |
//! | [`snapshots`] | the beginning of a snapshot's body |
//! | [`http`], [`chunks`] | heads of requests and answers; bodies in chunks |
//! | [`streams`] | a whole answer to a stream's `GET`: chunks, frames, messages |
//! | [`dialect`] | etcd's messages as those of [`ringraft_raft`], and back |
//!
//! Whoever reads bounds what it reads: a length is looked at before there is memory for it ([`Limits`]), and bytes of
//! any kind end in an error at worst. (etcd is not that patient: bytes that are no protobuf end its process.)

pub mod appends;
pub mod chunks;
pub mod dialect;
pub mod http;
pub mod messages;
pub mod raftpb;
pub mod requests;
pub mod snapshots;
pub mod streams;

#[cfg(test)]
mod tests;

/// What a reader takes at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of a message, or of a frame of the append stream. etcd puts at most 1 MiB of entries into one, or one
    /// entry of any size (by default at most 1.5 MiB).
    pub message_bytes_max: usize,
    /// Entries of a message: one of two bytes takes far more memory than that.
    pub entries_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { message_bytes_max: 64 << 20, entries_max: 1 << 20 }
    }
}

/// Why bytes are not what they should be. The connection they came by is of no use any more.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// They end in the middle.
    #[error("cut short in {0}")]
    Short(&'static str),
    /// A part is longer than the limit.
    #[error("{what} of {len} bytes, more than the {max} allowed")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// How long it says it is.
        len: u64,
        /// How long it may be.
        max: usize,
    },
    /// More entries than the limit.
    #[error("more than {max} entries in one message")]
    TooManyEntries {
        /// How many there may be.
        max: usize,
    },
    /// Bytes that are not the protobuf they should be.
    #[error("{what} that is no protobuf: {error}")]
    Protobuf {
        /// Which part.
        what: &'static str,
        /// What is wrong.
        error: prost::DecodeError,
    },
    /// A frame of the append stream that is of no known type.
    #[error("frame of unknown type {0}")]
    FrameType(u8),
    /// An index that no log can reach.
    #[error("an index beyond all numbers")]
    Index,
    /// Bytes that are not the beginning or the end of a chunk.
    #[error("broken chunk: {0}")]
    Chunk(&'static str),
}

/// A length of the wire as one of memory, if it is within the limit.
fn bounded(what: &'static str, len: u64, max: usize) -> Result<usize, WireError> {
    usize::try_from(len).ok().filter(|len| *len <= max).ok_or(WireError::TooLong { what, len, max })
}

/// Takes a big-endian number from the front, if all of it is there.
fn take_u64(input: &mut bytes::BytesMut) -> Option<u64> {
    let number = u64::from_be_bytes(*input.first_chunk()?);
    bytes::Buf::advance(input, 8);
    Some(number)
}
