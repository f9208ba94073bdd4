//! What this machine and the disk under a directory are and do, and what that means for a replicated log:
//! `ringraft doctor`.
//!
//! Bounded in time and in space, and nothing is left behind: all files lie in a directory that is removed at the end.

mod checks;
mod expect;
mod facts;
mod measure;
mod report;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringraft_io::uring::disk;
use ringraft_io::{BLOCK_ALIGN, IoChoice, WorldConfig};

pub use checks::{Check, State};
pub use expect::{Expectation, expect};
pub use facts::{Device, FileSystem};
pub use measure::{How, Latency, Measured};
pub use report::{Direct, Found, Report};

use self::measure::Place;
use crate::bench::cluster::RunDir;

/// What to look at, and how much it may cost.
#[derive(Clone, Debug)]
pub struct DoctorConfig {
    /// The directory that the log is, or will be, in.
    pub dir: PathBuf,
    /// How long to measure, about.
    pub duration: Duration,
    /// Bytes of the file that is written, at most.
    pub space: u64,
    /// Bytes of a value, for what is to be expected.
    pub value_size: u64,
}

/// Why the disk could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// The file system got in the way.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Less room than the smallest file takes.
    #[error("{path} has {free} bytes free, and at least {needed} are needed", path = path.display())]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// What there is.
        free: u64,
        /// What it takes.
        needed: u64,
    },
    /// No world at all can be started here.
    #[error(transparent)]
    World(#[from] ringraft_io::WorldError),
    /// The network of this machine itself does not work.
    #[error("cannot measure a round trip on the loopback network: {0}")]
    Loopback(io::Error),
}

/// Least bytes of the file that is written.
pub const SPACE_MIN: u64 = 4 << 20;

/// Looks at the directory's disk and measures it, in a new directory `run_dir` below, which is removed with it.
/// `progress` is told what is being done.
///
/// # Errors
/// If files cannot be made and written there.
pub fn run(config: &DoctorConfig, run_dir: &RunDir, progress: &mut dyn FnMut(&str)) -> Result<Report, DoctorError> {
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| DoctorError::File { what, path, source }
    };
    progress("looking at the file system");
    let mut file_system = facts::file_system(&config.dir).map_err(failed("look at", &config.dir))?;
    file_system.free_bytes = disk::free_bytes(&config.dir).ok();
    let space = match file_system.free_bytes {
        Some(free) if free / 2 < SPACE_MIN => {
            return Err(DoctorError::NoSpace { path: config.dir.clone(), free, needed: 2 * SPACE_MIN });
        }
        // Never the last half of what there is.
        Some(free) => config.space.min(free / 2),
        None => config.space,
    };
    let direct = try_direct(run_dir.path()).map_err(failed("write to", run_dir.path()))?;
    let place = Place { dir: run_dir.path(), space: space.max(SPACE_MIN), is_direct: direct.blocks_4096 };
    let measured = measure::run(&place, config.duration, progress)?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    // As `serve` asks, which starts a shard for each processor.
    let settled = IoChoice::Auto.settle(&WorldConfig::new(u16::try_from(processors).unwrap_or(u16::MAX)))?;
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let mut report = Report {
        dir: config.dir.clone(),
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        processors,
        io_auto: settled.kind.to_string(),
        io_refusal: settled.refusal.map(|refusal| refusal.to_string()),
        lacks: settled.capabilities.filter(|it| it.lacks_something()).map(|it| it.to_string()),
        locked_bytes_max: facts::limit(&limits, "Max locked memory"),
        open_files_max: facts::limit(&limits, "Max open files"),
        device: facts::device(&config.dir, Path::new("/sys")),
        file_system,
        direct,
        found: found(&config.dir),
        expected: expect(&measured, config.value_size),
        measured,
        checks: Vec::new(),
        version: env!("CARGO_PKG_VERSION"),
    };
    report.checks = checks::checks(&report);
    Ok(report)
}

/// Whether unbuffered writes work here, and how small they may be.
fn try_direct(dir: &Path) -> io::Result<Direct> {
    let path = dir.join("direct");
    std::fs::write(&path, vec![0; 4 * BLOCK_ALIGN])?;
    let Ok(file) = disk::open_direct(&path) else { return Ok(Direct { blocks_4096: false, blocks_512: false }) };
    let buf = ringraft_io::AlignedBuf::zeroed(BLOCK_ALIGN);
    Ok(Direct {
        blocks_4096: disk::write_durable(&file, &buf, 4096).is_ok(),
        blocks_512: disk::write_durable(&file, &buf[..512], 512).is_ok(),
    })
}

/// The segments of a log that is here already, in this directory or in those of its shards.
fn found(dir: &Path) -> Option<Found> {
    let mut found = Found::default();
    let names = |dir: &Path| {
        let listed = std::fs::read_dir(dir).into_iter().flatten().flatten();
        listed.map(|entry| entry.path()).collect::<Vec<PathBuf>>()
    };
    let is_named =
        |path: &PathBuf, start: &str| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start));
    let shards = names(dir).into_iter().filter(|path| is_named(path, "shard-"));
    for path in shards.chain([dir.to_owned()]).flat_map(|dir| names(&dir)).filter(|path| is_named(path, "seg-")) {
        let Ok(file) = std::fs::File::open(&path) else { continue };
        found.segments += 1;
        found.bytes += file.metadata().map_or(0, |meta| meta.len());
        match disk::extents(&file) {
            Ok(extents) => {
                found.written_bytes += extents.written_bytes;
                found.unwritten_bytes += extents.unwritten_bytes;
                found.extents += extents.count;
            }
            Err(_) => found.unknown += 1,
        }
    }
    (found.segments > 0).then_some(found)
}
