//! `ringraft log bench`: how many appends per second the log engine makes durable here, and how long each waits.

use std::collections::VecDeque;
use std::fmt;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use ringraft_engine::Config;
use ringraft_engine::blocking::{Group, Log, LogError, WorldError};
use ringraft_io::{IoKind, Seed, ShardNo, World, WorldConfig};
use ringraft_raft::GroupId;
use serde::Serialize;

use super::Failure;
use super::io::IoFlag;
use crate::bench::cluster::RunDir;
use crate::config::units::parse_duration;

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// A directory on the disk to measure; the log goes to a directory made in it and removed at the end (under 200 MiB).
    dir: PathBuf,

    /// How long to measure, all combinations together.
    #[arg(long, default_value = "9s")]
    duration: String,

    /// Bytes of an entry.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    size: u32,

    /// Entries of one append.
    #[arg(long, value_delimiter = ',', default_value = "1,16,256", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: Vec<u32>,

    /// Appends outstanding: each is acknowledged on its own, when it is durable.
    #[arg(long, value_delimiter = ',', default_value = "1,16,256", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    depth: Vec<u32>,

    #[command(flatten)]
    io: IoFlag,

    /// Write the result as JSON to FILE ("-": to standard output instead of the text).
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The result. The names are the keys of `--json`; times are microseconds.
#[derive(Debug, Serialize)]
struct Report {
    dir: PathBuf,
    /// `uring` or `portable`.
    io: String,
    entry_bytes: usize,
    rows: Vec<Row>,
    version: &'static str,
}

/// One combination.
#[derive(Debug, Serialize)]
struct Row {
    /// Entries of one append.
    batch: usize,
    /// Appends outstanding.
    depth: usize,
    /// Appends made durable.
    appends: u64,
    appends_per_s: f64,
    entries_per_s: f64,
    /// Of payload.
    mb_per_s: f64,
    /// From asking until durable.
    p50_us: f64,
    p99_us: f64,
    /// None with fewer than 1,000 appends.
    p999_us: Option<f64>,
    max_us: f64,
    /// Durable writes that carried them.
    writes: u64,
    /// Bytes written for each byte of payload.
    written_per_byte: f64,
}

/// Small, so that segments fill and are used again within a short run.
const SEGMENT_BYTES: u64 = 16 << 20;

/// How long a second segment may take to be made.
const SEGMENT_PATIENCE: Duration = Duration::from_secs(30);

/// Longest time that is told apart from longer ones.
const TIME_NS_MAX: u64 = 600_000_000_000;

/// Bytes of the log between two compactions.
const COMPACT_EVERY: u64 = 8 << 20;

