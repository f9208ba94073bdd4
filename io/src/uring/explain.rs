//! What the kernel means when it does not give a ring, and what helps.

use std::io;

use crate::WorldError;
use crate::host::sys;

/// Explains why a ring could not be set up; `needed` is its locked memory in bytes.
pub(super) fn explain(source: io::Error, needed: usize) -> WorldError {
    let kernel = sys::kernel_release();
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            let path = "/proc/sys/kernel/io_uring_disabled";
            let value = std::fs::read_to_string(path).unwrap_or_default();
            match value.trim() {
                "" | "0" => WorldError::Forbidden(
                    "a seccomp profile blocks it (Docker, containerd and Kubernetes do by default); run with a \
                     profile that allows io_uring_setup, io_uring_enter and io_uring_register"
                        .into(),
                ),
                value => WorldError::Forbidden(format!(
                    "the sysctl kernel.io_uring_disabled is {value}; set it to 0, or to 1 and add this user to the \
                     group of kernel.io_uring_group"
                )),
            }
        }
        Some(libc::ENOSYS) => WorldError::Forbidden(format!(
            "kernel {kernel} answers that the call does not exist; use a kernel built with io_uring, and a \
             container runtime whose profile lets it through (Podman and gVisor do not)"
        )),
        Some(libc::ENOMEM) => WorldError::Memory(format!(
            "locked memory (RLIMIT_MEMLOCK) is limited to {} bytes per user and {needed} more are needed; raise \
             LimitMEMLOCK or grant CAP_IPC_LOCK",
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
        for (errno, want) in [
            (libc::ENOSYS, "does not exist"),
            (libc::ENOMEM, "RLIMIT_MEMLOCK"),
            (libc::EINVAL, "6.1 or newer"),
            (libc::EPERM, "io_uring is not permitted"),
        ] {
            let text = explain(io::Error::from_raw_os_error(errno), 4096).to_string();
            assert!(text.contains(want) && !text.contains('\n'), "{errno}: {text}");
        }
    }
}
