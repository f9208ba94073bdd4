//! The doors, one rule at a time: what is refused and why, what waits for a sync, how the window fills.

mod support;

use ringraft_raft::{
    Body, Compat, ConfChange, ConfChangeOp, ConfState, Config, ConfigError, EntryId, EntryKind, EntryMeta, HardState,
    Index, Lost, Message, OpenError, PRIORITY_MAX, Payloads, PeerId, ProgressState, Proposed, Raft, ReadId, Ready,
    Refused, Role, StepError, SteppedDown, Term, TransferEnd, TransferEnded, Transition,
};
use support::log::MemLog;
use support::node::voters;

const OWN: PeerId = PeerId(1);

fn id(term: u64, index: u64) -> EntryId {
    EntryId { term: Term(term), index: Index(index) }
}

fn meta(term: u64) -> EntryMeta {
    EntryMeta { term: Term(term), kind: EntryKind::Normal, size: 8 }
}

/// A log whose entries have these terms, and a hard state that fits.
fn log_of(terms: &[u64], commit: u64) -> MemLog {
    let term = Term(terms.last().copied().unwrap_or(0));
    let hard = HardState { term, vote: PeerId::ZERO, commit: Index(commit) };
    MemLog { hard, entries: terms.iter().map(|term| meta(*term)).collect(), ..MemLog::new(voters(3)) }
}

fn member(config: Config, log: MemLog) -> Raft<MemLog> {
    Raft::new(config, log).unwrap()
}

fn plain() -> Config {
    Config { pre_vote: false, check_quorum: false, ..Config::new(OWN) }
}

fn from(peer: u64, term: u64, body: Body) -> Message {
    Message { from: PeerId(peer), to: OWN, term: Term(term), body }
}

/// Takes one Ready and makes its write durable. Returns what left at once, and what left after the sync.
fn turn(raft: &mut Raft<MemLog>) -> (Vec<Message>, Vec<Message>) {
    let mut ready = Ready::default();
    raft.ready(&mut ready);
    let mut after = Vec::new();
    if let Some(append) = &mut ready.append {
        let (before, upto) = append.entries;
        let metas: Vec<_> = (before.0 + 1..=upto.0).map(|at| raft.meta(Index(at)).unwrap()).collect();
        let log = raft.storage_mut();
        if !metas.is_empty() {
            log.truncate(before);
            log.entries.extend(metas);
        }
        for message in append.after_sync.hold() {
            if message.to == OWN {
                raft.step(message, &[]).unwrap();
            }
            after.push(message);
        }
        raft.synced(append.ticket);
    }
    if ready.committed.0 < ready.committed.1 {
        raft.applied(ready.committed.1);
    }
    (ready.messages, after)
}

/// Leads three voters; the others have said nothing since the election.
fn leader(config: Config, terms: &[u64]) -> Raft<MemLog> {
    let mut raft = member(config, log_of(terms, 0));
    raft.campaign();
    turn(&mut raft);
    let term = raft.term().0;
    raft.step(from(2, term, Body::VoteReply { granted: true }), &[]).unwrap();
    assert_eq!(raft.role(), Role::Leader);
    raft
}

/// Leads, and everybody has everything.
fn settled_leader(config: Config) -> Raft<MemLog> {
    let mut raft = leader(config, &[]);
    while raft.has_ready() {
        turn(&mut raft);
        for peer in [2, 3] {
            let ack = Body::AppendAck { index: raft.last_index() };
            raft.step(from(peer, 1, ack), &[]).unwrap();
        }
    }
    assert_eq!(raft.commit(), raft.last_index());
    raft
}

fn appends(messages: &[Message], to: u64) -> Vec<(u64, u64)> {
    let one = |message: &Message| match message.body {
        Body::Append { prev, last, .. } if message.to.0 == to => Some((prev.index.0, last.0)),
        _ => None,
    };
    messages.iter().filter_map(one).collect()
}

fn propose(raft: &mut Raft<MemLog>, count: usize) {
    for _ in 0..count {
        raft.propose(EntryKind::Normal, 8).unwrap();
    }
}

#[test]
fn what_a_member_can_start_from() {
    let open = |config: Config, log: MemLog| Raft::new(config, log).map(|raft| raft.status());
    let with = |applied: u64| Config { applied: Index(applied), ..plain() };
    let status = open(with(0), log_of(&[1, 1, 2], 2)).unwrap();
    assert_eq!((status.term, status.commit, status.applied, status.last), (Term(2), Index(2), Index(0), id(2, 3)));
    // The stored commit index may lag behind what was applied.
    let status = open(with(3), log_of(&[1, 1, 2], 1)).unwrap();
    assert_eq!((status.commit, status.applied), (Index(3), Index(3)));

    let (base, last) = (Index(0), Index(2));
    assert_eq!(open(with(0), log_of(&[1, 1], 3)), Err(OpenError::Commit { commit: Index(3), last }));
    assert_eq!(open(with(3), log_of(&[1, 1], 1)), Err(OpenError::Applied { applied: Index(3), base, last }));
    let old = MemLog { hard: HardState::default(), ..log_of(&[1, 2], 0) };
    assert_eq!(open(with(0), old), Err(OpenError::Term { term: Term(0), last: Term(2) }));
    let bad = ConfState { voters: vec![OWN], learners: vec![OWN], ..ConfState::default() };
    assert!(matches!(open(with(0), MemLog { conf: bad, ..log_of(&[], 0) }), Err(OpenError::Membership(_))));
    let zero = Config { heartbeat_ticks: 0, ..plain() };
    let error = ConfigError { field: "heartbeat_ticks", rule: "must be at least 1" };
    assert_eq!(open(zero, log_of(&[], 0)), Err(OpenError::Config(error)));
}

/// Which reason this is; a new one does not compile until it is here, and in the table below.
fn reason(refused: Refused) -> usize {
    match refused {
        Refused::NoLeader => 0,
        Refused::Transferring { .. } => 1,
        Refused::TooMuchUncommitted { .. } => 2,
        Refused::TooLong { .. } => 3,
        Refused::NotLeader { .. } => 4,
        Refused::NotMember => 5,
        Refused::NotVoter { .. } => 6,
        Refused::Witness { .. } => 7,
        Refused::ConfChange { .. } => 8,
        Refused::ConfChangePending { .. } => 9,
        Refused::MustLeaveJoint => 10,
        Refused::NotJoint => 11,
        Refused::TooManyReads { .. } => 12,
        Refused::SteppedDown { .. } => 13,
        Refused::GivenUp { .. } => 14,
        Refused::Lease => 15,
    }
}

const REASONS: usize = 16;

#[test]
fn every_reason_to_refuse() {
    let (two, nine) = (PeerId(2), PeerId(9));
    let mut seen = [false; REASONS];
    let mut check = |found: Result<(), Refused>, expected: Refused| {
        assert_eq!(found, Err(expected));
        seen[reason(expected)] = true;
    };
    let done = |proposed: Result<Proposed, Refused>| proposed.map(|_| ());
    let learner = ConfChange::simple(ConfChangeOp::AddLearner(PeerId(4)));

    // A follower without a leader.
    let mut raft = member(plain(), log_of(&[], 0));
    check(done(raft.propose(EntryKind::Normal, 1)), Refused::NoLeader);
    check(done(raft.propose_conf_change(&learner, 9)), Refused::NoLeader);
    check(raft.read_index(ReadId(1)), Refused::NoLeader);
    check(raft.transfer_leader(two), Refused::NoLeader);
    // With one, and forwarding off.
    let mut raft = member(Config { forward_proposals: false, ..plain() }, log_of(&[], 0));
    raft.step(from(2, 1, Body::Heartbeat { commit: Index(0), read: 0 }), &[]).unwrap();
    check(done(raft.propose(EntryKind::Normal, 1)), Refused::NotLeader { leader: two });
    check(done(raft.propose_conf_change(&learner, 9)), Refused::NotLeader { leader: two });
    // Whom it took for the leader says no to a read.
    raft.read_index(ReadId(5)).unwrap();
    turn(&mut raft);
    for busy in [false, true] {
        raft.step(from(2, 0, Body::ReadIndexReject { id: ReadId(5), busy }), &[]).unwrap();
        let lost = notices(&mut raft).reads_lost;
        assert_eq!(lost.len(), 1);
        check(Err(lost[0].1), Refused::GivenUp { by: two, busy });
    }
    // Leases are trusted.
    let lease = Config { read_policy: ringraft_raft::ReadPolicy::Lease, check_quorum: true, ..plain() };
    check(member(lease, log_of(&[], 0)).forget_leader(), Refused::Lease);

    // A leader, and its limits.
    let config = Config { read_count_max: 1, uncommitted_size_max: 20, ..plain() };
    let mut raft = settled_leader(config.clone());
    check(done(raft.propose(EntryKind::Normal, u32::MAX)), Refused::TooLong { size: u64::from(u32::MAX) });
    raft.propose(EntryKind::Normal, 15).unwrap();
    let full = Refused::TooMuchUncommitted { uncommitted: 15, size: 6, limit: 20 };
    check(done(raft.propose(EntryKind::Normal, 6)), full);
    assert_eq!(raft.read_index(ReadId(1)), Ok(()));
    check(raft.read_index(ReadId(2)), Refused::TooManyReads { limit: 1 });
    // Its role ends before the read is confirmed.
    raft.step(from(3, 2, Body::Vote { last: id(1, 9), transfer: false }), &[]).unwrap();
    check(Err(notices(&mut raft).reads_lost[0].1), Refused::SteppedDown { term: Term(1) });

    // Changes of membership, one at a time.
    let mut raft = settled_leader(config);
    check(done(raft.propose_conf_change(&ConfChange::leave_joint(), 0)), Refused::NotJoint);
    let error = ringraft_raft::ConfChangeError::NoVoters;
    let nobody = ConfChange { ops: [1, 2, 3].map(|id| ConfChangeOp::Remove(PeerId(id))).into(), ..learner.clone() };
    check(done(raft.propose_conf_change(&nobody, 9)), Refused::ConfChange { error });
    let Ok(Proposed::Appended(at)) = raft.propose_conf_change(&learner, 9) else { panic!("a leader takes it") };
    check(done(raft.propose_conf_change(&learner, 9)), Refused::ConfChangePending { index: at.index });
    check(done(raft.propose(EntryKind::ConfChange, 9)), Refused::ConfChangePending { index: at.index });
    let mut raft = settled_leader(plain());
    let joint = ConfChange { transition: Transition::JointExplicit, ..ConfChange::simple(ConfChangeOp::Remove(two)) };
    raft.apply_conf_change(&joint).unwrap();
    check(done(raft.propose_conf_change(&learner, 9)), Refused::MustLeaveJoint);

    // Transfers.
    let mut raft = settled_leader(plain());
    check(raft.transfer_leader(nine), Refused::NotVoter { target: nine });
    raft.apply_conf_change(&learner).unwrap();
    check(raft.transfer_leader(PeerId(4)), Refused::NotVoter { target: PeerId(4) });
    assert_eq!(raft.transfer_leader(two), Ok(()));
    check(done(raft.propose(EntryKind::Normal, 1)), Refused::Transferring { target: two });
    let mut raft = settled_leader(plain());
    raft.apply_conf_change(&ConfChange::simple(ConfChangeOp::AddWitness(PeerId(4)))).unwrap();
    check(raft.transfer_leader(PeerId(4)), Refused::Witness { peer: PeerId(4) });
    // Removed, and left in office.
    let mut raft = settled_leader(Config { step_down_on_removal: false, ..plain() });
    raft.apply_conf_change(&ConfChange::simple(ConfChangeOp::Remove(OWN))).unwrap();
    check(done(raft.propose(EntryKind::Normal, 1)), Refused::NotMember);

    assert_eq!(seen, [true; REASONS], "every reason is met");
}

