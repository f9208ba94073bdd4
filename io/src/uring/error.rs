//! Why the io_uring world cannot be had, in one line that names the cause and the cure.

use std::io;
use std::net::SocketAddr;

use super::sys;

/// Why a world could not be started, or a ring not be set up.
#[derive(Debug, thiserror::Error)]
pub enum UringError {
    /// A listener's address cannot be had.
    #[error("cannot listen on {address}: {source}; choose another")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel does not let us use io_uring at all.
    #[error("io_uring is not permitted: {0}")]
    Forbidden(String),
    /// The kernel is too old, or was built without what we need.
    #[error("io_uring lacks what is needed: {0}")]
    Unsupported(String),
    /// A limit on resources.
    #[error("io_uring cannot get the memory it needs: {0}")]
    Memory(String),
    /// A thread, an event or anything else could not be made.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl UringError {
    /// Explains why a ring could not be set up; `needed` is its locked memory in bytes.
    pub(super) fn setup(source: io::Error, needed: usize) -> UringError {
        let kernel = sys::kernel_release();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                let path = "/proc/sys/kernel/io_uring_disabled";
                let value = std::fs::read_to_string(path).unwrap_or_default();
                match value.trim() {
                    "" | "0" => UringError::Forbidden(
                        "a seccomp profile blocks it (Docker, containerd and Kubernetes do by default); run with a \
                         profile that allows io_uring_setup, io_uring_enter and io_uring_register"
                            .into(),
                    ),
                    value => UringError::Forbidden(format!(
                        "the sysctl kernel.io_uring_disabled is {value}; set it to 0, or to 1 and add this user to the \
                         group of kernel.io_uring_group"
                    )),
                }
            }
            Some(libc::ENOSYS) => UringError::Forbidden(format!(
                "kernel {kernel} answers that the call does not exist; use a kernel built with io_uring, and a \
                 container runtime whose profile lets it through (Podman and gVisor do not)"
            )),
            Some(libc::ENOMEM) => UringError::Memory(format!(
                "locked memory (RLIMIT_MEMLOCK) is limited to {} bytes per user and {needed} more are needed; raise \
                 LimitMEMLOCK or grant CAP_IPC_LOCK",
                sys::memlock_limit()
            )),
            Some(libc::EINVAL) => {
                UringError::Unsupported(format!("kernel {kernel} is too old; 6.1 or newer is needed"))
            }
            _ => UringError::Io { what: "set up an io_uring", source },
        }
    }
}
