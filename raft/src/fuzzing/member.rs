//! One member, its disk and its state machine, as bytes tell what happens to them.
//!
//! The first byte says how it is configured. Then every step is a byte that says what happens, and what that takes:
//! numbers ([`Input::number`]) and lists. Half of all steps are messages from peers, well-formed or not.

use std::collections::VecDeque;

use super::Input;
use crate::confchange::{ConfChange, ConfChangeOp, Transition};
use crate::config::{Config, ReadPolicy};
use crate::error::OpenError;
use crate::message::{Body, Message, Payloads};
use crate::raft::Raft;
use crate::ready::{Append, Ready};
use crate::storage::{Storage, StorageError};
use crate::types::{ConfState, EntryId, EntryKind, EntryMeta, HardState, Index, PeerId, ReadId, Term};

/// What is durable.
#[derive(Clone, Debug, Default)]
struct Disk {
    hard: HardState,
    /// Membership as of the base.
    conf: ConfState,
    base: EntryId,
    entries: VecDeque<EntryMeta>,
    snapshot: Option<EntryId>,
}

impl Disk {
    fn at(&self, index: Index) -> Result<usize, StorageError> {
        let last = self.last_index();
        match index.0.checked_sub(self.base.index.0 + 1) {
            None => Err(StorageError::Compacted { index, base: self.base.index }),
            Some(_) if index > last => Err(StorageError::Unavailable { index, last }),
            Some(at) => Ok(usize::try_from(at).expect("few entries")),
        }
    }

    /// How many of its entries lie up to `index`.
    fn count_to(&self, index: Index) -> usize {
        usize::try_from(index.0 - self.base.index.0).expect("few entries")
    }

    fn write(&mut self, write: &Write) {
        if let Some((at, conf)) = &write.image {
            self.entries.clear();
            (self.base, self.snapshot, self.conf) = (*at, Some(*at), conf.clone());
        }
        if !write.metas.is_empty() {
            self.entries.truncate(self.count_to(write.append.entries.0));
            self.entries.extend(&write.metas);
        }
        if let Some(hard) = write.append.hard_state {
            assert!(hard.term >= self.hard.term, "terms only grow");
            self.hard = hard;
        }
    }

    fn compact(&mut self, upto: Index, conf: &ConfState) {
        let at = EntryId { term: self.term(upto).expect("it is there"), index: upto };
        self.entries.drain(..self.count_to(upto));
        (self.base, self.snapshot, self.conf) = (at, Some(at), conf.clone());
    }
}

impl Storage for Disk {
    fn initial_state(&self) -> (HardState, ConfState) {
        (self.hard, self.conf.clone())
    }

    fn base(&self) -> EntryId {
        self.base
    }

    fn last_index(&self) -> Index {
        Index(self.base.index.0 + self.entries.len() as u64)
    }

    fn meta(&self, index: Index) -> Result<EntryMeta, StorageError> {
        self.at(index).map(|at| self.entries[at])
    }

    fn snapshot(&self) -> Option<EntryId> {
        self.snapshot
    }
}

/// A write that is under way.
struct Write {
    append: Append,
    metas: Vec<EntryMeta>,
    image: Option<(EntryId, ConfState)>,
}

/// The member, and what its shell holds.
pub(super) struct Member {
    raft: Raft<Disk>,
    /// The membership at the start of the state machine's life, and where it is now.
    conf: ConfState,
    applied: Index,
    writes: VecDeque<Write>,
    /// A snapshot that was taken, until its write begins.
    arrived: Option<(EntryId, ConfState)>,
    ready: Ready,
    term: Term,
    commit: Index,
}

impl Member {
    pub(super) fn new(input: &mut Input<'_>) -> Member {
        let bits = input.byte();
        let has = |bit: u8| bits & 1 << bit != 0;
        let config = Config {
            witness: has(0) && has(1),
            pre_vote: has(2),
            check_quorum: has(3),
            read_policy: if has(3) && has(4) { ReadPolicy::Lease } else { ReadPolicy::Quorum },
            inflight_count_max: if has(5) { 1 } else { 256 },
            message_size_max: if has(5) { 100 } else { 1 << 20 },
            apply_size_max: if has(6) { 100 } else { 1 << 20 },
            step_down_on_removal: !has(7),
            check_conf_changes: !has(6),
            read_count_max: 3,
            ..Config::new(PeerId(1))
        };
        let witnesses = match (has(0), has(1)) {
            (true, true) => vec![PeerId(1)],
            (true, false) => vec![PeerId(3)],
            (false, _) => Vec::new(),
        };
        let voters = if has(1) && !has(0) { vec![PeerId(1)] } else { (1..=3).map(PeerId).collect() };
        let conf = ConfState { voters, witnesses, ..ConfState::default() };
        let disk = Disk { conf: conf.clone(), ..Disk::default() };
        Member {
            raft: Raft::new(config, disk).expect("an empty log"),
            conf,
            applied: Index::ZERO,
            writes: VecDeque::new(),
            arrived: None,
            ready: Ready::default(),
            term: Term::ZERO,
            commit: Index::ZERO,
        }
    }

