//! The state machine we ship, fed with commands as they stand in the log.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use criterion::Criterion;
use ringraft::kv::Kv;
use ringraft::machine::StateMachine;
use ringraft::protocol::{Command, Request};
use ringraft_raft::Index;

use crate::support::{key, payload, throughput};

/// Keys that are there: more than caches hold.
const KEYS: usize = 100_000;

/// A prime that does not divide the number of keys: steps of this size visit all keys, near ones far apart in time.
const STRIDE: usize = 61_027;

/// Keys added before they are removed again, off the clock.
const NEW_KEYS: usize = 1_000;

const VALUE_SIZE: usize = 256;

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kv");
    group.throughput(throughput(1, 16 + VALUE_SIZE));
    let mut rig = None;
    group.bench_function("apply/overwrite/256B", |bencher| {
        let Rig { machine, old, .. } = rig.get_or_insert_with(Rig::new);
        let mut commands = old.iter().cycle();
        bencher.iter(|| machine.apply(commands.next().expect("a cycle")));
    });
    group.bench_function("apply/new-key/256B", |bencher| {
        let Rig { machine, new, .. } = rig.get_or_insert_with(Rig::new);
        bencher.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            let mut left = usize::try_from(iterations).expect("a run ends");
            while left > 0 {
                let round = &new[..left.min(NEW_KEYS)];
                let start = Instant::now();
                round.iter().for_each(|(_, command)| machine.apply(command));
                spent += start.elapsed();
                round.iter().for_each(|(key, _)| assert!(machine.kv.delete(key)));
                left -= round.len();
            }
            spent
        });
    });
    group.finish();
}

/// A key space, and commands for it in an order far from that of the keys.
struct Rig {
    machine: Machine,
    old: Vec<BytesMut>,
    new: Vec<([u8; 16], BytesMut)>,
}

impl Rig {
    fn new() -> Rig {
        // Keys that are there have even numbers, new ones lie between them.
        let scattered = |at: usize| 2 * (at * STRIDE % KEYS);
        let old = (0..KEYS).map(|at| put(&key(scattered(at)))).collect();
        let new = (0..NEW_KEYS).map(|at| key(scattered(at) + 1)).map(|key| (key, put(&key))).collect();
        Rig { machine: Machine::new(), old, new }
    }
}

struct Machine {
    kv: Kv,
    index: Index,
    answer: BytesMut,
}

impl Machine {
    fn new() -> Machine {
        let mut kv = Kv::new();
        let value = payload(VALUE_SIZE);
        for number in 0..KEYS {
            kv.put(&key(2 * number), &value);
        }
        Machine { kv, index: Index::ZERO, answer: BytesMut::new() }
    }

    fn apply(&mut self, command: &[u8]) {
        self.index = self.index.next();
        self.answer.clear();
        self.kv.apply(self.index, black_box(command), &mut self.answer);
        black_box(&self.answer);
    }
}

fn put(key: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    Request::Write(Command::Put { key, value: &payload(VALUE_SIZE) }).encode(&mut out);
    out
}
