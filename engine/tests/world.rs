//! A disk in memory behind `Io`: writes stay pending until they are let through, so that crash images can be made.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use ringraft_io::{
    AlignedBuf, Completion, Dial, FileId, FileInfo, Io, Job, JobOutput, LockError, SendFile, ShardNo, StreamId, Time,
    Token,
};

pub(crate) const SECTOR: usize = 512;

/// What is on the disk for good.
pub(crate) type Image = BTreeMap<PathBuf, Vec<u8>>;

#[derive(Default)]
pub(crate) struct World {
    pub(crate) files: Image,
    ids: Vec<PathBuf>,
    mapped: BTreeMap<PathBuf, Vec<Weak<()>>>,
    pub(crate) pending: Vec<Pending>,
    jobs: Vec<(Job, Token)>,
    done: Vec<Completion>,
    /// Writes do not complete by themselves.
    pub(crate) hold: bool,
    /// Files cannot be made.
    pub(crate) full: bool,
    /// This many writes succeed, the next one fails.
    pub(crate) fail_after: Option<usize>,
    /// This many reads, writes, mappings and jobs succeed, the next one fails.
    pub(crate) fail_io: Option<usize>,
    /// How many there have been.
    pub(crate) ios: usize,
    /// Goes on only if a turn waits for it.
    now: Time,
    pub(crate) creates: usize,
    pub(crate) maps: usize,
    pub(crate) removes: usize,
    /// How to take back what was done to the files, newest last; if anybody wants to.
    undo: Option<Vec<Undo>>,
}

enum Undo {
    Write { path: PathBuf, at: usize, before: Vec<u8> },
    Create { path: PathBuf },
    Remove { path: PathBuf, bytes: Vec<u8> },
}

pub(crate) struct Pending {
    pub(crate) path: PathBuf,
    pub(crate) offset: u64,
    file: FileId,
    token: Token,
    pub(crate) buf: AlignedBuf,
}

