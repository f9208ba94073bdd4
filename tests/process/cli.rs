//! The program as a person uses it: commands, and one-line errors that change nothing.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use ringraft::bench::wait_for_leaders;

use super::{cluster, cluster_of, io, program, run_dir};

pub(crate) fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(program());
    // Nothing of the caller's environment may change what is tested.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RINGRAFT_")) {
        command.env_remove(name);
    }
    command.envs(io().map(|io| ("RINGRAFT_IO", io)));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let pipes = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let (out, error) = (std::thread::spawn(|| read(pipes.0)), std::thread::spawn(|| read(pipes.1)));
    let begin = Instant::now();
    let status = loop {
        match child.try_wait().expect("it is ours") {
            Some(status) => break status,
            None if begin.elapsed() < RUN_MAX => std::thread::sleep(Duration::from_millis(2)),
            None => {
                child.kill().expect("it is ours");
                child.wait().expect("it is ours");
                panic!("{arguments:?} goes on and on: {}", text(&error.join().expect("it reads")));
            }
        }
    };
    Output { status, stdout: out.join().expect("it reads"), stderr: error.join().expect("it reads") }
}

/// Longer than any command here takes on a machine with much else to do.
const RUN_MAX: Duration = Duration::from_secs(120);

fn read(mut pipe: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes).expect("a pipe");
    bytes
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// It fails with status 1, nothing on stdout, and one line that contains `parts`.
#[track_caller]
fn fails(arguments: &[&str], parts: &[&str]) {
    let output = run(arguments);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
    let last = error.lines().last().unwrap_or_default();
    // Beside it, that there is no io_uring may be told.
    let lines = error.lines().filter(|line| line.starts_with("ringraft:"));
    let lines = lines.filter(|line| !line.starts_with("ringraft: warning: io_uring ")).count();
    assert_eq!(lines, 1, "{arguments:?} says not one line: {error}");
    assert!(!error.contains("panicked"), "{error}");
    for part in parts {
        assert!(last.contains(part), "{arguments:?}: {part:?} is not in {last:?}");
    }
}

/// Every file below `dir` with its content.
pub(crate) fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.append(&mut files(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).expect("readable"));
        }
    }
    found
}

