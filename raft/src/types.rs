//! The words of raft as types. An index, a term and an id are three things.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// Zero: "none".
            pub const ZERO: $name = $name(0);
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A term; 0 before the first election.
    Term
);
number!(
    /// A position in the log; the first entry has 1, 0 is "before the log".
    Index
);
number!(
    /// A member of a raft group, and at the same time the node it lives on; 0 is "none".
    PeerId
);
number!(
    /// One raft group; any number.
    GroupId
);
number!(
    /// A caller's mark on a read request, given back in its [`ReadState`](crate::ReadState).
    ReadId
);

impl Index {
    /// The index after this one.
    #[must_use]
    pub fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// The index before this one; 0 stays 0.
    #[must_use]
    pub fn prev(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

/// What identifies an entry: two entries with the same index and term are the same entry (log matching).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct EntryId {
    /// Term first, so that ordering compares how up to date two logs are (thesis 3.6.1).
    pub term: Term,
    /// Position.
    pub index: Index,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.term, self.index)
    }
}

/// What an entry is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum EntryKind {
    /// For the state machine; empty: the no-op of a new leader.
    #[default]
    Normal = 0,
    /// One change of membership.
    ConfChange = 1,
    /// Several changes of membership, or the leaving of a joint configuration.
    ConfChangeV2 = 2,
}

impl EntryKind {
    /// The kind with this number, if there is one.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<EntryKind> {
        match number {
            0 => Some(EntryKind::Normal),
            1 => Some(EntryKind::ConfChange),
            2 => Some(EntryKind::ConfChangeV2),
            _ => None,
        }
    }
}

/// All the core knows of an entry beside its index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct EntryMeta {
    /// The term it was proposed in.
    pub term: Term,
    /// What it is for.
    pub kind: EntryKind,
    /// Payload bytes.
    pub size: u32,
}

impl EntryMeta {
    /// As a [witness](crate::witness) knows it: only changes of membership keep their payloads.
    #[must_use]
    pub fn stripped(self) -> EntryMeta {
        EntryMeta { size: if self.kind == EntryKind::Normal { 0 } else { self.size }, ..self }
    }

    /// Bytes of its encoded [record](crate::record).
    #[must_use]
    pub fn encoded_size(self) -> u64 {
        crate::record::encoded_len(self.size as usize) as u64
    }

    /// Bytes of its encoding by etcd, at `index`: protobuf, with tags of one byte and no empty fields.
    #[must_use]
    pub fn etcd_encoded_size(self, index: Index) -> u64 {
        let varint = |number: u64| u64::from((number | 1).ilog2() / 7 + 1);
        let kind = if self.kind == EntryKind::Normal { 0 } else { 2 };
        let size = u64::from(self.size);
        let data = if size == 0 { 0 } else { 1 + varint(size) + size };
        kind + 1 + varint(self.term.0) + 1 + varint(index.0) + data
    }
}

/// What a node must never forget (thesis figure 3.1); `commit` may be stale after a restart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct HardState {
    /// Current term.
    pub term: Term,
    /// Whom it voted for in that term; 0: nobody.
    pub vote: PeerId,
    /// Highest index known to be committed.
    pub commit: Index,
}

/// What is lost in a restart and nobody minds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SoftState {
    /// The leader this node believes in; 0: none known.
    pub lead: PeerId,
    /// Its own role.
    pub role: Role,
}

/// Role in the current term.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Role {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks whether it could win, without raising its term (thesis 9.6).
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// Membership as it is stored with a snapshot. Lists are sorted.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct ConfState {
    /// Voters (of the incoming half, if joint).
    pub voters: Vec<PeerId>,
    /// Voters of the outgoing half; empty if not joint.
    pub voters_outgoing: Vec<PeerId>,
    /// Members without a vote.
    pub learners: Vec<PeerId>,
    /// Outgoing voters that become learners when the joint configuration is left.
    pub learners_next: Vec<PeerId>,
    /// Voters of either half whose logs keep no payloads ([`crate::witness`]); each half has others, too.
    pub witnesses: Vec<PeerId>,
    /// Whether the leader leaves the joint configuration by itself.
    pub auto_leave: bool,
}

impl ConfState {
    /// Everything that names members: voters, outgoing voters, learners, next learners, witnesses.
    #[must_use]
    pub fn lists(&self) -> [&Vec<PeerId>; 5] {
        [&self.voters, &self.voters_outgoing, &self.learners, &self.learners_next, &self.witnesses]
    }

    pub(crate) fn lists_mut(&mut self) -> [&mut Vec<PeerId>; 5] {
        [&mut self.voters, &mut self.voters_outgoing, &mut self.learners, &mut self.learners_next, &mut self.witnesses]
    }

    /// Ids it names, with repetition.
    #[must_use]
    pub fn names(&self) -> usize {
        self.lists().iter().map(|list| list.len()).sum()
    }

    /// Whether this member is a witness.
    #[must_use]
    pub fn is_witness(&self, id: PeerId) -> bool {
        self.witnesses.binary_search(&id).is_ok()
    }

    /// Bytes on the heap.
    pub(crate) fn memory(&self) -> usize {
        self.lists().iter().map(|list| list.capacity() * size_of::<PeerId>()).sum()
    }
}
