//! The one door out of the core.

use crate::error::Refused;
use crate::message::Message;
use crate::types::{EntryId, HardState, Index, PeerId, ReadId, SoftState, Term};

/// What one turn of the core asks of its shell. Plain data: none of it has happened yet.
///
/// The order that safety needs is in the shape: what may leave at once is in `messages`; what must not leave before a
/// write is durable can only be reached through that write ([`Append::after_sync`]). Reused from turn to turn.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ready {
    /// May leave at once, beside the write below. Ranges in them are valid until the core's next step.
    pub messages: Vec<Message>,
    /// The write of this turn, if there is one.
    pub append: Option<Append>,
    /// Entries `committed.0 + 1 ..= committed.1` are committed and durable here: apply them in this order, then call
    /// `applied`. Equal bounds: none.
    pub committed: (Index, Index),
    /// Reads that may be served once their index is applied.
    pub reads: Vec<ReadState>,
    /// Reads asked for here that are given up: ask again under a new id, or tell whoever waits. A follower's core keeps no
    /// list of what it has passed on, so beside these, whatever a follower asked for before a changed leader or term
    /// (see `soft_state`) may have been lost on the way, and is to be asked for again.
    pub reads_lost: Vec<(ReadId, Refused)>,
    /// Changed leader or role.
    pub soft_state: Option<SoftState>,
    /// We led, and do no more.
    pub stepped_down: Option<SteppedDown>,
    /// Transfers of leadership that were started here, and are waited for no longer.
    pub transfers_ended: Vec<TransferEnded>,
    /// A newer commit index than the last hard state written says. It need not be durable before anything; the shell
    /// lets it ride with the group's next write.
    pub commit: Option<Index>,
}

/// Leadership that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SteppedDown {
    /// In which term we led.
    pub term: Term,
    /// Entries `unsettled.0 + 1 ..= unsettled.1` were not known to be committed when it ended. Those that were proposed
    /// here may be committed by whoever leads next, or replaced; nobody here will be told which, but by the log.
    pub unsettled: (Index, Index),
}

/// A transfer of leadership that has ended for the one who started it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TransferEnded {
    /// Who was to lead.
    pub target: PeerId,
    /// How it ended.
    pub how: TransferEnd,
}

/// How a transfer of leadership can end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TransferEnd {
    /// We lead no more: the target, or somebody else, stands for election or leads already.
    SteppedDown,
    /// Nothing happened for an election timeout: we go on leading.
    TimedOut,
    /// Another target was named.
    Replaced,
    /// The target has lost its vote: we go on leading.
    NotVoter,
}

/// What a role that ended leaves to be said with the next Ready. Rare, so that it takes no room while there is nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Notices {
    pub(crate) reads_lost: Vec<(ReadId, Refused)>,
    pub(crate) stepped_down: Option<SteppedDown>,
    pub(crate) transfers_ended: Vec<TransferEnded>,
}

impl Notices {
    /// Bytes on the heap, its own included.
    pub(crate) fn memory(&self) -> usize {
        size_of::<Notices>()
            + self.reads_lost.capacity() * size_of::<(ReadId, Refused)>()
            + self.transfers_ended.capacity() * size_of::<TransferEnded>()
    }
}

/// A write, and the promises that hang on it. Writes are made durable in the order in which they were handed out. One
/// without hard state, entries and snapshot needs no sync of its own: it is done once the writes before it are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Append {
    /// The hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Entries `entries.0 + 1 ..= entries.1`, replacing everything from `entries.0 + 1` on. Equal bounds: none.
    pub entries: (Index, Index),
    /// The last entry of the log once this write is durable.
    pub last: EntryId,
    /// Install this snapshot (already durable in its own file) in place of the log, before `entries` are written:
    /// everything up to it is forgotten, and everything after it too.
    pub snapshot: Option<EntryId>,
    /// Pass it to [`Raft::synced`](crate::Raft::synced) once this write, and with it every write before it, is durable.
    pub ticket: SyncTicket,
    /// What may leave only when the write is durable.
    pub after_sync: AfterSync,
}

/// Which write of which term; only the core reads it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SyncTicket {
    /// The term the write was asked for in: in a later term the same entry may have been replaced and rewritten by a
    /// write that still waits, so that this one proves nothing.
    pub(crate) term: Term,
    pub(crate) last: EntryId,
    pub(crate) snapshot: Option<EntryId>,
}

impl SyncTicket {
    /// The term the write was asked for in.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// The last entry of the log, if any was not known to be durable; (0, 0) otherwise.
    #[must_use]
    pub fn last(&self) -> EntryId {
        self.last
    }

    /// The snapshot that the write installs.
    #[must_use]
    pub fn snapshot(&self) -> Option<EntryId> {
        self.snapshot
    }
}

/// Messages that hang on a write: acknowledgements and votes, to peers and to ourselves (thesis 3.8), and what a candidate
/// asks of its voters.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AfterSync(Vec<Message>);

impl AfterSync {
    /// Hangs a message on the write.
    pub fn push(&mut self, message: Message) {
        self.0.push(message);
    }

    /// Whether nothing hangs on the write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes over a list.
    pub(crate) fn from_memory(messages: Vec<Message>) -> AfterSync {
        AfterSync(messages)
    }

    /// Gives up the memory.
    pub(crate) fn into_memory(mut self) -> Vec<Message> {
        self.0.clear();
        self.0
    }

    /// The messages, for keeping them beside the write until it is durable: the name of the caller's list must say
    /// that they wait. Leaves this empty with its capacity.
    pub fn hold(&mut self) -> std::vec::Drain<'_, Message> {
        self.0.drain(..)
    }
}

/// An answer to a read request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReadState {
    /// The caller's mark.
    pub id: ReadId,
    /// Serve the read once this index is applied.
    pub index: Index,
}
