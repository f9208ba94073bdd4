//! How long things take: `cargo bench`, or `cargo bench --bench benches -- ^kv` for those whose name begins with "kv".
//!
//! - `record`, `frame`, `protocol`, `kv`: the pure parts, alone.
//! - `raft`: three replicas in one loop, from the proposal until all have applied it.
#![forbid(unsafe_code)]

mod frame;
mod kv;
mod protocol;
mod raft;
mod record;
mod support;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    record::bench(&mut criterion);
    frame::bench(&mut criterion);
    protocol::bench(&mut criterion);
    kv::bench(&mut criterion);
    raft::bench(&mut criterion);
    criterion.final_summary();
}
