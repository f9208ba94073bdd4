//! A stream's whole body: chunks, in them frames, in them messages.

use bytes::{Bytes, BytesMut};

use super::appends::{AppendReader, AppendWriter};
use super::chunks::{ChunkReader, chunk};
use super::raftpb::Message;
use super::{Limits, WireError, messages};
use crate::StreamKind;

/// The reading end, after the head of the answer.
#[derive(Debug)]
pub struct StreamReader {
    chunks: ChunkReader,
    /// What the chunks held, from the next frame on.
    body: BytesMut,
    frames: Frames,
}

#[derive(Debug)]
enum Frames {
    Messages(Limits),
    Appends(AppendReader),
}

impl Frames {
    fn take(&mut self, body: &mut BytesMut) -> Result<Option<Message>, WireError> {
        match self {
            Frames::Messages(limits) => messages::take(body, limits),
            Frames::Appends(reader) => reader.take(body),
        }
    }
}

impl StreamReader {
    /// Reads what `remote` writes to `local`, the member ids of the two ends.
    #[must_use]
    pub fn new(kind: StreamKind, remote: u64, local: u64, limits: Limits) -> StreamReader {
        let frames = match kind {
            StreamKind::Message => Frames::Messages(limits),
            StreamKind::Append => Frames::Appends(AppendReader::new(remote, local, limits)),
        };
        StreamReader { chunks: ChunkReader::default(), body: BytesMut::new(), frames }
    }

    /// Takes the next piece of the connection and hands every message that is whole now to `deliver`, link heartbeats
    /// too.
    ///
    /// # Errors
    /// If it is not what a stream consists of. The connection is of no use then.
    pub fn push(&mut self, piece: &[u8], mut deliver: impl FnMut(Message)) -> Result<(), WireError> {
        let taken = self.chunks.push(piece, &mut self.body)?;
        while let Some(message) = self.frames.take(&mut self.body)? {
            deliver(message);
        }
        if taken < piece.len() { Err(WireError::Chunk("bytes behind the end")) } else { Ok(()) }
    }

    /// The connection was closed.
    ///
    /// # Errors
    /// Unless the other side had ended the stream before.
    pub fn end(&self) -> Result<(), WireError> {
        let between = match &self.frames {
            Frames::Messages(_) => true,
            Frames::Appends(reader) => reader.is_between_frames(),
        };
        if self.chunks.is_done() && self.body.is_empty() && between {
            Ok(())
        } else {
            Err(WireError::Short("a stream"))
        }
    }
}

/// The writing end, after the head of the answer.
#[derive(Debug)]
pub struct StreamWriter {
    appends: Option<AppendWriter>,
    frames: BytesMut,
}

impl StreamWriter {
    /// At the beginning of a connection.
    #[must_use]
    pub fn new(kind: StreamKind) -> StreamWriter {
        let appends = match kind {
            StreamKind::Message => None,
            StreamKind::Append => Some(AppendWriter::default()),
        };
        StreamWriter { appends, frames: BytesMut::new() }
    }

    /// Adds a message to the next chunk.
    pub fn push(&mut self, message: &Message) {
        match &mut self.appends {
            None => messages::put(message, &mut self.frames),
            Some(writer) => writer.put(message, &mut self.frames),
        }
    }

    /// What was added, as one chunk; nothing if nothing was.
    #[must_use]
    pub fn take_chunk(&mut self) -> Option<Bytes> {
        if self.frames.is_empty() {
            return None;
        }
        let chunk = chunk(&self.frames);
        self.frames.clear();
        Some(chunk)
    }
}