/// Bytes of records outstanding at most, whatever batch and depth say; the log's own limits are above it.
const OUTSTANDING_BYTES_MAX: usize = 8 << 20;

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let duration =
        parse_duration(&arguments.duration).map_err(|error| format!("--duration {}: {error}", arguments.duration))?;
    if duration < Duration::from_millis(100) {
        return Err(format!("--duration {}: must be at least 100ms", arguments.duration).into());
    }
    let size = usize::try_from(arguments.size)?;
    for batch in &arguments.batch {
        if append_bytes(size, usize::try_from(*batch)?) > OUTSTANDING_BYTES_MAX {
            return Err(format!("--batch {batch} of --size {size}: an append must be at most 8 MiB").into());
        }
    }
    if !arguments.dir.is_dir() {
        return Err(format!("{}: there is no such directory", arguments.dir.display()).into());
    }
    let kind = arguments.io.settle(1)?;
    let run_dir = RunDir::create(&arguments.dir, &format!("ringraft-log-bench-{}", std::process::id()))?;
    super::dev::end_with_signal(run_dir.path().to_owned())?;
    let mut config = Config::new(run_dir.path(), 1);
    config.segment_bytes = SEGMENT_BYTES;
    config.record_bytes_max = 2 << 20;
    let log = open(config, kind)?;
    let group = log.group(GroupId(1))?;
    // The next segment is being filled with zeros: that is no part of what is measured.
    let patience = Instant::now() + SEGMENT_PATIENCE;
    while log.stats()?.segments_free == 0 {
        if Instant::now() > patience {
            let limit = SEGMENT_PATIENCE.as_secs();
            let dir = arguments.dir.display();
            return Err(format!("{dir}: no segment of 16 MiB could be made in {limit} s; look for room there").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let bar = std::io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{spinner} [{elapsed}] {msg}").expect("a valid template");
        ProgressBar::new_spinner().with_style(style)
    });
    let combinations =
        arguments.batch.iter().flat_map(|batch| arguments.depth.iter().map(move |depth| (*batch, *depth)));
    let combinations: Vec<(u32, u32)> = combinations.collect();
    let slice = duration / u32::try_from(combinations.len())?;
    let mut rows = Vec::new();
    for (batch, depth) in combinations {
        if let Some(bar) = &bar {
            bar.set_message(format!("{batch} entries per append, {depth} appends outstanding"));
            bar.tick();
        }
        rows.push(measure(&log, &group, size, usize::try_from(batch)?, usize::try_from(depth)?, slice)?);
    }
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    log.close()?;
    let report = Report {
        dir: arguments.dir.clone(),
        io: kind.to_string(),
        entry_bytes: size,
        rows,
        version: env!("CARGO_PKG_VERSION"),
    };
    super::show(&report, arguments.json.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

/// Opens a log in a world of this kind.
fn open(config: Config, kind: IoKind) -> Result<Log, Failure> {
    let mut world = World::start(kind, WorldConfig::new(1))?;
    let seed = world.take_seeds().pop().expect("a world of one shard");
    let waker = world.waker();
    // Nobody listens or dials here: the world's control thread is not needed.
    drop(world);
    let wake = move || waker.wake(ShardNo(0));
    Ok(match seed {
        Seed::Uring(seed) => Log::open_on(config, wake, move || seed.into_io().map_err(WorldError::new))?,
        Seed::Portable(seed) => Log::open_on(config, wake, move || seed.into_io().map_err(WorldError::new))?,
    })
}

/// Bytes of the records of an append, about.
fn append_bytes(size: usize, batch: usize) -> usize {
    batch * (size + 32)
}

fn measure(log: &Log, group: &Group, size: usize, batch: usize, depth: usize, time: Duration) -> Result<Row, LogError> {
    let payloads = vec![vec![0xa5; size]; batch];
    let depth_now = depth.min(OUTSTANDING_BYTES_MAX / append_bytes(size, batch));
    let mut times: Histogram<u64> = Histogram::new_with_bounds(1, TIME_NS_MAX, 3).expect("sensible bounds");
    let mut outstanding = VecDeque::with_capacity(depth_now);
    let mut uncompacted = 0;
    let before = log.stats()?;
    let begin = Instant::now();
    let mut asked = 0_u64;
    while begin.elapsed() < time || !outstanding.is_empty() {
        while outstanding.len() < depth_now && begin.elapsed() < time {
            outstanding.push_back((Instant::now(), group.append_async(&payloads)));
            asked += 1;
        }
        let Some((since, pending)) = outstanding.pop_front() else { break };
        let last = pending.wait()?;
        times.saturating_record(u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX));
        // At the most: a write of its own.
        uncompacted += (append_bytes(size, batch) as u64).max(4096);
        if uncompacted > COMPACT_EVERY {
            uncompacted = 0;
            drop(group.compact_async(last));
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    let after = log.stats()?;
    let us = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
    let payload = (asked * (batch * size) as u64) as f64;
    Ok(Row {
        batch,
        depth: depth_now,
        appends: asked,
        appends_per_s: asked as f64 / seconds,
        entries_per_s: (asked * batch as u64) as f64 / seconds,
        mb_per_s: payload / 1e6 / seconds,
        p50_us: us(0.5),
        p99_us: us(0.99),
        p999_us: (times.len() >= 1000).then(|| us(0.999)),
        max_us: times.max() as f64 / 1000.0,
        writes: after.written_batches - before.written_batches,
        written_per_byte: (after.written_bytes - before.written_bytes) as f64 / payload.max(1.0),
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "durable appends of {}-byte entries in {}, {}; every append is acknowledged on its own",
            self.entry_bytes,
            self.dir.display(),
            self.io
        )?;
        writeln!(
            f,
            "{:>7} {:>7} {:>11} {:>11} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8}",
            "entries",
            "depth",
            "appends/s",
            "entries/s",
            "MB/s",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "max us",
            "writes",
            "wr/byte"
        )?;
        for row in &self.rows {
            let p999 = row.p999_us.map_or_else(|| "-".into(), |p999| format!("{p999:.0}"));
            writeln!(
                f,
                "{:>7} {:>7} {:>11.0} {:>11.0} {:>7.1} {:>9.0} {:>9.0} {p999:>9} {:>9.0} {:>9} {:>8.2}",
                row.batch,
                row.depth,
                row.appends_per_s,
                row.entries_per_s,
                row.mb_per_s,
                row.p50_us,
                row.p99_us,
                row.max_us,
                row.writes,
                row.written_per_byte
            )?;
        }
        Ok(())
    }
}
