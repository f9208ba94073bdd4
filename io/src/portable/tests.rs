//! What only the portable world has.

use std::fs;
use std::os::fd::RawFd;
use std::path::Path;

use super::*;
use crate::tests::{Node, directory};
use crate::{Io, Job, WorldConfig};

/// The open descriptors of `path`, with the flags they were opened with.
fn open_flags(path: &Path) -> Vec<(RawFd, i32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd").expect("listed") {
        let entry = entry.expect("listed");
        if fs::read_link(entry.path()).is_ok_and(|link| link == path) {
            let fd: RawFd = entry.file_name().to_str().expect("a number").parse().expect("a number");
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).expect("it is open");
            let line = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("it has flags");
            found.push((fd, i32::from_str_radix(line.trim(), 8).expect("octal")));
        }
    }
    found
}

#[test]
fn files_are_opened_for_durable_writes() {
    let dir = directory();
    let dir = dir.path().canonicalize().expect("it exists");
    let mut node = Node::<PortableSeed>::start(WorldConfig::new(1));
    let made = dir.join("made");
    node.io.create_zeroed(&made, 4096).expect("created");
    node.io.open(&made).expect("opened");
    let by_job = dir.join("by-job");
    node.job(Job::CreateZeroed { path: by_job.clone(), size: 4096 }).expect("created");
    let (made, by_job) = (open_flags(&made), open_flags(&by_job));
    assert_eq!((made.len(), by_job.len()), (2, 1));
    for (fd, flags) in made.into_iter().chain(by_job) {
        let both = libc::O_DIRECT | libc::O_DSYNC;
        assert_eq!(flags & both, both, "descriptor {fd} has {flags:o}");
    }
}
