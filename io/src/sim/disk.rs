//! One process's disk: what a crash leaves of it, sector by sector.
//!
//! Durable writes in flight are kept apart from the content until they end; at a crash every sector of each of them is
//! independently old or new. Files built aside are volatile until they are committed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::events::Who;
use super::{Counters, Delay, Rng};
use crate::{AlignedBuf, BLOCK_ALIGN, FileId, FileInfo, Time, Token};

/// What a disk writes as one.
pub const SECTOR_SIZE: usize = 512;

/// A file itself, whatever its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Inode(u32);

#[derive(Clone, Default)]
pub(super) struct Disk {
    names: BTreeMap<PathBuf, Inode>,
    files: BTreeMap<Inode, File>,
    inodes_made: u32,
    writes: BTreeMap<u64, Write>,
    writes_made: u64,
    /// Removed, but their directory has not been synced since.
    removed: Vec<(PathBuf, Inode)>,
    /// Nothing can be made or grown.
    pub(super) full: bool,
    /// So many of the next writes will fail.
    pub(super) writes_to_fail: u32,
    /// Nothing ends before.
    pub(super) stalled_until: Time,
    /// Instead of the world's own.
    pub(super) delay: Option<Delay>,
}

/// A durable write that has ended.
pub(super) struct Ended {
    pub(super) who: Who,
    pub(super) file: FileId,
    pub(super) token: Token,
    pub(super) buf: AlignedBuf,
    pub(super) result: io::Result<()>,
}

struct Write {
    who: Who,
    file: FileId,
    inode: Inode,
    token: Token,
    offset: u64,
    buf: AlignedBuf,
    fails: bool,
}

impl Clone for Write {
    fn clone(&self) -> Write {
        let mut buf = AlignedBuf::zeroed(self.buf.len());
        buf.copy_from_slice(&self.buf);
        Write { buf, ..*self }
    }
}

#[derive(Clone, Default)]
struct File {
    content: Content,
    /// The content survives a crash.
    synced: bool,
    /// A write has failed: writing again is a bug.
    failed: bool,
    map: Option<Bytes>,
    /// Numbers of sectors that cannot be read.
    spoilt: BTreeSet<u64>,
}

impl File {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.content.write(offset, bytes);
        self.spoilt.retain(|sector| !sectors(offset, bytes.len()).contains(sector));
    }

    fn check_readable(&self, offset: u64, len: usize) -> io::Result<()> {
        match self.spoilt.range(sectors(offset, len)).next() {
            Some(_) => Err(io::Error::from_raw_os_error(EIO)),
            None => Ok(()),
        }
    }
}

fn sectors(offset: u64, len: usize) -> Range<u64> {
    offset / SECTOR_SIZE as u64..(offset + len as u64).div_ceil(SECTOR_SIZE as u64)
}

impl Disk {
    /// Starts a durable write.
    ///
    /// # Panics
    /// If it is unaligned, overlaps another one in flight, or a write to the file has failed before.
    pub(super) fn begin_write(
        &mut self,
        who: Who,
        (file, inode): (FileId, Inode),
        offset: u64,
        buf: AlignedBuf,
        token: Token,
        fails: bool,
    ) -> u64 {
        let end = offset + buf.len() as u64;
        assert!(offset.is_multiple_of(BLOCK_ALIGN as u64), "write at {offset} is not aligned");
        assert!(!buf.is_empty() && buf.len().is_multiple_of(BLOCK_ALIGN), "write of {} bytes", buf.len());
        for other in self.writes.values().filter(|other| other.inode == inode) {
            let other_end = other.offset + other.buf.len() as u64;
            assert!(
                end <= other.offset || other_end <= offset,
                "write {offset}..{end} overlaps {}..{other_end} in flight",
                other.offset
            );
        }
        let target = self.files.get_mut(&inode).expect("open files stay until the process ends");
        assert!(!target.failed, "the file is written again after a failed write");
        target.map = None;
        self.writes_made += 1;
        self.writes.insert(self.writes_made, Write { who, file, inode, token, offset, buf, fails });
        self.writes_made
    }

    /// Ends a write; `None` if a crash has taken it.
    pub(super) fn end_write(&mut self, write: u64, rng: &mut Rng, counters: &mut Counters) -> Option<Ended> {
        let Write { who, file, inode, token, offset, buf, fails } = self.writes.remove(&write)?;
        let target = self.files.get_mut(&inode).expect("open files stay until the process ends");
        let result = if fails {
            target.failed = true;
            counters.writes_failed += 1;
            land_some(target, offset, &buf, rng);
            Err(io::Error::from_raw_os_error(EIO))
        } else {
            target.write(offset, &buf);
            Ok(())
        };
        Some(Ended { who, file, token, buf, result })
    }

