//! The write-ahead log: blocks in segments in one directory.

pub(crate) mod block;
pub(crate) mod footer;
pub(crate) mod pool;
pub(crate) mod recovery;
pub(crate) mod section;
pub(crate) mod segment;
pub(crate) mod writer;
