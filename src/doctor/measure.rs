//! Measuring: durable writes in the ways a log may make them, and the round trips beside them.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ringraft_io::uring::disk::{self, Extents};
use ringraft_io::uring::{Uring, UringConfig, UringWorld};
use ringraft_io::{AlignedBuf, Completion, FileId, Io, Token};
use serde::Serialize;

use super::{DoctorError, SPACE_MIN};

/// A way to make a write durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// What the log does with io_uring: a write with `RWF_DSYNC`.
    Ring,
    /// What it does without: such a write as a call that waits (there the file says so, `O_DSYNC`; to the disk it is the
    /// same).
    Dsync,
    /// A write, then `fdatasync`.
    Fdatasync,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            How::Ring => "RWF_DSYNC, io_uring",
            How::Dsync => "RWF_DSYNC",
            How::Fdatasync => "write + fdatasync",
        })
    }
}

/// Times of one kind of durable write, one after the other, in microseconds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Latency {
    /// In which way.
    pub how: How,
    /// Bytes of a write.
    pub bytes: usize,
    /// How many were measured.
    pub writes: u64,
    /// Median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile; none with fewer than 1,000 writes.
    pub p999_us: Option<f64>,
    /// Slowest.
    pub max_us: f64,
}

/// What was measured.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Measured {
    /// Bytes of the file that was written and overwritten.
    pub file_bytes: u64,
    /// How its blocks are backed; none if the file system does not tell.
    pub extents: Option<FileExtents>,
    /// Writing it for the first time, with zeros, and syncing it: what a new log does before it uses a segment.
    pub zeroing_mb_per_s: f64,
    /// Durable writes, one at a time.
    pub latencies: Vec<Latency>,
    /// Durable 4 KiB writes per second, two at a time, as the log does; none without io_uring.
    pub writes_4k_per_s: Option<f64>,
    /// Durable 256 KiB writes, two at a time; one at a time without io_uring.
    pub bandwidth_mb_per_s: f64,
    /// A message there and back between two threads over the loopback network, median.
    pub loopback_us: f64,
    /// A request from a thread to another that sleeps, and back, median.
    pub handover_us: f64,
}

/// How the blocks of a file are backed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct FileExtents {
    /// Pieces.
    pub count: u64,
    /// Bytes that were written.
    pub written_bytes: u64,
    /// Bytes that are allocated only.
    pub unwritten_bytes: u64,
}

/// Where to measure.
pub(super) struct Place<'a> {
    pub(super) dir: &'a Path,
    pub(super) space: u64,
    pub(super) is_direct: bool,
}

/// Bytes written at once when the file is made.
const ZERO_BYTES: usize = 1 << 20;
/// Bytes of a write when bandwidth is measured.
const BAND_BYTES: usize = 256 << 10;
/// Sizes of the writes whose time is measured.
const SIZES: [usize; 2] = [4 << 10, 64 << 10];
/// Longest time that is told apart from longer ones.
const TIME_NS_MAX: u64 = 600_000_000_000;
/// The kinds of writes take turns this often, so that a disturbance does not hit one kind only.
const ROUNDS: u32 = 3;

