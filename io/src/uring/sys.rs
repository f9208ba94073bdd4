//! The few plain system calls that neither the standard library nor socket2 offers, made safe.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use crate::Time;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The monotonic clock.
pub(super) fn clock() -> Time {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the kernel fills `now`, which lives on our stack for the whole call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, now.as_mut_ptr()) };
    assert_eq!(result, 0, "the monotonic clock always exists");
    // SAFETY: the call above succeeded, so it has filled `now`.
    let now = unsafe { now.assume_init() };
    let seconds = u64::try_from(now.tv_sec).expect("the monotonic clock starts at zero");
    let nanos = u64::try_from(now.tv_nsec).expect("nanoseconds are not negative");
    Time(seconds * 1_000_000_000 + nanos)
}

/// A counter that can be waited for; see `eventfd(2)`.
pub(super) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })?;
    // SAFETY: the kernel has just made `fd` for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds one to an eventfd, which wakes its reader.
pub(super) fn eventfd_add(fd: &OwnedFd) {
    let one = 1u64;
    // SAFETY: `one` lives on our stack for the whole call. The result does not matter: the only failure is a counter
    // that is full, and then the reader is awake anyway.
    unsafe { libc::write(fd.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
}

/// A timer that can be waited for; see `timerfd_create(2)`.
pub(super) fn timerfd() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = check(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) })?;
    // SAFETY: the kernel has just made `fd` for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets a timer to go off at `at`.
pub(super) fn timerfd_set(fd: &OwnedFd, at: Time) -> io::Result<()> {
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let seconds = i64::try_from(at.0 / 1_000_000_000).expect("nanoseconds in 64 bits are few enough seconds");
    let nanos = i64::try_from(at.0 % 1_000_000_000).expect("below a billion");
    let value = libc::timespec { tv_sec: seconds, tv_nsec: nanos.max(1) };
    let spec = libc::itimerspec { it_interval: zero, it_value: value };
    // SAFETY: `spec` lives on our stack for the whole call.
    let result = unsafe {
        libc::timerfd_settime(fd.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &raw const spec, std::ptr::null_mut())
    };
    check(result).map(drop)
}

/// A second descriptor of an open file that its owner keeps open during this call.
pub(super) fn dup(fd: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: `fd` is borrowed for the whole call, so its descriptor stays open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) };
    borrowed.try_clone_to_owned()
}

/// Ends both directions of a socket; what waits on it returns.
pub(super) fn shutdown(fd: &OwnedFd) {
    // SAFETY: no memory is passed. Failing means that the socket is not connected any more, which is what we want.
    unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RDWR) };
}

/// Bytes that have arrived on a socket, without waiting; they stay there if `peek`.
pub(super) fn recv_now(fd: &OwnedFd, buf: &mut [u8], peek: bool) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | if peek { libc::MSG_PEEK } else { 0 };
    // SAFETY: `buf` is borrowed exclusively for the whole call.
    let n = unsafe { libc::recv(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), flags) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Takes an exclusive lock that ends with the open file; `Ok(false)` if somebody else has it.
pub(super) fn flock(file: &File) -> io::Result<bool> {
    // SAFETY: no memory is passed.
    match check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Drops the clean pages that the page cache holds of a file.
pub(super) fn drop_cache(file: &File) -> io::Result<()> {
    // SAFETY: no memory is passed.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Gives the unnamed file `fd` (made with `O_TMPFILE`) the name `path`; an error if the name is taken.
pub(super) fn link(fd: RawFd, path: &Path) -> io::Result<()> {
    let from = CString::new(format!("/proc/self/fd/{fd}")).expect("no zero byte in it");
    let to = CString::new(path.as_os_str().as_bytes())?;
    let (here, follow) = (libc::AT_FDCWD, libc::AT_SYMLINK_FOLLOW);
    // SAFETY: both strings live on our stack for the whole call.
    check(unsafe { libc::linkat(here, from.as_ptr(), here, to.as_ptr(), follow) }).map(drop)
}

/// Ties the calling thread to the `n`th of the processors it may run on (counted round).
pub(super) fn pin_thread(n: usize) -> io::Result<()> {
    let mut allowed = MaybeUninit::<libc::cpu_set_t>::zeroed();
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: the kernel fills `allowed`, which lives on our stack for the whole call.
    check(unsafe { libc::sched_getaffinity(0, size, allowed.as_mut_ptr()) })?;
    // SAFETY: a set of bits; all zeros is a valid one.
    let allowed = unsafe { allowed.assume_init() };
    let max = usize::try_from(libc::CPU_SETSIZE).expect("a small constant");
    // SAFETY: `cpu` is below CPU_SETSIZE, the number of bits in the set.
    let cpus: Vec<usize> = (0..max).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &allowed) }).collect();
    assert!(!cpus.is_empty(), "the thread runs somewhere");
    // SAFETY: a set of bits; all zeros is a valid one.
    let mut one: libc::cpu_set_t = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the number came out of the range above.
    unsafe { libc::CPU_SET(cpus[n % cpus.len()], &mut one) };
    // SAFETY: `one` lives on our stack for the whole call.
    check(unsafe { libc::sched_setaffinity(0, size, &raw const one) }).map(drop)
}

/// How much memory a user may lock, in words.
pub(super) fn memlock_limit() -> String {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills `limit`, which lives on our stack for the whole call.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    if limit.rlim_cur == libc::RLIM_INFINITY { "unlimited".into() } else { limit.rlim_cur.to_string() }
}

/// The running kernel's version.
pub(super) fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| "(unknown)".into(), |text| text.trim().into())
}

/// A time span as io_uring wants it.
pub(super) fn timespec(span: Duration) -> io_uring::types::Timespec {
    io_uring::types::Timespec::new().sec(span.as_secs()).nsec(span.subsec_nanos())
}
