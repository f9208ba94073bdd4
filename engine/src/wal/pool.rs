//! The files not in use: made ahead of need, recycled without any metadata call, removed beyond a bound.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ringraft_io::{FileId, Io, Job, JobOutput, Token};

use super::segment::{File, Mapping, Readers, Segment};
use crate::config::Config;
use crate::error::EngineError;

/// The files not in use, and the jobs on them.
#[derive(Debug)]
pub(crate) struct Pool {
    dir: PathBuf,
    segment_bytes: u64,
    free_max: usize,
    /// Files to have ready.
    free_min: usize,
    next_number: u32,
    free: Vec<File>,
    /// Out of use, but somebody may still read through the mapping.
    retired: Vec<(File, Option<Readers>)>,
    jobs: Vec<(Token, Work)>,
    /// Making a file failed; wait until somebody asks to try again.
    hold: bool,
}

#[derive(Debug)]
enum Work {
    Create { path: PathBuf },
    DropCache(File),
    Remove,
}

impl Pool {
    pub(crate) fn new(config: &Config) -> Pool {
        Pool {
            dir: config.dir.clone(),
            segment_bytes: config.segment_bytes,
            // One more than are to be ready: else the file that a new segment takes is replaced by a new one, and the one
            // that comes back a little later is removed, again and again.
            free_max: config.segments_free_max.max(config.segments_reserve + 2),
            free_min: config.segments_reserve + 1,
            next_number: 0,
            free: Vec::new(),
            retired: Vec::new(),
            jobs: Vec::new(),
            hold: false,
        }
    }

    /// The path of a file by its number, and back.
    pub(crate) fn path(&self, number: u32) -> PathBuf {
        self.dir.join(format!("seg-{number:04}"))
    }

    pub(crate) fn parse_name(name: &str) -> Option<u32> {
        let digits = name.strip_prefix("seg-")?;
        let canonical = digits.len() >= 4 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|number| canonical && format!("{number:04}") == digits)
    }

    /// Tells of a file number that is taken.
    pub(crate) fn taken(&mut self, number: u32) {
        self.next_number = self.next_number.max(number.saturating_add(1));
    }

    pub(crate) fn next_number(&mut self) -> u32 {
        let number = self.next_number;
        self.next_number = number.checked_add(1).expect("fewer than 2^32 files");
        number
    }

    /// Takes a file that may be overwritten.
    pub(crate) fn take(&mut self) -> Option<File> {
        self.free.pop()
    }

    /// Takes a file found at start, if there is one of the right size.
    pub(crate) fn take_found(&mut self) -> Option<File> {
        let fits = |(file, readers): &(File, Option<Readers>)| {
            file.bytes == self.segment_bytes && !file.mapped_once && readers.is_none()
        };
        let at = self.retired.iter().position(fits)?;
        Some(self.retired.swap_remove(at).0)
    }

    /// Whether making a file has failed, and nobody has asked to try again since.
    pub(crate) fn is_held(&self) -> bool {
        self.hold
    }

    pub(crate) fn free_files(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn retired_files(&self) -> usize {
        self.retired.len()
    }

    /// Takes back the file of a segment that is needed no more.
    pub(crate) fn retire(&mut self, segment: Segment) {
        let file = segment.file.expect("a durable block is in a file");
        self.retired.push((file, segment.mapping.map(Mapping::retire)));
    }

    /// Takes a file found at start.
    pub(crate) fn found(&mut self, file: File) {
        self.retired.push((file, None));
    }

    pub(crate) fn retry(&mut self) {
        self.hold = false;
    }

    /// Starts what is due: recycling, removing, making one ahead.
    pub(crate) fn maintain<I: Io>(&mut self, io: &mut I, token: &mut impl FnMut() -> Token) {
        let mut at = 0;
        while at < self.retired.len() {
            // A mapping that somebody else reads through keeps the file as it is.
            if self.retired[at].1.as_ref().is_some_and(|readers| !readers.are_gone()) {
                at += 1;
                continue;
            }
            let (file, _) = self.retired.swap_remove(at);
            let token = token();
            if file.bytes != self.segment_bytes || self.free.len() + self.coming() >= self.free_max {
                io.job(Job::Remove { path: file.path }, token);
                self.jobs.push((token, Work::Remove));
            } else if file.mapped_once {
                io.job(Job::DropCache { file: file.id }, token);
                self.jobs.push((token, Work::DropCache(file)));
            } else {
                self.free.push(file);
            }
        }
        if self.free.len() < self.free_min && self.coming() == 0 && !self.hold {
            let number = self.next_number();
            let path = self.path(number);
            let token = token();
            io.job(Job::CreateZeroed { path: path.clone(), size: self.segment_bytes }, token);
            self.jobs.push((token, Work::Create { path }));
        }
    }

    /// A job ended. Gives nothing if the token is not of a job of ours.
    pub(crate) fn complete(&mut self, token: Token, result: io::Result<JobOutput>) -> Result<(), EngineError> {
        let Some(at) = self.jobs.iter().position(|(job, _)| *job == token) else { return Ok(()) };
        match (self.jobs.swap_remove(at).1, result) {
            (Work::Create { path }, Ok(JobOutput::Opened(id))) => {
                self.free.push(self.file(path, id));
            }
            (Work::Create { path, .. }, result) => {
                self.hold = true;
                let what = || io::Error::other("the job gave no file");
                return Err(EngineError::NoSegment { file: path, source: Arc::new(result.err().unwrap_or_else(what)) });
            }
            // A cache that was not dropped costs speed, not safety.
            (Work::DropCache(mut file), result) => {
                file.mapped_once = result.is_err();
                self.free.push(file);
            }
            (Work::Remove, _) => {}
        }
        Ok(())
    }

    pub(crate) fn file(&self, path: PathBuf, id: FileId) -> File {
        File { path, id, bytes: self.segment_bytes, mapped_once: false }
    }

    fn coming(&self) -> usize {
        self.jobs.iter().filter(|(_, work)| !matches!(work, Work::Remove)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let pool = Pool::new(&Config::new("/x", 1));
        for number in [0, 7, 9999, 10_000, u32::MAX] {
            let path = pool.path(number);
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(Pool::parse_name(name), Some(number));
        }
        for name in ["seg-", "seg-1", "seg-00001", "seg-+001", "seg-0001.tmp", "snap", "seg-99999999999"] {
            assert_eq!(Pool::parse_name(name), None, "{name}");
        }
    }
}