    /// Power is cut: unfinished writes land in part, volatile files suffer, removed ones may be back.
    pub(super) fn crash(&mut self, removed_returns_chance: f64, rng: &mut Rng, counters: &mut Counters) {
        for (_, Write { inode, offset, buf, .. }) in std::mem::take(&mut self.writes) {
            let target = self.files.get_mut(&inode).expect("open files stay until the process ends");
            match land_some(target, offset, &buf, rng) {
                0 => counters.writes_lost += 1,
                landed if landed == buf.len() / SECTOR_SIZE => counters.writes_kept += 1,
                _ => counters.writes_torn += 1,
            }
        }
        for (path, inode) in std::mem::take(&mut self.removed) {
            if !self.names.contains_key(&path) && rng.chance(removed_returns_chance) {
                counters.files_returned += 1;
                self.names.insert(path, inode);
            }
        }
        let files = &mut self.files;
        self.names.retain(|_, inode| {
            let file = files.get_mut(inode).expect("every name has its file");
            let stays = file.synced || {
                counters.asides_damaged += 1;
                file.content.lose_some(rng)
            };
            file.synced = true;
            stays
        });
        let named: Vec<Inode> = self.names.values().copied().collect();
        self.files.retain(|inode, file| {
            file.failed = false;
            named.contains(inode)
        });
    }

    /// The files of `dir`, sorted by name.
    pub(super) fn list(&self, dir: &Path) -> Vec<FileInfo> {
        let inside = self.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        inside.map(|(path, inode)| FileInfo { path: path.clone(), size: self.files[inode].content.size }).collect()
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<Inode> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Makes a durable file of zeros.
    pub(super) fn create_zeroed(&mut self, path: &Path, size: u64, counters: &mut Counters) -> io::Result<Inode> {
        assert!(size.is_multiple_of(BLOCK_ALIGN as u64), "a file of {size} bytes");
        self.check_room(counters)?;
        if self.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = File { content: Content::zeroed(size), synced: true, ..File::default() };
        let inode = self.add(path, file);
        self.sync_dir_of(path);
        Ok(inode)
    }

    /// Reads past the page cache.
    pub(super) fn read(&self, inode: Inode, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let file = &self.files[&inode];
        if offset + into.len() as u64 > file.content.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.check_readable(offset, into.len())?;
        file.content.read(offset, into);
        Ok(())
    }

    /// The whole of a file that nobody writes.
    pub(super) fn map(&mut self, inode: Inode) -> Bytes {
        assert!(!self.writes.values().any(|write| write.inode == inode), "a file is mapped with writes in flight");
        let file = self.files.get_mut(&inode).expect("open files stay until the process ends");
        file.map.get_or_insert_with(|| Bytes::from(file.content.to_vec())).clone()
    }

    /// The whole of a file as it reads now, by name.
    pub(super) fn load(&self, path: &Path) -> io::Result<Bytes> {
        let file = &self.files[&self.find(path)?];
        file.check_readable(0, usize::try_from(file.content.size).expect("a simulated file fits in memory"))?;
        Ok(Bytes::from(file.content.to_vec()))
    }

    /// The whole of a file, bad sectors or not.
    pub(super) fn peek(&self, path: &Path) -> io::Result<Bytes> {
        Ok(Bytes::from(self.files[&self.find(path)?].content.to_vec()))
    }

    /// Makes a sector unreadable until it is written.
    pub(super) fn spoil(&mut self, path: &Path, offset: u64) -> io::Result<()> {
        let inode = self.find(path)?;
        let file = self.files.get_mut(&inode).expect("every name has its file");
        file.spoilt.insert(offset / SECTOR_SIZE as u64);
        Ok(())
    }

    /// Replaces a small file, atomically and durably.
    pub(super) fn replace(&mut self, path: &Path, bytes: &[u8], counters: &mut Counters) -> io::Result<()> {
        self.check_room(counters)?;
        let mut content = Content::default();
        content.write(0, bytes);
        self.add(path, File { content, synced: true, ..File::default() });
        self.sync_dir_of(path);
        Ok(())
    }

    /// Appends to a volatile file, making it at offset 0.
    pub(super) fn write_aside(
        &mut self,
        path: &Path,
        offset: u64,
        bytes: &[u8],
        counters: &mut Counters,
    ) -> io::Result<()> {
        self.check_room(counters)?;
        let inode = if offset == 0 { self.add(path, File::default()) } else { self.find(path)? };
        let file = self.files.get_mut(&inode).expect("every name has its file");
        assert_eq!(offset, file.content.size, "bytes for {} go to its end", path.display());
        file.content.write(offset, bytes);
        file.synced = false;
        file.map = None;
        Ok(())
    }

    /// Makes a volatile file durable under its own name.
    pub(super) fn sync(&mut self, path: &Path) -> io::Result<()> {
        self.commit(path, path)
    }

    /// Makes `from` durable under the name `to`.
    pub(super) fn commit(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.find(from)?;
        self.files.get_mut(&inode).expect("every name has its file").synced = true;
        self.names.remove(from);
        self.names.insert(to.to_owned(), inode);
        self.sync_dir_of(to);
        Ok(())
    }

    /// Removes a name, if it is there; a crash may bring it back until the directory is synced.
    pub(super) fn remove(&mut self, path: &Path) {
        if let Some(inode) = self.names.remove(path)
            && self.files[&inode].synced
        {
            self.removed.push((path.to_owned(), inode));
        }
    }

    /// Scrambles bytes at rest; at least one bit changes. `len` is cut to the end of the file.
    pub(super) fn corrupt(&mut self, path: &Path, offset: u64, len: usize, rng: &mut Rng) -> io::Result<()> {
        let inode = self.find(path)?;
        let file = self.files.get_mut(&inode).expect("every name has its file");
        let room = usize::try_from(file.content.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len.min(room)];
        file.content.read(offset, &mut bytes);
        for byte in &mut bytes {
            *byte ^= u8::try_from(rng.between(1, 255)).expect("at most 255");
        }
        file.content.write(offset, &bytes);
        file.map = None;
        Ok(())
    }

    /// Replaces the content of a file, or makes it, behind the process's back.
    pub(super) fn plant(&mut self, path: &Path, bytes: &[u8]) {
        let mut content = Content::default();
        content.write(0, bytes);
        match self.names.get(path) {
            Some(inode) => {
                let file = self.files.get_mut(inode).expect("every name has its file");
                *file = File { content, synced: true, ..File::default() };
            }
            None => {
                self.add(path, File { content, synced: true, ..File::default() });
            }
        }
    }

    /// Takes the place of another disk of the same process, whose faults are not of its content.
    pub(super) fn replaces(&mut self, old: &Disk) {
        assert!(old.writes.is_empty() && self.writes.is_empty(), "disks are changed while the power is off");
        self.writes_made = self.writes_made.max(old.writes_made);
        self.full = old.full;
        self.writes_to_fail = old.writes_to_fail;
        self.stalled_until = old.stalled_until;
        self.delay = old.delay;
    }

    /// Every name there is.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.names.keys().cloned().collect()
    }

