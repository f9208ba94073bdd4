//! The client protocol: a put and its answer, framed.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::Criterion;
use ringraft::protocol::{
    Answer, Command, Decoder, REPLY_BODY_MAX, REQUEST_BODY_MAX, Request, begin_frame, encode_request, finish_frame,
};

use crate::support::{SIZES, key, payload, throughput};

pub(crate) fn bench(criterion: &mut Criterion) {
    let key = key(1);
    let mut group = criterion.benchmark_group("protocol");
    for (size, name) in SIZES {
        let value = payload(size);
        let put = Request::Write(Command::Put { key: &key, value: &value });
        let mut frame = BytesMut::new();
        encode_request(&mut frame, 1, &put);
        group.throughput(throughput(1, frame.len()));
        let mut out = BytesMut::with_capacity(frame.len());
        group.bench_function(format!("put-request/encode/{name}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                encode_request(&mut out, 1, black_box(&put));
                black_box(&out);
            });
        });
        let mut decoder = Decoder::new(REQUEST_BODY_MAX);
        group.bench_function(format!("put-request/decode/{name}"), |bencher| {
            bencher.iter(|| {
                let mut piece = black_box(&frame[..]);
                let frame = decoder.next(&mut piece).expect("a sound frame").expect("a whole frame");
                assert_eq!(Request::decode(frame.free()).as_ref(), Ok(&put));
            });
        });
    }

    let mut frame = BytesMut::new();
    encode_reply(&mut frame);
    group.throughput(throughput(1, frame.len()));
    let mut out = BytesMut::with_capacity(frame.len());
    group.bench_function("put-reply/encode", |bencher| {
        bencher.iter(|| {
            out.clear();
            encode_reply(black_box(&mut out));
        });
    });
    let mut decoder = Decoder::new(REPLY_BODY_MAX);
    group.bench_function("put-reply/decode", |bencher| {
        bencher.iter(|| {
            let mut piece = black_box(&frame[..]);
            let frame = decoder.next(&mut piece).expect("a sound frame").expect("a whole frame");
            assert_eq!(Answer::decode(frame.free()), Ok(Answer::put(2)));
        });
    });
    group.finish();
}

fn encode_reply(out: &mut BytesMut) {
    let start = begin_frame(out);
    Answer::put(2).encode(out);
    finish_frame(out, start, 1);
}
