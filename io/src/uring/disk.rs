//! What can be asked of a disk beside the ring: for tools that look at it, not for the node.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::io::ReadWriteFlags;

use crate::host::files::{self, Durability};

/// How the bytes of a file are backed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extents {
    /// Pieces.
    pub count: u64,
    /// Bytes in blocks that were written.
    pub written_bytes: u64,
    /// Bytes in blocks that are allocated but read as zeros: the first write to each changes the file's metadata.
    pub unwritten_bytes: u64,
    /// Bytes that have no place of their own yet, or that the file system keeps otherwise (packed, inline).
    pub other_bytes: u64,
}

/// Extents asked for in one call.
const EXTENTS_PER_CALL: usize = 64;
/// `struct fiemap` in words of 64 bits: start, length, flags and mapped, count and reserved.
const MAP_WORDS: usize = 4;
/// `struct fiemap_extent`: logical, physical, length, two reserved, flags and reserved, two reserved.
const EXTENT_WORDS: usize = 7;
const FS_IOC_FIEMAP: libc::c_ulong = 0xc020_660b;
const FLAG_SYNC: u64 = 1;
const EXTENT_LAST: u64 = 0x1;
const EXTENT_UNKNOWN: u64 = 0x2;
const EXTENT_DELALLOC: u64 = 0x4;
const EXTENT_INLINE: u64 = 0x200;
const EXTENT_TAIL: u64 = 0x400;
const EXTENT_UNWRITTEN: u64 = 0x800;

/// Asks the file system how a file is backed (`FIEMAP`).
///
/// # Errors
/// What the file system says; not every one knows.
pub fn extents(file: &File) -> io::Result<Extents> {
    let low = |word: u64| word & u64::from(u32::MAX);
    let mut found = Extents::default();
    let mut start = 0;
    loop {
        let mut words = [0_u64; MAP_WORDS + EXTENTS_PER_CALL * EXTENT_WORDS];
        words[0] = start;
        words[1] = u64::MAX - start;
        words[2] = FLAG_SYNC;
        words[3] = EXTENTS_PER_CALL as u64;
        // SAFETY: `words` lives on our stack for the whole call and has room for as many extents as it announces.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, words.as_mut_ptr()) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        let mapped = usize::try_from(words[2] >> 32).unwrap_or(0).min(EXTENTS_PER_CALL);
        for extent in words[MAP_WORDS..].chunks_exact(EXTENT_WORDS).take(mapped) {
            let (logical, length, flags) = (extent[0], extent[2], low(extent[5]));
            found.count += 1;
            start = logical + length;
            let other = EXTENT_UNKNOWN | EXTENT_DELALLOC | EXTENT_INLINE | EXTENT_TAIL;
            match flags {
                _ if flags & other != 0 => found.other_bytes += length,
                _ if flags & EXTENT_UNWRITTEN != 0 => found.unwritten_bytes += length,
                _ => found.written_bytes += length,
            }
            if flags & EXTENT_LAST != 0 {
                return Ok(found);
            }
        }
        if mapped == 0 {
            return Ok(found);
        }
    }
}

/// Bytes that this user may still fill on the file system of `path`.
///
/// # Errors
/// What the file system says.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Opens a file for unbuffered reads and writes (`O_DIRECT`), as the log does; memory, offsets and lengths are then to be
/// aligned.
///
/// # Errors
/// What the file system says.
pub fn open_direct(path: &Path) -> io::Result<File> {
    files::open_direct(path, Durability::ByWrite)
}

/// Writes all of `buf` at `offset` and makes it durable, in one call (`RWF_DSYNC`).
///
/// # Errors
/// What the disk says; a short write is an error.
pub fn write_durable(file: &File, buf: &[u8], offset: u64) -> io::Result<()> {
    match rustix::io::pwritev2(file, &[IoSlice::new(buf)], offset, ReadWriteFlags::DSYNC)? {
        written if written == buf.len() => Ok(()),
        written => Err(io::Error::other(format!("only {written} of {} bytes were written", buf.len()))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::AlignedBuf;

    #[test]
    fn zeroed_files_are_written_and_sparse_ones_are_not() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let zeroed = files::create_zeroed(&dir.path().join("zeroed"), 1 << 20, Durability::ByWrite).unwrap();
        let sparse = File::create(dir.path().join("sparse")).unwrap();
        sparse.set_len(1 << 20).unwrap();
        assert!(free_bytes(dir.path()).unwrap() > 0);
        let Ok(found) = extents(&zeroed) else { return eprintln!("skipped: this file system does not tell") };
        assert_eq!((found.written_bytes, found.unwritten_bytes, found.other_bytes), (1 << 20, 0, 0));
        assert!(found.count > 0);
        assert_eq!(extents(&sparse).unwrap(), Extents::default());
    }

    #[test]
    fn durable_writes_are_found() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join("file");
        drop(files::create_zeroed(&path, 64 << 10, Durability::ByWrite).unwrap());
        let file = open_direct(&path).unwrap();
        let mut buf = AlignedBuf::zeroed(4096);
        buf.fill(7);
        write_durable(&file, &buf, 8192).unwrap();
        let mut found = AlignedBuf::zeroed(4096);
        file.read_exact_at(&mut found, 8192).unwrap();
        assert_eq!(found[..], buf[..]);
        assert!(write_durable(&file, &buf[..100], 0).is_err(), "not aligned");
    }
}
