//! The few system calls that neither the standard library nor socket2 offers.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::event::EventfdFlags;
use rustix::fs::{Advice, AtFlags, CWD, FlockOperation};
use rustix::net::{RecvFlags, Shutdown};
use rustix::process::Resource;
use rustix::thread::CpuSet;
use rustix::time::ClockId;

use crate::Time;

/// The monotonic clock.
pub(crate) fn clock() -> Time {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).expect("the monotonic clock starts at zero");
    let nanos = u64::try_from(now.tv_nsec).expect("nanoseconds are not negative");
    Time(seconds * 1_000_000_000 + nanos)
}

/// A counter that can be waited for; see `eventfd(2)`.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?)
}

/// Adds one to an eventfd, which wakes its reader.
pub(crate) fn eventfd_add(fd: &OwnedFd) {
    #[expect(clippy::host_endian_bytes, reason = "the kernel reads a number of its own kind")]
    let one = 1u64.to_ne_bytes();
    // The only failure is a counter that is full, and then the reader is awake anyway.
    let _ = rustix::io::write(fd, &one);
}

/// Ends both directions of a socket; what waits on it returns.
pub(crate) fn shutdown(fd: &impl AsFd) {
    // Failing means that the socket is not connected any more, which is what we want.
    let _ = rustix::net::shutdown(fd, Shutdown::Both);
}

/// Bytes that have arrived on a socket, without waiting; they stay there if `peek`.
pub(crate) fn recv_now(fd: &impl AsFd, buf: &mut [u8], peek: bool) -> io::Result<usize> {
    let flags = if peek { RecvFlags::DONTWAIT | RecvFlags::PEEK } else { RecvFlags::DONTWAIT };
    let (n, _) = rustix::net::recv(fd, buf, flags)?;
    Ok(n)
}

/// Takes an exclusive lock that ends with the open file; `Ok(false)` if somebody else has it.
pub(crate) fn flock(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Drops the clean pages that the page cache holds of a file.
pub(crate) fn drop_cache(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?)
}

/// Gives an unnamed file (made with `O_TMPFILE`) the name `path`; an error if the name is taken.
pub(crate) fn link(file: &File, path: &Path) -> io::Result<()> {
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(CWD, from, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

/// Ties the calling thread to the `n`th of the processors it may run on (counted round).
pub(crate) fn pin_thread(n: usize) -> io::Result<()> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    assert!(!cpus.is_empty(), "the thread runs somewhere");
    let mut one = CpuSet::new();
    one.set(cpus[n % cpus.len()]);
    Ok(rustix::thread::sched_setaffinity(None, &one)?)
}

/// How much memory a user may lock, in words.
pub(crate) fn memlock_limit() -> String {
    rustix::process::getrlimit(Resource::Memlock).current.map_or_else(|| "unlimited".into(), |limit| limit.to_string())
}

/// The running kernel's version.
pub(crate) fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| "(unknown)".into(), |text| text.trim().into())
}
