//! `ringraft etcd-follow`, the program: killed and started again, and wrong uses of it.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

use serde_json::Value as Json;

use super::servers::{Etcd, PATIENCE, can_run, free_port, until};
use crate::process::{program, run_dir};

fn command(etcd: &Etcd, port: u16, dir: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(["etcd-follow", "--peer", &etcd.relay.url(), "--advertise", &format!("http://127.0.0.1:{port}")]);
    command.arg("--data-dir").arg(dir.join("follower")).args(flags);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The last entry in the follower's log, while nobody runs it.
fn last_on_disk(dir: &Path) -> u64 {
    let log = dir.join("follower/log");
    let output = Command::new(program()).args(["log", "check", "--json"]).arg(log).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let check: Json = serde_json::from_slice(&output.stdout).unwrap();
    check["groups"][0]["last"].as_u64().unwrap()
}

/// A running program, killed when it is dropped, and the lines it prints.
struct Program {
    child: Child,
    lines: Receiver<Json>,
}

impl Program {
    fn start(etcd: &Etcd, port: u16, dir: &Path, flags: &[&str]) -> Program {
        let flags = [&["--json"], flags].concat();
        let mut child = command(etcd, port, dir, &flags).spawn().expect("it starts");
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")));
            }
        });
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(|line| eprintln!("program: {line}")));
        Program { child, lines }
    }

    /// Reads lines up to the one that puts this value, which come in order and without gaps; gives its index.
    #[track_caller]
    fn wait_put(&self, mut last: u64, key: &str, value: &str) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("{key} is not printed"));
            assert_eq!(line["index"], last + 1, "{line}");
            last += 1;
            if line["type"] == "put" && line["key"] == key {
                assert_eq!(line["value"], value);
                return last;
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

#[test]
fn the_program_follows_through_kill_9() {
    if !can_run() {
        return;
    }
    let dir = run_dir("etcd-program");
    let mut etcd = Etcd::new("a", dir.path(), &[]);
    etcd.start(&[etcd.entry()], "new");
    etcd.put("first", "1");
    let port = free_port();
    let id = etcd.add(&format!("http://127.0.0.1:{port}"), true);

    let program = Program::start(&etcd, port, dir.path(), &[]);
    let mut last = program.wait_put(0, "first", "1");
    etcd.promote(id);
    // With its vote, every entry that etcd acknowledges is on its disk: killed at any moment, it has them all.
    // A log that was written with io_uring (where it is permitted) is gone on with without, and again.
    let mut program = program;
    for (round, io) in [(0, "portable"), (1, "auto"), (2, "portable")] {
        etcd.put("round", &round.to_string());
        let committed = until("etcd answers", || etcd.commit());
        drop(program);
        let on_disk = last_on_disk(dir.path());
        assert!(on_disk >= committed && committed > last, "{on_disk} of {committed}");
        let from = (last + 1).to_string();
        program = Program::start(&etcd, port, dir.path(), &["--from", &from, "--io", io]);
        last = program.wait_put(last, "round", &round.to_string());
    }
    drop(program);
    etcd.assert_runs();

    // An export: everything from the first entry on, and the end.
    let export = command(&etcd, port, dir.path(), &["--json", "--raw", "--once"]).output().unwrap();
    assert!(export.status.success(), "{}", String::from_utf8_lossy(&export.stderr));
    let lines: Vec<Json> =
        String::from_utf8(export.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().zip(1..).all(|(line, index)| line["index"] == index && line["data"].is_string()));
    assert!(lines.len() as u64 >= last);
    let puts = lines.iter().filter(|line| line["type"] == "put").count();
    assert_eq!(puts, 4);
    let changes: Vec<_> = lines.iter().filter(|line| line["type"] == "member").map(|line| &line["change"]).collect();
    assert_eq!(changes, ["add", "add learner", "add"]);

    // As text, up to an entry.
    let flags = ["--from", "2", "--until", "4"];
    let some = command(&etcd, port, dir.path(), &flags).output().unwrap();
    let text = String::from_utf8(some.stdout).unwrap();
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(some.status.success() && text.starts_with("2 "), "{text}");

    // Ended by a signal, it ends well.
    let mut program = Program::start(&etcd, port, dir.path(), &["--from", &last.to_string()]);
    program.wait_put(last - 1, "round", "2");
    let pid = program.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(program.child.wait().unwrap().success());
}

/// It fails with status 1 and one line that contains `parts`.
#[track_caller]
fn fails(command: &mut Command, parts: &[&str]) {
    let mut child = command.spawn().unwrap();
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{error}");
    let lines = error.lines().filter(|line| line.starts_with("ringraft:"));
    // Beside it, that there is no io_uring may be told.
    let lines: Vec<_> = lines.filter(|line| !line.starts_with("ringraft: warning: io_uring ")).collect();
    assert_eq!(lines.len(), 1, "{error}");
    for part in parts {
        assert!(lines[0].contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn mistakes_are_told_in_one_line() {
    if !can_run() {
        return;
    }
    let dir = run_dir("etcd-mistakes");
    let mut etcd = Etcd::new("a", dir.path(), &[]);
    let port = free_port();
    fails(&mut command(&etcd, port, dir.path(), &[]), &["no member of the cluster answers", "--peer"]);
    fails(&mut command(&etcd, port, dir.path(), &["--peer", "https://h:1"]), &["--peer https://h:1", "TLS"]);
    fails(&mut command(&etcd, port, dir.path(), &["--heartbeat", "soon"]), &["--heartbeat soon"]);
    etcd.start(&[etcd.entry()], "new");
    etcd.put("first", "1");
    let url = format!("http://127.0.0.1:{port}");
    fails(&mut command(&etcd, port, dir.path(), &[]), &["no member at", &format!("--peer-urls={url}")]);
    assert!(!dir.path().join("follower").exists(), "nothing was made");

    let id = etcd.add(&url, true);
    let program = Program::start(&etcd, port, dir.path(), &[]);
    program.wait_put(0, "first", "1");
    fails(&mut command(&etcd, port, dir.path(), &[]), &["cannot listen on", &port.to_string()]);
    let other = format!("127.0.0.1:{}", free_port());
    fails(&mut command(&etcd, port, dir.path(), &["--listen", &other]), &["in use by process"]);
    drop(program);

    // Removed while it was away, and added anew: it is another member now, and needs another directory.
    etcd.remove(id);
    fails(&mut command(&etcd, port, dir.path(), &[]), &["was removed", "empty directory"]);
    let again = etcd.add(&url, true);
    fails(
        &mut command(&etcd, port, dir.path(), &[]),
        &[&format!("belongs to member {id:x}"), &format!("{again:x}"), "choose another directory"],
    );
    etcd.assert_runs();
}
