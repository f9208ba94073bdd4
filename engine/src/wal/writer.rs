//! Blocks on their way to the disk: one is being filled, full ones wait, a few are in flight.

use std::collections::VecDeque;
use std::sync::Arc;

use ringraft_io::{AlignedBuf, BLOCK_ALIGN, Io, Time, Token};
use ringraft_raft::{GroupId, Index};

use super::block::{self, Head, Header, Kind, padded_len};
use super::footer::{Footer, Links};
use super::pool::Pool;
use super::section::{self, Parts};
use super::segment::{Chain, Segment};
use crate::config::Config;
use crate::error::{EngineError, Overdue};
use crate::group::Group;

/// The writing half of the log.
#[derive(Debug)]
pub(crate) struct Writer {
    log_id: u64,
    segment_bytes: u64,
    batch_bytes_max: usize,
    inflight_max: usize,
    epoch: u64,
    /// The last number given to a batch.
    last_lsn: u64,
    /// Every batch up to this is durable.
    durable: u64,
    /// The highest durable mark submitted.
    attested: u64,
    /// The last batch that is not empty.
    last_put: u64,
    /// Of the durable blocks.
    first: u32,
    next_generation: u32,
    /// Of the active segment.
    pub(crate) footer: Footer,
    open: Option<Open>,
    queue: VecDeque<Full>,
    queue_bytes: usize,
    inflight: VecDeque<InFlight>,
    buffers: Vec<AlignedBuf>,
    pub(crate) written_bytes: u64,
    pub(crate) written_batches: u64,
    /// Damage may have taken groups that nothing tells of: said in every head.
    pub(crate) groups_lost: bool,
}

/// The block being filled.
#[derive(Debug)]
struct Open {
    buf: AlignedBuf,
    lsn: u64,
    generation: u32,
    position: u64,
    body_len: usize,
    sections: u32,
}

/// A block that waits to be submitted.
#[derive(Debug)]
struct Full {
    header: Header,
    generation: u32,
    first: u32,
    buf: AlignedBuf,
}

#[derive(Debug)]
struct InFlight {
    token: Token,
    kind: Kind,
    lsn: u64,
    first: u32,
    generation: u32,
    position: u64,
    since: Time,
    done: bool,
}

/// Where a section was put.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) generation: u32,
    /// Of the section's run, from the start of the segment.
    pub(crate) offset: u32,
}

impl Writer {
    /// A writer that goes on behind batch `last_lsn`, which is durable.
    pub(crate) fn new(config: &Config, epoch: u64, last_lsn: u64, next_generation: u32, footer: Footer) -> Writer {
        Writer {
            log_id: config.log_id,
            segment_bytes: config.segment_bytes,
            batch_bytes_max: config.batch_bytes_max,
            inflight_max: config.batches_inflight_max,
            epoch,
            last_lsn,
            durable: last_lsn,
            attested: 0,
            last_put: 0,
            first: 0,
            next_generation,
            footer,
            open: None,
            queue: VecDeque::new(),
            queue_bytes: 0,
            inflight: VecDeque::new(),
            buffers: Vec::new(),
            written_bytes: 0,
            written_batches: 0,
            groups_lost: false,
        }
    }