/// What the next Ready says of things that ended, and nothing twice.
fn notices(raft: &mut Raft<MemLog>) -> Ready {
    let mut ready = Ready::default();
    raft.ready(&mut ready);
    let told = ready.clone();
    raft.ready(&mut ready);
    assert_eq!((ready.reads_lost.len(), ready.stepped_down, ready.transfers_ended.len()), (0, None, 0));
    told
}

#[test]
fn what_a_leader_leaves_unfinished() {
    let newer_term = |raft: &mut Raft<MemLog>| {
        raft.step(from(3, raft.term().0 + 1, Body::VoteReply { granted: false }), &[]).unwrap();
    };
    let no_quorum = |raft: &mut Raft<MemLog>| (0..20).for_each(|_| raft.tick());
    let check = |settled: bool, end: &dyn Fn(&mut Raft<MemLog>)| {
        let config = Config { check_quorum: true, ..plain() };
        let mut raft = if settled { settled_leader(config) } else { leader(config, &[1]) };
        let (commit, term) = (raft.commit(), raft.term());
        raft.read_index(ReadId(7)).unwrap();
        raft.step(from(2, 0, Body::ReadIndex { id: ReadId(8) }), &[]).unwrap();
        propose(&mut raft, 2);
        turn(&mut raft);
        let last = raft.last_index();
        if settled {
            raft.transfer_leader(PeerId(2)).unwrap();
        }
        end(&mut raft);
        assert_eq!(raft.role(), Role::Follower);
        assert!(raft.has_ready());
        let told = notices(&mut raft);
        assert_eq!(told.reads_lost, [(ReadId(7), Refused::SteppedDown { term })]);
        assert_eq!(told.stepped_down, Some(SteppedDown { term, unsettled: (commit, last) }));
        let rejected = from(0, 0, Body::ReadIndexReject { id: ReadId(8), busy: false });
        let rejected = Message { from: OWN, to: PeerId(2), ..rejected };
        assert!(told.messages.contains(&rejected), "{:?}", told.messages);
        told.transfers_ended
    };
    let by_role = [TransferEnded { target: PeerId(2), how: TransferEnd::SteppedDown }];
    assert_eq!(check(true, &newer_term), by_role);
    let timed_out = [TransferEnded { target: PeerId(2), how: TransferEnd::TimedOut }];
    assert_eq!(check(true, &no_quorum), timed_out, "the transfer's time is over before the quorum's");
    // Reads that wait for the first commit, too.
    assert_eq!(check(false, &newer_term), []);
    // Whoever did not lead has nothing to tell.
    let mut raft = member(plain(), log_of(&[1], 0));
    raft.campaign();
    newer_term(&mut raft);
    raft.step(from(3, 9, Body::Heartbeat { commit: Index(0), read: 0 }), &[]).unwrap();
    let told = notices(&mut raft);
    assert_eq!((told.reads_lost.len(), told.stepped_down, told.transfers_ended.len()), (0, None, 0));
}

#[test]
fn how_transfers_end() {
    let ended = |target: u64, how| TransferEnded { target: PeerId(target), how };
    let mut raft = settled_leader(plain());
    raft.transfer_leader(PeerId(2)).unwrap();
    raft.transfer_leader(PeerId(2)).unwrap();
    raft.transfer_leader(OWN).unwrap();
    assert_eq!(notices(&mut raft).transfers_ended, []);
    raft.transfer_leader(PeerId(3)).unwrap();
    assert_eq!(notices(&mut raft).transfers_ended, [ended(2, TransferEnd::Replaced)]);
    (0..10).for_each(|_| raft.tick());
    assert_eq!(notices(&mut raft).transfers_ended, [ended(3, TransferEnd::TimedOut)]);
    (0..30).for_each(|_| raft.tick());
    assert_eq!(notices(&mut raft).transfers_ended, [], "there was none");
    raft.transfer_leader(PeerId(3)).unwrap();
    raft.apply_conf_change(&ConfChange::simple(ConfChangeOp::Remove(PeerId(3)))).unwrap();
    assert_eq!(notices(&mut raft).transfers_ended, [ended(3, TransferEnd::NotVoter)]);
    assert_eq!(raft.role(), Role::Leader);
    assert!(raft.propose(EntryKind::Normal, 1).is_ok());
}

#[test]
fn a_read_that_is_not_taken_is_rejected_to_who_asked() {
    let rejected = |raft: &mut Raft<MemLog>| {
        let mut messages = Vec::new();
        raft.take_messages(&mut messages);
        messages.retain(|message| matches!(message.body, Body::ReadIndexReject { .. }));
        messages.iter().map(|message| (message.to.0, message.term.0, message.body)).collect::<Vec<_>>()
    };
    let ask = |peer: u64, id: u64| from(peer, 0, Body::ReadIndex { id: ReadId(id) });
    let no = |id: u64, busy: bool| Body::ReadIndexReject { id: ReadId(id), busy };
    // Too many of them.
    let mut raft = settled_leader(Config { read_count_max: 2, ..plain() });
    raft.step(ask(2, 1), &[]).unwrap();
    raft.read_index(ReadId(1)).unwrap();
    let refused = Refused::TooManyReads { limit: 2 };
    assert_eq!(raft.step(ask(3, 2), &[]), Err(StepError::ReadRefused { from: PeerId(3), refused }));
    assert_eq!(rejected(&mut raft), [(3, 0, no(2, true))]);
    // Those that wait for the first commit of a term count, too.
    let mut raft = leader(Config { read_count_max: 2, ..plain() }, &[1]);
    raft.step(ask(2, 1), &[]).unwrap();
    raft.read_index(ReadId(1)).unwrap();
    assert_eq!(raft.read_index(ReadId(2)), Err(refused));
    raft.step(ask(2, 2), &[]).unwrap_err();
    assert_eq!(rejected(&mut raft), [(2, 0, no(2, true))]);
    // Not the leader; strangers are not answered.
    let mut raft = member(plain(), log_of(&[], 0));
    raft.step(ask(2, 1), &[]).unwrap_err();
    raft.step(ask(9, 2), &[]).unwrap_err();
    raft.step(from(3, 1, Body::Heartbeat { commit: Index(0), read: 0 }), &[]).unwrap();
    raft.step(ask(2, 3), &[]).unwrap_err();
    assert_eq!(rejected(&mut raft), [(2, 0, no(1, false)), (2, 0, no(3, false))]);
    // Nor does a stranger's word count.
    let stranger = from(9, 0, no(3, false));
    assert_eq!(raft.step(stranger, &[]), Err(StepError::UnknownPeer { from: PeerId(9) }));
}

