//! Whether this kernel lets us work, found out by doing it once: the real ring with the real flags.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use io_uring::{IoUring, Probe, Submitter, opcode};

use super::explain::explain;
use super::recv_pool::RecvPool;
use crate::{WorldConfig, WorldError};

/// How long a set-up that lacks locked memory is tried again: the kernel gives back a closed ring's memory late.
const MEMORY_RETRY: Duration = Duration::from_millis(200);

/// What the kernel offers beyond the minimum (6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// The submission queue needs no index array (6.6).
    pub no_sqarray: bool,
    /// A batch goes on after a request that fails at submission (5.18).
    pub submit_all: bool,
    /// The ring shows that completions wait for us, which saves polling calls (5.19).
    pub taskrun_flag: bool,
    /// One receive fills several buffers (6.10).
    pub bundles: bool,
    /// Waiting is not accounted as waiting for a disk (6.15).
    pub no_iowait: bool,
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lacks: Vec<&str> = [
            (self.no_sqarray, "rings without index array"),
            (self.submit_all, "batches that outlive a bad request"),
            (self.taskrun_flag, "the task-run flag"),
            (self.bundles, "receive bundles"),
            (self.no_iowait, "waits outside iowait"),
        ]
        .into_iter()
        .filter_map(|(has, what)| (!has).then_some(what))
        .collect();
        if lacks.is_empty() { f.write_str("nothing") } else { f.write_str(&lacks.join(", ")) }
    }
}

impl Capabilities {
    /// Whether something optional is missing: slower, but works.
    #[must_use]
    pub fn lacks_something(&self) -> bool {
        !(self.no_sqarray && self.submit_all && self.taskrun_flag && self.bundles && self.no_iowait)
    }
}

/// Sets up a ring as a shard does, checks the operations it needs, and takes it down again.
///
/// # Errors
/// One line that names the cause and the cure.
pub fn probe() -> Result<Capabilities, WorldError> {
    let (ring, capabilities) = setup(256, 4096)?;
    let mut known = Probe::new();
    ring.submitter().register_probe(&mut known).map_err(explain)?;
    let missing: Vec<&str> = [
        (opcode::RecvMulti::CODE, "recv"),
        (opcode::SendMsg::CODE, "sendmsg"),
        (opcode::Read::CODE, "read"),
        (opcode::Write::CODE, "write"),
        (opcode::AsyncCancel::CODE, "cancel"),
        (opcode::MsgRingData::CODE, "msg_ring"),
    ]
    .into_iter()
    .filter_map(|(code, name)| (!known.is_supported(code)).then_some(name))
    .collect();
    if !missing.is_empty() {
        return Err(WorldError::Unsupported(format!(
            "no operations {}; kernel 6.1 or newer is needed",
            missing.join(", ")
        )));
    }
    Ok(capabilities)
}

/// A ring for the calling thread: all flags we want, or as many of them as the kernel knows.
pub(super) fn setup(sq_entries: u32, cq_entries: u32) -> Result<(IoUring, Capabilities), WorldError> {
    let mut wanted =
        Capabilities { no_sqarray: true, submit_all: true, taskrun_flag: true, bundles: false, no_iowait: false };
    loop {
        let error = match patiently(|| build(sq_entries, cq_entries, &wanted)) {
            Ok(ring) => {
                wanted.bundles = ring.params().is_feature_recvsend_bundle();
                wanted.no_iowait = ring.params().is_feature_no_iowait();
                return Ok((ring, wanted));
            }
            Err(error) => error,
        };
        match error.raw_os_error() {
            // Newest first.
            Some(libc::EINVAL) if wanted.no_sqarray => wanted.no_sqarray = false,
            Some(libc::EINVAL) if wanted.taskrun_flag => wanted.taskrun_flag = false,
            Some(libc::EINVAL) if wanted.submit_all => wanted.submit_all = false,
            _ => return Err(explain(error)),
        }
    }
}

/// A shard's receive buffers, registered with its ring.
pub(super) fn pool(submitter: &Submitter<'_>, config: &WorldConfig) -> Result<RecvPool, WorldError> {
    patiently(|| RecvPool::new(submitter, config.recv_buffers, config.recv_buffer_size)).map_err(explain)
}

/// Tries for a while what lacks locked memory.
pub(super) fn patiently<T>(mut step: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + MEMORY_RETRY;
    loop {
        match step() {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

fn build(sq_entries: u32, cq_entries: u32, wanted: &Capabilities) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.dontfork().setup_cqsize(cq_entries).setup_clamp().setup_single_issuer().setup_defer_taskrun();
    if wanted.no_sqarray {
        builder.setup_no_sqarray();
    }
    if wanted.taskrun_flag {
        builder.setup_taskrun_flag();
    }
    if wanted.submit_all {
        builder.setup_submit_all();
    }
    builder.build(sq_entries)
}
