//! Entries to records and back: what every payload pays on its way, whichever it is.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::Criterion;
use ringraft_raft::record::{GroupSeed, Records};
use ringraft_raft::{EntryId, Index, Term};

use crate::support::{GROUP, SIZES, encode_run, payload, run, throughput};

/// Records per iteration.
const COUNT: usize = 64;

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record");
    for (size, name) in SIZES {
        group.throughput(throughput(COUNT, size));
        let (payload, run) = (payload(size), run(COUNT, size));
        let mut out = BytesMut::with_capacity(run.len());
        group.bench_function(format!("encode/{COUNT}x{name}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                encode_run(EntryId { term: Term(1), index: Index::ZERO }, COUNT, black_box(&payload), &mut out);
                black_box(&out);
            });
        });
        group.bench_function(format!("verify/{COUNT}x{name}"), |bencher| {
            let seed = GroupSeed::of(GROUP);
            bencher.iter(|| {
                let mut sound = 0;
                for record in Records::new(black_box(&run)) {
                    sound += usize::from(record.expect("encoded above").verify(seed));
                }
                assert_eq!(sound, COUNT);
            });
        });
    }
    group.finish();
}
