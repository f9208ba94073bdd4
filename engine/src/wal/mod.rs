//! The write-ahead log: blocks in segments in one directory.

pub(crate) mod block;
pub(crate) mod chain;
pub(crate) mod cursor;
pub(crate) mod footer;
pub(crate) mod judge;
pub(crate) mod pieces;
pub(crate) mod pool;
pub(crate) mod recovery;
pub(crate) mod replay;
pub(crate) mod section;
pub(crate) mod segment;
pub(crate) mod writer;