    pub(super) fn writes_in_flight(&self) -> usize {
        self.writes.len()
    }

    fn add(&mut self, path: &Path, file: File) -> Inode {
        self.inodes_made += 1;
        let inode = Inode(self.inodes_made);
        self.files.insert(inode, file);
        self.names.insert(path.to_owned(), inode);
        inode
    }

    fn sync_dir_of(&mut self, path: &Path) {
        self.removed.retain(|(removed, _)| removed.parent() != path.parent());
    }

    fn check_room(&self, counters: &mut Counters) -> io::Result<()> {
        if self.full {
            counters.disk_full += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

/// Writes some of the sectors of `buf`; says how many.
fn land_some(file: &mut File, offset: u64, buf: &[u8], rng: &mut Rng) -> usize {
    let sectors = buf.len() / SECTOR_SIZE;
    let pattern = rng.below(4);
    let prefix = rng.index(sectors + 1);
    let mut landed = 0;
    for (at, sector) in buf.chunks(SECTOR_SIZE).enumerate() {
        let lands = match pattern {
            0 => false,
            1 => true,
            2 => at < prefix,
            _ => rng.chance(0.5),
        };
        if lands {
            file.write(offset + (at * SECTOR_SIZE) as u64, sector);
            landed += 1;
        }
    }
    landed
}

const EIO: i32 = 5;

/// Bytes of a file; stretches never written cost nothing and read as zeros.
#[derive(Clone, Default)]
struct Content {
    size: u64,
    chunks: Vec<Option<Box<[u8]>>>,
}

const CHUNK_SIZE: usize = 16 * 1024;

impl Content {
    fn zeroed(size: u64) -> Content {
        Content { size, chunks: Vec::new() }
    }

    fn write(&mut self, offset: u64, mut bytes: &[u8]) {
        self.size = self.size.max(offset + bytes.len() as u64);
        let (mut chunk, mut start) = place(offset);
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_SIZE - start));
            if self.chunks.len() <= chunk {
                self.chunks.resize(chunk + 1, None);
            }
            let memory = self.chunks[chunk].get_or_insert_with(|| vec![0; CHUNK_SIZE].into_boxed_slice());
            memory[start..start + now.len()].copy_from_slice(now);
            (bytes, chunk, start) = (later, chunk + 1, 0);
        }
    }

