//! What the engine is told at the door.

use std::path::PathBuf;
use std::time::Duration;

use ringraft_io::BLOCK_ALIGN;
use ringraft_raft::record;

use crate::error::EngineError;
use crate::wal::{block, section};

/// Limits and names of one engine. All bounds are inclusive.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the segments lie. One engine per directory.
    pub dir: PathBuf,
    /// Identity of this log, in every block: a file of another log is refused. Any number that no other log of the
    /// cluster has (say, made of cluster, node and shard).
    pub log_id: u64,
    /// Bytes of a segment file; a multiple of 4096. May differ from an earlier run's: older files keep their size.
    pub segment_bytes: u64,
    /// Beyond this many segments in use, [`Engine::pinning_groups`](crate::Engine::pinning_groups) names the groups
    /// to compact.
    pub segments_max: usize,
    /// Files kept zeroed or recycled for reuse, at least two more than `segments_reserve`; more are removed.
    pub segments_free_max: usize,
    /// Spare files that only writes without entries may use (votes, compactions) when no more can be made, because the
    /// disk is full: each lasts for a segment full of them. They are made beside the one that is always kept ready. 0:
    /// then a sixteenth of a segment is kept for them.
    pub segments_reserve: usize,
    /// A write in flight for so long is [overdue](crate::Engine::overdue).
    pub write_deadline: Duration,
    /// Bytes of a batch, header and padding included; a multiple of 4096. A batch is the unit of writing and syncing.
    pub batch_bytes_max: usize,
    /// Bytes of one encoded record. A record that does not fit a batch gets a larger batch of its own.
    pub record_bytes_max: usize,
    /// Batches submitted and not yet known durable.
    pub batches_inflight_max: usize,
    /// Bytes of full batches that wait for their turn to be submitted; beyond it appends are refused as
    /// [`EngineError::Busy`].
    pub queue_bytes_max: usize,
    /// Bytes of entries kept in memory, beside those of the active segment (which always are).
    pub cache_bytes_max: u64,
    /// While more than `segments_max` segments are in use, groups that keep the oldest one are written again at the
    /// end: at most so many bytes for every 100 bytes written, and only groups whose entries fill at most half a batch
    /// (larger ones have to be compacted). 0: never.
    pub rewrite_percent: u32,
    /// Read and verify all of the log when it is opened, as if no segment had a footer. Otherwise only the newest
    /// segment is read whole; damage in an older one is found when the entry in it is read. **Leave this on**: in rare
    /// histories of crashes a footer names a place that no longer holds the entry, which then reads as damaged.
    pub verify_on_open: bool,
    /// Open a log although blocks of it that were durable are damaged. Groups that have lost something to that then have
    /// [`Wounds`](crate::Wounds), and the caller keeps the rule that stands there. Otherwise such a log is refused; but
    /// not if nothing is lost that is still needed.
    pub open_with_holes: bool,
    /// The bits of a token that say whose it is.
    pub token_mask: u64,
    /// Those bits of the engine's own tokens.
    pub token_base: u64,
}

impl Config {
    /// The defaults, for a log `log_id` in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, log_id: u64) -> Config {
        Config {
            dir: dir.into(),
            log_id,
            segment_bytes: 64 << 20,
            segments_max: 16,
            segments_free_max: 2,
            segments_reserve: 1,
            write_deadline: Duration::from_secs(5),
            batch_bytes_max: 1 << 20,
            record_bytes_max: 16 << 20,
            batches_inflight_max: 2,
            queue_bytes_max: 16 << 20,
            cache_bytes_max: 64 << 20,
            rewrite_percent: 25,
            verify_on_open: true,
            open_with_holes: false,
            token_mask: 0xff << 56,
            token_base: 0x0e << 56,
        }
    }

    /// Checks that the limits go together.
    ///
    /// # Errors
    /// [`EngineError::Config`].
    pub fn check(&self) -> Result<(), EngineError> {
        let align = BLOCK_ALIGN as u64;
        let refuse = |what| Err(EngineError::Config { what });
        if self.log_id == 0 {
            return refuse("log_id must not be 0");
        }
        if !self.segment_bytes.is_multiple_of(align) || self.segment_bytes < 8 * align {
            return refuse("segment_bytes must be a multiple of 4096, and at least 8 of them");
        }
        if self.segment_bytes > 1 << 31 {
            return refuse("segment_bytes must be at most 2 GiB");
        }
        if !self.batch_bytes_max.is_multiple_of(BLOCK_ALIGN) || self.batch_bytes_max == 0 {
            return refuse("batch_bytes_max must be a multiple of 4096, and not 0");
        }
        if self.batch_bytes_max as u64 > self.segment_bytes / 2 {
            return refuse("batch_bytes_max must be at most half of segment_bytes");
        }
        if self.record_bytes_max < record::HEADER {
            return refuse("record_bytes_max must hold at least a record's header");
        }
        if self.block_for_record() > self.segment_bytes - self.checkpoint_bytes_max() {
            return refuse("record_bytes_max must fit a segment beside its checkpoint (a quarter)");
        }
        if self.batches_inflight_max == 0 || self.segments_free_max == 0 || self.segments_max == 0 {
            return refuse("batches_inflight_max, segments_free_max and segments_max must not be 0");
        }
        if self.write_deadline.is_zero() {
            return refuse("write_deadline must not be 0");
        }
        if self.token_mask & self.token_base != self.token_base || self.token_mask.count_zeros() < 32 {
            return refuse("token_base must lie within token_mask, which leaves at least 32 bits");
        }
        Ok(())
    }

    /// Bytes of the block that holds one record of the largest size and everything a section can carry.
    fn block_for_record(&self) -> u64 {
        let bytes = self.record_bytes_max + block::HEADER + section::HEADER + section::PARTS_MAX;
        bytes.next_multiple_of(BLOCK_ALIGN) as u64
    }

    /// Bytes that the footer of a segment may take.
    pub(crate) fn footer_bytes_max(&self) -> usize {
        usize::try_from(self.segment_bytes / 8).expect("at most 2 GiB")
    }

    /// Bytes that the checkpoint at the start of a segment may take.
    pub(crate) fn checkpoint_bytes_max(&self) -> u64 {
        (self.segment_bytes / 4).next_multiple_of(BLOCK_ALIGN as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_go_together_and_odd_limits_are_refused() {
        let good = Config::new("x", 1);
        good.check().unwrap();
        let refused = |change: fn(&mut Config)| {
            let mut config = good.clone();
            change(&mut config);
            matches!(config.check(), Err(EngineError::Config { .. }))
        };
        assert!(refused(|c| c.log_id = 0));
        assert!(refused(|c| c.segment_bytes = 5000));
        assert!(refused(|c| c.segment_bytes = 4 << 30));
        assert!(refused(|c| c.batch_bytes_max = 100));
        assert!(refused(|c| c.batch_bytes_max = 64 << 20));
        assert!(refused(|c| c.record_bytes_max = 64 << 20));
        assert!(refused(|c| c.record_bytes_max = 0));
        assert!(refused(|c| c.batches_inflight_max = 0));
        assert!(refused(|c| c.token_base = 1));
    }
}
