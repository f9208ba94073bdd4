//! The contract between the node and the state that it replicates.

use bytes::BytesMut;
use ringraft_raft::Index;

/// A state that follows from the commands of a log. The node calls it from one thread, never at the same time.
///
/// Equal commands in equal order must give equal states and answers on every node: no clock, no dice, no order that
/// hangs on addresses. Bytes may come from any client; whatever they say, nothing may panic.
///
/// Commands, queries and answers are free parts of frames ([`FREE_AT`](crate::protocol::FREE_AT)); a machine of another
/// kind may read its own meaning into key and value, but the headers must be those of [`protocol`](crate::protocol).
pub trait StateMachine: Send {
    /// Carries out one command and appends its answer to `answer`. `index` grows with every call, by one or more: the
    /// log has entries that are not the machine's.
    fn apply(&mut self, index: Index, command: &[u8], answer: &mut BytesMut);

    /// Appends the answer to a query.
    fn query(&self, query: &[u8], answer: &mut BytesMut);

    /// Begins a snapshot of the state as it is now; one that was under way is cancelled. Must be cheap: the work is
    /// done by [`snapshot_chunk`](StateMachine::snapshot_chunk), and commands are applied between the chunks.
    fn snapshot_begin(&mut self);

    /// Appends the next piece of the snapshot to `out`, at most about `size_max` bytes (more only by what cannot be
    /// divided); whether there is more. The pieces show the state at the begin, whatever was applied since.
    ///
    /// # Panics
    /// If no snapshot is under way.
    fn snapshot_chunk(&mut self, size_max: usize, out: &mut BytesMut) -> bool;

    /// Gives up the snapshot that is under way, if one is.
    fn snapshot_cancel(&mut self);

    /// Replaces the state by that of a snapshot. The pieces together are the bytes that
    /// [`snapshot_chunk`](StateMachine::snapshot_chunk) gave; they may be cut in other places. A
    /// snapshot under way is cancelled.
    ///
    /// # Errors
    /// If they are not a whole snapshot. The state is then as it was before.
    fn restore(&mut self, chunks: &mut dyn Iterator<Item = &[u8]>) -> Result<(), RestoreError>;

    /// A number that is equal on nodes of equal state, however they came to it. May walk the whole state.
    fn digest(&self) -> u64;
}

/// Why a snapshot cannot be restored.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RestoreError {
    /// It was written by another kind of machine, or another version.
    #[error("snapshot format {found:#x} is not the known {known:#x}")]
    Format {
        /// What it says.
        found: u64,
        /// What is known here.
        known: u64,
    },
    /// It ends too early or goes on after its end.
    #[error("snapshot of {size} bytes does not end where it should")]
    Length {
        /// How many bytes were read.
        size: u64,
    },
    /// Its bytes make no sense.
    #[error("snapshot is damaged at byte {offset}: {what}")]
    Damaged {
        /// Where.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
}