    fn read(&self, offset: u64, mut into: &mut [u8]) {
        let (mut chunk, mut start) = place(offset);
        while !into.is_empty() {
            let len = into.len().min(CHUNK_SIZE - start);
            let (now, later) = into.split_at_mut(len);
            match self.chunks.get(chunk) {
                Some(Some(memory)) => now.copy_from_slice(&memory[start..start + len]),
                _ => now.fill(0),
            }
            (into, chunk, start) = (later, chunk + 1, 0);
        }
    }

    fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.size).expect("a simulated file fits in memory")];
        self.read(0, &mut bytes);
        bytes
    }

    /// What a crash does to a file that was never synced; false if even its name is gone.
    fn lose_some(&mut self, rng: &mut Rng) -> bool {
        let pattern = rng.below(4);
        match pattern {
            0 => return false,
            1 => return true,
            _ => {}
        }
        // The size is one thing and the content another: a file system may keep either without the other.
        self.size = rng.between(0, self.size);
        let size = self.size;
        let mut old = std::mem::take(self);
        self.size = size;
        for sector in 0..size.div_ceil(SECTOR_SIZE as u64) {
            if pattern == 2 || rng.chance(0.5) {
                let offset = sector * SECTOR_SIZE as u64;
                let len = usize::try_from((size - offset).min(SECTOR_SIZE as u64)).expect("at most a sector");
                let mut bytes = [0; SECTOR_SIZE];
                old.size = size;
                old.read(offset, &mut bytes[..len]);
                self.write(offset, &bytes[..len]);
            }
        }
        true
    }
}

