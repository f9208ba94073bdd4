//! What a fuzzer runs: functions of any bytes that must not panic. Compiled for tests and for fuzzers only.

mod member;

use bytes::BytesMut;

use crate::confchange::{ConfChange, Draft, MEMBERS_MAX, OPS_MAX};
use crate::record::{self, GroupSeed, PAYLOAD_MAX, Record, Records};
use crate::types::{ConfState, GroupId, PeerId};
use member::Member;

/// A member that runs, and what peers, clients and its own shell may do to it: [`member`](self) says how bytes tell it.
pub fn step(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut member = Member::new(&mut input);
    while !input.0.is_empty() {
        member.act(&mut input);
    }
}

/// The payload of a change of membership, applied to a membership that the first byte chooses.
pub fn conf_change(bytes: &[u8]) {
    let Some((choice, payload)) = bytes.split_first() else { return };
    let Some(change) = ConfChange::decode(payload) else { return };
    assert!(change.ops.len() <= OPS_MAX);
    let mut again = Vec::new();
    change.encode(&mut again);
    assert_eq!(ConfChange::decode(&again).as_ref(), Some(&change));
    // Of all changes, only leaving a joint configuration can be said in two ways.
    assert!(again == payload || change.leaves_joint(), "{change:?}");

    let conf = &memberships()[usize::from(*choice) % memberships().len()];
    let Ok(draft) = Draft::change(conf, &change) else { return };
    let conf = is_sound(&draft);
    if let Ok(draft) = Draft::change(&conf, &ConfChange::leave_joint()) {
        is_sound(&draft);
    }
}

/// A membership as it comes with a snapshot: 8 bytes per member; the highest byte says in which list.
pub fn membership(bytes: &[u8]) {
    let mut conf = ConfState { auto_leave: bytes.len() % 2 == 1, ..ConfState::default() };
    for member in bytes.as_chunks::<8>().0 {
        let [id @ .., list] = *member;
        let id = id.iter().rev().fold(0, |id, byte| id << 8 | u64::from(*byte));
        conf.lists_mut()[usize::from(list) % 5].push(PeerId(id));
    }
    let Ok(draft) = Draft::restore(&conf) else { return };
    let conf = is_sound(&draft);
    if let Ok(draft) = Draft::change(&conf, &ConfChange::leave_joint()) {
        is_sound(&draft);
    }
}

/// A membership that came of a change can be stored, read, and is the same then.
fn is_sound(draft: &Draft) -> ConfState {
    let conf = draft.conf();
    assert!(conf.names() <= MEMBERS_MAX);
    assert_eq!(Draft::restore(conf).map(|read| read.conf().clone()).as_ref(), Ok(conf));
    conf.clone()
}

fn memberships() -> [ConfState; 5] {
    let list = |ids: &[u64]| ids.iter().copied().map(PeerId).collect::<Vec<_>>();
    let simple = |voters: &[u64], witnesses: &[u64]| ConfState {
        voters: list(voters),
        witnesses: list(witnesses),
        ..ConfState::default()
    };
    let joint = ConfState {
        voters_outgoing: list(&[1, 2, 4]),
        learners: list(&[5]),
        learners_next: list(&[4]),
        auto_leave: true,
        ..simple(&[1, 2, 3], &[3])
    };
    [ConfState::default(), simple(&[1], &[]), simple(&[1, 2, 3], &[]), simple(&[1, 2, 3], &[3]), joint]
}

/// A run of records: whatever is one is the same as when it was encoded, but for a wrong checksum.
pub fn records(bytes: &[u8]) {
    let seed = GroupSeed::of(GroupId(7));
    let mut whole = 0;
    let mut broken = false;
    for record in Records::new(bytes) {
        assert!(!broken, "nothing follows an error");
        let Ok(record) = record else {
            broken = true;
            continue;
        };
        whole += record.bytes().len();
        is_one(&record, seed);
    }
    assert!(broken || whole == bytes.len());
}

fn is_one(record: &Record<'_>, seed: GroupSeed) {
    assert!(record.payload.len() <= PAYLOAD_MAX && record.meta().encoded_size() == record.bytes().len() as u64);
    let mut again = BytesMut::new();
    record::encode(seed, record.id, record.kind, &[record.payload], &mut again);
    assert_eq!(again[..4], record.bytes()[..4]);
    assert_eq!(again[8..], record.bytes()[8..]);
    assert_eq!(again[4..8] == record.bytes()[4..8], record.verify(seed));

    let mut stripped = BytesMut::new();
    record::strip(seed, record, &mut stripped);
    let read = Record::read(&stripped).expect("stripped records are records");
    assert_eq!((read.id, read.meta()), (record.id, record.meta().stripped()));
}

