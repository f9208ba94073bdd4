//! Whether a node can run here, and how well: what was found, one line each, with a cure where something is wrong. Pure.

use std::fmt;

use ringraft_io::IoKind;
use serde::Serialize;

use super::measure::How;
use super::report::Report;

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do about it; none exactly if all is well.
    pub cure: Option<String>,
}

/// How something is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Well.
    Ok,
    /// A node runs, but slower, or with a promise that somebody else has to keep.
    Warn,
    /// A node does not run here.
    Fail,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "FAIL",
        })
    }
}

/// Locked memory of a shard's ring and buffers, with some to spare.
const LOCKED_BYTES_PER_SHARD: u64 = 128 << 10;
/// Descriptors of a node with as many client connections as it takes by default (4096), its files and its peers.
const OPEN_FILES_WANTED: u64 = 4096 + 256;
/// Room for the first segments of a log and for snapshots.
const FREE_BYTES_WANTED: u64 = 1 << 30;
/// Beyond this, followers doubt a leader whose disk makes them wait.
const SYNC_P99_US_WANTED: f64 = 10_000.0;

/// All that can be said of a report.
pub(super) fn checks(report: &Report) -> Vec<Check> {
    let mut checks = vec![
        io_uring(report),
        locked_memory(report),
        open_files(report),
        space(report),
        unbuffered(report),
        durable_writes(report),
        device(report),
        blocks(report),
    ];
    checks.extend(report.found.map(|found| {
        let what = format!("{} segments, {} bytes only allocated", found.segments, found.unwritten_bytes);
        let cure =
            "stop the node and copy the segments with cp --sparse=never: a first write to a block changes metadata too";
        check("log here", State::Warn, found.unwritten_bytes > 0, what, cure)
    }));
    checks
}

/// As bad as `state` if `is_bad`.
fn check(name: &'static str, state: State, is_bad: bool, found: String, cure: impl Into<String>) -> Check {
    match is_bad {
        true => Check { name, state, found, cure: Some(cure.into()) },
        false => Check { name, state: State::Ok, found, cure: None },
    }
}

fn io_uring(report: &Report) -> Check {
    let lacks = report.lacks.as_ref().map_or(String::new(), |lacks| format!("; this kernel's lacks: {lacks}"));
    let found = format!("kernel {}: --io auto takes {}{lacks}", report.kernel, report.io_auto);
    let cure = report.io_refusal.clone().unwrap_or_default();
    check("io_uring", State::Warn, report.io_refusal.is_some(), found, cure)
}

fn locked_memory(report: &Report) -> Check {
    let wanted = report.processors as u64 * LOCKED_BYTES_PER_SHARD;
    // A limit that is not felt (CAP_IPC_LOCK) does no harm.
    let is_low = report.locked_bytes_max.is_some_and(|max| max < wanted) && report.io_auto != IoKind::Uring.to_string();
    let limit = report.locked_bytes_max.map_or_else(|| "unlimited".into(), |max| format!("{max} bytes per user"));
    check("locked memory", State::Warn, is_low, limit, format!("set LimitMEMLOCK={wanted} or more (ulimit -l, in KiB)"))
}

fn open_files(report: &Report) -> Check {
    let is_low = report.open_files_max.is_some_and(|max| max < OPEN_FILES_WANTED);
    let limit = report.open_files_max.map_or_else(|| "unlimited".into(), |max| max.to_string());
    let cure = format!("set LimitNOFILE={OPEN_FILES_WANTED} or more (ulimit -n), or a lower --client-connections-max");
    check("open files", State::Warn, is_low, limit, cure)
}

fn space(report: &Report) -> Check {
    let free = report.file_system.free_bytes;
    let found =
        free.map_or_else(|| "the file system does not tell".into(), |free| format!("{} MB free", free / 1_000_000));
    let cure = "make room: a log that finds none refuses entries; 1 GiB is enough to begin with";
    check("space", State::Warn, free.is_some_and(|free| free < FREE_BYTES_WANTED), found, cure)
}