#[test]
fn messages_that_are_not_taken() {
    let check = |raft: &mut Raft<MemLog>, message: Message, entries: &[EntryMeta], expected: StepError| {
        assert_eq!(raft.step(message, entries), Err(expected), "{message:?}");
    };
    let append =
        |prev: EntryId, last: u64| Body::Append { prev, last: Index(last), commit: Index(0), payloads: Payloads::All };
    let malformed = |what| StepError::Malformed { from: PeerId(2), what };
    let mut raft = member(plain(), log_of(&[1, 1, 2], 2));
    let raft = &mut raft;
    let (two, term) = (PeerId(2), 2);
    let elsewhere = Message { to: PeerId(3), ..from(2, term, Body::TimeoutNow) };
    check(raft, elsewhere, &[], StepError::NotForUs { to: PeerId(3) });
    check(raft, from(9, term, Body::AppendAck { index: Index(1) }), &[], StepError::UnknownPeer { from: PeerId(9) });
    check(raft, from(1, term, Body::TimeoutNow), &[], StepError::Forged);
    check(raft, from(2, term, Body::Snapshot { at: id(2, 9), payloads: Payloads::All }), &[], StepError::SnapshotDoor);
    check(raft, from(2, 0, Body::TimeoutNow), &[], malformed("term missing, or where none belongs"));
    check(raft, from(2, u64::MAX, Body::TimeoutNow), &[], malformed("term out of bounds"));
    check(raft, from(2, term, append(id(2, 3), 5)), &[meta(2)], malformed("entries are not those of its range"));
    check(raft, from(2, term, append(id(2, 3), 4)), &[meta(1)], malformed("terms of entries go back"));
    check(raft, from(2, term, append(id(2, 3), 4)), &[meta(3)], malformed("an entry from a future term"));
    let conflict = StepError::CommittedConflict { from: two, index: Index(1), committed: Index(2) };
    check(raft, from(2, term, append(id(2, 1), 1)), &[], conflict);
    assert_eq!((raft.commit(), raft.leader()), (Index(2), Some(two)), "still a sign of life");

    let mut raft = settled_leader(plain());
    let (ack, last) = (Body::AppendAck { index: Index(9) }, raft.last_index());
    check(&mut raft, from(2, 1, ack), &[], StepError::AckBeyondLog { from: two, index: Index(9), last });
    check(&mut raft, from(2, 1, append(id(0, 0), 0)), &[], StepError::SecondLeader { from: two, term: Term(1) });
}

#[test]
fn a_member_that_lost_its_tail_says_where_its_log_ends() {
    let mut raft = member(plain(), log_of(&[1, 1, 2], 2));
    let stepped = raft.step(from(2, 2, Body::Heartbeat { commit: Index(5), read: 7 }), &[]).unwrap();
    assert_eq!(stepped.lost, Some(Lost { peer: OWN, acked: Index(5), last: Index(3) }));
    let (now, _) = turn(&mut raft);
    let reject = Body::AppendReject { rejected: Index(5), hint: id(2, 3) };
    assert_eq!(now.iter().map(|one| one.body).collect::<Vec<_>>(), [Body::HeartbeatReply { read: 7 }, reject]);
    assert_eq!((raft.commit(), raft.leader(), raft.status().losses), (Index(2), Some(PeerId(2)), 1));
}

#[test]
fn a_lost_tail_is_sent_again() {
    let reject = |rejected, hint| from(2, 1, Body::AppendReject { rejected: Index(rejected), hint });
    let two = |raft: &Raft<MemLog>| {
        let progress = raft.progress(PeerId(2)).unwrap();
        (progress.state, progress.matched.0, progress.next.0)
    };
    // Entries 1 to 6 are everywhere, 7 and 8 are on their way; peer 2 is left with 1 to 3.
    let check = |before: ProgressState, lost: Message, probe: u64| {
        let mut raft = settled_leader(plain());
        propose(&mut raft, 5);
        turn(&mut raft);
        for peer in [2, 3] {
            raft.step(from(peer, 1, Body::AppendAck { index: Index(6) }), &[]).unwrap();
        }
        if before == ProgressState::Probe {
            raft.report_unreachable(PeerId(2));
        }
        propose(&mut raft, 2);
        turn(&mut raft);
        let Body::AppendReject { hint, .. } = lost.body else { panic!("{lost:?}") };
        let expected = Lost { peer: PeerId(2), acked: Index(6), last: hint.index };
        assert_eq!(raft.step(lost, &[]).unwrap().lost, Some(expected));
        assert_eq!(two(&raft), (ProgressState::Probe, 0, probe + 1));
        let (now, _) = turn(&mut raft);
        assert_eq!(appends(&now, 2), [(probe, 8)]);
        assert_eq!((raft.commit(), raft.status().losses), (Index(6), 1));
        raft.step(from(2, 1, Body::AppendAck { index: Index(8) }), &[]).unwrap();
        assert_eq!(two(&raft), (ProgressState::Replicate, 8, 9));
        assert_eq!(raft.commit(), Index(8));
    };
    for before in [ProgressState::Replicate, ProgressState::Probe] {
        check(before, reject(6, id(1, 3)), 3);
        check(before, reject(8, id(1, 3)), 3);
        check(before, reject(6, id(0, 0)), 0);
    }
}

#[test]
fn a_refusal_overtaken_by_an_acknowledgement_costs_one_probe() {
    let mut raft = settled_leader(plain());
    propose(&mut raft, 3);
    turn(&mut raft);
    raft.step(from(2, 1, Body::AppendAck { index: Index(4) }), &[]).unwrap();
    raft.step(from(2, 1, Body::AppendReject { rejected: Index(1), hint: id(0, 0) }), &[]).unwrap();
    let (now, _) = turn(&mut raft);
    assert_eq!(appends(&now, 2), [(0, 4)]);
    assert_eq!(raft.commit(), Index(4), "what is committed stays so");
    raft.step(from(2, 1, Body::AppendReject { rejected: Index(1), hint: id(0, 0) }), &[]).unwrap();
    raft.step(from(2, 1, Body::AppendAck { index: Index(4) }), &[]).unwrap();
    let progress = raft.progress(PeerId(2)).unwrap();
    assert_eq!((progress.state, progress.matched, raft.status().losses), (ProgressState::Replicate, Index(4), 1));
    let (now, _) = turn(&mut raft);
    assert_eq!(appends(&now, 2), [], "nothing is left to say");
}

#[test]
fn what_waits_for_the_sync() {
    let mut raft = member(plain(), log_of(&[1, 1], 2));
    // A vote is a promise, a refused one is none.
    raft.step(from(2, 2, Body::Vote { last: id(1, 2), transfer: false }), &[]).unwrap();
    raft.step(from(3, 2, Body::Vote { last: id(1, 2), transfer: false }), &[]).unwrap();
    let (now, after) = turn(&mut raft);
    assert_eq!(now.iter().map(|one| one.body).collect::<Vec<_>>(), [Body::VoteReply { granted: false }]);
    assert_eq!(after.iter().map(|one| one.body).collect::<Vec<_>>(), [Body::VoteReply { granted: true }]);
    // Two appends, one write, one acknowledgement.
    let append = |prev, last| Body::Append { prev, last: Index(last), commit: Index(2), payloads: Payloads::All };
    raft.step(from(2, 2, append(id(1, 2), 3)), &[meta(2)]).unwrap();
    raft.step(from(2, 2, append(id(2, 3), 5)), &[meta(2), meta(2)]).unwrap();
    let (now, after) = turn(&mut raft);
    assert_eq!(now, []);
    assert_eq!(after.iter().map(|one| one.body).collect::<Vec<_>>(), [Body::AppendAck { index: Index(5) }]);
    // What is durable is acknowledged at once; a refusal too.
    raft.step(from(2, 2, append(id(2, 5), 5)), &[]).unwrap();
    raft.step(from(2, 2, append(id(2, 9), 9)), &[]).unwrap();
    let (now, after) = turn(&mut raft);
    let reject = Body::AppendReject { rejected: Index(9), hint: id(2, 5) };
    assert_eq!(now.iter().map(|one| one.body).collect::<Vec<_>>(), [Body::AppendAck { index: Index(5) }, reject]);
    assert_eq!(after, []);
}

#[test]
fn a_write_of_an_older_term_proves_nothing() {
    let mut raft = member(plain(), log_of(&[], 0));
    let append = |prev, last| Body::Append { prev, last: Index(last), commit: Index(0), payloads: Payloads::All };
    let write = |raft: &mut Raft<MemLog>| {
        let mut ready = Ready::default();
        raft.ready(&mut ready);
        ready.append.expect("a write").ticket
    };
    // Entry 1 of term 1, replaced in term 2, put back in term 3 by a leader that has it of term 1.
    raft.step(from(2, 1, append(id(0, 0), 1)), &[meta(1)]).unwrap();
    let first = write(&mut raft);
    raft.step(from(3, 2, append(id(0, 0), 1)), &[meta(2)]).unwrap();
    let second = write(&mut raft);
    raft.step(from(2, 3, append(id(0, 0), 1)), &[meta(1)]).unwrap();
    let third = write(&mut raft);
    raft.synced(first);
    assert_eq!(raft.durable_index(), Index(0), "the second write would shine through");
    raft.synced(second);
    assert_eq!(raft.durable_index(), Index(0));
    raft.synced(third);
    assert_eq!(raft.durable_index(), Index(1));
}

