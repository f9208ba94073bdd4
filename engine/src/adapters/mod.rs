//! The log as other raft libraries want theirs. Each behind a feature of its name, over a [`blocking::Log`](crate::blocking).

#[cfg(feature = "openraft")]
pub mod openraft;
#[cfg(feature = "raft-rs")]
pub mod raft_rs;
