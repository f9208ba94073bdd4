//! Bodies of frames: appends as sections, small messages and proposals as items. Pure.
//!
//! Everything is little-endian and a multiple of 8 bytes. Sender and receiver of a message are those of the link, so
//! neither stands in it.
//!
//! Section of an append frame, [`SECTION`] bytes before the records:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | group |
//! | 8 | 8 | term of the message |
//! | 16 | 8 | term of the entry before the first one |
//! | 24 | 8 | index of the entry before the first one |
//! | 32 | 8 | the leader's commit index |
//! | 40 | 4 | bits 0..31 count of records; bit 31: payloads are stripped, for a witness |
//! | 44 | 4 | bytes of records |
//! | 48 | | records, as [`ringraft_raft::record`] lays them out |
//!
//! Item of a message frame, [`ITEM`] bytes before the words:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | group |
//! | 8 | 1 | kind, [`ItemKind`] |
//! | 9 | 1 | flag, 0 or 1 |
//! | 10 | 2 | zeros |
//! | 12 | 4 | payload length; 0 unless it is a proposal |
//! | 16 | 8 | term; 0 if it is a proposal |
//! | 24 | 8n | words, as many as the kind has |
//! | | | payload, and zeros up to a multiple of 8 |

use bytes::{BufMut, BytesMut};
use ringraft_raft::record::{Record, RecordError};
use ringraft_raft::{Body, EntryId, GroupId, Index, Payloads, PeerId, ReadId, Term};

/// Bytes of a section before its records.
pub const SECTION: usize = 48;

/// Bytes of an item before its words.
pub const ITEM: usize = 24;

const WORDS_MAX: usize = 3;

/// In the count of records: they are stripped.
const STRIPPED: u32 = 1 << 31;

/// Most records that a section can count.
pub const COUNT_MAX: u32 = STRIPPED - 1;

/// Longest item without a payload.
pub const ITEM_MAX: usize = ITEM + 8 * WORDS_MAX;

/// What a section says beside its records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SectionHead {
    /// Whose log.
    pub group: GroupId,
    /// The leader's term.
    pub term: Term,
    /// The entry before the first record.
    pub prev: EntryId,
    /// The leader's commit index.
    pub commit: Index,
    /// What of the entries' payloads is in the records.
    pub payloads: Payloads,
    /// How many records follow; at most [`COUNT_MAX`].
    pub count: u32,
    /// How many bytes they are.
    pub bytes: u32,
}

impl SectionHead {
    /// Its bytes.
    ///
    /// # Panics
    /// If it counts too many records.
    #[must_use]
    pub fn encode(&self) -> [u8; SECTION] {
        assert!(self.count <= COUNT_MAX, "a section of {} records", self.count);
        let stripped = if self.payloads == Payloads::Stripped { STRIPPED } else { 0 };
        let mut out = [0; SECTION];
        let words = [self.group.0, self.term.0, self.prev.term.0, self.prev.index.0, self.commit.0];
        for (to, word) in out.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        out[40..44].copy_from_slice(&(self.count | stripped).to_le_bytes());
        out[44..48].copy_from_slice(&self.bytes.to_le_bytes());
        out
    }

    /// Reads what [`SectionHead::encode`] wrote; any bytes are a head.
    #[must_use]
    pub fn decode(bytes: &[u8; SECTION]) -> SectionHead {
        let count = small(bytes, 40);
        SectionHead {
            group: GroupId(number(bytes, 0)),
            term: Term(number(bytes, 8)),
            prev: EntryId { term: Term(number(bytes, 16)), index: Index(number(bytes, 24)) },
            commit: Index(number(bytes, 32)),
            payloads: if count & STRIPPED == 0 { Payloads::All } else { Payloads::Stripped },
            count: count & COUNT_MAX,
            bytes: small(bytes, 44),
        }
    }
}

/// One append as it arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section<'a> {
    /// Whose log.
    pub group: GroupId,
    /// The leader's term.
    pub term: Term,
    /// The entry before the first record.
    pub prev: EntryId,
    /// Index of the last record; `prev.index` if there is none.
    pub last: Index,
    /// The leader's commit index.
    pub commit: Index,
    /// What of the entries' payloads is in the records.
    pub payloads: Payloads,
    /// Whole records with the indexes `prev.index + 1 ..= last`. Terms and record checksums are not looked at.
    pub records: &'a [u8],
}