#[test]
fn the_window() {
    // Records of 32 bytes, two to a message, two messages in flight.
    let config = Config { message_size_max: 64, inflight_count_max: 2, ..plain() };
    let mut raft = settled_leader(config);
    let base = raft.last_index().0;
    for _ in 0..7 {
        raft.propose(EntryKind::Normal, 8).unwrap();
    }
    let (now, _) = turn(&mut raft);
    assert_eq!(appends(&now, 2), [(base, base + 2), (base + 2, base + 4)], "until the window is full");
    assert!(raft.progress(PeerId(2)).unwrap().is_paused());
    raft.step(from(2, 1, Body::AppendAck { index: Index(base + 2) }), &[]).unwrap();
    let (now, _) = turn(&mut raft);
    let to_two = appends(&now, 2);
    assert_eq!(to_two, [(base + 4, base + 6)], "one slot, one message");
    // A heartbeat's answer lets one empty append through a full window.
    raft.step(from(2, 1, Body::HeartbeatReply { read: 0 }), &[]).unwrap();
    let (now, _) = turn(&mut raft);
    assert_eq!(appends(&now, 2), [(base + 6, base + 6)]);
    // Unreachable: one probe at a time, from what is known.
    raft.report_unreachable(PeerId(2));
    assert_eq!(raft.progress(PeerId(2)).unwrap().state, ProgressState::Probe);
    raft.step(from(2, 1, Body::HeartbeatReply { read: 0 }), &[]).unwrap();
    let (now, _) = turn(&mut raft);
    assert_eq!(appends(&now, 2), [(base + 2, base + 4)]);
    assert!(raft.progress(PeerId(2)).unwrap().is_paused());
}

#[test]
fn tails_are_skipped_a_term_at_a_time() {
    let check = |ours: &[u64], theirs: &[u64], probes_max: usize| {
        let term = ours.iter().chain(theirs).max().unwrap() + 1;
        let mut log = log_of(ours, 0);
        log.hard.term = Term(term - 1);
        let mut raft = member(plain(), log);
        raft.campaign();
        turn(&mut raft);
        raft.step(from(2, term, Body::VoteReply { granted: true }), &[]).unwrap();
        let mut log = log_of(theirs, 0);
        log.hard.term = Term(term);
        let mut other = Raft::new(Config::new(PeerId(2)), log).unwrap();
        for probes in 1..100 {
            let (now, _) = turn(&mut raft);
            let Some(message) = now.into_iter().find(|one| one.to == PeerId(2)) else { panic!("no probe") };
            let Body::Append { prev, last, .. } = message.body else { panic!("{message:?}") };
            let metas: Vec<_> = (prev.index.0 + 1..=last.0).map(|at| raft.meta(Index(at)).unwrap()).collect();
            other.step(message, &metas).unwrap();
            let mut ready = Ready::default();
            other.ready(&mut ready);
            if let Some(reject) = ready.messages.first() {
                raft.step(*reject, &[]).unwrap();
                continue;
            }
            assert!(probes <= probes_max, "{probes} probes for {ours:?} against {theirs:?}");
            assert_eq!(other.last_index(), raft.last_index());
            return;
        }
        panic!("no end of probing for {ours:?} against {theirs:?}");
    };
    check(&[1, 1, 1], &[1, 1, 1], 1);
    check(&[1, 1, 1, 4, 4, 4, 4], &[1, 1, 1], 2);
    check(&[1, 1, 1, 4, 4, 4, 4, 4, 4], &[1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3], 3);
    check(&[1, 3, 3, 3, 3, 3, 3, 3], &[1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2], 2);
    check(&[1, 1, 2, 2, 3, 3, 4, 4, 5], &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], 2);
}

#[test]
fn election_timeouts_differ() {
    let mut timeouts = Vec::new();
    for seed in 0..200 {
        let mut raft = member(Config { seed, ..plain() }, log_of(&[], 0));
        let ticks = (1..=20).find(|_| {
            raft.tick();
            raft.role() == Role::Candidate
        });
        timeouts.push(ticks.expect("within twice the configured ticks"));
    }
    assert!((10..20).all(|ticks| timeouts.iter().filter(|one| **one == ticks).count() > 5), "{timeouts:?}");
}

#[test]
fn lower_priorities_wait_longer() {
    let ticks = |priority: u8, seed: u64| {
        let mut raft = member(Config { seed, priority, ..plain() }, log_of(&[], 0));
        (1..=100).find(|_| {
            raft.tick();
            raft.role() == Role::Candidate
        })
    };
    for seed in 0..50 {
        for priority in 1..=PRIORITY_MAX {
            let earliest = 10 + 10 * i32::from(PRIORITY_MAX - priority);
            let ticks = ticks(priority, seed).expect("some time");
            assert!((earliest..earliest + 10).contains(&ticks), "priority {priority} after {ticks}");
        }
        assert_eq!(ticks(0, seed), None);
    }
    let error = Raft::new(Config { priority: 5, ..plain() }, log_of(&[], 0)).map(|_| ());
    assert_eq!(error, Err(OpenError::Config(ConfigError { field: "priority", rule: "must be at most 4" })));
}

#[test]
fn priority_counts_once_after_each_leader() {
    let mut raft = member(Config { priority: 1, ..plain() }, log_of(&[1], 0));
    assert!(raft.ticks_until_due() >= 40);
    // A favourite that cannot win goes on asking: nobody is held up by it for more than its first try.
    raft.step(from(2, 2, Body::Vote { last: id(0, 0), transfer: false }), &[]).unwrap();
    assert!(raft.ticks_until_due() < 20);
    raft.step(from(2, 3, Body::Vote { last: id(1, 1), transfer: false }), &[]).unwrap();
    assert!(raft.ticks_until_due() < 20);
    raft.step(from(2, 3, Body::Heartbeat { commit: Index(0), read: 0 }), &[]).unwrap();
    assert!(raft.ticks_until_due() >= 40, "and the next leader's loss is another matter");
}

#[test]
fn priority_zero_leads_when_asked() {
    let mut raft = member(Config { priority: 0, ..plain() }, log_of(&[1], 0));
    assert_eq!(raft.ticks_until_due(), u32::MAX);
    raft.step(from(2, 2, Body::Heartbeat { commit: Index(0), read: 0 }), &[]).unwrap();
    raft.step(from(2, 2, Body::TimeoutNow), &[]).unwrap();
    assert_eq!((raft.role(), raft.term()), (Role::Candidate, Term(3)));
}

#[test]
fn late_answers_to_an_older_pre_vote_do_not_count() {
    let mut raft = member(Config::new(OWN), log_of(&[1], 1));
    raft.campaign();
    turn(&mut raft);
    assert_eq!(raft.role(), Role::PreCandidate);
    raft.step(from(3, 2, Body::Heartbeat { commit: Index(0), read: 0 }), &[]).unwrap();
    raft.campaign();
    turn(&mut raft);
    raft.step(from(2, 2, Body::PreVoteReply { granted: true }), &[]).unwrap();
    assert_eq!(raft.role(), Role::PreCandidate, "that was about term 2");
    raft.step(from(2, 3, Body::PreVoteReply { granted: true }), &[]).unwrap();
    assert_eq!(raft.role(), Role::Candidate);
}

#[test]
fn a_short_append_does_not_vouch_for_our_longer_tail() {
    let mut raft = member(plain(), log_of(&[1, 1, 1, 1], 0));
    let append = Body::Append { prev: id(1, 1), last: Index(2), commit: Index(4), payloads: Payloads::All };
    raft.step(from(2, 2, append), &[meta(1)]).unwrap();
    let (_, later) = turn(&mut raft);
    assert_eq!(later.iter().map(|one| one.body).collect::<Vec<_>>(), [Body::AppendAck { index: Index(2) }]);
    assert_eq!(raft.commit(), Index(2), "and commits no more than what it names");
}

#[test]
fn a_late_echo_confirms_no_later_read() {
    let mut raft = settled_leader(plain());
    let reads = |raft: &mut Raft<MemLog>| {
        let mut ready = Ready::default();
        raft.ready(&mut ready);
        ready.reads.iter().map(|read| read.id.0).collect::<Vec<_>>()
    };
    let echo = |read| from(2, 1, Body::HeartbeatReply { read });
    raft.read_index(ReadId(1)).unwrap();
    raft.read_index(ReadId(2)).unwrap();
    raft.step(echo(3), &[]).unwrap();
    assert_eq!(reads(&mut raft), [0_u64; 0], "a token that was never sent");
    raft.step(echo(1), &[]).unwrap();
    assert_eq!(reads(&mut raft), [1]);
    raft.step(echo(1), &[]).unwrap();
    assert_eq!(reads(&mut raft), [0_u64; 0]);
    raft.step(echo(2), &[]).unwrap();
    assert_eq!(reads(&mut raft), [2]);
    raft.read_index(ReadId(3)).unwrap();
    raft.step(echo(1), &[]).unwrap();
    raft.step(echo(2), &[]).unwrap();
    assert_eq!(reads(&mut raft), [0_u64; 0]);
    raft.step(echo(3), &[]).unwrap();
    assert_eq!(reads(&mut raft), [3]);
}

