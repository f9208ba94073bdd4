//! A node as a process: listeners, shard threads, start and stop.

pub(crate) mod acceptor;
pub(crate) mod clients;
mod run;

pub use acceptor::NodeAcceptor;
pub use run::{ServeError, Server, ServerConfig};
