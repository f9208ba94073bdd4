//! Received pieces in, whole frames out.

use super::{FREE_AT, HEADER_SIZE, Op, REPLY_BIT, frame_crc, u32_at, u64_at};

/// A carry buffer larger than this is given back once its frame is through.
const CARRY_KEEP: usize = 16 * 1024;

/// One whole, checksummed frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The request's id.
    #[must_use]
    pub fn id(&self) -> u64 {
        u64_at(self.bytes, 8)
    }

    /// What it asks for or answers; `None`: an op this version does not know.
    #[must_use]
    pub fn op(&self) -> Option<Op> {
        Op::from_u8(self.op_byte() & !REPLY_BIT)
    }

    /// The op byte as it stands.
    #[must_use]
    pub fn op_byte(&self) -> u8 {
        self.bytes[FREE_AT]
    }

    /// Whether it is a reply.
    #[must_use]
    pub fn is_reply(&self) -> bool {
        self.op_byte() & REPLY_BIT != 0
    }

    /// The part that does not depend on where the frame stands: command, query or answer.
    #[must_use]
    pub fn free(&self) -> &'a [u8] {
        &self.bytes[FREE_AT..]
    }

    /// The whole frame.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// Why a connection cannot go on: where the next frame begins is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// The checksum does not match.
    #[error("frame checksum is {told:#010x} and should be {found:#010x}: the bytes were damaged on their way")]
    Checksum {
        /// What the frame says.
        told: u32,
        /// What its bytes give.
        found: u32,
    },
    /// The body is longer than allowed.
    #[error("frame body of {size} bytes, at most {max} are allowed")]
    TooLarge {
        /// What the frame says.
        size: usize,
        /// The bound.
        max: usize,
    },
}

/// Splits a byte stream into frames. Frames that lie whole in a piece are not copied; the others are put together in
/// a carry buffer that holds at most one frame.
#[derive(Debug)]
pub struct Decoder {
    body_max: usize,
    carry: Vec<u8>,
    /// The frame in `carry` has been given out.
    given: bool,
    failed: Option<FrameError>,
}

impl Decoder {
    /// A decoder that refuses bodies longer than `body_max`: [`REQUEST_BODY_MAX`](super::REQUEST_BODY_MAX) in a node,
    /// [`REPLY_BODY_MAX`](super::REPLY_BODY_MAX) in a client.
    #[must_use]
    pub fn new(body_max: usize) -> Decoder {
        Decoder { body_max, carry: Vec::new(), given: false, failed: None }
    }

    /// The next whole frame of what was carried and `piece`, taking its bytes off the front of `piece`; `None` once
    /// `piece` is used up.
    ///
    /// # Errors
    /// If the bytes are not frames. The connection must be closed; every further call says the same.
    pub fn next<'a, 'p: 'a>(&'a mut self, piece: &mut &'p [u8]) -> Result<Option<Frame<'a>>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.advance(piece);
        match result {
            Err(error) => {
                self.failed = Some(error);
                Err(error)
            }
            Ok(None) => Ok(None),
            Ok(Some(Place::Piece(bytes))) => Ok(Some(Frame { bytes })),
            Ok(Some(Place::Carry)) => Ok(Some(Frame { bytes: &self.carry })),
        }
    }

    /// Bytes held of a frame that is not whole yet.
    #[must_use]
    pub fn carried(&self) -> usize {
        if self.given { 0 } else { self.carry.len() }
    }

    fn advance<'p>(&mut self, piece: &mut &'p [u8]) -> Result<Option<Place<'p>>, FrameError> {
        if self.given {
            self.given = false;
            self.carry.clear();
            self.carry.shrink_to(CARRY_KEEP);
        }
        if self.carry.is_empty()
            && let Some(size) = self.frame_size(piece)?
            && size <= piece.len()
        {
            let (bytes, rest) = piece.split_at(size);
            *piece = rest;
            check_crc(bytes)?;
            return Ok(Some(Place::Piece(bytes)));
        }
        // The header first, for it tells how many more bytes belong to the frame.
        self.carry_to(HEADER_SIZE, piece);
        let Some(size) = self.frame_size(&self.carry)? else { return Ok(None) };
        self.carry_to(size, piece);
        if self.carry.len() < size {
            assert!(piece.is_empty(), "a frame stays open only for lack of bytes");
            return Ok(None);
        }
        check_crc(&self.carry)?;
        self.given = true;
        Ok(Some(Place::Carry))
    }

    /// Moves bytes from `piece` until `carry` has `size`. It grows with the bytes that came, not with what they claim.
    fn carry_to(&mut self, size: usize, piece: &mut &[u8]) {
        let missing = size.saturating_sub(self.carry.len()).min(piece.len());
        let (bytes, rest) = piece.split_at(missing);
        self.carry.extend_from_slice(bytes);
        *piece = rest;
    }

    /// Size of the frame that `bytes` starts with, if its header is whole.
    fn frame_size(&self, bytes: &[u8]) -> Result<Option<usize>, FrameError> {
        if bytes.len() < HEADER_SIZE {
            return Ok(None);
        }
        let size = usize::try_from(u32_at(bytes, 0)).unwrap_or(usize::MAX);
        if size > self.body_max {
            return Err(FrameError::TooLarge { size, max: self.body_max });
        }
        Ok(Some(HEADER_SIZE + size))
    }
}

