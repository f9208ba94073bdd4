//! `--io`, on a kernel that seems to forbid io_uring. Skipped with a message where that cannot be had.

use std::process::{Command, Output, Stdio};

use super::{program, run_dir};

const FILTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/without-io-uring.py");
const ERRORS: [(&str, &str); 2] = [("EPERM", "seccomp"), ("ENOSYS", "answers that the call does not exist")];

/// Runs a command with the calls of io_uring failing; none if that cannot be had here.
pub(crate) fn without_io_uring(errno: &str, command: &[&str]) -> Option<Output> {
    let mut filter = Command::new("python3");
    filter.args([FILTER, errno]).args(command).env_remove("RINGRAFT_IO").stdin(Stdio::null());
    match filter.output() {
        Err(error) => eprintln!("skipped: python3, which installs a seccomp filter: {error}"),
        Ok(output) if output.status.code() == Some(125) => {
            eprintln!("skipped: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(output) => return Some(output),
    }
    None
}

/// A node that ends as soon as it is ready: exit status, whether it was ready, what it said beside that.
fn serve(errno: &str, name: &str, io: &str) -> Option<(Option<i32>, bool, String)> {
    let dir = run_dir(name);
    let data = dir.path().join("data");
    let program = program();
    let flags = ["--listen-client", "127.0.0.1:0", "--listen-peer", "127.0.0.1:0", "--exit-with-stdin", "--no-pin"];
    let sizes = ["--shards", "2", "--groups", "2", "--segment-size", "4MiB", "--io", io];
    let paths = [program.to_str().expect("text"), "serve", "--data-dir", data.to_str().expect("text")];
    let output = without_io_uring(errno, &[&paths[..], &flags, &sizes].concat())?;
    let ready = String::from_utf8_lossy(&output.stdout).starts_with("ready ");
    Some((output.status.code(), ready, String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[test]
fn nodes_go_without_after_one_warning() {
    for (errno, cause) in ERRORS {
        let Some((code, ready, said)) = serve(errno, "auto", "auto") else { return };
        assert_eq!((code, ready), (Some(0), true), "{said}");
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), 1, "{said}");
        assert!(lines[0].starts_with("ringraft: warning: io_uring is not permitted: "), "{said}");
        assert!(lines[0].contains(cause) && lines[0].contains("--io portable"), "{said}");
    }
}

#[test]
fn nodes_that_insist_say_why_they_cannot() {
    for (errno, cause) in ERRORS {
        let Some((code, ready, said)) = serve(errno, "insist", "uring") else { return };
        assert_eq!((code, ready, said.lines().count()), (Some(1), false, 1), "{said}");
        assert!(said.starts_with("ringraft: io_uring is not permitted: ") && said.contains(cause), "{said}");
    }
}

#[test]
fn nodes_that_do_not_want_it_say_nothing() {
    let Some(outcome) = serve("EPERM", "unwanted", "portable") else { return };
    assert_eq!(outcome, (Some(0), true, String::new()));
}

#[test]
fn the_benchmark_goes_without_after_one_warning() {
    let program = program();
    let dir = run_dir("bench-without");
    let script = format!(
        "cd '{}' && exec '{}' bench --duration 300ms --clients 8 --json -",
        dir.path().display(),
        program.display()
    );
    let Some(output) = without_io_uring("EPERM", &["sh", "-c", &script]) else { return };
    let (said, result) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{said}");
    assert!(result.contains("\"io\":\"portable\"") && result.contains("\"lost\":0"), "{result}");
    assert_eq!(said.lines().filter(|line| line.contains("io_uring")).count(), 1, "{said}");
}
