//! Whatever a peer says, nothing panics: random messages, well-formed or not, against one member in all its roles.

mod support;

use ringraft_raft::{
    Body, ConfState, Config, EntryId, EntryKind, EntryMeta, Index, Message, Payloads, PeerId, Raft, ReadId, Ready,
    Storage, Term,
};
use support::Dice;
use support::log::MemLog;
use support::node::voters;

/// Mostly small, so that it fits now and then; sometimes at an edge.
fn number(dice: &mut Dice) -> u64 {
    match dice.below(40) {
        0 => u64::MAX,
        1 => 1 << 62,
        2 => (1 << 62) + 1,
        3..10 => dice.roll() % 40,
        _ => dice.roll() % 8,
    }
}

fn index(dice: &mut Dice, raft: &Raft<MemLog>) -> Index {
    match dice.below(4) {
        0 => Index(number(dice)),
        1 => raft.commit(),
        _ => Index(raft.last_index().0.saturating_sub(dice.roll() % 4)),
    }
}

/// Mostly what it takes.
fn payloads(dice: &mut Dice, raft: &Raft<MemLog>) -> Payloads {
    if raft.config().witness != dice.one_in(30) { Payloads::Stripped } else { Payloads::All }
}

fn id(dice: &mut Dice, raft: &Raft<MemLog>) -> EntryId {
    let index = index(dice, raft);
    let term = match raft.entry_term(index) {
        Ok(term) if !dice.one_in(3) => term,
        _ => Term(number(dice)),
    };
    EntryId { term, index }
}

fn message(dice: &mut Dice, raft: &Raft<MemLog>) -> (Message, Vec<EntryMeta>) {
    let mut entries = Vec::new();
    let term = match dice.below(16) {
        0 => Term(number(dice)),
        1 => Term(raft.term().0 + 1),
        _ => raft.term(),
    };
    let granted = dice.one_in(2);
    let body = match dice.below(19) {
        0..5 => {
            let prev = id(dice, raft);
            let mut one = EntryMeta { term: prev.term, ..EntryMeta::default() };
            for _ in 0..dice.below(4) {
                if dice.one_in(4) {
                    one.term = Term(number(dice));
                } else if dice.one_in(2) {
                    one.term = term;
                }
                one.kind = if dice.one_in(5) { EntryKind::ConfChangeV2 } else { EntryKind::Normal };
                one.size = u32::try_from(number(dice) & 0xffff_ffff).unwrap();
                if raft.config().witness && !dice.one_in(30) {
                    one = one.stripped();
                }
                entries.push(one);
            }
            let last = if dice.one_in(20) {
                index(dice, raft)
            } else {
                Index(prev.index.0.saturating_add(entries.len() as u64))
            };
            Body::Append { prev, last, commit: index(dice, raft), payloads: payloads(dice, raft) }
        }
        5 => Body::AppendAck { index: index(dice, raft) },
        6 => Body::AppendReject { rejected: index(dice, raft), hint: id(dice, raft) },
        7 => Body::Vote { last: id(dice, raft), transfer: granted },
        8 => Body::VoteReply { granted },
        9 => Body::PreVote { last: id(dice, raft) },
        10 => Body::PreVoteReply { granted },
        11 => Body::Heartbeat { commit: index(dice, raft), read: number(dice) },
        12 => Body::HeartbeatReply { read: number(dice) },
        13 => Body::Snapshot { at: id(dice, raft), payloads: payloads(dice, raft) },
        14 => Body::ReadIndex { id: ReadId(number(dice)) },
        15 => Body::ReadIndexReply { id: ReadId(number(dice)), index: index(dice, raft) },
        16 => Body::ReadIndexReject { id: ReadId(number(dice)), busy: granted },
        17 => Body::TransferLeader { target: PeerId(number(dice)) },
        _ => Body::TimeoutNow,
    };
    let timeless = matches!(body, Body::ReadIndex { .. } | Body::ReadIndexReject { .. });
    let term = if timeless && !dice.one_in(4) { Term::ZERO } else { term };
    let to = if dice.one_in(30) { PeerId(number(dice)) } else { raft.id() };
    // Whoever speaks as us speaks through us: only the transport could let that in.
    let from = PeerId(2 + number(dice) % 4);
    (Message { from, to, term, body }, entries)
}

