//! Sealed files as memory.

use std::fs::File;
use std::io;

use bytes::Bytes;
use memmap2::Mmap;

/// Maps the whole of a file that nobody writes any more.
pub(crate) fn map(file: &File) -> io::Result<Bytes> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the mapping owns its pages until the last clone of the `Bytes` is dropped; by the contract of `Io::map`
    // the file is sealed, so nobody changes or shortens what is mapped.
    let mapping = unsafe { Mmap::map(file) }?;
    Ok(Bytes::from_owner(mapping))
}