#[test]
fn leases_answer_at_once_while_they_hold() {
    let config = Config { read_policy: ringraft_raft::ReadPolicy::Lease, check_quorum: true, ..plain() };
    let mut raft = settled_leader(config);
    let reads = |raft: &mut Raft<MemLog>| {
        let mut ready = Ready::default();
        raft.ready(&mut ready);
        let token = |message: &Message| match message.body {
            Body::Heartbeat { read, .. } if message.to == PeerId(3) => Some(read),
            _ => None,
        };
        (ready.reads.len(), ready.messages.iter().find_map(token))
    };
    raft.read_index(ReadId(1)).unwrap();
    assert_eq!(reads(&mut raft), (0, Some(1)), "no quorum has said anything to a round of heartbeats");
    raft.step(from(3, 1, Body::HeartbeatReply { read: 1 }), &[]).unwrap();
    assert_eq!(reads(&mut raft), (1, None));
    // Nine ticks: an election timeout but for the tick that was about to come, and a tenth for drift.
    for tick in 0..8 {
        raft.read_index(ReadId(2)).unwrap();
        assert_eq!(reads(&mut raft).0, 1, "{tick} ticks after the round was begun");
        raft.tick();
    }
    // Ticks have begun rounds of their own; that their answers come now does not make them younger.
    assert_eq!(reads(&mut raft), (0, Some(9)));
    raft.step(from(3, 1, Body::HeartbeatReply { read: 2 }), &[]).unwrap();
    raft.read_index(ReadId(3)).unwrap();
    assert_eq!(reads(&mut raft).0, 1, "seven ticks since the first of them");
    raft.tick();
    raft.read_index(ReadId(4)).unwrap();
    assert_eq!(reads(&mut raft), (0, Some(11)));
    raft.step(from(2, 1, Body::HeartbeatReply { read: 11 }), &[]).unwrap();
    assert_eq!(reads(&mut raft).0, 1);
    // Who is told to take over asks for votes in spite of leases, whenever it hears of it.
    raft.transfer_leader(PeerId(2)).unwrap();
    raft.read_index(ReadId(5)).unwrap();
    assert_eq!(reads(&mut raft), (0, Some(12)));
    raft.step(from(3, 1, Body::HeartbeatReply { read: 12 }), &[]).unwrap();
    assert_eq!(reads(&mut raft).0, 1);
    (0..12).for_each(|_| raft.tick());
    raft.step(from(3, 1, Body::HeartbeatReply { read: 12 }), &[]).unwrap();
    assert_eq!((raft.role(), raft.status().transferee), (Role::Leader, PeerId::ZERO), "given up");
    raft.read_index(ReadId(6)).unwrap();
    assert_eq!(reads(&mut raft), (0, Some(13)));
}

/// What is durable is acknowledged at once, but not in a term that is not.
#[test]
fn acknowledgements_wait_for_their_term() {
    let mut raft = member(plain(), log_of(&[1, 1], 2));
    let append = |index| Body::Append {
        prev: EntryId { term: Term(1), index: Index(index) },
        last: Index(index),
        commit: Index(0),
        payloads: Payloads::All,
    };
    let acks = |messages: &[Message]| messages.iter().filter(|one| matches!(one.body, Body::AppendAck { .. })).count();
    raft.step(from(2, 1, append(2)), &[]).unwrap();
    let (at_once, later) = turn(&mut raft);
    assert_eq!((acks(&at_once), acks(&later)), (1, 0));
    // The first lies behind the commit index, the second is the last entry.
    for (term, index) in [(5, 1), (6, 2)] {
        raft.step(from(2, term, append(index)), &[]).unwrap();
        let (at_once, later) = turn(&mut raft);
        assert_eq!((acks(&at_once), acks(&later)), (0, 1), "in term {term}");
        raft.step(from(2, term, append(index)), &[]).unwrap();
        let (at_once, later) = turn(&mut raft);
        assert_eq!((acks(&at_once), acks(&later)), (1, 0), "in term {term}, which is durable now");
    }
}

/// A member that starts again may have given a lease.
#[test]
fn leases_outlive_a_restart() {
    let config = Config { read_policy: ringraft_raft::ReadPolicy::Lease, check_quorum: true, ..plain() };
    let mut raft = member(config, log_of(&[1], 0));
    let vote = |raft: &mut Raft<MemLog>, transfer| {
        let last = raft.status().last;
        raft.step(from(2, raft.term().0 + 1, Body::Vote { last, transfer }), &[]).unwrap();
        raft.status().vote
    };
    (0..9).for_each(|_| raft.tick());
    raft.campaign();
    assert_eq!((vote(&mut raft, false), raft.role()), (PeerId::ZERO, Role::Follower));
    raft.tick();
    assert_eq!(vote(&mut raft, false), PeerId(2));
    let mut raft = member(raft.config().clone(), log_of(&[1], 0));
    assert_eq!(vote(&mut raft, true), PeerId(2), "a leader that hands over has no lease");
}

#[test]
fn entries_of_older_terms_are_not_committed_alone() {
    // Figure 3.7 of the thesis: entry 2 of term 1 is on a majority, and may still be replaced.
    let mut raft = leader(plain(), &[1, 1]);
    turn(&mut raft);
    raft.step(from(2, 2, Body::AppendAck { index: Index(2) }), &[]).unwrap();
    assert_eq!(raft.commit(), Index(0));
    raft.step(from(2, 2, Body::AppendAck { index: Index(3) }), &[]).unwrap();
    assert_eq!(raft.commit(), Index(3));
}

#[test]
fn a_quorum_that_falls_silent_deposes() {
    let mut raft = settled_leader(Config { check_quorum: true, ..plain() });
    (0..10).for_each(|_| raft.tick());
    assert_eq!(raft.role(), Role::Leader, "both have spoken");
    (0..9).for_each(|_| raft.tick());
    raft.step(from(3, 1, Body::HeartbeatReply { read: 0 }), &[]).unwrap();
    raft.tick();
    assert_eq!(raft.role(), Role::Leader, "one of two is enough");
    (0..10).for_each(|_| raft.tick());
    assert_eq!((raft.role(), raft.leader(), raft.term()), (Role::Follower, None, Term(1)));
}

fn told_to_take_over(raft: &mut Raft<MemLog>) -> Vec<u64> {
    let mut messages = Vec::new();
    raft.take_messages(&mut messages);
    messages.iter().filter(|message| message.body == Body::TimeoutNow).map(|message| message.to.0).collect()
}

#[test]
fn a_leader_that_loses_its_vote_hands_over_first() {
    let check = |change: ConfChangeOp, prepare: &dyn Fn(&mut Raft<MemLog>), target: u64| {
        let mut raft = settled_leader(Config { check_quorum: true, ..plain() });
        prepare(&mut raft);
        raft.apply_conf_change(&ConfChange::simple(change)).unwrap();
        let last = raft.last_index();
        assert_eq!((raft.role(), raft.status().transferee), (Role::Leader, PeerId(target)));
        if raft.progress(PeerId(target)).unwrap().matched < last {
            assert_eq!(told_to_take_over(&mut raft), []);
            raft.step(from(target, 1, Body::AppendAck { index: last }), &[]).unwrap();
        }
        assert_eq!(told_to_take_over(&mut raft), [target]);
        assert!(raft.propose(EntryKind::Normal, 1).is_err());
        // Told again with every heartbeat that it answers, until somebody leads.
        raft.tick();
        raft.step(from(target, 1, Body::HeartbeatReply { read: 0 }), &[]).unwrap();
        raft.step(from(5 - target, 1, Body::HeartbeatReply { read: 0 }), &[]).unwrap();
        assert_eq!(told_to_take_over(&mut raft), [target]);
        let mut taken = raft.ticks_until_due();
        assert_eq!(taken, 1, "a heartbeat");
        while raft.role() == Role::Leader {
            raft.tick();
            taken += 1;
        }
        assert_eq!((taken, raft.term(), raft.leader()), (10, Term(1), None), "an election timeout, no longer");
    };
    check(ConfChangeOp::Remove(OWN), &|_| {}, 2);
    check(ConfChangeOp::AddLearner(OWN), &|_| {}, 2);
    check(ConfChangeOp::Remove(OWN), &|raft| raft.set_peer_priority(PeerId(2), 3), 3);
    let behind = |raft: &mut Raft<MemLog>| {
        propose(raft, 2);
        raft.set_peer_priority(PeerId(3), 0);
        raft.step(from(3, 1, Body::AppendAck { index: Index(2) }), &[]).unwrap();
    };
    check(ConfChangeOp::Remove(OWN), &behind, 3);
}

#[test]
fn a_leader_that_is_alone_cannot_be_removed() {
    let mut raft = settled_leader(plain());
    let change =
        ConfChange { ops: [2, 3].map(|id| ConfChangeOp::Remove(PeerId(id))).to_vec(), ..ConfChange::default() };
    raft.apply_conf_change(&change).unwrap();
    raft.apply_conf_change(&ConfChange::leave_joint()).unwrap();
    assert_eq!(raft.role(), Role::Leader);
    raft.apply_conf_change(&ConfChange::simple(ConfChangeOp::Remove(OWN))).unwrap_err();
    assert_eq!(raft.role(), Role::Leader, "a group is never left without voters");
}

/// Leads, and waits for its disk; the others acknowledge what it is about to write.
fn stalled_leader(acks: &[u64]) -> (Raft<MemLog>, ringraft_raft::SyncTicket) {
    let mut raft = settled_leader(Config { check_quorum: true, ..plain() });
    (0..5).for_each(|_| raft.tick());
    propose(&mut raft, 1);
    let mut ready = Ready::default();
    raft.ready(&mut ready);
    for peer in acks {
        raft.step(from(*peer, 1, Body::AppendAck { index: raft.last_index() }), &[]).unwrap();
    }
    (raft, ready.append.unwrap().ticket)
}

