//! Why a world cannot be had, in one line that names the cause and the cure.

use std::io;
use std::net::SocketAddr;

/// Why a world could not be started, or a shard not be set up.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
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
    /// The kernel is too old, or was built without what io_uring needs.
    #[error("io_uring lacks what is needed: {0}")]
    Unsupported(String),
    /// A limit on the resources of io_uring.
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

impl WorldError {
    /// Whether it is io_uring that cannot be had: without it a world may well be started.
    #[must_use]
    pub fn is_about_rings(&self) -> bool {
        matches!(self, WorldError::Forbidden(_) | WorldError::Unsupported(_) | WorldError::Memory(_))
    }
}