fn conf(dice: &mut Dice) -> ConfState {
    let list = |dice: &mut Dice| (0..dice.below(3)).map(|_| PeerId(number(dice))).collect::<Vec<_>>();
    match dice.below(4) {
        0 => ConfState {
            voters: list(dice),
            voters_outgoing: list(dice),
            learners: list(dice),
            learners_next: list(dice),
            witnesses: list(dice),
            auto_leave: dice.one_in(2),
        },
        1 => ConfState { witnesses: vec![PeerId(1 + number(dice) % 3)], ..voters(3) },
        _ => voters(3),
    }
}

fn turn(raft: &mut Raft<MemLog>, ready: &mut Ready) {
    raft.ready(ready);
    for message in &ready.messages {
        if let Body::Append { prev, last, .. } = message.body {
            assert!((prev.index.0 + 1..=last.0).all(|index| raft.meta(Index(index)).is_ok()));
        }
    }
    if let Some(append) = &mut ready.append {
        let (after, upto) = append.entries;
        let metas: Vec<_> = (after.0 + 1..=upto.0).map(|index| raft.meta(Index(index)).unwrap()).collect();
        let log = raft.storage_mut();
        if let Some(at) = append.snapshot {
            log.install(at, voters(3));
        }
        if !metas.is_empty() {
            log.truncate(after);
            log.entries.extend(metas);
        }
        log.hard = append.hard_state.unwrap_or(log.hard);
        for message in append.after_sync.hold() {
            if message.to == raft.id() {
                raft.step(message, &[]).expect("our own word");
            }
        }
        raft.synced(append.ticket);
    }
    let (after, upto) = ready.committed;
    if after < upto {
        raft.applied(upto);
    }
}

#[test]
fn nothing_a_peer_says_panics() {
    let only = std::env::var("RINGRAFT_SEED").ok().and_then(|text| text.parse().ok());
    let mut roles = [0_usize; 4];
    let (mut taken, mut refused) = (0, 0);
    for seed in only.map_or(0..2000, |seed: u64| seed..seed + 1) {
        let result = std::panic::catch_unwind(|| {
            let mut dice = Dice(seed);
            let config = Config {
                witness: dice.one_in(6),
                pre_vote: dice.one_in(2),
                check_quorum: dice.one_in(2),
                inflight_count_max: 1 + dice.below(3),
                message_size_max: 100,
                ..Config::new(PeerId(1))
            };
            let witnesses = match (config.witness, dice.below(3)) {
                (true, _) => vec![PeerId(1)],
                (false, 0) => vec![PeerId(3)],
                _ => Vec::new(),
            };
            let mut raft = Raft::new(config, MemLog::new(ConfState { witnesses, ..voters(3) })).unwrap();
            let mut ready = Ready::default();
            let (mut roles, mut taken, mut refused) = ([0_usize; 4], 0, 0);
            for _ in 0..400 {
                roles[raft.role() as usize] += 1;
                match dice.below(20) {
                    0 => raft.tick(),
                    1 => raft.campaign(),
                    2 => drop(raft.propose(EntryKind::Normal, 10)),
                    3 => drop(raft.read_index(ReadId(1))),
                    4 => {
                        let applied = raft.applied_index();
                        if applied > raft.storage().base().index && applied <= raft.durable_index() {
                            raft.storage_mut().compact(applied, voters(3));
                        }
                    }
                    5 => raft.report_snapshot(PeerId(number(&mut dice)), dice.one_in(2)),
                    6..10 if raft.has_ready() => turn(&mut raft, &mut ready),
                    10 => {
                        let (message, _) = message(&mut dice, &raft);
                        let at = id(&mut dice, &raft);
                        let _ = raft.step_snapshot(message, at, &conf(&mut dice));
                    }
                    _ => {
                        let (message, entries) = message(&mut dice, &raft);
                        match raft.step(message, &entries) {
                            Ok(_) => taken += 1,
                            Err(_) => refused += 1,
                        }
                    }
                }
            }
            (roles, taken, refused)
        });
        let Ok((seen, t, r)) = result else { panic!("failing seed: RINGRAFT_SEED={seed}") };
        roles.iter_mut().zip(seen).for_each(|(sum, one)| *sum += one);
        (taken, refused) = (taken + t, refused + r);
    }
    println!("{taken} messages taken, {refused} refused; steps per role {roles:?}");
    assert!(only.is_some() || roles.iter().all(|steps| *steps > 1000), "every role is met: {roles:?}");
}
