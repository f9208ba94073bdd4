//! The segments of the log, from the newest one back to the oldest that is needed: which files they are, whether their
//! footers may stand for them, and what proves that they are the log's.

use bytes::Bytes;
use ringraft_io::BLOCK_ALIGN;

use super::block::{self, BlockError, Head, Header, Kind};
use super::cursor::{Cursor, Headless};
use super::footer::{self, Links};
use super::judge::Following;
use super::recovery::{Attempt, Found, How, Load, Outcome, refused};
use crate::config::Config;
use crate::error::{EngineError, Reason};

/// A file that may be a segment of the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) generation: u64,
    pub(crate) file: usize,
    /// Where it begins, if its head is damaged.
    pub(crate) headless: Option<Headless>,
}

impl Candidate {
    pub(crate) fn headless(file: usize, headless: Headless) -> Candidate {
        Candidate { generation: headless.generation, file, headless: Some(headless) }
    }

    /// Whether a log may end with it: its head was durable.
    pub(crate) fn is_proven(&self) -> bool {
        self.headless.is_none_or(|headless| headless.proven)
    }
}

/// A segment of the chain.
pub(crate) struct Link {
    pub(crate) generation: u64,
    pub(crate) file: usize,
    pub(crate) headless: Option<Headless>,
    /// What it says of the segment before it.
    pub(crate) links: Links,
    /// Its footer, if it need not be read.
    pub(crate) sealed: Option<Sealed>,
}

/// A footer that may stand for its segment.
pub(crate) struct Sealed {
    pub(crate) header: Header,
    pub(crate) links: Links,
    pub(crate) bytes: Bytes,
}