struct Mapping {
    bytes: Vec<u8>,
    _alive: Arc<()>,
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl World {
    pub(crate) fn on(files: Image) -> World {
        World { files, ..World::default() }
    }

    /// A disk that can be taken back to what it is now.
    pub(crate) fn scratch(files: &Image) -> World {
        World { files: files.clone(), undo: Some(Vec::new()), ..World::default() }
    }

    /// Takes a scratch back to what it was.
    pub(crate) fn take_back(&mut self) {
        let mut undo = self.undo.take().expect("a scratch");
        for step in undo.drain(..).rev() {
            match step {
                Undo::Write { path, at, before } => {
                    self.files.get_mut(&path).unwrap()[at..at + before.len()].copy_from_slice(&before);
                }
                Undo::Create { path } => drop(self.files.remove(&path)),
                Undo::Remove { path, bytes } => drop(self.files.insert(path, bytes)),
            }
        }
        *self = World { files: std::mem::take(&mut self.files), undo: Some(undo), ..World::default() };
    }

    /// Puts bytes on the disk.
    pub(crate) fn put(&mut self, path: &Path, at: usize, bytes: &[u8]) {
        let place = &mut self.files.get_mut(path).unwrap()[at..at + bytes.len()];
        if let Some(undo) = &mut self.undo {
            undo.push(Undo::Write { path: path.to_owned(), at, before: place.to_vec() });
        }
        place.copy_from_slice(bytes);
    }

    /// Lets the pending write at `at` through.
    pub(crate) fn finish(&mut self, at: usize) {
        let write = self.pending.remove(at);
        let failed = match &mut self.fail_after {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        };
        let counted = self.count();
        let result = if failed || counted.is_err() {
            Err(io::Error::other("the disk is on fire"))
        } else {
            self.put(&write.path, usize::try_from(write.offset).unwrap(), &write.buf);
            Ok(())
        };
        self.done.push(Completion::Written { file: write.file, token: write.token, buf: write.buf, result });
    }

    /// The disk after a power cut: of every pending write, the sectors for which `kept` says so.
    pub(crate) fn crash(&self, mut kept: impl FnMut(usize, usize) -> bool) -> Image {
        let mut image = self.files.clone();
        for (nth, write) in self.pending.iter().enumerate() {
            let file = image.get_mut(&write.path).unwrap();
            for (sector, bytes) in write.buf.chunks(SECTOR).enumerate() {
                let at = usize::try_from(write.offset).unwrap() + sector * SECTOR;
                if kept(nth, sector) {
                    file[at..at + SECTOR].copy_from_slice(bytes);
                }
            }
        }
        image
    }

    /// Counts an IO, and fails if it is its turn.
    fn count(&mut self) -> io::Result<()> {
        self.ios += 1;
        match &mut self.fail_io {
            Some(0) => {
                self.fail_io = None;
                Err(io::Error::other("the disk is on fire"))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn is_mapped(&self, path: &Path) -> bool {
        self.mapped.get(path).is_some_and(|all| all.iter().any(|one| one.strong_count() > 0))
    }

    fn run(&mut self, job: Job) -> io::Result<JobOutput> {
        if !matches!(job, Job::CreateZeroed { .. }) {
            self.count()?;
        }
        match job {
            Job::CreateZeroed { path, size } => self.create_zeroed(&path, size).map(JobOutput::Opened),
            Job::Remove { path } => {
                self.removes += 1;
                assert!(!self.is_mapped(&path), "{path:?} is removed while it is mapped");
                if let (Some(bytes), Some(undo)) = (self.files.remove(&path), &mut self.undo) {
                    undo.push(Undo::Remove { path, bytes });
                }
                Ok(JobOutput::Done)
            }
            Job::DropCache { file } => {
                let path = self.ids[file.0 as usize].clone();
                assert!(!self.is_mapped(&path), "{path:?} is recycled while it is mapped");
                Ok(JobOutput::Done)
            }
            other => panic!("not a job of the engine: {other:?}"),
        }
    }
}

impl Io for World {
    fn now(&self) -> Time {
        self.now
    }

    fn turn(&mut self, until: Option<Time>, out: &mut Vec<Completion>) -> io::Result<()> {
        while !self.hold && !self.pending.is_empty() {
            self.finish(0);
        }
        for (job, token) in std::mem::take(&mut self.jobs) {
            let result = self.run(job);
            self.done.push(Completion::JobDone { token, result });
        }
        if self.done.is_empty() {
            self.now = until.unwrap_or(self.now).max(self.now);
        }
        out.append(&mut self.done);
        Ok(())
    }

    fn write(&mut self, file: FileId, offset: u64, buf: AlignedBuf, token: Token) {
        let path = self.ids[file.0 as usize].clone();
        assert!(offset.is_multiple_of(4096) && buf.len().is_multiple_of(4096) && !buf.is_empty());
        assert!(offset + buf.len() as u64 <= self.files[&path].len() as u64, "a write beyond the end of {path:?}");
        assert!(!self.is_mapped(&path), "{path:?} is written while it is mapped");
        let overlaps = |other: &Pending| {
            other.offset < offset + buf.len() as u64 && offset < other.offset + other.buf.len() as u64
        };
        assert!(!self.pending.iter().any(|other| other.path == path && overlaps(other)), "overlapping writes");
        self.pending.push(Pending { path, offset, file, token, buf });
    }

    fn job(&mut self, job: Job, token: Token) {
        self.jobs.push((job, token));
    }

    fn lock_dir(&mut self, _: &Path) -> Result<(), LockError> {
        Ok(())
    }

    fn list(&mut self, dir: &Path) -> io::Result<Vec<FileInfo>> {
        self.count()?;
        let inside = self.files.iter().filter(|(path, _)| path.parent() == Some(dir));
        Ok(inside.map(|(path, bytes)| FileInfo { path: path.clone(), size: bytes.len() as u64 }).collect())
    }

    fn open(&mut self, path: &Path) -> io::Result<FileId> {
        self.count()?;
        assert!(self.files.contains_key(path));
        self.ids.push(path.to_path_buf());
        Ok(FileId(u32::try_from(self.ids.len() - 1).unwrap()))
    }

    fn create_zeroed(&mut self, path: &Path, size: u64) -> io::Result<FileId> {
        self.count()?;
        if self.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.creates += 1;
        assert!(!self.files.contains_key(path), "{path:?} exists");
        self.files.insert(path.to_path_buf(), vec![0; usize::try_from(size).unwrap()]);
        if let Some(undo) = &mut self.undo {
            undo.push(Undo::Create { path: path.to_owned() });
        }
        self.ids.push(path.to_path_buf());
        Ok(FileId(u32::try_from(self.ids.len() - 1).unwrap()))
    }

    fn read(&mut self, file: FileId, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        self.count()?;
        let bytes = &self.files[&self.ids[file.0 as usize]];
        let offset = usize::try_from(offset).unwrap();
        let bytes = bytes.get(offset..offset + len).ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut buf = AlignedBuf::zeroed(len);
        buf.copy_from_slice(bytes);
        Ok(buf)
    }

    fn map(&mut self, file: FileId) -> io::Result<Bytes> {
        self.count()?;
        self.maps += 1;
        let path = &self.ids[file.0 as usize];
        let alive = Arc::new(());
        self.mapped.entry(path.clone()).or_default().push(Arc::downgrade(&alive));
        Ok(Bytes::from_owner(Mapping { bytes: self.files[path].clone(), _alive: alive }))
    }

    fn read_file(&mut self, path: &Path) -> io::Result<Bytes> {
        self.files.get(path).map(|bytes| Bytes::copy_from_slice(bytes)).ok_or(io::ErrorKind::NotFound.into())
    }

    fn write_file(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.files.insert(path.to_path_buf(), bytes.to_vec());
        Ok(())
    }

    fn send(&mut self, _: StreamId, _: Vec<Bytes>) {
        unreachable!("the engine has no network")
    }
    fn send_bufs(&mut self) -> Vec<Bytes> {
        unreachable!("the engine has no network")
    }
    fn receive(&mut self, _: StreamId) {
        unreachable!("the engine has no network")
    }
    fn pause(&mut self, _: StreamId) {
        unreachable!("the engine has no network")
    }
    fn close(&mut self, _: StreamId) {
        unreachable!("the engine has no network")
    }
    fn dial(&mut self, _: Dial) {
        unreachable!("the engine has no network")
    }
    fn send_file(&mut self, _: SendFile) {
        unreachable!("the engine has no network")
    }
    fn wake(&mut self, _: ShardNo) {
        unreachable!("the engine has no neighbours")
    }
}
