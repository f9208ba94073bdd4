//! Bodies in chunks, as HTTP/1.1 has them: what a stream is sent in, and a snapshot. Where a chunk ends says nothing of
//! where a frame does.

use bytes::{BufMut, Bytes, BytesMut};

use super::WireError;

/// What ends a body.
pub const END: &[u8] = b"0\r\n\r\n";

/// Bytes of a line that says a chunk's size, and of all lines behind the last chunk.
const LINE_MAX: usize = 256;
const TRAILER_MAX: usize = 8 * 1024;

/// `bytes` as one chunk.
///
/// # Panics
/// If there are none: that would end the body.
#[must_use]
pub fn chunk(bytes: &[u8]) -> Bytes {
    assert!(!bytes.is_empty(), "an empty chunk ends the body");
    let mut out = BytesMut::with_capacity(bytes.len() + 20);
    out.put_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
    out.freeze()
}

/// Takes the chunks off a body.
#[derive(Debug)]
pub struct ChunkReader {
    expect: Expect,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expect {
    /// Digits of a size; so far this one, of so many digits.
    Size(u64, usize),
    /// The rest of the line that says it, of so many bytes so far.
    SizeLine(u64, usize),
    Data(u64),
    DataCr,
    DataLf,
    /// Lines behind the last chunk: bytes so far, and how many of them belong to this line.
    Trailer(usize, usize),
    Done,
}

impl Default for ChunkReader {
    fn default() -> ChunkReader {
        ChunkReader { expect: Expect::Size(0, 0) }
    }
}

impl ChunkReader {
    /// Takes the next piece, and appends what is in its chunks to `out`. Gives how many bytes of it belong to the body:
    /// fewer than all only if the body has ended.
    ///
    /// # Errors
    /// If these are no chunks.
    pub fn push(&mut self, piece: &[u8], out: &mut BytesMut) -> Result<usize, WireError> {
        let mut rest = piece;
        while let (Some(byte), true) = (rest.first().copied(), self.expect != Expect::Done) {
            if let Expect::Data(left) = self.expect {
                let len = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                out.put_slice(&rest[..len]);
                rest = &rest[len..];
                let left = left - len as u64;
                self.expect = if left > 0 { Expect::Data(left) } else { Expect::DataCr };
            } else {
                self.expect = self.expect.step(byte)?;
                rest = &rest[1..];
            }
        }
        Ok(piece.len() - rest.len())
    }

    /// Whether the body has ended, as it should.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.expect == Expect::Done
    }
}

impl Expect {
    fn step(self, byte: u8) -> Result<Expect, WireError> {
        let broken = |what| Err(WireError::Chunk(what));
        Ok(match (self, byte) {
            (Expect::Size(size, digits), _) if byte.is_ascii_hexdigit() => {
                if digits == 15 {
                    return broken("a size beyond all numbers");
                }
                let digit = (byte as char).to_digit(16).expect("it is one");
                Expect::Size(size << 4 | u64::from(digit), digits + 1)
            }
            (Expect::Size(_, 0), _) => return broken("no size"),
            (Expect::Size(size, _), b'\r' | b';' | b' ' | b'\t') => Expect::SizeLine(size, usize::from(byte != b'\r')),
            (Expect::Size(..), _) => return broken("a size that is none"),
            // Only what follows a CR directly ends the line.
            (Expect::SizeLine(0, 0), b'\n') => Expect::Trailer(0, 0),
            (Expect::SizeLine(size, 0), b'\n') => Expect::Data(size),
            (Expect::SizeLine(_, 0), _) => return broken("a size line without end"),
            (Expect::SizeLine(size, _), b'\r') => Expect::SizeLine(size, 0),
            (Expect::SizeLine(_, LINE_MAX), _) => return broken("a long size line"),
            (Expect::SizeLine(size, len), _) => Expect::SizeLine(size, len + 1),
            (Expect::DataCr, b'\r') => Expect::DataLf,
            (Expect::DataLf, b'\n') => Expect::Size(0, 0),
            (Expect::DataCr | Expect::DataLf, _) => return broken("a chunk longer than it says"),
            (Expect::Trailer(TRAILER_MAX, _), _) => return broken("a long trailer"),
            // An empty line, with or without its CR, is the end.
            (Expect::Trailer(_, 0), b'\n') => Expect::Done,
            (Expect::Trailer(all, _), b'\n') => Expect::Trailer(all + 1, 0),
            (Expect::Trailer(all, 0), b'\r') => Expect::Trailer(all + 1, 0),
            (Expect::Trailer(all, line), _) => Expect::Trailer(all + 1, line + 1),
            (Expect::Data(_) | Expect::Done, _) => unreachable!("not a byte at a time"),
        })
    }
}