impl Attempt<'_> {
    /// Follows the links from the newest segment to the first one needed; oldest first. Or says what to try instead.
    /// `proven`: all up to this number is durable, as blocks of this history say. (A mark in a segment that is not part
    /// of it may be about batches of the same numbers in another.)
    pub(crate) fn chain(
        &self,
        newest: Link,
        first: u64,
        mut proven: u64,
        ends_damaged: bool,
        load: &mut Load,
    ) -> Result<Result<Vec<Link>, Outcome>, EngineError> {
        let mut chain = vec![newest];
        loop {
            let next = &chain[chain.len() - 1];
            let links = next.links;
            if links.previous < first || links.previous == 0 {
                break;
            }
            let at = self.candidates.binary_search_by_key(&links.previous, |candidate| candidate.generation);
            let found = at.ok().map(|at| self.candidates[at]);
            let naming = next.headless.is_none().then(|| self.head_header(next.file));
            proven = proven.max(naming.map_or(0, |naming| naming.durable));
            // A head that was durable may be damaged; one that was not never was.
            let found = found.filter(|found| found.is_proven() || proven >= links.head_lsn);
            let Some(found) = found.filter(|found| found.generation < next.generation) else {
                if proven < links.head_lsn {
                    // Nobody says that the segment before was ever durable, so this one never was.
                    return Ok(Err(Outcome::Shorten { upto: next.generation - 1 }));
                }
                if ends_damaged {
                    break;
                }
                return Err(refused(&self.config.dir, 0, Reason::Missing { generation: links.previous }));
            };
            let named = naming.and_then(|naming| self.footer(&found, &naming, &links, load));
            let trusted = !self.whole && links.head_lsn <= proven;
            if found.headless.is_some() && !self.whole && !(trusted && named.is_some()) {
                return Ok(Err(Outcome::Whole));
            }
            let of_footer = named.as_ref().map(|named| named.links);
            let links = match found.headless {
                Some(headless) => of_footer.unwrap_or(Links {
                    previous: self.below(found.generation),
                    head_lsn: headless.lsn,
                    previous_footer: 0,
                }),
                None if !trusted || named.is_none() => match self.head(&found, load)? {
                    Some(head) => links_of(&head, self.head_header(found.file).lsn),
                    // In a chain every head but the last was durable: this one is damaged.
                    None => {
                        let bytes = load(found.file, How::All)?;
                        let headless = Headless::find(self.config, &bytes, Some(found.generation));
                        let missing = || refused(&self.config.dir, 0, Reason::Missing { generation: found.generation });
                        return headless.map(Outcome::Headless).map(Err).ok_or_else(missing);
                    }
                },
                None => of_footer.expect("there is one"),
            };
            let Candidate { generation, file, headless } = found;
            chain.push(Link { generation, file, headless, links, sealed: named.filter(|_| trusted) });
        }
        if chain[chain.len() - 1].generation > first && !ends_damaged {
            return Err(refused(&self.config.dir, 0, Reason::Missing { generation: first }));
        }
        chain.reverse();
        Ok(Ok(chain))
    }

    /// The next candidate below a generation.
    pub(crate) fn below(&self, generation: u64) -> u64 {
        let at = self.candidates.partition_point(|candidate| candidate.generation < generation);
        at.checked_sub(1).map_or(0, |at| self.candidates[at].generation)
    }

    /// What a candidate's head says, if it is whole.
    pub(crate) fn head(&self, candidate: &Candidate, load: &mut Load) -> Result<Option<Head>, EngineError> {
        let file = &self.files[candidate.file];
        let header = self.head_header(candidate.file);
        let len = block::padded_len(header.body_len as usize);
        let bytes = if len > file.start.len() { load(candidate.file, How::Part(0, len))? } else { file.start.clone() };
        let Ok(body) = block::read_body(&header, &bytes) else { return Ok(None) };
        block::read_head(body).map(Some).map_err(|kind| refused(&file.path, 0, Reason::Checksum { kind }))
    }

    /// The header of a candidate's head.
    pub(crate) fn head_header(&self, file: usize) -> Header {
        read_head_header(self.config, &self.files[file]).expect("readable, or it were headless")
    }

    /// The footer of a segment that the next segment's head names. Both were written in one opening: a footer of an
    /// earlier one may lie in the same place and end with the same batch.
    pub(crate) fn footer(
        &self,
        segment: &Candidate,
        naming: &Header,
        links: &Links,
        load: &mut Load,
    ) -> Option<Sealed> {
        let Candidate { generation, file, .. } = *segment;
        if links.previous_footer == 0 {
            return None;
        }
        let position = u64::from(links.previous_footer) * BLOCK_ALIGN as u64;
        let left = self.files[file].bytes.checked_sub(position)?;
        // What cannot be read is read again as part of the segment, and then told.
        let mut bytes = load(file, How::Part(position, BLOCK_ALIGN)).ok()?;
        let header = block::read_header(&bytes, self.config.log_id, position, left).ok()?;
        let named = header.lsn == links.head_lsn && header.lsn == naming.lsn && header.epoch == naming.epoch;
        if header.kind != Kind::Footer || header.generation != generation || !named {
            return None;
        }
        let len = block::padded_len(header.body_len as usize);
        if len > bytes.len() {
            bytes = load(file, How::Part(position, len)).ok()?;
        }
        let body = block::read_body(&header, &bytes).ok()?;
        let links = footer::read(body, position)?;
        Some(Sealed { header, links, bytes })
    }

    /// Number of the last batch before a segment, and its epoch.
    pub(crate) fn begin_of(&self, link: &Link) -> (u64, u64) {
        match link.headless {
            Some(headless) => (headless.lsn, headless.epoch),
            None => {
                let header = self.head_header(link.file);
                (header.lsn, header.epoch)
            }
        }
    }

    /// How the segment at `next` of the chain continues the log.
    pub(crate) fn following(
        &self,
        cursor: &Cursor,
        chain: &[Link],
        next: usize,
        load: &mut Load,
    ) -> Result<Following, EngineError> {
        let Some(link) = chain.get(next) else { return Ok(Following::None) };
        let (lsn, epoch) = self.begin_of(link);
        if epoch < cursor.epoch || lsn < cursor.lsn {
            return Ok(Following::Invalid);
        }
        if lsn == cursor.lsn {
            return Ok(Following::Valid);
        }
        let end = cursor.numbered(lsn, epoch);
        Ok(if self.proves(&end, chain, next, lsn, load)? { Following::Beyond } else { Following::Invalid })
    }

    /// Whether the blocks that follow `end` directly, from the segment at `next` of the chain on, say that all up to
    /// `mark` was durable.
    pub(crate) fn proves(
        &self,
        end: &Cursor,
        chain: &[Link],
        next: usize,
        mark: u64,
        load: &mut Load,
    ) -> Result<bool, EngineError> {
        let Some(link) = chain.get(next) else { return Ok(false) };
        let (lsn, epoch) = self.begin_of(link);
        if lsn != end.lsn || epoch < end.epoch {
            return Ok(false);
        }
        // A footer stands for a segment that is durable, and a segment without a head was found to be.
        if link.sealed.is_some() || link.headless.is_some() {
            return Ok(true);
        }
        let file = &self.files[link.file];
        let bytes = load(link.file, How::All)?;
        let mut cursor = Cursor::new(self.config, link.generation, file.bytes);
        if cursor.head(&bytes, None).is_err() {
            return Ok(false);
        }
        cursor.run(&bytes);
        Ok(cursor.durable >= mark || self.proves(&cursor, chain, next + 1, mark, load)?)
    }

    /// The footer of a segment of the chain, if there is one.
    pub(crate) fn footer_of(&self, chain: &[Link], nth: usize, load: &mut Load) -> Option<Sealed> {
        let (link, next) = (&chain[nth], chain.get(nth + 1)?);
        let naming = next.headless.is_none().then(|| self.head_header(next.file))?;
        let segment = Candidate { generation: link.generation, file: link.file, headless: link.headless };
        self.footer(&segment, &naming, &next.links, load)
    }
}

pub(crate) fn links_of(head: &Head, lsn: u64) -> Links {
    Links { previous: head.previous, head_lsn: lsn, previous_footer: head.footer }
}

pub(crate) fn read_head_header(config: &Config, file: &Found) -> Result<Header, BlockError> {
    let header = block::read_header(&file.start, config.log_id, 0, file.bytes)?;
    if header.kind == Kind::Head { Ok(header) } else { Err(BlockError::Stale) }
}