    /// One step.
    pub(super) fn act(&mut self, input: &mut Input<'_>) {
        let what = input.byte();
        let raft = &mut self.raft;
        match what {
            128.. => {
                let (message, entries) = message(input, raft);
                let _ = raft.step(message, &entries);
            }
            0..16 => raft.tick(),
            16..18 => raft.advance(u32::try_from(input.number() % 100).expect("small")),
            18..24 => raft.campaign(),
            24..32 => drop(raft.propose(EntryKind::Normal, size(input))),
            32..36 => {
                let change = change(input);
                let _ = raft.propose_conf_change(&change, size(input));
            }
            36..40 => drop(raft.read_index(ReadId(input.number()))),
            40..44 => raft.report_snapshot(PeerId(input.number()), input.byte().is_multiple_of(2)),
            44..46 => raft.report_unreachable(PeerId(input.number())),
            46..50 => drop(raft.transfer_leader(PeerId(input.number()))),
            50..52 => drop(raft.forget_leader()),
            52..54 => raft.set_peer_window(PeerId(input.number()), usize::from(input.byte()), input.number()),
            54 => raft.set_peer_priority(PeerId(input.number()), input.byte()),
            55 => raft.shrink(),
            56..60 => self.compact(),
            60..64 => self.restart(),
            64..72 => self.snapshot(input),
            72..88 => self.turn(input),
            88..104 => self.sync(),
            _ => {
                self.turn(input);
                self.sync();
            }
        }
        self.check();
    }

    fn check(&mut self) {
        let (term, commit) = (self.raft.term(), self.raft.commit());
        assert!(term >= self.term && commit >= self.commit, "terms and commits only grow");
        assert!(commit <= self.raft.last_index() && self.raft.durable_index() <= self.raft.last_index());
        (self.term, self.commit) = (term, commit);
    }

    fn snapshot(&mut self, input: &mut Input<'_>) {
        let (message, _) = message(input, &self.raft);
        let at = id(input, &self.raft);
        let conf = membership(input, &self.conf);
        if self.raft.step_snapshot(message, at, &conf) == Ok(true) {
            self.arrived = Some((at, conf));
        }
    }

    /// What a shell does with a Ready, but for the end of its write.
    fn turn(&mut self, input: &mut Input<'_>) {
        if !self.raft.has_ready() {
            return;
        }
        self.raft.ready(&mut self.ready);
        for message in &self.ready.messages {
            assert!(message.to != self.raft.id() && message.from == self.raft.id(), "{message:?}");
            if let Body::Append { prev, last, .. } = message.body {
                assert!((prev.index.0 + 1..=last.0).all(|index| self.raft.meta(Index(index)).is_ok()), "{message:?}");
            }
        }
        if let Some(append) = self.ready.append.take() {
            let (after, upto) = append.entries;
            let metas = (after.0 + 1..=upto.0).map(|index| self.raft.meta(Index(index)).expect("it is new")).collect();
            let image = append.snapshot.map(|at| {
                let image = self.arrived.take().expect("it arrived");
                assert_eq!(image.0, at);
                image
            });
            self.writes.push_back(Write { append, metas, image });
        }
        let (after, upto) = self.ready.committed;
        if after < upto {
            assert_eq!(after, self.applied, "entries are applied in order, once");
            for index in after.0 + 1..=upto.0 {
                let meta = self.raft.meta(Index(index)).expect("what is committed is there");
                if meta.kind != EntryKind::Normal
                    && let Ok(conf) = self.raft.apply_conf_change(&change(input))
                {
                    self.conf = conf;
                }
            }
            self.applied = upto;
            self.raft.applied(upto);
        }
    }

    /// The oldest write becomes durable.
    fn sync(&mut self) {
        let Some(mut write) = self.writes.pop_front() else { return };
        self.raft.storage_mut().write(&write);
        for message in write.append.after_sync.hold() {
            if message.to == self.raft.id() {
                self.raft.step(message, &[]).expect("our own word");
            }
        }
        self.raft.synced(write.append.ticket);
        if let Some((at, conf)) = write.image {
            (self.applied, self.conf) = (at.index, conf);
        }
    }

    fn compact(&mut self) {
        let log = self.raft.storage();
        let replaced = !self.writes.is_empty() || self.arrived.is_some();
        if self.applied > log.base.index && self.applied <= log.last_index() && !replaced {
            self.raft.storage_mut().compact(self.applied, &self.conf);
        }
    }

