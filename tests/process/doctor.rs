//! `ringraft doctor` and `ringraft log bench` as a person uses them.

use serde_json::Value;

use super::cli::{files, run, text};
use super::io::without_io_uring;
use super::{io_kind, program, run_dir};

fn json(bytes: &[u8]) -> Vec<Value> {
    text(bytes).lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[test]
fn the_doctor_measures_and_leaves_nothing() {
    let dir = run_dir("doctor");
    let at = dir.path().to_str().unwrap();
    let file = dir.path().join("report.json");
    let output = run(&["doctor", at, "--duration", "1s", "--space", "8MiB", "--json", file.to_str().unwrap()]);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for part in ["file system", "unbuffered", "durable writes", "RWF_DSYNC", "write + fdatasync", "PUT", "open files"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    let report = json(&std::fs::read(&file).unwrap()).remove(0);
    let measured = &report["measured"];
    assert!(measured["file_bytes"].as_u64().unwrap() <= 8 << 20);
    let latencies = measured["latencies"].as_array().unwrap();
    let has_ring = ringraft_io::uring::probe().is_ok();
    assert_eq!(report["io_auto"], if has_ring { "uring" } else { "portable" }, "{said}");
    assert_eq!(latencies.len(), if has_ring { 6 } else { 4 }, "two sizes, three ways (without io_uring two)");
    for it in latencies {
        let us = |name: &str| it[name].as_f64().unwrap();
        // No durable write takes less than a microsecond.
        assert!(1.0 < us("p50_us") && us("p50_us") <= us("p99_us") && us("p99_us") <= us("max_us"), "{it}");
    }
    assert!(measured["loopback_us"].as_f64().unwrap() > 1.0 && measured["handover_us"].as_f64().unwrap() > 0.1);
    let expected = &report["expected"];
    let us = |name: &str| expected[name].as_f64().unwrap();
    let sum = us("sync_us") + 2.0 * measured["loopback_us"].as_f64().unwrap();
    assert!((us("put_us") - sum).abs() < 1e-6, "the formula that is told");
    for check in report["checks"].as_array().unwrap() {
        assert_eq!(check["state"] == "ok", check["cure"].is_null(), "{check}");
        assert!(said.contains(check["found"].as_str().unwrap()), "{check} is not in {said}");
    }
    assert_eq!(files(dir.path()).len(), 1, "only the report is left");

    let missing = run(&["doctor", "/there/is/no/such/place"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("/there/is/no/such/place"));
    assert_eq!(run(&["doctor", at, "--duration", "soon"]).status.code(), Some(1));
}

#[test]
fn the_doctor_says_what_helps_where_io_uring_is_forbidden() {
    let dir = run_dir("doctor-without");
    let (program, at) = (program(), dir.path().to_str().unwrap());
    let command = [program.to_str().unwrap(), "doctor", at, "--duration", "1s", "--space", "8MiB", "--json", "-"];
    let Some(output) = without_io_uring("EPERM", &command) else { return };
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = json(&output.stdout).remove(0);
    assert_eq!(report["io_auto"], "portable");
    let check = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "io_uring").unwrap();
    assert_eq!(check["state"], "warn");
    assert!(check["cure"].as_str().unwrap().contains("run with a profile that allows io_uring_setup"), "{check}");
    assert!(report["expected"]["put_us"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_log_is_measured_and_leaves_nothing() {
    let dir = run_dir("log-bench");
    let at = dir.path().to_str().unwrap();
    let output = run(&["log", "bench", at, "--duration", "1s", "--batch", "1,8", "--depth", "1,64", "--json", "-"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = json(&output.stdout).remove(0);
    assert_eq!(report["io"], io_kind().to_string());
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    for row in rows {
        let number = |name: &str| row[name].as_f64().unwrap();
        assert!(number("appends") > 0.0 && number("p50_us") > 0.0 && number("max_us") >= number("p99_us"), "{row}");
        // A compaction, every 2048 appends at the most, may take a write of its own.
        assert!(number("writes") <= 1.01 * number("appends") + 4.0, "no append takes two writes here: {row}");
        if number("depth") == 1.0 {
            // One after the other: the slowest took at least the share of each.
            assert!(number("max_us") * number("appends_per_s") > 0.9e6, "{row}");
        }
        assert!(number("depth") == 1.0 || number("writes") < number("appends"), "appends share writes: {row}");
    }
    assert!(files(dir.path()).is_empty());

    let large = run(&["log", "bench", at, "--size", "1048576", "--batch", "1000"]);
    assert_eq!(large.status.code(), Some(1));
    assert!(text(&large.stderr).contains("--batch 1000"), "{}", text(&large.stderr));
}
