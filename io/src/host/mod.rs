//! What the worlds on the real machine share: everything but how a shard gives its operations to the kernel.

pub(crate) mod config;
pub(crate) mod control;
pub(crate) mod error;
pub(crate) mod files;
pub(crate) mod helpers;
pub(crate) mod jobs;
pub(crate) mod mail;
pub(crate) mod open_files;
pub(crate) mod shard;
pub(crate) mod signal;
pub(crate) mod slots;
pub(crate) mod sockets;
pub(crate) mod spin;
pub(crate) mod sys;
pub(crate) mod world;
