//! Opening a log: what is read, what is written again, and the first batch. All of it waits; nothing else is in flight.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ringraft_io::{AlignedBuf, BLOCK_ALIGN, Completion, Io, Token};
use ringraft_raft::GroupId;

use crate::config::Config;
use crate::engine::{BatchNo, Engine, RecoveryReport, Rewriting, Tokens};
use crate::error::{EngineError, Overdue};
use crate::group::Group;
use crate::group_log::GroupLog;
use crate::repair::Fills;
use crate::wal::pool::Pool;
use crate::wal::recovery::{Found, How, Unattested, recover};
use crate::wal::section;
use crate::wal::segment::{Chain, File, Segment};
use crate::wal::writer::{Writer, checkpoint};

impl Engine {
    /// Locks the directory, finds the log in it (an empty directory is an empty log) and makes what was found durable.
    /// *Blocking*: before the first turn, with nothing else in flight on `io`. The logs come sorted by group.
    ///
    /// # Errors
    /// [`EngineError::Config`], [`EngineError::Lock`], [`EngineError::Open`], [`EngineError::Refused`]: nothing was
    /// changed. [`EngineError::Failed`]: the disk does not take writes. [`EngineError::Hangs`]: it does not answer.
    pub fn open<I: Io>(io: &mut I, config: Config) -> Result<(Engine, Vec<GroupLog>, RecoveryReport), EngineError> {
        config.check()?;
        io.lock_dir(&config.dir).map_err(|error| EngineError::Lock(Arc::new(error)))?;
        let mut pool = Pool::new(&config);
        let files = find(io, &config, &mut pool)?;
        let mut unreadable = Vec::new();
        let mut recovered = recover(&config, &files, &mut |at, how| load(io, &files[at], at, how, &mut unreadable))?;
        // What cannot be read may have been acknowledged: it is damage before the log's end, or nobody knows what.
        let told = |bad: &Unreadable| recovered.segments.iter().any(|kept| kept.file == bad.file && bad.at < kept.end);
        if let Some(Unreadable { file, source, .. }) = unreadable.into_iter().find(|bad| !told(bad)) {
            return Err(open_error("read", &files[file].path, source));
        }

        let report = RecoveryReport {
            groups: recovered.groups.len(),
            entries: recovered.entries,
            segments: recovered.segments.len(),
            blocks: recovered.blocks,
            footers: recovered.footers,
            last_batch: BatchNo(recovered.last_lsn),
            cut: recovered.cut.take(),
            gaps: std::mem::take(&mut recovered.gaps),
            wounded: recovered.wounded,
            groups_lost: recovered.groups_lost,
            rewritten: recovered.unattested.len(),
            epoch: recovered.epoch + 1,
        };
        let mut tokens = Tokens::new(&config);
        rewrite(io, &config, &files, std::mem::take(&mut recovered.unattested), &mut tokens)?;

        let first_generation = recovered.generation.max(recovered.segments.last().map_or(0, |k| k.generation.into()));
        let next_generation = u32::try_from(first_generation + 1).expect("checked when it was read");
        let mut chain = Chain::default();
        let file = |found: Found| Some(File { path: found.path, id: found.id, bytes: found.bytes, mapped_once: false });
        let mut all: Vec<Option<File>> = files.into_iter().map(file).collect();
        for kept in &recovered.segments {
            let file = all[kept.file].take().expect("a file is one segment");
            let mut segment = Segment::new(kept.generation, file.bytes);
            segment.file = Some(file);
            segment.next = kept.end;
            segment.last_lsn = kept.last_lsn;
            chain.push(segment);
        }
        for file in all.into_iter().flatten() {
            pool.found(file);
        }
        let (epoch, last_lsn) = (recovered.epoch + 1, recovered.last_lsn);
        let mut writer = Writer::new(&config, epoch, last_lsn, next_generation, recovered.footer);
        writer.groups_lost = recovered.groups_lost;
        let mut engine = Engine {
            groups: Vec::with_capacity(recovered.groups.len()),
            slots: HashMap::new(),
            checkpoint_bytes: 0,
            chain,
            pool,
            writer,
            tokens,
            cached_bytes: 0,
            rewriting: Rewriting::default(),
            fills: Fills::default(),
            failed: None,
            config,
        };
        let logs = engine.adopt(recovered.groups);
        engine.start(io, recovered.begin_anew)?;
        Ok((engine, logs, report))
    }