    /// A crash: what is not durable is lost.
    fn restart(&mut self) {
        let disk = self.raft.storage().clone();
        let config = self.raft.config().clone();
        self.writes.clear();
        self.arrived = None;
        (self.conf, self.applied) = (disk.conf.clone(), disk.base.index);
        (self.term, self.commit) = (disk.hard.term, Index::ZERO);
        match Raft::new(config.clone(), disk.clone()) {
            Ok(raft) => self.raft = raft,
            // A snapshot said of us that we are what we are not.
            Err(OpenError::Witness { .. }) => {
                let disk = Disk { conf: ConfState::default(), ..disk };
                self.conf = ConfState::default();
                self.raft = Raft::new(config, disk).expect("without a membership there is nothing against it");
            }
            Err(error) => panic!("a log that was written cannot be opened: {error}"),
        }
    }
}

/// Bytes of a payload.
fn size(input: &mut Input<'_>) -> u32 {
    u32::try_from(input.number() & 0xffff_ffff).expect("masked")
}

/// Often one that means something now.
fn index(input: &mut Input<'_>, raft: &Raft<Disk>) -> Index {
    match input.byte() {
        low @ 0..128 => Index(raft.last_index().0.saturating_sub(u64::from(low % 8))),
        low @ 128..192 => Index(raft.commit().0.saturating_add(u64::from(low % 8)).saturating_sub(3)),
        _ => Index(input.number()),
    }
}

fn id(input: &mut Input<'_>, raft: &Raft<Disk>) -> EntryId {
    let index = index(input, raft);
    let term = match (raft.entry_term(index), input.byte()) {
        (Ok(term), 0..128) => term,
        _ => Term(input.number()),
    };
    EntryId { term, index }
}

fn change(input: &mut Input<'_>) -> ConfChange {
    let bits = input.byte();
    let transition = match bits & 3 {
        0 | 1 => Transition::Auto,
        2 => Transition::JointImplicit,
        _ => Transition::JointExplicit,
    };
    let op = |_| {
        let kind = input.byte();
        let peer = PeerId(input.number());
        match kind % 5 {
            0 => ConfChangeOp::AddVoter(peer),
            1 => ConfChangeOp::AddLearner(peer),
            2 => ConfChangeOp::Remove(peer),
            3 => ConfChangeOp::Update(peer),
            _ => ConfChangeOp::AddWitness(peer),
        }
    };
    ConfChange { transition, ops: (0..bits >> 2 & 3).map(op).collect() }
}

/// That of now, or any.
fn membership(input: &mut Input<'_>, now: &ConfState) -> ConfState {
    let bits = input.byte();
    if bits < 128 {
        return now.clone();
    }
    let mut conf = ConfState { auto_leave: bits & 1 == 1, ..ConfState::default() };
    for list in conf.lists_mut() {
        *list = (0..input.byte() % 4).map(|_| PeerId(input.number())).collect();
    }
    conf
}

fn message(input: &mut Input<'_>, raft: &Raft<Disk>) -> (Message, Vec<EntryMeta>) {
    let kind = input.byte();
    let bits = input.byte();
    let flag = bits & 1 == 1;
    // What it takes, mostly.
    let payloads = if raft.config().witness != (bits & 0x1e == 0x1e) { Payloads::Stripped } else { Payloads::All };
    let term = match input.byte() {
        0..160 => raft.term(),
        160..192 => Term(raft.term().0.saturating_add(1)),
        192..208 => Term::ZERO,
        _ => Term(input.number()),
    };
    let mut entries = Vec::new();
    let body = match kind % 23 {
        0..5 => {
            let prev = id(input, raft);
            let mut one = EntryMeta { term: prev.term, ..EntryMeta::default() };
            for _ in 0..bits >> 5 {
                let bits = input.byte();
                match bits & 3 {
                    0 => one.term = Term(input.number()),
                    1 => one.term = term,
                    _ => {}
                }
                one.kind = if bits & 0xc == 0xc { EntryKind::ConfChangeV2 } else { EntryKind::Normal };
                one.size = if bits & 0x10 == 0 { u32::from(bits) } else { size(input) };
                entries.push(if payloads == Payloads::Stripped { one.stripped() } else { one });
            }
            let last = Index(prev.index.0.saturating_add(entries.len() as u64));
            let last = if kind == 255 { index(input, raft) } else { last };
            Body::Append { prev, last, commit: index(input, raft), payloads }
        }
        5 | 6 => Body::AppendAck { index: index(input, raft) },
        7 => Body::AppendReject { rejected: index(input, raft), hint: id(input, raft) },
        8 => Body::Vote { last: id(input, raft), transfer: flag },
        9 | 10 => Body::VoteReply { granted: flag },
        11 => Body::PreVote { last: id(input, raft) },
        12 | 13 => Body::PreVoteReply { granted: flag },
        14 => Body::Heartbeat { commit: index(input, raft), read: input.number() },
        15 => Body::HeartbeatReply { read: input.number() },
        16 => Body::Snapshot { at: id(input, raft), payloads },
        17 => Body::ReadIndex { id: ReadId(input.number()) },
        18 => Body::ReadIndexReply { id: ReadId(input.number()), index: index(input, raft) },
        19 => Body::ReadIndexReject { id: ReadId(input.number()), busy: flag },
        20 => Body::TransferLeader { target: PeerId(input.number()) },
        _ => Body::TimeoutNow,
    };
    let timeless = matches!(body, Body::ReadIndex { .. } | Body::ReadIndexReject { .. });
    let term = if timeless && bits & 0x1e != 0x1e { Term::ZERO } else { term };
    // Whoever speaks as us speaks through us: only the transport could let that in.
    let from = match PeerId(2 + input.number() % 4) {
        from if bits & 0x1e == 0x1e => PeerId(from.0.wrapping_mul(0x1000_0001)),
        from => from,
    };
    let to = if bits & 0x1e == 0x1c { PeerId(input.number()) } else { raft.id() };
    (Message { from, to, term, body }, entries)
}

