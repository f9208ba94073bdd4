//! Snapshots that a leader has sent: its words in one file, etcd's database in another, both kept as they came. What
//! they say of the members is read again when the member starts.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ringraft_raft::EntryId;
use ringraft_transport::etcd::dialect::{self, Inbound};
use ringraft_transport::etcd::{Limits, messages};

use super::members::Members;
use super::net::Arrived;

/// A snapshot on the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stored {
    /// Its last entry.
    pub(super) at: EntryId,
    /// The members as of then.
    pub(super) members: Members,
}

/// The directory they lie in.
pub(super) struct Snapshots {
    dir: PathBuf,
}

impl Snapshots {
    /// Makes the directory.
    pub(super) fn open(dir: PathBuf) -> io::Result<Snapshots> {
        fs::create_dir_all(&dir)?;
        Ok(Snapshots { dir })
    }

    /// Removes what was left unfinished; once nobody else can be at it.
    pub(super) fn clean(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("incoming-") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn words(&self, at: EntryId) -> PathBuf {
        self.dir.join(format!("{:016x}-{:016x}.snap", at.term.0, at.index.0))
    }

    /// Where the database of a snapshot is.
    pub(super) fn database(&self, at: EntryId) -> PathBuf {
        self.words(at).with_extension("snap.db")
    }

    /// Gives what has arrived its name, for good.
    pub(super) fn keep(&self, arrived: &Arrived, at: EntryId, members: Members) -> io::Result<Stored> {
        fs::rename(&arrived.database, self.database(at))?;
        fs::rename(&arrived.words, self.words(at))?;
        File::open(&self.dir)?.sync_all()?;
        Ok(Stored { at, members })
    }

    /// It was not needed.
    pub(super) fn forget(&self, stored: &Stored) {
        self.remove(stored.at);
    }

    fn remove(&self, at: EntryId) {
        // What stays is in nobody's way, and is removed with the next one.
        let _ = fs::remove_file(self.words(at));
        let _ = fs::remove_file(self.database(at));
    }

    /// The log begins after it: older ones are not needed any more.
    pub(super) fn installed(&self, stored: Stored) {
        let keep = [self.words(stored.at), self.database(stored.at)];
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            if is_ours(&path) && !keep.contains(&path) {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// The members as of the snapshot that the log begins after; `asked` are those that the cluster has now.
    pub(super) fn load(&self, at: EntryId, asked: &Members) -> io::Result<Members> {
        let path = self.words(at);
        let failed = |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", path.display()));
        let bytes = fs::read(&path).map_err(|error| failed(&error))?;
        let message = messages::decode(bytes.into(), &Limits::default()).map_err(|error| failed(&error))?;
        match dialect::decode(message) {
            Ok(Inbound::Snapshot { at: found, data, conf, .. }) if found == at => {
                Ok(Members::of_snapshot(&data, &conf, asked))
            }
            _ => Err(failed(&"not the snapshot that the log begins after")),
        }
    }
}

fn is_ours(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    name.ends_with(".snap") || name.ends_with(".snap.db")
}
