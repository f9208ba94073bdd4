//! Walks the valid blocks of a segment, and finds the next ones behind damage. Pure.
//!
//! Behind damage may lie the rest of the log, or what an earlier crash left: blocks behind a cut, of the same segment and
//! with fitting numbers. What tells them apart is a durable mark: blocks behind a cut never say that the block which was
//! cut first, or one after it, was durable. So a [stretch](Cursor::resume) of blocks counts only if one of its own marks
//! reaches the number before its first.

use super::block::{self, BlockError, Head, Header, Kind};
use super::chain::Sealed;
use crate::config::Config;
use ringraft_io::BLOCK_ALIGN;

/// A place between two blocks of a segment. All but `position` is of the block that ends there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    log_id: u64,
    pub(crate) generation: u64,
    file_bytes: u64,
    pub(crate) position: u64,
    pub(crate) lsn: u64,
    pub(crate) epoch: u64,
    /// The highest ones met.
    pub(crate) first: u64,
    pub(crate) durable: u64,
    pub(crate) body_len: usize,
    pub(crate) sections: u32,
}

/// Why there is no head.
pub(crate) enum HeadError {
    Block(BlockError),
    Checksum(u16),
}

impl Cursor {
    pub(crate) fn new(config: &Config, generation: u64, file_bytes: u64) -> Cursor {
        Cursor {
            log_id: config.log_id,
            generation,
            file_bytes,
            position: 0,
            lsn: 0,
            epoch: 0,
            first: 0,
            durable: 0,
            body_len: 0,
            sections: 0,
        }
    }

    /// Behind the last batch of a sealed segment.
    pub(crate) fn over(self, sealed: &Sealed, file_bytes: u64) -> Cursor {
        let Header { generation, position, lsn, epoch, .. } = sealed.header;
        Cursor { generation, file_bytes, position, lsn, epoch, ..self }
    }

    pub(crate) fn into_next(self, generation: u64, file_bytes: u64) -> Cursor {
        Cursor { generation, file_bytes, position: 0, ..self }
    }

    /// The same place, with another number and epoch before it.
    pub(crate) fn numbered(self, lsn: u64, epoch: u64) -> Cursor {
        Cursor { lsn, epoch, ..self }
    }

    /// Takes the head, which must continue a segment of this generation and last batch.
    pub(crate) fn head(&mut self, bytes: &[u8], continues: Option<(u64, u64)>) -> Result<Head, HeadError> {
        let (header, body) = self.read(bytes, Kind::Head).map_err(HeadError::Block)?;
        let head = block::read_head(body).map_err(HeadError::Checksum)?;
        let fits = continues.is_none_or(|(previous, lsn)| head.previous == previous && header.lsn == lsn);
        if !fits || head.segment_bytes != self.file_bytes || header.first > self.generation {
            return Err(HeadError::Block(BlockError::Stale));
        }
        self.take(&header);
        Ok(head)
    }

    /// Takes the next batch.
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Result<(), BlockError> {
        let (header, _) = self.read(bytes, Kind::Batch)?;
        if header.lsn != self.lsn + 1 || header.durable > self.lsn || header.first > self.generation {
            return Err(BlockError::Stale);
        }
        self.take(&header);
        Ok(())
    }

    /// Takes batches as long as they follow.
    pub(crate) fn run(&mut self, bytes: &[u8]) {
        while self.next(bytes).is_ok() {}
    }

    /// Where the next stretch of batches begins that can only be the log's: before its first one. `proves`: whether the
    /// blocks in later segments that follow a stretch directly prove it; asked with the end of the stretch and the mark
    /// that is needed.
    pub(crate) fn resume<E>(
        &self,
        bytes: &[u8],
        mut proves: impl FnMut(&Cursor, u64) -> Result<bool, E>,
    ) -> Result<Option<Cursor>, E> {
        let mut at = Cursor { position: self.position + BLOCK_ALIGN as u64, ..*self };
        while at.position < bytes.len() as u64 {
            let Some(begin) = at.batch_at(bytes).filter(|begin| begin.lsn > self.lsn) else {
                at.position = self.behind(bytes, at.position);
                continue;
            };
            let mut end = Cursor { durable: 0, ..begin };
            end.run(bytes);
            if end.durable >= begin.lsn || proves(&end, begin.lsn)? {
                return Ok(Some(begin));
            }
            at.position = end.position.max(at.position + BLOCK_ALIGN as u64);
        }
        Ok(None)
    }