/// The sections of an append frame, in order. Ends after the first error.
pub struct Sections<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> Sections<'a> {
    /// Walks a body that should hold `count` sections.
    #[must_use]
    pub fn new(body: &'a [u8], count: u32) -> Sections<'a> {
        Sections { rest: body, left: count }
    }

    fn read(&mut self) -> Result<Section<'a>, CodecError> {
        let (head, rest) = self.rest.split_first_chunk::<SECTION>().ok_or(CodecError::Short)?;
        let head = SectionHead::decode(head);
        let (records, rest) = rest.split_at_checked(head.bytes as usize).ok_or(CodecError::Short)?;
        let last = head.prev.index.0.checked_add(u64::from(head.count)).ok_or(CodecError::Run(head.group))?;
        let last = Index(last);
        check_run(records, head.prev.index, last, head.group)?;
        self.rest = rest;
        let SectionHead { group, term, prev, commit, payloads, .. } = head;
        Ok(Section { group, term, prev, last, commit, payloads, records })
    }
}

impl<'a> Iterator for Sections<'a> {
    type Item = Result<Section<'a>, CodecError>;

    fn next(&mut self) -> Option<Self::Item> {
        let one = next_of(&mut self.left, self.rest)?.and_then(|()| self.read());
        if one.is_err() {
            (self.rest, self.left) = (&[], 0);
        }
        Some(one)
    }
}

/// Counts one down; `None` at the end, an error if count and bytes do not end together.
fn next_of(left: &mut u32, rest: &[u8]) -> Option<Result<(), CodecError>> {
    match (*left, rest.is_empty()) {
        (0, true) => None,
        (0, false) => Some(Err(CodecError::Count)),
        (_, true) => Some(Err(CodecError::Count)),
        (_, false) => {
            *left -= 1;
            Some(Ok(()))
        }
    }
}

fn check_run(mut records: &[u8], prev: Index, last: Index, group: GroupId) -> Result<(), CodecError> {
    let mut index = prev;
    while !records.is_empty() {
        let record = Record::read(records).map_err(|error| CodecError::Record { group, error })?;
        // `index < last` keeps the addition from overflowing.
        if index >= last || record.id.index != index.next() {
            return Err(CodecError::Run(group));
        }
        index = record.id.index;
        records = &records[record.bytes().len()..];
    }
    if index == last { Ok(()) } else { Err(CodecError::Run(group)) }
}

/// What an item is. The words it has stand in the table of `docs/protocol.md`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ItemKind {
    /// [`Body::AppendAck`]: index.
    AppendAck = 1,
    /// [`Body::AppendReject`]: rejected index, hinted term, hinted index.
    AppendReject = 2,
    /// [`Body::Vote`]: last term, last index; flag: transfer.
    Vote = 3,
    /// [`Body::VoteReply`]; flag: granted.
    VoteReply = 4,
    /// [`Body::PreVote`]: last term, last index.
    PreVote = 5,
    /// [`Body::PreVoteReply`]; flag: granted.
    PreVoteReply = 6,
    /// [`Body::Heartbeat`]: commit, read.
    Heartbeat = 7,
    /// [`Body::HeartbeatReply`]: read.
    HeartbeatReply = 8,
    /// [`Body::ReadIndex`]: id.
    ReadIndex = 9,
    /// [`Body::ReadIndexReply`]: id, index.
    ReadIndexReply = 10,
    /// [`Body::TransferLeader`]: target.
    TransferLeader = 11,
    /// [`Body::TimeoutNow`].
    TimeoutNow = 12,
    /// A proposal on its way to the leader: a payload.
    Proposal = 13,
    /// [`Body::ReadIndexReject`]: id; flag: busy.
    ReadIndexReject = 14,
}

impl ItemKind {
    /// All of them.
    pub const ALL: [ItemKind; 14] = [
        ItemKind::AppendAck,
        ItemKind::AppendReject,
        ItemKind::Vote,
        ItemKind::VoteReply,
        ItemKind::PreVote,
        ItemKind::PreVoteReply,
        ItemKind::Heartbeat,
        ItemKind::HeartbeatReply,
        ItemKind::ReadIndex,
        ItemKind::ReadIndexReply,
        ItemKind::TransferLeader,
        ItemKind::TimeoutNow,
        ItemKind::Proposal,
        ItemKind::ReadIndexReject,
    ];

