//! `ringraft`: a replicated key-value server, and the parts to build another replicated service from.
//!
//! - [`node`]: the shard loop over a log engine, a transport and raft groups; generic over the state machine.
//! - [`machine`]: the trait to implement for a state of your own; [`kv`] is the one we ship.
//! - [`protocol`], [`client`]: what clients say, and a client.
//! - [`server`]: a node as a process; [`bench`](mod@bench): a load for it; [`cli`]: the program;
//!   [`doctor`]: what a disk lets one expect.
//!
//! The layers below are crates of their own: `ringraft-raft`, `ringraft-transport`, `ringraft-engine`, `ringraft-io`.
#![forbid(unsafe_code)]

pub mod bench;
pub mod cli;
pub mod client;
pub mod config;
pub mod doctor;
pub mod etcd_follow;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod kv;
pub mod machine;
pub mod node;
pub mod protocol;
pub mod server;