#[test]
fn commands_work() {
    let dir = run_dir("commands");
    let cluster = cluster(&dir, 3, 1, &[]);
    let endpoints = cluster.endpoints();
    wait_for_leaders(&endpoints).expect("leaders");
    let at = endpoints.join(",");
    let ok = |arguments: &[&str]| {
        let output = run(&[arguments, &["--endpoints", &at]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    assert_eq!(ok(&["put", "apple", "red"]), "2\n");
    assert_eq!(ok(&["get", "apple"]), "red\n");
    assert!(ok(&["get", "apple", "--json"]).contains("\"value\":\"red\""));
    for (key, value) in [("pear", "green"), ("plum", "blue"), ("fig", "brown")] {
        ok(&["put", key, value]);
    }
    assert_eq!(ok(&["range"]), "apple\tred\nfig\tbrown\npear\tgreen\nplum\tblue\n", "all groups, in order");
    assert_eq!(ok(&["range", "b", "plum"]), "fig\tbrown\npear\tgreen\n");
    assert_eq!(ok(&["range", "--limit", "1"]), "apple\tred\n");
    ok(&["del", "apple"]);
    assert_eq!(ok(&["del", "apple"]), "no such key\n");
    let output = run(&["get", "apple", "--endpoints", &at]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(3), ""));
    let status = ok(&["status", "--json"]);
    assert!(status.contains("\"role\":\"leader\"") && status.contains("\"role\":\"follower\""), "{status}");

    let bench = ok(&["bench", "--duration", "300ms", "--clients", "8", "--conns", "2", "--json", "-"]);
    assert!(bench.contains("\"lost\":0") && !bench.contains("\"acked\":0,"), "{bench}");
}

#[test]
fn mistakes_are_told_in_one_line() {
    let dir = run_dir("mistakes");
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_address = taken.local_addr().unwrap().to_string();
    let base = ["serve", "--node-id", "1", "--data-dir", data, "--listen-peer", "127.0.0.1:0"];
    let serve = |more: &[&'static str]| -> Vec<&str> { base.iter().copied().chain(more.iter().copied()).collect() };

    fails(&serve(&["--listen-client", "nonsense"]), &["listen-client", "nonsense"]);
    fails(&serve(&["--groups", "none"]), &["groups", "none"]);
    fails(&serve(&["--io", "epoll"]), &["flag --io", "epoll", "must be auto, uring or portable"]);
    fails(&[&serve(&[])[..], &["--listen-client", &taken_address]].concat(), &["cannot listen", &taken_address]);
    fails(&["get", "x", "--endpoints", "127.0.0.1:1"], &["127.0.0.1:1"]);
    fails(&["bench", "--duration", "soon"], &["--duration", "soon"]);
    fails(&["bench", "--value-size", "3"], &["--value-size"]);
    let file = dir.path().join("config.toml");
    std::fs::write(&file, "node-id = 1\n\nshrads = 2\n").unwrap();
    fails(&["serve", "--config", file.to_str().unwrap()], &["shrads", "3"]);
}

#[test]
fn foreign_and_used_directories_are_refused_untouched() {
    let dir = run_dir("directories");
    let mut cluster = cluster(&dir, 1, 1, &[]);
    let endpoints = cluster.endpoints();
    wait_for_leaders(&endpoints).expect("a leader");
    let at = endpoints.join(",");
    for number in 0..20 {
        let output = run(&["put", &format!("key-{number}"), "value", "--endpoints", &at]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let data = cluster.dir(1);
    let serve = |node: &'static str, cluster: &'static str| -> Vec<String> {
        let words = ["serve", "--node-id", node, "--cluster", cluster, "--groups", "1", "--shards", "1"];
        let words = words.iter().chain(&["--listen-peer", "127.0.0.1:0", "--listen-client", "127.0.0.1:0"]);
        let words = words.chain(&["--data-dir"]);
        words.map(|word| (*word).to_owned()).chain([data.to_str().unwrap().to_owned()]).collect()
    };
    let fails_untouched = |words: &[String], parts: &[&str]| {
        let before = files(&data);
        fails(&words.iter().map(String::as_str).collect::<Vec<_>>(), parts);
        let after = files(&data);
        let changed: Vec<_> = after.iter().filter(|(path, bytes)| before.get(*path) != Some(*bytes)).collect();
        let changed: Vec<_> = changed.iter().map(|(path, _)| path).filter(|path| !path.ends_with("LOCK")).collect();
        assert!(changed.is_empty() && before.len() == after.len(), "changed: {changed:?}");
    };
    let pid = cluster.pid(1).unwrap().to_string();
    fails(&serve("1", "local").iter().map(String::as_str).collect::<Vec<_>>(), &["in use", &pid]);
    cluster.kill(1);
    fails_untouched(&serve("2", "local"), &["node 1", "choose another directory"]);
    fails_untouched(&serve("1", "elsewhere"), &["choose another directory"]);
}

#[test]
fn damage_is_found_and_a_lone_node_stays_closed() {
    let dir = run_dir("damage");
    let mut cluster = cluster_of(1, &dir, 1, 1, &[]);
    let at = cluster.endpoints().join(",");
    wait_for_leaders(&cluster.endpoints()).expect("a leader");
    for number in 0..20 {
        let output = run(&["put", &format!("key-{number}"), "value", "--endpoints", &at]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let data = cluster.dir(1);
    let check = run(&["log", "check", data.to_str().unwrap()]);
    assert!(check.status.success(), "a log in use is looked at, too: {}", text(&check.stdout));
    cluster.kill(1);

    // A bit of an acknowledged record flips.
    let segments: Vec<PathBuf> = files(&data).into_keys().filter(|path| is_segment(path)).collect();
    let damaged = segments.iter().find_map(|path| {
        let mut bytes = std::fs::read(path).unwrap();
        let at = bytes.windows(5).position(|window| window == b"key-3")?;
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
        Some(path.file_name().unwrap().to_str().unwrap().to_owned())
    });
    let damaged = damaged.expect("the key is in the log");
    let check = run(&["log", "check", data.to_str().unwrap()]);
    let said = text(&check.stdout);
    assert!(check.status.code() == Some(1) && said.contains("DAMAGED") && said.contains(&damaged), "{said}");
    let data = data.to_str().unwrap();
    let words = ["serve", "--node-id", "1", "--cluster", "local", "--groups", "1", "--shards", "1"];
    let words = [&words[..], &["--listen-peer", "127.0.0.1:0", "--listen-client", "127.0.0.1:0", "--data-dir", data]];
    // Trying again does not make it better, or worse.
    for _ in 0..2 {
        fails(&words.concat(), &["group 0: entries ", " are lost", &format!("{damaged} at "), "no other member"]);
    }
}

fn is_segment(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seg-"))
}
