//! What a disk and a network let one expect of a replicated log. Pure.
//!
//! A PUT is acknowledged when the leader's own disk and one follower's have it (of three nodes); both write at the same
//! time. So one client waits for two round trips (to the leader, and from there to a follower) and one durable write:
//! `put = sync + 2 round trips`. More clients share writes: each of two batches in flight holds what has arrived
//! meanwhile. So `C` clients get at most `C / put`, and no number of them more than the disk takes in bytes.

use serde::Serialize;

use super::measure::{How, Measured};

/// What to expect. A floor for times and a ceiling for rates: work on the processors comes on top.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Expectation {
    /// The durable 4 KiB write that all rests on, median, in microseconds.
    pub sync_us: f64,
    /// Its 99th percentile.
    pub sync_p99_us: f64,
    /// An append to a log of this machine from another thread, median: `sync + handover`.
    pub append_us: f64,
    /// A PUT of one client, median, with the loopback network of this machine: `sync + 2 loopback`.
    pub put_us: f64,
    /// Bytes of a value.
    pub value_bytes: u64,
    /// Bytes of the log that a PUT of such a value takes, on each node.
    pub put_bytes: u64,
    /// Most PUTs per second of so many clients: `min(clients / put, bandwidth / put_bytes)`.
    pub puts_per_s: Vec<(u64, f64)>,
}

/// Bytes that a PUT takes beside its value: the record's header, who proposed it, command and key, rounded up.
const PUT_OVERHEAD: u64 = 100;
/// Numbers of clients for which a rate is told.
const CLIENTS: [u64; 4] = [1, 16, 256, 1000];

/// What follows from the measured times, for values of this size.
#[must_use]
pub fn expect(measured: &Measured, value_bytes: u64) -> Option<Expectation> {
    let small = |how| measured.latencies.iter().find(|it| it.how == how && it.bytes == 4096);
    let sync = small(How::Ring).or(small(How::Dsync))?;
    let put_us = sync.p50_us + 2.0 * measured.loopback_us;
    let put_bytes = value_bytes + PUT_OVERHEAD;
    let most = measured.bandwidth_mb_per_s * 1e6 / put_bytes as f64;
    Some(Expectation {
        sync_us: sync.p50_us,
        sync_p99_us: sync.p99_us,
        append_us: sync.p50_us + measured.handover_us,
        put_us,
        value_bytes,
        put_bytes,
        puts_per_s: CLIENTS.map(|clients| (clients, most.min(clients as f64 * 1e6 / put_us))).to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::measure::Latency;
    use super::*;

    #[test]
    fn the_formula() {
        let latency = |how, bytes, p50_us| Latency {
            how,
            bytes,
            writes: 1,
            p50_us,
            p99_us: 4.0 * p50_us,
            p999_us: None,
            max_us: 0.0,
        };
        let mut measured = Measured {
            file_bytes: 0,
            extents: None,
            zeroing_mb_per_s: 0.0,
            latencies: vec![latency(How::Dsync, 4096, 70.0), latency(How::Ring, 4096, 60.0)],
            writes_4k_per_s: None,
            bandwidth_mb_per_s: 89.0,
            loopback_us: 20.0,
            handover_us: 10.0,
        };
        let expected = expect(&measured, 256).unwrap();
        assert_eq!((expected.sync_us, expected.sync_p99_us, expected.put_us), (60.0, 240.0, 100.0));
        assert_eq!((expected.append_us, expected.put_bytes), (70.0, 356));
        assert_eq!(expected.puts_per_s, [(1, 10_000.0), (16, 160_000.0), (256, 250_000.0), (1000, 250_000.0)]);
        measured.latencies.pop();
        assert_eq!(expect(&measured, 256).unwrap().sync_us, 70.0);
        measured.latencies.clear();
        assert_eq!(expect(&measured, 256), None);
    }
}