pub(super) fn run(
    place: &Place<'_>,
    duration: Duration,
    progress: &mut dyn FnMut(&str),
) -> Result<Measured, DoctorError> {
    let path = place.dir.join("blocks");
    let failed = |what| {
        let path = path.clone();
        move |source| DoctorError::File { what, path, source }
    };
    progress("writing a file for the first time");
    let (file, zeroing_mb_per_s) = make_file(&path, place, duration / 5).map_err(failed("write"))?;
    let file_bytes = file.metadata().map_err(failed("look at"))?.len();
    let extents = disk::extents(&file).ok().map(|Extents { count, written_bytes, unwritten_bytes, .. }| FileExtents {
        count,
        written_bytes,
        unwritten_bytes,
    });
    let mut ring = if place.is_direct { Ring::open(&path) } else { None };
    let mut writes = Writes { file: &file, file_bytes, at: 0 };

    let kinds = [How::Ring, How::Dsync, How::Fdatasync];
    let kinds: Vec<(How, usize)> = SIZES.iter().flat_map(|size| kinds.map(|how| (how, *size))).collect();
    let kinds: Vec<_> = kinds.into_iter().filter(|(how, _)| *how != How::Ring || ring.is_some()).collect();
    let mut times: Vec<Histogram<u64>> = kinds.iter().map(|_| histogram()).collect();
    let slice = duration * 11 / 20 / ROUNDS / u32::try_from(kinds.len()).expect("six");
    for round in 1..=ROUNDS {
        for ((how, bytes), times) in kinds.iter().zip(&mut times) {
            progress(&format!("durable writes of {} KiB, round {round} of {ROUNDS}", bytes >> 10));
            let buf = pattern(*bytes);
            let until = Instant::now() + slice;
            while Instant::now() < until {
                let offset = writes.next(*bytes);
                let begin = Instant::now();
                match (how, &mut ring) {
                    (How::Ring, Some(ring)) => ring.write(offset, &buf),
                    (How::Dsync, _) => disk::write_durable(&file, &buf, offset),
                    _ => file.write_all_at(&buf, offset).and_then(|()| file.sync_data()),
                }
                .map_err(failed("write"))?;
                record(times, begin.elapsed());
            }
        }
    }
    let latencies = kinds.iter().zip(&times).map(|((how, bytes), times)| latency(*how, *bytes, times)).collect();

    progress("bandwidth");
    let (bandwidth, writes_4k) = match &mut ring {
        Some(ring) => {
            let bandwidth = ring.two_at_a_time(&mut writes, BAND_BYTES, duration / 10).map_err(failed("write"))?;
            let small = ring.two_at_a_time(&mut writes, SIZES[0], duration / 20).map_err(failed("write"))?;
            (bandwidth, Some(small))
        }
        None => (one_at_a_time(&mut writes, BAND_BYTES, duration / 10).map_err(failed("write"))?, None),
    };
    progress("round trips");
    let loopback = loopback(duration / 20).map_err(DoctorError::Loopback)?;
    let handover = handover(duration / 20);
    Ok(Measured {
        file_bytes,
        extents,
        zeroing_mb_per_s,
        latencies,
        writes_4k_per_s: writes_4k,
        bandwidth_mb_per_s: bandwidth * BAND_BYTES as f64 / 1e6,
        loopback_us: loopback,
        handover_us: handover,
    })
}

/// A file of zeros, as large as time and space permit; how many megabytes per second that was.
fn make_file(path: &Path, place: &Place<'_>, time: Duration) -> io::Result<(File, f64)> {
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let file = if place.is_direct { disk::open_direct(path)? } else { file };
    let zeros = AlignedBuf::zeroed(ZERO_BYTES);
    let (begin, mut bytes) = (Instant::now(), 0);
    while bytes + ZERO_BYTES as u64 <= place.space && (begin.elapsed() < time || bytes < SPACE_MIN) {
        file.write_all_at(&zeros, bytes)?;
        bytes += ZERO_BYTES as u64;
    }
    file.sync_all()?;
    Ok((file, bytes as f64 / 1e6 / begin.elapsed().as_secs_f64()))
}

/// Where writes go: on and on, and round again.
struct Writes<'a> {
    file: &'a File,
    file_bytes: u64,
    at: u64,
}

impl Writes<'_> {
    fn next(&mut self, bytes: usize) -> u64 {
        if self.at + bytes as u64 > self.file_bytes {
            self.at = 0;
        }
        let offset = self.at;
        self.at += bytes as u64;
        offset
    }
}

