//! Runs the corpus of a fuzz target as a plain test: every file, and what deterministic mutation makes of it.
//!
//! A target is a function of bytes that must not panic, whatever the bytes. Here it must also keep to a bound of memory:
//! this crate brings the allocator that counts.

mod heap;
mod mutate;

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use mutate::Dice;

/// Most bytes of a file in a corpus.
pub const FILE_MAX: usize = 4096;

/// Files that a maker of seeds has written begin so.
const SEED: &str = "seed-";

/// Cuts and flipped bits per target, at the most; beyond it every nth is taken.
const SMALL_MAX: usize = 40_000;

/// Random mutations per target.
const RANDOM: usize = 12_000;

/// A target, and what holds for it.
pub struct Replay {
    /// The name of the target, and of the folder of its corpus.
    pub target: &'static str,
    /// The target.
    pub run: fn(&[u8]),
    /// Bytes of heap that one input may hold at once: so many, and so many for every byte of it.
    pub heap: (usize, usize),
    /// Encodings of real values, by name. They are files of the corpus; `RINGRAFT_SEEDS=write` in the environment
    /// writes them.
    pub seeds: Vec<(String, Vec<u8>)>,
}

impl Replay {
    /// Runs all of it.
    ///
    /// # Panics
    /// If the target panics or takes too much memory, or if the seeds in the corpus are not what their maker makes.
    pub fn check(&self) {
        let folder = self.folder("corpus");
        if std::env::var_os("RINGRAFT_SEEDS").is_some_and(|value| value == "write") {
            self.write_seeds(&folder);
        }
        let files = read_corpus(&folder);
        self.check_seeds(&folder, &files);
        let mut runs = 0;
        for (name, bytes) in &files {
            self.run(bytes, &format!("corpus file {name}"));
            runs += 1;
        }
        let small: usize = files.values().map(|bytes| bytes.len() * 9).sum();
        let every = small.div_ceil(SMALL_MAX).max(1);
        let mut nth = 0;
        for (name, bytes) in &files {
            for at in 0..bytes.len() * 9 {
                nth += 1;
                if nth % every > 0 {
                    continue;
                }
                runs += 1;
                if at < bytes.len() {
                    self.run(&bytes[..at], &format!("{name} cut at {at}"));
                } else {
                    let bit = at - bytes.len();
                    let mut flipped = bytes.clone();
                    flipped[bit / 8] ^= 1 << (bit % 8);
                    self.run(&flipped, &format!("{name} with bit {bit} flipped"));
                }
            }
        }
        let all: Vec<(&String, &Vec<u8>)> = files.iter().collect();
        for round in 0..RANDOM {
            // Each round rolls dice of its own, so that it can be met again without the others.
            let mut dice = Dice::new(self.target, round);
            let (name, bytes) = all[dice.below(all.len())];
            let (_, other) = all[dice.below(all.len())];
            self.run(&mutate::mutate(&mut dice, bytes, other), &format!("{name} in random round {round}"));
            runs += 1;
        }
        println!("{}: {} files, {runs} runs", self.target, files.len());
    }

    fn run(&self, bytes: &[u8], how: &str) {
        let mut taken = 0;
        let result = catch_unwind(AssertUnwindSafe(|| taken = heap::peak_of(|| (self.run)(bytes))));
        let (fixed, per_byte) = self.heap;
        if result.is_ok() && taken <= fixed + per_byte * bytes.len() {
            return;
        }
        let folder = self.folder("artifacts");
        let path = folder.join(format!("replay-{:016x}", mutate::hash(bytes)));
        let saved = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, bytes));
        let what = if result.is_ok() { format!("took {taken} bytes of heap") } else { "panicked".to_owned() };
        panic!("{} {what} on {} bytes: {how}; saved as {}: {saved:?}", self.target, bytes.len(), path.display());
    }

    fn folder(&self, kind: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(kind).join(self.target)
    }

    fn write_seeds(&self, folder: &Path) {
        fs::create_dir_all(folder).expect("a folder for the corpus");
        for entry in fs::read_dir(folder).expect("a folder for the corpus") {
            let path = entry.expect("readable").path();
            if file_name(&path).starts_with(SEED) {
                fs::remove_file(path).expect("a seed of before");
            }
        }
        for (name, bytes) in &self.seeds {
            fs::write(folder.join(format!("{SEED}{name}")), bytes).expect("room for a seed");
        }
    }

    fn check_seeds(&self, folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
        let made: BTreeMap<String, &Vec<u8>> =
            self.seeds.iter().map(|(name, bytes)| (format!("{SEED}{name}"), bytes)).collect();
        assert_eq!(made.len(), self.seeds.len(), "{}: two seeds of one name", self.target);
        let found = files.iter().filter(|(name, _)| name.starts_with(SEED));
        let advice = "RINGRAFT_SEEDS=write cargo test writes them";
        let same = made.iter().map(|(name, bytes)| (name, *bytes)).eq(found);
        assert!(same, "the seeds in {} are not those that are made; {advice}", folder.display());
    }
}

fn read_corpus(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files = BTreeMap::new();
    for entry in entries {
        let path = entry.expect("readable").path();
        let bytes = fs::read(&path).expect("readable");
        assert!(bytes.len() <= FILE_MAX, "{} is larger than {FILE_MAX} bytes", path.display());
        files.insert(file_name(&path), bytes);
    }
    assert!(!files.is_empty(), "{} has no files", folder.display());
    files
}

fn file_name(path: &Path) -> String {
    path.file_name().expect("a file").to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    fn replay(run: fn(&[u8]), heap: (usize, usize)) -> Replay {
        Replay { target: "none", run, heap, seeds: Vec::new() }
    }

    fn is_seen(run: fn(&[u8]), heap: (usize, usize)) -> bool {
        let result = catch_unwind(AssertUnwindSafe(|| replay(run, heap).run(&[1, 2, 3], "a test")));
        let _ = fs::remove_dir_all(replay(run, heap).folder("artifacts"));
        result.is_err()
    }

    #[test]
    fn panics_and_greed_are_seen() {
        let greedy: fn(&[u8]) = |bytes| drop(black_box(Vec::<u8>::with_capacity(100 * bytes.len())));
        assert!(is_seen(|bytes| assert!(bytes.is_empty()), (1 << 20, 0)));
        assert!(is_seen(greedy, (299, 0)) && is_seen(greedy, (2, 99)));
        assert!(!is_seen(greedy, (300, 0)) && !is_seen(greedy, (0, 100)));
    }

    #[test]
    fn rounds_are_the_same_every_time() {
        let round = |round| mutate::mutate(&mut Dice::new("a", round), b"some bytes", b"others");
        assert_eq!((0..50).map(round).collect::<Vec<_>>(), (0..50).map(round).collect::<Vec<_>>());
        assert!((0..50).any(|n| round(n) != b"some bytes"));
    }
}
