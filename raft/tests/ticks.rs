//! Ticks that are skipped: a member that sleeps until it is due is the one that is ticked all the time.

mod support;

use ringraft_raft::{
    Body, ConfChange, ConfChangeOp, Config, EntryKind, Index, Message, PeerId, Raft, ReadId, Ready, Role, Storage, Term,
};
use support::Dice;
use support::log::MemLog;
use support::node::voters;

const OWN: PeerId = PeerId(1);

/// What may happen to a member between two ticks. The same dice, the same event.
fn event(raft: &mut Raft<MemLog>, ready: &mut Ready, roll: u64) {
    let mut dice = Dice(roll);
    let peer = PeerId(2 + dice.below(2) as u64);
    let term = if dice.one_in(8) { Term(raft.term().0 + 1) } else { raft.term().max(Term(1)) };
    let last = Index(dice.roll() % (raft.last_index().0 + 1));
    let last = if dice.one_in(2) { raft.last_index() } else { last };
    let granted = !dice.one_in(4);
    let asks = Message { from: peer, to: OWN, term: Term(raft.term().0 + 1), body: Body::PreVoteReply { granted } };
    let say = |body| Message { from: peer, to: OWN, term, body };
    let message = match dice.below(22) {
        0 => say(Body::Heartbeat { commit: Index::ZERO, read: 0 }),
        1 => say(Body::Vote { last: raft.status().last, transfer: granted }),
        2 => say(Body::TimeoutNow),
        3..6 => say(Body::VoteReply { granted }),
        6 => asks,
        7..9 => say(Body::AppendAck { index: last }),
        9..12 => say(Body::HeartbeatReply { read: 1 }),
        12 => return may_refuse(raft.propose(EntryKind::Normal, 8)),
        13 => return may_refuse(raft.transfer_leader(peer)),
        14 => return may_refuse(raft.read_index(ReadId(1))),
        15 if dice.one_in(4) => {
            let op = [ConfChangeOp::AddVoter, ConfChangeOp::AddLearner, ConfChangeOp::Remove][dice.below(3)];
            let one = PeerId(1 + dice.below(3) as u64);
            let change = ConfChange { ops: vec![op(one)], transition: ringraft_raft::Transition::JointImplicit };
            let change = if raft.conf_state().voters_outgoing.is_empty() { change } else { ConfChange::leave_joint() };
            return may_refuse(raft.apply_conf_change(&change));
        }
        16 if dice.one_in(4) => return raft.campaign(),
        _ => return turn(raft, ready),
    };
    let _ = raft.step(message, &[]);
}

fn turn(raft: &mut Raft<MemLog>, ready: &mut Ready) {
    raft.ready(ready);
    let Some(append) = &mut ready.append else { return };
    let (after, upto) = append.entries;
    let metas: Vec<_> = (after.0 + 1..=upto.0).map(|index| raft.meta(Index(index)).unwrap()).collect();
    let log = raft.storage_mut();
    if !metas.is_empty() {
        log.truncate(after);
        log.entries.extend(metas);
    }
    // Now and then the disk takes its time: what it was asked for is durable with a later write.
    if raft.commit().0 % 3 == 1 && !raft.last_index().0.is_multiple_of(4) {
        return;
    }
    for message in append.after_sync.hold() {
        if message.to == raft.id() {
            raft.step(message, &[]).expect("our own word");
        }
    }
    raft.synced(append.ticket);
}

fn may_refuse<T, E>(_: Result<T, E>) {}

/// Everything that can be seen of a member, but its counts of ticks.
fn seen(raft: &Raft<MemLog>) -> impl PartialEq + std::fmt::Debug + use<> {
    (raft.status(), raft.has_ready(), raft.conf_state().clone(), raft.storage().last_index())
}

#[test]
fn a_member_that_sleeps_until_it_is_due_misses_nothing() {
    let (mut slept, mut due_after, mut roles) = (0, 0, [0; 4]);
    for seed in 0..800 {
        let mut dice = Dice(seed);
        let config = Config {
            seed,
            heartbeat_ticks: 1 + u32::try_from(dice.below(4)).unwrap(),
            election_ticks: 5 + u32::try_from(dice.below(8)).unwrap(),
            priority: [4, 4, 3, 1, 0][dice.below(5)],
            check_quorum: dice.one_in(2),
            pre_vote: dice.one_in(3),
            ..Config::new(OWN)
        };
        let count = [1, 3, 3, 3][dice.below(4)];
        let member = || Raft::new(config.clone(), MemLog::new(voters(count))).unwrap();
        let (mut ticked, mut asleep) = (member(), member());
        let (mut ready, mut other) = (Ready::default(), Ready::default());
        for _ in 0..60 {
            let due = asleep.ticks_until_due();
            assert!(due > 0);
            let ticks = match dice.below(4) {
                0 => 0,
                1 => due.min(100),
                2 => u32::try_from(dice.below(60)).unwrap(),
                _ => due.min(100) - 1,
            };
            let before = seen(&ticked);
            for tick in 1..=ticks {
                ticked.tick();
                assert!(tick >= due || seen(&ticked) == before, "seed {seed}: something happened before it was due");
            }
            asleep.advance(ticks);
            (slept, due_after) = (slept + u64::from(ticks), due_after + u64::from(ticks >= due));
            assert_eq!(format!("{ticked:?}"), format!("{asleep:?}"), "seed {seed}");
            roles[ticked.role() as usize] += 1;
            let roll = dice.roll();
            event(&mut ticked, &mut ready, roll);
            event(&mut asleep, &mut other, roll);
        }
    }
    println!("{slept} ticks, {due_after} times something was due; {roles:?} times in a role");
    assert!(due_after > 4000 && roles.iter().all(|times| *times > 400), "every role is met: {roles:?}");
}

#[test]
fn when_members_are_due() {
    let config = Config { heartbeat_ticks: 3, ..Config::new(OWN) };
    let mut raft = Raft::new(config.clone(), MemLog::new(voters(3))).unwrap();
    let timeout = raft.ticks_until_due();
    assert!((10..20).contains(&timeout), "an election");
    raft.advance(timeout - 1);
    assert_eq!((raft.role(), raft.ticks_until_due()), (Role::Follower, 1));
    raft.advance(1);
    assert_eq!(raft.role(), Role::PreCandidate);
    // A member without a vote waits for ever.
    let learner = ringraft_raft::ConfState { learners: vec![OWN], voters: vec![PeerId(2)], ..voters(0) };
    let mut raft = Raft::new(config.clone(), MemLog::new(learner)).unwrap();
    assert_eq!(raft.ticks_until_due(), u32::MAX);
    raft.advance(u32::MAX);
    raft.tick();
    assert_eq!(raft.role(), Role::Follower);
    // A leader alone has nothing to do; with a peer, heartbeats.
    let mut raft = Raft::new(config, MemLog::new(voters(1))).unwrap();
    raft.campaign();
    let mut ready = Ready::default();
    while raft.has_ready() && raft.applied_index() < Index(1) {
        turn(&mut raft, &mut ready);
        raft.applied(ready.committed.1);
    }
    assert_eq!((raft.role(), raft.ticks_until_due()), (Role::Leader, u32::MAX));
    raft.advance(1_000_000_001);
    turn(&mut raft, &mut ready);
    assert!(!raft.has_ready());
    raft.apply_conf_change(&ConfChange::simple(ConfChangeOp::AddVoter(PeerId(2)))).unwrap();
    assert_eq!(raft.ticks_until_due(), 1, "1,000,000,001 ticks are 2 after the last heartbeat");
}
