//! What the doctor says at the end: to a person, and to a program.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::checks::{Check, State};
use super::expect::Expectation;
use super::facts::{Device, FileSystem};
use super::measure::Measured;

/// Everything. The names are the keys of `--json`; times are microseconds, `mb` are 10^6 bytes.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// What was looked at.
    pub dir: PathBuf,
    /// The kernel's version.
    pub kernel: String,
    /// Processors that this process may use.
    pub processors: usize,
    /// The world that `--io auto` comes to here, for a shard on each processor: `uring` or `portable`.
    pub io_auto: String,
    /// Why it is not `uring`, and what helps.
    pub io_refusal: Option<String>,
    /// What this kernel's io_uring lacks that would make it faster.
    pub lacks: Option<String>,
    /// How much memory this user may lock, in bytes; none: no limit.
    pub locked_bytes_max: Option<u64>,
    /// Descriptors that a process may have open; none: no limit.
    pub open_files_max: Option<u64>,
    /// The file system.
    pub file_system: FileSystem,
    /// The device below it; none if it has none of its own.
    pub device: Option<Device>,
    /// Unbuffered writes.
    pub direct: Direct,
    /// A log that is here already.
    pub found: Option<Found>,
    /// What was measured.
    pub measured: Measured,
    /// What follows from it.
    pub expected: Option<Expectation>,
    /// What all that comes to, thing by thing.
    pub checks: Vec<Check>,
    /// Version of this program.
    pub version: &'static str,
}

/// Whether unbuffered writes (`O_DIRECT`) work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Direct {
    /// In blocks of 4096 bytes, as the log needs them.
    pub blocks_4096: bool,
    /// In blocks of 512 bytes.
    pub blocks_512: bool,
}

/// The segment files of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Found {
    /// How many.
    pub segments: u64,
    /// Bytes of all.
    pub bytes: u64,
    /// Pieces that they lie in.
    pub extents: u64,
    /// Bytes in blocks that were written.
    pub written_bytes: u64,
    /// Bytes in blocks that are allocated only.
    pub unwritten_bytes: u64,
    /// Files of which the file system does not tell.
    pub unknown: u64,
}

impl Report {
    /// Whether a node can run here.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.checks.iter().all(|check| check.state != State::Fail)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { file_system, device, found, measured, .. } = self;
        writeln!(f, "{}", self.dir.display())?;
        let free = file_system.free_bytes.map_or(String::new(), |free| format!(", {} MB free", free / 1_000_000));
        let FileSystem { kind, source, mount, options, .. } = file_system;
        writeln!(f, "file system   {kind} on {source}, mounted on {} ({options}){free}", mount.display())?;
        match device {
            None => writeln!(f, "device        none of its own")?,
            Some(device) => writeln!(f, "device        {device}")?,
        }
        if let Some(it) = found {
            writeln!(
                f,
                "log here      {} segments of {} bytes in {} pieces; {} bytes written, {} only allocated",
                it.segments, it.bytes, it.extents, it.written_bytes, it.unwritten_bytes
            )?;
        }
        writeln!(f, "\ndurable writes, one at a time      p50 us    p99 us  p99.9 us    max us    writes")?;
        for it in &measured.latencies {
            let p999 = it.p999_us.map_or_else(|| "-".into(), |p999| format!("{p999:.0}"));
            writeln!(
                f,
                "{:>3} KiB  {:<22} {:>11.0} {:>9.0} {p999:>9} {:>9.0} {:>9}",
                it.bytes >> 10,
                it.how,
                it.p50_us,
                it.p99_us,
                it.max_us,
                it.writes
            )?;
        }
        writeln!(f)?;
        if let Some(rate) = measured.writes_4k_per_s {
            writeln!(f, "4 KiB, two at a time     {rate:.0} durable writes/s")?;
        }
        writeln!(f, "256 KiB, two at a time   {:.0} MB/s durable", measured.bandwidth_mb_per_s)?;
        writeln!(f, "a new file, with sync    {:.0} MB/s", measured.zeroing_mb_per_s)?;
        writeln!(
            f,
            "loopback round trip      {:.0} us; thread to thread {:.0} us",
            measured.loopback_us, measured.handover_us
        )?;
        if let Some(it) = &self.expected {
            writeln!(f, "\nto expect, at best (work on the processors comes on top)")?;
            writeln!(
                f,
                "append to a log here     {:.0} us = sync {:.0} + handover {:.0}",
                it.append_us, it.sync_us, measured.handover_us
            )?;
            writeln!(
                f,
                "PUT, three nodes, p50    {:.0} us = sync {:.0} + 2 x round trip {:.0} (put your network's here)",
                it.put_us, it.sync_us, measured.loopback_us
            )?;
            writeln!(
                f,
                "PUTs/s of {} bytes      = min(clients / PUT, bandwidth / {} bytes), each node on a disk of its own:",
                it.value_bytes, it.put_bytes
            )?;
            let rates: Vec<String> =
                it.puts_per_s.iter().map(|(clients, rate)| format!("{clients} clients {rate:.0}")).collect();
            writeln!(f, "                         {}", rates.join(", "))?;
        }
        writeln!(f)?;
        for Check { name, state, found, cure } in &self.checks {
            writeln!(f, "{state:<5} {name:<15} {found}")?;
            if let Some(cure) = cure {
                writeln!(f, "{:<21} -> {cure}", "")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |what: &Option<String>| what.clone().unwrap_or_else(|| "unknown".into());
        let number = |what: Option<u64>| what.map_or_else(|| "unknown".into(), |number| number.to_string());
        let fua = match self.fua {
            Some(true) => "yes",
            Some(false) => "no",
            None => "unknown",
        };
        write!(f, "{}", self.name)?;
        if let Some(model) = &self.model {
            write!(f, " ({model})")?;
        }
        write!(
            f,
            ": cache {}, FUA {fua}, blocks {} logical, {} physical, scheduler {}",
            told(&self.write_cache),
            number(self.logical_block_bytes),
            number(self.physical_block_bytes),
            told(&self.scheduler)
        )
    }
}
