//! The questions the core may ask of the log.

use std::ops::AddAssign;

use crate::types::{ConfState, EntryId, EntryMeta, HardState, Index, Term};

/// What a log knows. All questions are answered from memory, without blocking.
///
/// The core overlays this with its own metadata of entries that are not durable yet, so for those it does not matter
/// whether the log shows them already.
pub trait Storage {
    /// What was durable at start: the hard state, and the membership as of the latest snapshot (as of
    /// [`Config::applied`](crate::Config::applied), if that is set: conf changes up to there are not handed out again).
    fn initial_state(&self) -> (HardState, ConfState);

    /// The position just before the first entry kept: where the log was compacted to, or the latest snapshot; `(0, 0)`
    /// for a log that starts at 1.
    fn base(&self) -> EntryId;

    /// Index of the last entry; the base's if there is none.
    fn last_index(&self) -> Index;

    /// Term of the entry at `index`, or of the base.
    ///
    /// # Errors
    /// Below the base, or beyond the last index.
    fn term(&self, index: Index) -> Result<Term, StorageError> {
        let base = self.base();
        if index == base.index { Ok(base.term) } else { Ok(self.meta(index)?.term) }
    }

    /// What is known of the entry at `index`.
    ///
    /// # Errors
    /// At or below the base, or beyond the last index.
    fn meta(&self, index: Index) -> Result<EntryMeta, StorageError>;

    /// The highest `last` in `after + 1 ..= upto` for which the encoded [sizes](crate::record::encoded_len) of
    /// `after + 1 ..= last` sum to at most `bytes_max`, but at least `after + 1`.
    ///
    /// # Errors
    /// If `after` is below the base, or `upto` beyond the last index.
    fn limit(&self, after: Index, upto: Index, bytes_max: u64) -> Result<Index, StorageError> {
        self.meta(upto)?;
        let mut last = after.next();
        let mut size = self.meta(last)?.encoded_size();
        while last < upto {
            size += self.meta(last.next())?.encoded_size();
            if size > bytes_max {
                break;
            }
            last = last.next();
        }
        Ok(last)
    }

    /// The encoded size of `after + 1 ..= upto`. A log that knows where its entries lie can answer without a walk.
    ///
    /// # Errors
    /// If `after` is below the base, or `upto` beyond the last index.
    fn size(&self, after: Index, upto: Index) -> Result<u64, StorageError> {
        let mut size = 0;
        for index in after.0 + 1..=upto.0 {
            size += self.meta(Index(index))?.encoded_size();
        }
        Ok(size)
    }

    /// What `after + 1 ..= upto` take, asked once for every lot that is applied. A log that keeps its entries' sizes
    /// beside each other walks them faster than this default does.
    ///
    /// # Errors
    /// If `after` is below the base, or `upto` beyond the last index.
    fn sizes(&self, after: Index, upto: Index) -> Result<Sizes, StorageError> {
        let mut sizes = Sizes::default();
        for index in after.0 + 1..=upto.0 {
            sizes += self.meta(Index(index))?;
        }
        Ok(sizes)
    }

    /// The latest snapshot that could be sent to a follower, if there is one yet.
    fn snapshot(&self) -> Option<EntryId>;
}

/// What some entries take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sizes {
    /// Bytes of their records.
    pub encoded: u64,
    /// Bytes of their payloads.
    pub payload: u64,
}

impl AddAssign<EntryMeta> for Sizes {
    fn add_assign(&mut self, meta: EntryMeta) {
        self.encoded += meta.encoded_size();
        self.payload += u64::from(meta.size);
    }
}

/// Why a log has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StorageError {
    /// The entry is gone: compacted.
    #[error("entry {index} is compacted: the log begins after {base}")]
    Compacted {
        /// Asked for.
        index: Index,
        /// The log's base.
        base: Index,
    },
    /// The entry is not there yet.
    #[error("entry {index} is not there: the log ends at {last}")]
    Unavailable {
        /// Asked for.
        index: Index,
        /// The log's last index.
        last: Index,
    },
}
