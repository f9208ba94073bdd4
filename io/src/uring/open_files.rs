//! The files a shard has open. One that is removed is closed when its last write has ended, so that its space is freed.

use std::fs::File;
use std::io;
use std::sync::Arc;

use io_uring::Submitter;

use super::files::{self, Identity};
use super::streams::{Handle, Table};
use crate::FileId;

/// An open file.
struct OpenFile {
    file: Arc<File>,
    handle: Handle,
    identity: Option<Identity>,
    /// Writes in the kernel's hands.
    writes: usize,
    removed: bool,
}

/// The open files by id; ids are not used again.
pub(super) struct OpenFiles(Vec<Option<OpenFile>>);

impl OpenFiles {
    pub(super) fn new() -> OpenFiles {
        OpenFiles(Vec::new())
    }

    pub(super) fn insert(&mut self, submitter: &Submitter<'_>, table: &mut Table, file: File) -> FileId {
        let handle = table.insert(submitter, &file);
        let identity = files::identity(&file).ok();
        self.0.push(Some(OpenFile { file: Arc::new(file), handle, identity, writes: 0, removed: false }));
        FileId(u32::try_from(self.0.len() - 1).expect("fewer than 2^32 files"))
    }

    /// The file for plain calls; an error if it was removed.
    ///
    /// # Panics
    /// If there never was such a file.
    pub(super) fn get(&self, id: FileId) -> io::Result<&Arc<File>> {
        match &self.0[index(id)] {
            Some(open) if !open.removed => Ok(&open.file),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Counts a write that begins; false if the file was removed.
    pub(super) fn begin_write(&mut self, id: FileId) -> bool {
        let open = self.0[index(id)].as_mut().filter(|open| !open.removed);
        open.map(|open| open.writes += 1).is_some()
    }

    /// The handle for the rest of a write that has begun.
    pub(super) fn writing(&self, id: FileId) -> Handle {
        self.0[index(id)].as_ref().expect("open while it is written").handle
    }

    /// Counts a write that has ended.
    pub(super) fn end_write(&mut self, submitter: &Submitter<'_>, table: &mut Table, id: FileId) {
        self.0[index(id)].as_mut().expect("open while it is written").writes -= 1;
        self.close_if_done(submitter, table, index(id));
    }

    /// The file with this identity has lost its last name.
    pub(super) fn removed(&mut self, submitter: &Submitter<'_>, table: &mut Table, identity: Identity) {
        for n in 0..self.0.len() {
            if let Some(open) = &mut self.0[n]
                && open.identity == Some(identity)
            {
                open.removed = true;
                self.close_if_done(submitter, table, n);
            }
        }
    }

    fn close_if_done(&mut self, submitter: &Submitter<'_>, table: &mut Table, n: usize) {
        if let Some(open) = self.0[n].take_if(|open| open.removed && open.writes == 0) {
            table.remove(submitter, open.handle);
        }
    }
}

fn index(file: FileId) -> usize {
    usize::try_from(file.0).expect("32 bits fit")
}
