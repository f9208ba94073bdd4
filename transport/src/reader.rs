//! The receiving half of a stream: bytes in as they fall, whole and checked frames out. Pure.

use crate::codec::CodecError;
use crate::frame::{FrameError, FrameKind, HEADER, Header, Link};

/// A carry buffer larger than this is given back once its frame is done.
const CARRY_KEEP_MAX: usize = 1 << 20;

/// A whole frame in place; its checksums are right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// What it carries.
    pub kind: FrameKind,
    /// How many sections or items.
    pub count: u32,
    /// What they are.
    pub body: &'a [u8],
}

/// Cuts one stream into frames. A frame that lies within one piece is read in place; one that crosses pieces is
/// completed in a carry buffer, which never holds more than that one frame.
pub struct StreamReader {
    seed: u32,
    number: u64,
    /// The beginning of a frame; empty between frames.
    carry: Vec<u8>,
    /// The header in `carry`, once it is whole.
    header: Option<Header>,
}

impl StreamReader {
    /// A reader at the beginning of a stream.
    #[must_use]
    pub fn new(link: &Link) -> StreamReader {
        StreamReader { seed: link.seed(), number: 0, carry: Vec::new(), header: None }
    }

    /// How many frames have been read.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.number
    }

    /// Takes the next piece of the stream and hands every frame that is whole now to `deliver`.
    ///
    /// # Errors
    /// What is wrong with the stream, or what `deliver` says is wrong with a frame. The stream is at its end then.
    pub fn push(
        &mut self,
        mut piece: &[u8],
        mut deliver: impl FnMut(Frame<'_>) -> Result<(), CodecError>,
    ) -> Result<(), StreamError> {
        while !piece.is_empty() {
            piece = if self.carry.is_empty() {
                self.in_place(piece, &mut deliver)?
            } else {
                self.through_carry(piece, &mut deliver)?
            };
        }
        Ok(())
    }

    fn in_place<'a>(
        &mut self,
        piece: &'a [u8],
        deliver: &mut impl FnMut(Frame<'_>) -> Result<(), CodecError>,
    ) -> Result<&'a [u8], StreamError> {
        let Some((head, rest)) = piece.split_first_chunk::<HEADER>() else {
            self.carry.extend_from_slice(piece);
            return Ok(&[]);
        };
        let header = Header::decode(head, self.seed, self.number)?;
        let Some((body, rest)) = rest.split_at_checked(header.body_len as usize) else {
            // The header is ours, so its length may be believed.
            self.carry.reserve_exact(HEADER + header.body_len as usize);
            self.carry.extend_from_slice(piece);
            self.header = Some(header);
            return Ok(&[]);
        };
        self.finish(header, body, deliver)?;
        Ok(rest)
    }

    fn through_carry<'a>(
        &mut self,
        piece: &'a [u8],
        deliver: &mut impl FnMut(Frame<'_>) -> Result<(), CodecError>,
    ) -> Result<&'a [u8], StreamError> {
        let whole = HEADER + self.header.map_or(0, |header| header.body_len as usize);
        let missing = (whole - self.carry.len()).min(piece.len());
        let (taken, rest) = piece.split_at(missing);
        self.carry.extend_from_slice(taken);
        if self.header.is_none()
            && let Some(head) = self.carry.first_chunk::<HEADER>()
        {
            let header = Header::decode(head, self.seed, self.number)?;
            self.carry.reserve_exact(header.body_len as usize);
            self.header = Some(header);
        }
        if let Some(header) = self.header
            && self.carry.len() == HEADER + header.body_len as usize
        {
            let mut carry = std::mem::take(&mut self.carry);
            self.header = None;
            self.finish(header, &carry[HEADER..], deliver)?;
            carry.clear();
            if carry.capacity() <= CARRY_KEEP_MAX {
                self.carry = carry;
            }
        }
        Ok(rest)
    }

    fn finish(
        &mut self,
        header: Header,
        body: &[u8],
        deliver: &mut impl FnMut(Frame<'_>) -> Result<(), CodecError>,
    ) -> Result<(), StreamError> {
        header.check_body(self.seed, body)?;
        self.number += 1;
        Ok(deliver(Frame { kind: header.kind, count: header.count, body })?)
    }
}