    /// Takes the groups that were found.
    fn adopt(&mut self, found: BTreeMap<GroupId, (GroupLog, Group)>) -> Vec<GroupLog> {
        let mut logs = Vec::with_capacity(found.len());
        for (slot, (id, (log, group))) in found.into_iter().enumerate() {
            assert!(log.slot == slot, "groups are numbered in order");
            let islands = group.wounded.iter().flat_map(|wounded| &wounded.islands);
            for runs in islands.map(|island| &island.runs).chain([&group.runs]) {
                let mut segment = None;
                for run in runs.iter() {
                    if segment != Some(run.segment) {
                        segment = Some(run.segment);
                        self.chain.get_mut(run.segment).pins += 1;
                    }
                }
            }
            let slot_u32 = u32::try_from(slot).expect("fewer than 2^32 groups");
            let cached = group.runs.cached_runs();
            if cached > 0 {
                self.chain.active_mut().cached.extend(std::iter::repeat_n(slot_u32, cached));
            }
            self.cached_bytes += group.runs.cached_bytes();
            self.checkpoint_bytes += section::HEADER + checkpoint(&group).len();
            self.slots.insert(id, slot);
            self.groups.push(group);
            logs.push(log);
        }
        logs
    }

    /// Writes the first batch of this opening, so that its epoch is on the disk before anything is promised.
    fn start<I: Io>(&mut self, io: &mut I, begin_anew: bool) -> Result<(), EngineError> {
        let active = self.chain.iter().next_back();
        if begin_anew || active.is_none_or(|active| active.bytes - active.next < BLOCK_ALIGN as u64) {
            self.writer.rotate(&mut self.chain, &self.groups);
            self.ready_file(io)?;
        }
        self.writer.begin_here(&mut self.chain, &self.groups);
        self.submit(io);
        let target = BatchNo(self.writer.last_lsn());
        let mut completions = Vec::new();
        let mut durable = BatchNo(0);
        while durable < target {
            turn(io, self.next_deadline(), &mut completions)?;
            if let Some(overdue) = self.overdue(io.now()) {
                return Err(EngineError::Hangs(overdue));
            }
            for completion in completions.drain(..) {
                match self.complete(io, completion) {
                    Ok(Some(batch)) => durable = batch,
                    // Told again when the segment is needed.
                    Ok(None) | Err(EngineError::NoSegment { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            self.submit(io);
        }
        Ok(())
    }

    /// Gives the active segment its file: a spare one, or a new one.
    fn ready_file<I: Io>(&mut self, io: &mut I) -> Result<(), EngineError> {
        let file = match self.pool.take_found() {
            Some(file) => file,
            None => {
                let number = self.pool.next_number();
                let path = self.pool.path(number);
                let size = self.config.segment_bytes;
                let id = io.create_zeroed(&path, size).map_err(|source| open_error("create", &path, source))?;
                self.pool.file(path, id)
            }
        };
        self.chain.active_mut().file = Some(file);
        Ok(())
    }
}

/// The segment files of the directory, by number.
fn find<I: Io>(io: &mut I, config: &Config, pool: &mut Pool) -> Result<Vec<Found>, EngineError> {
    let mut files = Vec::new();
    let list = io.list(&config.dir).map_err(|source| open_error("list", &config.dir, source))?;
    for info in list {
        let name = info.path.file_name().and_then(|name| name.to_str());
        let Some(number) = name.and_then(Pool::parse_name) else { continue };
        let path = info.path;
        let id = io.open(&path).map_err(|source| open_error("open", &path, source))?;
        // A file that a crash left half made is not a multiple of a block, or short; nothing was written to it.
        let start = if info.size >= BLOCK_ALIGN as u64 {
            owned(io.read(id, 0, BLOCK_ALIGN).map_err(|source| open_error("read", &path, source))?)
        } else {
            Bytes::new()
        };
        pool.taken(number);
        files.push(Found { path, id, bytes: info.size, start });
    }
    Ok(files)
}

/// A block that cannot be read, and why.
struct Unreadable {
    /// Position in the list of files found.
    file: usize,
    at: u64,
    source: io::Error,
}

/// Reads a file, or part of it, past the page cache. Blocks that cannot be read are zeros, and noted.
fn load<I: Io>(
    io: &mut I,
    file: &Found,
    at: usize,
    how: How,
    unreadable: &mut Vec<Unreadable>,
) -> Result<Bytes, EngineError> {
    let (offset, len) = match how {
        How::All => {
            let len = usize::try_from(file.bytes).expect("a file that fits memory");
            (0, len - len % BLOCK_ALIGN)
        }
        How::Part(offset, len) => (offset, len),
    };
    if let Ok(whole) = io.read(file.id, offset, len) {
        return Ok(owned(whole));
    }
    let mut whole = AlignedBuf::zeroed(len);
    for (nth, block) in whole.chunks_mut(BLOCK_ALIGN).enumerate() {
        let offset = offset + (nth * BLOCK_ALIGN) as u64;
        match io.read(file.id, offset, BLOCK_ALIGN) {
            Ok(found) => block.copy_from_slice(&found),
            Err(source) => unreadable.push(Unreadable { file: at, at: offset, source }),
        }
    }
    Ok(owned(whole))
}

/// Writes the blocks of the log that nobody attests once more, as they are: they may have been read from a volatile
/// cache.
fn rewrite<I: Io>(
    io: &mut I,
    config: &Config,
    files: &[Found],
    blocks: Vec<Unattested>,
    tokens: &mut Tokens,
) -> Result<(), EngineError> {
    let mut completions = Vec::new();
    for block in blocks {
        let file = &files[block.file];
        let mut buf = AlignedBuf::zeroed(block.bytes.len());
        buf.copy_from_slice(&block.bytes);
        let token = tokens.next();
        let since = io.now();
        io.write(file.id, block.position, buf, token);
        while !ended(&mut completions, token, file, block.position)? {
            turn(io, Some(since + config.write_deadline), &mut completions)?;
            let overdue = Overdue { file: file.path.clone(), offset: block.position, since };
            if completions.is_empty() && io.now().since(since) >= config.write_deadline {
                return Err(EngineError::Hangs(overdue));
            }
        }
    }
    Ok(())
}

/// Whether a write has ended.
fn ended(completions: &mut Vec<Completion>, token: Token, file: &Found, offset: u64) -> Result<bool, EngineError> {
    for completion in completions.drain(..) {
        if let Completion::Written { token: ended, result, .. } = completion
            && ended == token
        {
            let failed = |source| EngineError::Failed { file: file.path.clone(), offset, source: Arc::new(source) };
            return result.map_err(failed).map(|()| true);
        }
    }
    Ok(false)
}

fn turn<I: Io>(io: &mut I, until: Option<ringraft_io::Time>, out: &mut Vec<Completion>) -> Result<(), EngineError> {
    io.turn(until, out).map_err(|source| open_error("wait for", &PathBuf::new(), source))
}

fn open_error(what: &'static str, file: &Path, source: io::Error) -> EngineError {
    EngineError::Open { what, file: file.to_path_buf(), source: Arc::new(source) }
}

/// Aligned memory as `Bytes`, without copying.
fn owned(buf: AlignedBuf) -> Bytes {
    struct Owned(AlignedBuf);
    impl AsRef<[u8]> for Owned {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(Owned(buf))
}