/// Bytes, from which one takes.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl Input<'_> {
    /// The next byte; 0 when there is none.
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    /// A number: one byte says a small one, or an edge, or that 8 bytes follow which say it.
    pub(crate) fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            254 => 1 << 62,
            253 => (1 << 62) + 1,
            252 => (1 << 62) - 1,
            251 => {
                let Some((bytes, rest)) = self.0.split_first_chunk() else { return 0 };
                self.0 = rest;
                u64::from_le_bytes(*bytes)
            }
            small => small.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use ringraft_fuzz_replay::Replay;

    use super::*;
    use crate::confchange::{ConfChangeOp, Transition};
    use crate::types::{EntryId, EntryKind, Index, Term};

    fn named(seeds: Vec<(&str, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
        seeds.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
    }

    #[test]
    fn replay_step() {
        let seeds = member::seeds();
        Replay { target: "raft_step", run: step, heap: (64 << 10, 200), seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_conf_change() {
        let change = |choice: u8, transition, ops: &[ConfChangeOp]| {
            let mut bytes = vec![choice];
            ConfChange { transition, ops: ops.to_vec() }.encode(&mut bytes);
            bytes
        };
        let [two, three, four, nine] = [2, 3, 4, 9].map(PeerId);
        let seeds = vec![
            ("first", change(0, Transition::Auto, &[ConfChangeOp::AddVoter(nine)])),
            ("grow", change(1, Transition::Auto, &[ConfChangeOp::AddVoter(two)])),
            ("demote", change(2, Transition::JointImplicit, &[ConfChangeOp::AddLearner(two)])),
            ("witness", change(2, Transition::Auto, &[ConfChangeOp::AddWitness(four), ConfChangeOp::Update(three)])),
            (
                "shrink",
                change(3, Transition::JointExplicit, &[ConfChangeOp::Remove(two), ConfChangeOp::AddVoter(four)]),
            ),
            ("leave", change(4, Transition::Auto, &[])),
        ];
        Replay { target: "raft_conf_change", run: conf_change, heap: (4 << 10, 20), seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_membership() {
        let conf = |lists: [&[u64]; 5], odd: bool| {
            let mut bytes = Vec::new();
            for (list, number) in lists.into_iter().zip(0_u8..) {
                for id in list {
                    bytes.extend_from_slice(&id.to_le_bytes()[..7]);
                    bytes.push(number);
                }
            }
            bytes.extend(odd.then_some(0));
            bytes
        };
        let seeds = vec![
            ("three", conf([&[1, 2, 3], &[], &[], &[], &[]], false)),
            ("learner", conf([&[1, 2, 3], &[], &[4], &[], &[]], false)),
            ("witness", conf([&[1, 2, 3], &[], &[], &[], &[3]], false)),
            ("joint", conf([&[1, 2, 3], &[2, 3, 4], &[5], &[4], &[3]], true)),
        ];
        Replay { target: "raft_membership", run: membership, heap: (4 << 10, 40), seeds: named(seeds) }.check();
    }

    #[test]
    fn replay_records() {
        let run = |group: u64, payloads: &[(EntryKind, &[u8])]| {
            let mut out = BytesMut::new();
            for ((kind, payload), index) in payloads.iter().zip(5..) {
                let id = EntryId { term: Term(3), index: Index(index) };
                record::encode(GroupSeed::of(GroupId(group)), id, *kind, &[payload], &mut out);
            }
            out.to_vec()
        };
        let seeds = vec![
            ("empty", run(7, &[(EntryKind::Normal, b"")])),
            ("run", run(7, &[(EntryKind::Normal, b"one"), (EntryKind::Normal, b"eight by"), (EntryKind::Normal, b"")])),
            ("changes", run(7, &[(EntryKind::ConfChange, b"\0\0\x09\0\0\0\0\0\0\0"), (EntryKind::ConfChangeV2, b"")])),
            ("another-group", run(8, &[(EntryKind::Normal, b"payload")])),
        ];
        Replay { target: "raft_records", run: records, heap: (4 << 10, 8), seeds: named(seeds) }.check();
    }
}
