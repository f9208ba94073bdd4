//! Frames: what a stream is cut into, and the header that makes a cut trustworthy. Pure.
//!
//! Header, little-endian, [`HEADER`] bytes; the body that follows is a multiple of 8 bytes:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 2 | magic, `rr` |
//! | 2 | 1 | version, 1 |
//! | 3 | 1 | kind, [`FrameKind`] |
//! | 4 | 4 | CRC-32 of the link's bytes ([`Link`]), bytes 0..4 and 8..32 |
//! | 8 | 4 | body length, at most [`FrameKind::body_max`] |
//! | 12 | 4 | CRC-32 of the link's bytes and the body |
//! | 16 | 8 | number of the frame in its stream, from 0 |
//! | 24 | 4 | count of sections or items in the body |
//! | 28 | 4 | flags, 0 |

use crc32fast::Hasher;
use ringraft_io::ShardNo;
use ringraft_raft::PeerId;

/// Bytes before the body.
pub const HEADER: usize = 32;

/// What a frame begins with.
pub const MAGIC: [u8; 2] = *b"rr";

/// The version of this layout.
pub const VERSION: u8 = 1;

/// Longest body of a frame of appends.
pub const APPEND_BODY_MAX: usize = 64 << 20;

/// Longest body of a frame of messages.
pub const MESSAGE_BODY_MAX: usize = 16 << 20;

/// A cluster; two clusters never talk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ClusterId(pub u64);

/// What a stream is for. Either kind may carry either kind of frame: when one stream is down, the other helps out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum StreamKind {
    /// Appends in bulk.
    Append = 1,
    /// Everything small that must not wait behind bulk.
    Message = 2,
}

impl StreamKind {
    /// Both.
    pub const ALL: [StreamKind; 2] = [StreamKind::Append, StreamKind::Message];

    /// The kind with this number, if there is one.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<StreamKind> {
        StreamKind::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> StreamKind {
        match self {
            StreamKind::Append => StreamKind::Message,
            StreamKind::Message => StreamKind::Append,
        }
    }

    pub(crate) fn slot(self) -> usize {
        self as usize - 1
    }
}

/// One connection between two nodes, as its checksums know it: a piece of any other connection never verifies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Link {
    /// The cluster.
    pub cluster: ClusterId,
    /// Who writes: the side that accepted.
    pub from: PeerId,
    /// Who reads: the side that dialed.
    pub to: PeerId,
    /// What for.
    pub kind: StreamKind,
    /// The shard, the same number on both sides.
    pub shard: ShardNo,
    /// What the accepting side chose for this connection.
    pub salt: u64,
}

impl Link {
    /// The start value of every checksum on this connection: the CRC-32 of cluster, from, to, salt, kind and shard, as
    /// six 64-bit numbers.
    #[must_use]
    pub fn seed(&self) -> u32 {
        let mut hasher = Hasher::new();
        let words = [self.cluster.0, self.from.0, self.to.0, self.salt, self.kind as u64, u64::from(self.shard.0)];
        words.iter().for_each(|word| hasher.update(&word.to_le_bytes()));
        hasher.finalize()
    }
}

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// Sections, one per append ([`codec`](crate::codec)).
    Append = 1,
    /// Items, one per message or proposal ([`codec`](crate::codec)).
    Message = 2,
    /// Nothing: the writer is alive and has nothing to say.
    LinkHeartbeat = 3,
}

impl FrameKind {
    /// The kind with this number, if there is one.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<FrameKind> {
        match number {
            1 => Some(FrameKind::Append),
            2 => Some(FrameKind::Message),
            3 => Some(FrameKind::LinkHeartbeat),
            _ => None,
        }
    }

    /// Longest body, in bytes.
    #[must_use]
    pub const fn body_max(self) -> usize {
        match self {
            FrameKind::Append => APPEND_BODY_MAX,
            FrameKind::Message => MESSAGE_BODY_MAX,
            FrameKind::LinkHeartbeat => 0,
        }
    }
}

/// A frame's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the body is.
    pub kind: FrameKind,
    /// Its length in bytes; a multiple of 8.
    pub body_len: u32,
    /// Its checksum.
    pub body_crc: u32,
    /// Number of the frame in its stream.
    pub number: u64,
    /// How many sections or items the body holds.
    pub count: u32,
}