/// What is wrong with a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StreamError {
    /// A frame is not the next one, or broken.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame is sound, its content is not.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

#[cfg(test)]
mod tests {
    use crc32fast::Hasher;
    use proptest::prelude::*;
    use ringraft_io::ShardNo;
    use ringraft_raft::PeerId;

    use super::*;
    use crate::frame::{ClusterId, StreamKind};

    fn link() -> Link {
        Link {
            cluster: ClusterId(7),
            from: PeerId(1),
            to: PeerId(2),
            kind: StreamKind::Message,
            shard: ShardNo(0),
            salt: 1,
        }
    }

    fn stream(bodies: &[Vec<u8>]) -> Vec<u8> {
        let seed = link().seed();
        let mut out = Vec::new();
        for (number, body) in (0..).zip(bodies) {
            let mut hasher = Hasher::new_with_initial(seed);
            hasher.update(body);
            let kind = if body.is_empty() { FrameKind::LinkHeartbeat } else { FrameKind::Message };
            let body_len = u32::try_from(body.len()).unwrap();
            let header = Header { kind, body_len, body_crc: hasher.finalize(), number, count: 1 };
            out.extend(header.encode(seed));
            out.extend(body);
        }
        out
    }

    fn read(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Result<(), StreamError>) {
        let mut reader = StreamReader::new(&link());
        let mut got = Vec::new();
        for piece in pieces {
            let result = reader.push(piece, |frame| {
                got.push(frame.body.to_vec());
                Ok(())
            });
            if result.is_err() {
                return (got, result);
            }
        }
        assert_eq!(reader.frames(), got.len() as u64);
        (got, Ok(()))
    }

    fn bodies() -> Vec<Vec<u8>> {
        vec![vec![1; 8], vec![], vec![2; 64], vec![], vec![3; 24]]
    }

    #[test]
    fn split_at_every_position() {
        let bytes = stream(&bodies());
        for cut in 0..=bytes.len() {
            assert_eq!(read(&[&bytes[..cut], &bytes[cut..]]), (bodies(), Ok(())), "cut at {cut}");
        }
        for (a, b) in (0..bytes.len()).flat_map(|a| (a..bytes.len()).map(move |b| (a, b))) {
            assert_eq!(read(&[&bytes[..a], &bytes[a..b], &bytes[b..]]).0, bodies(), "cut at {a} and {b}");
        }
    }

    #[test]
    fn byte_by_byte() {
        let bytes = stream(&bodies());
        let pieces: Vec<_> = bytes.chunks(1).collect();
        assert_eq!(read(&pieces), (bodies(), Ok(())));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let bytes = stream(&bodies());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            for size in [1, 7, bytes.len()] {
                let pieces: Vec<_> = bad.chunks(size).collect();
                let (got, result) = read(&pieces);
                assert!(result.is_err(), "bit {bit}");
                assert_eq!(got[..], bodies()[..got.len()], "what came before bit {bit} was right");
            }
        }
    }

    #[test]
    fn lost_doubled_and_swapped_frames_are_seen() {
        let bytes = stream(&[vec![1; 8], vec![2; 8], vec![3; 8]]);
        let frames: Vec<_> = bytes.chunks(HEADER + 8).collect();
        for order in [&[1][..], &[0, 2], &[0, 0], &[0, 2, 1], &[1, 0]] {
            let pieces: Vec<_> = order.iter().map(|frame| frames[*frame]).collect();
            assert!(matches!(read(&pieces).1, Err(StreamError::Frame(FrameError::Number { .. }))), "{order:?}");
        }
    }

    #[test]
    fn a_refused_frame_ends_the_stream() {
        let bytes = stream(&bodies());
        let result = StreamReader::new(&link()).push(&bytes, |_| Err(CodecError::Short));
        assert_eq!(result, Err(StreamError::Codec(CodecError::Short)));
    }

    proptest! {
        #[test]
        fn any_pieces(sizes in proptest::collection::vec(1_usize..60, 1..40)) {
            let bytes = stream(&bodies());
            let (mut rest, mut pieces) = (&bytes[..], Vec::new());
            for size in sizes {
                let (piece, after) = rest.split_at(size.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            prop_assert_eq!(read(&pieces), (bodies(), Ok(())));
        }

        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&[&bytes]);
        }
    }
}
