//! Blocking work on files: at start-up on the shard's own thread, later on its job thread.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::sys;
use crate::{AlignedBuf, BLOCK_ALIGN, FileInfo, LockError};

/// Zeros are written in pieces of this many bytes.
const ZERO_PIECE: usize = 1024 * 1024;
/// The name of the file that stands for a directory's lock.
const LOCK_NAME: &str = "LOCK";

/// The directory a path stands in.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Makes the names in the directory of `path` survive a power cut.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(parent(path))?.sync_all()
}

/// Creates the directories above `path`, each durable in its own parent.
pub(crate) fn create_parents(path: &Path) -> io::Result<()> {
    create_dirs(parent(path))
}

fn create_dirs(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    create_dirs(parent(dir))?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_parent(dir)
}

/// What makes a write durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Durability {
    /// Each write asks for it.
    ByWrite,
    /// The file was opened so (`O_DSYNC`).
    ByFile,
}

/// Opens a file for unbuffered reads and durable writes.
pub(crate) fn open_direct(path: &Path, durability: Durability) -> io::Result<File> {
    let flags = match durability {
        Durability::ByWrite => libc::O_DIRECT,
        Durability::ByFile => libc::O_DIRECT | libc::O_DSYNC,
    };
    open_flags(path, flags, false).map_err(explain)
}

fn open_flags(path: &Path, flags: libc::c_int, new: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(new).custom_flags(flags).open(path)
}

/// Says what "invalid argument" means when a file is opened for unbuffered writes.
fn explain(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(libc::EINVAL) {
        let text = "this file system has no unbuffered writes (O_DIRECT); choose a directory on another one";
        return io::Error::new(io::ErrorKind::Unsupported, text);
    }
    error
}

/// What a file is, whatever its name: device and inode.
pub(crate) type Identity = (u64, u64);

/// The identity of an open file.
pub(crate) fn identity(file: &File) -> io::Result<Identity> {
    file.metadata().map(|meta| (meta.dev(), meta.ino()))
}

/// Creates a file of `size` zeros whose blocks are written, not merely allocated, and none of whose pages is cached.
///
/// It gets its name only when it is complete: after a crash there is no half of it.
pub(crate) fn create_zeroed(path: &Path, size: u64, durability: Durability) -> io::Result<File> {
    let file = create_written(path, size)?;
    match durability {
        Durability::ByWrite => Ok(file),
        // Not so from the beginning: the zeros need one sync, not one for each piece.
        Durability::ByFile => keep_or_remove(path, open_direct(path, durability)),
    }
}

fn create_written(path: &Path, size: u64) -> io::Result<File> {
    let align = u64::try_from(BLOCK_ALIGN).expect("a small constant");
    assert!(size.is_multiple_of(align), "a file of {size} bytes: whole blocks");
    create_parents(path)?;
    match open_flags(parent(path), libc::O_DIRECT | libc::O_TMPFILE, false) {
        Ok(file) => {
            write_zeros(&file, size)?;
            sys::link(&file, path)?;
            keep_or_remove(path, sync_parent(path).map(|()| file))
        }
        // Not every file system has files without names.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT)) => {
            let file = open_flags(path, libc::O_DIRECT, true).map_err(explain)?;
            let written = write_zeros(&file, size).and_then(|()| sync_parent(path));
            keep_or_remove(path, written.map(|()| file))
        }
        Err(error) => Err(explain(error)),
    }
}

fn keep_or_remove<T>(path: &Path, result: io::Result<T>) -> io::Result<T> {
    if result.is_err() {
        let _ = fs::remove_file(path);
    }
    result
}

fn write_zeros(file: &File, size: u64) -> io::Result<()> {
    let zeros = AlignedBuf::zeroed(ZERO_PIECE);
    let mut at = 0;
    while at < size {
        let piece = usize::try_from(size - at).unwrap_or(ZERO_PIECE).min(ZERO_PIECE);
        file.write_all_at(&zeros[..piece], at)?;
        at += u64::try_from(piece).expect("a small piece");
    }
    file.sync_all()
}

/// Reads `len` bytes at `offset` past the page cache.
pub(crate) fn read_direct(file: &File, offset: u64, len: usize) -> io::Result<AlignedBuf> {
    let mut buf = AlignedBuf::zeroed(len);
    file.read_exact_at(&mut buf, offset)?;
    Ok(buf)
}

/// How many of `left` bytes a durable write must still write after the kernel has taken `written`.
pub(crate) fn left_after_write(left: usize, written: usize) -> io::Result<usize> {
    assert!(written <= left, "wrote {written} of {left} bytes");
    // What is not a whole block is written again.
    let whole = written - written % BLOCK_ALIGN;
    if whole == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(left - whole) }
}

/// The files of a directory, sorted by name.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<FileInfo>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_file() {
            files.push(FileInfo { path: entry.path(), size: meta.len() });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Locks a directory, creating it; the lock ends with the file given back.
pub(crate) fn lock_dir(dir: &Path) -> Result<File, LockError> {
    let failed = |source| LockError::Io { dir: dir.into(), source };
    create_dirs(dir).map_err(failed)?;
    let path = dir.join(LOCK_NAME);
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
    if !sys::flock(&file).map_err(failed)? {
        let mut text = String::new();
        let _ = file.read_to_string(&mut text);
        return Err(LockError::Held { dir: dir.into(), pid: text.trim().parse().unwrap_or(0) });
    }
    file.set_len(0).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}

/// Replaces a small file so that after a crash there is the old or the new content, never a mixture.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create_parents(path)?;
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let aside = path.with_file_name(name);
    let write = || -> io::Result<()> {
        let mut file = File::create(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    keep_or_remove(&aside, write())?;
    sync_parent(path)
}

/// Writes a piece of a file that is built aside; see [`Job::WriteAside`](crate::Job::WriteAside).
pub(crate) fn write_aside(path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let first = offset == 0;
    if first {
        create_parents(path)?;
    }
    OpenOptions::new().write(true).create(first).truncate(first).open(path)?.write_all_at(bytes, offset)
}

/// Gives a file built aside its name, durably.
pub(crate) fn commit(from: &Path, to: &Path) -> io::Result<()> {
    File::open(from)?.sync_all()?;
    create_parents(to)?;
    fs::rename(from, to)?;
    if parent(from) != parent(to) {
        sync_parent(from)?;
    }
    sync_parent(to)
}

/// Removes a file, durably, and says which it was; none if there is none.
pub(crate) fn remove(path: &Path) -> io::Result<Option<Identity>> {
    let meta = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        meta => meta?,
    };
    fs::remove_file(path)?;
    sync_parent(path)?;
    // Other names keep a file alive.
    Ok((meta.nlink() == 1).then(|| (meta.dev(), meta.ino())))
}

/// Reads a whole file.
pub(crate) fn load(path: &Path) -> io::Result<Bytes> {
    fs::read(path).map(Bytes::from)
}

/// Where a received file lies until then; removed again unless [`Partial::keep`] is called.
pub(crate) struct Partial(Option<PathBuf>);

impl Partial {
    pub(crate) fn new(path: PathBuf) -> Partial {
        Partial(Some(path))
    }

    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_writes_go_on_or_fail() {
        for (left, written, want) in [
            (8192, 8192, Ok(0)),
            (8192, 4096, Ok(4096)),
            (8192, 8191, Ok(4096)),
            (8192, 512, Err(io::ErrorKind::WriteZero)),
            (8192, 0, Err(io::ErrorKind::WriteZero)),
        ] {
            assert_eq!(left_after_write(left, written).map_err(|error| error.kind()), want, "{written} of {left}");
        }
    }
}
