//! Bytes between two nodes.

use bytes::Bytes;

use super::*;
use crate::{CloseReason, Io, StreamId, WorldConfig};

in_every_world! {
    streams_carry_bytes_both_ways,
    bytes_before_the_end_arrive,
    large_sends_arrive_through_small_sockets,
    spinning_shards_work,
    paused_streams_rest,
    closing_ends_what_is_in_flight,
    running_out_of_buffers_is_survived,
    received_bytes_outlive_the_ring,
}

fn streams_carry_bytes_both_ways<S: TestSeed>() {
    let (mut a, mut b, x, y) = pair::<S>(config());
    transfer(&mut a, &mut b, x, y, 100_000, 7_000);
    transfer(&mut b, &mut a, y, x, 100_000, 50_000);
    a.io.close(x);
    let reason = wait(|| {
        a.turn();
        b.turn();
        b.closed(y)
    });
    assert_eq!(reason, CloseReason::Eof);
    wait(|| {
        a.turn();
        (a.operations() == 0 && b.operations() == 0).then_some(())
    });
    // Nothing may be asked of it any more, but asking is harmless.
    b.io.send(y, vec![Bytes::from_static(b"late")]);
    b.io.receive(y);
    b.io.pause(y);
    b.io.close(y);
    b.turn();
    assert!(b.got.is_empty() && a.got.is_empty(), "{:?} {:?}", a.got, b.got);
}

fn bytes_before_the_end_arrive<S: TestSeed>() {
    let (mut a, mut b, x, y) = pair::<S>(config());
    // As much as fits into the sockets, so that it is all there, and the end behind it, before anybody receives.
    let len = 100_000;
    a.io.send(x, vec![Bytes::from(pattern(0, len))]);
    wait(|| {
        a.turn();
        a.sent()
    });
    a.io.close(x);
    a.turn();
    b.turn();
    assert!(b.got.is_empty(), "{:?}", b.got);
    b.io.receive(y);
    let mut received = 0;
    let reason = wait(|| {
        b.turn();
        for (_, data) in b.pieces() {
            assert!(*data == *pattern(received, data.len()), "wrong bytes at {received}");
            received += data.len();
        }
        b.closed(y)
    });
    assert_eq!((received, reason), (len, CloseReason::Eof));
}

fn large_sends_arrive_through_small_sockets<S: TestSeed>() {
    send_through_small_sockets::<S>(config());
}

pub(crate) fn send_through_small_sockets<S: TestSeed>(config: impl Into<S::Config> + Clone) {
    let (mut a, mut b, x, y) = pair::<S>(config);
    a.socket(x).set_send_buffer_size(4096).expect("set");
    transfer(&mut a, &mut b, x, y, 3_000_000, 1_000_000);
    // The kernel acknowledges late what fills a small window, so this goes slowly.
    b.socket(y).set_recv_buffer_size(4096).expect("set");
    transfer(&mut a, &mut b, x, y, 100_000, 100_000);
}

fn spinning_shards_work<S: TestSeed>() {
    let (mut a, mut b, x, y) = pair::<S>(WorldConfig { spin: Duration::from_micros(50), ..config() });
    transfer(&mut a, &mut b, x, y, 1_000_000, 10_000);
}

fn paused_streams_rest<S: TestSeed>() {
    let (mut a, mut b, x, y) = pair::<S>(config());
    transfer(&mut a, &mut b, x, y, 10_000, 10_000);
    b.io.pause(y);
    wait(|| {
        b.turn();
        (b.operations() == 0).then_some(())
    });
    a.io.send(x, vec![Bytes::from_static(b"later")]);
    wait(|| {
        a.turn();
        a.sent()
    });
    b.turn();
    assert!(b.got.is_empty(), "{:?}", b.got);
    // Asked back and forth, it is still received once and in order.
    for _ in 0..10 {
        b.io.receive(y);
        b.io.pause(y);
    }
    b.io.receive(y);
    let piece = wait(|| {
        b.turn();
        b.pieces().pop()
    });
    assert_eq!(*piece.1, *b"later");
    b.io.pause(y);
    b.io.receive(y);
    transfer(&mut a, &mut b, x, y, 100_000, 1_000);
}

fn closing_ends_what_is_in_flight<S: TestSeed>() {
    let (mut a, mut b, x, y) = pair::<S>(config());
    a.io.receive(x);
    let big = Bytes::from(vec![7; 64 << 20]);
    a.io.send(x, vec![big.clone()]);
    // The receiver takes nothing, so the send gets stuck.
    a.turn();
    assert_eq!(a.operations(), 2);
    a.io.close(x);
    wait(|| {
        a.turn();
        (a.operations() == 0).then_some(())
    });
    assert!(a.got.is_empty(), "{:?}", a.got);
    assert!(big.is_unique(), "the buffers were dropped");
    b.receive_to_the_end(y);
    // The other way round: the remote side goes away while we send.
    let (x, y) = connect(&mut a, &mut b);
    a.io.send(x, vec![big.clone()]);
    a.turn();
    b.io.close(y);
    let reason = wait(|| {
        a.turn();
        b.turn();
        a.closed(x)
    });
    assert!(matches!(reason, CloseReason::Error(_)), "{reason:?}");
    assert!(a.got.is_empty() && big.is_unique());
}

fn running_out_of_buffers_is_survived<S: TestSeed>() {
    run_out_of_buffers::<S>(small());
}

/// Four small buffers.
pub(crate) fn small() -> WorldConfig {
    WorldConfig { recv_buffers: 4, recv_buffer_size: 4096, ..config() }
}

pub(crate) fn run_out_of_buffers<S: TestSeed>(small: impl Into<S::Config>) {
    let mut a = Node::<S>::start(config());
    let mut b = Node::<S>::start(small);
    let streams: Vec<(StreamId, StreamId)> = (0..3).map(|_| connect(&mut a, &mut b)).collect();
    const TOTAL: usize = 200_000;
    for (x, y) in &streams {
        a.io.send(*x, vec![Bytes::from(pattern(0, TOTAL))]);
        b.io.receive(*y);
    }
    let mut received = vec![0; streams.len()];
    let mut held = Vec::new();
    wait(|| {
        a.turn();
        b.turn();
        let pieces = b.pieces();
        let dry = pieces.is_empty();
        for (id, data) in pieces {
            let n = streams.iter().position(|(_, y)| *y == id).expect("a stream of ours");
            assert!(*data == *pattern(received[n], data.len()), "wrong bytes at {}", received[n]);
            received[n] += data.len();
            held.push(data);
        }
        assert!(held.len() <= 4);
        // Only when nothing comes any more, all are given back.
        if dry {
            held.clear();
        }
        received.iter().all(|n| *n == TOTAL).then_some(())
    });
}

fn received_bytes_outlive_the_ring<S: TestSeed>() {
    let (mut a, mut b, x, y) = pair::<S>(config());
    a.io.send(x, vec![Bytes::from_static(b"memory")]);
    b.io.receive(y);
    let piece = wait(|| {
        a.turn();
        b.turn();
        b.pieces().pop()
    });
    drop(b);
    assert_eq!(*piece.1, *b"memory");
    // The remote side notices, although the world's descriptor of the ring was open until the end.
    a.io.receive(x);
    wait(|| {
        a.turn();
        a.closed(x)
    });
}
