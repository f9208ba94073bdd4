//! The files a shard has open. One that is removed is closed when its last write has ended, so that its space is freed.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::files::{self, Identity};
use crate::FileId;

/// An open file, and how the world's operations name it.
struct OpenFile<H> {
    file: Arc<File>,
    handle: H,
    identity: Option<Identity>,
    /// Writes in the world's hands.
    writes: usize,
    removed: bool,
}

/// The open files by id; ids are not used again.
pub(crate) struct OpenFiles<H>(Vec<Option<OpenFile<H>>>);

impl<H: Copy> OpenFiles<H> {
    pub(crate) fn new() -> OpenFiles<H> {
        OpenFiles(Vec::new())
    }

    pub(crate) fn insert(&mut self, file: File, handle: H) -> FileId {
        let identity = files::identity(&file).ok();
        self.0.push(Some(OpenFile { file: Arc::new(file), handle, identity, writes: 0, removed: false }));
        FileId(u32::try_from(self.0.len() - 1).expect("fewer than 2^32 files"))
    }

    /// The file for plain calls; an error if it was removed.
    ///
    /// # Panics
    /// If there never was such a file.
    pub(crate) fn get(&self, id: FileId) -> io::Result<&Arc<File>> {
        match &self.0[index(id)] {
            Some(open) if !open.removed => Ok(&open.file),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Counts a write that begins; false if the file was removed.
    pub(crate) fn begin_write(&mut self, id: FileId) -> bool {
        let Some(open) = self.0[index(id)].as_mut().filter(|open| !open.removed) else { return false };
        open.writes += 1;
        true
    }

    /// The handle for the rest of a write that has begun.
    pub(crate) fn writing(&self, id: FileId) -> H {
        self.0[index(id)].as_ref().expect("open while it is written").handle
    }

    /// Counts a write that has ended; the handle if the file is closed by that.
    pub(crate) fn end_write(&mut self, id: FileId) -> Option<H> {
        self.0[index(id)].as_mut().expect("open while it is written").writes -= 1;
        self.close_if_done(index(id))
    }

    /// The file with this identity has lost its last name; `closed` gets the handle of each that is closed by that.
    pub(crate) fn removed(&mut self, identity: Identity, mut closed: impl FnMut(H)) {
        for n in 0..self.0.len() {
            if let Some(open) = &mut self.0[n]
                && open.identity == Some(identity)
            {
                open.removed = true;
                if let Some(handle) = self.close_if_done(n) {
                    closed(handle);
                }
            }
        }
    }

    fn close_if_done(&mut self, n: usize) -> Option<H> {
        self.0[n].take_if(|open| open.removed && open.writes == 0).map(|open| open.handle)
    }
}

fn index(file: FileId) -> usize {
    usize::try_from(file.0).expect("32 bits fit")
}