fn unbuffered(report: &Report) -> Check {
    let kind = &report.file_system.kind;
    let found = match report.direct.blocks_4096 {
        true => format!("{kind} takes O_DIRECT in blocks of 4096 bytes"),
        false => format!("{kind} takes no O_DIRECT: a log cannot be here"),
    };
    let cure = "choose a directory on a local ext4 or XFS";
    check("unbuffered", State::Fail, !report.direct.blocks_4096, found, cure)
}

fn durable_writes(report: &Report) -> Check {
    let of = |how| report.measured.latencies.iter().find(|it| it.how == how && it.bytes == 4096);
    let how = if report.io_auto == IoKind::Uring.to_string() { How::Ring } else { How::Dsync };
    let Some(it) = of(how) else {
        let found = "none was measured in the way of a node".to_owned();
        return check("durable writes", State::Warn, true, found, "look at the lines above for why");
    };
    let found = format!("a node's way is {how}: 4 KiB in {:.0} us, 1 of 100 over {:.0} us", it.p50_us, it.p99_us);
    let cure = "look for what shares the disk, or raise --election-ticks";
    check("durable writes", State::Warn, it.p99_us > SYNC_P99_US_WANTED, found, cure)
}

fn device(report: &Report) -> Check {
    let Some(device) = &report.device else {
        let found = "none below: what \"durable\" means is up to whoever is behind".to_owned();
        return check("device", State::Warn, true, found, "use a local disk, or ask what a sync means here");
    };
    let name = &device.name;
    if device.rotational == Some(true) {
        let found = format!("{name} says that it turns");
        return check("device", State::Warn, true, found, "use a solid-state disk; a virtual one may say so wrongly");
    }
    match (device.write_cache.as_deref(), device.fua) {
        (Some("write back"), Some(false)) => {
            let found = format!("{name} has a volatile cache and no FUA: each durable write flushes all of it");
            check("device", State::Warn, true, found, "use a disk with FUA or with a protected cache")
        }
        (Some("write through"), _) => {
            let found = format!("{name} says that it has no volatile cache: no flush is sent, and it is believed");
            check("device", State::Ok, false, found, "")
        }
        _ => check("device", State::Ok, false, name.clone(), ""),
    }
}

fn blocks(report: &Report) -> Check {
    let is_unwritten = report.measured.extents.is_some_and(|it| it.unwritten_bytes > 0);
    let found = match report.measured.extents {
        None => "the file system does not tell how a file lies".to_owned(),
        Some(it) => format!("a new file: {} pieces, {} bytes only allocated", it.count, it.unwritten_bytes),
    };
    let cure = "choose another file system: here a log pays for metadata with every first write";
    check("blocks", State::Warn, is_unwritten, found, cure)
}

#[cfg(test)]
mod tests {
    use super::super::facts::{Device, FileSystem};
    use super::super::measure::{FileExtents, Latency, Measured};
    use super::super::report::{Direct, Found};
    use super::*;

    fn report() -> Report {
        let latency = |how, p50_us| Latency {
            how,
            bytes: 4096,
            writes: 100,
            p50_us,
            p99_us: 4.0 * p50_us,
            p999_us: None,
            max_us: 10.0 * p50_us,
        };
        let extents = FileExtents { count: 1, written_bytes: 8 << 20, unwritten_bytes: 0 };
        Report {
            dir: "/data".into(),
            kernel: "6.12.0".into(),
            processors: 2,
            io_auto: "uring".into(),
            io_refusal: None,
            lacks: None,
            locked_bytes_max: Some(8 << 20),
            open_files_max: Some(20_000),
            file_system: FileSystem { kind: "ext4".into(), free_bytes: Some(2 << 30), ..FileSystem::default() },
            device: Some(Device {
                name: "disk0".into(),
                write_cache: Some("write back".into()),
                fua: Some(true),
                ..Device::default()
            }),
            direct: Direct { blocks_4096: true, blocks_512: true },
            found: None,
            measured: Measured {
                file_bytes: 8 << 20,
                extents: Some(extents),
                zeroing_mb_per_s: 100.0,
                latencies: vec![latency(How::Ring, 60.0), latency(How::Dsync, 70.0), latency(How::Fdatasync, 90.0)],
                writes_4k_per_s: None,
                bandwidth_mb_per_s: 89.0,
                loopback_us: 20.0,
                handover_us: 10.0,
            },
            expected: None,
            checks: Vec::new(),
            version: "0",
        }
    }

