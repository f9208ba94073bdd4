//! Append frames between nodes: records of a log to the pieces of a send, and received bytes to sections.

use std::hint::black_box;

use bytes::{BufMut, Bytes, BytesMut};
use crc32fast::Hasher;
use criterion::Criterion;
use ringraft_io::ShardNo;
use ringraft_raft::{EntryId, Index, Payloads, PeerId, Term};
use ringraft_transport::codec::{SectionHead, Sections};
use ringraft_transport::frame::{ClusterId, FrameKind, HEADER, Header, Link, StreamKind};
use ringraft_transport::reader::StreamReader;

use crate::support::{GROUP, SIZES, run, throughput};

/// Entries per frame.
const COUNT: usize = 64;

/// Frames per stream that is decoded.
const FRAMES: usize = 16;

/// A receive buffer of the ring.
const PIECE: usize = 16 << 10;

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    for (size, name) in SIZES {
        let run = run(COUNT, size);
        group.throughput(throughput(COUNT, size));
        group.bench_function(format!("encode/{COUNT}x{name}"), |bencher| {
            let seed = link().seed();
            let mut writer = Writer { seed, number: 0, head: BytesMut::new(), pieces: Vec::new() };
            bencher.iter(|| {
                writer.pieces.clear();
                writer.append(black_box(&run));
                black_box(&writer.pieces);
            });
        });

        let stream = stream(&run);
        group.throughput(throughput(FRAMES * COUNT, size));
        let cuts = [("one-piece", stream.len()), ("16KiB-pieces", PIECE)];
        for (cut, piece) in cuts {
            group.bench_function(format!("decode/{cut}/{FRAMES}x{COUNT}x{name}"), |bencher| {
                bencher.iter(|| assert_eq!(decode(black_box(&stream), piece), FRAMES * run.len()));
            });
        }
    }
    group.finish();
}

/// Makes a frame per append as the transport does: heads are written, records are referred to.
struct Writer {
    seed: u32,
    number: u64,
    head: BytesMut,
    pieces: Vec<Bytes>,
}

impl Writer {
    fn append(&mut self, run: &Bytes) {
        let section = SectionHead {
            group: GROUP,
            term: Term(1),
            prev: EntryId::default(),
            commit: Index::ZERO,
            payloads: Payloads::All,
            count: u32::try_from(COUNT).expect("a handful"),
            bytes: u32::try_from(run.len()).expect("a frame's worth"),
        }
        .encode();
        let mut crc = Hasher::new_with_initial(self.seed);
        crc.update(&section);
        crc.update(run);
        let header = Header {
            kind: FrameKind::Append,
            body_len: u32::try_from(section.len() + run.len()).expect("a frame's worth"),
            body_crc: crc.finalize(),
            number: self.number,
            count: 1,
        };
        self.number += 1;
        self.head.reserve(HEADER + section.len());
        self.head.put_slice(&header.encode(self.seed));
        self.head.put_slice(&section);
        self.pieces.push(self.head.split().freeze());
        self.pieces.push(run.clone());
    }
}

fn link() -> Link {
    Link { cluster: ClusterId(1), from: PeerId(1), to: PeerId(2), kind: StreamKind::Append, shard: ShardNo(0), salt: 1 }
}

/// A connection's first frames.
fn stream(run: &Bytes) -> Vec<u8> {
    let mut writer = Writer { seed: link().seed(), number: 0, head: BytesMut::new(), pieces: Vec::new() };
    (0..FRAMES).for_each(|_| writer.append(run));
    writer.pieces.concat()
}

/// Reads a connection's first frames from pieces of this size; gives the bytes of their records.
fn decode(stream: &[u8], piece: usize) -> usize {
    let mut reader = StreamReader::new(&link());
    let mut bytes = 0;
    for piece in stream.chunks(piece) {
        let pushed = reader.push(piece, |frame| {
            for section in Sections::new(frame.body, frame.count) {
                bytes += section?.records.len();
            }
            Ok(())
        });
        pushed.expect("the stream is sound");
    }
    bytes
}