/// Lives of a member, each a few steps long.
#[cfg(test)]
pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    const PRE_VOTE: u8 = 4;
    const CHECK_QUORUM: u8 = 8;
    const ALONE: u8 = 2;
    const BOTH: &[u8] = &[104];
    // Of the term: ours, the next one. Of an index: our last one.
    const OURS: u8 = 0;
    const NEXT: u8 = 160;
    let say = |kind: u8, bits: u8, term: u8, body: &[u8]| [&[128, kind, bits, term][..], body, &[0]].concat();
    let append = |entries: &[u8], term: u8| {
        let count = u8::try_from(entries.len()).expect("few") << 5;
        say(0, count, term, &[&[0, 0], entries, &[0]].concat())
    };
    // What the next turn reads when a change of membership is applied: one operation.
    let add_learner = |peer: u8| [&[104][..], &[4, 1, peer]].concat();
    let elected = [&[18][..], BOTH, &say(12, 1, NEXT, &[]), BOTH, &say(9, 1, OURS, &[]), BOTH].concat();
    let life = |bits: u8, steps: &[&[u8]]| [&[bits][..], &steps.concat()].concat();
    vec![
        ("alone", life(ALONE, &[&[18], BOTH, BOTH, &[24, 5], BOTH, BOTH, &[36, 1], BOTH, &[56], &[60], &[0], BOTH])),
        ("follows", life(CHECK_QUORUM, &[&append(&[1, 1], NEXT), BOTH, &append(&[1], OURS), BOTH, &[60], BOTH])),
        ("conflict", life(0, &[&append(&[1, 1, 1], NEXT), BOTH, &append(&[0, 3], NEXT), &[72], &[88], BOTH])),
        ("elected", life(PRE_VOTE, &[&elected, &[24, 9], BOTH, &say(5, 0, OURS, &[0]), BOTH, &[36, 7], BOTH])),
        ("deposed", life(PRE_VOTE | CHECK_QUORUM, &[&elected, &[24, 9], &say(14, 0, NEXT, &[0, 3]), BOTH])),
        ("hands-over", life(PRE_VOTE, &[&elected, &say(5, 0, OURS, &[0]), &[46, 2], BOTH, &say(20, 0, OURS, &[3])])),
        ("reads", life(PRE_VOTE | CHECK_QUORUM | 16, &[&elected, &say(17, 0, 192, &[4]), &[36, 5], BOTH])),
        ("grows", life(ALONE, &[&[18], BOTH, BOTH, &[32, 4, 1, 9, 10], &add_learner(9), &add_learner(9), &[60], BOTH])),
        (
            "votes",
            life(PRE_VOTE, &[&say(11, 0, NEXT, &[0, 0]), &say(8, 0, NEXT, &[0, 0]), BOTH, &say(8, 1, NEXT, &[0, 0])]),
        ),
        (
            "snapshot",
            life(0, &[&[64], &say(16, 0, NEXT, &[0, 0])[1..], &[255, 9, 255, 1, 0], BOTH, &append(&[1], OURS), BOTH]),
        ),
        ("last-term", life(0, &[&say(14, 0, 208, &[254, 0, 0]), BOTH, &[18], BOTH, &[60], BOTH])),
        ("witness", life(3, &[&append(&[1, 1], NEXT), BOTH, &append(&[12], OURS), BOTH, BOTH])),
        (
            "rejected",
            life(PRE_VOTE, &[&elected, &say(7, 0, OURS, &[0, 0, 0]), &[0], &[44, 2], &say(15, 0, OURS, &[0]), BOTH]),
        ),
    ]
}