impl Header {
    /// The bytes of this header on the connection with this [`Link::seed`].
    ///
    /// # Panics
    /// If the body is longer than its kind allows, or not a multiple of 8 bytes.
    #[must_use]
    pub fn encode(&self, seed: u32) -> [u8; HEADER] {
        assert!(self.body_len as usize <= self.kind.body_max() && self.body_len.is_multiple_of(8), "{self:?}");
        let mut out = [0; HEADER];
        out[0..2].copy_from_slice(&MAGIC);
        out[2] = VERSION;
        out[3] = self.kind as u8;
        out[8..12].copy_from_slice(&self.body_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.body_crc.to_le_bytes());
        out[16..24].copy_from_slice(&self.number.to_le_bytes());
        out[24..28].copy_from_slice(&self.count.to_le_bytes());
        let crc = header_crc(seed, &out);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header of frame `number` on the connection with this [`Link::seed`]. What it says of its body is
    /// within bounds.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn decode(bytes: &[u8; HEADER], seed: u32, number: u64) -> Result<Header, FrameError> {
        let small = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        if bytes[0..2] != MAGIC {
            return Err(FrameError::Magic);
        }
        if small(4) != header_crc(seed, bytes) {
            return Err(FrameError::HeaderChecksum);
        }
        if bytes[2] != VERSION {
            return Err(FrameError::Version(bytes[2]));
        }
        let kind = FrameKind::from_u8(bytes[3]).ok_or(FrameError::Kind(bytes[3]))?;
        let got = u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes"));
        if got != number {
            return Err(FrameError::Number { expected: number, got });
        }
        let header = Header { kind, body_len: small(8), body_crc: small(12), number, count: small(24) };
        if header.body_len as usize > kind.body_max() || !header.body_len.is_multiple_of(8) {
            return Err(FrameError::Length { kind, len: header.body_len });
        }
        if small(28) != 0 {
            return Err(FrameError::Flags(small(28)));
        }
        Ok(header)
    }

    /// Whether `body` is the one this header was made for.
    ///
    /// # Errors
    /// [`FrameError::BodyChecksum`] if it is not.
    pub fn check_body(&self, seed: u32, body: &[u8]) -> Result<(), FrameError> {
        let mut hasher = Hasher::new_with_initial(seed);
        hasher.update(body);
        if body.len() == self.body_len as usize && hasher.finalize() == self.body_crc {
            Ok(())
        } else {
            Err(FrameError::BodyChecksum)
        }
    }
}

fn header_crc(seed: u32, header: &[u8; HEADER]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    hasher.update(&header[..4]);
    hasher.update(&header[8..]);
    hasher.finalize()
}

/// Why bytes are not the next frame of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// They do not begin as a frame does.
    #[error("no frame begins here")]
    Magic,
    /// The header's checksum is wrong.
    #[error("frame header checksum is wrong")]
    HeaderChecksum,
    /// A layout we do not know.
    #[error("frame version {0} is unknown")]
    Version(u8),
    /// A kind we do not know.
    #[error("frame kind {0} is unknown")]
    Kind(u8),
    /// A frame was lost, doubled or swapped.
    #[error("frame {got} came where {expected} was due")]
    Number {
        /// The number due.
        expected: u64,
        /// The number found.
        got: u64,
    },
    /// Too long for its kind, or not a multiple of 8.
    #[error("a frame of kind {kind:?} cannot have a body of {len} bytes")]
    Length {
        /// The kind.
        kind: FrameKind,
        /// The length found.
        len: u32,
    },
    /// A flag we do not know.
    #[error("frame flags {0:#x} are unknown")]
    Flags(u32),
    /// The body's checksum is wrong.
    #[error("frame body checksum is wrong")]
    BodyChecksum,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link {
        Link {
            cluster: ClusterId(7),
            from: PeerId(1),
            to: PeerId(2),
            kind: StreamKind::Append,
            shard: ShardNo(3),
            salt: 99,
        }
    }

    fn header() -> Header {
        Header { kind: FrameKind::Append, body_len: 48, body_crc: 0x1234, number: 5, count: 1 }
    }

    #[test]
    fn round_trip() {
        let seed = link().seed();
        assert_eq!(Header::decode(&header().encode(seed), seed, 5), Ok(header()));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let seed = link().seed();
        let good = header().encode(seed);
        for bit in 0..HEADER * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad, seed, 5).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_link_never_verifies() {
        let bytes = header().encode(link().seed());
        for (name, other) in [
            ("cluster", Link { cluster: ClusterId(8), ..link() }),
            ("from", Link { from: PeerId(9), ..link() }),
            ("to", Link { to: PeerId(9), ..link() }),
            ("swapped", Link { from: PeerId(2), to: PeerId(1), ..link() }),
            ("kind", Link { kind: StreamKind::Message, ..link() }),
            ("shard", Link { shard: ShardNo(4), ..link() }),
            ("salt", Link { salt: 100, ..link() }),
        ] {
            assert_eq!(Header::decode(&bytes, other.seed(), 5), Err(FrameError::HeaderChecksum), "{name}");
        }
    }

    #[test]
    fn what_a_sound_checksum_does_not_excuse() {
        let seed = link().seed();
        let forge = |at: usize, bytes: &[u8]| {
            let mut out = header().encode(seed);
            out[at..at + bytes.len()].copy_from_slice(bytes);
            let crc = header_crc(seed, &out);
            out[4..8].copy_from_slice(&crc.to_le_bytes());
            Header::decode(&out, seed, 5).unwrap_err()
        };
        assert_eq!(forge(2, &[2]), FrameError::Version(2));
        assert_eq!(forge(3, &[0]), FrameError::Kind(0));
        assert_eq!(forge(8, &[44, 0, 0, 0]), FrameError::Length { kind: FrameKind::Append, len: 44 });
        assert_eq!(forge(8, &[0, 0, 0, 5]), FrameError::Length { kind: FrameKind::Append, len: 5 << 24 });
        assert_eq!(forge(16, &[6]), FrameError::Number { expected: 5, got: 6 });
        assert_eq!(forge(28, &[1]), FrameError::Flags(1));
    }
}
