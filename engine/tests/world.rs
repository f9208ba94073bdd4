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
    pub(crate) creates: usize,
    pub(crate) maps: usize,
    pub(crate) removes: usize,
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
        let result = if failed {
            Err(io::Error::other("the disk is on fire"))
        } else {
            let offset = usize::try_from(write.offset).unwrap();
            let file = self.files.get_mut(&write.path).unwrap();
            file[offset..offset + write.buf.len()].copy_from_slice(&write.buf);
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

    fn is_mapped(&self, path: &Path) -> bool {
        self.mapped.get(path).is_some_and(|all| all.iter().any(|one| one.strong_count() > 0))
    }

    fn run(&mut self, job: Job) -> io::Result<JobOutput> {
        match job {
            Job::CreateZeroed { path, size } => self.create_zeroed(&path, size).map(JobOutput::Opened),
            Job::Remove { path } => {
                self.removes += 1;
                assert!(!self.is_mapped(&path), "{path:?} is removed while it is mapped");
                self.files.remove(&path);
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
        Time(0)
    }

    fn turn(&mut self, _: Option<Time>, out: &mut Vec<Completion>) -> io::Result<()> {
        while !self.hold && !self.pending.is_empty() {
            self.finish(0);
        }
        for (job, token) in std::mem::take(&mut self.jobs) {
            let result = self.run(job);
            self.done.push(Completion::JobDone { token, result });
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
        let inside = self.files.iter().filter(|(path, _)| path.parent() == Some(dir));
        Ok(inside.map(|(path, bytes)| FileInfo { path: path.clone(), size: bytes.len() as u64 }).collect())
    }

    fn open(&mut self, path: &Path) -> io::Result<FileId> {
        assert!(self.files.contains_key(path));
        self.ids.push(path.to_path_buf());
        Ok(FileId(u32::try_from(self.ids.len() - 1).unwrap()))
    }

    fn create_zeroed(&mut self, path: &Path, size: u64) -> io::Result<FileId> {
        if self.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.creates += 1;
        assert!(!self.files.contains_key(path), "{path:?} exists");
        self.files.insert(path.to_path_buf(), vec![0; usize::try_from(size).unwrap()]);
        self.open(path)
    }

    fn read(&mut self, file: FileId, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        let bytes = &self.files[&self.ids[file.0 as usize]];
        let offset = usize::try_from(offset).unwrap();
        let bytes = bytes.get(offset..offset + len).ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut buf = AlignedBuf::zeroed(len);
        buf.copy_from_slice(bytes);
        Ok(buf)
    }

    fn map(&mut self, file: FileId) -> io::Result<Bytes> {
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