    pub(crate) fn last_lsn(&self) -> u64 {
        self.last_lsn
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    pub(crate) fn queue_bytes(&self) -> usize {
        self.queue_bytes
    }

    pub(crate) fn inflight(&self) -> usize {
        self.inflight.len()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.open.is_none() && self.queue.is_empty() && self.inflight.is_empty()
    }

    /// Whether the disk says already that all that was ever put is durable.
    pub(crate) fn is_attested(&self) -> bool {
        self.attested >= self.last_put
    }

    /// Bytes left in the active segment between the block being filled and its footer.
    pub(crate) fn segment_left(&self, chain: &Chain) -> u64 {
        let active = chain.active();
        let open = self.open.as_ref().map_or(0, |open| padded_len(open.body_len) as u64);
        (active.bytes - active.next - open).saturating_sub(self.footer.room(0))
    }

    /// Makes sure that a section of `len` bytes fits the block being filled; gives the bytes there are. Begins another
    /// block or segment if needed: `groups` are then written as the checkpoint.
    pub(crate) fn reserve(&mut self, len: usize, chain: &mut Chain, groups: &[Group]) -> usize {
        // A segment with a batch in it is rather ended than filled so far that its footer has no room.
        let room = if chain.active().last_lsn > self.footer.head_lsn() { self.footer.room(len) } else { 0 };
        self.reserve_beside(room, len, chain, groups)
    }

    fn reserve_beside(&mut self, room: u64, len: usize, chain: &mut Chain, groups: &[Group]) -> usize {
        if let Some(open) = &self.open {
            let left = open.buf.len() - block::HEADER - open.body_len;
            if left >= len {
                return left;
            }
        }
        self.close(chain);
        let block_len = padded_len(len);
        let left = chain.active().bytes - chain.active().next;
        if left < block_len as u64 + room {
            self.rotate(chain, groups);
        }
        let active = chain.active_mut();
        let left = usize::try_from(active.bytes - active.next).expect("a segment is at most 2 GiB");
        assert!(left >= block_len, "a section of {len} bytes fits a fresh segment");
        let (generation, position) = (active.generation, active.next);
        self.last_lsn += 1;
        active.last_lsn = self.last_lsn;
        let room = usize::try_from(self.footer.room(self.batch_bytes_max)).expect("bounded");
        let buf = self.buffer(self.batch_bytes_max.min(left.saturating_sub(room)).max(block_len));
        let left = buf.len() - block::HEADER;
        self.open = Some(Open { buf, lsn: self.last_lsn, generation, position, body_len: 0, sections: 0 });
        left
    }

    /// Puts a section into the block being filled. [`Writer::reserve`] has made room.
    pub(crate) fn put(&mut self, group: GroupId, parts: &Parts, run: Option<(Index, u32, &[u8])>) -> Place {
        let open = self.open.as_mut().expect("room was reserved");
        let at = block::HEADER + open.body_len;
        let entries = run.map(|(after, records, bytes)| (after, records, bytes.len()));
        let mut len = section::put(group, parts, entries, &mut open.buf[at..]);
        let offset = open.position + (at + len) as u64;
        if let Some((_, _, bytes)) = run {
            open.buf[at + len..at + len + bytes.len()].copy_from_slice(bytes);
            len += bytes.len();
        }
        open.body_len += len;
        open.sections += 1;
        self.last_put = open.lsn;
        let offset = u32::try_from(offset).expect("a segment is at most 2 GiB");
        Place { generation: open.generation, offset }
    }

    /// Opens an empty block, if none is open: to say how much is durable.
    pub(crate) fn begin(&mut self, chain: &mut Chain, groups: &[Group]) {
        if self.open.is_none() {
            self.reserve(0, chain, groups);
        }
    }

    /// The same, in the active segment as long as there is any room: while the log is being opened.
    pub(crate) fn begin_here(&mut self, chain: &mut Chain, groups: &[Group]) {
        self.reserve_beside(0, 0, chain, groups);
    }

    /// Begins another segment.
    pub(crate) fn rotate(&mut self, chain: &mut Chain, groups: &[Group]) {
        assert!(self.open.is_none(), "the block being filled belongs to the segment before");
        let generation = self.next_generation;
        self.next_generation = generation.checked_add(1).expect("fewer than 2^32 segments");
        let previous = chain.iter().next_back().map_or(0, |segment| segment.generation);
        let footer = self.seal(chain);
        let mut segment = Segment::new(generation, self.segment_bytes);
        segment.last_lsn = self.last_lsn;

        let said = || groups.iter().filter(|group| group.said);
        let body_len = block::HEAD + said().map(|group| section::HEADER + checkpoint(group).len()).sum::<usize>();
        let mut buf = self.buffer(padded_len(body_len));
        let body = &mut buf[block::HEADER..];
        let (segment_bytes, groups_lost) = (self.segment_bytes, self.groups_lost);
        block::put_head(&Head { previous: previous.into(), footer, segment_bytes, groups_lost }, body);
        let (mut at, mut sections) = (block::HEAD, 0);
        for group in said() {
            at += section::put(group.group, &checkpoint(group), None, &mut body[at..]);
            sections += 1;
        }
        assert!(at == body_len, "checkpoint of {at} bytes, {body_len} announced");
        segment.next = buf.len() as u64;
        chain.push(segment);
        let lsn = self.last_lsn;
        self.footer.begin(generation, Links { previous: previous.into(), head_lsn: lsn, previous_footer: footer });
        self.enqueue(Kind::Head, lsn, generation, 0, body_len, sections, buf, chain);
    }

    /// Writes the footer of the active segment, if there is room. Gives its place, in blocks; 0: there is none.
    fn seal(&mut self, chain: &mut Chain) -> u32 {
        let Some(active) = chain.iter().next_back() else { return 0 };
        let (generation, position) = (active.generation, active.next);
        if !self.footer.fits(active.bytes - position) {
            return 0;
        }
        let body_len = self.footer.body_len();
        let mut buf = self.buffer(padded_len(body_len));
        self.footer.write(&mut buf[block::HEADER..block::HEADER + body_len]);
        let active = chain.active_mut();
        active.next += buf.len() as u64;
        active.sealing = true;
        let lsn = self.last_lsn;
        self.enqueue(Kind::Footer, lsn, generation, position, body_len, 0, buf, chain);
        u32::try_from(position / BLOCK_ALIGN as u64).expect("a segment is at most 2 GiB")
    }

    /// Sends what may be sent; see [`Engine::submit`](crate::Engine::submit).
    pub(crate) fn submit<I: Io>(
        &mut self,
        io: &mut I,
        chain: &mut Chain,
        pool: &mut Pool,
        token: &mut impl FnMut() -> Token,
    ) {
        loop {
            let batches = self.inflight.iter().filter(|block| block.kind == Kind::Batch).count();
            if self.queue.is_empty() && batches < self.inflight_max {
                self.close(chain);
            }
            let Some(full) = self.queue.front() else { return };
            if full.header.kind == Kind::Batch && batches >= self.inflight_max {
                return;
            }
            let segment = chain.get_mut(full.generation);
            if segment.file.is_none() {
                segment.file = pool.take();
                segment.reserved = pool.is_held();
            }
            let Some(file) = &segment.file else { return };
            assert!(file.bytes == segment.bytes, "the pool gives files of the size asked for");
            let Full { mut header, generation, first, mut buf } = self.queue.pop_front().expect("looked at above");
            self.queue_bytes -= buf.len();
            header.durable = self.durable;
            self.attested = self.durable;
            block::seal(&header, &mut buf);
            let token = token();
            self.written_bytes += buf.len() as u64;
            self.written_batches += u64::from(header.kind == Kind::Batch);
            io.write(file.id, header.position, buf, token);
            self.inflight.push_back(InFlight {
                token,
                kind: header.kind,
                lsn: header.lsn,
                first,
                generation,
                position: header.position,
                since: io.now(),
                done: false,
            });
        }
    }

    /// A write ended. Gives the new durable mark if it moved.
    pub(crate) fn complete(
        &mut self,
        token: Token,
        buf: AlignedBuf,
        result: std::io::Result<()>,
        chain: &mut Chain,
    ) -> Result<Option<u64>, EngineError> {
        self.recycle(buf);
        let Some(block) = self.inflight.iter_mut().find(|block| block.token == token) else { return Ok(None) };
        if let Err(source) = result {
            let file = chain.get_mut(block.generation).file.as_ref().expect("it was written to");
            let (file, offset) = (file.path.clone(), block.position);
            return Err(EngineError::Failed { file, offset, source: Arc::new(source) });
        }
        block.done = true;
        let before = self.durable;
        while let Some(block) = self.inflight.front().filter(|block| block.done) {
            if block.kind == Kind::Batch {
                assert!(block.lsn == self.durable + 1, "batches become durable one by one");
                self.durable = block.lsn;
            }
            if block.kind == Kind::Footer {
                chain.get_mut(block.generation).sealing = false;
            }
            self.first = self.first.max(block.first);
            self.inflight.pop_front();
        }
        Ok((self.durable > before).then_some(self.durable))
    }

    /// The write that is in flight for longest.
    pub(crate) fn oldest(&self, chain: &Chain) -> Option<Overdue> {
        let oldest = self.inflight.iter().filter(|block| !block.done).min_by_key(|block| block.since)?;
        let file = chain.get(oldest.generation).file.as_ref().expect("it is written to");
        Some(Overdue { file: file.path.clone(), offset: oldest.position, since: oldest.since })
    }

    /// Since when.
    pub(crate) fn oldest_since(&self) -> Option<Time> {
        self.inflight.iter().filter(|block| !block.done).map(|block| block.since).min()
    }

    /// The oldest generation that the durable part of the log needs.
    pub(crate) fn first(&self) -> u32 {
        self.first
    }

    /// Ends the block being filled.
    fn close(&mut self, chain: &mut Chain) {
        let Some(open) = self.open.take() else { return };
        let Open { mut buf, lsn, generation, position, body_len, sections } = open;
        buf.set_len(padded_len(body_len));
        chain.active_mut().next += buf.len() as u64;
        self.enqueue(Kind::Batch, lsn, generation, position, body_len, sections, buf, chain);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a header")]
    fn enqueue(
        &mut self,
        kind: Kind,
        lsn: u64,
        generation: u32,
        position: u64,
        body_len: usize,
        sections: u32,
        buf: AlignedBuf,
        chain: &Chain,
    ) {
        // What the blocks up to this one say decides which segments are needed once it is durable.
        let first = chain.first_needed();
        let header = Header {
            kind,
            log_id: self.log_id,
            generation: generation.into(),
            position,
            lsn,
            durable: 0,
            first: first.into(),
            body_len: u32::try_from(body_len).expect("a block is smaller than a segment"),
            sections,
            epoch: self.epoch,
        };
        self.queue_bytes += buf.len();
        self.queue.push_back(Full { header, generation, first, buf });
    }

    /// A buffer of `len` bytes, from the pool if it is of the usual size.
    fn buffer(&mut self, len: usize) -> AlignedBuf {
        if len > self.batch_bytes_max {
            return AlignedBuf::zeroed(len);
        }
        let mut buf = self.buffers.pop().unwrap_or_else(|| AlignedBuf::zeroed(self.batch_bytes_max));
        buf.set_len(len);
        buf
    }

    fn recycle(&mut self, buf: AlignedBuf) {
        if buf.capacity() == self.batch_bytes_max && self.buffers.len() < self.inflight_max + 3 {
            self.buffers.push(buf);
        }
    }
}

/// What a checkpoint says of a group.
pub(crate) fn checkpoint(group: &Group) -> Parts<'_> {
    Parts {
        hard: Some(group.hard),
        base: Some(group.base),
        snapshot: group.snapshot,
        conf: Some(&group.conf),
        // Footers do not tell of entries that are gone: what an older one has of this group counts no more.
        reset: group.runs.last_index().is_none() && group.wounded.as_ref().is_none_or(|it| it.islands.is_empty()),
        doubt: group.doubt(),
        ..Parts::default()
    }
}