fn place(offset: u64) -> (usize, usize) {
    let offset = usize::try_from(offset).expect("a simulated file fits in memory");
    (offset / CHUNK_SIZE, offset % CHUNK_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ShardNo;
    use crate::sim::ProcessId;

    const WHO: Who = Who { process: ProcessId(0), life: 0, shard: ShardNo(0) };

    fn block(fill: u8, blocks: usize) -> AlignedBuf {
        let mut buf = AlignedBuf::zeroed(blocks * BLOCK_ALIGN);
        buf.fill(fill);
        buf
    }

    fn write(disk: &mut Disk, inode: Inode, offset: u64, fill: u8, blocks: usize, fails: bool) -> u64 {
        disk.begin_write(WHO, (FileId(0), inode), offset, block(fill, blocks), Token(0), fails)
    }

    #[test]
    fn a_crash_loses_only_what_had_not_ended() {
        let mut counters = Counters::default();
        for seed in 0..500 {
            let mut rng = Rng::new(seed);
            let mut disk = Disk::default();
            let path = Path::new("/d/wal");
            let inode = disk.create_zeroed(path, 5 * BLOCK_ALIGN as u64, &mut counters).unwrap();
            let first = write(&mut disk, inode, 0, 1, 1, false);
            let _lost = write(&mut disk, inode, BLOCK_ALIGN as u64, 2, 3, false);
            let last = write(&mut disk, inode, 4 * BLOCK_ALIGN as u64, 3, 1, false);
            for id in [last, first] {
                disk.end_write(id, &mut rng, &mut counters).unwrap().result.unwrap();
            }
            disk.crash(0.5, &mut rng, &mut counters);
            let bytes = disk.load(path).unwrap();
            assert_eq!(bytes.len(), 5 * BLOCK_ALIGN);
            assert!(bytes[..BLOCK_ALIGN].iter().all(|byte| *byte == 1));
            assert!(bytes[4 * BLOCK_ALIGN..].iter().all(|byte| *byte == 3));
            for sector in bytes[BLOCK_ALIGN..4 * BLOCK_ALIGN].chunks(SECTOR_SIZE) {
                assert!(matches!(sector[0], 0 | 2) && sector.iter().all(|byte| *byte == sector[0]), "seed {seed}");
            }
        }
        assert!(counters.writes_lost > 50 && counters.writes_kept > 50 && counters.writes_torn > 50, "{counters}");
    }

    #[test]
    fn a_failed_write_lands_in_part_and_bars_the_file() {
        let (mut rng, mut counters) = (Rng::new(3), Counters::default());
        let mut disk = Disk::default();
        let inode = disk.create_zeroed(Path::new("/d/wal"), 1 << 20, &mut counters).unwrap();
        let id = write(&mut disk, inode, 0, 9, 8, true);
        let ended = disk.end_write(id, &mut rng, &mut counters).unwrap();
        assert_eq!(ended.result.unwrap_err().raw_os_error(), Some(EIO));
        assert_eq!(ended.buf.len(), 8 * BLOCK_ALIGN);
        let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            write(&mut disk, inode, 0, 9, 1, false);
        }));
        assert!(again.is_err());
    }

    #[test]
    #[should_panic(expected = "overlaps")]
    fn overlapping_writes_are_a_bug() {
        let mut disk = Disk::default();
        let inode = disk.create_zeroed(Path::new("/d/wal"), 1 << 20, &mut Counters::default()).unwrap();
        write(&mut disk, inode, 0, 1, 2, false);
        write(&mut disk, inode, BLOCK_ALIGN as u64, 1, 1, false);
    }

    #[test]
    fn volatile_until_committed() {
        let mut outcomes = [0; 3];
        for seed in 0..300 {
            let (mut rng, mut counters) = (Rng::new(seed), Counters::default());
            let mut disk = Disk::default();
            let (aside, path) = (Path::new("/d/new"), Path::new("/d/snap"));
            disk.replace(path, b"old", &mut counters).unwrap();
            disk.write_aside(aside, 0, &[7; 1000], &mut counters).unwrap();
            disk.write_aside(aside, 1000, &[8; 1000], &mut counters).unwrap();
            if seed % 2 == 0 {
                disk.commit(aside, path).unwrap();
                disk.crash(0.5, &mut rng, &mut counters);
                assert_eq!(disk.load(path).unwrap(), [[7; 1000], [8; 1000]].concat());
                assert!(disk.load(aside).is_err());
            } else {
                disk.crash(0.5, &mut rng, &mut counters);
                assert_eq!(&disk.load(path).unwrap()[..], b"old");
                outcomes[match disk.load(aside) {
                    Err(_) => 0,
                    Ok(bytes) if bytes == [[7; 1000], [8; 1000]].concat() => 1,
                    Ok(_) => 2,
                }] += 1;
            }
        }
        assert!(outcomes.iter().all(|count| *count > 10), "{outcomes:?}");
    }

    #[test]
    fn removal_is_durable_once_the_directory_is_synced() {
        let mut returned = 0;
        for seed in 0..100 {
            let (mut rng, mut counters) = (Rng::new(seed), Counters::default());
            let mut disk = Disk::default();
            for name in ["/d/a", "/e/b"] {
                disk.create_zeroed(Path::new(name), 4096, &mut counters).unwrap();
                disk.remove(Path::new(name));
            }
            disk.create_zeroed(Path::new("/e/c"), 4096, &mut counters).unwrap();
            disk.crash(0.5, &mut rng, &mut counters);
            assert!(disk.find(Path::new("/e/b")).is_err());
            returned += usize::from(disk.find(Path::new("/d/a")).is_ok());
        }
        assert!((20..80).contains(&returned), "{returned}");
    }

    #[test]
    fn a_spoilt_sector_is_unreadable_until_written() {
        let (mut rng, mut counters) = (Rng::new(1), Counters::default());
        let mut disk = Disk::default();
        let path = Path::new("/d/wal");
        let inode = disk.create_zeroed(path, 2 * BLOCK_ALIGN as u64, &mut counters).unwrap();
        disk.spoil(path, 5000).unwrap();
        let mut block = [0; BLOCK_ALIGN];
        disk.read(inode, 0, &mut block).unwrap();
        assert!(disk.read(inode, BLOCK_ALIGN as u64, &mut block).is_err() && disk.load(path).is_err());
        let id = write(&mut disk, inode, BLOCK_ALIGN as u64, 9, 1, false);
        disk.end_write(id, &mut rng, &mut counters).unwrap();
        disk.read(inode, BLOCK_ALIGN as u64, &mut block).unwrap();
        assert_eq!(block, [9; BLOCK_ALIGN]);
    }

    #[test]
    fn corruption_changes_every_byte_asked_for_and_no_other() {
        let mut disk = Disk::default();
        let path = Path::new("/d/f");
        disk.create_zeroed(path, 4096, &mut Counters::default()).unwrap();
        disk.corrupt(path, 4090, 100, &mut Rng::new(1)).unwrap();
        let bytes = disk.load(path).unwrap();
        assert_eq!(bytes.len(), 4096);
        assert!(bytes[..4090].iter().all(|byte| *byte == 0) && bytes[4090..].iter().all(|byte| *byte != 0));
    }
}