    /// This place, made such that the batch here is the next one; if there is one, whatever its number.
    fn batch_at(&self, bytes: &[u8]) -> Option<Cursor> {
        let (header, _) = self.read(bytes, Kind::Batch).ok()?;
        let fits = header.durable < header.lsn && header.lsn > 0 && header.first <= self.generation;
        fits.then(|| Cursor { lsn: header.lsn - 1, epoch: header.epoch, ..*self })
    }

    /// Where the next block may begin behind one that is not taken.
    fn behind(&self, bytes: &[u8], position: u64) -> u64 {
        let rest = usize::try_from(position).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
        let header = block::read_header(rest, self.log_id, position, rest.len() as u64);
        // A block of this segment may lie within one of an earlier life.
        let header = header.ok().filter(|header| header.generation == self.generation);
        position + header.map_or(BLOCK_ALIGN, |header| block::padded_len(header.body_len as usize)) as u64
    }

    fn read<'a>(&self, bytes: &'a [u8], kind: Kind) -> Result<(Header, &'a [u8]), BlockError> {
        let at = usize::try_from(self.position).map_err(|_| BlockError::Length)?;
        let bytes = bytes.get(at..).filter(|rest| !rest.is_empty()).ok_or(BlockError::Length)?;
        let header = block::read_header(bytes, self.log_id, self.position, self.file_bytes - self.position)?;
        // A head lies at the start of its segment, and nothing else does.
        let placed = (kind == Kind::Head) == (self.position == 0);
        if header.kind != kind || !placed || header.generation != self.generation || header.epoch < self.epoch {
            return Err(BlockError::Stale);
        }
        let body = block::read_body(&header, bytes)?;
        Ok((header, body))
    }

    fn take(&mut self, header: &Header) {
        self.position += block::padded_len(header.body_len as usize) as u64;
        self.lsn = header.lsn;
        self.epoch = header.epoch;
        self.first = self.first.max(header.first);
        self.durable = self.durable.max(header.durable);
        self.body_len = header.body_len as usize;
        self.sections = header.sections;
    }
}

/// Where a segment without a head begins: before its first batch that can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Headless {
    pub(crate) generation: u64,
    pub(crate) position: u64,
    pub(crate) lsn: u64,
    pub(crate) epoch: u64,
    /// A batch of its own says that the first one was durable: then its head was, too.
    pub(crate) proven: bool,
}

impl Headless {
    /// Looks for the segment that a file without a readable head holds: of this generation, or of the highest in it.
    pub(crate) fn find(config: &Config, bytes: &[u8], generation: Option<u64>) -> Option<Headless> {
        let header = |at: usize| block::read_header(&bytes[at..], config.log_id, at as u64, (bytes.len() - at) as u64);
        let blocks = || (0..bytes.len()).step_by(BLOCK_ALIGN).filter_map(|at| Some((at, header(at).ok()?)));
        let batches = || blocks().filter(|(_, header)| header.kind == Kind::Batch);
        let generation = generation.or_else(|| batches().map(|(_, header)| header.generation).max())?;
        batches().filter(|(_, header)| header.generation == generation).find_map(|(at, _)| {
            let begin = Cursor { position: at as u64, ..Cursor::new(config, generation, bytes.len() as u64) };
            let begin = begin.batch_at(bytes)?;
            let mut end = begin;
            end.run(bytes);
            let Cursor { position, lsn, epoch, .. } = begin;
            Some(Headless { generation, position, lsn, epoch, proven: end.durable > lsn })
        })
    }

    /// This place in its segment.
    pub(crate) fn cursor(&self, config: &Config, file_bytes: u64) -> Cursor {
        let Headless { generation, position, lsn, epoch, .. } = *self;
        Cursor { position, lsn, epoch, ..Cursor::new(config, generation, file_bytes) }
    }
}