/// Ticks of an election timeout, in which everybody answers heartbeats. Who is told to take over.
fn heartbeats(raft: &mut Raft<MemLog>, ticks: usize) -> Vec<u64> {
    let mut told = Vec::new();
    for _ in 0..ticks {
        raft.tick();
        for peer in [2, 3] {
            raft.step(from(peer, 1, Body::HeartbeatReply { read: 0 }), &[]).unwrap();
        }
        told.append(&mut told_to_take_over(raft));
    }
    told.dedup();
    told
}

#[test]
fn heartbeats_alone_do_not_keep_a_leader_whose_disk_hangs() {
    let (mut raft, ticket) = stalled_leader(&[2, 3]);
    raft.set_peer_priority(PeerId(2), 1);
    assert_eq!(heartbeats(&mut raft, 9), []);
    assert_eq!(heartbeats(&mut raft, 1), [3]);
    assert_eq!(raft.propose(EntryKind::Normal, 1), Err(Refused::Transferring { target: PeerId(3) }));
    assert_eq!(heartbeats(&mut raft, 9), [3]);
    assert_eq!(raft.role(), Role::Leader);
    raft.tick();
    assert_eq!((raft.role(), raft.leader(), raft.term()), (Role::Follower, None, Term(1)), "nobody took over");
    // It does not ask for votes while its disk hangs, and does once it goes on.
    raft.advance(200);
    assert_eq!((raft.role(), raft.term()), (Role::Follower, Term(1)));
    let entry = raft.meta(raft.last_index()).unwrap();
    raft.storage_mut().entries.push_back(entry);
    raft.synced(ticket);
    raft.advance(20);
    assert_eq!((raft.role(), raft.term()), (Role::Candidate, Term(2)));
}

#[test]
fn a_leader_whose_disk_is_slow_but_moves_stays() {
    let (mut raft, mut ticket) = stalled_leader(&[2, 3]);
    for _ in 0..5 {
        assert_eq!(heartbeats(&mut raft, 9), []);
        let entry = raft.meta(raft.last_index()).unwrap();
        raft.storage_mut().entries.push_back(entry);
        propose(&mut raft, 1);
        let mut ready = Ready::default();
        raft.ready(&mut ready);
        raft.synced(ticket);
        ticket = ready.append.unwrap().ticket;
        for peer in [2, 3] {
            raft.step(from(peer, 1, Body::AppendAck { index: raft.last_index() }), &[]).unwrap();
        }
    }
    assert_eq!(raft.role(), Role::Leader);
}

#[test]
fn a_leader_whose_disk_hangs_stays_while_the_others_cannot_go_on_without_it() {
    let (mut raft, _) = stalled_leader(&[2]);
    assert_eq!(heartbeats(&mut raft, 50), []);
    assert_eq!(raft.role(), Role::Leader);
    // Peer 3 comes along: then at once.
    raft.step(from(3, 1, Body::AppendAck { index: raft.last_index() }), &[]).unwrap();
    assert_eq!(raft.ticks_until_due(), 1);
    assert_eq!(heartbeats(&mut raft, 1), [2]);
}

#[test]
fn a_candidate_asks_when_its_term_is_durable() {
    // Else it could crash, forget the term, ask in it again with a shorter log, and count the answers of before.
    let mut raft = member(plain(), log_of(&[1], 1));
    raft.campaign();
    let (now, after) = turn(&mut raft);
    assert_eq!(now, []);
    let votes = after.iter().filter(|message| matches!(message.body, Body::Vote { .. })).count();
    assert_eq!(votes, 2);
}

/// Members 1 to `full`, and as many witnesses after them.
fn with_witnesses(full: u64, witnesses: u64) -> MemLog {
    let mut conf = voters(full + witnesses);
    conf.witnesses = (full + 1..=full + witnesses).map(PeerId).collect();
    MemLog::new(conf)
}

/// Leads a group with witnesses; nothing of this term is written yet, and nobody has spoken since the election.
fn leader_of(log: MemLog, config: Config) -> Raft<MemLog> {
    let mut raft = member(config, log);
    raft.campaign();
    turn(&mut raft);
    raft.step(from(2, 1, Body::VoteReply { granted: true }), &[]).unwrap();
    assert_eq!(raft.role(), Role::Leader);
    raft
}

/// Takes a Ready whose write stays on its way: what left, and the rest for [`finish`].
fn begin(raft: &mut Raft<MemLog>) -> (Vec<Message>, Ready) {
    let mut ready = Ready::default();
    raft.ready(&mut ready);
    (ready.messages.clone(), ready)
}

/// That write is durable.
fn finish(raft: &mut Raft<MemLog>, mut ready: Ready) {
    let append = ready.append.as_mut().expect("a write");
    let (before, upto) = append.entries;
    let metas: Vec<_> = (before.0 + 1..=upto.0).map(|at| raft.meta(Index(at)).unwrap()).collect();
    raft.storage_mut().truncate(before);
    raft.storage_mut().entries.extend(metas);
    for message in append.after_sync.hold().filter(|message| message.to == OWN) {
        raft.step(message, &[]).unwrap();
    }
    raft.synced(append.ticket);
}

#[test]
fn witnesses_alone_commit_nothing() {
    let mut raft = leader_of(with_witnesses(1, 2), plain());
    let (now, write) = begin(&mut raft);
    assert_eq!((appends(&now, 2), appends(&now, 3)), (vec![(0, 0)], vec![(0, 0)]), "nothing that we could lose");
    // Somebody else gave it to them.
    for peer in [2, 3] {
        raft.step(from(peer, 1, Body::AppendAck { index: Index(1) }), &[]).unwrap();
    }
    assert_eq!(raft.commit(), Index(0), "a majority, but nobody has the payload");
    finish(&mut raft, write);
    assert_eq!(raft.commit(), Index(1));
}

#[test]
fn a_witness_breaks_the_tie() {
    let mut raft = leader_of(with_witnesses(2, 1), plain());
    let (now, write) = begin(&mut raft);
    assert_eq!((appends(&now, 2), appends(&now, 3)), (vec![(0, 1)], vec![(0, 0)]), "a full member at once");
    raft.step(from(3, 1, Body::AppendAck { index: Index(0) }), &[]).unwrap();
    finish(&mut raft, write);
    let (now, _) = turn(&mut raft);
    assert_eq!(appends(&now, 3), [(0, 1)], "a witness when it is durable here");
    raft.step(from(3, 1, Body::AppendAck { index: Index(1) }), &[]).unwrap();
    assert_eq!(raft.commit(), Index(1), "member 2 has said nothing");
}

#[test]
fn what_a_witness_is_sent() {
    let config = Config { message_size_max: 64, inflight_size_max: 100, ..plain() };
    let mut raft = leader_of(with_witnesses(2, 1), config);
    turn(&mut raft);
    for peer in [2, 3] {
        raft.step(from(peer, 1, Body::AppendAck { index: Index(peer - 2) }), &[]).unwrap();
    }
    turn(&mut raft);
    for _ in 0..8 {
        raft.propose(EntryKind::Normal, 100).unwrap();
    }
    turn(&mut raft);
    raft.step(from(3, 1, Body::AppendAck { index: Index(1) }), &[]).unwrap();
    let (now, _) = turn(&mut raft);
    // Two headers of 24 bytes to a message, and three messages until 100 bytes are on their way.
    assert_eq!(appends(&now, 3), [(1, 3), (3, 5), (5, 7)]);
    let payloads = now.iter().filter_map(|message| match message.body {
        Body::Append { payloads, .. } => Some((message.to.0, payloads)),
        _ => None,
    });
    assert!(payloads.into_iter().all(|(to, payloads)| (payloads == Payloads::Stripped) == (to == 3)));
    assert_eq!(raft.progress(PeerId(3)).map(|one| (one.witness, one.inflights.size())), Some((true, 144)));
    // And a snapshot like that.
    raft.step(from(2, 1, Body::AppendAck { index: Index(9) }), &[]).unwrap();
    turn(&mut raft);
    raft.storage_mut().compact(Index(9), with_witnesses(2, 1).conf);
    raft.step(from(3, 1, Body::AppendReject { rejected: Index(7), hint: id(0, 0) }), &[]).unwrap();
    let (now, _) = turn(&mut raft);
    let snapshot = Body::Snapshot { at: id(1, 9), payloads: Payloads::Stripped };
    assert!(now.iter().any(|message| (message.to.0, message.body) == (3, snapshot)), "{now:?}");
}