    /// After one change of a healthy machine exactly one check is not well: which, how, what is said of it.
    #[track_caller]
    fn ill(change: impl FnOnce(&mut Report), name: &str, state: State, says: &str) {
        let mut report = report();
        change(&mut report);
        let checks = checks(&report);
        let ill: Vec<&Check> = checks.iter().filter(|check| check.state != State::Ok).collect();
        let [check] = ill[..] else { panic!("{ill:?}") };
        let text = format!("{} ({:?})", check.found, check.cure);
        assert!(check.name == name && check.state == state && text.contains(says), "{check:?}");
        assert!(check.cure.as_ref().is_some_and(|cure| !cure.is_empty() && !cure.contains('\n')), "{check:?}");
    }

    #[test]
    fn nothing_ails_a_healthy_machine() {
        let checks = checks(&report());
        assert_eq!(checks.len(), 8);
        assert!(checks.iter().all(|check| check.state == State::Ok && check.cure.is_none()), "{checks:?}");
        let durable = checks.iter().find(|check| check.name == "durable writes").unwrap();
        assert!(durable.found.contains("io_uring") && durable.found.contains("60 us"), "{durable:?}");
    }

    #[test]
    fn each_ill_is_told_with_its_cure() {
        use State::{Fail, Warn};
        let refused = |it: &mut Report| {
            (it.io_auto, it.io_refusal) = ("portable".into(), Some("seccomp; use another profile".into()));
        };
        ill(refused, "io_uring", Warn, "another profile");
        ill(|it| it.open_files_max = Some(1024), "open files", Warn, "LimitNOFILE=4352");
        ill(|it| it.file_system.free_bytes = Some(1 << 29), "space", Warn, "536 MB");
        ill(|it| it.direct.blocks_4096 = false, "unbuffered", Fail, "O_DIRECT");
        ill(|it| it.measured.latencies[0].p99_us = 10_001.0, "durable writes", Warn, "--election-ticks");
        ill(|it| it.measured.latencies.clear(), "durable writes", Warn, "none was measured");
        ill(|it| it.device = None, "device", Warn, "local disk");
        ill(|it| it.device.as_mut().unwrap().rotational = Some(true), "device", Warn, "turns");
        ill(|it| it.device.as_mut().unwrap().fua = Some(false), "device", Warn, "flushes all");
        ill(|it| it.measured.extents.as_mut().unwrap().unwritten_bytes = 4096, "blocks", Warn, "4096 bytes only");
        let found = Found { segments: 2, unwritten_bytes: 1 << 20, ..Found::default() };
        ill(|it| it.found = Some(found), "log here", Warn, "1048576");
    }

    #[test]
    fn a_limit_on_locked_memory_is_told_where_it_is_felt() {
        let told = |io: &str| {
            let report = Report { io_auto: io.into(), locked_bytes_max: Some(64 << 10), ..report() };
            checks(&report).into_iter().find(|check| check.name == "locked memory").unwrap()
        };
        assert_eq!(told("uring").state, State::Ok);
        assert!(told("portable").cure.is_some_and(|cure| cure.contains("LimitMEMLOCK=262144")));
    }

    #[test]
    fn without_a_ring_the_other_way_counts() {
        let report = Report { io_auto: "portable".into(), ..report() };
        let durable = checks(&report).into_iter().find(|check| check.name == "durable writes").unwrap();
        assert!(durable.found.contains("70 us"), "{durable:?}");
    }
}
