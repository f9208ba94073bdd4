//! The log as other raft libraries want theirs. Each behind a feature of its name, over a [`blocking::Log`](crate::blocking).

#[cfg(feature = "raft-rs")]
pub mod raft_rs;