#[test]
fn what_a_witness_does_and_does_not() {
    let log = || MemLog { hard: HardState { term: Term(2), ..HardState::default() }, ..with_witnesses(2, 1) };
    let own = PeerId(3);
    let config = Config { witness: true, id: own, ..plain() };
    let longer = MemLog { entries: [1, 1, 2].map(|term| meta(term).stripped()).into(), ..log() };
    let mut raft = member(config.clone(), longer);
    let to_witness = |body| Message { to: own, ..from(1, 2, body) };
    // It does not ask for votes, whoever wants it to.
    assert_eq!(raft.ticks_until_due(), u32::MAX);
    (0..100).for_each(|_| raft.tick());
    raft.campaign();
    raft.step(to_witness(Body::TimeoutNow), &[]).unwrap();
    assert_eq!((raft.role(), raft.term()), (Role::Follower, Term(2)));
    // It votes, as its log says.
    for (last, granted) in [(id(2, 2), false), (id(1, 9), false), (id(2, 3), true)] {
        let ask = Message { term: Term(raft.term().0 + 1), ..to_witness(Body::Vote { last, transfer: false }) };
        raft.step(ask, &[]).unwrap();
        let mut ready = Ready::default();
        raft.ready(&mut ready);
        let after = ready.append.iter_mut().flat_map(|append| append.after_sync.hold());
        let said: Vec<_> = ready.messages.drain(..).chain(after).map(|message| message.body).collect();
        assert_eq!(said, [Body::VoteReply { granted }], "{last}");
    }
    // It takes what is meant for it.
    let term = raft.term();
    let append = |payloads| Body::Append { prev: id(2, 3), last: Index(4), commit: Index(4), payloads };
    let step =
        |raft: &mut Raft<MemLog>, body, entries: &[EntryMeta]| raft.step(Message { term, ..to_witness(body) }, entries);
    let wrong = StepError::WrongPayloads { from: PeerId(1), witness: true };
    assert_eq!(step(&mut raft, append(Payloads::All), &[meta(2)]), Err(wrong));
    let malformed = StepError::Malformed { from: PeerId(1), what: "a payload for a witness" };
    assert_eq!(step(&mut raft, append(Payloads::Stripped), &[meta(2)]), Err(malformed));
    let snapshot = |payloads| Message { term, ..to_witness(Body::Snapshot { at: id(2, 9), payloads }) };
    assert_eq!(raft.step_snapshot(snapshot(Payloads::All), id(2, 9), &log().conf), Err(wrong));
    let change = EntryMeta { kind: EntryKind::ConfChange, ..meta(2) };
    assert_eq!(step(&mut raft, append(Payloads::Stripped), &[change]).unwrap().appended, Some(Index(4)));
    assert_eq!(raft.step_snapshot(snapshot(Payloads::Stripped), id(2, 9), &log().conf), Ok(true));
    // It has no state to read from.
    assert_eq!(raft.read_index(ReadId(1)), Err(Refused::Witness { peer: own }));
    let read = Message { term: Term(0), ..to_witness(Body::ReadIndex { id: ReadId(1) }) };
    let refused = Refused::Witness { peer: own };
    assert_eq!(raft.step(read, &[]), Err(StepError::ReadRefused { from: PeerId(1), refused }));
}

#[test]
fn full_members_and_witnesses_are_told_apart() {
    let mut raft = member(plain(), with_witnesses(2, 1));
    let append = Body::Append { prev: id(0, 0), last: Index(0), commit: Index(0), payloads: Payloads::Stripped };
    let wrong = StepError::WrongPayloads { from: PeerId(2), witness: false };
    assert_eq!(raft.step(from(2, 1, append), &[]), Err(wrong));
    let at = id(1, 5);
    let snapshot = from(2, 1, Body::Snapshot { at, payloads: Payloads::Stripped });
    assert_eq!(raft.step_snapshot(snapshot, at, &with_witnesses(2, 1).conf), Err(wrong));
    assert_eq!((raft.term(), raft.last_index()), (Term(0), Index(0)));

    let open = |id: u64, witness: bool| {
        let config = Config { witness, id: PeerId(id), ..plain() };
        Raft::new(config, with_witnesses(2, 1)).map(|raft| raft.id().0)
    };
    assert_eq!((open(1, false), open(3, true)), (Ok(1), Ok(3)));
    assert_eq!(open(1, true), Err(OpenError::Witness { configured: true }));
    assert_eq!(open(3, false), Err(OpenError::Witness { configured: false }));
    assert_eq!((open(4, false), open(4, true)), (Ok(4), Ok(4)), "whoever is no member may become either");
}

#[test]
fn a_witness_is_never_handed_leadership() {
    let mut raft = leader_of(with_witnesses(2, 1), Config { check_quorum: true, ..plain() });
    turn(&mut raft);
    for peer in [2, 3] {
        raft.step(from(peer, 1, Body::AppendAck { index: Index(1) }), &[]).unwrap();
    }
    turn(&mut raft);
    assert_eq!(raft.transfer_leader(PeerId(3)), Err(Refused::Witness { peer: PeerId(3) }));
    // The disk hangs, and the other full member could go on with the witness, which has only what this disk has.
    propose(&mut raft, 1);
    let (now, _) = begin(&mut raft);
    assert_eq!((appends(&now, 2), appends(&now, 3)), (vec![(1, 2)], vec![]));
    assert_eq!(heartbeats(&mut raft, 12), []);
    assert_eq!(raft.role(), Role::Leader, "nobody could do better");
    raft.step(from(2, 1, Body::AppendAck { index: Index(2) }), &[]).unwrap();
    assert_eq!(heartbeats(&mut raft, 1), [2]);
    // Without another full voter there is nobody.
    let mut raft = leader_of(with_witnesses(1, 2), Config { check_quorum: true, ..plain() });
    begin(&mut raft);
    assert_eq!(heartbeats(&mut raft, 50), []);
    assert_eq!(raft.role(), Role::Leader);
}

#[test]
fn changes_that_would_not_fit_are_refused_when_they_are_proposed() {
    use ringraft_raft::ConfChangeError as Error;
    let mut raft = leader_of(with_witnesses(2, 1), plain());
    while raft.has_ready() {
        turn(&mut raft);
        raft.step(from(2, 1, Body::AppendAck { index: raft.last_index() }), &[]).unwrap();
    }
    let mut propose = |ops: &[ConfChangeOp]| {
        let change = ConfChange { ops: ops.to_vec(), ..ConfChange::default() };
        raft.propose_conf_change(&change, 9)
    };
    let (two, three) = (PeerId(2), PeerId(3));
    let refused = |error| Err(Refused::ConfChange { error });
    assert_eq!(propose(&[ConfChangeOp::AddVoter(three)]), refused(Error::KindChanged(three)));
    assert_eq!(propose(&[ConfChangeOp::AddWitness(two)]), refused(Error::KindChanged(two)));
    let all = [1, 2, 3].map(|id| ConfChangeOp::Remove(PeerId(id)));
    assert_eq!(propose(&all[..2]), refused(Error::OnlyWitnesses));
    assert_eq!(propose(&all), refused(Error::NoVoters));
    assert!(matches!(propose(&all[1..2]), Ok(Proposed::Appended(_))));
    assert!(matches!(propose(&all[1..2]), Err(Refused::ConfChangePending { .. })));
}

#[test]
fn a_group_is_founded_by_its_first_entries() {
    let founders = [1, 2, 3].map(|id| ConfChangeOp::AddVoter(PeerId(id)));
    let empty = || MemLog::new(ConfState::default());
    let etcd = |async_storage_writes| Compat::Etcd { async_storage_writes };
    for compat in [Compat::Off, etcd(false), etcd(true)] {
        let mut raft = member(Config { compat, ..plain() }, empty());
        let founded = raft.bootstrap(&founders).unwrap();
        let expected: Vec<_> = (1..).map(|index| id(1, index)).zip(founders.map(ConfChange::simple)).collect();
        assert_eq!(founded, expected);
        assert_eq!(raft.conf_state(), &voters(3));
        let status = raft.status();
        assert_eq!(
            (status.term, status.role, status.commit, status.applied),
            (Term(1), Role::Follower, Index(3), Index(0))
        );
        assert_eq!(raft.meta(Index(2)).unwrap(), EntryMeta { term: Term(1), kind: EntryKind::ConfChange, size: 10 });
        let mut ready = Ready::default();
        raft.ready(&mut ready);
        let append = ready.append.as_ref().expect("a write");
        let hard = HardState { term: Term(1), vote: PeerId::ZERO, commit: Index(3) };
        assert_eq!((append.hard_state, append.entries), (Some(hard), (Index(0), Index(3))));
        // Not before they are durable, unless the shell makes them so before it applies anything.
        let at_once = if compat == etcd(false) { 3 } else { 0 };
        assert_eq!(ready.committed, (Index(0), Index(at_once)), "{compat:?}");
        if compat != Compat::Off {
            continue;
        }
        let metas: Vec<_> = (1..=3).map(|at| raft.meta(Index(at)).unwrap()).collect();
        raft.storage_mut().entries.extend(metas);
        raft.synced(ready.append.as_ref().unwrap().ticket);
        raft.ready(&mut ready);
        assert_eq!(ready.committed, (Index(0), Index(3)));
        for (_, change) in founded {
            assert_eq!(raft.apply_conf_change(&change), Ok(voters(3)), "nothing new");
        }
        raft.applied(Index(3));
        raft.campaign();
        assert_eq!(raft.role(), Role::Candidate);
    }
    // Others encode changes in other ways.
    let mut raft = member(plain(), empty());
    raft.bootstrap_as(&founders, |_| 33).unwrap();
    assert_eq!(raft.meta(Index(3)).unwrap().size, 33);
    // Once only, on an empty log, and with somebody who can lead.
    assert_eq!(raft.bootstrap(&founders), Err(OpenError::NotEmpty { last: id(1, 3) }));
    let refused = |log: MemLog, config: Config, founders: &[ConfChangeOp]| {
        let mut raft = member(config, log);
        let (before, result) = (raft.status(), raft.bootstrap(founders));
        assert_eq!((raft.status(), raft.has_ready()), (before, false), "nothing is done");
        result.unwrap_err()
    };
    use ringraft_raft::ConfChangeError as Error;
    let (one, last) = (&founders[..1], id(0, 0));
    assert_eq!(refused(log_of(&[], 0), plain(), one), OpenError::NotEmpty { last });
    let hard = HardState { term: Term(4), ..HardState::default() };
    assert_eq!(refused(MemLog { hard, ..empty() }, plain(), one), OpenError::NotEmpty { last });
    assert_eq!(refused(empty(), plain(), &[]), OpenError::NoFounders);
    let (nobody, witness) = (ConfChangeOp::AddVoter(PeerId(0)), ConfChangeOp::AddWitness(PeerId(3)));
    assert_eq!(refused(empty(), plain(), &[nobody]), OpenError::Membership(Error::NoVoters));
    assert_eq!(refused(empty(), plain(), &[witness]), OpenError::Membership(Error::OnlyWitnesses));
    let config = Config { id: PeerId(3), ..plain() };
    assert_eq!(refused(empty(), config.clone(), &[founders[0], witness]), OpenError::Witness { configured: false });
    let mut raft = member(Config { witness: true, ..config }, empty());
    raft.bootstrap(&[founders[0], founders[1], witness]).unwrap();
    assert_eq!(raft.conf_state(), &with_witnesses(2, 1).conf);
}