    /// The kind with this number, if there is one.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<ItemKind> {
        ItemKind::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// How many 64-bit words follow the fixed part.
    #[must_use]
    pub const fn words(self) -> usize {
        match self {
            ItemKind::AppendReject => 3,
            ItemKind::Vote | ItemKind::PreVote | ItemKind::Heartbeat | ItemKind::ReadIndexReply => 2,
            ItemKind::AppendAck
            | ItemKind::HeartbeatReply
            | ItemKind::ReadIndex
            | ItemKind::ReadIndexReject
            | ItemKind::TransferLeader => 1,
            ItemKind::VoteReply | ItemKind::PreVoteReply | ItemKind::TimeoutNow | ItemKind::Proposal => 0,
        }
    }

    const fn has_flag(self) -> bool {
        matches!(self, ItemKind::Vote | ItemKind::VoteReply | ItemKind::PreVoteReply | ItemKind::ReadIndexReject)
    }
}

/// Appends the item of a message.
///
/// # Panics
/// If it is an append or a snapshot: those have doors of their own.
pub fn put_message(out: &mut BytesMut, group: GroupId, term: Term, body: &Body) {
    let (kind, flag, words) = parts(body).expect("appends and snapshots are not items");
    put_item(out, group, kind, flag, 0, term);
    for word in &words[..kind.words()] {
        out.put_u64_le(*word);
    }
}

/// Appends the item of a proposal but for its payload and padding.
pub fn put_proposal(out: &mut BytesMut, group: GroupId, payload_len: u32) {
    put_item(out, group, ItemKind::Proposal, false, payload_len, Term::ZERO);
}

fn put_item(out: &mut BytesMut, group: GroupId, kind: ItemKind, flag: bool, payload_len: u32, term: Term) {
    out.put_u64_le(group.0);
    out.put_u8(kind as u8);
    out.put_u8(u8::from(flag));
    out.put_u16_le(0);
    out.put_u32_le(payload_len);
    out.put_u64_le(term.0);
}

/// Size of the item of a message.
///
/// # Panics
/// If it is an append or a snapshot.
#[must_use]
pub fn message_len(body: &Body) -> usize {
    let (kind, ..) = parts(body).expect("appends and snapshots are not items");
    ITEM + 8 * kind.words()
}

fn parts(body: &Body) -> Option<(ItemKind, bool, [u64; WORDS_MAX])> {
    Some(match *body {
        Body::AppendAck { index } => (ItemKind::AppendAck, false, [index.0, 0, 0]),
        Body::AppendReject { rejected, hint } => {
            (ItemKind::AppendReject, false, [rejected.0, hint.term.0, hint.index.0])
        }
        Body::Vote { last, transfer } => (ItemKind::Vote, transfer, [last.term.0, last.index.0, 0]),
        Body::VoteReply { granted } => (ItemKind::VoteReply, granted, [0; 3]),
        Body::PreVote { last } => (ItemKind::PreVote, false, [last.term.0, last.index.0, 0]),
        Body::PreVoteReply { granted } => (ItemKind::PreVoteReply, granted, [0; 3]),
        Body::Heartbeat { commit, read } => (ItemKind::Heartbeat, false, [commit.0, read, 0]),
        Body::HeartbeatReply { read } => (ItemKind::HeartbeatReply, false, [read, 0, 0]),
        Body::ReadIndex { id } => (ItemKind::ReadIndex, false, [id.0, 0, 0]),
        Body::ReadIndexReply { id, index } => (ItemKind::ReadIndexReply, false, [id.0, index.0, 0]),
        Body::ReadIndexReject { id, busy } => (ItemKind::ReadIndexReject, busy, [id.0, 0, 0]),
        Body::TransferLeader { target } => (ItemKind::TransferLeader, false, [target.0, 0, 0]),
        Body::TimeoutNow => (ItemKind::TimeoutNow, false, [0; 3]),
        Body::Append { .. } | Body::Snapshot { .. } => return None,
    })
}