/// Where a whole frame lies.
enum Place<'p> {
    Piece(&'p [u8]),
    Carry,
}

fn check_crc(frame: &[u8]) -> Result<(), FrameError> {
    let told = u32_at(frame, 4);
    let found = frame_crc(frame);
    if told == found { Ok(()) } else { Err(FrameError::Checksum { told, found }) }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::super::{Command, REQUEST_BODY_MAX, Request, encode_request};
    use super::*;

    fn collect(decoder: &mut Decoder, mut piece: &[u8]) -> Result<Vec<(u64, Vec<u8>)>, FrameError> {
        let mut frames = Vec::new();
        while let Some(frame) = decoder.next(&mut piece)? {
            frames.push((frame.id(), frame.free().to_vec()));
        }
        assert!(piece.is_empty());
        Ok(frames)
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_frames(
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..20),
            cuts in prop::collection::vec(1_usize..200, 1..50),
        ) {
            let mut stream = BytesMut::new();
            let mut want = Vec::new();
            for (id, value) in values.iter().enumerate() {
                let request = Request::Write(Command::Put { key: b"k", value });
                let mut free = BytesMut::new();
                request.encode(&mut free);
                want.push((id as u64, free.to_vec()));
                encode_request(&mut stream, id as u64, &request);
            }
            let mut decoder = Decoder::new(REQUEST_BODY_MAX);
            let mut got = Vec::new();
            let mut rest = &stream[..];
            for cut in cuts.iter().cycle() {
                let (piece, behind) = rest.split_at((*cut).min(rest.len()));
                got.extend(collect(&mut decoder, piece).unwrap());
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(got, want);
            prop_assert_eq!(decoder.carried(), 0);
        }

        #[test]
        fn noise_never_panics(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..20)) {
            let mut decoder = Decoder::new(4096);
            for piece in &pieces {
                if collect(&mut decoder, piece).is_err() {
                    break;
                }
            }
            prop_assert!(decoder.carried() <= HEADER_SIZE + 4096);
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let mut stream = BytesMut::new();
        encode_request(&mut stream, 7, &Request::Write(Command::Put { key: b"key", value: b"value" }));
        for bit in 0..stream.len() * 8 {
            let mut damaged = stream.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let mut decoder = Decoder::new(REQUEST_BODY_MAX);
            let result = collect(&mut decoder, &damaged);
            // A larger length only makes it wait for bytes that may come; a whole frame is never given out.
            assert!(result.is_err() || (bit < 32 && result == Ok(vec![])), "bit {bit}: {result:?}");
            if result.is_err() {
                assert_eq!(collect(&mut decoder, &stream), result, "it stays failed");
            }
        }
    }

    #[test]
    fn a_claim_allocates_nothing() {
        let mut header = [0_u8; HEADER_SIZE];
        header[0..4].copy_from_slice(&u32::try_from(REQUEST_BODY_MAX).unwrap().to_le_bytes());
        let mut decoder = Decoder::new(REQUEST_BODY_MAX);
        assert_eq!(collect(&mut decoder, &header), Ok(vec![]));
        assert!(decoder.carry.capacity() < 256);
        header[0..4].copy_from_slice(&u32::try_from(REQUEST_BODY_MAX + 1).unwrap().to_le_bytes());
        let error = FrameError::TooLarge { size: REQUEST_BODY_MAX + 1, max: REQUEST_BODY_MAX };
        assert_eq!(collect(&mut Decoder::new(REQUEST_BODY_MAX), &header), Err(error));
    }
}
