//! What several benches need.

use bytes::{Bytes, BytesMut};
use criterion::Throughput;
use ringraft_raft::record::{self, GroupSeed};
use ringraft_raft::{EntryId, EntryKind, GroupId, Index, Term};
use tempfile::TempDir;

/// Whose records are encoded.
pub(crate) const GROUP: GroupId = GroupId(1);

/// Payload sizes with the names that they have in ids of benches.
pub(crate) const SIZES: [(usize, &str); 3] = [(64, "64B"), (256, "256B"), (1024, "1KiB")];

/// So many elements of so many bytes each per iteration.
pub(crate) fn throughput(count: usize, size: usize) -> Throughput {
    Throughput::ElementsAndBytes { elements: count as u64, bytes: (count * size) as u64 }
}

/// Appends the records of `count` entries behind `after`, each with this payload.
pub(crate) fn encode_run(after: EntryId, count: usize, payload: &[u8], out: &mut BytesMut) {
    let seed = GroupSeed::of(GROUP);
    for index in (after.index.0 + 1..).take(count) {
        let id = EntryId { term: after.term, index: Index(index) };
        record::encode(seed, id, EntryKind::Normal, &[payload], out);
    }
}

/// The records of the first `count` entries of a log, each with a payload of `size` bytes.
pub(crate) fn run(count: usize, size: usize) -> Bytes {
    let mut out = BytesMut::with_capacity(count * record::encoded_len(size));
    encode_run(EntryId { term: Term(1), index: Index::ZERO }, count, &payload(size), &mut out);
    out.freeze()
}

/// Bytes that are not all alike.
pub(crate) fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|at| u8::try_from(at * 31 % 251).expect("below 251")).collect()
}

/// A fixed-width key.
pub(crate) fn key(number: usize) -> [u8; 16] {
    format!("key-{number:012}").into_bytes().try_into().expect("4 and 12 digits")
}

/// Whether a ring can be had; says why not.
pub(crate) fn has_ring(bench: &str) -> bool {
    match ringraft_io::uring::probe() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("{bench}: skipped: {error}");
            false
        }
    }
}

/// A directory below the target directory, removed when dropped.
pub(crate) fn data_dir(bench: &str) -> TempDir {
    tempfile::Builder::new()
        .prefix(&format!("bench-{bench}-"))
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .expect("the target directory can be written to")
}