fn body_of(kind: ItemKind, flag: bool, [a, b, c]: [u64; WORDS_MAX]) -> Option<Body> {
    let entry = |term: u64, index: u64| EntryId { term: Term(term), index: Index(index) };
    Some(match kind {
        ItemKind::AppendAck => Body::AppendAck { index: Index(a) },
        ItemKind::AppendReject => Body::AppendReject { rejected: Index(a), hint: entry(b, c) },
        ItemKind::Vote => Body::Vote { last: entry(a, b), transfer: flag },
        ItemKind::VoteReply => Body::VoteReply { granted: flag },
        ItemKind::PreVote => Body::PreVote { last: entry(a, b) },
        ItemKind::PreVoteReply => Body::PreVoteReply { granted: flag },
        ItemKind::Heartbeat => Body::Heartbeat { commit: Index(a), read: b },
        ItemKind::HeartbeatReply => Body::HeartbeatReply { read: a },
        ItemKind::ReadIndex => Body::ReadIndex { id: ReadId(a) },
        ItemKind::ReadIndexReply => Body::ReadIndexReply { id: ReadId(a), index: Index(b) },
        ItemKind::ReadIndexReject => Body::ReadIndexReject { id: ReadId(a), busy: flag },
        ItemKind::TransferLeader => Body::TransferLeader { target: PeerId(a) },
        ItemKind::TimeoutNow => Body::TimeoutNow,
        ItemKind::Proposal => return None,
    })
}

/// One thing said in a message frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item<'a> {
    /// A message.
    Message {
        /// Which group.
        group: GroupId,
        /// The message's term.
        term: Term,
        /// What it says.
        body: Body,
    },
    /// A proposal.
    Proposal {
        /// Which group.
        group: GroupId,
        /// What is proposed.
        payload: &'a [u8],
    },
}

