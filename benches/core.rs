//! Single steps of the core. Ids are those of raft-rs's benches, and so is what is done under them, so that `cargo bench
//! -- 'RawNode::leader_propose'` can be run here and there. Payloads are moved, never looked at, there and here.

use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use ringraft_raft::inflights::Inflights;
use ringraft_raft::{
    Body, Config, EntryId, EntryKind, EntryMeta, HardState, Index, Message, Payloads, PeerId, Progress, Raft, Ready,
    Role, Storage, Term,
};

use crate::log::Log;

/// Voters and learners.
const MEMBERS: [(u64, u64); 4] = [(0, 0), (3, 1), (5, 2), (7, 3)];

/// Payload bytes of `RawNode::leader_propose`.
const SIZES: [usize; 10] = [0, 32, 128, 512, 1 << 10, 4 << 10, 16 << 10, 128 << 10, 512 << 10, 1 << 20];

/// Proposals in `RawNode::leader_propose` before they are committed and forgotten, off the clock.
const PROPOSALS_MAX: usize = 256;

/// New entries, committed ones and messages in `RawNode::ready`.
const READY_COUNT: u64 = 100;

pub(crate) fn bench(criterion: &mut Criterion) {
    new(criterion);
    campaign(criterion);
    leader_propose(criterion);
    ready(criterion);
    criterion.bench_function("Progress::default", |bencher| {
        bencher.iter(|| Progress::new(Index(9), Inflights::new(10, 0)));
    });
}

fn new(criterion: &mut Criterion) {
    for (voters, learners) in MEMBERS {
        criterion.bench_function(&format!("Raft::new ({voters}, {learners})"), |bencher| {
            let log = Log::new(voters, learners);
            bencher.iter(|| open(&log));
        });
    }
    criterion.bench_function("RawNode::new", |bencher| bencher.iter(|| open(&Log::new(1, 0))));
}

fn campaign(criterion: &mut Criterion) {
    for (voters, learners) in &MEMBERS[1..] {
        let log = Log::new(*voters, *learners);
        let mut bench = |kind: &str, campaign: fn(&Log) -> Raft<Log>| {
            criterion.bench_function(&format!("Raft::campaign ({voters}, {learners}, {kind})"), |bencher| {
                bencher.iter(|| campaign(&log));
            });
        };
        bench("CampaignPreElection", |log| {
            let mut raft = open(log);
            raft.campaign();
            assert_eq!(raft.role(), Role::PreCandidate);
            raft
        });
        bench("CampaignElection", |log| {
            let config = Config { pre_vote: false, ..Config::new(PeerId(1)) };
            let mut raft = Raft::new(config, log.clone()).expect("a sound log");
            raft.campaign();
            assert_eq!(raft.role(), Role::Candidate);
            raft
        });
        bench("CampaignTransfer", |log| {
            let mut raft = open(log);
            let hurry = Message { from: PeerId(2), to: PeerId(1), term: Term(1), body: Body::TimeoutNow };
            raft.step(hurry, &[]).expect("a leader's word");
            assert_eq!(raft.role(), Role::Candidate);
            raft
        });
    }
}

fn leader_propose(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("RawNode::leader_propose");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::from_parameter(size), &size, |bencher, size| {
            let mut lone = Lone::lead();
            bencher.iter_custom(|iterations| {
                let mut spent = Duration::ZERO;
                let mut left = usize::try_from(iterations).expect("a run ends");
                while left > 0 {
                    let payloads = vec![vec![0; *size]; left.min(PROPOSALS_MAX)];
                    left -= payloads.len();
                    let start = Instant::now();
                    payloads.into_iter().for_each(|payload| lone.propose(payload));
                    spent += start.elapsed();
                    lone.settle();
                }
                spent
            });
        });
    }
    group.finish();
}

fn ready(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("RawNode::ready");
    group.bench_function("Default", |bencher| {
        bencher.iter_batched(
            busy_follower,
            |mut raft| {
                let mut ready = Ready::default();
                raft.ready(&mut ready);
                assert_eq!(ready.messages.len() as u64, READY_COUNT);
                assert_eq!(ready.committed, (Index::ZERO, Index(READY_COUNT)));
                assert_eq!(
                    ready.append.map(|append| append.entries),
                    Some((Index(READY_COUNT), Index(2 * READY_COUNT)))
                );
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn open(log: &Log) -> Raft<Log> {
    Raft::new(Config::new(PeerId(1)), log.clone()).expect("a sound log")
}

/// The leader of a group of its own, and the payloads of its log.
struct Lone {
    raft: Raft<Log>,
    ready: Ready,
    payloads: Vec<Vec<u8>>,
}

impl Lone {
    fn lead() -> Lone {
        let config = Config { uncommitted_size_max: u64::MAX, ..Config::new(PeerId(1)) };
        let mut raft = Raft::new(config, Log::new(1, 0)).expect("an empty log");
        raft.campaign();
        let mut lone = Lone { raft, ready: Ready::default(), payloads: Vec::with_capacity(PROPOSALS_MAX) };
        lone.settle();
        assert_eq!(lone.raft.role(), Role::Leader);
        lone
    }

    fn propose(&mut self, payload: Vec<u8>) {
        let size = u32::try_from(payload.len()).expect("a mebibyte at the most");
        self.raft.propose(EntryKind::Normal, size).expect("the leader");
        self.payloads.push(payload);
    }

    /// Writes, commits, applies and forgets everything.
    fn settle(&mut self) {
        while self.raft.has_ready() {
            self.raft.ready(&mut self.ready);
            if let Some(append) = &mut self.ready.append {
                let (after, upto) = append.entries;
                let metas: Vec<EntryMeta> =
                    (after.0 + 1..=upto.0).map(|at| self.raft.meta(Index(at)).expect("within the log")).collect();
                self.raft.storage_mut().entries.extend(metas);
                self.raft.synced(append.ticket);
                for message in append.after_sync.hold() {
                    self.raft.step(message, &[]).expect("our own word");
                }
            }
            let (after, upto) = self.ready.committed;
            if after < upto {
                self.raft.applied(upto);
            }
        }
        let last = self.raft.last_index();
        assert_eq!(self.raft.applied_index(), last);
        if self.raft.storage().base().index < last {
            self.raft.storage_mut().compact(last);
        }
        self.payloads.clear();
    }
}

/// A follower of three with 100 entries that are committed, 100 that are not written, and 100 answers to give.
fn busy_follower() -> Raft<Log> {
    let (term, size) = (Term(1), 32 << 10);
    let metas = vec![EntryMeta { term, kind: EntryKind::Normal, size }; usize::try_from(READY_COUNT).expect("100")];
    let hard = HardState { term, ..HardState::default() };
    let mut raft = open(&Log { hard, entries: metas.clone().into(), ..Log::new(3, 0) });
    let mut step = |body, entries: &[EntryMeta]| {
        let message = Message { from: PeerId(2), to: PeerId(1), term, body };
        raft.step(message, entries).expect("the leader's word");
    };
    let prev = EntryId { term, index: Index(READY_COUNT) };
    step(Body::Append { prev, last: Index(2 * READY_COUNT), commit: prev.index, payloads: Payloads::All }, &metas);
    (0..READY_COUNT).for_each(|_| step(Body::Heartbeat { commit: prev.index, read: 0 }, &[]));
    raft
}
