//! `ringraft`: a replicated key-value server, and the parts to build another replicated service from.
#![forbid(unsafe_code)]

pub mod client;
pub mod config;
pub mod kv;
pub mod machine;
pub mod protocol;