#[test]
fn one_probe_at_a_time() {
    // Five voters. Member 2 has everything and is probed, while others acknowledge one entry after the other: each moves
    // the commit index, which it would be told.
    let mut raft = member(plain(), MemLog::new(voters(5)));
    raft.campaign();
    turn(&mut raft);
    for peer in [2, 3] {
        raft.step(from(peer, 1, Body::VoteReply { granted: true }), &[]).unwrap();
    }
    propose(&mut raft, 5);
    turn(&mut raft);
    let last = raft.last_index();
    raft.step(from(2, 1, Body::AppendAck { index: last }), &[]).unwrap();
    raft.report_unreachable(PeerId(2));
    let probes = |raft: &mut Raft<MemLog>| {
        let (now, _) = turn(raft);
        appends(&now, 2)
    };
    let mut sent = Vec::new();
    for index in 1..=4 {
        raft.step(from(3, 1, Body::AppendAck { index: Index(index) }), &[]).unwrap();
        assert_eq!(raft.commit(), Index(index));
        sent.append(&mut probes(&mut raft));
    }
    assert_eq!(sent, [(last.0, last.0)], "one, and no answer");
    // Another one with the answer to a heartbeat.
    raft.step(from(2, 1, Body::HeartbeatReply { read: 0 }), &[]).unwrap();
    assert_eq!(probes(&mut raft), [(last.0, last.0)]);
    raft.step(from(3, 1, Body::AppendAck { index: Index(5) }), &[]).unwrap();
    assert_eq!(probes(&mut raft), []);
    // Its answer ends the probing, and it is told what it has missed.
    raft.step(from(2, 1, Body::AppendAck { index: last }), &[]).unwrap();
    assert_eq!(probes(&mut raft), [(last.0, last.0)]);
    raft.step(from(3, 1, Body::AppendAck { index: last }), &[]).unwrap();
    assert_eq!(probes(&mut raft), [(last.0, last.0)]);
    // A refusal lets the next probe go.
    raft.report_unreachable(PeerId(2));
    raft.step(from(2, 1, Body::HeartbeatReply { read: 0 }), &[]).unwrap();
    assert_eq!(probes(&mut raft), [(last.0, last.0)]);
    raft.step(from(2, 1, Body::AppendReject { rejected: last, hint: id(0, 0) }), &[]).unwrap();
    assert_eq!(probes(&mut raft), [(0, last.0)]);
}

#[test]
fn the_shell_says_how_much_a_peer_gets() {
    let mut raft = settled_leader(Config { message_size_max: 32, ..plain() });
    let sent = |raft: &mut Raft<MemLog>| {
        let (now, _) = turn(raft);
        (appends(&now, 2), appends(&now, 3).len())
    };
    raft.set_peer_window(PeerId(2), 0, 0);
    propose(&mut raft, 5);
    assert_eq!(sent(&mut raft), (vec![], 5), "closed for one, open for the other");
    raft.step(from(3, 1, Body::AppendAck { index: Index(6) }), &[]).unwrap();
    assert_eq!((raft.commit(), sent(&mut raft).0), (Index(6), vec![]));
    // It hears what is committed, with the answers to heartbeats, and nothing else.
    raft.step(from(2, 1, Body::HeartbeatReply { read: 0 }), &[]).unwrap();
    assert_eq!(sent(&mut raft), (vec![(1, 1)], 0));
    // Opened for two messages, and for one more of two.
    raft.set_peer_window(PeerId(2), 2, 0);
    assert_eq!(sent(&mut raft), (vec![(1, 2), (2, 3)], 0));
    raft.set_peer_window(PeerId(2), 4, 96);
    assert_eq!(sent(&mut raft), (vec![(3, 4)], 0));
    raft.step(from(2, 1, Body::AppendAck { index: Index(4) }), &[]).unwrap();
    assert_eq!(sent(&mut raft), (vec![(4, 5), (5, 6)], 0));
    // Closed while it is probed: the probe carries nothing.
    raft.set_peer_window(PeerId(2), 0, 0);
    raft.report_unreachable(PeerId(2));
    raft.step(from(2, 1, Body::HeartbeatReply { read: 0 }), &[]).unwrap();
    assert_eq!(sent(&mut raft), (vec![(4, 4)], 0));
    raft.step(from(2, 1, Body::AppendAck { index: Index(4) }), &[]).unwrap();
    assert_eq!(sent(&mut raft), (vec![], 0));
    raft.set_peer_window(PeerId(2), 256, 0);
    assert_eq!(sent(&mut raft), (vec![(4, 5), (5, 6)], 0));
    // Of strangers nothing is kept.
    raft.set_peer_window(PeerId(9), 1, 1);
}

#[test]
fn a_joint_membership_is_left_though_nothing_is_applied() {
    let mut raft = settled_leader(plain());
    let change = ConfChange { transition: Transition::JointImplicit, ..ConfChange::default() };
    let change = ConfChange { ops: vec![ConfChangeOp::AddLearner(PeerId(4))], ..change };
    raft.propose_conf_change(&change, 10).unwrap();
    turn(&mut raft);
    raft.step(from(2, 1, Body::AppendAck { index: Index(2) }), &[]).unwrap();
    // Leadership is being handed over when the change is applied: the leaving waits.
    raft.transfer_leader(PeerId(3)).unwrap();
    raft.apply_conf_change(&change).unwrap();
    turn(&mut raft);
    assert_eq!((raft.applied_index(), raft.last_index()), (Index(2), Index(2)));
    let until = raft.ticks_until_due();
    (0..10).for_each(|_| raft.tick());
    assert!(until <= 10);
    assert_eq!(raft.last_index(), Index(3), "and is tried again when the transfer has ended");
    assert_eq!(raft.meta(Index(3)).unwrap().kind, EntryKind::ConfChangeV2);
}

#[test]
fn a_target_that_does_not_know_of_its_vote_yet_is_told_again() {
    // Member 3 is a learner by what it has applied, and a voter by its log.
    let conf = ConfState { voters: vec![OWN, PeerId(2)], learners: vec![PeerId(3)], ..ConfState::default() };
    let log = MemLog { conf, ..log_of(&[1, 1], 1) };
    let mut raft = member(Config { id: PeerId(3), ..plain() }, log);
    let told = |raft: &mut Raft<MemLog>, body| raft.step(Message { to: PeerId(3), ..from(1, 1, body) }, &[]).unwrap();
    told(&mut raft, Body::TimeoutNow);
    assert_eq!(raft.role(), Role::Follower, "it may not ask for votes");
    told(&mut raft, Body::Heartbeat { commit: Index(2), read: 0 });
    told(&mut raft, Body::TimeoutNow);
    assert_eq!(raft.role(), Role::Follower, "it might be a voter, but has not applied it");
    let mut ready = Ready::default();
    raft.ready(&mut ready);
    assert_eq!(ready.committed.1, Index(2));
    raft.apply_conf_change(&ConfChange::simple(ConfChangeOp::AddVoter(PeerId(3)))).unwrap();
    raft.applied(Index(2));
    told(&mut raft, Body::TimeoutNow);
    assert_eq!((raft.role(), raft.term()), (Role::Candidate, Term(2)));
    // The leader says so with every heartbeat that is answered, until somebody takes over.
    let mut raft = settled_leader(plain());
    raft.transfer_leader(PeerId(2)).unwrap();
    assert_eq!(told_to_take_over(&mut raft), [2]);
    for _ in 0..3 {
        raft.step(from(2, 1, Body::HeartbeatReply { read: 0 }), &[]).unwrap();
        assert_eq!(told_to_take_over(&mut raft), [2]);
    }
}

/// The table in the crate's docs is only worth something while it is true.
#[test]
fn the_docs_name_tests_that_exist() {
    let docs = include_str!("../src/lib.rs");
    let rows: Vec<_> = docs.lines().filter(|line| line.starts_with("//! | ") && !line.contains("complaint")).collect();
    assert_eq!(rows.len(), 12);
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for row in rows {
        let shown_by = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap();
        for name in shown_by.split(',').map(|name| name.trim().trim_matches('`')) {
            let Some((file, test)) = name.split_once("::") else {
                assert!(root.join("testdata").join(name).exists(), "no script {name}");
                continue;
            };
            let paths = [format!("tests/{file}.rs"), format!("tests/{file}/main.rs")];
            let text = paths.iter().find_map(|path| std::fs::read_to_string(root.join(path)).ok());
            assert!(text.is_some_and(|text| text.contains(&format!("#[test]\nfn {test}()"))), "no test {name}");
        }
    }
}
