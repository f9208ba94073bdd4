//! What a turn costs.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::*;
use crate::uring::allocations;
use crate::{AlignedBuf, Completion, Dial, Io, Token, WorldConfig};

in_every_world! {
    a_steady_pace_allocates_nothing,
    #[ignore = "prints numbers, checks nothing"]
    measure,
}

fn a_steady_pace_allocates_nothing<S: TestSeed>() {
    let dir = directory();
    let (mut a, mut b, x, y) = pair::<S>(config());
    let file = a.io.create_zeroed(&dir.path().join("segment"), 1 << 20).expect("created");
    a.io.receive(x);
    b.io.receive(y);
    let content = Bytes::from(vec![1; 1000]);
    let mut block = Some(AlignedBuf::zeroed(4096));
    let (mut ours, mut theirs) = (Vec::with_capacity(64), Vec::with_capacity(64));
    let mut round = |a: &mut Node<S>, b: &mut Node<S>| {
        let mut bufs = a.io.send_bufs();
        bufs.push(content.clone());
        bufs.push(content.clone());
        a.io.send(x, bufs);
        a.io.write(file, 0, block.take().expect("given back"), Token(1));
        let (mut there, mut back) = (0, 0);
        while back < 2000 || block.is_none() {
            let until = a.io.now() + Duration::from_millis(1);
            a.io.turn(Some(until), &mut ours).expect("a turn");
            for completion in ours.drain(..) {
                match completion {
                    Completion::Received { data, .. } => back += data.len(),
                    Completion::Written { buf, .. } => block = Some(buf),
                    _ => {}
                }
            }
            let until = b.io.now() + Duration::from_millis(1);
            b.io.turn(Some(until), &mut theirs).expect("a turn");
            for completion in theirs.drain(..) {
                if let Completion::Received { data, .. } = completion {
                    there += data.len();
                    if there == 2000 {
                        let mut bufs = b.io.send_bufs();
                        bufs.push(content.clone());
                        bufs.push(content.clone());
                        b.io.send(y, bufs);
                    }
                }
            }
        }
    };
    for _ in 0..100 {
        round(&mut a, &mut b);
    }
    let before = allocations();
    for _ in 0..1000 {
        round(&mut a, &mut b);
    }
    assert_eq!(allocations() - before, 0, "allocations in 1000 rounds");
}

fn quantile(mut spans: Vec<Duration>, q: f64) -> Duration {
    spans.sort();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a rank")]
    let rank = (spans.len() as f64 * q) as usize;
    spans[rank]
}

/// Not a benchmark, only a look: `cargo test --release -p ringraft-io measure -- --ignored --nocapture`.
fn measure<S: TestSeed>() {
    let dir = directory();
    let mut a = Node::<S>::start(WorldConfig { spin: Duration::ZERO, ..WorldConfig::new(1) });
    let file = a.io.create_zeroed(&dir.path().join("segment"), 64 << 20).expect("created");
    for size in [4096usize, 65_536] {
        let (mut spans, mut out) = (Vec::new(), Vec::new());
        let mut buf = Some(AlignedBuf::zeroed(size));
        for n in 0..2000 {
            let start = Instant::now();
            let offset = n % 500 * u64::try_from(size).expect("small");
            a.io.write(file, offset, buf.take().expect("given back"), Token(0));
            while buf.is_none() {
                a.io.turn(None, &mut out).expect("a turn");
                for completion in out.drain(..) {
                    if let Completion::Written { buf: back, .. } = completion {
                        buf = Some(back);
                    }
                }
            }
            spans.push(start.elapsed());
        }
        println!("durable write of {size}: p50 {:?}, p99 {:?}", quantile(spans.clone(), 0.5), quantile(spans, 0.99));
    }
    for spin in [Duration::ZERO, Duration::from_micros(50)] {
        let config = WorldConfig { spin, pin: true, shards: 2, ..config() };
        let mut world = S::open(config.into()).expect("a world");
        let address = world.listening()[0].1;
        let [first, second] = <[S; 2]>::try_from(world.take_seeds()).unwrap_or_else(|_| panic!("not two"));
        let echo = std::thread::spawn(move || {
            let (mut io, mut out) = (first.grow(), Vec::new());
            loop {
                io.turn(None, &mut out).expect("a turn");
                for completion in out.drain(..) {
                    match completion {
                        Completion::Accepted { stream, .. } => io.receive(stream),
                        Completion::Received { stream, data } => {
                            let mut bufs = io.send_bufs();
                            bufs.push(Bytes::copy_from_slice(&data));
                            io.send(stream, bufs);
                        }
                        Completion::Closed { .. } => return,
                        _ => {}
                    }
                }
            }
        });
        let ask = std::thread::spawn(move || {
            let (mut io, mut out, mut spans) = (second.grow(), Vec::new(), Vec::new());
            io.dial(Dial {
                token: Token(0),
                address: address.to_string(),
                request: Bytes::from_static(STREAM),
                timeout: PATIENCE,
            });
            let (ping, mut start) = (Bytes::from_static(&[1; 64]), Instant::now());
            while spans.len() < 20_000 {
                io.turn(None, &mut out).expect("a turn");
                for completion in out.drain(..) {
                    let stream = match completion {
                        Completion::Dialed { result, .. } => {
                            let stream = result.expect("connected").stream;
                            io.receive(stream);
                            stream
                        }
                        Completion::Received { stream, .. } => {
                            spans.push(start.elapsed());
                            stream
                        }
                        _ => continue,
                    };
                    start = Instant::now();
                    let mut bufs = io.send_bufs();
                    bufs.push(ping.clone());
                    io.send(stream, bufs);
                }
            }
            spans
        });
        let spans = ask.join().expect("asked");
        echo.join().expect("echoed");
        println!("round trip, spin {spin:?}: p50 {:?}, p99 {:?}", quantile(spans.clone(), 0.5), quantile(spans, 0.99));
    }
}
