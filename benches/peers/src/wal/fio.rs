//! The floor: what the disk does when nothing but writing is done, as fio measures it. Files are written through once
//! before, so that extents are written ones.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::row::Failure;

/// The median of a durable write of 4 KiB, in microseconds: by the best of three ways to make it durable.
pub(super) fn latency(dir: &Path, time: Duration) -> Result<f64, Failure> {
    let ways: [&[&str]; 3] = [
        &["--ioengine=psync", "--fdatasync=1"],
        &["--ioengine=psync", "--sync=dsync"],
        &["--ioengine=io_uring", "--sync=dsync"],
    ];
    let mut best = f64::INFINITY;
    for way in ways {
        let job = run(dir, time / 3, &[&["--bs=4k", "--lat_percentiles=1"], way].concat())?;
        // With fdatasync, a write and its sync are counted apart.
        let median = |what: &Value| what["percentile"]["50.000000"].as_f64();
        let write = median(&job["write"]["lat_ns"]).ok_or("fio tells no percentiles")?;
        let sync = if way.contains(&"--fdatasync=1") { median(&job["sync"]["lat_ns"]).unwrap_or(0.0) } else { 0.0 };
        best = best.min((write + sync) / 1e3);
    }
    Ok(best)
}

/// Microseconds per 64 KiB, written durably in pieces of 256 KiB, two at a time.
pub(super) fn bandwidth(dir: &Path, time: Duration) -> Result<f64, Failure> {
    let job = run(dir, time, &["--bs=256k", "--ioengine=io_uring", "--sync=dsync", "--iodepth=2"])?;
    let bytes_per_s = job["write"]["bw_bytes"].as_f64().filter(|bytes| *bytes > 0.0).ok_or("fio tells no bandwidth")?;
    Ok(65536.0 / bytes_per_s * 1e6)
}

fn run(dir: &Path, time: Duration, options: &[&str]) -> Result<Value, Failure> {
    let file = dir.join("floor");
    let common = ["--name=floor", "--rw=write", "--direct=1", "--size=64m", "--overwrite=1", "--fallocate=none"];
    let output = Command::new("fio")
        .args(common)
        .arg(format!("--filename={}", file.display()))
        .arg(format!("--runtime={}ms", time.as_millis().max(20)))
        .args(["--time_based=1", "--output-format=json"])
        .args(options)
        .output()
        .map_err(|error| format!("fio: {error}; install it (package fio)"))?;
    if !output.status.success() {
        return Err(format!("fio: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    let mut report: Value = serde_json::from_slice(&output.stdout)?;
    Ok(report["jobs"][0].take())
}
