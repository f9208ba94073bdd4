//! How long things take: `cargo bench`, or `cargo bench --bench benches -- ^wal` for those whose name begins with "wal".
//!
//! - `record`, `frame`, `protocol`, `kv`: the pure parts, alone.
//! - `raft`: three replicas in one loop, from the proposal until all have applied it.
//! - `Raft::...`, `RawNode::...`, `Progress::...`: single steps of the core, under the names of raft-rs's benches.
//! - `wal`: the log engine on a real ring and a real disk, one durable batch after the other.
//! - `put`: a whole cluster in this process, through the client.
//!
//! The last two keep their files below the target directory, so that must lie on a disk for the numbers to mean
//! anything; without io_uring they say so and are left out.
#![forbid(unsafe_code)]

mod core;
mod frame;
mod kv;
mod log;
mod protocol;
mod put;
mod raft;
mod record;
mod support;
mod wal;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    record::bench(&mut criterion);
    frame::bench(&mut criterion);
    protocol::bench(&mut criterion);
    kv::bench(&mut criterion);
    raft::bench(&mut criterion);
    core::bench(&mut criterion);
    wal::bench(&mut criterion);
    put::bench(&mut criterion);
    criterion.final_summary();
}