/// Durable writes per second, by calls that wait.
fn one_at_a_time(writes: &mut Writes<'_>, bytes: usize, time: Duration) -> io::Result<f64> {
    let buf = pattern(bytes);
    let (begin, mut count) = (Instant::now(), 0_u32);
    while begin.elapsed() < time {
        let offset = writes.next(bytes);
        writes.file.write_all_at(&buf, offset)?;
        writes.file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
}

/// The ring, and the file as it knows it.
struct Ring {
    io: Uring,
    file: FileId,
    completions: Vec<Completion>,
    spare: Vec<AlignedBuf>,
}

impl Ring {
    /// None if io_uring is not permitted here; the report says why.
    fn open(path: &Path) -> Option<Ring> {
        let mut world = UringWorld::start(UringConfig::new(1)).ok()?;
        let mut io = world.take_seeds().pop()?.into_io().ok()?;
        let file = io.open(path).ok()?;
        Some(Ring { io, file, completions: Vec::new(), spare: Vec::new() })
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.start(offset, bytes);
        self.wait().map(drop)
    }

    fn start(&mut self, offset: u64, bytes: &[u8]) {
        let fits = self.spare.iter().position(|buf| buf.len() == bytes.len());
        let mut buf = fits.map_or_else(|| AlignedBuf::zeroed(bytes.len()), |at| self.spare.swap_remove(at));
        buf.copy_from_slice(bytes);
        self.io.write(self.file, offset, buf, Token(0));
    }

    /// Waits until at least one write has ended; how many have.
    fn wait(&mut self) -> io::Result<u32> {
        let mut ended = 0;
        while ended == 0 {
            self.io.turn(None, &mut self.completions)?;
            for completion in self.completions.drain(..) {
                if let Completion::Written { buf, result, .. } = completion {
                    result?;
                    self.spare.push(buf);
                    ended += 1;
                }
            }
        }
        Ok(ended)
    }

    /// Durable writes per second, with two in flight.
    fn two_at_a_time(&mut self, writes: &mut Writes<'_>, bytes: usize, time: Duration) -> io::Result<f64> {
        let buf = pattern(bytes);
        let (begin, mut inflight, mut count) = (Instant::now(), 0, 0_u32);
        while begin.elapsed() < time {
            while inflight < 2 {
                self.start(writes.next(bytes), &buf);
                inflight += 1;
            }
            let ended = self.wait()?;
            (inflight, count) = (inflight - ended, count + ended);
        }
        let rate = f64::from(count) / begin.elapsed().as_secs_f64();
        while inflight > 0 {
            inflight -= self.wait()?;
        }
        Ok(rate)
    }
}

/// Median time of a small message there and back over the loopback network, in microseconds.
fn loopback(time: Duration) -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let echo = std::thread::spawn(move || {
        let mut message = [0; 64];
        while far.read_exact(&mut message).is_ok() && far.write_all(&message).is_ok() {}
    });
    let (mut message, mut times) = ([1; 64], histogram());
    let until = Instant::now() + time;
    while times.is_empty() || Instant::now() < until {
        let begin = Instant::now();
        near.write_all(&message)?;
        near.read_exact(&mut message)?;
        record(&mut times, begin.elapsed());
    }
    drop(near);
    let _ = echo.join();
    Ok(us(times.value_at_quantile(0.5)))
}

/// Median time of a request to another thread and back, in microseconds.
fn handover(time: Duration) -> f64 {
    let (ask, asked) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel::<()>();
    let other = std::thread::spawn(move || while asked.recv().is_ok() && tell.send(()).is_ok() {});
    let mut times = histogram();
    let until = Instant::now() + time;
    while times.is_empty() || Instant::now() < until {
        let begin = Instant::now();
        if ask.send(()).is_err() || told.recv().is_err() {
            break;
        }
        record(&mut times, begin.elapsed());
    }
    drop(ask);
    let _ = other.join();
    us(times.value_at_quantile(0.5))
}

fn histogram() -> Histogram<u64> {
    // With bounds: one that grows would cut what is recorded to what it has grown to.
    Histogram::new_with_bounds(1, TIME_NS_MAX, 3).expect("sensible bounds")
}

fn record(times: &mut Histogram<u64>, time: Duration) {
    times.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
}

fn us(nanos: u64) -> f64 {
    nanos as f64 / 1000.0
}

fn latency(how: How, bytes: usize, times: &Histogram<u64>) -> Latency {
    let at = |quantile| us(times.value_at_quantile(quantile));
    let p999_us = (times.len() >= 1000).then(|| at(0.999));
    Latency { how, bytes, writes: times.len(), p50_us: at(0.5), p99_us: at(0.99), p999_us, max_us: us(times.max()) }
}

/// Bytes that no disk makes smaller.
fn pattern(len: usize) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(len);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for word in buf.chunks_exact_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        word.copy_from_slice(&(state ^ state >> 29).to_le_bytes());
    }
    buf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_they_were() {
        let mut times = histogram();
        for ms in 1..=1000 {
            record(&mut times, Duration::from_millis(ms));
        }
        let told = latency(How::Ring, 4096, &times);
        for (us, want) in
            [(told.p50_us, 5e5), (told.p99_us, 9.9e5), (told.p999_us.unwrap(), 9.99e5), (told.max_us, 1e6)]
        {
            assert!((us / want - 1.0).abs() < 0.002, "{us}, not {want}: {told:?}");
        }
    }
}