/// The items of a message frame, in order. Ends after the first error.
pub struct Items<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> Items<'a> {
    /// Walks a body that should hold `count` items.
    #[must_use]
    pub fn new(body: &'a [u8], count: u32) -> Items<'a> {
        Items { rest: body, left: count }
    }

    fn read(&mut self) -> Result<Item<'a>, CodecError> {
        let (head, rest) = self.rest.split_first_chunk::<ITEM>().ok_or(CodecError::Short)?;
        let kind = ItemKind::from_u8(head[8]).ok_or(CodecError::Kind(head[8]))?;
        let (group, term, len) = (GroupId(number(head, 0)), Term(number(head, 16)), small(head, 12));
        let proposal = kind == ItemKind::Proposal;
        if head[9] > u8::from(kind.has_flag()) || head[10..12] != [0; 2] {
            return Err(CodecError::Field);
        }
        if if proposal { term != Term::ZERO } else { len != 0 } {
            return Err(CodecError::Field);
        }
        let (raw, rest) = rest.split_at_checked(8 * kind.words()).ok_or(CodecError::Short)?;
        let mut words = [0; WORDS_MAX];
        for (word, bytes) in words.iter_mut().zip(raw.chunks_exact(8)) {
            *word = number(bytes, 0);
        }
        let len = len as usize;
        let (payload, rest) = rest.split_at_checked(len.next_multiple_of(8)).ok_or(CodecError::Short)?;
        if payload[len..].iter().any(|byte| *byte != 0) {
            return Err(CodecError::Field);
        }
        self.rest = rest;
        Ok(match body_of(kind, head[9] == 1, words) {
            Some(body) => Item::Message { group, term, body },
            None => Item::Proposal { group, payload: &payload[..len] },
        })
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Item<'a>, CodecError>;

    fn next(&mut self) -> Option<Self::Item> {
        let one = next_of(&mut self.left, self.rest)?.and_then(|()| self.read());
        if one.is_err() {
            (self.rest, self.left) = (&[], 0);
        }
        Some(one)
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn small(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Why a body with a sound checksum is still not one: a bug of the other side, or another program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CodecError {
    /// A part of the body is cut short.
    #[error("frame body is cut short")]
    Short,
    /// The body does not hold as many parts as the header says.
    #[error("frame body and count do not agree")]
    Count,
    /// An unknown kind of item.
    #[error("message kind {0} is unknown")]
    Kind(u8),
    /// A field has a value it cannot have.
    #[error("message field out of range")]
    Field,
    /// Bytes that are no record.
    #[error("group {group}: {error}")]
    Record {
        /// Whose log.
        group: GroupId,
        /// What is wrong.
        error: RecordError,
    },
    /// Indexes are not consecutive, or not as many as the section says.
    #[error("group {0}: records are not the run that was announced")]
    Run(GroupId),
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use ringraft_raft::EntryKind;
    use ringraft_raft::record::{self, GroupSeed};

    use super::*;

    fn run(group: GroupId, from: u64, sizes: &[usize]) -> BytesMut {
        let mut out = BytesMut::new();
        for (index, size) in (from..).zip(sizes) {
            let id = EntryId { term: Term(2), index: Index(index) };
            record::encode(GroupSeed::of(group), id, EntryKind::Normal, &[&vec![7; *size]], &mut out);
        }
        out
    }

    fn head(group: u64, prev: u64, records: &[u8], count: u32) -> SectionHead {
        SectionHead {
            group: GroupId(group),
            term: Term(3),
            prev: EntryId { term: Term(2), index: Index(prev) },
            commit: Index(9),
            payloads: if group == 2 { Payloads::Stripped } else { Payloads::All },
            count,
            bytes: u32::try_from(records.len()).unwrap(),
        }
    }

    fn sections() -> Vec<u8> {
        let mut body = Vec::new();
        for (group, prev, sizes) in [(1, 4, &[0_usize, 3, 64][..]), (2, 0, &[]), (3, 0, &[100])] {
            let records = run(GroupId(group), prev + 1, sizes);
            body.extend(head(group, prev, &records, u32::try_from(sizes.len()).unwrap()).encode());
            body.extend(&records);
        }
        body
    }

    #[test]
    fn sections_round_trip() {
        let body = sections();
        let got: [_; 3] = Sections::new(&body, 3).map(Result::unwrap).collect::<Vec<_>>().try_into().unwrap();
        let ends = got.map(|one| (one.group.0, one.prev.index.0, one.last.0));
        assert_eq!(ends, [(1, 4, 7), (2, 0, 0), (3, 0, 1)]);
        assert_eq!(got[0].records, run(GroupId(1), 5, &[0, 3, 64]));
        assert!(got.iter().all(|one| one.term == Term(3) && one.commit == Index(9)));
        assert_eq!(got.map(|one| one.payloads), [Payloads::All, Payloads::Stripped, Payloads::All]);
    }

    #[test]
    fn every_cut_and_every_wrong_count_is_seen() {
        let body = sections();
        for cut in 0..body.len() {
            assert!(Sections::new(&body[..cut], 3).any(|one| one.is_err()), "cut at {cut}");
        }
        for count in [0, 2, 4, u32::MAX] {
            assert!(Sections::new(&body, count).any(|one| one.is_err()), "count {count}");
        }
        assert_eq!(Sections::new(&[], 0).count(), 0);
    }

    #[test]
    fn runs_that_are_not() {
        let good = run(GroupId(1), 5, &[8, 8, 8]);
        let one = good.len() / 3;
        let mut swapped = good[one..].to_vec();
        swapped.extend(&good[..one]);
        for (name, head, records) in [
            ("too few", head(1, 4, &good, 4), &good[..]),
            ("too many", head(1, 4, &good, 2), &good),
            ("none said", head(1, 4, &good, 0), &good),
            ("none there", head(1, 4, &[], 1), &[]),
            ("gap", head(1, 3, &good, 3), &good),
            ("order", head(1, 4, &swapped, 3), &swapped),
            ("overflow", head(1, u64::MAX, &good, 3), &good),
        ] {
            let body = [&head.encode()[..], records].concat();
            assert_eq!(Sections::new(&body, 1).next(), Some(Err(CodecError::Run(GroupId(1)))), "{name}");
        }
    }

    /// Every body that travels as an item; the match makes a new variant fail to compile here.
    pub(crate) fn bodies() -> Vec<Body> {
        let id = |term: u64, index: u64| EntryId { term: Term(term), index: Index(index) };
        let all = vec![
            Body::AppendAck { index: Index(u64::MAX) },
            Body::AppendReject { rejected: Index(8), hint: id(2, 6) },
            Body::Vote { last: id(3, 10), transfer: true },
            Body::Vote { last: id(3, 10), transfer: false },
            Body::VoteReply { granted: true },
            Body::VoteReply { granted: false },
            Body::PreVote { last: id(3, 10) },
            Body::PreVoteReply { granted: true },
            Body::PreVoteReply { granted: false },
            Body::Heartbeat { commit: Index(5), read: 77 },
            Body::HeartbeatReply { read: 77 },
            Body::ReadIndex { id: ReadId(1) },
            Body::ReadIndexReply { id: ReadId(1), index: Index(4) },
            Body::ReadIndexReject { id: ReadId(1), busy: true },
            Body::ReadIndexReject { id: ReadId(2), busy: false },
            Body::TransferLeader { target: PeerId(3) },
            Body::TimeoutNow,
        ];
        for body in &all {
            match body {
                Body::Append { .. } | Body::Snapshot { .. } => unreachable!("not items"),
                Body::AppendAck { .. }
                | Body::AppendReject { .. }
                | Body::Vote { .. }
                | Body::VoteReply { .. }
                | Body::PreVote { .. }
                | Body::PreVoteReply { .. }
                | Body::Heartbeat { .. }
                | Body::HeartbeatReply { .. }
                | Body::ReadIndex { .. }
                | Body::ReadIndexReply { .. }
                | Body::ReadIndexReject { .. }
                | Body::TransferLeader { .. }
                | Body::TimeoutNow => {}
            }
        }
        all
    }

    fn items() -> (BytesMut, u32) {
        let mut out = BytesMut::new();
        for (group, body) in (1..).zip(bodies()) {
            let before = out.len();
            put_message(&mut out, GroupId(group), Term(5), &body);
            assert_eq!(out.len() - before, message_len(&body));
        }
        put_proposal(&mut out, GroupId(50), 3);
        out.put_slice(b"abc\0\0\0\0\0");
        put_proposal(&mut out, GroupId(51), 0);
        (out, u32::try_from(bodies().len()).unwrap() + 2)
    }

    #[test]
    fn items_round_trip() {
        let (body, count) = items();
        let mut want: Vec<_> = (1..)
            .zip(bodies())
            .map(|(group, body)| Item::Message { group: GroupId(group), term: Term(5), body })
            .collect();
        want.push(Item::Proposal { group: GroupId(50), payload: b"abc" });
        want.push(Item::Proposal { group: GroupId(51), payload: b"" });
        assert_eq!(Items::new(&body, count).map(Result::unwrap).collect::<Vec<_>>(), want);
    }

    #[test]
    fn items_cut_or_miscounted() {
        let (body, count) = items();
        for cut in 0..body.len() {
            assert!(Items::new(&body[..cut], count).any(|one| one.is_err()), "cut at {cut}");
        }
        for count in [0, count - 1, count + 1, u32::MAX] {
            assert!(Items::new(&body, count).any(|one| one.is_err()), "count {count}");
        }
    }

    #[test]
    fn one_meaning_has_one_encoding() {
        let mut item = BytesMut::new();
        put_message(&mut item, GroupId(1), Term(5), &Body::AppendAck { index: Index(1) });
        for (at, value) in [(9, 1), (9, 2), (10, 1), (11, 1), (12, 8), (8, 0), (8, 15), (8, 255)] {
            let mut bad = item.to_vec();
            bad[at] = value;
            assert!(Items::new(&bad, 1).next().unwrap().is_err(), "byte {at} = {value}");
        }
    }

    proptest! {
        #[test]
        fn decoding_is_total(body in proptest::collection::vec(any::<u8>(), 0..400), count in 0_u32..8) {
            Sections::new(&body, count).for_each(drop);
            Items::new(&body, count).for_each(drop);
        }

        #[test]
        fn flipped_items_decode_to_what_they_say(bit in 0_usize..2000) {
            let (body, count) = items();
            let mut body = body.to_vec();
            let bit = bit % (body.len() * 8);
            body[bit / 8] ^= 1 << (bit % 8);
            // Whatever is still accepted encodes to the same bytes: nothing in an item is ignored.
            let mut again = BytesMut::new();
            for item in Items::new(&body, count) {
                match item {
                    Ok(Item::Message { group, term, body }) => put_message(&mut again, group, term, &body),
                    Ok(Item::Proposal { group, payload }) => {
                        put_proposal(&mut again, group, u32::try_from(payload.len()).unwrap());
                        again.put_slice(payload);
                        again.put_bytes(0, payload.len().next_multiple_of(8) - payload.len());
                    }
                    Err(_) => return Ok(()),
                }
            }
            prop_assert_eq!(&body[..], &again[..]);
        }
    }
}
