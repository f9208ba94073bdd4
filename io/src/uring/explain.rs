//! What the kernel means when it does not give a ring, and what helps.

use std::io;

use crate::WorldError;
use crate::host::sys;

/// Locked memory of one shard's ring and buffers, with the settings that suit most.
const MEMORY_NEEDED: &str = "about 100 KiB";

/// Explains why a ring could not be set up or used.
pub(super) fn explain(source: io::Error) -> WorldError {
    let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    explain_here(source, sysctl.trim(), &sys::kernel_release())
}

/// The same on a given machine: `sysctl` is the value of kernel.io_uring_disabled (empty: there is none), `kernel` the
/// version.
fn explain_here(source: io::Error, sysctl: &str, kernel: &str) -> WorldError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => match sysctl {
            "" | "0" => WorldError::Forbidden(
                "a seccomp profile blocks it (Docker, containerd and Kubernetes do by default); run with a profile \
                 that allows io_uring_setup, io_uring_enter and io_uring_register"
                    .into(),
            ),
            value => WorldError::Forbidden(format!(
                "the sysctl kernel.io_uring_disabled is {value}; set it to 0, or to 1 and add this user to the group \
                 of kernel.io_uring_group"
            )),
        },
        Some(libc::ENOSYS) => WorldError::Forbidden(format!(
            "kernel {kernel} answers that the call does not exist; use a kernel built with io_uring, and a container \
             runtime whose profile lets it through (Podman and gVisor do not)"
        )),
        Some(libc::ENOMEM) => WorldError::Memory(format!(
            "locked memory (RLIMIT_MEMLOCK) is limited to {} bytes per user, over all processes, and each shard needs \
             {MEMORY_NEEDED}; raise LimitMEMLOCK or grant CAP_IPC_LOCK",
            sys::memlock_limit()
        )),
        Some(libc::EINVAL) => WorldError::Unsupported(format!("kernel {kernel} is too old; 6.1 or newer is needed")),
        _ => WorldError::Io { what: "set up an io_uring", source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_cause_and_cure() {
        for (errno, sysctl, cause, cure) in [
            (libc::ENOSYS, "0", "not permitted: kernel 5.10 answers that the call does not exist", "container runtime"),
            (libc::ENOMEM, "0", "locked memory (RLIMIT_MEMLOCK) is limited to", "raise LimitMEMLOCK"),
            (libc::EINVAL, "0", "kernel 5.10 is too old", "6.1 or newer"),
            (libc::EPERM, "", "not permitted: a seccomp profile blocks it", "a profile that allows io_uring_setup"),
            (libc::EPERM, "0", "not permitted: a seccomp profile blocks it", "a profile that allows io_uring_setup"),
            (libc::EPERM, "1", "the sysctl kernel.io_uring_disabled is 1", "kernel.io_uring_group"),
            (libc::EPERM, "2", "the sysctl kernel.io_uring_disabled is 2", "set it to 0"),
            (libc::EMFILE, "0", "cannot set up an io_uring: ", ""),
        ] {
            let text = explain_here(io::Error::from_raw_os_error(errno), sysctl, "5.10").to_string();
            assert!(text.contains(cause) && text.contains(cure) && !text.contains('\n'), "{errno}: {text}");
        }
    }
}
