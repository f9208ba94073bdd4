//! The body of a `POST` of a snapshot: a message behind its length, as on the message stream, and then etcd's database
//! file up to the end of the body.

use bytes::BytesMut;

use super::raftpb::{Message, MessageType};
use super::{Limits, WireError, messages};

/// Appends what comes before the database.
///
/// # Panics
/// If the message is no snapshot.
pub fn put(message: &Message, out: &mut BytesMut) {
    assert!(message.r#type == i32::from(MessageType::Snap), "a snapshot is announced by a Snap");
    messages::put(message, out);
}

/// Takes the message from the front of the body; `None` if it is not all there yet. What then follows in `input`, and
/// in the rest of the body, is the database.
///
/// # Errors
/// What to answer, and why.
pub fn take(input: &mut BytesMut, limits: &Limits) -> Result<Option<Message>, SnapshotError> {
    let message = messages::take(input, limits)?;
    match message {
        Some(message) if message.r#type != i32::from(MessageType::Snap) => Err(SnapshotError::NotSnap),
        other => Ok(other),
    }
}

/// Why a snapshot is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The message is another one.
    #[error("wrong raft message type")]
    NotSnap,
    /// It is none.
    #[error("failed to decode raft message ({0})")]
    Wire(#[from] WireError),
}
