//! What is known of a peer's streams: for people, metrics and tests.

use ringraft_io::{CloseReason, DialError, Time};
use ringraft_raft::PeerId;

use crate::handshake::HandshakeError;
use crate::reader::StreamError;

/// How a peer's streams are doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// Which peer.
    pub peer: PeerId,
    /// Whether there is a way to it and a way back.
    pub active: bool,
    /// Since when it is so.
    pub since: Time,
    /// How many of the two streams we read are there.
    pub reading: usize,
    /// How many of the two streams we write are there.
    pub writing: usize,
    /// The start of its process, as last heard; 0: never heard.
    pub incarnation: u64,
    /// Messages that wait.
    pub queued: usize,
    /// Bytes that wait.
    pub queued_bytes: usize,
    /// What went wrong last, and when.
    pub last_error: Option<(Time, PeerError)>,
    /// Totals since the peer was added.
    pub counters: Counters,
}

/// Totals of one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Bytes handed to the network.
    pub sent_bytes: u64,
    /// Frames in them.
    pub sent_frames: u64,
    /// Messages and proposals in those.
    pub sent_messages: u64,
    /// Bytes from the network.
    pub received_bytes: u64,
    /// Whole frames in them.
    pub received_frames: u64,
    /// Messages and proposals in those.
    pub received_messages: u64,
    /// Messages dropped because a queue was full.
    pub dropped_full: u64,
    /// Messages dropped because there was no stream.
    pub dropped_unconnected: u64,
    /// Messages dropped because no frame can hold them.
    pub dropped_too_large: u64,
    /// Messages that waited for a stream, or were being sent on it, when it was lost.
    pub dropped_lost: u64,
    /// Dials that came after another one.
    pub redials: u64,
    /// Dials that led to nothing.
    pub dials_failed: u64,
    /// Streams closed because of a frame: its place, layout or checksum.
    pub bad_frames: u64,
    /// Streams closed because of what a sound frame said.
    pub bad_bodies: u64,
    /// Streams closed because nothing was heard on them.
    pub silences: u64,
    /// Streams that another one of the same peer replaced.
    pub replaced: u64,
}

/// Why a stream was lost, or never made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeerError {
    /// The dial failed.
    #[error("dial: {0}")]
    Dial(DialError),
    /// The greeting failed.
    #[error("handshake: {0}")]
    Handshake(HandshakeError),
    /// The stream said something wrong.
    #[error("stream: {0}")]
    Stream(#[from] StreamError),
    /// The stream ended.
    #[error("stream: {0}")]
    Closed(CloseReason),
    /// Nothing was heard for too long.
    #[error("stream: nothing heard for too long")]
    Silent,
    /// A send took too long.
    #[error("stream: a send took too long")]
    SendTimeout,
    /// The reader of a stream spoke on it.
    #[error("stream: bytes came from its reader")]
    ReaderSpoke,
    /// The peer asked for the stream again.
    #[error("stream: replaced by another one")]
    Replaced,
    /// The peer's process started anew.
    #[error("stream: of an earlier process")]
    EarlierProcess,
}
